"""Angles on fp32 blocks, from operations that every Triton backend has.

`precise` as in device_math.py. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import ROUNDING, SIGN, reciprocal_positive, with_sign

INFINITY = tl.constexpr(float("inf"))
# pi / 2 in three parts.
HALF_PI = tl.constexpr(1.5707963705062866)
HALF_PI_MIDDLE = tl.constexpr(-4.371138828673793e-08)
HALF_PI_LOW = tl.constexpr(-1.7151245100058819e-15)
# Up to here multiples of pi / 2 are subtracted in floating point.
MODERATE = tl.constexpr(131072.0)


@triton.jit
def _choose(i, a: tl.constexpr, b: tl.constexpr, c: tl.constexpr, d: tl.constexpr):
    """The i-th of four 32-bit words, as an unsigned 64-bit number."""
    word = tl.where(i < 2, tl.where(i == 0, a, b), tl.where(i == 2, c, d))
    return word.to(tl.uint32, bitcast=True).to(tl.uint64)


@triton.jit
def _reduce_large(a):
    """As _reduce, for finite a >= 2^17, with as many bits of 2 / pi as it takes, in integers."""
    bits = a.to(tl.int32, bitcast=True)
    mantissa = (((bits & 0x7FFFFF) | 0x800000) << 8).to(tl.uint32, bitcast=True).to(tl.uint64)
    # a 2 / pi mod 4 needs the 96 bits of 2 / pi from this one on; 32 zeros stand before them all.
    first = ((bits >> 23) - 128) & 127
    i = first >> 5
    shift = (first & 31).to(tl.uint64)
    # 0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, as signed numbers.
    w0 = _choose(i, 0, -0x5D067C92, 0x4E441529, -0x3D8A82F)
    w1 = _choose(i, -0x5D067C92, 0x4E441529, -0x3D8A82F, -0xACB2240)
    w2 = _choose(i, 0x4E441529, -0x3D8A82F, -0xACB2240, -0x249D6A67)
    w3 = _choose(i, -0x3D8A82F, -0xACB2240, -0x249D6A67, 0x3C439041)
    w0 = (((w0 << 32) | w1) << shift) >> 32
    w1 = (((w1 << 32) | w2) << shift) >> 32
    w2 = (((w2 << 32) | w3) << shift) >> 32
    # The fraction of a (2 / pi) / 4 in 64 bits: two of the quadrant, then its part of a quadrant.
    fraction = ((mantissa * w0) << 32) + mantissa * w1 + ((mantissa * w2) >> 32)
    quadrant = (fraction + 0x2000000000000000) >> 62
    rest = (fraction - (quadrant << 62)).to(tl.int64, bitcast=True)
    high = rest.to(tl.float32)
    low = (rest - high.to(tl.int64)).to(tl.float32)
    # Times 2^-62 pi / 2, in two parts.
    r = high * 3.4061216748705226e-19
    low = tl.fma(high, -9.478396428567739e-27, low * 3.4061216748705226e-19)
    r_low = tl.fma(high, 3.4061216748705226e-19, -r) + low
    return quadrant.to(tl.int32), r, r_low


@triton.jit
def _reduce(a, precise: tl.constexpr, LARGE: tl.constexpr):
    """q, r, and r_low with a = q pi / 2 + r + r_low mod 2 pi and |r| <= pi / 4, for a >= 0."""
    n = (a * 0.6366197723675814 + ROUNDING) - ROUNDING
    above = tl.fma(n, -HALF_PI, a)
    r = tl.fma(n, -HALF_PI_MIDDLE, above)
    q = n.to(tl.int32)
    if precise:
        r_low = tl.fma(n, -HALF_PI_LOW, tl.fma(n, -HALF_PI_MIDDLE, above - r))
    else:
        r = tl.fma(n, -HALF_PI_LOW, r)
        r_low = 0.0
    if LARGE:
        large = a > MODERATE
        large_q, large_r, large_low = _reduce_large(a)
        q = tl.where(large, large_q, q)
        r = tl.where(large, large_r, r)
        r_low = tl.where(large, large_low, r_low) if precise else 0.0
    return q, r, r_low


@triton.jit
def _sin_cos_reduced(r, r_low, precise: tl.constexpr):
    """sin and cos of r + r_low, |r| <= pi / 4, each as a sum of a number and a smaller one."""
    z = r * r
    if precise:
        s = tl.fma(z, 2.8317181204329245e-06, -0.00019853025150950998)
        s = tl.fma(z, s, 0.008333379402756691)
        s = tl.fma(z, s, -0.1666666716337204)
        c = tl.fma(z, 2.4431425117654726e-05, -0.0013887304812669754)
        c = tl.fma(z, c, 0.04166664555668831)
        w = tl.fma(-0.5, z, 1.0)
        w_low = tl.fma(-0.5, tl.fma(r, r, -z), tl.fma(-0.5, z, 1.0 - w))
        return r, tl.fma(r * z, s, r_low * w), w, tl.fma(z * z, c, tl.fma(-r, r_low, w_low))
    else:
        s = tl.fma(z, 0.008148256689310074, -0.16662298142910004)
        s = tl.fma(z, s, 0.9999984502792358)
        c = tl.fma(z, -0.0013533133314922452, 0.041650377213954926)
        c = tl.fma(z, c, -0.4999975562095642)
        return r * s, 0.0, tl.fma(z, c, 0.9999999403953552), 0.0


@triton.jit
def _turned(x, y, q):
    """y with the sign of q's second bit and of x; NaN for an infinite or NaN x."""
    bits = y.to(tl.int32, bitcast=True) ^ ((q << 30) & SIGN) ^ (x.to(tl.int32, bitcast=True) & SIGN)
    return tl.where(tl.abs(x) < INFINITY, bits.to(tl.float32, bitcast=True), float("nan"))


