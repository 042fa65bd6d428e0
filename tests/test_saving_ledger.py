"""The kept instructions of kernels that keep the output or bits are current, within limits, and compared."""

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

from fusedact.saved_forms import SAVED

pytestmark = pytest.mark.compiles

saving_ledger, ledger = benches.load("saving_ledger"), benches.load("ledger")
KEPT = saving_ledger.load(benches.ROOT / saving_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]

# What bf16 on sm_90 must keep to: what leaves the memory the bound, but for a logarithm that beta's gradient takes, and
# for bits that are packed beside a swish of two dozen instructions.
LIMITS = {"forward": 24, "backward": 37}
MORE = {("softplus (learned)", "backward"): 45, ("swish", "forward"): 26}
# The gradient of x from the output alone.
EXACT = 36


def test_every_kernel_is_kept():
    assert [r.key for r in KEPT] == list(saving_ledger.cases())


@pytest.mark.parametrize("row", [r for r in KEPT if r.target == "sm_90" and r.dtype == "bf16"], ids=lambda r: r.kernel)
def test_what_is_kept_is_within_limits(row):
    assert row.spills == 0
    assert row.instructions <= MORE.get((row.kernel, row.direction), LIMITS[row.direction])
    if row.kernel in SAVED and not SAVED[row.kernel].bits:
        assert row.instructions <= EXACT and row.bound == "HBM"


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize(
    "key", [r.key for r in KEPT if r.target == "sm_90" and r.dtype == "bf16" and r.kernel in ("elu", "gelu")], ids=str
)
def test_no_figure_is_worse(key):
    assert list(saving_ledger.problems([saving_ledger.row(*key)], KEPT)) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"instructions": 999.0}, "instructions rose"),
        ({"registers": 255}, "registers rose"),
        ({"spills": 8}, "spills rose"),
    ],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    (problem,) = saving_ledger.problems([replace(KEPT[0], **change)], KEPT)
    assert what in problem
    assert list(saving_ledger.problems([replace(KEPT[0], kernel="other")], KEPT))
