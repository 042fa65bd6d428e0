"""Device functions of the hand-tuned activations: value, then derivative, one pair per activation.

`x` and `g` are fp32 blocks, `params` a tuple of fp32 scalars, or blocks that broadcast with x, in the order of the
record's parameters. A backward function returns `dx, (dp0, ...)`, elementwise: the templates sum the parts of the
parameters.
"""

import triton
import triton.language as tl

from .device_math import (
    LARGEST,
    exp_and_expm1_nonpositive,
    exp_scaled,
    expm1_nonpositive,
    sigmoid,
    sigmoid_parts,
)

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
    e, e_minus_1 = exp_and_expm1_nonpositive(x, precise)
    return tl.where(x <= 0, g * (params[0] * e), g), (tl.where(x > 0, 0.0, g * e_minus_1),)


@triton.jit
def _bounded(x, bound):
    """x between -bound and bound; a NaN stays."""
    x = tl.maximum(x, -bound, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _swish_input(x, beta):
    """What beta is multiplied by: 0 * inf must be 0, though where beta is not 0 an infinite product is the limit."""
    return _bounded(x, tl.where(beta == 0, LARGEST, INFINITY))


@triton.jit
def swish(x, params, precise: tl.constexpr):
    """x sigmoid(beta x)."""
    z = params[0] * _swish_input(x, params[0])
    if precise:
        negative = z < 0
        # Where sigmoid may be 0, a finite factor keeps inf * 0 out.
        x = tl.where(negative, _bounded(x, LARGEST), x)
        mantissa, scale, rest = exp_scaled(z, 0.0)
        s = tl.div_rn(tl.where(negative, mantissa, 1.0), 1.0 + mantissa * scale * rest)
        return x * tl.where(negative, scale, 1.0) * s * tl.where(negative, rest, 1.0)
    else:
        s = sigmoid(z, precise)
        return tl.where(s == 0, 0.0, x) * s


@triton.jit
def swish_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s + z s (1 - s), d/dbeta = x^2 s (1 - s), where z = beta x and s = sigmoid(z)."""
    _, dx, parts = swish_both(g, x, params, precise)
    return dx, parts


@triton.jit
def swish_both(g, x, params, precise: tl.constexpr):
    """The value, and what swish_backward gives: they share the sigmoid."""
    factor = _swish_input(x, params[0])
    z = params[0] * factor
    negative = z < 0
    # As in swish.
    weighted = tl.where(negative, _bounded(x, LARGEST), x)
    if precise:
        # Beside the slope's root, what the product loses in rounding is all there is.
        z_low = tl.fma(factor, params[0], -z)
        mantissa, scale, rest = exp_scaled(z, z_low)
        e = mantissa * scale * rest
        total = 1.0 + e
        # 1 / (1 + e): a Newton step on an approximate division, with what the sum loses.
        first = 1.0 / total
        residual = tl.fma(-first, e - (total - 1.0), tl.fma(-first, total, 1.0))
        u = tl.fma(first, residual, first)
        complement = tl.where(negative, u, e * u)
        s = tl.where(negative, mantissa * u, u)
        s_low = tl.where(negative, 0.0, tl.fma(first, residual, first - u))
        scale, rest = tl.where(negative, scale, 1.0), tl.where(negative, rest, 1.0)
        # Fused, 1 + z (1 - s) keeps its last bits where it is near zero.
        rise = tl.fma(z, complement, 1.0) + z_low * complement
        slope = tl.fma(s, rise, s_low * rise) * scale * rest
        value = weighted * scale * s * rest
        s = s * scale * rest
        p = s * complement
    else:
        s, _, complement = sigmoid_parts(z, precise)
        p = s * complement
        # s + (1 - s)(1 + z), both of whose terms have the quotient's error: none at the root of the sum.
        slope = tl.fma(z + 1.0, p, s * s)
        value = weighted * s
    # Where s or 1 - s is 0, so is all that they are factors of, though x be infinite.
    return value, g * tl.where(p == 0, s, slope), (g * tl.where(p == 0, 0.0, x * (x * p)),)


@triton.jit
def hardswish(x, params, precise: tl.constexpr):
    """x relu6(x + 3) / 6."""
    # Below, 0 with the sign that it has in torch.
    near = tl.where(x <= -3.0, -3.0, x)
    return tl.where(x >= 3.0, x, near * ((near + 3.0) * (1.0 / 6.0)))


@triton.jit
def hardswish_backward(g, x, params, precise: tl.constexpr):
    """d/dx = x / 3 + 1 / 2 between -3 and 3, 0 below, 1 beyond."""
    # Beside the root at -1.5, where the sum is all there is, it must not round.
    slope = tl.fma(x, 2.0, 3.0) * (1.0 / 6.0)
    if precise:
        slope = tl.where(x < -0.75, slope, tl.fma(x, 1.0 / 3.0, 0.5))
    return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, g, g * slope)), ()
