"""What learning a piecewise-linear table needs: sums over the elements, in plain PyTorch and in cache-sized pieces.

An element counts to a place: left of a breakpoint beside it, at it, or right of it. Each place's sums of the gradient g
and of g times the distance from the breakpoint make all that is wanted, and nothing cancels. Both are one complex
number, which is added at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor

from ..cpu import large_pages
from ..cpu.cpu_forms import Spare, no_spare
from ..cpu.pieces import TABLE_PIECE, Memory, piece_limit, pieces_of
from ..eager import HALF_DTYPES
from .tables import Table, gathered, integers

__all__ = ["backward"]

# Threads work on rows of sums side by side, each of which takes so many elements before the next.
ROWS = 8
LENGTH = TABLE_PIECE // ROWS
# In a row so many sums of a place take turns: an addition need not wait for the one before it.
LANES = 16
# A sum in float32 has at most so many terms, whatever the elements, when it is added to one in float64: in the worst
# case, where all are equal, it is off by 8e-6 of itself.
MOST_TERMS = LENGTH // LANES
# Where a table is long or x short, fewer sums are in float64 throughout. Those in float32 that need no turns may take
# as many bytes; but of these more than few take longer to add to others than they save.
MOST_SUMS = 2**15
MOST_WITHOUT_TURNS, FEW_WITHOUT_TURNS = 2 * MOST_SUMS, MOST_SUMS // 2
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
        # How arithmetic gives the breakpoints of all channels, if it does; else the table needs its tensors beside x.
        self._even = table.even
        self.beside = () if self._even is not None else table.beside(x)
        if table.channel_dim is not None:
            # Where the rows of x's channel begin.
            self.beside = *self.beside, table.begins(x, self.rows)

    @cached_property
    def _points(self) -> Tensor:
        b = self.table.breakpoints
        return torch.cat([b[:, :1], b, b[:, -1:]], 1).view(-1)

    @cached_property
    def slopes(self) -> Tensor:
        """Of each place."""
        slopes = self.table.slopes
        left, right = slopes[:, :-1], slopes[:, 1:]
        sides = torch.stack([left, torch.where(self.table.late, left, right), right], 2).flatten(1)
        # A NaN is the first: its side is 0, and its row too.
        first, last = slopes[:, :1], slopes[:, -1:]
        return torch.cat([first, first, sides, last, last, last, last], 1).view(-1)

    @property
    def count(self) -> int:
        return self.channels * self.rows * 3

    def of(self, x: Tensor, beside: Sequence[Tensor], spare: Spare) -> tuple[Tensor, Tensor]:
        """The number of each element's place, and its distance from the breakpoint.

        In the fourth and third part of buffer 0, by way of the first.
        """
        room, side = (spare(0, torch.float32, part) for part in (2, 3))
        if self._even is not None:
            row = self.table.nearest(x, (), spare).floor_()
            distance = torch.add(self._even.behind, row, alpha=self._even.step, out=room)
            torch.sub(x, distance, out=distance)
            place = integers(torch.sign(distance, out=side).add_(row, alpha=3.0), spare)
            return place.add_(beside[-1], alpha=3) if beside else place, distance
        row = integers(self.table.nearest(x, beside[:-1], spare), spare)
        if beside:
            row.add_(beside[-1])
        distance = gathered(self._points, row, room)
        torch.sub(x, distance, out=distance)
        return integers(torch.sign(distance, out=side), spare).add_(row, alpha=3), distance

    def _parts(self, sums: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of NaN, of the breakpoints' places, and of what is behind the last."""
        rows = sums.view(self.channels, -1, 2)
        end = 2 + 3 * self.table.count
        near = rows[:, 2:end].view(self.channels, -1, 3, 2)
        # In a grid that tells the nearest one nothing is.
        return rows[:, 0], near, None if self._even is not None else rows[:, end:].sum(1)

    def values(self, sums: Tensor, slopes: bool) -> Tensor:
        """The gradients of the values, and of the slopes or zeros, from the sums of each place and their moments."""
        nan, near, behind = self._parts(sums)
        left, at, right = near.unbind(2)
        count = self.table.count
        made = sums.new_zeros(self.channels, count + 2)
        of_values = made[:, :count]
        torch.add(left[..., 0], at[..., 0], out=of_values).add_(right[..., 0])
        of_values[:, 0].add_(nan[:, 0])
        # What lies beside one breakpoint counts in part to the next.
        shared = torch.add(left[:, 1:, 1], right[:, :-1, 1]).div_(self.table.gaps)
        of_values[:, :-1].sub_(shared)
        of_values[:, 1:].add_(shared)
        if slopes:
            made[:, count] = left[:, 0, 1] + nan[:, 1]
            made[:, count + 1] = right[:, -1, 1]
        if behind is not None:
            of_values[:, -1].add_(behind[:, 0])
            if slopes:
                made[:, count + 1].add_(behind[:, 1])
        return made

    def lines(self, sums: Tensor) -> Tensor:
        """The sums over segments: of g, and of g times the distance from the segment's beginning."""
        nan, near, behind = self._parts(sums)
        near, moment = near.unbind(3)
        count, late = self.table.count, self.table.late
        steps = torch.nn.functional.pad(self.table.gaps, (1, 0))
        before = near[..., 0] + near[..., 1].where(late, 0.0)
        made = sums.new_zeros(self.channels, 2, count + 1)
        made[:, 0, :count] = before
        made[:, 0, 1:] += near[..., 2] + near[..., 1].where(~late, 0.0)
        made[:, 0, 0] += nan[:, 0]
        made[:, 1, :count] = moment[..., 0]
        made[:, 1, 1:count] += (steps * before)[:, 1:]
        made[:, 1, 1:] += moment[..., 2]
        made[:, 1, 0] += nan[:, 1]
        if behind is not None:
            made[:, :, count] += behind
        return made


