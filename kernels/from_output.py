"""Device functions of gradients from the output, for activations that the output determines.

    name_from_output(g, y, params, precise) -> dx, (dp0, ...)

A record's are found by the name of its device functions. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LARGEST,
    LOG2_E,
    TINY,
    exp,
    exp_and_expm1_nonpositive,
    expm1_nonpositive,
    reciprocal_positive,
)
from .logarithms import log1p, log_of_parts, split_exponent

SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)

# ----- piecewise linear


@triton.jit
def relu_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 where y > 0. A NaN has slope 1, as in torch."""
    return tl.where(y <= 0, 0.0, g), ()


@triton.jit
def prelu_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 where y > 0, else w; d/dw = y / w there, for w > 0."""
    positive = y > 0
    return tl.where(positive, g, params[0] * g), (tl.where(positive, 0.0, g * _over(y, params[0], precise)),)


leaky_relu_from_output = prelu_from_output


@triton.jit
def hardtanh_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 between the bounds; at a bound its own is 1."""
    below, above = y <= params[0], y >= params[1]
    return tl.where(below | above, 0.0, g), (tl.where(below, g, 0.0), tl.where(above, g, 0.0))


@triton.jit
def relu6_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 between 0 and 6."""
    return tl.where((y <= 0) | (y >= 6), 0.0, g), ()


@triton.jit
def hardsigmoid_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 / 6 between 0 and 1. A NaN has slope 0, as in torch."""
    return tl.where((y > 0) & (y < 1), g * (1.0 / 6.0), 0.0), ()


# ----- exponential


@triton.jit
def _over(y, divisor, precise: tl.constexpr):
    """y / divisor; for halves by the inverse, which is computed once where the divisor is one number."""
    if precise:
        return tl.div_rn(y, divisor + tl.zeros_like(y))
    else:
        return y * (1.0 / divisor)


@triton.jit
def elu_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 where y > 0, else y + alpha; d/dalpha = y / alpha there. What is below -alpha is a rounding error."""
    slope = tl.maximum(y + params[0], 0.0)
    return tl.where(y <= 0, g * slope, g), (tl.where(y > 0, 0.0, g * _over(y, params[0], precise)),)


@triton.jit
def selu_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = scale where y > 0, else y + scale alpha."""
    return g * tl.where(y <= 0, tl.maximum(y + SELU_SCALE * SELU_ALPHA, 0.0), SELU_SCALE), ()


@triton.jit
def celu_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 where y > 0, else e = y / alpha + 1; d/dalpha = e - 1 - e log(e) there."""
    z = _over(y, params[0], precise)
    e = tl.maximum(z + 1.0, 0.0, propagate_nan=tl.PropagateNan.ALL)
    # log(1 + z); where e is 0 some finite number, which does not count.
    if precise:
        logarithm = tl.maximum(log1p(z, precise), -LARGEST)
    else:
        n, f = split_exponent(e)
        logarithm = log_of_parts(n.to(tl.float32), tl.where(n == 0, z, f), 0.0, precise)
    part = z - e * logarithm
    return tl.where(y <= 0, g * e, g), (tl.where(y > 0, 0.0, g * part),)


@triton.jit
def sigmoid_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = y (1 - y)."""
    return g * (y * (1.0 - y)), ()


@triton.jit
def tanh_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 - y^2, fused: it rounds once."""
    return g * tl.fma(-y, y, 1.0), ()


@triton.jit
def softplus_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = s = 1 - exp(-q), d/dbeta = (s log(s) - q (1 - s)) / beta^2, q = beta y; past the threshold 1 and 0."""
    q = params[0] * y
    identity = q > params[1]
    e, s = exp_and_expm1_nonpositive(-q, precise)
    n, f = split_exponent(tl.maximum(-s, TINY, propagate_nan=tl.PropagateNan.ALL))
    # q is finite where the threshold is not passed.
    part = tl.fma(-q, e, -s * log_of_parts(n.to(tl.float32), f, 0.0, precise))
    inverse = 1.0 / params[0]
    part = tl.where(identity, 0.0, part * inverse * inverse)
    return tl.where(identity, g, -g * s), (g * part, 0.0)


