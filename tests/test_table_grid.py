"""Tables made with fixed breakpoints are those that `prepare` makes, to the bit, but for what kernels alone read."""

from __future__ import annotations

import pytest
import torch

import fusedact
from fusedact.piecewise import table_rows, tables
from fusedact.piecewise.table_grid import Grid


def assert_same(breakpoints, values, left, right, channels, grid=None):
    how = table_rows.plan(breakpoints, values)
    made = (grid or Grid(breakpoints, how, channels)).table(values, left, right)
    expected = tables.Table(
        table_rows.prepare(breakpoints, values, left, right, how, torch.float32), breakpoints.shape[-1], how, 1
    )
    count = breakpoints.shape[-1]
    for part in ("_ends", "_slopes", "_values", "_anchors"):
        rows = [
            torch.stack([getattr(t, part)[c * t._row :][: count + 1] for c in range(channels)])
            for t in (made, expected)
        ]
        torch.testing.assert_close(*rows, rtol=0, atol=0, equal_nan=True)
    # The header, and the cells' first segments.
    for part in (slice(table_rows.HEADER), slice(table_rows.HEADER + table_rows.SECTIONS * expected.size, None)):
        torch.testing.assert_close(made.data[:, part], expected.data[:, part], rtol=0, atol=0)
    assert torch.equal(made.late, expected.late)
    assert made.constants[1:] == expected.constants[1:]
    assert (made.even is None) == (expected.even is None)
    torch.testing.assert_close(made.breakpoints, expected.breakpoints, rtol=0, atol=0)
    x = 3 * torch.randn(5000, channels)
    x[:4] = torch.tensor([torch.inf, -torch.inf, 3e38, -3e38]).unsqueeze(1)
    values = [t.lean_value(x, *t.beside(x)) for t in (made, expected)]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    # What statistics ask for.
    slopes = [t.gradient(torch.ones_like(x), x, *t.beside(x))[0] for t in (made, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=0)
    return how.kind


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 17, 64, 200, 1024])
@pytest.mark.parametrize("spacing", ["even", "jittered", "random"])
def test_tables(spacing, count, channels):
    b = torch.linspace(-4, 4, count) if spacing != "random" else 3 * torch.randn(2 * count).unique()[:count]
    if spacing == "jittered":
        b = b + 3 / count * torch.rand(count)
    drawn = torch.randn(channels, count)
    # One grid for all: other slopes, the same ones again, and other values beside them.
    grid = Grid(b, table_rows.plan(b), channels)
    for left, right in ((0.0, 0.1), (torch.randn(1), torch.zeros(channels)), (torch.randn(channels), 0.0)):
        for values in (drawn, drawn.round(), torch.zeros(channels, count), -torch.ones(channels, count)):
            given = values[0] if channels == 1 else values
            assert_same(
                b, given, left, right, channels, grid if table_rows.plan(b) == table_rows.plan(b, given) else None
            )


def test_kinds():
    b = torch.linspace(-4, 4, 17)
    uneven = torch.tensor([-3.0, -1.25, -1.0, 0.0, 0.125, 2.0, 5.0])
    close = torch.tensor([-1.0, 0.0, 2.0**-20, 1.0])
    kinds = [assert_same(t, torch.randn(len(t)), 0.0, 0.0, 1) for t in (b, uneven, close)]
    assert kinds == ["uniform", "bucket", "search"]


def test_breakpoints_per_channel_and_halves():
    b = torch.stack([torch.linspace(-4, 4, 17), torch.linspace(-2, 1, 17)]).bfloat16()
    assert_same(b, torch.randn(2, 17).bfloat16(), torch.randn(2).bfloat16(), 0.3, 2)


def test_nothing_is_shared():
    """A table stays as it was when another is made, and values may require a gradient."""
    grid = Grid(torch.linspace(-1, 1, 5), table_rows.plan(torch.linspace(-1, 1, 5), torch.zeros(5)))
    first = grid.table(torch.ones(5, requires_grad=True), 0.0, 0.0)
    before = first.slopes.clone()
    assert not first.slopes.requires_grad
    grid.table(torch.randn(5), 1.0, 2.0)
    torch.testing.assert_close(first.slopes, before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 1), (2, 5, 2, 2), (2, 5, 2**7, 2**7), (5,)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_where_channels_begin(shape, channels_last):
    """Small images have a number for each element, which is kept for the last shapes that came."""
    channel_dim = 0 if shape == (5,) else 1
    b = torch.linspace(-1, 1, 9)
    table = Grid(b, table_rows.plan(b), 5, channel_dim).table(torch.randn(5, 9), 0.0, 0.0)
    x = torch.randn(shape)
    x = x.movedim(channel_dim, -1).contiguous().movedim(-1, channel_dim) if channels_last else x
    begins = table.begins(x, 11)
    like = [5 if d == channel_dim else 1 for d in range(x.dim())]
    assert torch.equal(begins, (11 * torch.arange(5, dtype=torch.int32)).view(like).expand(shape))
    assert table.begins(x.clone(), 11) is begins
    for length in range(1, tables.SHAPES + 1):
        table.begins(x, length)
    assert len(table._beginnings) <= tables.SHAPES


@pytest.mark.parametrize("part", range(3))
def test_the_last_table_serves_again_until_a_number_changes(part):
    b = torch.linspace(-1, 1, 5)
    given = [torch.randn(5), torch.tensor(0.5), torch.tensor([0.25])]
    grid = Grid(b, table_rows.plan(b))
    first = grid.table(*given)
    assert grid.table(*(t.clone() for t in given)) is first
    kept = first._values.clone()
    # Through `data`, which nobody counts.
    given[part].data.reshape(-1)[0] += 1.0
    second = grid.table(*given)
    assert second is not first and not torch.equal(second._values, kept)
    assert torch.equal(first._values, kept)
    assert grid.table(*(t.double() for t in given)) is not second


def test_a_table_made_under_inference_mode_serves_training():
    b = torch.linspace(-1, 1, 5)
    act = fusedact.PWL(b, b.sin(), 0.0, 0.5, learnable=True)
    x = torch.randn(50)
    with torch.inference_mode():
        expected = act(x)
    x.requires_grad_()
    y = act(x)
    assert torch.equal(y, expected)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    dx.sum().backward()
    assert act.values.grad.isfinite().all()
