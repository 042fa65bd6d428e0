"""Where the breakpoints of a function's chords should be: at its kinks, and dense where it bends."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Kink", "adaptive", "chord_errors", "kinks_of"]

# Samples of the range, and inside each chord.
SAMPLES, INSIDE = 4096, 32
# A kink is looked for in so many windows, each a tenth of the one before, at so many points.
ZOOMS, ZOOM, WINDOW = 5, 10.0, 33
# A kink keeps the slope's change, which a bend divides by 10 each time; a jump multiplies the slope by as much.
KEPT, JUMPS = 0.5, 1e3
# What is smaller, relative to the largest slope, is rounding.
NOISE = 1e-7
# A jump is climbed by a chord of this part of the range; two kinks are at least as far apart.
CLIMB = 2.0**-12
# Two breakpoints are at least as far apart, relative to the larger end: more than float32 rounds by.
LEAST = 2.0**-21
ROUNDS, EXCHANGES = 30, 16

# Below so many breakpoints for a kink, fewer kinks may be better.
SCARCE = 4

Exact = Callable[[Tensor], Tensor]
# The place, the slope's change, and whether the function itself jumps.
Kink = tuple[float, float, bool]


def adaptive(function: Exact, low: float, high: float, count: int) -> Tensor:
    """`count` breakpoints from `low` to `high`, of which kinks are some; between kinks all chords are as far off.

    That equal distance makes the largest one least (de Boor, 1973). Where a function jumps, two breakpoints are close.
    """
    kinks = sorted(kinks_of(function, low, high), key=lambda kink: -kink[1])
    # Where breakpoints are few, the smaller kinks are not worth one.
    fewer = range(len(kinks) + 1) if count <= SCARCE * len(kinks) else [len(kinks)]
    return min((_with_kinks(function, low, high, count, kinks[:n]) for n in fewer), key=lambda found: found[0])[1]


def _with_kinks(function: Exact, low: float, high: float, count: int, kinks: list[Kink]) -> tuple[float, Tensor]:
    """The largest error of chords that end at these kinks, as far as there is room for them; and their ends."""
    edges, climbs = _edges(low, high, count, kinks)
    pieces = [_Piece(function, a, b, c) for a, b, c in zip(edges[:-1], edges[1:], climbs, strict=True)]
    chords = _shared(pieces, count - 1)
    for _ in range(EXCHANGES):
        # One chord goes from the piece that would lose least to that which is worst.
        worst = max(range(len(pieces)), key=lambda i: pieces[i].error(chords[i]))
        givers = [i for i in range(len(pieces)) if i != worst and chords[i] > 1]
        if pieces[worst].climb or not givers:
            break
        giver = min(givers, key=lambda i: pieces[i].error(chords[i] - 1))
        if pieces[giver].error(chords[giver] - 1) >= pieces[worst].error(chords[worst]):
            break
        chords[giver] -= 1
        chords[worst] += 1
    parts = [piece.points(n)[:-1] for piece, n in zip(pieces, chords, strict=True)]
    largest = max(piece.error(n) for piece, n in zip(pieces, chords, strict=True))
    return largest, torch.cat([*parts, torch.tensor([high], dtype=torch.float64)])


def chord_errors(function: Exact, breakpoints: Tensor, values: Tensor, inside: int = INSIDE) -> Tensor:
    """The distances of the chords from the function, (chords, inside + 1) of them at evenly spaced points."""
    part = torch.linspace(0.0, 1.0, inside + 1, dtype=torch.float64)
    x = torch.lerp(breakpoints[:-1, None], breakpoints[1:, None], part)
    chords = torch.lerp(values[:-1, None], values[1:, None], part)
    return function(x.reshape(-1)).reshape(x.shape) - chords


class _Piece:
    """The function between two kinks."""

    def __init__(self, function: Exact, low: float, high: float, climb: bool) -> None:
        self.function, self.low, self.high, self.climb = function, low, high, climb
        self._found: dict[int, tuple[float, Tensor]] = {}
        x = torch.linspace(low, high, SAMPLES + 1, dtype=torch.float64)
        y = function(x)
        bends = y.diff(n=2)
        self._rounding = 16 * torch.finfo(torch.float64).eps * y.abs().max().item()
        bends[bends.abs() <= self._rounding] = 0.0
        density = bends.abs().sqrt()
        density = torch.cat([density[:1], (density[1:] + density[:-1]) / 2, density[-1:]])
        self._grid, self._density = x, density
        # Proportional to the chords that it needs for an error.
        self.bend = 0.0 if climb else density.sum().item()

    def error(self, chords: int) -> float:
        """The largest distance of so many chords."""
        return self._best(chords)[0]

    def points(self, chords: int) -> Tensor:
        """The ends of so many chords."""
        return self._best(chords)[1]

    def _best(self, chords: int) -> tuple[float, Tensor]:
        if chords not in self._found:
            self._found[chords] = self._search(chords)
        return self._found[chords]

    def _search(self, chords: int) -> tuple[float, Tensor]:
        """Breakpoints move to where the roots of the chords' errors are equal; the best ones seen are kept."""
        even = torch.linspace(self.low, self.high, chords + 1, dtype=torch.float64)
        best = (self._errors(even).max().item(), even)
        if chords == 1 or best[0] <= self._rounding:
            return best
        least = LEAST * max(abs(self.low), abs(self.high))
        points = _equidistributed(self._grid, self._density, chords)
        for _ in range(ROUNDS):
            errors = self._errors(points)
            largest = errors.max().item()
            if largest < best[0] and bool(points.diff().min() > least):
                best = (largest, points)
            points = _equidistributed(points, errors.sqrt(), chords)
        return best

    def _errors(self, points: Tensor) -> Tensor:
        return chord_errors(self.function, points, self.function(points)).abs().amax(1)


