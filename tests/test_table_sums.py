"""The sums that learning a table needs, against float64: places, dtypes, layouts, infinities, threads, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusedact import functional as FF
from fusedact.cpu import pieces
from fusedact.piecewise import table_rows, table_sums, tables

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COUNTS = [2, 3, 8, 16, 17, 64, 256, 1024]
PIECE = pieces.TABLE_PIECE

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
counts = pytest.mark.parametrize("count", COUNTS)
spacings = pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])


def drawn(count, even, channels=1):
    """Breakpoints, values and slopes in rows; some neighbouring slopes are equal, or of equal magnitude."""
    b = torch.linspace(-4, 4, count).repeat(channels, 1)
    if not even:
        # So close, here and there, that only a search finds them.
        drawn_freely = 8 * torch.rand(channels, count).sort(1)[0] - 4
        b = drawn_freely if count > 100 else b + 2.0 / count * (2 * torch.rand(channels, count) - 1)
    b += torch.arange(channels)[:, None] / 4
    v = torch.randn(channels, count)
    v[:, : count // 2] = v[:, : count // 2].round()
    return b, v, torch.randn(channels), torch.randn(channels)


def prepared(b, v, left, right, dtype, channel_dim=1):
    how = table_rows.plan(b, v)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return tables.Table(table_rows.prepare(b, v, left, right, how, wide), b.shape[1], how, channel_dim)


def beside(b, count, dtype):
    """On every breakpoint, the numbers next to it, in between and outside: so many, in random order."""
    infinity = torch.tensor(torch.inf)
    near = torch.cat([b, torch.nextafter(b, infinity), torch.nextafter(b, -infinity)])
    x = torch.cat([near, 3 * torch.randn(max(0, count - len(near)))])
    return x[torch.randperm(len(x))][:count].to(dtype)


def truth(row, g, x):
    """By name: the sums of one table in float64, those of their terms' magnitudes, and of what is one unit of rounding.

    A distance may be counted from the other end of its segment, and so be off by a part of the segment's length.
    """
    b, v, left, right = (t.double().numpy() for t in row)
    g, x = (t.double().flatten().numpy() for t in (g, x))
    slopes = np.concatenate([left[None], np.diff(v) / np.diff(b), right[None]])
    segment = np.searchsorted(b, x, side="right")
    # At a breakpoint the flatter segment, the right one if both are.
    at = np.isin(x, b)
    earlier = at & (np.abs(slopes[segment - 1]) < np.abs(slopes[segment]))
    segment -= earlier
    distance = x - np.concatenate([b[:1], b])[segment]
    step = np.concatenate([[np.inf], np.diff(b), [np.inf]])[segment]
    part = np.where(inner := np.isfinite(step), distance / step, 0.0)
    lower, upper = np.clip(segment - 1, 0, len(b) - 1), np.clip(segment, 0, len(b) - 1)

    def summed(index, terms, units, length):
        return [np.bincount(index, t, length) for t in (terms, np.abs(terms), np.abs(units))]

    low, high = summed(lower, g * (1 - part), g * inner, len(b)), summed(upper, g * part, g * inner, len(b))
    outer = [
        summed(np.zeros_like(segment), g * d, 0 * g, 1) for d in (np.minimum(x - b[0], 0), np.maximum(x - b[-1], 0))
    ]
    values = [np.concatenate([low[i] + high[i], outer[0][i], outer[1][i]]) for i in range(3)]
    sums = summed(segment, g, 0 * g, len(b) + 1)
    moments = summed(segment, g * distance, g * np.where(inner, step, 0.0), len(b) + 1)
    lines = [np.stack([sums[i], moments[i]]) for i in range(3)]
    return {"values": values, "lines": lines}


def assert_sums(table, rows, g, x, bound, channel_dim=None, kinds=("values", "lines")):
    """All kinds of sums within `bound` of the sum of magnitudes, and x's gradient as that of a fixed table."""
    for wanted in kinds:
        dx, sums = table_sums.backward(table, g, x, wanted == kinds[0], wanted, True)
        assert sums.dtype == torch.float64
        for c, row in enumerate(zip(*rows, strict=True)):
            parts = (g, x) if channel_dim is None else (t.select(channel_dim, c) for t in (g, x))
            expected, magnitude, unit = truth(row, *parts)[wanted]
            allowed = bound * magnitude + torch.finfo(table.data.dtype).eps * unit
            excess = np.abs(sums[c].numpy() - expected) - allowed
            assert (excess <= 0).all(), (wanted, c, excess.argmax(), excess.max())
        if dx is not None:
            assert (dx.dtype, dx.shape, dx.stride()) == (x.dtype, x.shape, torch.empty_like(x).stride())
            fixed = pieces.backward(table.spec, g, x, (), [True])[0]
            torch.testing.assert_close(dx, fixed, rtol=0, atol=0)


