"""Markdown that is made from figures: tables, and parts of files between markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    """A table; the columns after the first ones are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def updated(text: str, content: str, begin: str, end: str) -> str:
    """A text with this content between the markers.

    Raises:
        ValueError: unless there is one pair of markers, in order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"it must hold {begin} and after it {end}, once each")
    return f"{text[: text.index(begin)]}{begin}\n\n{content}\n\n{text[text.index(end) :]}"
