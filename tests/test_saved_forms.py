"""Gradients from the output in plain PyTorch: against the truth, on all halves, and for which parameters."""

from __future__ import annotations

import json
import math

import benches
import oracles
import pytest
import torch

from fusedact import registry
from fusedact.saving.saved_forms import SAVED

saved_forms = benches.load("saved_forms")
HALVES = [torch.float16, torch.bfloat16]
CASES = list(saved_forms.cases())
cases = pytest.mark.parametrize(("name", "params"), CASES, ids=[f"{n}{list(p) if p else ''}" for n, p in CASES])
BITS = [case for case in CASES if SAVED[case[0]].bits]
with_bits = pytest.mark.parametrize(("name", "params"), BITS, ids=[f"{n}{list(p) if p else ''}" for n, p in BITS])
PUBLISHED = {
    (r["activation"], tuple(r["params"]), r["dtype"], r["by"], r["save"]): r
    for r in json.loads((benches.ROOT / saved_forms.RESULTS).read_text())["rows"]
}


def tensors(name, params, dtype):
    """The parameters that may learn as tensors, as then they have gradients."""
    return [
        p if spec.fixed else torch.tensor(p, dtype=dtype)
        for p, spec in zip(params, registry.get(name).parameters, strict=True)
    ]


def side(name, x, params):
    form = SAVED[name]
    return None if form.side is None else form.side(x, *params)


def inputs64():
    return torch.cat([torch.linspace(-30, 30, 4001, dtype=torch.float64), torch.randn(4000, dtype=torch.float64)])


