"""Activations of two device functions that an expert wrote: the contract, the check before the first launch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import fusedact


@triton.jit
def square_relu(x, params, precise: tl.constexpr):
    positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return params[0] * positive * positive


@triton.jit
def square_relu_backward(g, x, params, precise: tl.constexpr):
    positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return g * params[0] * 2.0 * positive, (g * positive * positive,)


@triton.jit
def wrong_slope(g, x, params, precise: tl.constexpr):
    positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return g * params[0] * positive, (g * positive * positive,)


@triton.jit
def wrong_parameter_slope(g, x, params, precise: tl.constexpr):
    positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return g * params[0] * 2.0 * positive, (g * positive,)


@triton.jit
def two_arguments(x, params):
    return x


def plain(x, a=0.5):
    """a relu(x)^2."""
    return a * torch.relu(x) ** 2


def wrong_plain(x, a=0.5):
    return a * torch.relu(x) ** 2 + 0.1


class Detached(torch.autograd.Function):
    """A value whose gradient is another's."""

    @staticmethod
    def forward(ctx, x, a):
        ctx.save_for_backward(x, a)
        return a * torch.relu(x) ** 2

    @staticmethod
    def backward(ctx, g):
        x, a = ctx.saved_tensors
        return g * a * torch.relu(x), (g * torch.relu(x) ** 2).sum_to_size(a.shape)


def wrong_gradient(x, a=0.5):
    return Detached.apply(x, a)


def made(backward=square_relu_backward, eager=plain, forward=square_relu, **keywords):
    return fusedact.activation(forward=forward, backward=backward, eager=eager, **keywords)


def test_values_and_gradients(device, launches):
    own = made()
    for x, a in ((torch.randn(300), torch.tensor([0.7])), (torch.randn(20, 4), torch.rand(4))):
        x, a = x.to(device).requires_grad_(), a.to(device).requires_grad_()
        own(x, a)
        launches.clear()
        y = own(x, a)
        got = (y, *torch.autograd.grad(y.sum(), (x, a)))
        assert len(launches) == 2
        want = plain(x, a)
        torch.testing.assert_close(got, (want, *torch.autograd.grad(want.sum(), (x, a))))


def test_the_module_and_the_source():
    own = made()
    assert repr(own.module(a=0.2, learnable=True)) == "Plain(a=learnable)"
    if hasattr(square_relu, "src"):
        assert "def square_relu_backward(g, x, params, precise: tl.constexpr):" in own.source


def test_it_is_checked_once(device, launches):
    own = made()
    x = torch.randn(10, device=device)
    own(x)
    # What the check launches, then what was asked for.
    assert launches == ["forward_kernel", "backward_kernel", "forward_kernel"]
    launches.clear()
    own(x)
    assert launches == ["forward_kernel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"eager": wrong_plain},
            r"forward of wrong_plain gives \S+ at x = \S+, where the eager formula gives \S+",
        ),
        ({"backward": wrong_slope}, r"backward \(x\) of plain gives \S+ at x = \S+, where the eager formula gives"),
        ({"backward": wrong_parameter_slope}, r"backward of plain gives \S+ for a, where the eager formula gives"),
        (
            {"backward": wrong_slope, "eager": wrong_gradient},
            r"backward of wrong_gradient gives \S+ at x = \S+, where finite differences of the eager formula give",
        ),
    ],
    ids=["value", "slope", "parameter", "formula"],
)
def test_the_check_finds(arguments, message, device):
    own = made(**arguments)
    with pytest.raises(ValueError, match=message):
        own(torch.randn(10, device=device))
    with pytest.raises(ValueError, match=message):
        own(torch.randn(10, device=device))


def test_unchecked(device):
    x = torch.randn(10, device=device)
    torch.testing.assert_close(made(eager=wrong_plain, check=False)(x), plain(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forward": plain}, "forward must be a @triton.jit function, got function"),
        ({"backward": square_relu}, r"backward must take \(g, x, params, precise\), got \(x, params, precise\)"),
        ({"forward": two_arguments}, r"forward must take \(x, params, precise\), got \(x, params\)"),
        ({"eager": None}, "forward, backward and eager go together"),
        ({"fallback": "eager"}, "forward, backward and eager go without a function and without fallback"),
    ],
    ids=["plain", "backward", "forward", "missing", "fallback"],
)
def test_bad_pairs(arguments, message):
    with pytest.raises(TypeError, match=f"^fusedact.activation: {message}$"):
        made(**arguments)
