"""Rounding to integers and remainders on fp32 blocks, all exact, for every dtype the same."""

import triton
import triton.language as tl

from .device_math import ROUNDING, power_of_two, reciprocal_positive, with_sign

# 2^23, from which on all floats are integers.
INTEGERS = tl.constexpr(8388608.0)


@triton.jit
def round(x, precise: tl.constexpr):
    """The nearest integer, ties to even."""
    a = tl.abs(x)
    return with_sign(tl.where(a < INTEGERS, (a + INTEGERS) - INTEGERS, a), x)


@triton.jit
def trunc(x, precise: tl.constexpr):
    """The nearest integer that is not further from zero."""
    a = tl.abs(x)
    nearest = (a + INTEGERS) - INTEGERS
    return with_sign(tl.where(a < INTEGERS, nearest - tl.where(nearest > a, 1.0, 0.0), a), x)


@triton.jit
def _mantissa_and_exponent(a):
    """m and e with a = m 2^e, 1 <= m < 2, for finite a > 0."""
    small = a < 1.1754943508222875e-38
    bits = tl.where(small, a * 16777216.0, a).to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) - tl.where(small, 151, 127)).to(tl.float32)
    return ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True), exponent


@triton.jit
def fmod(a, b, precise: tl.constexpr):
    """a - b trunc(a / b), exact, with the sign of a."""
    size, by = tl.abs(a), tl.abs(b)
    m, exponent = _mantissa_and_exponent(size)
    d, by_exponent = _mantissa_and_exponent(by)
    inverse = reciprocal_positive(d, True)
    left = exponent - by_exponent
    r = tl.where(m >= d, m - d, m)
    # A long division, 22 bits of the quotient at a time: exponents differ by 276 at most.
    for _ in range(13):
        bits = tl.minimum(tl.maximum(left, 0.0), 22.0)
        left -= bits
        shifted = r * power_of_two(bits)
        # The nearest quotient, or one beside it: |r| stays below d, and the multiply-add is exact.
        quotient = (shifted * inverse + ROUNDING) - ROUNDING
        r = tl.fma(-quotient, d, shifted)
    r = tl.where(r < 0, r + d, r)
    # Two steps, as the scale may be subnormal; the product is exact.
    half = tl.floor(by_exponent * 0.5)
    r = r * power_of_two(half) * power_of_two(by_exponent - half)
    y = with_sign(tl.where(size < by, size, r), a)
    return tl.where((size < float("inf")) & (by > 0), y, float("nan"))


@triton.jit
def remainder(a, b, precise: tl.constexpr):
    """a - b floor(a / b), with the sign of b."""
    r = fmod(a, b, precise)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
