"""The backward of learned tables: every way to sum, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fusedact.kernels import launch, launch_piecewise
from fusedact.piecewise import table_rows, tables

# Relative to the sum of absolute terms; and how wrong an element's place between two breakpoints may be, in steps.
BOUND, PLACE = 1e-5, 2.0**-18


def breakpoints(count: int, spacing: str) -> Tensor:
    """In float32, on [-4, 4]."""
    b = torch.linspace(-4, 4, count, dtype=torch.float64) if count > 1 else torch.tensor([0.25], dtype=torch.float64)
    if spacing == "uneven":
        b = b + 2.0 / count * torch.sin(2.5 * torch.arange(count, dtype=torch.float64))
    if spacing == "close" and count > 2:
        b[1] = b[0] + 2.0**-18
    return b.float()


def prepared(b: Tensor) -> tuple[tables.Table, launch.Table]:
    """A table, and what the kernels take of it."""
    v = torch.sin(2 * b) + 0.3 * b
    how = table_rows.plan(b, v)
    table = tables.Table(table_rows.prepare(b, v, 0.25, -0.5, how, torch.float32), b.shape[-1], how, 1)
    return table, launch.Table(table.data, table.size, how.steep, how.even)


def inputs(b: Tensor, dtype: torch.dtype, n: int = 3000) -> tuple[Tensor, Tensor]:
    """x at breakpoints, beside them, in between and outside; g."""
    generator = torch.Generator().manual_seed(len(b))
    infinity = torch.tensor(torch.inf)
    some = b[torch.linspace(0, len(b) - 1, min(len(b), 100)).long()]
    near = torch.cat([some, torch.nextafter(some, infinity), torch.nextafter(some, -infinity)])
    x = torch.cat([near, 2.5 * torch.randn(n, generator=generator)]).to(dtype)
    return x, torch.randn(len(x), generator=generator).to(dtype)


def segments(x: Tensor, b: Tensor, table: tables.Table) -> Tensor:
    """The segment of each element, by the ends in the table; a NaN is in the first."""
    ends = table.data[0, table_rows.HEADER : table_rows.HEADER + len(b)].double()
    return torch.where(x.isnan(), 0, torch.searchsorted(ends, x.double()))


def terms(g: Tensor, x: Tensor, b: Tensor, table: tables.Table, wanted: str) -> list[tuple[Tensor, Tensor]]:
    """For each entry of the sums, which elements take part, and what they add, in float64."""
    g, x, at, b = g.double(), x.double(), segments(x, b, table), b.double()
    count = len(b)
    if wanted == "lines":
        origin = torch.cat([b[:1], b])[at]
        parts = [(at == s, g) for s in range(count + 1)]
        return parts + [(at == s, g * (x - origin)) for s in range(count + 1)]
    near = x.nan_to_num(b[0].item(), torch.inf, -torch.inf).clamp(b[0], b[-1])
    found = []
    for k in range(count):
        hat = torch.ones_like(x)
        if k > 0:
            hat = torch.minimum(hat, (near - b[k - 1]) / (b[k] - b[k - 1]))
        if k < count - 1:
            hat = torch.minimum(hat, (b[k + 1] - near) / (b[k + 1] - b[k]))
        found.append((hat > 0, g * hat))
    left = ~(x >= b[0])
    return [*found, (left, g * (x - b[0])), (x > b[-1], g * (x - b[-1]))]


def run(g, x, table, given, wanted="values", slopes=True, dx_needed=True, channel_dim=None, device="cpu"):
    """dx, in the memory format of x, and the sums."""
    given = replace(given, rows=given.rows.to(device))
    g, x = g.to(device), x.to(device)
    dx = torch.empty_like(x) if dx_needed else None
    sums = launch_piecewise.backward(g, x, dx, given, table.how.kind, table.count, wanted, slopes, channel_dim)
    return None if dx is None else dx.cpu(), sums.cpu()


def assert_dx(dx: Tensor, g: Tensor, x: Tensor, table: tables.Table) -> None:
    """What the fixed table's gradient is."""
    expected = table.gradient(g.float(), x.float())[0]
    torch.testing.assert_close(dx, expected.to(x.dtype), rtol=0, atol=0, equal_nan=True)


