"""Forms of built-in activations for the CPU path, written by hand where they beat what the engine writes.

They compute on memory that they are given: see pieces.py, which calls them, and lean.py, which writes such forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Gradients",
    "Needed",
    "Spare",
    "clipped_gelu_backward_lean",
    "clipped_gelu_lean",
    "constant",
    "elu_backward_lean",
    "hard_mish_backward_lean",
    "hard_mish_lean",
    "mish_backward_lean",
    "mish_lean",
    "no_spare",
    "prelu_backward_lean",
    "prelu_lean",
    "quick_gelu_backward_lean",
    "quick_gelu_lean",
    "relu_sigmoid_backward_lean",
    "relu_sigmoid_lean",
    "serf_backward_lean",
    "serf_lean",
    "snake_backward_lean",
    "snake_lean",
    "softsign_backward_lean",
    "softsign_lean",
    "sqrtsoftplus_backward_lean",
    "sqrtsoftplus_lean",
    "squareplus_backward_lean",
    "squareplus_lean",
    "swish_backward_lean",
    "swish_lean",
    "telu_backward_lean",
    "telu_lean",
    "xielu_backward_lean",
    "xielu_lean",
]

Parameter = float | Tensor
TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)
# Gives a lean function memory for an intermediate result of its input's shape, by number and dtype: the same for all
# pieces of a tensor, since new memory from the system costs more than the arithmetic. Or None, for memory of its own.
# Also as a part of complex numbers of 16 bytes, for what is done with before these are needed.
Spare = Callable[..., Tensor | None]
# Which gradients a lean backward owes, x's first; None is x's alone. And these, elementwise: those of parameters are
# summed by the caller; None for what is not owed, or nothing behind x's.
Needed = Sequence[bool] | None
Gradients = tuple[Tensor | None, ...]

# Resolved once: looking an overload up costs more than a small tensor's operation.
_mish_backward = torch.ops.aten.mish_backward.default
_softplus_out = torch.ops.aten.softplus.out
_elu_backward = torch.ops.aten.elu_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_silu_backward = torch.ops.aten.silu_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


def no_spare(_: int, dtype: torch.dtype | None = None, part: int | None = None) -> None:
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


# ----- gates and other compositions, which PyTorch works operator by operator


def softsign_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x / (1 + |x|), with the largest number for an infinity."""
    largest = torch.finfo(x.dtype).max
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    return torch.div(bounded, torch.abs(x, out=spare(1)).add_(1.0).clamp_max_(largest), out=out)


def softsign_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g / (1 + |x|)^2."""
    d = torch.abs(x, out=spare(0)).add_(1.0)
    return (torch.div(g, d, out=out).div_(d),)


def mish_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x n / (n + 2) where n = e (e + 2) and e = exp(x)."""
    e = torch.clamp_max(x, 20.0, out=spare(0)).exp_()
    n = torch.add(e, 2.0, out=spare(1)).mul_(e)
    gate = n.div_(torch.add(n, 2.0, out=e))
    return torch.clamp_min(x, -torch.finfo(x.dtype).max, out=out).mul_(gate)


