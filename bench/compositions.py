"""What people write in plain PyTorch where it has no operator; also right in float64, where it is the truth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def relu_sigmoid(x: Tensor, threshold: float | Tensor) -> Tensor:
    return torch.relu(x - threshold) * torch.sigmoid(x)


def swish(x: Tensor, beta: float | Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def squareplus(x: Tensor, b: float | Tensor) -> Tensor:
    return (x + torch.sqrt(x * x + b)) / 2


def laplace(x: Tensor, mu: float | Tensor, sigma: float | Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf((x - mu) / (sigma * 2**0.5)))


def xielu(x: Tensor, alpha_p: float | Tensor, alpha_n: float | Tensor, beta: float, eps: float) -> Tensor:
    alphas = (torch.as_tensor(a, dtype=x.dtype, device=x.device) for a in (alpha_p, alpha_n))
    p, n = map(F.softplus, alphas)
    below = (torch.expm1(x.clamp(max=eps)) - x) * (beta + n) + beta * x
    return torch.where(x > 0, p * x * x + beta * x, below)


def rrelu(x: Tensor, lower: float, upper: float, training: bool) -> Tensor:
    """PyTorch's, which has no float16 on the CPU."""
    if x.is_cpu and x.dtype == torch.float16:
        return F.rrelu(x.float(), lower, upper, training).half()
    return F.rrelu(x, lower, upper, training)


def masked(x: Tensor, dim: int, temperature: float, mask: Tensor) -> Tensor:
    return torch.softmax((x / temperature).masked_fill(~mask, -torch.inf), dim)


def pwl(x: Tensor, breakpoints: Tensor, values: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, breakpoints.dtype)
    points, heights = breakpoints.to(wide), values.to(wide)
    slopes = F.pad(heights.diff() / points.diff(), (1, 1))
    points, heights = (torch.cat([table[:1], table]) for table in (points, heights))
    x_wide = x.to(wide)
    i = torch.bucketize(x_wide.detach(), points[1:], right=True)
    return (heights[i] + slopes[i] * (x_wide - points[i])).to(x.dtype)


def pwl_learned(x: Tensor, values: Tensor, breakpoints: Tensor) -> Tensor:
    """A table with values that learn, in one row or one per channel: the second dimension of x."""
    wide = torch.promote_types(x.dtype, breakpoints.dtype)
    points, heights = breakpoints.to(wide), values.to(wide)
    slopes = F.pad(heights.diff() / points.diff(), (1, 1))
    points, heights = torch.cat([points[:1], points]), torch.cat([heights[..., :1], heights], -1)
    x_wide = x.to(wide)
    i = torch.bucketize(x_wide.detach(), points[1:], right=True)
    near = points[i]
    if values.dim() > 1:
        i = i + torch.arange(len(values), device=x.device) * len(points)
    return (heights.flatten()[i] + slopes.flatten()[i] * (x_wide - near)).to(x.dtype)


def biased(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The activation of a sum."""
    return lambda x, bias: activation(x + bias)


def biased_dropout(activation: Callable[[Tensor], Tensor], p: float) -> Callable[..., Tensor]:
    """The same, of which elements are dropped."""
    return lambda x, bias: F.dropout(activation(x + bias), p)


def linear(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The activation of a linear layer."""
    return lambda x, weight, bias: activation(F.linear(x, weight, bias))


def gated(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A value times an activated gate."""
    return lambda x, gate: activation(gate) * x


def packed(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The same of one tensor, whose first half is the gate."""

    def call(both: Tensor) -> Tensor:
        gate, value = both.chunk(2, -1)
        return activation(gate) * value

    return call


def interleaved(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The same where gate and value come in turn."""
    return lambda both: activation(both[..., ::2]) * both[..., 1::2]
