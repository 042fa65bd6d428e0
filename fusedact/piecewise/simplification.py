"""Which breakpoints of a piecewise-linear table can be done without."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_number

__all__ = ["needed_breakpoints"]


def needed_breakpoints(
    owner: str, breakpoints: Tensor, values: Tensor, left_slope: Tensor, right_slope: Tensor, tolerance: float
) -> Tensor:
    """Positions of the fewest breakpoints between which the function, with its outer slopes, stays within `tolerance`.

    A shortest path: there is a step from one breakpoint to another if the chord between them passes all that it skips
    (Imai and Iri, 1986). One table per channel: if it does in all of them.

    Raises:
        TypeError: if the tolerance is no number.
        ValueError: if it is negative or not finite.
    """
    tolerance = check_number(owner, "tolerance", tolerance)
    if not 0.0 <= tolerance < math.inf:
        raise ValueError(f"{owner}: tolerance must be finite and at least 0, got {tolerance}")
    count, precision = breakpoints.shape[-1], torch.finfo(values.dtype).eps
    b, v = (t.to("cpu", torch.float64).reshape(-1, count) for t in (breakpoints, values))
    left, right = (t.to("cpu", torch.float64).reshape(-1, 1) for t in (left_slope, right_slope))
    rows = max(t.shape[0] for t in (b, v, left, right))
    b, v = b.expand(rows, count), v.expand(rows, count)
    # What rounding moves: values, and breakpoints on steep lines.
    slopes = torch.cat([left.expand(rows, 1), v.diff() / b.diff(), right.expand(rows, 1)], 1)
    steepest = torch.maximum(slopes[:, 1:].abs(), slopes[:, :-1].abs())
    allowed = tolerance + precision * (v.abs() + steepest * b.abs())

    # An outer line that begins at a later breakpoint, or ends at an earlier one, moves by as much as it is off at those
    # that are skipped.
    first, last = v - left * b, (v - right * b).flip(1)
    starts, ends = _spread(first, allowed), _spread(last, allowed.flip(1)).flip(0)

    steps = torch.where(starts, 1, count + 1)
    came = torch.full((count,), -1)
    for i in range(count - 1):
        if steps[i] > count:
            continue
        reached = torch.nonzero(_reached(b, v, i, allowed)).squeeze(1) + i + 1
        shorter = reached[steps[reached] > steps[i] + 1]
        steps[shorter] = steps[i] + 1
        came[shorter] = i
    at = int(torch.where(ends, steps, count + 1).argmin())
    path = [at]
    while came[at] >= 0:
        at = int(came[at])
        path.append(at)
    return torch.tensor(path[::-1])


def _spread(offsets: Tensor, allowed: Tensor) -> Tensor:
    """For each position, whether all before it are as near in every row."""
    low, high = (offsets - allowed).cummax(1)[0], (offsets + allowed).cummin(1)[0]
    return ((offsets >= low) & (offsets <= high)).all(0)


def _reached(b: Tensor, v: Tensor, i: int, allowed: Tensor) -> Tensor:
    """For each later breakpoint, whether the chord to it passes those between: whether its slope is in their cones."""
    run = b[:, i + 1 :] - b[:, i : i + 1]
    rise = v[:, i + 1 :] - v[:, i : i + 1]
    low = ((rise - allowed[:, i + 1 :]) / run).cummax(1)[0]
    high = ((rise + allowed[:, i + 1 :]) / run).cummin(1)[0]
    slope = rise / run
    return ((slope >= low) & (slope <= high)).all(0)
