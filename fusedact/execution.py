"""Runs an activation on plain tensors, below autograd: by its kernels, or on the eager path in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import compat, pieces, table_sums
from .dispatch import Path
from .registry import ActivationSpec
from .tables import Table

__all__ = ["Call", "Parameters", "backward", "double_backward", "forward", "learned_backward", "on_device"]

Parameters = Sequence[float | Tensor]


class Call(NamedTuple):
    """What of a call is not a tensor: the activation, the path, and the input's dimension that counts channels.

    `channel` is None unless a parameter has an entry per channel.
    """

    spec: ActivationSpec
    path: Path
    channel: int | None = None


def forward(call: Call, x: Tensor, params: Parameters, out: Tensor | None = None) -> Tensor:
    """The value; into `out`, which may be x, if given."""
    spec, path, channel = call
    if path.kind != "triton":
        return pieces.forward(spec, x, params, out, channel)
    from .kernels import launch

    x = compat.materialized(x)
    if spec.build is not None:
        spec.build(x.device)
    if out is None:
        out = torch.empty_like(x)
    with on_device(x):
        if spec.table is None:
            launch.forward(spec.device, x, out, _in_memory(params), channel)
        else:
            launch.forward(spec.device, x, out, (_launched(spec.table),), spec.table.channel_dim)
    return out


def backward(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed."""
    spec, path, channel = call
    if path.kind != "triton":
        return pieces.backward(spec, g, x, params, needed, channel)
    from .kernels import launch

    g, x = compat.materialized(g), compat.materialized(x)
    if spec.build is not None:
        spec.build(x.device)
    dx = torch.empty_like(x) if needed[0] else None
    with on_device(x):
        if spec.table is not None:
            launch.backward(spec.device, g, x, dx, (_launched(spec.table),), (False,), spec.table.channel_dim)
            return [dx]
        partials = launch.backward(spec.device, g, x, dx, _in_memory(params), tuple(needed[1:]), channel)
    return [dx, *_sums(partials, params, needed[1:])]


def learned_backward(
    call: Call, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums of a table's gradients in float64: see table_sums.backward."""
    table = call.spec.table
    if call.path.kind != "triton":
        return table_sums.backward(table, g, x, dx_needed, wanted, slopes)
    from .kernels import launch_piecewise

    g, x = compat.materialized(g), compat.materialized(x)
    dx = torch.empty_like(x) if dx_needed else None
    with on_device(x):
        sums = launch_piecewise.backward(
            g, x, dx, _launched(table), table.how.kind, table.count, wanted, slopes, table.channel_dim
        )
    return dx, sums.double()


def double_backward(
    call: Call,
    ggs: Sequence[Tensor | None],
    g: Tensor,
    x: Tensor,
    params: Parameters,
) -> list[Tensor | None] | None:
    """Gradients of g, x and each tensor parameter, from those of x's and the parameters' gradients, by a kernel.

    None where there is no kernel for it.
    """
    spec, path, channel = call
    double = spec.build_double() if spec.build_double is not None and path.kind == "triton" else None
    if double is None:
        return None
    from .kernels.launch_pointwise import pointwise

    g, x = compat.materialized(g), compat.materialized(x)
    ggx = ggs[0]
    # A gradient that nobody gave is 0, without memory of its own.
    ggx = x.new_zeros(()).expand(x.shape) if ggx is None else compat.materialized(ggx)
    given = [0.0 if gg is None else gg for gg in ggs[1:]]
    dg, dx = torch.empty_like(g), torch.empty_like(x)
    tensors = [isinstance(p, Tensor) for p in params]
    needed = (*tensors, *[False] * len(params))
    values = _in_memory([*params, *given])
    with on_device(x):
        partials = pointwise(double.function, double.name, (ggx, g, x), (dg, dx), values, needed, channel)
    return [dg, dx, *_sums(partials, params, tensors)]


def _sums(partials: Tensor | None, params: Parameters, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Parameters' gradients from kernels' partial sums, which have one row per program."""
    sums: list[Tensor | None] = [None for _ in params]
    if partials is not None:
        for i, (p, n) in enumerate(zip(params, wanted, strict=True)):
            if n and isinstance(p, Tensor):
                # All of a channel's, or all there are.
                total = partials[i].sum() if p.numel() == 1 else partials[i].sum(0)
                sums[i] = total.to(p.dtype).reshape(p.shape)
    return sums


def _in_memory(params: Parameters) -> tuple[float | Tensor, ...]:
    """Parameters as kernels read them, entry by entry."""
    return tuple(compat.materialized(p).contiguous() if isinstance(p, Tensor) else p for p in params)


def _launched(table: Table) -> Any:
    """A table as its kernels take it."""
    from .kernels import launch

    return launch.Table(table.data, table.size, table.how.steep, table.how.even)


_NO_GUARD = nullcontext()


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it x's. Nothing to do in the common case."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return _NO_GUARD
