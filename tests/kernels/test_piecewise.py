"""The kernels of piecewise-linear activations: every way to find a segment, channels on either side of a tile."""

from __future__ import annotations

import oracles
import pwl_oracle as oracle
import pytest
import torch

from fusedact import functional as FF
from fusedact.kernels import launch
from fusedact.piecewise import table_rows, tables

cases = pytest.mark.parametrize("case", oracle.CASES)
FLAT = ["forward_kernel", "backward_kernel"]
STRIDED = ["forward_strided_kernel", "backward_strided_kernel"]
EVEN = oracle.CASES["even"][1]


def evaluate(x, arguments, g, **options):
    leaf = x.detach().requires_grad_()
    y = FF.pwl(leaf, *arguments, **options)
    return y.detach().cpu(), torch.autograd.grad(y, leaf, g)[0].cpu()


def assert_right(x, arguments, device, launches):
    y, dx = evaluate(x.to(device), arguments, torch.ones_like(x, device=device))
    assert launches == FLAT
    oracles.assert_accurate(y, oracle.value(x, arguments), oracle.composition(x, arguments), x=x)
    expected = oracle.slope(x, arguments).to(x.dtype)
    # A machine that keeps the sign of a NaN counts a negative one to the second segment.
    second = oracle.slope(torch.nextafter(torch.tensor(arguments[0][:1]), torch.tensor(torch.inf)), arguments)
    negative = x.isnan() & x.signbit() & (dx == second.to(x.dtype))
    torch.testing.assert_close(dx, torch.where(negative, dx, expected), rtol=0, atol=0)


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_halves(case, dtype, device, launches):
    assert_right(oracles.halves(dtype), oracle.CASES[case][1], device, launches)


@cases
def test_float32(case, device, launches):
    arguments = oracle.CASES[case][1]
    assert_right(oracle.inputs32(arguments), arguments, device, launches)


@cases
def test_a_search_finds_the_same_segments(case, device):
    arguments = oracle.CASES[case][1]
    b, v = (torch.tensor(t) for t in arguments[:2])
    x = oracle.inputs32(arguments).to(device)
    data = table_rows.prepare(b, v, *arguments[2:], table_rows.SEARCH, torch.float32).to(device)
    table = tables.Table(data, len(b), table_rows.SEARCH, 1)
    expected = evaluate(x, arguments, torch.ones_like(x))
    for function, result in (("forward", expected[0]), ("backward", expected[1])):
        out = torch.empty_like(x)
        parameter = launch.Table(table.data, table.size, True)
        if function == "forward":
            launch.forward("pwl_search", x, out, (parameter,))
        else:
            launch.backward("pwl_search", torch.ones_like(x), x, out, (parameter,), (False,))
        torch.testing.assert_close(out.cpu(), result, rtol=0, atol=0, equal_nan=True)


def channel_tables(count, channels, kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "uniform":
        b = torch.linspace(-2, 2, count) * (1 + torch.arange(channels)[:, None])
    else:
        b = torch.rand(channels, count, generator=generator).cumsum(1) - count / 4
    return b, torch.randn(channels, count, generator=generator), torch.randn(channels, generator=generator), 0.0


PLACES = {
    "NCHW": lambda x: (x[: 2 * 3 * 7 * 9].reshape(2, 3, 7, 9), 1),
    "channels last": lambda x: (x[: 50 * 3].reshape(5, 10, 3), -1),
    "channels_last memory": lambda x: (x[: 2 * 3 * 40].reshape(2, 3, 5, 8).to(memory_format=torch.channels_last), 1),
    "channels first": lambda x: (x[: 3 * 100].reshape(3, 100), 0),
    "long rows": lambda x: (x.reshape(1, 3, -1), 1),
    "every other": lambda x: (x[: 2 * 3 * 40].reshape(2, 3, 40)[:, :, ::2], 1),
    "every other channel": lambda x: (x[: 20 * 6].reshape(20, 6)[:, ::2], 1),
    "transposed": lambda x: (x[: 3 * 40].reshape(40, 3).t(), 0),
    "expanded": lambda x: (x[:3].reshape(1, 3, 1).expand(4, 3, 11), 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["uniform", "uneven"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_table_per_channel(place, kind, dtype, device, launches):
    generator = torch.Generator().manual_seed(0)
    x, dim = PLACES[place]((2 * torch.randn(3 * 3000, generator=generator)).to(dtype))
    g = torch.randn(x.shape, generator=generator).to(dtype)
    arguments = channel_tables(9, 3, kind)
    on_device = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
    y, dx = evaluate(x.to(device), on_device, g.to(device), channel_dim=dim, check=True)
    assert launches == STRIDED
    for c in range(3):
        part = x.select(dim, c).contiguous()
        one = (arguments[0][c].tolist(), arguments[1][c].tolist(), arguments[2][c].item(), 0.0)
        truth, yard = oracle.value(part, one), oracle.composition(part, one)
        oracles.assert_accurate(y.select(dim, c).contiguous(), truth, yard, x=part)
        expected = (g.select(dim, c).float() * oracle.slope(part, one).float()).to(dtype)
        torch.testing.assert_close(dx.select(dim, c), expected, rtol=0, atol=0)


def test_many_channels(device, launches):
    """More channels than a tile has columns, and rows that wrap around them."""
    arguments = channel_tables(5, 1100, "uniform")
    on_device = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
    for shape, dim in (((3, 1100), 1), ((2, 1100, 3), 1)):
        x = torch.randn(shape, device=device)
        y, dx = evaluate(x, on_device, torch.ones_like(x), channel_dim=dim, check=True)
        with_formula = tables.Table(
            table_rows.prepare(*arguments, table_rows.SEARCH, torch.float32),
            5,
            table_rows.SEARCH,
            dim,
        )
        beside = with_formula.beside(x.cpu())
        torch.testing.assert_close(y, with_formula.value(x.cpu(), *beside))
        torch.testing.assert_close(dx, with_formula.gradient(torch.ones(shape), x.cpu(), *beside)[0], rtol=0, atol=0)


@pytest.mark.parametrize("view", [lambda x: x[::2], lambda x: x.reshape(40, 50).t(), lambda x: x[1:]], ids=str)
def test_layouts(view, device):
    x = view(torch.randn(2000, device=device))
    y, dx = evaluate(x, EVEN, torch.ones_like(x))
    expected = evaluate(x.contiguous(), EVEN, torch.ones_like(x).contiguous())
    torch.testing.assert_close(y, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(dx, expected[1], rtol=0, atol=0)


def test_no_elements(device, launches):
    x = torch.randn(0, 3, device=device)
    y, dx = evaluate(x, EVEN, x)
    assert y.shape == dx.shape == (0, 3) and launches == []
