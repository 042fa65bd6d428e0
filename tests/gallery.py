"""Activations of one's own, as their users would write them: what the tests of the catalog also run over.

Each is decorated with `fusedact.activation`, and beside it stands what the oracles need to know of it. Formulas are
those of the papers, in plain PyTorch, with all their overflows and cancellations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.custom import CustomActivation

Parameters = tuple[float, ...]


@dataclass(frozen=True)
class Own:
    """An activation of one's own, and what tests need to know of it."""

    activation: CustomActivation
    # The values its parameters are tested with, the defaults first.
    sweep: Sequence[Parameters]
    # Where the derivative jumps, by the parameters.
    kinks: Callable[..., Parameters]
    # Whether the formula, as it is written, has the right value and slope in float32 wherever it has one in float64:
    # no intermediate result overflows on the way, and no limit at infinity is lost.
    defined: bool
    # Where the CPU path is made of torch.sigmoid, which is 0 below -88 though exp(x) is not: False where it matters.
    kept: Callable[..., Tensor]
    # The same function with its derivative for float64, where the formula as it is written loses or overflows.
    exact: Callable[..., Tensor] | None

    @property
    def formula(self) -> Callable[..., Tensor]:
        """What the user wrote."""
        return self.activation.__wrapped__


GALLERY: dict[str, Own] = {}


def shown(
    *sweep: Parameters,
    kinks: Callable[..., Parameters] = lambda *_: (),
    defined: bool = True,
    kept: Callable[..., Tensor] = lambda x, *_: torch.ones_like(x, dtype=torch.bool),
    exact: Callable[..., Tensor] | None = None,
) -> Callable[[CustomActivation], CustomActivation]:
    """Add an activation to the gallery."""

    def add(activation: CustomActivation) -> CustomActivation:
        GALLERY[activation.__name__] = Own(activation, sweep or ((),), kinks, defined, kept, exact)
        return activation

    return add


# ----- functions whose slopes keep their relative accuracy in float64, for what `exact` is made of


class _Sloped(torch.autograd.Function):
    """A function of one tensor with a slope of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g * ctx.slope(*ctx.saved_tensors), None, None


def _tanh(x: Tensor) -> Tensor:
    def slope(x: Tensor) -> Tensor:
        u = torch.exp(-2 * x.abs())
        return 4 * u / (1 + u) ** 2

    return _Sloped.apply(x, torch.tanh, slope)


def _sigmoid(x: Tensor) -> Tensor:
    return _Sloped.apply(x, torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x))


def _softplus(x: Tensor) -> Tensor:
    return _Sloped.apply(x, lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())), torch.sigmoid)


def _expm1(x: Tensor) -> Tensor:
    return _Sloped.apply(x, torch.expm1, torch.exp)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(-x * math.sqrt(0.5))


# ----- gates made of exponentials, which overflow


# Nag, Bhattacharyya 2021, arXiv:2108.09598.
@shown(defined=False, kept=lambda x: x > -88, exact=lambda x: x * torch.erf(_softplus(x)))
@fusedact.activation
def serf_by_hand(x):
    """A gate of softplus in the error function."""
    return x * torch.erf(torch.log(1 + torch.exp(x)))


# Misra 2019, arXiv:1908.08681, as it stands there.
@shown(defined=False, kept=lambda x: x > -88, exact=lambda x: x * _tanh(_softplus(x)))
@fusedact.activation
def mish_by_hand(x):
    """x tanh(ln(1 + exp(x)))."""
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


# Alcaide 2018, arXiv:1801.07145.
@shown((1.5,), (0.5,), defined=False, kept=lambda x, _: x > -88, exact=lambda x, beta: beta * x * _sigmoid(x))
@fusedact.activation
def e_swish(x, beta=1.5):
    """beta x / (1 + exp(-x))."""
    return beta * x / (1 + torch.exp(-x))


# Basirat, Roth 2018, arXiv:1808.00783.
@shown(
    defined=False,
    kept=lambda x: x > -88,
    exact=lambda x: torch.where(x >= 0, x * _sigmoid(x), _expm1(x.clamp(max=0.0)) * _sigmoid(x)),
)
@fusedact.activation
def elish(x):
    """A swish whose negative half is an ELU's, gated."""
    return torch.where(x >= 0, x / (1 + torch.exp(-x)), (torch.exp(x) - 1) / (1 + torch.exp(-x)))


