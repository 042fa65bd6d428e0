"""Forms for the CPU path of x times a gate: relu_sigmoid, swish, GELUs, mish and their like; see cpu_forms.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..compat import silu_in_place
from .cpu_forms import LARGEST, Gradients, Needed, Parameter, Spare, constant, new, no_spare

__all__ = [
    "clipped_gelu_backward_lean",
    "clipped_gelu_lean",
    "hard_mish_backward_lean",
    "hard_mish_lean",
    "hardswish_backward_lean",
    "mish_backward_lean",
    "mish_lean",
    "quick_gelu_backward_lean",
    "quick_gelu_lean",
    "relu_sigmoid_backward_lean",
    "relu_sigmoid_lean",
    "serf_backward_lean",
    "serf_lean",
    "swish_backward_lean",
    "swish_lean",
    "telu_backward_lean",
    "telu_lean",
]

TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)
# Resolved once: looking an overload up costs more than a small tensor's operation.
_hardswish_backward = torch.ops.aten.hardswish_backward.default
_mish_backward = torch.ops.aten.mish_backward.default
_softplus_out = torch.ops.aten.softplus.out
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_silu_backward = torch.ops.aten.silu_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def relu_sigmoid_lean(x: Tensor, threshold: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record: in place on its own intermediate results."""
    if type(threshold) is float:
        if threshold == 0.0:
            positive = torch.clamp_min(x, 0.0, out=out)
            return silu_in_place(positive)
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
    largest = LARGEST[x.dtype]
    if needed is None and type(threshold) is float:
        if threshold == 0.0:
            slope = torch.clamp_max(x, largest, out=spare(0, x.dtype))
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
        slope = _sigmoid_backward(shifted, s, grad_input=new(x, spare(3))).add_(s).mul_(g)
        dx = _threshold_backward(slope, shifted, 0.0, grad_input=slope if out is None else out)
    return dx, part