def _equidistributed(edges: Tensor, weights: Tensor, chords: int) -> Tensor:
    """Points between which the weights of the cells sum to the same."""
    widths = edges.diff()
    # A little everywhere, so that no two points meet.
    floor = 1e-3 * weights.mean() if bool(weights.any()) else torch.ones((), dtype=torch.float64)
    sums = torch.cat([widths.new_zeros(1), (weights + floor * widths / widths.mean()).cumsum(0)])
    wanted = torch.linspace(0.0, 1.0, chords + 1, dtype=torch.float64) * sums[-1]
    cell = (torch.searchsorted(sums, wanted, right=True) - 1).clamp(0, len(widths) - 1)
    points = edges[cell] + widths[cell] * (wanted - sums[cell]) / (sums[cell + 1] - sums[cell])
    points[0], points[-1] = edges[0], edges[-1]
    return points


def _shared(pieces: list[_Piece], chords: int) -> list[int]:
    """How many chords each piece gets: at least one, and the rest where the bends ask for them."""
    shares = [1] * len(pieces)
    lengths = not any(piece.bend for piece in pieces)
    needs = [0.0 if p.climb else (p.high - p.low if lengths else p.bend) for p in pieces]
    for _ in range(chords - len(pieces)):
        shares[max(range(len(pieces)), key=lambda i: needs[i] / shares[i])] += 1
    return shares


# ----- kinks


def _edges(low: float, high: float, count: int, kinks: list[Kink]) -> tuple[list[float], list[bool]]:
    """The ends of the range and the kinks between them, and of each piece whether it climbs a jump."""
    climb = CLIMB * (high - low)
    room = count - 2
    taken: list[Kink] = []
    for where, change, jump in kinks:
        near = any(abs(where - other) < 2 * climb for other in (low, high, *(t[0] for t in taken)))
        if not near and room > jump:
            room -= 1 + jump
            taken.append((where, change, jump))
    edges, climbs = [low], []
    for where, _, jump in sorted(taken):
        edges += [where - climb / 2, where + climb / 2] if jump else [where]
        climbs += [False, True] if jump else [False]
    return [*edges, high], [*climbs, False]


def kinks_of(function: Exact, low: float, high: float) -> list[Kink]:
    """Where the slope changes at once, and where the function jumps."""
    x = torch.linspace(low, high, SAMPLES + 1, dtype=torch.float64)
    y = function(x)
    step = (high - low) / SAMPLES
    slopes = y.diff() / step
    changes = slopes.diff().abs()
    padded = torch.nn.functional.pad(changes, (3, 3))
    beside = torch.maximum(padded[:-6], padded[6:])
    near = padded.unfold(0, 5, 1).amax(1)[1:-1]
    found = (changes >= near) & (changes > 4.0 * beside) & (changes > NOISE * slopes.abs().max())
    # As many as may become breakpoints, the greatest first.
    order = changes.masked_fill(~found, 0.0).argsort(descending=True)[: min(int(found.sum()), 1024)]
    kinks = []
    for i in order.tolist():
        kink = _kink(function, x[i + 1].item(), step)
        if kink is not None:
            kinks.append(kink)
    return kinks


def _kink(function: Exact, middle: float, step: float) -> Kink | None:
    """The kink near `middle`, if there is one."""
    half = 2.0 * step * ZOOM
    # The slope's change, and the greatest slope, in each window.
    changes, peaks = [], []
    for _ in range(ZOOMS):
        half /= ZOOM
        x = torch.linspace(middle - half, middle + half, WINDOW, dtype=torch.float64)
        slopes = function(x).diff() / x.diff()
        at = int(slopes.diff().abs().argmax())
        # Between the cells beside those two that a kink may lie in.
        changes.append((slopes[min(at + 2, WINDOW - 2)] - slopes[max(at - 1, 0)]).abs().item())
        peaks.append(slopes.abs().max().item())
        middle = x[at + 1].item()
    if peaks[-1] > JUMPS * peaks[0]:
        steepest = int(slopes.abs().argmax())
        return (x[steepest] + x[steepest + 1]).item() / 2.0, peaks[-1], True
    if not changes[-1] > KEPT * changes[0]:
        return None
    # Where the lines on both sides meet.
    ends = torch.stack([x[0] - half, x[0], x[-1], x[-1] + half])
    a, b, c, d = function(ends).tolist()
    left, right = (b - a) / half, (d - c) / half
    where = x[0].item() + (c - b - right * 2.0 * half) / (left - right) if left != right else middle
    # Numbers of few digits are met exactly.
    grid = 2.0 ** (math.frexp(step)[1] - 25)
    where = round(min(max(where, x[0].item()), x[-1].item()) / grid) * grid
    return where, changes[-1], False
