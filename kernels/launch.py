"""Host side of the elementwise templates: arguments, and a launcher that keeps compiled kernels.

The caller has validated the tensors, allocated the results and made the tensors' device the current one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import device_functions, elementwise, grids, relaunch
from .statistics import STATISTICS


@dataclass(frozen=True)
class Table:
    """A parameter that is a table: rows in fp32, one or one per channel; the number of entries in their parts; whether
    halves, too, need the precise way; and whether breakpoints are spaced evenly enough for the arithmetic of sums.
    """

    rows: Tensor
    size: int
    precise: bool
    even: bool = False


Parameters = tuple[float | Tensor | Table, ...]

# The kernels compiled so far. Never emptied: from Triton 3.9 on, a collected kernel unloads its module.
_compiled: dict[tuple[Any, ...], Any] = {}


def _arguments(params: Parameters, channel_dim: int | None) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[Any, ...]]:
    """The kernel's `parameters`, their kinds, and what is known of a table."""
    values: list[Any] = []
    kinds: list[str] = []
    table: tuple[Any, ...] = ()
    for p in params:
        values.append(p.rows if isinstance(p, Table) else p)
        if isinstance(p, Table):
            table = (p.size, p.rows.shape[1])
            kinds.append("table")
        elif isinstance(p, float):
            kinds.append("number")
        else:
            kinds.append("pointer" if channel_dim is None or p.numel() == 1 else "channel")
    return tuple(values), tuple(kinds), table


def _counted(params: Parameters, x: Tensor, channel_dim: int | None) -> int | None:
    """The dimension of the channels, if there are several and a parameter tells them apart."""
    if channel_dim is None or x.shape[channel_dim] == 1:
        return None
    if all(isinstance(p, float) or (isinstance(p, Tensor) and p.numel() == 1) for p in params):
        return None
    return channel_dim


def _precise(x: Tensor, params: Parameters) -> bool:
    """Whether device functions must compute to the last bits of fp32."""
    return x.element_size() == 4 or any(isinstance(p, Table) and p.precise for p in params)


def _run(kernel: Any, grid: int, key: tuple[Any, ...], *args: Any, num_warps: int = grids.NUM_WARPS) -> Any:
    """Launch, from the second time on directly through the compiled kernel, which it returns; None when interpreting.

    The key names all that Triton specializes the kernel on: dtypes, the pointers' 16-byte alignment, integer widths,
    compile-time arguments, and the device, for which a kernel is loaded.
    """
    compiled = _compiled.get(key)
    if compiled is not None:
        relaunch.again(compiled, grid, *args)
        return compiled
    # enable_fp_fusion: Triton's default changes between versions, and numerics with it.
    compiled = kernel[(grid,)](*args, num_warps=num_warps, enable_fp_fusion=True)
    if compiled is not None:
        _compiled[key] = compiled
    return compiled


def _key(name: str, tensors: tuple[Tensor, ...], params: tuple[Any, ...], *constants: Any) -> tuple[Any, ...]:
    pointers = [*tensors, *(p for p in params if not isinstance(p, float))]
    return (
        name,
        tensors[0].device.index,
        tuple(t.dtype for t in pointers),
        tuple(t.data_ptr() % 16 == 0 for t in pointers),
        *constants,
    )


def _flat_key(
    name: str, tensors: tuple[Tensor, ...], n: int, params: tuple[Any, ...], *constants: Any
) -> tuple[Any, ...]:
    # On AMD, offsets of 32 bits reach two gigabytes.
    return _key(name, tensors, params, n < 2**31, n * tensors[0].element_size() < 2**31, *constants)


