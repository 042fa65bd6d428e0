"""Elementary functions on fp32 blocks, from operations that every Triton backend has.

Each takes `precise`, a compile-time flag: true when the tensors are fp32, where the result must stay within about
one unit in the last place; false when they are fp16 or bf16, whose rounding hides the 2^-22 of the hardware's
approximate exponential. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# ln 2 in two parts: the first ends in nine zero bits, so its product with an integer |n| < 2^9 is exact.
LN2_HIGH = tl.constexpr(0.693145751953125)
LN2_LOW = tl.constexpr(1.4286068203094172e-06)
LARGEST = tl.constexpr(3.4028234663852886e38)
# 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
ROUNDING = tl.constexpr(12582912.0)


@triton.jit
def power_of_two(n):
    """2**n for an integral fp32 n in [-126, 127], exact."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def reduce_exponent(x):
    """n and r with x = n ln 2 + r, n integral, |r| <= ln 2 / 2."""
    n = (x * LOG2_E + ROUNDING) - ROUNDING
    r = tl.fma(n, -LN2_HIGH, x)
    return n, tl.fma(n, -LN2_LOW, r)


@triton.jit
def expm1_reduced(r):
    """exp(r) - 1 on |r| <= ln 2 / 2: r + r^2 q(r), minimax, relative error 2^-28.9."""
    q = tl.fma(r, 0.00019423174318759917, 0.0013928969696032757)
    q = tl.fma(r, q, 0.008333925376506977)
    q = tl.fma(r, q, 0.041666505368200664)
    q = tl.fma(r, q, 0.16666665096456582)
    q = tl.fma(r, q, 0.5000000011066271)
    return tl.fma(r * r, q, r)


@triton.jit
def exp_nonpositive(x, precise: tl.constexpr):
    """exp(x) for x <= 0 or NaN, with gradual underflow."""
    if precise:
        n, r = reduce_exponent(tl.maximum(x, -110.0, propagate_nan=tl.PropagateNan.ALL))
        # The scale 2^n may be subnormal: applied in two exact halves, so that the product rounds once.
        half = ((n * 0.5) + ROUNDING) - ROUNDING
        p = expm1_reduced(r)
        return tl.fma(p, power_of_two(half), power_of_two(half)) * power_of_two(n - half)
    else:
        # ex2.approx.ftz gives 0 for subnormal results, which bfloat16 has: computed 2^16 times larger.
        return tl.exp2(tl.fma(x, LOG2_E, 16.0)) * 1.52587890625e-05


@triton.jit
def _expm1_near_zero(x, otherwise):
    """exp(x) - 1 for halves: where it would cancel, a series whose relative error is |x|^3/24 < 2^-17."""
    series = tl.fma(x * x, tl.fma(x, 1.0 / 6.0, 0.5), x)
    return tl.where(x > -0.0625, series, otherwise)


@triton.jit
def expm1_nonpositive(x, precise: tl.constexpr):
    """exp(x) - 1 for x <= 0 or NaN, without cancellation near zero."""
    if precise:
        # exp(x) is below half a unit of 1 from -17.4 on; the bound keeps 2^n normal.
        n, r = reduce_exponent(tl.maximum(x, -30.0, propagate_nan=tl.PropagateNan.ALL))
        scale = power_of_two(n)
        return tl.fma(expm1_reduced(r), scale, scale - 1.0)
    else:
        return _expm1_near_zero(x, tl.exp2(x * LOG2_E) - 1.0)


@triton.jit
def exp_and_expm1_nonpositive(x, precise: tl.constexpr):
    """Both, for x <= 0 or NaN."""
    e = exp_nonpositive(x, precise)
    if precise:
        return e, expm1_nonpositive(x, precise)
    else:
        return e, _expm1_near_zero(x, e - 1.0)


@triton.jit
def sigmoid(x, precise: tl.constexpr):
    """1 / (1 + exp(-x))."""
    if precise:
        e = exp_nonpositive(-tl.abs(x), precise)
        return tl.div_rn(tl.where(x < 0, e, 1.0), 1.0 + e)
    else:
        return 1.0 / (1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def sigmoid_parts(x, precise: tl.constexpr):
    """sigmoid(x) as the sum of a number and a small one, and 1 - sigmoid(x); neither by cancellation."""
    if precise:
        n, r = reduce_exponent(tl.maximum(-tl.abs(x), -110.0, propagate_nan=tl.PropagateNan.ALL))
        half = ((n * 0.5) + ROUNDING) - ROUNDING
        scale, rest = power_of_two(half), power_of_two(n - half)
        p = expm1_reduced(r)
        # exp(-|x|) = e + e_low: what the sum 1 + p loses is p - (1 + p - 1), exact where p is the smaller.
        mantissa = 1.0 + p
        e = mantissa * scale * rest
        e_low = (p - (mantissa - 1.0)) * scale * rest
        total = 1.0 + e
        total_low = (e - (total - 1.0)) + e_low
        # u + u_low = 1 / (1 + e): a Newton step on an approximate division. q + q_low = e / (1 + e).
        u = 1.0 / total
        u_low = u * tl.fma(-u, total_low, tl.fma(-u, total, 1.0))
        q = e * u
        q_low = tl.fma(e, u, -q) + tl.fma(e, u_low, e_low * u)
        negative = x < 0
        return tl.where(negative, q, u), tl.where(negative, q_low, u_low), tl.where(negative, u + u_low, q + q_low)
    else:
        # Not 1 - value: the division's error, two units, would grow with the factor that x is beside it.
        e = tl.exp2(x * -LOG2_E)
        value = 1.0 / (1.0 + e)
        return value, 0.0, tl.minimum(e, LARGEST) * value


@triton.jit
def exp_scaled(x, x_low):
    """exp(-|x + x_low|) as a product of three, the last two powers of two; precise.

    Whoever multiplies by more before the last one keeps a tail that underflows no further than the product. From
    |x| > 170 on it is 0, and x_low may be anything.
    """
    saturated = tl.abs(x) > 170.0
    n, r = reduce_exponent(tl.maximum(-tl.abs(x), -170.0, propagate_nan=tl.PropagateNan.ALL))
    half = ((n * 0.5) + ROUNDING) - ROUNDING
    mantissa = 1.0 + expm1_reduced(r + tl.where(saturated, 0.0, tl.where(x < 0, x_low, -x_low)))
    return mantissa, power_of_two(half), tl.where(saturated, 0.0, power_of_two(n - half))
