"""Host side of rrelu.py. The caller has validated the tensors, allocated the results and set the current device."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import grids, launch, rrelu


def run(value: Tensor, x: Tensor, out: Tensor, seed: Tensor, low: float, high: float) -> None:
    """out = value where x > 0, else value times the element's slope: forward if value is x, else backward.

    `out` is dense; it may be x. In backward x may be of uint8, 1 where it was > 0. `seed` is one int64. Element i in
    row-major order has one slope, however it lies.
    """
    n = x.numel()
    if n == 0:
        return
    backward = value is not x
    block = grids.block_size(out.element_size(), grids.warp_size())
    if all(t.is_contiguous() for t in (value, x, out)):
        key = launch._flat_key("rrelu", (value, x, out, seed), n, (), backward)
        args = (value, x, out, seed, n, low, high, backward, block)
        launch._run(rrelu.rrelu_kernel, triton.cdiv(n, block), key, *args)
        return
    shape = tuple(x.shape)
    numbers = torch.empty(shape, device="meta").stride()
    sizes, strides = grids.collapse(shape, value.stride(), x.stride(), numbers, out.stride())
    rows, cols, block_rows, block_cols = grids.tiles(sizes, block)
    grid = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    integers = (rows, cols, tuple(sizes[1:]), *map(tuple, strides))
    constants = (backward, block_rows, block_cols, rows + block_rows >= 2**31 or grid >= 2**31)
    key = launch._strided_key("rrelu strided", (value, x, out, seed), integers, (), *constants)
    launch._run(rrelu.rrelu_strided_kernel, grid, key, value, x, out, seed, *integers, low, high, *constants)
