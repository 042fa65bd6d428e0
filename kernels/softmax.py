"""Softmax and log-softmax along one dimension, forward and backward, for any strides, with temperature and mask.

A program takes a tile of rows, each of which is what one sum goes over; all other dimensions count rows. Where a whole
row fits a tile it is read once and written once; the kernels named `looping` go through longer rows twice. MASK is
"none", "keep" (0 is left out) or "add"; TEMPERATURE is "one", "number" or "pointer". NEGATED makes it softmin.
"""

import triton
import triton.language as tl

from .device_math import LOG2_E, exp_nonpositive
from .logarithms import log

INFINITY = tl.constexpr(float("inf"))
# A running maximum begins here: an infinity would make -inf - -inf of what is -inf itself.
LOWEST = tl.constexpr(-3.4028234663852886e38)


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the function, the kernel, and the bytes moved."""
    size = args["rows"] * args["n"]
    names = ["x_ptr", "out_ptr"] if "out_ptr" in args else ["grad_ptr", "y_ptr", "dx_ptr"]
    if args.get("LEARNED"):
        names.append("x_ptr")
    name = ("log_" if args["LOG"] else "") + ("softmin" if args["NEGATED"] else "softmax")
    return {"name": f"{name}_{kernel.name}", "bytes": sum(size * args[name].element_size() for name in names)}


@triton.jit
def _rows_of(rows, BLOCK_ROWS: tl.constexpr, WIDE: tl.constexpr):
    """The rows of this program; all offsets are 64-bit if WIDE, and 32-bit, in half the registers, otherwise."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return row, (row < rows)[:, None]


@triton.jit
def _row_offsets(row, outer_sizes, strides):
    """Where rows begin: `row` counts through the outer dimensions, innermost first; strides[0] is along a row."""
    offset = tl.zeros_like(row)
    remaining = row
    for i in tl.static_range(len(outer_sizes)):
        if i == len(outer_sizes) - 1:
            offset += remaining * strides[i + 1]
        else:
            offset += (remaining % outer_sizes[i]) * strides[i + 1]
            remaining = remaining // outer_sizes[i]
    return offset[:, None]


@triton.jit
def _columns(start, n, BLOCK_N: tl.constexpr, WIDE: tl.constexpr):
    """Indices along a row, and which of them there are."""
    col = tl.arange(0, BLOCK_N)
    if WIDE:
        col = col.to(tl.int64)
    col += start
    return col[None, :], (col < n)[None, :]


@triton.jit
def _scale(temperature, TEMPERATURE: tl.constexpr):
    """What scores are multiplied by."""
    if TEMPERATURE == "pointer":
        return tl.div_rn(1.0, tl.load(temperature).to(tl.float32))
    elif TEMPERATURE == "number":
        return tl.div_rn(1.0, temperature)
    else:
        return 1.0


@triton.jit
def _scores(
    x_ptr,
    mask_ptr,
    offsets,
    mask_offsets,
    inside,
    scale,
    MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    NEGATED: tl.constexpr,
):
    """A tile of x with its mask, -inf beyond the edge; divided by the temperature only where something is added."""
    z = tl.load(x_ptr + offsets, mask=inside, other=INFINITY if NEGATED else -INFINITY).to(tl.float32)
    if NEGATED:
        z = -z
    if MASK == "keep":
        keep = tl.load(mask_ptr + mask_offsets, mask=inside, other=0)
        z = tl.where(keep != 0, z, -INFINITY)
    elif MASK == "add":
        added = tl.load(mask_ptr + mask_offsets, mask=inside, other=0.0).to(tl.float32)
        if TEMPERATURE == "one":
            z += added
        else:
            z = tl.fma(z, scale, added)
    return z


@triton.jit
def _exponential(d, scale, PRECISE: tl.constexpr):
    """exp(scale d) for d <= 0, times 2^16 for halves: their hardware instruction has no subnormal results."""
    if PRECISE:
        return exp_nonpositive(d * scale, True)
    else:
        return tl.exp2(tl.fma(d, scale * LOG2_E, 16.0))


@triton.jit
def _correction(d, scale, PRECISE: tl.constexpr):
    """exp(scale d) for d <= 0, as a factor of sums."""
    if PRECISE:
        return exp_nonpositive(d * scale, True)
    else:
        return tl.exp2(d * (scale * LOG2_E))


@triton.jit
def _result(d, e, total, scale, LOG: tl.constexpr, PRECISE: tl.constexpr):
    """Softmax or its logarithm from differences to the maximum, exponentials and their sum."""
    if LOG:
        if PRECISE:
            return tl.fma(d, scale, -log(total, True))
        else:
            return tl.fma(d, scale, -log(total * 1.52587890625e-05, True))
    else:
        return e * tl.div_rn(1.0, total)


