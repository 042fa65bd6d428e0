"""Host side of biased.py. The caller has validated the tensors, allocated the results and set the current device."""

from __future__ import annotations

from functools import cache
from typing import Any

import triton.language as tl
from torch import Tensor

from . import biased, device_functions, launch
from .launch_pointwise import around, pointwise

# Its probability, what it multiplies with, and the seed.
Dropout = tuple[float, float, Tensor]


@cache
def _function(device: str, backward: bool, count: int, bias: bool, dropout: bool, residual: bool) -> tuple[Any, str]:
    """A device function around an activation's, and its own name."""
    constants = {"COUNT": count, "BIASED": bias, "DROPPED": dropout, "RESIDUAL": residual}
    name = f"biased {device}{'_backward' * backward} " + " ".join(str(int(n)) for n in constants.values())
    known = {key: tl.constexpr(value) for key, value in constants.items()}
    if backward:
        inner = device_functions.named(f"{device}_backward")
        return around(biased.biased_backward, activation_backward=inner, **known), name
    return around(biased.biased, activation=device_functions.named(device), **known), name


def _parameters(
    params: launch.Parameters, bias: Tensor | None, dropout: Dropout | None
) -> tuple[launch.Parameters, Tensor | None]:
    """All that the function takes, and the seed."""
    given = params if bias is None else (*params, bias)
    return (given, None) if dropout is None else ((*given, *dropout[:2]), dropout[2])


def forward(
    device: str,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    params: launch.Parameters,
    channel_dim: int | None,
    dropout: Dropout | None,
) -> None:
    """out = activation(x + bias), dropped out, plus the residual, for tensors of one shape and any strides."""
    variant = len(params), bias is not None, dropout is not None, residual is not None
    function, name = _function(device, False, *variant)
    given, seed = _parameters(params, bias, dropout)
    inputs = (x,) if residual is None else (x, residual)
    pointwise(function, name, inputs, (out,), given, (), channel_dim, seed=seed)


def backward(
    device: str,
    g: Tensor,
    x: Tensor,
    bias: Tensor | None,
    dx: Tensor | None,
    params: launch.Parameters,
    needed: tuple[bool, ...],
    channel_dim: int | None,
    dropout: Dropout | None,
) -> Tensor | None:
    """Write dx, unless it is None; return partial sums as `launch.backward` does, those of the bias last.

    `needed` has an entry for each parameter, and a last one for the bias.
    """
    variant = len(params), bias is not None, dropout is not None, False
    function, name = _function(device, True, *variant)
    given, seed = _parameters(params, bias, dropout)
    needed = needed if bias is not None else needed[:-1]
    needed = (*needed, *[False] * (len(given) - len(needed))) if any(needed) else ()
    return pointwise(function, name, (g, x), (dx,), given, needed, channel_dim, seed=seed)
