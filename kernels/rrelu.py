"""Leaky ReLU whose slopes are random: drawn from a seed and an element's number, and so drawn again in backward."""

import math

import triton
import triton.language as tl

from .elementwise import _offsets, _tile
from .random_bits import bits_of, bits_of_fours, uniform


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the kernel, and the bytes moved."""
    n = math.prod(args[name] for name in ("n", "rows", "cols") if name in args)
    moved = sum(args[name].element_size() for name in ("value_ptr", "out_ptr"))
    return {"name": kernel.name, "bytes": n * (moved + args["x_ptr"].element_size() * args["BACKWARD"])}


@triton.jit
def _slopes(bits, low, high):
    """Slopes between these numbers."""
    return tl.minimum(tl.fma(uniform(bits), high - low, low), high)


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
    quarter = pid * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    slopes = _slopes(bits_of_fours(tl.load(seed_ptr), quarter), low, high)
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
    slopes = _slopes(bits_of(tl.load(seed_ptr), number), low, high)
    value = tl.load(value_ptr + _offsets(row, col, outer_sizes, value_strides), mask=mask, other=0.0).to(tl.float32)
    x = value
    if BACKWARD:
        x = tl.load(x_ptr + _offsets(row, col, outer_sizes, x_strides), mask=mask, other=0.0).to(tl.float32)
    out = tl.where(x <= 0.0, value * slopes, value).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + _offsets(row, col, outer_sizes, out_strides), out, mask=mask)
