"""The kernels of softmax and its kin: short and long rows, dims in the middle, masks, temperatures, extremes."""

from __future__ import annotations

import functools
import math

import pytest
import rows_oracle as oracle
import torch

import fusedact
from fusedact import functional as FF
from fusedact.kernels import launch_softmax

ONCE = ["softmax_forward_kernel", "softmax_backward_kernel"]
TWICE = ["softmax_forward_looping_kernel", "softmax_backward_looping_kernel"]
INF = math.inf
names = pytest.mark.parametrize("name", oracle.NAMES)


def on(device, *values):
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


def check(name, x, dim, device, launches, kernels=ONCE, temperature=1.0, mask=None, g=None):
    """The value, and the gradients in one pass."""
    g = torch.randn(x.shape).to(x.dtype) if g is None else g
    launches.clear()
    got = oracle.found(oracle.ours(name), *on(device, x, g), dim, *on(device, temperature, mask))
    assert launches == kernels
    oracle.assert_right(name, x, g, dim, temperature, mask, got)
    return got


@pytest.fixture
def short_tiles(monkeypatch):
    """Limits that small tensors reach."""
    for name, value in (
        ("MAX_TILE", 64),
        ("SHORT_TILE", 64),
        ("MAX_SIDE_TILE", 128),
        ("LOOPING_TILE", 128),
        ("SIDE_ROWS", 8),
    ):
        monkeypatch.setattr(launch_softmax, name, value)
    monkeypatch.setattr(launch_softmax, "LEAST_SIDE_ROWS", 4)


@names
@pytest.mark.parametrize(
    ("rows", "n", "dtype"),
    [
        *((1, 1, torch.float32), (5, 2, torch.bfloat16), (300, 3, torch.float32), (3, 64, torch.float16)),
        *((2, 1000, torch.float32), (2, 1000, torch.bfloat16)),
    ],
    ids=str,
)
def test_rows(name, rows, n, dtype, device, launches):
    x = (5 * torch.randn(rows, n)).to(dtype)
    check(name, x, 1, device, launches)
    check(name, x, 1, device, launches, temperature=torch.tensor([0.7]), mask=torch.randn(n).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "kernels"), [(32_768, ONCE), (32_769, TWICE), (262_144, TWICE)])
def test_long_rows(n, kernels, dtype, device, launches):
    x = (3 * torch.randn(1, n)).to(dtype)
    x[0, 7] = 1.0 + x.max()
    check("softmax", x, 1, device, launches, kernels)
    check("log_softmax", x, 1, device, launches, kernels)


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [65, 128, 300])
def test_looping(name, n, dtype, device, launches, short_tiles):
    x, keep = (4 * torch.randn(3, n)).to(dtype), torch.rand(n) > 0.4
    # The largest comes last.
    x[0, -1] = 100.0
    check(name, x, 1, device, launches, TWICE)
    check(name, x, 1, device, launches, TWICE, torch.tensor([1.5]), torch.randn(n).to(dtype))
    if name != "log_softmax":
        keep[0] = True
        check(name, x, 1, device, launches, TWICE, torch.tensor([1.5]), keep)


PLACES = {
    "middle": ((2, 5, 33), 1, lambda x: x, ONCE),
    "channels": ((2, 3, 4, 5), 1, lambda x: x, ONCE),
    "first": ((7, 3, 5), 0, lambda x: x, ONCE),
    "channels last": ((2, 5, 4, 3), 1, lambda x: x.to(memory_format=torch.channels_last), ONCE),
    "transposed": ((6, 40), 0, lambda x: x.t(), ONCE),
    "every other": ((4, 40), 1, lambda x: x[:, ::2], ONCE),
    "expanded": ((1, 20, 3), 2, lambda x: x.expand(4, 20, 3), ONCE),
    "from the second": ((3, 41), 1, lambda x: x[:, 1:], ONCE),
    "permuted": ((3, 4, 5, 6), 2, lambda x: x.permute(2, 0, 3, 1), ONCE),
    "looping, middle": ((2, 50, 9), 1, lambda x: x, TWICE),
    "looping, strided": ((2, 3, 300), 2, lambda x: x[:, :, ::2], TWICE),
}