@triton.jit(launch_metadata=launch_metadata)
def softmax_forward_kernel(
    x_ptr,
    mask_ptr,
    out_ptr,
    rows,
    n,
    outer_sizes,
    x_strides,
    mask_strides,
    out_strides,
    temperature,
    LOG: tl.constexpr,
    NEGATED: tl.constexpr,
    MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows that fit a tile: one read, one write."""
    row, present = _rows_of(rows, BLOCK_ROWS, WIDE)
    col, within = _columns(0, n, BLOCK_N, WIDE)
    inside = present & within
    scale = _scale(temperature, TEMPERATURE)
    z = _scores(
        x_ptr,
        mask_ptr,
        _row_offsets(row, outer_sizes, x_strides) + col * x_strides[0],
        _row_offsets(row, outer_sizes, mask_strides) + col * mask_strides[0],
        *(inside, scale, MASK, TEMPERATURE, NEGATED),
    )
    factor = 1.0 if MASK == "add" else scale
    d = z - tl.max(z, 1)[:, None]
    e = _exponential(d, factor, PRECISE)
    total = tl.sum(e, 1)[:, None]
    out = _result(d, e, total, factor, LOG, PRECISE).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + _row_offsets(row, outer_sizes, out_strides) + col * out_strides[0], out, mask=inside)


@triton.jit(launch_metadata=launch_metadata)
def softmax_forward_looping_kernel(
    x_ptr,
    mask_ptr,
    out_ptr,
    rows,
    n,
    outer_sizes,
    x_strides,
    mask_strides,
    out_strides,
    temperature,
    LOG: tl.constexpr,
    NEGATED: tl.constexpr,
    MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Longer rows: each thread keeps a maximum and a sum that fits it, then the row is read again."""
    row, present = _rows_of(rows, BLOCK_ROWS, WIDE)
    x_rows = _row_offsets(row, outer_sizes, x_strides)
    mask_rows = _row_offsets(row, outer_sizes, mask_strides)
    out_rows = _row_offsets(row, outer_sizes, out_strides)
    scale = _scale(temperature, TEMPERATURE)
    factor = 1.0 if MASK == "add" else scale
    most = tl.full((BLOCK_ROWS, BLOCK_N), LOWEST, tl.float32)
    parts = tl.zeros((BLOCK_ROWS, BLOCK_N), tl.float32)
    for start in range(0, n, BLOCK_N):
        col, within = _columns(start, n, BLOCK_N, WIDE)
        z = _scores(
            *(x_ptr, mask_ptr, x_rows + col * x_strides[0], mask_rows + col * mask_strides[0]),
            *(present & within, scale, MASK, TEMPERATURE, NEGATED),
        )
        more = tl.maximum(most, z)
        parts = parts * _correction(most - more, factor, PRECISE) + _exponential(z - more, factor, PRECISE)
        most = more
    top = tl.max(most, 1)[:, None]
    total = tl.sum(parts * _correction(most - top, factor, PRECISE), 1)[:, None]
    for start in range(0, n, BLOCK_N):
        col, within = _columns(start, n, BLOCK_N, WIDE)
        inside = present & within
        z = _scores(
            *(x_ptr, mask_ptr, x_rows + col * x_strides[0], mask_rows + col * mask_strides[0]),
            *(inside, scale, MASK, TEMPERATURE, NEGATED),
        )
        d = z - top
        e = d if LOG else _exponential(d, factor, PRECISE)
        out = _result(d, e, total, factor, LOG, PRECISE).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_rows + col * out_strides[0], out, mask=inside)


@triton.jit
def _loaded(grad_ptr, y_ptr, grad_offsets, y_offsets, inside, LOG: tl.constexpr):
    """Tiles of the output's gradient and of the output, which add nothing to a sum beyond the edge."""
    g = tl.load(grad_ptr + grad_offsets, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + y_offsets, mask=inside, other=-INFINITY if LOG else 0.0).to(tl.float32)
    return g, y


