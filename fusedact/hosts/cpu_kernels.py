"""PyTorch's own kernels of activations, on the CPU, as they write into memory that is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..registry import ActivationSpec

__all__ = ["Kernels", "kernels_of"]

_aten = torch.ops.aten


class Kernels(NamedTuple):
    """`forward(x, out=y)`; `backward(g, x, y, out)` writes x's gradient, where only `from_value` reads y.

    The memory written to may be that of g, x or y.
    """

    forward: Callable[..., Any]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], Any]
    from_value: bool = False


def _gelu(how: str) -> Kernels:
    def backward(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> Any:
        return _aten.gelu_backward.grad_input(g, x, approximate=how, grad_input=out)

    return Kernels(partial(_aten.gelu.out, approximate=how), backward)


_KERNELS = {
    "silu": Kernels(_aten.silu.out, lambda g, x, y, out: _aten.silu_backward.grad_input(g, x, grad_input=out)),
    "sigmoid": Kernels(
        torch.sigmoid, lambda g, x, y, out: _aten.sigmoid_backward.grad_input(g, y, grad_input=out), from_value=True
    ),
    "tanh": Kernels(
        torch.tanh, lambda g, x, y, out: _aten.tanh_backward.grad_input(g, y, grad_input=out), from_value=True
    ),
    "relu": Kernels(
        partial(torch.clamp_min, min=0.0),
        lambda g, x, y, out: _aten.threshold_backward.grad_input(g, x, 0.0, grad_input=out),
    ),
    "gelu": _gelu("none"),
    "gelu_tanh": _gelu("tanh"),
}


def kernels_of(spec: ActivationSpec) -> Kernels | None:
    """Those of an activation, if there are any."""
    return _KERNELS.get(spec.name) if spec.key is None else None
