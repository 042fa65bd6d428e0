"""The bench of gated activations: its forms are right, its rows whole, and docs/gated.md says what its file does."""

from __future__ import annotations

import itertools
import json

import benches
import pages
import pytest
import torch

gated_times = benches.load("gated_times")
cases = benches.load("cases")

KEPT = json.loads(gated_times.RESULTS.read_text())


@pytest.mark.parametrize("dtype", gated_times.USED_DTYPES)
@pytest.mark.parametrize("name", gated_times.FORMS)
def test_forms_give_the_same(name, dtype):
    form = gated_times.FORMS[name]
    gated_times.check(form, gated_times.inputs(form, cases.DTYPES[dtype], 2**6))


@pytest.mark.parametrize("name", gated_times.FORMS)
def test_a_wrong_form_is_found(name):
    form = gated_times.FORMS[name]
    given = gated_times.inputs(form, torch.float32, 2**6)
    wrong = gated_times.Form(lambda *given: form.ours(*given) * 1.001, form.chain, form.packed, form.learns)
    with pytest.raises(AssertionError, match="not close"):
        gated_times.check(wrong, given)


def test_rows():
    threads = torch.get_num_threads()
    try:
        made = list(gated_times.rows(0.0, (1, 2), (6,), ["two tensors, silu"]))
    finally:
        torch.set_num_threads(threads)
    assert [(r["threads"], r["dtype"], r["direction"]) for r in made] == list(
        itertools.product((1, 2), gated_times.USED_DTYPES, cases.DIRECTIONS)
    )
    assert all(r["chain_us"] > 0 and r["fusedact_us"] > 0 and r["ratio"] > 0 for r in made)


def test_the_file_has_every_case_of_one_thread():
    wanted = itertools.product(gated_times.FORMS, gated_times.USED_DTYPES, gated_times.EXPONENTS, cases.DIRECTIONS)
    kept = [r for r in KEPT["rows"] if r["threads"] == 1]
    assert [(r["form"], r["dtype"], r["exponent"], r["direction"]) for r in kept] == list(wanted)


def test_the_page_is_current():
    gated_times.main(["--check"])


def test_the_pages_examples_run():
    names = pages.run(gated_times.PAGE)
    experts, x = names["Experts"](32, 64), 5 * torch.randn(8, 32)
    t = experts.gate_up(x)
    expected = experts.down(gated_times.FORMS["`interleaved`, gpt-oss"].chain(t))
    torch.testing.assert_close(experts(x), expected)


def test_what_is_timed_again_replaces_its_rows():
    first, *rest = KEPT["rows"]
    again = gated_times.joined(KEPT["rows"], [first | {"ratio": 7.0}], "a command")
    assert again == [first | {"ratio": 7.0, "command": "a command"}, *rest]
