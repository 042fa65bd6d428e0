"""Logarithms on fp32 blocks, and what is made of them, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDING,
    TINY,
    exp_minus_abs,
    expm1_reduced,
    power_of_two_of_bits,
    sigmoid_of_exponential,
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


# ----- log(1 + exp(x))


@triton.jit
def exp_of_minus(a, a_low):
    """2^32 exp(-(a + a_low)) for a >= 0 or NaN, precise; from 110 on it is 0 to whoever takes the 2^32 away."""
    a = tl.minimum(a, 110.0, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(a, -LOG2_E, ROUNDING)
    n = shifted - ROUNDING
    r = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, -a)) - a_low
    scale = power_of_two_of_bits(shifted, 32)
    return tl.fma(expm1_reduced(r), scale, scale)


@triton.jit
def log1p_rest_to_one(e):
    """(log(1 + e) - e + e^2 / 2) / e^3 on [0, 1], relative to log(1 + e) within 2^-29.6, precise."""
    q = tl.fma(e, 0.0022768813651055098, -0.014684543013572693)
    q = tl.fma(e, q, 0.044302985072135925)
    q = tl.fma(e, q, -0.08592359721660614)
    q = tl.fma(e, q, 0.12679928541183472)
    q = tl.fma(e, q, -0.16228531301021576)
    q = tl.fma(e, q, 0.19926370680332184)
    q = tl.fma(e, q, -0.2499331533908844)
    return tl.fma(e, q, 0.3333309292793274)


@triton.jit
def log1p_tail_to_one(e):
    """(log(1 + e) - e) / e^2 on [0, 1], relative to log(1 + e) within 2^-29.6, precise."""
    return tl.fma(e, log1p_rest_to_one(e), -0.5)


@triton.jit
def log1p_factor_to_one(e, by):
    """by log(1 + 2^-16 e) / e for 2^-16 e in [0, 1], relative error 2^-16.9, for halves."""
    q = tl.fma(e, by * -3.012515074688469e-31, by * 8.372610346525394e-26)
    q = tl.fma(e, q, by * -1.1386600766332018e-20)
    q = tl.fma(e, q, by * 1.155362680933759e-15)
    q = tl.fma(e, q, by * -1.1626660051389237e-10)
    return tl.fma(e, q, by * 1.525866082374705e-05)


@triton.jit
def _log1p_of_exp(x, more, precise: tl.constexpr):
    """log(1 + exp(-|x|)) + more, and exp(-|x|) as sigmoid_of_exponential takes it."""
    if precise:
        e, e_low = exp_minus_abs(x)
        # e - e^2 / 2, and what it loses: the rest is small.
        half = -0.5 * e
        y = tl.fma(half, e, e)
        lost = tl.fma(half, e, e - y) + tl.fma(-e, e_low, e_low)
        return y + (tl.fma(e * e, e * log1p_rest_to_one(e), lost) + more), e, e_low
    else:
        e = tl.exp2(tl.fma(tl.abs(x), -LOG2_E, 16.0))
        return tl.fma(e, log1p_factor_to_one(e, 1.0), more), e, 0.0


@triton.jit
def softplus(x, precise: tl.constexpr):
    """log(1 + exp(x)) = log(1 + exp(-|x|)) + max(x, 0)."""
    y, _, _ = _log1p_of_exp(x, tl.maximum(x, 0.0), precise)
    return y


@triton.jit
def logsigmoid(x, precise: tl.constexpr):
    """log(1 / (1 + exp(-x))) = -(log(1 + exp(-|x|)) + max(-x, 0))."""
    y, _, _ = _log1p_of_exp(x, tl.maximum(-x, 0.0), precise)
    return -y


@triton.jit
def softplus_and_sigmoid(x, precise: tl.constexpr):
    """log(1 + exp(x)), its derivative sigmoid(x), 1 less that, and their product, from one exponential."""
    y, e, e_low = _log1p_of_exp(x, tl.maximum(x, 0.0), precise)
    s, complement, slope = sigmoid_of_exponential(x, e, e_low, precise)
    return y, s, complement, slope
