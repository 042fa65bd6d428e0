"""Where a function of one number has a flat slope: intervals of inputs, found once, then compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .figures import FLAT

__all__ = ["Intervals", "find", "known", "ones"]

Intervals = tuple[tuple[float, float], ...]

# Beyond the last point nothing changes; a minimum's surroundings are thirty times as wide as a step.
REACH, STEP, FAR = 20.0, 0.001, 1e4
# More cost more than the slope itself, and are those of a periodic function.
MOST = 4
HALVINGS, HALVED = 60, 1e-18


_known: dict[Hashable, Intervals | None] = {}


def known(key: Hashable, slope: Callable[[Tensor], Tensor]) -> Intervals | None:
    """What `find` found of a slope that has this key, and finds now if it is new."""
    if key not in _known:
        _known[key] = find(slope)
    return _known[key]


def find(slope: Callable[[Tensor], Tensor]) -> Intervals | None:
    """The intervals of inputs, ends included, where a slope's magnitude is at most FLAT; None if they are many."""

    def flat(x: Tensor) -> Tensor:
        return slope(x).abs() <= FLAT

    near = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float64)
    far = torch.logspace(math.log10(REACH), math.log10(FAR), 200, dtype=torch.float64)[1:]
    # Off the grid's own numbers, where kinks are.
    grid = torch.cat([-far.flip(0), near + STEP / math.pi, far])
    found = flat(grid)
    edges = (found[1:] != found[:-1]).nonzero().reshape(-1)
    if len(edges) > 2 * MOST:
        return None
    left, right = grid[edges], grid[edges + 1]
    begins = found[edges]
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        same = flat(middle) == begins
        left, right = torch.where(same, middle, left), torch.where(same, right, middle)
    # The end that is flat itself; halving does not reach 0.
    inner = torch.where(begins, left, right)
    origin = inner.abs() < HALVED
    inner = torch.where(origin & flat(torch.zeros_like(inner)), 0.0, inner) if bool(origin.any()) else inner
    ends = [-math.inf] if bool(found[0]) else []
    ends += inner.tolist()
    ends += [math.inf] if bool(found[-1]) else []
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def ones(x: Tensor, intervals: Intervals, out: Tensor, spare: Tensor) -> Tensor:
    """1 where x is in one of the intervals, else 0, into `out`; NaN is in none. Both are tensors of x's kind."""
    first = True
    for low, high in intervals:
        target = out if first else spare
        if low == -math.inf:
            torch.le(x, high, out=target)
        elif high == math.inf:
            torch.ge(x, low, out=target)
        else:
            # As a distance from the middle: one comparison.
            torch.sub(x, (low + high) / 2, out=target)
            torch.le(target.abs_(), (high - low) / 2, out=target)
        if not first:
            out.add_(spare)
        first = False
    return out.zero_() if first else out
