"""Counts what forward kernels execute that gather statistics, without a device: `python -m bench.statistics_ledger`.

As bench.ledger, whose kernels gather none, with units along the last dimension. `--write` keeps the figures in
bench/results/statistics_ledger.csv, `--check` exits with 1 if one is worse than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
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
Case = tuple[str, str, str]


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
    def key(self) -> Case:
        return self.kernel, self.dtype, self.target


def cases() -> Iterator[Case]:
    """All that is counted: kernel, dtype, target."""
    yield from ((name, dtype, target) for name in NAMES for dtype in DTYPES for target in TARGETS)


def compiled(kernel: str, dtype: str, target: str) -> tuple[Any, ...]:
    """The kernel as the launcher compiles it."""
    spec = registry.get(kernel)
    if spec.build is not None:
        spec.build(torch.device("cpu"))
    x, out = torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype]), torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype])
    alive = torch.zeros(SHAPE[1] + 1, dtype=torch.uint8)
    params = tuple(p.default for p in spec.parameters)
    return aot.launched(target, lambda: launch.forward(spec.device, x, out, params, None, alive, 1))


def counted(case: Case, compiled: tuple[Any, ...]) -> Row:
    """The figures of a compiled kernel."""
    kernel, dtype, target = case
    r = ledger.counted(compiled[0], (kernel, "forward", dtype, target))
    return Row(*case, r.instructions, r.special, r.registers, r.spills)


LEDGER = kept.Ledger("bench.statistics_ledger", __doc__, FIGURES, Row, cases, compiled, counted, kept.as_spilled)

if __name__ == "__main__":
    LEDGER.main()
