"""Host side of the optimizers' template: the tables that it reads, and its launch.

The caller has validated the tensors and made their device the current one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import grids, launch
from .optimizer import optimizer_kernel

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# Blocks that a program works one after the other: what it looks up in tables it looks up once for them.
BLOCKS = 4
# Elements of a block for each thread: 32 bytes of fp32, which states have, and 16 of halves.
THREAD = 8


def block_size() -> int:
    """Elements of a block, a power of two."""
    return grids.warp_size() * grids.NUM_WARPS * THREAD


def chunk_table(numels: Sequence[int], device: torch.device) -> Tensor:
    """For each program: the tensor, and the number of the chunk in it."""
    size = block_size() * BLOCKS
    counts = torch.tensor([-(-n // size) for n in numels], dtype=torch.int64)
    tensors = torch.repeat_interleave(torch.arange(len(numels)), counts)
    begins = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    chunks = torch.arange(len(tensors)) - begins
    return torch.stack([tensors, chunks], 1).to(torch.int32).to(device)


def step(
    function: Any,
    name: str,
    table: Tensor,
    chunks: Tensor,
    elements: int,
    types: Sequence[torch.dtype],
    aligned: bool,
    scalars: Sequence[float | Tensor],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    norms: bool,
) -> Tensor | None:
    """One step of the tensors whose addresses are in `table`; the sums of squares of each program if `norms`.

    `function` is a device function of optimizer.py, `name` its own alone; `types` are those of the table's rows. The
    sums are [2, program]: of the gradients, and of what was added to the parameters.
    """
    grid = len(chunks)
    sums = table.new_empty((2, grid), dtype=torch.float32) if norms else None
    scaled = grad_scale is not None or found_inf is not None
    # Pointers that are not used are some that exist.
    scale = found = table
    if scaled:
        scale = torch.ones((), device=table.device) if grad_scale is None else grad_scale
        found = torch.zeros((), device=table.device) if found_inf is None else found_inf
    kinds = tuple("number" if isinstance(s, float) else "pointer" for s in scalars)
    named = tuple(TYPES[t] for t in types)
    precise = any(t == torch.float32 for t in (types[0], *types[2:]))
    tensors = (table, chunks, scale, found, table if sums is None else sums)
    constants = (named, kinds, aligned, scaled, norms, precise)
    values = tuple(scalars)
    count = table.shape[1]
    key = launch._key(name, tensors, values, *constants, elements < 2**31)
    args = (table, chunks, count, elements, values, scale, found, tensors[-1], function)
    launch._run(optimizer_kernel, grid, key, *args, *constants, block_size(), BLOCKS)
    return sums
