"""The comparison must reject wrong kernels: each of these is wrong in a way that a loose test would pass."""

from __future__ import annotations

import mpmath
import oracles
import pytest
import torch
import truths
import twins
from gallery import GALLERY
from torch.nn import functional as F

from fusedact import registry
from fusedact.engine import tracing

ones = torch.ones_like
cases = pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)


def inputs(dtype):
    return oracles.floats32() if dtype == torch.float32 else oracles.halves(dtype)


def compare(ours, name, x, params, gradient=False):
    if gradient:
        truth = oracles.gradient(name, ones(x), x, params)
        yard = oracles.yardstick_gradient(name, ones(x), x, params)
    else:
        truth, yard = oracles.value(name, x, params), oracles.yardstick(name, x, params)
    oracles.assert_accurate(ours, truth, yard, x=x)


def right(name, x, params, gradient=False):
    """The truth, rounded once."""
    truth = oracles.gradient(name, ones(x), x, params) if gradient else oracles.value(name, x, params)
    return truth.to(x.dtype)


# ----- wrong kernels: (activation, parameters, gradient?, (x, right) -> wrong)


def one_wrong(x, y):
    i = int((y - 1.5).abs().nan_to_num(torch.inf).argmin())
    y[i] = torch.nextafter(y[i], torch.tensor(9.0, dtype=x.dtype))
    return y


def swapped_nan(x, y):
    """NaN where a number belongs, and a number where NaN does."""
    return torch.where(x.isnan(), 1.0, torch.where(x == 1.5, torch.nan, y))


def sign_in_the_tail(x, y):
    return torch.where(x < -5, -y, y)


WRONG = {
    "one unit off at one input": ("elu", (1.0,), False, one_wrong),
    "a coarse exponential": (
        "elu",
        (1.0,),
        False,
        lambda x, y: torch.where(x > 0, x, (x.double().exp() * 1.002 - 1).to(x.dtype)),
    ),
    "alpha forgotten": ("elu", (0.3,), False, lambda x, y: F.elu(x)),
    "NaN swallowed": ("elu", (1.0,), False, lambda x, y: y.nan_to_num(0.0, torch.inf, -torch.inf)),
    "NaN swapped": ("relu_sigmoid", (0.1,), False, swapped_nan),
    "infinity lost": ("elu", (1.0,), False, lambda x, y: y.clamp(max=torch.finfo(x.dtype).max)),
    "infinity too soon": (
        "elu",
        (1.0,),
        False,
        lambda x, y: torch.where(x == torch.finfo(x.dtype).max, torch.inf, y),
    ),
    "infinity of the wrong sign": ("selu", (), False, lambda x, y: torch.where(x == torch.inf, -torch.inf, y)),
    "zero value": ("relu_sigmoid", (0.0,), False, lambda x, y: torch.zeros_like(x)),
    "tail flushed": ("relu_sigmoid", (-5.0,), False, lambda x, y: torch.where(x < -3, 0.0, y)),
    "value on the wrong side": ("relu_sigmoid", (-5.0,), False, lambda x, y: (x + 5) * torch.sigmoid(x)),
    "zero gradient": ("elu", (1.0,), True, lambda x, y: torch.zeros_like(x)),
    "zero gradient at finite inputs": (
        "relu_sigmoid",
        (0.0,),
        True,
        lambda x, y: torch.where(x.isfinite(), 0.0, y),
    ),
    "sign in the tail, selu": ("selu", (), True, sign_in_the_tail),
    "sign in the tail, elu": ("elu", (0.3,), True, sign_in_the_tail),
    "gradient doubled in the tail": ("elu", (1.0,), True, lambda x, y: torch.where(x < -8, 2 * y, y)),
    "inf times zero": ("relu_sigmoid", (0.1,), True, lambda x, y: torch.where(x == torch.inf, torch.nan, y)),
    "kink on the wrong side, relu_sigmoid": (
        "relu_sigmoid",
        (0.5,),
        True,
        lambda x, y: torch.where(x == 0.5, torch.sigmoid(x), y),
    ),
    "kink on the wrong side, elu": ("elu", (0.3,), True, lambda x, y: torch.where(x == 0, 1.0, y)),
}


