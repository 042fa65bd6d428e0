"""Every operator that a user's activation may be made of: value, gradients, second derivatives, against PyTorch's."""

from __future__ import annotations

import itertools
import math
import re

import evaluation
import pytest
import torch
from torch.nn import functional as F

import fusedact
from fusedact.engine import algebra, lowering, tracing
from fusedact.engine.expressions import Graph

# By operator: calls of it, of x and perhaps of a parameter p.
CALLS: dict[str, list[str]] = {
    "abs": ["torch.abs(x)", "x.abs()", "abs(x)"],
    "acos": ["torch.acos(x)"],
    "acosh": ["torch.acosh(x)"],
    "add": ["torch.add(x, p)", "torch.add(p, x, alpha=2.5)", "x + 1.5", "1.5 + x", "torch.add(x, p, alpha=-3)"],
    "addcdiv": ["torch.addcdiv(x, p, x)", "torch.addcdiv(p, x, p, value=0.3)", "torch.addcdiv(x, x, p, value=2)"],
    "addcmul": ["torch.addcmul(x, p, x)", "torch.addcmul(p, x, p, value=0.3)", "torch.addcmul(x, x, p, value=2)"],
    "asin": ["torch.asin(x)"],
    "asinh": ["torch.asinh(x)"],
    "atan": ["torch.atan(x)"],
    "atan2": ["torch.atan2(x, p)", "torch.atan2(p, x)"],
    "atanh": ["torch.atanh(x)"],
    "bitwise_and": ["torch.where((x > p) & (x < 2), x * p, p)"],
    "bitwise_not": ["torch.where(~(x > p), x * p, p)"],
    "bitwise_or": ["torch.where((x > p) | (x < 2), x * p, p)"],
    "bitwise_xor": ["torch.where((x > p) ^ (x < 2), x * p, p)"],
    "ceil": ["torch.ceil(x)"],
    "celu": ["F.celu(x)", "F.celu(x, alpha=0.3)", "F.celu(x, 2)"],
    "clamp": [
        "torch.clamp(x, -1, 2)",
        "torch.clamp(x, p, 2 * p)",
        "torch.clamp(p, x, x + 1)",
        "x.clamp(min=p)",
        "x.clamp(max=1)",
    ],
    "clamp_max": ["torch.clamp_max(x, 1)", "torch.clamp_max(x, p)", "torch.clamp_max(p, x)"],
    "clamp_min": ["torch.clamp_min(x, 1)", "torch.clamp_min(x, p)", "torch.clamp_min(p, x)"],
    "copysign": ["torch.copysign(x, p)", "torch.copysign(p, x)", "torch.copysign(x, -1.0)"],
    "cos": ["torch.cos(x)"],
    "cosh": ["torch.cosh(x)"],
    "deg2rad": ["torch.deg2rad(x)"],
    "div": [
        *("torch.div(x, p)", "torch.div(p, x)", "x / 3", "3 / x", "x / 2", "1 / x", "-1 / x"),
        *("torch.div(x, p, rounding_mode='floor')", "torch.div(x, p, rounding_mode='trunc')"),
        *("torch.div(p, x, rounding_mode='floor')", "torch.div(x, 0.3, rounding_mode='trunc')"),
        *("torch.div(x, 0.1, rounding_mode='floor')", "torch.div(1, x, rounding_mode='floor')"),
    ],
    "elu": ["F.elu(x)", "F.elu(x, 0.3)", "F.selu(x)", "F.elu(x, alpha=-2)"],
    "eq": ["torch.where(x == p, x * p, x)", "torch.where(torch.eq(x, 1), x * p, p)"],
    "erf": ["torch.erf(x)", "torch.special.erf(x)"],
    "erfc": ["torch.erfc(x)"],
    "erfinv": ["torch.erfinv(x)"],
    "exp": ["torch.exp(x)"],
    "exp2": ["torch.exp2(x)"],
    "expm1": ["torch.expm1(x)"],
    "floor": ["torch.floor(x)"],
    # PyTorch differentiates it nowhere.
    "floor_divide": [
        *("x * torch.floor_divide(x, p).detach()", "x * torch.floor_divide(p, x).detach()"),
        *("torch.where(x // 0.3 > 4, x, p)", "x * (1 // x.detach())"),
    ],
    "fmax": ["torch.fmax(x, p)", "torch.fmax(p, x)"],
    "fmin": ["torch.fmin(x, p)", "torch.fmin(p, x)"],
    "fmod": ["torch.fmod(x, p)", "torch.fmod(p, x)", "torch.fmod(x, 0.7)"],
    "frac": ["torch.frac(x)"],
    "ge": ["torch.where(x >= p, x * p, x)", "torch.where(torch.ge(x, 1), x * p, p)"],
    "gelu": ["F.gelu(x)", "F.gelu(x, approximate='tanh')", "F.gelu(x, approximate='none')"],
    "gt": ["torch.where(x > p, x * p, x)", "torch.where(torch.gt(x, 1), x * p, p)"],
    "hardshrink": ["F.hardshrink(x)", "F.hardshrink(x, 1)", "F.hardshrink(x, 0)"],
    "hardsigmoid": ["F.hardsigmoid(x)"],
    "hardswish": ["F.hardswish(x)"],
    "hardtanh": ["F.hardtanh(x)", "F.hardtanh(x, -0.5, 2)", "F.relu6(x)"],
    "hypot": ["torch.hypot(x, p)", "torch.hypot(p, x)"],
    "isfinite": ["torch.where(torch.isfinite(x), x * p, p)"],
    "isinf": ["torch.where(torch.isinf(x), p, x * p)"],
    "isnan": ["torch.where(torch.isnan(x), p, x * p)"],
    "le": ["torch.where(x <= p, x * p, x)", "torch.where(torch.le(x, 1), x * p, p)"],
    "leaky_relu": ["F.leaky_relu(x)", "F.leaky_relu(x, 0.3)", "F.leaky_relu(x, -1)"],
    "lerp": ["torch.lerp(x, p, 0.3)", "torch.lerp(p, x, 0.7)", "torch.lerp(x, p, x)", "torch.lerp(x, 2 * x, p)"],
    "log": ["torch.log(x)"],
    "log10": ["torch.log10(x)"],
    "log1p": ["torch.log1p(x)"],
    "log2": ["torch.log2(x)"],
    "log_sigmoid_forward": ["F.logsigmoid(x)"],
    "logaddexp": ["torch.logaddexp(x, p)", "torch.logaddexp(p, x)"],
    "logaddexp2": ["torch.logaddexp2(x, p)", "torch.logaddexp2(p, x)"],
    "logical_and": ["torch.where(torch.logical_and(x, x > p), x * p, p)"],
    "logical_not": ["torch.where(torch.logical_not(x), x * p, p)"],
    "logical_or": ["torch.where(torch.logical_or(x, x > p), x * p, p)"],
    "logical_xor": ["torch.where(torch.logical_xor(x, x > p), x * p, p)"],
    "logit": ["torch.logit(x)", "torch.logit(x, eps=0.1)", "torch.special.logit(x, 0.25)"],
    "lt": ["torch.where(x < p, x * p, x)", "torch.where(torch.lt(x, 1), x * p, p)"],
    "masked_fill": ["torch.masked_fill(x, x > p, 2.0)", "(x * p).masked_fill(x > p, 3)"],
    "maximum": ["torch.maximum(x, p)", "torch.maximum(p, x)", "torch.max(x, p)"],
    "minimum": ["torch.minimum(x, p)", "torch.minimum(p, x)", "torch.min(x, p)"],
    "mish": ["F.mish(x)"],
    "mul": ["torch.mul(x, p)", "x * 3", "x * -1"],
    "nan_to_num": ["torch.nan_to_num(x)", "torch.nan_to_num(x, 1.0, 2.0, 3.0)", "torch.nan_to_num(x, posinf=7.0)"],
    "ne": ["torch.where(x != p, x * p, x)", "torch.where(torch.ne(x, 1), x * p, p)"],
    "neg": ["torch.neg(x)", "-x"],
    "pow": [
        *("torch.pow(x, p)", "torch.pow(p, x)", "x**0", "x**1", "x**2", "x**3", "x**4", "x**5", "x**0.5", "x**-0.5"),
        *("x**-1", "x**-2", "x**-3", "x**-4", "x**2.5", "2.0**x", "0.0**x", "torch.pow(2, x)"),
    ],
    "rad2deg": ["torch.rad2deg(x)"],
    "reciprocal": ["torch.reciprocal(x)"],
    "relu": ["torch.relu(x)", "F.relu(x)"],
    "remainder": ["torch.remainder(x, p)", "torch.remainder(p, x)", "x % 0.7"],
    "round": ["torch.round(x)", "torch.round(x, decimals=2)", "torch.round(x, decimals=-1)"],
    "rsqrt": ["torch.rsqrt(x)"],
    "rsub": ["torch.rsub(x, p)", "torch.rsub(p, x, alpha=2)", "1 - x", "0.5 - x"],
    "sgn": ["torch.sgn(x)"],
    "sigmoid": ["torch.sigmoid(x)", "F.sigmoid(x)", "torch.special.expit(x)"],
    "sign": ["torch.sign(x)"],
    "silu": ["F.silu(x)"],
    "sin": ["torch.sin(x)"],
    "sinc": ["torch.sinc(x)"],
    "sinh": ["torch.sinh(x)"],
    "softplus": ["F.softplus(x)", "F.softplus(x, 2)", "F.softplus(x, beta=0.5, threshold=1)", "F.softplus(x, -1)"],
    "softshrink": ["F.softshrink(x)", "F.softshrink(x, 1)", "F.softshrink(x, 0)"],
    "special_entr": ["torch.special.entr(x)"],
    "special_ndtr": ["torch.special.ndtr(x)"],
    "special_xlog1py": ["torch.special.xlog1py(x, p)", "torch.special.xlog1py(p, x)"],
    "sqrt": ["torch.sqrt(x)"],
    "square": ["torch.square(x)"],
    "sub": ["torch.sub(x, p)", "torch.sub(p, x, alpha=2.5)", "x - 1.5", "torch.sub(x, p, alpha=-3)"],
    "tan": ["torch.tan(x)"],
    "tanh": ["torch.tanh(x)", "F.tanh(x)"],
    "threshold": ["F.threshold(x, 0.5, 20.0)", "F.threshold(x, 0, 0)"],
    "trunc": ["torch.trunc(x)", "torch.fix(x)"],
    "where": ["torch.where(x > 0, x, p)", "torch.where(x > 0, 2.0, x)", "torch.where(x > p, p, x)"],
    "xlogy": ["torch.xlogy(x, p)", "torch.special.xlogy(p, x)", "torch.xlogy(x, 2.0)", "torch.xlogy(2.0, x)"],
}
TEXTS = [text for texts in CALLS.values() for text in texts]
# What PyTorch itself makes of other operators.
COMPOSED = ("isfinite", "special_ndtr", "square")

