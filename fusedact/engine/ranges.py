"""Between which numbers the values of expressions lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .expressions import Node, numeric, order

__all__ = ["Range", "Ranges"]

INF = math.inf
# From here on a positive number is normal in float32, and so is what is a little less, or its square root's inverse.
NORMAL = 2.0**-100


@dataclass(frozen=True)
class Range:
    """The least and the largest value, as real numbers; what is NaN is in every range."""

    low: float = -INF
    high: float = INF

    @property
    def normal(self) -> bool:
        """Whether every value is positive, and a normal number in float32 unless it is too large for one."""
        return self.low >= NORMAL


ANY = Range()
# Of operations whose values are bounded, whatever they are given.
_ALWAYS = {
    **{"sigmoid": Range(0.0, 1.0), "complement": Range(0.0, 1.0), "sech2": Range(0.0, 1.0), "erfc": Range(0.0, 2.0)},
    **{"sigmoid_slope": Range(0.0, 0.25), "cosh": Range(1.0, INF), "sqrt": Range(0.0, INF), "rsqrt": Range(0.0, INF)},
    **{"hypot": Range(0.0, INF), "softplus": Range(0.0, INF), "exp": Range(0.0, INF), "exp2": Range(0.0, INF)},
    **{"exp_nonpositive": Range(0.0, 1.0), "expm1_nonpositive": Range(-1.0, 0.0), "expm1": Range(-1.0, INF)},
    **{op: Range(-1.0, 1.0) for op in ("tanh", "erf", "sin", "cos", "sign")},
}
# Of these, and of others, those that rise with their argument.
_RISING = frozenset(
    {
        *("exp", "exp2", "expm1", "exp_nonpositive", "expm1_nonpositive", "softplus", "sigmoid", "tanh", "erf", "sqrt"),
        *("atan", "asinh", "sinh", "log1p", "log"),
    }
)


def _product(a: float, b: float) -> float:
    """That of two bounds, of which an infinite one is never reached."""
    return 0.0 if a == 0.0 or b == 0.0 else a * b


def _among(values: Sequence[float]) -> Range:
    return Range(min(values), max(values))


def _multiplied(a: Range, b: Range) -> Range:
    return _among([_product(u, v) for u in (a.low, a.high) for v in (b.low, b.high)])


def _inverted(a: Range) -> Range:
    """That of 1 / a, for a positive a."""
    return Range(1.0 / a.high if a.high < INF else 0.0, 1.0 / a.low)


def _magnitude(a: Range) -> Range:
    low = 0.0 if a.low <= 0.0 <= a.high else min(abs(a.low), abs(a.high))
    return Range(low, max(abs(a.low), abs(a.high)))


_OF: dict[str, Callable[..., Range]] = {
    "neg": lambda a: Range(-a.high, -a.low),
    "abs": _magnitude,
    "add": lambda a, b: Range(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Range(a.low - b.high, a.high - b.low),
    "mul": _multiplied,
    "div": lambda a, b: _multiplied(a, _inverted(b)) if b.low > 0.0 else ANY,
    "reciprocal": lambda a: _inverted(a) if a.low > 0.0 else ANY,
    "max": lambda a, b: Range(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: Range(min(a.low, b.low), min(a.high, b.high)),
}


def _at(op: str, value: float) -> float:
    """An operation at a bound."""
    function = numeric(op)
    if function is None:
        return math.nan
    return float(function(torch.tensor(value, dtype=torch.float64, device="cpu")))


def _rising(op: str, a: Range) -> Range:
    low, high = _at(op, a.low), _at(op, a.high)
    # Outside of where it has values: what is always true of it.
    least, most = _ALWAYS.get(op, ANY).low, _ALWAYS.get(op, ANY).high
    return Range(least if math.isnan(low) else low, most if math.isnan(high) else high)


class Ranges:
    """The ranges of a graph's nodes, each found once."""

    def __init__(self) -> None:
        self._found: dict[Node, Range] = {}

    def __call__(self, root: Node) -> Range:
        for node in order([root], enter=lambda n: n not in self._found):
            if node not in self._found:
                self._found[node] = self._range(node)
        return self._found[root]

    def _range(self, node: Node) -> Range:
        op, args = node.op, node.args
        if op == "constant":
            return ANY if math.isnan(node.value) else Range(node.value, node.value)
        if op == "where":
            a, b = (self._found[n] for n in args[1:])
            return Range(min(a.low, b.low), max(a.high, b.high))
        if op == "mul" and args[0] is args[1]:
            a = _magnitude(self._found[args[0]])
            return Range(_product(a.low, a.low), _product(a.high, a.high))
        if op in _RISING:
            return _rising(op, self._found[args[0]])
        if op in _OF:
            return _OF[op](*(self._found[a] for a in args))
        return _ALWAYS.get(op, ANY)
