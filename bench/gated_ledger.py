"""Counts what the kernels of gated activations execute, without a device: `python -m bench.gated_ledger`.

Of two tensors, and of one whose gates are found in two ways. All instructions count, divided by the elements of the
result that a thread makes, but those of the last block's path, which others do not take.
`--write` keeps the figures in bench/results/gated_ledger.csv, `--check` exits with 1 if one is worse than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import aot, disassembly, kept, ledger, rows_ledger
from fusedact import registry
from fusedact.hosts.gating_operators import halves
from fusedact.kernels import launch_gated

FIGURES = Path("bench/results/gated_ledger.csv")
DTYPES, TARGETS = rows_ledger.DTYPES, rows_ledger.TARGETS
# The activation, what learns, and where x and the gate lie.
KERNELS: dict[str, tuple[Any, ...]] = {
    **{f"{name}, two tensors": (name, False, "") for name in ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")},
    "swish, two tensors, learned": ("swish", True, ""),
    "silu, gate_value": ("silu", False, "gate_value"),
    "silu, interleaved": ("silu", False, "interleaved"),
    # As gpt-oss and DeepSeek-V4 have it.
    "swish, interleaved, limit and offset": ("swish", False, "interleaved", (7.0, 1.0)),
    "silu, gate_value, limit": ("silu", False, "gate_value", (10.0, 0.0)),
    "silu, two tensors, limit": ("silu", False, "", (10.0, 0.0)),
}
ROWS, COLUMNS = 4096, 4096
Case = tuple[str, str, str, str]


def compiled(
    name: str,
    learned: bool,
    layout: str,
    direction: str,
    dtype: torch.dtype,
    target: str,
    limits: tuple[float | None, float] = (None, 0.0),
) -> tuple[Any, tuple[int, ...]]:
    """The kernel that the launcher uses, and its grid."""
    spec = registry.get(name)
    if spec.build is not None:
        spec.build(torch.device("cpu"))
    params = tuple(torch.ones(1) if learned else p.default for p in spec.parameters)
    out = torch.empty(ROWS, COLUMNS, dtype=dtype)

    def pair() -> tuple[Tensor, Tensor]:
        if layout:
            return halves(torch.empty(ROWS, 2 * COLUMNS, dtype=dtype), 1, layout)
        return torch.empty_like(out), torch.empty_like(out)

    def run() -> None:
        if direction == "forward":
            launch_gated.forward(spec.device, *pair(), out, params, None, limits)
        else:
            launch_gated.backward(spec.device, out, *pair(), *pair(), params, (learned,) * len(params), None, limits)

    return aot.launched(target, run)


def elements_of(kernel: Any, target: str, grid: tuple[int, ...]) -> int:
    """The elements of the result that a thread makes."""
    return ROWS * COLUMNS // grid[0] // (kernel.metadata.num_warps * aot.TARGETS[target].warp_size)


def way_of(kernel: Any, direction: str, dtype: str, target: str, grid: tuple[int, ...]) -> disassembly.Way:
    """What a thread executes for a whole block."""
    elements = elements_of(kernel, target, grid)
    stored = elements * DTYPES[dtype].itemsize * (1 if direction == "forward" else 2)
    return disassembly.whole_block(ledger._read(kernel)[0], stored, elements)


def _case_compiled(kernel: str, direction: str, dtype: str, target: str) -> tuple[Any, tuple[int, ...]]:
    name, learned, layout, *limits = KERNELS[kernel]
    return compiled(name, learned, layout, direction, DTYPES[dtype], target, *limits)


def counted(case: Case, compiled: tuple[Any, tuple[int, ...]]) -> kept.Row:
    """The figures of a compiled kernel."""
    (kernel, direction, dtype, target), (made, grid) = case, compiled
    code, registers, spills = ledger._read(made)
    issued: float = len(code)
    if "strided" not in made.name:
        way = way_of(made, direction, dtype, target, grid)
        issued = len(way.prologue) + sum(times for _, times in way.rest)
    each = round(issued / elements_of(made, target, grid), 2)
    return kept.Row(kernel, COLUMNS, direction, dtype, target, each, registers, spills)


def cases() -> Iterator[Case]:
    """All that is counted."""
    for kernel in KERNELS:
        for direction in ledger.DIRECTIONS:
            for dtype in DTYPES:
                for target in TARGETS:
                    yield kernel, direction, dtype, target


LEDGER = kept.Ledger("bench.gated_ledger", __doc__, FIGURES, kept.Row, cases, _case_compiled, counted)

if __name__ == "__main__":
    LEDGER.main()
