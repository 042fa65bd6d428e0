"""The tables of largest errors: what is measured for them, and that they are current."""

from __future__ import annotations

import math

import benches
import pytest
import torch

from fusedact import registry

accuracy = benches.load("accuracy")
POINTS = 2000


def measured(evaluation, name="relu"):
    rows = accuracy.measure({"ours": evaluation}, [name], POINTS)
    return {(row["dtype"], row["what"]): row["units"] for row in rows}


def test_the_published_tables_are_current():
    accuracy.main(["--check"])


def test_the_published_figures_are_of_the_whole_catalogue():
    rows = accuracy.json.loads(accuracy.RESULTS.read_text())["rows"]
    assert {row["activation"] for row in rows} == set(registry.names("elementwise"))
    wanted = len(accuracy.DTYPES) * len(accuracy.WHATS) * len(("kernels", "cpu", "torch"))
    assert len(rows) == wanted * len(registry.names("elementwise"))


@pytest.mark.parametrize("dtype", accuracy.DTYPES)
def test_inputs_are_finite_of_both_signs_and_differ(dtype):
    x = torch.cat(list(accuracy.inputs(accuracy.DTYPES[dtype], POINTS)))
    assert x.isfinite().all()
    assert (x > 0).any() and (x < 0).any()
    # Both zeros are one number.
    assert x.unique().numel() >= x.numel() - 1
    assert x.numel() == (POINTS if dtype == "float32" else {"float16": 63488, "bfloat16": 65280}[dtype])


def test_what_is_exact_is_off_by_nothing():
    assert set(measured(accuracy.by_torch).values()) == {0.0}


def test_a_unit_counts_as_one():
    def off(name, x, params):
        y, dx = accuracy.by_torch(name, x, params)
        return y, torch.where(dx == 1, dx + torch.finfo(x.dtype).eps, dx)

    assert {units for (_, what), units in measured(off).items() if what == "gradient"} == {1.0}


def test_a_nan_is_infinitely_far():
    def lost(name, x, params):
        return torch.full_like(x, math.nan), torch.ones_like(x)

    assert {units for (_, what), units in measured(lost).items() if what == "value"} == {math.inf}