@pytest.mark.parametrize(
    ("name", "place"),
    [*(("softmax", p) for p in PLACES), ("log_softmax", "middle"), ("softmin", "every other"), ("softmin", "first")],
)
def test_layouts(name, place, device, launches, short_tiles):
    shape, dim, view, kernels = PLACES[place]
    x = view(torch.randn(shape))
    mask = torch.randn(x.shape[-1])
    g = torch.randn(x.shape[:1]).reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape) * torch.ones(())
    check(name, x, dim, device, launches, kernels, torch.tensor(0.8), mask, g)
    # A gradient without a layout of its own.
    check(name, x, dim, device, launches, kernels, g=torch.tensor(0.7).expand(x.shape))
    y = oracle.ours(name)(x.to(device), dim)
    assert place == "expanded" or y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("shape", "looping"), [((7,), False), ((4, 1), False), ((3, 1, 7), True), ((3, 4, 1), True), ((4, 7), False)]
)
def test_masks_broadcast(name, shape, looping, device, launches, request):
    if looping:
        request.getfixturevalue("short_tiles")
    n = 70 if looping else 7
    x, kernels = torch.randn(3, 4, n), TWICE if looping else ONCE
    shape = tuple(n if s == 7 else s for s in shape)
    check(name, x, 2, device, launches, kernels, 2.0, torch.randn(shape))
    keep = torch.rand(shape) > 0.3
    g = torch.randn(x.shape)
    got = oracle.found(oracle.ours(name), *on(device, x, g), 2, 2.0, keep.to(device))
    want = oracle.plain(name, torch.float32, x, g, 2, 2.0, keep)
    torch.testing.assert_close((got.y, got.dx), (want.y, want.dx), equal_nan=True)


def test_a_mask_that_learns(device, launches):
    x, g = torch.randn(3, 4, 7), torch.randn(3, 4, 7)
    bias = torch.randn(4, 7, requires_grad=True)
    got = oracle.found(oracle.ours("softmax"), *on(device, x, g), 2, 0.5, bias.detach().to(device).requires_grad_())
    want = oracle.plain("softmax", torch.float32, x, g, 2, 0.5, bias)
    assert launches == ONCE
    torch.testing.assert_close((got.dx, got.dmask), (want.dx, want.dmask))


EXTREMES = torch.tensor(
    [
        *([-INF, -INF, -INF, -INF], [INF, 0, 1, 2], [INF, INF, 0, -INF], [-INF, 0, 1, 2], [math.nan, 0, 1, 2]),
        *([math.nan, -INF, INF, 0], [1e38, -1e38, 0, 1], [-1e38, -1e38, -1e38, -1e38]),
        *([1e-40, -1e-40, 0, -0.0], [200, 0, -200, -104], [1e4, 1e4 + 1, 1e4 + 2, 0]),
    ]
)
KEPT = [None, [True, True, False, True], [False, True, True, True], [False, False, False, False]]


