"""Biased activations below autograd: by kernels or in pieces, and the operators that dispatch modes see."""

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
from . import biased_pieces, hosted

__all__ = ["RECORD", "Call", "backward", "factors_of", "forward", "result_dtype"]

RECORD = hosted.record("bias_act")


class Call(NamedTuple):
    """What of a call is not a tensor: the activation, the path, the dimension that the bias and parameters per channel
    count, from the first, and the probability of dropout, 0 for none.
    """

    spec: ActivationSpec
    path: Path
    dim: int
    p: float = 0.0


def result_dtype(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> torch.dtype:
    """That of x + bias + residual."""
    dtype = x.dtype
    for t in (bias, residual):
        # A tensor without dimensions changes no other's dtype.
        if t is not None and t.dtype != dtype and (t.dim() or not x.dim()):
            dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def forward(
    call: Call,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    params: Parameters,
    seed: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """act(x + bias), times dropout's factor if there is a seed, plus the residual; into `out`, which may be x."""
    if compat.dispatch_mode_active():
        y = torch.ops.fusedact.bias_act(x, bias, residual, seed, *_described(call, params))
        return y if out is None else out.copy_(y)
    return _run_forward(call, x, bias, residual, params, seed, out)


def backward(
    call: Call,
    g: Tensor,
    x: Tensor,
    bias: Tensor | None,
    params: Parameters,
    seed: Tensor | None,
    needed: Sequence[bool],
    out: Tensor | None = None,
) -> list[Tensor | None]:
    """Gradients of x, the bias and each parameter, those that are needed; x's into `out`, which may be x or g."""
    if compat.dispatch_mode_active():
        grads = torch.ops.fusedact.bias_act_backward(g, x, bias, seed, *_described(call, params), list(needed))
        found = [grad if n else None for grad, n in zip(grads, needed, strict=True)]
        if out is not None and found[0] is not None:
            found[0] = out.copy_(found[0])
        return found
    return _run_backward(call, g, x, bias, params, seed, needed, out)


def factors_of(call: Call, x: Tensor, seed: Tensor) -> Tensor:
    """What dropout multiplies x's elements with: 0, or what keeps the mean; in float32, or float64 as x."""
    made = torch.empty(x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
    if call.path.kind != "triton" and not compat.dispatch_mode_active():
        biased_pieces.factors(call.p, seed, made)
        return made
    return forward(call._replace(spec=registry.get("identity")), made.fill_(1.0), None, None, (), seed)


def _run_forward(
    call: Call,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    params: Parameters,
    seed: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    spec, path, dim, p = call
    x = compat.materialized(x)
    residual = None if residual is None else compat.materialized(residual)
    dtype = result_dtype(x, bias, residual)
    if path.kind != "triton":
        out = large_pages.empty_like(x, dtype) if out is None else out
        biased_pieces.forward(spec, x, bias, residual, params, dim, p, seed, out)
        return out
    from ..kernels import launch_biased

    out = torch.empty_like(x, dtype=dtype) if out is None else out
    if spec.build is not None:
        spec.build(x.device)
    with on_device(x):
        launch_biased.forward(
            *(spec.device, x, _laid_out(bias), residual, out, _in_memory(params), *_last(call, x, seed))
        )
    return out


def _run_backward(
    call: Call,
    g: Tensor,
    x: Tensor,
    bias: Tensor | None,
    params: Parameters,
    seed: Tensor | None,
    needed: Sequence[bool],
    out: Tensor | None = None,
) -> list[Tensor | None]:
    spec, path, dim, p = call
    g, x = compat.materialized(g), compat.materialized(x)
    dx = None
    if needed[0]:
        dx = large_pages.empty_like(x) if out is None else out
    if path.kind != "triton":
        return [dx, *biased_pieces.backward(spec, g, x, bias, params, dim, p, seed, needed, dx)]
    from ..kernels import launch_biased

    if spec.build is not None:
        spec.build(x.device)
    owed = tuple(needed[2:])
    with on_device(x):
        partials = launch_biased.backward(
            *(spec.device, g, x, _laid_out(bias), dx, _in_memory(params), (*owed, needed[1]), *_last(call, x, seed))
        )
    if bias is None:
        return [dx, None, *_sums(partials, params, owed)]
    # The bias counts as the last parameter.
    *sums, of_bias = _sums(partials, [*params, bias], [*owed, needed[1]])
    return [dx, of_bias, *sums]


def _laid_out(bias: Tensor | None) -> Tensor | None:
    """The bias as kernels read it, entry by entry."""
    return None if bias is None else compat.materialized(bias).contiguous()


def _last(call: Call, x: Tensor, seed: Tensor | None) -> tuple[Any, ...]:
    """What launches take at the end: the dimension of channels, and dropout."""
    dropout = None if seed is None else (call.p, biased_pieces.scale_of(call.p), seed)
    return call.dim if x.dim() else None, dropout


# ----- operators

_library = torch.library.Library("fusedact", "FRAGMENT")
_REST = "Tensor? seed, Tensor?[] tensors, float[] numbers, str activation, int dim, float p"
_library.define(f"bias_act(Tensor x, Tensor? bias, Tensor? residual, {_REST}) -> Tensor")
_library.define(f"bias_act_backward(Tensor grad, Tensor x, Tensor? bias, {_REST}, bool[] needed) -> Tensor[]")


def _described(call: Call, params: Parameters) -> tuple[Any, ...]:
    """A call and its parameters as operators take them."""
    tensors = [p if isinstance(p, Tensor) else None for p in params]
    numbers = [0.0 if isinstance(p, Tensor) else p for p in params]
    return tensors, numbers, call.spec.key or call.spec.name, call.dim, call.p


def _call(x: Tensor, others: Sequence[Tensor | None], arguments: Sequence[Any]) -> tuple[Call, Parameters]:
    """The call behind an operator."""
    tensors, numbers, name, dim, p = arguments
    spec = registry.get_own(name) if ":" in name else registry.get(name)
    params = [n if t is None else t for t, n in zip(tensors, numbers, strict=True)]
    path = choose(RECORD, x, [t for t in (*others, *tensors) if t is not None], False)
    return Call(spec, path if path.kind == "triton" else Path("pieces", path.reason), dim, p), params


def _forward(x: Tensor, bias: Tensor | None, residual: Tensor | None, seed: Tensor | None, *rest: Any) -> Tensor:
    call, params = _call(x, (bias, residual), rest)
    with compat.transforms_allowed():
        return _run_forward(call, x, bias, residual, params, seed)


def _backward(g: Tensor, x: Tensor, bias: Tensor | None, seed: Tensor | None, *rest: Any) -> list[Tensor]:
    call, params = _call(x, (bias,), rest[:-1])
    with compat.transforms_allowed():
        grads = _run_backward(call, g, x, bias, params, seed, rest[-1])
    return [g.new_empty(0) if grad is None else grad for grad in grads]


def _fake_forward(x: Tensor, bias: Tensor | None, residual: Tensor | None, *_: Any) -> Tensor:
    return torch.empty_like(x, dtype=result_dtype(x, bias, residual))


def _fake_backward(g: Tensor, x: Tensor, bias: Tensor | None, seed: Tensor | None, *rest: Any) -> list[Tensor]:
    pairs = zip((x, bias, *rest[0]), rest[-1], strict=True)
    return [torch.empty_like(t) if n and t is not None else g.new_empty(0) for t, n in pairs]


for _name, _function, _fake in (
    ("bias_act", _forward, _fake_forward),
    ("bias_act_backward", _backward, _fake_backward),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusedact::{_name}", _fake, lib=_library)
