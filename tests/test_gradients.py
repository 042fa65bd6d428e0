"""Derivatives of every order and mode, in float64 against finite differences, and what hooks and graphs see."""

from __future__ import annotations

import oracles
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fusedact
from fusedact import functional as FF

backends = pytest.mark.parametrize("backend", ["auto", "eager"])
cases = pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
# PyTorch warns where an operator inside a loop over a batch has no batching rule.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def inputs(params):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    return x, [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in params]


@backends
@cases
def test_first_order(name, params, backend):
    x, tensors = inputs(params)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    with fusedact.backend(backend):
        assert gradcheck(lambda x: getattr(FF, name)(x, *params), (x,), **modes)
        assert gradcheck(getattr(FF, name), (x, *tensors), **modes)


@backends
@cases
def test_second_order(name, params, backend):
    x, tensors = inputs(params)
    modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}
    with fusedact.backend(backend):
        assert gradgradcheck(lambda x: getattr(FF, name)(x, *params), (x,), **modes)
        assert gradgradcheck(getattr(FF, name), (x, *tensors), **modes)


@cases
def test_third_order(name, params):
    x, _ = inputs(params)
    function = getattr(FF, name)

    def slope(x):
        return torch.autograd.grad(function(x, *params).sum(), x, create_graph=True)[0]

    assert gradgradcheck(slope, (x,))


def test_only_what_is_asked_for_is_computed():
    x, t = torch.randn(50), torch.tensor([0.1], requires_grad=True)
    FF.relu_sigmoid(x, t).sum().backward()
    assert x.grad is None
    assert t.grad.shape == (1,)


def test_hooks_on_the_input_fire_once():
    calls = []
    leaf = torch.randn(30, dtype=torch.float64, requires_grad=True)
    x = leaf * 2
    x.register_hook(lambda g: calls.append(g))
    (dx,) = torch.autograd.grad(FF.relu_sigmoid(x, 0.1).sum(), leaf, create_graph=True)
    assert len(calls) == 1
    torch.autograd.grad(dx.sum(), leaf)
    assert len(calls) == 2


def test_batched_gradients():
    x = torch.randn(20, requires_grad=True)
    y = FF.relu_sigmoid(x, 0.1)
    (rows,) = torch.autograd.grad(y, x, torch.eye(20), is_grads_batched=True)
    torch.testing.assert_close(rows, torch.diag(oracles.gradient("relu_sigmoid", torch.ones(20), x, (0.1,)).float()))


def test_a_transform_that_begins_after_forward():
    x = torch.randn(20, requires_grad=True)
    y = FF.relu_sigmoid(x, 0.1)
    rows = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(torch.eye(20))
    torch.testing.assert_close(rows, torch.diag(oracles.gradient("relu_sigmoid", torch.ones(20), x, (0.1,)).float()))
