"""Steps of update rules in plain PyTorch: on the CPU in cache-sized pieces, elsewhere tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import compat
from ..cpu.cpu_forms import Spare, no_spare
from ..cpu.pieces import Memory, pieces_of
from ..eager import HALF_DTYPES
from .lean_steps import SHARED
from .rule_programs import Program

__all__ = ["CpuStep", "plain_step"]

# Tensors of fewer elements are gathered into pieces: a call of an operator costs more than to move them.
SMALL = 2**14

# Elements of a piece per thread, and of one that is gathered. Measured on cores with 1 MiB of second-level cache each:
# half as many are a tenth slower, since a piece evicts from the cache what runs the operators.
PIECE, GATHERED = 2**18, 2**17

# The same where PyTorch has several threads: what is gathered by one of them is worked by it, too. To bring them
# together for each operator takes longer.
GATHERED_BY_ONE = SHARED - 1


class CpuStep:
    """Steps these parameters and states, in place; made once, and used while they stay where they are."""

    def __init__(self, program: Program, params: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> None:
        self._program = program
        self._params, self._states = params, states
        self._dtype = torch.float32 if params[0].dtype in HALF_DTYPES else params[0].dtype
        self._memory: Memory | None = None
        self._large = [i for i, p in enumerate(params) if p.numel() >= SMALL]
        self._contiguous = all(p.is_contiguous() for p in params)
        threads = torch.get_num_threads()
        self._limit = PIECE * threads
        # Those that are one piece, of the dtype that is computed in.
        self._whole = {
            i
            for i in self._large
            if params[i].numel() <= self._limit
            and all(t.dtype == self._dtype for t in (params[i], *(state[i] for state in states)))
        }
        self._batches: list[list[int]] = []
        limit = count = GATHERED if threads == 1 else GATHERED_BY_ONE
        for i, p in enumerate(params):
            if 0 < p.numel() < SMALL:
                if count + p.numel() > limit:
                    self._batches.append([])
                    count = 0
                self._batches[-1].append(i)
                count += p.numel()
        # By batch and column: where its tensors are gathered, in their shapes.
        self._gathered: list[list[list[Tensor]]] = []
        self._flat: list[list[Tensor]] = []
        counts = [sum(params[i].numel() for i in batch) for batch in self._batches]
        whole = [torch.empty(max(counts), dtype=self._dtype) for _ in range(len(states) + 2 if counts else 0)]
        for batch, count in zip(self._batches, counts, strict=True):
            flat = [w[:count] for w in whole]
            self._flat.append(flat)
            self._gathered.append([_shaped(w, [params[i] for i in batch]) for w in flat])

    def __call__(self, grads: Sequence[Tensor], numbers: Sequence[float]) -> None:
        columns = [self._params, grads, *self._states]
        for batch, flat, gathered in zip(self._batches, self._flat, self._gathered, strict=True):
            tensors = [[column[i] for i in batch] for column in columns]
            for views, column in zip(gathered, tensors, strict=True):
                compat.copy_all(views, column)
            self._program.lean(*flat, numbers, self._spare(flat[0]))
            for t in self._program.targets:
                compat.copy_all(tensors[t], gathered[t])
        for i in self._large:
            large = [column[i] for column in columns]
            if i in self._whole and grads[i].dtype == self._dtype:
                self._program.lean(*large, numbers, self._spare(large[0]))
                continue
            for piece in pieces_of(*(large if self._contiguous else _flattened(large)), limit=self._limit):
                self._apply(piece, numbers)

    def _apply(self, piece: Sequence[Tensor], numbers: Sequence[float]) -> None:
        """A step of tensors that may have other dtypes than what is computed in."""
        dtype, spare = self._dtype, self._spare(piece[0])
        if {t.dtype for t in piece} == {dtype}:
            self._program.lean(*piece, numbers, spare)
            return
        memory = self._working(piece[0])
        wide = [t if t.dtype == dtype else memory(100 + i, dtype).copy_(t) for i, t in enumerate(piece)]
        self._program.lean(*wide, numbers, spare)
        for t in self._program.targets:
            if wide[t] is not piece[t]:
                piece[t].copy_(wide[t])

    def _spare(self, piece: Tensor) -> Spare:
        """Memory for intermediate results of a piece; in float64 they are new."""
        return self._working(piece) if self._dtype == torch.float32 else no_spare

    def _working(self, piece: Tensor) -> Memory:
        """Memory for a piece, kept from step to step."""
        if self._memory is None:
            self._memory = Memory(piece)
        self._memory.piece = piece
        return self._memory


def _flattened(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Tensors as flat memory, if all share one dense layout."""
    p = tensors[0]
    if p.is_contiguous() or not compat.is_dense(p) or any(t.stride() != p.stride() for t in tensors):
        return tensors
    return [t.as_strided((p.numel(),), (1,)) for t in tensors]


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
