"""The benches of compiled models and of sizes: rows are whole, and docs/integrations.md says what its file does."""

from __future__ import annotations

import json

import benches
import pytest
import torch

compiled, sizes, cases = map(benches.load, ("compiled", "sizes", "cases"))
KEPT = json.loads(compiled.RESULTS.read_text())


@pytest.mark.parametrize("name", compiled.CASES)
def test_both_compute_the_same(name):
    case = compiled.CASES[name]
    given = compiled.inputs(case, 2**10)
    found = [cases.forward_backward(f, *given) for f in (case.ours, case.by_hand)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_the_file_has_every_case():
    wanted = {(name, n, d) for name in compiled.CASES for n in compiled.EXPONENTS for d in cases.DIRECTIONS}
    assert {(r["case"], r["exponent"], r["direction"]) for r in KEPT["rows"]} == wanted


def test_losses_are_named():
    row = KEPT["rows"][0]
    text = compiled.table(KEPT | {"rows": [r | {"ratio": 2.0} for r in KEPT["rows"]]})
    assert "by more than 5%: none" in text
    text = compiled.table(KEPT | {"rows": [row | {"ratio": 0.5}, *KEPT["rows"][1:]]})
    assert f"{row['case']}, {row['direction']}, 2^{row['exponent']}: 0.50" in text


def test_the_page_is_current():
    compiled.main(["--check"])


def test_sizes():
    (row, *_) = sizes.rows((11, 12), 0.0, torch.device("cpu"))
    assert set(row["ns_per_element"]) == {"11", "12"} and row["spread"] >= 1.0
