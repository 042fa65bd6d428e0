"""The backward of learned piecewise-linear tables: dx, and the sums that their gradients are made of, in one pass.

A tile has three axes, one of which counts threads, so that sums along the others stay inside a thread. A thread keeps
one sum per entry in registers from tile to tile; after the last one threads are added, to one fp32 number per entry,
group of programs and channel. README.md beside this file derives the ways to sum that METHOD names:

    hats     sums of g * hat(k), which is 1 at breakpoint k and falls to 0 at its neighbours
    ramps    the same from sums of g * ramp over a thread's elements of a tile, which are then subtracted
    lines    for each segment the sum of g, and that of g * (x - where the segment begins)

A program sums COUNT of TOTAL entries: where registers do not hold all, several programs read the same elements.
"""

import triton
import triton.language as tl

from .elementwise import _row_offsets, _share, _table
from .piecewise import position, segment, slope


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: how sums are made, and the bytes moved."""
    names = ["grad_ptr", "saved_ptr", *(["dx_ptr"] if args["DX"] else [])]
    n = args["channels"] * args["others"]
    return {
        "name": f"pwl_{args['KIND']}_{args['METHOD']}_{args['TOTAL']}_{kernel.name}",
        "bytes": sum(n * args[name].element_size() for name in names),
    }


# ----- tiles


@triton.jit
def _tile_channels(first, COLS: tl.constexpr, OTHERS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr):
    """The channels of a tile, as a block that broadcasts with it."""
    if COLS:
        # As many side by side as a thread has sums for.
        return tl.max_contiguous(first + tl.arange(0, CHANNELS), VECTOR)[None, None, :]
    else:
        return (first + tl.arange(0, CHANNELS * OTHERS) // OTHERS)[None, :, None]


@triton.jit
def _tile_others(
    COLS: tl.constexpr, REPEATS: tl.constexpr, OTHERS: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr
):
    """The other indices of a tile, from its first one on."""
    if COLS:
        repeat = tl.arange(0, REPEATS)[:, None, None] * OTHERS
        return repeat + tl.arange(0, OTHERS)[None, :, None]
    else:
        repeat = tl.arange(0, REPEATS)[:, None, None] * (OTHERS * VECTOR)
        thread = tl.arange(0, CHANNELS * OTHERS) % OTHERS
        return repeat + (thread * VECTOR)[None, :, None] + tl.arange(0, VECTOR)[None, None, :]


@triton.jit
def _elements(ptr, start, others, sizes, strides, FLAT: tl.constexpr):
    """Pointers to a tile's elements."""
    if FLAT:
        return ptr + start + others
    else:
        return ptr + _row_offsets(start + others, sizes, strides)


@triton.jit
def _loaded(ptr, start, local, inside, others, whole, sizes, strides, FLAT: tl.constexpr):
    """A tile in fp32; without a mask, which forbids 16-byte accesses, if it is whole."""
    if whole:
        t = tl.load(_elements(ptr, start, local, sizes, strides, FLAT))
    else:
        mask = inside & (start + local < others)
        t = tl.load(_elements(ptr, start, local, sizes, strides, FLAT), mask=mask, other=0.0)
    return t.to(tl.float32)


@triton.jit
def _store(ptr, t, start, local, inside, others, whole, sizes, strides, FLAT: tl.constexpr):
    """The same, to write."""
    t = t.to(ptr.dtype.scalar.element_ty)
    if whole:
        tl.store(_elements(ptr, start, local, sizes, strides, FLAT), t)
    else:
        mask = inside & (start + local < others)
        tl.store(_elements(ptr, start, local, sizes, strides, FLAT), t, mask=mask)


@triton.jit
def _by_thread(t, COLS: tl.constexpr):
    """A tile as [threads, elements of each]; along the columns a thread has a row for each of its channels."""
    if COLS:
        t = tl.permute(t, (1, 2, 0))
        return tl.reshape(t, (t.shape[0] * t.shape[1], t.shape[2]))
    else:
        t = tl.permute(t, (1, 0, 2))
        return tl.reshape(t, (t.shape[0], t.shape[1] * t.shape[2]))


