"""Softmax along a dimension on the eager path: in blocks of whole rows that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cpu import large_pages
from ..eager import HALF_DTYPES

__all__ = ["Call", "Number", "backward", "forward", "wide_of"]

Number = float | Tensor

# Elements of a block per thread. Measured on one core: 2^17 is 14% slower, whole tensors 11%.
BLOCK_PER_THREAD = 2**19


class Call(NamedTuple):
    """What of a call is not a tensor; `temperature` is None where it is a tensor."""

    log: bool
    negated: bool
    dim: int
    # Of the result.
    dtype: torch.dtype
    temperature: float | None


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """In which it is computed."""
    return torch.float32 if dtype in HALF_DTYPES else dtype


def _blocks(dim: int, *tensors: Tensor | None) -> Iterator[Sequence[Tensor | None]]:
    """Views of tensors of the last one's shape, in blocks of whole rows of at most a cache's size, without a copy."""
    last = tensors[-1]
    assert last is not None
    limit = BLOCK_PER_THREAD * torch.get_num_threads() if last.is_cpu else last.numel()
    others = [d for d in range(last.dim()) if d != dim and last.shape[d] > 1]
    if last.numel() <= limit or not others:
        yield tensors
        return
    # Along the largest stride, which keeps the rest of a block together.
    longest = max(others, key=lambda d: last.stride(d))
    length = max(1, limit * last.shape[longest] // last.numel())
    for start in range(0, last.shape[longest], length):
        size = min(length, last.shape[longest] - start)
        yield from _blocks(dim, *(None if t is None else t.narrow(longest, start, size) for t in tensors))


class _Buffers:
    """Memory for what a block needs on the way, used again for the next one."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._memory: dict[int, Tensor] = {}

    def __call__(self, number: int, like: Tensor) -> Tensor:
        memory = self._memory.get(number)
        if memory is None or memory.numel() < like.numel():
            memory = self._memory[number] = torch.empty(like.numel(), dtype=self._dtype, device=self._device)
        return memory[: like.numel()].view(like.shape)


def _number(call: Call, temperature: Number) -> Number:
    """The temperature as a number, where that waits for no device."""
    return temperature.item() if isinstance(temperature, Tensor) and temperature.is_cpu else temperature


# A mask that is repeated so often is made one to add, which takes a third of the time that leaving out takes.
_REPEATED = 4


def _addend(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What to add, of the expanded mask's shape: 0 where an element takes part, else -inf; numbers in another dtype.

    None if that would be as large as x, or is the mask itself.
    """
    if mask is None or mask.dtype == dtype:
        return None
    small = mask[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.stride())]
    if small.numel() * _REPEATED > mask.numel():
        return None
    if mask.dtype != torch.bool:
        return small.to(dtype).expand(mask.shape)
    made = torch.zeros(small.shape, dtype=dtype, device=mask.device)
    return made.masked_fill_(~small, -torch.inf).expand(mask.shape)


def forward(call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    function = torch.log_softmax if call.log else torch.softmax
    half = x.dtype in HALF_DTYPES
    wide = wide_of(x.dtype)
    buffers = _Buffers(wide, x.device)
    t = _number(call, temperature)
    scale = (-1.0 if call.negated else 1.0) / t
    out_of = torch.tensor(-torch.inf, dtype=wide, device=x.device)
    addend = _addend(mask, wide)
    y = large_pages.empty_like(x)
    for x_block, mask_block, addend_block, y_block in _blocks(call.dim, x, mask, addend, y):
        assert x_block is not None and y_block is not None
        z = buffers(0, x_block)
        wide_block = buffers(1, x_block).copy_(x_block) if half else x_block
        # PyTorch writes to a result with gaps as if it had none.
        target = y_block if not half and y_block.is_contiguous() else buffers(2, x_block)
        if mask_block is None:
            torch.mul(wide_block, scale, out=z)
        elif mask_block.dtype != torch.bool or addend_block is not None:
            _added(wide_block, scale, mask_block if addend_block is None else addend_block, z)
        else:
            _left_out(wide_block, scale, mask_block, out_of, z)
        function(z, call.dim, out=target)
        # What is left out may have been infinite or NaN, which adding does not remove.
        if (
            addend_block is not None
            and mask_block is not None
            and mask_block.dtype == torch.bool
            and target.sum().isnan()
        ):
            _left_out(wide_block, scale, mask_block, out_of, z)
            function(z, call.dim, out=target)
        if target is not y_block:
            y_block.copy_(target)
    return y


def _added(x: Tensor, scale: Number, addend: Tensor, out: Tensor) -> None:
    """scale x + addend."""
    if isinstance(scale, Tensor) or addend.dtype != x.dtype:
        torch.mul(x, scale, out=out).add_(addend)
    else:
        torch.add(addend, x, alpha=scale, out=out)


def _left_out(x: Tensor, scale: Number, mask: Tensor, out_of: Tensor, out: Tensor) -> None:
    """scale x, but `out_of` where the mask is False."""
    if isinstance(scale, Tensor) or scale != 1.0:
        x = torch.mul(x, scale, out=out)
    torch.where(mask, x, out_of, out=out)


_aten = torch.ops.aten


def backward(
    call: Call, g: Tensor, y: Tensor, x: Tensor, temperature: Number, mask: Tensor | None, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of x; and, if the temperature is learned, the sum of x times that of scores.

    PyTorch's operators take halves, compute in fp32 and round once.
    """
    function = _aten._log_softmax_backward_data.out if call.log else _aten._softmax_backward_data.out
    keyword = "out" if call.log else "grad_input"
    buffers, wide_buffers = _Buffers(y.dtype, y.device), _Buffers(wide_of(y.dtype), y.device)
    t = _number(call, temperature)
    scale = (-1.0 if call.negated else 1.0) / t
    zero = torch.zeros((), dtype=y.dtype, device=y.device)
    kept = mask if mask is not None and mask.dtype == torch.bool else None
    dx = large_pages.empty_like(y)
    total = torch.zeros((), dtype=torch.float64, device=y.device) if learned else None
    for g_block, y_block, x_block, kept_block, dx_block in _blocks(call.dim, g, y, x, kept, dx):
        assert g_block is not None and y_block is not None and x_block is not None and dx_block is not None
        dz = dx_block if dx_block.is_contiguous() else buffers(0, dx_block)
        function(g_block, y_block, call.dim, y.dtype, **{keyword: dz})
        # A softmax is 0 where it is left out, and so is its gradient, unless others are NaN.
        if kept_block is not None and (call.log or dz.sum().isnan()):
            torch.where(kept_block, dz, zero, out=dz)
        if total is not None:
            shares = wide_buffers(0, dz).copy_(dz).mul_(x_block)
            share = shares.sum()
            if share.isnan():
                # Nothing depends on an infinite x where this gradient is 0.
                share = torch.where(dz == 0, 0.0, shares).sum()
            total += share
        if isinstance(scale, Tensor) or scale != 1.0:
            dz.mul_(scale)
        if dz is not dx_block:
            dx_block.copy_(dz)
    return dx, total
