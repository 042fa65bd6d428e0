"""The rows of a piecewise-linear table, as piecewise.py has them, in one launch.

A learned table is prepared at every step, and so many small operations would take longer than the activation. All is
computed in fp64 from what the tables are in fp32.
"""

import triton
import triton.language as tl


@triton.jit
def _entry(ptr, i, stride):
    return tl.load(ptr + i * stride).to(tl.float32).to(tl.float64)


@triton.jit
def _outer(slope, row, one, KIND: tl.constexpr):
    """An outer slope: a number, one for all channels, or one for each."""
    if KIND == "number":
        return one * slope
    elif KIND == "pointer":
        return tl.load(slope).to(tl.float32).to(tl.float64)
    else:
        return tl.load(slope + row).to(tl.float32).to(tl.float64)


@triton.jit
def _slope(i, b, v, b_stride, v_stride, left, right, COUNT: tl.constexpr):
    """The slope of segment i."""
    lo, hi = tl.maximum(i - 1, 0), tl.minimum(i, COUNT - 1)
    length = _entry(b, hi, b_stride) - _entry(b, lo, b_stride)
    inner = (i > 0) & (i < COUNT)
    slope = (_entry(v, hi, v_stride) - _entry(v, lo, v_stride)) / tl.where(inner, length, 1.0)
    return tl.where(inner, slope, tl.where(i == 0, left, right))


@triton.jit
def _end(i, b, v, b_stride, v_stride, left, right, COUNT: tl.constexpr):
    """The last number of segment i: breakpoint i, or just before it unless the slope before it is the flatter one."""
    before = _slope(i, b, v, b_stride, v_stride, left, right, COUNT)
    behind = _slope(i + 1, b, v, b_stride, v_stride, left, right, COUNT)
    point = _entry(b, i, b_stride).to(tl.float32)
    bits = point.to(tl.int32, bitcast=True)
    # Below 0 comes the negative number that is next to it.
    preceding = tl.where(point == 0.0, -(2**31) + 1, tl.where(point > 0.0, bits - 1, bits + 1))
    return tl.where(tl.abs(behind) <= tl.abs(before), preceding.to(tl.float32, bitcast=True), point)


@triton.jit
def rows_kernel(
    b,
    v,
    rows_ptr,
    b_row,
    b_stride,
    v_row,
    v_stride,
    slopes,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    KIND: tl.constexpr,
    CELLS: tl.constexpr,
    COUNT: tl.constexpr,
    SIZE: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row for each program."""
    row = tl.program_id(0)
    b += row * b_row
    v += row * v_row
    out = rows_ptr + row.to(tl.int64) * LENGTH
    low, high = _entry(b, 0, b_stride), _entry(b, COUNT - 1, b_stride)
    one = low * 0.0 + 1.0
    left, right = _outer(slopes[0], row, one, LEFT), _outer(slopes[1], row, one, RIGHT)

    if KIND == "uniform":
        scale = one * (COUNT - 1) / (high - low) if COUNT > 1 else one
        offset, last, step = 0.5 - low * scale, one * COUNT, scale
    elif KIND == "bucket":
        scale = one * CELLS / (high - low)
        offset, last, step = 1.0 - low * scale, one * (CELLS + 1), one * 0.0
    else:
        scale, offset, last, step = one * 0.0, one * 0.0, one * 0.0, one * 0.0
    divisor = tl.where(last == 0.0, one, last)
    # 0 times what is beyond these bounds must not arise.
    far = one * 2.0**126
    lower = tl.where(left == 0.0, tl.minimum(low, -far), -float("inf"))
    upper = tl.where(right == 0.0, tl.maximum(high, far), float("inf"))
    place = tl.arange(0, 8)
    header = tl.where(
        place == 0, scale / divisor, tl.where(place == 1, offset / divisor, tl.where(place == 2, last, 0.0))
    )
    header = tl.where(place == 3, lower, tl.where(place == 4, upper, tl.where(place == 5, step, header)))
    tl.store(out + place, header.to(tl.float32))

    i = tl.arange(0, SIZE)
    lo, hi = tl.minimum(tl.maximum(i - 1, 0), COUNT - 1), tl.minimum(i, COUNT - 1)
    at, behind = _entry(b, lo, b_stride), _entry(b, hi, b_stride)
    start, end = _entry(v, lo, v_stride), _entry(v, hi, v_stride)
    inner, exists = (i > 0) & (i < COUNT), i <= COUNT
    slope = _slope(tl.minimum(i, COUNT), b, v, b_stride, v_stride, left, right, COUNT)
    root = at - start / tl.where(slope == 0.0, float("nan"), slope)
    anchor = tl.where(tl.abs(end) < tl.abs(start), behind, at)
    anchor = tl.where(inner & (start * end < 0.0), root, tl.where(inner, anchor, at))
    anchor = tl.where((i == 0) & (root < at) & (root > -1e30), root, anchor)
    anchor = tl.where((i == COUNT) & (root > at) & (root < 1e30), root, anchor)
    anchor = anchor.to(tl.float32).to(tl.float64)
    last_one = _end(tl.minimum(i, COUNT - 1), b, v, b_stride, v_stride, left, right, COUNT)
    tl.store(out + 8 + i, tl.where(i < COUNT, last_one, float("nan")))
    tl.store(out + 8 + SIZE + i, tl.where(exists, slope, 0.0).to(tl.float32))
    tl.store(out + 8 + 2 * SIZE + i, tl.where(exists, start + slope * (anchor - at), 0.0).to(tl.float32))
    tl.store(out + 8 + 3 * SIZE + i, tl.where(exists, anchor, 0.0).to(tl.float32))
    tl.store(out + 8 + 4 * SIZE + i, tl.where(exists, start - slope * at, 0.0).to(tl.float32))
    tl.store(out + 8 + 5 * SIZE + i, tl.where(exists, at, 0.0).to(tl.float32))
    gap = tl.where(inner, 1.0 / tl.where(inner, behind - at, 1.0), 1.0)
    tl.store(out + 8 + 6 * SIZE + i, tl.where(exists, gap, 0.0).to(tl.float32))

    if KIND == "bucket":
        for begin in range(0, CELLS + 2, BLOCK):
            cell = begin + tl.arange(0, BLOCK)
            # The segment of everything before the cell, less a margin for the index's rounding.
            edge = low + (cell.to(tl.float64) - 1.01) / scale
            first = tl.zeros([BLOCK], tl.int32)
            for k in range(COUNT):
                before = _end(k, b, v, b_stride, v_stride, left, right, COUNT)
                first += (before.to(tl.float64) < edge).to(tl.int32)
            tl.store(out + 8 + 7 * SIZE + cell, first.to(tl.float32), mask=cell < CELLS + 2)