@dtypes
@pytest.mark.parametrize("case", WRONG)
def test_wrong_kernels_are_rejected(case, dtype):
    name, params, gradient, spoil = WRONG[case]
    # 0.5 and 1.5 stand among the halves; float32's sample lacks them.
    x = torch.cat([inputs(dtype), torch.tensor([0.5, 1.5], dtype=dtype)])
    y = right(name, x, params, gradient)
    wrong = spoil(x, y.clone()).to(dtype)
    assert not torch.allclose(wrong, y, rtol=0.0, atol=0.0, equal_nan=True), "the kernel is not wrong at all"
    compare(y, name, x, params, gradient)
    with pytest.raises(AssertionError, match="wrong; the worst at input"):
        compare(wrong, name, x, params, gradient)


def test_exp_minus_one_is_rejected():
    x = -torch.logspace(-8, 0, 4000)
    with pytest.raises(AssertionError, match="wrong; the worst"):
        compare(x.exp() - 1, "elu", x, (1.0,))


def test_one_minus_sigmoid_is_rejected():
    x = -torch.logspace(0, 1.4, 4000)
    with pytest.raises(AssertionError, match="wrong; the worst"):
        compare((x + 30) * (1 - torch.sigmoid(-x)), "relu_sigmoid", x, (-30.0,))


def test_shape_and_dtype_are_compared():
    x = torch.randn(8)
    truth, yard = oracles.value("elu", x, (1.0,)), F.elu(x)
    with pytest.raises(AssertionError, match=r"expected torch\.float32"):
        oracles.assert_accurate(yard.half(), truth, yard)
    with pytest.raises(AssertionError, match="expected"):
        oracles.assert_accurate(yard[:4], truth, yard)
    with pytest.raises(AssertionError, match="in its shape"):
        oracles.assert_accurate(yard, truth, yard[:1])
    with pytest.raises(AssertionError, match="truth in float64"):
        oracles.assert_accurate(yard, truth.float(), yard)


# ----- the bound itself


@pytest.mark.parametrize(
    ("yard_off", "truncating", "allowed"), [(0, False, 0), (1, False, 2), (3, False, 6), (0, True, 1), (1, True, 3)]
)
@pytest.mark.parametrize("start", [1.0, 1e-41], ids=["normal", "subnormal"])
@dtypes
def test_the_bound_to_the_unit(dtype, start, yard_off, truncating, allowed):
    if dtype == torch.float16 and start < 1:
        start = 3e-7
    at = torch.tensor([start], dtype=dtype)
    steps = [at]
    for _ in range(8):
        steps.append(torch.nextafter(steps[-1], torch.full_like(at, torch.inf)))
    truth, yard = at.double(), steps[yard_off]
    oracles.assert_accurate(steps[allowed], truth, yard, truncating=truncating)
    with pytest.raises(AssertionError, match="1 of 1 wrong; the worst at position 0"):
        oracles.assert_accurate(steps[allowed + 1], truth, yard, truncating=truncating)


@pytest.mark.parametrize("yard", [torch.nan, torch.inf])
def test_a_yardstick_that_is_not_finite_allows_two_units_and_a_half(yard):
    truth, yard = torch.ones(1, dtype=torch.float64), torch.tensor([yard])
    oracles.assert_accurate(torch.tensor([1 + 2 * 2**-23]), truth, yard)
    with pytest.raises(AssertionError, match=r"3 units off where 2\.5 are allowed"):
        oracles.assert_accurate(torch.tensor([1 + 3 * 2**-23]), truth, yard)


@pytest.mark.parametrize("truth", [65504.0, 1.0, -1e6])
def test_infinity_is_rejected_where_the_truth_does_not_reach_it(truth):
    truth = torch.tensor([truth], dtype=torch.float64)
    with pytest.raises(AssertionError, match="got inf"):
        oracles.assert_accurate(torch.tensor([torch.inf]).half(), truth, truth.half())


@pytest.mark.parametrize("truth", [65521.0, 1e6, 1e300, torch.inf])
def test_infinity_is_accepted_where_the_truth_reaches_it(truth):
    truth = torch.tensor([truth], dtype=torch.float64)
    oracles.assert_accurate(torch.tensor([torch.inf]).half(), truth, truth.half())


@dtypes
def test_the_unit_is_the_distance_to_the_next_number(dtype):
    x = inputs(dtype).abs()
    x = x[x < torch.finfo(dtype).max]
    gap = torch.nextafter(x, torch.full_like(x, torch.inf)).double() - x.double()
    assert torch.equal(oracles.ulp(x.double(), dtype), gap)


