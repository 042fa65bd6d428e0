"""Statistics of a layer's values as nine numbers: of a tensor, of a kernel's partial sums, of parts of a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..eager import HALF_DTYPES

__all__ = ["EMPTY", "FLAT", "NAMES", "merged", "moments", "of_partials", "of_piece", "of_tensor", "others"]

# Of the finite values: their number, mean, sum of squared distances to it, the least and the greatest. Of all values:
# how many are NaN, infinite, zero, and how many have a flat slope; NaN where slopes are not known.
NAMES = ("count", "mean", "squares", "low", "high", "nan", "infinite", "zeros", "flat")
EMPTY = (0.0, 0.0, 0.0, math.inf, -math.inf, 0.0, 0.0, 0.0, 0.0)

# A slope of at most this magnitude is flat: kernels/statistics.py has the same number.
FLAT = 2.0**-7


def merged(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    """The figures of two parts together."""
    if a is EMPTY:
        return tuple(b)
    count = a[0] + b[0]
    if not b[0] or not a[0]:
        mean, squares = (a if a[0] else b)[1:3]
    else:
        apart = b[1] - a[1]
        mean = a[1] + apart * (b[0] / count)
        squares = a[2] + b[2] + apart * apart * (a[0] * b[0] / count)
    sums = (x + y for x, y in zip(a[5:], b[5:], strict=True))
    return count, mean, squares, min(a[3], b[3]), max(a[4], b[4]), *sums


def of_partials(partials: Tensor) -> Tensor:
    """Figures in float64 from what a kernel stored, [statistic, program], in a fixed order and without waiting."""
    wide = partials.double()
    count, mean, deviation = wide[0], wide[1], wide[2]
    total = count.sum()
    whole = (count * mean).sum() / total
    squares = (count * (deviation.square() + (mean - whole).square())).sum()
    return torch.stack([total, whole, squares, wide[3].amin(), wide[4].amax(), *wide[5:].sum(1)])


def of_tensor(y: Tensor) -> Tensor:
    """The figures of a tensor in float64, without slopes, and without waiting for the device."""
    wide = y.float() if y.dtype in HALF_DTYPES else y
    if not wide.numel():
        return torch.tensor([*EMPTY[:8], math.nan], dtype=torch.float64, device=y.device)
    finite = wide.isfinite()
    count = finite.sum(dtype=torch.float64)
    mean = wide.where(finite, 0.0).sum(dtype=torch.float64) / count
    low, high = wide.where(finite, math.inf).amin().double(), wide.where(finite, -math.inf).amax().double()
    # Scaled, so that squares neither overflow nor vanish.
    scale = torch.maximum(low.abs(), high.abs()).clamp(1e-30, torch.finfo(wide.dtype).max)
    distance = (wide / scale.to(wide.dtype) - (mean / scale).to(wide.dtype)).where(finite, 0.0)
    squares = distance.square().sum(dtype=torch.float64) * scale.square()
    counts = [c.sum(dtype=torch.float64) for c in (wide.isnan(), wide.isinf(), wide == 0)]
    return torch.stack([count, mean, squares, low, high, *counts, count.new_tensor(math.nan)])


def of_piece(y: Tensor, zeros: float | None = None, spare: Tensor | None = None) -> list[float]:
    """The figures of a CPU tensor of 32 or 64 bits, without slopes; `zeros`, how many there are, if that is known.

    Of the sums that PyTorch vectorises: its variance and its counts take from three to thirty times as long. `spare` is
    memory of y's kind.
    """
    if not y.numel():
        return of_tensor(y).tolist()
    low, high = (t.item() for t in torch.aminmax(y))
    if not math.isfinite(low) or not math.isfinite(high):
        return of_tensor(y).tolist()
    count = y.numel()
    mean = y.sum().item() / count
    squared = torch.linalg.vector_norm(y).item() ** 2
    squares = squared - count * mean * mean
    # A difference of nearly equal numbers is taken about the mean instead.
    if math.isfinite(squares) and squared > 1e-30 and squares < squared / 4:
        squares = torch.linalg.vector_norm(torch.sub(y, mean, out=spare)).item() ** 2
    if not math.isfinite(squares) or squared <= 1e-30:
        return of_tensor(y).tolist()
    if zeros is None:
        # The least magnitude costs less than to count, and most values that are on both sides of 0 have none.
        none = low > 0 or high < 0 or (low < 0 < high and torch.abs(y, out=spare).amin().item() > 0)
        zeros = 0.0 if none else torch.eq(y, 0.0, out=torch.empty_like(y) if spare is None else spare).sum().item()
    return [float(count), mean, squares, low, high, 0.0, 0.0, zeros, math.nan]


def moments(t: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all of a tensor's elements; NaN of none."""
    wide = t.float() if t.dtype in HALF_DTYPES else t
    if not wide.numel():
        return math.nan, math.nan
    mean = wide.mean()
    return mean.item(), torch.linalg.vector_norm(wide - mean).item() / math.sqrt(wide.numel())


def others(dims: int, dim: int | None) -> list[int]:
    """All dimensions but one."""
    return [d for d in range(dims) if d != dim]
