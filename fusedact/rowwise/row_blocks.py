"""Softmax along a dimension on the eager path: in blocks of whole rows that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cpu import large_pages
from ..eager import HALF_DTYPES

__all__ = ["Call", "Number", "backward", "forward", "wide_of"]

Number = float | Tensor

# Elements of a block per thread. Measured on one core: 2^17 takes 5% to 40% longer.
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
    count = -(-last.shape[longest] // length)
    for parts in zip(*([None] * count if t is None else t.split(length, longest) for t in tensors), strict=True):
        yield from _blocks(dim, *parts)


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


# A mask that is repeated so often is made one to add once, not in every block.
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


def _exact(dtype: torch.dtype, scale: Number, mask: Tensor | None) -> bool:
    """Whether scores of halves are halves: scaled by a power of two, which does not overflow; and left out or not."""
    if dtype not in HALF_DTYPES or isinstance(scale, Tensor) or (mask is not None and mask.dtype != torch.bool):
        return False
    power = abs(math.frexp(scale)[0]) == 0.5
    return power and (abs(scale) <= 1.0 if dtype == torch.float16 else 2.0**-60 < abs(scale) < 2.0**60)


class _Scores:
    """What exponentials are taken of, block by block: x, scaled, and a mask that adds or leaves out."""

    def __init__(self, call: Call, x: Tensor, temperature: Number, mask: Tensor | None, halves: bool) -> None:
        self._scale = (-1.0 if call.negated else 1.0) / _number(call, temperature)
        # Of halves, with `halves`, where they lose nothing in that.
        self.dtype = x.dtype if halves and _exact(x.dtype, self._scale, mask) else wide_of(x.dtype)
        self._memory = _Buffers(self.dtype, x.device)
        # To be cut with the mask.
        self.addend = _addend(mask, self.dtype)

    def __call__(self, x: Tensor, mask: Tensor | None, addend: Tensor | None) -> Tensor:
        """Those of a block, in the first of the buffers."""
        z = self._memory(0, x)
        if x.dtype != self.dtype:
            x = z.copy_(x)
        if mask is None:
            return torch.mul(x, self._scale, out=z)
        leaves_out = mask.dtype == torch.bool
        if addend is None:
            addend = _minus_infinity(mask, self._memory(2, x)) if leaves_out else mask
        if self._scale == 1.0 and addend.dtype == self.dtype:
            torch.add(x, addend, out=z)
        elif isinstance(self._scale, Tensor) or addend.dtype != self.dtype:
            torch.mul(x, self._scale, out=z).add_(addend)
        else:
            torch.add(addend, x, alpha=self._scale, out=z)
        # What is left out may have been infinite or NaN, which adding does not remove.
        if leaves_out and z.sum().isnan():
            z.masked_fill_(~mask, -torch.inf)
        return z


def forward(call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    function = torch.log_softmax if call.log else torch.softmax
    y = large_pages.empty_like(x)
    if mask is None and call.temperature == 1.0 and not call.negated and y.is_contiguous():
        return function(x, call.dim, out=y)
    # PyTorch's logarithms of halves are further off than those of float32, rounded.
    scores = _Scores(call, x, temperature, mask, halves=not call.log)
    buffers = _Buffers(scores.dtype, x.device)
    for x_block, mask_block, addend_block, y_block in _blocks(call.dim, x, mask, scores.addend, y):
        assert x_block is not None and y_block is not None
        # PyTorch writes to a result with gaps as if it had none.
        direct = scores.dtype == y.dtype and y_block.is_contiguous()
        target = y_block if direct else buffers(0, x_block)
        function(scores(x_block, mask_block, addend_block), call.dim, out=target)
        if target is not y_block:
            y_block.copy_(target)
    return y


# Integers of a dtype's size, and the bits of -inf in them: torch.where takes ten times as long as arithmetic on those.
_INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_MINUS_INFINITY = {
    torch.float16: -(2**10),
    torch.bfloat16: -(2**7),
    torch.float32: -(2**23),
    torch.float64: -(2**52),
}


def _minus_infinity(mask: Tensor, out: Tensor) -> Tensor:
    """0 where the mask is True, else -inf."""
    bits = out.view(_INTEGERS[out.dtype])
    bits.copy_(mask).sub_(1).bitwise_and_(_MINUS_INFINITY[out.dtype])
    return out


def _clear(x: Tensor, mask: Tensor, memory: Tensor) -> None:
    """Make x 0 where the mask is False."""
    kind = _INTEGERS[x.dtype]
    x.view(kind).bitwise_and_(memory.view(kind).copy_(mask).neg_())


_aten = torch.ops.aten


def backward(
    call: Call, g: Tensor, y: Tensor, x: Tensor, temperature: Number, mask: Tensor | None, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of x; and, if the temperature is learned, the sum of x times that of scores.

    PyTorch's operators take halves, compute in fp32 and round once. A sum over all elements would show how the output
    was rounded: for that it is made again.
    """
    function = _aten._log_softmax_backward_data.out if call.log else _aten._softmax_backward_data.out
    keyword = "out" if call.log else "grad_input"
    wide = wide_of(y.dtype)
    again = learned and wide != y.dtype
    dtype = wide if again else y.dtype
    buffers, wide_buffers = _Buffers(dtype, y.device), _Buffers(wide, y.device)
    t = _number(call, temperature)
    scale = (-1.0 if call.negated else 1.0) / t
    kept = mask if mask is not None and mask.dtype == torch.bool else None
    scores = _Scores(call, x, temperature, mask, halves=False) if again else None
    addend = None if scores is None else scores.addend
    dx = large_pages.empty_like(y)
    total = torch.zeros((), dtype=torch.float64, device=y.device) if learned else None
    for g_block, y_block, x_block, kept_block, addend_block, dx_block in _blocks(
        call.dim, g, y, x, mask if again else kept, addend, dx
    ):
        assert g_block is not None and y_block is not None and x_block is not None and dx_block is not None
        if scores is not None:
            z, y_block = scores(x_block, kept_block, addend_block), wide_buffers(1, dx_block)
            (torch.log_softmax if call.log else torch.softmax)(z, call.dim, out=y_block)
            g_block = wide_buffers(2, dx_block).copy_(g_block)
            kept_block = None if kept is None else kept_block
        dz = dx_block if not again and dx_block.is_contiguous() else buffers(0, dx_block)
        function(g_block, y_block, call.dim, dtype, **{keyword: dz})
        # A softmax is 0 where it is left out, and so is its gradient, unless others are NaN.
        if kept_block is not None and (call.log or dz.sum().isnan()):
            _clear(dz, kept_block, buffers(1, dz))
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