def test_an_empty_tensor_is_accurate():
    oracles.assert_accurate(torch.zeros(0), torch.zeros(0).double(), torch.zeros(0), x=torch.zeros(0))


# ----- what is right must pass, and the truth must be true


@cases
@dtypes
@pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])
def test_the_rounded_truth_is_accepted(name, params, dtype, gradient):
    x = inputs(dtype)
    compare(right(name, x, params, gradient), name, x, params, gradient)


@cases
@dtypes
def test_torch_is_accepted(name, params, dtype):
    x = inputs(dtype)
    y, dx = oracles.yardstick(name, x, params), oracles.yardstick_gradient(name, ones(x), x, params)
    # Compositions overflow, and give NaN for limits at infinities, which is wrong here.
    kept = y.isfinite() | x.isnan() | (y == oracles.value(name, x, params))
    compare(y[kept], name, x[kept], params)
    kept = dx.isfinite() & x.isfinite()
    compare(dx[kept], name, x[kept], params, gradient=True)


def test_the_limits_are_those_that_torch_misses():
    """Nowhere else do PyTorch's operators give NaN for a limit, or overflow."""
    for name in oracles.NAMES:
        if registry.get(name).aten is None:
            continue
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            x, params = inputs(dtype), oracles.sweep(name)[0]
            x = x[~x.isnan()]
            y, dx = oracles.yardstick(name, x, params), oracles.yardstick_gradient(name, ones(x), x, params)
            truth, slope = oracles.value(name, x, params), oracles.gradient(name, ones(x), x, params)
            largest = torch.finfo(dtype).max
            missed = ~y.isfinite() & (truth.abs() <= largest) | (y.isnan() & ~truth.isnan())
            assert not (missed & ~twins.missed(name, "value", x)).any(), name
            missed = ~dx.isfinite() & (slope.abs() <= largest)
            assert not (missed & ~twins.missed(name, "gradient", x)).any(), name
            assert (y.isnan() | dx.isnan()).any() == any(w.name == name and w.has != w.has for w in twins.WRONG)


@cases
def test_closed_gradients_are_those_of_autograd(name, params):
    x = torch.randn(4000, dtype=torch.float64).mul_(4).requires_grad_()
    expected = torch.autograd.grad(oracles.FUNCTIONS[name](x, *params).sum(), x)[0]
    torch.testing.assert_close(oracles.gradient(name, ones(x), x.detach(), params), expected, rtol=1e-12, atol=1e-15)


@cases
def test_closed_parameter_gradients_are_those_of_autograd(name, params):
    x, g = (torch.randn(4000, dtype=torch.float64) for _ in range(2))
    given = oracles.given(name, params, torch.float64, requires_grad=True)
    tensors = [p for p in given if isinstance(p, torch.Tensor)]
    y = oracles.FUNCTIONS[name](4 * x, *given)
    expected = list(torch.autograd.grad(y, tensors, g)) if tensors else []
    torch.testing.assert_close(oracles.parameter_gradient(name, g, 4 * x, params), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "params"), [("elu", (1.0,)), ("selu", ())], ids=["elu", "selu"])
