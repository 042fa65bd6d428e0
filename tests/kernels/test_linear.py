"""Linear layers and MLPs through kernels: values and gradients, what is launched, and what is written where."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.hosts import affine, perceptron

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
FLAT, CHANNEL = "pointwise_kernel", "pointwise_channel_kernel"


@fusedact.activation
def bent(x, a=0.5):
    """x + a tanh(x)^2."""
    return x + a * torch.tanh(x) ** 2


CASES = {
    "silu": ("silu", {}, F.silu),
    "relu_sigmoid": ("relu_sigmoid", {}, lambda z: F.relu(z) * torch.sigmoid(z)),
    "swish": ("swish", {"beta": 1.5}, lambda z: z * torch.sigmoid(1.5 * z)),
    "own": (bent, {}, lambda z: z + 0.5 * torch.tanh(z) ** 2),
}


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(affine, "aten_below", lambda device: 0)
    monkeypatch.setattr(perceptron, "aten_below", lambda device: 0)


def leaves_of(dtype, device, *shapes):
    made = [(torch.randn(s, dtype=torch.float64) / s[-1] ** 0.5).to(dtype) for s in shapes]
    return [t.to(device).requires_grad_() for t in made]


def assert_right(ours, composition, leaves):
    """The value and all gradients, within what rounding the product makes of them."""
    wide = [t.detach().cpu().double().requires_grad_() for t in leaves]
    y, true = ours(*leaves), composition(*wide)
    g = torch.randn(true.shape).to(y.dtype)
    grads, expected = torch.autograd.grad(y, leaves, g.to(y.device)), torch.autograd.grad(true, wide, g.double())
    eps = torch.finfo(y.dtype).eps
    for got, t in zip((y.detach(), *grads), (true.detach(), *expected), strict=True):
        assert got.dtype == y.dtype
        assert (got.cpu().double() - t).abs().max() <= 4 * eps * t.abs().max().clamp_min(1.0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
def test_linear(name, dtype, device, launches):
    activation, parameters, plain = CASES[name]
    leaves = leaves_of(dtype, device, (3, 7, 12), (20, 12), (20,))
    launches.clear()
    assert_right(
        lambda x, w, b: FF.linear(x, w, b, activation, **parameters), lambda x, w, b: plain(F.linear(x, w, b)), leaves
    )
    # Backward sums the gradient of the bias in its one pass.
    assert launches == [FLAT, CHANNEL]


@pytest.mark.parametrize("activation", ["relu", "elu", "silu"])
def test_an_output_is_written_over_the_product(activation, device, launches):
    x, weight, bias = leaves_of(FP32, device, (40, 12), (20, 12), (20,))
    made = []
    plain = F.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", lambda *args: made.append(plain(*args)) or made[-1])
        y = FF.linear(x, weight, bias, activation, save="output")
    assert y.data_ptr() == made[0].data_ptr()
    plain_activation = getattr(F, activation)
    assert_right(
        lambda *t: FF.linear(*t, activation, save="output"),
        lambda *t: plain_activation(F.linear(*t)),
        [x, weight, bias],
    )


@pytest.mark.parametrize("shape", [(1,), (20,)], ids=str)
def test_parameters(shape, device):
    leaves = leaves_of(FP32, device, (9, 12), (20, 12), (20,))
    beta = (torch.rand(shape) + 0.5).to(device).requires_grad_()
    assert_right(
        lambda x, w, b, p: FF.linear(x, w, b, "swish", beta=p),
        lambda x, w, b, p: F.linear(x, w, b) * torch.sigmoid(p * F.linear(x, w, b)),
        [*leaves, beta],
    )


def test_two_runs_give_the_same_bits(device):
    leaves = leaves_of(BF16, device, (700, 8), (20, 8), (20,))
    first, second = (torch.autograd.grad(FF.linear(*leaves, "silu").sum(), leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_mlp(gated, recompute, dtype, device, launches):
    module = fusedact.MLP(6, 10, 4, "silu", gated=gated, recompute=recompute, device=device, dtype=dtype)
    names = [name for name, _ in module.named_parameters()]

    def ours(x, *p):
        return torch.func.functional_call(module, dict(zip(names, p, strict=True)), (x,))

    def composition(x, *p):
        of = dict(zip(names, p, strict=True))
        layers = {
            n: (of[f"{n}_proj.weight"], of[f"{n}_proj.bias"])
            for n in ("up", "down", "gate")
            if not of.keys().isdisjoint({f"{n}_proj.bias"})
        }
        up = F.linear(x, *layers["up"])
        return F.linear(F.silu(F.linear(x, *layers["gate"])) * up if gated else F.silu(up), *layers["down"])

    (x,) = leaves_of(dtype, device, (9, 6))
    launches.clear()
    assert_right(ours, composition, [x, *module.parameters()])
    # Forward, the hidden tensor again, and backward.
    assert len(launches) == 3


def test_empty(device):
    leaves = leaves_of(FP32, device, (0, 12), (20, 12), (20,))
    assert [t.abs().sum().item() for t in torch.autograd.grad(FF.linear(*leaves, "silu").sum(), leaves)] == [0, 0, 0]
