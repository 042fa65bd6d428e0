"""Steps of update rules by kernels: the tables of addresses, kept while the tensors stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .. import compat
from ..kernels import launch_optimizer
from .rule_programs import Program

__all__ = ["KernelStep"]


class _Part:
    """Tensors that one launch steps: all aligned alike."""

    def __init__(self, members: Sequence[int], columns: Sequence[Sequence[Tensor]], aligned: bool) -> None:
        self.members, self.aligned = members, aligned
        numels = [columns[0][i].numel() for i in members]
        device = columns[0][0].device
        self.elements = sum(numels)
        self.chunks = launch_optimizer.chunk_table(numels, device)
        rows = [[column[i].data_ptr() for i in members] if column else [0] * len(members) for column in columns]
        self.table = torch.tensor([*rows, numels], dtype=torch.int64).to(device)


class KernelStep:
    """Steps these parameters and states, in place; made once, and used while they stay where they are.

    A parameter that lies with gaps or overlap, or otherwise than its states, is stepped through a dense copy, and a
    gradient that lies otherwise than its parameter, too.
    """

    def __init__(self, program: Program, params: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> None:
        self._program = program
        self._given = [params, *states]
        self._through = [
            i
            for i, p in enumerate(params)
            if not compat.is_dense(p) or any(column[i].stride() != p.stride() for column in states)
        ]
        self._columns: list[list[Tensor]] = [list(column) for column in self._given]
        for i in self._through:
            for column in self._columns:
                column[i] = column[i].clone(memory_format=torch.contiguous_format)
        self._strides = [p.stride() for p in self._columns[0]]
        self._aligned = [all(column[i].data_ptr() % 16 == 0 for column in self._columns) for i in range(len(params))]
        self._types: tuple[torch.dtype, ...] = ()
        self._parts: list[_Part] = []
        self._addresses: list[int] = []
        self._pinned: list[Tensor] = []

    def __call__(
        self,
        grads: Sequence[Tensor],
        scalars: Sequence[float | Tensor],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        norms: bool,
    ) -> list[Tensor]:
        """Step; the sums of the squares of the gradients, and of what was added, if `norms`."""
        device = self._columns[0][0].device
        with _on(device):
            for i in self._through:
                for column, given in zip(self._columns, self._given, strict=True):
                    column[i].copy_(given[i])
            dtype = grads[0].dtype if grads[0].dtype in launch_optimizer.TYPES else torch.float32
            grads = [
                g
                if g.dtype == dtype and g.stride() == s
                else torch.empty_strided(g.shape, s, dtype=dtype, device=device).copy_(g)
                for g, s in zip(grads, self._strides, strict=True)
            ]
            self._look(grads)
            given_scale, found = (None if t is None else t.to(device).float() for t in (grad_scale, found_inf))
            values = [s.to(device, torch.float32) if isinstance(s, Tensor) else float(s) for s in scalars]
            sums = []
            for part in self._parts:
                made = launch_optimizer.step(
                    self._program.device_function,
                    self._program.key,
                    part.table,
                    part.chunks,
                    part.elements,
                    self._types,
                    part.aligned,
                    values,
                    given_scale,
                    found,
                    norms,
                )
                if made is not None:
                    sums.append(made.sum(1, dtype=torch.float64))
            for i in self._through:
                for column, given in zip(self._columns, self._given, strict=True):
                    given[i].copy_(column[i])
        if not norms:
            return []
        total = torch.stack(sums).sum(0) if sums else torch.zeros(2, dtype=torch.float64, device=device)
        return list(total.unbind())

    def _look(self, grads: Sequence[Tensor]) -> None:
        """Bring the gradients' addresses into the tables, where they are others than at the last step."""
        addresses = [g.data_ptr() for g in grads]
        if addresses == self._addresses:
            return
        self._addresses = addresses
        types = (self._columns[0][0].dtype, grads[0].dtype, *(column[0].dtype for column in self._columns[1:]))
        aligned = [a and address % 16 == 0 for a, address in zip(self._aligned, addresses, strict=True)]
        made = {i: part.aligned for part in self._parts for i in part.members}
        full = [i for i, p in enumerate(self._columns[0]) if p.numel()]
        if types != self._types or any(made.get(i) != aligned[i] for i in full):
            self._types = types
            columns = [self._columns[0], [], *self._columns[1:]]
            kinds = {kind: [i for i in full if aligned[i] == kind] for kind in (True, False)}
            self._parts = [_Part(members, columns, kind) for kind, members in kinds.items() if members]
        for part in self._parts:
            row = torch.tensor([addresses[i] for i in part.members], dtype=torch.int64)
            if part.table.is_cuda:
                # Page-locked memory, so that nobody waits; PyTorch keeps it until it is copied, and a graph that is
                # being captured reads it at every replay.
                row = row.pin_memory()
                if compat.capturing(part.table):
                    self._pinned.append(row)
            part.table[1].copy_(row, non_blocking=True)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device the current one, where it is not."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
