"""Host side of the pointwise templates: any function of n tensors to m, with parameters' gradients in the same pass.

The caller has validated the tensors, allocated the results and made the tensors' device the current one.
"""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from . import grids, launch
from .pointwise import pointwise_channel_kernel, pointwise_kernel, pointwise_strided_kernel


def block_size(tensors: Sequence[Tensor], warp_size: int) -> int:
    """Elements per program, a power of two.

    32 bytes per thread of the tensor with the widest elements, two 16-byte accesses in flight, as elsewhere; one where
    more than four tensors move, so that what is held in registers does not spill.
    """
    block = grids.block_size(max(t.element_size() for t in tensors), warp_size)
    return block // 2 if len(tensors) > 4 else block


def _dense(t: Tensor) -> bool:
    """Whether a tensor whose elements do not overlap leaves no gap between them."""
    return sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) == t.numel() - 1


def around(function: Any, **known: Any) -> Any:
    """A device function in which other ones, and constants, are known by these names."""
    plain = function.fn
    return triton.jit(types.FunctionType(plain.__code__, {**plain.__globals__, **known}, plain.__name__))


def pointwise(
    function: Any,
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor | None],
    params: Sequence[float | Tensor],
    needed: Sequence[bool],
    channel_dim: int | None = None,
    precise: bool | None = None,
    seed: Tensor | None = None,
) -> Tensor | None:
    """Write the outputs that are not None; return partial sums as `launch.backward` does if any parameter is needed.

    `function` is a device function of pointwise.py, and `name` its own alone: compiled kernels are kept by it. All
    tensors are of one shape and any strides, where an output's elements do not overlap; an output may be one of the
    inputs. Unless told otherwise, the function is `precise` where an output has fp32. With a seed, one int64, it takes
    32 random bits for each element behind the inputs, by the element's place in row-major order.
    """
    inputs, outputs, params, needed = tuple(inputs), tuple(outputs), tuple(params), tuple(needed)

    def run(counted: int | None) -> Tensor | None:
        return _launch(function, name, inputs, outputs, params, needed, counted, precise, seed)

    return launch._partial_sums(run, inputs[0], params, needed, channel_dim)


def _random(numbers: Sequence[int], along: int) -> str:
    """Whether elements side by side along a tile's columns have numbers in fours; strides, the columns' first."""
    fours = numbers[0] == 1 and all(s % 4 == 0 for s in numbers[1:])
    return "fours" if fours and along >= 4 else "each"


def _launch(
    function: Any,
    name: str,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor | None, ...],
    params: launch.Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None,
    precise: bool | None,
    seed: Tensor | None,
) -> Tensor | None:
    """`pointwise` on at least one element, where `channel_dim` is None unless a parameter tells its indices apart."""
    written = tuple(t for t in outputs if t is not None)
    # Where nothing is written, the pointer is one that exists.
    spare = written[0] if written else inputs[-1]
    targets = tuple(spare if t is None else t for t in outputs)
    if precise is None:
        precise = any(launch._precise(t, params) for t in written or inputs)
    values, kinds, table = launch._arguments(params, channel_dim)
    random = seed is not None
    if seed is not None:
        values, kinds = (*values, seed), (*kinds, "seed")
    constants = (tuple(t is not None for t in outputs), needed, precise)
    block = block_size((*inputs, *written), grids.warp_size())

    def sums(*shape: int) -> Tensor | None:
        return spare.new_empty((len(params), *shape), dtype=torch.float32) if any(needed) else None

    if written:
        flat = grids.same_dense_layout(*inputs, *written) and _dense(spare)
    else:
        # Inputs may overlap, and then equal strides say nothing.
        flat = all(t.is_contiguous() for t in inputs)
    if random:
        # The place in memory is the one in row-major order.
        flat = all(t.is_contiguous() for t in (*inputs, *written))
    if channel_dim is None and flat:
        n = spare.numel()
        grid = triton.cdiv(n, block)
        partials = sums(grid)
        tensors = (*inputs, *targets, spare if partials is None else partials)
        small = tuple(n * t.element_size() < 2**31 for t in tensors)
        constants = (kinds, table, *constants, "fours" if random else "none")
        key = launch._key(f"{name} {pointwise_kernel.__name__}", tensors, values, n < 2**31, small, *constants)
        args = (inputs, targets, tensors[-1], n, values, function, *constants, block)
        launch._run(pointwise_kernel, grid, key, *args)
        return partials

    shape, count = tuple(spare.shape), len(inputs)
    of_channels = grids.channel_strides(shape, channel_dim)
    of_inputs = [t.stride() for t in inputs]
    if random:
        of_inputs.append(torch.empty(shape, device="meta").stride())
        count += 1
    # The last one's strides decide on the order.
    sizes, strides = grids.collapse(shape, *of_inputs, of_channels, *(t.stride() for t in (*targets, spare)))
    side = grids.channel_side(strides[count], channel_dim)
    integers: tuple[Any, ...]
    tile: tuple[Any, ...]
    if channel_dim is not None and any(needed):
        kernel = pointwise_channel_kernel
        at = strides[count].index(1)
        channels = sizes.pop(at)
        moved = tuple((s.pop(at), *s) for s in strides)
        others = math.prod(sizes)
        block_channels, block_others, grid = grids.channel_tiles(channels, sizes or [1], side, block)
        partials = sums(grid // triton.cdiv(channels, block_channels), channels)
        integers = (channels, others, tuple(sizes), moved[:count], moved[count + 1 : -1])
        tile = (block_channels, block_others, others + block_others >= 2**31)
        # The columns' first.
        numbers, along = moved[count - 1], block_channels
        if side == "rows":
            numbers, along = (*numbers[1:2], numbers[0], *numbers[2:]), block_others
    else:
        kernel = pointwise_strided_kernel
        moved = tuple(map(tuple, strides))
        rows, cols, block_rows, block_cols = grids.tiles(sizes, block)
        grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
        partials = sums(grid)
        integers = (rows, cols, tuple(sizes[1:]), moved[:count], moved[count + 1 : -1], moved[count])
        tile = (block_rows, block_cols, rows + block_rows >= 2**31 or grid >= 2**31)
        numbers, along = moved[count - 1], block_cols
    numbered = _random(numbers, along) if random else "none"
    tensors = (*inputs, *targets, spare if partials is None else partials)
    constants = (kinds, table, side, *constants, numbered, *tile)
    key = launch._strided_key(f"{name} {kernel.__name__}", tensors, integers, values, *constants)
    launch._run(kernel, grid, key, inputs, targets, tensors[-1], *integers, values, function, *constants)
    return partials
