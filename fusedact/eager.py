"""Activations in plain PyTorch: the reference, and what torch.compile, tensor subclasses and the engine see.

A definition takes the input and the parameters, each a number or a tensor of the input's dtype that broadcasts with it.
It has PyTorch's slope at kinks, and the limit at infinities; it never subtracts what cancels. Where PyTorch's own
function is all of that, the record names it. `formula` applies a definition to a tensor of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as F

from . import compat, economical
from .registry import ActivationSpec

__all__ = [
    "HALF_DTYPES",
    "celu",
    "clipped_gelu",
    "elu",
    "formula",
    "gelu_tanh",
    "hard_mish",
    "hardshrink",
    "hardswish",
    "hardtanh",
    "identity",
    "inverse_softplus",
    "laplace",
    "leaky_relu",
    "mish",
    "numeric",
    "operand",
    "prelu_twin",
    "quick_gelu",
    "relu_sigmoid",
    "relu_squared",
    "rrelu",
    "serf",
    "snake",
    "softplus",
    "softshrink",
    "softsign",
    "sqrtsoftplus",
    "squareplus",
    "star_relu",
    "swish",
    "telu",
    "threshold",
    "xielu",
    "xielu_parameters",
]

Parameter = float | Tensor
HALF_DTYPES = (torch.float16, torch.bfloat16)


# ----- definitions


def relu_sigmoid(x: Tensor, threshold: Parameter = 0.0) -> Tensor:
    """relu(x - threshold) * sigmoid(x)."""
    # sigmoid is 1 from 700 on in every dtype; the bound keeps the gradient at +inf from becoming inf * 0. And `where`
    # stops an infinite or NaN gradient of the output, which the product would multiply by 0, below the threshold.
    product = torch.relu(x - threshold) * torch.sigmoid(x.clamp(max=700.0))
    return torch.where(x <= threshold, 0.0, product)


def elu(x: Tensor, alpha: Parameter = 1.0) -> Tensor:
    """x where x > 0, else alpha * expm1(x)."""
    # The bound keeps alpha's gradient at +inf from becoming 0 * inf; a NaN takes the identity, whose slope is 1.
    return torch.where(x <= 0, alpha * F.elu(x.clamp(max=0.0)), x)


def celu(x: Tensor, alpha: Parameter = 1.0) -> Tensor:
    """x where x > 0, else alpha * expm1(x / alpha)."""
    # A finite factor keeps inf * 0 out of alpha's gradient.
    z = x.clamp(-torch.finfo(x.dtype).max, 0.0) / alpha
    return torch.where(x <= 0, alpha * torch.expm1(z), x)


def leaky_relu(x: Tensor, negative_slope: Parameter = 0.01) -> Tensor:
    """x where x > 0, else negative_slope * x."""
    return torch.where(x > 0, x, negative_slope * x)


def prelu_twin(x: Tensor, weight: Tensor, channel: int | None = None) -> Tensor:
    """PyTorch's own operator, for a weight per entry of any dimension."""
    if channel is None or channel == 1:
        return torch.prelu(x, weight)
    return compat.prelu_kernel(x, weight.reshape([-1 if d == channel else 1 for d in range(x.dim())]))


def swish(x: Tensor, beta: Parameter = 1.0) -> Tensor:
    """x * sigmoid(beta * x)."""
    z = beta * x
    # From there on sigmoid is 0 or 1 in every dtype, and what is multiplied with it may be infinite.
    beyond = (x.abs() == torch.inf) | (z.abs() > 750.0)
    near = torch.where(beyond, 0.0, x)
    return torch.where(beyond, torch.where(z < 0.0, 0.0, x), near * torch.sigmoid(beta * near))


def hardtanh(x: Tensor, min_val: Parameter = -1.0, max_val: Parameter = 1.0) -> Tensor:
    """x between min_val and max_val, which have gradients too."""
    return torch.where(x <= min_val, min_val, torch.where(x >= max_val, max_val, x))


def threshold(x: Tensor, threshold: Parameter, value: Parameter) -> Tensor:
    """x where x > threshold, else value."""
    return torch.where(x <= threshold, value, x)


def hardshrink(x: Tensor, lambd: Parameter = 0.5) -> Tensor:
    """x where |x| > lambd, else 0."""
    return torch.where(x.abs() <= lambd, 0.0, x)


def softshrink(x: Tensor, lambd: Parameter = 0.5) -> Tensor:
    """x drawn towards 0 by lambd, and 0 where |x| <= lambd."""
    return torch.where(x < -lambd, x + lambd, torch.where(x <= lambd, 0.0, x - lambd))


