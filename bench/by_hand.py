"""Device functions that are written by hand, beside what the engine writes of the same definition: why each is kept.

A pair is kept if it takes fewer instructions in bf16, forward or backward, or is right where the other one is not; and
the engine is held to a ratio. Both by the figures of ledger.py; docs/performance.md has the table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.markdown import table

__all__ = ["BEYOND", "DTYPES", "GENERATED", "KEPT_FOR", "RATIO", "TARGET", "counted", "names", "problems", "summary"]

# Instructions by kernel, direction, dtype and target.
Counts = Mapping[tuple[str, str, str, str], float]

# What the ledger calls the engine's.
GENERATED = "{} (generated)"
TARGET, DIRECTIONS, DTYPES = "sm_90", ("forward", "backward"), ("bf16", "fp32")

# What those have that take no fewer instructions, and the engine's have not: tests/kernels/test_by_hand.py shows it.
KEPT_FOR = {
    "silu": "limits at the infinities, where the definition, PyTorch's operator, has NaN",
    "tanhshrink": "digits near 0, where x - tanh(x) cancels",
}

# How many times the instructions of one by hand the engine may write for its definition,
RATIO = 1.3
# but of these, which rest on what no rule of the engine knows.
BEYOND = {
    "gelu": "in fp32 one function of the tail, for a product with x; the engine's is as exact alone",
    "gelu_tanh": "both from one sigmoid, whose argument is bounded once",
    "silu": "in fp32 the slope on either side of 0 by what does not cancel there",
    "mish": "the slope is one quotient of polynomials in exp(x)",
    "softplus": "1 / beta is among the polynomial's coefficients; in fp32 as silu",
    "logsigmoid": "in fp32 as silu",
    "clipped_gelu": "as gelu",
    "snake": "the square of a sine has half its period",
    "squareplus": "quotients of numbers far from 0, by reciprocal roots",
    "sqrtsoftplus": "the tail's root from half the exponent",
    "serf": "polynomials in exp(x) for all of it",
}


def counted(path: Path) -> Counts:
    """The instructions that a file of ledger.py keeps; none where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["kernel"], r["direction"], r["dtype"], r["target"]): float(r["instructions"]) for r in rows}


def names(counts: Counts) -> list[str]:
    """The activations that are written by hand."""
    kernels = dict.fromkeys(kernel for kernel, *_ in counts)
    return [name for name in kernels if GENERATED.format(name) in kernels]


def _pairs(counts: Counts, name: str) -> Iterator[tuple[str, str, float, float]]:
    """Direction, dtype, and the instructions by hand and by the engine."""
    for dtype in DTYPES:
        for direction in DIRECTIONS:
            keys = [(kernel, direction, dtype, TARGET) for kernel in (name, GENERATED.format(name))]
            if all(key in counts for key in keys):
                yield direction, dtype, counts[keys[0]], counts[keys[1]]


def problems(counts: Counts) -> Iterator[str]:
    """Pairs that do not pay, what the engine writes too long, and reasons that no longer hold."""
    for name in names(counts):
        pairs = list(_pairs(counts, name))
        beyond = [(direction, dtype, g) for direction, dtype, h, g in pairs if g > RATIO * h]
        fewer = any(h < g for _, dtype, h, g in pairs if dtype == "bf16")
        if beyond and name not in BEYOND:
            for direction, dtype, g in beyond:
                where = f"{GENERATED.format(name)} {direction} {dtype} {TARGET}"
                yield f"{where}: {g:g} instructions, more than {RATIO:g} times those written by hand"
        if not fewer and name not in KEPT_FOR:
            yield f"{name}: written by hand in no fewer instructions than the engine's"
        # Reasons that no longer hold.
        if name in BEYOND and not beyond:
            yield f"{name}: within {RATIO:g} times those written by hand, though by_hand.py says why it is not"
        if name in KEPT_FOR and fewer:
            yield f"{name}: takes fewer instructions than the engine's, though by_hand.py says what else it is kept for"


def summary(counts: Counts) -> str:
    """A line for each pair: instructions by hand / by the engine, and what makes the difference."""
    header = ["activation", "what is done by hand", *(f"{dtype} {d}" for dtype in DTYPES for d in DIRECTIONS)]
    lines = []
    for name in names(counts):
        cells = [f"{h:.1f} / {g:.1f}" for _, _, h, g in _pairs(counts, name)]
        why = "; ".join(reasons[name] for reasons in (KEPT_FOR, BEYOND) if name in reasons)
        lines.append([f"`{name}`", why, *cells])
    return table(header, lines, text_columns=2)
