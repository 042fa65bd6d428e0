"""bias_act through its kernels: values, gradients, sums, layouts, dropout's mask by place, NaN."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.kernels import launch_pointwise, random_bits

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
FLAT, STRIDED, CHANNEL = "pointwise_kernel", "pointwise_strided_kernel", "pointwise_channel_kernel"


@fusedact.activation
def bent(x, a=0.5):
    """x + a tanh(x)^2."""
    return x + a * torch.tanh(x) ** 2


# Hand-written, generated, and one's own; the same in plain operators.
HOSTED = {
    "silu": ("silu", lambda t: F.silu(t)),
    "gelu": ("gelu", lambda t: F.gelu(t)),
    "relu_sigmoid": ("relu_sigmoid", lambda t: F.relu(t) * torch.sigmoid(t)),
    "swish": ("swish", lambda t, p=1.0: t * torch.sigmoid(p * t)),
    "own": (bent, lambda t, p=0.5: t + p * torch.tanh(t) ** 2),
}
KEYS = {"swish": "beta", "own": "a"}


def seeded(function, seed=0):
    def call(*args):
        torch.manual_seed(seed)
        return function(*args)

    return call


def factors(shape, p, device, seed=0):
    """What dropout multiplies with, told by dropping contiguous ones."""
    ones = torch.ones(shape, device=device)
    return seeded(lambda: FF.bias_act(ones, None, "identity", None, p), seed)().cpu().double()


def assert_near(got, true, dtype):
    """Half a unit of halves, a few of fp32, and as much of the terms that it is made of."""
    rtol = 2e-6 if dtype == FP32 else 0.51 * torch.finfo(dtype).eps
    atol = 4e-6 if dtype == FP32 else 2**-14
    torch.testing.assert_close(got.cpu().double(), true, rtol=rtol, atol=atol, equal_nan=True)


def assert_right(ours, composition, given, sums, kernels, launches):
    """The value and all gradients, those of `sums` within what sums err by; through these kernels, forward's first."""
    dtype = given[0].dtype
    leaves = [t.detach().requires_grad_() for t in (*given, *sums)]
    wide = [t.detach().cpu().double().requires_grad_() for t in leaves]
    launches.clear()
    y, true = seeded(ours)(*leaves), composition(*wide)
    g = torch.randn(true.shape).to(dtype)
    grads = torch.autograd.grad(y, leaves, g.to(y.device))
    assert launches == list(kernels)
    true_grads = torch.autograd.grad(true, wide, g.double())
    count = len(given)
    for got, expected in zip((y.detach(), *grads[:count]), (true.detach(), *true_grads[:count]), strict=True):
        assert got.dtype == dtype
        assert_near(got, expected, dtype)
    for got, expected, p in zip(grads[count:], true_grads[count:], sums, strict=True):
        assert got.shape == p.shape and got.dtype == p.dtype
        rtol = max(1e-5, torch.finfo(p.dtype).eps)
        torch.testing.assert_close(got.cpu().double(), expected, rtol=rtol, atol=1e-6 * y.numel())
    return grads


@pytest.mark.parametrize("name", HOSTED)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize(("p", "shape"), [(0.0, (3, 509)), (0.3, (4, 256)), (0.3, (7,))], ids=str)
def test_bias_along_the_last_dimension(name, dtype, p, shape, launches, device):
    activation, plain = HOSTED[name]
    x, residual = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    bias = torch.randn(shape[-1], device=device).to(dtype)
    dropped = factors(shape, p, device)
    assert_right(
        lambda x, r, b: FF.bias_act(x, b, activation, r, p),
        lambda x, r, b: plain(x + b) * dropped + r,
        *((x, residual), (bias,), (STRIDED, CHANNEL), launches),
    )


@pytest.mark.parametrize(
    ("bias", "residual", "p"),
    [
        ("none", True, 0.0),
        ("none", False, 0.3),
        ("()", False, 0.0),
        ("()", True, 0.3),
        ("(1,)", True, 0.0),
        ("(1,)", False, 0.3),
    ],
)
@pytest.mark.parametrize("shape", [(), (5, 600)], ids=str)
def test_flat(bias, residual, p, shape, launches, device):
    given = [torch.randn(shape, device=device) for _ in range(2 if residual else 1)]
    sums = [] if bias == "none" else [torch.randn({"()": (), "(1,)": (1,)}[bias], device=device)]
    dropped = factors(shape, p, device)

    def split(tensors):
        rest = list(tensors[1:])
        return tensors[0], rest.pop(0) if residual else None, rest.pop(0) if rest else None

    def ours(*tensors):
        x, r, b = split(tensors)
        return FF.bias_act(x, b, "silu", r, p)

    def composition(*tensors):
        x, r, b = split(tensors)
        y = F.silu(x if b is None else x + b.reshape(())) * dropped
        return y if r is None else y + r

    assert_right(ours, composition, given, sums, [FLAT] * 2, launches)


