"""Kernels that were compiled before, launched again as directly as Triton lets one."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

__all__ = ["FEW", "again", "keep", "kept", "of_three", "of_two", "replaced"]

# Below so many elements offsets in bytes fit into 32 bits for every dtype, so that no kernel is specialized on them.
FEW = 2**29

# Of the commonest launches, by `of_two` or `of_three`: the compiled kernel, elements per program, and the compile-time
# arguments.
_plans: dict[tuple[Any, ...], tuple[Any, int, tuple[Any, ...]]] = {}


def again(compiled: Any, grid: int, *args: Any) -> None:
    """Launch a compiled kernel as `compiled[grid](*args)` does, but without what that prepares for absent hooks."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    # A chain of hooks, or one, or None.
    if getattr(enter, "calls", enter) or getattr(leave, "calls", leave):
        compiled[(grid, 1, 1)](*args)
        return
    driver = triton.runtime.driver.active
    stream = driver.get_current_stream(driver.get_current_device())
    run = compiled.run
    run(grid, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None, *args)


def _numbers(params: tuple[Any, ...]) -> bool:
    for p in params:  # noqa: SIM110
        if type(p) is not float:
            return False
    return True


def of_two(function: str, params: tuple[Any, ...], n: int, x: Tensor, out: Tensor) -> tuple[Any, ...] | None:
    """What the launch of a flat kernel depends on, where tensors of n elements are of one layout, few and aligned, and
    parameters numbers; None for any other launch. The last tensor is one of ours, dense and without overlap.
    """
    if n >= FEW or (x.data_ptr() | out.data_ptr()) & 15 or x.stride() != out.stride() or not _numbers(params):
        return None
    return function, x.device.index, x.dtype, out.dtype


def of_three(
    function: str, params: tuple[Any, ...], n: int, grad: Tensor, saved: Tensor, dx: Tensor
) -> tuple[Any, ...] | None:
    """The same for three tensors."""
    if n >= FEW or (grad.data_ptr() | saved.data_ptr() | dx.data_ptr()) & 15 or not _numbers(params):
        return None
    strides = dx.stride()
    if grad.stride() != strides or saved.stride() != strides:
        return None
    return function, saved.device.index, grad.dtype, saved.dtype, dx.dtype


def kept(key: tuple[Any, ...] | None) -> tuple[Any, int, tuple[Any, ...]] | None:
    """What `keep` was given for such a launch."""
    return _plans.get(key) if key is not None else None


def keep(key: tuple[Any, ...] | None, compiled: Any, block: int, constants: tuple[Any, ...]) -> None:
    """Launch the next one of this kind with these; nothing is compiled in the interpreter."""
    if key is not None and compiled is not None:
        _plans[key] = compiled, block, constants


def replaced(plans: dict[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], Any]:
    """Put these in the place of what is kept, and return that: for another driver."""
    previous = dict(_plans)
    _plans.clear()
    _plans.update(plans)
    return previous
