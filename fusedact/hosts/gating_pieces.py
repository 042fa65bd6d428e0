"""Gated activations on the CPU, in cache-sized pieces: nothing beside results and gradients reaches main memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu import cpu_kernels
from ..cpu.cpu_kernels import Kernels
from ..cpu.pieces import Memory, _Filled, operands_of, piece_limit, pieces_of
from ..cpu.totals import Totals
from ..eager import HALF_DTYPES, Parameter, numeric
from ..registry import ActivationSpec
from .gating_limits import NONE, Limits, limited_piece, stop_gate, stop_value

__all__ = ["backward", "by_hand", "forward"]


def by_hand(spec: ActivationSpec) -> bool:
    """Whether pieces have PyTorch's own kernels for it, or forms that the engine did not write."""
    return cpu_kernels.hosted(spec) is not None or (
        spec.key is None and spec.lean_backward is not None and not spec.lean_by_engine
    )


# Numbers of buffers beyond those of lean functions.
_X, _GATE, _G, _VALUE, _PRODUCT, _MADE = range(100, 106)


def _near(t: Tensor, dtype: torch.dtype, memory: Memory, number: int) -> Tensor:
    """t in this dtype, its elements side by side: PyTorch's kernels take several at a time only then."""
    if t.dtype == dtype and (t.dim() == 0 or t.stride(-1) == 1 or 1 in t.stride()):
        return t
    return memory(number, dtype).copy_(t)


def _value(
    spec: ActivationSpec, gate: Tensor, values: Sequence[Parameter], memory: Memory, into: Kernels | None
) -> Tensor:
    """The activated gate."""
    if into is not None:
        a = memory(_VALUE, gate.dtype)
        into.forward(gate, out=a)
        return a
    if spec.lean_forward is not None:
        if gate.dtype == torch.float64:
            # The buffers' dtype is too narrow.
            return spec.lean_forward(gate, *values)
        return spec.lean_forward(gate, *values, out=memory(_VALUE), spare=memory)
    return (spec.aten if spec.aten is not None and numeric(values) else spec.eager)(gate, *values)


def _dtype(x: Tensor, into: Kernels | None, limits: Limits) -> torch.dtype:
    """What pieces are computed in: halves in fp32, unless PyTorch has a kernel that takes them and all is in it."""
    return torch.float32 if x.dtype in HALF_DTYPES and (into is None or limits != NONE) else x.dtype


def forward(
    spec: ActivationSpec,
    x: Tensor,
    gate: Tensor,
    params: Sequence[Parameter],
    out: Tensor,
    channel: int | None,
    limits: Limits = NONE,
) -> None:
    """out = activation(gate) x, of what the limits leave of both."""
    if out.numel() == 0:
        return
    into = cpu_kernels.hosted(spec)
    dtype = _dtype(out, into, limits)
    operands = _Filled(operands_of(params, gate, channel, dtype))
    memory = Memory(out)
    for x_piece, gate_piece, *cut, out_piece in pieces_of(x, gate, *operands.cut, out, limit=piece_limit(out)):
        memory.piece = out_piece
        x_near, gate_near = _near(x_piece, dtype, memory, _X), _near(gate_piece, dtype, memory, _GATE)
        if limits != NONE:
            x_near, gate_near = limited_piece(x_near, gate_near, limits, memory)
        a = _value(spec, gate_near, operands(cut), memory, into)
        if out.dtype == dtype:
            torch.mul(a, x_near, out=out_piece)
        else:
            out_piece.copy_(torch.mul(a, x_near, out=memory(_PRODUCT, dtype)))


def backward(
    spec: ActivationSpec,
    g: Tensor,
    x: Tensor,
    gate: Tensor,
    dx: Tensor | None,
    dgate: Tensor | None,
    params: Sequence[Parameter],
    needed: Sequence[bool],
    channel: int | None,
    limits: Limits = NONE,
) -> list[Tensor | None]:
    """Write dx and dgate, those that are not None; the gradients of the parameters, those that are needed."""
    into = cpu_kernels.hosted(spec)
    dtype = _dtype(x, into, limits)
    totals = Totals(params, needed, x, channel, dtype)
    if x.numel():
        operands = _Filled(operands_of(params, gate, channel, dtype))
        memory = Memory(x)
        given = (g, x, gate, *operands.cut, *totals.cut)
        # The gate in an absent one's place.
        targets = [gate if t is None else t for t in (dx, dgate)]
        for g_piece, x_piece, gate_piece, *rest, dx_piece, dgate_piece in pieces_of(
            *given, *targets, limit=piece_limit(x)
        ):
            memory.piece = x_piece
            cut = iter(rest)
            values = operands([next(cut) for _ in operands.cut])
            into_these = None if dx is None else dx_piece, None if dgate is None else dgate_piece
            given_pieces = g_piece, x_piece, gate_piece
            parts = _piece(spec, *given_pieces, *into_these, values, needed, memory, into, dtype, limits)
            totals.add(parts, cut)
    return totals.results()