def swish_lean(x: Tensor, beta: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record."""
    largest = LARGEST[x.dtype]
    if type(beta) is float and beta > 0.0:
        if beta == 1.0:
            return silu_in_place(torch.clamp_min(x, -largest, out=out))
        bounded = torch.clamp_min(x, -largest, out=spare(0))
        return torch.mul(bounded, beta, out=out).sigmoid_().mul_(bounded)
    z = torch.clamp(x, -largest, largest, out=spare(0)).mul_(beta)
    alive = _threshold_backward(x, z, -750.0, grad_input=new(x, spare(1)))
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
    largest = LARGEST[x.dtype]
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    x_needed, beta_needed = needed or (True, False)
    if not beta_needed:
        z = bounded.mul_(beta).clamp_(-largest, largest)
        return (_silu_backward(g, z, grad_input=new(x, out)),)
    s = torch.mul(bounded, beta, out=spare(1)).sigmoid_()
    part = _sigmoid_backward(g, s, grad_input=new(x, spare(2))).mul_(bounded)
    dx = None
    if x_needed:
        dx = torch.mul(g, s, out=out)
        dx = dx.addcmul_(part, beta) if isinstance(beta, Tensor) else dx.add_(part, alpha=beta)
    return dx, part.mul_(bounded)


def quick_gelu_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x sigmoid(1.702 x)."""
    return swish_lean(x, 1.702, out, spare)


def quick_gelu_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """swish's, without a parameter."""
    return swish_backward_lean(g, x, 1.702, None, out, spare)


def clipped_gelu_lean(
    x: Tensor, min_val: Parameter, max_val: Parameter, out: Tensor | None = None, spare: Spare = no_spare
) -> Tensor:
    """gelu(x) between the bounds."""
    largest = LARGEST[x.dtype]
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    y = _phi(bounded, out).mul_(bounded)
    return y.clamp_min_(min_val).clamp_max_(max_val)


def clipped_gelu_backward_lean(
    g: Tensor,
    x: Tensor,
    min_val: Parameter,
    max_val: Parameter,
    needed: Needed = None,
    out: Tensor | None = None,
    spare: Spare = no_spare,
) -> Gradients:
    """g times gelu's slope where gelu is neither below min_val nor above max_val, whose gradients are g there."""
    largest = LARGEST[x.dtype]
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    gate = _phi(bounded, spare(1))
    y = torch.mul(bounded, gate, out=spare(4))
    below = torch.lt(y, min_val, out=new(x, spare(2)))
    above = torch.gt(y, max_val, out=new(x, spare(3)))
    # Where the density is 0, a number finite with any g.
    density = torch.clamp(bounded, -40.0, 40.0, out=bounded)
    rise = torch.square(density, out=spare(5)).mul_(-0.5).exp_().mul_(density)
    dx = gate.add_(rise, alpha=1.0 / math.sqrt(2.0 * math.pi)).mul_(g)
    # What is lost at a bound must be finite, or 0 times it would not be 0.
    outside = torch.add(below, above, out=y)
    dx = torch.addcmul(dx, dx, outside, value=-1.0, out=new(x, out))
    return dx, below.mul_(g), above.mul_(g)


def _phi(x: Tensor, out: Tensor | None) -> Tensor:
    """The distribution function of a normal variable, without what PyTorch's GELU of float32 loses below 0."""
    return torch.mul(x, -math.sqrt(0.5), out=out).erfc_().mul_(0.5)


def mish_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x n / (n + 2) where n = e (e + 2) and e = exp(x)."""
    e = torch.clamp_max(x, 20.0, out=spare(0)).exp_()
    n = torch.add(e, 2.0, out=spare(1)).mul_(e)
    gate = n.div_(torch.add(n, 2.0, out=e))
    return torch.clamp_min(x, -LARGEST[x.dtype], out=out).mul_(gate)


def mish_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """PyTorch's own, which cancels least, where it is right: the slope is 0 from -1000 down, and 1 from 20 up."""
    return (_mish_backward(g, torch.clamp(x, -1000.0, 20.0, out=spare(0))),)


def hard_mish_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x min(2, max(0, x + 2)) / 2."""
    gate = torch.add(x, 2.0, out=spare(0)).clamp_(0.0, 2.0).mul_(0.5)
    return torch.clamp_min(x, -LARGEST[x.dtype], out=out).mul_(gate)


def hard_mish_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """0 where x < -2, g (x + 1) up to 0, g beyond."""
    alive = torch.ge(x, -2.0, out=new(x, spare(0)))
    return (torch.clamp(x, -3.0, 0.0, out=out).add_(1.0).mul_(alive).mul_(g),)


def hardswish_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """PyTorch's own, which writes to new memory."""
    return (_hardswish_backward(g, x),)


def telu_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x m / (m + 2) where m = expm1(2 exp(x)): tanh(exp(x)) is 1 from 3 on."""
    m = torch.clamp_max(x, 3.0, out=spare(0)).exp_().mul_(2.0).expm1_()
    gate = torch.div(m, torch.add(m, 2.0, out=spare(1)), out=m)
    return torch.clamp_min(x, -LARGEST[x.dtype], out=out).mul_(gate)


def telu_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (t + x e (1 - t^2)) where e = exp(x), t = tanh(e) = m / d, 1 - t^2 = (1 - t) (2 - (1 - t)), 1 - t = 2 / d."""
    bounded = torch.clamp(x, -LARGEST[x.dtype], 3.0, out=spare(0))
    e = torch.exp(bounded, out=spare(1))
    m = torch.mul(e, 2.0, out=spare(2)).expm1_()
    d = torch.add(m, 2.0, out=spare(3))
    gate, rest = m.div_(d), d.reciprocal_().mul_(2.0)
    rise = bounded.mul_(e).mul_(rest).mul_(torch.sub(constant(2.0, x.dtype, x.device), rest, out=e))
    return (torch.add(gate, rise, out=out).mul_(g),)


def serf_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x erf(softplus(x))."""
    gate = _softplus_out(torch.clamp_max(x, 20.0, out=spare(0)), 1.0, 40.0, out=new(x, spare(1))).erf_()
    return torch.clamp_min(x, -LARGEST[x.dtype], out=out).mul_(gate)


def serf_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (erf(s) + x e / (1 + e) exp(-s^2) 2 / sqrt(pi)) where s = softplus(x), e = exp(x)."""
    bounded = torch.clamp(x, -LARGEST[x.dtype], 20.0, out=spare(0))
    s = _softplus_out(bounded, 1.0, 40.0, out=new(x, spare(1)))
    density = torch.square(s, out=spare(2)).neg_().exp_()
    # PyTorch's sigmoid is 0 below -88; e / (1 + e) is not.
    e = torch.exp(bounded, out=spare(3))
    rise = bounded.mul_(e).div_(e.add_(1.0)).mul_(density)
    return (torch.add(s.erf_(), rise, alpha=TWO_OVER_ROOT_PI, out=out).mul_(g),)
