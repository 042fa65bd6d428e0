"""Steps of update rules in plain PyTorch: on the CPU in cache-sized pieces, elsewhere tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import compat
from .cpu_forms import no_spare
from .eager import HALF_DTYPES
from .pieces import Memory, piece_limit, pieces_of
from .rule_programs import Program

__all__ = ["CpuStep", "plain_step"]

# Tensors of fewer elements are gathered into pieces: a call of an operator costs more than to move them.
SMALL = 2**14


class CpuStep:
    """Steps these parameters and states, in place; made once, and used while they stay where they are."""

    def __init__(self, program: Program, params: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> None:
        self._program = program
        self._columns = [params, [], *states]
        self._dtype = torch.float32 if params[0].dtype in HALF_DTYPES else params[0].dtype
        self._memory: Memory | None = None
        self._large = [i for i, p in enumerate(params) if p.numel() >= SMALL]
        self._limit = piece_limit(params[0])
        self._batches: list[list[int]] = []
        count = self._limit
        for i, p in enumerate(params):
            if 0 < p.numel() < SMALL:
                if count + p.numel() > self._limit:
                    self._batches.append([])
                    count = 0
                self._batches[-1].append(i)
                count += p.numel()
        # By batch and column: where its tensors are gathered, in their shapes.
        self._gathered: list[list[list[Tensor]]] = []
        self._flat: list[list[Tensor]] = []
        most = max((sum(params[i].numel() for i in batch) for batch in self._batches), default=0)
        whole = [torch.empty(most, dtype=self._dtype) for _ in range(len(self._columns) if most else 0)]
        for batch in self._batches:
            flat = [w[: sum(params[i].numel() for i in batch)] for w in whole]
            self._flat.append(flat)
            self._gathered.append([_shaped(w, [params[i] for i in batch]) for w in flat])

    def __call__(self, grads: Sequence[Tensor], numbers: Sequence[float]) -> None:
        self._columns[1] = grads
        targets = self._program.targets
        for batch, flat, gathered in zip(self._batches, self._flat, self._gathered, strict=True):
            columns = [[column[i] for i in batch] for column in self._columns]
            for views, tensors in zip(gathered, columns, strict=True):
                compat.copy_all(views, tensors)
            self._apply(flat, numbers)
            for t in targets:
                compat.copy_all(columns[t], gathered[t])
        for i in self._large:
            for piece in pieces_of(*(column[i] for column in self._columns), limit=self._limit):
                self._apply_piece(piece, numbers)
        self._columns[1] = []

    def _apply_piece(self, piece: Sequence[Tensor], numbers: Sequence[float]) -> None:
        """The same for tensors that may have other dtypes than what is computed in."""
        if all(t.dtype == self._dtype for t in piece):
            self._apply(piece, numbers)
            return
        memory = self._working(piece[0])
        wide = [t if t.dtype == self._dtype else memory(100 + i, self._dtype).copy_(t) for i, t in enumerate(piece)]
        self._apply(wide, numbers)
        for t in self._program.targets:
            if wide[t] is not piece[t]:
                piece[t].copy_(wide[t])

    def _apply(self, piece: Sequence[Tensor], numbers: Sequence[float]) -> None:
        # Intermediate results in float64 are new memory.
        spare = self._working(piece[0]) if self._dtype == torch.float32 else no_spare
        self._program.lean(*piece, numbers, spare)

    def _working(self, piece: Tensor) -> Memory:
        """Memory for intermediate results of a piece, kept from step to step."""
        if self._memory is None:
            self._memory = Memory(piece)
        self._memory.piece = piece
        return self._memory


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a piece of memory, one after the other, as tensors of these shapes, and of their layouts if dense."""
    views, start = [], 0
    for t in like:
        part = flat[start : start + t.numel()]
        views.append(part.as_strided(t.shape, t.stride()) if compat.is_dense(t) else part.view(t.shape))
        start += t.numel()
    return views


def plain_step(
    function: Callable[..., object],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Sequence[Tensor]],
    numbers: dict[str, float | Tensor],
) -> None:
    """The rule's own function on tensor after tensor, in the states' dtype."""
    for p, g, *state in zip(params, grads, *states, strict=True):
        dtype = torch.float32 if p.dtype in HALF_DTYPES else p.dtype
        found = function(p.to(dtype), g.to(dtype), *state, **numbers)
        results = (found,) if isinstance(found, Tensor) else found
        # All is computed before anything changes.
        for t, result in zip((p, *state), list(results), strict=True):  # type: ignore[call-overload]
            t.copy_(result)
