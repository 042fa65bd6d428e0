"""Host side of gated.py. The caller has validated the tensors, allocated the results and set the current device."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from . import device_functions, gated, grids, launch
from .launch_pointwise import _dense, around, pointwise

# The limit of gates and values, None without one, and the offset of values.
Limits = tuple[float | None, float]


@cache
def _functions(device: str, kind: str = "gated") -> tuple[Any, Any]:
    """The gated function of an activation's device functions, and its backward; `kind` names those of gated.py."""
    pair = {
        "activation": device_functions.named(device),
        "activation_backward": device_functions.named(f"{device}_backward"),
    }
    both = gated.BOTH.get(device) or around(gated.both, **pair)
    backward = getattr(gated, f"{kind}_backward")
    return around(getattr(gated, kind), **pair), around(backward, activation_both=both)


def _limited(params: launch.Parameters, limits: Limits) -> tuple[str, launch.Parameters]:
    """The kind of function, and its parameters: the activation's, then the limits."""
    limit, offset = limits
    if limit is not None:
        return "gated_limited", (*params, limit, offset)
    return ("gated_offset", (*params, offset)) if offset else ("gated", params)


def _in_turn(x: Tensor, gate: Tensor, of: Tensor) -> bool:
    """Whether gates and values lie in turn, in the order of another tensor's elements, without gaps."""
    return (
        x.data_ptr() - gate.data_ptr() == x.element_size()
        and x.stride() == gate.stride()
        and all(n == 1 or s == 2 * t for n, s, t in zip(of.shape, x.stride(), of.stride(), strict=True))
        and _dense(of)
    )


def _interleaved(
    function: Any,
    name: str,
    packed: Tensor,
    grad: Tensor,
    out: Tensor,
    params: launch.Parameters,
    needed: tuple[bool, ...],
    backward: bool,
) -> Tensor | None:
    """What `pointwise` does, for what lies in turn; `packed` and, in backward, `out` are views of the gates."""
    n = packed.numel()
    block = grids.block_size(packed.element_size(), grids.warp_size()) // 2
    grid = triton.cdiv(n, block)
    partials = out.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
    values, kinds, _ = launch._arguments(params, None)
    tensors = (packed, grad, out, out if partials is None else partials)
    constants = (kinds, needed, backward, launch._precise(packed, params))
    # On AMD, offsets of 32 bits reach two gigabytes.
    small = (n < 2**31, 2 * n * packed.element_size() < 2**31)
    key = launch._key(f"{name} {gated.interleaved_kernel.__name__}", tensors, values, *small, *constants)
    args = (*tensors, n, values, function, *constants, block)
    launch._run(gated.interleaved_kernel, grid, key, *args)
    return partials


def forward(
    device: str,
    x: Tensor,
    gate: Tensor,
    out: Tensor,
    params: launch.Parameters,
    channel_dim: int | None,
    limits: Limits = (None, 0.0),
) -> None:
    """out = activation(gate) x, for tensors of one shape and any strides; `device` names the device functions."""
    kind, params = _limited(params, limits)
    function, name = _functions(device, kind)[0], f"{kind} {device}"
    if x.numel() and launch._counted(params, x, channel_dim) is None and _in_turn(x, gate, out):
        _interleaved(function, name, gate, gate, out, params, (), False)
        return
    pointwise(function, name, (x, gate), (out,), params, (), channel_dim)


def backward(
    device: str,
    g: Tensor,
    x: Tensor,
    gate: Tensor,
    dx: Tensor | None,
    dgate: Tensor | None,
    params: launch.Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None,
    limits: Limits = (None, 0.0),
) -> Tensor | None:
    """Write dx and dgate, those that are not None; return partial sums as `launch.backward` does."""
    kind, params = _limited(params, limits)
    needed = (*needed, *[False] * (len(params) - len(needed)))
    function, name = _functions(device, kind)[1], f"{kind} {device}_backward"

    def run(counted: int | None) -> Tensor | None:
        assert dgate is not None
        return _interleaved(function, name, gate, g, dgate, params, needed, True)

    fits = dx is not None and dgate is not None and x.numel() and launch._counted(params, x, channel_dim) is None
    if fits and dx is not None and dgate is not None and _in_turn(x, gate, g) and _in_turn(dx, dgate, g):
        return launch._partial_sums(run, x, params, needed, channel_dim)
    return pointwise(function, name, (g, x, gate), (dx, dgate), params, needed, channel_dim)
