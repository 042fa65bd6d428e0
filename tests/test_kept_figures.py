"""The kept instructions of every kind of kernel are current, complete, within limits, and compared."""

from __future__ import annotations

import json
from dataclasses import replace

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import triton

from fusedact.saving.saved_forms import SAVED

ledger = benches.load("ledger")
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]
NAMES = ("rows", "gated", "biased", "optimizer", "piecewise", "statistics", "saving")
LEDGERS = {name: benches.load(f"{name}_ledger").LEDGER for name in NAMES}
KEPT = {name: LEDGERS[name].load(benches.ROOT) for name in NAMES}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
each = pytest.mark.parametrize("name", NAMES)


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@each
def test_no_figure_is_worse(name):
    found = list(LEDGERS[name].rows())
    assert [r.key for r in found] == [r.key for r in KEPT[name]]
    assert list(LEDGERS[name].problems(found, KEPT[name])) == []


@each
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"instructions": 9999.0}, "instructions rose"),
        ({"registers": 999}, "registers rose"),
        ({"spills": 9}, "spills"),
    ],
    ids=str,
)
def test_a_worse_row_is_a_problem(name, change, what):
    kept = KEPT[name]
    assert list(LEDGERS[name].problems(kept[:1], kept)) == []
    assert any(what in problem for problem in LEDGERS[name].problems([replace(kept[0], **change)], kept))


@each
def test_what_is_not_kept_is_a_problem(name):
    row = KEPT[name][0]
    (problem,) = LEDGERS[name].problems([row], KEPT[name][1:])
    assert problem.endswith("not in the kept figures")


def test_a_share_below_its_target_is_a_problem():
    row = next(r for r in KEPT["piecewise"] if r.key == (8, "even", "flat", "values", "bf16"))
    (problem,) = LEDGERS["piecewise"].problems([replace(row, predicted_share=0.5)], [row])
    assert "below 0.88" in problem


# ----- limits on sm_90

# What leaves the memory the bound on an H200 by the bytes that an element moves, in instructions per element.
EACH_BYTE = ledger.DEVICE.budget(1.0)
SIZES = {"bf16": 2, "fp32": 4}
TENSORS = {"forward": 2, "backward": 3}
GATED_TENSORS = {"forward": 3, "backward": 5}
# The parameter, its gradient and states are read, and written but for the gradient.
OPTIMIZERS = {"sgd": 12, "sgd with momentum": 20, "classic momentum": 20, "adam": 28, "adamw": 28, "adam, norms": 28}

# Of bf16, save optimizers' of fp32. Of gated activations those before the first element are included.
LIMITS = {
    "gated": {
        ("silu, two tensors", "forward"): 15,
        ("silu, two tensors", "backward"): 25,
        ("silu, gate_value", "forward"): 19,
        ("silu, gate_value", "backward"): 33,
        ("silu, interleaved", "forward"): 19,
        ("silu, interleaved", "backward"): 26,
        ("relu, two tensors", "forward"): 8,
        ("relu, two tensors", "backward"): 14,
        ("silu, two tensors, limit", "forward"): 19,
        ("silu, two tensors, limit", "backward"): 34,
        ("swish, interleaved, limit and offset", "forward"): 33,
        ("swish, interleaved, limit and offset", "backward"): 46,
    },
    # The random numbers of dropout take about 16.
    "biased": {
        ("relu", "forward"): 10,
        ("relu", "backward"): 13,
        ("silu", "forward"): 18,
        ("silu", "backward"): 27,
        ("gelu", "forward"): 25,
        ("gelu", "backward"): 32,
        ("relu_sigmoid", "forward"): 21,
        ("relu_sigmoid", "backward"): 28,
        ("silu, residual", "forward"): 21,
        ("relu, dropout", "forward"): 26,
        ("relu, dropout", "backward"): 28,
        ("silu, dropout", "forward"): 33,
        ("silu, dropout", "backward"): 42,
        ("silu, dropout, residual", "forward"): 37,
        ("silu, dropout, no bias", "forward"): 26,
        ("silu, dropout, no bias", "backward"): 37,
    },
    "optimizer": {
        ("sgd", "step"): 4,
        ("sgd with momentum", "step"): 9,
        ("classic momentum", "step"): 8,
        ("adam", "step"): 46,
        ("adamw", "step"): 46,
        ("adam, norms", "step"): 50,
    },
}
# Of derivatives from the output in bf16: of x alone, and altogether, but for a logarithm that beta's gradient takes,
# for bits that are packed beside a swish of two dozen instructions, and where an element's number takes a whole byte.
EXACT, SAVING = 36, {"forward": 24, "backward": 37}
MORE = {
    ("softplus (learned)", "backward"): 45,
    ("swish", "forward"): 26,
    ("pwl_uniform (256 segments)", "forward"): 27,
}


def on_sm_90(name, dtype):
    return [r for r in KEPT[name] if r.target == "sm_90" and r.dtype == dtype]


@pytest.mark.parametrize("name", ["rows", "gated", "biased", "optimizer"])
def test_nothing_spills(name):
    assert not any(r.spills for r in KEPT[name])


def test_statistics_spill_nothing_to_memory():
    """On AMD masks go to other registers, which count as spilled there."""
    assert not any(r.spills for r in KEPT["statistics"] if r.target == "sm_90")


@pytest.mark.parametrize("name", LIMITS)
def test_instructions_are_within_limits(name):
    rows = {(r.kernel, r.direction): r for r in on_sm_90(name, "fp32" if name == "optimizer" else "bf16")}
    for key, limit in LIMITS[name].items():
        assert rows[key].instructions <= limit, key


@pytest.mark.parametrize("dtype", SIZES)
def test_memory_is_the_bound(dtype):
    """Of softmax where rows are read once, and of gated activations."""
    for r in on_sm_90("rows", dtype):
        moved = TENSORS[r.direction] * SIZES[dtype]
        assert r.n >= 65_536 or "softmax" not in r.kernel or r.instructions <= EACH_BYTE * moved, r
    for r in on_sm_90("gated", dtype):
        assert r.instructions <= EACH_BYTE * GATED_TENSORS[r.direction] * SIZES[dtype], r


def test_memory_is_the_bound_of_optimizers():
    for r in on_sm_90("optimizer", "fp32"):
        assert r.instructions <= LIMITS["optimizer"][r.kernel, "step"] < EACH_BYTE * OPTIMIZERS[r.kernel], r


@pytest.mark.parametrize("row", on_sm_90("saving", "bf16"), ids=lambda r: f"{r.kernel} {r.direction}")
def test_derivatives_from_the_output(row):
    assert row.spills == 0
    assert row.instructions <= MORE.get((row.kernel, row.direction), SAVING[row.direction])
    if row.kernel in SAVED and not SAVED[row.kernel].bits:
        assert row.instructions <= EXACT and row.bound == "HBM"


def test_tables_are_within_limits():
    assert list(LEDGERS["piecewise"].problems(KEPT["piecewise"], KEPT["piecewise"])) == []
