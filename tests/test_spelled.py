"""What graphs of torch.compile hold in a formula's place: the same function, as accurate, and no slower to guard."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from torch.nn import functional as F

import fusedact
from fusedact import economical, registry

SPELLED = [n for n in oracles.NAMES if registry.get(n).spelled]
CASES = [(name, params) for name, params in oracles.CASES if name in SPELLED]
cases = pytest.mark.parametrize(("name", "params"), CASES, ids=oracles.ids(CASES))
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# PyTorch's own, as the compiler has it: its vector instructions lose more than the operator's.
YARDSTICKS = {"gelu": F.gelu}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def both(function, x, g):
    x = x.detach().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


def inputs(dtype):
    if dtype != torch.float32:
        return oracles.halves(dtype)
    x = torch.cat([torch.linspace(-30, 30, 40_001), torch.randn(20_000) * 2, torch.logspace(-30, 30, 2_000)])
    return torch.cat([x, -x[-2_000:], torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])])


@cases
@dtypes
def test_values_and_gradients(name, params, dtype):
    """Within the bounds of everything else, with limits at infinities and NaN at NaN."""
    x = inputs(dtype)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, dx = both(compiled(lambda x: oracles.function(name)(x, *params)), x, g)
    by = YARDSTICKS.get(name)
    if by is None:
        oracles.assert_value(y, name, x, params, "auto")
        oracles.assert_gradient(dx, name, g, x, params, "auto")
        return
    yard, yard_dx = both(torch.compile(by), x, g)
    wide, wide_dx = both(torch.compile(by), x.float(), g.float())
    oracles.assert_accurate(y, oracles.value(name, x, params), yard, x=x, formula=wide)
    oracles.assert_accurate(dx, oracles.gradient(name, g, x, params), yard_dx, x=x, formula=wide_dx)


@pytest.mark.parametrize("name", SPELLED)
def test_limits(name):
    x = torch.tensor([-math.inf, math.inf, math.nan])
    y, dx = both(compiled(oracles.function(name)), x, torch.ones(3))
    assert y[:2].tolist() == [0.0, math.inf] and y[2].isnan()
    assert dx[:2].tolist() == [0.0, 1.0] and (dx[2].isnan() or name == "relu_sigmoid")


@pytest.mark.parametrize("beta", [-1.5, 0.0, 1.5])
@pytest.mark.parametrize("tensor", [False, True])
def test_swish_of_either_sign_at_infinities(beta, tensor):
    x = torch.tensor([-math.inf, math.inf, -3.0])
    given = torch.tensor([beta]) if tensor else beta
    y, dx = both(compiled(lambda x: fusedact.functional.swish(x, given)), x, torch.ones(3))
    torch.testing.assert_close((y, dx), both(lambda x: fusedact.functional.swish(x, given), x, torch.ones(3)))


LEARNED = [n for n in SPELLED if registry.get(n).learnable]


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("shape", [(1,), (7,)], ids=str)
@dtypes
def test_learned(name, shape, dtype):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    p = torch.linspace(0.5, 1.5, shape[0])

    def gradients(function):
        leaves = [x.detach().requires_grad_(), p.clone().requires_grad_()]
        y = function(*leaves)
        return y, *torch.autograd.grad(y.float().square().sum(), leaves)

    torch.testing.assert_close(
        gradients(compiled(oracles.function(name))), gradients(lambda x, p: oracles.function(name)(x, p))
    )


TRANSFORMS = {
    "grad": lambda f: torch.func.vmap(torch.func.grad(f)),
    "grad of grad": lambda f: torch.func.vmap(torch.func.grad(torch.func.grad(f))),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (torch.cos(x),)),
}


@pytest.mark.parametrize("name", SPELLED)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_see_the_formula(name, transform):
    """Of a Function under them a compiler would drop the derivative."""
    x = torch.randn(9)
    made = TRANSFORMS[transform](oracles.function(name))
    torch.testing.assert_close(compiled(made)(x), made(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPELLED)
def test_graphs_hold_the_spelling(name, monkeypatch):
    """Where it serves, and nowhere else."""
    seen = []
    apply = economical.apply
    monkeypatch.setattr(economical, "apply", lambda *args: seen.append(None) or apply(*args))
    function = oracles.function(name)
    x = torch.randn(8)
    compiled(function, backend="eager")(x)
    assert len(seen) == 1
    compiled(function, backend="eager")(x.double())
    torch.export.export(oracles.module(name), (x,))
    function(x)
    assert len(seen) == 1


@pytest.mark.parametrize("name", SPELLED)
def test_inductor(name):
    x, g = torch.randn(1000), torch.randn(1000)
    function = oracles.function(name)
    torch.testing.assert_close(both(compiled(function, "inductor"), x, g), both(function, x, g), rtol=1e-5, atol=1e-6)
