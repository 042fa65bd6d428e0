"""Piecewise-linear functions with tables: their evaluation in plain PyTorch, as table_rows.py lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Parameter

from .. import compat
from ..cpu.cpu_forms import Gradients, Needed, Spare, no_spare
from ..registry import ActivationSpec, get
from .table_rows import HEADER, SEARCH, SECTIONS, Plan, prepare

__all__ = ["Even", "Table", "gathered", "integers", "reference"]

# Up to so many elements a search by one operation takes less time than an index by several.
FEW = 2**11
# In small images fewer than so many elements of a channel follow each other. Where channels begin is then kept for each
# of an image's elements, if there are so few, and for the last shapes that came.
LONG_RUN, MOST_BEGINNINGS, SHAPES = 32, 2**15, 8
# What tables share that have the same breakpoints and plan; and the same outer slopes, too.
OF_BREAKPOINTS = ("_alike", "_beginnings", "_grid", "_origin", "breakpoints", "even", "gaps")
OF_SLOPES = ("_bounds", "_one", "_told_by_numbers")
# index_select reads a one-dimensional table in one thread, at 0.57 ns an element; take in all, at 1.5 ns in each
# and with indices of 64 bits. Derived from these figures, measured with two threads.
THREADS_TO_TAKE = 4


def gathered(entries: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
    """The entries at an index."""
    if index.dtype == torch.int64:
        return torch.take(entries, index, out=out)
    if out is None:
        return entries.index_select(0, index.reshape(-1)).reshape(index.shape)
    torch.index_select(entries, 0, index.view(-1), out=out.view(-1))
    return out


def _readable(data: Tensor) -> bool:
    """Whether numbers may be read off a table: at no cost, and not of a graph's tensors."""
    return data.is_cpu and data.dtype == torch.float32 and not data.requires_grad and not is_compiling()


@dataclass(frozen=True)
class Even:
    """Breakpoints that arithmetic gives exactly: the i-th, from 0, is first + step * i, or behind + step * (i + 1)."""

    step: float
    first: Tensor
    behind: Tensor


def _even(breakpoints: Tensor) -> Even | None:
    """How arithmetic gives them, if it does, whether a processor rounds the product or not."""
    count = len(breakpoints)
    if count == 1:
        return None
    first = breakpoints[0]
    step = breakpoints.new_tensor((breakpoints[-1].item() - first.item()) / (count - 1))
    behind = first - step
    numbers = torch.arange(count, dtype=breakpoints.dtype, device=breakpoints.device)
    for start, i in ((first, numbers), (behind, numbers + 1)):
        rounded, fused = i * step + start, (i.double() * step + start.double()).to(i.dtype)
        if not bool(((rounded == breakpoints) & (fused == breakpoints)).all()):
            return None
    return Even(step.item(), first, behind)


def integers(t: Tensor, spare: Spare) -> Tensor:
    """t without its fraction, in its own memory if that was given."""
    if not t.is_floating_point():
        return t
    if spare is no_spare:
        return t.int()
    if torch.get_num_threads() >= THREADS_TO_TAKE:
        return t.long()
    return t.view(torch.int32).copy_(t)


def _gathers_lines() -> bool:
    """Whether one gather of lines takes less time than one of each of their numbers, which are done in one thread."""
    return torch.get_num_threads() > 1


def _scratch(spare: Spare) -> Tensor | None:
    """Memory that lines, if they are gathered, will overwrite."""
    return spare(0, torch.float32, 0) if _gathers_lines() else spare(1)


@cache
def _record(kind: str) -> ActivationSpec:
    """What the records of all tables have in common whose segments are found in this way."""
    return replace(get("pwl"), parameters=(), device=f"pwl_{kind}")


