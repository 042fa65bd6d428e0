"""Calls that keep their output or bits for backward: forward and backward below autograd, and the autograd Function.

Bits are packed in the order of the input's memory. Second and higher orders are those of the formula, at the input as
the output and the bits give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import compat, execution, operators
from ..cpu import large_pages, pieces
from ..eager import HALF_DTYPES, numeric, operand
from ..execution import Call, Parameters
from .cpu_saved import AT_ONCE, GRADIENTS, sloped
from .packing import pack, packed_size, unpack
from .saving import Plan

__all__ = ["apply", "backward", "forward"]

Grads = list[Tensor | None]
Strides = tuple[int, ...]


# ----- layout


def _order(t: Tensor) -> Strides:
    """The strides of memory without gaps in which t's elements have their order: its own, or row-major ones."""
    return t.stride() if compat.is_dense(t) else torch.empty(t.shape, device="meta").stride()


def _aligned(t: Tensor, order: Strides) -> Tensor:
    """t in memory of that order."""
    return t if t.stride() == order else torch.empty_strided(t.shape, order, dtype=t.dtype, device=t.device).copy_(t)


def _flat(t: Tensor, order: Strides) -> Tensor:
    """t's elements in that order, in one dimension."""
    return _aligned(t, order).as_strided((t.numel(),), (1,))


def _shaped(flat: Tensor, like: Tensor, order: Strides) -> Tensor:
    return flat.as_strided(like.shape, order)


# ----- in plain PyTorch


def _gradient(plan: Plan, g: Tensor, y: Tensor | None, bit: Tensor | None, values: Sequence[Any]) -> Sequence[Any]:
    """The gradient of x, and elementwise those of the parameters, or None for numbers."""
    if plan.slopes is not None and bit is not None:
        return (sloped(g, bit, *plan.slopes.pair),)
    if plan.segments is not None and bit is not None:
        return (plan.segments.sloped(g, bit),)
    assert plan.form is not None
    by_operator = GRADIENTS.get(plan.form.name)
    if by_operator is not None and g.is_cpu and numeric(values):
        return (by_operator(g, y, *values),)
    dx, parts = plan.form.gradient(g, y, bit, *values)
    return (dx, *parts)


def _bit(plan: Plan, x: Tensor, values: Sequence[Any]) -> Tensor:
    """What is kept of each element of x in bits; `values` are the parameters as they broadcast."""
    if plan.segments is not None:
        return plan.segments.code(x)
    if plan.slopes is not None:
        return plan.slopes.mask(x, *values)
    assert plan.form is not None and plan.form.side is not None
    return plan.form.side(x, *values)


def _value(call: Call, x: Tensor, params: Parameters, out: Tensor | None = None) -> Tensor:
    """The value on the eager path, by PyTorch's operator where that is the fastest."""
    spec = call.spec
    if spec.aten is None or not numeric(params) or (spec.pieces_from and x.numel() >= spec.pieces_from):
        return pieces.forward(spec, x, params, out, call.channel)
    if out is None:
        return spec.aten(x, *params)
    if out is x and spec.aten_inplace is not None:
        return spec.aten_inplace(x, *params)
    for x_piece, out_piece in pieces.pieces_of(x, out, limit=pieces.piece_limit(x)):
        out_piece.copy_(spec.aten(x_piece, *params))
    return out


def _uniform(params: Parameters, x: Tensor, owed: Sequence[bool] = ()) -> list[float | Tensor] | None:
    """Parameters that are the same for every element; None if one is not.

    As numbers where that makes nobody wait, and no gradient is `owed`.
    """
    made: list[float | Tensor] = []
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            made.append(p)
        elif p.numel() != 1:
            return None
        elif x.is_cpu and not (owed and owed[i]):
            made.append(p.item())
        else:
            made.append(p.reshape(()).to(_wide_dtype(x)))
    return made


def _wide_dtype(t: Tensor) -> torch.dtype:
    return torch.float32 if t.dtype in HALF_DTYPES else t.dtype


def _wide(t: Tensor) -> Tensor:
    return t.to(_wide_dtype(t))


def _operands(call: Call, params: Parameters, x: Tensor) -> list[Any]:
    """Parameters as they broadcast with x."""
    return [operand(p, x, call.channel, _wide_dtype(x)) for p in params]


def _cuts(count: int, like: Tensor) -> Iterator[slice]:
    """Pieces that fit into a cache."""
    step = pieces.piece_limit(like)
    for start in range(0, count, max(step, 1)):
        yield slice(start, min(start + step, count))


def _packed(part: slice, plan: Plan) -> slice:
    """Where the bits of a piece are, whose length is a multiple of 8 unless it is the last."""
    return slice(packed_size(part.start, plan.width), packed_size(part.stop, plan.width))


