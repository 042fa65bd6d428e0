"""The gain of activations, and what weights drawn with it keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def below(x):
    return math.erfc(-x / math.sqrt(2)) / 2


def kept_beyond(lambd):
    """E[z^2] where |z| > lambd."""
    return 2 * (lambd * density(lambd) + below(-lambd))


# The mean square in closed form; sums of Gaussian integrals for the two that jump where no panel ends.
CLOSED = {
    "linear": ("linear", {}, 1.0),
    "relu": ("relu", {}, 1 / 2),
    "leaky_relu": ("leaky_relu", {}, (1 + 0.01**2) / 2),
    "leaky_relu(0.3)": ("leaky_relu", {"negative_slope": 0.3}, (1 + 0.3**2) / 2),
    "prelu": ("prelu", {}, (1 + 0.25**2) / 2),
    "prelu(-2)": ("prelu", {"weight": -2.0}, (1 + 2.0**2) / 2),
    "selu": ("selu", {}, 1.0),
    "erf": ("erf", {}, 2 / math.pi * math.asin(2 / 3)),
    "relu_squared": ("relu_squared", {}, 3 / 2),
    "squareplus(4)": ("squareplus", {}, 3 / 2),
    "hardshrink(0.3)": ("hardshrink", {"lambd": 0.3}, kept_beyond(0.3)),
    "threshold(0.1, 20)": (
        "threshold",
        {"threshold": 0.1, "value": 20.0},
        400 * below(0.1) + 0.1 * density(0.1) + below(-0.1),
    ),
    "snake": ("snake", {}, 1 + 3 / 8 - math.exp(-2) / 2 + math.exp(-8) / 8),
    "pwl": ("pwl", {"breakpoints": [-1.0], "values": [0.0], "right_slope": 1.0}, 2 * below(1.0) + density(1.0)),
    "exp": (torch.exp, {}, math.exp(2)),
    "sin(50 x)": (lambda x: torch.sin(50 * x), {}, (1 - math.exp(-5000)) / 2),
    "x^4": (lambda x: x**4, {}, 105.0),
}


@pytest.mark.parametrize("case", CLOSED)
def test_closed_forms(case):
    activation, parameters, mean_square = CLOSED[case]
    assert fusedact.gain(activation, **parameters) == pytest.approx(mean_square**-0.5, rel=1e-13, abs=0)


def trapezoid(function):
    """E[f(z)^2] by the rule that converges exponentially for what is analytic, and independently of panels."""
    z = torch.arange(-12, 12, 2.0**-8, dtype=torch.float64)
    return (function(z).square() * torch.exp(-z * z / 2)).sum().item() * 2.0**-8 / math.sqrt(2 * math.pi)


ANALYTIC = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": lambda z: z * torch.sigmoid(z),
    "gelu": lambda z: z * torch.special.ndtr(z),
    "mish": lambda z: z * torch.tanh(torch.log1p(torch.exp(z))),
    "softplus": lambda z: torch.log1p(torch.exp(z)),
    "telu": lambda z: z * torch.tanh(torch.exp(z)),
}


@pytest.mark.parametrize("name", ANALYTIC)
def test_another_quadrature(name):
    assert fusedact.gain(name) == pytest.approx(trapezoid(ANALYTIC[name]) ** -0.5, rel=1e-13, abs=0)


def test_torch_has_the_same_where_its_definition_is_the_same():
    known = {name: nn.init.calculate_gain(name) for name in ("linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu")}
    ours = {name: fusedact.gain(name) for name in known}
    for name in ("linear", "relu", "leaky_relu"):
        assert ours[name] == pytest.approx(known[name], rel=1e-13)
    assert fusedact.gain("leaky_relu", negative_slope=0.2) == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2))
    # The documentation's values.
    assert {name: round(known[name], 4) for name in ("tanh", "sigmoid", "selu")} == {
        "tanh": round(5 / 3, 4),
        "sigmoid": 1.0,
        "selu": 0.75,
    }
    assert (round(ours["tanh"], 4), round(ours["sigmoid"], 4), round(ours["selu"], 12)) == (1.5925, 1.8462, 1.0)


@fusedact.activation
def bent(x, a=0.5):
    return torch.where(x > 0, x, a * x)


def test_whatever_is_an_activation():
    expected = pytest.approx(math.sqrt(2 / 1.25), rel=1e-7)
    learned = fusedact.PReLU(bounds=(0.0, 0.5))
    learned.weight.data.fill_(2.0)
    for activation in (
        *(bent, bent.module(a=0.5), bent.module(a=0.5, learnable=True), learned),
        *(nn.PReLU(init=0.5), nn.PReLU(init=0.5, dtype=torch.bfloat16), nn.LeakyReLU(0.5, inplace=True)),
        *(fusedact.LeakyReLU(0.5), fusedact.create("leaky_relu", negative_slope=0.5, inplace=True)),
        *(lambda x: F.leaky_relu(x, 0.5), lambda x: F.leaky_relu_(x, 0.5), lambda x: F.leaky_relu(x.float(), 0.5)),
    ):
        assert fusedact.gain(activation) == expected
    for activation in (FF.leaky_relu, F.leaky_relu, "leaky_relu"):
        assert fusedact.gain(activation, negative_slope=0.5) == expected
    assert fusedact.gain(bent, a=0.25) == pytest.approx(math.sqrt(2 / (1 + 1 / 16)))
    assert fusedact.gain("gelu", approximate="tanh") == fusedact.gain("gelu_tanh") != fusedact.gain("gelu")
    # The module itself is left as it is: its parameter would be brought into its bounds.
    assert learned.weight.item() == 2.0


def test_it_does_not_depend_on_settings():
    expected = fusedact.gain("swish")
    with fusedact.backend("triton"), torch.device("meta"):
        assert fusedact.gain("swish") == expected
    torch.set_default_dtype(torch.float16)
    try:
        assert fusedact.gain("swish") == expected
    finally:
        torch.set_default_dtype(torch.float32)


ERRORS = {
    "class": (nn.ReLU, TypeError, "must be a name, a module or a function of a tensor, got the class ReLU"),
    "number": (3, TypeError, "must be a name, a module or a function of a tensor, got int"),
    "name": ("reluu", ValueError, "fusedact.gain: no activation is named 'reluu'; did you mean 'relu'"),
    "list": (torch.Tensor.tolist, TypeError, "tolist must return a tensor of real numbers, got list"),
    "complex": (
        lambda x: x + 1j,
        TypeError,
        "<lambda> must return a tensor of real numbers, got one of torch.complex128",
    ),
    "sum": (torch.sum, ValueError, r"sum must be elementwise, and made a tensor of shape \(\) of one of shape \(97,\)"),
    "softmax": (nn.Softmax(0), ValueError, "Softmax must be elementwise and not random"),
    "dropout": (nn.Dropout(), ValueError, "Dropout must be elementwise and not random"),
    "channels": (fusedact.PReLU(4), ValueError, "PReLU has 4 channels with parameters of their own"),
    "torch's channels": (nn.PReLU(4), ValueError, "PReLU has 4 channels with parameters of their own"),
    "zero": (torch.zeros_like, ValueError, "the mean square of zeros_like .* must be positive and finite, got 0.0"),
    "inf": (lambda x: torch.exp(x**3), ValueError, "must be positive and finite, got inf"),
    "nan": (torch.sqrt, ValueError, "the mean square of sqrt .* must be positive and finite, got nan"),
    "pole": (torch.reciprocal, ValueError, "of reciprocal .* is infinite, or hard to find"),
    "growth": (lambda x: torch.exp(x * x / 4), ValueError, "is infinite, or hard to find"),
    "too fast": (lambda x: torch.sin(1e5 * x), ValueError, "is infinite, or hard to find"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    activation, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message) as caught:
        fusedact.gain(activation)
    assert str(caught.value).startswith("fusedact.gain: ")


def test_unknown_parameters():
    with pytest.raises(TypeError, match=r"fusedact.gain: .*slope"):
        fusedact.gain("leaky_relu", slope=0.1)


def test_selu_normalizes_itself():
    """32 dense layers with LeCun-normal weights and standardized input."""
    width, layers = 1024, 32
    y = torch.randn(512, width)
    for _ in range(layers):
        y = fusedact.SELU()(y @ (torch.randn(width, width) / math.sqrt(width)))
        assert abs(y.mean().item()) < 0.1
        assert y.var().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "tanh", "gelu", "silu", "mish", "sigmoid", "snake", "hardswish"]
)
def test_the_gain_keeps_the_second_moment(name):
    """Through ten layers: a gain that is 2% off changes it by half. Random weights let it wander by some percent."""
    width = 1024
    x = torch.randn(256, width)
    gain = fusedact.gain(name)
    z = x
    for _ in range(10):
        z = FF.activate(z, name) @ (torch.randn(width, width) * (gain / math.sqrt(width)))
        assert z.square().mean().item() == pytest.approx(1.0, abs=0.25)
