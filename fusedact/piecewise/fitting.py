"""Fits piecewise-linear tables to functions: breakpoints, values, and the slopes outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..checks import check_number
from ..dispatch import backend
from ..quadrature import gauss_legendre
from . import callables, table_checks
from .placement import adaptive, chord_errors

__all__ = ["FITS", "OUTER", "SPACINGS", "Fit", "fit", "split"]

SPACINGS = ("uniform", "adaptive")
OUTER = ("match", "flat", "extend")
FITS = ("interpolate", "least_squares")
# Samples of a chord that errors are measured at.
MEASURED = 256
# Gauss-Legendre points of a chord, for the integrals of least squares.
POINTS = 16
# How far out an asymptote is looked for, in multiples of the range, and from how many powers of ten before that on:
# nearer where numbers overflow there, or are of float32.
FAR = ((1e8, 2), (1e4, 2), (50.0, 1))
# How far the function may be from it there, and from a line that it swings about, relative to its size in the range.
SETTLED, SWINGS = 1e-5, 2.5
# The step of one-sided derivatives, relative to the range.
STEP = 1e-5

Exact = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A table, and the function that it was fitted to."""

    function: Exact
    breakpoints: Tensor
    values: Tensor
    left_slope: Tensor
    right_slope: Tensor

    def errors(self, breakpoints: Tensor, values: Tensor) -> tuple[float, float]:
        """The largest distance of a table from the function, and the root of the mean square one.

        From the first breakpoint to the last, at 256 points of each chord and its end.
        """
        b, v = (t.detach().to("cpu", torch.float64).reshape(-1, t.shape[-1])[0] for t in (breakpoints, values))
        with torch.no_grad(), torch.device("cpu"), backend("eager"):
            errors = chord_errors(self.function, b, v, MEASURED)
        square = torch.trapezoid(errors.square(), dim=1) / MEASURED
        mean = (square * b.diff()).sum() / (b[-1] - b[0])
        return errors.abs().max().item(), mean.sqrt().item()


