"""Leaky ReLU whose slopes are random: drawn from a seed and an element's number, and so drawn again in backward."""

import math

import triton
import triton.language as tl

from .elementwise import _offsets, _tile

# Of Philox; the fewest with which its authors found nothing wrong. Triton's default is 10.
ROUNDS = tl.constexpr(7)


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the kernel, and the bytes moved."""
    n = math.prod(args[name] for name in ("n", "rows", "cols") if name in args)
    moved = sum(args[name].element_size() for name in ("value_ptr", "out_ptr"))
    return {"name": kernel.name, "bytes": n * (moved + args["x_ptr"].element_size() * args["BACKWARD"])}


@triton.jit
def _uniform(bits):
    """A number from 0 to below 1, by the upper 24 of 32 random bits: a float has no more."""
    return (bits >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def _slopes(seed_ptr, quarter, low, high, BLOCK: tl.constexpr):
    """Slopes of a block of elements, four for each of these 64-bit numbers, which count quadruples of the tensor."""
    seed = tl.load(seed_ptr)
    zero = quarter.to(tl.uint32) * 0
    a, b, c, d = tl.philox(seed, quarter.to(tl.uint32), (quarter >> 32).to(tl.uint32), zero, zero, ROUNDS)
    # In order: the four of one number lie side by side.
    u = tl.interleave(tl.interleave(_uniform(a), _uniform(c)), tl.interleave(_uniform(b), _uniform(d)))
    return tl.minimum(tl.fma(u, high - low, low), high)


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def rrelu_kernel(
    value_ptr,
    x_ptr,
    out_ptr,
    seed_ptr,
    n,
    low,
    high,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = value where x > 0, else value times a slope; value is x in forward, and its gradient in backward."""
    pid = tl.program_id(0).to(tl.int64)
    slopes = _slopes(seed_ptr, pid * (BLOCK // 4) + tl.arange(0, BLOCK // 4), low, high, BLOCK)
    start = pid * BLOCK
    offs = tl.arange(0, BLOCK)
    value_ptr += start
    x_ptr += start
    out_ptr += start
    # A mask that depends on n forbids 16-byte accesses: only the last block carries one.
    if start + BLOCK <= n:
        value = tl.load(value_ptr + offs).to(tl.float32)
        x = tl.load(x_ptr + offs).to(tl.float32) if BACKWARD else value
        tl.store(out_ptr + offs, tl.where(x <= 0.0, value * slopes, value).to(out_ptr.dtype.element_ty))
    else:
        mask = offs < n - start
        value = tl.load(value_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32) if BACKWARD else value
        tl.store(out_ptr + offs, tl.where(x <= 0.0, value * slopes, value).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(launch_metadata=launch_metadata)
def rrelu_strided_kernel(
    value_ptr,
    x_ptr,
    out_ptr,
    seed_ptr,
    rows,
    cols,
    outer_sizes,
    value_strides,
    x_strides,
    number_strides,
    out_strides,
    low,
    high,
    BACKWARD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The same for any strides; those of the elements' numbers make the slopes those of the contiguous tensor."""
    row, col, mask = _tile(rows, cols, BLOCK_ROWS, BLOCK_COLS, WIDE)
    number = _offsets(row, col, outer_sizes, number_strides)
    zero = number.to(tl.uint32) * 0
    quarter = number >> 2
    a, b, c, d = tl.philox(tl.load(seed_ptr), quarter.to(tl.uint32), (quarter >> 32).to(tl.uint32), zero, zero, ROUNDS)
    which = number & 3
    u = _uniform(tl.where(which == 0, a, tl.where(which == 1, b, tl.where(which == 2, c, d))))
    slopes = tl.minimum(tl.fma(u, high - low, low), high)
    value = tl.load(value_ptr + _offsets(row, col, outer_sizes, value_strides), mask=mask, other=0.0).to(tl.float32)
    x = value
    if BACKWARD:
        x = tl.load(x_ptr + _offsets(row, col, outer_sizes, x_strides), mask=mask, other=0.0).to(tl.float32)
    out = tl.where(x <= 0.0, value * slopes, value).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + _offsets(row, col, outer_sizes, out_strides), out, mask=mask)
