"""Device functions of gradients from the output and a bit, for functions of which an output has two inputs.

    name_from_bits(g, y, bit, params, precise) -> dx, (dp0, ...)

`bit` tells whether the input lies on the right of the minimum. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from . import valleys
from .device_math import LOG2_E, TINY, bounded
from .gates import gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, mish, mish_backward, silu, silu_backward
from .logarithms import EXPONENT_UNIT, log1p_factor, split_exponent

GELU = tl.constexpr(valleys.GELU.numbers())
GELU_TANH = tl.constexpr(valleys.GELU_TANH.numbers())
MISH = tl.constexpr(valleys.MISH.numbers())
SILU = tl.constexpr(valleys.SILU.numbers())


@triton.jit
def _polynomial(x, VALLEY: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """The polynomial of x whose coefficients, lowest first, are these numbers of the valley."""
    p = tl.zeros_like(x) + VALLEY[FIRST + COUNT - 1]
    for i in tl.static_range(2, COUNT + 1):
        p = tl.fma(x, p, VALLEY[FIRST + COUNT - i])
    return p


@triton.jit
def _height(y, VALLEY: tl.constexpr):
    """The output less the minimum, which rounding may have taken below it; a NaN stays."""
    return tl.maximum((y - VALLEY[0]) - VALLEY[1], 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _slope(y, bit, VALLEY: tl.constexpr):
    """The slope, for halves: on the right s p(2 s / end - 1), on the left y s (p(w) + s q(w))."""
    # s is the root of the height, w that of -y.
    s = tl.sqrt(_height(y, VALLEY))
    near = tl.minimum(s, VALLEY[7], propagate_nan=tl.PropagateNan.ALL)
    right = near * _polynomial(tl.fma(near, VALLEY[8], -1.0), VALLEY, 27, 12)
    w = tl.sqrt(-y)
    left = y * s * tl.fma(s, _polynomial(w, VALLEY, 42, 3), _polynomial(w, VALLEY, 39, 3))
    return tl.where(bit, right, left)


@triton.jit
def _near_input(y, bit, VALLEY: tl.constexpr):
    """The input, within 2^-10 of its distance to the bottom or better, for y that are not large."""
    s = tl.minimum(tl.sqrt(_height(y, VALLEY)), VALLEY[5], propagate_nan=tl.PropagateNan.ALL)
    right = tl.fma(s, _polynomial(s, VALLEY, 9, 8), y + VALLEY[4])
    # The root of log2(minimum / y); any number on the right.
    n, f = split_exponent(bounded(y * VALLEY[2], TINY, 1.0))
    logarithm = tl.fma(-f, log1p_factor(f, LOG2_E), n.to(tl.float32) * EXPONENT_UNIT)
    r = tl.sqrt(tl.maximum(logarithm, 0.0, propagate_nan=tl.PropagateNan.ALL))
    r = tl.minimum(r, VALLEY[6], propagate_nan=tl.PropagateNan.ALL)
    left = tl.fma(r, _polynomial(r, VALLEY, 17, 10), VALLEY[3])
    return tl.where(bit, right, left)


@triton.jit
def _input(y, bit, VALLEY: tl.constexpr, FUNCTION: tl.constexpr, BACKWARD: tl.constexpr):
    """The input, precise, by one step of Newton's; on the left its logarithm's, which bends less."""
    y = bounded(y, VALLEY[0], 64.0)
    x = _near_input(y, bit, VALLEY)
    value = FUNCTION(x, (), True)
    slope, _ = BACKWARD(1.0, x, (), True)
    difference = value - y
    # log(value / y) value = difference (1 + r / 2 + ...), r = difference / y.
    bend = tl.where(bit, 0.0, bounded(0.5 * difference / y, -0.25, 0.25))
    step = tl.fma(difference, bend, difference) / slope
    # A larger step is not the error of x, but the value's rounding where the slope is nearly 0.
    limit = tl.abs(x - VALLEY[3]) * 0.001953125
    return x - bounded(tl.where(slope == 0, 0.0, step), -limit, limit)


@triton.jit
def _from_bits(g, y, bit, precise: tl.constexpr, VALLEY: tl.constexpr, FUNCTION: tl.constexpr, BACKWARD: tl.constexpr):
    """The gradient of a function without parameters."""
    if precise:
        slope, _ = BACKWARD(1.0, _input(y, bit, VALLEY, FUNCTION, BACKWARD), (), precise)
        return g * tl.where(bit | (y != 0), slope, 0.0)
    else:
        return g * _slope(y, bit, VALLEY)


@triton.jit
def silu_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of x sigmoid(x)."""
    return _from_bits(g, y, bit, precise, SILU, silu, silu_backward), ()


@triton.jit
def swish_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of x sigmoid(beta x), which is silu(beta x) / beta. There is none for beta, which must be a number."""
    return _from_bits(g, params[0] * y, bit, precise, SILU, silu, silu_backward), (0.0,)


@triton.jit
def quick_gelu_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of x sigmoid(1.702 x)."""
    return _from_bits(g, 1.702 * y, bit, precise, SILU, silu, silu_backward), ()


@triton.jit
def gelu_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of gelu(x)."""
    return _from_bits(g, y, bit, precise, GELU, gelu, gelu_backward), ()


@triton.jit
def gelu_tanh_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of gelu(x) with tanh."""
    return _from_bits(g, y, bit, precise, GELU_TANH, gelu_tanh, gelu_tanh_backward), ()


@triton.jit
def mish_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx of mish(x)."""
    return _from_bits(g, y, bit, precise, MISH, mish, mish_backward), ()


@triton.jit
def hardswish_from_bits(g, y, bit, params, precise: tl.constexpr):
    """d/dx = sqrt(9 + 24 y) / 6 on the right of -1.5 and up to 3, 1 beyond; the negative on the left, 0 up to -3."""
    height = tl.maximum(tl.fma(y, 24.0, 9.0), 0.0, propagate_nan=tl.PropagateNan.ALL)
    root = (tl.sqrt_rn(height) if precise else tl.sqrt(height)) * (1.0 / 6.0)
    slope = tl.where(bit, tl.where(y >= 3.0, 1.0, root), tl.where(y == 0, 0.0, -root))
    return g * slope, ()


# ----- on which side of the minimum an input lies: name_side(x, params) -> the bit


@triton.jit
def silu_side(x, params):
    """Whether x lies on the right of the minimum."""
    return x > SILU[3]


@triton.jit
def swish_side(x, params):
    """The same for beta x."""
    return params[0] * x > SILU[3]


@triton.jit
def quick_gelu_side(x, params):
    """The same for 1.702 x."""
    return 1.702 * x > SILU[3]


@triton.jit
def gelu_side(x, params):
    """Whether x lies on the right of the minimum."""
    return x > GELU[3]


@triton.jit
def gelu_tanh_side(x, params):
    """Whether x lies on the right of the minimum."""
    return x > GELU_TANH[3]


@triton.jit
def mish_side(x, params):
    """Whether x lies on the right of the minimum."""
    return x > MISH[3]


@triton.jit
def hardswish_side(x, params):
    """Whether x lies on the right of the minimum."""
    return x > -1.5
