"""The error function on fp32 blocks, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDING,
    expm1_reduced,
    power_of_two,
    reciprocal_positive,
    with_sign,
)


@triton.jit
def _erf_near_zero(a):
    """erf(a) for 0 <= a < 0.9: a + a p(a^2), relative error 2^-30."""
    z = a * a
    q = tl.fma(z, 7.943210221128538e-05, -0.0008039767271839082)
    q = tl.fma(z, q, 0.00519175361841917)
    q = tl.fma(z, q, -0.026855560019612312)
    q = tl.fma(z, q, 0.11283624172210693)
    q = tl.fma(z, q, -0.3761262893676758)
    q = tl.fma(z, q, 0.12837916612625122)
    return tl.fma(a, q, a)


@triton.jit
def _erfc_tail(a):
    """erfc(a) for a > 0.46, precise: (1 + w) exp(-a^2) / (1 + 2 a), w a polynomial of (a - c) / (a + c)."""
    a = tl.minimum(a, 10.25, propagate_nan=tl.PropagateNan.ALL)
    t = (a - 2.1875) * reciprocal_positive(a + 2.1875, True)
    w = tl.fma(t, 0.00021722067322116345, -0.0011602707672864199)
    w = tl.fma(t, w, -0.0017428963910788298)
    w = tl.fma(t, w, 0.008835122920572758)
    w = tl.fma(t, w, 0.006211100146174431)
    w = tl.fma(t, w, -0.07673864811658859)
    w = tl.fma(t, w, 0.16595818102359772)
    w = tl.fma(t, w, -0.13930734992027283)
    w = tl.fma(t, w, -0.10645127296447754)
    w = tl.fma(t, w, 0.2725064158439636)
    # g + g_low = (1 + w) / d, where d + d_low = 1 + 2 a.
    d = tl.fma(2.0, a, 1.0)
    d_low = tl.fma(2.0, a, 1.0 - d)
    u = reciprocal_positive(d, True)
    g = tl.fma(w, u, u)
    g_low = tl.fma(w, u, u - g) + g * tl.fma(-u, d_low, tl.fma(-u, d, 1.0))
    # exp(-a^2) = exp(r + r_low) 2^n: what the square and the reduction lost counts.
    square = a * a
    n = ROUNDING - tl.fma(square, LOG2_E, ROUNDING)
    above = tl.fma(n, -LN2_HIGH, -square)
    r = tl.fma(n, -LN2_LOW, above)
    r_low = tl.fma(n, -LN2_LOW, above - r) - tl.fma(a, a, -square)
    p = expm1_reduced(r)
    half = ((n * 0.5) + ROUNDING) - ROUNDING
    y = g + tl.fma(g, p, tl.fma(tl.fma(g, p, g), r_low, g_low))
    return y * power_of_two(half) * power_of_two(n - half)


@triton.jit
def erf(x, precise: tl.constexpr):
    """The error function of x."""
    a = tl.abs(x)
    if precise:
        return with_sign(tl.where(a < 0.9, _erf_near_zero(a), 1.0 - _erfc_tail(a)), x)
    else:
        # erf(a) / a as a polynomial of a^2 up to 3.125, relative error 2^-19.4; beyond, erf is 1 within 2^-16.8.
        a = tl.minimum(a, 3.125, propagate_nan=tl.PropagateNan.ALL)
        w = tl.fma(a, a, -4.8828125)
        q = tl.fma(w, 2.621535488689375e-10, -3.3974090207777863e-09)
        q = tl.fma(w, q, 2.2450459269407474e-08)
        q = tl.fma(w, q, -2.0791276256204583e-07)
        q = tl.fma(w, q, 2.1705770905100508e-06)
        q = tl.fma(w, q, -1.8301750969840214e-05)
        q = tl.fma(w, q, 0.00013720913557335734)
        q = tl.fma(w, q, -0.0009678188362158835)
        q = tl.fma(w, q, 0.006532995030283928)
        q = tl.fma(w, q, -0.045384690165519714)
        q = tl.fma(w, q, 0.45174381136894226)
        return with_sign(a * q, x)


@triton.jit
def erfc(x, precise: tl.constexpr):
    """1 - erf(x), without cancellation in the tail, down to its underflow."""
    a = tl.abs(x)
    if precise:
        tail = _erfc_tail(a)
        near = 1.0 - with_sign(_erf_near_zero(a), x)
        return tl.where(a < 0.46875, near, tl.where(x < 0, 2.0 - tail, tail))
    else:
        # erfc(a) exp(a^2) / t as a polynomial of t = 1 / (1 + a / 2), relative error 2^-19.6.
        t = reciprocal_positive(tl.fma(a, 0.5, 1.0), precise)
        q = tl.fma(t, 0.08856913447380066, -0.35802164673805237)
        q = tl.fma(t, q, 0.39101988077163696)
        q = tl.fma(t, q, 0.03662058711051941)
        q = tl.fma(t, q, 0.2819797992706299)
        q = tl.fma(t, q, 0.27749308943748474)
        q = tl.fma(t, q, 0.28233787417411804)
        # The exponential as a square: its root is normal where exp(-a^2) is not.
        root = tl.exp2(a * a * (-0.5 * LOG2_E))
        tail = root * (root * (t * q))
        return tl.where(x < 0, 2.0 - tail, tail)
