"""Host side of the elementwise templates: strides to a grid, block sizes, and a launcher that keeps compiled kernels.

The caller has validated the tensors, allocated the results and made the tensors' device the current one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import activations, elementwise, piecewise

NUM_WARPS = 4
# 32 bytes of each tensor per thread: two 16-byte accesses in flight.
BYTES_PER_THREAD = 32
# A tile's columns; what is left of the block goes into rows.
MAX_BLOCK_COLS = 1024
# The interpreter pays per operation, not per element.
INTERPRETER_WARP_SIZE = 32


@dataclass(frozen=True)
class Table:
    """A parameter that is a table: rows in fp32, one or one per channel; the number of entries in their parts; and
    whether halves, too, need the precise way.
    """

    rows: Tensor
    size: int
    precise: bool


Parameters = tuple[float | Tensor | Table, ...]

# The kernels compiled so far. Never emptied: from Triton 3.9 on, a collected kernel unloads its module.
_compiled: dict[tuple[Any, ...], Any] = {}


def block_size(element_size: int, warp_size: int) -> int:
    """Elements per program, a power of two."""
    return warp_size * NUM_WARPS * BYTES_PER_THREAD // element_size


def _warp_size() -> int:
    if triton.knobs.runtime.interpret:
        return INTERPRETER_WARP_SIZE
    return triton.runtime.driver.active.get_current_target().warp_size


def collapse(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that address the same elements in all tensors, innermost first.

    Dimensions are ordered by the last tensor's strides; its innermost comes first. At least one remains.
    """
    order = sorted(
        (d for d in range(len(shape)) if shape[d] != 1),
        key=lambda d: (strides[-1][d], [s[d] for s in strides]),
    )
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for d in order:
        if sizes and all(s[d] == m[-1] * sizes[-1] for s, m in zip(strides, merged, strict=True)):
            sizes[-1] *= shape[d]
            continue
        sizes.append(shape[d])
        for s, m in zip(strides, merged, strict=True):
            m.append(s[d])
    if not sizes:
        return [1], [[1] for _ in strides]
    return sizes, merged


def _same_dense_layout(*tensors: Tensor) -> bool:
    """Whether element i of each lies at offset i of its memory, in one common order.

    The last tensor is one of ours, dense and without overlap: equal strides make the others so.
    """
    strides = tensors[-1].stride()
    return all(t.stride() == strides for t in tensors) or all(t.is_contiguous() for t in tensors)


def _tiles(sizes: list[int], block: int) -> tuple[int, int, int, int]:
    """Rows, columns, and the tile's rows and columns for collapsed sizes."""
    cols = sizes[0]
    rows = math.prod(sizes[1:])
    block_cols = min(triton.next_power_of_2(cols), MAX_BLOCK_COLS, block)
    return rows, cols, block // block_cols, block_cols


def _arguments(params: Parameters) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[Any, ...]]:
    """The kernel's `parameters`, their kinds, and what is known of a table."""
    values: list[Any] = []
    kinds: list[str] = []
    table: tuple[Any, ...] = ()
    for p in params:
        if isinstance(p, Table):
            table = (p.size, p.rows.shape[1])
        values.append(p.rows if isinstance(p, Table) else p)
        kinds.append("table" if isinstance(p, Table) else "number" if isinstance(p, float) else "pointer")
    return tuple(values), tuple(kinds), table


def _precise(x: Tensor, params: Parameters) -> bool:
    """Whether device functions must compute to the last bits of fp32."""
    return x.element_size() == 4 or any(isinstance(p, Table) and p.precise for p in params)


def _device_function(name: str) -> Any:
    return getattr(activations, name, None) or getattr(piecewise, name)


def _channel_strides(shape: tuple[int, ...], channel_dim: int | None) -> tuple[int, ...]:
    """Strides that address the channel of an element."""
    strides = [0] * len(shape)
    if channel_dim is not None:
        strides[channel_dim] = 1
    return tuple(strides)


def _channel_side(strides: list[int], channel_dim: int | None) -> str:
    """Which side of a tile counts the channels, from their collapsed strides."""
    return "none" if channel_dim is None else "cols" if strides[0] else "rows"