def split(owner: str, function: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords that are parameters or options of the named activation, and the others.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    if not isinstance(function, str):
        return {}, arguments
    spec = registry.get(function, owner)
    own = {p.name for p in spec.parameters} | {o.name for o in spec.options}
    return {k: a for k, a in arguments.items() if k in own}, {k: a for k, a in arguments.items() if k not in own}


def fit(
    owner: str,
    function: Any,
    parameters: dict[str, Any],
    low: float,
    high: float,
    num_breakpoints: int,
    *,
    spacing: str,
    outer: str,
    left_slope: float | None,
    right_slope: float | None,
    how: str,
) -> Fit:
    """A table for the function; see `PWL.from_function`.

    Raises:
        TypeError: if an argument is of another type, or the function does not return real numbers.
        ValueError: if an argument is out of range, or the function is not elementwise, or not finite in the range.
    """
    low, high = (check_number(owner, name, end) for name, end in (("low", low), ("high", high)))
    if not low < high:
        raise ValueError(f"{owner}: low must be below high, got {low} and {high}")
    if not math.isfinite(high - low):
        raise ValueError(f"{owner}: low and high must be finite, got {low} and {high}")
    if isinstance(num_breakpoints, bool) or not isinstance(num_breakpoints, int):
        raise TypeError(f"{owner}: num_breakpoints must be an int, got {type(num_breakpoints).__name__}")
    if not 2 <= num_breakpoints <= table_checks.MAX_BREAKPOINTS:
        raise ValueError(
            f"{owner}: num_breakpoints must be from 2 to {table_checks.MAX_BREAKPOINTS}, got {num_breakpoints}"
        )
    for name, choice, choices in (("spacing", spacing, SPACINGS), ("outer", outer, OUTER), ("fit", how, FITS)):
        if choice not in choices:
            raise ValueError(f"{owner}: {name} must be {' or '.join(map(repr, choices))}, got {choice!r}")
    slopes = [
        None if s is None else check_number(owner, name, s, "a number or None")
        for name, s in (("left_slope", left_slope), ("right_slope", right_slope))
    ]
    with torch.no_grad(), torch.device("cpu"), backend("eager"):
        given, name = callables.as_function(owner, function, parameters, "chords")
        grid = torch.linspace(low, high, 257, dtype=torch.float64)
        callables.check_elementwise(owner, given, grid, name)

        def exact(z: Tensor) -> Tensor:
            return callables.values(owner, given, z, name)

        # Seen at points that no even number of chords has as its ends, too.
        for x in (grid, grid[:-1] + (high - low) * 2.0**-8 * 0.381966):
            y = exact(x)
            if not bool(y.isfinite().all()):
                at = int((~y.isfinite()).nonzero()[0])
                raise ValueError(
                    f"{owner}: {name} must be finite from low to high, got {y[at].item()} at {x[at].item():g}"
                )
        return _fitted(exact, low, high, num_breakpoints, spacing, outer, slopes, how)


def _fitted(
    function: Exact,
    low: float,
    high: float,
    count: int,
    spacing: str,
    outer: str,
    slopes: list[float | None],
    how: str,
) -> Fit:
    if spacing == "adaptive":
        b = adaptive(function, low, high, count)
    else:
        b = torch.linspace(low, high, count, dtype=torch.float64)
    v = function(b)
    error = chord_errors(function, b, v, MEASURED).abs().max().item()
    found: list[float | None] = list(slopes)
    held: list[float | None] = [None, None]
    for side, end in ((0, low), (-1, high)):
        if slopes[side] is None and outer == "match":
            found[side], line = _outside(function, end, -1 if side == 0 else 1, high - low, v)
            # An asymptote that the function has not come near to yet is no value of it.
            held[side] = line if line is not None and abs(line - v[side].item()) <= error else None
    if how == "least_squares":
        v = _least_squares(function, b, held)
    for side in (0, -1):
        end_value = held[side]
        if end_value is not None:
            v[side] = end_value
    ends = (v.diff() / b.diff())[[0, -1]] if outer != "flat" else torch.zeros(2, dtype=torch.float64)
    left, right = (end if s is None else torch.full_like(end, s) for end, s in zip(ends, found, strict=True))
    return Fit(function, b, v, left, right)


# ----- outside


def _outside(function: Exact, end: float, sign: int, span: float, values: Tensor) -> tuple[float | None, float | None]:
    """The slope beyond an end, and the asymptote's value there, if there is an asymptote.

    A function that swings about a line has that line's slope. Otherwise it is the function's own slope just outside;
    None where it has none.
    """
    size, height = max(span, abs(end)), values.abs().max().item()
    swings = None
    for far, decades in FAR:
        # At places that no period divides.
        x = end + sign * far * size * torch.logspace(-decades, 0, 48, dtype=torch.float64)
        y = function(x)
        if not bool(y.isfinite().all()):
            continue
        near = x[-1] / 4
        slope = ((y[-1] - function(near[None])[0]) / (x[-1] - near)).item()
        slope = 0.0 if abs(slope) * far * size <= SETTLED * height else slope
        offset = (y[-1] - slope * x[-1]).item()
        # What float64 rounds at that distance counts for nothing.
        off = ((y - slope * x - offset).abs() - 2.0**-50 * y.abs()).max().item()
        if off <= SETTLED * height:
            return slope, slope * end + offset
        # Nearby, a root looks like a line.
        if swings is None and decades > 1 and off <= SWINGS * height:
            swings = 0.0 if abs(slope) * far * size <= SWINGS * height else slope
    if swings is not None:
        return swings, None
    step = STEP * span
    a, b, c = function(end + sign * step * torch.arange(3, dtype=torch.float64)).tolist()
    beside = sign * (4.0 * b - 3.0 * a - c) / (2.0 * step)
    return beside if math.isfinite(beside) else None, None


# ----- least squares


def _least_squares(function: Exact, b: Tensor, held: list[float | None]) -> Tensor:
    """The values whose chords have the least mean square distance; ends that are held stay as they are."""
    nodes, weights = gauss_legendre(POINTS)
    part = (1.0 + nodes) / 2.0
    widths = b.diff()
    y = function(torch.lerp(b[:-1, None], b[1:, None], part).reshape(-1)).reshape(len(widths), POINTS)
    # Integrals of the function times the two hats of each chord, and of the hats' products.
    falling, rising = (widths * (y * hat * weights / 2.0).sum(1) for hat in (1.0 - part, part))
    right = torch.zeros_like(b)
    right[:-1] += falling
    right[1:] += rising
    diagonal = torch.zeros_like(b)
    diagonal[:-1] += widths / 3.0
    diagonal[1:] += widths / 3.0
    matrix = torch.diag(diagonal) + torch.diag(widths / 6.0, 1) + torch.diag(widths / 6.0, -1)
    for side, value in ((0, held[0]), (-1, held[1])):
        if value is not None:
            matrix[side] = 0.0
            matrix[side, side] = 1.0
            right[side] = value
    return torch.linalg.solve(matrix, right)
