"""Values and gradients on the CPU path: every half, every exponent of float32, any layout, inputs left alone."""

from __future__ import annotations

import oracles
import pytest
import torch

import fusedact
from fusedact import eager
from fusedact import functional as FF

cases = pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
names = pytest.mark.parametrize("name", fusedact.names())
HALVES = [torch.float16, torch.bfloat16]


def evaluate(name, x, params, g):
    x = x.detach().requires_grad_()
    y = getattr(FF, name)(x, *params)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


def assert_both(name, x, params, g):
    before = x.clone()
    y, dx = evaluate(name, x, params, g)
    oracles.assert_accurate(y, oracles.value(name, x, params), oracles.yardstick(name, x, params), x=x)
    yard = oracles.yardstick_gradient(name, g, x, params)
    oracles.assert_accurate(dx, oracles.gradient(name, g, x, params), yard, x=x)
    assert torch.equal(before.nan_to_num(7.0), x.nan_to_num(7.0))


@cases
@pytest.mark.parametrize("kind", ["ones", "random"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves(name, params, dtype, kind):
    x = oracles.halves(dtype)
    g = torch.ones_like(x) if kind == "ones" else torch.randn(x.shape).to(dtype)
    assert_both(name, x, params, g)


@cases
@pytest.mark.parametrize("kind", ["ones", "random"])
def test_float32(name, params, kind):
    kinks = oracles.rounded(oracles.kinks(name, params), torch.float32)
    x = torch.cat([oracles.floats32(), oracles.near(0.0, *kinks, dtype=torch.float32)])
    assert_both(name, x, params, torch.ones_like(x) if kind == "ones" else torch.randn(x.shape))


@cases
def test_float64(name, params):
    x = torch.cat([torch.randn(2000, dtype=torch.float64) * 5, oracles.near(0.0, *params, dtype=torch.float64)])
    y, dx = evaluate(name, x, params, torch.ones_like(x))
    torch.testing.assert_close(y, oracles.value(name, x, params), rtol=4e-15, atol=1e-300)
    torch.testing.assert_close(dx, oracles.gradient(name, torch.ones_like(x), x, params), rtol=4e-15, atol=1e-300)


@cases
def test_gradient_at_the_kink_is_that_of_torch(name, params):
    x = torch.tensor(oracles.kinks(name, params))
    _, dx = evaluate(name, x, params, torch.ones_like(x))
    expected = {"relu_sigmoid": 0.0, "elu": params[0] if params else None, "selu": 1.7580993175506592}[name]
    assert dx.item() == pytest.approx(expected, rel=1e-6, abs=0.0)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_large_tensors_are_worked_in_pieces(name, params, dtype, monkeypatch):
    monkeypatch.setattr(eager, "PIECE_PER_THREAD", 500)
    x, g = torch.randn(41, 1013).to(dtype), torch.randn(41, 1013).to(dtype)
    with fusedact.backend("eager"):
        y, dx = evaluate(name, x, params, g)
    monkeypatch.undo()
    whole, whole_dx = evaluate(name, x, params, g)
    torch.testing.assert_close(
        y, whole, rtol=2e-6 if dtype == torch.float32 else None, atol=1e-7 if dtype == torch.float32 else None
    )
    torch.testing.assert_close(dx, whole_dx)


LAYOUTS = {
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "transposed": lambda: torch.randn(37, 53).t(),
    "sliced": lambda: torch.randn(64, 64)[::2, 1::3],
    "expanded": lambda: torch.randn(1, 31).expand(29, 31),
    "channels_last": lambda: torch.randn(2, 5, 7, 9).to(memory_format=torch.channels_last),
    "chunk": lambda: torch.randn(16, 64).chunk(2, dim=1)[1],
}


@names
@pytest.mark.parametrize("gradient", ["same", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, layout, gradient, monkeypatch):
    monkeypatch.setattr(eager, "PIECE_PER_THREAD", 100)
    x = LAYOUTS[layout]()
    params = oracles.PARAMETERS[name][0]
    g = {"same": torch.randn_like(x), "contiguous": torch.randn(x.shape), "expanded": torch.ones(()).expand(x.shape)}
    y, dx = evaluate(name, x, params, g[gradient])
    assert y.shape == x.shape
    if layout in ("transposed", "channels_last"):
        assert y.stride() == x.stride()
    torch.testing.assert_close(y, oracles.value(name, x, params).float())
    torch.testing.assert_close(dx, oracles.gradient(name, g[gradient], x, params).float())


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "value"), [("relu_sigmoid", 0.3), ("elu", 0.7)])
def test_parameter_gradient(name, value, dtype, shape, monkeypatch):
    monkeypatch.setattr(eager, "PIECE_PER_THREAD", 1000)
    x, g = torch.randn(5000).to(dtype), torch.randn(5000).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    p = torch.full(shape, value, dtype=wide, requires_grad=True)
    (dp,) = torch.autograd.grad(getattr(FF, name)(x, p), p, g)
    assert dp.shape == p.shape
    assert dp.dtype == p.dtype
    (truth,), (scale,) = (f(name, g, x, (value,)) for f in (oracles.parameter_gradient, oracles.parameter_scale))
    assert (dp.double() - truth).abs().item() <= 1e-5 * scale.item()


@names
def test_inplace_matches_the_value(name):
    x = torch.randn(300)
    expected = getattr(FF, name)(x)
    version = x._version
    assert getattr(FF, name)(x, inplace=True) is x
    torch.testing.assert_close(x, expected)
    assert x._version > version


@names
def test_inplace_on_a_strided_view_changes_it_alone(name):
    base = torch.randn(20, 20)
    before = base.clone()
    getattr(FF, name)(base[::2, ::3], inplace=True)
    torch.testing.assert_close(base[::2, ::3], getattr(FF, name)(before[::2, ::3]))
    assert torch.equal(base[1::2], before[1::2])


@names
def test_inplace_is_differentiable(name):
    leaf = torch.randn(50, requires_grad=True)
    y = getattr(FF, name)(leaf * 1.0, inplace=True)
    (dx,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(dx, evaluate(name, leaf, (), torch.ones(50))[1])


@names
def test_inplace_on_a_leaf_raises_and_changes_nothing(name):
    leaf = torch.randn(50, requires_grad=True)
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        getattr(FF, name)(leaf, inplace=True)
    assert torch.equal(leaf.detach(), before)


@names
def test_saved_tensors_are_not_overwritten(name):
    x = torch.randn(2**15, requires_grad=True)
    y = getattr(FF, name)(x)
    g = torch.randn(2**15)
    kept = g.clone()
    first = torch.autograd.grad(y, x, g, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x, g)[0])
    assert torch.equal(g, kept)
