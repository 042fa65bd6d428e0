"""Counts what the kernels of softmax and rrelu execute, without a device: `python -m bench.rows_ledger`.

They are straight code, or one loop after another, so that all instructions count: those of a kernel divided by the
elements of a thread, prologue and reductions included; and of rrelu the last block's path, which others do not take.
`--write` keeps the figures in bench/results/rows_ledger.csv, `--check` exits with 1 if one is worse than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import aot, kept, ledger
from fusedact.kernels import launch_rrelu, launch_softmax

FIGURES = Path("bench/results/rows_ledger.csv")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TARGETS = ("sm_90", "gfx942")
ROWS = 4096
# Several rows to a program, whole rows, and one that is read twice.
LENGTHS = {"softmax": (64, 1024, 4096, 16_384, 65_536), "log_softmax": (1024,), "rrelu": (1024,)}


Case = tuple[str, int, str, str, str]


def compiled(kernel: str, n: int, direction: str, dtype: str, target: str) -> tuple[Any, tuple[int, ...]]:
    """The kernel that the launcher uses, and its grid."""
    x = torch.empty(ROWS, n, dtype=DTYPES[dtype])
    g, out = torch.empty_like(x), torch.empty_like(x)

    def run() -> None:
        scores = launch_softmax.Scores(1, kernel == "log_softmax", False, 1.0, None)
        if kernel == "rrelu":
            launch_rrelu.run(x if direction == "forward" else g, x, out, torch.zeros(1, dtype=torch.int64), 0.1, 0.3)
        elif direction == "forward":
            launch_softmax.forward(x, out, scores)
        else:
            launch_softmax.backward(g, x, None, out, scores)

    return aot.launched(target, run)


def counted(case: Case, compiled: tuple[Any, tuple[int, ...]]) -> kept.Row:
    """The figures of a compiled kernel."""
    (_, n, *_, target), (made, grid) = case, compiled
    threads = made.metadata.num_warps * aot.TARGETS[target].warp_size
    elements = (launch_softmax.LOOPING_TILE if "looping" in made.name else ROWS * n / grid[0]) / threads
    code, registers, spills = ledger._read(made)
    return kept.Row(*case, round(len(code) / elements, 2), registers, spills)


def cases() -> Iterator[Case]:
    """All that is counted."""
    for kernel, lengths in LENGTHS.items():
        for n in lengths:
            for direction in ledger.DIRECTIONS:
                for dtype in DTYPES:
                    for target in TARGETS:
                        yield kernel, n, direction, dtype, target


LEDGER = kept.Ledger("bench.rows_ledger", __doc__, FIGURES, kept.Row, cases, compiled, counted)

if __name__ == "__main__":
    LEDGER.main()
