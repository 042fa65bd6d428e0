"""The kept instructions of the sums of learned tables are current, within limits, and compared."""

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

piecewise_ledger, ledger = benches.load("piecewise_ledger"), benches.load("ledger")
KEPT = piecewise_ledger.load(benches.ROOT / piecewise_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]


def test_every_case_is_kept_and_within_limits():
    assert [r.case for r in KEPT] == list(piecewise_ledger.cases())
    assert list(piecewise_ledger.problems(KEPT, KEPT)) == []


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize("layout", piecewise_ledger.SHAPES)
def test_no_figure_is_worse(layout):
    now = piecewise_ledger.row(piecewise_ledger.Case(8, layout=layout))
    assert list(piecewise_ledger.problems([now], KEPT)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"instructions": 99.0}, ["above the limit", "instructions rose"]),
        ({"registers": 255}, ["registers rose"]),
        ({"spills": 8}, ["spills (8)"]),
        ({"predicted_share": 0.5}, ["below 0.88"]),
        ({"wanted": "others"}, ["not in the kept figures"]),
    ],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    row = next(r for r in KEPT if r.case == piecewise_ledger.Case(8))
    found = list(piecewise_ledger.problems([replace(row, **change)], KEPT))
    assert len(found) == len(what) and all(w in f for w, f in zip(what, found, strict=True))
