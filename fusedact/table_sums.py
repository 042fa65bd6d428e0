"""What learning a piecewise-linear table needs: sums over the elements, in plain PyTorch and in cache-sized pieces.

An element counts to a place: left of a breakpoint beside it, at it, or right of it. Each place's sums of the gradient g
and of g times the distance from the breakpoint make all that is wanted, and nothing cancels. Both are one complex
number, which is added at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .cpu_forms import Spare, no_spare
from .eager import HALF_DTYPES
from .large_pages import empty_like
from .pieces import TABLE_PIECE, Memory, piece_limit, pieces_of
from .tables import Table, gathered, integers

__all__ = ["backward"]

# Threads work on rows of sums side by side, each of which takes so many elements before the next.
ROWS = 8
LENGTH = TABLE_PIECE // ROWS
# In a row so many sums of a place take turns: an addition need not wait for the one before it. And a sum in float32 has
# at most 384 terms, whatever the elements, when it is added to one in float64.
LANES = 16
# Where a table is long or x short, fewer sums are in float64 throughout.
MOST_SUMS = 2**14
WIDE_LANES = 8
# Below so many elements one sum is enough.
SHORT = 2**13

# Numbers of buffers beyond those of places.
_X, _G, _TERMS = 100, 101, 102


class _Places:
    """Where elements count: rows of three places, left of a breakpoint, at it, and right of it.

    For each row of the table the first row of places is that of NaN, then come the breakpoints, and last what a grid or
    a search knows to be behind the last one.
    """

    def __init__(self, table: Table, x: Tensor) -> None:
        self.table = table
        self.channels, self.rows = table.data.shape[0], table.count + 2
        b, slopes = table.breakpoints, table.slopes
        self._points = torch.cat([b[:, :1], b, b[:, -1:]], 1).view(-1)
        at = torch.where(table.late, slopes[:, :-1], slopes[:, 1:])
        sides = torch.stack([slopes[:, :-1], at, slopes[:, 1:]], 2).view(self.channels, -1)
        # A NaN is the first: its side is 0, and its row too.
        first, last = (t.expand(-1, width) for t, width in ((slopes[:, :1], 2), (slopes[:, -1:], 4)))
        self.slopes = torch.cat([first, sides, last], 1).view(-1)
        # Beside x, where the rows of its channel begin.
        self.beside: tuple[Tensor, ...] = ()
        if table.channel_dim is not None:
            shape = [1] * x.dim()
            shape[table.channel_dim] = self.channels
            base = torch.arange(self.channels, dtype=torch.int32, device=x.device) * self.rows
            self.beside = (base.view(shape).expand(x.shape),)

    @property
    def count(self) -> int:
        return self.channels * self.rows * 3

    def of(self, x: Tensor, beside: Sequence[Tensor], spare: Spare) -> tuple[Tensor, Tensor]:
        """The number of each element's place, and its distance from the breakpoint; in buffers 2 and 1."""
        even = None if beside else self.table.even
        row = self.table.nearest(x, beside[:-1], spare)
        if even is not None:
            row.floor_()
            distance = torch.add(even.behind, row, alpha=even.step, out=spare(1))
            torch.sub(x, distance, out=distance)
            return integers(torch.sign(distance, out=spare(2)).add_(row, alpha=3.0), spare), distance
        row = integers(row, spare)
        if beside:
            row.add_(beside[-1])
        distance = gathered(self._points, row, spare(1))
        torch.sub(x, distance, out=distance)
        return integers(torch.sign(distance, out=spare(2)), spare).add_(row, alpha=3), distance

    def _parts(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of NaN, of the breakpoints' places, and of what is behind the last."""
        rows = sums.view(self.channels, -1)
        end = 2 + 3 * self.table.count
        return rows[:, 0], rows[:, 2:end].view(self.channels, -1, 3), rows[:, end : end + 3].sum(1)

    def values(self, sums: Tensor, moments: Tensor, slopes: bool) -> Tensor:
        """The gradients of the values, and of the slopes or zeros."""
        nan, near, behind = self._parts(sums)
        nan_moment, moment, behind_moment = self._parts(moments)
        count, steps = self.table.count, self.table.breakpoints.double().diff()
        made = sums.new_zeros(self.channels, count + 2)
        made[:, :count] = near.sum(2)
        made[:, 0] += nan
        made[:, count - 1] += behind
        # What lies beside one breakpoint counts in part to the next.
        for shared in (moment[:, 1:, 0] / steps, moment[:, :-1, 2] / steps):
            made[:, : count - 1] -= shared
            made[:, 1:count] += shared
        if slopes:
            made[:, count] = moment[:, 0, 0] + nan_moment
            made[:, count + 1] = moment[:, -1, 2] + behind_moment
        return made

    def lines(self, sums: Tensor, moments: Tensor) -> Tensor:
        """The sums over segments: of g, and of g times the distance from the segment's beginning."""
        nan, near, behind = self._parts(sums)
        nan_moment, moment, behind_moment = self._parts(moments)
        count, late = self.table.count, self.table.late
        steps = torch.nn.functional.pad(self.table.breakpoints.double().diff(), (1, 0))
        before = near[..., 0] + near[..., 1].where(late, 0.0)
        made = sums.new_zeros(self.channels, 2, count + 1)
        made[:, 0, :count] = before
        made[:, 0, 1:] += near[..., 2] + near[..., 1].where(~late, 0.0)
        made[:, 0, 0] += nan
        made[:, 0, count] += behind
        made[:, 1, :count] = moment[..., 0]
        made[:, 1, 1:count] += (steps * before)[:, 1:]
        made[:, 1, 1:] += moment[..., 2]
        made[:, 1, 0] += nan_moment
        made[:, 1, count] += behind_moment
        return made


@lru_cache(maxsize=64)
def _turns(length: int, lanes: int, size: int) -> Tensor:
    """Where the sums of each of so many elements begin, taking turns."""
    return torch.arange(length, dtype=torch.int32).remainder_(lanes).mul_(size)


class _Sums:
    """The sums of g and of g times the distance, for each place. Which sum an element adds to, its number decides."""

    def __init__(self, places: int, x: Tensor) -> None:
        self._places, self._device = places, x.device
        self.dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        # Whether sums are as wide as their terms, and added to others after each piece.
        self.narrow = (
            x.is_cpu
            and self.dtype == torch.complex64
            and x.numel() >= TABLE_PIECE
            and ROWS * LANES * places <= MOST_SUMS
        )
        most = 1 if x.numel() < SHORT else WIDE_LANES
        self._lanes = LANES if self.narrow else max(1, min(most, MOST_SUMS // places))
        self._rows = ROWS if x.numel() >= TABLE_PIECE and ROWS * self._lanes * places <= MOST_SUMS else 1
        shape = self._rows, self._lanes * places
        self._total = torch.zeros(places, 2, dtype=torch.float64, device=x.device)
        self._sums = torch.zeros(shape, dtype=self.dtype if self.narrow else torch.complex128, device=x.device)

    def add(self, place: Tensor, terms: Tensor, wide: Tensor | None) -> None:
        """Add a piece: contiguous tensors of one shape; place is overwritten. `wide` is memory for wider terms."""
        if not place.is_cpu:
            # No scatter takes complex numbers there.
            real = torch.view_as_real(terms).reshape(-1, 2).double()
            self._total.index_add_(0, place.reshape(-1), real)
            return
        if not self.narrow and terms.dtype != torch.complex128:
            terms = terms.to(torch.complex128) if wide is None else wide.copy_(terms)
        place, terms = place.view(-1), terms.view(-1)
        length = LENGTH if self._rows > 1 else TABLE_PIECE
        for start in range(0, len(place), self._rows * length):
            count = min(len(place) - start, self._rows * length)
            rows, rest = divmod(count, length)
            end = start + rows * length
            if rows:
                self._add_rows(place[start:end].view(rows, length), terms[start:end].view(rows, length))
            if rest:
                self._add_rows(place[end : end + rest].view(1, rest), terms[end : end + rest].view(1, rest))
            if self.narrow:
                self._flush()

    def _add_rows(self, place: Tensor, terms: Tensor) -> None:
        if self._lanes > 1:
            place.add_(_turns(place.shape[1], self._lanes, self._places))
        self._sums[: len(place)].scatter_add_(1, place, terms)

    def _flush(self) -> None:
        sums = torch.view_as_real(self._sums.view(-1, self._places))
        self._total.add_(sums.sum(0, dtype=torch.float64))
        self._sums.zero_()

    def result(self) -> tuple[Tensor, Tensor]:
        self._flush()
        return self._total[:, 0], self._total[:, 1]


def backward(
    table: Table, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums over all elements in float64, for each row of the table.

    For "values", (rows, count + 2): each value's gradient, and behind them, zeros unless `slopes`, those of the left
    and of the right slope. For "lines", (rows, 2, count + 1): over each segment, the sum of g, and that of g times the
    distance of x from the breakpoint where the segment begins; the first segment's ends at it.
    """
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    dx = empty_like(x) if dx_needed else None
    beside = table.beside(x)
    places = _Places(table, x)
    sums = _Sums(places.count, x)
    limit = piece_limit(x, table=True)
    if not sums.narrow or x.dtype != torch.float32:
        # More bytes for each element.
        limit = max(1, limit // 2)
    memory = Memory(x)
    last = x if dx is None else dx
    for x_piece, g_piece, *cut, dx_piece in pieces_of(x, g, *beside, *places.beside, last, limit=limit):
        memory.piece = x_piece
        # The buffers of tables are for float32.
        spare: Spare = no_spare if dtype == torch.float64 else memory
        x_wide = x_piece if x.dtype == dtype else memory.widened(x_piece, _X)
        g_wide = g_piece if g.dtype == dtype else memory.widened(g_piece, _G)
        place, distance = places.of(x_wide, cut, spare)
        if dx is not None:
            slope = gathered(places.slopes, place, spare(0))
            if x.dtype == dtype:
                torch.mul(slope, g_wide, out=dx_piece)
            else:
                dx_piece.copy_(slope.mul_(g_wide))
        terms = memory(_TERMS, sums.dtype)
        torch.complex(g_wide, distance.mul_(g_wide), out=terms)
        wide = None if sums.narrow else memory(_TERMS, torch.complex128)
        sums.add(place, terms, wide)
    first, second = sums.result()
    if wanted == "lines":
        return dx, places.lines(first, second)
    return dx, places.values(first, second, slopes)
