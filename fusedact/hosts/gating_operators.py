"""Gated activations below autograd: by kernels or in pieces, and the operators that dispatch modes see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import compat, registry
from ..cpu import large_pages
from ..dispatch import Path, choose
from ..execution import Parameters, _in_memory, _sums, on_device
from ..registry import ActivationSpec
from . import gating_pieces
from .gating_limits import NONE, Limits

__all__ = ["IN_HALVES", "LAYOUTS", "Call", "backward", "forward", "halves"]

IN_HALVES = ("gate_value", "value_gate")
LAYOUTS = (*IN_HALVES, "interleaved")


class Call(NamedTuple):
    """What of a call is not a tensor: the gate's activation, the path, and the dimension that counts channels.

    One tensor holds x and the gate along `dim` if `layout` is named, else there are two. Limits come first.
    """

    spec: ActivationSpec
    path: Path
    channel: int | None = None
    dim: int = 0
    layout: str = ""
    limits: Limits = NONE


def halves(packed: Tensor, dim: int, layout: str) -> tuple[Tensor, Tensor]:
    """x and the gate, as views."""
    if layout == "interleaved":
        gate, x = packed.unflatten(dim, (packed.shape[dim] // 2, 2)).unbind(dim + 1)
        return x, gate
    # One operator, whose gradient joins both in one pass.
    first, second = packed.chunk(2, dim)
    return (second, first) if layout == "gate_value" else (first, second)


def _parts(call: Call, given: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return halves(given[0], call.dim, call.layout) if call.layout else (given[0], given[1])


def forward(call: Call, given: Sequence[Tensor], params: Parameters) -> Tensor:
    """The value; `given` are x and the gate, or the tensor that holds both."""
    if compat.dispatch_mode_active():
        operator = torch.ops.fusedact.packed_glu if call.layout else torch.ops.fusedact.gated
        return operator(*given, *_described(call, params))
    return _run_forward(call, given, params)


def backward(
    call: Call, g: Tensor, given: Sequence[Tensor], params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of what is given and of each parameter, those that are needed."""
    if compat.dispatch_mode_active():
        ops = torch.ops.fusedact
        operator = ops.packed_glu_backward if call.layout else ops.gated_backward
        grads = operator(g, *given, *_described(call, params), list(needed))
        return [grad if n else None for grad, n in zip(grads, needed, strict=True)]
    return _run_backward(call, g, given, params, needed)


def _run_forward(call: Call, given: Sequence[Tensor], params: Parameters) -> Tensor:
    spec, path, channel, *_ = call
    given = [compat.materialized(t) for t in given]
    x, gate = _parts(call, given)
    out = large_pages.empty_like(x)
    if path.kind != "triton":
        gating_pieces.forward(spec, x, gate, params, out, channel, call.limits)
        return out
    from ..kernels import launch_gated

    if spec.build is not None:
        spec.build(x.device)
    with on_device(x):
        launch_gated.forward(spec.device, x, gate, out, _in_memory(params), channel, call.limits)
    return out


def _run_backward(
    call: Call, g: Tensor, given: Sequence[Tensor], params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    spec, path, channel, *_ = call
    g, given = compat.materialized(g), [compat.materialized(t) for t in given]
    x, gate = _parts(call, given)
    wanted, owed = needed[: len(given)], tuple(needed[len(given) :])
    grads = [large_pages.empty_like(t) if n else None for t, n in zip(given, wanted, strict=True)]
    dx, dgate = grads if not call.layout else (None, None) if grads[0] is None else _parts(call, [grads[0]])
    if path.kind != "triton":
        return [*grads, *gating_pieces.backward(spec, g, x, gate, dx, dgate, params, owed, channel, call.limits)]
    from ..kernels import launch_gated

    if spec.build is not None:
        spec.build(x.device)
    with on_device(x):
        partials = launch_gated.backward(
            spec.device, g, x, gate, dx, dgate, _in_memory(params), owed, channel, call.limits
        )
    return [*grads, *_sums(partials, params, owed)]


# ----- operators

_library = torch.library.Library("fusedact", "FRAGMENT")
_REST = "Tensor?[] tensors, float[] numbers, str activation, int? channel, float? limit, float offset"
_PACKED = f"Tensor packed, {_REST}, int dim, str layout"
_library.define(f"gated(Tensor x, Tensor gate, {_REST}) -> Tensor")
_library.define(f"gated_backward(Tensor grad, Tensor x, Tensor gate, {_REST}, bool[] needed) -> Tensor[]")
_library.define(f"packed_glu({_PACKED}) -> Tensor")
_library.define(f"packed_glu_backward(Tensor grad, {_PACKED}, bool[] needed) -> Tensor[]")


def _described(call: Call, params: Parameters) -> tuple[Any, ...]:
    """A call and its parameters as operators take them."""
    tensors = [p if isinstance(p, Tensor) else None for p in params]
    numbers = [0.0 if isinstance(p, Tensor) else p for p in params]
    rest = (call.dim, call.layout) if call.layout else ()
    return tensors, numbers, call.spec.key or call.spec.name, call.channel, *call.limits, *rest


def _call(given: Sequence[Tensor], arguments: Sequence[Any]) -> tuple[Call, Parameters]:
    """The call behind an operator."""
    tensors, numbers, name, channel, limit, offset, *rest = arguments
    spec = registry.get_own(name) if ":" in name else registry.get(name)
    params = [n if t is None else t for t, n in zip(tensors, numbers, strict=True)]
    path = choose(registry.get("glu"), given[0], [*given[1:], *(t for t in tensors if t is not None)], False)
    if path.kind != "triton":
        path = Path("pieces", path.reason)
    dim, layout = rest or (0, "")
    return Call(spec, path, channel, dim, layout, Limits(limit, offset)), params


def _implement(name: str, count: int) -> None:
    """An operator and its backward; `count` tensors hold x and the gate."""

    def forward(*arguments: Any) -> Tensor:
        given, arguments = arguments[:count], arguments[count:]
        call, params = _call(given, arguments)
        with compat.transforms_allowed():
            return _run_forward(call, given, params)

    def backward(g: Tensor, *arguments: Any) -> list[Tensor]:
        given, arguments = arguments[:count], arguments[count:]
        call, params = _call(given, arguments[:-1])
        with compat.transforms_allowed():
            grads = _run_backward(call, g, given, params, arguments[-1])
        return [g.new_empty(0) if grad is None else grad for grad in grads]

    def fake_forward(*arguments: Any) -> Tensor:
        x, _ = arguments[:2] if count == 2 else halves(arguments[0], *arguments[-2:])
        return torch.empty_like(x)

    def fake_backward(g: Tensor, *arguments: Any) -> list[Tensor]:
        like = [*arguments[:count], *arguments[count]]
        pairs = zip(like, arguments[-1], strict=True)
        return [torch.empty_like(t) if n else g.new_empty(0) for t, n in pairs]

    for suffix, function, fake in (("", forward, fake_forward), ("_backward", backward, fake_backward)):
        _library.impl(f"{name}{suffix}", function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fusedact::{name}{suffix}", fake, lib=_library)


_implement("gated", 2)
_implement("packed_glu", 1)
