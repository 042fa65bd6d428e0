"""Statistics that a call gathers in the pass that computes its values, where a monitor asks for them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import Tensor

from .. import compat
from ..eager import HALF_DTYPES
from . import figures, flatness
from .figures import FLAT
from .flatness import Intervals

__all__ = ["Gather", "Scratch", "Tally", "ask", "done", "slope", "wanted"]


class Scratch(threading.local):
    """Memory for intermediate results, of one thread: new memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(self, like: Tensor, number: int) -> Tensor:
        """The tensor of this number, of the kind of one that is `like`d; calls with the same number overwrite it."""
        if not compat.is_dense(like):
            return torch.empty_like(like)
        buffer = self._buffers.get((number, like.dtype))
        if buffer is None or buffer.numel() < like.numel():
            # Under inference mode, too, it is memory that may be written to after it.
            with torch.inference_mode(False):
                buffer = self._buffers[number, like.dtype] = torch.empty(like.numel(), dtype=like.dtype)
        return buffer.as_strided(like.shape, like.stride())


class Gather:
    """What is asked of the call of a layer, and, once it has run, what was gathered.

    `dim` is the dimension whose entries are the layer's units, None if all elements are one; `scratch` is memory that
    calls on the CPU share. `y` is the tensor whose
    figures these are: it is held, so that nothing else can take its memory meanwhile. `alive` tells the units of which
    some element has a slope that is not flat.
    """

    __slots__ = ("alive", "dim", "layer", "row", "scratch", "y")

    def __init__(self, layer: object, dim: int | None, scratch: Scratch | None = None) -> None:
        self.layer = layer
        self.dim = dim
        self.scratch = Scratch() if scratch is None else scratch
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


wanted_var: ContextVar[Gather | None] = ContextVar("fusedact_gathering", default=None)


def wanted() -> Gather | None:
    """What is asked of the call under way."""
    return wanted_var.get()


def ask(gather: Gather | None) -> Token[Gather | None]:
    """Ask it of the calls that follow, until `done`."""
    return wanted_var.set(gather)


def done(token: Token[Gather | None]) -> None:
    """What was asked before counts again."""
    wanted_var.reset(token)


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of a pointwise function at x, by autograd, in 32 or 64 bits, in memory of its own."""
    # Nobody else sees what is kept for it: a checkpoint around would count that.
    unseen = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with torch.inference_mode(False), torch.enable_grad(), unseen:
        # Autograd keeps no inference tensor.
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        y = function(leaf)
        (found,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return found.float() if found.dtype in HALF_DTYPES else found


class Tally:
    """Statistics of a CPU tensor, piece by piece: `cut` is to be cut with x, and a part of it handed to `slopes`.

    With `whole`, x is one piece, and nothing is to be cut.
    """

    def __init__(self, x: Tensor, gather: Gather, whole: bool) -> None:
        dim = gather.dim
        self._memory = gather.scratch
        self._units = 1 if dim is None else x.shape[dim]
        self._row: Sequence[float] = figures.EMPTY
        self._each = x.numel() / max(self._units, 1)
        self._known = False
        self._others = figures.others(x.dim(), dim) if self._units > 1 else None
        # How many elements of each unit have a flat slope; a number, if there is one unit.
        self._flat: Tensor | float = 0.0
        # How many of all.
        self._found = 0.0
        self.cut: list[Tensor] = []
        self._index: tuple[Any, ...] | None = None
        if self._others is not None and not whole:
            self._flat = torch.zeros(self._units, dtype=torch.float64)
            self._index = tuple(0 if d in self._others else slice(None) for d in range(x.dim()))
            shape = [self._units if d == dim else 1 for d in range(x.dim())]
            self.cut = [self._flat.reshape(shape).expand(x.shape)]

    def slopes(self, slope: Tensor, target: Sequence[Tensor]) -> None:
        """Count a piece's flat slopes; the tensor is overwritten."""
        self._known = True
        # NaN is not flat.
        self._count(torch.le(slope.abs_(), FLAT, out=slope), target)

    def inputs(self, x: Tensor, intervals: Intervals, target: Sequence[Tensor]) -> None:
        """Count a piece's inputs where the slope is flat."""
        self._known = True
        self._count(flatness.ones(x, intervals, self._memory(x, 0), self._memory(x, 1)), target)

    def _count(self, ones: Tensor, target: Sequence[Tensor]) -> float:
        """Add a piece's flat slopes to those of their units; their number."""
        if self._others is None:
            found = ones.sum().item()
            self._flat += found
            return found
        sums = ones.sum(self._others) if self._others else ones
        if self._index is None:
            self._flat = sums
        else:
            target[0][self._index].add_(sums)
        found = sums.sum().item()
        self._found += found
        return found

    def values(self, y: Tensor) -> None:
        """Add a piece's values, in 32 or 64 bits."""
        self._row = figures.merged(self._row, figures.of_piece(y, spare=self._memory(y, 0)))

    def values_with_zeros(self, y: Tensor, target: Sequence[Tensor], exact: bool) -> None:
        """The same, with zeros in place of flat slopes: slopes are not known, or zeros are `exact`ly where they are."""
        self._known = exact
        zeros = self._count(torch.eq(y, 0.0, out=self._memory(y, 0)), target)
        self._row = figures.merged(self._row, figures.of_piece(y, zeros))

    def fill(self, gather: Gather, y: Tensor) -> None:
        """Hand over what was found of all pieces."""
        flat = self._flat
        if isinstance(flat, Tensor):
            alive = flat < self._each
            flat = self._found
        else:
            alive = torch.tensor([flat < self._each])
        gather.fill(y, [*self._row[:-1], flat if self._known else math.nan], alive)