class Table:
    """A prepared piecewise-linear function, in one row or one per channel; methods take x in the rows' dtype.

    `beside` are the tensors that `Table.beside(x)` gives, or parts of them beside a part of x. The last one,
    if there is any, tells where the row of x's channel begins.
    """

    def __init__(
        self,
        data: Tensor,
        count: int,
        how: Plan,
        channel_dim: int,
        like: Table | None = None,
        same_slopes: bool = False,
    ) -> None:
        """`like`, a table with the same breakpoints and plan, saves computing what depends on these alone; and with
        `same_slopes`, that of the outer ones, too.
        """
        self.data = data
        self.count = count
        self.how = how
        # None for a single row.
        self.channel_dim = channel_dim if data.shape[0] > 1 else None
        self.size = 1 << count.bit_length()
        flat = data.reshape(-1)
        # Behind each name a view that begins with its first entry: one index serves all.
        starts = [HEADER + i * self.size for i in range(4)]
        self._ends, self._slopes, self._values, self._anchors = (flat[start:] for start in starts)
        self._first = flat[HEADER + SECTIONS * self.size :]
        # From where one row begins to the next.
        self._row = data.shape[1]
        known = () if like is None else OF_BREAKPOINTS + OF_SLOPES if same_slopes else OF_BREAKPOINTS
        self.__dict__.update({name: getattr(like, name) for name in known})
        if not same_slopes:
            # For one row: scale, offset and bounds.
            self._one = tuple(data[0, i] for i in (0, 1, 3, 4))
        if like is None:
            # Where the grid of one row begins, in steps; and counted from 1.
            origin = self._one[1] * data[0, 2]
            self._origin = origin, origin + 1.0
            # By how long rows are, and x's shape: see `begins`.
            self._beginnings: dict[Any, Tensor] = {}

    def with_lines(self, slopes: Tensor, values: Tensor, anchors: Tensor) -> Table:
        """A table with the same even breakpoints and outer slopes, and these lines, of shape (channels, count + 1).

        Of `data` its header and breakpoints count alone. This table must have no use of its own.
        """
        made = object.__new__(Table)
        made.__dict__.update(vars(self), **{name: getattr(self, name) for name in OF_SLOPES})
        made.slopes, made._row = slopes, self.count + 1
        made._slopes, made._values, made._anchors = slopes.view(-1), values.view(-1), anchors.view(-1)
        made.__dict__.pop("_ends", None)
        return made

    @cached_property
    def _ends(self) -> Tensor:
        """Where segments end, behind each other as the lines are."""
        b = self.breakpoints
        ends = torch.where(self.late, b, torch.nextafter(b, b.new_full((), -torch.inf)))
        return torch.nn.functional.pad(ends, (0, 1), value=torch.nan).view(-1)

    @cached_property
    def _grid(self) -> tuple[float, float]:
        """The steps of the grid in x, and its last cell, for one row."""
        scale, _, last = self.data[0, :3].tolist()
        return scale * last, last

    @cached_property
    def _alike(self) -> bool:
        """Whether the breakpoints, and the grid that finds them, are those of the first row in all."""
        rows = self.breakpoints, self.data[:, :3]
        return self.channel_dim is None or all(torch.equal(r, r[:1].expand(r.shape)) for r in rows)

    @cached_property
    def _bounded_alike(self) -> bool:
        """Whether the bounds of x are those of the first row in all."""
        bounds = self.data[:, 3:5]
        return torch.equal(bounds, bounds[:1].expand(bounds.shape))

    @cached_property
    def _told_by_numbers(self) -> bool:
        """Whether numbers tell of all rows where segments are, and the bounds of x: of data that may be read."""
        return self._alike and self._bounded_alike

    @cached_property
    def even(self) -> Even | None:
        known = self.how.kind == "uniform" and _readable(self.data) and self._alike
        return _even(self.breakpoints[0]) if known else None

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        """The bounds of x for one row, as numbers."""
        low, high = self.data[0, 3:5].tolist()
        return low, high

    @cached_property
    def _lines(self) -> Tensor:
        """Each segment's slope, value at the anchor, and anchor, as one complex number, which one gather reads."""
        count = self._anchors.numel()
        slopes, values = self._slopes[:count], self._values[:count]
        return torch.stack([slopes, values, self._anchors, self._anchors], 1).view(torch.complex128).view(-1)

    @property
    def constants(self) -> tuple[Any, ...]:
        """All of it, as an operator's arguments."""
        how = self.how
        return self.data, self.count, how.kind, how.cells, how.steep, how.even, self.channel_dim

    @cached_property
    def spec(self) -> ActivationSpec:
        """The record of this one function, which has no parameters."""
        return self.record()

    def record(self) -> ActivationSpec:
        """`spec` made anew: a table that keeps it is freed no sooner than Python looks for cycles."""
        # Not by `replace`, which takes as long as ten operations on a small tensor.
        made = object.__new__(ActivationSpec)
        own = {"eager": self.value, "lean_forward": self.lean_value, "lean_backward": self.gradient, "table": self}
        made.__dict__.update(vars(_record(self.how.kind)), **own)
        return made

    @cached_property
    def slopes(self) -> Tensor:
        """The slopes of each row's segments."""
        return self.data[:, HEADER + self.size : HEADER + self.size + self.count + 1]

    @cached_property
    def late(self) -> Tensor:
        """Whether a breakpoint itself still belongs to the segment before it: the flatter one, as `prepare` has it."""
        magnitudes = self.slopes.abs()
        return magnitudes[:, 1:] > magnitudes[:, :-1]

    @cached_property
    def breakpoints(self) -> Tensor:
        """The breakpoints of each row."""
        start = HEADER + 5 * self.size + 1
        return self.data[:, start : start + self.count]

    @cached_property
    def gaps(self) -> Tensor:
        """The distances between the breakpoints of each row, in float64."""
        return self.breakpoints.double().diff()

    def beside(self, x: Tensor) -> tuple[Tensor, ...]:
        """For rows per channel: scale, offset, bounds and the row's beginning, expanded to x's shape; else nothing.

        The row's beginning alone where the others are numbers, with which arithmetic takes half the time.
        """
        if self.channel_dim is None:
            return ()
        begins = self.begins(x, self._row)
        if _readable(self.data) and self._told_by_numbers:
            return (begins,)
        shape = [1] * x.dim()
        shape[self.channel_dim] = -1
        return *(self.data[:, i].reshape(shape).expand(x.shape) for i in (0, 1, 3, 4)), begins

    def begins(self, x: Tensor, length: int) -> Tensor:
        """Where rows of so many entries begin, which belong to x's channels, expanded to x's shape."""
        assert self.channel_dim is not None
        own = x.shape[self.channel_dim % x.dim() :]
        shape = [-1, *[1] * (len(own) - 1)]
        if not _readable(self.data):
            begins = torch.arange(self.data.shape[0], dtype=torch.int32, device=x.device) * length
            return begins.view(shape).expand(x.shape)
        key = length, x.shape, x.is_contiguous()
        found = self._beginnings.get(key)
        if found is None:
            begins = torch.arange(0, own[0] * length, length, dtype=torch.int32).view(shape)
            # What repeats so soon is read entry by entry, which takes up to ten times as long.
            if key[2] and prod(own[1:]) < LONG_RUN and prod(own) <= MOST_BEGINNINGS:
                begins = begins.expand(own).contiguous()
            if len(self._beginnings) >= SHAPES:
                self._beginnings.clear()
            found = self._beginnings[key] = begins.expand(x.shape)
        return found

    def index(self, x: Tensor, beside: Sequence[Tensor], spare: Spare = no_spare) -> Tensor:
        """Where in the views the segment of each element is: its number, behind all of the rows before its own."""
        base = beside[-1] if beside else None
        if self.how.kind == "search":
            return self._searched(x, base)
        # A NaN counts as 0.
        if len(beside) > 1:
            part = torch.mul(x, beside[0], out=spare(0)).add_(beside[1])
            part.nan_to_num_(0.0).clamp_(0.0, 1.0).mul_(self.data[0, 2])
        else:
            step, last = self._grid
            part = torch.add(self._origin[0], x, alpha=step, out=spare(0)).nan_to_num_(0.0).clamp_(0.0, last)
        index = integers(part, spare)
        if self.how.kind == "bucket":
            if base is not None:
                index.add_(base)
            index.copy_(gathered(self._first, index, _scratch(spare)))
        if base is not None:
            index.add_(base)
        # A comparison in place takes a third of one that makes bools.
        passed = gathered(self._ends, index, _scratch(spare)).lt_(x)
        return index.add_(passed.int() if spare is no_spare else passed.view(torch.int32).copy_(passed))

    def _searched(self, x: Tensor, base: Tensor | None) -> Tensor:
        """The binary search of the kernels, which works for rows per channel too."""
        index = torch.zeros_like(x, dtype=torch.int32) if base is None else base.clone()
        step = self.size // 2
        while step:
            index = index + step * (x > gathered(self._ends, index + (step - 1))).int()
            step //= 2
        return index

    def _index_of_few(self, x: Tensor) -> Tensor:
        """The same for one row and few elements, in fewer operations. A NaN counts to the last segment."""
        return torch.bucketize(x.contiguous(), self._ends[: self.count], out_int32=True)

    def value(self, x: Tensor, *beside: Tensor) -> Tensor:
        """The function at x, differentiable."""
        subclass = self.channel_dim is None and type(x) not in (Tensor, Parameter)
        # With numbers, which do not learn.
        if subclass and not self.data.requires_grad and compat.holds_numbers(self.data):
            return self._compared(x)
        index = self.index(x.detach(), beside)
        low, high = (beside if len(beside) > 1 else self._one)[2:4]
        # Bounds, infinite unless an outer slope is 0, keep 0 * inf out.
        x = torch.minimum(torch.maximum(x, low), high)
        return torch.addcmul(
            gathered(self._values, index), gathered(self._slopes, index), x - gathered(self._anchors, index)
        )

    def _compared(self, x: Tensor) -> Tensor:
        """The same by a comparison for each segment, with numbers: a DTensor and its like mix with no tables."""
        parts = (self._ends, self._slopes, self._values, self._anchors)
        ends, slopes, values, anchors = (part[: self.count + 1].tolist() for part in parts)
        low, high = self._bounds
        # Not clamp, whose gradient at a NaN is 0.
        bounded = torch.where(x < low, low, torch.where(x > high, high, x))
        y = (bounded - anchors[0]) * slopes[0] + values[0]
        for end, slope, value, anchor in zip(ends, slopes[1:], values[1:], anchors[1:], strict=False):
            y = torch.where(x > end, (bounded - anchor) * slope + value, y)
        return y

    def lean_value(self, x: Tensor, *beside: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
        """The same without a graph to record."""
        if not beside and x.numel() <= FEW:
            index = self._index_of_few(x)
        elif self.even is not None and len(beside) <= 1:
            index = self._even_index(x, self.even, spare)
            if beside:
                index.add_(beside[-1])
        else:
            index = self.index(x, beside, spare)
        if len(beside) > 1:
            # Beside tensors clamp takes three times as long.
            y = torch.maximum(x, beside[2], out=out)
            torch.minimum(y, beside[3], out=y)
        else:
            low, high = self._bounds
            y = torch.clamp(x, low, high, out=out)
        if spare is no_spare or not _gathers_lines():
            room = _scratch(spare)
            y.sub_(gathered(self._anchors, index, room))
            y.mul_(gathered(self._slopes, index, room))
            return y.add_(gathered(self._values, index, room))
        line = torch.view_as_real(gathered(self._lines, index, spare(0, torch.complex128, 0))).view(torch.float32)
        return torch.addcmul(line[..., 1], line[..., 0], y.sub_(line[..., 2]), out=y)

    def _even_index(self, x: Tensor, even: Even, spare: Spare) -> Tensor:
        """The index where arithmetic gives every breakpoint; at a breakpoint either segment, for the same value."""
        step, last = self._grid
        cell = torch.add(self._origin[0], x, alpha=step, out=spare(0)).nan_to_num_(0.0).clamp_(0.0, last - 0.5).floor_()
        # A comparison in place takes a third of one that makes bools.
        return integers(cell.add_(torch.add(even.first, cell, alpha=even.step, out=_scratch(spare)).le_(x)), spare)

    def nearest(self, x: Tensor, beside: Sequence[Tensor], spare: Spare = no_spare) -> Tensor:
        """The number, from 1, of a breakpoint beside each element; with a fraction; one more behind the last; 0 of NaN.

        The nearest one where a grid tells. In the first part of buffer 0, by way of the third and fourth.
        """
        kind = self.how.kind
        if kind == "search":
            segment = self._searched(x, beside[-1] if beside else None)
            if beside:
                segment = segment - beside[-1]
            return (segment + 1) * (x == x)
        room = spare(0, torch.float32, 0)
        if len(beside) > 1:
            part = torch.mul(x, beside[0], out=room).add_(beside[1]).clamp_(0.0, 1.0).mul_(self.data[0, 2]).add_(1.0)
        else:
            step, last = self._grid
            # In a grid that tells the nearest breakpoint, the last is nearest to all behind it.
            last += 0.5 if kind == "uniform" else 1.0
            part = torch.add(self._origin[1], x, alpha=step, out=room).clamp_(1.0, last)
        part.nan_to_num_(0.0)
        if kind == "uniform":
            return part
        # The cell of a NaN is the first one, and its number changed behind that.
        cell = integers(part.sub_(1.0).clamp_min_(0.0), spare)
        if beside:
            cell.add_(beside[-1])
        segment = gathered(self._first, cell, spare(0, torch.float32, 2)).add_(1.0)
        if spare is no_spare:
            return segment.mul_(x == x)
        # A comparison in place takes a third of one that makes bools.
        known = cast("Tensor", spare(0, torch.float32, 3)).copy_(x).eq_(x)
        return torch.mul(segment, known, out=room)

    def slopes_at(self, index: Tensor, spare: Spare = no_spare) -> Tensor:
        """The slopes of segments by their index."""
        return gathered(self._slopes, index, _scratch(spare))

    def gradient(
        self,
        g: Tensor,
        x: Tensor,
        *beside: Tensor,
        needed: Needed = None,
        out: Tensor | None = None,
        spare: Spare = no_spare,
    ) -> Gradients:
        """g times the slope at x."""
        few = not beside and x.numel() <= FEW
        index = self._index_of_few(x).mul_(x == x) if few else self.index(x, beside, spare)
        slopes = self.slopes_at(index, spare)
        return (slopes.mul_(g) if out is None else torch.mul(slopes, g, out=out),)


def reference(
    x: Tensor, breakpoints: Tensor, values: Tensor, left_slope: float | Tensor = 0.0, right_slope: float | Tensor = 0.0
) -> Tensor:
    """One table's function, differentiable in x and in the tables."""
    data = prepare(breakpoints, values, left_slope, right_slope, SEARCH, x.dtype)
    return Table(data, breakpoints.shape[-1], SEARCH, 1).value(x)
