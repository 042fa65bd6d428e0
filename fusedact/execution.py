"""Runs an activation on plain tensors, below autograd: by its kernels, or on the eager path in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import compat
from .cpu import pieces
from .dispatch import Path
from .eager import numeric
from .piecewise import table_sums
from .piecewise.table_rows import Plan
from .piecewise.tables import Table
from .registry import ActivationSpec
from .saving import saving
from .watching import figures, gathering

__all__ = [
    "Call",
    "Parameters",
    "backward",
    "backward_from_bits",
    "backward_from_bits_alone",
    "backward_from_output",
    "double_backward",
    "forward",
    "forward_packing",
    "learned_backward",
    "on_device",
    "table_rows",
]

Parameters = Sequence[float | Tensor]


class Call(NamedTuple):
    """What of a call is not a tensor: the activation, the path, and the input's dimension that counts channels.

    `channel` is None unless a parameter has an entry per channel.
    """

    spec: ActivationSpec
    path: Path
    channel: int | None = None


@cache
def _launcher() -> Any:
    """kernels/launch.py, which imports Triton: a statement that imports takes a tenth of a call."""
    from .kernels import launch

    return launch


def forward(call: Call, x: Tensor, params: Parameters, out: Tensor | None = None) -> Tensor:
    """The value; into `out`, which may be x, if given. Gathers statistics in the same pass, where they are wanted."""
    spec, path, channel = call
    if path.kind != "triton":
        return pieces.forward(spec, x, params, out, channel)
    launch = _launcher()
    x = compat.materialized(x)
    if spec.build is not None:
        spec.build(x.device)
    if out is None:
        out = torch.empty_like(x)
    given: tuple[Any, ...] = _in_memory(params)
    if spec.table is not None:
        given, channel = (_launched(spec.table),), spec.table.channel_dim
    gather = gathering.wanted_var.get()
    with on_device(x):
        if gather is None:
            launch.forward(spec.device, x, out, given, channel)
        else:
            alive = x.new_zeros(gather.units(x) + 1, dtype=torch.uint8)
            partials = launch.forward(spec.device, x, out, given, channel, alive, gather.dim or 0)
            if partials is not None:
                gather.fill(out, figures.of_partials(partials), alive[:-1])
    return out


def backward(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed."""
    spec, path, channel = call
    if path.kind != "triton":
        return pieces.backward(spec, g, x, params, needed, channel)
    launch = _launcher()
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


def table_rows(
    breakpoints: Tensor, values: Tensor, left_slope: float | Tensor, right_slope: float | Tensor, how: Plan
) -> Tensor:
    """The rows of `table_rows.prepare` in float32, by a kernel."""
    from .kernels import launch_piecewise

    left, right = (compat.materialized(t) if isinstance(t, Tensor) else t for t in (left_slope, right_slope))
    with on_device(breakpoints):
        tables = compat.materialized(breakpoints), compat.materialized(values)
        return launch_piecewise.prepare(*tables, left, right, how.kind, how.cells)


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


def forward_packing(call: Call, plan: saving.Plan, x: Tensor, params: Parameters, out: Tensor, bits: Tensor) -> None:
    """The value into `out`, and packed bits, by a kernel; x has the dense layout of `out`, and may be it."""
    from .kernels import device_functions, launch_saving

    spec = call.spec
    if spec.build is not None:
        spec.build(x.device)
    pair = None
    if plan.segments is not None:
        side, which = f"{spec.device}_segment", "code"
    elif plan.slopes is not None:
        side, pair = f"{spec.device}_backward", plan.slopes.pair
        which = "rising" if pair[1] >= pair[0] else "falling"
    else:
        side, which = device_functions.saved_function("side", spec.name, spec.device), "side"
    given = _in_memory(params) if spec.table is None else (_launched(spec.table),)
    with on_device(x):
        launch_saving.forward(spec.device, side, which, x, out, bits, given, sum(pair or (0.0,)) / 2, plan.width)


def backward_from_output(
    call: Call, g: Tensor, y: Tensor, params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed, from the output."""
    from .kernels import device_functions, launch

    g, y = compat.materialized(g), compat.materialized(y)
    dx = torch.empty_like(y) if needed[0] else None
    name = device_functions.saved_function("from_output", call.spec.name, call.spec.device)
    with on_device(y):
        partials = launch.backward(name, g, y, dx, _in_memory(params), tuple(needed[1:]), call.channel)
    return [dx, *_sums(partials, params, needed[1:])]


def backward_from_bits(
    call: Call, g: Tensor, y: Tensor, bits: Tensor, params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The same from the output and its bits; g has y's dense layout."""
    from .kernels import device_functions, launch_saving

    dx = torch.empty_like(y) if needed[0] else None
    name = device_functions.saved_function("from_bits", call.spec.name, call.spec.device)
    with on_device(y):
        partials = launch_saving.backward(name, g, y, bits, dx, _in_memory(params), tuple(needed[1:]))
    return [dx, *_sums(partials, params, needed[1:])]


def backward_from_bits_alone(call: Call, plan: saving.Plan, g: Tensor, bits: Tensor) -> Tensor:
    """The gradient of x from the bits that tell the slope; g is dense."""
    from .kernels import launch_saving

    dx = torch.empty_like(g)
    with on_device(g):
        if plan.slopes is not None:
            launch_saving.backward_slopes(g, bits, dx, plan.slopes.pair)
        else:
            launch_saving.backward_segments(g, bits, dx, _launched(call.spec.table), plan.width)
    return dx


def _sums(partials: Tensor | None, params: Parameters, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Parameters' gradients from kernels' partial sums, which have one row per program."""
    sums: list[Tensor | None] = [None] * len(params)
    if partials is not None:
        for i, (p, n) in enumerate(zip(params, wanted, strict=True)):
            if n and isinstance(p, Tensor):
                # All of a channel's, or all there are.
                total = partials[i].sum() if p.numel() == 1 else partials[i].sum(0)
                sums[i] = total.to(p.dtype).reshape(p.shape)
    return sums


def _in_memory(params: Parameters) -> tuple[float | Tensor, ...]:
    """Parameters as kernels read them, entry by entry."""
    if numeric(params):
        return tuple(params)
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
