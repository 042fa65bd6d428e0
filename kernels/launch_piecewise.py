"""Host side of piecewise_sums.py and piecewise_rows.py: the way to sum, the shape of a tile, and the launches.

The caller has validated the tensors, allocated the results and made the tensors' device the current one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from . import grids, launch, piecewise_rows, piecewise_sums

# So many values are summed by hats, which lose nothing and cost three instructions each; more of them by ramps, which
# cost two. What is beyond leaves the memory the bound no longer.
MOST_HATS = 6
# Values that a program sums, and segments, which have two sums and weights of their own: as many as no target spills.
MOST_SUMS, MOST_SEGMENTS = 48, 12
# Programs that share the elements: about sixteen for each of 132 multiprocessors. Another number would be another order
# of summation, so it depends on no device.
PROGRAMS = 2112
# Elements of a tile that a thread takes: 32 bytes of halves.
ELEMENTS = 16
# Channels that a thread has side by side, each with sums of its own: so many, where there are at most so many sums.
SIDE_BY_SIDE = {4: 10, 2: 34}


# Cells of a grid that are filled at once.
CELLS_AT_ONCE = 512


@dataclass(frozen=True)
class Method:
    """A way to sum, and how many of all entries a program sums; of `lines`, an entry has two sums."""

    name: str
    count: int
    total: int

    @property
    def parts(self) -> int:
        """How many programs read the same elements."""
        return triton.cdiv(self.total, self.count)


@dataclass(frozen=True)
class Tile:
    """The shape of a tile, as the kernel takes it, and the number of programs for one part of the entries."""

    repeats: int
    others: int
    channels: int
    vector: int
    programs: int


def method(count: int, wanted: str) -> Method:
    """The way to sum for tables of so many breakpoints."""
    if wanted == "lines":
        name, total, most = "lines", count + 1, MOST_SEGMENTS
    else:
        name, total, most = "hats" if count <= MOST_HATS else "ramps", count, MOST_SUMS
    return Method(name, triton.cdiv(total, triton.cdiv(total, most)), total)


def _tile(side: str, channels: int, sizes: list[int], vector: int, sums: int, threads: int) -> Tile:
    """`sizes` are those of the dimensions beside the channels', and `vector` is how many elements lie side by side."""
    others = math.prod(sizes)
    if side == "cols":
        vector = max((v for v, most in SIDE_BY_SIDE.items() if sums <= most and v <= vector), default=1)
        tile_channels = min(max(16 * vector, 32), triton.next_power_of_2(channels))
        vector = min(vector, tile_channels)
        tile_others, repeats = threads * vector // tile_channels, ELEMENTS // vector
        block = tile_others * repeats
    else:
        run = min(triton.next_power_of_2(triton.cdiv(others, vector)), threads)
        tile_channels, tile_others, repeats = threads // run, run, ELEMENTS // vector
        block = tile_others * vector * repeats
    tiles = triton.cdiv(others, block)
    channel_tiles = triton.cdiv(channels, tile_channels)
    share = triton.cdiv(tiles, max(1, PROGRAMS // channel_tiles))
    return Tile(repeats, tile_others, tile_channels, vector, channel_tiles * triton.cdiv(tiles, share))


def _vector(tensors: tuple[Tensor, ...], sizes: list[int], strides: list[tuple[int, ...]], side: str) -> int:
    """How many elements of all tensors lie side by side and are read at once, 16 bytes at the most."""
    widest = 16 // tensors[0].element_size()
    along, across = (0, slice(1, None)) if side == "cols" else (1, slice(2, None))
    aligned = all(t.data_ptr() % 16 == 0 for t in tensors)
    dense = all(s[along] == 1 and all(o % 16 == 0 for o in s[across]) for s in strides)
    others_apart = side == "cols" or (sizes[0] % 16 == 0 and all(s[0] % 16 == 0 for s in strides))
    return widest if aligned and dense and others_apart else 1


def backward(
    grad: Tensor,
    saved: Tensor,
    dx: Tensor | None,
    table: launch.Table,
    kind: str,
    count: int,
    wanted: str,
    slopes: bool,
    channel_dim: int | None,
) -> Tensor:
    """Write dx, unless it is None; return sums in fp64 for each row of the table.

    wanted="values": (rows, count + 2), the gradients of the values, and with `slopes` of both outer slopes, else zeros;
    "lines": (rows, 2, count + 1), for each segment the sum of the gradient, and of its product with the distance of x
    from where the segment begins, which of the first one is the first breakpoint.
    """
    rows = table.rows.shape[0]
    how = method(count, wanted)
    entries = 2 * how.total if wanted == "lines" else count + 2
    shape = (rows, 2, how.total) if wanted == "lines" else (rows, entries)
    if saved.numel() == 0:
        return saved.new_zeros(shape, dtype=torch.float64)
    if rows == 1:
        channel_dim = None
    target = saved if dx is None else dx
    side, channels, sizes, strides = _sides(grad, saved, target, channel_dim, dx is not None)
    vector = _vector((grad, saved, target), sizes, strides, side) if side != "flat" else 16 // saved.element_size()
    slopes = slopes and wanted == "values"
    sums = how.count * (2 if wanted == "lines" else 1) + 2 * slopes
    tile = _tile(side, channels, sizes, vector, sums, grids.NUM_WARPS * grids.warp_size())
    groups = tile.programs // triton.cdiv(channels, tile.channels)
    partials = saved.new_empty((entries, groups, channels), dtype=torch.float32)
    others = math.prod(sizes)
    block = tile.repeats * tile.others * (1 if side == "cols" else tile.vector)
    tensors = (grad, saved, target, partials, table.rows)
    # Flat tensors of any length share a kernel.
    integers = ((1,) if side == "flat" else tuple(sizes), *strides)
    constants = (
        *(kind, (table.size, table.rows.shape[1]), table.even, how.name, how.count, how.total, slopes),
        *(dx is not None, saved.element_size() == 4 or table.precise),
        *(side, tile.repeats, tile.others, tile.channels, tile.vector),
        others + block >= 2**31,
    )
    lengths = (channels, others)
    key = launch._strided_key("pwl_sums", tensors, integers, (), channels >= 2**31, others >= 2**31, *constants)
    kernel = piecewise_sums.sums_kernel
    launch._run(kernel, tile.programs * how.parts, key, *tensors, *lengths, *integers, *constants)
    return partials.sum(1, dtype=torch.float64).t().reshape(shape)


def _sides(
    grad: Tensor, saved: Tensor, target: Tensor, channel_dim: int | None, writes: bool
) -> tuple[str, int, list[int], list[tuple[int, ...]]]:
    """The tiles' layout, the number of channels, the other sizes, and each tensor's strides, the channel's first."""
    # Without dx no tensor is known to be dense: equal strides say nothing then.
    flat = grids.same_dense_layout(grad, saved, target) if writes else grad.is_contiguous() and saved.is_contiguous()
    if channel_dim is None and flat:
        return "flat", 1, [saved.numel()], [(0, 1)] * 3
    shape = tuple(saved.shape)
    sizes, (grad_strides, saved_strides, channel_strides, target_strides) = grids.collapse(
        shape, grad.stride(), saved.stride(), grids.channel_strides(shape, channel_dim), target.stride()
    )
    strides = [grad_strides, saved_strides, target_strides]
    if channel_dim is None:
        return "rows", 1, sizes, [(0, *s) for s in strides]
    side = grids.channel_side(channel_strides, channel_dim)
    at = channel_strides.index(1)
    channels = sizes.pop(at)
    return side, channels, sizes or [1], [(s.pop(at), *(s or [0])) for s in strides]


def prepare(
    breakpoints: Tensor, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor, kind: str, cells: int
) -> Tensor:
    """The rows of `fusedact.piecewise.tables.prepare` in fp32, without a graph and in one launch."""
    channels = max(t.shape[0] if t.dim() == 2 else 1 for t in (breakpoints, values))
    channels = max([channels, *(s.numel() for s in (left_slope, right_slope) if isinstance(s, Tensor))])
    count = breakpoints.shape[-1]
    size = 1 << count.bit_length()
    length = 8 + 7 * size + (cells + 2 if kind == "bucket" else 0)
    rows = breakpoints.new_empty((channels, length), dtype=torch.float32)
    slopes = tuple(
        s.contiguous() if isinstance(s, Tensor) else torch.tensor(s, dtype=torch.float32).item()
        for s in (left_slope, right_slope)
    )
    kinds = tuple(("pointer" if s.numel() == 1 else "channel") if isinstance(s, Tensor) else "number" for s in slopes)
    strides = tuple(
        n for t in (breakpoints, values) for n in (t.stride(0) if t.dim() == 2 and t.shape[0] > 1 else 0, t.stride(-1))
    )
    tensors = (breakpoints, values, rows)
    constants = (*kinds, kind, cells if kind == "bucket" else 0, count, size, length, CELLS_AT_ONCE)
    key = launch._strided_key("pwl_rows", tensors, strides, slopes, *constants)
    launch._run(piecewise_rows.rows_kernel, channels, key, *tensors, *strides, slopes, *constants)
    return rows
