"""Device functions of activations x gate(x): value, then derivative, one pair per activation.

The contract is activations.py's. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDING,
    SHRINK,
    SHRINK_HALVES,
    bounded,
    exp,
    exp_nonpositive,
    expm1_reduced,
    power_of_two_of_bits,
    reciprocal_positive,
    sigmoid,
    sigmoid_parts,
    tanh,
    tanh_parts,
)
from .error_function import erf
from .logarithms import softplus, softplus_and_sigmoid
from .normal import (
    DENSITY,
    NEAR,
    density,
    density_halves,
    distance,
    mills,
    mills_halves,
    probability_near_zero,
    root_of_tail,
)

# From here on down, x exp(x) is 0 in fp32.
LOWEST = tl.constexpr(-109.0)

# ----- gelu


@triton.jit
def gelu(x, params, precise: tl.constexpr):
    """x times the probability P that a normal number is below x: max(x, 0) - |x| P(-|x|)."""
    a = distance(x)
    if precise:
        far = tl.fma(a * mills(a) * density(a, 0.0, False), -SHRINK, tl.maximum(x, 0.0))
        return tl.where(a < NEAR, x * probability_near_zero(x), far)
    else:
        root = root_of_tail(a)
        return tl.fma(-(a * root), root, tl.maximum(x, 0.0))


@triton.jit
def _gelu_slope_near_zero(x):
    """Precise for |x| <= NEAR: 1/2 + x p(x^2), p within 2^-33."""
    z = x * x
    p = tl.fma(z, 4.713458474725485e-05, -0.0002317742764716968)
    p = tl.fma(z, p, 0.001291027874685824)
    p = tl.fma(z, p, -0.009571269154548645)
    p = tl.fma(z, p, 0.059858862310647964)
    p = tl.fma(z, p, -0.265963077545166)
    return tl.fma(x, tl.fma(z, p, 0.7978845834732056), 0.5)


@triton.jit
def _gelu_and_slope(x, precise: tl.constexpr):
    """gelu(x), and its derivative: P(-a) - a p(a) at x = -a, 1 less that at x = a, with the density p."""
    a = distance(x)
    if precise:
        e, m = density(a, 0.0, False), mills(a)
        near = a < NEAR
        y = tl.where(near, x * probability_near_zero(x), tl.fma(a * m * e, -SHRINK, tl.maximum(x, 0.0)))
        low = e * tl.fma(a, -DENSITY, m) * SHRINK
        return y, tl.where(near, _gelu_slope_near_zero(x), tl.where(x < 0, low, 1.0 - low))
    else:
        e = density_halves(a)
        t, q = mills_halves(a)
        y = tl.fma(-(a * t) * q, e, tl.maximum(x, 0.0))
        # At the derivative's root the difference is all there is, and rounds once.
        low = e * tl.fma(t, q, -(a * SHRINK_HALVES))
        return y, tl.where(x < 0, low, 1.0 - low)


@triton.jit
def gelu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = P(x) + x p(x)."""
    _, slope = _gelu_and_slope(x, precise)
    return g * slope, ()


@triton.jit
def clipped_gelu(x, params, precise: tl.constexpr):
    """gelu(x) between two bounds."""
    y = gelu(x, params, precise)
    return tl.where(y < params[0], params[0], tl.where(y > params[1], params[1], y))


@triton.jit
def clipped_gelu_backward(g, x, params, precise: tl.constexpr):
    """gelu's derivative within the bounds and at them; beyond, 1 for the bound."""
    y, slope = _gelu_and_slope(x, precise)
    dx = tl.where(y < params[0], 0.0, tl.where(y > params[1], 0.0, g * slope))
    return dx, (tl.where(y < params[0], g, 0.0), tl.where(y > params[1], g, 0.0))


