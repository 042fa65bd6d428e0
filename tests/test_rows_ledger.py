"""The kept instructions of softmax and rrelu are current, within limits, and compared."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from fusedact import compat

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import benches
import triton

pytestmark = pytest.mark.compiles

rows_ledger, ledger = benches.load("rows_ledger"), benches.load("ledger")
KEPT = rows_ledger.load(benches.ROOT / rows_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]

# What leaves the memory the bound on an H200, in instructions per element; a row that is read twice moves more.
BUDGET = {("forward", "bf16"): 24.9, ("backward", "bf16"): 37.3, ("forward", "fp32"): 49.8, ("backward", "fp32"): 74.7}


def test_every_kernel_is_kept():
    assert [r.key for r in KEPT] == list(rows_ledger.cases())


def test_what_is_kept_is_within_limits():
    for r in KEPT:
        assert r.spills == 0
        if r.target == "sm_90" and "softmax" in r.kernel and r.n < 65_536:
            assert r.instructions <= BUDGET[r.direction, r.dtype], r


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize(
    "key", [r.key for r in KEPT if r.target == "sm_90" and r.dtype == "bf16" and r.n == 1024], ids=str
)
def test_no_figure_is_worse(key):
    assert list(rows_ledger.problems([rows_ledger.row(*key)], KEPT)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"instructions": 99.0}, "instructions rose"),
        ({"registers": 255}, "registers rose"),
        ({"spills": 8}, "spills (8)"),
    ],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    (problem,) = rows_ledger.problems([replace(KEPT[0], **change)], KEPT)
    assert what in problem
    assert list(rows_ledger.problems([replace(KEPT[0], kernel="other")], KEPT))