@pytest.mark.parametrize("shape", [(3, 8, 5, 4), (2, 6, 3, 3), (2, 3, 1, 7)], ids=str)
@pytest.mark.parametrize("channel_dim", [0, 1, 2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_bias_along_any_dimension(shape, channel_dim, layout, p, launches, device):
    x = torch.randn(shape, device=device)
    x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x
    bias = torch.randn(shape[channel_dim], device=device)
    along = [-1 if d == channel_dim else 1 for d in range(4)]
    dropped = factors(shape, p, device)
    kernels = (STRIDED, CHANNEL)
    if shape[channel_dim] == 1:
        # The gradient is made contiguous.
        kernels = (FLAT if p == 0.0 or layout == "contiguous" else STRIDED, STRIDED if layout != "contiguous" else FLAT)
    assert_right(
        lambda x, b: FF.bias_act(x, b, "silu", None, p, channel_dim=channel_dim),
        lambda x, b: F.silu(x + b.reshape(along)) * dropped,
        *((x,), (bias,), kernels, launches),
    )


VIEWS = {
    "transposed": lambda t: t.t(),
    "columns": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand(12, 16),
    "offset": lambda t: t.flatten()[1:].view(-1)[:176].view(11, 16),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("of", ["x", "residual", "both"])
@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("biased", [False, True])
def test_strides(view, of, p, biased, launches, device):
    x, residual = (torch.randn(12, 16, device=device) for _ in range(2))
    x, residual = (VIEWS[view](t) if of in (name, "both") else t for name, t in (("x", x), ("residual", residual)))
    x, residual = (
        t if t.shape == VIEWS[view](torch.empty(12, 16)).shape else torch.randn(VIEWS[view](t).shape, device=device)
        for t in (x, residual)
    )
    bias = torch.randn(x.shape[1], device=device) if biased else None
    y = seeded(lambda: FF.bias_act(x, bias, "silu", residual, p))()
    shift = 0 if bias is None else bias.cpu().double()
    true = F.silu(x.cpu().double() + shift) * factors(x.shape, p, device) + residual.cpu().double()
    assert_near(y, true, FP32)
    assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("shape", [(), (1,), (6,)], ids=str)
@pytest.mark.parametrize(
    ("form", "p"), [("bias", 0.0), ("bias", 0.3), ("one bias", 0.0), ("one bias", 0.3), ("no bias", 0.3)]
)
def test_parameters(name, shape, form, p, launches, device):
    activation, plain = HOSTED[name]
    x, q = torch.randn(3, 6, 40, device=device), torch.rand(shape, device=device) + 0.5
    sums = [q] if form == "no bias" else [q, torch.randn(6 if form == "bias" else 1, device=device)]
    dropped = factors(x.shape, p, device)

    def shaped(t):
        return t.reshape(-1, 1) if t.shape == (6,) else t.reshape(())

    kernels = (STRIDED, CHANNEL) if shape == (6,) or form == "bias" else (FLAT, FLAT)
    assert_right(
        lambda x, q, b=None: FF.bias_act(x, b, activation, None, p, channel_dim=1, **{KEYS[name]: q}),
        lambda x, q, b=None: plain(x if b is None else x + shaped(b), shaped(q)) * dropped,
        *((x,), sums, kernels, launches),
    )


@pytest.mark.parametrize("which", range(4))
def test_each_gradient_alone(which, launches, device):
    tensors = [torch.randn(s, device=device) for s in ((5, 40), (40,), (5, 40), (1,))]

    def run(*wanted):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        x, bias, residual, beta = leaves
        seeded(lambda: FF.bias_act(x, bias, "swish", residual, 0.3, beta=beta))().backward(tensors[0])
        return [leaf.grad for leaf in leaves]

    alone, together = run(which), run(*range(4))
    assert [grad is not None for grad in alone] == [i == which for i in range(4)]
    torch.testing.assert_close(alone[which], together[which], rtol=1e-6, atol=1e-6)


def test_sums_are_the_same_each_time(device):
    x, bias = torch.randn(40, 70, device=device), torch.randn(70, device=device)

    def run():
        leaf = bias.clone().requires_grad_()
        seeded(lambda: FF.bias_act(x, leaf, "silu", None, 0.2))().backward(x)
        return leaf.grad

    assert torch.equal(run(), run())


@pytest.mark.parametrize("dtypes", [(BF16, FP32, BF16), (FP16, FP16, FP32), (FP32, BF16, FP16)], ids=str)
def test_dtypes(dtypes, launches, device):
    x, bias, residual = (
        torch.randn(s, device=device).to(d).requires_grad_()
        for s, d in zip(((6, 40), 40, (6, 40)), dtypes, strict=True)
    )
    y = FF.bias_act(x, bias, "silu", residual)
    assert y.dtype == FP32
    wide = [t.detach().cpu().double().requires_grad_() for t in (x, bias, residual)]
    true = F.silu(wide[0] + wide[1]) + wide[2]
    assert_near(y, true, FP32)
    grads = torch.autograd.grad(y.sum(), (x, bias, residual))
    assert launches == [STRIDED, CHANNEL]
    for got, expected, t in zip(grads, torch.autograd.grad(true.sum(), wide), (x, bias, residual), strict=True):
        assert got.dtype == t.dtype
        torch.testing.assert_close(got.cpu().double(), expected, rtol=torch.finfo(t.dtype).eps, atol=1e-5)


def test_extremes(device):
    """As the activation's kernel has them of the sum; and a NaN is one though it is dropped."""
    edge = torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e30, -1e30], device=device)
    x, bias = edge[:, None].expand(9, 9), edge
    for name in ("silu", "relu", "swish"):
        expected = FF.activate((x + bias).contiguous(), name)
        torch.testing.assert_close(FF.bias_act(x, bias, name), expected, equal_nan=True)
    nan = torch.full((100,), math.nan, device=device)
    assert FF.bias_act(nan, None, "identity", None, 0.5).isnan().all()


def test_hardly_any_elements(launches, device):
    x = torch.empty(0, 4, device=device, requires_grad=True)
    bias = torch.ones(4, device=device, requires_grad=True)
    launches.clear()
    FF.bias_act(x, bias, "swish", x, 0.5).sum().backward()
    assert x.grad.shape == (0, 4) and torch.equal(bias.grad.cpu(), torch.zeros(4))
    assert not launches


# ----- random numbers


@triton.jit
def _both(ours_ptr, theirs_ptr, seed_ptr, first):
    """Four numbers for each of 64 quadruples, and Triton's."""
    i = tl.arange(0, 64)
    quarter = first + i.to(tl.int64)
    seed = tl.load(seed_ptr)
    zero = quarter.to(tl.uint32) * 0
    a, b, c, d = tl.philox(
        *(seed, quarter.to(tl.uint32), (quarter >> 32).to(tl.uint32), zero, zero, random_bits.ROUNDS)
    )
    tl.store(theirs_ptr + 4 * i, a)
    tl.store(theirs_ptr + 4 * i + 1, b)
    tl.store(theirs_ptr + 4 * i + 2, c)
    tl.store(theirs_ptr + 4 * i + 3, d)
    offs = tl.arange(0, 256)
    fours = random_bits.bits_of_fours(seed, quarter)
    each = random_bits.bits_of(seed, 4 * first + offs.to(tl.int64))
    tl.store(ours_ptr + offs, fours)
    tl.store(ours_ptr + 256 + offs, each)


@pytest.mark.parametrize("seed", [-5, 77, 2**62 + 12345])
@pytest.mark.parametrize("first", [0, 2**33 + 7])
def test_numbers_by_fours_and_by_themselves(seed, first, device):
    theirs = torch.zeros(256, dtype=torch.int32, device=device)
    ours = torch.zeros(512, dtype=torch.int32, device=device)
    _both[(1,)](ours, theirs, torch.tensor([seed], device=device), first)
    assert torch.equal(ours[:256], theirs) and torch.equal(ours[256:], theirs)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_mask_is_random(p, device):
    n = 60_000
    y = factors((n,), p, device)
    kept = y != 0
    assert torch.equal(y[kept].float(), torch.full((int(kept.sum()),), 1 / (1 - p)))
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    centred = kept.double() - (1 - p)
    for lag in (1, 2, 3, 4, 5, 8, 512, 1024):
        assert (centred[lag:] * centred[:-lag]).mean().abs() / (p * (1 - p)) < 5 / (n - lag) ** 0.5


def test_calls_have_masks_of_their_own(device):
    first, other = factors((1000,), 0.5, device), factors((1000,), 0.5, device, seed=1)
    assert 0.4 < (first != other).double().mean() < 0.6
    assert torch.equal(factors((1000,), 0.5, device), first)


@pytest.mark.parametrize(
    ("numbers", "along", "how"),
    [
        ((1, 8), 64, "fours"),
        ((1,), 4, "fours"),
        ((1, 8), 2, "each"),
        ((1, 6), 64, "each"),
        ((2, 8), 64, "each"),
        ((1, 12, 30), 64, "each"),
    ],
)
def test_who_takes_numbers_by_fours(numbers, along, how):
    assert launch_pointwise._random(numbers, along) == how


def test_second_derivatives_have_the_same_mask(launches, device):
    x, bias = torch.randn(6, 40, device=device), torch.randn(40, device=device)
    leaves = [t.requires_grad_() for t in (x, bias)]
    dropped = factors(x.shape, 0.5, device).to(device).float()

    def twice(function):
        (dx,) = torch.autograd.grad(function(*leaves).sum(), x, create_graph=True)
        return torch.autograd.grad((dx * dx).sum(), leaves)

    got = twice(seeded(lambda x, b: FF.bias_act(x, b, "silu", None, 0.5)))
    expected = twice(lambda x, b: F.silu(x + b) * dropped)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
