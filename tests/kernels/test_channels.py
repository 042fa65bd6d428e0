"""Parameters per channel, through the launcher itself: values, gradients, and sums that keep to their channels."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from fusedact.kernels import device_functions, grids, launch

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SENTINEL = 777.0

# Each a function of x and one parameter, in plain PyTorch.
FORMULAS = {
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
    "relu_sigmoid": lambda x, t: torch.relu(x - t) * torch.sigmoid(x),
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)),
}
NAMES = sorted(FORMULAS)


def broadcast(p, x, channel_dim):
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return p.reshape(shape)


def truth(name, g, x, p, channel_dim):
    """Value, dx, the parameter's gradient, and the sum of its absolute terms, in float64."""
    x, each = x.cpu().double().requires_grad_(), broadcast(p.cpu().double(), x, channel_dim)
    each = each.expand(x.shape).clone().requires_grad_()
    y = FORMULAS[name](x, each)
    dx, terms = torch.autograd.grad(y, (x, each), g.cpu().double())
    others = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
    sums = (terms.sum(others), terms.abs().sum(others)) if others else (terms, terms.abs())
    return y.detach(), dx, *sums


def evaluate(name, g, x, p, channel_dim, with_dx=True):
    out, dx = torch.empty_like(x), torch.empty_like(x) if with_dx else None
    launch.forward(name, x, out, (p,), channel_dim)
    partials = launch.backward(name, g, x, dx, (p,), (True,), channel_dim)
    return out, dx, partials


def assert_right(name, g, x, p, channel_dim):
    """Within half a unit of halves and a few of fp32; sums within what fp32 terms and their sum may lose."""
    out, dx, partials = evaluate(name, g, x, p, channel_dim)
    y, slope, total, scale = truth(name, g, x, p, channel_dim)
    eps = max(torch.finfo(x.dtype).eps / 2, 2**-20)
    torch.testing.assert_close(out.cpu().double(), y, rtol=1.01 * eps, atol=2**-20)
    torch.testing.assert_close(dx.cpu().double(), slope, rtol=1.01 * eps, atol=2**-18)
    assert partials.dtype == FP32 and partials.shape[::2] == (1, p.numel() if p.numel() > 1 else 1)
    terms = 2**-20 if x.dtype == FP32 else 2**-15
    got = partials[0].cpu().sum(0).double()
    assert ((got - (total if p.numel() > 1 else total.sum())).abs() <= terms * scale + 1e-30).all()


# A function of a shape's elements in memory order to the tensor, and the channels' dimension.
LAYOUTS = {
    "(N, C)": ((37, 64), 1, lambda t: t),
    "(N, C), negative": ((37, 64), -1, lambda t: t),
    "(B, T, C)": ((3, 21, 48), 2, lambda t: t),
    "(N, C, H, W)": ((5, 6, 7, 7), 1, lambda t: t),
    "(N, C, H, W), aligned": ((3, 5, 8, 16), 1, lambda t: t),
    "(N, C, L), long": ((2, 3, 2500), 1, lambda t: t),
    "(N, C, 1, 1)": ((9, 40, 1, 1), 1, lambda t: t),
    "(C, N)": ((40, 33), 0, lambda t: t),
    "(1, C)": ((1, 100), 1, lambda t: t),
    "(C,)": ((100,), 0, lambda t: t),
    "channels_last": ((3, 20, 5, 4), 1, lambda t: t.to(memory_format=torch.channels_last)),
    "transposed": ((33, 40), 1, lambda t: t.t().contiguous().t()),
    "rows sliced": ((60, 48), 1, lambda t: t[::3]),
    "channels sliced": ((30, 64), 1, lambda t: t[:, 3:50]),
    "every other channel": ((30, 64), 1, lambda t: t[:, ::2]),
    "channel half": ((3, 12, 5, 6), 1, lambda t: t.chunk(2, dim=1)[1]),
    "half of channels_last": (
        (3, 12, 5, 6),
        1,
        lambda t: t.to(memory_format=torch.channels_last).chunk(2, dim=1)[1],
    ),
    "image sliced": ((3, 6, 9, 10), 1, lambda t: t[:, :, 1:8, ::3]),
    "permuted": ((4, 5, 6, 7), 3, lambda t: t.permute(2, 0, 3, 1)),
    "expanded": ((1, 30, 8), 1, lambda t: t.expand(4, 30, 8)),
}


