"""Piecewise-linear tables as users give them: conversion to tensors, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_dtype, check_number

__all__ = ["MAX_BREAKPOINTS", "as_slope", "as_table", "channels_of", "check_breakpoints", "check_tables", "rows_of"]

MAX_BREAKPOINTS = 1024


def as_table(owner: str, name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """A table as a tensor: a tensor itself, or a sequence (of sequences) of numbers in float64.

    Raises:
        TypeError: if it is neither, or of another dtype.
        ValueError: if it is neither one- nor two-dimensional, empty, or longer than MAX_BREAKPOINTS.
    """
    if not isinstance(values, Tensor):
        try:
            values = torch.tensor(values, dtype=torch.float64, device=device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{owner}: {name} must be a tensor or a sequence of numbers, got {type(values).__name__}"
            ) from None
    else:
        check_dtype(owner, name, values)
    if values.dim() not in (1, 2) or not 1 <= values.shape[-1] <= MAX_BREAKPOINTS or values.shape[0] < 1:
        raise ValueError(
            f"{owner}: {name} must have shape (K,) or (C, K) with K from 1 to {MAX_BREAKPOINTS}, "
            f"got shape {tuple(values.shape)}"
        )
    return values


def as_slope(owner: str, name: str, value: Any, channels: int) -> float | Tensor:
    """An outer slope: a number, or a tensor with one element or one per channel; any number of them beside one table.

    Raises:
        TypeError: if it is neither.
        ValueError: if the tensor has another shape.
    """
    if not isinstance(value, Tensor):
        return check_number(owner, name, value, "a number or a tensor")
    check_dtype(owner, name, value)
    if value.dim() > 1 or value.numel() < 1 or (channels > 1 and value.numel() not in (1, channels)):
        accepted = f"shape (), (1,) or ({channels if channels > 1 else 'C'},)"
        raise ValueError(f"{owner}: {name} must be a number or a tensor of {accepted}, got shape {tuple(value.shape)}")
    return value


def channels_of(owner: str, breakpoints: Tensor, values: Tensor) -> int:
    """How many channels the tables have; 1 for one table.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    counts = {t.shape[0] for t in (breakpoints, values) if t.dim() == 2}
    if breakpoints.shape[-1] != values.shape[-1] or len(counts) > 1:
        raise ValueError(
            f"{owner}: breakpoints and values must have the same shape, "
            f"got {tuple(breakpoints.shape)} and {tuple(values.shape)}"
        )
    return counts.pop() if counts else 1


def rows_of(breakpoints: Tensor, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor) -> int:
    """How many channels tables and slopes have that fit each other; 1 for one function."""
    counts = [t.shape[0] for t in (breakpoints, values) if t.dim() == 2]
    counts += [s.numel() for s in (left_slope, right_slope) if isinstance(s, Tensor)]
    return max([1, *counts])


def check_tables(owner: str, breakpoints: Tensor, values: Tensor, slopes: Sequence[float | Tensor]) -> None:
    """Check the tables' numbers, which waits for their device.

    Raises:
        ValueError: if one is not finite, or the breakpoints do not strictly increase, as they are or in float32.
    """
    tables = [("breakpoints", breakpoints), ("values", values)]
    tables += zip(
        ("left_slope", "right_slope"), (torch.as_tensor(s, device=breakpoints.device) for s in slopes), strict=True
    )
    for name, t in tables:
        if not bool(t.detach().isfinite().all()):
            raise ValueError(f"{owner}: {name} must be finite, got {t.detach()[~t.isfinite()].flatten()[0].item()}")
    check_breakpoints(owner, breakpoints)


def check_breakpoints(owner: str, breakpoints: Tensor) -> None:
    """Check that breakpoints strictly increase, as they are and in float32, which waits for their device.

    Raises:
        ValueError: if they do not.
    """
    b = breakpoints.detach()
    for precision in (b.dtype, torch.float32):
        rounded = b.to(precision)
        wrong = rounded[..., 1:] <= rounded[..., :-1]
        if not bool(wrong.any()):
            continue
        at = wrong.nonzero()[0].tolist()
        pair = b.reshape(-1, b.shape[-1])[at[0] if len(at) > 1 else 0, at[-1] : at[-1] + 2].tolist()
        after = "" if precision == b.dtype else ", which are the same number in float32"
        raise ValueError(
            f"{owner}: breakpoints must be strictly increasing, got {pair[0]!r} before {pair[1]!r} "
            f"at position {at[-1]}{after}"
        )
