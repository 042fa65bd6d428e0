"""Kernels that the engine wrote: that they run, forward, backward and in second derivatives, and what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fusedact

FLAT = ["forward_kernel", "backward_kernel", "pointwise_kernel"]


@fusedact.activation
def relu_tanh(x, a=0.5, b=1.0):
    return torch.relu(x) * torch.tanh(a * x) + b * torch.sigmoid(x)


@fusedact.activation
def squareplus(x, b=4.0):
    return 0.5 * (x + torch.sqrt(x * x + b))


@fusedact.activation
def smish(x):
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


@fusedact.activation
def once_differentiable(x):
    return torch.nn.functional.hardsigmoid(x)


@fusedact.activation
def flat_steps(x, a=1.0):
    return torch.floor(x) + a


OWN = pytest.mark.parametrize("own", [relu_tanh, squareplus, smish, flat_steps], ids=lambda own: own.__name__)
SHAPES = {
    "flat": lambda: torch.randn(259),
    "channels": lambda: torch.randn(33, 6),
    "transposed": lambda: torch.randn(7, 6, 9).transpose(0, 2),
    "sliced": lambda: torch.randn(40, 12)[::2, 1:7],
    "0-d": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 6),
}


def parameters(own, kind: str, device: str) -> list[float | Tensor]:
    count = {"number": None, "scalar": 1, "channel": 6}[kind]
    made: list[float | Tensor] = []
    for p in own.spec.parameters:
        value = 1.1 * p.default
        made.append(value if count is None else torch.linspace(value, value + 0.3, count, device=device))
    return made


def derivatives(function, x, params, g, others):
    """The value, the first gradients, and the second from others."""
    leaves = [x.requires_grad_(), *(p.requires_grad_() for p in params if isinstance(p, Tensor))]
    g = g.requires_grad_()
    y = function(x, *params)
    firsts = torch.autograd.grad(y, leaves, g, create_graph=True, materialize_grads=True)
    live = [(f, o) for f, o in zip(firsts, others, strict=False) if f.requires_grad]
    seconds = [torch.zeros_like(t) for t in leaves]
    if live:
        outs, grads = zip(*live, strict=True)
        seconds = torch.autograd.grad(outs, leaves, grads, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (y, *firsts, *seconds)]


@OWN
@pytest.mark.parametrize("kind", ["number", "scalar", "channel"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_orders_against_float64(own, kind, shape, device, launches):
    x = SHAPES[shape]().to(device)
    if kind == "channel" and (x.dim() < 2 or not own.spec.parameters):
        return
    params = parameters(own, kind, device)
    g = torch.randn(x.shape, device=device)
    others = [torch.randn(x.shape, device=device)]
    others += [torch.randn(p.shape, device=device) for p in params if isinstance(p, Tensor)]
    got = derivatives(own, x.clone(memory_format=torch.preserve_format), params, g.clone(), others)
    seen = list(launches)
    wide = [p if isinstance(p, float) else p.detach().double() for p in params]

    def plain(x, *tensors):
        rest = iter(tensors)
        values = [w if isinstance(w, float) else next(rest) for w in wide]
        shaped = [
            v
            if isinstance(v, float)
            else v.reshape(())
            if v.numel() == 1
            else v.reshape([-1 if d == 1 else 1 for d in range(x.dim())])
            for v in values
        ]
        return own.__wrapped__(x, *shaped)

    tensors = [w for w in wide if isinstance(w, Tensor)]
    want = derivatives(plain, x.double().detach(), tensors, g.double(), [o.double() for o in others])
    for ours, truth in zip(got, want, strict=True):
        # A sum's terms err independently.
        scale = max(1, x.numel() ** 0.5 if ours.numel() < x.numel() else 1)
        scale *= 1 + truth.abs().max().item() if truth.numel() else 1
        torch.testing.assert_close(ours.double(), truth.reshape(ours.shape), rtol=3e-6, atol=3e-6 * scale)
    assert len(seen) == (0 if shape == "empty" else 3) or own is flat_steps
    if shape == "flat":
        assert seen[: len(FLAT)] == FLAT or own is flat_steps


def test_second_derivatives_are_one_launch(device, launches):
    x = torch.randn(100, device=device, requires_grad=True)
    (slope,) = torch.autograd.grad(relu_tanh(x), x, torch.randn(100, device=device), create_graph=True)
    launches.clear()
    torch.autograd.grad(slope, x, torch.randn(100, device=device))
    assert launches == ["pointwise_kernel"]


def test_third_derivatives_are_the_formulas(device):
    x = torch.randn(50, device=device, requires_grad=True)

    def third(function, x):
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return torch.autograd.grad(second.sum(), x)[0]

    want = third(lambda x: relu_tanh.__wrapped__(x, 0.5, 1.0), x.detach().double().requires_grad_())
    torch.testing.assert_close(third(relu_tanh, x).double(), want, rtol=1e-4, atol=1e-5)


def test_what_pytorch_differentiates_once(device):
    x = torch.randn(50, device=device, requires_grad=True)
    (slope,) = torch.autograd.grad(once_differentiable(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="hardsigmoid_backward"):
        torch.autograd.grad(slope.sum(), x)


def test_two_runs_give_the_same_bits(device):
    x = torch.randn(3, 5000, device=device)
    a = torch.rand(3, device=device)

    def run():
        leaves = [x.clone().requires_grad_(), a.clone().requires_grad_()]
        y = relu_tanh(*leaves, channel_dim=0)
        return torch.autograd.grad(y.sum(), leaves)

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


def test_the_input_is_left_alone_and_inplace_is_not(device):
    x = torch.randn(77, device=device)
    before = x.clone()
    y = squareplus(x)
    assert torch.equal(x, before)
    assert squareplus(x, inplace=True) is x
    assert torch.equal(x, y)
