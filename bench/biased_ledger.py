"""Counts what the kernels of biased activations execute, without a device: `python -m bench.biased_ledger`.

Forward all instructions count, divided by the elements that a thread makes: of one bias for each column of a tensor
they are straight code. Backward, which goes through blocks in a loop and sums the gradients of the bias, those once
round the loop. `--write` keeps the figures in bench/results/biased_ledger.csv, `--check` exits with 1 if one is worse
than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import aot, disassembly, kept, ledger, rows_ledger
from fusedact import registry
from fusedact.hosts import biased_pieces
from fusedact.kernels import grids, launch_biased

FIGURES = Path("bench/results/biased_ledger.csv")
DTYPES, TARGETS = rows_ledger.DTYPES, rows_ledger.TARGETS
# The activation; whether there are dropout and a residual; the dimension of the bias.
KERNELS = {
    **{name: (name, False, False, 1) for name in ("relu", "gelu", "silu", "relu_sigmoid")},
    "silu, second dimension": ("silu", False, False, 0),
    "silu, residual": ("silu", False, True, 1),
    **{f"{name}, dropout": (name, True, False, 1) for name in ("relu", "silu")},
    "silu, dropout, residual": ("silu", True, True, 1),
    "silu, dropout, second dimension": ("silu", True, False, 0),
    "silu, dropout, no bias": ("silu", True, False, None),
}
ROWS, COLUMNS = 4096, 4096
Case = tuple[str, str, str, str]


def compiled(
    name: str,
    dropout: bool,
    residual: bool,
    dim: int | None,
    direction: str,
    dtype: torch.dtype,
    target: str,
    columns: int = COLUMNS,
) -> tuple[Any, tuple[int, ...]]:
    """The kernel that the launcher uses, and its grid."""
    spec = registry.get(name)
    if spec.build is not None:
        spec.build(torch.device("cpu"))
    params = tuple(p.default for p in spec.parameters)
    x = torch.empty(ROWS, columns, dtype=dtype)
    bias = None if dim is None else torch.zeros(x.shape[dim], dtype=dtype)
    dropped = (0.1, biased_pieces.scale_of(0.1), torch.zeros(1, dtype=torch.int64)) if dropout else None
    out = torch.empty_like(x)

    def run() -> None:
        if direction == "forward":
            launch_biased.forward(
                *(spec.device, x, bias, torch.empty_like(x) if residual else None, out, params, dim, dropped)
            )
        else:
            needed = (*[False] * len(params), bias is not None)
            launch_biased.backward(spec.device, torch.empty_like(x), x, bias, out, params, needed, dim, dropped)

    return aot.launched(target, run)


def _case_compiled(kernel: str, direction: str, dtype: str, target: str) -> tuple[Any, tuple[int, ...]]:
    return compiled(*KERNELS[kernel], direction, DTYPES[dtype], target)


def counted(case: Case, compiled: tuple[Any, tuple[int, ...]]) -> kept.Row:
    """The figures of a compiled kernel."""
    (kernel, direction, dtype, target), (made, grid) = case, compiled
    code, registers, spills = ledger._read(made)
    size = DTYPES[dtype].itemsize
    if "channel" in made.name:
        way = disassembly.once_round(code, grids.BYTES_PER_THREAD)
        issued = sum(times for _, times in way.rest)
        elements = sum(int(i.stores * times) for i, times in way.rest) // size
    else:
        elements = ROWS * COLUMNS // grid[0] // (made.metadata.num_warps * aot.TARGETS[target].warp_size)
        issued = float(len(code))
        if "strided" not in made.name:
            way = disassembly.whole_block(code, elements * size, elements)
            issued = len(way.prologue) + sum(times for _, times in way.rest)
    return kept.Row(kernel, COLUMNS, direction, dtype, target, round(issued / elements, 2), registers, spills)


def cases() -> Iterator[Case]:
    """All that is counted: backward nothing is known of a residual."""
    for kernel, (_, _, residual, _) in KERNELS.items():
        for direction in ledger.DIRECTIONS[: 1 if residual else 2]:
            for dtype in DTYPES:
                for target in TARGETS:
                    yield kernel, direction, dtype, target


LEDGER = kept.Ledger("bench.biased_ledger", __doc__, FIGURES, kept.Row, cases, _case_compiled, counted)

if __name__ == "__main__":
    LEDGER.main()