@lru_cache(maxsize=64)
def _turns(length: int, lanes: int, size: int) -> Tensor:
    """Where the sums of each of so many elements begin, taking turns."""
    return torch.arange(length, dtype=torch.int32).remainder_(lanes).mul_(size)


def _terms_without_turns(x: Tensor, channel_dim: int | None) -> int:
    """How many elements of one channel a row of sums may have."""
    if channel_dim is None or not x.is_contiguous():
        return LENGTH
    # Elements of a channel follow each other, then come as many of each other one; so in every piece, too. Lanes do not
    # divide them for sure: a channel may always meet the same one.
    run = prod(x.shape[channel_dim % x.dim() + 1 :])
    return LENGTH // x.shape[channel_dim] + run


def _scatters_complex(device: torch.device) -> bool:
    return device.type == "cpu"


class _Sums:
    """The sums of g and of g times the distance, for each place. Which sum an element adds to, its number decides."""

    def __init__(self, places: int, x: Tensor, channel_dim: int | None) -> None:
        self._places = places
        large = x.numel() >= TABLE_PIECE
        narrow = x.is_cpu and x.dtype != torch.float64 and large
        lanes = LANES
        if narrow and (terms := _terms_without_turns(x, channel_dim)) <= MOST_TERMS:
            # Of many terms half are summed apart, if there is room.
            least = min(MOST_WITHOUT_TURNS // (ROWS * places), 1 if terms <= MOST_TERMS // 2 else 2)
            lanes = min(LANES, max(least, FEW_WITHOUT_TURNS // (ROWS * places)))
            narrow = lanes > 0
        else:
            narrow = narrow and ROWS * LANES * places <= MOST_SUMS
        # Of terms, and of sums; the narrow ones are added to others after each piece.
        self.dtype = torch.complex64 if narrow else torch.complex128
        self._lanes = lanes if narrow else max(1, min(WIDE_LANES if large else 1, MOST_SUMS // places))
        self._rows = ROWS if narrow or (large and ROWS * self._lanes * places <= MOST_SUMS) else 1
        self._sums = torch.zeros(self._rows, self._lanes * places, dtype=self.dtype, device=x.device)
        # What narrow ones were added to, after each piece.
        self._total: Tensor | None = None
        self._length = LENGTH if self._rows > 1 else TABLE_PIECE
        self._turns = _turns(self._length, self._lanes, places) if self._lanes > 1 else None

    def add(self, place: Tensor, terms: Tensor) -> None:
        """Add a piece: tensors of one shape; place is overwritten."""
        place, terms = place.reshape(-1), terms.reshape(-1)
        if not _scatters_complex(place.device):
            self._numbers()[0].index_add_(0, place, torch.view_as_real(terms))
            return
        whole = self._rows * self._length
        for start in range(0, len(place), whole):
            if self._total is not None:
                self._sums.zero_()
            part, its = (place, terms) if len(place) <= whole else (t[start : start + whole] for t in (place, terms))
            if rest := len(part) % self._length:
                self._add(part[-rest:], its[-rest:])
                part, its = part[:-rest], its[:-rest]
            if len(part):
                self._add(part, its)
            if self.dtype == torch.complex64:
                self._flush()

    def _add(self, place: Tensor, terms: Tensor) -> None:
        """Add less than a row, or whole ones."""
        rows = max(1, len(place) // self._length)
        sums = self._sums if rows == self._rows else self._sums[:rows]
        place, terms = place.view(rows, -1), terms.view(rows, -1)
        if self._turns is not None:
            place.add_(self._turns[: place.shape[1]])
        sums.scatter_add_(1, place, terms)

    def _numbers(self) -> Tensor:
        """As pairs of numbers, of all that take turns."""
        return torch.view_as_real(self._sums).view(-1, self._places, 2)

    def _flush(self) -> None:
        found = self._numbers().sum(0, dtype=torch.float64)
        self._total = found if self._total is None else self._total.add_(found)

    def result(self) -> Tensor:
        """For each place the sum of g, and that of g times the distance, in float64."""
        return self._numbers().sum(0, dtype=torch.float64) if self._total is None else self._total


def _widened(t: Tensor, dtype: torch.dtype, spare: Spare, number: int) -> Tensor:
    if t.dtype == dtype:
        return t
    return t.to(dtype) if spare is no_spare else spare(number).copy_(t)  # type: ignore[union-attr]


def backward(
    table: Table, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums over all elements in float64, for each row of the table.

    For "values", (rows, count + 2): each value's gradient, and behind them, zeros unless `slopes`, those of the left
    and of the right slope. For "lines", (rows, 2, count + 1): over each segment, the sum of g, and that of g times the
    distance of x from the breakpoint where the segment begins; the first segment's ends at it.
    """
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    dx = large_pages.empty_like(x) if dx_needed else None
    places = _Places(table, x)
    sums = _Sums(places.count, x, table.channel_dim)
    limit = piece_limit(x, table_sums=True)
    if sums.dtype != torch.complex64 or x.dtype != torch.float32:
        # More bytes for each element.
        limit = max(1, limit // 2)
    memory = Memory(x)
    # The buffers are for float32, and cost a short tensor more than they save.
    spare: Spare = no_spare if dtype == torch.float64 or x.numel() < SHORT else memory
    last = x if dx is None else dx
    for x_piece, g_piece, *cut, dx_piece in pieces_of(x, g, *places.beside, last, limit=limit):
        memory.piece = x_piece
        x_wide, g_wide = _widened(x_piece, dtype, spare, _X), _widened(g_piece, dtype, spare, _G)
        place, distance = places.of(x_wide, cut, spare)
        if dx is not None:
            slope = gathered(places.slopes, place, spare(0, torch.float32, 0))
            if x.dtype == dtype:
                torch.mul(slope, g_wide, out=dx_piece)
            else:
                dx_piece.copy_(slope.mul_(g_wide))
        terms = torch.complex(g_wide, distance.mul_(g_wide), out=spare(0, torch.complex64, 0))
        if terms.dtype != sums.dtype:
            terms = terms.to(sums.dtype) if spare is no_spare else memory(_TERMS, sums.dtype).copy_(terms)
        sums.add(place, terms)
    found = sums.result()
    return dx, places.lines(found) if wanted == "lines" else places.values(found, slopes)
