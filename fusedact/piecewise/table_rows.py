"""Piecewise-linear functions with tables: the rows that an evaluation reads.

`prepare` derives from breakpoints, values and outer slopes what an evaluation needs (slopes, the ends that decide the
segment, an even grid that finds it without a search) and lays it out as the kernels read it; see kernels/piecewise.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import table_checks

__all__ = ["FAR", "FARTHEST_ROOT", "HEADER", "SEARCH", "SECTIONS", "Plan", "plan", "prepare"]

HEADER = 8
# Of a row, before what only buckets have; see kernels/piecewise.py.
SECTIONS = 7
# A grid of at most as many cells, 16 KiB, finds unevenly spaced breakpoints; closer ones are searched for.
MAX_CELLS = 4096
# Where intercepts are so much larger than values, y = intercept + slope x loses what fp16 can show.
STEEP = 64.0
# How far breakpoints may lie beside even places, in steps, to count as evenly spaced for the sums of learned tables;
# and how wrong float32 arithmetic may be about an element's place.
EVEN, PLACE_ERROR = 2.0**-18, 2.0**-17
# Finite, so that an outer slope of 0 times it is 0, and so far that a difference with a breakpoint does not overflow.
FAR = 2.0**126
FARTHEST_ROOT = 1e30


@dataclass(frozen=True)
class Plan:
    """How segments are found: "uniform", "bucket" (with so many cells) or "search"; whether they are steep; and
    whether breakpoints are spaced so evenly that arithmetic gives an element's place between them.
    """

    kind: str
    cells: int = 0
    steep: bool = True
    even: bool = False


SEARCH = Plan("search")


def plan(breakpoints: Tensor, values: Tensor | None = None) -> Plan:
    """The cheapest index that finds every segment of these tables exactly, or of any values where none are given.

    Waits for their device.
    """
    b, v = (
        None if t is None else t.detach().to("cpu").float().double().reshape(-1, t.shape[-1])
        for t in (breakpoints, values)
    )
    assert b is not None
    count = b.shape[1]
    if v is None:
        # Between values of at most 1 a slope is at most 2 / gap.
        intercepts, largest = 1 + 2 / b.diff() * b[:, 1:].abs(), torch.ones_like(b[:, :1])
    else:
        intercepts, largest = v[:, 1:] - v.diff() / b.diff() * b[:, 1:], v.abs().amax(1, keepdim=True)
    steep = bool((intercepts.abs() > STEEP * largest).any())
    if count == 1:
        return Plan("uniform", steep=steep, even=True)
    low, high = b[:, :1], b[:, -1:]
    scale = (count - 1) / (high - low)
    # What float32 arithmetic adds to an index: two roundings of numbers as large as these.
    error = 2.0**-22 * scale * torch.maximum(low.abs(), high.abs()) + 2.0**-22 * count
    position = (b - low) * scale
    uneven = (position - torch.arange(count, dtype=torch.float64, device="cpu")).abs()
    if bool((uneven + error < 0.25).all()):
        # Of x * scale + offset: the rounding of both constants, and of the result.
        wrong = 2.0**-24 * (2 * scale * torch.maximum(low.abs(), high.abs()) + count)
        even = bool(((uneven < EVEN) & (wrong < PLACE_ERROR)).all())
        return Plan("uniform", steep=steep, even=even)
    # A cell and a hundredth of one on both sides must hold at most one breakpoint.
    cells = int(torch.ceil(1.05 * (high - low) / (b[:, 1:] - b[:, :-1]).amin(1, keepdim=True)).amax().item()) + 1
    if cells <= MAX_CELLS and bool((error * cells / (count - 1) < 0.01).all()):
        return Plan("bucket", cells, steep)
    return Plan("search", steep=steep)


def _anchors(b: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """Where each segment's line is written from, so that y = value + slope (x - anchor) does not cancel.

    That is where it crosses zero, if it does, else the end where it is nearer to zero.
    """
    end = torch.where(v[:, 1:].abs() < v[:, :-1].abs(), b[:, 1:], b[:, :-1])
    inner = torch.where(v[:, 1:] * v[:, :-1] < 0, b[:, :-1] - v[:, :-1] / slopes[:, 1:-1], end)
    left, right = (t.unsqueeze(1) for t in (b[:, 0] - v[:, 0] / slopes[:, 0], b[:, -1] - v[:, -1] / slopes[:, -1]))
    # A slope of 0 gives an infinity or NaN, which no comparison with a finite number lets through.
    left = torch.where((left < b[:, :1]) & (left > -FARTHEST_ROOT), left, b[:, :1])
    right = torch.where((right > b[:, -1:]) & (right < FARTHEST_ROOT), right, b[:, -1:])
    return torch.cat([left, inner, right], 1)


def prepare(
    breakpoints: Tensor,
    values: Tensor,
    left_slope: float | Tensor,
    right_slope: float | Tensor,
    how: Plan,
    dtype: torch.dtype,
) -> Tensor:
    """The rows (channels, length) in `dtype`, float32 or float64; differentiable, and without waiting for a device."""
    channels = table_checks.rows_of(breakpoints, values, left_slope, right_slope)
    count = breakpoints.shape[-1]
    size = 1 << count.bit_length()

    def rows(t: float | Tensor, width: int) -> Tensor:
        # A number is filled in: a copy from the host would wait, and cannot be captured in a CUDA graph.
        made = t if isinstance(t, Tensor) else torch.full((), t, dtype=torch.float64, device=breakpoints.device)
        return made.reshape(-1, width).to(dtype).double().expand(channels, width)

    b, v = rows(breakpoints, count), rows(values, count)
    left, right = rows(left_slope, 1), rows(right_slope, 1)
    slopes = torch.cat([left, (v[:, 1:] - v[:, :-1]) / (b[:, 1:] - b[:, :-1]), right], 1)
    at, start = torch.cat([b[:, :1], b], 1), torch.cat([v[:, :1], v], 1)
    anchors = _anchors(b.detach(), v.detach(), slopes.detach()).to(dtype).double()
    starts = start + slopes * (anchors - at)

    # At a breakpoint the slope is the smaller one in magnitude, the right one if they are equal: the earlier segment
    # ends there, or just before.
    fixed = b.detach().to(dtype)
    magnitudes = slopes.detach().to(dtype).abs()
    flatter = magnitudes[:, 1:] <= magnitudes[:, :-1]
    ends = torch.where(flatter, torch.nextafter(fixed, fixed.new_full((), -torch.inf)), fixed).double()

    def padded(t: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(t, (0, size - t.shape[1]), value=fill)

    low, high = b[:, :1].detach(), b[:, -1:].detach()
    steps = torch.zeros_like(low)
    if how.kind == "uniform":
        scale = steps = (count - 1) / (high - low) if count > 1 else torch.ones_like(low)
        offset, last = 0.5 - low * scale, count
    elif how.kind == "bucket":
        scale = how.cells / (high - low)
        offset, last = 1.0 - low * scale, how.cells + 1
    else:
        scale, offset, last = torch.zeros_like(low), torch.zeros_like(low), 0
    header = [
        # The index as a part of the last cell.
        *((scale / last, offset / last) if last else (scale, offset)),
        torch.full_like(low, last),
        torch.where(left.detach() == 0, torch.minimum(low, torch.full_like(low, -FAR)), -torch.inf),
        torch.where(right.detach() == 0, torch.maximum(high, torch.full_like(low, FAR)), torch.inf),
        steps,
        torch.zeros(channels, HEADER - 6, dtype=torch.float64, device=b.device),
    ]
    parts = [
        *header,
        padded(ends, torch.nan),
        padded(slopes, 0.0),
        padded(starts, 0.0),
        padded(anchors, 0.0),
        padded(start - slopes * at, 0.0),
        padded(at.detach(), 0.0),
        padded(torch.nn.functional.pad(1 / b.detach().diff(), (1, 1), value=1.0), 0.0),
    ]
    if how.kind == "bucket":
        # The segment of everything before the cell, less a margin for the index's rounding.
        cell = torch.arange(how.cells + 2, dtype=torch.float64, device=b.device)
        edges = low + (cell - 1.01) / scale
        parts.append(torch.searchsorted(ends.contiguous(), edges.contiguous()).double())
    return torch.cat(parts, 1).to(dtype)
