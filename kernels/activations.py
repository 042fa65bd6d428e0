"""Device functions of the hand-tuned activations: value, then derivative, one pair per activation.

`x` and `g` are fp32 blocks, `params` a tuple of fp32 scalars in the order of the record's parameters. A backward
function returns `dx, (dp0, ...)`, elementwise: the templates sum the parts of the parameters.
"""

import triton
import triton.language as tl

from .device_math import LARGEST, exp_nonpositive, expm1_nonpositive, sigmoid, sigmoid_parts

SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)


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
