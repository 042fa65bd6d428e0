"""Tensors as a grid of tiles: strides collapsed to the fewest dimensions, the elements of a program, channels."""

from __future__ import annotations

import math

import triton
from torch import Tensor

NUM_WARPS = 4
# 32 bytes of each tensor per thread: two 16-byte accesses in flight.
BYTES_PER_THREAD = 32
# A tile's columns; what is left of the block goes into rows.
MAX_BLOCK_COLS = 1024
# What the programs that sum gradients per channel are to number: about eight for each of 132 multiprocessors. Another
# number would be another order of summation, so it depends on no device.
CHANNEL_PROGRAMS = 1056
# The interpreter pays per operation, not per element.
INTERPRETER_WARP_SIZE = 32


def block_size(element_size: int, warp_size: int) -> int:
    """Elements per program, a power of two."""
    return warp_size * NUM_WARPS * BYTES_PER_THREAD // element_size


def warp_size() -> int:
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


def same_dense_layout(*tensors: Tensor) -> bool:
    """Whether element i of each lies at offset i of its memory, in one common order.

    The last tensor is one of ours, dense and without overlap: equal strides make the others so.
    """
    strides = tensors[-1].stride()
    return all(t.stride() == strides for t in tensors) or all(t.is_contiguous() for t in tensors)


def tiles(sizes: list[int], block: int) -> tuple[int, int, int, int]:
    """Rows, columns, and the tile's rows and columns for collapsed sizes."""
    cols = sizes[0]
    rows = math.prod(sizes[1:])
    block_cols = min(triton.next_power_of_2(cols), MAX_BLOCK_COLS, block)
    return rows, cols, block // block_cols, block_cols


def channel_tiles(channels: int, sizes: list[int], side: str, block: int) -> tuple[int, int, int]:
    """The channels and other indices of a tile, and the number of programs; `sizes` are those of the other dimensions.

    Channels along the columns: at most 512 bytes to a row of 32 threads, so that partial sums stay few, and the width,
    down to 128 bytes, that leaves the fewest columns idle. Along the rows: as long a run of the innermost dimension as
    there is.
    """
    if side == "cols":
        widths = (block // 8, block // 16, block // 32)
        width = min(widths, key=lambda b: (triton.cdiv(channels, b) * b, -b))
        block_channels = min(width, triton.next_power_of_2(channels))
    else:
        run = min(max(triton.next_power_of_2(sizes[0]), 16), block)
        block_channels = min(block // run, triton.next_power_of_2(channels))
    block_others = block // block_channels
    tiles = triton.cdiv(math.prod(sizes), block_others)
    channel_tiles = triton.cdiv(channels, block_channels)
    # As many groups of equal shares as are wanted, and none without one.
    share = triton.cdiv(tiles, max(1, CHANNEL_PROGRAMS // channel_tiles))
    return block_channels, block_others, channel_tiles * triton.cdiv(tiles, share)


def channel_strides(shape: tuple[int, ...], channel_dim: int | None) -> tuple[int, ...]:
    """Strides that address the channel of an element."""
    strides = [0] * len(shape)
    if channel_dim is not None:
        strides[channel_dim] = 1
    return tuple(strides)


def channel_side(strides: list[int], channel_dim: int | None) -> str:
    """Which side of a tile counts the channels, from their collapsed strides."""
    return "none" if channel_dim is None else "cols" if strides[0] else "rows"
