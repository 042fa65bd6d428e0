"""What is measured of an activation: range, slopes, bends, tails, and what becomes of normal inputs; all in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .dispatch import backend
from .initialization import gain
from .piecewise.callables import as_function, check_elementwise, values
from .piecewise.placement import kinks_of
from .quadrature import gauss_legendre

__all__ = ["Extremum", "Properties", "Tail", "derivative", "measure"]

OWNER = "fusedact.properties.measure"
# Kinks and extrema are looked for up to here. A standard normal variable is outside REACH with probability 4e-33.
FAR, REACH = 32.0, 12.0
# Points at a time: as many as PyTorch works in one thread, which other programs disturb least.
SAMPLES, ATONCE = 2**13, 2**15
# Tails are told from powers of 2: limits at the far one, lines where float64 still has digits after the point.
FARTHEST, FARTHER = 2.0**40, 2.0**20
FAR_SCALES = (FARTHER, 2.0**30, FARTHEST)
# The function counts as saturated where its slope is below that part of the steepest.
SATURATED = 0.01
# Values come nearer than that to a limit that is reached gradually; beside a kink they are further off.
GRADUAL = 1e-9
# Two places are one if they are as near; a kink by less than that part of the steepest slope is not noted.
APART, NOTED = 1e-3, 1e-6

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extremum:
    """A bound of the values, where it is, and whether it is a value itself or only a limit."""

    value: float
    at: float
    attained: bool


@dataclass(frozen=True)
class Tail:
    """The function far out: "constant" (offset), "line" (slope * x + offset), "power" (like |x|^power),
    "overflow" (beyond float64), or "other"."""

    kind: str
    slope: float = 0.0
    offset: float = 0.0
    power: float = 0.0

    def __str__(self) -> str:
        if self.kind == "constant":
            return f"{_short(self.offset)}"
        if self.kind == "line":
            slope = {1.0: "x", -1.0: "-x"}.get(_rounded(self.slope), f"{_short(self.slope)} x")
            offset = _rounded(self.offset)
            return slope + (f" {'+' if offset > 0 else '-'} {_short(abs(offset))}" if offset else "")
        if self.kind == "power":
            return f"like |x|^{_short(self.power)}"
        return "beyond float64" if self.kind == "overflow" else "no limit and no line"


@dataclass(frozen=True)
class Properties:
    """What `measure` found. Shares, means and scales are those of a standard normal input."""

    low: Extremum
    high: Extremum
    # "increasing", "never decreasing", "decreasing", "never increasing", "constant" or "not monotone".
    monotone: str
    # Mean and standard deviation of the output.
    mean: float
    std: float
    # fusedact.gain, and by what such weights and the activation multiply the scale of a gradient in each layer; None
    # where the output's mean square is 0.
    gain: float | None
    gradient_factor: float | None
    # The share of inputs whose slope is 0, and of those whose slope is below a hundredth of the steepest.
    dead: float
    saturated: float
    # Below and above which inputs are saturated; None on a side where they are not.
    saturated_below: float | None
    saturated_above: float | None
    # The largest slope, in magnitude; infinite where it jumps, or grows without bound.
    lipschitz: float
    # Where the value jumps, where the slope does, and where the slope bends.
    jumps: tuple[float, ...]
    kinks: tuple[float, ...]
    bends: tuple[float, ...]
    left: Tail
    right: Tail

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, text and lists; infinities as text, which JSON lacks."""
        return _plain(asdict(self))


