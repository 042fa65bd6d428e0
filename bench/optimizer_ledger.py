"""Counts what the kernels of optimizers execute, without a device: `python -m bench.optimizer_ledger`.

Instructions of a chunk that is full, divided by its elements; what is looked up in tables before is counted too.
`--write` keeps the figures in bench/results/optimizer_ledger.csv, `--check` exits with 1 if one is worse than what is
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import aot, disassembly, kept, ledger, rows_ledger
from fusedact.kernels import launch_optimizer
from fusedact.optim import ready_rules
from fusedact.optim.rules import Rule

FIGURES = Path("bench/results/optimizer_ledger.csv")
DTYPES, TARGETS = rows_ledger.DTYPES, ("sm_80", "sm_90", "sm_100", "gfx942")
ADAM: Mapping[str, bool] = {"decays": False, "decoupled": False}
# The rule, its options, and whether norms are taken.
KERNELS: dict[str, tuple[Rule, Mapping[str, bool], bool]] = {
    "sgd": (ready_rules.sgd, {"decays": False}, False),
    "sgd with momentum": (ready_rules.sgd_with_momentum, {"decays": True, "nesterov": False}, False),
    "classic momentum": (ready_rules.classic_momentum, {}, False),
    "adam": (ready_rules.adam, ADAM, False),
    "adamw": (ready_rules.adam, {"decays": True, "decoupled": True}, False),
    "adam, norms": (ready_rules.adam, ADAM, True),
}
ELEMENTS = 2**20
Case = tuple[str, str, str]


def compiled(
    kernel: str, dtype: torch.dtype, target: str, aligned: bool = True, scaled: bool = False
) -> tuple[Any, int]:
    """The kernel that the launcher uses for a parameter of this dtype, and the bytes that a thread's block stores."""
    rule, options, norms = KERNELS[kernel]
    program = rule.program(options)
    types = (dtype, dtype, *[torch.float32] * len(rule.states))
    found = torch.zeros(()) if scaled else None
    table = torch.zeros(len(types) + 1, 1, dtype=torch.int64)
    values = [0.5] * len(program.uniform)

    def run() -> None:
        chunks = launch_optimizer.chunk_table([ELEMENTS], torch.device("cpu"))
        launch_optimizer.step(
            *(
                program.device_function,
                program.key,
                table,
                chunks,
                ELEMENTS,
                types,
                aligned,
                values,
                found,
                found,
                norms,
            )
        )

    made, _ = aot.launched(target, run)
    return made, launch_optimizer.THREAD * sum(t.itemsize for t in (dtype, *types[2:]))


def _case_compiled(kernel: str, dtype: str, target: str) -> tuple[Any, int]:
    return compiled(kernel, DTYPES[dtype], target)


def counted(case: Case, compiled: tuple[Any, int]) -> kept.Row:
    """The figures of a compiled kernel."""
    (kernel, dtype, target), (made, stored) = case, compiled
    code, registers, spills = ledger._read(made)
    blocks = launch_optimizer.BLOCKS
    try:
        # The loop over a chunk's blocks is unrolled.
        way = disassembly.whole_block(code, blocks * stored, launch_optimizer.THREAD)
        issued = len(way.prologue) + sum(times for _, times in way.rest)
    except ValueError:
        way = disassembly.once_round(code, stored)
        body = [i for i, _ in way.rest]
        rounds = blocks * stored / sum(i.stores for i in body)
        issued = len(way.prologue) + rounds * len(body)
    each = round(issued / (blocks * launch_optimizer.THREAD), 2)
    return kept.Row(kernel, ELEMENTS, "step", dtype, target, each, registers, spills)


def cases() -> Iterator[Case]:
    """All that is counted."""
    for kernel in KERNELS:
        for dtype in DTYPES:
            for target in TARGETS:
                yield kernel, dtype, target


LEDGER = kept.Ledger("bench.optimizer_ledger", __doc__, FIGURES, kept.Row, cases, _case_compiled, counted)

if __name__ == "__main__":
    LEDGER.main()
