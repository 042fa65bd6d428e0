"""Tables whose values and slopes are learned: what depends on the breakpoints alone is prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .table_rows import FAR, FARTHEST_ROOT, HEADER, SECTIONS, Plan, prepare
from .tables import Table

__all__ = ["Grid"]


class _Outer(NamedTuple):
    """What depends on the outer slopes, too: these as they were given, and a table that has them, with zeros as values;
    the slopes in float64, of which the outer ones are right; and between which ends a segment's line may cross zero.
    """

    given: tuple[float | Tensor, float | Tensor]
    table: Table
    slopes: Tensor
    lowest: Tensor
    highest: Tensor


class Grid:
    """Fixed breakpoints on the CPU, out of autograd's sight: `table` is what `prepare` makes in float32, in a quarter
    of the time, but for the intercepts, which are zeros: kernels alone read them.
    """

    def __init__(self, breakpoints: Tensor, how: Plan, channels: int = 1, channel_dim: int = 1) -> None:
        """`channels` counts the rows, which may be more than those of breakpoints."""
        self._count = breakpoints.shape[-1]
        self._last: tuple[tuple[float | Tensor, ...], Table] | None = None
        self._outer: _Outer | None = None
        self._how, self._channel_dim, self._size = how, channel_dim, 1 << self._count.bit_length()
        with torch.no_grad():
            zeros = torch.zeros(channels, self._count, dtype=torch.float64, device=breakpoints.device)
            # Without slopes every segment ends just before its breakpoint; with rising ones, there.
            self._template = prepare(breakpoints, zeros, 0.0, 0.0, how, torch.float32)
            self._like = Table(self._template, self._count, how, channel_dim)
            self._late = self._like.breakpoints
            self._early = torch.nextafter(self._late, self._late.new_full((), -torch.inf))
            b = self._points = self._late.double()
            self._at = torch.cat([b[:, :1], b], 1)
            self._cells = self._fixed_cells()

    def _fixed_cells(self) -> bool:
        """Whether the cells' first segments are the same wherever segments end, at breakpoints or just before."""
        if self._how.kind != "bucket":
            return True
        start = HEADER + SECTIONS * self._size
        scale = self._how.cells / (self._points[:, -1:] - self._points[:, :1])
        cell = torch.arange(self._how.cells + 2, dtype=torch.float64, device=scale.device)
        self._edges = (self._points[:, :1] + (cell - 1.01) / scale).contiguous()
        late = torch.searchsorted(self._late.double().contiguous(), self._edges)
        return bool((late == self._template[:, start:]).all())

    def table(self, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor) -> Table:
        """The table with these values and slopes; that of the last call, if they are the same, as in a loop."""
        values = values.detach()
        given = values, left_slope, right_slope
        if self._last is not None and all(map(_equal, given, self._last[0])):
            return self._last[1]
        outer = self._outer
        if outer is None or not all(map(_equal, given[1:], outer.given)):
            outer = self._outer = self._with_slopes(left_slope, right_slope)
        made = self._with_values(values, outer)
        self._last = (_copied(values), *outer.given), made
        return made

    @torch.no_grad()
    def _with_slopes(self, *given: float | Tensor) -> _Outer:
        slopes = torch.zeros_like(self._at)
        for column, slope in ((0, given[0]), (-1, given[1])):
            slopes[:, column] = torch.as_tensor(slope, dtype=torch.float32).reshape(-1)
        left, right = slopes[:, :1], slopes[:, -1:]
        low, high = self._points[:, :1], self._points[:, -1:]
        infinity = torch.full_like(low, torch.inf)
        data = self._template.clone()
        data[:, 3:4] = torch.where(left == 0, low.clamp(max=-FAR), -infinity)
        data[:, 4:5] = torch.where(right == 0, high.clamp(min=FAR), infinity)
        far = torch.full_like(low, FARTHEST_ROOT)
        lowest = torch.cat([torch.where(left == 0, low, -far), self._points], 1)
        highest = torch.cat([self._points, far], 1)
        table = Table(data, self._count, self._how, self._channel_dim, self._like)
        return _Outer((_copied(given[0]), _copied(given[1])), table, slopes, lowest, highest)

    def _with_values(self, values: Tensor, outer: _Outer) -> Table:
        v = values.to(torch.float32).double().expand(len(self._points), -1)
        start = torch.cat([v[:, :1], v], 1)
        s = outer.slopes.clone()
        torch.sub(v[:, 1:], v[:, :-1], out=s[:, 1:-1]).div_(self._like.gaps)
        # Where lines are written from: see _anchors of table_rows.py. Where one crosses zero beyond an end, that end is
        # nearer to zero; a flat one crosses nowhere.
        root = torch.addcdiv(self._at, start, s, value=-1.0).nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
        anchors = torch.clamp(root, outer.lowest, outer.highest).float()
        lines = s.float(), torch.sub(anchors, self._at).mul_(s).add_(start).float(), anchors
        return self._of_rows(lines, outer) if self._like.even is None else outer.table.with_lines(*lines)

    def _of_rows(self, lines: Sequence[Tensor], outer: _Outer) -> Table:
        """The table with whole rows, which are searched in."""
        data = outer.table.data.clone()
        sections = data[:, HEADER : HEADER + 4 * self._size].unflatten(1, (4, -1))
        for number, part in enumerate(lines, 1):
            sections[:, number, : self._count + 1] = part
        made = Table(data, self._count, self._how, self._channel_dim, outer.table, same_slopes=True)
        ends = torch.where(made.late, self._late, self._early)
        sections[:, 0, : self._count] = ends
        if not self._cells:
            first = torch.searchsorted(ends.double(), self._edges)
            data[:, HEADER + SECTIONS * self._size :].copy_(first)
        return made


def _copied(part: float | Tensor) -> float | Tensor:
    """Tensors may change, through `data` without a trace."""
    return part.clone() if isinstance(part, Tensor) else part


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    """Whether two parts of a table have the same numbers; not those that are missing."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