@triton.jit
def _by_channel(t, COLS: tl.constexpr, OTHERS: tl.constexpr, CHANNELS: tl.constexpr):
    """The sum of [threads] for each channel."""
    if COLS:
        return tl.sum(tl.reshape(t, (OTHERS, CHANNELS)), axis=0)
    else:
        return tl.sum(tl.reshape(t, (CHANNELS, OTHERS)), axis=1)


# ----- places and ramps


@triton.constexpr_function
def _shifted(METHOD, EVEN, PRECISE, PART):
    """Whether a place is the position in the grid that finds segments, half a step more."""
    return METHOD != "lines" and EVEN and not PRECISE and not PART


@triton.jit
def _place(x, at, first, params, METHOD: tl.constexpr, EVEN: tl.constexpr, PRECISE: tl.constexpr, PART: tl.constexpr):
    """How many steps x lies after breakpoint `first`; of lines, how many segments its own comes after that.

    `at` is the segment, where it is needed. PART tells that there are more entries than these, on either side.
    """
    if METHOD == "lines":
        return (at - first).to(tl.float32)
    else:
        if EVEN:
            if _shifted(METHOD, EVEN, PRECISE, PART):
                t = position(x, params[0])
            else:
                t = (x - tl.load(params[8] + (first + 1))) * tl.load(params[0] + 5)
        else:
            t = tl.fma(x - tl.load(params[8] + at), tl.load(params[9] + at), (at - (first + 1)).to(tl.float32))
        return t


@triton.jit
def _bounded(t, first, TOTAL: tl.constexpr):
    """The place between the first and the last of all entries. A NaN, too, is before the first."""
    return tl.minimum(tl.maximum(t, (0 - first).to(tl.float32)), (TOTAL - 1 - first).to(tl.float32))


@triton.jit
def _ramp(t):
    """t between 0 and 1, which is free where an instruction saturates. A NaN becomes 0."""
    return tl.minimum(tl.maximum(t, 0.0), 1.0)


@triton.jit
def _parts(g, moved, t, METHOD: tl.constexpr, COUNT: tl.constexpr, PART: tl.constexpr, SHIFT: tl.constexpr):
    """What a thread's elements add to each entry: the ramp that ends at it less the one that begins there."""
    parts = ()
    others = ()
    for k in tl.static_range(COUNT):
        if k == 0:
            before = _ramp(t + 1) if PART else 1.0
            before = tl.sum(g * before, axis=1) if METHOD == "ramps" else before
        if k == COUNT - 1 and not PART:
            hat = before
            after = before
        elif METHOD == "ramps":
            after = tl.sum(g * _ramp(t - (k + SHIFT)), axis=1)
            hat = before - after
        else:
            after = _ramp(t - (k + SHIFT))
            hat = before - after
        parts = parts + (hat if METHOD == "ramps" else tl.sum(g * hat, axis=1),)
        if METHOD == "lines":
            others = others + (tl.sum(moved * hat, axis=1),)
        before = after
    return parts + others


@triton.jit
def _added(sums, parts, START: tl.constexpr):
    """The sums, those from START on with the parts added."""
    grown = ()
    for i in tl.static_range(len(sums)):
        added = sums[i]
        if i >= START and i < START + len(parts):
            added += parts[i - START]
        grown = grown + (added,)
    return grown


# ----- a pass


@triton.jit
def _tails(x, params, TOTAL: tl.constexpr):
    """How far x lies before the first breakpoint, and behind the last one; a NaN is before."""
    left = tl.minimum(x - tl.load(params[8]), 0.0, propagate_nan=tl.PropagateNan.ALL)
    return left, tl.maximum(x - tl.load(params[8] + TOTAL), 0.0)


