"""What each activation of the catalog is, in float64: values and slopes whose tails keep their relative accuracy.

Beside the truth stands what a user would write in PyTorch, where its derivative jumps, and with which parameters it is
tested. oracles.py says how they are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = tuple[float, ...]

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
ROOT_2 = math.sqrt(2.0)


def _never(x: Tensor, *_: float) -> Tensor:
    return torch.zeros_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class Truth:
    """An activation; each function takes x and the parameters."""

    value: Callable[..., Tensor]
    # At a NaN it is what PyTorch gives; where its vector instructions and what remains of a tensor differ, one of them.
    slope: Callable[..., Tensor]
    # What PyTorch has for it, or what a user would write.
    composition: Callable[..., Tensor]
    # The parameters it is tested with, the defaults first.
    sweep: Sequence[Parameters] = ((),)
    # Slopes of the parameters that have gradients.
    parameters: tuple[Callable[..., Tensor], ...] = ()
    # Its formula in operators that all transforms serve, for parameters that are tensors too, where `composition` is
    # not that.
    plain: Callable[..., Tensor] | None = None
    # Where the formula changes and its derivative may jump, by the parameters.
    kinks: Callable[..., Parameters] = lambda *_: ()
    # Where the gradient is 0 whatever comes in.
    dead: Callable[..., Tensor] = _never


# ----- functions that lose nothing


def _sech2(x: Tensor) -> Tensor:
    u = torch.exp(-2 * x.abs())
    return 4 * u / (1 + u) ** 2


def _bell(x: Tensor) -> Tensor:
    """The slope of the sigmoid."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _density(x: Tensor) -> Tensor:
    """Of a standard normal variable."""
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """x * factor, with inf * 0 = 0."""
    return torch.where(x.isinf() & (factor == 0), 0.0, x * factor)


def _gated(x: Tensor, gate: Tensor, gate_slope: Tensor) -> Tensor:
    """The slope of x * gate, where the gate's may be 0 at infinities."""
    return gate + _times(x, gate_slope)


# ----- relu_sigmoid, swish


def _relu_sigmoid(x: Tensor, t: float) -> Tensor:
    return torch.where(x > t, (x - t) * torch.sigmoid(x), torch.where(x.isnan(), x, 0.0))


def _relu_sigmoid_slope(x: Tensor, t: float) -> Tensor:
    # At +inf the second term is inf * 0, whose limit is 0.
    s, complement = torch.sigmoid(x), torch.sigmoid(-x)
    slope = s * (1 + torch.where(x == torch.inf, 0.0, (x - t) * complement))
    return torch.where(x <= t, 0.0, slope)


def _scaled(x: Tensor, beta: float | Tensor) -> Tensor:
    """beta * x, with 0 * inf = 0."""
    return beta * torch.where(x.isinf() & (torch.as_tensor(beta) == 0), 0.0, x)


def _swish(x: Tensor, beta: float) -> Tensor:
    s = torch.sigmoid(_scaled(x, beta))
    return torch.where((s == 0) & x.isinf(), 0.0, x * s)


def _swish_slope(x: Tensor, beta: float) -> Tensor:
    z = _scaled(x, beta)
    return torch.sigmoid(z) + torch.where(z.isinf(), 0.0, z * torch.sigmoid(z) * torch.sigmoid(-z))


def _swish_parameter_slope(x: Tensor, beta: float) -> Tensor:
    z = _scaled(x, beta)
    return torch.where(z.isinf(), 0.0, x * x * torch.sigmoid(z) * torch.sigmoid(-z))


# ----- gates


def _gelu(x: Tensor) -> Tensor:
    return _times(x, 0.5 * torch.erfc(-x / ROOT_2))


def _gelu_slope(x: Tensor) -> Tensor:
    return _gated(x, 0.5 * torch.erfc(-x / ROOT_2), _density(x))


