"""Counts what forward kernels execute that gather statistics, without a device: `python -m bench.statistics_ledger`.

As bench.ledger, whose kernels gather none, with units along the last dimension. `--write` keeps the figures in
bench/results/statistics_ledger.csv, `--check` exits with 1 if one is worse than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import aot, kept, ledger
from fusedact import registry
from fusedact.kernels import launch

FIGURES = Path("bench/results/statistics_ledger.csv")
NAMES = ("relu_sigmoid", "silu", "gelu", "elu", "mish")
DTYPES, TARGETS = ("bf16", "fp32"), ("sm_90", "gfx942")
SHAPE = (8, 1024)
RISING = ("instructions", "special", "registers", "spills")


@dataclass(frozen=True)
class Row:
    """A line of the file; per element, as in bench.ledger."""

    kernel: str
    dtype: str
    target: str
    instructions: float
    special: float
    registers: int
    spills: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kernel, self.dtype, self.target


def cases() -> Iterator[tuple[str, str, str]]:
    """All that is counted: kernel, dtype, target."""
    yield from ((name, dtype, target) for name in NAMES for dtype in DTYPES for target in TARGETS)


def compiled(kernel: str, dtype: str, target: str) -> Any:
    """The kernel as the launcher compiles it."""
    spec = registry.get(kernel)
    if spec.build is not None:
        spec.build(torch.device("cpu"))
    x, out = torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype]), torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype])
    alive = torch.zeros(SHAPE[1] + 1, dtype=torch.uint8)
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch.forward(spec.device, x, out, tuple(p.default for p in spec.parameters), None, alive, 1)
        (kernel_made,) = aot._kernels_of(stub.device)
        return kernel_made


def row(kernel: str, dtype: str, target: str) -> Row:
    """Compile a kernel, and count."""
    r = ledger.counted(compiled(kernel, dtype, target), (kernel, "forward", dtype, target))
    return Row(kernel, dtype, target, r.instructions, r.special, r.registers, r.spills)


def load(path: Path = FIGURES) -> list[Row]:
    """Read the kept figures."""
    return kept.load(Row, path)


def problems(rows: Iterable[Row], before: Iterable[Row]) -> Iterator[str]:
    """What is worse than what is kept."""
    old = {r.key: r for r in before}
    for r in rows:
        yield from kept.risen(r, old.get(r.key), RISING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    kept.run("bench.statistics_ledger", __doc__, (row(*case) for case in cases()), FIGURES, problems, arguments)


if __name__ == "__main__":
    main()
