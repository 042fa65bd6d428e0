"""What the command line prints without any other library: tables, curves in text, and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["aligned", "as_json", "curve", "say"]

# The dots of a Braille character, by row and column; and ASCII for terminals without them.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800


def say(text: str = "") -> None:
    """Print, with what the terminal's encoding lacks replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))  # noqa: T201


def as_json(value: Any) -> str:
    """Indented; without NaN and infinities, which JSON does not have."""
    return json.dumps(value, indent=2, allow_nan=False)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines in which cells stand below each other; the columns `right` end at one place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def curve(x: Sequence[float], y: Sequence[float], width: int = 60, height: int = 14) -> list[str]:
    """The curve of a function at evenly spaced x, with its axes, as lines of text; what is not finite is left out."""
    finite = [v for v in y if math.isfinite(v)]
    low, high = (min(*finite, 0.0), max(*finite, 0.0)) if finite else (0.0, 0.0)
    if low == high:
        low, high = low - 1.0, high + 1.0
    rows, columns = 4 * height, 2 * width
    dots: set[tuple[int, int]] = set()

    def row(value: float) -> int:
        return round((high - value) / (high - low) * (rows - 1))

    last = None
    for i, value in enumerate(y):
        if not math.isfinite(value):
            last = None
            continue
        column, at = round(i / max(1, len(y) - 1) * (columns - 1)), row(value)
        # Steep curves are connected.
        first = at if last is None else last + (at > last) - (at < last)
        dots.update((r, column) for r in range(min(first, at), max(first, at) + 1))
        last = at
    zero_row, zero_column = row(0.0) // 4, None
    if x[0] < 0.0 < x[-1]:
        zero_column = round(-x[0] / (x[-1] - x[0]) * (columns - 1)) // 2
    braille = _prints("\u28ff\u2502\u2500")
    labels = {0: f"{high:.4g}", zero_row: "0", height - 1: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    lines = []
    for r in range(height):
        cells = "".join(_cell(dots, r, c, r == zero_row, c == zero_column, braille) for c in range(width))
        lines.append(f"{labels.get(r, ''):>{margin}} {cells}".rstrip())
    left, right = f"{x[0]:.4g}", f"{x[-1]:.4g}"
    return [*lines, f"{'':{margin}} {left}{right:>{width - len(left)}}"]


def _cell(dots: set[tuple[int, int]], r: int, c: int, across: bool, down: bool, braille: bool) -> str:
    """A character: the curve, else an axis."""
    bits = sum(DOTS[i][j] for i in range(4) for j in range(2) if (4 * r + i, 2 * c + j) in dots)
    if bits:
        return chr(BLANK + bits) if braille else "*"
    if across and down:
        return "\u253c" if braille else "+"
    return ("\u2500" if braille else "-") if across else ("\u2502" if braille else "|") if down else " "


def _prints(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