def mish_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """PyTorch's own, which cancels least, where it is right: the slope is 0 from -1000 down, and 1 from 20 up."""
    return (_mish_backward(g, torch.clamp(x, -1000.0, 20.0, out=spare(0))),)


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
    largest = torch.finfo(x.dtype).max
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
    largest = torch.finfo(x.dtype).max
    bounded = torch.clamp(x, -largest, largest, out=spare(0))
    gate = _phi(bounded, spare(1))
    y = torch.mul(bounded, gate, out=spare(4))
    below = torch.lt(y, min_val, out=_new(x, spare(2)))
    above = torch.gt(y, max_val, out=_new(x, spare(3)))
    # Where the density is 0, a number finite with any g.
    density = torch.clamp(bounded, -40.0, 40.0, out=bounded)
    rise = torch.square(density, out=spare(5)).mul_(-0.5).exp_().mul_(density)
    dx = gate.add_(rise, alpha=1.0 / math.sqrt(2.0 * math.pi)).mul_(g)
    # What is lost at a bound must be finite, or 0 times it would not be 0.
    outside = torch.add(below, above, out=y)
    dx = torch.addcmul(dx, dx, outside, value=-1.0, out=_new(x, out))
    return dx, below.mul_(g), above.mul_(g)


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
    below.mul_(torch.le(x, 0.0, out=_new(x, spare(2))))
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
    above = torch.gt(x, 0.0, out=_new(x, spare(0)))
    positive = torch.clamp_min(x, 0.0, out=spare(1))
    negative = torch.clamp_max(x, 0.0, out=spare(2))
    dx: Tensor | None = None
    parts: list[Tensor | None] = [None, None]
    if x_needed:
        # Half the slope where x is eps, as torch.minimum has it.
        bent = torch.lt(x, eps, out=_new(x, spare(3))).add_(torch.le(x, eps, out=_new(x, spare(4)))).mul_(0.5)
        slope = torch.exp(negative, out=spare(4)).mul_(n + beta).mul_(bent)
        # Below 0 the one, above the other: each is finite where the other counts.
        slope.sub_(torch.sub(constant(1.0, x.dtype, x.device), above, out=spare(3)).mul_(n))
        slope.add_(torch.mul(above, beta, out=_new(x, spare(3)))).mul_(g)
        # In halves, so that nothing overflows that need not.
        dx = torch.mul(positive, p, out=out).mul_(g).add_(slope, alpha=0.5).mul_(2.0)
    if p_needed:
        parts[0] = positive.square_().mul_(g).mul_(_sigmoid(alpha_p))
    if n_needed:
        grown = torch.clamp_max(x, eps, out=spare(3)).expm1_().mul_(torch.le(x, 0.0, out=_new(x, spare(4))))
        parts[1] = grown.sub_(negative).mul_(g).mul_(_sigmoid(alpha_n))
    return dx, *parts, None, None


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


def _squareplus_parts(x: Tensor, b: Parameter, spare: Spare) -> tuple[Tensor, Tensor]:
    """x and sqrt(x^2 + b), both halved, so that nothing overflows, and finite."""
    largest = torch.finfo(x.dtype).max
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
        plain = torch.gt(q, -0.5, out=_new(x, spare(3)))
        dx = torch.lerp(t, q.mul_(0.5).add_(0.5), plain, out=_new(x, out)).mul_(g)
    return (dx, root.reciprocal_().mul_(0.125).mul_(g)) if b_needed else (dx,)


def hard_mish_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x min(2, max(0, x + 2)) / 2."""
    gate = torch.add(x, 2.0, out=spare(0)).clamp_(0.0, 2.0).mul_(0.5)
    return torch.clamp_min(x, -torch.finfo(x.dtype).max, out=out).mul_(gate)


def hard_mish_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """0 where x < -2, g (x + 1) up to 0, g beyond."""
    alive = torch.ge(x, -2.0, out=_new(x, spare(0)))
    return (torch.clamp(x, -3.0, 0.0, out=out).add_(1.0).mul_(alive).mul_(g),)


def _sqrtsoftplus_parts(x: Tensor, out: Tensor | None, spare: Spare) -> tuple[Tensor, Tensor, Tensor | None]:
    """x where softplus is not yet exp(x), the root there, and a factor for both value and slope, if it is not 1."""
    # A NaN takes the longer way.
    if x.numel() == 0 or x.amin() >= -40.0:
        return x, _softplus_out(x, 1.0, 40.0, out=_new(x, out)).sqrt_(), None
    near = torch.clamp_min(x, -40.0, out=spare(0))
    factor = torch.clamp_max(x, -40.0, out=spare(1)).add_(40.0).mul_(0.5).exp_()
    return near, _softplus_out(near, 1.0, 40.0, out=_new(x, out)).sqrt_(), factor


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


def telu_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x m / (m + 2) where m = expm1(2 exp(x)): tanh(exp(x)) is 1 from 3 on."""
    m = torch.clamp_max(x, 3.0, out=spare(0)).exp_().mul_(2.0).expm1_()
    gate = torch.div(m, torch.add(m, 2.0, out=spare(1)), out=m)
    return torch.clamp_min(x, -torch.finfo(x.dtype).max, out=out).mul_(gate)


