"""The templates of activations that keep bits for backward: forward packs them, backward reads them.

Eight elements, side by side in memory, make a byte, the first of them its lowest bit: a block is rows of eight, so that
a byte belongs to the thread that has its elements. All tensors have one dense layout.
"""

import triton
import triton.language as tl

from .elementwise import _load_parameters, _store_partial_sums, launch_metadata


@triton.jit
def _rows_of_eight(BLOCK: tl.constexpr):
    """The bytes of a block, its elements, and the place of each in its byte."""
    byte = tl.arange(0, BLOCK // 8)
    place = tl.arange(0, 8)[None, :]
    return byte, byte[:, None] * 8 + place, place


@triton.jit
def _bit(x, values, middle, SIDE: tl.constexpr, SLOPES: tl.constexpr, PRECISE: tl.constexpr):
    """What is kept of x: the side of the minimum, or which of two slopes it has, `middle` lying between them."""
    if SLOPES == "side":
        bit = SIDE(x, values)
    else:
        slope, _ = SIDE(tl.full(x.shape, 1.0, tl.float32), x, values, PRECISE)
        bit = slope > middle if SLOPES == "rising" else slope < middle
    return bit.to(tl.int32)


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
    SLOPES: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = f(x), and a bit of each x, on n elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, ())
    byte, offs, place = _rows_of_eight(BLOCK)
    x_ptr += start
    out_ptr += start
    bits_ptr += start // 8
    if start + BLOCK <= n:
        x = tl.load(x_ptr + offs).to(tl.float32)
        packed = tl.sum(_bit(x, values, middle, SIDE, SLOPES, PRECISE) << place, axis=1)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty))
        tl.store(bits_ptr + byte, packed.to(tl.uint8))
    else:
        mask = offs < n - start
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        bit = tl.where(mask, _bit(x, values, middle, SIDE, SLOPES, PRECISE), 0)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty), mask=mask)
        tl.store(bits_ptr + byte, tl.sum(bit << place, axis=1).to(tl.uint8), mask=byte * 8 < n - start)


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
    byte, offs, place = _rows_of_eight(BLOCK)
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
    byte, offs, place = _rows_of_eight(BLOCK)
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