# Trottier, Giguère, Chaib-draa 2016, arXiv:1605.09332.
@shown(
    (1.0, 1.0),
    (0.7, 2.0),
    defined=False,
    exact=lambda x, a, b: torch.where(x >= 0, a / b * x, a * _expm1(x.clamp(max=0.0) / b)),
)
@fusedact.activation
def pelu(x, a=1.0, b=1.0):
    """An ELU whose two slopes meet."""
    return torch.where(x >= 0, a / b * x, a * (torch.exp(x / b) - 1))


def _soft_clipping(x: Tensor, a: Tensor) -> Tensor:
    below = (_softplus(a * x) - _softplus(a * (x - 1))) / a
    above = 1 + (_softplus(-a * x) - _softplus(-a * (x - 1))) / a
    return torch.where(x > 0.5, above, below)


# Klimek, Perelstein 2018, arXiv:1810.11509.
@shown((8.0,), (16.0,), defined=False, kept=lambda x, a: a * (x - 1) > -80, exact=_soft_clipping)
@fusedact.activation
def soft_clipping(x, a=8.0):
    """Nearly linear between 0 and 1."""
    return torch.log((1 + torch.exp(a * x)) / (1 + torch.exp(a * (x - 1)))) / a


# Gomes, Ludermir 2008.
@shown(
    defined=False,
    exact=lambda x: _Sloped.apply(x, lambda x: -torch.expm1(-torch.exp(x)), lambda x: (x - x.exp()).exp()),
)
@fusedact.activation
def cloglog(x):
    """The complementary log-log."""
    return 1 - torch.exp(-torch.exp(x))


# ----- gates made of PyTorch's own functions


# Naveen 2022.
@shown(exact=lambda x: x * _tanh(_gelu(x)))
@fusedact.activation
def phish(x):
    """x tanh(gelu(x))."""
    return x * torch.tanh(F.gelu(x))


# Zhu, Zhou, Liang, Zhang, Chen, Chen 2021.
@shown(exact=lambda x: x * torch.log1p(_sigmoid(x)))
@fusedact.activation
def logish(x):
    """x ln(1 + sigmoid(x))."""
    return x * torch.log(1 + torch.sigmoid(x))


# Wang, Ren, Wang 2022, Electronics 11(4), 540.
@shown((1.0, 1.0), (1.5, -0.5), exact=lambda x, a, b: a * x * _tanh(torch.log1p(_sigmoid(b * x))))
@fusedact.activation
def smish(x, a=1.0, b=1.0):
    """a x tanh(ln(1 + sigmoid(b x)))."""
    return a * x * torch.tanh(torch.log(1 + torch.sigmoid(b * x)))


# Kumar 2022, arXiv:2209.06119.
@shown(
    (1.0, 1.0, 0.5),
    (0.5, -2.0, 1.0),
    exact=lambda x, alpha, beta, gamma: ((alpha - 1) + 2 * _sigmoid(2 * beta * x)) * gamma * x,
)
@fusedact.activation
def aptx(x, alpha=1.0, beta=1.0, gamma=0.5):
    """(alpha + tanh(beta x)) gamma x."""
    return (alpha + torch.tanh(beta * x)) * gamma * x


# Roy, Manna, Dubey, Chaudhuri 2019, arXiv:1901.05894.
@shown(exact=lambda x: x * _tanh(x))
@fusedact.activation
def lisht(x):
    """x tanh(x)."""
    return x * torch.tanh(x)


# Xu, Huang, Li 2016, arXiv:1602.05980.
@shown((0.25,), (-0.5,), kinks=lambda a: (0.0,), exact=lambda x, a: torch.where(x > 0, _tanh(x), a * _tanh(x)))
@fusedact.activation
def penalized_tanh(x, a=0.25):
    """A tanh whose negative half is flatter."""
    t = torch.tanh(x)
    return torch.where(x > 0, t, a * t)


