"""Memory for large results on the CPU: the system is asked for large pages, since entering small ones takes longer than
most activations. On Linux, where programs may ask (transparent_hugepage "madvise"); elsewhere nothing changes."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGE", "advised", "empty", "empty_like"]

# From so many bytes on malloc maps memory anew, and gives it back when it is freed: nobody else's is touched.
LARGE = 2**25


def _advice() -> Callable[[int, int, int], Any] | None:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise


_advise = _advice()


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """torch.empty_like, in large pages if it is large and on a CPU."""
    return advised(torch.empty_like(x, dtype=dtype))


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A contiguous tensor of another one's dtype and device, in large pages if it is large and on a CPU."""
    return advised(like.new_empty(shape))


def advised(made: Tensor) -> Tensor:
    """A tensor that was just made and has not been written to, in large pages if it is large and on a CPU."""
    if _advise is not None and made.is_cpu and type(made) is Tensor and made.nbytes >= LARGE:
        # Whole pages alone; a refusal changes nothing.
        start = -(-made.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (made.data_ptr() + made.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        _advise(start, length, mmap.MADV_HUGEPAGE)
    return made
