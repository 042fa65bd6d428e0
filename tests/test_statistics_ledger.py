"""The kept instructions of kernels that gather statistics are current, complete, and compared."""

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

statistics_ledger, ledger = benches.load("statistics_ledger"), benches.load("ledger")
KEPT = statistics_ledger.load(benches.ROOT / statistics_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]


def test_every_kernel_is_kept():
    assert [r.key for r in KEPT] == list(statistics_ledger.cases())


def test_what_is_kept_spills_nothing_to_memory():
    """On AMD masks go to other registers, which count as spilled there."""
    assert not any(r.spills for r in KEPT if r.target == "sm_90")


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize("target", statistics_ledger.TARGETS)
def test_no_figure_is_worse(target):
    row = statistics_ledger.row("relu_sigmoid", "bf16", target)
    assert list(statistics_ledger.problems([row], KEPT)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [({"instructions": 999.0}, "instructions rose"), ({"registers": 255}, "registers rose")],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    (problem,) = statistics_ledger.problems([replace(KEPT[0], **change)], KEPT)
    assert what in problem
    assert list(statistics_ledger.problems([replace(KEPT[0], kernel="other")], KEPT))
