"""The function `pwl`: piecewise-linear activations of tables that are handed in."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import compat, ops, registry, sharding
from ..checks import check_input
from ..saving.saving import check_save
from . import learned, table_checks, table_rows
from .learned import Finder, Points
from .table_rows import SEARCH
from .tables import Table

__all__ = ["Numbers", "check_channels", "pwl"]

Numbers = Sequence[float] | Sequence[Sequence[float]] | Tensor

SPEC = registry.get("pwl")
OWNER = "fusedact.functional.pwl"

# Prepared tables by what they were made of. Tensors count by identity and version; a weak reference tells that they
# are still the same objects.
_CACHED = 64
_cache: dict[Any, tuple[list[Any], Table]] = {}
_lock = threading.Lock()


def pwl(
    x: Tensor,
    breakpoints: Numbers,
    values: Numbers,
    left_slope: float | Tensor = 0.0,
    right_slope: float | Tensor = 0.0,
    *,
    channel_dim: int = 1,
    check: bool = False,
    inplace: bool = False,
    save: str = "auto",
) -> Tensor:
    """Piecewise-linear function: linear between the points (breakpoint, value), with the given slopes outside.

        values[0] + left_slope * (x - breakpoints[0])       before the first breakpoint
        values[i] + slope[i] * (x - breakpoints[i])         from breakpoints[i] to the next
        values[-1] + right_slope * (x - breakpoints[-1])    after the last
        slope[i] = (values[i + 1] - values[i]) / (breakpoints[i + 1] - breakpoints[i])

    At a breakpoint the gradient is the adjacent slope of smaller magnitude, the right one if both are equal. At an
    infinity the value is the limit; a NaN gives NaN, with the left slope as gradient.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        breakpoints: K from 1 to 1024 strictly increasing numbers, or a tensor, of shape (K,) for one table or (C, K)
            for one per channel. Rounded to float32, as all tables, unless x is float64.
        values: the function at the breakpoints, in the same shape; one of both may be (K,) for all channels.
        left_slope, right_slope: numbers, or tensors of shape (), (1,) or (C,).
        channel_dim: the dimension of x that has C entries, if there is a table per channel.
        check: check tables on a GPU too, which waits for the device. Sequences and tables on a CPU always are, except
            under a compiler, which cannot ask for numbers.
        inplace: overwrite x.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`. "bits" keeps the number of
            the segment in 1, 2, 4 or 8 bits, for a table of up to 255 breakpoints that all channels share.

    Returns:
        tensor of x's shape, dtype and layout. Tables that require a gradient get theirs in the same pass as x.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if tables do not fit each other or x, are on another device, are not finite or do not increase.

    >>> FF.pwl(torch.tensor([-2.0, 0.5, 3.0]), [0.0, 1.0], [0.0, 2.0], right_slope=1.0)
    tensor([0., 1., 4.])

    Source: numpy.interp, with slopes outside; as an activation, Zhou et al., 2021, arXiv:2104.03693.
    """
    if has_torch_function_unary(x):
        arguments: dict[str, Any] = {"channel_dim": channel_dim, "check": check, "inplace": inplace, "save": save}
        return handle_torch_function(pwl, (x,), x, breakpoints, values, left_slope, right_slope, **arguments)
    check_input(SPEC, x)
    check_save("", SPEC, save)
    sources = (breakpoints, values, left_slope, right_slope)
    key = None if is_compiling() or compat.transforms_active() else _key(x, channel_dim, sources)
    if key is not None:
        found = _cache.get(key)
        if found is not None and all(r is None or r() is s for r, s in zip(found[0], sources, strict=True)):
            check_channels(OWNER, x, found[1].data.shape[0], channel_dim)
            return ops.apply(found[1].spec, x, (), inplace, save=save)
    b, v = (
        table_checks.as_table(OWNER, name, t, x.device)
        for name, t in (("breakpoints", breakpoints), ("values", values))
    )
    channels = table_checks.channels_of(OWNER, b, v)
    left = table_checks.as_slope(OWNER, "left_slope", left_slope, channels)
    channels = max(channels, left.numel()) if isinstance(left, Tensor) else channels
    right = table_checks.as_slope(OWNER, "right_slope", right_slope, channels)
    channels = table_checks.rows_of(b, v, left, right)
    for name, t in (("breakpoints", b), ("values", v), ("left_slope", left), ("right_slope", right)):
        if isinstance(t, Tensor) and t.device != x.device:
            raise ValueError(f"{OWNER}: {name} must be on the device of x, {x.device}, got a tensor on {t.device}")
    check_channels(OWNER, x, channels, channel_dim)
    plain = is_compiling() or compat.transforms_active()
    known = not is_compiling() and _may_check((b, v), sources, check)
    if known:
        table_checks.check_tables(OWNER, b, v, (left, right))
    points = Points(b, v, left, right)
    learns = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in points)
    if plain:
        given = learned.to_differentiate(x, inplace)
        compiling = is_compiling()
        y = (
            learned.compiled(given, points, channel_dim)
            if compiling
            else learned.formula(given, points, SEARCH, channel_dim)
        )
        return x.copy_(y) if inplace else y
    if learns or sharding.among(*points) or (channels > 1 and sharding.among(x)):
        if save == "bits":
            raise ValueError(f"{OWNER}: save='bits' cannot be combined with learnable tables, which need the input")
        given = learned.to_differentiate(x, inplace)
        y = learned.apply(OWNER, given, points, _finder(breakpoints, b) if known else learned.SEARCHING, channel_dim)
        return x.copy_(y) if inplace else y
    how = table_rows.plan(b, v) if known else SEARCH
    table = points.table(x, how, channel_dim)
    if key is not None and compat.holds_numbers(table.data):
        references = [weakref.ref(s) if isinstance(s, Tensor) else None for s in sources]
        with _lock:
            if len(_cache) >= _CACHED:
                del _cache[next(iter(_cache))]
            _cache[key] = references, table
    return ops.apply(table.spec, x, (), inplace, save=save)


pwl.spec = SPEC  # type: ignore[attr-defined]


def _may_check(made: Sequence[Tensor], sources: Sequence[Any], asked: bool) -> bool:
    """Whether the tables' numbers are there, and may be asked for without waiting or because the caller wants it."""
    # Under FakeTensorMode, and for a meta tensor, what is made of a sequence has no numbers either.
    if any(t.is_meta or type(t) not in (Tensor, nn.Parameter) for t in made) or compat.recording_graph():
        return False
    given = [s for s in sources if isinstance(s, Tensor)]
    return all(compat.holds_numbers(s) and (asked or s.is_cpu) for s in given)


# For breakpoints beside which values learn, by what they were made of; a weak reference, where that is a tensor.
_finders: dict[Any, tuple[Any, Finder]] = {}


def _finder(source: Numbers, breakpoints: Tensor) -> Finder:
    """How the segments of a learned table are found: its values change, so whatever they are."""
    if breakpoints.requires_grad:
        return learned.SEARCHING
    key = _finder_key(source)
    found = _finders.get(key) if key is not None else None
    if found is None or (found[0] is not None and found[0]() is not source):
        found = weakref.ref(source) if isinstance(source, Tensor) else None, Finder(table_rows.plan(breakpoints))
        if key is not None:
            with _lock:
                if len(_finders) >= _CACHED:
                    del _finders[next(iter(_finders))]
                _finders[key] = found
    return found[1]


def _finder_key(source: Numbers) -> Any:
    """What a plan depends on; None if it cannot be told."""
    if isinstance(source, Tensor):
        version = compat.version(source)
        return None if version is None else (id(source), version)
    return tuple(tuple(row) if isinstance(row, list | tuple) else row for row in source)


def _key(x: Tensor, channel_dim: int, sources: Sequence[Any]) -> Any:
    """What a prepared table depends on; None if it cannot be told, or if it must be prepared in a captured graph."""
    parts: list[Any] = [x.device, x.dtype == torch.float64, channel_dim]
    for s in sources:
        if isinstance(s, Tensor):
            version = compat.version(s)
            if version is None or s.requires_grad or compat.capturing(s):
                return None
            parts.append((id(s), version, s.device))
        elif isinstance(s, list | tuple):
            parts.append(tuple(tuple(row) if isinstance(row, list | tuple) else row for row in s))
        else:
            parts.append(s)
    try:
        hash(key := tuple(parts))
    except TypeError:
        return None
    return key


def check_channels(owner: str, x: Tensor, channels: int, channel_dim: int) -> None:
    """Raise ValueError unless x has a dimension for the channels."""
    if channels == 1:
        return
    if not -x.dim() <= channel_dim < x.dim() or x.shape[channel_dim] != channels:
        raise ValueError(
            f"{owner}: x must have {channels} channels in dimension {channel_dim}, got shape {tuple(x.shape)}"
        )
