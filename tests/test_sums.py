"""The bench of sums over 10^8 elements: its truths, at few elements, and what its kept file holds."""

from __future__ import annotations

import json
import math

import benches
import pytest
import torch
from learned_oracle import composition, gradients, rising

sums = benches.load("sums")
CPU = torch.device("cpu")
KEPT = json.loads(sums.RESULTS.read_text())
FEW = sums.WHOLE


@pytest.fixture(scope="module")
def images():
    return sums.images(torch.bfloat16, FEW, CPU)


def direct(formula, x, g, *params):
    """Sums by autograd at every element, and those of absolute terms."""
    each = [p.expand(x.shape).clone().requires_grad_() for p in params]
    terms = torch.autograd.grad(formula(x, *each), each, g)
    return [(t.sum(), t.abs().sum()) for t in terms]


@pytest.mark.parametrize("gradient", ["constant", "normal", "both"])
def test_a_truth_is_the_sum_over_all_elements(gradient, images):
    form = "channel" if gradient == "both" else "tensor"
    case = sums.Case("swish", form, "bfloat16")
    given = sums.parameters(case)
    sum_, size = sums.truth(case, given, images, gradient)["beta"]
    for c, beta in enumerate(given["beta"].double()):
        chosen = slice(c, c + 1) if form == "channel" else slice(None)
        x, g = (t[:, chosen].double() for t in (images.x, images.gradients[gradient]))
        ((expected, scale),) = direct(lambda x, b: x * torch.sigmoid(b * x), x, g, beta)
        torch.testing.assert_close(size[c], scale, rtol=1e-12, atol=0)
        torch.testing.assert_close(sum_[c], expected, rtol=0, atol=1e-12 * scale.item())


@pytest.mark.parametrize("form", sums.FORMS)
def test_the_truth_of_tables(form, images):
    """Halves lie on breakpoints, too."""
    case = sums.Case("pwl", form, "bfloat16", 17, "even", sums.LEARNED[1])
    given = sums.parameters(case)
    gradient = sums.GRADIENTS[form][-1]
    found = sums.truth(case, given, images, gradient)
    x, g = images.x.double(), images.gradients[gradient].double()
    points = [p.double() for p in given.values()]
    expected = gradients(composition, x, points, g)[2:]
    scales = gradients(composition, x, rising(*points), g.abs())[2:]
    for (sum_, size), e, s in zip(found.values(), expected, scales, strict=True):
        torch.testing.assert_close(size, s.abs(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sum_, e, rtol=1e-9, atol=1e-9 * s.abs().max().item())


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "softmax2d"])
def test_the_truth_of_a_temperature(name):
    inputs = sums.rows(torch.float32, FEW, CPU)
    case = sums.Case(name, "tensor", "float32")
    given = sums.parameters(case)
    sum_, size = sums.truth(case, given, inputs, "normal")["temperature"]
    x, g = (
        t.double().view(-1, *(sums.ROW if name == "softmax2d" else (1000,)))
        for t in (inputs.x, inputs.gradients["normal"])
    )
    temperature = given["temperature"].double().requires_grad_()
    z = (-x if name == "softmin" else x) / temperature
    dim = -3 if name == "softmax2d" else -1
    y = torch.log_softmax(z, dim) if name == "log_softmax" else torch.softmax(z, dim)
    (expected,) = torch.autograd.grad(y, temperature, g)
    torch.testing.assert_close(sum_, expected, rtol=0, atol=1e-12 * size.item())


@pytest.mark.parametrize("dtype", sums.DTYPES)
def test_the_command(dtype, capsys):
    """Of few elements, whose sums are within the bound, too."""
    names = ["prelu", "star_relu", "pwl", "softmax"]
    chosen = [c for c in sums.cases() if c.name in names and c.dtype == dtype and c.points in (0, 17)]
    made = list(sums.measure(chosen, FEW, CPU))
    assert sums.problems(made, chosen) == {}
    sums.main(["prelu", "--elements", str(FEW), "--dtypes", dtype])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[-2:] == ["same", "bits"] and len(lines) == 3
    assert all(line.split()[:1] == ["prelu"] and line.split()[-1] == "True" for line in lines)


@pytest.mark.parametrize(
    "arguments", [["--elements", "100"], ["relu", "--elements", str(FEW)]], ids=["elements", "nothing learns"]
)
def test_what_cannot_be_measured(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        sums.main(arguments)
    assert "must be a multiple of" in (told := capsys.readouterr().err) or "nothing learns in relu" in told


def test_what_is_wrong_is_told():
    case = sums.Case("prelu", "tensor", "float32")
    good = [r for r in KEPT["rows"] if (r["case"], r["form"], r["dtype"]) == ("prelu", "tensor", "float32")]
    key = ("prelu", "tensor", "float32", "constant")
    assert sums.problems(good, [case]) == {}
    assert sums.problems(good[1:], [case]) == {key: "missing"}
    for bad in ({"errors": {"weight": 2e-5}}, {"errors": {"weight": math.nan}}, {"same_bits": False}):
        assert list(sums.problems([good[0] | bad, good[1]], [case])) == [key]


def test_the_command_fails_outside_the_bound(monkeypatch):
    monkeypatch.setattr(sums, "BOUND", 1e-30)
    with pytest.raises(SystemExit, match=r"bench.sums: star_relu, tensor, float32, constant: .*more than 1e-30"):
        sums.main(["star_relu", "--elements", str(FEW), "--dtypes", "float32"])


def test_errors():
    nothing, one = torch.zeros(1).double(), torch.ones(1).double()
    assert sums.error(torch.zeros(1), nothing, nothing) == 0
    assert sums.error(torch.full((1,), 1e-30), nothing, nothing) == math.inf
    assert sums.error(torch.full((1,), math.nan), one, one) == math.inf
    assert sums.error(torch.tensor([1.5]), one, 2 * one) == 0.25


def test_every_table_is_tried_and_any_two_properties_meet():
    made = list(sums.tables())
    assert len({(c.points, c.spacing, c.form, c.dtype) for c in made}) == len(made) == 32
    for name in ("points", "spacing", "form", "dtype"):
        assert len({(getattr(c, name), c.learned) for c in made}) == 2 * len({getattr(c, name) for c in made})


def test_the_file_holds_all_cases_within_the_bound_and_pages_say_so():
    assert KEPT["elements"] == sums.ELEMENTS == 10**8 and KEPT["bound"] == sums.BOUND == 1e-5
    assert sums.problems(KEPT["rows"], sums.cases()) == {}
    sums.main(["--check"])
