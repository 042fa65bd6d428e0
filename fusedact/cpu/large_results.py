"""PyTorch's own operators on large CPU tensors, with their results in large pages, which takes a third of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..eager import Parameter
from ..registry import ActivationSpec
from ..saving.saved_forms import SELU_ALPHA, SELU_SCALE
from . import large_pages

__all__ = ["LARGE_COUNT", "Operator", "backward", "forward", "operator_of"]

# No tensor of fewer elements is large.
LARGE_COUNT = large_pages.LARGE // 8

_aten = torch.ops.aten


class Operator(NamedTuple):
    """`forward(x, *parameters, out=)`, and `backward(g, x, *parameters, grad_input=)`.

    Without a backward, PyTorch's own keeps something else than the input.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None


def _elu(factors: Callable[..., tuple[float, float, float]]) -> Operator:
    """PyTorch's kernel has three factors: (alpha, scale, input_scale)."""

    def backward(g: Tensor, x: Tensor, *parameters: float, grad_input: Tensor) -> Tensor:
        return _aten.elu_backward.grad_input(g, *factors(*parameters), False, x, grad_input=grad_input)

    return Operator(lambda x, *parameters, out: _aten.elu.out(x, *factors(*parameters), out=out), backward)


def _gelu(how: str) -> Operator:
    def backward(g: Tensor, x: Tensor, grad_input: Tensor) -> Tensor:
        return _aten.gelu_backward.grad_input(g, x, approximate=how, grad_input=grad_input)

    return Operator(lambda x, out: _aten.gelu.out(x, approximate=how, out=out), backward)


def _leaky_relu_backward(g: Tensor, x: Tensor, slope: float, grad_input: Tensor) -> Tensor:
    return _aten.leaky_relu_backward.grad_input(g, x, slope, False, grad_input=grad_input)


def _threshold_backward(g: Tensor, x: Tensor, threshold: float, value: float, grad_input: Tensor) -> Tensor:
    return _aten.threshold_backward.grad_input(g, x, threshold, grad_input=grad_input)


_OPERATORS = {
    "elu": _elu(lambda alpha: (alpha, 1.0, 1.0)),
    "celu": _elu(lambda alpha: (alpha, 1.0, 1.0 / alpha)),
    "selu": _elu(lambda: (SELU_ALPHA, SELU_SCALE, 1.0)),
    "gelu": _gelu("none"),
    "gelu_tanh": _gelu("tanh"),
    "silu": Operator(_aten.silu.out, _aten.silu_backward.grad_input),
    "softplus": Operator(_aten.softplus.out, _aten.softplus_backward.grad_input),
    "leaky_relu": Operator(_aten.leaky_relu.out, _leaky_relu_backward),
    "prelu": Operator(_aten.leaky_relu.out, _leaky_relu_backward),
    "relu6": Operator(
        lambda x, out: _aten.hardtanh.out(x, 0.0, 6.0, out=out),
        lambda g, x, grad_input: _aten.hardtanh_backward.grad_input(g, x, 0.0, 6.0, grad_input=grad_input),
    ),
    "hardtanh": Operator(_aten.hardtanh.out, _aten.hardtanh_backward.grad_input),
    "hardsigmoid": Operator(_aten.hardsigmoid.out, _aten.hardsigmoid_backward.grad_input),
    "softshrink": Operator(_aten.softshrink.out, _aten.softshrink_backward.grad_input),
    "hardshrink": Operator(_aten.hardshrink.out, _aten.hardshrink_backward.grad_input),
    "threshold": Operator(_aten.threshold.out, _threshold_backward),
    "hardswish": Operator(_aten.hardswish.out),
    "relu": Operator(lambda x, out: torch.clamp_min(x, 0.0, out=out)),
    "sigmoid": Operator(_aten.sigmoid.out),
    "tanh": Operator(_aten.tanh.out),
    "erf": Operator(_aten.erf.out),
}


def operator_of(spec: ActivationSpec, x: Tensor) -> Operator | None:
    """The operator that serves a large tensor this way, for numbers; None if none does."""
    if x.nbytes < large_pages.LARGE or spec.key is not None:
        return None
    return _OPERATORS.get(spec.name)


def forward(operator: Operator, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The value."""
    out = large_pages.empty_like(x)
    operator.forward(x, *params, out=out)
    return out


def backward(operator: Operator, g: Tensor, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The gradient of x."""
    assert operator.backward is not None
    dx = large_pages.empty_like(x)
    operator.backward(g, x, *params, grad_input=dx)
    return dx
