"""A value times an activated gate: functions for the pointwise templates, around an activation's device functions; and
a template for gates and values in turn, which as two strided tensors would take an access for each element.

`activation`, `activation_backward` and `activation_both` stand for functions that launch_gated.py puts in their places.
"""

import triton
import triton.language as tl

from .activations import swish_both
from .device_math import LOG2_E, SHRINK_HALVES, reciprocal_positive
from .elementwise import _load_parameters, _store_partial_sums
from .gates import silu, silu_backward

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
def gated_offset(values, params, precise: tl.constexpr):
    """activation(gate) (x + offset); the last parameter is the offset."""
    x, gate = values
    return (activation(gate, params[:-1], precise) * (x + params[-1]),), ()


@triton.jit
def gated_offset_backward(values, params, precise: tl.constexpr):
    """Gradients of x and of the gate, and the parts of the activation's parameters."""
    g, x, gate = values
    value, dgate, parts = activation_both(g * (x + params[-1]), gate, params[:-1], precise)
    return (g * value, dgate), parts


@triton.jit
def gated_limited(values, params, precise: tl.constexpr):
    """activation(min(gate, limit)) (clamp(x, -limit, limit) + offset); the last parameters are limit and offset."""
    x, gate = values
    x, gate = _limited(x, gate, params[-2])
    return (activation(gate, params[:-2], precise) * (x + params[-1]),), ()


@triton.jit
def gated_limited_backward(values, params, precise: tl.constexpr):
    """Gradients of x and of the gate, 0 beyond the limit and at NaN, and the parts of the activation's parameters."""
    g, given_x, given_gate = values
    limit = params[-2]
    x, gate = _limited(given_x, given_gate, limit)
    value, dgate, parts = activation_both(g * (x + params[-1]), gate, params[:-2], precise)
    return (tl.where(tl.abs(given_x) <= limit, g * value, 0.0), tl.where(given_gate <= limit, dgate, 0.0)), parts


@triton.jit
def _limited(x, gate, limit):
    """x and the gate within the limit; a NaN stays one."""
    x = tl.minimum(x, limit, propagate_nan=tl.PropagateNan.ALL)
    x = tl.maximum(x, -limit, propagate_nan=tl.PropagateNan.ALL)
    return x, tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)


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
BOTH = {"silu": silu_both, "swish": swish_both}


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the kernel, and the bytes moved."""
    moved = 5 if args["BACKWARD"] else 3
    return {
        "name": f"{args['FUNCTION'].__name__}_{kernel.name}",
        "bytes": args["n"] * moved * args["packed_ptr"].element_size(),
    }


@triton.jit
def _in_turn(
    packed_ptr,
    grad_ptr,
    out_ptr,
    pairs,
    offs,
    pair_mask,
    mask,
    params,
    FUNCTION: tl.constexpr,
    BACKWARD: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """A block of the result, or of the gradient of what holds gates and values in turn; and the parts of parameters."""
    if mask is None:
        packed = tl.load(packed_ptr + pairs).to(tl.float32)
    else:
        packed = tl.load(packed_ptr + pairs, mask=pair_mask, other=0.0).to(tl.float32)
    gate, x = tl.split(tl.reshape(packed, (pairs.shape[0] // 2, 2)))
    if BACKWARD:
        if mask is None:
            g = tl.load(grad_ptr + offs).to(tl.float32)
        else:
            g = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        results, parts = FUNCTION((g, x, gate), params, PRECISE)
        dtype: tl.constexpr = out_ptr.dtype.element_ty
        tl.store(out_ptr + pairs, tl.interleave(results[1].to(dtype), results[0].to(dtype)), mask=pair_mask)
        return parts
    else:
        results, parts = FUNCTION((x, gate), params, PRECISE)
        tl.store(out_ptr + offs, tl.cast(results[0], out_ptr.dtype.element_ty), mask=mask)
        return parts


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def interleaved_kernel(
    packed_ptr,
    grad_ptr,
    out_ptr,
    partial_ptr,
    n,
    parameters,
    FUNCTION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    NEEDED: tl.constexpr,
    BACKWARD: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gates and values in turn, 2 n contiguous elements: the result, or from its gradient theirs and partial sums."""
    pid = tl.program_id(0).to(tl.int64)
    start = pid * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, None)
    offs, pairs = tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK)
    packed_ptr += 2 * start
    grad_ptr += start
    out_ptr += 2 * start if BACKWARD else start
    # A mask that depends on n forbids 16-byte accesses: only the last block carries one.
    if start + BLOCK <= n:
        _store_partial_sums(
            partial_ptr,
            _in_turn(packed_ptr, grad_ptr, out_ptr, pairs, offs, None, None, values, FUNCTION, BACKWARD, PRECISE),
            *(offs < BLOCK, pid, NEEDED),
        )
    else:
        left = n - start
        _store_partial_sums(
            partial_ptr,
            _in_turn(
                *(packed_ptr, grad_ptr, out_ptr, pairs, offs, pairs < 2 * left, offs < left, values),
                *(FUNCTION, BACKWARD, PRECISE),
            ),
            *(offs < left, pid, NEEDED),
        )
