"""Random bits by a seed and an element's number in row-major order: the same each time, whatever the layout."""

import triton
import triton.language as tl

# Of Philox; the fewest with which its authors found nothing wrong. Triton's default is 10.
ROUNDS = tl.constexpr(7)


@triton.jit
def _four(seed, quarter):
    """32 bits for each element of these quadruples, which 64-bit numbers count in row-major order."""
    zero = quarter.to(tl.uint32) * 0
    return tl.philox(seed, quarter.to(tl.uint32), (quarter >> 32).to(tl.uint32), zero, zero, ROUNDS)


@triton.jit
def bits_of_fours(seed, quarter):
    """32 bits for each of four elements that lie side by side along the last dimension, by what counts quadruples."""
    a, b, c, d = _four(seed, quarter)
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def bits_of(seed, number):
    """32 bits for each of these elements."""
    a, b, c, d = _four(seed, number >> 2)
    which = number & 3
    return tl.where(which == 0, a, tl.where(which == 1, b, tl.where(which == 2, c, d)))


@triton.jit
def uniform(bits):
    """A number from 0 to below 1, by the upper 24 bits: a float has no more."""
    return (bits >> 8).to(tl.float32) * 5.9604644775390625e-08