@triton.jit
def _summed(
    sums,
    g,
    x,
    at,
    first,
    params,
    METHOD: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISE: tl.constexpr,
    SLOPES: tl.constexpr,
    COUNT: tl.constexpr,
    TOTAL: tl.constexpr,
    COLS: tl.constexpr,
):
    """The sums with a tile added."""
    PART: tl.constexpr = COUNT < TOTAL
    SHIFT: tl.constexpr = 0.5 if _shifted(METHOD, EVEN, PRECISE, PART) else 0.0
    t = _place(x, at, first, params, METHOD, EVEN, PRECISE, PART)
    if PART and METHOD != "lines":
        t = _bounded(t, first, TOTAL)
    weights = _by_thread(g, COLS)
    moved = weights
    if METHOD == "lines":
        moved = _by_thread(g * (x - tl.load(params[8] + at)), COLS)
    sums = _added(sums, _parts(weights, moved, _by_thread(t, COLS), METHOD, COUNT, PART, SHIFT), 0)
    if SLOPES:
        left, right = _tails(x, params, TOTAL)
        parts = (tl.sum(_by_thread(g * left, COLS), axis=1), tl.sum(_by_thread(g * right, COLS), axis=1))
        sums = _added(sums, parts, COUNT)
    return sums


@triton.jit
def _alone(entry, g, x, at, params, METHOD: tl.constexpr, TOTAL: tl.constexpr):
    """What elements add to one entry of all, whatever the others get: nothing is multiplied by a weight of 0."""
    gone = x - tl.load(params[8] + at)
    if METHOD == "lines":
        return tl.where(at == entry % TOTAL, tl.where(entry < TOTAL, g, g * gone), 0.0)
    else:
        # Where the segment ends, exactly 1.
        part = tl.where(x >= tl.load(params[8] + (at + 1)), 1.0, gone * tl.load(params[9] + at))
        t = tl.minimum(tl.maximum((at - 1).to(tl.float32) + part, 0.0), TOTAL - 1.0)
        hat = _ramp(1.0 - tl.abs(t - entry))
        left, right = _tails(x, params, TOTAL)
        weight = tl.where(entry < TOTAL, hat, tl.where(entry == TOTAL, left, right))
        return tl.where(weight == 0.0, 0.0, g * weight)