@pytest.mark.parametrize("g", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_meets_an_underflown_slope_as_in_torch(name, params, g):
    x, g = torch.tensor([-1e4, -torch.inf]), torch.full((2,), g)
    assert oracles.gradient(name, g, x, params).isnan().all()
    assert oracles.yardstick_gradient(name, g, x, params).isnan().all()


def _phi(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _softplus(x):
    return mpmath.log1p(mpmath.exp(x))


def _sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def _between(x, low, high):
    return min(max(x, low), high)


EXACT = {
    "relu_sigmoid": lambda x, t: max(x - t, mpmath.mpf(0)) / (1 + mpmath.exp(-x)),
    "elu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x),
    "selu": lambda x: mpmath.mpf(truths.SELU_SCALE) * (x if x > 0 else mpmath.mpf(truths.SELU_ALPHA) * mpmath.expm1(x)),
    "prelu": lambda x, w: x if x > 0 else w * x,
    "swish": lambda x, beta: x / (1 + mpmath.exp(-beta * x)),
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: _between(x, 0, 6),
    "leaky_relu": lambda x, a: x if x > 0 else a * x,
    "celu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x / alpha),
    "gelu": lambda x: x * _phi(x),
    "gelu_tanh": lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * mpmath.tanh(_softplus(x)),
    "softplus": lambda x, beta, threshold: x if beta * x > threshold else _softplus(beta * x) / beta,
    "logsigmoid": lambda x: -_softplus(-x),
    "sigmoid": _sigmoid,
    "tanh": mpmath.tanh,
    "hardtanh": _between,
    "hardsigmoid": lambda x: _between(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * _between(x + 3, 0, 6) / 6,
    "softsign": lambda x: x / (1 + abs(x)),
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "softshrink": lambda x, lambd: mpmath.sign(x) * max(abs(x) - lambd, 0),
    "hardshrink": lambda x, lambd: x if abs(x) > lambd else mpmath.mpf(0),
    "threshold": lambda x, t, v: x if x > t else v,
    "identity": lambda x: x,
    "relu_squared": lambda x: max(x, 0) ** 2,
    "star_relu": lambda x, scale, bias: scale * max(x, 0) ** 2 + bias,
    "quick_gelu": lambda x: x * _sigmoid(mpmath.mpf(1.702) * x),
    "clipped_gelu": lambda x, low, high: _between(x * _phi(x), low, high),
    "laplace": lambda x, mu, sigma: _phi((x - mu) / sigma),
    "xielu": lambda x, alpha_p, alpha_n, beta, eps: (
        _softplus(alpha_p) * x**2 + beta * x
        if x > 0
        else (mpmath.expm1(min(x, eps)) - x) * (beta + _softplus(alpha_n)) + beta * x
    ),
    "snake": lambda x, alpha: x + mpmath.sin(alpha * x) ** 2 / alpha,
    "squareplus": lambda x, b: (x + mpmath.sqrt(x**2 + b)) / 2,
    "hard_mish": lambda x: x / 2 * _between(x + 2, 0, 2),
    "sqrtsoftplus": lambda x: mpmath.sqrt(_softplus(x)),
    "telu": lambda x: x * mpmath.tanh(mpmath.exp(x)),
    "serf": lambda x: x * mpmath.erf(_softplus(x)),
    "erf": mpmath.erf,
}


@cases
@pytest.mark.parametrize("x", [-30.0, -4.5, -1e-9, 0.2, 0.7, 12.0, 40.0])
def test_the_truth_agrees_with_two_hundred_digits(name, params, x):
    at = torch.tensor([x], dtype=torch.float64)
    with mpmath.workdps(200):
        exact = [mpmath.mpf(p) for p in params]
        y = float(EXACT[name](mpmath.mpf(x), *exact))
        slope = float(mpmath.diff(lambda v: EXACT[name](v, *exact), mpmath.mpf(x), h=mpmath.mpf(10) ** -80))
    # A bell's exponent, 900 at most, multiplies what its argument is rounded by.
    rel = 1e-12 if name in ("gelu", "clipped_gelu", "gelu_tanh", "laplace", "serf") else 1e-14
    assert oracles.value(name, at, params).item() == pytest.approx(y, rel=rel, abs=0.0)
    assert oracles.gradient(name, ones(at), at, params).item() == pytest.approx(slope, rel=rel, abs=0.0)


# ----- activations of one's own

own_cases = pytest.mark.parametrize(("name", "params"), oracles.OWN_CASES, ids=oracles.OWN_IDS)
INF, NAN = torch.inf, torch.nan


def excused(ours, truth, formula, x=1.0, yard=None, dtype=torch.float32):
    """Whether a single result is accepted with the formula's."""
    ours, yard = (torch.tensor([v], dtype=dtype) for v in (ours, truth if yard is None else yard))
    truth, x = (torch.tensor([v], dtype=torch.float64) for v in (truth, x))
    try:
        oracles.assert_accurate(ours, truth, yard, x=x, formula=torch.tensor([formula]))
    except AssertionError:
        return False
    return True


def test_what_a_formula_overflows_is_excused():
    assert excused(NAN, 2.0, NAN)
    assert excused(INF, 2.0, INF) and excused(-INF, INF, -INF)
    assert excused(7.0, NAN, NAN) and excused(INF, NAN, NAN)


def test_nothing_else_is_excused():
    """A wrong number, another infinity, what the formula does not overflow, and a NaN of x."""
    assert not excused(3.0, 2.0, NAN) and not excused(INF, 2.0, NAN) and not excused(NAN, 2.0, INF)
    assert not excused(-INF, 2.0, INF) and not excused(3.0, 2.0, INF)
    assert not excused(NAN, 2.0, 2.0) and not excused(INF, 2.0, 2.0) and not excused(3.0, 2.0, 2.0)
    assert not excused(7.0, NAN, 7.0) and not excused(7.0, NAN, INF)
    assert not excused(7.0, NAN, NAN, x=NAN) and not excused(INF, NAN, NAN, x=NAN)
    # Nor is the bound another: two units and a half where the yardstick is not finite.
    assert excused(1 + 2 * 2**-23, 1.0, NAN, yard=NAN) and not excused(1 + 3 * 2**-23, 1.0, NAN, yard=NAN)
    assert excused(1 + 2 * 2**-23, 1.0, INF, yard=INF) and not excused(1 + 3 * 2**-23, 1.0, INF, yard=INF)
    # The formula is no yardstick in float32, which has its own.
    assert not excused(1 + 3 * 2**-23, 1.0, 1 + 9 * 2**-23)


def test_a_formula_in_float32_is_a_yardstick_for_halves():
    unit = 2.0**-10
    assert excused(1 + 6 * unit, 1.0, 1 + 3 * unit, dtype=torch.float16)
    assert not excused(1 + 7 * unit, 1.0, 1 + 3 * unit, dtype=torch.float16)
    assert not excused(1 + 6 * unit, 1.0, 1.0, dtype=torch.float16)
    assert not excused(1 + 6 * unit, 1.0, NAN, dtype=torch.float16)


@pytest.mark.parametrize("count", [oracles.FEW, oracles.FEW + 1])
def test_floats_nearby_are_asked_about_few_inputs(count):
    """Their yardstick is a bound for these inputs alone."""
    x = torch.arange(1000.0)
    truth, yard, asked = torch.ones(1000).double(), torch.ones(1000), []
    ours = yard.clone()
    ours[:count] += 6 * 2**-23

    def nearby(at):
        asked.append(at.tolist())
        found = torch.ones(len(at), oracles.WINDOW)
        found[:, 0] += 3 * 2**-23
        return torch.ones(found.shape, dtype=torch.float64), found

    if count > oracles.FEW:
        with pytest.raises(AssertionError, match=f"{count} of 1000 wrong"):
            oracles.assert_accurate(ours, truth, yard, x=x, nearby=nearby)
        assert not asked
        return
    oracles.assert_accurate(ours, truth, yard, x=x, nearby=nearby)
    assert asked == [list(range(count))]
    ours[1] += 2**-23
    with pytest.raises(AssertionError, match=r"1 of 1000 wrong; the worst at input 1\.0"):
        oracles.assert_accurate(ours, truth, yard, x=x, nearby=nearby)


def test_the_formula_needs_its_dtype_and_x():
    truth, yard = torch.ones(3).double(), torch.ones(3)
    for formula, x in ((yard, None), (yard.double(), yard), (yard[:1], yard)):
        with pytest.raises(AssertionError, match="expected the formula"):
            oracles.assert_accurate(yard, truth, yard, x=x, formula=formula)


OWN_WRONG = {
    "a function forgotten": ("phish", (), False, lambda x, y: x * F.gelu(x)),
    "the tail flushed": ("e_swish", (1.5,), False, lambda x, y: torch.where(x < -8, 0.0, y)),
    "a sign lost": ("signed_power", (1.5,), False, lambda x, y: y.abs()),
    "a slope at a tie": ("fence", (-1.0, 2.0), True, lambda x, y: torch.where(x == 2.0, 1.0, y)),
    "a slope at a step": ("staircase", (0.1,), True, lambda x, y: torch.where(x == 2.0, 2.0, y)),
    "NaN where the formula has none": ("serf_by_hand", (), True, lambda x, y: torch.where(x == 82.0, torch.nan, y)),
    "inf where the formula has NaN": ("mish_by_hand", (), True, lambda x, y: torch.where(x > 100, torch.inf, y)),
    "a coarse slope": ("lisht", (), True, lambda x, y: y * 1.01),
}


@dtypes
@pytest.mark.parametrize("case", OWN_WRONG)
def test_wrong_kernels_of_ones_own_are_rejected(case, dtype):
    name, params, gradient, spoil = OWN_WRONG[case]
    x = torch.cat([inputs(dtype), torch.tensor([2.0, 82.0], dtype=dtype)])

    def check(y):
        if gradient:
            oracles.assert_gradient(y, name, ones(x), x, params)
        else:
            oracles.assert_value(y, name, x, params)

    y = right(name, x, params, gradient)
    check(y)
    with pytest.raises(AssertionError, match="wrong; the worst at input"):
        check(spoil(x, y.clone()).to(dtype))


@own_cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_rounded_truth_and_the_formula_are_accepted_of_ones_own(name, params, dtype):
    x = inputs(dtype)
    oracles.assert_value(right(name, x, params), name, x, params)
    oracles.assert_gradient(right(name, x, params, True), name, ones(x), x, params)
    oracles.assert_value(oracles.formula(name, x, params).to(dtype), name, x, params)
    oracles.assert_gradient(oracles.formula_gradient(name, ones(x), x, params).to(dtype), name, ones(x), x, params)


@pytest.mark.parametrize(("name", "params"), [c for c in oracles.OWN_CASES if GALLERY[c[0]].defined])
def test_a_defined_formula_overflows_nowhere(name, params):
    """At every finite float16 value and slope in float32 are finite, but for a slope that is none at 0."""
    x = oracles.halves(torch.float16).float()
    x = x[x.isfinite() & (x != 0)]
    assert oracles.formula(name, x, params).isfinite().all()
    assert oracles.formula_gradient(name, ones(x), x, params).isfinite().all()


@own_cases
def test_gradients_of_parameters_are_those_of_the_formula(name, params):
    x, g = (torch.randn(2000, dtype=torch.float64) for _ in range(2))
    tensors = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in params]
    y = oracles.PLAIN[name](3 * x, *tensors)
    expected = list(torch.autograd.grad(y, tensors, g)) if tensors else []
    torch.testing.assert_close(oracles.parameter_gradient(name, g, 3 * x, params), expected, rtol=1e-9, atol=1e-9)


def _with_digits(node, x, params):
    """An expression of the engine, with as many digits as mpmath is at."""
    if node.op == "constant":
        return mpmath.mpf(node.value)
    if node.op == "input":
        return {"x": x, "g": mpmath.mpf(1)}.get(node.name) if node.name in "xg" else params[int(node.name[1:])]
    return DIGITS[node.op](*(_with_digits(a, x, params) for a in node.args))


DIGITS = {
    **{n: getattr(mpmath, n) for n in ("exp", "expm1", "erf", "erfc", "tanh", "sin", "cos", "sqrt", "sign", "atan")},
    **{"log": mpmath.log, "log1p": mpmath.log1p, "floor": mpmath.floor, "abs": abs, "max": max, "min": min},
    **{"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "pow": lambda a, b: a**b},
    **{"div": lambda a, b: a / b, "neg": lambda a: -a, "reciprocal": lambda a: 1 / a, "rsqrt": lambda a: a**-0.5},
    **{"sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)), "complement": lambda a: 1 / (1 + mpmath.exp(a))},
    "sigmoid_slope": lambda a: mpmath.sech(a / 2) ** 2 / 4,
    **{"sech2": lambda a: mpmath.sech(a) ** 2, "softplus": lambda a: mpmath.log1p(mpmath.exp(a))},
    **{"where": lambda c, a, b: a if c else b, "and": lambda a, b: a and b, "or": lambda a, b: a or b},
    **{"lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b},
    **{"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "not": lambda a: not a},
}


@own_cases
def test_the_truth_of_ones_own_agrees_with_fifty_digits(name, params):
    """By the engine's expressions, before it rewrites them; with 400 digits, as they cancel where exp(-500) is."""
    trace = tracing.record(oracles.spec(name).eager, name, len(params))
    at = torch.tensor([-60.0, -30.5, -4.5, -0.3, -1e-4, 0.3, 1.7, 12.2, 40.5], dtype=torch.float64)
    y, dx = oracles.value(name, at, params), oracles.gradient(name, ones(at), at, params)
    with mpmath.workdps(400):
        exact = [mpmath.mpf(p) for p in params]
        for x, *found in zip(at.tolist(), y.tolist(), dx.tolist(), strict=True):
            for ours, node in zip(found, (trace.value, trace.gradients[0]), strict=True):
                truth = float(_with_digits(node, mpmath.mpf(x), exact))
                assert ours == pytest.approx(truth, rel=1e-9, abs=1e-300)
