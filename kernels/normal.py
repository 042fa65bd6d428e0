"""The normal distribution on fp32 blocks, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDING,
    SHRINK,
    expm1_reduced,
    power_of_two_of_bits,
    reciprocal_positive,
)

# Beyond, the density times the distance from 0 is 0 in fp32.
FAR = tl.constexpr(14.75)
# Up to here what is precise takes polynomials of x^2.
NEAR = tl.constexpr(1.0)
# The density at 0; and 16 more than its logarithm to base 2.
DENSITY = tl.constexpr(0.3989422804014327)
LOG2_DENSITY_16 = tl.constexpr(14.674251935263839)


@triton.jit
def distance(x):
    """|x|, bounded where no tail is left; a NaN stays."""
    return tl.minimum(tl.abs(x), FAR, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def root_of_tail(a):
    """The square root of the probability beyond a, for halves and 0 <= a <= FAR."""
    # Its logarithm to base 2, the square's relative error 2^-16.7 up to 5.9; beyond, where only bfloat16 is, 2^-13.9.
    p = tl.fma(a, 1.999412961584124e-11, -2.328301773601993e-09)
    p = tl.fma(a, p, 1.1027770341343057e-07)
    p = tl.fma(a, p, -2.9099428502377123e-06)
    p = tl.fma(a, p, 4.865325536229648e-05)
    p = tl.fma(a, p, -0.0005534052033908665)
    p = tl.fma(a, p, 0.004499304108321667)
    p = tl.fma(a, p, -0.027351001277565956)
    p = tl.fma(a, p, -0.22895994782447815)
    p = tl.fma(a, p, -0.5756999254226685)
    return tl.exp2(tl.fma(a, p, -0.4999944269657135))


@triton.jit
def density_halves(a):
    """The density at a, 2^16 times larger, for halves."""
    return tl.exp2(tl.fma(a * (-0.5 * LOG2_E), a, LOG2_DENSITY_16))


@triton.jit
def mills_halves(a):
    """t and q: the probability beyond a over the density there is 2^16 t q, relative error 2^-19, for halves."""
    # With a Newton step, for the root of gelu's derivative.
    t = reciprocal_positive(tl.fma(a, 0.3, 1.0), True)
    q = tl.fma(t, -3.0215007882361533e-06, 8.422352948400658e-06)
    q = tl.fma(t, q, -7.409430509142112e-07)
    q = tl.fma(t, q, 5.500420684256824e-06)
    q = tl.fma(t, q, 4.376310698717134e-06)
    return t, tl.fma(t, q, 4.5873935050622094e-06)


@triton.jit
def density(a, more, MORE: tl.constexpr):
    """exp(-a^2 / 2 - more) 2^32 for 0 <= a <= FAR, precise; without `more` if MORE is false."""
    square = a * a
    shifted = tl.fma(square, -0.5 * LOG2_E, ROUNDING)
    n = shifted - ROUNDING
    r = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, -0.5 * square))
    # With what the square lost.
    r = tl.fma(-0.5, tl.fma(a, a, -square), r)
    if MORE:
        r -= more
    scale = power_of_two_of_bits(shifted, 32)
    return tl.fma(expm1_reduced(r), scale, scale)


@triton.jit
def mills(a):
    """The probability beyond a over exp(-a^2 / 2), for a >= 0.98: relative error 2^-29, precise."""
    t = reciprocal_positive(tl.fma(a, 0.28125, 1.0), True)
    q = tl.fma(t, 0.03179898113012314, -0.11944346874952316)
    q = tl.fma(t, q, 0.1324273645877838)
    q = tl.fma(t, q, -0.0431496798992157)
    q = tl.fma(t, q, 0.09180955588817596)
    q = tl.fma(t, q, 0.0776752308011055)
    q = tl.fma(t, q, 0.10459618270397186)
    q = tl.fma(t, q, 0.11208660900592804)
    return t * tl.fma(t, q, 0.11220710724592209)


@triton.jit
def probability_near_zero(x):
    """The probability below x for |x| <= NEAR, precise: 1/2 + x p(x^2), p within 2^-30."""
    z = x * x
    p = tl.fma(z, -1.2995780707569793e-05, 0.0001269831118406728)
    p = tl.fma(z, p, -0.001198302023112774)
    p = tl.fma(z, p, 0.009977677837014198)
    p = tl.fma(z, p, -0.06649091839790344)
    return tl.fma(x, tl.fma(z, p, 0.3989422917366028), 0.5)


@triton.jit
def probability(x, x_low, precise: tl.constexpr):
    """The probability below x + x_low, with the tail's relative accuracy; for halves x_low is 0."""
    a = distance(x)
    if precise:
        tail = density(a, x * x_low, True) * mills(a) * SHRINK
        return tl.where(a < NEAR, probability_near_zero(x), tl.where(x < 0, tail, 1.0 - tail))
    else:
        root = root_of_tail(a)
        return tl.where(x < 0, root * root, tl.fma(-root, root, 1.0))
