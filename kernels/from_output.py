"""Device functions of gradients from the output, for activations that the output determines.

    name_from_output(g, y, params, precise) -> dx, (dp0, ...)

A record's are found by the name of its device functions. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .activations import SELU_ALPHA, SELU_SCALE
from .device_math import LARGEST, LOG2_E, TINY, bounded, exp, expm1_nonpositive, reciprocal_positive
from .logarithms import log, log1p, log_of_parts, split_exponent

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
    e = tl.maximum(z + 1.0, 0.0)
    # log(1 + z) keeps what the sum loses; where e is 0, so is e log(e).
    part = z - e * tl.maximum(log1p(z, precise), -LARGEST)
    part = tl.where(e == 0, -1.0, part)
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
    s = -expm1_nonpositive(-q, precise)
    near = tl.minimum(q, 80.0, propagate_nan=tl.PropagateNan.ALL)
    part = s * log(tl.maximum(s, TINY, propagate_nan=tl.PropagateNan.ALL), precise) - near * exp(-near, precise)
    inverse = 1.0 / params[0]
    part = tl.where(identity, 0.0, part * inverse * inverse)
    return tl.where(identity, g, g * s), (g * part, 0.0)


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
def _lambert(y, threshold, precise: tl.constexpr):
    """w with w exp(w) = z = y exp(-threshold - y): halves within 2^-13 for thresholds from -20 on."""
    z = y * tl.exp2(tl.minimum((threshold + y) * -LOG2_E, 115.0, propagate_nan=tl.PropagateNan.ALL))
    n, f = split_exponent(1.0 + z)
    v = log_of_parts(n.to(tl.float32), tl.where(n == 0, z, f), 0.0, False)
    p = tl.fma(v, 0.06853575, 0.30302544)
    p = tl.fma(v, p, 1.26455056)
    p = tl.fma(v, p, 0.99989115) * v
    q = tl.fma(v, 0.07050805, 0.52724285)
    q = tl.fma(v, q, 1.76306784)
    q = tl.fma(v, q, 1.0)
    if precise:
        # A step of Newton's.
        w = p / q
        e = y * exp(-((threshold + y) + w), precise)
        return e * (1.0 + w), 1.0 + e
    else:
        return p, q


@triton.jit
def relu_sigmoid_from_output(g, y, params, precise: tl.constexpr):
    """d/dx = y (1 + w) / (y + w), d/dt = -y / (y + w) where y > 0: sigmoid(x) is y / (y + w), w as in _lambert."""
    # Below, the slope is that at the threshold, and nothing underflows; above, w is 0.
    near = bounded(y, 1e-30, 1e4)
    p, q = _lambert(near, params[0], precise)
    # w = p / q.
    total = tl.fma(near, q, p)
    if precise:
        share, slope = tl.div_rn(near * q, total), tl.div_rn(near * (q + p), total)
    else:
        inverse = near * reciprocal_positive(total, precise)
        share, slope = q * inverse, (q + p) * inverse
    return tl.where(y <= 0, 0.0, g * slope), (tl.where(y <= 0, 0.0, -g * share),)
