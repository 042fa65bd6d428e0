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
# The smallest normal number.
TINY = tl.constexpr(1.1754943508222875e-38)
SIGN = tl.constexpr(-0x80000000)
# 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
ROUNDING = tl.constexpr(12582912.0)
# What small things are computed larger by: 2^32 when precise, 2^16 for halves.
SHRINK = tl.constexpr(2.3283064365386963e-10)
SHRINK_HALVES = tl.constexpr(1.52587890625e-05)


@triton.jit
def power_of_two(n):
    """2**n for an integral fp32 n in [-126, 127], exact."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def power_of_two_of_bits(shifted, MORE: tl.constexpr):
    """2**(n + MORE) from n + ROUNDING, whose lowest bits are n's, for n + MORE in [-126, 127]."""
    return ((shifted.to(tl.int32, bitcast=True) + (127 + MORE)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def reduce_exponent(x):
    """n and r with x = n ln 2 + r, n integral, |r| <= ln 2 / 2."""
    n = (x * LOG2_E + ROUNDING) - ROUNDING
    r = tl.fma(n, -LN2_HIGH, x)
    return n, tl.fma(n, -LN2_LOW, r)


@triton.jit
def expm1_factor(r):
    """(exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, minimax, relative to exp(r) - 1 within 2^-28.9."""
    q = tl.fma(r, 0.00019423174318759917, 0.0013928969696032757)
    q = tl.fma(r, q, 0.008333925376506977)
    q = tl.fma(r, q, 0.041666505368200664)
    q = tl.fma(r, q, 0.16666665096456582)
    return tl.fma(r, q, 0.5000000011066271)


@triton.jit
def expm1_reduced(r):
    """exp(r) - 1 on |r| <= ln 2 / 2: r + r^2 q(r)."""
    return tl.fma(r * r, expm1_factor(r), r)


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
        value, _, _ = sigmoid_parts(x, precise)
        return value


@triton.jit
def exp_minus_abs(x):
    """exp(-|x|) and what it lost in rounding, precise."""
    n, r = reduce_exponent(tl.maximum(-tl.abs(x), -110.0, propagate_nan=tl.PropagateNan.ALL))
    half = ((n * 0.5) + ROUNDING) - ROUNDING
    scale, rest = power_of_two(half), power_of_two(n - half)
    p = expm1_reduced(r)
    # What the sum loses is p - (1 + p - 1), exact where p is the smaller.
    mantissa = 1.0 + p
    return mantissa * scale * rest, (p - (mantissa - 1.0)) * scale * rest


@triton.jit
def sigmoid_sides(e, e_low):
    """1 / (1 + e) and e / (1 + e) for e = exp(-|x|): sigmoid(|x|) and sigmoid(-|x|), precise.

    All three are each a number and a small one that is its sum's other part.
    """
    total = 1.0 + e
    total_low = (e - (total - 1.0)) + e_low
    # u + u_low = 1 / (1 + e): a Newton step on an approximate division. q + q_low = e / (1 + e).
    u = 1.0 / total
    u_low = u * tl.fma(-u, total_low, tl.fma(-u, total, 1.0))
    q = e * u
    q_low = tl.fma(e, u, -q) + tl.fma(e, u_low, e_low * u)
    return u, u_low, q, q_low


@triton.jit
def sigmoid_parts(x, precise: tl.constexpr):
    """sigmoid(x) as the sum of a number and a small one, and 1 - sigmoid(x); neither by cancellation."""
    if precise:
        u, u_low, q, q_low = sigmoid_sides(*exp_minus_abs(x))
        negative = x < 0
        return tl.where(negative, q, u), tl.where(negative, q_low, u_low), tl.where(negative, u + u_low, q + q_low)
    else:
        # 2^-16 / (2^-16 + 2^-16 exp(-x)): the tail is not lost before fp32 loses it.
        e = tl.exp2(tl.fma(x, -LOG2_E, -16.0))
        u = reciprocal_positive(e + 1.52587890625e-05, precise)
        # Not 1 - value: the quotient's error would grow with the factor that x is beside it. For an infinite e u is 0.
        return u * 1.52587890625e-05, 0.0, tl.minimum(e, LARGEST) * u


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


@triton.jit
def bounded(x, low, high):
    """x between low and high; a NaN stays."""
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def with_sign(magnitude, x):
    """The magnitude, which is not negative, with the sign of x."""
    return (magnitude.to(tl.int32, bitcast=True) | (x.to(tl.int32, bitcast=True) & SIGN)).to(tl.float32, bitcast=True)


@triton.jit
def reciprocal_positive(d, precise: tl.constexpr):
    """1 / d for normal d > 0; for halves d may be infinite, for fp32 it must be below 2^126.

    The square of an approximate rsqrt: two instructions where a division takes seven, to scale huge divisors.
    """
    root = tl.rsqrt(d)
    u = root * root
    if precise:
        u = tl.fma(u, tl.fma(-u, d, 1.0), u)
    return u


@triton.jit
def exp(x, precise: tl.constexpr):
    """exp(x)."""
    if precise:
        n, r = reduce_exponent(bounded(x, -110.0, 89.0))
        half = ((n * 0.5) + ROUNDING) - ROUNDING
        p = expm1_reduced(r)
        return tl.fma(p, power_of_two(half), power_of_two(half)) * power_of_two(n - half)
    else:
        # A square: its root is normal where exp(x) is not.
        root = tl.exp2(x * (0.5 * LOG2_E))
        return root * root


@triton.jit
def exp2m1_reduced(f):
    """2^f - 1 for |f| <= 0.5: f ln 2 + f^2 q(f), ln 2 in two parts, relative error 2^-33."""
    q = tl.fma(f, 1.5319314115913585e-05, 0.0001545554696349427)
    q = tl.fma(f, q, 0.00133334135171026)
    q = tl.fma(f, q, 0.009618079289793968)
    q = tl.fma(f, q, 0.05550410971045494)
    q = tl.fma(f, q, 0.24022650718688965)
    return tl.fma(f, 0.6931471824645996, f * tl.fma(f, q, -1.9046542121259336e-09))


@triton.jit
def exp2(x, precise: tl.constexpr):
    """2^x."""
    if precise:
        x = bounded(x, -160.0, 160.0)
        n = (x + ROUNDING) - ROUNDING
        half = ((n * 0.5) + ROUNDING) - ROUNDING
        return tl.fma(exp2m1_reduced(x - n), power_of_two(half), power_of_two(half)) * power_of_two(n - half)
    else:
        # As in exp.
        root = tl.exp2(x * 0.5)
        return root * root


@triton.jit
def expm1(x, precise: tl.constexpr):
    """exp(x) - 1, without cancellation near zero."""
    if precise:
        n, r = reduce_exponent(bounded(x, -30.0, 89.0))
        # 2^(n - 1): n may be 128.
        scale = power_of_two(n - 1.0)
        y = tl.fma(expm1_reduced(r), scale, scale - 0.5) * 2.0
        # Keeps -0, and subnormals from being halved.
        return tl.where(tl.abs(x) < 2.9802322387695312e-08, x, y)
    else:
        series = x * tl.fma(x, tl.fma(x, 0.16669608652591705, 0.5001220107078552), 1.0)
        return tl.where(tl.abs(x) < 0.0625, series, tl.exp2(x * LOG2_E) - 1.0)


@triton.jit
def _tanh_near_zero(a, precise: tl.constexpr):
    """tanh(a), an odd polynomial: precise for 0 <= a < 0.625, relative error 2^-32; else below 1/8, 2^-17.9."""
    z = a * a
    if precise:
        q = tl.fma(z, 0.002153440611436963, -0.008190608583390713)
        q = tl.fma(z, q, 0.021707041189074516)
        q = tl.fma(z, q, -0.053948190063238144)
        q = tl.fma(z, q, 0.13333220779895782)
        q = tl.fma(z, q, -0.3333333134651184)
        return tl.fma(a * z, q, a)
    else:
        return a * tl.fma(z, -0.33126047253608704, 0.9999959468841553)


@triton.jit
def tanh(x, precise: tl.constexpr):
    """tanh(x) = 1 - 2 / (exp(2 x) + 1)."""
    if precise:
        a = tl.abs(x)
        n, r = reduce_exponent(tl.minimum(2.0 * a, 20.0, propagate_nan=tl.PropagateNan.ALL))
        scale = power_of_two(n)
        u = reciprocal_positive(tl.fma(expm1_reduced(r), scale, scale + 1.0), precise)
        return with_sign(tl.where(a < 0.625, _tanh_near_zero(a, precise), tl.fma(-2.0, u, 1.0)), x)
    else:
        u = reciprocal_positive(tl.exp2(x * (2.0 * LOG2_E)) + 1.0, precise)
        return tl.where(tl.abs(x) < 0.125, _tanh_near_zero(x, precise), tl.fma(-2.0, u, 1.0))


@triton.jit
def tanh_parts(x, precise: tl.constexpr):
    """tanh(x) and 1 - tanh(x)^2 = 4 e / (1 + e)^2, where e = exp(-2 |x|): neither by cancellation."""
    a = tl.abs(x)
    if precise:
        n, r = reduce_exponent(tl.maximum(-2.0 * a, -110.0, propagate_nan=tl.PropagateNan.ALL))
        half = ((n * 0.5) + ROUNDING) - ROUNDING
        scale, rest = power_of_two(half), power_of_two(n - half)
        p = expm1_reduced(r)
        mantissa = 1.0 + p
        mantissa_low = p - (mantissa - 1.0)
        e = mantissa * scale * rest
        total = 1.0 + e
        total_low = (e - (total - 1.0)) + mantissa_low * scale * rest
        u = reciprocal_positive(total, precise)
        u_low = u * tl.fma(-u, total_low, tl.fma(-u, total, 1.0))
        # 1 / (1 + e)^2 = w + w_low; e is a product whose last factor comes last: the tail rounds once.
        w = u * u
        w_low = tl.fma(u, u, -w) + 2.0 * u * u_low
        slope = tl.fma(mantissa, w, tl.fma(mantissa, w_low, mantissa_low * w)) * (4.0 * scale) * rest
        large = tl.fma(-2.0 * e, u, 1.0)
    else:
        # 2^16 e, as ex2.approx.ftz gives 0 for subnormal results, which bfloat16 has.
        e = tl.exp2(tl.fma(a, -2.0 * LOG2_E, 16.0))
        u = reciprocal_positive(tl.fma(e, 1.52587890625e-05, 1.0), precise)
        q = e * u
        slope = q * (u * 6.103515625e-05)
        large = tl.fma(q, -3.0517578125e-05, 1.0)
    small: tl.constexpr = 0.625 if precise else 0.125
    return with_sign(tl.where(a < small, _tanh_near_zero(a, precise), large), x), slope


@triton.jit
def reciprocal(x, precise: tl.constexpr):
    """1 / x."""
    if precise:
        return tl.div_rn(1.0, x)
    else:
        # rsqrt(|x|)^2, for a subnormal x, which rsqrt takes for 0, of 2^24 |x|.
        a = tl.abs(x)
        scale = tl.where(a < TINY, 16777216.0, 1.0)
        root = tl.rsqrt(a * scale)
        return with_sign(root * (root * scale), x)


@triton.jit
def divide(a, b, precise: tl.constexpr):
    """a / b."""
    if precise:
        return tl.div_rn(a, b)
    else:
        # An approximate division may give 0 for divisors above 2^126.
        scale = tl.where(tl.abs(b) > 8.507059173023462e37, 0.25, 1.0)
        return (a * scale) / (b * scale)


@triton.jit
def divide_by_parameter(a, b, precise: tl.constexpr):
    """a / b, where many a share one b: by its inverse, for halves."""
    if precise:
        return tl.div_rn(a, b)
    else:
        # Neither b nor its inverse leaves the normal numbers: 2^100, 2^32.
        size = tl.abs(b)
        scale = tl.where(size < 7.888609052210118e-31, 4294967296.0, 1.0)
        scale = tl.where(size > 1.2676506002282294e30, 2.3283064365386963e-10, scale)
        return (a * scale) * (1.0 / (b * scale))


@triton.jit
def product_with_inverse(a, b, precise: tl.constexpr):
    """a / b for normal b > 0, for halves within 2^-21."""
    if precise:
        return tl.div_rn(a, b)
    else:
        return a * reciprocal_positive(b, precise)


@triton.jit
def reciprocal_normal(x, precise: tl.constexpr):
    """1 / x for normal x > 0."""
    if precise:
        return tl.div_rn(1.0, x)
    else:
        return reciprocal_positive(x, precise)


@triton.jit
def sqrt_normal(x, precise: tl.constexpr):
    """The square root of a normal x > 0."""
    if precise:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def sqrt(x, precise: tl.constexpr):
    """The square root of x; NaN for x < 0."""
    if precise:
        return tl.sqrt_rn(x)
    else:
        # The approximate one takes a subnormal for 0.
        small = tl.abs(x) < TINY
        return tl.sqrt(tl.where(small, x * 281474976710656.0, x)) * tl.where(small, 5.960464477539063e-08, 1.0)


@triton.jit
def rsqrt(x, precise: tl.constexpr):
    """1 / sqrt(x); NaN for x < 0, an infinity for a zero."""
    # The approximate one takes a subnormal for 0.
    small = tl.abs(x) < TINY
    scaled = tl.where(small, x * 281474976710656.0, x)
    y = tl.rsqrt(scaled)
    if precise:
        # A Newton step, with what the product loses; at 0 and inf there is nothing to repair.
        p = scaled * y
        lost = tl.fma(-p, y, 1.0) - tl.fma(scaled, y, -p) * y
        y = tl.where((x > 0) & (x < float("inf")), tl.fma(0.5 * y, lost, y), y)
    return y * tl.where(small, 16777216.0, 1.0)


@triton.jit
def rsqrt_normal(x, precise: tl.constexpr):
    """1 / sqrt(x) for normal x > 0."""
    if precise:
        return rsqrt(x, precise)
    else:
        return tl.rsqrt(x)


@triton.jit
def sigmoid_complement_slope(x, precise: tl.constexpr):
    """sigmoid(x), 1 - sigmoid(x) and their product, which share their exponential; the tails last as long as fp32."""
    if precise:
        e, e_low = exp_minus_abs(x)
    else:
        # 2^16 exp(-|x|), as ex2.approx.ftz gives 0 for subnormal results, which bfloat16 has.
        e, e_low = tl.exp2(tl.fma(tl.abs(x), -LOG2_E, 16.0)), 0.0
    return sigmoid_of_exponential(x, e, e_low, precise)


@triton.jit
def sigmoid_of_exponential(x, e, e_low, precise: tl.constexpr):
    """sigmoid(x), 1 - sigmoid(x) and their product from e + e_low = exp(-|x|), for halves 2^16 times larger."""
    if precise:
        u, u_low, q, q_low = sigmoid_sides(e, e_low)
        u = u + u_low
        slope = tl.fma(u, q, u * q_low)
        q = q + q_low
    else:
        u = reciprocal_positive(tl.fma(e, SHRINK_HALVES, 1.0), precise)
        q = (e * u) * SHRINK_HALVES
        slope = u * q
    return tl.where(x < 0, q, u), tl.where(x < 0, u, q), slope