def _forward_pieces(
    call: Call, plan: Plan, x: Tensor, params: Parameters, out: Tensor | None, order: Strides
) -> tuple[Tensor, Tensor | None]:
    """The value, into `out` if given, and the bits, which come first: the value may overwrite x."""
    if not plan.packed:
        return _value(call, x, params, out), None
    values = _uniform(params, x)
    if values is None:
        bits = _packed_plainly(call, plan, x, params, order)
        return _value(call, x, params, out), bits
    bits = torch.empty(packed_size(x.numel(), plan.width), dtype=torch.uint8, device=x.device)
    x_flat = _flat(x, order)
    for part in _cuts(x.numel(), x):
        pack(_bit(plan, _wide(x_flat[part]), values), bits[_packed(part, plan)], plan.width)
    return _value(call, x, params, out), bits


def _packed_plainly(call: Call, plan: Plan, x: Tensor, params: Parameters, order: Strides) -> Tensor:
    """The bits by operators on whole tensors."""
    codes = _bit(plan, _wide(x), _operands(call, params, x))
    codes = torch.empty_strided(x.shape, order, dtype=codes.dtype, device=x.device).copy_(codes)
    return pack(codes.as_strided((x.numel(),), (1,)), width=plan.width)


def _backward_pieces(
    call: Call,
    plan: Plan,
    g: Tensor,
    y: Tensor | None,
    bits: Tensor | None,
    params: Parameters,
    needed: Sequence[bool],
    order: Strides,
) -> Grads:
    values = _uniform(params, g, needed[1:])
    if values is not None and plan.form is not None and plan.form.name in AT_ONCE and g.is_cpu and numeric(values):
        return [GRADIENTS[plan.form.name](g, y, *values), *(None for _ in params)]
    if values is None:
        return _backward_plainly(call, plan, g, y, bits, params, needed, order)
    g_flat = _flat(g, order)
    y_flat = None if y is None else _flat(y, order)
    dx = None
    if needed[0]:
        dx = large_pages.advised(torch.empty_strided(g.shape, order, dtype=g.dtype, device=g.device))
    dx_flat = None if dx is None else dx.as_strided((g.numel(),), (1,))
    sums = [
        torch.zeros((), dtype=torch.float64 if g.is_cpu else torch.float32, device=g.device)
        if n and isinstance(p, Tensor)
        else None
        for p, n in zip(params, needed[1:], strict=True)
    ]
    for part in _cuts(g.numel(), g):
        bit = None if bits is None else unpack(bits[_packed(part, plan)], part.stop - part.start, plan.width)
        y_piece = None if y_flat is None else _wide(y_flat[part])
        if plan.slopes is not None and bit is not None and dx_flat is not None:
            sloped(g_flat[part], bit, *plan.slopes.pair, out=dx_flat[part])
            continue
        grads = _gradient(plan, _wide(g_flat[part]), y_piece, bit, values)
        if dx_flat is not None:
            dx_flat[part] = grads[0]
        for total, terms in zip(sums, grads[1:], strict=False):
            if total is not None and terms is not None:
                total.add_(terms.sum())
    return [dx, *(_returned(total, p) for total, p in zip(sums, params, strict=True))]


def _returned(total: Tensor | None, p: float | Tensor) -> Tensor | None:
    return None if total is None or not isinstance(p, Tensor) else total.to(p.dtype).reshape(p.shape)


def _backward_plainly(
    call: Call,
    plan: Plan,
    g: Tensor,
    y: Tensor | None,
    bits: Tensor | None,
    params: Parameters,
    needed: Sequence[bool],
    order: Strides,
) -> Grads:
    """The same by operators on whole tensors, for parameters per channel, and where somebody watches or batches."""
    bit = None if bits is None else _shaped(unpack(bits, g.numel(), plan.width), g, order)
    y_wide = None if y is None else _wide(y)
    grads = _gradient(plan, _wide(g), y_wide, bit, _operands(call, params, g))
    sums: Grads = [None for _ in params]
    for i, (p, terms, n) in enumerate(zip(params, grads[1:], needed[1:], strict=False)):
        if n and isinstance(p, Tensor):
            others = None if p.numel() == 1 else [d for d in range(terms.dim()) if d != call.channel]
            sums[i] = _returned(terms if others == [] else terms.sum(others), p)
    return [grads[0].to(g.dtype) if needed[0] else None, *sums]


# ----- on the path of the call


def forward(
    call: Call, plan: Plan, x: Tensor, params: Parameters, out: Tensor | None, order: Strides
) -> tuple[Tensor, Tensor | None]:
    """The value, into `out` if given, which may be x, and the bits or None; `order` has the strides of their memory."""
    if compat.dispatch_mode_active():
        bits = _packed_plainly(call, plan, x, params, order) if plan.packed else None
        y = operators.forward(call, x, params)
        return y if out is None else out.copy_(y), bits
    if call.path.kind == "triton" and not plan.packed:
        return execution.forward(call, x, params, out), None
    if call.path.kind == "triton" and call.channel is None:
        x = _aligned(compat.materialized(x), order)
        y = torch.empty_like(x) if out is None else out
        bits = torch.empty(packed_size(x.numel(), plan.width), dtype=torch.uint8, device=x.device)
        execution.forward_packing(call, plan, x, params, y, bits)
        return y, bits
    return _forward_pieces(call, plan, x, params, out, order)


