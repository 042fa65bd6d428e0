"""Random numbers that can be made again: a call's seed from PyTorch's generator, and what the CPU makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Numbers", "drawn"]


def drawn(device: torch.device) -> Tensor:
    """A seed: one int64 on the device, from PyTorch's generator of it, without waiting for the device."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)


class Numbers:
    """The numbers of a seed, one of 32 bits after another: the same in however many parts they are taken.

    `most` is the largest part.
    """

    def __init__(self, seed: Tensor, most: int) -> None:
        self._generator = torch.Generator().manual_seed(int(seed.item()))
        # One number is in front, which the part before left over: the generator gives them in twos.
        self._twos = torch.empty(most // 2 + 2, dtype=torch.int64)
        self._numbers = self._twos.view(torch.int32)
        self._left: int | None = None

    def __call__(self, count: int) -> Tensor:
        """The next ones, as int32 in memory that the next call writes to."""
        first = 2
        if self._left is not None and count:
            self._numbers[1] = self._numbers[self._left]
            first = 1
        new = count - (2 - first)
        self._twos[1 : 1 + (new + 1) // 2].random_(-(2**63), None, generator=self._generator)
        if count:
            self._left = first + count if new % 2 else None
        return self._numbers[first : first + count]