@triton.jit
def _tanh_gate_input(x):
    """2 sqrt(2 / pi) (x + 0.044715 x^3) over x, and x times its derivative over x."""
    z = x * x
    return tl.fma(z, 0.07135481627260025, 1.5957691216057308), tl.fma(z, 0.21406444881780075, 1.5957691216057308)


@triton.jit
def gelu_tanh(x, params, precise: tl.constexpr):
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    # Below, the sigmoid is 0.
    x = tl.maximum(x, -32.0, propagate_nan=tl.PropagateNan.ALL)
    if precise:
        near = tl.minimum(x, 32.0, propagate_nan=tl.PropagateNan.ALL)
        factor, _ = _tanh_gate_input(near)
        return x * sigmoid(near * factor, precise)
    else:
        # 2^-16 / (2^-16 + 2^-16 exp(-z)): exp(-z) overflows where bfloat16 still has x exp(z).
        z = x * x
        e = tl.exp2(tl.fma(x, tl.fma(z, -0.07135481627260025 * LOG2_E, -1.5957691216057308 * LOG2_E), -16.0))
        u = reciprocal_positive(e + SHRINK_HALVES, precise)
        return (x * SHRINK_HALVES) * u


@triton.jit
def gelu_tanh_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s + x z'(x) s (1 - s), where s = sigmoid(z)."""
    x = bounded(x, -32.0, 32.0)
    factor, rise = _tanh_gate_input(x)
    z = x * factor
    if precise:
        s, s_low, complement = sigmoid_parts(z, precise)
        rise = tl.fma(x * rise, complement, 1.0)
        return g * tl.fma(s, rise, s_low * rise), ()
    else:
        e = tl.exp2(tl.fma(z, -LOG2_E, -16.0))
        u = reciprocal_positive(e + SHRINK_HALVES, precise)
        s = u * SHRINK_HALVES
        # Where e is infinite, u is 0.
        complement = tl.minimum(e, 1e38) * u
        # At the root both terms have the quotient's error, which is none of the sum's.
        return g * (s * tl.fma(tl.fma(x, rise, 1.0), complement, s)), ()


# ----- mish


@triton.jit
def _mish_parts(x):
    """e = exp(x), what it lost, n = e (e + 2), what it lost, all 2^32 times larger; e; 1 / (n + 2); precise."""
    shifted = tl.fma(x, LOG2_E, ROUNDING)
    n = shifted - ROUNDING
    p = expm1_reduced(tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, x)))
    scale = power_of_two_of_bits(shifted, 32)
    mantissa = 1.0 + p
    larger, low = mantissa * scale, (p - (mantissa - 1.0)) * scale
    e = larger * SHRINK
    n = tl.fma(larger, e, 2.0 * larger)
    n_low = tl.fma(larger, e, 2.0 * larger - n) + low * tl.fma(2.0, e, 2.0)
    small = n * SHRINK
    d = small + 2.0
    d_low = tl.fma(n_low, SHRINK, small - (d - 2.0))
    root = tl.rsqrt(d)
    u = root * root
    u = tl.fma(u, tl.fma(-u, d_low, tl.fma(-u, d, 1.0)), u)
    return larger, low, n, n_low, e, u