@triton.jit
def _entry(i, part, COUNT: tl.constexpr, TOTAL: tl.constexpr, SETS: tl.constexpr):
    """Where the i-th sum of a part belongs among all entries, and whether it does."""
    k = part * COUNT + i % COUNT
    beyond = i >= COUNT * SETS
    entry = tl.where(beyond, TOTAL + i - COUNT, k + i // COUNT * TOTAL)
    return entry, tl.where(beyond, part == 0, k < TOTAL)


@triton.jit(do_not_specialize=["channels", "others"], launch_metadata=launch_metadata)
def sums_kernel(
    grad_ptr,
    saved_ptr,
    dx_ptr,
    partial_ptr,
    table_ptr,
    channels,
    others,
    sizes,
    grad_strides,
    saved_strides,
    dx_strides,
    KIND: tl.constexpr,
    TABLE: tl.constexpr,
    EVEN: tl.constexpr,
    METHOD: tl.constexpr,
    COUNT: tl.constexpr,
    TOTAL: tl.constexpr,
    SLOPES: tl.constexpr,
    DX: tl.constexpr,
    PRECISE: tl.constexpr,
    LAYOUT: tl.constexpr,
    REPEATS: tl.constexpr,
    OTHERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx, and partial sums at [entry, group, channel], for any strides: strides[0] is the channel's.

    LAYOUT tells whether channels are along a tile's "cols" or "rows", or all is "flat": one channel, contiguous.
    """
    COLS: tl.constexpr = LAYOUT == "cols"
    FLAT: tl.constexpr = LAYOUT == "flat"
    BLOCK: tl.constexpr = REPEATS * OTHERS * (1 if COLS else VECTOR)
    PARTS: tl.constexpr = (TOTAL + COUNT - 1) // COUNT
    SETS: tl.constexpr = 2 if METHOD == "lines" else 1
    # The order that leaves more registers free.
    LATE: tl.constexpr = COLS and not EVEN

    pid = tl.program_id(0)
    part = pid % PARTS
    pid = pid // PARTS
    first = part * COUNT
    tiles = tl.cdiv(channels, CHANNELS)
    groups = tl.num_programs(0) // PARTS // tiles
    group = pid // tiles
    first_channel = (pid % tiles) * CHANNELS

    channel = _tile_channels(first_channel, COLS, OTHERS, CHANNELS, VECTOR)
    inside = channel < channels
    if FLAT:
        params = _table(table_ptr, TABLE[0])
    else:
        # Beyond the edge the table is the first one, which exists.
        params = _table(table_ptr + tl.where(inside, channel, 0).to(tl.int64) * TABLE[1], TABLE[0])
        along = channel.to(tl.int64)
        grad_ptr += along * grad_strides[0]
        saved_ptr += along * saved_strides[0]
        dx_ptr += along * dx_strides[0]
    local = _tile_others(COLS, REPEATS, OTHERS, CHANNELS, VECTOR)

    sums = ()
    for _ in tl.static_range(COUNT * SETS + (2 if SLOPES else 0)):
        sums = sums + (tl.zeros([CHANNELS * OTHERS], tl.float32),)
    begin, end = _share(others, group, groups, BLOCK)
    tile = begin
    while tile < end:
        start = tile.to(tl.int64) * BLOCK if WIDE else tile * BLOCK
        whole = (start + BLOCK <= others) & (first_channel + CHANNELS <= channels)
        where = (start, local, inside, others, whole, sizes)
        g = _loaded(grad_ptr, *where, grad_strides, FLAT)
        x = _loaded(saved_ptr, *where, saved_strides, FLAT)
        at = segment(x, params, KIND)
        if DX and not LATE and part == 0:
            # Beside many sums an address takes fewer registers than a second load.
            few = EVEN and METHOD != "lines" and COUNT <= 32
            slopes = slope(x, params, KIND) if few else tl.load(params[2] + at)
            _store(dx_ptr, g * slopes, *where, dx_strides, FLAT)
        sums = _summed(sums, g, x, at, first, params, METHOD, EVEN, PRECISE, SLOPES, COUNT, TOTAL, COLS)
        if DX and LATE and part == 0:
            _store(dx_ptr, g * tl.load(params[2] + at), *where, dx_strides, FLAT)
        tile += 1

    column = first_channel + tl.arange(0, CHANNELS)
    target = partial_ptr + group.to(tl.int64) * channels + column
    width = groups.to(tl.int64) * channels
    doubt = tl.zeros([CHANNELS], tl.float32)
    for i in tl.static_range(len(sums)):
        total = _by_channel(sums[i], COLS, OTHERS, CHANNELS)
        doubt += total * 0.0
        entry, fits = _entry(i, part, COUNT, TOTAL, SETS)
        tl.store(target + entry * width, total, mask=column < tl.where(fits, channels, 0))
    if METHOD != "lines" and not SLOPES:
        for i in tl.static_range(2):
            zeros = tl.zeros([CHANNELS], tl.float32)
            tl.store(target + (TOTAL + i) * width, zeros, mask=column < tl.where(part == 0, channels, 0))

    # An infinity or a NaN among gradients has spread by its product with a weight of 0, or in a difference.
    if tl.max((doubt != 0.0).to(tl.int32), axis=0) > 0:
        again = part * 0
        while again < len(sums):
            number, belongs = _entry(again, part, COUNT, TOTAL, SETS)
            alone = tl.zeros([CHANNELS * OTHERS], tl.float32)
            tile = begin
            while tile < end:
                start = tile.to(tl.int64) * BLOCK if WIDE else tile * BLOCK
                where = (start, local, inside, others, False, sizes)
                g = _loaded(grad_ptr, *where, grad_strides, FLAT)
                x = _loaded(saved_ptr, *where, saved_strides, FLAT)
                parts = _alone(number, g, x, segment(x, params, KIND), params, METHOD, TOTAL)
                alone += tl.sum(_by_thread(parts, COLS), axis=1)
                tile += 1
            result = _by_channel(alone, COLS, OTHERS, CHANNELS)
            tl.store(target + number * width, result, mask=column < tl.where(belongs, channels, 0))
            again += 1