def _integers(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What Triton specializes integers on: whether one is 1, a multiple of 16, of 32 bits; of a tuple, each entry."""
    return tuple(_integers(v) if isinstance(v, tuple) else "1" if v == 1 else (v % 16 == 0, v < 2**31) for v in values)


def _strided_key(
    name: str, tensors: tuple[Tensor, ...], integers: tuple[Any, ...], params: tuple[Any, ...], *constants: Any
) -> tuple[Any, ...]:
    small = tuple(t.untyped_storage().nbytes() < 2**31 for t in tensors)
    return _key(name, tensors, params, small, _integers(integers), *constants)


def _run_strided(
    function: str,
    kernel: Any,
    grid: int,
    tensors: tuple[Tensor, ...],
    integers: tuple[Any, ...],
    values: tuple[Any, ...],
    *constants: Any,
    last: tuple[Any, ...] = (),
    last_key: tuple[Any, ...] = (),
) -> None:
    """Launch a kernel that takes pointers, integers and tuples of them, parameters, and compile-time arguments.

    `last` are arguments after all these, and `last_key` what they are specialized on.
    """
    key = _strided_key(f"{function} {kernel.__name__}", tensors, integers, values, *constants, *last_key)
    _run(kernel, grid, key, *tensors, *integers, values, device_functions.named(function), *constants, *last)


# What a forward template gets that gathers no statistics.
_NOTHING_GATHERED: tuple[Any, ...] = ((), None)


def _gathering(function: str, out: Tensor, alive: Tensor, channel_dim: int, grid: int) -> tuple[Any, ...]:
    """The statistics that a forward template gathers, the derivative it needs, and what both are specialized on."""
    partials = out.new_empty((len(STATISTICS), grid), dtype=torch.float32)
    place = (out.stride(channel_dim), alive.numel() - 1) if alive.numel() > 2 else (1, 1)
    aligned = tuple(t.data_ptr() % 16 == 0 for t in (partials, alive))
    return (
        (partials, alive, *place),
        device_functions.named(f"{function}_backward"),
        ("statistics", aligned, _integers(place)),
    )


def forward(
    function: str,
    x: Tensor,
    out: Tensor,
    params: Parameters,
    channel_dim: int | None = None,
    alive: Tensor | None = None,
    alive_dim: int = 0,
) -> Tensor | None:
    """out = f(x) elementwise, for tensors of one shape with any strides; f is a device function's name.

    With `channel_dim`, a tensor of several elements among the parameters has one, and a table a row, for each index of
    that dimension.

    With `alive`, zeros of dtype uint8 for each index of `alive_dim`, or one for all, and one more that means nothing,
    statistics are gathered: it returns them as [statistic, program], and sets to 1 where an element's slope is not
    flat. `out` is dense.
    """
    n = x.numel()
    if n == 0:
        return None
    known = relaunch.of_two(function, params, n, x, out) if alive is None else None
    plan = relaunch.kept(known)
    if plan is not None:
        compiled, block, constants = plan
        relaunch.again(compiled, -(-n // block), x, out, n, params, *constants)
        return None
    channel_dim = _counted(params, x, channel_dim)
    values, kinds, table = _arguments(params, channel_dim)
    precise = _precise(x, params)
    block = grids.block_size(x.element_size(), grids.warp_size())
    gathered: tuple[Any, ...]
    # Of the flat template: rounds through all channels must leave room in 32 bits.
    if (
        channel_dim is None
        and grids.same_dense_layout(x, out)
        and (alive is None or _round(out, alive, alive_dim) < 2**30)
    ):
        key = _flat_key(function, (x, out), n, values, kinds, table, precise)
        constants = (device_functions.named(function), kinds, table, precise, block)
        args = (x, out, n, values, *constants)
        if alive is None:
            constants += _NOTHING_GATHERED
            compiled = _run(elementwise.forward_kernel, triton.cdiv(n, block), key, *args, *_NOTHING_GATHERED)
            relaunch.keep(known, compiled, block, constants)
            return None
        *gathered, specialized = _gathering(function, out, alive, alive_dim, triton.cdiv(n, block))
        _run(elementwise.forward_kernel, triton.cdiv(n, block), (*key, *specialized), *args, *gathered)
        return gathered[0][0]
    shape = tuple(x.shape)
    sizes, (x_strides, channel_strides, out_strides) = grids.collapse(
        shape, x.stride(), grids.channel_strides(shape, channel_dim), out.stride()
    )
    rows, cols, block_rows, block_cols = grids.tiles(sizes, block)
    grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    *gathered, specialized = (
        (*_NOTHING_GATHERED, ()) if alive is None else _gathering(function, out, alive, alive_dim, grid)
    )
    _run_strided(
        function,
        elementwise.forward_strided_kernel,
        grid,
        (x, out),
        (rows, cols, tuple(sizes[1:]), tuple(x_strides), tuple(out_strides), tuple(channel_strides)),
        values,
        *(kinds, table, grids.channel_side(channel_strides, channel_dim), precise, block_rows, block_cols),
        rows + block_rows >= 2**31 or grid >= 2**31,
        last=tuple(gathered),
        last_key=specialized,
    )
    return gathered[0][0] if alive is not None else None


def _round(out: Tensor, alive: Tensor, alive_dim: int) -> int:
    """How far apart in memory channels of one number are."""
    return out.stride(alive_dim) * alive.numel() if alive.numel() > 2 else 1


def backward(
    function: str,
    grad: Tensor,
    saved: Tensor,
    dx: Tensor | None,
    params: Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None = None,
) -> Tensor | None:
    """Write dx, unless it is None; return partial sums in fp32 if any parameter is needed.

    What is saved is the input, or the output where `function` has the suffix `_from_output`. The sums are [parameter,
    program], and with `channel_dim` [parameter, program, channel], or one in the channels' place where no parameter
    tells them apart.
    """
    name = function if function.endswith("_from_output") else f"{function}_backward"
    known = None
    n = saved.numel()
    if dx is not None and n and True not in needed:
        known = relaunch.of_three(name, params, n, grad, saved, dx)
    plan = relaunch.kept(known)
    if plan is not None:
        compiled, block, constants = plan
        relaunch.again(compiled, -(-n // block), grad, saved, dx, dx, n, params, *constants)
        return None

    def run(counted: int | None) -> Tensor | None:
        if counted is None or not any(needed):
            return _backward(name, grad, saved, dx, params, needed, counted, known)
        return _backward_channels(name, grad, saved, dx, params, needed, counted)

    return _partial_sums(run, saved, params, needed, channel_dim)


def _partial_sums(
    run: Callable[[int | None], Tensor | None],
    x: Tensor,
    params: Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None,
) -> Tensor | None:
    """What `run` returns for the dimension that counts, in the form that `backward` promises; zeros for an empty x."""
    counted = _counted(params, x, channel_dim)
    partials: Tensor | None
    if x.numel() == 0:
        shape = (len(params), 1) if counted is None else (len(params), 1, x.shape[counted])
        partials = x.new_zeros(shape, dtype=torch.float32) if any(needed) else None
    else:
        partials = run(counted)
    if partials is None or channel_dim is None or counted is not None:
        return partials
    return partials.unsqueeze(-1)


def _backward(
    function: str,
    grad: Tensor,
    saved: Tensor,
    dx: Tensor | None,
    params: Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None,
    known: tuple[Any, ...] | None,
) -> Tensor | None:
    """`backward` where no gradient is summed per channel: flat or strided; see `relaunch.of_three`."""
    n = saved.numel()
    values, kinds, table = _arguments(params, channel_dim)
    precise = _precise(saved, params)
    block = grids.block_size(saved.element_size(), grids.warp_size())
    # Where nothing is written, the pointer is one that exists.
    target = saved if dx is None else dx
    # Without dx no tensor is known to be dense: equal strides say nothing then.
    flat = (
        grids.same_dense_layout(grad, saved, dx) if dx is not None else grad.is_contiguous() and saved.is_contiguous()
    )
    if channel_dim is None and flat:
        grid = triton.cdiv(n, block)
        partials = saved.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
        tensors = (grad, saved, target, target if partials is None else partials)
        constants = (kinds, table, needed, dx is not None)
        key = _flat_key(function, tensors, n, values, *constants, precise)
        constants = (device_functions.named(function), *constants, precise, block)
        compiled = _run(elementwise.backward_kernel, grid, key, *tensors, n, values, *constants)
        relaunch.keep(known, compiled, block, constants)
        return partials
    shape = tuple(saved.shape)
    sizes, (grad_strides, saved_strides, channel_strides, dx_strides) = grids.collapse(
        shape, grad.stride(), saved.stride(), grids.channel_strides(shape, channel_dim), target.stride()
    )
    rows, cols, block_rows, block_cols = grids.tiles(sizes, block)
    grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    partials = saved.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
    _run_strided(
        function,
        elementwise.backward_strided_kernel,
        grid,
        (grad, saved, target, target if partials is None else partials),
        (rows, cols, tuple(sizes[1:]), *map(tuple, (grad_strides, saved_strides, dx_strides, channel_strides))),
        values,
        *(kinds, table, grids.channel_side(channel_strides, channel_dim), needed, dx is not None, precise),
        *(block_rows, block_cols, rows + block_rows >= 2**31 or grid >= 2**31),
    )
    return partials


def _backward_channels(
    function: str,
    grad: Tensor,
    saved: Tensor,
    dx: Tensor | None,
    params: Parameters,
    needed: tuple[bool, ...],
    channel_dim: int,
) -> Tensor:
    """`backward` with sums per channel."""
    shape = tuple(saved.shape)
    values, kinds, table = _arguments(params, channel_dim)
    target = saved if dx is None else dx
    sizes, (grad_strides, saved_strides, channel_strides, dx_strides) = grids.collapse(
        shape, grad.stride(), saved.stride(), grids.channel_strides(shape, channel_dim), target.stride()
    )
    at = channel_strides.index(1)
    side = grids.channel_side(channel_strides, channel_dim)
    channels = sizes.pop(at)
    strides = [(s.pop(at), *s) for s in (grad_strides, saved_strides, dx_strides)]
    others = math.prod(sizes)
    block = grids.block_size(saved.element_size(), grids.warp_size())
    block_channels, block_others, grid = grids.channel_tiles(channels, sizes or [1], side, block)
    groups = grid // triton.cdiv(channels, block_channels)
    partials = saved.new_empty((len(params), groups, channels), dtype=torch.float32)
    _run_strided(
        function,
        elementwise.backward_channel_kernel,
        grid,
        (grad, saved, target, partials),
        (channels, others, tuple(sizes), *strides),
        values,
        *(kinds, table, side, needed, dx is not None, _precise(saved, params), block_channels, block_others),
        others + block_others >= 2**31,
    )
    return partials
