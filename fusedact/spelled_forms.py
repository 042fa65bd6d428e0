"""The spellings of single activations, for economical.py: `value(x, *parameters)`, and its gradients.

All of float32. There is a gradient for x and for each parameter, elementwise, and finite where its limit is; inputs may
be infinite or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "gelu",
    "gelu_gradients",
    "relu_sigmoid",
    "relu_sigmoid_gradients",
    "swish",
    "swish_gradients",
]

Parameter = float | Tensor
Gradients = tuple[Tensor | None, ...]
LARGEST = torch.finfo(torch.float32).max


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """A polynomial, whose coefficients begin with the constant."""
    *rest, last = coefficients
    total: float | Tensor = last
    for c in reversed(rest):
        total = total * x + c
    assert isinstance(total, Tensor)
    return total


def relu_sigmoid(x: Tensor, threshold: Parameter) -> Tensor:
    """relu(x - threshold) / (1 + exp(-x))."""
    return torch.relu(x - threshold) / (1.0 + torch.exp(-x))


def relu_sigmoid_gradients(g: Tensor, x: Tensor, threshold: Parameter, needed: Sequence[bool]) -> Gradients:
    """g s (1 + (x - threshold) (1 - s)) where x > threshold and s = sigmoid(x), else 0; threshold's is -g s there."""
    s = torch.sigmoid(x)
    # A finite factor keeps inf * 0 out.
    dx = torch.where(x <= threshold, 0.0, g * (s + s * (1.0 - s) * (x - threshold).clamp_max(LARGEST)))
    return dx, torch.where(x <= threshold, 0.0, -g * s) if needed[1] else None


def swish(x: Tensor, beta: Parameter) -> Tensor:
    """x / (1 + exp(-beta x))."""
    if not isinstance(beta, Tensor) and beta > 0.0:
        x = x.clamp_min(-LARGEST)
        return x / (1.0 + torch.exp(x * -beta))
    # Of either sign, and 0 beside an infinite x.
    z = beta * x.clamp(-LARGEST, LARGEST)
    return torch.where(z < -750.0, 0.0, x) / (1.0 + torch.exp(-z))


def swish_gradients(g: Tensor, x: Tensor, beta: Parameter, needed: Sequence[bool]) -> Gradients:
    """g (s + beta x s (1 - s)) where s = sigmoid(beta x); beta's is g x^2 s (1 - s)."""
    if not isinstance(beta, Tensor) and beta > 0.0:
        s = torch.sigmoid(x * beta)
        rise = s * (1.0 - s)
        # x may be infinite where that is 0.
        return g * (s + beta * torch.where(rise == 0.0, 0.0, x * rise)), None
    x = x.clamp(-LARGEST, LARGEST)
    s = torch.sigmoid(beta * x)
    rise = x * (s * (1.0 - s))
    return g * (s + beta * rise), g * (x * rise) if needed[1] else None


# The normal distribution's tail is p(a)^8 / 2 up to TAIL_ENDS, within 2.1e-9, and 0 beyond for float32's erf.
TAIL: tuple[float, ...] = (1.0, -0.09973553568124771, -0.03481549024581909, -0.0007375783170573413)
TAIL += (0.0016457887832075357, 3.415801620576531e-05, -6.459548603743315e-05, 7.95662617747439e-06)
TAIL += (-3.082264470322116e-07,)
TAIL_ENDS = 5.6


def _eighth_power(a: Tensor) -> Tensor:
    """Twice the tail, up to TAIL_ENDS."""
    return _horner(TAIL, a).square().square().square()


def gelu(x: Tensor) -> Tensor:
    """max(x, 0) - a Q(a), where a = |x| and Q is the normal distribution's tail: no exponential, no quotient."""
    a = x.abs()
    return torch.relu(x) - torch.where(a > TAIL_ENDS, 0.0, a * (0.5 * _eighth_power(a)))


def gelu_gradients(g: Tensor, x: Tensor, needed: Sequence[bool]) -> Gradients:
    """g times the slope d at -|x|, Q(a) less a times the density; or 1 less d on the right."""
    a = x.abs().clamp_max(40.0)
    density = torch.exp(a * a * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
    d = torch.where(a > TAIL_ENDS, 0.0, 0.5 * _eighth_power(a)) - a * density
    return (g * torch.where(x > 0, 1.0 - d, d),)