@names
@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize(
    ("looping", "dtype"), [(False, torch.float32), (True, torch.float32), (False, torch.bfloat16)], ids=str
)
def test_extremes(name, kept, looping, dtype, device, launches, request):
    """Whatever the composition has, in float32: NaN for rows of -inf alone, with +inf or NaN, and without elements."""
    x = EXTREMES.to(dtype)
    if looping:
        request.getfixturevalue("short_tiles")
        x = x.repeat_interleave(17, 1)
    mask = None if kept is None else torch.tensor(kept).repeat_interleave(x.shape[1] // 4)
    g = torch.linspace(-1, 2, x.numel()).reshape(x.shape).to(dtype)
    for temperature in (1.0,) if looping else (1.0, 0.5):
        launches.clear()
        got = oracle.found(oracle.ours(name), *on(device, x, g), 1, temperature, *on(device, mask))
        assert launches == (TWICE if looping else ONCE)
        want = oracle.plain(name, torch.float32, x, g, 1, temperature, mask)
        bounds = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
        for ours, theirs in ((got.y, want.y), (got.dx, want.dx)):
            torch.testing.assert_close(ours, theirs.to(dtype), equal_nan=True, **bounds)


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_approximate_instructions(name, dtype, approximate, device, launches):
    """Bounds hold whatever the hardware's exponential and quotient are off by."""
    x = (6 * torch.randn(4, 50)).to(dtype)
    check(name, x, 1, device, launches)


@pytest.mark.parametrize("offset", [2.0**20, -(2.0**100)])
def test_shifts_change_nothing(offset, device):
    x = torch.randint(-8, 8, (7, 40)).float().to(device)
    for name in oracle.NAMES:
        function = oracle.ours(name)
        expected = x if abs(offset) < 2**24 else torch.zeros_like(x)
        torch.testing.assert_close(function(x + offset, 1), function(expected, 1), rtol=0, atol=0)


def test_halves_to_float32_in_one_pass(device, launches):
    x, g = (4 * torch.randn(3, 40)).bfloat16(), torch.randn(3, 40)
    leaf = x.to(device).requires_grad_()
    y = oracle.ours("softmax")(leaf, 1, dtype=torch.float32)
    (dx,) = torch.autograd.grad(y, leaf, g.to(device))
    assert launches == ONCE and y.dtype == torch.float32 and dx.dtype == torch.bfloat16
    wide = x.float().requires_grad_()
    want = torch.softmax(wide, 1)
    torch.testing.assert_close(y.detach().cpu(), want.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dx.cpu(), torch.autograd.grad(want, wide, g)[0].bfloat16(), rtol=1e-2, atol=1e-5)


def test_the_same_bits_twice(device, guarded_sums):
    """Sums go in a fixed order, and stay inside their memory."""
    x, t = torch.randn(37, 70, device=device), torch.tensor([1.5], device=device)
    g = torch.randn(37, 70, device=device)
    first, second = (oracle.found(oracle.ours("softmax"), x, g, 1, t) for _ in range(2))
    assert torch.equal(first.dtemperature, second.dtemperature) and torch.equal(first.dx, second.dx)
    for buffer in guarded_sums:
        assert buffer[:32].isinf().all() and buffer[-32:].isinf().all() and buffer[32:-32].isfinite().all()
    assert guarded_sums


def test_nothing_to_do(device, launches):
    for shape, dim in (((0, 3), 1), ((3, 0), 1), ((), 0)):
        x = torch.randn(shape, device=device, requires_grad=True)
        y = oracle.ours("softmax")(x, dim)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape
    assert launches == []


def test_gradients_of_gradients(device):
    x = torch.randn(3, 5, device=device, requires_grad=True)
    with fusedact.backend("triton"):
        y = oracle.ours("softmax")(x, 1, temperature=2.0)
    plain = torch.softmax(x / 2.0, 1)
    second = []
    for out in (y, plain):
        (dx,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(dx.square().sum(), x)[0])
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("warp_size", [32, 64])
@pytest.mark.parametrize("side", [1, 5, 49, 4096])
@pytest.mark.parametrize("n", [1, 3, 64, 1000, 8192, 32_768, 65_536, 2**20])
def test_tiles(n, side, warp_size):
    block_rows, length, looping, warps = launch_softmax.tile(n, 10_000, side, warp_size)
    size = block_rows * length
    assert size & (size - 1) == 0 and (looping or length >= n)
    assert warps * warp_size <= 1024 and size // (warps * warp_size) <= 32
    assert size >= min(2048, n * 8192)
    if side == 1 and n <= 32_768:
        assert not looping


# ----- what is kept


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", ["middle", "transposed", "every other", "looping, middle"])
def test_the_output_is_made_again(name, dtype, place, device, launches, short_tiles):
    """To the last bit, by the same kernel."""
    shape, dim, view, kernels = PLACES[place]
    x, g = view(torch.randn(shape).to(dtype)).to(device), view(torch.randn(shape).to(dtype)).to(device)
    mask = torch.randn(x.shape[-1], device=device).to(dtype)
    for temperature, added in ((1.0, None), (torch.tensor([0.7], device=device), mask)):

        def call(save, *arguments):
            return oracle.found(functools.partial(oracle.ours(name), save=save), x, g, dim, *arguments)

        want = call("output", temperature, added)
        launches.clear()
        got = call("input", temperature, added)
        assert launches == [kernels[0], *kernels]
        for a, b in ((got.y, want.y), (got.dx, want.dx), (got.dtemperature, want.dtemperature)):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_is_kept(device):
    x = torch.randn(5, 6, device=device).requires_grad_() * 1
    for policy in ("input", "output"):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, f=found: f.append(t) or t, lambda t: t):
            y = FF.softmax(x, 1, save=policy)
        assert [t.data_ptr() for t in found] == [(x if policy == "input" else y).data_ptr()]
        assert fusedact.explain("softmax", x, save=policy).kind == "triton"
        assert fusedact.explain("softmax", x, save=policy).keeps == policy
    y = FF.softmax(x, 1, save="input")
    y += 1
    torch.autograd.grad(y.sum(), x)
    half = torch.randn(5, 6, device=device).half().requires_grad_() * 1
    y = FF.softmax(half, 1, dtype=torch.float32, save="input")
    (dx,) = torch.autograd.grad(y[:, 0].sum(), half)
    torch.testing.assert_close(dx, torch.autograd.grad(torch.softmax(half.float(), 1)[:, 0].sum(), half)[0])
