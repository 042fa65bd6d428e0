"""Host side of softmax.py: which dimensions are rows, the shape of a tile, and the launch.

The caller has validated the tensors, allocated the results and made the tensors' device the current one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import grids, launch, softmax

# Elements of a tile that one program keeps: 32 of a tensor to a thread. Where that leaves too few registers, for fp32
# and in backward, some 20 of a thread's go to its local memory; to read such rows twice would cost more.
MAX_TILE = 2**15
# Elements of a tile that loops along its rows.
LOOPING_TILE = 2**13
# And that short rows fill together: as many as an elementwise program takes of halves.
SHORT_TILE = 2**11
ELEMENTS_PER_THREAD = 16
MAX_THREADS = 1024
# Where the dimension is not the innermost: how many rows, side by side in memory, a tile is to have, and has at least,
# and the most elements. An element may take an offset of its own there.
SIDE_ROWS, LEAST_SIDE_ROWS, MAX_SIDE_TILE = 64, 16, 2**14


@dataclass(frozen=True)
class Scores:
    """What the exponentials are taken of: x along `dim`, negated or not, over a temperature, with a mask or without."""

    dim: int
    log: bool
    negated: bool
    temperature: float | Tensor
    # Of x's shape, broadcast by strides of 0: of bool, true where an element takes part, or numbers to add.
    mask: Tensor | None


def tile(n: int, rows: int, side: int, warp_size: int) -> tuple[int, int, bool, int]:
    """Rows and elements of a row in a tile, whether it loops along its rows, and the number of warps.

    `side` is the number of rows that lie side by side in memory; 1 where a row's elements do.
    """
    length = triton.next_power_of_2(n)
    limit = MAX_TILE if side == 1 else MAX_SIDE_TILE
    block_rows = min(max(1 if side == 1 else SIDE_ROWS, SHORT_TILE // length), triton.next_power_of_2(rows))
    while side > 1 and block_rows > LEAST_SIDE_ROWS and block_rows * length > limit:
        block_rows //= 2
    looping = block_rows * length > limit
    if looping:
        block_rows = min(1 if side == 1 else SIDE_ROWS, triton.next_power_of_2(rows))
        length = LOOPING_TILE // block_rows
    warps = block_rows * length // (warp_size * ELEMENTS_PER_THREAD)
    return block_rows, length, looping, min(max(warps, grids.NUM_WARPS), MAX_THREADS // warp_size)


def _rows(tensors: tuple[Tensor, ...], dim: int) -> tuple[list[int], list[tuple[int, ...]]]:
    """Sizes of the dimensions that count rows, and each tensor's strides, along a row first; the last one is dense."""
    others = [d for d in range(tensors[-1].dim()) if d != dim]
    shape = tuple(tensors[-1].shape[d] for d in others)
    sizes, strides = grids.collapse(shape, *(tuple(t.stride(d) for d in others) for t in tensors))
    return sizes, [(t.stride(dim), *s) for t, s in zip(tensors, strides, strict=True)]


def _side(sizes: list[int], strides: tuple[int, ...]) -> int:
    """How many rows lie side by side, by the strides of the tensor that is written."""
    return sizes[0] if strides[0] != 1 and strides[1] == 1 else 1


def _mask(scores: Scores, x: Tensor) -> tuple[Tensor, str]:
    """The mask as the kernel reads it, or any tensor in its place, and what it does."""
    if scores.mask is None:
        return x, "none"
    if scores.mask.dtype is torch.bool:
        return scores.mask.view(torch.uint8), "keep"
    return scores.mask, "add"


def _temperature(scores: Scores) -> tuple[float | Tensor, str]:
    if isinstance(scores.temperature, Tensor):
        return scores.temperature, "pointer"
    return scores.temperature, "one" if scores.temperature == 1.0 else "number"


def _run(kernel: Any, warps: int, grid: int, tensors: tuple[Any, ...], integers: tuple[Any, ...], *rest: Any) -> None:
    """Launch: pointers, integers, the temperature, and what is known at compile time."""
    temperature, *constants = rest
    key = launch._strided_key(kernel.__name__, tensors, integers, (temperature,), *constants, warps)
    launch._run(kernel, grid, key, *tensors, *integers, temperature, *constants, num_warps=warps)


def _wide(sizes: list[int], n: int, strides: list[tuple[int, ...]], block_rows: int, length: int) -> bool:
    """Whether 32 bits do not suffice for the offsets of some tensor's tiles, what lies beyond the edge included."""
    rows = math.prod(sizes) + block_rows
    # What lies beyond the last row goes on along the outermost dimension.
    ends = [*sizes[:-1], sizes[-1] + block_rows]
    reach = [(n + length) * along + sum(e * o for e, o in zip(ends, outer, strict=True)) for along, *outer in strides]
    return max(rows, n + length, *reach) >= 2**31


def forward(x: Tensor, out: Tensor, scores: Scores) -> None:
    """Write softmax, or its logarithm, of x into out, which is dense and of x's shape; neither is empty."""
    mask, mask_kind = _mask(scores, x)
    temperature, temperature_kind = _temperature(scores)
    n = x.shape[scores.dim]
    sizes, strides = _rows((x, mask, out), scores.dim)
    rows = math.prod(sizes)
    side = _side(sizes, strides[-1])
    block_rows, length, looping, warps = tile(n, rows, side, grids.warp_size())
    _run(
        softmax.softmax_forward_looping_kernel if looping else softmax.softmax_forward_kernel,
        *(warps, triton.cdiv(rows, block_rows)),
        (x, mask, out),
        (rows, n, tuple(sizes), *strides),
        *(temperature, scores.log, scores.negated, mask_kind, temperature_kind),
        *(out.element_size() == 4, block_rows, length, _wide(sizes, n, strides, block_rows, length)),
    )


def backward(grad: Tensor, y: Tensor, x: Tensor | None, dx: Tensor, scores: Scores) -> Tensor | None:
    """Write dx, which is dense; with x, return sums in fp32 of its products with the gradient of scores, one for each
    program. None of the tensors is empty.
    """
    # Only what is left out counts here.
    mask, mask_kind = _mask(scores, y)
    if mask_kind == "add":
        mask, mask_kind = y, "none"
    temperature, temperature_kind = _temperature(scores)
    n = y.shape[scores.dim]
    sizes, strides = _rows((grad, y, y if x is None else x, mask, dx), scores.dim)
    rows = math.prod(sizes)
    side = _side(sizes, strides[-1])
    block_rows, length, looping, warps = tile(n, rows, side, grids.warp_size())
    grid = triton.cdiv(rows, block_rows)
    partials = None if x is None else y.new_empty((grid,), dtype=torch.float32)
    _run(
        softmax.softmax_backward_looping_kernel if looping else softmax.softmax_backward_kernel,
        *(warps, grid),
        (grad, y, y if x is None else x, mask, dx, dx if partials is None else partials),
        (rows, n, tuple(sizes), *strides),
        *(temperature, scores.log, scores.negated, mask_kind, temperature_kind, x is not None),
        *(y.element_size() == 4, block_rows, length, _wide(sizes, n, strides, block_rows, length)),
    )
    return partials
