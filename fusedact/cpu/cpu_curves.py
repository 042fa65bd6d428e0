"""Forms for the CPU path of what is no product of x and a gate: bends, roots, waves, their like; see cpu_forms.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .cpu_forms import LARGEST, Gradients, Needed, Parameter, Spare, constant, new, no_spare

__all__ = [
    "elu_backward_lean",
    "erf_backward_lean",
    "logsigmoid_backward_lean",
    "logsigmoid_lean",
    "prelu_backward_lean",
    "prelu_lean",
    "snake_backward_lean",
    "snake_lean",
    "softsign_backward_lean",
    "softsign_lean",
    "sqrtsoftplus_backward_lean",
    "sqrtsoftplus_lean",
    "squareplus_backward_lean",
    "squareplus_lean",
    "xielu_backward_lean",
    "xielu_lean",
]

# Resolved once: looking an overload up costs more than a small tensor's operation.
_softplus_out = torch.ops.aten.softplus.out
_elu_backward = torch.ops.aten.elu_backward.grad_input
_log_sigmoid = torch.ops.aten.log_sigmoid_forward.output
_log_sigmoid_backward = torch.ops.aten.log_sigmoid_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


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
            positive = torch.gt(x, 0.0, out=new(x, spare(1)))
            dx = torch.mul(slope.lerp_(constant(1.0, x.dtype, x.device), positive), g, out=out)
        else:
            dx = _elu_backward(g, alpha, 1.0, 1.0, False, x, grad_input=new(x, out))
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
        slope = torch.gt(x, 0.0, out=new(x, out))
        dx = torch.lerp(weight, constant(1.0, x.dtype, x.device), slope, out=slope).mul_(g)
    elif x_needed:
        dx = _leaky_relu_backward(g, x, weight, False, grad_input=new(x, out))
    if weight_needed:
        part = torch.clamp_max(x, 0.0, out=spare(1)).mul_(g)
    return dx, part


def xielu_lean(
    x: Tensor,
    alpha_p: Parameter,
    alpha_n: Parameter,
    beta: Parameter,
    eps: Parameter,
    out: Tensor | None = None,
    spare: Spare = no_spare,
) -> Tensor:
    """x (p x + beta) where x > 0, else (n + beta) expm1(min(x, eps)) - n x."""
    p, n = _softplus(alpha_p), _softplus(alpha_n)
    positive = torch.clamp_min(x, 0.0, out=spare(0))
    below = torch.clamp_max(x, eps, out=spare(1)).expm1_().mul_(n + beta)
    below.mul_(torch.le(x, 0.0, out=new(x, spare(2))))
    below.sub_(torch.clamp_max(x, 0.0, out=spare(2)).mul_(n))
    return torch.mul(positive, p, out=out).add_(beta).mul_(positive).add_(below)


def xielu_backward_lean(
    g: Tensor,
    x: Tensor,
    alpha_p: Parameter,
    alpha_n: Parameter,
    beta: Parameter,
    eps: Parameter,
    needed: Needed = None,
    out: Tensor | None = None,
    spare: Spare = no_spare,
) -> Gradients:
    """g (2 p x + beta) where x > 0, else g ((n + beta) exp(x) [x < eps] - n); and those of the alphas."""
    x_needed, p_needed, n_needed = (needed or (True, False, False))[:3]
    p, n = _softplus(alpha_p), _softplus(alpha_n)
    above = torch.gt(x, 0.0, out=new(x, spare(0)))
    positive = torch.clamp_min(x, 0.0, out=spare(1))
    negative = torch.clamp_max(x, 0.0, out=spare(2))
    dx: Tensor | None = None
    parts: list[Tensor | None] = [None, None]
    if x_needed:
        # Half the slope where x is eps, as torch.minimum has it.
        bent = torch.lt(x, eps, out=new(x, spare(3))).add_(torch.le(x, eps, out=new(x, spare(4)))).mul_(0.5)
        slope = torch.exp(negative, out=spare(4)).mul_(n + beta).mul_(bent)
        # Below 0 the one, above the other: each is finite where the other counts.
        slope.sub_(torch.sub(constant(1.0, x.dtype, x.device), above, out=spare(3)).mul_(n))
        slope.add_(torch.mul(above, beta, out=new(x, spare(3)))).mul_(g)
        # In halves, so that nothing overflows that need not.
        dx = torch.mul(positive, p, out=out).mul_(g).add_(slope, alpha=0.5).mul_(2.0)
    if p_needed:
        parts[0] = positive.square_().mul_(g).mul_(_sigmoid(alpha_p))
    if n_needed:
        grown = torch.clamp_max(x, eps, out=spare(3)).expm1_().mul_(torch.le(x, 0.0, out=new(x, spare(4))))
        parts[1] = grown.sub_(negative).mul_(g).mul_(_sigmoid(alpha_n))
    return dx, *parts, None, None


def _softplus(p: Parameter) -> Parameter:
    """Of a parameter."""
    return F.softplus(p) if isinstance(p, Tensor) else math.log1p(math.exp(-abs(p))) + max(p, 0.0)


def _sigmoid(p: Parameter) -> Parameter:
    """Of a parameter."""
    return torch.sigmoid(p) if isinstance(p, Tensor) else math.exp(-_softplus(-p))


def softsign_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x / (1 + |x|), with the largest number for an infinity."""
    largest = LARGEST[x.dtype]
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    return torch.div(bounded, torch.abs(x, out=spare(1)).add_(1.0).clamp_max_(largest), out=out)


