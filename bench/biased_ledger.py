"""Counts what the kernels of biased activations execute, without a device: `python -m bench.biased_ledger`.

Forward all instructions count, divided by the elements that a thread makes: of one bias for each column of a tensor
they are straight code. Backward, which goes through blocks in a loop and sums the gradients of the bias, those once
round the loop. `--write` keeps the figures in bench/results/biased_ledger.csv, `--check` exits with 1 if one is worse
than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import aot, disassembly, kept, ledger, rows_ledger
from bench.rows_ledger import Row
from fusedact import biased_pieces, registry
from fusedact.kernels import launch_biased

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
    x = torch.zeros(ROWS, columns, dtype=dtype)
    bias = None if dim is None else torch.zeros(x.shape[dim], dtype=dtype)
    dropped = (0.1, biased_pieces.scale_of(0.1), torch.zeros(1, dtype=torch.int64)) if dropout else None
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        out = torch.zeros_like(x)
        if direction == "forward":
            launch_biased.forward(
                *(spec.device, x, bias, torch.zeros_like(x) if residual else None, out, params, dim, dropped)
            )
        else:
            needed = (*[False] * len(params), bias is not None)
            launch_biased.backward(spec.device, torch.zeros_like(x), x, bias, out, params, needed, dim, dropped)
        (kernel,) = aot._kernels_of(stub.device)
        (launched,) = stub.launches
    return kernel, launched.grid


def row(kernel: str, direction: str, dtype: str, target: str) -> Row:
    """Compile a kernel as the launcher does, and count."""
    made, grid = compiled(*KERNELS[kernel], direction, DTYPES[dtype], target)
    code, registers, spills = ledger._read(made)
    size = DTYPES[dtype].itemsize
    if "channel" in made.name:
        way = disassembly.once_round(code, launch_biased.launch.BYTES_PER_THREAD)
        issued = sum(times for _, times in way.rest)
        elements = sum(int(i.stores * times) for i, times in way.rest) // size
    else:
        elements = ROWS * COLUMNS // grid[0] // (made.metadata.num_warps * aot.TARGETS[target].warp_size)
        issued = float(len(code))
        if "strided" not in made.name:
            way = disassembly.whole_block(code, elements * size, elements)
            issued = len(way.prologue) + sum(times for _, times in way.rest)
    return Row(kernel, COLUMNS, direction, dtype, target, round(issued / elements, 2), registers, spills)


def cases() -> Iterator[tuple[str, str, str, str]]:
    """All that is counted: backward nothing is known of a residual."""
    for kernel, (_, _, residual, _) in KERNELS.items():
        for direction in ledger.DIRECTIONS[: 1 if residual else 2]:
            for dtype in DTYPES:
                for target in TARGETS:
                    yield kernel, direction, dtype, target


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    kept.run("bench.biased_ledger", __doc__, (row(*case) for case in cases()), FIGURES, rows_ledger.problems, arguments)


if __name__ == "__main__":
    main()