def backward(
    call: Call,
    plan: Plan,
    g: Tensor,
    y: Tensor | None,
    bits: Tensor | None,
    params: Parameters,
    needed: Sequence[bool],
    order: Strides,
) -> Grads:
    """Gradients of x and of each parameter, those that are needed, from the output and the bits that are kept."""
    if compat.transforms_active() or compat.is_legacy_batched(g) or compat.dispatch_mode_active():
        return _backward_plainly(call, plan, g, y, bits, params, needed, order)
    if call.path.kind == "triton" and bits is None and y is not None:
        return execution.backward_from_output(call, g, y, params, needed)
    if call.path.kind == "triton" and bits is not None and call.channel is None:
        g = _aligned(compat.materialized(g), order)
        if plan.policy == "bits":
            return [execution.backward_from_bits_alone(call, plan, g, bits), *(None for _ in params)]
        assert y is not None
        return execution.backward_from_bits(call, g, _aligned(y, order), bits, params, needed)
    return _backward_pieces(call, plan, g, y, bits, params, needed, order)


# ----- autograd


@lru_cache(maxsize=64)
def _zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros((), dtype=dtype, device=device)


class _Link(Function):
    """Zeros of x's shape that take one element of memory, whose gradient is x's.

    Second derivatives go through it to x, which is not kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Filling an element anew takes a launch on a GPU; in a graph's capture it would be filled when that runs.
        anew = compat.dispatch_mode_active() or compat.capturing(x)
        return (x.new_zeros(()) if anew else _zero(x.dtype, x.device)).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class _Context:
    """What of a call is no argument of its derivative. `second` gives gradients that have a graph, at an input."""

    __slots__ = ("call", "inplace", "link", "plan", "second")

    def __init__(
        self, call: Call, plan: Plan, inplace: bool, link: Tensor | None, second: Callable[..., Grads]
    ) -> None:
        self.call, self.plan, self.inplace, self.link, self.second = call, plan, inplace, link, second


class _Saved(Function):
    """Forward keeps what the plan says and the parameters that are tensors."""

    @staticmethod
    def forward(ctx: Any, context: _Context, x: Tensor, *params: float | Tensor) -> Tensor:
        call, plan, order = context.call, context.plan, _order(x)
        dense = compat.is_dense(x) and not x.is_neg()
        y, bits = forward(call, plan, x, params, x if context.inplace and dense else None, order)
        if context.inplace:
            y = y if dense else x.copy_(y)
            ctx.mark_dirty(x)
        ctx.context, ctx.order = context, order
        ctx.kept = (plan.policy == "output", bits is not None)
        ctx.numbers = tuple(None if isinstance(p, Tensor) else p for p in params)
        kept = [y] if plan.policy == "output" else []
        if bits is not None:
            kept.append(bits)
        ctx.save_for_backward(*kept, *(p for p in params if isinstance(p, Tensor)))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        context: _Context = ctx.context
        call, plan = context.call, context.plan
        saved = iter(ctx.saved_tensors)
        y = next(saved) if ctx.kept[0] else None
        bits = next(saved) if ctx.kept[1] else None
        params = [next(saved) if n is None else n for n in ctx.numbers]
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_with_graph(context, g, y, bits, params, needed, ctx.order)
        return None, *backward(call, plan, g, y, bits, params, needed, ctx.order)


def _with_graph(
    context: _Context,
    g: Tensor,
    y: Tensor | None,
    bits: Tensor | None,
    params: Parameters,
    needed: Sequence[bool],
    order: Strides,
) -> Grads:
    """Gradients that are functions of g, x and the parameters themselves."""
    call, plan, link = context.call, context.plan, context.link
    bit = None if bits is None else _shaped(unpack(bits, g.numel(), plan.width), g, order)
    if plan.policy == "bits":
        dx = _gradient(plan, _wide(g), None, bit, ())[0].to(g.dtype)
        return [dx if link is None else dx + 0.0 * link, *(None for _ in params)]
    assert plan.form is not None and y is not None
    with torch.no_grad():
        values = [v.detach() if isinstance(v, Tensor) else v for v in _operands(call, params, y)]
        x = plan.form.recover(_wide(y.detach()), bit, *values).to(y.dtype)
    return context.second(call, g, x if link is None else x + link, params, needed)


def apply(call: Call, plan: Plan, x: Tensor, params: Parameters, inplace: bool, second: Callable[..., Grads]) -> Tensor:
    """The activation of x, in a graph that keeps what the plan says.

    `second(call, g, x, params, needed)` gives gradients that have a graph.
    """
    if inplace and x.is_leaf and x.requires_grad:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    link = _Link.apply(x) if x.requires_grad else None
    return _Saved.apply(_Context(call, plan, inplace, link, second), x, *params)