def softsign_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g / (1 + |x|)^2."""
    d = torch.abs(x, out=spare(0)).add_(1.0)
    return (torch.div(g, d, out=out).div_(d),)


def logsigmoid_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """PyTorch's own, without what it keeps for backward."""
    y = new(x, out)
    _log_sigmoid(x, output=y, buffer=new(x, spare(0, x.dtype)))
    return y


def logsigmoid_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """PyTorch's own, from what its forward would have kept."""
    kept = new(x, spare(0, x.dtype))
    _log_sigmoid(x, output=new(x, spare(1, x.dtype)), buffer=kept)
    return (_log_sigmoid_backward(g, x, kept, grad_input=new(x, out)),)


def erf_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g exp(-x^2) 2 / sqrt(pi)."""
    return (torch.square(x, out=spare(0)).neg_().exp_().mul_(2.0 / math.sqrt(math.pi)).mul_(g),)


def snake_lean(x: Tensor, alpha: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x + sin(alpha x)^2 / alpha."""
    return torch.mul(x, alpha, out=out).sin_().square_().div_(alpha).add_(x)


def snake_backward_lean(
    g: Tensor, x: Tensor, alpha: Parameter, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (1 + sin(2 alpha x)); alpha's is g (x sin(2 alpha x) - sin(alpha x)^2 / alpha) / alpha."""
    x_needed, alpha_needed = needed or (True, False)
    angle = torch.mul(x, alpha, out=spare(0))
    if _far(angle):
        # Twice the angle might overflow.
        twice = torch.sin(angle, out=spare(1)).mul_(torch.cos(angle, out=spare(2))).mul_(2.0)
    else:
        twice = torch.mul(angle, 2.0, out=spare(1)).sin_()
    dx = torch.addcmul(g, g, twice, out=out) if x_needed else None
    if not alpha_needed:
        return (dx,)
    return dx, twice.mul_(x).sub_(angle.sin_().square_().div_(alpha)).div_(alpha).mul_(g)


def _far(x: Tensor) -> bool:
    """Whether it has numbers that cannot be doubled; a NaN hides none."""
    if x.numel() == 0:
        return False
    least, largest = torch.aminmax(x)
    bound = 0.5 * LARGEST[x.dtype]
    return not (least.item() >= -bound and largest.item() <= bound)


def _squareplus_parts(x: Tensor, b: Parameter, spare: Spare) -> tuple[Tensor, Tensor]:
    """x and sqrt(x^2 + b), both halved, so that nothing overflows, and finite."""
    largest = LARGEST[x.dtype]
    half = torch.clamp(x, -largest, largest, out=spare(0)).mul_(0.5)
    return half, torch.hypot(half, _root(b, x) * 0.5, out=spare(1))


def squareplus_lean(x: Tensor, b: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """relu(x) + b / 4 / (r + |x / 2|) where r = sqrt(x^2 + b) / 2."""
    half, root = _squareplus_parts(x, b, spare)
    # At -inf the rest must be 0.
    rest = torch.mul(x, 0.5, out=half).abs_().add_(root).reciprocal_().mul_(0.25 * b)
    return torch.clamp_min(x, 0.0, out=out).add_(rest)


def squareplus_backward_lean(
    g: Tensor, x: Tensor, b: Parameter, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (1 + q) / 2 where q = x / sqrt(x^2 + b), without its cancellation; b's is g / (4 sqrt(x^2 + b))."""
    x_needed, b_needed = needed or (True, False)
    half, root = _squareplus_parts(x, b, spare)
    dx: Tensor | None = None
    if x_needed:
        q = torch.div(half, root, out=spare(2))
        # Where nothing cancels the first form, which is the more exact; elsewhere b / 8 / (r (r + |x / 2|)).
        t = half.abs_().add_(root).reciprocal_().mul_(0.125 * b).div_(root)
        plain = torch.gt(q, -0.5, out=new(x, spare(3)))
        dx = torch.lerp(t, q.mul_(0.5).add_(0.5), plain, out=new(x, out)).mul_(g)
    return (dx, root.reciprocal_().mul_(0.125).mul_(g)) if b_needed else (dx,)


def _root(p: Parameter, x: Tensor) -> Tensor:
    """Of a parameter, as a tensor."""
    return p.sqrt() if isinstance(p, Tensor) else constant(math.sqrt(p), x.dtype, x.device)


def _sqrtsoftplus_parts(x: Tensor, out: Tensor | None, spare: Spare) -> tuple[Tensor, Tensor, Tensor | None]:
    """x where softplus is not yet exp(x), the root there, and a factor for both value and slope, if it is not 1."""
    # A NaN takes the longer way.
    if x.numel() == 0 or x.amin() >= -40.0:
        return x, _softplus_out(x, 1.0, 40.0, out=new(x, out)).sqrt_(), None
    near = torch.clamp_min(x, -40.0, out=spare(0))
    factor = torch.clamp_max(x, -40.0, out=spare(1)).add_(40.0).mul_(0.5).exp_()
    return near, _softplus_out(near, 1.0, 40.0, out=new(x, out)).sqrt_(), factor


def sqrtsoftplus_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """sqrt(log(1 + exp(x))); far below 0 exp(x / 2)."""
    _, root, factor = _sqrtsoftplus_parts(x, out, spare)
    return root if factor is None else root.mul_(factor)


def sqrtsoftplus_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g sigmoid(x) / (2 sqrt(softplus(x)))."""
    near, root, factor = _sqrtsoftplus_parts(x, spare(2), spare)
    slope = torch.sigmoid(near, out=out).div_(root).mul_(0.5)
    slope = slope if factor is None else slope.mul_(factor)
    return (slope.mul_(g),)
