"""A value times an activated gate: functions for the pointwise templates, around an activation's device functions.

`activation`, `activation_backward` and `activation_both` stand for functions that launch_gated.py puts in their places.
"""

import triton
import triton.language as tl

from .device_math import LOG2_E, reciprocal_positive
from .gates import silu, silu_backward
from .normal import SHRINK_HALVES

activation = activation_backward = activation_both = None
# Where silu is 0 in every half, and 2^-16 exp(-x) does not overflow yet.
LOWEST_HALVES = tl.constexpr(-99.0)


@triton.jit
def gated(values, params, precise: tl.constexpr):
    """activation(gate) x."""
    x, gate = values
    return (activation(gate, params, precise) * x,), ()


@triton.jit
def gated_backward(values, params, precise: tl.constexpr):
    """Gradients of x and of the gate, and the parts of the activation's parameters."""
    g, x, gate = values
    value, dgate, parts = activation_both(g * x, gate, params, precise)
    return (g * value, dgate), parts


@triton.jit
def both(g, x, params, precise: tl.constexpr):
    """An activation's value, and what its backward gives: of what they share the compiler makes one."""
    dx, parts = activation_backward(g, x, params, precise)
    return activation(x, params, precise), dx, parts


@triton.jit
def silu_both(g, x, params, precise: tl.constexpr):
    """The same of silu, s = sigmoid(x), where halves share the quotient: y = x s, y' = s + y (1 - s)."""
    if precise:
        dx, parts = silu_backward(g, x, params, precise)
        return silu(x, params, precise), dx, parts
    else:
        # 2^-16 exp(-x), as in silu. At the root of y' this is as far off as the terms are, which silu_backward is not.
        x = tl.maximum(x, LOWEST_HALVES, propagate_nan=tl.PropagateNan.ALL)
        e = tl.exp2(tl.fma(x, -LOG2_E, -16.0))
        u = reciprocal_positive(e + SHRINK_HALVES, precise)
        s = u * SHRINK_HALVES
        value = x * s
        # Finite, as 1 - s is 0 at infinity.
        y = tl.minimum(value, 120.0, propagate_nan=tl.PropagateNan.ALL)
        return value, g * tl.fma(y, e * u, s), ()


# Where sharing takes a function of its own.
BOTH = {"silu": silu_both}
