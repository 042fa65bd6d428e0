"""The comparison must reject wrong kernels: each of these is wrong in a way that a loose test would pass."""

from __future__ import annotations

import mpmath
import oracles
import pytest
import torch
from torch.nn import functional as F

ones = torch.ones_like


def compare(ours, name, x, params, gradient=False):
    if gradient:
        truth = oracles.gradient(name, ones(x), x, params)
        yard = oracles.yardstick_gradient(name, ones(x), x, params)
    else:
        truth, yard = oracles.value(name, x, params), oracles.yardstick(name, x, params)
    oracles.assert_accurate(ours, truth, yard, x=x)


def one_wrong(x):
    y = F.elu(x)
    i = int((x == 1.5).nonzero()[0])
    y[i] = torch.nextafter(y[i], torch.tensor(9.0, dtype=x.dtype))
    return y


def kink_on_the_wrong_side(x):
    slope = oracles.gradient("relu_sigmoid", ones(x), x, (0.5,))
    return torch.where(x == 0.5, torch.sigmoid(x.double()), slope).to(x.dtype)


WRONG_VALUES = {
    "one of 65,536 inputs off by a unit": ("elu", (1.0,), one_wrong),
    "a coarse exponential": (
        "elu",
        (1.0,),
        lambda x: torch.where(x > 0, x, (x.double().exp() * 1.002 - 1).to(x.dtype)),
    ),
    "NaN swallowed": ("elu", (1.0,), lambda x: F.elu(x).nan_to_num(0.0, torch.inf, -1.0)),
    "infinity lost": ("elu", (1.0,), lambda x: F.elu(x).clamp(max=1000.0)),
    "zero": ("relu_sigmoid", (0.0,), torch.zeros_like),
    "tail flushed": (
        "relu_sigmoid",
        (-5.0,),
        lambda x: torch.where(x < -3, 0.0, oracles.value("relu_sigmoid", x, (-5.0,))).to(x.dtype),
    ),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_values_are_rejected(case):
    name, params, wrong = WRONG_VALUES[case]
    x = oracles.halves(torch.float16)
    with pytest.raises(AssertionError, match="wrong; the worst at input"):
        compare(wrong(x), name, x, params)


WRONG_GRADIENTS = {
    "zero": ("elu", (1.0,), torch.zeros_like),
    "kink on the wrong side": ("relu_sigmoid", (0.5,), kink_on_the_wrong_side),
    "sign in the tail": (
        "selu",
        (),
        lambda x: torch.where(x < -5, -1.0, 1.0).to(x.dtype) * oracles.gradient("selu", ones(x), x, ()).to(x.dtype),
    ),
}


@pytest.mark.parametrize("case", WRONG_GRADIENTS)
def test_wrong_gradients_are_rejected(case):
    name, params, wrong = WRONG_GRADIENTS[case]
    x = oracles.halves(torch.float16)
    with pytest.raises(AssertionError, match="wrong; the worst at input"):
        compare(wrong(x), name, x, params, gradient=True)


def test_cancellation_near_zero_is_rejected():
    x = -torch.logspace(-8, 0, 4000)
    with pytest.raises(AssertionError, match="wrong; the worst"):
        compare(torch.where(x > 0, x, x.exp() - 1), "elu", x, (1.0,))


def test_shape_and_dtype_are_compared():
    x = torch.randn(8)
    with pytest.raises(AssertionError, match=r"expected torch\.float32"):
        compare(F.elu(x).half(), "elu", x, (1.0,))
    with pytest.raises(AssertionError, match="expected"):
        compare(F.elu(x)[:4], "elu", x, (1.0,))


@pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_rounded_truth_is_accepted(name, params, dtype):
    x = oracles.floats32() if dtype == torch.float32 else oracles.halves(dtype)
    compare(oracles.value(name, x, params).to(dtype), name, x, params)
    compare(oracles.gradient(name, ones(x), x, params).to(dtype), name, x, params, gradient=True)


@pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
def test_closed_gradients_are_those_of_autograd(name, params):
    x = torch.randn(4000, dtype=torch.float64).mul_(4).requires_grad_()
    expected = torch.autograd.grad(oracles.FUNCTIONS[name](x, *params).sum(), x)[0]
    torch.testing.assert_close(oracles.gradient(name, ones(x), x.detach(), params), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("x", [-30.0, -4.5, -1e-9, 0.1, 0.7, 12.0])
def test_the_truth_agrees_with_fifty_digits(x):
    with mpmath.workdps(50):
        v = mpmath.mpf(x)
        exact = {
            "relu_sigmoid": max(v + mpmath.mpf(-5.0) * -1, 0) / (1 + mpmath.exp(-v)),
            "elu": v if v > 0 else mpmath.expm1(v),
        }
    at = torch.tensor([x], dtype=torch.float64)
    assert oracles.value("relu_sigmoid", at, (-5.0,)).item() == pytest.approx(float(exact["relu_sigmoid"]), rel=1e-14)
    assert oracles.value("elu", at, (1.0,)).item() == pytest.approx(float(exact["elu"]), rel=1e-14)
