"""A value times an activated gate: functions for the pointwise templates, around an activation's device functions.

`activation` and `activation_backward` stand for the latter, which launch_gated.py puts in their places.
"""

import triton
import triton.language as tl

activation = activation_backward = None


@triton.jit
def gated(values, params, precise: tl.constexpr):
    """activation(gate) x."""
    x, gate = values
    return (activation(gate, params, precise) * x,), ()


@triton.jit
def gated_backward(values, params, precise: tl.constexpr):
    """Gradients of x and of the gate, and the parts of the activation's parameters."""
    g, x, gate = values
    dgate, parts = activation_backward(g * x, gate, params, precise)
    return (g * activation(gate, params, precise), dgate), parts
