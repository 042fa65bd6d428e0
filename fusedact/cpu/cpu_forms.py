"""What the CPU path's forms share, which are written by hand where they beat what the engine writes.

They compute on memory that they are given: see pieces.py, which calls them, and lean.py, which writes such forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["LARGEST", "Gradients", "Needed", "Parameter", "Spare", "constant", "new", "no_spare"]

Parameter = float | Tensor
# Gives a lean function memory for an intermediate result of its input's shape, by number and dtype: the same for all
# pieces of a tensor, since new memory from the system costs more than the arithmetic. Or None, for memory of its own.
# Also as a part of complex numbers of 16 bytes, for what is done with before these are needed.
Spare = Callable[..., Tensor | None]
# Which gradients a lean backward owes, x's first; None is x's alone. And these, elementwise: those of parameters are
# summed by the caller; None for what is not owed, or nothing behind x's.
Needed = Sequence[bool] | None
Gradients = tuple[Tensor | None, ...]


# The largest number of each dtype: to ask for it takes a sixth of an operation on a small tensor.
LARGEST = {d: torch.finfo(d).max for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def no_spare(_: int, dtype: torch.dtype | None = None, part: int | None = None) -> None:
    """For a tensor of one piece."""
    return None


def new(like: Tensor, out: Tensor | None) -> Tensor:
    """`out`, or new memory where there is none."""
    return torch.empty_like(like) if out is None else out


@lru_cache(maxsize=256)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor, which saves an operation on a small tensor half its time."""
    return torch.tensor(value, dtype=dtype, device=device)
