"""The kernels of rrelu: slopes by seed and place, the same in forward and backward, whatever the layout."""

from __future__ import annotations

import math

import pytest
import torch

import fusedact
from fusedact import functional as FF

FLAT, STRIDED = ["rrelu_kernel"] * 2, ["rrelu_strided_kernel"] * 2


def drawn(x, *bounds, g=None, **options):
    """Value and gradient, from one seed."""
    torch.manual_seed(0)
    leaf = x.detach().requires_grad_()
    y = FF.rrelu(leaf, *bounds, training=True, **options)
    return y.detach().cpu(), torch.autograd.grad(y, leaf, torch.ones_like(x) if g is None else g)[0].cpu()


@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (-0.5, 1.5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_slopes(dtype, bounds, device, launches):
    low, high = bounds
    n = 20_003
    y, dx = drawn(torch.full((n,), -1.0, dtype=dtype, device=device), *bounds)
    assert launches == FLAT
    assert torch.equal(-y, dx)
    slopes = dx.double()
    eps = torch.finfo(dtype).eps
    assert slopes.min() >= low - eps * abs(low) and slopes.max() <= high + eps * high
    ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    distance = ((slopes.sort().values - low) / (high - low) - ranks).abs().max()
    assert distance < 1.95 / n**0.5 + 2 * eps * max(abs(low), high) / (high - low)
    centred = slopes - slopes.mean()
    for lag in (1, 2, 3, 4, 512, 1024, 2048):
        assert (centred[lag:] * centred[:-lag]).mean().abs() / centred.var() < 5 / (n - lag) ** 0.5


VIEWS = {
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[::2, 1::2],
    "channels last": lambda x: x.reshape(2, 5, 8, -1).to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(7, -1),
    "flipped": lambda x: x.flip(0)[1:, 1:],
    "one row": lambda x: x[:, 3],
}


@pytest.mark.parametrize("view", VIEWS)
def test_layouts(view, device, launches):
    x = VIEWS[view](torch.randn(40, 30, device=device))
    g = torch.randn(x.shape, device=device)
    strided = drawn(x, g=g)
    assert launches == STRIDED
    launches.clear()
    dense = drawn(x.contiguous(), g=g)
    assert launches == FLAT
    assert all(torch.equal(a, b) for a, b in zip(strided, dense, strict=True))


def test_a_gradient_without_a_layout(device, launches):
    x = torch.randn(30, 7, device=device)
    y, dx = drawn(x, g=torch.ones((), device=device).expand(x.shape))
    assert launches == [FLAT[0], STRIDED[0]]
    torch.testing.assert_close(dx, torch.where(x.cpu() > 0, 1.0, y / x.cpu()))


def test_backward_and_positive_numbers(device):
    x, g = torch.randn(3001, device=device), torch.randn(3001, device=device)
    y, dx = drawn(x, g=g)
    x, g = x.cpu(), g.cpu()
    assert torch.equal(y[x > 0], x[x > 0]) and torch.equal(dx[x > 0], g[x > 0])
    torch.testing.assert_close(dx, g * torch.where(x > 0, 1.0, y / x), rtol=1e-6, atol=1e-9)


def test_extremes(device):
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 3e38, -3e38], device=device)
    y, dx = drawn(x, 0.25, 0.5)
    assert y[:4].tolist() == [0.0, 0.0, math.inf, -math.inf] and y[4].isnan() and y[5] == x[5].cpu()
    assert dx[[2, 4, 5]].tolist() == [1.0] * 3
    assert ((dx[[0, 1, 3, 6]] >= 0.25) & (dx[[0, 1, 3, 6]] <= 0.5)).all()


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.t()], ids=["plain", "t"])
def test_inplace(view, device, launches):
    x = view(torch.randn(20, 30, device=device))
    want, _ = drawn(x)
    launches.clear()
    torch.manual_seed(0)
    version = x._version
    assert FF.rrelu(x, training=True, inplace=True) is x
    assert torch.equal(x.cpu(), want) and x._version > version and len(launches) == 1


def test_calls_differ(device):
    x = torch.full((100,), -1.0, device=device)
    assert not torch.equal(FF.rrelu(x, training=True), FF.rrelu(x, training=True))
    module = fusedact.RReLU().eval()
    torch.testing.assert_close(module(x), x * ((1 / 8 + 1 / 3) / 2))


def test_no_elements(device, launches):
    x = torch.randn(0, 3, device=device)
    y, dx = drawn(x)
    assert y.shape == dx.shape == (0, 3) and launches == []


# ----- what is kept


policies = pytest.mark.parametrize("policy", ["input", "output", "bits"])


def kept(x, *bounds, **options):
    """What is kept beside the seed, in words."""
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        y = FF.rrelu(x, *bounds, training=True, **options)
    (other,) = (t for t in found if t.dtype != torch.int64)
    if other.dtype == torch.uint8:
        assert other.nbytes == (x.numel() + 7) // 8
        return "bits"
    return {x.data_ptr(): "input", y.data_ptr(): "output"}[other.data_ptr()]


@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (0.0, 0.5), (-0.5, 1.5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@policies
def test_policies(policy, dtype, bounds, device, launches):
    """To the last bit as from the input, by the same kernel; from the output where its sign is that of the input."""
    x, g = torch.randn(3001, device=device).to(dtype), torch.randn(3001, device=device).to(dtype)
    want = drawn(x, *bounds, g=g)
    launches.clear()
    got = drawn(x, *bounds, g=g, save=policy)
    assert launches == FLAT
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    keeps = kept(x.requires_grad_() * 1, *bounds, save=policy)
    assert keeps == ("bits" if policy == "output" and bounds[0] < 0 else policy)
    told = fusedact.explain("rrelu", x, lower=bounds[0], upper=bounds[1], training=True, save=policy)
    assert told.kind == "triton" and told.keeps == keeps
    with fusedact.save_policy(policy):
        assert kept(x * 1, *bounds) == keeps


@pytest.mark.parametrize("view", VIEWS)
@policies
def test_policies_in_any_layout(policy, view, device):
    x = VIEWS[view](torch.randn(40, 30, device=device))
    g = torch.randn(x.shape, device=device)
    for a, b in zip(drawn(x, g=g, save=policy), drawn(x.contiguous(), g=g), strict=True):
        assert torch.equal(a, b)


@policies
def test_policies_and_extremes(policy, device):
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45], device=device)
    _, dx = drawn(x, 0.25, 0.5, save=policy)
    assert dx[[2, 4]].tolist() == [1.0] * 2 and ((dx[[0, 1, 3]] >= 0.25) & (dx[[0, 1, 3]] <= 0.5)).all()


@policies
def test_policies_in_place(policy, device, launches):
    leaf = torch.randn(20, 30, device=device, requires_grad=True)
    x, g = leaf * 1, torch.randn(20, 30, device=device)
    want = drawn(leaf, g=g)
    launches.clear()
    torch.manual_seed(0)
    y = FF.rrelu(x, training=True, inplace=True, save=policy)
    assert y is x and torch.equal(y.detach().cpu(), want[0])
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0].cpu(), want[1]) and launches == FLAT


@policies
def test_policies_and_second_order(policy, device):
    x, g = torch.randn(300, device=device, requires_grad=True), torch.randn(300, device=device, requires_grad=True)
    torch.manual_seed(0)
    y = FF.rrelu(x, training=True, save=policy)
    (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
    slopes = torch.where(x > 0, 1.0, y / x).detach()
    torch.testing.assert_close(torch.autograd.grad(dx, g, torch.ones_like(g))[0], slopes)