def _piece(
    spec: ActivationSpec,
    g: Tensor,
    x: Tensor,
    gate: Tensor,
    dx: Tensor | None,
    dgate: Tensor | None,
    values: Sequence[Parameter],
    needed: Sequence[bool],
    memory: Memory,
    into: Kernels | None,
    dtype: torch.dtype,
    limits: Limits,
) -> Sequence[Tensor | None]:
    """A piece's gradients; those of the parameters elementwise, as a number's is the sum."""
    g, gate = _near(g, dtype, memory, _G), _near(gate, dtype, memory, _GATE)
    inner = dgate is not None or any(needed)
    x = _near(x, dtype, memory, _X) if inner or limits != NONE else x
    given_x, given_gate = x, gate
    if limits != NONE:
        x, gate = limited_piece(x, gate, limits, memory)
    product = torch.mul(g, x, out=memory(_PRODUCT, dtype)) if inner else None
    if into is None and spec.lean_backward is None:
        a, found, parts = _differentiated(spec, product, gate, values, needed)
        if dx is not None:
            _write(torch.mul(g, a), dx, given_x, limits, memory, stop_value)
        if dgate is not None and found is not None:
            _write(found.contiguous(), dgate, given_gate, limits, memory, stop_gate)
        return parts
    if dx is not None or into is not None:
        a = _value(spec, gate, values, memory, into)
    if dx is not None:
        made = dx if _writable(dx, dtype) else memory(_MADE, dtype)
        _write(torch.mul(g, a, out=made), dx, given_x, limits, memory, stop_value)
    if product is None:
        return [None] * len(values)
    if into is not None:
        # It has no parameters, so that this is what is owed.
        assert dgate is not None
        made = dgate if _writable(dgate, dtype) else memory(_MADE, dtype)
        into.backward(product, a if into.from_value else gate, grad_input=made)
        _write(made, dgate, given_gate, limits, memory, stop_gate)
        return [None] * len(values)
    owed = (dgate is not None, *needed)
    spare: dict[str, Any] = {} if dtype == torch.float64 else {"out": memory(_MADE), "spare": memory}
    assert spec.lean_backward is not None
    found, *parts = spec.lean_backward(product, gate, *values, needed=owed if any(needed) else None, **spare)
    if dgate is not None and found is not None:
        _write(found, dgate, given_gate, limits, memory, stop_gate)
    return [*parts, *[None] * (len(values) - len(parts))]


def _writable(t: Tensor, dtype: torch.dtype) -> bool:
    return t.dtype == dtype and (t.dim() == 0 or 1 in t.stride())


def _write(
    grad: Tensor,
    out: Tensor,
    at: Tensor,
    limits: Limits,
    memory: Memory,
    stop: Callable[[Tensor, Tensor, Limits, Memory], None],
) -> None:
    """The gradient into its place, if it is not there; 0 where `at` is beyond the limit."""
    if limits != NONE:
        stop(grad, at, limits, memory)
    if grad is not out:
        out.copy_(grad)


def _differentiated(
    spec: ActivationSpec, product: Tensor | None, gate: Tensor, values: Sequence[Parameter], needed: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Sequence[Tensor | None]]:
    """The activated gate, and gradients of the gate and of each parameter from that product, by the definition."""
    # What is a number by now counts as a tensor of one element, whose gradient is the sum.
    active = {
        i: v if isinstance(v, Tensor) else torch.tensor(v, dtype=gate.dtype, device=gate.device)
        for i, (v, n) in enumerate(zip(values, needed, strict=True))
        if n
    }

    def function(gate: Tensor, *tensors: Tensor) -> Tensor:
        merged = list(values)
        for i, t in zip(active, tensors, strict=True):
            merged[i] = t
        return spec.eager(gate, *merged)

    with torch.no_grad():
        if product is None:
            return function(gate), None, [None] * len(values)
        # Indexed: the function has no auxiliary output, which its declared type allows for.
        result = torch.func.vjp(function, gate, *active.values())
        found, *grads = result[1](product)
    rest = iter(grads)
    return result[0], found, [next(rest) if i in active else None for i in range(len(values))]
