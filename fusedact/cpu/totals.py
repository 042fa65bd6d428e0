"""The gradients of parameters, which are sums over elements, as pieces of a tensor add to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..eager import Parameter

__all__ = ["Totals"]


class _Total:
    """The sum of a parameter's gradient over all elements, or over those of each channel.

    In float64 on the CPU, so that the number of pieces does not show.
    """

    def __init__(self, p: Tensor, x: Tensor, channel: int | None, dtype: torch.dtype) -> None:
        self._p = p
        self.sum = torch.zeros(p.numel(), dtype=torch.float64 if x.is_cpu else dtype, device=x.device)
        self._others: list[int] | None = None
        self.cut: list[Tensor] = []
        if p.numel() != 1:
            self._others = [d for d in range(x.dim()) if d != channel and x.shape[d] != 1]
            self.cut = [self.sum.reshape([-1 if d == channel else 1 for d in range(x.dim())]).expand(x.shape)]
            # With nothing to sum, x may have been cut as flat memory.
            self._channels = tuple(0 if d in self._others else slice(None) for d in range(x.dim()) if self._others)

    def add(self, terms: Tensor, target: Sequence[Tensor]) -> None:
        if terms.numel() == 0:
            return
        if self._others is None:
            self.sum.add_(terms.sum())
        else:
            target[0][self._channels].add_(terms.sum(self._others) if self._others else terms)

    def result(self) -> Tensor:
        return self.sum.to(self._p.dtype).reshape(self._p.shape)


class Totals:
    """Those of the parameters whose gradient is needed; `cut` is to be cut with x, and handed to `add`."""

    def __init__(
        self, params: Sequence[Parameter], needed: Sequence[bool], x: Tensor, channel: int | None, dtype: torch.dtype
    ) -> None:
        self._count = len(params)
        self._totals = {
            i: _Total(p, x, channel, dtype)
            for i, (p, n) in enumerate(zip(params, needed, strict=True))
            if n and isinstance(p, Tensor)
        }

    def __bool__(self) -> bool:
        return bool(self._totals)

    @property
    def cut(self) -> list[Tensor]:
        return [cut for total in self._totals.values() for cut in total.cut]

    def add(self, gradients: Sequence[Tensor | None], cut: Iterator[Tensor]) -> None:
        """Add a piece's elementwise gradients, one for each parameter, or what is left of them to sum."""
        for i, total in self._totals.items():
            target = [next(cut) for _ in total.cut]
            terms = gradients[i]
            if terms is not None:
                total.add(terms, target)

    def results(self) -> list[Tensor | None]:
        """The gradients of all parameters."""
        return [self._totals[i].result() if i in self._totals else None for i in range(self._count)]
