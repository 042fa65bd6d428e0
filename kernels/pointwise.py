"""The kernel templates of any pointwise function of n values to m values: flat, strided, by channel.

    function(values, params, precise) -> (outputs, parts)

`values` is a tuple of n fp32 blocks, `outputs` a tuple of m; `params` and the parts are those of elementwise.py, whose
pieces these templates are made of. An output or a part may also be a number, or a block that broadcasts. WRITTEN says
of each output whether it is stored: the pointer of one that is not is never used. RANDOM is "none", or the last of
the parameters is a seed, and the last of `values` a block of 32 random bits for each element, by its place in row-major
order, whose strides come behind those of the inputs: "each" by itself, or, where they lie side by side along the tile's
columns, by "fours".
"""

import math

import triton
import triton.language as tl

from .elementwise import (
    _channel_tile,
    _grown,
    _load_parameters,
    _offsets,
    _others,
    _row_offsets,
    _share,
    _side,
    _store_channel_sums,
    _store_partial_sums,
    _tile,
    _tile_parameters,
    _zero_sums,
)
from .random_bits import bits_of, bits_of_fours


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the function, the template, and the bytes moved."""
    n = math.prod(args[name] for name in ("n", "rows", "cols", "channels", "others") if name in args)
    written = [t for t, stored in zip(args["outputs"], args["WRITTEN"], strict=True) if stored]
    return {
        "name": f"{args['FUNCTION'].__name__}_{kernel.name}",
        "bytes": n * sum(t.element_size() for t in (*args["inputs"], *written)),
    }


@triton.jit
def _moved(pointers, offsets):
    """Every pointer moved by the same offsets."""
    moved = ()
    for i in tl.static_range(len(pointers)):
        moved = moved + (pointers[i] + offsets,)
    return moved


@triton.jit
def _tile_pointers(pointers, row, col, outer_sizes, strides):
    """Every pointer moved to a tile, by strides of its own."""
    moved = ()
    for i in tl.static_range(len(pointers)):
        moved = moved + (pointers[i] + _offsets(row, col, outer_sizes, strides[i]),)
    return moved


@triton.jit
def _channel_pointers(pointers, channel, strides):
    """Every pointer moved to a block of channels."""
    moved = ()
    for i in tl.static_range(len(pointers)):
        moved = moved + (pointers[i] + channel * strides[i][0],)
    return moved


@triton.jit
def _other_pointers(pointers, other, other_sizes, strides, COLS: tl.constexpr):
    """Every pointer moved to a block of the other indices; where COLS, the channels are the tile's columns."""
    moved = ()
    for i in tl.static_range(len(pointers)):
        moved = moved + (pointers[i] + _side(_row_offsets(other, other_sizes, strides[i]), not COLS),)
    return moved