def assert_sums(sums: Tensor, g: Tensor, x: Tensor, b: Tensor, table: tables.Table, wanted: str) -> None:
    """Every entry within BOUND; of one that has infinities or NaNs, their sum."""
    for i, (entry, (inside, part)) in enumerate(zip(sums.flatten(), terms(g, x, b, table, wanted), strict=True)):
        part = part[inside]
        total = part.sum()
        if total.isfinite():
            allowed = BOUND * part.abs().sum() + (PLACE * g[inside].double().abs().sum() if wanted == "values" else 0)
            assert abs(entry - total) <= allowed + 1e-30, (i, entry, total, allowed)
        else:
            torch.testing.assert_close(entry, total, equal_nan=True)


HALVES = {"values": torch.bfloat16, "lines": torch.float16}
ALL = [
    (count, dtype, spacing, wanted)
    for count in (1, 2, 3, 8, 16, 17)
    for spacing in ("even", "uneven")
    for wanted in ("values", "lines")
    for dtype in (torch.float32, HALVES[wanted])
]
# The interpreter takes its time.
LARGE = [
    *((64, torch.float32, spacing, wanted) for spacing in ("even", "uneven") for wanted in ("values", "lines")),
    *(
        (64, torch.bfloat16, "even", "values"),
        (17, torch.float32, "close", "values"),
        (17, torch.float16, "close", "lines"),
    ),
    *((256, torch.float32, "even", "values"), (256, torch.bfloat16, "uneven", "values")),
    *((1024, torch.bfloat16, "even", "values"), (100, torch.float32, "uneven", "lines")),
]


@pytest.mark.parametrize(("count", "dtype", "spacing", "wanted"), ALL + LARGE, ids=str)
def test_sums(count, dtype, spacing, wanted, device):
    b = breakpoints(count, spacing)
    table, given = prepared(b)
    x, g = inputs(b, dtype, 2100 if count < 16 else 500 if count < 64 else 300)
    dx, sums = run(g, x, table, given, wanted, device=device)
    assert sums.dtype == torch.float64
    assert_sums(sums, g, x, b, table, wanted)
    assert_dx(dx, g, x, table)


# Where channels are, and what is done with 2 * 3 * 8 * 16 elements.
PLACES = {
    "NCHW": (lambda t: t.reshape(2, 3, 8, 16), 1),
    "odd rows": (lambda t: t[: 2 * 3 * 7 * 9].reshape(2, 3, 7, 9), 1),
    "channels last": (lambda t: t.reshape(256, 3), -1),
    "many channels last": (lambda t: t.reshape(2, 384), 1),
    "channels_last memory": (lambda t: t.reshape(2, 3, 8, 16).to(memory_format=torch.channels_last), 1),
    "channels first": (lambda t: t.reshape(3, 256), 0),
    "every other": (lambda t: t.reshape(2, 3, 128)[:, :, ::2], 1),
    "every other channel": (lambda t: t.reshape(128, 6)[:, ::2], 1),
    "transposed": (lambda t: t.reshape(256, 3).t(), 0),
    "one channel": (lambda t: t.reshape(4, 1, 192), 1),
}


def channel_tables(channels: int, count: int, spacing: str) -> tuple[Tensor, tables.Table, launch.Table]:
    """Breakpoints that differ from channel to channel."""
    b = breakpoints(count, spacing) * (1 + torch.arange(channels)[:, None] / 4)
    table, given = prepared(b if channels > 1 else b[0])
    return b, table, given


def assert_channels(x, g, dim, count, spacing, wanted, device, g_given=None):
    b, table, given = channel_tables(x.shape[dim], count, spacing)
    table.channel_dim = dim % x.dim()
    dx, sums = run(g if g_given is None else g_given, x, table, given, wanted, channel_dim=dim % x.dim(), device=device)
    for c in range(len(b)):
        one = tables.Table(table.data[c : c + 1], count, table.how, 0)
        gc, xc = (t.select(dim, c).flatten() for t in (g, x))
        assert_sums(sums[c], gc, xc, b[c], one, wanted)
        assert_dx(dx.select(dim, c).flatten(), gc, xc, one)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("count", "dtype", "spacing", "wanted"),
    [
        (5, torch.bfloat16, "even", "values"),
        (9, torch.float32, "uneven", "values"),
        (4, torch.float32, "uneven", "lines"),
    ],
    ids=str,
)
def test_channels(place, count, dtype, spacing, wanted, device):
    view, dim = PLACES[place]
    generator = torch.Generator().manual_seed(0)
    x, g = (view((2.5 * torch.randn(768, generator=generator)).to(dtype)) for _ in range(2))
    assert_channels(x, g, dim, count, spacing, wanted, device)


