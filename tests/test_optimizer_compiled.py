"""The machine code of optimizers' steps: 16-byte accesses, no spills, no atomics; kept instructions within limits."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace

import pytest

from fusedact import compat

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import benches
import torch
import triton

optimizer_ledger, ledger, rows_ledger, aot = map(benches.load, ("optimizer_ledger", "ledger", "rows_ledger", "aot"))
KEPT = rows_ledger.load(benches.ROOT / optimizer_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]

# In fp32 on sm_90, in instructions per element.
LIMITS = {"sgd": 4, "sgd with momentum": 9, "classic momentum": 8, "adam": 46, "adamw": 46, "adam, norms": 50}
# The memory is the bound up to what an H200 issues while it moves so many.
BYTES = {"sgd": 12, "sgd with momentum": 20, "classic momentum": 20, "adam": 28, "adamw": 28, "adam, norms": 28}


@pytest.mark.parametrize(
    ("kernel", "dtype", "target", "moved"),
    [
        *(("adam", "fp32", target, 14) for target in ("sm_90", "sm_100", "gfx942")),
        *(("adam", "bf16", "sm_90", 11), ("sgd", "fp16", "sm_80", 3), ("adam, norms", "fp32", "sm_80", 14)),
    ],
)
def test_accesses_take_16_bytes(kernel, dtype, target, moved):
    made, _ = optimizer_ledger.compiled(kernel, DTYPES[dtype], target)
    if target == "gfx942":
        counts = aot.amdgcn(made)
        wide = sum(n for i, n in counts.items() if re.match(r"(buffer|global)_(load|store)_dwordx4", i))
        assert wide >= moved and not [i for i in counts if "atomic" in i]
        assert not any(aot.amd_metadata(made).values())
        return
    instructions = aot.sass(made)
    assert len([i for i in instructions if i.startswith(("LDG", "STG")) and ".128" in i]) >= moved
    assert not [i for i in instructions if i.startswith(("ATOM", "RED."))]
    used = aot.resources(made)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


def test_what_is_not_aligned_is_read_element_by_element():
    made, _ = optimizer_ledger.compiled("sgd", torch.float32, "sm_90", aligned=False, scaled=True)
    assert not [i for i in aot.sass(made) if i.startswith(("LDG", "STG")) and ".128" in i]


def test_every_kernel_is_kept():
    assert [(r.kernel, r.dtype, r.target) for r in KEPT] == list(optimizer_ledger.cases())


@pytest.mark.parametrize("row", [r for r in KEPT if (r.target, r.dtype) == ("sm_90", "fp32")], ids=lambda r: r.kernel)
def test_what_is_kept_is_within_limits(row):
    assert row.spills == 0
    each = ledger.ISSUE * ledger.ISSUE_SHARE / ledger.BANDWIDTH
    assert row.instructions <= LIMITS[row.kernel] < each * BYTES[row.kernel]


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.parametrize(
    "key", [("sgd", "bf16", "sm_90"), ("adam", "fp32", "sm_90"), ("adam", "fp32", "gfx942")], ids=str
)
def test_no_figure_is_worse(key):
    assert list(rows_ledger.problems([optimizer_ledger.row(*key)], KEPT)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [({"instructions": 999.0}, "instructions rose"), ({"registers": 255}, "registers rose"), ({"spills": 8}, "spills")],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    problems = list(rows_ledger.problems([replace(KEPT[0], **change)], KEPT))
    assert len(problems) == 1 and what in problems[0]
