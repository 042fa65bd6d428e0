"""The kernels' instructions do not grow unseen: a gate on what bench/results/ keeps, and proof that it shuts."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import benches
import pytest
import torch

from fusedact import compat

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import triton
import triton.language as tl

from fusedact.kernels import activations

ledger = benches.load("ledger")
PINNED = json.loads(ledger.FACTS.read_text())["triton"]

pytestmark = pytest.mark.usefixtures("triton_cache")
pinned = pytest.mark.skipif(triton.__version__ != PINNED, reason=f"the figures are of Triton {PINNED}")


@pinned
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_nothing_is_worse_in_bfloat16(target):
    """`.ci/run` checks all dtypes and targets."""
    found = list(ledger.entries([target], ["bfloat16"]))
    assert len(found) == 14
    assert list(ledger.problems(found, ledger.load())) == []


def test_every_kernel_is_kept():
    expected = {
        (name, direction, dtype, target)
        for name, (_, _, directions) in ledger.kernels().items()
        for direction in directions
        for dtype in ledger.DTYPES
        for target in ledger.aot.TARGETS
    }
    assert {e.key for e in ledger.load()} == expected
    assert {e.key[0] for e in ledger.load() if e.limit != ""} == set(ledger.LIMITS)


def test_kept_figures_hold_the_limits():
    assert list(ledger.problems(ledger.load(), ledger.load())) == []


def test_readme_is_current():
    text = (ledger.ROOT / "README.md").read_text()
    assert ledger.updated(text) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instructions": 1.06}, "relu_sigmoid forward bfloat16 sm_90: instructions rose from 13.38 to 14.18"),
        ({"special": 1.5}, "relu_sigmoid forward bfloat16 sm_90: special rose from 2 to 3"),
        ({"registers": 2}, "relu_sigmoid forward bfloat16 sm_90: registers rose from 56 to 112"),
    ],
)
def test_a_rise_is_named(change, message):
    kept = ledger.load()
    (old,) = [e for e in kept if e.key == ("relu_sigmoid", "forward", "bfloat16", "sm_90")]
    base = dataclasses.replace(old, instructions=13.38, special=2.0, registers=56)
    ((what, factor),) = change.items()
    worse = dataclasses.replace(base, **{what: round(getattr(base, what) * factor, 2)})
    assert message in list(ledger.problems([worse], [base]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spills": 3}, "3 spills"),
        ({"access_bytes": 2}, "accesses of 2 bytes"),
        ({"instructions": 14.5}, "14.5 instructions per element, above the limit of 14"),
        ({"kernel": "new"}, "not among the kept figures"),
    ],
)
def test_what_is_never_right_is_named(change, message):
    kept = ledger.load()
    (old,) = [e for e in kept if e.key == ("relu_sigmoid", "forward", "bfloat16", "sm_90")]
    worse = dataclasses.replace(old, **change)
    assert any(message in problem for problem in ledger.problems([worse], kept))


@triton.jit
def slow_selu(x, params, precise: tl.constexpr):
    return tl.where(x > 0, x, tl.exp(tl.sin(x)) - 1.0)


@pinned
def test_a_slower_kernel_is_caught(monkeypatch):
    monkeypatch.setattr(activations, "selu", slow_selu)
    problems = list(ledger.problems([ledger.entry("selu", "forward", "bfloat16", "sm_90")], ledger.load()))
    assert any("instructions rose" in problem for problem in problems)


def test_the_masked_path_counts_its_narrow_accesses(monkeypatch):
    """Without the tail split, accesses are 2 bytes wide, and the gate says so."""
    strided = ledger.aot.compile_kernel("selu", "forward", "sm_90", torch.bfloat16, (), strided=True)
    count, _, _ = ledger._cuda(strided)
    code = ledger.aot.sass(strided)
    assert sum(c.startswith("LDG") and ".128" in c for c in code) == 0
    assert count.access_bytes < 16