def softplus(x: Tensor, beta: Parameter = 1.0, threshold: Parameter = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x where beta * x > threshold."""
    z = beta * _finite(x)
    return torch.where(z > threshold, x, F.softplus(z, 1.0, 40.0) / beta)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    x = _finite(x)
    return x / (1.0 + x.abs())


def hardswish(x: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6."""
    near = torch.where(x <= -3.0, -3.0, torch.where(x >= 3.0, 3.0, x))
    return torch.where(x >= 3.0, x, near * ((near + 3.0) * (1.0 / 6.0)))


def gelu_tanh(x: Tensor) -> Tensor:
    """x * sigmoid(2 z) = x * (1 + tanh(z)) / 2 where z = sqrt(2 / pi) * (x + 0.044715 * x^3)."""
    # sigmoid is 0 or 1 beyond, in every dtype.
    near = x.clamp(-32.0, 32.0)
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    z = near * (scale + (0.044715 * scale) * near * near)
    return torch.where(x < -32.0, 0.0, x) * torch.sigmoid(z)


def clipped_gelu(x: Tensor, min_val: Parameter = -10.0, max_val: Parameter = 10.0) -> Tensor:
    """gelu(x) between min_val and max_val; at a bound the slope is gelu's."""
    y = F.gelu(_finite(x))
    return torch.where(y < min_val, min_val, torch.where(y > max_val, max_val, y))


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 * x)."""
    return swish(x, 1.702)


def mish(x: Tensor) -> Tensor:
    """x * n / (n + 2) = x * tanh(softplus(x)) where n = e * (e + 2) and e = exp(x)."""
    e = torch.exp(x.clamp(max=20.0))
    n = e * (e + 2.0)
    d = n + 2.0
    # Of n / d autograd makes a difference that cancels where n is large.
    return _finite_below(x) * torch.where(x > 0, 1.0 - 2.0 / d, n / d)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)^2."""
    # The slope of `square` is twice its argument, which may overflow.
    y = torch.relu(x)
    return y * y


def star_relu(x: Tensor, scale: Parameter = 0.8944, bias: Parameter = -0.4472) -> Tensor:
    """scale * relu(x)^2 + bias."""
    y = torch.relu(x)
    return scale * y * y + bias


def laplace(x: Tensor, mu: Parameter = 0.707107, sigma: Parameter = 0.282095) -> Tensor:
    """(1 + erf((x - mu) / (sigma * sqrt(2)))) / 2, the distribution function of a normal variable."""
    return 0.5 * torch.erfc((mu - x) / sigma * math.sqrt(0.5))


def xielu(
    x: Tensor,
    alpha_p: Parameter,
    alpha_n: Parameter,
    beta: Parameter = 0.5,
    eps: Parameter = -1e-6,
) -> Tensor:
    """p x^2 + beta x where x > 0, else (p' + beta) expm1(min(x, eps)) - p' x, where p, p' = softplus of the alphas."""
    p, n = (F.softplus(_tensor(a, x)) for a in (alpha_p, alpha_n))
    below = (n + beta) * torch.expm1(torch.minimum(x, _tensor(eps, x))) - n * x
    above = torch.relu(x)
    return torch.where(x > 0, above * (p * above + beta), below)


def rrelu(x: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, *_: object) -> Tensor:
    """x where x > 0, else x times a slope that is drawn uniformly between lower and upper."""
    wide = x.float() if x.dtype in HALF_DTYPES else x
    slopes = lower + (upper - lower) * torch.rand_like(wide)
    return torch.where(x <= 0, wide * slopes, wide).to(x.dtype)


def inverse_softplus(y: float) -> float:
    """What softplus makes y of."""
    return y + math.log(-math.expm1(-y))


def xielu_parameters(alpha_p: float, alpha_n: float, beta: float, _: float) -> tuple[float, float]:
    """The learned parameters of xielu for coefficients of x^2 above 0 and of expm1 below.

    Raises:
        ValueError: if the coefficients leave no room for them.
    """
    if not (alpha_p > 0.0 and alpha_n > beta):
        raise ValueError(
            "fusedact.XIELU: alpha_p_init must be positive and alpha_n_init greater than beta, "
            f"got {alpha_p}, {alpha_n} and {beta}"
        )
    return inverse_softplus(alpha_p), inverse_softplus(alpha_n - beta)


