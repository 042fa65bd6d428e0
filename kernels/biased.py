"""An activation of a sum, with dropout and a residual: functions for the pointwise templates, around an activation's
device functions.

The bias is a parameter behind the activation's own, COUNT of them. Dropout's probability and scale come behind it, and
32 random bits for each element behind the values. The names in capitals, `activation` and `activation_backward` stand
for what launch_biased.py puts in their places.
"""

import triton
import triton.language as tl

activation = activation_backward = None
COUNT, BIASED, DROPPED, RESIDUAL = (tl.constexpr(0), tl.constexpr(False), tl.constexpr(False), tl.constexpr(False))


@triton.jit
def _first(params, count: tl.constexpr):
    """The activation's own parameters."""
    own = ()
    for i in tl.static_range(count):
        own = own + (params[i],)
    return own


@triton.jit
def _factor(bits, p, scale):
    """What dropout multiplies with: 0 with probability p, else the scale."""
    return tl.where(bits >= tl.cast(p * 4294967296.0, tl.uint32), scale, 0.0)


@triton.jit
def biased(values, params, precise: tl.constexpr):
    """activation(x + bias) factor + residual."""
    z = values[0]
    if BIASED:
        z += params[COUNT]
    y = activation(z, _first(params, COUNT), precise)
    if DROPPED:
        y *= _factor(values[len(values) - 1], params[COUNT + BIASED], params[COUNT + BIASED + 1])
    if RESIDUAL:
        y += values[1]
    return (y,), ()


@triton.jit
def biased_backward(values, params, precise: tl.constexpr):
    """The gradient of x, and the parts of the activation's parameters and of the bias, which is x's again."""
    g, z = values[0], values[1]
    if BIASED:
        z += params[COUNT]
    if DROPPED:
        g *= _factor(values[2], params[COUNT + BIASED], params[COUNT + BIASED + 1])
    dz, parts = activation_backward(g, z, _first(params, COUNT), precise)
    return (dz,), parts + (dz,)