# A float32 distance and its product with g are rounded.
BOUNDS = {torch.float64: 1e-12}


@counts
@spacings
@dtypes
def test_sums(count, even, dtype):
    rows = drawn(count, even)
    x = beside(rows[0][0], 5000, dtype)
    g = torch.randn(5000).to(dtype)
    assert_sums(prepared(*rows, dtype), rows, g, x, BOUNDS.get(dtype, 1e-6))


@counts
@spacings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sums_per_channel(count, even, dtype):
    rows = drawn(count, even, channels=3)
    x = torch.stack([beside(b, 4000, dtype) for b in rows[0]], 1)
    g = torch.randn(4000, 3).to(dtype)
    assert_sums(prepared(*rows, dtype), rows, g, x, BOUNDS.get(dtype, 1e-6), 1)


@pytest.mark.parametrize("count", [2, 17, 24, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", ["random", "constant", "one segment", "zeros"])
def test_many_pieces(count, dtype, case):
    """Also where all terms are equal, which float32 sums round to the same side."""
    rows = drawn(count, True)
    length = 2 * PIECE + PIECE // 4 + 123
    x = 2 * torch.randn(length)
    if case == "one segment":
        x.clamp_(0.26, 0.3)
    elif case == "zeros":
        x.relu_()
    g = torch.full_like(x, 0.7 / length) if case == "constant" else torch.randn(length)
    assert_sums(prepared(*rows, dtype), rows, g.to(dtype), x.to(dtype), 1e-5)


def test_ten_million():
    """Every element's gradient is the same, as that of a mean."""
    rows = drawn(17, True)
    b = rows[0][0].double()
    x, g = torch.randn(10**7).clamp_(-4, 3.9), 1.1e-7
    table, many = prepared(*rows, torch.float32), torch.tensor(g).expand(x.shape)
    _, values = table_sums.backward(table, many, x, True, "values", False)
    cell = (x + 4).mul_(2).int()
    part = x.double().sub_(b[cell]).mul_(2)
    expected = torch.bincount(cell, 1 - part, 17) + torch.bincount(cell + 1, part, 17)
    torch.testing.assert_close(values[0, :17], expected * torch.tensor(g).double(), rtol=1e-5, atol=0)


def test_every_way_to_find_a_breakpoint_is_taken():
    tables_ = [prepared(*drawn(count, even), torch.float32) for count in (17, 64, 1024) for even in (True, False)]
    assert {t.how.kind for t in tables_} == {"uniform", "bucket", "search"}
    # By arithmetic, and by a gather.
    assert {t.even is None for t in tables_ if t.how.kind == "uniform"} == {True, False}


# ----- layouts

LAYOUTS = {
    "dense": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
    "strided": lambda t: t.repeat_interleave(2, 2)[:, :, ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
    "number": lambda t: t[0, 0, 0].expand(t.shape),
}


@pytest.mark.parametrize(
    ("dtype", "piece"), [(torch.bfloat16, 100), (torch.float32, 100), (torch.float64, PIECE)], ids=str
)
@pytest.mark.parametrize("of_g", LAYOUTS)
@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("channel_dim", [None, 0, 1, 2])
def test_layouts(of_x, of_g, channel_dim, dtype, piece, monkeypatch):
    monkeypatch.setattr(pieces, "TABLE_PIECE", piece)
    if piece < PIECE:
        monkeypatch.setattr(table_sums, "SHORT", 0)
    shape = (6, 5, 37)
    rows = drawn(8, True, 1 if channel_dim is None else shape[channel_dim])
    x, g = LAYOUTS[of_x](2 * torch.randn(shape).to(dtype)), LAYOUTS[of_g](torch.randn(shape).to(dtype))
    table = prepared(*rows, dtype, channel_dim or 0)
    assert_sums(table, rows, g, x, BOUNDS.get(dtype, 1e-6), channel_dim)


@dtypes
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1, 1)], ids=str)
def test_shapes(shape, dtype):
    rows = drawn(3, True)
    x, g = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    assert_sums(prepared(*rows, dtype), rows, g, x, BOUNDS.get(dtype, 1e-6))


def test_other_devices_add_real_numbers(monkeypatch):
    monkeypatch.setattr(table_sums, "_scatters_complex", lambda device: False)
    rows = drawn(17, True, 3)
    x, g = torch.randn(100, 3), torch.randn(100, 3)
    assert_sums(prepared(*rows, torch.float32), rows, g, x, 1e-6, 1)