def measure(activation: str | nn.Module | Callable[..., Tensor], /, **parameters: Any) -> Properties:
    """What an activation does to its inputs, measured in float64 from its formula and autograd.

    Args:
        activation: as for `fusedact.gain`.
        parameters: of the activation, as keywords; otherwise what its module begins with.

    Raises:
        TypeError: if `activation` is none of these, or does not return a tensor of real numbers.
        ValueError: if it is not elementwise, has an entry per channel, or an unknown name, or is not finite for some
            input between -32 and 32.

    >>> from fusedact import properties
    >>> found = properties.measure("relu")
    >>> found.dead, found.lipschitz, str(found.right)
    (0.5, 1.0, 'x')
    """
    given, name = as_function(OWNER, activation, parameters, "measured properties")

    def function(x: Tensor) -> Tensor:
        return values(OWNER, given, x, name)

    with torch.enable_grad(), torch.device("cpu"), backend("eager"):
        grid = torch.linspace(-FAR, FAR, 2 * SAMPLES + 1, dtype=torch.float64)
        with torch.no_grad():
            # Not symmetric: else a mean, too, might not show that it depends on all.
            check_elementwise(OWNER, function, grid[: SAMPLES + SAMPLES // 2 : 64], name)
            if not bool(function(grid).isfinite().all()):
                raise ValueError(f"{OWNER}: {name} must be finite between {-FAR:g} and {FAR:g}")
        return _measured(function, grid, activation, parameters)


def _measured(function: Function, grid: Tensor, activation: Any, parameters: dict[str, Any]) -> Properties:
    def value(x: Tensor) -> Tensor:
        with torch.no_grad():
            return function(x).detach()

    def slope(x: Tensor) -> Tensor:
        return derivative(function, x)[1]

    y, steepness = value(grid), slope(grid)
    own, of_slope = kinks_of(value, -FAR, FAR), kinks_of(slope, -FAR, FAR)
    jumps = _places([at for at, _, jump in own if jump])
    steps = [at for at, _, jump in of_slope if jump and _steps(slope, at, NOTED * steepness.abs().max().item())]
    corners = _places([at for at, _, jump in own if not jump] + steps, jumps)
    bends = _places([at for at, _, jump in of_slope if not jump], (*jumps, *corners))
    left, right = _tail(value, slope, -1.0), _tail(value, slope, 1.0)
    z, weight = _normal(sorted({*jumps, *corners, *bends}))
    outputs = value(z)
    mean, square = (outputs * weight).sum().item(), (outputs.square() * weight).sum().item()
    scale = gain(activation, **parameters) if square > 0.0 and math.isfinite(square) else None
    steepest, _ = _climbed(lambda x: slope(x).abs(), grid, steepness.abs())
    steepest = max([steepest, *(abs(tail.slope) for tail in (left, right) if tail.kind == "line")])
    unbounded = any(tail.kind == "overflow" or tail.power > 1.0 for tail in (left, right))
    below, above = _saturation(slope, grid, steepness, SATURATED * steepest)
    shares = _shares(slope, (lambda d: d == 0.0, lambda d: d.abs() <= SATURATED * steepest))
    return Properties(
        low=_extremum(value, grid, y, (left, right), jumps, -1.0),
        high=_extremum(value, grid, y, (left, right), jumps, 1.0),
        monotone=_monotone(grid, y, steepness),
        mean=_rounded(mean),
        std=math.sqrt(((outputs - mean).square() * weight).sum().item()),
        gain=scale,
        gradient_factor=None if scale is None else scale * math.sqrt((slope(z).square() * weight).sum().item()),
        dead=shares[0],
        saturated=shares[1],
        saturated_below=below,
        saturated_above=above,
        lipschitz=math.inf if jumps or unbounded else _rounded(steepest),
        jumps=jumps,
        kinks=corners,
        bends=bends,
        left=left,
        right=right,
    )


def derivative(function: Function, x: Tensor, order: int = 1) -> list[Tensor]:
    """The values at x, and the derivatives up to the second, as autograd has them; 0 where nothing depends on x.

    Where autograd has no second derivative, as of PyTorch's hardsigmoid, it is that of differences.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        found = [function(x)]
        for i in range(order):
            try:
                found.append(_slope(found[-1], x, i + 1 < order))
            except RuntimeError:
                if i == 0:
                    raise
                found.append(_difference(function, x))
    return [t.detach() for t in found]


def _slope(y: Tensor, x: Tensor, again: bool) -> Tensor:
    slope = None
    if y.requires_grad:
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=again, allow_unused=True)
    return torch.zeros_like(x) if slope is None else slope


def _difference(function: Function, x: Tensor, step: float = 1e-5) -> Tensor:
    """The slope's difference to the side on which it changes less: beside a jump of the slope, that without it."""
    before, there, after = (derivative(function, x + d)[1] for d in (-step, 0.0, step))
    left, right = (there - before) / step, (after - there) / step
    return torch.where(left.abs() < right.abs(), left, right)


# ----- normal inputs


def _normal(breaks: list[float]) -> tuple[Tensor, Tensor]:
    """Points and weights of a standard normal variable's mean, on panels that end where a function bends."""
    nodes, weights = gauss_legendre(16)
    ends = torch.linspace(-REACH, REACH, 193, dtype=torch.float64)
    inside = torch.tensor([b for b in breaks if -REACH < b < REACH], dtype=torch.float64)
    ends = torch.cat([ends, inside]).unique()
    half = (ends.diff() / 2.0)[:, None]
    z = (ends[:-1, None] + half * (1.0 + nodes)).flatten()
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    return z, (half * weights).flatten() * density


def _shares(slope: Function, conditions: Sequence[Callable[[Tensor], Tensor]]) -> list[float]:
    """The probabilities that a standard normal variable's slope meets conditions, to about 2e-5."""
    ends = torch.linspace(-REACH, REACH, 6 * ATONCE + 1, dtype=torch.float64)
    middles = (ends[:-1] + ends[1:]) / 2.0
    found = torch.cat([slope(part) for part in middles.split(ATONCE - 1)])
    weights = (0.5 * torch.erfc(-ends / math.sqrt(2.0))).diff()
    return [_rounded(weights[condition(found)].sum().item()) for condition in conditions]


def _saturation(slope: Function, grid: Tensor, slopes: Tensor, bound: float) -> tuple[float | None, float | None]:
    """From where on outwards the slope stays below its bound, on either side; None where it does not."""
    steep = (slopes.abs() > bound).nonzero().flatten()
    if not len(steep):
        return None, None
    first, last = int(steep[0]), int(steep[-1])

    def between(outside: float, inside: float) -> float:
        for _ in range(50):
            middle = (outside + inside) / 2.0
            if abs(slope(torch.tensor([middle], dtype=torch.float64)).item()) > bound:
                inside = middle
            else:
                outside = middle
        return _rounded(inside)

    below = between(grid[first - 1].item(), grid[first].item()) if first else None
    above = between(grid[last + 1].item(), grid[last].item()) if last < len(grid) - 1 else None
    return below, above


def _steps(slope: Function, at: float, least: float) -> bool:
    """Whether the slope changes by that much beside a place."""
    near = slope(at + torch.linspace(-2e-6, 2e-6, 65, dtype=torch.float64))
    return bool(near.max() - near.min() > least)


def _places(found: list[float], others: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Places in order, without those that are near others."""
    kept: list[float] = []
    for at in sorted(round(at, 6) + 0.0 for at in found):
        if all(abs(at - other) > APART for other in (*others, *kept)):
            kept.append(at)
    return tuple(kept)


# ----- values


def _climbed(function: Function, grid: Tensor, found: Tensor) -> tuple[float, float]:
    """The largest value, and where it is first: beside the largest on the grid, on finer and finer grids."""
    best, at = found.max().item(), grid[int(found.argmax())].item()
    half = (grid[1] - grid[0]).item()
    for _ in range(6):
        x = torch.linspace(at - half, at + half, 65, dtype=torch.float64).clamp(grid[0].item(), grid[-1].item())
        y = function(x)
        if y.max().item() > best:
            best, at = y.max().item(), x[int(y.argmax())].item()
        half /= 16.0
    return best, at


def _extremum(
    value: Function, grid: Tensor, y: Tensor, tails: tuple[Tail, Tail], jumps: tuple[float, ...], sign: float
) -> Extremum:
    """The least upper bound for sign 1, the greatest lower one for sign -1."""
    inside, at = _climbed(lambda x: sign * value(x), grid, sign * y)
    limits = [(max(sign * v for v in _limits(t, value, e)), e) for t, e in zip(tails, (-1.0, 1.0), strict=True)]
    best, side = max(limits)
    margin = GRADUAL * max(1.0, abs(inside))
    if best > inside + margin:
        return Extremum(_rounded(sign * best), side * math.inf, False)
    if best >= inside - margin and not _left_at_once((inside - sign * y).abs()):
        return Extremum(_rounded(sign * best), side * math.inf, False)
    # Beside a jump the value may only be approached.
    attained = not any(abs(at - jump) < 1e-6 for jump in jumps)
    return Extremum(_rounded(sign * inside), _rounded(at), attained)


def _left_at_once(away: Tensor) -> bool:
    """Whether values beside those at an extremum are clearly off: it is not a limit that rounding reached."""
    there = away <= 1e-15
    if bool(there.all()):
        return True
    beside = torch.zeros_like(there)
    beside[1:] |= there[:-1]
    beside[:-1] |= there[1:]
    edges = away[beside & ~there]
    return bool(len(edges)) and edges.min().item() > GRADUAL


def _limits(tail: Tail, value: Function, side: float) -> list[float]:
    """What a tail tends to; where it has no limit, how far it goes."""
    if tail.kind == "constant":
        return [tail.offset]
    if tail.kind == "line":
        return [math.copysign(math.inf, tail.slope * side)]
    if tail.kind == "power":
        return [math.copysign(math.inf, tail.slope)]
    scales = [value(side * scale * (1.0 + torch.arange(64, dtype=torch.float64) / 64.0)) for scale in FAR_SCALES]
    found = []
    for sign in (1.0, -1.0):
        ends = [(sign * y).max().item() for y in scales]
        grown = all(b > a + 0.05 * abs(a) for a, b in itertools.pairwise(ends)) or math.inf in ends
        # What has grown so far goes on.
        found.append(sign * (math.inf if grown else max(ends)))
    return [v for v in found if not math.isnan(v)] or [0.0]


def _monotone(grid: Tensor, y: Tensor, slopes: Tensor) -> str:
    steps = y.diff()
    noise = 4.0 * torch.finfo(torch.float64).eps * torch.maximum(y[1:].abs(), y[:-1].abs()).clamp(min=1.0)
    up, down = bool((steps > noise).any()), bool((steps < -noise).any())
    if up and down:
        return "not monotone"
    if not up and not down:
        return "constant"
    # Far out float64 rounds a slope to 0.
    near = slopes[grid.abs() <= 8.0] == 0.0
    flat = bool((near[1:] & near[:-1]).any())
    if up:
        return "never decreasing" if flat else "increasing"
    return "never increasing" if flat else "decreasing"


# ----- tails


def _tail(value: Function, slope: Function, side: float) -> Tail:
    """The function from FARTHER on outwards; a line's offset is that at FARTHER, where float64 still has it."""
    x = side * torch.tensor([FARTHER, 1.25 * FARTHER, 2.0 * FARTHER, FARTHEST, 2.0 * FARTHEST], dtype=torch.float64)
    y, m = value(x), slope(x)
    if not bool(y.isfinite().all()):
        return Tail("other" if bool(y.isnan().any()) else "overflow")
    near, between, far, farther, farthest = y.tolist()
    if abs(farthest - farther) <= 1e-6 * max(1.0, abs(farthest)) and abs(far - farthest) <= 1e-2:
        return Tail("constant", offset=_rounded(farthest))
    line = m[3].item()
    offsets = [v - line * at for v, at in zip((near, between, far), x.tolist(), strict=False)]
    if line != 0.0 and max(offsets) - min(offsets) <= 1e-5 * max(1.0, abs(offsets[0])):
        # Without what falls as 1 / x.
        return Tail("line", slope=_rounded(line), offset=_rounded(2.0 * offsets[2] - offsets[0]))
    if near * far > 0.0 and farther * farthest > 0.0:
        power, later = math.log2(far / near), math.log2(farthest / farther)
        if abs(power - later) < 1e-3 and later > 0.05 and abs(m[3].item() * x[3].item() / farther - later) < 1e-2:
            return Tail("power", slope=math.copysign(1.0, farthest), power=_rounded(round(later, 4)))
    return Tail("other")


# ----- numbers


def _rounded(value: float) -> float:
    """Without the rounding errors of what is nearly 0 or another number of few digits."""
    near = round(value, 6)
    return near + 0.0 if abs(value - near) < 1e-9 else value


def _short(value: float) -> str:
    return f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
