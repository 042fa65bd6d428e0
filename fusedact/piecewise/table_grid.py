"""Tables whose values and slopes are learned: what depends on the breakpoints alone is prepared once."""

from __future__ import annotations

import torch
from torch import Tensor

from .table_rows import FAR, FARTHEST_ROOT, HEADER, SECTIONS, Plan, prepare
from .tables import Table

__all__ = ["Grid"]


class Grid:
    """Fixed breakpoints on the CPU, out of autograd's sight: `table` is what `prepare` makes, in half the time."""

    def __init__(
        self, breakpoints: Tensor, how: Plan, dtype: torch.dtype, channels: int = 1, channel_dim: int = 1
    ) -> None:
        """`channels` counts the rows, which may be more than those of breakpoints."""
        count = breakpoints.shape[-1]
        self._last: tuple[tuple[float | Tensor, ...], Table] | None = None
        self._dtype, self._how, self._channel_dim, self._size = dtype, how, channel_dim, 1 << count.bit_length()
        with torch.no_grad():
            zeros = torch.zeros(channels, count, dtype=torch.float64, device=breakpoints.device)
            # Without slopes every segment ends just before its breakpoint; with rising ones, there.
            self._template = prepare(breakpoints, zeros, 0.0, 0.0, how, dtype)
            self._like = Table(self._template, count, how, channel_dim)
            b = self._like.breakpoints
            self._early, self._late = torch.nextafter(b, b.new_full((), -torch.inf)), b
            b = b.double()
            self._points, self._steps = b, b.diff()
            self._at = torch.cat([b[:, :1], b], 1)
            # Where roots of the outer lines may be.
            far = b.new_full((channels, 1), FARTHEST_ROOT)
            self._above = torch.cat([-far, b[:, -1:]], 1)
            self._below = torch.cat([b[:, :1], far], 1)
            infinity = far.new_full((channels, 2), torch.inf)
            infinity[:, 0].neg_()
            self._open = infinity.to(dtype)
            self._closed = torch.cat([b[:, :1].clamp(max=-FAR), b[:, -1:].clamp(min=FAR)], 1).to(dtype)
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

    @torch.no_grad()
    def table(self, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor) -> Table:
        """The table with these values and slopes; that of the last call, if they are the same, as in a loop."""
        given = values, left_slope, right_slope
        if self._last is not None and all(map(_equal, given, self._last[0])):
            return self._last[1]
        count = self._points.shape[1]
        made = Table(self._rows(*given), count, self._how, self._channel_dim, self._like)
        # Copies: tensors may change, through `data` without a trace.
        self._last = tuple(t.clone() if isinstance(t, Tensor) else t for t in given), made
        return made

    def _rows(self, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor) -> Tensor:
        count, dtype = self._points.shape[1], self._dtype
        data = self._template.clone()
        ends, slopes, starts, anchors, intercepts = (
            data[:, HEADER + i * self._size :][:, : count + (i > 0)] for i in range(5)
        )
        start = torch.empty_like(self._at)
        v = start[:, 1:].copy_(values if values.dtype == dtype else values.to(dtype))
        start[:, 0] = v[:, 0]
        s = torch.empty_like(start)
        torch.sub(v[:, 1:], v[:, :-1], out=s[:, 1:-1]).div_(self._steps)
        for column, slope in ((s[:, 0], left_slope), (s[:, -1], right_slope)):
            column.copy_(torch.as_tensor(slope, dtype=dtype).reshape(-1))
        slopes.copy_(s)
        magnitudes = slopes.abs()
        torch.where(magnitudes[:, 1:] <= magnitudes[:, :-1], self._early, self._late, out=ends)

        # Where lines are written from: see _anchors of table_rows.py.
        root = self._at - start / s
        near = self._at.clone()
        crosses = torch.empty_like(near, dtype=torch.bool)
        distances = v.abs()
        torch.where(distances[:, 1:] < distances[:, :-1], self._points[:, 1:], self._points[:, :-1], out=near[:, 1:-1])
        torch.lt(v[:, 1:] * v[:, :-1], 0.0, out=crosses[:, 1:-1])
        outer = root[:, ::count]
        torch.logical_and(outer > self._above, outer < self._below, out=crosses[:, ::count])
        anchor = torch.where(crosses, root, near)
        anchors.copy_(anchor)
        anchor.copy_(anchors)
        starts.copy_(anchor.sub_(self._at).mul_(s).add_(start))
        intercepts.copy_(start.sub_(s.mul_(self._at)))
        torch.where(slopes[:, ::count] == 0, self._closed, self._open, out=data[:, 3:5])
        if not self._cells:
            first = torch.searchsorted(ends.double().contiguous(), self._edges)
            data[:, HEADER + SECTIONS * self._size :].copy_(first)
        return data


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    """Whether two parts of a table have the same numbers; not those that are missing."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
