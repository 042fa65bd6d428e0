"""The templates of activations that keep bits for backward: forward packs them, backward reads them.

Elements side by side in memory make a byte, the first of them its lowest bits: eight of one bit each, or fewer of
more. A block is rows of as many, so that a byte belongs to the thread that has its elements. All tensors have one dense
layout.
"""

import triton
import triton.language as tl

from .elementwise import _load_parameters, _store_partial_sums, launch_metadata


@triton.jit
def _rows(BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """The bytes of a block, its elements, and by how many bits each is shifted in its byte."""
    COUNT: tl.constexpr = 8 // WIDTH
    byte = tl.arange(0, BLOCK // COUNT)
    place = tl.arange(0, COUNT)[None, :]
    return byte, byte[:, None] * COUNT + place, place * WIDTH


@triton.jit
def _code(x, values, middle, SIDE: tl.constexpr, WHICH: tl.constexpr, PRECISE: tl.constexpr):
    """What is kept of x: a side of the minimum, a segment's number, or which of two slopes, around `middle`."""
    if WHICH == "side" or WHICH == "code":
        code = SIDE(x, values)
    else:
        slope, _ = SIDE(tl.full(x.shape, 1.0, tl.float32), x, values, PRECISE)
        code = slope > middle if WHICH == "rising" else slope < middle
    return code.to(tl.int32)


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def forward_bits_kernel(
    x_ptr,
    out_ptr,
    bits_ptr,
    n,
    middle,
    parameters,
    ACTIVATION: tl.constexpr,
    SIDE: tl.constexpr,
    WHICH: tl.constexpr,
    WIDTH: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = f(x), and WIDTH bits of each x, on n elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)
    byte, offs, place = _rows(BLOCK, WIDTH)
    x_ptr += start
    out_ptr += start
    bits_ptr += start // (8 // WIDTH)
    if start + BLOCK <= n:
        x = tl.load(x_ptr + offs).to(tl.float32)
        packed = tl.sum(_code(x, values, middle, SIDE, WHICH, PRECISE) << place, axis=1)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty))
        tl.store(bits_ptr + byte, packed.to(tl.uint8))
    else:
        mask = offs < n - start
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        code = tl.where(mask, _code(x, values, middle, SIDE, WHICH, PRECISE), 0)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty), mask=mask)
        tl.store(bits_ptr + byte, tl.sum(code << place, axis=1).to(tl.uint8), mask=byte * (8 // WIDTH) < n - start)


@triton.jit
def _unpacked(packed, place):
    """The bits of a block's bytes."""
    return ((packed.to(tl.int32)[:, None] >> place) & 1) != 0


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def backward_bits_kernel(
    grad_ptr,
    saved_ptr,
    bits_ptr,
    dx_ptr,
    partial_ptr,
    n,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    NEEDED: tl.constexpr,
    DX: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx and the parameters' partial sums from the output's gradient, the output and its bits, on n elements."""
    pid = tl.program_id(0).to(tl.int64)
    start = pid * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, ())
    byte, offs, place = _rows(BLOCK, 1)
    grad_ptr += start
    saved_ptr += start
    dx_ptr += start
    bits_ptr += start // 8
    if start + BLOCK <= n:
        g = tl.load(grad_ptr + offs).to(tl.float32)
        saved = tl.load(saved_ptr + offs).to(tl.float32)
        dx, parts = ACTIVATION(g, saved, _unpacked(tl.load(bits_ptr + byte), place), values, PRECISE)
        if DX:
            tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty))
        _store_partial_sums(partial_ptr, parts, offs < BLOCK, pid, NEEDED)
    else:
        mask = offs < n - start
        g = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        saved = tl.load(saved_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        bit = _unpacked(tl.load(bits_ptr + byte, mask=byte * 8 < n - start, other=0), place)
        dx, parts = ACTIVATION(g, saved, bit, values, PRECISE)
        if DX:
            tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        _store_partial_sums(partial_ptr, parts, mask, pid, NEEDED)


@triton.jit
def _sloped(g, bit, off, on, DEAD: tl.constexpr, PLAIN: tl.constexpr):
    """g times the slope that its bit tells; 0 where that is, whatever g."""
    rise = g if PLAIN else g * on
    return tl.where(bit, rise, 0.0) if DEAD else tl.where(bit, rise, g * off)


@triton.jit(do_not_specialize=["n"])
def backward_slopes_kernel(
    grad_ptr,
    bits_ptr,
    dx_ptr,
    n,
    off,
    on,
    DEAD: tl.constexpr,
    PLAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx from the output's gradient and the bits alone, on n elements: DEAD if `off` is 0, PLAIN if `on` is 1."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    byte, offs, place = _rows(BLOCK, 1)
    grad_ptr += start
    dx_ptr += start
    bits_ptr += start // 8
    if start + BLOCK <= n:
        g = tl.load(grad_ptr + offs).to(tl.float32)
        dx = _sloped(g, _unpacked(tl.load(bits_ptr + byte), place), off, on, DEAD, PLAIN)
        tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty))
    else:
        mask = offs < n - start
        g = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        dx = _sloped(
            g, _unpacked(tl.load(bits_ptr + byte, mask=byte * 8 < n - start, other=0), place), off, on, DEAD, PLAIN
        )
        tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def backward_segments_kernel(
    grad_ptr,
    bits_ptr,
    dx_ptr,
    n,
    parameters,
    WIDTH: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx from the output's gradient and the numbers of segments, on n elements; the slopes are those of a table."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    slopes = _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)[2]
    byte, offs, place = _rows(BLOCK, WIDTH)
    grad_ptr += start
    dx_ptr += start
    bits_ptr += start // (8 // WIDTH)
    if start + BLOCK <= n:
        g = tl.load(grad_ptr + offs).to(tl.float32)
        code = (tl.load(bits_ptr + byte).to(tl.int32)[:, None] >> place) & (2**WIDTH - 1)
        tl.store(dx_ptr + offs, (g * tl.load(slopes + code)).to(dx_ptr.dtype.element_ty))
    else:
        mask = offs < n - start
        g = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        packed = tl.load(bits_ptr + byte, mask=byte * (8 // WIDTH) < n - start, other=0).to(tl.int32)
        code = (packed[:, None] >> place) & (2**WIDTH - 1)
        tl.store(dx_ptr + offs, (g * tl.load(slopes + code)).to(dx_ptr.dtype.element_ty), mask=mask)