@cases
def test_truth(name, params):
    """Of an output that is not rounded, all that is known of the input is known."""
    x, g = inputs64(), torch.randn(8001, dtype=torch.float64)
    y = oracles.value(name, x, params)
    dx, parts = SAVED[name].gradient(g, y, side(name, x, params), *tensors(name, params, torch.float64))
    # The rounding of y in float64 counts by its root where the slope is 0, and undiluted where outputs saturate.
    torch.testing.assert_close(dx, oracles.gradient(name, g, x, params), rtol=1e-9, atol=2e-8)
    found = [part for part in parts if part is not None]
    assert len(found) == (0 if SAVED[name].tensors and SAVED[name].bits else len(registry.get(name).learnable))
    for part, terms in zip(found, oracles.parameter_terms(name, g, x, params), strict=False):
        torch.testing.assert_close(part, terms, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@cases
def test_published_figures(name, params, dtype):
    """All finite halves, as the documentation has them; where a bit is kept, within 1.5 times what rounding leaves."""
    rows = saved_forms.rows({"cpu": "eager"}, name, params, str(dtype).removeprefix("torch."), 0)
    found = {(r["by"], r["save"]): r for r in rows}
    for (by, save), row in found.items():
        kept = PUBLISHED[name, params, row["dtype"], by, save]
        assert row["relative"] <= kept["relative"] * 1.02
        assert row["worst"] <= kept["worst"] * 1.02
    if SAVED[name].bits:
        limit = math.hypot(found["rounding", "output"]["relative"], found["cpu", "input"]["relative"])
        assert found["cpu", "output"]["relative"] <= 1.5 * limit


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@cases
def test_nothing_is_lost_but_by_rounding_the_output(name, params, dtype):
    """A form in float32 against the same in float64, on the same outputs."""
    x = oracles.floats32() if dtype == torch.float32 else oracles.halves(dtype)
    x = x[x.isfinite()]
    y, bit = oracles.value(name, x, params).to(dtype).float(), side(name, x.float(), params)
    (found, _), (wanted, _) = (
        SAVED[name].gradient(torch.ones_like(t), t, bit, *oracles.rounded(params, dtype)) for t in (y, y.double())
    )
    # Near a minimum the slope changes as the root of the output, and with it what a product with beta rounds away.
    near = y * (params or (1.0,))[0] < 0.3 if SAVED[name].bits else torch.zeros_like(y) > 0
    assert ((found.double() - wanted).abs() <= torch.where(near, 2**-13.5, 2**-20)).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@with_bits
def test_every_output_gives_a_number(name, params, dtype):
    """Also those that are a rounding error below the minimum."""
    # A negative beta turns the function over.
    sign = math.copysign(1.0, min(params, default=1.0))
    x = torch.linspace(-9, 9, 10**5, dtype=torch.float64)
    minimum = (sign * oracles.value(name, x, params)).min()
    steepest = oracles.gradient(name, torch.ones_like(x), x, params).max().item()
    y = sign * oracles.halves(dtype)
    y = sign * y[y.double() >= minimum - oracles.ulp(minimum, dtype)].float()
    for right in (False, True):
        of_side = y if right else y[sign * y <= 0]
        dx, _ = SAVED[name].gradient(torch.ones_like(of_side), of_side, torch.full_like(of_side, right) > 0, *params)
        assert dx.abs().max() <= steepest + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@cases
def test_special_outputs(name, params, dtype):
    """Infinities have the limit, and a NaN what PyTorch gives."""
    x = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=dtype)
    y, g = oracles.value(name, x, params).to(dtype), torch.ones_like(x)
    dx, _ = SAVED[name].gradient(g, y, side(name, x, params), *params)
    torch.testing.assert_close(dx.double(), oracles.gradient(name, g, x, params), equal_nan=True, atol=0, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@cases
def test_the_input_comes_back(name, params, dtype):
    """Or one with the same output and gradient."""
    x = (torch.randn(4000) * 4).to(dtype)
    y, bit = oracles.value(name, x, params).to(dtype), side(name, x, params)
    back = SAVED[name].recover(y, bit, *params)
    assert back.dtype == dtype and back.isfinite().all()
    torch.testing.assert_close(oracles.value(name, back, params).to(dtype), y)
    if bit is not None:
        # The bit of an input at the minimum may be either.
        steep = oracles.gradient(name, torch.ones_like(x), x, params).abs() > 1e-3
        assert torch.equal(side(name, back, params)[steep], bit[steep])


@cases
def test_the_inverse_is_differentiable(name, params):
    """Its derivative is 1 over the slope, where there is one and nothing saturates."""
    x = torch.linspace(-3, 3, 601, dtype=torch.float64) + 1e-3
    slope = oracles.gradient(name, torch.ones_like(x), x, params)
    x, slope = x[slope.abs() > 0.02], slope[slope.abs() > 0.02]
    y = oracles.value(name, x, params).requires_grad_()
    back = SAVED[name].recover(y, side(name, x, params), *params)
    torch.testing.assert_close(torch.autograd.grad(back.sum(), y)[0], 1 / slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("relu", (), ""),
        ("elu", (0.0,), ""),
        ("elu", (-0.1,), "for a negative alpha one output has two inputs"),
        ("prelu", (-1e-30,), "for a negative weight one output has two inputs"),
        ("leaky_relu", (math.nan,), "for a negative negative_slope one output has two inputs"),
        ("relu_sigmoid", (-30.0,), ""),
        ("relu_sigmoid", (-31.0,), "for a threshold below -30 the output tells too little of the sigmoid"),
        ("softplus", (-2.0, 20.0), ""),
        ("softplus", (1.0, 10.0), "for a threshold below 17 the function jumps there, and outputs repeat"),
        ("hardtanh", (-1.0, 1.0), ""),
        ("hardtanh", (1.0, 1.0), "bounds that are equal leave no output between them"),
        (
            "hardtanh",
            (-1.0, 0.7),
            "torch.bfloat16 rounds the bound 0.7 to a number between both, whose gradient is not 0",
        ),
        ("swish", (-1.0,), ""),
        ("swish", (0.0,), "for a beta of 0 there is no minimum"),
    ],
    ids=str,
)
def test_parameters_for_which_the_output_suffices(name, params, reason):
    assert SAVED[name].safe(*params) == reason


def test_a_bound_that_is_rounded_inwards_would_lose_its_slope():
    """The reason for which some bounds of hardtanh are refused."""
    y = torch.tensor([3.0]).clamp(-1.0, 0.7).to(torch.bfloat16).float()
    assert SAVED["hardtanh"].gradient(torch.ones(1), y, None, -1.0, 0.7)[0] == 1
    assert SAVED["hardtanh"].gradient(torch.ones(1), y, None, -1.0, y.item())[0] == 0


def test_the_published_table_is_current():
    saved_forms.main(["--check"])


def test_the_published_figures_are_of_all_forms():
    wanted = {
        (name, params, dtype, by, save)
        for name, params in CASES
        for dtype in saved_forms.DTYPES
        for by, save in [(b, s) for b in ("kernels", "cpu") for s in ("output", "input")] + [("rounding", "output")]
    }
    assert set(PUBLISHED) == wanted
