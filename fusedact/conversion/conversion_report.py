"""What `fusedact.convert` did: the report, and how it is taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

__all__ = ["Change", "ConversionReport", "Left"]


class Change(NamedTuple):
    """A place that was converted.

    Attributes:
        place: the module's name, with the function's or method's if it is a call.
        what: what stood there.
        becomes: what does now.
        note: what the caller should know of it.
    """

    place: str
    what: str
    becomes: str
    note: str = ""


class Left(NamedTuple):
    """A place that was left as it is.

    Attributes:
        place: the module's name, with the function's or method's if it is a call.
        what: what stands there.
        why: the reason.
    """

    place: str
    what: str
    why: str


@dataclass
class ConversionReport:
    """What `fusedact.convert` changed, what it left and why, and a way back. `str()` shows it as a table.

    Attributes:
        model: the converted model: the one that was given, or its copy.
        changes: the places converted, each with `place`, `what`, `becomes` and `note`.
        left: the places left as they are, each with `place`, `what` and `why`.
        warnings: what else the caller should know.
        difference: with `verify`, the largest difference of outputs, as a share of the largest output; None without.
    """

    model: nn.Module
    changes: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    difference: float | None = None
    already: int = 0
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def revert(self) -> None:
        """Put everything back: modules, functions, methods, and the optimizer's groups. A second call does nothing.

        What was trained since is kept where the old module has it, too; hooks added since stay.

        Raises:
            RuntimeError: if a module was converted again since, or parametrized: what came later goes first.
        """
        while self._undo:
            self._undo[-1]()
            self._undo.pop()

    def __repr__(self) -> str:
        return f"<{self._headline()}>"

    def __str__(self) -> str:
        lines = [self._headline()]
        rows = [(_named(c.place), c.what, c.becomes + (f"  ({c.note})" if c.note else "")) for c in self.changes]
        lines += _table(rows, "->")
        if self.left:
            lines += ["left as they are:", *_table([(_named(e.place), e.what, e.why) for e in self.left], ":")]
        if self.difference is not None:
            lines.append(f"verified: outputs differ by {self.difference:.1e} of the largest")
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    def _headline(self) -> str:
        text = f"fusedact.convert: {_counted(len(self.changes), 'place')} converted"
        if self.already:
            text += f", {self.already} converted already"
        return text + (f", {len(self.left)} left" if self.left else "")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _named(place: str) -> str:
    return place or "(the model)"


def _table(rows: list[tuple[str, str, str]], sign: str) -> list[str]:
    """Rows with aligned columns."""
    if not rows:
        return []
    first, second = (max(len(row[i]) for row in rows) for i in range(2))
    return [f"  {a:{first}}  {b:{second}} {sign} {c}" for a, b, c in rows]
