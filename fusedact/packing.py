"""Booleans as bits, eight to a byte, in plain PyTorch: the first of eight is the lowest bit."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack", "packed_size", "unpack"]

# Multiplied with eight bytes that are 0 or 1 it brings them together in the highest byte: 2^(56 - 7 i) for each i.
_GATHER = sum(1 << (56 - 7 * i) for i in range(8))
# A byte eight times, and of each of these the bit that is its own, as a signed number; what lifts any such bit to the
# highest of its byte.
_REPEAT = sum(1 << (8 * i) for i in range(8))
_OWN = sum(1 << (9 * i) for i in range(8)) - (1 << 64)
_LIFT = 127 * _REPEAT


def packed_size(count: int) -> int:
    """The bytes that so many bits take."""
    return (count + 7) // 8


def pack(mask: Tensor, out: Tensor | None = None) -> Tensor:
    """A boolean tensor of one dimension as bytes; what is left of the last one is 0."""
    count = mask.numel()
    size = packed_size(count)
    if out is None:
        out = torch.empty(size, dtype=torch.uint8, device=mask.device)
    if count % 8 or mask.storage_offset() % 8 or not mask.is_contiguous():
        whole = torch.zeros(8 * size, dtype=torch.bool, device=mask.device)
        whole[:count] = mask
        mask = whole
    return out.copy_((mask.view(torch.int64) * _GATHER).bitwise_right_shift_(56))


def unpack(bits: Tensor, count: int) -> Tensor:
    """The first `count` booleans of packed bits, in one dimension."""
    words = bits.to(torch.int64).mul_(_REPEAT).bitwise_and_(_OWN)
    words.add_(_LIFT).bitwise_right_shift_(7).bitwise_and_(_REPEAT)
    return words.view(torch.bool)[:count]
