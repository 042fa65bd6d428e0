"""Logarithms on fp32 blocks, and what is made of them, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    TINY,
    exp_minus_abs,
    reciprocal_positive,
)

LN2 = tl.constexpr(0.6931471805599453)
# Exponents are kept as multiples of 2^23, as they stand in the bits of a float.
EXPONENT_UNIT = tl.constexpr(1.1920928955078125e-07)
INFINITY = tl.constexpr(float("inf"))
FOUR_THIRDS = tl.constexpr(0x3FAAAAAB)


@triton.jit
def split_exponent(x, TOP: tl.constexpr = FOUR_THIRDS):
    """n and f with x = (1 + f) 2^-n for a normal x > 0, TOP / 2 < 1 + f <= TOP; n is an int32, times 2^23.

    TOP is given by its bits. With 4/3, |f| <= 1/3.
    """
    bits = x.to(tl.int32, bitcast=True)
    # The mask of sign and exponent.
    n = (TOP - bits) & -0x800000
    return n, (bits + n).to(tl.float32, bitcast=True) - 1.0


@triton.jit
def log1p_tail(f):
    """(log(1 + f) - f) / f^2 on |f| <= 1/3, relative to log(1 + f) within 2^-30."""
    q = tl.fma(f, 0.11949649453163147, -0.12833340466022491)
    q = tl.fma(f, q, 0.10771752148866653)
    q = tl.fma(f, q, -0.12198631465435028)
    q = tl.fma(f, q, 0.14302541315555573)
    q = tl.fma(f, q, -0.1667935699224472)
    q = tl.fma(f, q, 0.19999685883522034)
    q = tl.fma(f, q, -0.24999825656414032)
    q = tl.fma(f, q, 0.3333333432674408)
    return tl.fma(f, q, -0.5)


@triton.jit
def log1p_factor(f, SCALE: tl.constexpr):
    """SCALE log(1 + f) / f on |f| <= 1/3, for halves: relative error 2^-17.1."""
    q = tl.fma(f, SCALE * -0.1934872269630432, SCALE * 0.2264620065689087)
    q = tl.fma(f, q, SCALE * -0.24849848449230194)
    q = tl.fma(f, q, SCALE * 0.33219248056411743)
    q = tl.fma(f, q, SCALE * -0.5000201463699341)
    return tl.fma(f, q, SCALE * 1.000007152557373)


@triton.jit
def log_of_parts(n, f, f_low, precise: tl.constexpr):
    """log((1 + f + f_low) 2^-n), n times 2^23, a float."""
    if precise:
        t = f + tl.fma(n, -LN2_LOW * EXPONENT_UNIT, tl.fma(f * f, log1p_tail(f), tl.fma(-f, f_low, f_low)))
        return tl.fma(n, -LN2_HIGH * EXPONENT_UNIT, t)
    else:
        q = log1p_factor(f, 1.0)
        # -n times ln 2, so that n = 0 leaves a -0 as it is.
        return tl.fma(n, -LN2 * EXPONENT_UNIT, f * q)


@triton.jit
def outside(x, zero, y):
    """y where `zero` < x < inf; -inf at `zero`, NaN below, x itself at inf and NaN."""
    return tl.where(x < INFINITY, tl.where(x > zero, y, tl.where(x == zero, -INFINITY, float("nan"))), x)


@triton.jit
def split_positive(x, TOP: tl.constexpr = FOUR_THIRDS):
    """As split_exponent, for subnormals too; n is a float."""
    small = x < TINY
    n, f = split_exponent(tl.where(small, x * 8388608.0, x), TOP)
    # 23 * 2^23.
    return n.to(tl.float32) + tl.where(small, 192937984.0, 0.0), f


@triton.jit
def log(x, precise: tl.constexpr):
    """log(x); -inf at 0, NaN below."""
    n, f = split_positive(x)
    return outside(x, 0.0, log_of_parts(n, f, 0.0, precise))


@triton.jit
def log2_of_parts(n, f):
    """log2((1 + f) 2^-n), n times 2^23, precise."""
    k = n * -EXPONENT_UNIT
    high = tl.fma(f, 1.4426950216293335, k)
    low = tl.fma(f, 1.4426950216293335, k - high)
    return high + (low + tl.fma(f, 1.925963033500011e-08, f * (f * log1p_tail(f)) * 1.4426950216293335))


@triton.jit
def log2(x, precise: tl.constexpr):
    """The logarithm to base 2; -inf at 0, NaN below."""
    n, f = split_positive(x)
    if precise:
        return outside(x, 0.0, log2_of_parts(n, f))
    else:
        return outside(x, 0.0, tl.fma(n, -EXPONENT_UNIT, f * log1p_factor(f, 1.4426950408889634)))


@triton.jit
def log10(x, precise: tl.constexpr):
    """The logarithm to base 10; -inf at 0, NaN below."""
    n, f = split_positive(x)
    if precise:
        # log10(2) in two parts, the first of 15 bits, so that k times it is exact.
        k = n * (-0.301025390625 * EXPONENT_UNIT)
        high = tl.fma(f, 0.4342944920063019, k)
        low = tl.fma(f, 0.4342944920063019, k - high)
        tail = tl.fma(f, -1.0103049952192578e-08, f * (f * log1p_tail(f)) * 0.4342944920063019)
        y = high + (low + tl.fma(n, -4.605038981195214e-06 * EXPONENT_UNIT, tail))
    else:
        y = tl.fma(n, -0.3010299956639812 * EXPONENT_UNIT, f * log1p_factor(f, 0.4342944819032518))
    return outside(x, 0.0, y)


@triton.jit
def log1p_of_sum(x, x_low, n_more):
    """log((1 + x + x_low) 2^-n) for finite x > -1, n times 2^23 is `n_more`, precise."""
    u = 1.0 + x
    back = u - 1.0
    lost = (1.0 - (u - back)) + (x - back) + x_low
    n, f = split_exponent(u)
    # 2^n, 0 where it would be subnormal: there, nothing was lost that counts.
    lost = lost * tl.maximum(n + 0x3F800000, 0).to(tl.float32, bitcast=True)
    high = f + lost
    return log_of_parts(n.to(tl.float32) + n_more, high, lost - (high - f), True)


@triton.jit
def log1p(x, precise: tl.constexpr):
    """log(1 + x), without cancellation near zero; -inf at -1, NaN below."""
    if precise:
        # Keeps -0.
        return tl.where(x == 0, x, outside(x, -1.0, log1p_of_sum(x, 0.0, 0.0)))
    else:
        n, f = split_exponent(1.0 + x)
        return outside(x, -1.0, log_of_parts(n.to(tl.float32), tl.where(n == 0, x, f), 0.0, precise))


@triton.jit
def _log1p_of_exp_factor(x):
    """exp(-|x|) and what to multiply it by for log(1 + exp(-|x|)), for halves."""
    # A square: its root is normal where exp(-|x|) is not.
    e = tl.exp2(tl.abs(x) * (-0.5 * LOG2_E))
    e = e * e
    # log(1 + e) / e on [0, 1], relative error 2^-19.6.
    q = tl.fma(e, 0.014145969413220882, -0.06641803681850433)
    q = tl.fma(e, q, 0.14924439787864685)
    q = tl.fma(e, q, -0.23505106568336487)
    q = tl.fma(e, q, 0.33109816908836365)
    q = tl.fma(e, q, -0.4998701214790344)
    return e, tl.fma(e, q, 0.9999987483024597)


@triton.jit
def softplus(x, precise: tl.constexpr):
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    if precise:
        e, e_low = exp_minus_abs(x)
        return tl.maximum(x, 0.0) + log1p_of_sum(e, e_low, 0.0)
    else:
        e, q = _log1p_of_exp_factor(x)
        return tl.fma(e, q, tl.maximum(x, 0.0))


@triton.jit
def logsigmoid(x, precise: tl.constexpr):
    """log(1 / (1 + exp(-x))) = min(x, 0) - log(1 + exp(-|x|))."""
    if precise:
        e, e_low = exp_minus_abs(x)
        return tl.minimum(x, 0.0) - log1p_of_sum(e, e_low, 0.0)
    else:
        e, q = _log1p_of_exp_factor(x)
        return tl.fma(-e, q, tl.minimum(x, 0.0))


@triton.jit
def softplus_and_sigmoid(x, precise: tl.constexpr):
    """log(1 + exp(x)) and its derivative 1 / (1 + exp(-x)), from one exponential."""
    if precise:
        e, e_low = exp_minus_abs(x)
        # u + u_low = 1 / (1 + e + e_low).
        total = 1.0 + e
        u = reciprocal_positive(total, precise)
        u_low = u * tl.fma(-u, (e - (total - 1.0)) + e_low, tl.fma(-u, total, 1.0))
        slope = tl.where(x < 0, tl.fma(e, u, tl.fma(e, u_low, e_low * u)), u + u_low)
        return tl.maximum(x, 0.0) + log1p_of_sum(e, e_low, 0.0), slope
    else:
        e, q = _log1p_of_exp_factor(x)
        u = reciprocal_positive(1.0 + e, precise)
        return tl.fma(e, q, tl.maximum(x, 0.0)), tl.where(x < 0, e, 1.0) * u