@triton.jit
def sin_and_cos(x, precise: tl.constexpr, LARGE: tl.constexpr = True):
    """sin(x) and cos(x), for x of any size; where LARGE is false, up to 2^17, for a third of the instructions."""
    a = tl.abs(x)
    q, r, r_low = _reduce(a, precise, LARGE)
    s, s_low, c, c_low = _sin_cos_reduced(r, r_low, precise)
    s += s_low
    c += c_low
    odd = (q & 1) != 0
    return _turned(x, tl.where(odd, c, s), q), _turned(a, tl.where(odd, s, c), q + 1)


@triton.jit
def sin(x, precise: tl.constexpr, LARGE: tl.constexpr = True):
    """sin(x); LARGE as in sin_and_cos."""
    s, _ = sin_and_cos(x, precise, LARGE)
    return s


@triton.jit
def cos(x, precise: tl.constexpr, LARGE: tl.constexpr = True):
    """cos(x); LARGE as in sin_and_cos."""
    _, c = sin_and_cos(x, precise, LARGE)
    return c


@triton.jit
def atan_tail(u, precise: tl.constexpr):
    """(atan(u) - u) / u^3 for 0 <= u <= 1, precise, relative to atan(u) within 2^-31; else atan(u) / u, 2^-17.8."""
    z = u * u
    if precise:
        p = tl.fma(z, 0.0011345221428200603, -0.007425363175570965)
        p = tl.fma(z, p, 0.02277761697769165)
        p = tl.fma(z, p, -0.04498325660824776)
        p = tl.fma(z, p, 0.06763648986816406)
        p = tl.fma(z, p, -0.08821462094783783)
        p = tl.fma(z, p, 0.11061233282089233)
        p = tl.fma(z, p, -0.14280343055725098)
        p = tl.fma(z, p, 0.1999971568584442)
        return tl.fma(z, p, -0.333333283662796)
    else:
        p = tl.fma(z, -0.01348198764026165, 0.05748160928487778)
        p = tl.fma(z, p, -0.12124349921941757)
        p = tl.fma(z, p, 0.19563792645931244)
        p = tl.fma(z, p, -0.3329949676990509)
        return tl.fma(z, p, 0.9999956488609314)


@triton.jit
def atan(x, precise: tl.constexpr):
    """atan(x); beyond 1, pi / 2 - atan(1 / |x|)."""
    a = tl.abs(x)
    beyond = a > 1.0
    if precise:
        d = tl.minimum(a, 1.1529215046068470e18, propagate_nan=tl.PropagateNan.ALL)
        inverse = reciprocal_positive(d, precise)
        u = tl.where(beyond, inverse, a)
        u_low = tl.where(beyond, inverse * tl.fma(-inverse, d, 1.0), 0.0)
        z = u * u
        # atan(u + u_low) - u; the slope 1 / (1 + u^2) need not be exact.
        tail = tl.fma(u * z, atan_tail(u, precise), u_low * tl.fma(z, -0.5, 1.0))
        high = HALF_PI - u
        turned = high + ((HALF_PI - high) - u + (HALF_PI_MIDDLE - tail))
        return with_sign(tl.where(beyond, turned, u + tail), x)
    else:
        u = tl.where(beyond, reciprocal_positive(a, precise), a)
        y = u * atan_tail(u, precise)
        return with_sign(tl.where(beyond, HALF_PI - y, y), x)
