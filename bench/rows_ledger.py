"""Counts what the kernels of softmax and rrelu execute, without a device: `python -m bench.rows_ledger`.

They are straight code, or one loop after another, so that all instructions count: those of a kernel divided by the
elements of a thread, prologue and reductions included; and of rrelu the last block's path, which others do not take.
`--write` keeps the figures in bench/results/rows_ledger.csv, `--check` exits with 1 if one is worse than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Row:
    """A line of the file."""

    kernel: str
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


def row(kernel: str, n: int, direction: str, dtype: str, target: str) -> Row:
    """Compile a kernel as the launcher does, and count."""
    x = torch.zeros(ROWS, n, dtype=DTYPES[dtype])
    g, out = torch.zeros_like(x), torch.empty_like(x)
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        if kernel == "rrelu":
            launch_rrelu.run(x if direction == "forward" else g, x, out, torch.zeros(1, dtype=torch.int64), 0.1, 0.3)
        else:
            scores = launch_softmax.Scores(1, kernel == "log_softmax", False, 1.0, None)
            if direction == "forward":
                launch_softmax.forward(x, out, scores)
            else:
                launch_softmax.backward(g, x, None, out, scores)
        (compiled,) = aot._kernels_of(stub.device)
        (launched,) = stub.launches
    threads = launched.metadata.num_warps * aot.TARGETS[target].warp_size
    if "looping" in compiled.name:
        elements = launch_softmax.LOOPING_TILE / threads
    else:
        elements = ROWS * n / launched.grid[0] / threads
    code, registers, spills = ledger._read(compiled)
    return Row(kernel, n, direction, dtype, target, round(len(code) / elements, 2), registers, spills)


def cases() -> Iterator[tuple[str, int, str, str, str]]:
    """All that is counted."""
    for kernel, lengths in LENGTHS.items():
        for n in lengths:
            for direction in ledger.DIRECTIONS:
                for dtype in DTYPES:
                    for target in TARGETS:
                        yield kernel, n, direction, dtype, target


def load(path: Path = FIGURES) -> list[Row]:
    """Read the kept figures."""
    return kept.load(Row, path)


def problems(rows: Iterable[Row], before: Iterable[Row]) -> Iterator[str]:
    """What is worse than what is kept."""
    old = {r.key: r for r in before}
    for r in rows:
        if r.spills:
            yield f"{kept.where(r)}: spills ({r.spills})"
        yield from kept.risen(r, old.get(r.key))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    kept.run("bench.rows_ledger", __doc__, (row(*case) for case in cases()), FIGURES, problems, arguments)


if __name__ == "__main__":
    main()
