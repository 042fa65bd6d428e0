"""What is measured of activations, beside what is known of them."""

from __future__ import annotations

import json
import math

import oracles
import pytest
import torch

import fusedact
from fusedact import functional as FF
from fusedact import properties, registry

INF = math.inf


def measure(name, **parameters):
    return properties.measure(name, **oracles.required(name), **parameters)


def ends(p):
    return (p.low.value, p.low.attained, p.high.value, p.high.attained)


# By name: the least and the largest value, each with whether it is attained; how it is monotone; the largest slope.
KNOWN = {
    "relu": (0.0, True, INF, False, "never decreasing", 1.0),
    "sigmoid": (0.0, False, 1.0, False, "increasing", 0.25),
    "tanh": (-1.0, False, 1.0, False, "increasing", 1.0),
    "erf": (-1.0, False, 1.0, False, "increasing", 2.0 / math.sqrt(math.pi)),
    "softsign": (-1.0, False, 1.0, False, "increasing", 1.0),
    "gelu": (-0.1699712074, True, INF, False, "not monotone", 1.1289041452),
    "mish": (-0.3088434130, True, INF, False, "not monotone", 1.0884981613),
    "silu": (-0.2784645428, True, INF, False, "not monotone", 1.0998393194),
    "hardswish": (-0.375, True, INF, False, "not monotone", 1.5),
    "elu": (-1.0, False, INF, False, "increasing", 1.0),
    "selu": (-1.7580993408, False, INF, False, "increasing", 1.7580993408),
    "hardtanh": (-1.0, True, 1.0, True, "never decreasing", 1.0),
    "hardsigmoid": (0.0, True, 1.0, True, "never decreasing", 1.0 / 6.0),
    "relu6": (0.0, True, 6.0, True, "never decreasing", 1.0),
    "clipped_gelu": (-0.1699712074, True, 10.0, True, "not monotone", 1.1289041452),
    "softplus": (0.0, False, INF, False, "increasing", 1.0),
    "squareplus": (0.0, False, INF, False, "increasing", 1.0),
    "logsigmoid": (-INF, False, 0.0, False, "increasing", 1.0),
    "prelu": (-INF, False, INF, False, "increasing", 1.0),
    "identity": (-INF, False, INF, False, "increasing", 1.0),
    "snake": (-INF, False, INF, False, "increasing", 2.0),
    "relu_squared": (0.0, True, INF, False, "never decreasing", INF),
    "hardshrink": (-INF, False, INF, False, "never decreasing", INF),
    "threshold": (0.1, False, INF, False, "not monotone", INF),
}


@pytest.mark.parametrize("name", KNOWN)
def test_range_monotonicity_and_steepest_slope(name):
    *bounds, monotone, steepest = KNOWN[name]
    p = measure(name)
    assert ends(p) == pytest.approx(tuple(bounds), abs=1e-7)
    assert p.monotone == monotone
    assert p.lipschitz == pytest.approx(steepest, abs=1e-6)


def test_extrema_are_found_where_they_are():
    assert measure("silu").low.at == pytest.approx(-1.2784645428, abs=1e-6)
    assert measure("mish").low.at == pytest.approx(-1.1924312145, abs=1e-6)
    assert measure("hard_mish").low.at == pytest.approx(-1.0, abs=1e-6)
    assert measure("sigmoid").low.at == -INF and measure("sigmoid").high.at == INF