# Hendrycks, Gimpel 2016, arXiv:1606.08415, as it stands there.
@shown(exact=_gelu)
@fusedact.activation
def gelu_by_hand(x):
    """x Phi(x)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


# Ma, Zhang, Liu, Sun 2020, arXiv:2009.04759.
@shown(
    (1.0, 0.0, 1.0),
    (1.2, -0.8, 0.5),
    exact=lambda x, p1, p2, beta: (p1 - p2) * x * _sigmoid(beta * (p1 - p2) * x) + p2 * x,
)
@fusedact.activation
def acon_c(x, p1=1.0, p2=0.0, beta=1.0):
    """A smooth maximum of p1 x and p2 x."""
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x


# Chieng, Wahid, Ong, Perla 2018, arXiv:1812.06247.
@shown((-0.2,), (0.3,), kinks=lambda t: (0.0,))
@fusedact.activation
def flatten_t_swish(x, t=-0.2):
    """A swish on the positive half, flat on the other."""
    return torch.where(x >= 0, x * torch.sigmoid(x) + t, t)


# ----- algebra


def _bent_identity(x: Tensor) -> Tensor:
    # Far out nothing cancels.
    return torch.where(x.abs() > 1e8, (torch.sqrt(x**2 + 1) - 1) / 2, x**2 / (torch.sqrt(x**2 + 1) + 1) / 2) + x


@shown(defined=False, exact=_bent_identity)
@fusedact.activation
def bent_identity(x):
    """The identity, bent at 0."""
    return (torch.sqrt(x**2 + 1) - 1) / 2 + x


# Bergstra, Desjardins, Lamblin, Bengio 2009; with a slope.
@shown((1.0,), (0.3,), exact=lambda x, s: _softsign(x, s))
@fusedact.activation
def sloped_softsign(x, s=1.0):
    """x / (1 + s |x|)."""
    return x / (1 + s * x.abs())


def _softsign(x: Tensor, s: Tensor) -> Tensor:
    # The two terms of the quotient's derivative cancel where x is large.
    far = (1 - 1 / (1 + s * x.abs())) * torch.sign(x) / s
    return torch.where(x.abs() < 1, x / (1 + s * x.abs()), far)


# Elliott 1993.
@shown(
    defined=False,
    exact=lambda x: torch.where(x < 0, 0.5 / (1 - x.clamp(max=0.0)), 1 - 0.5 / (1 + x.clamp(min=0.0))),
)
@fusedact.activation
def elliott(x):
    """A sigmoid without exponentials."""
    return 0.5 * x / (1 + torch.abs(x)) + 0.5


# Carlile, Delamarter, Kinney, Marti, Whitney 2017, arXiv:1710.09967.
def _isru(x: Tensor, alpha: Tensor) -> Tensor:
    return _IsruExact.apply(x, alpha)


class _IsruExact(torch.autograd.Function):
    """The terms of its derivative cancel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        return x * torch.rsqrt(1 + alpha * x**2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        cube = torch.rsqrt(1 + alpha * x**2) ** 3
        return g * cube, (-0.5 * g * x**3 * cube).sum_to_size(alpha.shape)


@shown((1.0,), (0.25,), defined=False, exact=_isru)
@fusedact.activation
def isru(x, alpha=1.0):
    """x / sqrt(1 + alpha x^2)."""
    return x / torch.sqrt(1 + alpha * x**2)


@shown((1.0,), (3.0,), defined=False, exact=lambda x, alpha: torch.where(x >= 0, x, _isru(x, alpha)))
@fusedact.activation
def isrlu(x, alpha=1.0):
    """The identity, and left of 0 an inverse square root unit."""
    return torch.where(x >= 0, x, x * torch.rsqrt(1 + alpha * x * x))


# Liu, Zeng, Lin, Zhang, Song, Chen 2019, arXiv:1908.03682.
@shown((1.0,), (2.5,), kinks=lambda beta: (0.0,), defined=False, exact=lambda x, beta: torch.log1p(beta * x.relu()))
@fusedact.activation
def nlrelu(x, beta=1.0):
    """A ReLU's logarithm."""
    return torch.log(beta * torch.relu(x) + 1)


# A power on both sides of 0.
@shown((1.5,), (0.75,), kinks=lambda a: (0.0,))
@fusedact.activation
def signed_power(x, a=1.5):
    """sign(x) |x|^a."""
    return torch.sign(x) * x.abs() ** a


# The first four polynomials of Hermite.
@shown((0.25, 1.0, 0.5, -0.125), (-1.0, 0.5, 0.0, 1.0), defined=False)
@fusedact.activation
def hermite(x, c0=0.25, c1=1.0, c2=0.5, c3=-0.125):
    """A weighted sum of orthogonal polynomials."""
    return c0 + c1 * x + c2 * (x**2 - 1) + c3 * (x**3 - 3 * x)


# ----- waves, whose values at infinity nobody knows


# Ziyin, Hartwig, Ueda 2020, arXiv:2006.08195.
@shown((1.0,), (0.5,), (3.0,))
@fusedact.activation
def snake_by_hand(x, a=1.0):
    """x + sin(a x)^2 / a."""
    return x + torch.sin(a * x) ** 2 / a


# Noel, L, Trivedi, Dutta 2021, arXiv:2108.12943.
@shown()
@fusedact.activation
def gcu(x):
    """x cos(x)."""
    return x * torch.cos(x)


# The second derivative of a Gaussian, known as Ricker's wavelet.
@shown((1.0,), (2.0,), defined=False)
@fusedact.activation
def mexican_hat(x, sigma=1.0):
    """(1 - z^2) exp(-z^2 / 2) for z = x / sigma."""
    z = (x / sigma) ** 2
    return (1 - z) * torch.exp(-z / 2)


# Huang 2024, arXiv:2405.20768.
@shown(
    (0.0,),
    (0.1,),
    exact=lambda x, alpha: x * (torch.atan2(torch.ones_like(x), -x) / math.pi * (1 + 2 * alpha) - alpha),
)
@fusedact.activation
def xatglu(x, alpha=0.0):
    """An arc tangent as gate, which may leave the range from 0 to 1."""
    gate = (torch.atan(x) + math.pi / 2) / math.pi
    return x * (gate * (1 + 2 * alpha) - alpha)


# ----- choices, ties and steps


# Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam 2019, arXiv:1905.02244; with a shift.
@shown((3.0,), (1.0,), kinks=lambda shift: (-shift, 6.0 - shift), defined=False)
@fusedact.activation
def hard_swish(x, shift=3.0):
    """x relu6(x + shift) / 6."""
    return x * torch.clamp(x + shift, 0.0, 6.0) / 6


# torch.maximum shares a gradient between its arguments where they tie.
@shown((0.25,), (-1.0,), kinks=lambda a: (0.0,))
@fusedact.activation
def lopsided(x, a=0.25):
    """The larger of x and a x."""
    return torch.maximum(x, a * x)


@shown((-1.0, 2.0), (0.25, 0.5), kinks=lambda low, high: (low, high))
@fusedact.activation
def fence(x, low=-1.0, high=2.0):
    """x between two numbers."""
    return torch.maximum(torch.minimum(x, high), low)


# Shrinkage by hand, with comparisons joined, a sign, and an exponent that is a constant.
@shown((0.5,), (2.0,), kinks=lambda t: (-t, t))
@fusedact.activation
def shrink(x, t=0.5):
    """0 near 0, and drawn towards it elsewhere, as far out as 100."""
    inside = (x > -t) & (x < t)
    drawn = torch.where(x.abs() <= 100, x - torch.sign(x) * t, x)
    return torch.where(inside, 0.0, drawn)


@shown((0.1,), (1.0,), kinks=lambda slope: (0.0, 1.0, 2.0, 3.0, 17.0, 1024.0))
@fusedact.activation
def staircase(x, slope=0.1):
    """Steps with rounded edges, which nothing climbs left of 0."""
    step = torch.floor(x)
    return torch.where(x > 0, step + (x - step) ** 2, slope * x)


def _made_with(eps: float) -> Callable[..., Tensor]:
    # Huang, Schlag 2024, arXiv:2411.13010.
    @fusedact.activation
    def xielu_by_hand(x, alpha_p=0.8, alpha_n=0.8, beta=0.5):
        """An integral of an ELU, with eps from outside."""
        positive = F.softplus(alpha_p) * x * x + beta * x
        negative = (beta + F.softplus(alpha_n)) * (torch.expm1(torch.clamp(x, max=eps)) - x) + beta * x
        return torch.where(x > 0, positive, negative)

    # As if it stood outside, so that it is found by name.
    xielu_by_hand.__qualname__ = "xielu_by_hand"
    return xielu_by_hand


EPS = -1e-6
xielu_by_hand = shown((0.8, 0.8, 0.5), (-1.0, 0.5, 1.5), kinks=lambda *_: (EPS, 0.0))(_made_with(EPS))


# ----- made of other activations


def _nested(x: Tensor, t: Tensor, beta: Tensor) -> Tensor:
    # Not x itself, whose slopes at infinities would be inf * 0.
    inner = torch.relu(x - t) * _sigmoid(x.clamp(min=-1e4))
    far = torch.where(-beta * x > 750, -x, -x.clamp(-1e4, 1e4) * _sigmoid(-beta * x.clamp(-1e4, 1e4)))
    return 0.5 * (inner + torch.sin(inner) ** 2) + far


@shown((0.1, 1.3), (-1.0, 0.5), kinks=lambda t, beta: (t,), defined=False, exact=_nested)
@fusedact.activation
def nested(x, t=0.1, beta=1.3):
    """Of the catalog, and of the gallery itself."""
    return 0.5 * snake_by_hand(FF.relu_sigmoid(x, t)) + FF.swish(-x, beta)


# What takes longer is tested with these: a gate that overflows, three parameters, a wave, a kink that moves, ties, and
# a nest.
CHOSEN = ("serf_by_hand", "aptx", "snake_by_hand", "fence", "xielu_by_hand", "nested")
