"""What the ledgers of single kinds of kernels share: kept figures, what is worse than these, a command line."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench import ledger


def load(kind: type[Any], path: Path) -> list[Any]:
    """Read the kept figures, lines of this dataclass."""
    kinds = {"str": str, "int": int, "float": float}
    with path.open(newline="") as file:
        return [
            kind(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(kind)}) for line in csv.DictReader(file)
        ]


def _write(rows: Sequence[Any], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


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


def run(
    module: str,
    doc: str | None,
    made: Iterable[Any],
    path: Path,
    problems: Callable[[list[Any], list[Any]], Iterator[str]],
    arguments: Sequence[str] | None,
) -> None:
    """Run a command line: `made` compiles and counts line by line."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 if something is worse than what is kept")
    options = parser.parse_args(arguments)
    rows = []
    for row in made:
        rows.append(row)
        print(*(f"{value:<12}" for value in asdict(row).values()), flush=True)
    if options.check:
        worse = list(problems(rows, load(type(rows[0]), path)))
        if worse:
            sys.exit("\n".join([f"{module}: worse than the kept figures:", *worse]))
    elif options.write:
        _write(rows, path)