def telu_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (t + x e (1 - t^2)) where e = exp(x), t = tanh(e) = m / d, 1 - t^2 = (1 - t) (2 - (1 - t)), 1 - t = 2 / d."""
    bounded = torch.clamp(x, -torch.finfo(x.dtype).max, 3.0, out=spare(0))
    e = torch.exp(bounded, out=spare(1))
    m = torch.mul(e, 2.0, out=spare(2)).expm1_()
    d = torch.add(m, 2.0, out=spare(3))
    gate, rest = m.div_(d), d.reciprocal_().mul_(2.0)
    rise = bounded.mul_(e).mul_(rest).mul_(torch.sub(constant(2.0, x.dtype, x.device), rest, out=e))
    return (torch.add(gate, rise, out=out).mul_(g),)


def serf_lean(x: Tensor, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """x erf(softplus(x))."""
    gate = _softplus_out(torch.clamp_max(x, 20.0, out=spare(0)), 1.0, 40.0, out=_new(x, spare(1))).erf_()
    return torch.clamp_min(x, -torch.finfo(x.dtype).max, out=out).mul_(gate)


def serf_backward_lean(
    g: Tensor, x: Tensor, needed: Needed = None, out: Tensor | None = None, spare: Spare = no_spare
) -> Gradients:
    """g (erf(s) + x e / (1 + e) exp(-s^2) 2 / sqrt(pi)) where s = softplus(x), e = exp(x)."""
    bounded = torch.clamp(x, -torch.finfo(x.dtype).max, 20.0, out=spare(0))
    s = _softplus_out(bounded, 1.0, 40.0, out=_new(x, spare(1)))
    density = torch.square(s, out=spare(2)).neg_().exp_()
    # PyTorch's sigmoid is 0 below -88; e / (1 + e) is not.
    e = torch.exp(bounded, out=spare(3))
    rise = bounded.mul_(e).div_(e.add_(1.0)).mul_(density)
    return (torch.add(s.erf_(), rise, alpha=TWO_OVER_ROOT_PI, out=out).mul_(g),)


def _far(x: Tensor) -> bool:
    """Whether it has numbers that cannot be doubled; a NaN hides none."""
    if x.numel() == 0:
        return False
    least, largest = torch.aminmax(x)
    bound = 0.5 * torch.finfo(x.dtype).max
    return not (least.item() >= -bound and largest.item() <= bound)


def _phi(x: Tensor, out: Tensor | None) -> Tensor:
    """The distribution function of a normal variable, without what PyTorch's GELU of float32 loses below 0."""
    return torch.mul(x, -math.sqrt(0.5), out=out).erfc_().mul_(0.5)


def _softplus(p: Parameter) -> Parameter:
    """Of a parameter."""
    return F.softplus(p) if isinstance(p, Tensor) else math.log1p(math.exp(-abs(p))) + max(p, 0.0)


def _sigmoid(p: Parameter) -> Parameter:
    """Of a parameter."""
    return torch.sigmoid(p) if isinstance(p, Tensor) else math.exp(-_softplus(-p))


def _root(p: Parameter, x: Tensor) -> Tensor:
    """Of a parameter, as a tensor."""
    return p.sqrt() if isinstance(p, Tensor) else constant(math.sqrt(p), x.dtype, x.device)
