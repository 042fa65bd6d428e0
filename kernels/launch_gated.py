"""Host side of gated.py. The caller has validated the tensors, allocated the results and set the current device."""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import triton
from torch import Tensor

from . import gated, launch
from .launch_pointwise import pointwise


def _around(function: Any, **functions: Any) -> Any:
    """A device function in which these others are known by these names."""
    plain = function.fn
    return triton.jit(types.FunctionType(plain.__code__, {**plain.__globals__, **functions}, plain.__name__))


@cache
def _functions(device: str) -> tuple[Any, Any]:
    """The gated function of an activation's device functions, and its backward."""
    pair = {
        "activation": launch._device_function(device),
        "activation_backward": launch._device_function(f"{device}_backward"),
    }
    both = gated.BOTH.get(device) or _around(gated.both, **pair)
    return _around(gated.gated, **pair), _around(gated.gated_backward, activation_both=both)


def forward(
    device: str, x: Tensor, gate: Tensor, out: Tensor, params: launch.Parameters, channel_dim: int | None
) -> None:
    """out = activation(gate) x, for tensors of one shape and any strides; `device` names the device functions."""
    pointwise(_functions(device)[0], f"gated {device}", (x, gate), (out,), params, (), channel_dim)


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
) -> Tensor | None:
    """Write dx and dgate, those that are not None; return partial sums as `launch.backward` does."""
    name = f"gated {device}_backward"
    return pointwise(_functions(device)[1], name, (g, x, gate), (dx, dgate), params, needed, channel_dim)
