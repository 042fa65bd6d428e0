"""Device functions that take the output: on all halves, in float32, and for parameters that learn."""

from __future__ import annotations

import json

import benches
import oracles
import pytest
import torch

from fusedact import registry
from fusedact.kernels import grids
from fusedact.saving.saved_forms import SAVED

saved_forms = benches.load("saved_forms")
HALVES = [torch.float16, torch.bfloat16]
CASES = list(saved_forms.cases())
cases = pytest.mark.parametrize(("name", "params"), CASES, ids=[f"{n}{list(p) if p else ''}" for n, p in CASES])
PUBLISHED = {
    (r["activation"], tuple(r["params"]), r["dtype"]): r
    for r in json.loads((benches.ROOT / saved_forms.RESULTS).read_text())["rows"]
    if (r["by"], r["save"]) == ("kernels", "output")
}
LEARNED = [name for name, form in SAVED.items() if registry.get(name).learnable and not form.tensors]


@pytest.fixture(autouse=True)
def _large_programs(monkeypatch):
    """The interpreter pays by the program."""
    monkeypatch.setattr(grids, "INTERPRETER_WARP_SIZE", 2**12)


def finite(x):
    return x[x.isfinite()]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@cases
def test_published_figures(name, params, dtype, device):
    """All finite halves, as the documentation has them; approximate instructions may differ."""
    x = finite(oracles.halves(dtype))
    found = saved_forms.derivative(name, x.to(device), params, "output").cpu()
    truth = oracles.gradient(name, torch.ones_like(x), x, params)
    kept = PUBLISHED[name, params, str(dtype).removeprefix("torch.")]
    assert saved_forms.relative(found, truth, saved_forms.shares(x)) <= kept["relative"] * 1.05
    assert (found.double() - truth).abs().max() <= kept["worst"] * 1.05


@cases
def test_float32(name, params, device):
    """What a device function makes of an output is what float64 makes of it."""
    x = finite(oracles.floats32())
    leaf = x.to(device).requires_grad_()
    y = oracles.function(name)(leaf, *params, save="output")
    found = torch.autograd.grad(y, leaf, torch.ones_like(y))[0].cpu().double()
    y = y.detach().cpu().double()
    form, values = SAVED[name], oracles.rounded(params, torch.float32)
    bit = None if form.side is None else form.side(x, *params)
    wanted, _ = form.gradient(torch.ones_like(y), y, bit, *values)
    # Near a minimum the slope changes as the root of the output, and with it what a product with beta rounds away.
    near = bit is not None and (y * (values[0] if values else 1.0) < -0.1).cpu()
    bound = torch.where(torch.as_tensor(near), 2**-10.5, 2**-20)
    assert ((found - wanted).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_parameters_that_learn(name, dtype, device):
    """Their gradients are those that float64 makes of the outputs that were kept."""
    form, spec = SAVED[name], registry.get(name)
    x, g = (torch.randn(3000) * 3).to(dtype), torch.randn(3000).to(dtype)
    params = [
        p if q.fixed else torch.full((1,), p, device=device, requires_grad=True)
        for p, q in zip(oracles.sweep(name)[0], spec.parameters, strict=True)
    ]
    learn = [p for p in params if isinstance(p, torch.Tensor)]
    y = oracles.function(name)(x.to(device), *params, save="output")
    found = torch.autograd.grad(y, learn, g.to(device))
    wide = [p.detach().cpu().double() if isinstance(p, torch.Tensor) else p for p in params]
    _, parts = form.gradient(g.double(), y.detach().cpu().double(), None, *wide)
    for got, terms in zip(found, [t for t in parts if t is not None], strict=True):
        scale = terms.abs().sum()
        assert (got.cpu().double() - terms.sum()).abs() <= scale * (2**-22 if dtype == torch.float32 else 2**-13)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("each", [False, True], ids=["one", "channels"])
def test_thresholds_of_any_size(each, dtype, device):
    """On both sides of where relu_sigmoid's inverse is computed in another way."""
    for t in (-30.0, -10.5, -9.5, 0.3, 100.0):
        x = (torch.linspace(0.01, 40, 3000).reshape(750, 4) + t).to(dtype)
        leaf, g = x.to(device).requires_grad_(), torch.ones_like(x)
        threshold = torch.full((4 if each else 1,), t, device=device, requires_grad=True)
        y = oracles.function("relu_sigmoid")(leaf, threshold, save="output")
        dx, dt = torch.autograd.grad(y, (leaf, threshold), g.to(device))
        wanted, (terms,) = SAVED["relu_sigmoid"].gradient(
            g.double(), y.detach().cpu().double(), None, threshold.detach().cpu().double()
        )
        # Of float32 what rounding t + y, which is exponentiated, moves; else what is left of the approximation.
        bound = (4 + abs(t)) * 2**-23 if dtype == torch.float32 else 2**-11.5
        off = (dx.cpu().double() - wanted).abs() - bound * wanted.abs().clamp(min=1.0)
        assert (off / oracles.ulp(wanted, dtype)).max() <= 1.0
        assert (dt.cpu().double().sum() - terms.sum()).abs() <= bound * terms.abs().sum()
