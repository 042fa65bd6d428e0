"""Device functions of the hand-tuned activations: value, then derivative, one pair per activation.

`x` and `g` are fp32 blocks, `params` a tuple of fp32 scalars, or blocks that broadcast with x, in the order of the
record's parameters. A backward function returns `dx, (dp0, ...)`, elementwise: the templates sum the parts of the
parameters.
"""

import triton
import triton.language as tl

from .device_math import LARGEST, LOG2_E, exp_nonpositive, expm1_nonpositive, sigmoid, sigmoid_parts, sigmoid_scaled

SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def relu_sigmoid(x, params, precise: tl.constexpr):
    """relu(x - t) sigmoid(x)."""
    shifted = x - params[0]
    return tl.maximum(shifted, 0.0, propagate_nan=tl.PropagateNan.ALL) * sigmoid(x, precise)


@triton.jit
def relu_sigmoid_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s + (x - t) s (1 - s), d/dt = -s, where x > t and s = sigmoid(x); 0 elsewhere."""
    shifted = x - params[0]
    s, s_low, complement = sigmoid_parts(x, precise)
    # At +inf the product (x - t)(1 - s) tends to 0; a finite factor keeps inf * 0 out.
    shifted = tl.minimum(shifted, LARGEST)
    if precise:
        # s + (x - t) s (1 - s) = (s + s_low) (factor + factor_low), rounded once.
        p = shifted * complement
        factor = 1.0 + p
        slope = tl.fma(s, factor, tl.fma(s_low, factor, s * (p - (factor - 1.0))))
    else:
        slope = tl.fma(shifted, s * complement, s)
    return tl.where(shifted <= 0.0, 0.0, g * slope), (tl.where(shifted <= 0.0, 0.0, -g * (s + s_low)),)


@triton.jit
def elu(x, params, precise: tl.constexpr):
    """x where x > 0, else alpha (exp(x) - 1)."""
    return tl.where(x > 0, x, params[0] * expm1_nonpositive(x, precise))


@triton.jit
def elu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 1 where x > 0, else alpha exp(x); d/dalpha = exp(x) - 1 where x <= 0. A NaN has slope 1, as in torch."""
    dx = tl.where(x <= 0, g * (params[0] * exp_nonpositive(x, precise)), g)
    return dx, (tl.where(x > 0, 0.0, g * expm1_nonpositive(x, precise)),)


@triton.jit
def selu(x, params, precise: tl.constexpr):
    """scale x where x > 0, else scale alpha (exp(x) - 1)."""
    return tl.where(x > 0, SELU_SCALE * x, (SELU_SCALE * SELU_ALPHA) * expm1_nonpositive(x, precise))


@triton.jit
def selu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = scale where x > 0, else scale alpha exp(x). A NaN has slope scale, as in torch."""
    return g * tl.where(x <= 0, (SELU_SCALE * SELU_ALPHA) * exp_nonpositive(x, precise), SELU_SCALE), ()


@triton.jit
def prelu(x, params, precise: tl.constexpr):
    """x where x > 0, else w x."""
    return tl.where(x > 0, x, params[0] * x)


@triton.jit
def prelu_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 1 where x > 0, else w; d/dw = x where x <= 0. At 0 and at a NaN the slope is w, as in torch."""
    return tl.where(x > 0, g, params[0] * g), (tl.where(x > 0, 0.0, g * x),)


@triton.jit
def _bounded(x, bound):
    """x between -bound and bound; a NaN stays."""
    x = tl.maximum(x, -bound, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _swish_parts(x, beta, precise: tl.constexpr):
    """z = beta x as the sum of a number and a small one, and sigmoid(z) and 1 - sigmoid(z) as in `sigmoid_scaled`."""
    # 0 * inf must be 0; where beta is not 0, an infinite z gives the limit.
    x = _bounded(x, tl.where(beta == 0, LARGEST, INFINITY))
    z = beta * x
    if precise:
        # The exponential magnifies what the product loses; that is not a number where z is infinite.
        z_low = tl.where(tl.abs(z) < 256.0, tl.fma(x, beta, -z), 0.0)
        s, scale, rest, complement = sigmoid_scaled(z, z_low)
    else:
        # 2^-16 / (2^-16 + 2^-16 exp(-z)): the tail is not lost before fp32 loses it.
        e = tl.exp2(tl.fma(z, -LOG2_E, -16.0))
        u = 1.0 / (e + 1.52587890625e-05)
        z_low, s, scale, rest, complement = 0.0, u * 1.52587890625e-05, 1.0, 1.0, tl.minimum(e, LARGEST) * u
    return z, z_low, s, scale, rest, complement


@triton.jit
def swish(x, params, precise: tl.constexpr):
    """x sigmoid(beta x)."""
    z, _, s, scale, rest, _ = _swish_parts(x, params[0], precise)
    # Where sigmoid may be 0, the finite factor keeps inf * 0 out.
    return tl.where(z < 0, _bounded(x, LARGEST), x) * scale * s * rest


@triton.jit
def swish_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s + z s (1 - s), d/dbeta = x^2 s (1 - s), where z = beta x and s = sigmoid(z)."""
    z, z_low, s, scale, rest, complement = _swish_parts(x, params[0], precise)
    if precise:
        # Fused, 1 + z (1 - s) keeps its last bits where it is near zero.
        slope = s * (tl.fma(z, complement, 1.0) + z_low * complement) * scale * rest
        s = s * scale * rest
    p = s * complement
    if not precise:
        slope = tl.fma(z, p, s)
    # Where s or 1 - s is 0, so is all that they are factors of, though x be infinite.
    return g * tl.where(p == 0, s, slope), (g * tl.where(p == 0, 0.0, x * (x * p)),)
