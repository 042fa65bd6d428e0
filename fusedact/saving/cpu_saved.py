"""Gradients from the output by PyTorch's own backward operators, where it has one that serves: one pass on the CPU.

Each takes g, y and the parameters, which are numbers; of float32 or float64, as `saved_forms` has them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .saved_forms import SELU_ALPHA, SELU_SCALE

__all__ = ["AT_ONCE", "GRADIENTS", "sloped"]

_elu_backward = torch.ops.aten.elu_backward.default
_hardtanh_backward = torch.ops.aten.hardtanh_backward.default
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default
_leaky_relu_backward_out = torch.ops.aten.leaky_relu_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.default
_threshold_backward_out = torch.ops.aten.threshold_backward.grad_input


# An output that was rounded to beyond what the function reaches would have a slope below 0: it is bounded.


def _elu(g: Tensor, y: Tensor, alpha: float) -> Tensor:
    return _elu_backward(g, alpha, 1.0, 1.0, True, y.clamp_min(-alpha))


def _celu(g: Tensor, y: Tensor, alpha: float) -> Tensor:
    if alpha < 0.0:
        return torch.where(y > 0, g, g * (y / alpha + 1.0))
    return _elu_backward(g, alpha, 1.0, 1.0 / alpha, True, y.clamp_min(-alpha))


def _selu(g: Tensor, y: Tensor) -> Tensor:
    return _elu_backward(g, SELU_ALPHA, SELU_SCALE, 1.0, True, y.clamp_min(-SELU_ALPHA * SELU_SCALE))


def _softsign(g: Tensor, y: Tensor) -> Tensor:
    return (1.0 - y.abs()).square_() * g


GRADIENTS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda g, y: _threshold_backward(g, y, 0.0),
    "relu6": lambda g, y: _hardtanh_backward(g, y, 0.0, 6.0),
    "leaky_relu": lambda g, y, slope: _leaky_relu_backward(g, y, slope, True),
    "prelu": lambda g, y, slope: _leaky_relu_backward(g, y, slope, True),
    "hardtanh": _hardtanh_backward,
    "hardsigmoid": lambda g, y: _hardtanh_backward(g, y, 0.0, 1.0).mul_(1.0 / 6.0),
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "logsigmoid": lambda g, y: torch.expm1(y).neg_() * g,
    "softsign": _softsign,
}

# One pass of one operator, for halves as well; and for others.
AT_ONCE = frozenset({"relu", "relu6", "leaky_relu", "prelu", "hardtanh"})


def sloped(g: Tensor, bit: Tensor, off: float, on: float, out: Tensor | None = None) -> Tensor:
    """g times the slope that its bit tells, 0 where that is, whatever g; into `out` if given."""
    # `where` takes several times as long.
    mask = bit.to(g.dtype)
    if out is None:
        dx = _leaky_relu_backward(g, mask, off / on, False) if off else _threshold_backward(g, mask, 0.0)
        return dx if on == 1.0 else dx * on
    if off:
        _leaky_relu_backward_out(g, mask, off / on, False, grad_input=out)
    else:
        _threshold_backward_out(g, mask, 0.0, grad_input=out)
    return out if on == 1.0 else out.mul_(on)
