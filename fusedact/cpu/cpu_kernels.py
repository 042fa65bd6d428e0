"""PyTorch's own kernels of activations, on the CPU, as they write into memory that is given.

Hosts run them on cache-sized pieces; large results go into large pages, which takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..eager import Parameter
from ..registry import ActivationSpec
from ..saving.saved_forms import SELU_ALPHA, SELU_SCALE
from . import cpu_curves, cpu_gates, large_pages

__all__ = ["LARGE_COUNT", "Kernels", "hosted", "large", "large_backward", "large_forward"]

# No tensor of fewer elements is large.
LARGE_COUNT = large_pages.LARGE // 8

_aten = torch.ops.aten


class Kernels(NamedTuple):
    """`forward(x, *parameters, out=y)`, and `backward(g, kept, *parameters, grad_input=dx)`.

    What is kept is the value if `from_value`, else x. The memory written to may be that of an argument. What PyTorch
    derives from its value alone can be called without `grad_input`, too. What is `hosted` has no parameters: forms that
    have an activation inside run it by these.

    Where one is None, PyTorch's own would need more memory, or does not write into what is given: `lean_forward` or
    `lean_backward` serves, as in a record, and where `lean_halves` takes halves as they are.
    """

    forward: Any = None
    backward: Any = None
    from_value: bool = False
    hosted: bool = False
    lean_forward: Any = None
    lean_backward: Any = None
    lean_halves: bool = False


def _elu(factors: Callable[..., tuple[float, float, float]]) -> Kernels:
    """PyTorch's kernel has three factors: (alpha, scale, input_scale)."""

    def backward(g: Tensor, x: Tensor, *parameters: float, grad_input: Tensor) -> Tensor:
        return _aten.elu_backward.grad_input(g, *factors(*parameters), False, x, grad_input=grad_input)

    return Kernels(lambda x, *parameters, out: _aten.elu.out(x, *factors(*parameters), out=out), backward)


def _gelu(how: str) -> Kernels:
    return Kernels(
        lambda x, out: _aten.gelu.out(x, approximate=how, out=out),
        lambda g, x, grad_input: _aten.gelu_backward.grad_input(g, x, approximate=how, grad_input=grad_input),
        hosted=True,
    )


def _leaky_relu_backward(g: Tensor, x: Tensor, slope: float, grad_input: Tensor) -> Tensor:
    return _aten.leaky_relu_backward.grad_input(g, x, slope, False, grad_input=grad_input)


def _threshold_backward(g: Tensor, x: Tensor, threshold: float, value: float, grad_input: Tensor) -> Tensor:
    return _aten.threshold_backward.grad_input(g, x, threshold, grad_input=grad_input)


_KERNELS = {
    "elu": _elu(lambda alpha: (alpha, 1.0, 1.0)),
    "celu": _elu(lambda alpha: (alpha, 1.0, 1.0 / alpha)),
    "selu": _elu(lambda: (SELU_ALPHA, SELU_SCALE, 1.0)),
    "gelu": _gelu("none"),
    "gelu_tanh": _gelu("tanh"),
    "silu": Kernels(_aten.silu.out, _aten.silu_backward.grad_input, hosted=True),
    "softplus": Kernels(_aten.softplus.out, _aten.softplus_backward.grad_input),
    "leaky_relu": Kernels(_aten.leaky_relu.out, _leaky_relu_backward),
    "prelu": Kernels(_aten.leaky_relu.out, _leaky_relu_backward),
    "relu6": Kernels(
        lambda x, out: _aten.hardtanh.out(x, 0.0, 6.0, out=out),
        lambda g, x, grad_input: _aten.hardtanh_backward.grad_input(g, x, 0.0, 6.0, grad_input=grad_input),
    ),
    "hardtanh": Kernels(_aten.hardtanh.out, _aten.hardtanh_backward.grad_input),
    "hardsigmoid": Kernels(_aten.hardsigmoid.out, _aten.hardsigmoid_backward.grad_input),
    "softshrink": Kernels(_aten.softshrink.out, _aten.softshrink_backward.grad_input),
    "hardshrink": Kernels(_aten.hardshrink.out, _aten.hardshrink_backward.grad_input),
    "threshold": Kernels(_aten.threshold.out, _threshold_backward),
    "hardswish": Kernels(_aten.hardswish.out, lean_backward=cpu_gates.hardswish_backward_lean, lean_halves=True),
    "logsigmoid": Kernels(
        lean_forward=cpu_curves.logsigmoid_lean, lean_backward=cpu_curves.logsigmoid_backward_lean, lean_halves=True
    ),
    # Its slope is the same at its value.
    "relu": Kernels(
        lambda x, out: torch.clamp_min(x, 0.0, out=out),
        lambda g, x, **given: _aten.threshold_backward(g, x, 0.0, **given),
        hosted=True,
    ),
    "sigmoid": Kernels(_aten.sigmoid.out, _aten.sigmoid_backward, from_value=True, hosted=True),
    "tanh": Kernels(_aten.tanh.out, _aten.tanh_backward, from_value=True, hosted=True),
    "erf": Kernels(_aten.erf.out, lean_backward=cpu_curves.erf_backward_lean),
}


def hosted(spec: ActivationSpec) -> Kernels | None:
    """Those by which a host runs the activation; None if there are none."""
    kernels = _KERNELS.get(spec.name) if spec.key is None else None
    return kernels if kernels is not None and kernels.hosted else None


def large(spec: ActivationSpec, x: Tensor) -> Kernels | None:
    """Those that serve an x whose results are large, for numbers; None if none do."""
    if x.nbytes < large_pages.LARGE or spec.key is not None:
        return None
    return _KERNELS.get(spec.name)


def large_forward(kernels: Kernels, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The value, in large pages."""
    out = large_pages.empty_like(x)
    kernels.forward(x, *params, out=out)
    return out


def large_backward(kernels: Kernels, g: Tensor, kept: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The gradient of x, in large pages."""
    dx = large_pages.empty_like(kept)
    kernels.backward(g, kept, *params, grad_input=dx)
    return dx
