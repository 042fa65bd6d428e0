"""Derivatives of every order and mode, in float64 against finite differences, and what hooks and graphs see."""

from __future__ import annotations

from functools import partial

import oracles
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import fusedact
from fusedact import functional as FF

backends = pytest.mark.parametrize("backend", ["auto", "eager"])
# Of the catalog and of the gallery; second and higher orders of what is chosen out of that.
cases = pytest.mark.parametrize(
    ("name", "params"), oracles.CASES + oracles.OWN_CASES, ids=oracles.IDS + oracles.OWN_IDS
)
# PyTorch's hard sigmoid has no second derivative.
SOME = [case for case in oracles.CASES + oracles.CHOSEN_CASES if case[0] != "hardsigmoid"]
some_cases = pytest.mark.parametrize(("name", "params"), SOME, ids=oracles.ids(SOME))
# PyTorch warns where an operator inside a loop over a batch has no batching rule.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def inputs(name, params):
    """An input, the parameters that are tensors, and the function of these."""
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    given = oracles.given(name, params, torch.float64, requires_grad=True)
    free = [i for i, p in enumerate(given) if isinstance(p, torch.Tensor)]

    def function(x, *tensors):
        values = list(params)
        for i, t in zip(free, tensors, strict=True):
            values[i] = t
        return oracles.function(name)(x, *values)

    return x, [given[i] for i in free], function


@backends
@cases
def test_first_order(name, params, backend):
    x, tensors, function = inputs(name, params)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    with fusedact.backend(backend):
        assert gradcheck(lambda x: oracles.function(name)(x, *params), (x,), **modes)
        assert not tensors or gradcheck(function, (x, *tensors), **modes)


@backends
@some_cases
def test_second_order(name, params, backend):
    x, tensors, function = inputs(name, params)
    modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}
    with fusedact.backend(backend):
        assert gradgradcheck(lambda x: oracles.function(name)(x, *params), (x,), **modes)
        assert not tensors or gradgradcheck(function, (x, *tensors), **modes)


# Where an activation is linear by pieces, PyTorch's own second derivative may have no graph.
CURVED = [case for case in SOME if case[0] not in ("fence", "identity")]


@backends
@pytest.mark.parametrize(("name", "params"), CURVED, ids=oracles.ids(CURVED))
def test_third_order(name, params, backend):
    x, function = inputs(name, params)[0], oracles.function(name)

    def slope(x):
        return torch.autograd.grad(function(x, *params).sum(), x, create_graph=True)[0]

    with fusedact.backend(backend):
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


def second_batched(function, *arguments):
    leaves = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]
    inputs = [a for a in leaves if isinstance(a, torch.Tensor)]
    g = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(5, 3, 4)
    first = torch.autograd.grad(function(*leaves), inputs, g, is_grads_batched=True, create_graph=True)
    return torch.autograd.grad(sum(t.pow(2).sum() for t in first), inputs)


@pytest.mark.parametrize("t", [0.1, torch.tensor(0.1), torch.tensor([0.1])], ids=["number", "0-d", "1-d"])
def test_batched_gradients_with_a_graph(t):
    x = torch.randn(3, 4, dtype=torch.float64)
    plain = second_batched(lambda x, t: torch.relu(x - t) * torch.sigmoid(x), x, t)
    torch.testing.assert_close(second_batched(FF.relu_sigmoid, x, t), plain)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("shape", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("parameter", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtypes_and_shapes_of_what_they_belong_to(dtype, parameter, shape):
    x = torch.randn(3, 4).to(dtype).requires_grad_()
    t = torch.full(shape, 0.1, dtype=parameter, requires_grad=True)
    function = partial(FF.relu_sigmoid, channel_dim=-1)

    def assert_alike(grads, inputs):
        for grad, a in zip(grads, inputs, strict=True):
            assert (grad.dtype, grad.shape) == (a.dtype, a.shape)

    first = torch.autograd.grad(function(x, t).sum(), (x, t), create_graph=True)
    assert_alike(first, (x, t))
    assert_alike(torch.autograd.grad(first[0].sum() + first[1].sum(), (x, t)), (x, t))
    a, b = x.detach(), t.detach()
    assert_alike(torch.func.grad(lambda *p: function(*p).sum(), (0, 1))(a, b), (a, b))
    assert_alike(torch.func.jvp(function, (a, b), (torch.ones_like(a), torch.ones_like(b))), (a, a))
    assert_alike([torch.func.vmap(function, (0, None))(a, b)], [a])


@pytest.mark.parametrize("t", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["number", "tensor"])
def test_a_reverse_pass_over_dual_numbers(t):
    def gradient(function):
        x = torch.linspace(-2, 2, 20, dtype=torch.float64).requires_grad_()
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.cos(x).detach()))).tangent
            return torch.autograd.grad(tangent.sum(), x)[0]

    plain = gradient(lambda x: torch.relu(x - t) * torch.sigmoid(x))
    torch.testing.assert_close(gradient(lambda x: FF.relu_sigmoid(x, t)), plain)


@pytest.mark.parametrize("t", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["number", "tensor"])
def test_a_dual_number_that_begins_after_forward(t):
    def tangent(function):
        x = torch.linspace(-2, 2, 20, dtype=torch.float64).requires_grad_()
        y = function(x)
        with forward_ad.dual_level():
            g = forward_ad.make_dual(torch.ones_like(x).detach(), torch.cos(x).detach())
            return forward_ad.unpack_dual(torch.autograd.grad(y, x, g)[0]).tangent

    plain = tangent(lambda x: torch.relu(x - t) * torch.sigmoid(x))
    torch.testing.assert_close(tangent(lambda x: FF.relu_sigmoid(x, t)), plain)


@pytest.mark.parametrize("name", ["relu_sigmoid", "elu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_infinite_and_nan_gradients_do_not_depend_on_the_kind_of_parameter(name, dtype):
    """Below the threshold the gradient is 0 whatever comes in, for a number as for a tensor."""
    at = torch.tensor([-float("inf"), -5.0, 0.0, 0.1, 5.0, float("inf")])
    special = torch.tensor([0.0, 1.0, float("inf"), float("-inf"), float("nan")])
    x, g = (t.reshape(-1).to(dtype) for t in torch.meshgrid(at, special, indexing="ij"))
    grads = []
    for parameter in (0.5, torch.tensor(0.5, dtype=dtype, requires_grad=True)):
        leaf = x.clone().requires_grad_()
        grads += torch.autograd.grad(oracles.function(name)(leaf, parameter), leaf, g)
    torch.testing.assert_close(grads[0], grads[1], equal_nan=True)
    if name == "relu_sigmoid":
        assert (grads[0][x <= 0.5] == 0).all()
