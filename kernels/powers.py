"""Powers on fp32 blocks, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import ROUNDING, SIGN, bounded, exp2m1_reduced, power_of_two, reciprocal_positive
from .logarithms import EXPONENT_UNIT, INFINITY, LN2, log2_of_parts, split_positive

# As bits.
ROOT_OF_TWO = tl.constexpr(0x3FB504F3)


@triton.jit
def _log2_in_two(n, f):
    """log2((1 + f) 2^-n), n times 2^23, as a sum, within 2^-34: 2 (s + s^3 (1/3 + ...)), s = f / (2 + f).

    |log2(1 + f)| <= 1/2, so that what adding it to the exponent loses is found exactly.
    """
    d = 2.0 + f
    u = reciprocal_positive(d, True)
    s = f * u
    s_low = (tl.fma(-s, d, f) - s * (f - (d - 2.0))) * u
    z = s * s
    z_low = tl.fma(s, s, -z) + 2.0 * s * s_low
    q = tl.fma(z, 0.0964699238538742, 0.1110091507434845)
    q = tl.fma(z, q, 0.14285729825496674)
    q = tl.fma(z, q, 0.20000000298023224)
    third = tl.fma(z, q, 0.3333333432674408)
    third_low = tl.fma(z, q, 0.3333333432674408 - third) - 9.934107758624577e-09
    c = z * third
    c_low = tl.fma(z, third, -c) + tl.fma(z, third_low, z_low * third)
    high = tl.fma(s, c, s)
    low = tl.fma(s, c, s - high) + tl.fma(s, c_low, tl.fma(s_low, c, s_low))
    # Times 2 / ln 2, plus the exponent.
    k = n * -EXPONENT_UNIT
    y = tl.fma(high, 2.885390043258667, k)
    return y, tl.fma(high, 2.885390043258667, k - y) + tl.fma(high, 3.851926067000022e-08, low * 2.885390043258667)


@triton.jit
def pow(a, b, precise: tl.constexpr):
    """a^b as C has it: 1 where b = 0 or a = 1, NaN for a finite negative a and a b that is no integer."""
    size = tl.abs(a)
    if precise:
        n, f = split_positive(size, ROOT_OF_TWO)
        h, h_low = _log2_in_two(n, f)
    else:
        n, f = split_positive(size)
        h = log2_of_parts(n, f)
    h = tl.where(size == 0, -INFINITY, tl.where(size == INFINITY, INFINITY, h))
    p = b * h
    if precise:
        inside = tl.abs(p) < 160.0
        # The bound also keeps the compiler from fusing this product into the difference below.
        t = bounded(p, -160.0, 160.0)
        m = (t + ROUNDING) - ROUNDING
        e = exp2m1_reduced(t - m)
        lost = tl.where(inside, tl.fma(b, h_low, tl.fma(b, h, -t)), 0.0)
        e = tl.fma(lost * LN2, 1.0 + e, e)
        half = ((m * 0.5) + ROUNDING) - ROUNDING
        y = tl.fma(e, power_of_two(half), power_of_two(half)) * power_of_two(m - half)
    else:
        root = tl.exp2(p * 0.5)
        y = root * root
    y = tl.where(size == 1.0, 1.0, y)
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b * 0.5) != b * 0.5)
    # An odd integer hands on the sign of a.
    sign = tl.where(odd, a.to(tl.int32, bitcast=True) & SIGN, 0)
    y = (y.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    y = tl.where((a < 0) & (size < INFINITY) & (whole == 0), float("nan"), y)
    y = tl.where((a == a) & (b == b), y, float("nan"))
    return tl.where((b == 0) | (a == 1.0), 1.0, y)