@triton.jit
def mish(x, params, precise: tl.constexpr):
    """x n / (n + 2) = x tanh(log(1 + exp(x))), n = e (e + 2), e = exp(x)."""
    # From 20 on the gate is 1. Precise, above 0 it is 1 - 2 / (n + 2).
    x = tl.maximum(x, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    near = tl.minimum(x, 20.0, propagate_nan=tl.PropagateNan.ALL)
    if precise:
        _, _, n, n_low, _, u = _mish_parts(near)
        y = (near * tl.fma(n, u, n_low * u)) * SHRINK
        return tl.where(x > 0, tl.fma(-2.0 * near, u, x), y)
    else:
        # 2^16 n, and its sum with 2^17.
        larger = tl.exp2(tl.fma(near, LOG2_E, 16.0))
        n = larger * tl.fma(larger, SHRINK_HALVES, 2.0)
        return x * (n * reciprocal_positive(n + 131072.0, precise))


@triton.jit
def mish_backward(g, x, params, precise: tl.constexpr):
    """d/dx = e w / (n + 2)^2, w = e^3 + 4 e^2 + (4 x + 6) e + 4 x + 4."""
    # At the root of w the error of e counts by a twentieth, and that of the quotient not at all. From 15 on it is 1.
    x = bounded(x, LOWEST, 15.0)
    if precise:
        larger, low, _, _, e, u = _mish_parts(x)
    else:
        larger = tl.exp2(tl.fma(x, LOG2_E, 16.0))
        e = larger * SHRINK_HALVES
        u = reciprocal_positive(tl.fma(e, e + 2.0, 2.0), precise)
    w = tl.fma(e, tl.fma(e, e + 4.0, tl.fma(4.0, x, 6.0)), tl.fma(4.0, x, 4.0))
    if precise:
        # With what e lost in rounding, in both of its places.
        lost = low * SHRINK * tl.fma(e, tl.fma(3.0, e, 8.0), tl.fma(4.0, x, 6.0))
        left = tl.fma(larger, u, low * u) * (tl.fma(w, u, lost * u) * SHRINK)
        # 1 + (4 x e (e + 1) / (n + 2) - 2) / (n + 2), where that is not small.
        right = tl.fma(u, tl.fma(4.0 * x * (e * (e + 1.0)), u, -2.0), 1.0)
        return g * tl.where(x < -0.3, left, right), ()
    else:
        return g * ((larger * u) * (w * u) * SHRINK_HALVES), ()


# ----- silu


@triton.jit
def _sigmoid_parts(x):
    """e = exp(-|x|), the same 2^32 times larger, and 1 / (1 + e), precise."""
    a = tl.minimum(tl.abs(x), 110.0, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(a, -LOG2_E, ROUNDING)
    n = shifted - ROUNDING
    scale = power_of_two_of_bits(shifted, 32)
    larger = tl.fma(expm1_reduced(tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, -a))), scale, scale)
    e = larger * SHRINK
    total = 1.0 + e
    root = tl.rsqrt(total)
    u = root * root
    # A Newton step, with what the sum lost.
    return e, larger, tl.fma(u, tl.fma(-u, e - (total - 1.0), tl.fma(-u, total, 1.0)), u)


