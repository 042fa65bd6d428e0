"""STUB."""

import triton
import triton.language as tl


@triton.jit
def hardswish_side(x, params):
    return x > -1.5


@triton.jit
def hardswish_from_bits(g, y, bit, params, precise: tl.constexpr):
    r = tl.sqrt(tl.maximum(9 + 24 * y, 0.0)) / 6
    d = tl.where(y >= 3, 1.0, tl.where(bit, r, tl.where(y == 0, 0.0, -r)))
    return g * d, ()