def snake(x: Tensor, alpha: Parameter = 1.0) -> Tensor:
    """x + sin(alpha * x)^2 / alpha."""
    return x + torch.square(torch.sin(alpha * x)) / alpha


def squareplus(x: Tensor, b: Parameter = 4.0) -> Tensor:
    """(x + sqrt(x^2 + b)) / 2."""
    # x where that is positive, and the rest, which does not cancel; in halves, which do not overflow.
    root = torch.hypot(0.5 * _finite(x), _tensor(0.25 * b, x).sqrt())
    return torch.relu(x) + 0.25 * b / (root + torch.where(x > 0, 0.5 * x, -0.5 * x))


def hard_mish(x: Tensor) -> Tensor:
    """x / 2 * min(2, max(0, x + 2))."""
    near = torch.where(x < -2.0, -2.0, torch.where(x > 0.0, 0.0, x))
    return torch.where(x > 0.0, x, 0.5 * near * (near + 2.0))


def sqrtsoftplus(x: Tensor) -> Tensor:
    """sqrt(log(1 + exp(x)))."""
    # Where softplus is exp(x) to the last bit, its root does not underflow when it does.
    root = torch.sqrt(F.softplus(torch.where(x < -40.0, -40.0, x), 1.0, 40.0))
    return torch.where(x < -40.0, torch.exp(0.5 * x.clamp(max=0.0)), root)


def telu(x: Tensor) -> Tensor:
    """x * tanh(exp(x))."""
    # tanh is 1 long before exp overflows.
    return _finite_below(x) * torch.tanh(torch.exp(x.clamp(max=20.0)))


def serf(x: Tensor) -> Tensor:
    """x * erf(log(1 + exp(x)))."""
    return _finite_below(x) * torch.erf(F.softplus(x.clamp(max=20.0), 1.0, 40.0))


def identity(x: Tensor) -> Tensor:
    """x, in memory of its own."""
    return x.clone()


def _tensor(p: Parameter, x: Tensor) -> Tensor:
    """A parameter as a tensor."""
    return p if isinstance(p, Tensor) else torch.full((), p, dtype=x.dtype, device=x.device)


def _finite(x: Tensor) -> Tensor:
    """x with the largest number for an infinity, which keeps inf * 0 and inf / inf out.

    Unlike a clamp's, the slope at a NaN is 1, and lets a NaN through.
    """
    largest = torch.finfo(x.dtype).max
    return torch.where(x > largest, largest, torch.where(x < -largest, -largest, x))


def _finite_below(x: Tensor) -> Tensor:
    """x where its exponential is not 0 in any dtype, and a number of which it is 0 elsewhere.

    Unlike a clamp's, the slope at a NaN is 1, and lets a NaN through.
    """
    return torch.where(x < -1000.0, -1000.0, x)


# ----- application to whole tensors


def numeric(params: Sequence[Parameter]) -> bool:
    """Whether no parameter is a tensor. A loop: a generator costs as much as a small tensor's operation."""
    for p in params:  # noqa: SIM110
        if type(p) is not float:
            return False
    return True


def operand(p: Parameter, x: Tensor, channel: int | None, dtype: torch.dtype) -> Parameter:
    """A parameter so that it broadcasts with x: a number, or a tensor of `dtype`.

    An entry per channel goes along dimension `channel` of x.
    """
    if not isinstance(p, Tensor):
        return p
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if p.dim() == 1 and channel is not None and (compat.tracing() or p.shape[0] != 1):
        p = p.reshape([p.shape[0] if d == channel else 1 for d in range(x.dim())])
    elif p.dim() == 1 and (compat.tracing() or p.shape[0] == 1):
        p = p.reshape(())
    return p.to(dtype)


def formula(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter], channel: int | None = None) -> Tensor:
    """The definition on any tensor, differentiable to any order; halves are computed in fp32 and rounded once."""
    numbers = not any(isinstance(p, Tensor) for p in params)
    if economical.serves(spec, x):
        return economical.apply(spec, x, [operand(p, x, channel, torch.float32) for p in params])
    if spec.aten is not None and numbers and not (spec.compiled == "formula" and is_compiling()):
        return spec.aten(x, *params)
    beside = () if spec.table is None else spec.table.beside(x)
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    operands = [operand(p, x, channel, dtype) for p in params]
    if x.dtype in HALF_DTYPES:
        return spec.eager(x.float(), *operands, *beside).to(x.dtype)
    return spec.eager(x, *operands, *beside)