def drawn(layout, dtype, device):
    shape, channel_dim, view = LAYOUTS[layout]
    x = view((3 * torch.randn(shape, device=device)).to(dtype))
    return x, torch.empty_like(x).copy_(torch.randn(x.shape, device=device)), channel_dim


def parameter(count, device, dtype=FP32):
    return (torch.linspace(-1.5, 2, count, device=device)).to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_layouts(name, layout, launches, device):
    x, g, channel_dim = drawn(layout, FP32, device)
    assert_right(name, g, x, parameter(x.shape[channel_dim], device), channel_dim)
    assert launches == ["forward_strided_kernel", "backward_channel_kernel"]


@pytest.mark.parametrize("layout", ["(N, C)", "(N, C, H, W)", "channels_last", "channel half"])
@pytest.mark.parametrize(("dtype", "p_dtype"), [(BF16, FP32), (BF16, BF16), (FP16, FP32), (FP16, FP16), (FP32, BF16)])
@pytest.mark.parametrize("name", ["elu", "swish"])
def test_dtypes(name, layout, dtype, p_dtype, device):
    x, g, channel_dim = drawn(layout, dtype, device)
    assert_right(name, g, x, parameter(x.shape[channel_dim], device, p_dtype), channel_dim)


# One channel; fewer than a tile; a tile's width; one more; several tiles; as many as a language model has.
@pytest.mark.parametrize("count", [1, 2, 3, 64, 257, 4096, 16_384])
@pytest.mark.parametrize("last", [False, True], ids=["second", "last"])
def test_channels(count, last, launches, device):
    rest = 40 if count < 300 else 3
    shape, channel_dim = ((rest, count), 1) if last else ((2, count, rest), 1)
    x, g = torch.randn(shape, device=device), torch.randn(shape, device=device)
    assert_right("elu", g, x, parameter(count, device), channel_dim)
    # A tensor of one element is no tensor per channel.
    flat = ["forward_kernel", "backward_kernel"]
    assert launches == (flat if count == 1 else ["forward_strided_kernel", "backward_channel_kernel"])