def _run(kernel: Any, grid: int, key: tuple[Any, ...] | None, *args: Any) -> None:
    """Launch; with a key, directly through the compiled kernel from the second time on.

    The key names all that Triton specializes the kernel on: dtypes, the pointers' 16-byte alignment, integer widths,
    compile-time arguments, and the device, for which a kernel is loaded.
    """
    compiled = _compiled.get(key) if key is not None else None
    if compiled is not None:
        compiled[(grid, 1, 1)](*args)
        return
    # enable_fp_fusion: Triton's default changes between versions, and numerics with it.
    compiled = kernel[(grid,)](*args, num_warps=NUM_WARPS, enable_fp_fusion=True)
    if key is not None and compiled is not None:
        _compiled[key] = compiled


def _key(name: str, tensors: tuple[Tensor, ...], n: int, params: tuple[Any, ...], *constants: Any) -> tuple[Any, ...]:
    pointers = [*tensors, *(p for p in params if not isinstance(p, float))]
    return (
        name,
        tensors[0].device.index,
        n < 2**31,
        tuple(t.dtype for t in pointers),
        tuple(t.data_ptr() % 16 == 0 for t in pointers),
        *constants,
    )


def forward(function: str, x: Tensor, out: Tensor, params: Parameters, channel_dim: int | None = None) -> None:
    """out = f(x) elementwise, for tensors of one shape with any strides; f is a device function's name.

    With `channel_dim`, a table has a row for each index of that dimension.
    """
    n = x.numel()
    if n == 0:
        return
    device_function = _device_function(function)
    values, kinds, table = _arguments(params)
    precise = _precise(x, params)
    block = block_size(x.element_size(), _warp_size())
    if channel_dim is None and _same_dense_layout(x, out):
        key = _key(function, (x, out), n, values, kinds, table, precise)
        args = (x, out, n, values, device_function, kinds, table, precise, block)
        _run(elementwise.forward_kernel, triton.cdiv(n, block), key, *args)
        return
    shape = tuple(x.shape)
    sizes, (x_strides, channel_strides, out_strides) = collapse(
        shape, x.stride(), _channel_strides(shape, channel_dim), out.stride()
    )
    rows, cols, block_rows, block_cols = _tiles(sizes, block)
    grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    side = _channel_side(channel_strides, channel_dim)
    _run(
        elementwise.forward_strided_kernel,
        grid,
        None,
        *(x, out, rows, cols, tuple(sizes[1:]), tuple(x_strides), tuple(out_strides), tuple(channel_strides), values),
        *(device_function, kinds, table, side, precise, block_rows, block_cols),
        rows + block_rows >= 2**31 or grid >= 2**31,
    )


def backward(
    function: str,
    grad: Tensor,
    saved: Tensor,
    dx: Tensor | None,
    params: Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None = None,
) -> Tensor | None:
    """Write dx, unless it is None; return the partial sums [parameter, program] in fp32 if any parameter is needed."""
    n = saved.numel()
    if n == 0:
        return saved.new_zeros((len(params), 1), dtype=torch.float32) if any(needed) else None
    device_function = _device_function(f"{function}_backward")
    values, kinds, table = _arguments(params)
    precise = _precise(saved, params)
    block = block_size(saved.element_size(), _warp_size())
    # Where nothing is written, the pointer is one that exists.
    target = saved if dx is None else dx
    # Without dx no tensor is known to be dense: equal strides say nothing then.
    flat = _same_dense_layout(grad, saved, dx) if dx is not None else grad.is_contiguous() and saved.is_contiguous()
    if channel_dim is None and flat:
        grid = triton.cdiv(n, block)
        partials = saved.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
        tensors = (grad, saved, target, target if partials is None else partials)
        constants = (kinds, table, needed, dx is not None)
        key = _key(f"{function}_backward", tensors, n, values, *constants, precise)
        args = (*tensors, n, values, device_function, *constants, precise, block)
        _run(elementwise.backward_kernel, grid, key, *args)
        return partials
    shape = tuple(saved.shape)
    sizes, (grad_strides, saved_strides, channel_strides, dx_strides) = collapse(
        shape, grad.stride(), saved.stride(), _channel_strides(shape, channel_dim), target.stride()
    )
    rows, cols, block_rows, block_cols = _tiles(sizes, block)
    grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    partials = saved.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
    _run(
        elementwise.backward_strided_kernel,
        grid,
        None,
        *(grad, saved, target, target if partials is None else partials, rows, cols, tuple(sizes[1:])),
        *(tuple(grad_strides), tuple(saved_strides), tuple(dx_strides), tuple(channel_strides), values),
        *(device_function, kinds, table, _channel_side(channel_strides, channel_dim), needed, dx is not None, precise),
        *(block_rows, block_cols, rows + block_rows >= 2**31 or grid >= 2**31),
    )
    return partials