@triton.jit
def silu(x, params, precise: tl.constexpr):
    """x sigmoid(x)."""
    x = tl.maximum(x, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    if precise:
        _, larger, u = _sigmoid_parts(x)
        negative = x < 0
        return (tl.where(negative, x * larger, x) * u) * tl.where(negative, SHRINK, 1.0)
    else:
        # 2^-16 / (2^-16 + 2^-16 exp(-x)), as in gelu_tanh.
        u = reciprocal_positive(tl.exp2(tl.fma(x, -LOG2_E, -16.0)) + SHRINK_HALVES, precise)
        return (x * SHRINK_HALVES) * u


@triton.jit
def silu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s + x s (1 - s), s = sigmoid(x)."""
    x = bounded(x, LOWEST, 120.0)
    if precise:
        e, larger, u = _sigmoid_parts(x)
        # Below 0 s is e u, above it is u.
        left = (larger * u) * tl.fma(x, u, 1.0) * SHRINK
        right = tl.fma(e * u, tl.fma(x, u, -1.0), 1.0)
        return g * tl.where(x < 0, left, right), ()
    else:
        # 2^-32 exp(-x) far below: else less, whose argument would lose digits that the root needs.
        w = x * -LOG2_E
        far = w > 100.0
        e = tl.exp2(tl.where(far, w - 32.0, w))
        u = reciprocal_positive(e + 1.0, precise)
        # s + (1 - s)(1 + x), of whose terms both have the quotient's error: none at the root of the sum.
        return g * ((u * tl.where(far, SHRINK, 1.0)) * tl.fma(x + 1.0, e * u, u)), ()


# ----- telu


@triton.jit
def telu(x, params, precise: tl.constexpr):
    """x tanh(exp(x))."""
    x = tl.maximum(x, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    return x * tanh(exp(tl.minimum(x, 20.0, propagate_nan=tl.PropagateNan.ALL), precise), precise)


@triton.jit
def telu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = t + x e (1 - t^2), t = tanh(e), e = exp(x)."""
    x = bounded(x, LOWEST, 20.0)
    e = exp(x, precise)
    t, complement = tanh_parts(e, precise)
    return g * tl.fma(x * e, complement, t), ()


# ----- serf


@triton.jit
def _serf_rest(x):
    """1 - erf(softplus(x)) for 0 <= x <= 8, within 2^-16.9, for halves."""
    p = tl.fma(x, 0.012302896939218044, -0.1785067468881607)
    p = tl.fma(x, p, -0.6618703007698059)
    p = tl.fma(x, p, -1.5413925647735596)
    return tl.exp2(tl.fma(x, p, -1.6127835512161255))


@triton.jit
def serf(x, params, precise: tl.constexpr):
    """x erf(log(1 + exp(x)))."""
    x = tl.maximum(x, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    near = tl.minimum(x, 8.0, propagate_nan=tl.PropagateNan.ALL)
    if precise:
        return x * erf(softplus(near, precise), precise)
    else:
        # Below 0 the gate is exp(x) times a polynomial of that, here 2^16 times larger.
        e = tl.exp2(tl.fma(near, LOG2_E, 16.0))
        q = tl.fma(e, -5.213604431822339e-36, 1.5826018987493494e-30)
        q = tl.fma(e, q, -2.093364931963297e-25)
        q = tl.fma(e, q, 1.4112328097962602e-20)
        q = tl.fma(e, q, 1.2409616666787962e-17)
        q = tl.fma(e, q, -1.3141070176470038e-10)
        q = tl.fma(e, q, 1.7217733329744078e-05)
        return x * tl.where(x < 0, e * q, 1.0 - _serf_rest(near))


@triton.jit
def serf_backward(g, x, params, precise: tl.constexpr):
    """d/dx = erf(p) + x 2 / sqrt(pi) exp(-p^2) sigmoid(x), p = log(1 + exp(x))."""
    x = bounded(x, LOWEST, 8.0)
    if precise:
        p, s, _, _ = softplus_and_sigmoid(x, precise)
        return g * tl.fma(x * s, 1.1283791670955126 * exp_nonpositive(-p * p, precise), erf(p, precise)), ()
    else:
        # Below 0 exp(x) (q + x r), of which q and r, polynomials of 2^16 exp(x), meet the root together.
        e = tl.exp2(tl.fma(x, LOG2_E, 16.0))
        q = tl.fma(e, -5.7093106104183966e-30, -6.20762771585738e-24)
        q = tl.fma(e, q, 3.442332540160797e-19)
        q = tl.fma(e, q, 5.9574164991329365e-15)
        q = tl.fma(e, q, -1.223061651955959e-10)
        q = tl.fma(e, q, 1.721795524645131e-05)
        r = tl.fma(e, 3.2689587329930878e-24, 3.220653822863297e-19)
        r = tl.fma(e, r, 1.8712319410310206e-15)
        r = tl.fma(e, r, -2.6114507778451923e-10)
        r = tl.fma(e, r, 1.721771332086064e-05)
        v = tl.fma(x, -0.009747354313731194, -0.006626853719353676)
        v = tl.fma(x, v, 0.34849559096824646)
        v = tl.fma(x, v, 0.9230225682258606)
        v = tl.fma(x, v, 1.0682977437973022)
        return g * tl.where(x < 0, e * tl.fma(x, r, q), tl.fma(_serf_rest(x), tl.fma(x, v, -1.0), 1.0)), ()