# With the kinks of all operators, what they have at the ends of the range, and beyond it.
POINTS = [
    *(0.0, 1e-300, 1e-8, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 2.5, 3.0, 6.0, 10.0, 20.0, 20.5, 37.0, 100.0, 720.0),
    *(1e10, 1e200, math.inf),
]
ALONE = [*POINTS, *(-v for v in POINTS), math.nan]
TOLERANCE = 1e-12
SUBNORMAL = 1e-300
# PyTorch takes these, or their derivatives, from a difference near 1, which leaves their tails no relative accuracy.
CANCEL = [f".{name}(" for name in ("expm1", "gelu", "logaddexp2", "ndtr", "expit", "mish", "silu", "softplus")]
CANCEL += [".sigmoid(", ".tanh("]
CANCELLING = 2e-15

FEW = [0.0, 0.25, 1.0, 1.3, 2.0, 7.5, 1e150, math.inf]
FEW = [*FEW, *(-v for v in FEW), math.nan]


# Where rules, as algebra.py says, give a limit that PyTorch's operators lose.
def function(text):
    names = "x, p=0.75" if takes_parameter(text) else "x"
    return eval(f"lambda {names}: {text}", {"torch": torch, "F": F})


def takes_parameter(text):
    return re.search(r"\bp\b", text) is not None


