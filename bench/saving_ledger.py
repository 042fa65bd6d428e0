"""Counts what the kernels execute that keep the output or bits, without a device: `python -m bench.saving_ledger`.

As bench.ledger, whose kernels keep the input: backward from the output, with the parameters learned too where they may
be tensors; where a bit is kept, forward, which packs it, and backward; and where bits alone are, of two slopes or of a
table's segments. `--write` keeps the figures in bench/results/saving_ledger.csv, `--check` exits with 1 if one is worse
than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import aot, kept, ledger, model
from fusedact import execution, registry
from fusedact.dispatch import Path as Way
from fusedact.kernels import device_functions, launch, launch_saving
from fusedact.piecewise import table_rows, tables
from fusedact.registry import ActivationSpec
from fusedact.saving import saving
from fusedact.saving.saved_forms import SAVED

FIGURES = Path("bench/results/saving_ledger.csv")
DTYPES, TARGETS = ("bf16", "fp32"), ("sm_90", "gfx942")
SHAPE = (8, 1024)
# Kernels that keep bits alone: a dead slope, two slopes, and tables of so many segments.
TWO_SLOPES = {f"{name} (bits alone)": name for name in ("relu", "leaky_relu")}
SEGMENTS = {f"pwl_uniform ({count} segments)": count for count in (4, 16, 256)}
Case = tuple[str, str, str, str]


@dataclass(frozen=True)
class Row:
    """A line of the file; per element, as in bench.ledger."""

    kernel: str
    direction: str
    dtype: str
    target: str
    instructions: float
    special: float
    registers: int
    spills: int
    # Only on sm_90: what bounds it on an H200.
    bound: str

    @property
    def key(self) -> Case:
        return self.kernel, self.direction, self.dtype, self.target


def cases() -> Iterator[Case]:
    """All that is counted: kernel, direction, dtype, target."""
    for name, form in SAVED.items():
        kernels = [(name, d) for d in (ledger.DIRECTIONS if form.bits else ("backward",))]
        if registry.get(name).learnable and not form.tensors:
            kernels.append((f"{name} (learned)", "backward"))
        yield from ((*kernel, dtype, target) for kernel in kernels for dtype in DTYPES for target in TARGETS)
    alone = [(name, d) for name in (*TWO_SLOPES, *SEGMENTS) for d in ledger.DIRECTIONS]
    yield from ((*kernel, dtype, target) for kernel in alone for dtype in DTYPES for target in TARGETS)


def compiled(kernel: str, direction: str, dtype: str, target: str) -> tuple[Any, ...]:
    """The kernel as the launcher compiles it."""
    if kernel in TWO_SLOPES or kernel in SEGMENTS:
        return _with_bits_alone(kernel, direction, dtype, target)
    spec = registry.get(kernel.removesuffix(" (learned)"))
    if spec.build is not None:
        spec.build(torch.device("cpu"))
    params: tuple[Any, ...] = tuple(p.default for p in spec.parameters)
    if kernel.endswith("(learned)"):
        params = ledger._learned(spec, 1)
    x, out = torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype]), torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype])

    def run() -> None:
        if SAVED[spec.name].bits:
            _with_bits(spec, direction, x, out, params)
        else:
            function = device_functions.saved_function("from_output", spec.name, spec.device)
            needed = tuple(isinstance(p, torch.Tensor) for p in params)
            launch.backward(function, torch.zeros_like(x), x, out, params, needed)

    return aot.launched(target, run)


def _with_bits(
    spec: ActivationSpec, direction: str, x: torch.Tensor, out: torch.Tensor, params: tuple[float, ...]
) -> None:
    bits = torch.zeros(x.numel() // 8, dtype=torch.uint8)
    if direction == "forward":
        side = device_functions.saved_function("side", spec.name, spec.device)
        launch_saving.forward(spec.device, side, "side", x, out, bits, params)
    else:
        function = device_functions.saved_function("from_bits", spec.name, spec.device)
        launch_saving.backward(function, torch.zeros_like(x), x, bits, out, params, (False,) * len(params))


def _with_bits_alone(kernel: str, direction: str, dtype: str, target: str) -> tuple[Any, ...]:
    """What `execution` launches, whose plan is made as for a call."""
    x = torch.zeros(SHAPE, dtype=ledger.DTYPES[dtype])
    out = torch.zeros_like(x)
    params: tuple[float, ...] = ()
    if kernel in SEGMENTS:
        breakpoints = torch.linspace(-4, 4, SEGMENTS[kernel] - 1)
        how = table_rows.Plan("uniform", steep=False)
        rows = table_rows.prepare(breakpoints, breakpoints.sin(), 0.0, 0.5, how, torch.float32)
        spec = tables.Table(rows, len(breakpoints), how, 1).spec
    else:
        spec = registry.get(TWO_SLOPES[kernel])
        params = tuple(p.default for p in spec.parameters)
    plan = saving.plan(spec, x, params, True, "bits")
    bits = torch.zeros(x.numel() * plan.width // 8, dtype=torch.uint8)
    call = execution.Call(spec, Way("triton", "what is counted"))
    if direction == "forward":
        return aot.launched(target, lambda: execution.forward_packing(call, plan, x, params, out, bits))
    return aot.launched(target, lambda: execution.backward_from_bits_alone(call, plan, out, bits))


def counted(case: Case, compiled: tuple[Any, ...]) -> Row:
    """The figures of a compiled kernel."""
    r = ledger.counted(compiled[0], case)
    bound = r.bound
    if bound and (r.kernel in TWO_SLOPES or r.kernel in SEGMENTS):
        # Each way a tensor is read and one written; the bits, an eighth at most, are left out.
        moved = 2 * ledger.DTYPES[r.dtype].itemsize
        bound = ledger.predicted(model.Work(moved, r.issued, r.special + r.conversions))["bound"]
    return Row(*case, r.instructions, r.special, r.registers, r.spills, bound)


LEDGER = kept.Ledger("bench.saving_ledger", __doc__, FIGURES, Row, cases, compiled, counted, kept.as_spilled)

if __name__ == "__main__":
    LEDGER.main()
