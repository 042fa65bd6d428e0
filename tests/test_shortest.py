"""Small CPU calls take shorter ways, which give what the long one gives: values, gradients, errors."""

from __future__ import annotations

import itertools

import pytest
import torch

import fusedact
from fusedact import autograd, functional, ops, registry, shortest
from fusedact import functional as FF

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LEARNABLE = [
    n for n in registry.names("elementwise") if registry.get(n).learnable and functional._of_learned(registry.get(n))[0]
]
C = 3


def parameters(spec, shape, dtype):
    """One tensor for each parameter that may learn, with other values than the defaults."""
    made = []
    for i, p in enumerate(spec.parameters):
        value = p.default if isinstance(p.default, float) else 0.5
        spread = torch.linspace(0.9, 1.1, max(1, C if shape == (C,) else 1)).reshape(shape)
        made.append(value if p.fixed else ((value + 0.1 * i + 0.05) * spread).to(dtype).requires_grad_())
    return made


def gradients(function, x, params, g, channel_dim):
    y = function(x, *params, channel_dim=channel_dim)
    inputs = [t for t in (x, *params) if isinstance(t, torch.Tensor) and t.requires_grad]
    return y.detach(), *torch.autograd.grad(y, inputs, g)


def watched(monkeypatch):
    """The names of the shortest ways that calls take."""
    taken = []
    for name in ("apply_learned", "_value_of_learned"):
        function = getattr(autograd, name)
        monkeypatch.setattr(autograd, name, lambda *a, f=function, n=name: (taken.append(n), f(*a))[1])
    return taken


def test_which_records_are_served():
    assert {"relu_sigmoid", "swish", "elu", "leaky_relu", "snake"} <= set(LEARNABLE)
    assert "prelu" not in LEARNABLE


@pytest.mark.parametrize("name", LEARNABLE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (C,)], ids=str)
@pytest.mark.parametrize("parameter", ["same", torch.float32], ids=str)
def test_learned_parameters(name, dtype, shape, parameter, monkeypatch):
    spec, function = registry.get(name), getattr(FF, name)
    x = torch.cat([2 * torch.randn(4, C, 2), torch.tensor([0.0, float("inf"), -float("inf")]).expand(1, 2, 3).mT])
    x = x.to(dtype).requires_grad_()
    g = torch.randn(x.shape).to(dtype)
    params = parameters(spec, shape, dtype if parameter == "same" else parameter)
    taken = watched(monkeypatch)
    short = gradients(function, x, params, g, 1)
    with torch.no_grad():
        value = function(x, *params)
    assert taken == ["apply_learned", "_value_of_learned", "_value_of_learned"]
    monkeypatch.setattr(shortest, "FEW", 0)
    monkeypatch.setattr(ops, "FEW", 0)
    long = gradients(function, x, params, g, 1)
    assert len(taken) == 3
    for a, b in zip((*short, value), (*long, long[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("needed", list(itertools.product([True, False], repeat=2))[:3])
def test_only_what_is_needed(needed):
    x, beta = torch.randn(5, requires_grad=needed[0]), torch.tensor([1.5], requires_grad=needed[1])
    y = FF.swish(x, beta)
    y.sum().backward()
    for t, n in zip((x, beta), needed, strict=True):
        assert (t.grad is not None) == n


def test_orders_and_versions():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FF.swish, (x, beta))
    assert torch.autograd.gradgradcheck(FF.swish, (x, beta))
    y = FF.swish(x, beta)
    with torch.no_grad():
        beta.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_does_not_fit_is_refused_as_ever():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="beta must be a number or a tensor of"):
        FF.swish(x, torch.ones(2))
    with pytest.raises(ValueError, match="no dimension channel_dim=2"):
        FF.swish(x, torch.ones(3), channel_dim=2)
    with pytest.raises(TypeError, match="beta"):
        FF.swish(x, torch.ones(1, dtype=torch.int64))
    with pytest.raises(TypeError, match="channel_dim"):
        FF.swish(x, torch.ones(1), channel_dim=1.0)
    with pytest.raises(TypeError, match="eps"):
        FF.xielu(x, torch.ones(1), torch.ones(1), 0.5, torch.ones(1))


@pytest.mark.parametrize("name", ["relu_sigmoid", "relu_squared", "star_relu", "laplace", "quick_gelu"])
def test_numbers(name, monkeypatch):
    """Also where the engine writes the form for the CPU, which serves more elements."""
    x, g = torch.randn(4, C, 2, requires_grad=True), torch.randn(4, C, 2)
    kind = fusedact.explain(name, x).kind
    assert kind == ("formula" if registry.get(name).lean_by_engine else "pieces")
    short = getattr(FF, name)(x)
    node = type(short.grad_fn).__name__
    assert (node == "_ShortBackward") == (kind == "pieces")
    grad = torch.autograd.grad(short, x, g)
    monkeypatch.setattr(shortest, "FEW", 0)
    monkeypatch.setattr(ops, "FEW", 0)
    long = getattr(FF, name)(x)
    torch.testing.assert_close((short, *grad), (long, *torch.autograd.grad(long, x, g)), rtol=0, atol=0)
