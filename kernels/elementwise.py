"""The kernel templates that every elementwise activation runs through: forward and backward, flat, strided, by channel.

A template gets the activation's device function as the compile-time argument ACTIVATION and never sees a formula.
PARAMETER_KINDS says of each entry of `parameters` whether it is a "number", a "pointer" to one element, a "channel", a
pointer to one element per channel, a "seed", a pointer to one int64, or a "table", a pointer to a row or to rows per
channel; TABLE is the size of its parts, and the length of a row. CHANNEL says which side of a tile counts channels:
"cols", "rows", or "none". No argument of a kernel may be named `params`, `specialization` or `options`: Triton's
generated binder uses these names.

A forward template with a DERIVATIVE gathers `statistics` on the way: see statistics.py. Without, that is None and ().
"""

import math

import triton
import triton.language as tl

from .statistics import store_statistics


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the activation, the template, and the bytes moved."""
    names = ["x_ptr", "out_ptr", "grad_ptr", "saved_ptr"]
    if args.get("DX"):
        names.append("dx_ptr")
    n = math.prod(args[name] for name in ("n", "rows", "cols", "channels", "others") if name in args)
    return {
        "name": f"{args['ACTIVATION'].__name__.removesuffix('_backward')}_{kernel.name}",
        "bytes": sum(n * args[name].element_size() for name in names if name in args),
    }


@triton.jit
def _table(row, SIZE: tl.constexpr):
    """The parts of a row, or of rows: a header of eight entries, seven parts of SIZE entries, and a last one."""
    at = row + 8
    parts = (row, at, at + SIZE, at + 2 * SIZE, at + 3 * SIZE, at + 4 * SIZE, at + 7 * SIZE, SIZE)
    return parts + (at + 5 * SIZE, at + 6 * SIZE)


@triton.jit
def _load_parameters(parameters, channel, inside, PARAMETER_KINDS: tl.constexpr, TABLE: tl.constexpr):
    """The parameters as a device function takes them.

    `channel` is a block of indices that broadcasts with x, `inside` its mask; or 0 and None. Beyond the edge a
    parameter is 0, and the table the first one, which exists.
    """
    values = ()
    for i in tl.static_range(len(PARAMETER_KINDS)):
        if PARAMETER_KINDS[i] == "pointer":
            values = values + (tl.load(parameters[i]).to(tl.float32),)
        elif PARAMETER_KINDS[i] == "channel":
            values = values + (tl.load(parameters[i] + channel, mask=inside, other=0.0).to(tl.float32),)
        elif PARAMETER_KINDS[i] == "seed":
            values = values + (tl.load(parameters[i]),)
        elif PARAMETER_KINDS[i] == "table":
            if inside is not None:
                channel = tl.where(inside, channel, 0)
            values = values + _table(parameters[i] + channel * TABLE[1], TABLE[0])
        else:
            values = values + (parameters[i],)
    return values


@triton.jit
def _store_partial_sums(partial_ptr, parts, mask, pid, NEEDED: tl.constexpr):
    """One fp32 sum per needed parameter and program, at [parameter, program]: no atomics, the same bits every run."""
    for i in tl.static_range(len(NEEDED)):
        if NEEDED[i]:
            tl.store(partial_ptr + i * tl.num_programs(0).to(tl.int64) + pid, tl.sum(tl.where(mask, parts[i], 0.0)))


@triton.jit
def _within_period(start, offs, statistics):
    """Offsets after whole rounds through all channels, in 32 bits, which divide sooner; the host sees that they do."""
    return (start % (statistics[2] * statistics[3])).to(tl.int32) + offs


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def forward_kernel(
    x_ptr,
    out_ptr,
    n,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
    statistics,
    DERIVATIVE: tl.constexpr,
):
    """out = f(x) on n contiguous elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)
    offs = tl.arange(0, BLOCK)
    x_ptr += start
    out_ptr += start
    # A mask that depends on n forbids 16-byte accesses: only the last block carries one.
    if DERIVATIVE is not None:
        if start + BLOCK <= n:
            x = tl.load(x_ptr + offs).to(tl.float32)
            out = ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + offs, out)
        else:
            mask = offs < n - start
            x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
            out = ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + offs, out, mask=mask)
        # Once for both: AMD's compiler takes minutes over twice as many reductions.
        within = _within_period(start, offs, statistics)
        store_statistics(statistics, x, out, values, within, offs < n - start, DERIVATIVE, PRECISE)
    elif start + BLOCK <= n:
        x = tl.load(x_ptr + offs).to(tl.float32)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty))
    else:
        mask = offs < n - start
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"], launch_metadata=launch_metadata)
def backward_kernel(
    grad_ptr,
    saved_ptr,
    dx_ptr,
    partial_ptr,
    n,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    NEEDED: tl.constexpr,
    DX: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx and the parameters' partial sums from the output's gradient, on n contiguous elements."""
    pid = tl.program_id(0).to(tl.int64)
    start = pid * BLOCK
    values = _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)
    offs = tl.arange(0, BLOCK)
    grad_ptr += start
    saved_ptr += start
    dx_ptr += start
    if start + BLOCK <= n:
        g = tl.load(grad_ptr + offs).to(tl.float32)
        saved = tl.load(saved_ptr + offs).to(tl.float32)
        dx, parts = ACTIVATION(g, saved, values, PRECISE)
        if DX:
            tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty))
        _store_partial_sums(partial_ptr, parts, offs < BLOCK, pid, NEEDED)
    else:
        mask = offs < n - start
        g = tl.load(grad_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        saved = tl.load(saved_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        dx, parts = ACTIVATION(g, saved, values, PRECISE)
        if DX:
            tl.store(dx_ptr + offs, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        _store_partial_sums(partial_ptr, parts, mask, pid, NEEDED)


@triton.jit
def _tile(rows, cols, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, WIDE: tl.constexpr):
    """Row and column indices of this program's tile, and its mask; 64-bit rows where 32 bits do not suffice."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    col_tiles = tl.cdiv(cols, BLOCK_COLS)
    row = (pid // col_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (pid % col_tiles) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    return row, col, (row < rows)[:, None] & (col < cols)[None, :]


@triton.jit
def _row_offsets(row, outer_sizes, strides):
    """`row` counts through the outer dimensions, innermost first; strides[0] is the columns'."""
    offset = tl.zeros_like(row).to(tl.int64)
    remaining = row
    for i in tl.static_range(len(outer_sizes)):
        if i == len(outer_sizes) - 1:
            offset += remaining.to(tl.int64) * strides[i + 1]
        else:
            offset += (remaining % outer_sizes[i]).to(tl.int64) * strides[i + 1]
            remaining = remaining // outer_sizes[i]
    return offset


@triton.jit
def _offsets(row, col, outer_sizes, strides):
    """Offsets of a tile."""
    return _row_offsets(row, outer_sizes, strides)[:, None] + (col.to(tl.int64) * strides[0])[None, :]


@triton.jit
def _tile_parameters(
    parameters,
    row,
    col,
    rows,
    cols,
    outer_sizes,
    strides,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
):
    """The parameters of a tile; `strides` are those that count channels."""
    if CHANNEL == "cols":
        return _load_parameters(parameters, col[None, :], (col < cols)[None, :], PARAMETER_KINDS, TABLE)
    elif CHANNEL == "rows":
        channel = _row_offsets(row, outer_sizes, strides)[:, None]
        return _load_parameters(parameters, channel, (row < rows)[:, None], PARAMETER_KINDS, TABLE)
    else:
        return _load_parameters(parameters, 0, None, PARAMETER_KINDS, TABLE)


@triton.jit(launch_metadata=launch_metadata)
def forward_strided_kernel(
    x_ptr,
    out_ptr,
    rows,
    cols,
    outer_sizes,
    x_strides,
    out_strides,
    channel_strides,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    WIDE: tl.constexpr,
    statistics,
    DERIVATIVE: tl.constexpr,
):
    """out = f(x) for any strides: tiles of the innermost dimension by all the others."""
    row, col, mask = _tile(rows, cols, BLOCK_ROWS, BLOCK_COLS, WIDE)
    values = _tile_parameters(
        *(parameters, row, col, rows, cols, outer_sizes, channel_strides, PARAMETER_KINDS, TABLE, CHANNEL)
    )
    x = tl.load(x_ptr + _offsets(row, col, outer_sizes, x_strides), mask=mask, other=0.0).to(tl.float32)
    out = ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty)
    offsets = _offsets(row, col, outer_sizes, out_strides)
    tl.store(out_ptr + offsets, out, mask=mask)
    if DERIVATIVE is not None:
        store_statistics(statistics, x, out, values, offsets, mask, DERIVATIVE, PRECISE)


@triton.jit(launch_metadata=launch_metadata)
def backward_strided_kernel(
    grad_ptr,
    saved_ptr,
    dx_ptr,
    partial_ptr,
    rows,
    cols,
    outer_sizes,
    grad_strides,
    saved_strides,
    dx_strides,
    channel_strides,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
    NEEDED: tl.constexpr,
    DX: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx and the parameters' partial sums for any strides, a broadcast gradient's zero strides among them."""
    row, col, mask = _tile(rows, cols, BLOCK_ROWS, BLOCK_COLS, WIDE)
    values = _tile_parameters(
        *(parameters, row, col, rows, cols, outer_sizes, channel_strides, PARAMETER_KINDS, TABLE, CHANNEL)
    )
    g = tl.load(grad_ptr + _offsets(row, col, outer_sizes, grad_strides), mask=mask, other=0.0).to(tl.float32)
    saved = tl.load(saved_ptr + _offsets(row, col, outer_sizes, saved_strides), mask=mask, other=0.0).to(tl.float32)
    dx, parts = ACTIVATION(g, saved, values, PRECISE)
    if DX:
        offsets = _offsets(row, col, outer_sizes, dx_strides)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    _store_partial_sums(partial_ptr, parts, mask, tl.program_id(0).to(tl.int64), NEEDED)


@triton.jit
def _side(block, COLS: tl.constexpr):
    """A block of indices along a tile's columns, or along its rows."""
    return block[None, :] if COLS else block[:, None]


@triton.jit
def _channel_tile(channels, BLOCK_CHANNELS: tl.constexpr):
    """This program's channels, its group, and the number of groups: the programs that share a tile of channels."""
    tiles = tl.cdiv(channels, BLOCK_CHANNELS)
    groups = tl.num_programs(0) // tiles
    group = tl.program_id(0) // tiles
    channel = (tl.program_id(0) % tiles) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return channel, group, groups


@triton.jit
def _share(others, group, groups, BLOCK_OTHERS: tl.constexpr):
    """A group's first tile of the other indices, and the one after its last."""
    tiles = tl.cdiv(others, BLOCK_OTHERS)
    share = tl.cdiv(tiles, groups)
    first = group * share
    return first, tl.minimum(first + share, tiles)


@triton.jit
def _others(tile, BLOCK_OTHERS: tl.constexpr, WIDE: tl.constexpr):
    """The other indices of a tile; 64-bit where 32 bits do not suffice."""
    if WIDE:
        tile = tile.to(tl.int64)
    return tile * BLOCK_OTHERS + tl.arange(0, BLOCK_OTHERS)


@triton.jit
def _zero_sums(NEEDED: tl.constexpr, COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_OTHERS: tl.constexpr):
    """A tile of zeros for each parameter."""
    if COLS:
        zeros = tl.zeros([BLOCK_OTHERS, BLOCK_CHANNELS], tl.float32)
    else:
        zeros = tl.zeros([BLOCK_CHANNELS, BLOCK_OTHERS], tl.float32)
    sums = ()
    for _ in tl.static_range(len(NEEDED)):
        sums = sums + (zeros,)
    return sums


@triton.jit
def _grown(sums, parts, mask, NEEDED: tl.constexpr):
    """The sums with one tile's parts added."""
    grown = ()
    for i in tl.static_range(len(NEEDED)):
        grown = grown + (sums[i] + tl.where(mask, parts[i], 0.0) if NEEDED[i] else sums[i],)
    return grown


@triton.jit
def _store_channel_sums(partial_ptr, sums, channel, channels, group, groups, NEEDED: tl.constexpr, COLS: tl.constexpr):
    """One fp32 sum per needed parameter, group and channel, at [parameter, group, channel]."""
    for i in tl.static_range(len(NEEDED)):
        if NEEDED[i]:
            at = (i * groups + group).to(tl.int64) * channels + channel
            tl.store(partial_ptr + at, tl.sum(sums[i], axis=0 if COLS else 1), mask=channel < channels)


@triton.jit(launch_metadata=launch_metadata)
def backward_channel_kernel(
    grad_ptr,
    saved_ptr,
    dx_ptr,
    partial_ptr,
    channels,
    others,
    other_sizes,
    grad_strides,
    saved_strides,
    dx_strides,
    parameters,
    ACTIVATION: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    TABLE: tl.constexpr,
    CHANNEL: tl.constexpr,
    NEEDED: tl.constexpr,
    DX: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OTHERS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx and the parameters' partial sums per channel, for any strides: strides[0] is the channel's.

    A program goes through its share of all the other indices for one tile of channels, and keeps sums in registers.
    Programs that share a tile of channels are a group each; their sums lie at [parameter, group, channel].
    """
    COLS: tl.constexpr = CHANNEL == "cols"
    channel, group, groups = _channel_tile(channels, BLOCK_CHANNELS)
    inside = _side(channel < channels, COLS)
    at = _side(channel, COLS).to(tl.int64)
    values = _load_parameters(parameters, at, inside, PARAMETER_KINDS, TABLE)
    grad_ptr += at * grad_strides[0]
    saved_ptr += at * saved_strides[0]
    dx_ptr += at * dx_strides[0]

    sums = _zero_sums(NEEDED, COLS, BLOCK_CHANNELS, BLOCK_OTHERS)
    tile, end = _share(others, group, groups, BLOCK_OTHERS)
    while tile < end:
        other = _others(tile, BLOCK_OTHERS, WIDE)
        mask = inside & _side(other < others, not COLS)
        offsets = _side(_row_offsets(other, other_sizes, grad_strides), not COLS)
        g = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        offsets = _side(_row_offsets(other, other_sizes, saved_strides), not COLS)
        saved = tl.load(saved_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        dx, parts = ACTIVATION(g, saved, values, PRECISE)
        if DX:
            offsets = _side(_row_offsets(other, other_sizes, dx_strides), not COLS)
            tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        sums = _grown(sums, parts, mask, NEEDED)
        tile += 1
    _store_channel_sums(partial_ptr, sums, channel, channels, group, groups, NEEDED, COLS)
