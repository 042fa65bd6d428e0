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
    bounded,
    expm1_reduced,
    power_of_two_of_bits,
    reciprocal_positive,
    sigmoid,
    sigmoid_parts,
)
from .normal import (
    DENSITY,
    NEAR,
    SHRINK,
    SHRINK_HALVES,
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
    below, above = y < params[0], y > params[1]
    inside = (below | above) == 0
    dlow, dhigh = tl.where(below, g, 0.0), tl.where(above & (below == 0), g, 0.0)
    return tl.where(inside, g * slope, 0.0), (dlow, dhigh)


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
