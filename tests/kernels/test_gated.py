"""Gated activations through their kernels: values, gradients, layouts, sums, NaN, and what is told to the launcher."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
FLAT, STRIDED, CHANNEL = "pointwise_kernel", "pointwise_strided_kernel", "pointwise_channel_kernel"
IN_TURN = "interleaved_kernel"
LAYOUTS = ("gate_value", "value_gate", "interleaved")


@fusedact.activation
def bent(x, a=0.5):
    """x + a tanh(x)^2."""
    return x + a * torch.tanh(x) ** 2


# Hand-written, generated, and one's own; the same in plain operators.
GATES = {
    "silu": ("silu", lambda t: F.silu(t)),
    "gelu": ("gelu", lambda t: F.gelu(t)),
    "relu": ("relu", lambda t: F.relu(t)),
    "swish": ("swish", lambda t, p=1.0: t * torch.sigmoid(p * t)),
    "own": (bent, lambda t, p=0.5: t + p * torch.tanh(t) ** 2),
}
KEYS = {"swish": "beta", "own": "a"}


def halves(t, dim, layout):
    """The value and the gate."""
    if layout == "interleaved":
        gate, value = t.unflatten(dim, (t.shape[dim] // 2, 2)).unbind(dim + 1)
        return value, gate
    first, second = t.chunk(2, dim)
    return (second, first) if layout == "gate_value" else (first, second)


def assert_near(got, true, dtype):
    """Half a unit of halves, a few of fp32, and as much of the terms that it is made of."""
    rtol = 2e-6 if dtype == FP32 else 0.51 * torch.finfo(dtype).eps
    atol = 4e-6 if dtype == FP32 else 2**-14
    torch.testing.assert_close(got.cpu().double(), true, rtol=rtol, atol=atol, equal_nan=True)


def assert_right(ours, composition, given, params, kernels, launches):
    """The value and all gradients; through these kernels, forward's first."""
    dtype = given[0].dtype
    leaves = [t.detach().requires_grad_() for t in (*given, *params)]
    wide = [t.detach().cpu().double().requires_grad_() for t in leaves]
    launches.clear()
    y, true = ours(*leaves), composition(*wide)
    g = torch.randn(true.shape).to(dtype)
    grads = torch.autograd.grad(y, leaves, g.to(y.device))
    assert launches == list(kernels)
    true_grads = torch.autograd.grad(true, wide, g.double())
    count = len(given)
    for got, expected in zip((y.detach(), *grads[:count]), (true.detach(), *true_grads[:count]), strict=True):
        assert got.dtype == dtype
        assert_near(got, expected, dtype)
    for got, expected, p in zip(grads[count:], true_grads[count:], params, strict=True):
        assert got.shape == p.shape
        torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-5, atol=1e-6 * y.numel())
    return grads


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("shape", [(), (1009,), (4, 1024)], ids=str)
def test_two_tensors(name, dtype, shape, launches, device):
    activation, plain = GATES[name]
    x, gate = (torch.randn(shape, device=device).to(dtype) for _ in range(2))

    def ours(x, gate):
        return FF.gated(x, gate, activation)

    assert_right(ours, lambda x, gate: plain(gate) * x, (x, gate), (), [FLAT] * 2, launches)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize(("shape", "dim"), [((5, 66), 1), ((6, 40), 0), ((3, 10, 7, 4), 1), ((2, 514), 1)], ids=str)
def test_packed(layout, dtype, shape, dim, launches, device):
    packed = torch.randn(shape, device=device).to(dtype)

    def composition(t):
        value, gate = halves(t, dim, layout)
        return F.silu(gate) * value

    def ours(t):
        return FF.packed_glu(t, "silu", dim, layout=layout)

    # Halves of the first dimension lie in one piece each.
    kernel = FLAT if dim == 0 else STRIDED
    if layout == "interleaved":
        kernel = IN_TURN if dim == packed.dim() - 1 else STRIDED
    assert_right(ours, composition, (packed,), (), [kernel] * 2, launches)


