"""Device functions of piecewise-linear activations with fixed tables: value, then derivative.

`params` are what `elementwise._table` makes of a table: pointers to its parts, each one pointer or a block of them, one
per channel, and the number of entries in a part, a power of two:

    header           scale and offset of the index, as a part of the last cell, and this last cell; bounds of x; 1 / the
                     step of evenly spaced breakpoints
    ends             the last number of a segment: x > end means a later one; NaN after the last
    slopes           of each segment, the outermost ones included
    values, anchors  y = value + slope (x - anchor), written from where the line is nearest to zero
    intercepts       y = intercept + slope x, where `precise` is not asked for
    first            for `pwl_bucket` alone, the first segment of each cell
    origins, gaps    of each segment, the breakpoint before it and 1 / its length, for sums (piecewise_sums.py); the
                     outermost begin at the outermost breakpoints, and have length 1

All is fp32. README.md beside this file derives the index. A NaN is counted to the first segment; a negative one to the
second, where a machine keeps the sign of a NaN.
"""

import triton
import triton.language as tl


@triton.jit
def _bounded(x, header):
    """x between bounds that are infinite unless the outer slope is 0, where 0 * inf must not arise. NaN stays."""
    x = tl.maximum(x, tl.load(header + 3), propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, tl.load(header + 4), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def position(x, header):
    """How many cells of an even grid lie before x, up to all of them."""
    # Between 0 and 1, which is free where an instruction saturates. A NaN becomes 0, though not in the interpreter.
    part = tl.minimum(tl.maximum(x * tl.load(header) + tl.load(header + 1), 0.0), 1.0)
    return part * tl.load(header + 2)


@triton.jit
def _cell(x, header):
    """The cell of an even grid that x lies in, or the one beside it."""
    return position(x, header).to(tl.int32)


@triton.jit
def _passed(x, segment, ends):
    """The segment, or the next one, if x is past its end."""
    # By the sign of the difference, which is exact: one instruction shifts and adds it.
    past = (tl.load(ends + segment) - x).to(tl.uint32, bitcast=True) >> 31
    return segment + past.to(tl.int32)


@triton.jit
def _uniform(x, params):
    return _passed(x, _cell(x, params[0]), params[1])


@triton.jit
def _bucket(x, params):
    segment = tl.load(params[6] + _cell(x, params[0])).to(tl.int32)
    return segment + (x > tl.load(params[1] + segment)).to(tl.int32)


@triton.jit
def _search(x, params):
    """Binary search; the ends after the last one are NaN."""
    segment = tl.zeros_like(x).to(tl.int32)
    step = params[7] // 2
    while step >= 1:
        segment += tl.where(x > tl.load(params[1] + segment + (step - 1)), step, 0)
        step = step // 2
    return segment


@triton.jit
def segment(x, params, KIND: tl.constexpr):
    """The segment of x, found in a table of that kind."""
    if KIND == "uniform":
        return _uniform(x, params)
    elif KIND == "bucket":
        return _bucket(x, params)
    else:
        return _search(x, params)


@triton.jit
def slope(x, params, KIND: tl.constexpr):
    """The slope of x's segment: of both that x may be in, and then a choice, at a load more and an address less."""
    if KIND == "search":
        return tl.load(params[2] + _search(x, params))
    else:
        at = _cell(x, params[0])
        if KIND == "bucket":
            at = tl.load(params[6] + at).to(tl.int32)
        return tl.where(x > tl.load(params[1] + at), tl.load(params[2] + at + 1), tl.load(params[2] + at))


@triton.jit
def _line(x, segment, params, precise: tl.constexpr):
    slope = tl.load(params[2] + segment)
    if precise:
        return tl.fma(slope, x - tl.load(params[4] + segment), tl.load(params[3] + segment))
    else:
        return tl.fma(slope, x, tl.load(params[5] + segment))


@triton.jit
def pwl_uniform(x, params, precise: tl.constexpr):
    """Evenly spaced breakpoints, up to a quarter of a step: the same cost for any number of them."""
    x = _bounded(x, params[0])
    return _line(x, _uniform(x, params), params, precise)


@triton.jit
def pwl_uniform_backward(g, x, params, precise: tl.constexpr):
    """g times the slope of the segment."""
    return g * tl.load(params[2] + _uniform(x, params)), ()


@triton.jit
def pwl_bucket(x, params, precise: tl.constexpr):
    """Uneven breakpoints, at most one in each cell of an even grid: one load more."""
    x = _bounded(x, params[0])
    return _line(x, _bucket(x, params), params, precise)


@triton.jit
def pwl_bucket_backward(g, x, params, precise: tl.constexpr):
    """g times the slope of the segment."""
    return g * tl.load(params[2] + _bucket(x, params)), ()


@triton.jit
def pwl_search(x, params, precise: tl.constexpr):
    """Breakpoints anywhere: a binary search."""
    x = _bounded(x, params[0])
    return _line(x, _search(x, params), params, precise)


@triton.jit
def pwl_search_backward(g, x, params, precise: tl.constexpr):
    """g times the slope of the segment."""
    return g * tl.load(params[2] + _search(x, params)), ()


# ----- the number of the segment alone: name_segment(x, params)
#
# Of x between the bounds, as for the value, so that both are found at once: a bound has the slope of all beyond it.


@triton.jit
def pwl_uniform_segment(x, params):
    """Of evenly spaced breakpoints."""
    return segment(_bounded(x, params[0]), params, "uniform")


@triton.jit
def pwl_bucket_segment(x, params):
    """Of uneven ones, at most one in each cell of an even grid."""
    return segment(_bounded(x, params[0]), params, "bucket")


@triton.jit
def pwl_search_segment(x, params):
    """Of breakpoints anywhere."""
    return segment(_bounded(x, params[0]), params, "search")