GRADIENTS = {
    "one number": lambda g: g[:1, :1, :1].expand_as(g),
    "one image": lambda g: g[:1].expand_as(g),
    "one per channel": lambda g: g[:1, :, :1].expand_as(g),
    "one per place": lambda g: g[:, :1].expand_as(g),
    "another layout": lambda g: g.transpose(0, 2).contiguous().transpose(0, 2),
    "sliced": lambda g: torch.cat([g, g], 2)[..., ::2],
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("channel_dim", [1, 2])
def test_gradients_of_another_layout(kind, channel_dim, device):
    x, g = torch.randn(5, 24, 36, device=device), GRADIENTS[kind](torch.randn(5, 24, 36, device=device))
    assert_right("swish", g, x, parameter(x.shape[channel_dim], device), channel_dim)


@pytest.mark.parametrize(("shape", "channel_dim"), [((1100, 20), 1), ((12, 3, 9, 20), 1)], ids=["cols", "rows"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_several_programs_to_a_channel(shape, channel_dim, dtype, device, monkeypatch):
    """Each with several tiles, and a last one that is cut short; whatever their number, the sums are right."""
    x, g = torch.randn(shape, device=device).to(dtype), torch.randn(shape, device=device).to(dtype)
    p = parameter(shape[channel_dim], device)
    for programs in (1, 4, 1056):
        monkeypatch.setattr(grids, "CHANNEL_PROGRAMS", programs)
        assert_right("swish", g, x, p, channel_dim)
        first, second = (evaluate("swish", g, x, p, channel_dim) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert first[2].shape[1] <= programs


@pytest.mark.parametrize("layout", ["(N, C)", "(N, C, H, W)", "channel half"])
def test_only_the_parameter_needs_a_gradient(layout, device):
    x, g, channel_dim = drawn(layout, FP32, device)
    p = parameter(x.shape[channel_dim], device)
    before = x.clone(), g.clone()
    expected = evaluate("swish", g, x, p, channel_dim)[2]
    partials = evaluate("swish", g, x, p, channel_dim, with_dx=False)[2]
    torch.testing.assert_close(partials.sum(1), expected.sum(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before[0]) and torch.equal(g, before[1])


def test_only_x_needs_a_gradient(launches, device):
    x, g, channel_dim = drawn("(N, C, H, W)", FP32, device)
    p = parameter(x.shape[channel_dim], device)
    expected = evaluate("swish", g, x, p, channel_dim)[1]
    launches.clear()
    dx = torch.empty_like(x)
    assert launch.backward("swish", g, x, dx, (p,), (False,), channel_dim) is None
    assert launches == ["backward_strided_kernel"]
    torch.testing.assert_close(dx, expected, rtol=1e-6, atol=1e-7)


def test_no_elements(launches, device):
    p = parameter(6, device)
    for shape in ((0, 6), (3, 6, 0)):
        x = torch.randn(shape, device=device)
        out, dx, partials = evaluate("elu", x, x, p, 1)
        assert out.shape == dx.shape == shape and partials.sum(1).tolist() == [[0.0] * 6]
        assert launch.backward("elu", x, x, dx, (p,), (False,), 1) is None
    x = torch.randn(4, 0, device=device)
    assert evaluate("elu", x, x, p[:0], 1)[2].sum(1).shape == (1, 0)
    assert launches == []


# ----- several parameters


@triton.jit
def blend(x, params, precise: tl.constexpr):
    """a x^2 + b x + c x^3."""
    return params[0] * x * x + params[1] * x + params[2] * x * x * x


@triton.jit
def blend_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 2 a x + b + 3 c x^2, d/da = x^2, d/db = x, d/dc = x^3."""
    dx = g * (2.0 * params[0] * x + params[1] + 3.0 * params[2] * x * x)
    return dx, (g * x * x, g * x, g * x * x * x)


@pytest.mark.parametrize("channel_dim", [1, 2])
@pytest.mark.parametrize("needed", [(True, True, False), (True, False, False), (False, True, False)], ids=str)
def test_mixed_parameters(channel_dim, needed, launches, device, monkeypatch):
    """One per channel, a tensor of one element, and a number; gradients of those that need one."""
    for function in (blend, blend_backward):
        monkeypatch.setitem(device_functions._written, function.__name__, function)
    x, g = torch.randn(4, 20, 30, device=device), torch.randn(4, 20, 30, device=device)
    a, b, c = parameter(x.shape[channel_dim], device), torch.tensor([0.3], device=device), -0.25
    out, dx = torch.empty_like(x), torch.empty_like(x)
    launch.forward("blend", x, out, (a, b, c), channel_dim)
    each = broadcast(a, x, channel_dim).double()
    torch.testing.assert_close(out.double(), each * x**2 + 0.3 * x.double() + c * x.double() ** 3, rtol=1e-5, atol=1e-5)
    partials = launch.backward("blend", g, x, dx, (a, b, c), needed, channel_dim)
    slope = g.double() * (2 * each * x + 0.3 + 3 * c * x.double() ** 2)
    torch.testing.assert_close(dx.double(), slope, rtol=1e-5, atol=1e-5)
    assert partials.shape[::2] == (3, a.numel())
    others = [d for d in range(3) if d != channel_dim]
    if needed[0]:
        torch.testing.assert_close(partials[0].sum(0), (g * x * x).sum(others), rtol=1e-4, atol=1e-4)
    if needed[1]:
        torch.testing.assert_close(partials[1].sum(), (g * x).sum(), rtol=1e-4, atol=1e-3)
    assert launches == ["forward_strided_kernel", "backward_channel_kernel"]


def test_tensors_of_one_element_alone(launches, device):
    """Nothing tells channels apart: the flat kernels serve, and their sums have room for a channel."""
    x, g = torch.randn(8, 5, 6, device=device), torch.randn(8, 5, 6, device=device)
    p = torch.tensor([0.4], device=device)
    out, dx, partials = evaluate("elu", g, x, p, 1)
    assert launches == ["forward_kernel", "backward_kernel"]
    same = evaluate("elu", g, x, p, None)
    assert torch.equal(out, same[0]) and torch.equal(dx, same[1])
    assert partials.shape == (*same[2].shape, 1) and torch.equal(partials[..., 0], same[2])


# ----- edges


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize(("shape", "channel_dim"), [((33, 5), 1), ((3, 5, 7), 1)], ids=["cols", "rows"])
def test_channels_stay_apart(bad, shape, channel_dim, device):
    """A parameter that makes infinities and NaN spoils no other channel's sum, and its own in no masked element."""
    x, g = torch.rand(shape, device=device) + 0.5, torch.randn(shape, device=device)
    good = parameter(5, device)
    p = good.clone()
    p[2], p[4] = bad, bad
    # Positive inputs: no finite element's part depends on the parameter.
    expected, got = (evaluate("elu", g, x, q, channel_dim)[2].sum(1) for q in (good, p))
    assert torch.equal(expected, got) and got.isfinite().all()
    # At a masked element z would be 0 * inf.
    got, expected = (evaluate("swish", g, x, q, channel_dim)[2].sum(1)[0] for q in (p, good))
    assert torch.equal(got[[0, 1, 3]], expected[[0, 1, 3]])
    assert got[[2, 4]].isnan().all() if math.isnan(bad) else (got[[2, 4]] == 0).all()


@pytest.mark.parametrize(("shape", "channel_dim"), [((33, 5), 1), ((3, 5, 7), 1)], ids=["cols", "rows"])
def test_infinite_gradients_reach_their_channel_alone(shape, channel_dim, device):
    x, g = -torch.ones(shape, device=device), torch.randn(shape, device=device)
    g.select(channel_dim, 1).fill_(math.inf)
    got = evaluate("elu", g, x, parameter(5, device), channel_dim)[2].sum(1)[0]
    assert got[1] == -math.inf and got[[0, 2, 3, 4]].isfinite().all()


def guarded(shape, strides, dtype, device):
    """A sentinel-filled buffer, and a view into its middle."""
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    buffer = torch.full((span + 256,), SENTINEL, dtype=dtype, device=device)
    return buffer, buffer.as_strided(shape, strides, 128)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize(
    ("shape", "strides", "channel_dim"),
    [
        ((33, 5), (8, 1), 1),
        ((33, 257), (260, 1), 1),
        ((3, 5, 7), (64, 11, 1), 1),
        ((3, 5, 7), (64, 1, 6), 1),
        ((5, 2100), (2111, 1), 0),
    ],
    ids=str,
)
def test_nothing_is_written_around_the_results(shape, strides, channel_dim, dtype, device, guarded_sums):
    """Neither around dx, its own gaps included, nor around the sums, all of which are written."""
    x, g = torch.randn(shape, device=device).to(dtype), torch.randn(shape, device=device).to(dtype)
    buffer, dx = guarded(shape, strides, dtype, device)
    partials = launch.backward("swish", g, x, dx, (parameter(shape[channel_dim], device),), (True,), channel_dim)
    (sums,) = guarded_sums
    assert not (dx == SENTINEL).any() and (buffer == SENTINEL).sum() == buffer.numel() - math.prod(shape)
    assert not partials.isinf().any()
    assert sums[:32].isinf().all() and sums[-32:].isinf().all()


# ----- the grid


@pytest.mark.parametrize("side", ["cols", "rows"])
@pytest.mark.parametrize("channels", [2, 3, 64, 257, 4096, 16_384])
@pytest.mark.parametrize("sizes", [[1], [49, 2], [3136, 32], [65_536], [7, 5, 3]], ids=str)
@pytest.mark.parametrize("block", [1024, 2048, 4096])
def test_channel_tiles(side, channels, sizes, block):
    """Tiles are powers of two and one block; the programs are near their target, and each has a share."""
    block_channels, block_others, grid = grids.channel_tiles(channels, sizes, side, block)
    assert block_channels & (block_channels - 1) == 0 and block_channels * block_others == block
    channel_tiles, tiles = -(-channels // block_channels), -(-math.prod(sizes) // block_others)
    groups, rest = divmod(grid, channel_tiles)
    share = -(-tiles // groups)
    assert rest == 0 and (groups - 1) * share < tiles <= groups * share
    assert groups == 1 or grid <= grids.CHANNEL_PROGRAMS
    # No tile is mostly empty that need not be.
    assert channel_tiles * block_channels < 2 * channels
