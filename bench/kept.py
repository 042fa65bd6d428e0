"""What the ledgers of single kinds of kernels share: kept figures, what is worse than these, a command line."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench import aot, ledger


@dataclass(frozen=True)
class Row:
    """A line of most of the files."""

    kernel: str
    # The length of rows, or of the whole.
    n: int
    direction: str
    dtype: str
    target: str
    # Per element that a thread has; of a loop's body, once.
    instructions: float
    registers: int
    spills: int

    @property
    def key(self) -> tuple[Any, ...]:
        return self.kernel, self.n, self.direction, self.dtype, self.target


def where(row: Any) -> str:
    """What a line counts, in words; its `key` tells."""
    return " ".join(map(str, row.key))


def risen(row: Any, before: Any, names: Sequence[str] = ("instructions", "registers")) -> Iterator[str]:
    """Which figures of a line are worse than those kept, if any are: `before` may be None."""
    if before is None:
        yield f"{where(row)}: not in the kept figures"
        return
    for name in names:
        new, was = getattr(row, name), getattr(before, name)
        if new > was * (1 + ledger.TOLERANCE):
            yield f"{where(row)}: {name} rose from {was:g} to {new:g}"


def unspilled(row: Any, before: Any) -> Iterator[str]:
    """Which figures have risen, and what is in local memory, where nothing may be."""
    if row.spills:
        yield f"{where(row)}: spills ({row.spills})"
    yield from risen(row, before)


def as_spilled(row: Any, before: Any) -> Iterator[str]:
    """Which figures have risen, where some may be in local memory."""
    return risen(row, before, ("instructions", "special", "registers", "spills"))


@dataclass(frozen=True)
class Ledger:
    """A file of counted figures, and how they are counted.

    `cases` are what is counted. `compiled(*case)` is a tuple of a kernel and what else `counted(case, compiled)` needs,
    which makes a line. `worse(line, kept line or None)` says in words what is wrong.
    """

    module: str
    doc: str | None
    path: Path
    row: type[Any]
    cases: Callable[[], Iterable[Any]]
    compiled: Callable[..., tuple[Any, ...]]
    counted: Callable[[Any, Any], Any]
    worse: Callable[[Any, Any], Iterator[str]] = unspilled

    def rows(self, cases: Iterable[Any] | None = None) -> Iterator[Any]:
        """Compile all, or these cases, as the launcher does, and count."""
        return aot.counted(self.cases() if cases is None else cases, self.compiled, self.counted)

    def load(self, root: Path = Path()) -> list[Any]:
        """Read the kept figures."""
        kinds = {"str": str, "int": int, "float": float}
        with (root / self.path).open(newline="") as file:
            return [
                self.row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(self.row)})
                for line in csv.DictReader(file)
            ]

    def _write(self, rows: Sequence[Any]) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(self.row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(asdict, rows))

    def problems(self, rows: Iterable[Any], kept: Iterable[Any]) -> Iterator[str]:
        """What is worse than what is kept, or than it may be."""
        before = {r.key: r for r in kept}
        for r in rows:
            yield from self.worse(r, before.get(r.key))

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the command line."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=self.doc)
        parser.add_argument("--write", action="store_true", help="keep the figures")
        parser.add_argument("--check", action="store_true", help="exit with 1 if something is worse than what is kept")
        options = parser.parse_args(arguments)
        rows = []
        for row in self.rows():
            rows.append(row)
            print(*(f"{value:<12}" for value in asdict(row).values()), flush=True)
        if options.check:
            worse = list(self.problems(rows, self.load()))
            if worse:
                sys.exit("\n".join([f"{self.module}: worse than the kept figures:", *worse]))
        elif options.write:
            self._write(rows)