def inputs(text):
    """Points of x, and of p, elementwise in pairs; and gradients that come in."""
    if takes_parameter(text):
        x, p = (torch.tensor(v, dtype=torch.float64) for v in zip(*itertools.product(FEW, FEW), strict=True))
        tensors = [x, p]
    else:
        tensors = [torch.tensor(ALONE, dtype=torch.float64)]
    generator = torch.Generator().manual_seed(5)
    extra = [torch.rand(tensors[0].shape, generator=generator, dtype=torch.float64) + 0.5 for _ in range(3)]
    return tensors, extra[0], extra[1 : 1 + len(tensors)]


def differentiated(f, tensors, g, ggs):
    """Value, gradients, and second derivatives of g and of the tensors, by PyTorch; of the last None if it has none."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    g = g.clone().requires_grad_()
    y = f(*leaves)
    first = gradients([y], leaves, [g], retain_graph=True)
    try:
        second = gradients(gradients([y], leaves, [g], create_graph=True), [g, *leaves], ggs)
    except RuntimeError as error:
        assert "is not implemented" in str(error)
        second = None
    return y, first, second


def with_limits(want, got, node, values):
    """PyTorch's derivative, but where that is NaN and ours not: with gradients that a choice stopped left at 0."""
    (gated,) = evaluation.float64([node], values, gated=True)
    return torch.where(want.isnan() & ~got.isnan(), torch.from_numpy(gated.copy()), want.detach())