VIEWS = {
    "transposed": (lambda t: t.t(), FLAT),
    "columns": (lambda t: t[:, ::2], STRIDED),
    "expanded": (lambda t: t[:1].expand(12, 16), STRIDED),
    "one is transposed": (lambda t: t, STRIDED),
}


@pytest.mark.parametrize("view", VIEWS)
def test_strides(view, launches, device):
    x, gate = torch.randn(12, 16, device=device), torch.randn(12, 16, device=device)
    seen, kernel = VIEWS[view]
    if view == "one is transposed":
        gate = torch.randn(16, 12, device=device).t()
    launches.clear()
    y = FF.gated(seen(x), seen(gate))
    assert launches == [kernel]
    assert_near(y, F.silu(seen(gate).cpu().double()) * seen(x).cpu().double(), FP32)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("shape", [(), (1,), (6,)], ids=str)
@pytest.mark.parametrize("form", ["two tensors", "gate_value", "interleaved"])
def test_parameters(name, shape, form, launches, device):
    activation, plain = GATES[name]
    p = torch.rand(shape, device=device) + 0.5

    def shaped(p):
        return p.reshape(-1, 1) if shape == (6,) else p.reshape(())

    def packed(t, p):
        value, gate = halves(t, 1, form)
        return plain(gate, shaped(p)) * value

    count = 2 if form == "two tensors" else 1
    given = [torch.randn(3, 12 // count, 40, device=device) for _ in range(count)]
    flat = form == "two tensors" and shape != (6,)
    forward = FLAT if flat else STRIDED
    backward = CHANNEL if shape == (6,) else forward

    def ours(*arguments):
        *given, p = arguments
        keywords = {KEYS[name]: p}
        if form == "two tensors":
            return FF.gated(*given, activation, **keywords)
        return FF.packed_glu(*given, activation, 1, layout=form, **keywords)

    composition = packed if count == 1 else lambda x, gate, p: plain(gate, shaped(p)) * x
    assert_right(ours, composition, given, (p,), (forward, backward), launches)


@pytest.mark.parametrize("shape", [(1, 2), (2, 3000), (3, 5, 34)], ids=str)
@pytest.mark.parametrize("kind", ["number", "pointer", "channel"])
def test_in_turn(shape, kind, launches, device):
    packed = torch.randn(shape, device=device)
    entries = (shape[1] if len(shape) == 3 else shape[1] // 2) if kind == "channel" else 1
    params = () if kind == "number" else (torch.rand(entries, device=device) + 0.5,)

    def ours(t, beta=1.25):
        return FF.packed_glu(t, "swish", layout="interleaved", beta=beta)

    def composition(t, beta=1.25):
        value, gate = halves(t, t.dim() - 1, "interleaved")
        if kind == "channel" and len(shape) == 3:
            beta = beta.reshape(-1, 1)
        return gate * torch.sigmoid(beta * gate) * value

    counted = kind == "channel" and entries > 1
    assert_right(ours, composition, (packed,), params, (STRIDED, CHANNEL) if counted else [IN_TURN] * 2, launches)


def test_in_turn_with_any_strides(launches, device):
    """What does not lie in turn without gaps takes the strided template, and gives the same."""
    packed = torch.randn(6, 64, device=device)
    true = FF.packed_glu(packed, layout="interleaved")
    for seen in (torch.cat([packed, packed], 1)[:, :64], packed.t().contiguous().t()):
        leaf = seen.detach().requires_grad_()
        launches.clear()
        y = FF.packed_glu(leaf, layout="interleaved")
        assert torch.equal(y, true) and launches == [STRIDED]
    leaf = packed.clone().requires_grad_()
    (expected,) = torch.autograd.grad(FF.packed_glu(leaf, layout="interleaved"), leaf, torch.ones(6, 32, device=device))
    launches.clear()
    FF.packed_glu(leaf, layout="interleaved").sum().backward()
    # The gradient of a sum is one number, expanded.
    assert launches == [IN_TURN, STRIDED]
    torch.testing.assert_close(leaf.grad, expected)


LIMITS = {"limit and offset": (1.5, 1.0), "limit": (1.0, 0.0), "offset": (None, -0.5)}


def limited(plain, limit, offset):
    """Gates and values cut off as torch.clamp does."""

    def composition(x, gate, *p):
        if limit is not None:
            x, gate = x.clamp(-limit, limit), gate.clamp(max=limit)
        return plain(gate, *p) * (x + offset)

    return composition


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("which", LIMITS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_limits(name, which, dtype, launches, device):
    activation, plain = GATES[name]
    limit, offset = LIMITS[which]
    x, gate = (2 * torch.randn(1009, device=device).to(dtype) for _ in range(2))

    def ours(x, gate):
        return FF.gated(x, gate, activation, limit=limit, offset=offset)

    assert_right(ours, limited(plain, limit, offset), (x, gate), (), [FLAT] * 2, launches)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["number", "pointer", "channel"])
def test_limits_of_one_tensor(layout, kind, launches, device):
    """gpt-oss's, with a beta that learns: it comes before the limits among the kernel's parameters."""
    packed = 2 * torch.randn(5, 66, device=device)
    params = () if kind == "number" else (torch.rand(33 if kind == "channel" else 1, device=device) + 0.5,)

    def ours(t, beta=1.702):
        return FF.packed_glu(t, "swish", layout=layout, beta=beta, limit=1.5, offset=1.0)

    def composition(t, beta=1.702):
        value, gate = halves(t, 1, layout)
        gate, value = gate.clamp(max=1.5), value.clamp(-1.5, 1.5)
        return gate * torch.sigmoid(beta * gate) * (value + 1)

    usual = IN_TURN if layout == "interleaved" else STRIDED
    kernels = (STRIDED, CHANNEL) if kind == "channel" else [usual] * 2
    assert_right(ours, composition, (packed,), params, kernels, launches)


@pytest.mark.parametrize("which", LIMITS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_limits_at_edges(which, dtype, device):
    """At the limit gradients pass, beyond it and at NaN they are 0."""
    limit, offset = LIMITS[which]
    edge = [0.0, -0.0, 1.0, 1.5, -1.0, -1.5, 1.5000001, -1.5000001, 40.0, -40.0, math.inf, -math.inf, math.nan]
    edge = torch.tensor(edge, device=device).to(dtype)
    x, gate = (t.flatten().requires_grad_() for t in torch.meshgrid(edge, edge, indexing="ij"))
    y = FF.gated(x, gate, "relu", limit=limit, offset=offset)
    got = torch.autograd.grad(y, (x, gate), torch.ones_like(y))
    wide = [t.detach().float().requires_grad_() for t in (x, gate)]
    true = limited(F.relu, limit, offset)(*wide)
    true_grads = torch.autograd.grad(true, wide, torch.ones_like(true))
    for one, other in zip((y, *got), (true, *true_grads), strict=True):
        torch.testing.assert_close(one, other.to(dtype), equal_nan=True)


@pytest.mark.parametrize("which", range(3))
def test_limited_gradients_alone(which, launches, device):
    tensors = [torch.randn(5, 40, device=device), torch.randn(5, 40, device=device), torch.tensor([0.7], device=device)]

    def run(*wanted):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        FF.gated(leaves[0], leaves[1], "swish", beta=leaves[2], limit=0.5, offset=1.0).backward(tensors[0])
        return [leaf.grad for leaf in leaves]

    alone, together = run(which), run(0, 1, 2)
    assert [grad is not None for grad in alone] == [i == which for i in range(3)]
    assert torch.equal(alone[which], together[which])
    assert set(launches) == {FLAT}


@pytest.mark.parametrize("which", range(3))
def test_each_gradient_alone(which, launches, device):
    tensors = [torch.randn(5, 40, device=device), torch.randn(5, 40, device=device), torch.tensor([0.7], device=device)]

    def run(*wanted):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        y = FF.gated(leaves[0], leaves[1], "swish", beta=leaves[2])
        y.backward(tensors[0])
        return [leaf.grad for leaf in leaves]

    alone, together = run(which), run(0, 1, 2)
    assert [grad is not None for grad in alone] == [i == which for i in range(3)]
    assert torch.equal(alone[which], together[which])
    assert set(launches) == {FLAT}


def test_sums_are_the_same_each_time(device):
    x, gate, beta = (torch.randn(n, device=device) for n in ((40, 70), (40, 70), (70,)))

    def run():
        leaf = beta.clone().requires_grad_()
        FF.gated(x, gate, "swish", beta=leaf).backward(x)
        return leaf.grad

    assert torch.equal(run(), run())


def test_extremes(device):
    """As the activation's kernel has them, times x."""
    edge = torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e30, -1e30], device=device)
    x, gate = (t.flatten() for t in torch.meshgrid(edge, edge, indexing="ij"))
    for name in ("silu", "relu", "swish"):
        expected = FF.activate(gate, name) * x
        torch.testing.assert_close(FF.gated(x, gate, name), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["silu", "swish"])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_silu_of_every_half(name, dtype, device):
    """What shares the quotient, in both tails and at infinities."""
    gate = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    gate = gate[~gate.isnan()].to(device).requires_grad_()
    one = torch.ones_like(gate).requires_grad_()
    value, slope = torch.autograd.grad(FF.gated(one, gate, name), (one, gate), torch.ones_like(gate))
    z = gate.detach().cpu().double()
    s = torch.sigmoid(z)
    finite = z.isfinite()
    true = torch.where(z == -math.inf, 0.0, z * s), torch.where(finite, s + z * s * (1 - s), (z > 0).double())
    eps, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for got, expected, atol in zip((value, slope), true, (0.0, 2**-21), strict=True):
        got, expected = got.cpu().double(), expected.to(dtype).double()
        torch.testing.assert_close(got, expected, rtol=1.01 * eps, atol=atol + 1.01 * least)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.702, -0.5])
