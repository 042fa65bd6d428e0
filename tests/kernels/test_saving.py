"""Kernels that keep outputs and bits: which run, what they keep, and that their gradients are those from the input."""

from __future__ import annotations

import oracles
import pytest
import torch
from saving_cases import HALVES, SERVED, SPECS, same, served, usual
from saving_cases import gradient as any_gradient

from fusedact import functional as FF
from fusedact.kernels import device_functions
from fusedact.saving import packing, saving
from fusedact.saving.saved_forms import SAVED

BITS = [(name, policy) for name, policy in SERVED if policy == "bits" or SAVED[name].bits]
with_bits = pytest.mark.parametrize(("name", "policy"), BITS, ids=[f"{n}-{p}" for n, p in BITS])


def gradient(name, x, g, save):
    return any_gradient(name, x, usual(name), g, save=save)


def kernels(name, policy):
    """What runs for contiguous tensors."""
    if policy == "bits":
        return ["forward_bits_kernel", "backward_slopes_kernel"]
    return (
        ["forward_bits_kernel", "backward_bits_kernel"] if SAVED[name].bits else ["forward_kernel", "backward_kernel"]
    )


def test_every_form_has_kernels():
    for name, form in SAVED.items():
        for suffix in ("from_bits", "side") if form.bits else ("from_output",):
            assert device_functions.named(device_functions.saved_function(suffix, name, SPECS[name].device))


# What rounding the output makes of the derivative, relative, in the norm over normal inputs.
LOSS = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", LOSS, ids=str)
@served
def test_gradients_are_those_from_the_input(launches, name, policy, dtype, device):
    x, g = torch.randn(3001, device=device).to(dtype), torch.randn(3001, device=device).to(dtype)
    launches.clear()
    found = gradient(name, x, g, policy)
    assert launches == kernels(name, policy)
    wanted = gradient(name, x, g, "input")
    if policy == "bits":
        torch.testing.assert_close(found, wanted, rtol=2**-23 if name == "hardsigmoid" else 0.0, atol=0)
    else:
        assert (found.double() - wanted.double()).norm() <= LOSS[dtype] * wanted.double().norm()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", [name for name, policy in SERVED if policy == "bits"])
def test_bits_are_exact_for_all_halves(name, dtype, device):
    """Infinities and NaN, in the input and in the gradient, among them."""
    x = oracles.halves(dtype).to(device)
    special = torch.tensor([1.0, -3.0, float("inf"), float("nan"), 0.0], dtype=dtype, device=device)
    g = special.repeat(-(-x.numel() // 5))[: x.numel()]
    same(gradient(name, x, g, "bits"), gradient(name, x, g, "input"))


@with_bits
def test_bits_are_those_of_plain_pytorch(name, policy, device):
    """Packed in memory's order, so that either path could read what the other kept."""
    x = torch.linspace(-5, 5, 1003, device=device).requires_grad_() * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        oracles.function(name)(x, *usual(name), save=policy)
    (bits,) = [t for t in kept if t.dtype == torch.uint8]
    if policy == "bits":
        mask = saving.TWO_SLOPES[name](*usual(name)).mask(x.detach(), *usual(name))
    else:
        mask = SAVED[name].side(x.detach(), *usual(name))
    same(bits.cpu(), packing.pack(mask.cpu()))


@served
def test_layouts(name, policy, device):
    base = torch.randn(6, 5, 4, device=device)
    for view in (
        lambda t: t.transpose(0, 2),
        lambda t: t[:, ::2],
        lambda t: t[:, :1].expand(6, 5, 4),
        lambda t: t[0, 0, 0],
        lambda t: t[:0],
        lambda t: t.flatten()[3:],
    ):
        x = view(base)
        for g in (torch.randn(x.shape, device=device), torch.randn((), device=device).expand(x.shape)):
            a, b = (gradient(name, x, g, save) for save in (policy, "input"))
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


@served
def test_in_place(name, policy, device):
    leaf, g = torch.randn(7, 9, device=device, requires_grad=True), torch.randn(7, 9, device=device)
    x = leaf * 1
    before, version = x.detach().clone(), x._version
    y = oracles.function(name)(x, *usual(name), inplace=True, save=policy)
    assert y is x and x._version > version
    same(y.detach(), oracles.function(name)(before, *usual(name)))
    (dx,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
    same(dx, gradient(name, before, g, policy))
    y = oracles.function(name)(leaf.exp(), *usual(name), inplace=True, save=policy)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("shape", [(1,), (5,)], ids=str)
@pytest.mark.parametrize("name", ["relu_sigmoid", "celu", "softplus"])
def test_parameters_that_learn(launches, name, shape, device):
    def grads(save):
        x = torch.linspace(-3, 3, 60, device=device).reshape(12, 5).requires_grad_()
        params = oracles.given(name, usual(name), shape=shape, requires_grad=True, device=device)
        leaves = [x, *(p for p in params if isinstance(p, torch.Tensor))]
        return torch.autograd.grad(oracles.function(name)(x, *params, save=save), leaves, torch.cos(x).detach())

    for a, b in zip(grads("output"), grads("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert len(launches) == 4


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_what_pytorch_keeps_is_kept_by_default(launches, name, device):
    x = torch.randn(50, device=device, requires_grad=True) * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y = oracles.function(name)(x)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


# PyTorch's hard sigmoid has no second derivative.
@pytest.mark.parametrize(("name", "policy"), [case for case in SERVED if case[0] != "hardsigmoid"])
def test_second_order(name, policy, device):
    def second(save):
        x = torch.linspace(-2.5, 2.5, 40, device=device, requires_grad=True)
        (dx,) = torch.autograd.grad(oracles.function(name)(x, *usual(name), save=save).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.sum(), x)[0]

    torch.testing.assert_close(second(policy), second("auto"), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", LOSS, ids=str)
@pytest.mark.parametrize("uneven", [0.0, 1e-3, 0.9], ids=["uniform", "bucket", "search"])
@pytest.mark.parametrize("outer", [(0.3, -0.2), (0.0, 0.0)], ids=["slopes", "flat"])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (4, 4), (40, 8)])
def test_the_segment_tells_the_slope(launches, count, width, outer, uneven, dtype, device):
    at = torch.arange(count, dtype=torch.float32) / count
    # Two that lie very close are searched for.
    at = torch.cat([at[:1], at[1:2] * 0 + 1e-7, at[2:]]) if uneven == 0.9 else at + uneven * torch.rand(count)
    points = (4 * at.sort().values - 2, torch.randn(count), *outer)
    points = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in points)
    x = (1.5 * torch.randn(3001, device=device)).to(dtype)
    x[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    # Breakpoints themselves, as far as the dtype has them.
    x[3 : 3 + count] = points[0].to(dtype)
    g = torch.randn(3001, device=device).to(dtype)
    grads = []
    for save in ("bits", "input"):
        leaf, kept = x.clone().requires_grad_(), []
        launches.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t):
            y = FF.pwl(leaf, *points, save=save)
        grads.append(torch.autograd.grad(y, leaf, g)[0])
        if save == "bits":
            assert [t.numel() for t in kept] == [-(-3001 * width // 8)]
            assert launches == ["forward_bits_kernel", "backward_segments_kernel"]
    same(*grads)