def gradients(outputs, inputs, grads, **keywords):
    live = [(t, grad) for t, grad in zip(outputs, grads, strict=True) if t.requires_grad]
    if not live:
        return [torch.zeros_like(t) for t in inputs]
    ts, gs = zip(*live, strict=True)
    return torch.autograd.grad(ts, inputs, gs, materialize_grads=True, **keywords)


def assert_same(got, want, text, what, x):
    """Equal but for roundoff, and NaN where PyTorch's is."""
    got, want = got.detach(), want.detach()
    floor = CANCELLING if any(word in text for word in CANCEL) else SUBNORMAL
    # PyTorch's hardsigmoid divides by 6 in float32, whatever the tensor's dtype.
    relative = 2**-24 if "hardsigmoid" in text else TOLERANCE
    close = torch.isclose(got, want, rtol=relative, atol=floor, equal_nan=True)
    assert close.all(), f"{what}: " + "; ".join(
        f"{[t[i].item() for t in x]} gave {got[i].item()}, want {want[i].item()}"
        for i in (~close).nonzero().flatten()[:6].tolist()
    )


def test_every_operator_is_called():
    assert set(CALLS) == set(lowering.supported())


@pytest.mark.parametrize("name", CALLS)
def test_the_operator_is_recorded(name, monkeypatch):
    """A call reaches the table under that name."""
    called = []
    monkeypatch.setitem(lowering.TABLE, name, lambda *a, f=lowering.TABLE[name], **k: called.append(1) or f(*a, **k))
    for text in CALLS[name]:
        tracing.record(function(text), "f", int(takes_parameter(text)))
    assert bool(called) == (name not in COMPOSED)


@pytest.mark.parametrize("text", TEXTS)
def test_expressions(text):
    """Without rules, and with them."""
    tensors, g, ggs = inputs(text)
    names = ["x", "p0"][: len(tensors)]
    values = dict(zip(["g", *names, *(f"gg{n}" for n in names)], [g, *tensors, *ggs], strict=True))
    y, first, second = differentiated(function(text), tensors, g, ggs)
    trace = tracing.record(function(text), "f", len(tensors) - 1)
    twice = tracing.record(function(text), "f", len(tensors) - 1, order=2)
    cases = [("value", y, trace.value, trace.graph)]
    cases += [(f"gradient of {n}", *pair, trace.graph) for n, *pair in zip(names, first, trace.gradients, strict=True)]
    if second is None:
        assert not twice.second
    else:
        cases += [
            (f"second derivative of {n}", *pair, twice.graph)
            for n, *pair in zip(["g", *names], second, twice.second, strict=True)
        ]
    for what, want, node, graph in cases:
        (got,) = evaluation.float64([node], values)
        assert_same(torch.from_numpy(got.copy()), want, text, f"lowered {what}", tensors)
        (got,) = evaluation.float64(graph.copied([node], Graph(algebra.rewrite)), values)
        got = torch.from_numpy(got.copy())
        if what != "value":
            want = with_limits(want, got, node, values)
        assert_same(got, want, text, f"rewritten {what}", tensors)


@pytest.mark.parametrize("text", TEXTS)
def test_lean_path(text):
    """The activation, as it is called: with the parameter as a tensor of entries per channel, and as a number."""
    tensors, g, ggs = inputs(text)
    f = function(text)
    own = fusedact.activation(f)
    want_y, want_first, want_second = differentiated(f, tensors, g, ggs)
    names = ["x", "p0"][: len(tensors)]
    values = dict(zip(["g", *names], [g, *tensors], strict=True))
    slopes = tracing.record(f, "f", len(tensors) - 1).gradients
    with fusedact.backend("eager"):
        # One row: as many channels as points, whose sums have one term.
        y, first, second = differentiated(lambda x, *p: own(x[None], *p)[0], tensors, g, ggs)
        assert_same(y, want_y, text, "value", tensors)
        for got, want, node in zip(first, want_first, slopes, strict=True):
            assert_same(got, with_limits(want, got, node, values), text, "gradient", tensors)
        assert (second is None) == (want_second is None)
        for got, want in zip(second or (), want_second or (), strict=True):
            assert_same(got, want, text, "second derivative", tensors)
        x = tensors[0].clone().requires_grad_()
        numbers = [torch.tensor(0.75, dtype=torch.float64)] * (len(tensors) - 1)
        y, want_y = own(x), f(x, *numbers)
        assert_same(y, want_y, text, "value with a number", [x])
        if want_y.requires_grad:
            (got,), (want,) = (gradients([t], [x], [g]) for t in (y, want_y))
            want = with_limits(want, got, slopes[0], {**values, "p0": 0.75})
            assert_same(got, want, text, "gradient with a number", [x])