@pytest.mark.parametrize("threads_to_take", [1, 10**6])
def test_wide_and_narrow_indices(threads_to_take, monkeypatch):
    """A parallel gather takes indices of 64 bits."""
    monkeypatch.setattr(tables, "THREADS_TO_TAKE", threads_to_take)
    for even in (True, False):
        rows = drawn(17, even)
        x, g = 2 * torch.randn(PIECE + 1), torch.randn(PIECE + 1)
        assert_sums(prepared(*rows, torch.float32), rows, g, x, 1e-5)


# ----- what is special


@pytest.mark.parametrize("count", [2, 17, 1024])
@spacings
@dtypes
def test_infinities_and_nan(count, even, dtype):
    """They reach the outer values and slopes alone; also in one of several channels."""
    rows = drawn(count, even, 3)
    table = prepared(*rows, dtype)
    x, g = torch.zeros(4, 3).to(dtype), torch.zeros(4, 3).to(dtype)
    x[:, 1] = torch.tensor([torch.inf, -torch.inf, torch.nan, 9.0])
    g[:, 1] = torch.tensor([2.0, 3.0, 5.0, 7.0])
    _, values = table_sums.backward(table, g, x, True, "values", True)
    expected = torch.zeros(3, count + 2, dtype=torch.float64)
    expected[1, 0], expected[1, count - 1] = 8.0, 9.0
    expected[1, count], expected[1, count + 1] = torch.nan, torch.inf
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    _, values = table_sums.backward(table, g, x, True, "values", False)
    torch.testing.assert_close(values[:, count:], torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=0)
    _, lines = table_sums.backward(table, g, x, True, "lines", False)
    expected = torch.zeros(3, 2, count + 1, dtype=torch.float64)
    expected[1, 0, 0], expected[1, 0, count], expected[1, 1, 0], expected[1, 1, count] = 8.0, 9.0, torch.nan, torch.inf
    torch.testing.assert_close(lines, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@spacings
def test_what_a_gradient_poisons(value, even):
    rows = drawn(17, even)
    b = rows[0][0]
    x = torch.cat([(b[1:] + b[:-1]) / 2, b[:1] - 1, b[-1:] + 1])
    for i in range(16):
        g = torch.ones_like(x)
        g[i] = value
        _, values = table_sums.backward(prepared(*rows, torch.float32), g, x, True, "values", True)
        finite = values[0].isfinite()
        assert not finite[i : i + 2].any()
        assert finite[:i].all()
        assert finite[i + 2 :].all()


# ----- promises


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [17, 1024])
def test_deterministic(channels, count):
    """The same bits in every run; for one table, whatever the number of threads, which decide how large pieces are."""
    table = prepared(*drawn(count, True, channels), torch.float32)
    x, g = torch.randn(5 * PIECE // channels, channels), torch.randn(5 * PIECE // channels, channels)
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 2) if channels == 1 else (2, 2, 2):
            torch.set_num_threads(number)
            results.append(table_sums.backward(table, g, x, True, "values", True))
    finally:
        torch.set_num_threads(threads)
    for dx, sums in results[1:]:
        assert torch.equal(dx, results[0][0])
        assert torch.equal(sums, results[0][1])


