"""What recent models do to gates and values first: a limit on both, and an offset of the value."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_number
from ..cpu.pieces import Memory

__all__ = ["NONE", "Limits", "check", "limited", "limited_piece", "stop_gate", "stop_value"]


class Limits(NamedTuple):
    """Gates at most `limit`, values within it on both sides, then the value `offset` more."""

    limit: float | None = None
    offset: float = 0.0


NONE = Limits()


def check(owner: str, limit: object, offset: object) -> Limits:
    """Both as they are given.

    Raises:
        TypeError: if one is no number.
        ValueError: for a limit that is not above 0, or an offset that is not finite.
    """
    # The usual case costs no more than this.
    if limit is None and offset == 0.0 and type(offset) in (float, int):
        return NONE
    if limit is not None:
        limit = check_number(owner, "limit", limit, "a number or None")
        if not limit > 0:
            raise ValueError(f"{owner}: limit must be above 0, got {limit:g}; None is no limit")
    offset = check_number(owner, "offset", offset)
    if not -math.inf < offset < math.inf:
        raise ValueError(f"{owner}: offset must be finite, got {offset:g}")
    return Limits(limit, offset)


def limited(x: Tensor, gate: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """x and the gate, in plain operators."""
    limit, offset = limits
    if limit is not None:
        x, gate = x.clamp(-limit, limit), gate.clamp(max=limit)
    return (x + offset if offset else x), gate


# Numbers of buffers.
_X, _GATE, _AT = range(110, 113)


def limited_piece(x: Tensor, gate: Tensor, limits: Limits, memory: Memory) -> tuple[Tensor, Tensor]:
    """The same of a piece, in its memory."""
    limit, offset = limits
    if limit is None:
        return torch.add(x, offset, out=memory(_X, x.dtype)), gate
    x = torch.clamp(x, -limit, limit, out=memory(_X, x.dtype))
    return (x.add_(offset) if offset else x), torch.clamp_max(gate, limit, out=memory(_GATE, gate.dtype))


def stop_value(grad: Tensor, x: Tensor, limits: Limits, memory: Memory) -> None:
    """Let a piece's gradient be 0 where x is beyond the limit; at the limit it stays, as in torch.clamp."""
    if limits.limit is not None:
        beyond = _next(limits.limit, grad.dtype)
        _stop(grad, x, -beyond, beyond, memory)


def stop_gate(grad: Tensor, gate: Tensor, limits: Limits, memory: Memory) -> None:
    """The same for the gate, which has no limit below."""
    if limits.limit is not None:
        _stop(grad, gate, -math.inf, _next(limits.limit, grad.dtype), memory)


def _stop(grad: Tensor, at: Tensor, low: float, high: float, memory: Memory) -> None:
    # A fifth of the time that a mask takes. It stops at both ends, and NaN nowhere; torch.clamp does at NaN.
    finite = torch.finfo(at.dtype).max
    at = torch.nan_to_num(at, nan=math.inf, posinf=math.inf, neginf=-finite, out=memory(_AT, at.dtype))
    torch.ops.aten.hardtanh_backward.grad_input(grad, at, low, high, grad_input=grad)


@cache
def _next(limit: float, dtype: torch.dtype) -> float:
    """The first number beyond the limit."""
    at = torch.tensor(limit, dtype=dtype)
    return torch.nextafter(at, torch.full_like(at, math.inf)).item()
