"""The files of a run: `elementwise.csv` grows case by case, `environment.json` says what the rows have in common."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.cases import Case

TABLE, ENVIRONMENT = "elementwise.csv", "environment.json"


@dataclass(frozen=True)
class Row:
    """A line of elementwise.csv. Times are microseconds a call: the median and the quartiles.

    On a CPU `device_us` and `host_us` are the same wall time.
    """

    activation: str
    dtype: str
    size: int
    direction: str
    # One of those in subjects.py.
    form: str
    provider: str
    device_us: float
    device_q25_us: float
    device_q75_us: float
    host_us: float
    host_q25_us: float
    host_q75_us: float
    # What device_us is: see timing.Samples.
    clock: str
    # Eager's median over this one.
    ratio: float
    host_ratio: float
    # What the case must move, and at which rate it did.
    bytes_moved: int
    gb_per_s: float
    # The time of a copy of as many bytes over this one.
    copy_share: float
    # Kernels, copies and fills that a GPU executed for a call, where they were counted; else empty.
    kernels: int | str
    # Memory allocated beyond the inputs at the peak of a call; and what it keeps, only for forward+backward. Both empty
    # for a copy.
    peak_bytes_per_element: float | str
    kept_bytes_per_element: float | str
    # The largest error of a value against float64, in units in the last place; empty for a copy.
    error: float | str
    # Only for fusedact, and not for all forms; else empty.
    path: str
    rounds: int
    calls_per_round: int

    @property
    def case(self) -> Case:
        """What it is a row of."""
        return Case(self.activation, self.dtype, self.size, self.direction)


Record = dict[str, str]

# Rows are written after so many seconds at the latest: every time, the whole files.
SAVE_SECONDS = 2.0


def read(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """The environment and the rows in a folder, as text.

    Raises:
        FileNotFoundError: unless both files are there.
    """
    facts = json.loads((folder / ENVIRONMENT).read_text())
    with (folder / TABLE).open(newline="") as file:
        return facts, list(csv.DictReader(file))


def _replace(path: Path, text: str) -> None:
    """Write a file so that whoever interrupts leaves the old or the new one, whole."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    os.replace(draft, path)


class Store:
    """Rows in a folder, which another run continues."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], fresh: bool = False):
        """Open a folder.

        Args:
            folder: made if it is not there.
            identity: what must be the same for rows to stand in one table.
            fresh: forget the rows that are there.

        Raises:
            ValueError: if it holds rows of another identity.
        """
        self._folder = folder
        self._records: list[Record] = []
        self._done: set[Case] = set()
        self._saved = 0.0
        self.facts: dict[str, Any] = dict(identity)
        folder.mkdir(parents=True, exist_ok=True)
        if fresh or not ((folder / TABLE).exists() or (folder / ENVIRONMENT).exists()):
            self.save()
            return
        try:
            facts, records = read(folder)
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds half a run ({error}); --fresh starts it again") from None
        _check_same(folder, facts, identity)
        self.facts, self._records = facts, records
        self._done = {Case(r["activation"], r["dtype"], int(r["size"]), r["direction"]) for r in records}

    def __contains__(self, case: Case) -> bool:
        return case in self._done

    def __len__(self) -> int:
        return len(self._done)

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of a finished case; they are written now and then, and by `save`."""
        self._records += [{key: str(value) for key, value in asdict(row).items()} for row in rows]
        self._done |= {row.case for row in rows}
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write both files."""
        _replace(self._folder / ENVIRONMENT, json.dumps(self.facts, indent=2) + "\n")
        _replace(self._folder / TABLE, _text(self._records))
        self._saved = time.monotonic()


def _text(records: Iterable[Record]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _check_same(folder: Path, facts: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    different = [key for key in identity if facts.get(key) != identity[key]]
    if different:
        changes = "; ".join(f"{key} was {facts.get(key)!r} and is {identity[key]!r}" for key in different)
        raise ValueError(f"{folder} holds figures of another environment: {changes}; --fresh replaces them")