SHAPES = {
    "batch and channels": (4096, 64),
    "images": (128, 64, 4, 4),
    "large images": (2, 32, 64, 64),
    "one image": (1, 8, 256, 128),
    "channels first": (8, 2**15),
    "many channels": (128, 128, 4, 4),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equal_terms(shape, channels_last):
    """All elements of a channel count to one place with one gradient: what sums in float32 lose is what is promised."""
    channel_dim = 0 if shape == SHAPES["channels first"] else 1
    channels = shape[channel_dim]
    table = tables.Table(
        prepared(*drawn(9, True, channels), torch.float32).data, 9, table_rows.Plan("uniform"), channel_dim
    )
    like = [1] * len(shape)
    like[channel_dim] = channels
    x = (torch.rand(channels) * 6 - 3).view(like).expand(shape).contiguous()
    g = torch.full(shape, 0.1)
    if channels_last:
        x, g = (t.movedim(channel_dim, -1).contiguous().movedim(-1, channel_dim) for t in (x, g))
    sums = table_sums.backward(table, g, x, False, "values", True)[1]
    truth = table_sums.backward(
        tables.Table(table.data.double(), 9, table_rows.Plan("uniform"), channel_dim),
        g.double(),
        x.double(),
        False,
        "values",
        True,
    )[1]
    torch.testing.assert_close(sums, truth, rtol=1e-5, atol=1e-5 * 0.1 * x.numel() / channels)


@pytest.mark.parametrize(("shape", "dtype"), [((128, 64, 4, 4), torch.complex64), ((1, 64, 64, 64), torch.complex128)])
def test_channels_need_fewer_lanes(shape, dtype):
    """Where a channel's elements come in turn with others', sums in float32 have few terms."""
    places = shape[1] * 33
    assert table_sums._Sums(places, torch.randn(shape), 1).dtype == dtype
    assert table_sums._Sums(64 * 33, torch.randn(2**17), None).dtype == torch.complex128


def test_turns_do_not_divide_a_channel_for_sure():
    """Every eighth element may always meet the same one of eight lanes."""
    assert table_sums._Sums(1024, torch.randn(2**14, 8), 1).dtype == torch.complex128
    assert table_sums._Sums(256, torch.randn(2**14, 8), 1).dtype == torch.complex64


class Allocated(TorchDispatchMode):
    """The memory that operators gave, in bytes; the same place counts once."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else [result]:
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                self.sizes[storage.data_ptr()] = max(self.sizes.get(storage.data_ptr(), 0), storage.nbytes())
        return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_memory(direction, threads):
    """Beside the result, at most 2% of the input in one thread; with more, a piece's 20 bytes an element."""
    table = prepared(*drawn(17, True), torch.float32)
    x, g = torch.randn(2**24), torch.randn(1).expand(2**24)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with Allocated() as allocated:
        if direction == "forward":
            result = pieces.forward(table.spec, x, ())
        else:
            result, _ = table_sums.backward(table, g, x, True, "values", True)
    torch.set_num_threads(before)
    given = {t.untyped_storage().data_ptr() for t in (x, g, result, table.data)}
    extra = sum(size for place, size in allocated.sizes.items() if place not in given)
    bytes_of = {"forward": 8 * pieces.PIECE_PER_THREAD, "backward": 16 * pieces.TABLE_PIECE}
    # Beside the piece, sums and tables.
    most = (bytes_of[direction] if threads == 1 else 20 * pieces.PIECE_PER_THREAD * threads) + 2**17
    assert 0 < extra <= most
    assert threads > 1 or extra <= 0.02 * x.nbytes


BREAKPOINTS = {
    "even": torch.linspace(-2.0, 2.0, 9),
    "nearly even": torch.linspace(-2.0, 2.0, 9) + torch.tensor([0.0, 0.01, 0.0, -0.02, 0.0, 0.0, 0.015, 0.0, 0.0]),
    "uneven": torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.125, 1.0, 1.5, 1.75, 3.0]),
}


@pytest.mark.parametrize("breakpoints", BREAKPOINTS.values(), ids=BREAKPOINTS)
@pytest.mark.parametrize(
    "left", [torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.5, 0.0, -1.0])], ids=["flat", "one is"]
)
@pytest.mark.parametrize("rows", [1, 3], ids=["one row of breakpoints", "a row for each"])
@pytest.mark.parametrize("n", [2, 40, 3000], ids=str)
def test_channels_are_what_each_is_alone(breakpoints, left, rows, n):
    """Whether numbers say where all rows' breakpoints are, and tensors only where each row begins, or not."""
    b = breakpoints if rows == 1 else torch.stack([breakpoints, breakpoints, breakpoints])
    v = torch.randn(3, 9)
    special = torch.cat([breakpoints, torch.tensor([math.inf, -math.inf, math.nan])])
    x = torch.cat([2.0 * torch.randn(n, 3, 4), special.view(-1, 1, 1).expand(-1, 3, 4)])
    g = torch.randn(x.shape)
    how = table_rows.plan(b, v)
    table = tables.Table(table_rows.prepare(b, v, left, 0.5, how, torch.float32), 9, how, 1)
    assert len(table.beside(x)) == (1 if left.unique().numel() == 1 else 5)

    def derived(x, g, b, v, left):
        x, v, left = (t.clone().requires_grad_() for t in (x, v, left))
        y = FF.pwl(x, b, v, left_slope=left, right_slope=0.5)
        (dx,) = torch.autograd.grad(y, x, g)
        # The last three are not finite.
        finite = FF.pwl(x[:-3], b, v, left_slope=left, right_slope=0.5)
        return y, dx, *torch.autograd.grad(finite, (v, left), g[:-3])

    y, dx, dv, dleft = derived(x, g, b, v, left)
    for c in range(3):
        alone = derived(x[:, c].contiguous(), g[:, c].contiguous(), breakpoints, v[c], left[c])
        torch.testing.assert_close(y[:, c], alone[0], equal_nan=True)
        torch.testing.assert_close(dx[:, c], alone[1], equal_nan=True)
        torch.testing.assert_close(dv[c], alone[2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dleft[c], alone[3], rtol=1e-4, atol=1e-4)
