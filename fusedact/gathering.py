"""Statistics that a call gathers in the pass that computes its values, where a monitor asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token

import torch
from torch import Tensor

from . import figures
from .figures import FLAT

__all__ = ["Gather", "Tally", "ask", "done", "wanted"]


class Gather:
    """What is asked of the call of a layer, and, once it has run, what was gathered.

    `dim` is the dimension whose entries are the layer's units, None if all elements are one. `y` is the tensor whose
    figures these are: it is held, so that nothing else can take its memory meanwhile. `alive` tells the units of which
    some element has a slope that is not flat.
    """

    __slots__ = ("alive", "dim", "layer", "row", "y")

    def __init__(self, layer: object, dim: int | None) -> None:
        self.layer = layer
        self.dim = dim
        self.y: Tensor | None = None
        self.row: Sequence[float] | Tensor | None = None
        self.alive: Tensor | None = None

    def units(self, x: Tensor) -> int:
        """How many units x has."""
        return 1 if self.dim is None else x.shape[self.dim]

    def fill(self, y: Tensor, row: Sequence[float] | Tensor, alive: Tensor) -> None:
        """Keep what was gathered of a call with the value y."""
        self.y, self.row, self.alive = y, row, alive

    def is_of(self, y: Tensor) -> bool:
        """Whether what was gathered is of this tensor."""
        return self.y is not None and self.y.data_ptr() == y.data_ptr() and self.y.shape == y.shape


_wanted: ContextVar[Gather | None] = ContextVar("fusedact_gathering", default=None)


def wanted() -> Gather | None:
    """What is asked of the call under way."""
    return _wanted.get()


def ask(gather: Gather | None) -> Token[Gather | None]:
    """Ask it of the calls that follow, until `done`."""
    return _wanted.set(gather)


def done(token: Token[Gather | None]) -> None:
    """What was asked before counts again."""
    _wanted.reset(token)


class Tally:
    """Statistics of a CPU tensor, piece by piece: `cut` is to be cut with x, and a part of it handed to `slopes`."""

    def __init__(self, x: Tensor, dim: int | None) -> None:
        units = 1 if dim is None else x.shape[dim]
        self._row: Sequence[float] = figures.EMPTY
        # How many elements of each unit have a flat slope.
        self._flat = torch.zeros(units, dtype=torch.float64)
        self._each = x.numel() / max(units, 1)
        self._known = False
        self._others = figures.others(x.dim(), dim) if units > 1 else None
        self.cut: list[Tensor] = []
        if self._others is not None:
            self.cut = [self._flat.reshape([units if d == dim else 1 for d in range(x.dim())]).expand(x.shape)]
            self._index = tuple(0 if d in self._others else slice(None) for d in range(x.dim()))

    def slopes(self, slope: Tensor, target: Sequence[Tensor]) -> None:
        """Count a piece's flat slopes; the tensor is overwritten."""
        self._known = True
        # NaN is not flat.
        self._count(torch.le(slope.abs_(), FLAT, out=slope), target)

    def zeros(self, y: Tensor, target: Sequence[Tensor], exact: bool) -> None:
        """Count zeros in the place of flat slopes: where slopes are not known, or zeros are `exact`ly where they are."""
        self._known = exact
        self._count(torch.eq(y, 0.0, out=torch.empty_like(y)), target)

    def _count(self, ones: Tensor, target: Sequence[Tensor]) -> None:
        if self._others is None:
            self._flat.add_(ones.sum())
        else:
            target[0][self._index].add_(ones.sum(self._others) if self._others else ones)

    def values(self, y: Tensor, buffer: Tensor | None = None) -> None:
        """Add a piece's values, in 32 or 64 bits; the buffer is overwritten."""
        self._row = figures.merged(self._row, figures.of_piece(y, buffer))

    def fill(self, gather: Gather, y: Tensor) -> None:
        """Hand over what was found of all pieces."""
        flat = self._flat.sum().item() if self._known else float("nan")
        gather.fill(y, [*self._row[:-1], flat], self._flat < self._each)
