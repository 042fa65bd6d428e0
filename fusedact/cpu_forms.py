"""Forms of built-in activations for the CPU path, written by hand where they beat what the engine writes.

They compute on memory that they are given: see pieces.py, which calls them, and lean.py, which writes such forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Gradients",
    "Needed",
    "Spare",
    "constant",
    "elu_backward_lean",
    "no_spare",
    "prelu_backward_lean",
    "prelu_lean",
    "relu_sigmoid_backward_lean",
    "relu_sigmoid_lean",
    "swish_backward_lean",
    "swish_lean",
]

Parameter = float | Tensor
# Gives a lean function memory for an intermediate result of its input's shape, by number and dtype: the same for all
# pieces of a tensor, since new memory from the system costs more than the arithmetic. Or None, for memory of its own.
Spare = Callable[..., Tensor | None]
# Which gradients a lean backward owes, x's first; None is x's alone. And these, elementwise: those of parameters are
# summed by the caller; None for what is not owed, or nothing behind x's.
Needed = Sequence[bool] | None
Gradients = tuple[Tensor | None, ...]

# Resolved once: looking an overload up costs more than a small tensor's operation.
_elu_backward = torch.ops.aten.elu_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_silu_backward = torch.ops.aten.silu_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def no_spare(_: int, dtype: torch.dtype | None = None) -> None:
    """For a tensor of one piece."""
    return None


def _new(like: Tensor, out: Tensor | None) -> Tensor:
    """`out`, or new memory where there is none."""
    return torch.empty_like(like) if out is None else out


@lru_cache(maxsize=256)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor, which saves an operation on a small tensor half its time."""
    return torch.tensor(value, dtype=dtype, device=device)


def relu_sigmoid_lean(x: Tensor, threshold: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record: in place on its own intermediate results."""
    if type(threshold) is float:
        if threshold == 0.0:
            positive = torch.clamp_min(x, 0.0, out=out)
            return F.silu(positive, inplace=True)
        threshold = constant(threshold, x.dtype, x.device)
    shifted = torch.sub(x, threshold, out=spare(0)).relu_()
    return torch.sigmoid(x, out=out).mul_(shifted)


def relu_sigmoid_backward_lean(
    g: Tensor,
    x: Tensor,
    threshold: Parameter,
    needed: Needed = None,
    out: Tensor | None = None,
    spare: Spare = no_spare,
) -> Gradients:
    """g * s * (1 + (x - threshold) * (1 - s)) where x > threshold and s = sigmoid(x), else 0; threshold's is -g * s."""
    # A finite factor keeps inf * 0 out at +inf.
    largest = torch.finfo(x.dtype).max
    if needed is None and type(threshold) is float:
        if threshold == 0.0:
            slope = torch.clamp_max(x, largest, out=spare(0))
            _silu_backward(g, slope, grad_input=slope)
        else:
            s = torch.sigmoid(x, out=spare(1))
            slope = torch.sub(x, constant(threshold, x.dtype, x.device), out=spare(0)).clamp_max_(largest)
            _sigmoid_backward(slope, s, grad_input=slope).add_(s).mul_(g)
        return (_threshold_backward(slope, x, threshold, grad_input=slope if out is None else out),)
    s = torch.sigmoid(x, out=spare(1))
    shifted = torch.sub(x, threshold, out=spare(0)).clamp_max_(largest)
    x_needed, threshold_needed = needed or (True, False)
    part: Tensor | None = None
    dx: Tensor | None = None
    if threshold_needed:
        part = torch.mul(g, s, out=spare(2)).neg_()
        _threshold_backward(part, shifted, 0.0, grad_input=part)
    if x_needed:
        slope = _sigmoid_backward(shifted, s, grad_input=_new(x, spare(3))).add_(s).mul_(g)
        dx = _threshold_backward(slope, shifted, 0.0, grad_input=slope if out is None else out)
    return dx, part


def elu_backward_lean(
    g: Tensor, x: Tensor, alpha: Parameter, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g where x > 0, else g * alpha * exp(x); alpha's is g * expm1(x) where x <= 0."""
    x_needed, alpha_needed = needed or (True, False)
    part: Tensor | None = None
    dx: Tensor | None = None
    if x_needed:
        if isinstance(alpha, Tensor):
            # 1 where x > 0, else alpha * exp(x), without `where`, which takes eight times as long as either.
            slope = torch.clamp_max(x, 0.0, out=spare(0)).exp_().mul_(alpha)
            positive = torch.gt(x, 0.0, out=_new(x, spare(1)))
            dx = torch.mul(slope.lerp_(constant(1.0, x.dtype, x.device), positive), g, out=out)
        else:
            dx = _elu_backward(g, alpha, 1.0, 1.0, False, x, grad_input=_new(x, out))
    if alpha_needed:
        part = torch.clamp_max(x, 0.0, out=spare(1)).expm1_().mul_(g)
    return dx, part


def prelu_lean(x: Tensor, weight: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record."""
    below = torch.clamp_max(x, 0.0, out=spare(0)).mul_(weight)
    return torch.clamp_min(x, 0.0, out=out).add_(below)


def prelu_backward_lean(
    g: Tensor, x: Tensor, weight: Parameter, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g where x > 0, else weight * g; the weight's is x * g where x <= 0."""
    x_needed, weight_needed = needed or (True, False)
    part: Tensor | None = None
    dx: Tensor | None = None
    if x_needed and isinstance(weight, Tensor):
        # Three vector operations; `where` alone takes eight times as long.
        slope = torch.gt(x, 0.0, out=_new(x, out))
        dx = torch.lerp(weight, constant(1.0, x.dtype, x.device), slope, out=slope).mul_(g)
    elif x_needed:
        dx = _leaky_relu_backward(g, x, weight, False, grad_input=_new(x, out))
    if weight_needed:
        part = torch.clamp_max(x, 0.0, out=spare(1)).mul_(g)
    return dx, part


def swish_lean(x: Tensor, beta: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record."""
    largest = torch.finfo(x.dtype).max
    if type(beta) is float and beta > 0.0:
        if beta == 1.0:
            return F.silu(torch.clamp_min(x, -largest, out=out), inplace=True)
        bounded = torch.clamp_min(x, -largest, out=spare(0))
        return torch.mul(bounded, beta, out=out).sigmoid_().mul_(bounded)
    z = torch.clamp(x, -largest, largest, out=spare(0)).mul_(beta)
    alive = _threshold_backward(x, z, -750.0, grad_input=_new(x, spare(1)))
    return torch.sigmoid(z, out=out).mul_(alive)


def swish_backward_lean(
    g: Tensor,
    x: Tensor,
    beta: Parameter,
    needed: Needed = None,
    out: Tensor | None = None,
    spare: Spare = no_spare,
) -> Gradients:
    """g * s * (1 + z * (1 - s)) where z = beta * x and s = sigmoid(z); beta's is g * x * x * s * (1 - s)."""
    # Finite factors keep inf * 0 out.
    largest = torch.finfo(x.dtype).max
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    x_needed, beta_needed = needed or (True, False)
    if not beta_needed:
        z = bounded.mul_(beta).clamp_(-largest, largest)
        return (_silu_backward(g, z, grad_input=_new(x, out)),)
    s = torch.mul(bounded, beta, out=spare(1)).sigmoid_()
    part = _sigmoid_backward(g, s, grad_input=_new(x, spare(2))).mul_(bounded)
    dx = None
    if x_needed:
        dx = torch.mul(g, s, out=out)
        dx = dx.addcmul_(part, beta) if isinstance(beta, Tensor) else dx.add_(part, alpha=beta)
    return dx, part.mul_(bounded)
