"""Derivatives of a formula by PyTorch's differentiation, for what no kernel serves: graphs, transforms, tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import eager
from .execution import Call, Parameters

__all__ = [
    "expanded",
    "first_order",
    "formula_of",
    "merged",
    "recorded",
    "restored",
    "second_order",
    "summed",
    "tangent",
    "tensors_of",
    "unrecorded",
]


def restored(grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients in the places where they are needed."""
    rest = iter(grads)
    return [next(rest) if n else None for n in needed]


def formula_of(call: Call, x: Tensor, params: Parameters) -> Tensor:
    """The value in plain operators."""
    return eager.formula(call.spec, x, params, call.channel)


def first_order(call: Call, params: Parameters) -> Callable[..., tuple[Tensor, ...]]:
    """(g, x, *tensor parameters) -> gradients of x and of the tensor parameters, by the formula."""

    def first(g: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(lambda x, *t: formula_of(call, x, merged(params, t)), x, *tensors)[1](g)

    return first


def recorded(
    call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool], create_graph: bool = True
) -> list[Tensor | None]:
    """First-order gradients in a graph of plain operators: is_grads_batched=True loses that of a Function."""
    wanted = [t for t, n in zip((x, *params), needed, strict=True) if n and isinstance(t, Tensor)]
    y = formula_of(call, x, params)
    return restored(torch.autograd.grad(y, wanted, g, create_graph=create_graph), needed)


def unrecorded(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """The same without a graph: an operator that takes a list of tensors has no batching rule."""
    with torch.enable_grad():
        leaves = [
            p.detach().requires_grad_(n) if isinstance(p, Tensor) else p
            for p, n in zip(params, needed[1:], strict=True)
        ]
        return recorded(call, g, x.detach().requires_grad_(needed[0]), leaves, needed, create_graph=False)


def merged(params: Parameters, tensors: Sequence[Tensor]) -> list[float | Tensor]:
    """params with its tensors replaced, in order."""
    rest = iter(tensors)
    return [next(rest) if isinstance(p, Tensor) else p for p in params]


def tensors_of(params: Parameters) -> list[Tensor]:
    """Those parameters that are tensors."""
    return [p for p in params if isinstance(p, Tensor)]


def tangent(function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
    """The directional derivative of an elementwise function of tensors of one shape: slopes times tangents."""
    # Indexed: the function has no auxiliary output, which its declared type allows for.
    result = torch.func.vjp(function, *primals)
    out, pull = result[0], result[1]
    slopes = pull(torch.ones_like(out))
    terms = [s * t for s, t in zip(slopes, tangents, strict=True) if t is not None]
    # A parameter's dtype may be wider than the result's.
    return sum(terms[1:], terms[0]).to(out.dtype) if terms else torch.zeros_like(out)


def expanded(call: Call, x: Tensor, t: Tensor) -> Tensor:
    """A parameter, or its tangent, at every element of x, so that its derivatives stay elementwise."""
    wide = eager.operand(t, x, call.channel, t.dtype)
    assert isinstance(wide, Tensor)
    return wide.expand(x.shape)


def summed(call: Call, pointwise: Tensor, like: Tensor) -> Tensor:
    """What `_expanded` repeated, summed again."""
    if like.numel() == 1:
        return pointwise.sum().reshape(like.shape)
    others = [d for d in range(pointwise.dim()) if d != call.channel]
    return pointwise.sum(others) if others else pointwise


def second_order(
    call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool], ggs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of (g, x, *params) from those of the needed first-order gradients."""
    tensors = tensors_of(params)
    first = first_order(call, params)
    result = torch.func.vjp(first, g, x, *tensors)
    grads, pull = result[0], result[1]
    kept = iter(ggs)
    wanted = [n for n, p in zip(needed, (x, *params), strict=True) if isinstance(p, Tensor)]
    cotangents = []
    for grad, n in zip(grads, wanted, strict=True):
        gg = next(kept) if n else None
        cotangents.append(torch.zeros_like(grad) if gg is None else gg)
    dg, dx, *dtensors = pull(tuple(cotangents))
    rest = iter(dtensors)
    return [dg, dx, *(next(rest) if isinstance(p, Tensor) else None for p in params)]