@triton.jit
def _some(start, BLOCK: tl.constexpr, RANDOM: tl.constexpr):
    """The indices of a block for which random numbers are made: of each element, or of every fourth."""
    if RANDOM == "fours":
        return start + 4 * tl.arange(0, BLOCK // 4)
    else:
        return start + tl.arange(0, BLOCK)


@triton.jit
def _bits(seed, number, RANDOM: tl.constexpr):
    """Random bits of a tile, whose elements have these numbers, or every fourth has."""
    if RANDOM == "fours":
        return bits_of_fours(seed, number >> 2)
    else:
        return bits_of(seed, number)


@triton.jit
def _apply(inputs, outputs, mask, params, bits, FUNCTION: tl.constexpr, WRITTEN: tl.constexpr, PRECISE: tl.constexpr):
    """Load, evaluate and store at blocks of pointers; the parts of the parameters.

    Without a mask, it is None; `bits` are a tuple, without any of them an empty one.
    """
    values = ()
    for i in tl.static_range(len(inputs)):
        if mask is None:
            values = values + (tl.load(inputs[i]).to(tl.float32),)
        else:
            values = values + (tl.load(inputs[i], mask=mask, other=0.0).to(tl.float32),)
    results, parts = FUNCTION(values + bits, params, PRECISE)
    for i in tl.static_range(len(WRITTEN)):
        if WRITTEN[i]:
            tl.store(outputs[i], tl.cast(results[i], outputs[i].dtype.element_ty), mask=mask)
    return parts


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def pointwise_kernel(
    inputs,
    outputs,
    partial_ptr,
    n,
    parameters,
    FUNCTION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    WRITTEN: tl.constexpr,
    NEEDED: tl.constexpr,
    PRECISE: tl.constexpr,
    RANDOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The outputs and the parameters' partial sums, on n contiguous elements."""
    pid = tl.program_id(0).to(tl.int64)
    start = pid * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)
    offs = tl.arange(0, BLOCK)
    bits = ()
    if RANDOM != "none":
        quarter = pid * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
        bits = (bits_of_fours(values[len(PARAMETER_KINDS) - 1], quarter),)
    # A scalar base and 32-bit offsets.
    sources = _moved(_moved(inputs, start), offs)
    targets = _moved(_moved(outputs, start), offs)
    # A mask that depends on n forbids 16-byte accesses: only the last block carries one.
    # The parts get no name: both branches would have to yield it, and an empty tuple cannot be yielded.
    if start + BLOCK <= n:
        _store_partial_sums(
            *(partial_ptr, _apply(sources, targets, None, values, bits, FUNCTION, WRITTEN, PRECISE), offs < BLOCK),
            *(pid, NEEDED),
        )
    else:
        mask = offs < n - start
        _store_partial_sums(
            *(partial_ptr, _apply(sources, targets, mask, values, bits, FUNCTION, WRITTEN, PRECISE), mask),
            *(pid, NEEDED),
        )


@triton.jit(launch_metadata=launch_metadata)
def pointwise_strided_kernel(
    inputs,
    outputs,
    partial_ptr,
    rows,
    cols,
    outer_sizes,
    in_strides,
    out_strides,
    channel_strides,
    parameters,
    FUNCTION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
    WRITTEN: tl.constexpr,
    NEEDED: tl.constexpr,
    PRECISE: tl.constexpr,
    RANDOM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The outputs and the parameters' partial sums for any strides, zero strides of the inputs among them."""
    row, col, mask = _tile(rows, cols, BLOCK_ROWS, BLOCK_COLS, WIDE)
    values = _tile_parameters(
        *(parameters, row, col, rows, cols, outer_sizes, channel_strides, PARAMETER_KINDS, TABLE, CHANNEL)
    )
    sources = _tile_pointers(inputs, row, col, outer_sizes, in_strides)
    targets = _tile_pointers(outputs, row, col, outer_sizes, out_strides)
    bits = ()
    if RANDOM != "none":
        at = _some((tl.program_id(0) % tl.cdiv(cols, BLOCK_COLS)) * BLOCK_COLS, BLOCK_COLS, RANDOM)
        number = _offsets(row, at, outer_sizes, in_strides[len(inputs)])
        bits = (_bits(values[len(PARAMETER_KINDS) - 1], number, RANDOM),)
    parts = _apply(sources, targets, mask, values, bits, FUNCTION, WRITTEN, PRECISE)
    _store_partial_sums(partial_ptr, parts, mask, tl.program_id(0).to(tl.int64), NEEDED)


@triton.jit(launch_metadata=launch_metadata)
def pointwise_channel_kernel(
    inputs,
    outputs,
    partial_ptr,
    channels,
    others,
    other_sizes,
    in_strides,
    out_strides,
    parameters,
    FUNCTION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
    WRITTEN: tl.constexpr,
    NEEDED: tl.constexpr,
    PRECISE: tl.constexpr,
    RANDOM: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The outputs and the parameters' partial sums per channel, for any strides: the first of each is the channel's.

    Programs, groups and sums are those of elementwise.backward_channel_kernel.
    """
    COLS: tl.constexpr = CHANNEL == "cols"
    channel, group, groups = _channel_tile(channels, BLOCK_CHANNELS)
    inside = _side(channel < channels, COLS)
    at = _side(channel, COLS).to(tl.int64)
    values = _load_parameters(parameters, at, inside, PARAMETER_KINDS, TABLE)
    sources = _channel_pointers(inputs, at, in_strides)
    targets = _channel_pointers(outputs, at, out_strides)

    sums = _zero_sums(NEEDED, COLS, BLOCK_CHANNELS, BLOCK_OTHERS)
    tile, end = _share(others, group, groups, BLOCK_OTHERS)
    while tile < end:
        other = _others(tile, BLOCK_OTHERS, WIDE)
        mask = inside & _side(other < others, not COLS)
        bits = ()
        if RANDOM != "none":
            strides = in_strides[len(inputs)]
            if COLS:
                start = (tl.program_id(0) % tl.cdiv(channels, BLOCK_CHANNELS)) * BLOCK_CHANNELS
                number = _side(_some(start, BLOCK_CHANNELS, RANDOM), True).to(tl.int64) * strides[0]
                number += _side(_row_offsets(other, other_sizes, strides), False)
            else:
                some = _some((tile.to(tl.int64) if WIDE else tile) * BLOCK_OTHERS, BLOCK_OTHERS, RANDOM)
                number = at * strides[0] + _side(_row_offsets(some, other_sizes, strides), True)
            bits = (_bits(values[len(PARAMETER_KINDS) - 1], number, RANDOM),)
        parts = _apply(
            _other_pointers(sources, other, other_sizes, in_strides, COLS),
            _other_pointers(targets, other, other_sizes, out_strides, COLS),
            *(mask, values, bits, FUNCTION, WRITTEN, PRECISE),
        )
        sums = _grown(sums, parts, mask, NEEDED)
        tile += 1
    _store_channel_sums(partial_ptr, sums, channel, channels, group, groups, NEEDED, COLS)
