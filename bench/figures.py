"""What the rows of a run say: cases, losses, sizes and times in words. Tables and plots are made from these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import store
from bench.cases import DIRECTIONS, DTYPES
from bench.store import Record

# Below this ratio a case counts as lost; nearer to 1 it is within the spread.
LOST = 0.95

# What is no rival of fusedact: itself, and a copy, which computes nothing.
NO_RIVALS = ("fusedact", "copy")

# What a run may say of a case beside its times; runs of older versions lack some of it.
BESIDE = ("form", "kernels", "bytes_moved", "peak_bytes_per_element", "error")


@dataclass(frozen=True)
class Result:
    """What one run left in its folder."""

    folder: Path
    environment: dict[str, Any]
    records: list[Record]

    @property
    def digest(self) -> str:
        """Of the rows."""
        return hashlib.sha256((self.folder / store.TABLE).read_bytes()).hexdigest()[:16]

    @property
    def on_gpu(self) -> bool:
        """Whether device and host have times of their own."""
        return self.environment["device_type"] != "cpu"

    @property
    def clocks(self) -> tuple[str, ...]:
        """The times by which something is lost; see Comparison.time."""
        return ("device", "call") if self.on_gpu else ("device",)

    @property
    def lacking(self) -> list[str]:
        """The columns that its file has not got; those that are empty in every row are not among them."""
        return [name for name in BESIDE if self.records and name not in self.records[0]]


def load(results: Path) -> list[Result]:
    """All runs under a folder, by name."""
    folders = sorted(table.parent for table in results.glob(f"*/{store.TABLE}"))
    return [Result(folder, *store.read(folder)) for folder in folders]


@dataclass(frozen=True)
class Comparison:
    """The records of one case, by provider."""

    activation: str
    dtype: str
    size: int
    direction: str
    by: dict[str, Record]

    def rivals(self) -> Iterator[str]:
        """Every other way to compute it."""
        return (name for name in self.by if name not in NO_RIVALS)

    @property
    def families(self) -> set[str]:
        """The first words of the providers' names: all ways of torch.compile are one."""
        return {name.split()[0] for name in self.by}

    @property
    def form(self) -> str:
        """What is called: an elementwise activation, a gated one ...; empty if the run did not say."""
        return self.by["fusedact"].get("form", "")

    @property
    def path(self) -> str:
        """The way that fusedact took."""
        return self.by["fusedact"]["path"]

    def value(self, provider: str, column: str) -> float | None:
        """What a column says of a provider; None if it is not there, or empty."""
        text = self.by[provider].get(column, "") if provider in self.by else ""
        return float(text) if text else None

    @property
    def bytes(self) -> float:
        """What the case must move; what a copy moved, where the run does not say it."""
        said = self.value("fusedact", "bytes_moved")
        return float(self.by["copy"]["gb_per_s"]) * self.time("copy") * 1e3 if said is None else said

    def bandwidth(self, provider: str) -> float:
        """Of these bytes, in GB/s."""
        return self.bytes / self.time(provider) / 1e3

    def time(self, provider: str, clock: str = "device") -> float:
        """Microseconds: "device", "host", or "call", the longer of both, which is what a call costs in a loop."""
        record = self.by[provider]
        if clock == "call":
            return max(float(record["device_us"]), float(record["host_us"]))
        return float(record[f"{clock}_us"])

    def ratio(self, rival: str = "eager", clock: str = "device") -> float:
        """The rival's time over fusedact's."""
        return self.time(rival, clock) / self.time("fusedact", clock)

    def over_compile(self) -> float | None:
        """The best of torch.compile's times over fusedact's, if it was timed."""
        ratios = [self.ratio(name) for name in self.rivals() if name.startswith("compile")]
        return min(ratios, default=None)


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """The cases of a run: by activation, dtype, size and direction."""
    cases: dict[tuple[str, str, int, str], dict[str, Record]] = {}
    for r in records:
        cases.setdefault((r["activation"], r["dtype"], int(r["size"]), r["direction"]), {})[r["provider"]] = r
    activations, dtypes = list(dict.fromkeys(key[0] for key in cases)), list(DTYPES)
    found = [Comparison(*key, by) for key, by in cases.items()]
    return sorted(
        found,
        key=lambda c: (activations.index(c.activation), dtypes.index(c.dtype), c.size, DIRECTIONS.index(c.direction)),
    )


# ----- losses


@dataclass(frozen=True)
class Loss:
    """A case in which a rival is faster, by one of the clocks."""

    case: Comparison
    rival: str
    clock: str

    @property
    def family(self) -> str:
        """The rival; all ways of torch.compile are one."""
        return self.rival.split()[0]

    @property
    def ratio(self) -> float:
        """The rival's time over fusedact's."""
        return self.case.ratio(self.rival, self.clock)


def losses(cases: Iterable[Comparison], clocks: Sequence[str]) -> list[Loss]:
    """Every case of every size in which another way is faster, by each of these times."""
    every = (Loss(case, rival, clock) for case in cases for rival in case.rivals() for clock in clocks)
    return [loss for loss in every if loss.ratio < LOST]


@dataclass(frozen=True)
class Group:
    """The losses of an activation, dtype and direction to one family of rivals, and the sizes that were timed."""

    losses: list[Loss]
    timed: list[int]

    @property
    def worst(self) -> Loss:
        """The one with the lowest ratio."""
        return min(self.losses, key=lambda loss: loss.ratio)

    @property
    def sizes(self) -> str:
        """The sizes at which something was lost."""
        return runs(sorted({loss.case.size for loss in self.losses}), self.timed)


def grouped(found: Iterable[Loss], cases: Sequence[Comparison]) -> list[Group]:
    """Losses that differ in size or rival only, together."""
    groups: dict[tuple[str, ...], list[Loss]] = {}
    for loss in found:
        c = loss.case
        groups.setdefault((c.activation, c.dtype, c.direction, loss.clock, loss.family), []).append(loss)

    def timed(key: tuple[str, ...]) -> list[int]:
        return sorted(
            {c.size for c in cases if (c.activation, c.dtype, c.direction) == key[:3] and key[4] in c.families}
        )

    return [Group(group, timed(key)) for key, group in groups.items()]


# ----- words


def duration(microseconds: float) -> str:
    """Three digits and a unit."""
    value, unit = microseconds, "us"
    if value >= 1000:
        value, unit = value / 1000, "ms"
    digits = max(0, 3 - len(str(int(value)))) if value >= 1 else 2
    return f"{value:.{digits}f} {unit}"


def elements(count: int) -> str:
    """A power of two as such."""
    return f"2^{count.bit_length() - 1}" if count & (count - 1) == 0 else str(count)


def runs(some: Sequence[int], timed: Sequence[int]) -> str:
    """Sizes in words; neighbours among the timed ones as a range."""
    parts: list[list[int]] = []
    for size in some:
        if parts and timed.index(size) == timed.index(parts[-1][-1]) + 1:
            parts[-1].append(size)
        else:
            parts.append([size])
    return ", ".join(elements(p[0]) if len(p) == 1 else f"{elements(p[0])} to {elements(p[-1])}" for p in parts)
