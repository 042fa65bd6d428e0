"""What learning a piecewise-linear table needs: sums over the elements, in plain PyTorch and in cache-sized pieces.

Each segment's sums of the gradient and of its product with x, in float64, make all of them. A segment is thousands of
times narrower than its numbers at most, which float64 bears; where x itself is float64, it counts from the segment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cpu_forms import no_spare
from .eager import HALF_DTYPES
from .pieces import Memory, pieces_of
from .tables import Table

__all__ = ["backward"]

# So many sums of a segment in turn: an addition need not wait for the one before it. Fewer where a table is long.
LANES = 8
# Rows of sums, which threads work on side by side; each takes so many elements before the next.
ROWS = 8
LENGTH = 2**14
# Of one kind, over lanes and rows.
MOST_SUMS = 2**14

# Numbers of buffers beyond those of tables.
_X, _G, _PRODUCT = 100, 101, 102


class _Moments:
    """For each segment of each row the sums of g and of g * x. Which sum an element adds to, its place decides."""

    def __init__(self, table: Table, x: Tensor) -> None:
        channels, segments = table.data.shape[0], table.count + 1
        self._table = table
        self._size = channels * segments
        self._lanes = max(1, min(LANES, MOST_SUMS // (ROWS * self._size)))
        self._rows = max(1, min(ROWS, MOST_SUMS // (self._lanes * self._size)))
        shape = (2, self._rows, self._lanes * self._size)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=x.device)
        # What makes a place among the sums of an index into the table.
        self.beside: tuple[Tensor, ...] = ()
        self._lane: Tensor | None = None
        if table.channel_dim is not None:
            shift = segments - table.data.shape[1]
            expanded = [1] * x.dim()
            expanded[table.channel_dim] = channels
            base = torch.arange(channels, dtype=torch.int32, device=x.device) * shift
            self.beside = (base.reshape(expanded).expand(x.shape),)
        if self._lanes > 1:
            lane = torch.arange(min(LENGTH, x.numel()), dtype=torch.int32, device=x.device)
            self._lane = lane.remainder_(self._lanes).mul_(self._size)

    def add(self, index: Tensor, g: Tensor, product: Tensor, *beside: Tensor) -> None:
        """Add a piece: contiguous tensors of one shape; index is overwritten."""
        if beside:
            index.add_(beside[0])
        flat = index.view(-1), g.view(-1), product.view(-1)
        for start in range(0, index.numel(), self._rows * LENGTH):
            count = min(index.numel() - start, self._rows * LENGTH)
            whole = count // LENGTH
            if whole:
                self._add_rows(*(t[start : start + whole * LENGTH].view(whole, LENGTH) for t in flat))
            if rest := count - whole * LENGTH:
                at = start + whole * LENGTH
                self._add_rows(*(t[at : at + rest].view(1, rest) for t in flat))

    def _add_rows(self, index: Tensor, g: Tensor, product: Tensor) -> None:
        if self._lane is not None:
            index.add_(self._lane[: index.shape[1]])
        for sums, terms in zip(self._sums, (g, product), strict=True):
            sums[: len(index)].scatter_add_(1, index, terms)

    def result(self) -> tuple[Tensor, Tensor]:
        """(channels, segments) each."""
        totals = self._sums.view(2, self._rows * self._lanes, -1).sum(1)
        first, second = totals.view(2, self._table.data.shape[0], -1).unbind()
        return first, second


def backward(
    table: Table, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums over all elements in float64, for each row of the table.

    For "values", (rows, count + 2): each value's gradient, and behind them, zeros unless `slopes`, those of the left
    and of the right slope. For "lines", (rows, 2, count + 1): over each segment, the sum of g, and that of g times the
    distance of x from the breakpoint where the segment begins; the first segment's ends at it.
    """
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    dx = torch.empty_like(x) if dx_needed else None
    beside = table.beside(x)
    moments = _Moments(table, x)
    memory = Memory(x)
    for x_piece, g_piece, *cut, dx_piece in pieces_of(x, g, *beside, *moments.beside, x if dx is None else dx):
        memory.piece = x_piece
        wide = x_piece if x.dtype == dtype else memory.widened(x_piece, _X)
        # The buffers of tables are for float32.
        spare = no_spare if dtype == torch.float64 else memory
        index = table.index(wide, cut[: len(beside)], spare)
        terms = memory(_G, torch.float64).copy_(g_piece)
        product = memory(_PRODUCT, torch.float64).copy_(x_piece)
        if dtype == torch.float64:
            product.sub_(table.starts_at(index))
        product.mul_(terms)
        if dx is not None:
            slope = table.slopes_at(index, spare)
            dx_piece.copy_(slope.mul_(g_piece if g.dtype == dtype else memory.widened(g_piece, _G)))
        moments.add(index, terms, product, *cut[len(beside) :])
    first, second = moments.result()
    b = table.breakpoints.double()
    if dtype != torch.float64:
        second = second - torch.cat([b[:, :1], b], 1) * first
    if wanted == "lines":
        return dx, torch.stack([first, second], 1)
    rising = second[:, 1:-1] / b.diff()
    values = first.new_zeros(len(first), table.count + 2)
    values[:, 0] = first[:, 0]
    values[:, table.count - 1] += first[:, -1]
    values[:, : table.count - 1] += first[:, 1:-1] - rising
    values[:, 1 : table.count] += rising
    if slopes:
        values[:, table.count], values[:, table.count + 1] = second[:, 0], second[:, -1]
    return dx, values