@triton.jit
def logsigmoid_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = 1 - exp(y)."""
    return g * -expm1_nonpositive(y, precise), ()


@triton.jit
def softsign_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = (1 - |y|)^2."""
    rest = 1.0 - tl.abs(y)
    return g * (rest * rest), ()


# ----- relu_sigmoid


@triton.jit
def _lambert_ratio(z):
    """r with w = z r and w exp(w) = z, relative error 2^-14 for 0 <= z <= exp(9)."""
    v = tl.sqrt(tl.rsqrt(tl.fma(z, 2.7182817459106445, 1.0)))
    p = tl.fma(v, 3.244467258453369, -14.594025611877441)
    p = tl.fma(v, p, 26.29654884338379)
    p = tl.fma(v, p, -22.371057510375977)
    p = tl.fma(v, p, 6.352766990661621)
    p = tl.fma(v, p, 2.209460973739624)
    p = tl.fma(v, p, -0.14466750621795654)
    p = tl.fma(v, p, 0.006704928353428841)
    p = tl.fma(v, p, -0.0001406650699209422)
    return p


@triton.jit
def _lambert_of_any(y, q):
    """w and w / y: relative error 2^-13 for z = y q up to exp(19), and 2^-10 for any."""
    # Below, the quotient is what it is there.
    y = tl.maximum(y, 1e-30, propagate_nan=tl.PropagateNan.ALL)
    z = tl.minimum(y * q, 1e37, propagate_nan=tl.PropagateNan.ALL)
    n, f = split_exponent(1.0 + z)
    v = log_of_parts(n.to(tl.float32), tl.where(n == 0, z, f), 0.0, False)
    p = tl.fma(v, 0.06853575, 0.30302544)
    p = tl.fma(v, p, 1.26455056)
    d = tl.fma(v, 0.07050805, 0.52724285)
    d = tl.fma(v, d, 1.76306784)
    w = v * tl.fma(v, p, 0.99989115) / tl.fma(v, d, 1.0)
    return w, w / y


@triton.jit
def _lambert_parts(y, threshold):
    """w with w exp(w) = z = y exp(-threshold - y), and w / y; of a threshold for each channel by the way for any."""
    q = tl.exp2((threshold + y) * -LOG2_E)
    # A number makes one dimension of this, a block of them two.
    if len((threshold + tl.zeros([1], tl.float32)).shape) > 1:
        w, ratio = _lambert_of_any(y, q)
    elif threshold >= -10.0:
        r = _lambert_ratio(y * q)
        w, ratio = (y * q) * r, q * r
    else:
        w, ratio = _lambert_of_any(y, q)
    return w, ratio


@triton.jit
def relu_sigmoid_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = (1 + w) s, d/dt = -s where y > 0, w exp(w) = y exp(-t - y), s = 1 / (1 + w / y), which is sigmoid(x)."""
    # Beyond, w is 0.
    near = tl.minimum(y, 1e4, propagate_nan=tl.PropagateNan.ALL)
    w, ratio = _lambert_parts(near, params[0])
    if precise:
        # A step of Newton's: with e = exp(-(t + y) - w), w is y e (1 + w) / (1 + y e).
        e = tl.minimum(exp(-((params[0] + near) + w), precise), 1e30, propagate_nan=tl.PropagateNan.ALL)
        total = tl.fma(near, e, 1.0)
        rise = tl.fma(e, w, e)
        share, slope = tl.div_rn(total, total + rise), tl.div_rn(tl.fma(near, rise, total), total + rise)
    else:
        share = reciprocal_positive(1.0 + ratio, precise)
        slope = tl.fma(w, share, share)
    return tl.where(y <= 0, 0.0, g * slope), (tl.where(y <= 0, 0.0, -g * share),)