def density(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def below(z):
    return (1 + math.erf(z / math.sqrt(2))) / 2


def test_normal_inputs():
    """By closed forms."""
    relu = measure("relu")
    assert (relu.mean, relu.std) == pytest.approx((density(0), math.sqrt(0.5 - density(0) ** 2)), abs=1e-12)
    assert relu.dead == relu.saturated == pytest.approx(0.5, abs=1e-9)
    assert (measure("sigmoid").mean, measure("tanh").mean) == pytest.approx((0.5, 0.0), abs=1e-12)
    # E[z Phi(z)] and E[min(max(z, -1), 1)^2].
    assert measure("gelu").mean == pytest.approx(1 / math.sqrt(4 * math.pi), abs=1e-12)
    hardtanh = measure("hardtanh")
    inside = (2 * below(1) - 1) - 2 * density(1)
    assert hardtanh.std == pytest.approx(math.sqrt(inside + 2 * below(-1)), abs=1e-12)
    assert hardtanh.dead == pytest.approx(2 * below(-1), abs=2e-5)
    assert measure("softshrink").dead == pytest.approx(1 - 2 * below(-0.5), abs=2e-5)
    assert measure("relu_sigmoid", threshold=1.0).dead == pytest.approx(below(1), abs=2e-5)
    elu = math.exp(0.5) * below(-1) - 0.5 + density(0)
    assert measure("elu").mean == pytest.approx(elu, abs=1e-12)
    selu = measure("selu")
    assert (selu.mean, selu.std, selu.gain) == pytest.approx((0.0, 1.0, 1.0), abs=1e-6)


def test_gains_and_the_scale_of_gradients():
    for name, gain, factor in (("relu", math.sqrt(2), 1.0), ("identity", 1.0, 1.0), ("prelu", None, 1.0)):
        p = measure(name)
        assert p.gain == pytest.approx(gain or fusedact.gain("prelu"), abs=1e-12)
        assert p.gradient_factor == pytest.approx(factor, abs=1e-9)
    # By samples.
    z = torch.randn(2**20, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.sigmoid(z).sum(), z)
    ratio = (slope.square().mean() / torch.sigmoid(z).square().mean()).sqrt().item()
    assert measure("sigmoid").gradient_factor == pytest.approx(ratio, rel=2e-3)


def test_saturation():
    """tanh' falls to a hundredth where cosh is 10, sigmoid' of its quarter where cosh of half the input is."""
    tanh, sigmoid, elu, relu = map(measure, ("tanh", "sigmoid", "elu", "relu"))
    assert tanh.saturated_above == -tanh.saturated_below == pytest.approx(math.acosh(10.0), abs=1e-6)
    assert sigmoid.saturated_above == pytest.approx(2 * math.acosh(10.0), abs=1e-6)
    assert tanh.saturated == pytest.approx(2 * below(-math.acosh(10.0)), abs=2e-5)
    assert (elu.saturated_below, elu.saturated_above) == (pytest.approx(math.log(0.01), abs=1e-6), None)
    assert (relu.saturated_below, relu.saturated_above) == (0.0, None)
    assert measure("prelu").saturated_below is None


# Of some the formula changes where the slope does not jump.
SMOOTHER = {"elu": "bends", "celu": "bends", "hard_mish": "bends", "softplus": None}


@pytest.mark.parametrize("name", registry.names("elementwise"))
def test_kinks_are_those_that_are_known(name):
    p = measure(name)
    found = sorted((*p.jumps, *p.kinks, *(p.bends if SMOOTHER.get(name) else ())))
    expected = [round(k, 4) + 0.0 for k in oracles.kinks(name, oracles.defaults(name))]
    if name == "softplus":
        # By 2e-9: less than is told.
        expected = []
    if name == "xielu":
        # At 0 and at -1e-6.
        expected = [0.0]
    if name == "clipped_gelu":
        # GELU is 10 there; the truth has no list of kinks for it.
        expected = [10.0]
    if name == "hard_mish":
        expected = [-2.0, 0.0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_smoothness_has_degrees():
    assert measure("hardshrink").jumps == (-0.5, 0.5)
    assert (measure("relu").kinks, measure("relu").bends) == ((0.0,), ())
    assert (measure("elu").kinks, measure("elu").bends) == ((), (0.0,))
    assert measure("elu", alpha=0.5).kinks == (0.0,)
    assert measure("relu_squared").bends == (0.0,)
    smooth = measure("mish")
    assert smooth.jumps == smooth.kinks == smooth.bends == ()


TAILS = {
    "relu": ("0", "x"),
    "selu": ("-1.758", "1.051 x"),
    "prelu": ("0.25 x", "x"),
    "softshrink": ("x + 0.5", "x - 0.5"),
    "tanhshrink": ("x + 1", "x - 1"),
    "squareplus": ("0", "x"),
    "softsign": ("-1", "1"),
    "logsigmoid": ("x", "0"),
    "relu_squared": ("0", "like |x|^2"),
    "sqrtsoftplus": ("0", "like |x|^0.5"),
    "xielu": ("-0.3 x - 0.8", "like |x|^2"),
    "snake": ("no limit and no line", "no limit and no line"),
}


@pytest.mark.parametrize("name", TAILS)
def test_tails(name):
    p = measure(name)
    assert (str(p.left), str(p.right)) == TAILS[name]


FUNCTIONS = {
    "sine": (torch.sin, (-1.0, True, 1.0, True), "not monotone", 1.0),
    "growing wave": (lambda x: x * torch.sin(x), (-INF, False, INF, False), "not monotone", None),
    "exponential": (torch.exp, (0.0, False, INF, False), "increasing", INF),
    "cube": (lambda x: x**3, (-INF, False, INF, False), "increasing", INF),
    "bell": (lambda x: torch.exp(-x * x), (0.0, False, 1.0, True), "not monotone", math.sqrt(2 / math.e)),
    "logarithm": (lambda x: torch.log1p(x.abs()), (0.0, True, INF, False), "not monotone", 1.0),
    "sign": (torch.sign, (-1.0, True, 1.0, True), "never decreasing", INF),
    "constant": (lambda x: x * 0 + 3, (3.0, True, 3.0, True), "constant", 0.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function(name):
    function, bounds, monotone, steepest = FUNCTIONS[name]
    p = properties.measure(function)
    assert ends(p) == pytest.approx(bounds, abs=1e-7)
    assert p.monotone == monotone
    assert steepest is None or p.lipschitz == pytest.approx(steepest, abs=1e-6)


def test_what_is_constant_has_no_gain():
    p = properties.measure(lambda x: x * 0)
    assert (p.gain, p.gradient_factor, p.dead) == (None, None, 1.0)


def test_modules_are_measured_as_they_are():
    act = fusedact.ELU(0.5, learnable=True)
    with torch.no_grad():
        act.alpha.fill_(3.0)
    assert properties.measure(act).low.value == pytest.approx(-3.0)
    assert act.alpha.item() == 3.0 and act.alpha.dtype == torch.float32
    assert properties.measure(torch.nn.Softplus(2.0)).mean == pytest.approx(measure("softplus", beta=2.0).mean)
    assert properties.measure(FF.gelu).low.value == pytest.approx(KNOWN["gelu"][0])
    table = fusedact.PWL([-1.0, 0.0, 2.0], [0.5, 0.0, 1.0])
    found = properties.measure(table)
    assert (found.kinks, ends(found)) == ((-1.0, 0.0, 2.0), (0.0, True, 1.0, True))


def test_what_is_measured_is_json():
    p = measure("relu")
    told = json.loads(json.dumps(p.as_dict(), allow_nan=False))
    assert told["high"] == {"value": "inf", "at": "inf", "attained": False}
    assert told["kinks"] == [0.0] and told["dead"] == p.dead


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        ("rellu", ValueError, "no activation is named 'rellu'; did you mean 'relu'"),
        ("softmax", ValueError, "softmax is not elementwise, and has no measured properties"),
        (3, TypeError, "activation must be a name, a module or a function of a tensor, got int"),
        (torch.log, ValueError, "log must be finite between -32 and 32"),
        (lambda x: x.mean() + x, ValueError, "must be elementwise"),
        (fusedact.PReLU(3), ValueError, "PReLU has 3 channels"),
    ],
    ids=str,
)
def test_errors(activation, error, message):
    with pytest.raises(
        error, match=f"fusedact.properties.measure: .*{message}" if "finite" not in message else message
    ):
        properties.measure(activation)


def test_derivatives():
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    value, slope, second = properties.derivative(torch.tanh, x, 2)
    t = torch.tanh(x)
    torch.testing.assert_close([value, slope, second], [t, 1 - t * t, -2 * t * (1 - t * t)])
    # PyTorch has none of this.
    x = torch.tensor([-4.0, -3.0, 0.0, 3.0], dtype=torch.float64)
    assert properties.derivative(torch.nn.functional.hardsigmoid, x, 2)[2].tolist() == [0.0] * 4
    # Nothing depends on x.
    assert properties.derivative(lambda t: (t > 0).double(), x, 2)[1].tolist() == [0.0] * 4
