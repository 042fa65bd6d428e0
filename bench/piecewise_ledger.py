"""Counts what the backward of learned piecewise-linear tables executes: `python -m bench.piecewise_ledger`.

Per element, of the loop over tiles that every program runs through; without a device. What is predicted for an H200
follows from that, as in bench/model.py. `--write` keeps the figures in bench/results/piecewise_ledger.csv, `--check`
exits with 1 if one is worse than what is kept, or above a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench import aot, disassembly, kept, ledger, model
from fusedact.kernels import launch, launch_piecewise
from fusedact.piecewise import table_rows

FIGURES = Path("bench/results/piecewise_ledger.csv")
COUNTS = (2, 4, 8, 16, 17, 32, 64, 256, 1024)
SHAPES = {"flat": ((4096, 1024), None), "last": ((4096, 1024), 1), "second": ((64, 64, 1024), 1)}
# Gradients of up to so many values are to leave the memory the bound, in instructions per element.
FEW, LIMIT = 8, 37
# Shares of a copy's bandwidth that evenly spaced tables are to reach, for up to so many breakpoints.
TARGETS = {8: 0.88, 16: 0.6, 32: 0.3}


@dataclass(frozen=True)
class Case:
    """A table, its layout, and what is wanted of it."""

    count: int
    spacing: str = "even"
    layout: str = "flat"
    wanted: str = "values"
    dtype: str = "bf16"


@dataclass(frozen=True)
class Row:
    """A line of the file."""

    count: int
    spacing: str
    layout: str
    wanted: str
    dtype: str
    method: str
    # Programs that read the same elements, each for other entries; instructions are those of all.
    parts: int
    instructions: float
    registers: int
    # Accesses to local memory in a round of the loop. What lies there outside of it costs nothing worth the name.
    spills: int
    # What a copy of as many bytes takes, as a part of what this does, if the issue of instructions is the other bound.
    predicted_share: float

    @property
    def case(self) -> Case:
        return Case(*self.key)

    @property
    def key(self) -> tuple[Any, ...]:
        return self.count, self.spacing, self.layout, self.wanted, self.dtype


def table(case: Case, channels: int) -> tuple[launch.Table, table_rows.Plan]:
    """Breakpoints on [-4, 4], and how they are found."""
    b = torch.linspace(-4, 4, case.count)
    if case.spacing == "uneven":
        b = b + 3.0 / case.count * torch.sin(2.5 * torch.arange(case.count))
    how = table_rows.plan(b, b.sin())
    rows = table_rows.prepare(b.expand(channels, -1), b.sin(), 0.0, 0.5, how, torch.float32)
    return launch.Table(rows, 1 << case.count.bit_length(), how.steep, how.even), how


def compiled(case: Case, target: str = ledger.PREDICTED_FOR) -> tuple[Any, int]:
    """The kernel that the launcher uses, and how many elements a thread takes in one round of its loop."""
    shape, channel_dim = SHAPES[case.layout]
    given, how = table(case, 1 if channel_dim is None else shape[channel_dim])
    x, g, dx = (torch.empty(shape, dtype=ledger.DTYPES[case.dtype]) for _ in range(3))
    wanted = (given, how.kind, case.count, case.wanted, False, channel_dim)
    kernel, _ = aot.launched(target, lambda: launch_piecewise.backward(g, x, dx, *wanted))
    return kernel, launch_piecewise.ELEMENTS


def counted(case: tuple[Case], compiled: tuple[Any, int]) -> Row:
    """The figures of a compiled kernel."""
    return _row(*case, *compiled)


def _row(case: Case, kernel: Any, elements: int) -> Row:
    code, registers, _ = ledger._read(kernel)
    size = ledger.DTYPES[case.dtype].itemsize
    way = disassembly.shortest_round(code, elements * size)
    spills = sum(i.name.startswith(("LDL", "STL")) for i in way)
    how = launch_piecewise.method(case.count, case.wanted)
    instructions = len(way) / elements * how.parts
    share = ledger.DEVICE.share(model.Work(3 * size, instructions))
    figures = (how.name, how.parts, round(instructions, 2), registers, spills, round(share, 2))
    return Row(*asdict(case).values(), *figures)


def cases() -> Iterator[Case]:
    """All that is counted."""
    for count in COUNTS:
        for spacing in ("even", "uneven"):
            for layout in SHAPES if count <= 64 else ("flat",):
                if count > 2 or spacing == "even":
                    yield Case(count, spacing, layout)
    for count in (8, 16, 64):
        yield Case(count, dtype="fp32")
        yield Case(count, spacing="uneven", wanted="lines")


def worse(r: Row, before: Row | None) -> Iterator[str]:
    """Figures that have risen, or are not what they must be."""
    if (r.spacing, r.layout, r.wanted, r.dtype) == ("even", "flat", "values", "bf16"):
        if r.count <= FEW and r.instructions > LIMIT:
            yield f"{kept.where(r)}: {r.instructions:g} instructions per element, above the limit {LIMIT}"
        least = next((share for most, share in TARGETS.items() if r.count <= most), 0.0)
        if r.predicted_share < least:
            yield f"{kept.where(r)}: {r.predicted_share:g} of a copy's bandwidth predicted, below {least:g}"
    yield from kept.unspilled(r, before)


LEDGER = kept.Ledger(
    *("bench.piecewise_ledger", __doc__, FIGURES, Row),
    lambda: ((case,) for case in cases()),
    *(compiled, counted, worse),
)

if __name__ == "__main__":
    LEDGER.main()