def test_the_swish_that_backward_shares(beta, device):
    """In fp32 it is made of what the slope is made of, in both tails."""
    gate = torch.cat([torch.linspace(-110, 110, 4001), torch.tensor([math.inf, -math.inf, 1e30, -1e30])]).to(device)
    one = torch.ones_like(gate).requires_grad_()
    y = FF.gated(one, gate, "swish", beta=beta)
    (shared,) = torch.autograd.grad(y, one, torch.ones_like(gate))
    z = gate.cpu().double()
    finite = z.clamp(-1e30, 1e30)
    weight = torch.sigmoid(torch.tensor(beta).double() * finite)
    true = torch.where(weight == 0, 0.0, z * weight)
    torch.testing.assert_close(
        shared.cpu().double(), true, rtol=3 * torch.finfo(FP32).eps, atol=2**-147, check_dtype=False
    )
    assert torch.equal(shared.isfinite(), y.isfinite())


def test_hardly_any_elements(launches, device):
    x = torch.empty(0, 4, device=device, requires_grad=True)
    beta = torch.ones(4, device=device, requires_grad=True)
    launches.clear()
    FF.packed_glu(x, "swish", 0, layout="gate_value", beta=beta).sum().backward()
    assert x.grad.shape == (0, 4) and torch.equal(beta.grad.cpu(), torch.zeros(4))
    assert not launches


def test_glu_and_modules(launches, device):
    x = torch.randn(4, 64, device=device)
    launches.clear()
    torch.testing.assert_close(FF.glu(x), F.glu(x))
    torch.testing.assert_close(fusedact.GLU()(x), F.glu(x))
    gate, value = x.chunk(2, -1)
    torch.testing.assert_close(fusedact.SwiGLU()(x), F.silu(gate) * value)
    assert launches == [STRIDED] * 3
