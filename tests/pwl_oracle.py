"""Piecewise-linear functions in float64, as numpy.interp has them, and as a user would write them in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Tables = tuple[list[float], list[float], float, float]


def _wave(points: list[float]) -> list[float]:
    return [float(np.float32(np.sin(2 * p) + 0.3 * p)) for p in points]


def _float32(points: np.ndarray) -> list[float]:
    return points.astype(np.float32).astype(float).tolist()


EVEN = _float32(np.linspace(-4, 4, 17))
FINE = _float32(np.linspace(-6, 5, 64))
# At most a fifth of a step beside even places: still found by arithmetic.
JITTERED = _float32(np.linspace(-4, 4, 17) + 0.1 * np.sin(np.arange(17)))
UNEVEN = [-3.0, -1.25, -1.0, 0.0, 0.125, 2.0, 5.0]
CLOSE = [-1.0, 0.0, 2.0**-20, 1.0]

# What finds the segment, and the tables. Slopes outside: zero, equal to a neighbour, negative.
CASES: dict[str, tuple[str, Tables]] = {
    "one": ("uniform", ([0.5], [0.25], -0.5, 2.0)),
    "relu6": ("uniform", ([0.0, 6.0], [0.0, 6.0], 0.0, 0.0)),
    "hardsigmoid": ("uniform", ([-3.0, 3.0], [0.0, 1.0], 0.0, 0.0)),
    "even": ("uniform", (EVEN, _wave(EVEN), 0.0, 0.5)),
    "fine": ("uniform", (FINE, _wave(FINE), -1.0, 0.0)),
    "jittered": ("uniform", (JITTERED, _wave(JITTERED), 0.0, 0.0)),
    "uneven": ("bucket", (UNEVEN, _wave(UNEVEN), 0.25, -0.25)),
    "close": ("search", (CLOSE, [0.0, 1.0, 1.0, -1.0], 1.0, 0.0)),
    "long": ("uniform", (np.arange(-512.0, 512.0).tolist(), np.cos(np.arange(1024.0)).tolist(), 0.0, 1.0)),
    "steep": ("uniform", ([1000.0, 1001.0, 1002.0], [0.0, 1.0, -1.0], 0.0, 0.0)),
}


def _as_seen(numbers: list[float], dtype: torch.dtype) -> np.ndarray:
    return np.array(numbers, np.float64 if dtype == torch.float64 else np.float32).astype(np.float64)


def _segments(x: np.ndarray, tables: Tables, dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    b, v = _as_seen(tables[0], dtype), _as_seen(tables[1], dtype)
    left, right = _as_seen([tables[2], tables[3]], dtype)
    slopes = np.concatenate([[left], np.diff(v) / np.diff(b), [right]])
    return b, v, slopes, np.where(np.isnan(x), 0, np.searchsorted(b, x, side="right"))


def value(x: Tensor, tables: Tables) -> Tensor:
    """The line of the segment, from the end nearer to zero, since numpy.interp cancels near a root; both must agree."""
    x64 = x.detach().double().numpy()
    b, v, slopes, segment = _segments(x64, tables, x.dtype)
    left, right = np.maximum(segment - 1, 0), np.minimum(segment, len(b) - 1)
    near = np.where(np.abs(v[right]) < np.abs(v[left]), right, left)
    with np.errstate(invalid="ignore"):
        # 0 * inf must not arise.
        y = v[near] + np.where(slopes[segment] == 0, 0.0, slopes[segment] * (x64 - b[near]))
    y = np.where(np.isnan(x64), x64, y)
    inside = (x64 >= b[0]) & (x64 <= b[-1])
    np.testing.assert_allclose(y[inside], np.interp(x64[inside], b, v), rtol=1e-12, atol=1e-12 * np.abs(v).max())
    return torch.from_numpy(y)


def slope(x: Tensor, tables: Tables) -> Tensor:
    """The slope of the segment; at a breakpoint the smaller one in magnitude, the right one if they are equal."""
    x64 = x.detach().double().numpy()
    b, _, slopes, segment = _segments(x64, tables, x.dtype)
    result = slopes[segment]
    for i, point in enumerate(b):
        flatter = slopes[i + 1] if abs(slopes[i + 1]) <= abs(slopes[i]) else slopes[i]
        result = np.where(x64 == point, flatter, result)
    return torch.from_numpy(result)


def composition(x: Tensor, tables: Tables) -> Tensor:
    """What one writes in PyTorch, in x's dtype: bucketize, and gather."""
    b, v = (torch.tensor(t, dtype=x.dtype) for t in tables[:2])
    left, right = torch.tensor(tables[2:], dtype=x.dtype).split(1)
    slopes = torch.cat([left, v.diff() / b.diff(), right])
    anchors, starts = torch.cat([b[:1], b]), torch.cat([v[:1], v])
    at = torch.bucketize(x.detach(), b, right=True)
    return starts[at] + slopes[at] * (x - anchors[at])


def inputs32(tables: Tables) -> Tensor:
    """Around every breakpoint and one unit beside it, in between, far outside, and what is special."""
    b = torch.tensor(tables[0], dtype=torch.float32)
    infinity = torch.tensor(torch.inf)
    generator = torch.Generator().manual_seed(0)
    span = (b[-1] - b[0]).clamp(min=1.0)
    inside = torch.rand(2000, generator=generator) * span * 1.5 + b[0] - span / 4
    special = torch.tensor([0.0, -0.0, 1e-45, 1e30, -1e30, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])
    return torch.cat([b, torch.nextafter(b, infinity), torch.nextafter(b, -infinity), inside, special])
