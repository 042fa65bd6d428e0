"""Softmax along a dimension below autograd: by kernels or in blocks, and the operators that dispatch modes see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import compat, registry
from ..dispatch import Path, choose
from ..execution import on_device
from . import row_blocks
from .row_blocks import Call, Number

__all__ = ["Gradients", "backward", "forward"]


def forward(path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    if compat.dispatch_mode_active():
        return torch.ops.fusedact.softmax(x, *_described(call, temperature), mask)
    return _run_forward(path, call, x, temperature, mask)


def _run_forward(path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    if path.kind != "triton":
        return row_blocks.forward(call, x, temperature, mask)
    from ..kernels import launch_softmax

    x = compat.materialized(x)
    out = torch.empty_like(x, dtype=call.dtype)
    with on_device(x):
        launch_softmax.forward(x, out, _scores(call, temperature, mask))
    return out


def _scores(call: Call, temperature: Number, mask: Tensor | None) -> Any:
    """A call as its kernels take it."""
    from ..kernels import launch_softmax

    if isinstance(temperature, Tensor):
        temperature = compat.materialized(temperature)
    if mask is not None and mask.is_floating_point():
        mask = compat.materialized(mask)
    return launch_softmax.Scores(call.dim, call.log, call.negated, temperature, mask)


Gradients = list[Tensor | None]


def backward(
    path: Path,
    call: Call,
    g: Tensor,
    y: Tensor,
    x: Tensor,
    temperature: Number,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of x, of the temperature and of the mask, those that are needed; x is y unless the second is.

    That of the mask has x's shape: autograd sums what was broadcast.
    """
    if compat.dispatch_mode_active():
        grads = torch.ops.fusedact.softmax_backward(g, y, x, *_described(call, temperature), mask, list(needed))
        return [grad if n else None for grad, n in zip(grads, needed, strict=True)]
    return _run_backward(path, call, g, y, x, temperature, mask, needed)


def _run_backward(
    path: Path,
    call: Call,
    g: Tensor,
    y: Tensor,
    x: Tensor,
    temperature: Number,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> Gradients:
    sign = -1.0 if call.negated else 1.0
    if path.kind != "triton":
        dx, total = row_blocks.backward(call, g, y, x, temperature, mask, needed[1])
    else:
        from ..kernels import launch_softmax

        g = compat.materialized(g)
        dx = torch.empty_like(x)
        with on_device(x):
            partials = launch_softmax.backward(g, y, x if needed[1] else None, dx, _scores(call, temperature, mask))
        total = None if partials is None else partials.sum()
    dtemperature = None
    if total is not None and isinstance(temperature, Tensor):
        dtemperature = (total * -sign / temperature.double().square()).to(temperature.dtype).reshape(temperature.shape)
    dmask = None
    if needed[2] and mask is not None:
        # The gradient of scores again, which dx is a multiple of.
        dmask = (dx * (sign * temperature)).to(mask.dtype)
    return [dx if needed[0] else None, dtemperature, dmask]


# ----- operators

_library = torch.library.Library("fusedact", "FRAGMENT")
_ARGUMENTS = "bool log, bool negated, int dim, ScalarType dtype, float number, Tensor? temperature, Tensor? mask"
_library.define(f"softmax(Tensor x, {_ARGUMENTS}) -> Tensor")
_library.define(f"softmax_backward(Tensor grad, Tensor y, Tensor x, {_ARGUMENTS}, bool[] needed) -> Tensor[]")


def _described(call: Call, temperature: Number) -> tuple[Any, ...]:
    """A call and its temperature as operators take them."""
    given = temperature if isinstance(temperature, Tensor) else None
    number = 1.0 if call.temperature is None else call.temperature
    return call.log, call.negated, call.dim, call.dtype, number, given


def _physical(x: Tensor, tensors: Sequence[Tensor | None]) -> Path:
    """The path behind an operator, which must not end in PyTorch's autograd-aware function."""
    path = choose(registry.get("softmax"), x, [t for t in tensors if t is not None], False)
    return path if path.kind == "triton" else Path("pieces", path.reason)


def _call(
    log: bool, negated: bool, dim: int, dtype: torch.dtype, number: float, given: Tensor | None
) -> tuple[Call, Number]:
    """The call behind an operator, and its temperature."""
    call = Call(log, negated, dim, dtype, number if given is None else None)
    return call, number if given is None else given


def _operator(x: Tensor, *arguments: Any) -> Tensor:
    *described, mask = arguments
    call, temperature = _call(*described)
    return _run_forward(_physical(x, (described[-1], mask)), call, x, temperature, mask)


def _backward_operator(g: Tensor, y: Tensor, x: Tensor, *arguments: Any) -> list[Tensor]:
    *described, mask, needed = arguments
    call, temperature = _call(*described)
    grads = _run_backward(_physical(x, (described[-1], mask)), call, g, y, x, temperature, mask, needed)
    return [y.new_empty(0) if grad is None else grad for grad in grads]


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(x, dtype=arguments[3])


def _fake_backward(g: Tensor, y: Tensor, x: Tensor, *arguments: Any) -> list[Tensor]:
    given, mask, needed = arguments[5:]
    like = (x, given, mask)
    return [torch.empty_like(t) if n else y.new_empty(0) for t, n in zip(like, needed, strict=True)]


for _name, _function, _abstract in (
    ("softmax", _operator, _fake),
    ("softmax_backward", _backward_operator, _fake_backward),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusedact::{_name}", _abstract, lib=_library)
