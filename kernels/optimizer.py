"""The kernel template of optimizers' steps: any pointwise function of a parameter, its gradient and its states.

Many tensors go through one launch: a table holds their addresses, and each program works one chunk of one of them.
The device function is one of pointwise.py: function(values, params, precise) -> (outputs, ()).
"""

import triton
import triton.language as tl

from .elementwise import _load_parameters


def launch_metadata(grid, kernel, args):
    """What a profiler shows of a launch: the rule, and the bytes moved."""
    sizes = {"fp32": 4, "bf16": 2, "fp16": 2}
    # The parameter and the states are written too.
    each = sum(sizes[t] for t in args["TYPES"]) * 2 - sizes[args["TYPES"][1]]
    return {"name": f"{args['FUNCTION'].__name__}_{kernel.name}", "bytes": args["elements"] * each}


@triton.jit
def _address(table, column: tl.constexpr, tensors, tensor, TYPES: tl.constexpr, ALIGNED: tl.constexpr):
    """A tensor's address in a column of the table."""
    address = tl.load(table + column * tensors + tensor)
    if TYPES[column] == "fp32":
        pointer = address.to(tl.pointer_type(tl.float32))
    elif TYPES[column] == "bf16":
        pointer = address.to(tl.pointer_type(tl.bfloat16))
    else:
        pointer = address.to(tl.pointer_type(tl.float16))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _step(pointers, offs, mask, params, scale, FUNCTION: tl.constexpr, PRECISE: tl.constexpr, NORMS: tl.constexpr):
    """Load, step and store a block; the squares of the gradients and of what was added, if NORMS asks for them.

    Without a mask, it is None.
    """
    values = ()
    for i in tl.static_range(len(pointers)):
        if mask is None:
            value = tl.load(pointers[i] + offs).to(tl.float32)
        else:
            value = tl.load(pointers[i] + offs, mask=mask, other=0.0).to(tl.float32)
        if i == 1:
            value = value * scale
        values = values + (value,)
    results, _ = FUNCTION(values, params, PRECISE)
    for i in tl.static_range(len(results)):
        # The second pointer is the gradient's.
        target = pointers[0 if i == 0 else i + 1]
        tl.store(target + offs, tl.cast(results[i], target.dtype.element_ty), mask=mask)
    gradient = 0.0
    moved = 0.0
    if NORMS:
        gradient = values[1]
        # What is stored, which rounding may have moved.
        moved = tl.cast(results[0], pointers[0].dtype.element_ty).to(tl.float32) - values[0]
        if mask is not None:
            gradient = tl.where(mask, gradient, 0.0)
            moved = tl.where(mask, moved, 0.0)
    return gradient * gradient, moved * moved


@triton.jit(do_not_specialize=["tensors", "elements"], launch_metadata=launch_metadata)
def optimizer_kernel(
    table,
    chunks,
    tensors,
    elements,
    parameters,
    scale_ptr,
    found_ptr,
    sums_ptr,
    FUNCTION: tl.constexpr,
    TYPES: tl.constexpr,
    PARAMETER_KINDS: tl.constexpr,
    ALIGNED: tl.constexpr,
    SCALED: tl.constexpr,
    NORMS: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """One step of a chunk of BLOCKS blocks.

    `table` has a row of addresses for each of the TYPES, and one of the numbers of elements; `chunks`, for each
    program, the tensor and the number of the chunk in it. SCALED: the gradient is divided by the number at `scale_ptr`,
    and nothing happens if the one at `found_ptr` is not 0.
    """
    pid = tl.program_id(0).to(tl.int64)
    scale = 1.0
    going = True
    if SCALED:
        going = tl.load(found_ptr) == 0.0
        scale = 1.0 / tl.load(scale_ptr)
    grads = tl.zeros((BLOCK if NORMS else 1,), tl.float32)
    moves = tl.zeros((BLOCK if NORMS else 1,), tl.float32)
    if going:
        tensor = tl.load(chunks + 2 * pid)
        start = tl.load(chunks + 2 * pid + 1).to(tl.int64) * (BLOCK * BLOCKS)
        n = tl.load(table + len(TYPES) * tensors + tensor)
        pointers = ()
        for i in tl.static_range(len(TYPES)):
            pointers = pointers + (_address(table, i, tensors, tensor, TYPES, ALIGNED) + start,)
        params = _load_parameters(parameters, 0, None, PARAMETER_KINDS, ())
        left = n - start
        offs = tl.arange(0, BLOCK)
        # A mask that depends on n forbids 16-byte accesses: only a tensor's last chunk carries one.
        if left >= BLOCK * BLOCKS:
            for block in range(BLOCKS):
                g, m = _step(pointers, block * BLOCK + offs, None, params, scale, FUNCTION, PRECISE, NORMS)
                if NORMS:
                    grads += g
                    moves += m
        else:
            last = 0
            while last * BLOCK < left:
                at = last * BLOCK + offs
                g, m = _step(pointers, at, at < left, params, scale, FUNCTION, PRECISE, NORMS)
                if NORMS:
                    grads += g
                    moves += m
                last += 1
    if NORMS:
        tl.store(sums_ptr + pid, tl.sum(grads))
        tl.store(sums_ptr + tl.num_programs(0) + pid, tl.sum(moves))
