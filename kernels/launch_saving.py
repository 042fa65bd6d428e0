"""Host side of saving.py: forward passes that pack bits, backward passes that read them.

The caller has validated the tensors, brought them to one dense layout, allocated the results and made the tensors'
device the current one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import device_functions, grids, launch
from .saving import backward_bits_kernel, backward_segments_kernel, backward_slopes_kernel, forward_bits_kernel

Slopes = tuple[float, float]


def forward(
    function: str,
    side: str,
    which: str,
    x: Tensor,
    out: Tensor,
    bits: Tensor,
    params: launch.Parameters,
    middle: float = 0.0,
    width: int = 1,
) -> None:
    """out = f(x), and `width` bits of each x.

    They come of the device function `side`: one that gives them if `which` is "side" or "code"; or the derivative,
    whose two slopes have `middle` between them: where it is greater if "rising", smaller if "falling".
    """
    n = x.numel()
    if n == 0:
        return
    values, kinds, table = launch._arguments(params, None)
    precise = launch._precise(x, params)
    block = grids.block_size(x.element_size(), grids.warp_size())
    tensors = (x, out, bits)
    constants = (which, width, kinds, table, precise)
    key = launch._flat_key(f"{function} {forward_bits_kernel.__name__}", tensors, n, values, *constants)
    functions = device_functions.named(function), device_functions.named(side)
    args: tuple[Any, ...] = (*tensors, n, middle, values, *functions, *constants, block)
    launch._run(forward_bits_kernel, triton.cdiv(n, block), key, *args)


def backward(
    function: str,
    grad: Tensor,
    saved: Tensor,
    bits: Tensor,
    dx: Tensor | None,
    params: launch.Parameters,
    needed: tuple[bool, ...],
) -> Tensor | None:
    """Write dx, unless it is None, from the output and its bits; return partial sums as `launch.backward` does."""

    def run(_: int | None) -> Tensor | None:
        n = saved.numel()
        values, kinds, _table = launch._arguments(params, None)
        precise = launch._precise(saved, params)
        block = grids.block_size(saved.element_size(), grids.warp_size())
        grid = triton.cdiv(n, block)
        partials = saved.new_empty((len(params), grid), dtype=torch.float32) if any(needed) else None
        # Where nothing is written, the pointer is one that exists.
        target = saved if dx is None else dx
        tensors = (grad, saved, bits, target, target if partials is None else partials)
        constants = (kinds, needed, dx is not None, precise)
        key = launch._flat_key(f"{function} {backward_bits_kernel.__name__}", tensors, n, values, *constants)
        device_function = device_functions.named(function)
        launch._run(backward_bits_kernel, grid, key, *tensors, n, values, device_function, *constants, block)
        return partials

    return launch._partial_sums(run, saved, params, needed, None)


def backward_slopes(grad: Tensor, bits: Tensor, dx: Tensor, slopes: Slopes) -> None:
    """dx = grad times the slope that each bit tells."""
    n = grad.numel()
    if n == 0:
        return
    off, on = slopes
    constants = (off == 0.0, on == 1.0)
    block = grids.block_size(grad.element_size(), grids.warp_size())
    tensors = (grad, bits, dx)
    key = launch._flat_key(backward_slopes_kernel.__name__, tensors, n, (), *constants)
    launch._run(backward_slopes_kernel, triton.cdiv(n, block), key, *tensors, n, off, on, *constants, block)


def backward_segments(grad: Tensor, bits: Tensor, dx: Tensor, table: launch.Table, width: int) -> None:
    """dx = grad times the slope of the segment of a table whose number is packed, in `width` bits."""
    n = grad.numel()
    if n == 0:
        return
    values, kinds, size = launch._arguments((table,), None)
    block = grids.block_size(grad.element_size(), grids.warp_size())
    tensors = (grad, bits, dx)
    key = launch._flat_key(backward_segments_kernel.__name__, tensors, n, values, width, kinds, size)
    launch._run(backward_segments_kernel, triton.cdiv(n, block), key, *tensors, n, values, width, kinds, size, block)
