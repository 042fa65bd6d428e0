"""Booleans as bits, and small numbers as few, in plain PyTorch: the first of those in a byte has its lowest bits."""

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


def packed_size(count: int, width: int = 1) -> int:
    """The bytes that so many numbers of `width` bits take: 1, 2, 4 or 8."""
    return (count * width + 7) // 8


def pack(mask: Tensor, out: Tensor | None = None, width: int = 1) -> Tensor:
    """A tensor of one dimension as bytes: booleans, or numbers in uint8 below 2^width; what is left over is 0."""
    count = mask.numel()
    size = packed_size(count, width)
    if out is None:
        out = torch.empty(size, dtype=torch.uint8, device=mask.device)
    if width > 1:
        share = 8 // width
        whole = mask if count % share == 0 else torch.cat([mask, mask.new_zeros(share - count % share)])
        parts = whole.reshape(-1, share).unbind(1)
        packed = parts[0].clone()
        for i, part in enumerate(parts[1:], 1):
            packed.bitwise_or_(part << (i * width))
        return out.copy_(packed)
    if count % 8 or mask.storage_offset() % 8 or not mask.is_contiguous():
        whole = torch.zeros(8 * size, dtype=torch.bool, device=mask.device)
        whole[:count] = mask
        mask = whole
    return out.copy_((mask.view(torch.int64) * _GATHER).bitwise_right_shift_(56))


def unpack(bits: Tensor, count: int, width: int = 1) -> Tensor:
    """The first `count` booleans or numbers of what is packed, in one dimension."""
    if width > 1:
        parts = [(bits >> (i * width)) & (2**width - 1) for i in range(8 // width)]
        return torch.stack(parts, 1).reshape(-1)[:count]
    words = bits.to(torch.int64).mul_(_REPEAT).bitwise_and_(_OWN)
    words.add_(_LIFT).bitwise_right_shift_(7).bitwise_and_(_REPEAT)
    return words.view(torch.bool)[:count]
