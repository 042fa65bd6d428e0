"""Hyperbolic functions and their inverses on fp32 blocks; tanh is in device_math.py, for activations.

`precise` as there. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import LOG2_E, bounded, expm1_reduced, power_of_two, reciprocal_positive, reduce_exponent, with_sign
from .logarithms import INFINITY, log1p_of_sum, log_of_parts, outside, split_exponent

# Beyond, x^2 + 1 and x^2 - 1 are x^2 to all digits that count.
FAR = tl.constexpr(16384.0)
# Of an exponent that is kept times 2^23.
ONE_LESS = tl.constexpr(-8388608.0)


@triton.jit
def _half_exponentials(a):
    """exp(a) / 4 as a sum, and exp(-a) / 4, for a >= 0, precise."""
    n, r = reduce_exponent(bounded(a, 0.0, 89.5))
    p = expm1_reduced(r)
    mantissa = 1.0 + p
    scale = power_of_two(n - 2.0)
    inverse = reciprocal_positive(mantissa, True) * power_of_two(tl.maximum(-2.0 - n, -126.0))
    return mantissa * scale, (p - (mantissa - 1.0)) * scale, inverse


@triton.jit
def sinh(x, precise: tl.constexpr):
    """(exp(x) - exp(-x)) / 2."""
    a = tl.abs(x)
    z = a * a
    if precise:
        p = tl.fma(z, 2.7822131869470468e-06, 0.00019842895562760532)
        p = tl.fma(z, p, 0.00833331048488617)
        p = tl.fma(z, p, 0.1666666716337204)
        e, e_low, inverse = _half_exponentials(a)
        return with_sign(tl.where(a < 1.0, tl.fma(a * z, p, a), 2.0 * (e + (e_low - inverse))), x)
    else:
        series = a * tl.fma(z, 0.16718751192092896, 0.9999959468841553)
        y = tl.exp2(tl.fma(a, LOG2_E, -1.0)) - tl.exp2(tl.fma(a, -LOG2_E, -1.0))
        return with_sign(tl.where(a < 0.25, series, y), x)


@triton.jit
def cosh(x, precise: tl.constexpr):
    """(exp(x) + exp(-x)) / 2."""
    a = tl.abs(x)
    if precise:
        e, e_low, inverse = _half_exponentials(a)
        return 2.0 * (e + (e_low + inverse))
    else:
        return tl.exp2(tl.fma(a, LOG2_E, -1.0)) + tl.exp2(tl.fma(a, -LOG2_E, -1.0))


@triton.jit
def _log1p_halves(v, n_more):
    """log((1 + v) 2^-n) for halves, n times 2^23 is `n_more`; v >= 0."""
    n, f = split_exponent(1.0 + v)
    return log_of_parts(n.to(tl.float32) + n_more, tl.where(n == 0, v, f), 0.0, False)


@triton.jit
def asinh(x, precise: tl.constexpr):
    """log(|x| + sqrt(x^2 + 1)) = log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))), with the sign of x."""
    a = tl.abs(x)
    far = a > FAR
    n_more = tl.where(far, ONE_LESS, 0.0)
    near = tl.where(far, 1.0, a)
    z = near * near
    if precise:
        w = z * reciprocal_positive(1.0 + tl.sqrt_rn(tl.fma(near, near, 1.0)), True)
        # The larger first: what the sum loses is exact.
        v = near + w
        y = log1p_of_sum(tl.where(far, a - 1.0, v), tl.where(far, 0.0, (near - v) + w), n_more)
        # Near zero x - x^3 / 6, which keeps subnormals.
        y = tl.where(a > 2.44140625e-04, y, tl.fma(a * z, -1.0 / 6.0, a))
        return with_sign(tl.where(a < INFINITY, y, a), x)
    else:
        w = z * reciprocal_positive(1.0 + tl.sqrt(tl.fma(near, near, 1.0)), False)
        y = _log1p_halves(tl.where(far, a, near + w), n_more)
        return with_sign(tl.where(a < INFINITY, y, a), x)


@triton.jit
def acosh(x, precise: tl.constexpr):
    """log(x + sqrt(x^2 - 1)) = log1p(t + sqrt(t (t + 2))), t = x - 1; NaN below 1."""
    far = x > FAR
    n_more = tl.where(far, ONE_LESS, 0.0)
    t = tl.where(far, 1.0, x - 1.0)
    square = tl.fma(t, t, 2.0 * t)
    if precise:
        root = tl.sqrt_rn(square)
        lost = tl.fma(t, t, 2.0 * t - square) - tl.fma(root, root, -square)
        root_low = 0.5 * lost * reciprocal_positive(tl.maximum(root, 1e-10), True)
        v = root + t
        v_low = (root - v) + t + root_low
        y = log1p_of_sum(tl.where(far, x - 1.0, v), tl.where(far, 0.0, v_low), n_more)
    else:
        y = _log1p_halves(tl.where(far, x, t + tl.sqrt(square)), n_more)
    return tl.where(x < INFINITY, tl.where(x >= 1.0, y, float("nan")), x)


@triton.jit
def atanh(x, precise: tl.constexpr):
    """log((1 + x) / (1 - x)) / 2 = log1p(2 |x| / (1 - |x|)) / 2, with the sign of x; NaN beyond 1."""
    a = tl.abs(x)
    d = 1.0 - a
    u = reciprocal_positive(d, precise)
    v = 2.0 * a * u
    if precise:
        lost = tl.fma(-v, d, 2.0 * a) - v * ((1.0 - d) - a)
        y = log1p_of_sum(v, lost * u, 0.0)
        y = tl.where(a < 1.0, 0.5 * y, tl.where(a == 1.0, INFINITY, float("nan")))
    else:
        y = outside(v, -1.0, 0.5 * _log1p_halves(v, 0.0))
    return with_sign(y, x)