@triton.jit
def _gradient(
    g,
    y,
    total,
    mask_ptr,
    mask_offsets,
    inside,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """The gradient of scores: y (g - total), or g - exp(y) total, where total is the row's sum of g y, or of g."""
    dz = tl.fma(-exp_nonpositive(y, PRECISE), total, g) if LOG else y * (g - total)
    if MASK == "keep":
        dz = tl.where(tl.load(mask_ptr + mask_offsets, mask=inside, other=0) != 0, dz, 0.0)
    return dz


@triton.jit
def _share(dz, x_ptr, x_offsets, inside):
    """What each element adds to the sum for the temperature: dz x, and nothing where nothing depends on x."""
    x = tl.load(x_ptr + x_offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.where(dz == 0.0, 0.0, dz * x)


@triton.jit(launch_metadata=launch_metadata)
def softmax_backward_kernel(
    grad_ptr,
    y_ptr,
    x_ptr,
    mask_ptr,
    dx_ptr,
    partial_ptr,
    rows,
    n,
    outer_sizes,
    grad_strides,
    y_strides,
    x_strides,
    mask_strides,
    dx_strides,
    temperature,
    LOG: tl.constexpr,
    NEGATED: tl.constexpr,
    MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    LEARNED: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows that fit a tile: output and gradient are read once. If LEARNED, each program's sum of dz x is written."""
    row, present = _rows_of(rows, BLOCK_ROWS, WIDE)
    col, within = _columns(0, n, BLOCK_N, WIDE)
    inside = present & within
    scale = _scale(temperature, TEMPERATURE)
    g, y = _loaded(
        *(grad_ptr, y_ptr),
        _row_offsets(row, outer_sizes, grad_strides) + col * grad_strides[0],
        _row_offsets(row, outer_sizes, y_strides) + col * y_strides[0],
        *(inside, LOG),
    )
    total = tl.sum(g if LOG else g * y, 1)[:, None]
    mask_offsets = _row_offsets(row, outer_sizes, mask_strides) + col * mask_strides[0]
    dz = _gradient(g, y, total, mask_ptr, mask_offsets, inside, LOG, MASK, PRECISE)
    dx = (dz * (-scale if NEGATED else scale)).to(dx_ptr.dtype.element_ty)
    tl.store(dx_ptr + _row_offsets(row, outer_sizes, dx_strides) + col * dx_strides[0], dx, mask=inside)
    if LEARNED:
        x_offsets = _row_offsets(row, outer_sizes, x_strides) + col * x_strides[0]
        tl.store(partial_ptr + tl.program_id(0), tl.sum(_share(dz, x_ptr, x_offsets, inside)))


@triton.jit(launch_metadata=launch_metadata)
def softmax_backward_looping_kernel(
    grad_ptr,
    y_ptr,
    x_ptr,
    mask_ptr,
    dx_ptr,
    partial_ptr,
    rows,
    n,
    outer_sizes,
    grad_strides,
    y_strides,
    x_strides,
    mask_strides,
    dx_strides,
    temperature,
    LOG: tl.constexpr,
    NEGATED: tl.constexpr,
    MASK: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    LEARNED: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Longer rows, which are read twice."""
    row, present = _rows_of(rows, BLOCK_ROWS, WIDE)
    grad_rows = _row_offsets(row, outer_sizes, grad_strides)
    y_rows = _row_offsets(row, outer_sizes, y_strides)
    x_rows = _row_offsets(row, outer_sizes, x_strides)
    mask_rows = _row_offsets(row, outer_sizes, mask_strides)
    dx_rows = _row_offsets(row, outer_sizes, dx_strides)
    scale = _scale(temperature, TEMPERATURE)
    parts = tl.zeros((BLOCK_ROWS, BLOCK_N), tl.float32)
    for start in range(0, n, BLOCK_N):
        col, within = _columns(start, n, BLOCK_N, WIDE)
        g, y = _loaded(
            *(grad_ptr, y_ptr, grad_rows + col * grad_strides[0], y_rows + col * y_strides[0]),
            *(present & within, LOG),
        )
        parts += g if LOG else g * y
    total = tl.sum(parts, 1)[:, None]
    shares = tl.zeros((BLOCK_ROWS, BLOCK_N), tl.float32)
    for start in range(0, n, BLOCK_N):
        col, within = _columns(start, n, BLOCK_N, WIDE)
        inside = present & within
        g, y = _loaded(
            *(grad_ptr, y_ptr, grad_rows + col * grad_strides[0], y_rows + col * y_strides[0]),
            *(inside, LOG),
        )
        mask_offsets = mask_rows + col * mask_strides[0]
        dz = _gradient(g, y, total, mask_ptr, mask_offsets, inside, LOG, MASK, PRECISE)
        dx = (dz * (-scale if NEGATED else scale)).to(dx_ptr.dtype.element_ty)
        tl.store(dx_ptr + dx_rows + col * dx_strides[0], dx, mask=inside)
        if LEARNED:
            shares += _share(dz, x_ptr, x_rows + col * x_strides[0], inside)
    if LEARNED:
        tl.store(partial_ptr + tl.program_id(0), tl.sum(shares))
