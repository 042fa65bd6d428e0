"""Where an output or bits are kept, all that autograd does works as before; and what in-place changes do."""

from __future__ import annotations

import oracles
import pytest
import torch
from saving_cases import CASES, TENSORS, gradient, kept, made, names, parametrized, same, served, usual
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import functional as FF
from fusedact.saving.saved_forms import SAVED

# PyTorch warns where an operator inside a loop over a batch has no batching rule.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@served
def test_the_graph_can_be_kept(name, policy):
    x, g = made(50), torch.randn(50)
    y = oracles.function(name)(x, *usual(name), save=policy)
    first, second = (torch.autograd.grad(y, x, g, retain_graph=True)[0] for _ in range(2))
    same(first, second)
    torch.autograd.grad(y, x, g)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, g)


# PyTorch's hard sigmoid has no second derivative.
BENT = [case for case in CASES if case[0] != "hardsigmoid"]


@pytest.mark.parametrize("shape", [(200,), (), (0,)], ids=str)
@parametrized(BENT)
def test_second_order(name, policy, params, shape):
    def second(save):
        torch.manual_seed(1)
        x, g, gg = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3))
        y = oracles.function(name)(x, *params, save=save)
        (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
        return torch.autograd.grad(dx, (x, g), gg)

    for a, b in zip(second(policy), second("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in TENSORS if n in ("elu", "relu_sigmoid", "prelu", "celu")])
def test_second_order_of_parameters(name):
    def second(save):
        x = torch.linspace(-2, 2, 21, dtype=torch.float64, requires_grad=True)
        p = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        y = oracles.function(name)(x, p, save=save)
        dx, dp = torch.autograd.grad(y.square().sum(), (x, p), create_graph=True)
        return torch.autograd.grad(dx.square().sum() + dp.square(), (x, p))

    for a, b in zip(second("output"), second("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_third_order():
    def third(save):
        x = torch.linspace(-2, 2, 20, dtype=torch.float64, requires_grad=True)
        t = FF.elu(x, save=save)
        for _ in range(3):
            (t,) = torch.autograd.grad(t.sum(), x, create_graph=True)
        return t

    torch.testing.assert_close(third("output"), third("input"))


@served
def test_batched_gradients(name, policy):
    def rows(save):
        x = torch.linspace(-2, 2, 7, requires_grad=True)
        y = oracles.function(name)(x, *usual(name), save=save)
        g = torch.eye(7)
        legacy = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)[0]
        func = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(g)
        torch.testing.assert_close(legacy, func)
        return legacy

    torch.testing.assert_close(rows(policy), rows("input"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "policy"), [("elu", "output"), ("silu", "output"), ("leaky_relu", "bits")])
def test_batched_gradients_with_a_graph(name, policy):
    def second(save):
        x = torch.linspace(-2, 2, 7, dtype=torch.float64, requires_grad=True)
        y = oracles.function(name)(x, save=save)
        g = torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(5, 7)
        (rows,) = torch.autograd.grad(y, x, g, is_grads_batched=True, create_graph=True)
        return torch.autograd.grad(rows.square().sum(), x)[0]

    torch.testing.assert_close(second(policy), second("input"))


@served
def test_hooks_may_move_what_is_kept(name, policy):
    x, g = made(6, 10), torch.randn(10, 6)
    wanted = gradient(name, x.t(), usual(name), g, save=policy)
    with torch.autograd.graph.save_on_cpu():
        y = oracles.function(name)(x.t(), *usual(name), save=policy)
    same(torch.autograd.grad(y, x, g)[0].t(), wanted)
    # What comes back has another layout.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t):
        y = oracles.function(name)(x.t(), *usual(name), save=policy)
    same(torch.autograd.grad(y, x, g)[0].t(), wanted)


@pytest.mark.parametrize("reentrant", [True, False])
@served
def test_checkpointing(name, policy, reentrant):
    x, g = torch.randn(50, requires_grad=True), torch.randn(50)

    def block(x):
        return oracles.function(name)(x * 1.5, *usual(name), save=policy) * 2

    wanted = torch.autograd.grad(block(x), x, g)[0]
    y = checkpoint(block, x, use_reentrant=reentrant)
    y.backward(g)
    same(x.grad, wanted)


@served
def test_transforms(name, policy):
    x = torch.linspace(-2, 2, 11)

    def slope(save):
        return torch.func.vmap(torch.func.grad(lambda x: oracles.function(name)(x, *usual(name), save=save)))(x)

    torch.testing.assert_close(slope(policy), slope("auto"))
    jvp = torch.func.jvp(lambda x: oracles.function(name)(x, *usual(name), save=policy), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(jvp[1], slope("auto"))


@served
def test_compiled(name, policy):
    x, g = torch.randn(30, requires_grad=True), torch.randn(30)

    def call(x):
        return oracles.function(name)(x, *usual(name), save=policy)

    torch._dynamo.reset()
    y = torch.compile(call, backend="aot_eager", fullgraph=True)(x)
    (found,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(found, gradient(name, x, usual(name), g), rtol=1e-3, atol=1e-4)


def test_compiled_inside_a_block():
    x = torch.randn(30, requires_grad=True)
    with fusedact.save_policy("output"):
        y = torch.compile(FF.elu, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, FF.elu(x))


@served
def test_operators_are_seen(name, policy):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, g = made(30), torch.randn(30)
    wanted = gradient(name, x, usual(name), g, save=policy)
    with Watch():
        y = oracles.function(name)(x, *usual(name), save=policy)
        (found,) = torch.autograd.grad(y, x, g)
    assert seen
    torch.testing.assert_close(found, wanted)


# ----- in place


@served
def test_changing_the_output_is_an_error_where_it_is_kept(name, policy):
    x = made(20)
    y = oracles.function(name)(x, *usual(name), save=policy)
    y += 1
    if policy == "bits":
        torch.autograd.grad(y.sum(), x)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), x)


@names
def test_with_its_input_kept_the_output_may_change(name):
    x = made(20)
    wanted = gradient(name, x, usual(name), torch.ones(20))
    y = oracles.function(name)(x, *usual(name), save="input")
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], wanted)


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2]], ids=["dense", "turned", "gaps"])
@served
def test_in_place(name, policy, view):
    leaf = torch.randn(8, 12, requires_grad=True)
    x = view(leaf * 1)
    g, before = torch.randn(x.shape), x.detach().clone()
    found, y = kept(oracles.function(name), x, *usual(name), inplace=True, save=policy)
    assert y is x
    torch.testing.assert_close(y.detach(), oracles.function(name)(before, *usual(name)))
    sizes = [t.nbytes for t in found if t.data_ptr() != x.data_ptr()]
    assert sizes == ([(x.numel() + 7) // 8] if policy == "bits" or SAVED[name].bits else [])
    (dx,) = torch.autograd.grad(y, leaf, g)
    torch.testing.assert_close(view(dx), gradient(name, before, usual(name), g, save=policy))


@served
def test_in_place_errors(name, policy):
    leaf = torch.randn(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        oracles.function(name)(leaf, *usual(name), inplace=True, save=policy)
    # exp needs its output, which is overwritten.
    y = oracles.function(name)(leaf.exp(), *usual(name), inplace=True, save=policy)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="single memory location"):
        oracles.function(name)(made(1).expand(8), *usual(name), inplace=True, save=policy)


@names
def test_in_place_with_the_input_kept(name):
    leaf = torch.randn(50, requires_grad=True)
    x, g = leaf * 1, torch.randn(50)
    wanted = gradient(name, x, usual(name), g)
    y = oracles.function(name)(x, *usual(name), inplace=True, save="input")
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y, leaf, g)[0], wanted)