def _gelu_tanh_argument(x: Tensor) -> Tensor:
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _gelu_tanh(x: Tensor) -> Tensor:
    return _times(x, torch.sigmoid(_gelu_tanh_argument(x)))


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    # The gate is 0 or 1 beyond, and a product there might be inf * 0.
    near = x.clamp(-100, 100)
    inner = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near * near)
    z = _gelu_tanh_argument(near)
    return torch.sigmoid(z) + near * _bell(z) * inner


def _clipped_gelu(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    y = _gelu(x)
    return torch.where(y < low, low, torch.where(y > high, high, y))


def _mish_gate(x: Tensor) -> tuple[Tensor, Tensor]:
    """The gate and its slope."""
    e = torch.exp(x.clamp(max=30.0))
    n = e * (e + 2)
    return n / (n + 2), torch.where(x > 30, 0.0, 4 * e * (e + 1) / (n + 2) ** 2)


def _telu_slope(x: Tensor) -> Tensor:
    e = torch.exp(x.clamp(max=30.0))
    return _gated(x, torch.tanh(e), e * _sech2(e))


def _serf_slope(x: Tensor) -> Tensor:
    s = _softplus(x)
    return _gated(x, torch.erf(s), 2 / math.sqrt(math.pi) * torch.exp(-s * s) * torch.sigmoid(x))


# ----- softplus and its kin


def _softplus_value(x: Tensor, beta: float | Tensor, threshold: float) -> Tensor:
    z = beta * x
    return torch.where(z > threshold, x, _softplus(z) / beta)


def _softplus_parameter_slope(x: Tensor, beta: float, threshold: float) -> Tensor:
    z = beta * x
    return torch.where(z > threshold, 0.0, (_times(z, torch.sigmoid(z)) - _softplus(z)) / beta**2)


def _sqrtsoftplus(x: Tensor) -> Tensor:
    # Where softplus is exp(x) to the last bit, its root does not underflow when it does.
    return torch.where(x < -40, torch.exp(0.5 * x), torch.sqrt(_softplus(x.clamp(min=-50.0))))


def _sqrtsoftplus_slope(x: Tensor) -> Tensor:
    return torch.where(x < -40, 0.5, 0.5 * torch.sigmoid(x) / _softplus(x.clamp(min=-50.0))) * _sqrtsoftplus(x).where(
        x != torch.inf, 1.0
    )


def _squareplus(x: Tensor, b: float | Tensor) -> Tensor:
    root = torch.hypot(x, torch.as_tensor(b, dtype=x.dtype).sqrt())
    return torch.where(x > 0, (x + root) / 2, b / 2 / (root - x))


def _squareplus_slope(x: Tensor, b: float) -> Tensor:
    root = torch.hypot(x, torch.tensor(b, dtype=x.dtype).sqrt())
    above = torch.where(x == torch.inf, 1.0, 0.5 + 0.5 * x / root)
    return torch.where(x > 0, above, 0.5 * (b / root) / (root - x))


# ----- the others


def _tanhshrink(x: Tensor) -> Tensor:
    # x cosh(x) - sinh(x) as a series, where the difference would cancel.
    near, series = x.clamp(-1.0, 1.0), torch.zeros_like(x)
    for k in range(12, 0, -1):
        series = (series + 2 * k / math.factorial(2 * k + 1)) * near * near
    return torch.where(x.abs() < 1, near * series / torch.cosh(near), x - torch.tanh(x))


def _relu_squared(x: Tensor) -> Tensor:
    return torch.relu(x) ** 2


def _softshrink(x: Tensor, lambd: float | Tensor) -> Tensor:
    return torch.where(x < -lambd, x + lambd, torch.where(x <= lambd, 0.0, x - lambd))


def _hardtanh(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return torch.where(x <= low, low, torch.where(x >= high, high, x))


def _laplace(x: Tensor, mu: float | Tensor, sigma: float | Tensor) -> Tensor:
    return 0.5 * torch.erfc((mu - x) / (sigma * ROOT_2))


def _laplace_slope(x: Tensor, mu: float, sigma: float) -> Tensor:
    return _density((x - mu) / sigma) / sigma


def _laplace_by_hand(x: Tensor, mu: float | Tensor = 0.707107, sigma: float | Tensor = 0.282095) -> Tensor:
    return 0.5 * (1.0 + torch.erf((x - mu) / (sigma * ROOT_2)))


def _snake(x: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    return x + torch.sin(alpha * x) ** 2 / alpha


def _snake_parameter_slope(x: Tensor, alpha: float) -> Tensor:
    return (x * torch.sin(2 * alpha * x) - torch.sin(alpha * x) ** 2 / alpha) / alpha


def _coefficients(alpha_p: float | Tensor, alpha_n: float | Tensor) -> list[Tensor]:
    return [_softplus(torch.as_tensor(a, dtype=torch.float64)) for a in (alpha_p, alpha_n)]


def _xielu(x: Tensor, alpha_p: float | Tensor, alpha_n: float | Tensor, beta: float, eps: float) -> Tensor:
    p, n = _coefficients(alpha_p, alpha_n)
    return torch.where(x > 0, x * (p * x + beta), (n + beta) * torch.expm1(x.clamp(max=eps)) - n * x)


def _xielu_slope(x: Tensor, alpha_p: float, alpha_n: float, beta: float, eps: float) -> Tensor:
    p, n = _coefficients(alpha_p, alpha_n)
    # PyTorch's minimum shares a gradient where its arguments tie.
    share = torch.where(x == eps, 0.5, torch.where(x > eps, 0.0, torch.ones_like(x)))
    return torch.where(x > 0, 2 * p * x + beta, (n + beta) * share * torch.exp(x.clamp(max=eps)) - n)


def _xielu_positive_slope(x: Tensor, alpha_p: float, *_: float) -> Tensor:
    return torch.where(x <= 0, 0.0, x * x * torch.sigmoid(torch.tensor(alpha_p, dtype=x.dtype)))


def _xielu_negative_slope(x: Tensor, _: float, alpha_n: float, __: float, eps: float) -> Tensor:
    slope = torch.expm1(x.clamp(max=eps)) - x
    return torch.where(x > 0, 0.0, slope * torch.sigmoid(torch.tensor(alpha_n, dtype=x.dtype)))


def _xielu_by_hand(
    x: Tensor,
    alpha_p: float | Tensor = 0.2033823208110247,
    alpha_n: float | Tensor = -1.0502256128148466,
    beta: float = 0.5,
    eps: float = -1e-6,
) -> Tensor:
    p, n = (F.softplus(torch.as_tensor(a, dtype=x.dtype)) for a in (alpha_p, alpha_n))
    bound = torch.tensor(eps, dtype=x.dtype)
    below = (torch.expm1(torch.minimum(x, bound)) - x) * (beta + n) + beta * x
    return torch.where(x > 0, p * x * x + beta * x, below)


TRUTHS: dict[str, Truth] = {
    "relu_sigmoid": Truth(
        _relu_sigmoid,
        _relu_sigmoid_slope,
        lambda x, t=0.1: torch.relu(x - t) * torch.sigmoid(x),
        sweep=[(0.0,), (0.1,), (0.5,), (-1.5,), (-5.0,)],
        parameters=(lambda x, t: torch.where(x <= t, 0.0, -torch.sigmoid(x)),),
        kinks=lambda t: (t,),
        dead=lambda x, t: x <= t,
    ),
    "elu": Truth(
        lambda x, alpha: torch.where(x <= 0, alpha * torch.expm1(x), x),
        lambda x, alpha: torch.where(x <= 0, alpha * torch.exp(x), 1.0),
        F.elu,
        sweep=[(1.0,), (0.3,), (-0.7,)],
        parameters=(lambda x, alpha: torch.where(x > 0, 0.0, torch.expm1(x)),),
        plain=lambda x, alpha=0.7: torch.where(x > 0, x, alpha * torch.expm1(x)),
        kinks=lambda alpha: (0.0,),
    ),
    "selu": Truth(
        lambda x: SELU_SCALE * torch.where(x <= 0, SELU_ALPHA * torch.expm1(x), x),
        lambda x: SELU_SCALE * torch.where(x <= 0, SELU_ALPHA * torch.exp(x), 1.0),
        F.selu,
        kinks=lambda: (0.0,),
    ),
    "prelu": Truth(
        lambda x, w: torch.where(x > 0, x, w * x),
        lambda x, w: torch.where(x > 0, 1.0, torch.full_like(x, w)),
        F.leaky_relu,
        sweep=[(0.25,), (-0.5,), (1.5,)],
        parameters=(lambda x, w: torch.where(x > 0, 0.0, x),),
        plain=lambda x, w=0.3: torch.where(x > 0, x, w * x),
        kinks=lambda w: (0.0,),
    ),
    "swish": Truth(
        _swish,
        _swish_slope,
        lambda x, beta=1.3: x * torch.sigmoid(beta * x),
        sweep=[(1.0,), (1.702,), (0.3,), (-1.3,), (0.0,)],
        parameters=(_swish_parameter_slope,),
    ),
    "relu": Truth(
        torch.relu,
        lambda x: torch.where(x <= 0, 0.0, 1.0),
        torch.relu,
        kinks=lambda: (0.0,),
        dead=lambda x: x <= 0,
    ),
    "relu6": Truth(
        lambda x: x.clamp(0, 6),
        lambda x: torch.where((x <= 0) | (x >= 6), 0.0, 1.0),
        F.relu6,
        kinks=lambda: (0.0, 6.0),
        dead=lambda x: (x <= 0) | (x >= 6),
    ),
    "leaky_relu": Truth(
        lambda x, a: torch.where(x > 0, x, a * x),
        lambda x, a: torch.where(x > 0, 1.0, torch.full_like(x, a)),
        F.leaky_relu,
        sweep=[(0.01,), (-0.3,)],
        parameters=(lambda x, a: torch.where(x > 0, 0.0, x),),
        plain=lambda x, a=0.01: torch.where(x > 0, x, a * x),
        kinks=lambda a: (0.0,),
    ),
    "celu": Truth(
        lambda x, alpha: torch.where(x <= 0, alpha * torch.expm1(x / alpha), x),
        lambda x, alpha: torch.where(x <= 0, torch.exp(x / alpha), 1.0),
        F.celu,
        sweep=[(1.0,), (0.3,)],
        parameters=(
            lambda x, alpha: torch.where(x > 0, 0.0, torch.expm1(x / alpha) - _times(x / alpha, torch.exp(x / alpha))),
        ),
        plain=lambda x, alpha=1.0: torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0.0) / alpha)),
        kinks=lambda alpha: (0.0,),
    ),
    "gelu": Truth(_gelu, _gelu_slope, F.gelu),
    "gelu_tanh": Truth(_gelu_tanh, _gelu_tanh_slope, lambda x: F.gelu(x, approximate="tanh")),
    "silu": Truth(lambda x: _swish(x, 1.0), lambda x: _swish_slope(x, 1.0), F.silu),
    "mish": Truth(lambda x: _times(x, _mish_gate(x)[0]), lambda x: _gated(x, *_mish_gate(x)), F.mish),
    "softplus": Truth(
        _softplus_value,
        lambda x, beta, threshold: torch.where(beta * x > threshold, 1.0, torch.sigmoid(beta * x)),
        F.softplus,
        sweep=[(1.0, 20.0), (0.5, 5.0)],
        parameters=(_softplus_parameter_slope,),
        plain=lambda x, beta=1.0, threshold=20.0: torch.where(
            beta * x > threshold, x, torch.log1p(torch.exp((beta * x).clamp(max=threshold))) / beta
        ),
        kinks=lambda beta, threshold: (threshold / beta,),
    ),
    "logsigmoid": Truth(lambda x: -_softplus(-x), lambda x: torch.sigmoid(-x), F.logsigmoid),
    "sigmoid": Truth(torch.sigmoid, _bell, torch.sigmoid),
    "tanh": Truth(torch.tanh, _sech2, torch.tanh),
    "hardtanh": Truth(
        _hardtanh,
        lambda x, low, high: torch.where((x <= low) | (x >= high), 0.0, 1.0),
        F.hardtanh,
        sweep=[(-1.0, 1.0), (-0.3, 2.0)],
        parameters=(
            lambda x, low, high: torch.where(x <= low, 1.0, 0.0),
            lambda x, low, high: torch.where(x >= high, 1.0, 0.0),
        ),
        plain=lambda x, low=-1.0, high=1.0: torch.where(x <= low, low, torch.where(x >= high, high, x)),
        kinks=lambda low, high: (low, high),
        dead=lambda x, low, high: (x <= low) | (x >= high),
    ),
    "hardsigmoid": Truth(
        lambda x: (x + 3).clamp(0, 6) / 6,
        lambda x: torch.where((x > -3) & (x < 3), torch.full_like(x, 1 / 6), 0.0),
        F.hardsigmoid,
        kinks=lambda: (-3.0, 3.0),
        dead=lambda x: (x <= -3) | (x >= 3) | x.isnan(),
    ),
    "hardswish": Truth(
        lambda x: torch.where(x <= -3, 0.0, torch.where(x < 3, x * (x + 3) / 6, x)),
        lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5)),
        F.hardswish,
        kinks=lambda: (-3.0, 3.0),
        dead=lambda x: x <= -3,
    ),
    "softsign": Truth(
        lambda x: torch.where(x.isinf(), x.sign(), x / (1 + x.abs())),
        lambda x: 1 / (1 + x.abs()) ** 2,
        F.softsign,
    ),
    "tanhshrink": Truth(_tanhshrink, lambda x: torch.tanh(x) ** 2, F.tanhshrink),
    "softshrink": Truth(
        _softshrink,
        lambda x, lambd: torch.where(x.abs() <= lambd, 0.0, 1.0),
        F.softshrink,
        sweep=[(0.5,), (1.3,)],
        parameters=(lambda x, lambd: torch.where(x < -lambd, 1.0, torch.where(x <= lambd, 0.0, -1.0)),),
        plain=lambda x, lambd=0.5: torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, x * 0.0)),
        kinks=lambda lambd: (-lambd, lambd),
        dead=lambda x, lambd: x.abs() <= lambd,
    ),
    "hardshrink": Truth(
        lambda x, lambd: torch.where(x.abs() <= lambd, 0.0, x),
        lambda x, lambd: torch.where(x.abs() <= lambd, 0.0, 1.0),
        F.hardshrink,
        sweep=[(0.5,), (1.3,)],
        kinks=lambda lambd: (-lambd, lambd),
        dead=lambda x, lambd: x.abs() <= lambd,
    ),
    "threshold": Truth(
        lambda x, t, v: torch.where(x <= t, v, x),
        lambda x, t, v: torch.where(x <= t, 0.0, 1.0),
        F.threshold,
        sweep=[(0.1, 20.0), (-1.3, -0.3)],
        parameters=(lambda x, t, v: torch.where(x <= t, 1.0, 0.0),),
        plain=lambda x, t=0.1, v=20.0: torch.where(x <= t, v, x),
        kinks=lambda t, v: (t,),
        dead=lambda x, t, v: x <= t,
    ),
    "identity": Truth(lambda x: x, torch.ones_like, lambda x: x),
    "relu_squared": Truth(
        _relu_squared,
        lambda x: 2 * torch.relu(x),
        lambda x: torch.relu(x).square(),
        dead=lambda x: x <= 0,
    ),
    "star_relu": Truth(
        lambda x, scale, bias: scale * _relu_squared(x) + bias,
        lambda x, scale, bias: 2 * scale * torch.relu(x),
        lambda x, scale=0.8944, bias=-0.4472: scale * torch.relu(x) ** 2 + bias,
        sweep=[(0.8944, -0.4472), (-0.75, 0.25)],
        parameters=(lambda x, scale, bias: _relu_squared(x), lambda x, scale, bias: torch.ones_like(x)),
        dead=lambda x, scale, bias: x <= 0,
    ),
    "quick_gelu": Truth(
        lambda x: _swish(x, 1.702),
        lambda x: _swish_slope(x, 1.702),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "clipped_gelu": Truth(
        _clipped_gelu,
        lambda x, low, high: torch.where((_gelu(x) < low) | (_gelu(x) > high), 0.0, _gelu_slope(x)),
        lambda x, low=-10.0, high=10.0: torch.clamp(F.gelu(x), low, high),
        sweep=[(-10.0, 10.0), (-0.1, 1.5)],
        parameters=(
            lambda x, low, high: torch.where(_gelu(x) < low, 1.0, 0.0),
            lambda x, low, high: torch.where(_gelu(x) > high, 1.0, 0.0),
        ),
        dead=lambda x, low, high: (_gelu(x) < low) | (_gelu(x) > high),
        plain=lambda x, low=-10.0, high=10.0: torch.where(
            F.gelu(x) < low, low, torch.where(F.gelu(x) > high, high, F.gelu(x))
        ),
    ),
    "laplace": Truth(
        _laplace,
        _laplace_slope,
        _laplace_by_hand,
        sweep=[(0.707107, 0.282095), (-0.5, 2.0)],
        parameters=(
            lambda x, mu, sigma: -_laplace_slope(x, mu, sigma),
            lambda x, mu, sigma: -_times((x - mu) / sigma, _laplace_slope(x, mu, sigma)),
        ),
    ),
    "xielu": Truth(
        _xielu,
        _xielu_slope,
        _xielu_by_hand,
        sweep=[(0.2033823208110247, -1.0502256128148466, 0.5, -1e-6), (-1.0, 0.5, 1.5, -0.25)],
        parameters=(_xielu_positive_slope, _xielu_negative_slope),
        kinks=lambda alpha_p, alpha_n, beta, eps: (eps, 0.0),
    ),
    "snake": Truth(
        _snake,
        lambda x, alpha: 1 + torch.sin(2 * alpha * x),
        _snake,
        sweep=[(1.0,), (3.0,)],
        parameters=(_snake_parameter_slope,),
    ),
    "squareplus": Truth(
        _squareplus,
        _squareplus_slope,
        lambda x, b=4.0: (x + torch.sqrt(x**2 + b)) / 2,
        sweep=[(4.0,), (0.1,)],
        parameters=(lambda x, b: 0.25 / torch.hypot(x, torch.tensor(b, dtype=x.dtype).sqrt()),),
    ),
    "hard_mish": Truth(
        lambda x: torch.where(x < -2, 0.0, torch.where(x > 0, x, 0.5 * x * (x + 2))),
        lambda x: torch.where(x < -2, 0.0, torch.where(x > 0, 1.0, x + 1)),
        lambda x: 0.5 * x * (x + 2).clamp(0, 2),
        kinks=lambda: (-2.0,),
        dead=lambda x: x < -2,
    ),
    "sqrtsoftplus": Truth(_sqrtsoftplus, _sqrtsoftplus_slope, lambda x: torch.sqrt(F.softplus(x))),
    "telu": Truth(
        lambda x: _times(x, torch.tanh(torch.exp(x))),
        _telu_slope,
        lambda x: x * torch.tanh(torch.exp(x)),
    ),
    "serf": Truth(
        lambda x: _times(x, torch.erf(_softplus(x))),
        _serf_slope,
        lambda x: x * torch.erf(F.softplus(x)),
    ),
    "erf": Truth(torch.erf, lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x * x), torch.erf),
}
