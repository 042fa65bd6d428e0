"""Statistics of an activation's values, gathered in the pass that computes them.

`statistics` is (partial_ptr, alive_ptr, stride, channels): one number per program for each of STATISTICS, at
[statistic, program]; a byte per channel, which any element sets whose slope is not flat, and one more; and where the
channel of an offset in the output's memory is found: (offset // stride) % channels. All programs that set a byte write
the same, so that the result does not depend on their order.
"""

import triton
import triton.language as tl

# Of the finite values of a program: their number, mean and standard deviation, the least and the greatest. Of all: how
# many are NaN, infinite, zero, and how many slopes are flat.
STATISTICS = ("count", "mean", "deviation", "low", "high", "nan", "infinite", "zeros", "flat")

# A slope of at most this magnitude is flat.
FLAT = tl.constexpr(2.0**-7)


@triton.jit
def _counts(one, other):
    """How often each of two conditions holds: in the halves of one sum, as a block has less than 2^15 elements."""
    both = tl.sum(one.to(tl.int32) + other.to(tl.int32) * 65536)
    return (both % 65536).to(tl.float32), (both // 65536).to(tl.float32)


@triton.jit
def store_statistics(statistics, x, y, values, offset, mask, DERIVATIVE: tl.constexpr, PRECISE: tl.constexpr):
    """The statistics of a block of values y, as they were stored at these offsets, of the inputs x."""
    y = y.to(tl.float32)
    size = tl.abs(y)
    infinity = float("inf")
    finite = mask & (size < infinity)
    slope, _ = DERIVATIVE(tl.full(x.shape, 1.0, tl.float32), x, values, PRECISE)
    flat = mask & (tl.abs(slope) <= FLAT)
    count, flats = _counts(finite, flat)
    infinite, zeros = _counts(mask & (size == infinity), mask & (y == 0.0))
    nan, _ = _counts(mask & (y != y), mask)
    share = 1.0 / tl.maximum(count, 1.0)
    mean = tl.sum(tl.where(finite, y * share, 0.0))
    # Scaled, so that squares neither overflow nor vanish; halved, so that the difference does not overflow.
    low = tl.min(tl.where(finite, y, infinity))
    high = tl.max(tl.where(finite, y, -infinity))
    scale = tl.where(count > 0.0, tl.maximum(tl.maximum(-low, high), 2.0**-100), 1.0)
    distance = tl.where(finite, (y * 0.5 - mean * 0.5) * (1.0 / scale), 0.0)
    deviation = tl.sqrt(tl.sum(distance * distance) * share) * scale * 2.0

    programs = tl.num_programs(0).to(tl.int64)
    at = statistics[0] + tl.program_id(0)
    tl.store(at, count)
    tl.store(at + programs, mean)
    tl.store(at + 2 * programs, deviation)
    tl.store(at + 3 * programs, low)
    tl.store(at + 4 * programs, high)
    tl.store(at + 5 * programs, nan)
    tl.store(at + 6 * programs, infinite)
    tl.store(at + 7 * programs, zeros)
    tl.store(at + 8 * programs, flats)

    channel = (offset // statistics[2]) % statistics[3]
    # Read first: soon nearly all are set. No mask, of which each element's would be a branch on AMD: what is not to be
    # set goes to the byte after the last.
    unset = mask & (flat == 0) & (tl.load(statistics[1] + channel) == 0)
    if tl.max(unset.to(tl.int32)) != 0:
        tl.store(statistics[1] + tl.where(unset, channel, statistics[3]), tl.full(x.shape, 1, tl.uint8))