@pytest.mark.parametrize("wanted", ["values", "lines"])
def test_one_table_for_any_strides(wanted, device):
    """A broadcast gradient, gaps, a view that starts where 16 bytes do not, and one element."""
    b = breakpoints(5, "even")
    table, given = prepared(b)
    x, g = inputs(b, torch.float32, 400)
    for view in (lambda t: t[1:], lambda t: t[:400].view(20, 20).t(), lambda t: t[:400:3], lambda t: t[0]):
        dx, sums = run(view(g), view(x), table, given, wanted, device=device)
        assert_sums(sums, view(g).flatten(), view(x).flatten(), b, table, wanted)
        assert_dx(dx, view(g), view(x), table)
    wide, x = torch.tensor(0.75).expand(20, 20), x[:400].view(20, 20)
    dx, sums = run(wide, x, table, given, wanted, device=device)
    assert_sums(sums, wide.flatten(), x.flatten(), b, table, wanted)
    assert_dx(dx, wide, x, table)


@pytest.mark.parametrize("wanted", ["values", "lines"])
def test_without_what_is_not_needed(wanted, device, launches):
    """No dx, no slopes; nothing for no elements."""
    b = breakpoints(5, "uneven")
    table, given = prepared(b)
    x, g = inputs(b, torch.bfloat16, 400)
    _, full = run(g, x, table, given, wanted, device=device)
    dx, sums = run(g, x, table, given, wanted, slopes=False, dx_needed=False, device=device)
    assert dx is None
    if wanted == "values":
        full[:, -2:] = 0
    torch.testing.assert_close(sums, full, rtol=0, atol=0)
    launches.clear()
    for shape in ((0,), (3, 0, 2)):
        none = torch.empty(shape, dtype=x.dtype)
        assert not run(none, none, table, given, wanted, device=device)[1].any()
    assert launches == []


# Infinite and missing gradients between two breakpoints, at one, and outside; and arguments.
SPECIAL = [
    [("inside", torch.inf), ("at", -torch.inf), (99.0, torch.inf), (-torch.inf, 0.5)],
    [("inside", torch.nan), (-99.0, torch.nan), (torch.inf, 0.5)],
    [("at", torch.nan), (torch.nan, 0.5)],
]


# NumPy's sums in the interpreter.
@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce:RuntimeWarning")
@pytest.mark.parametrize("special", SPECIAL, ids=["infinities", "missing gradients", "missing arguments"])
@pytest.mark.parametrize(
    ("count", "dtype", "spacing", "wanted"),
    [
        *((4, torch.bfloat16, "even", "values"), (4, torch.float32, "uneven", "lines")),
        *((9, torch.float16, "uneven", "values"), (50, torch.float32, "even", "values")),
    ],
    ids=str,
)
def test_infinities_and_nans_stay_where_they_are(special, count, dtype, spacing, wanted, device):
    b = breakpoints(count, spacing)
    table, given = prepared(b)
    x, g = inputs(b, dtype, 200)
    places = {"inside": (b[2] + 0.25 * (b[3] - b[2])).item(), "at": b[1].item()}
    for i, (place, gradient) in enumerate(special):
        x[10 * i + 7], g[10 * i + 7] = places.get(place, place), gradient
    dx, sums = run(g, x, table, given, wanted, device=device)
    assert_sums(sums, g, x, b, table, wanted)
    assert_dx(dx, g, x, table)


@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce:RuntimeWarning")
@pytest.mark.parametrize("place", ["NCHW", "channels last"])
def test_a_nan_stays_in_its_channel(place, device):
    view, dim = PLACES[place]
    generator = torch.Generator().manual_seed(0)
    x, g = (view(torch.randn(768, generator=generator)).clone() for _ in range(2))
    g.select(dim, 1)[0] = torch.nan
    x.select(dim, 2)[0] = torch.inf
    assert_channels(x, g, dim, 5, "even", "values", device)


def test_more_channels_than_a_tile_has(device):
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 1100), (2, 300, 3)):
        x, g = (torch.randn(shape, generator=generator) for _ in range(2))
        assert_channels(x, g, 1, 3, "even", "values", device)


def test_the_same_bits_every_time(device):
    b = breakpoints(17, "even")
    table, given = prepared(b)
    x, g = inputs(b, torch.float16, 5000)
    for wanted in ("values", "lines"):
        first, second = (run(g, x, table, given, wanted, device=device) for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
