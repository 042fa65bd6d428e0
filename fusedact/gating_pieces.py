"""Gated activations on the CPU, in cache-sized pieces: nothing beside results and gradients reaches main memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cpu_kernels import Kernels, kernels_of
from .eager import HALF_DTYPES, Parameter, numeric
from .pieces import Memory, _Filled, _operands, _Total, piece_limit, pieces_of
from .registry import ActivationSpec

__all__ = ["backward", "forward"]

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


def _dtype(x: Tensor, into: Kernels | None) -> torch.dtype:
    """What pieces are computed in: halves in fp32, unless PyTorch has a kernel that takes them."""
    return torch.float32 if x.dtype in HALF_DTYPES and into is None else x.dtype


def forward(
    spec: ActivationSpec, x: Tensor, gate: Tensor, params: Sequence[Parameter], out: Tensor, channel: int | None
) -> None:
    """out = activation(gate) x."""
    if out.numel() == 0:
        return
    into = kernels_of(spec)
    dtype = _dtype(out, into)
    operands = _Filled(_operands(params, gate, channel, dtype))
    memory = Memory(out)
    for x_piece, gate_piece, *cut, out_piece in pieces_of(x, gate, *operands.cut, out, limit=piece_limit(out)):
        memory.piece = out_piece
        gate_near = _near(gate_piece, dtype, memory, _GATE)
        a = _value(spec, gate_near, operands(cut), memory, into)
        x_near = _near(x_piece, dtype, memory, _X)
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
) -> list[Tensor | None]:
    """Write dx and dgate, those that are not None; the gradients of the parameters, those that are needed."""
    into = kernels_of(spec)
    dtype = _dtype(x, into)
    totals = {
        i: _Total(p, x, channel, dtype)
        for i, (p, n) in enumerate(zip(params, needed, strict=True))
        if n and isinstance(p, Tensor)
    }
    if x.numel():
        operands = _Filled(_operands(params, gate, channel, dtype))
        sums = [cut for total in totals.values() for cut in total.cut]
        memory = Memory(x)
        given = (g, x, gate, *operands.cut, *sums)
        # The gate in an absent one's place.
        targets = [gate if t is None else t for t in (dx, dgate)]
        for g_piece, x_piece, gate_piece, *rest, dx_piece, dgate_piece in pieces_of(
            *given, *targets, limit=piece_limit(x)
        ):
            memory.piece = x_piece
            cut = iter(rest)
            values = operands([next(cut) for _ in operands.cut])
            into_these = None if dx is None else dx_piece, None if dgate is None else dgate_piece
            parts = _piece(spec, g_piece, x_piece, gate_piece, *into_these, values, needed, memory, into, dtype)
            for i, total in totals.items():
                part = parts[i]
                target = [next(cut) for _ in total.cut]
                if part is not None:
                    total.add(part, target)
    return [totals[i].result() if i in totals else None for i in range(len(params))]


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
) -> Sequence[Tensor | None]:
    """A piece's gradients; those of the parameters elementwise, as a number's is the sum."""
    g, gate = _near(g, dtype, memory, _G), _near(gate, dtype, memory, _GATE)
    inner = dgate is not None or any(needed)
    product = torch.mul(g, _near(x, dtype, memory, _X), out=memory(_PRODUCT, dtype)) if inner else None
    if into is None and spec.lean_backward is None:
        return _differentiated(spec, g, product, gate, dx, dgate, values, needed)
    if dx is not None or into is not None:
        a = _value(spec, gate, values, memory, into)
    if dx is not None:
        _multiplied(g, a, dx, memory)
    if product is None:
        return [None] * len(values)
    if into is not None:
        # It has no parameters, so that this is what is owed.
        assert dgate is not None
        made = dgate if _writable(dgate, dtype) else memory(_MADE, dtype)
        into.backward(product, gate, a, made)
        if made is not dgate:
            dgate.copy_(made)
        return [None] * len(values)
    owed = (dgate is not None, *needed)
    spare: dict[str, Any] = {} if dtype == torch.float64 else {"out": memory(_MADE), "spare": memory}
    assert spec.lean_backward is not None
    found, *parts = spec.lean_backward(product, gate, *values, needed=owed if any(needed) else None, **spare)
    if dgate is not None and found is not None:
        dgate.copy_(found)
    return [*parts, *[None] * (len(values) - len(parts))]


def _writable(t: Tensor, dtype: torch.dtype) -> bool:
    return t.dtype == dtype and (t.dim() == 0 or 1 in t.stride())


def _multiplied(g: Tensor, a: Tensor, out: Tensor, memory: Memory) -> None:
    """out = g a."""
    if _writable(out, g.dtype):
        torch.mul(g, a, out=out)
    else:
        out.copy_(torch.mul(g, a, out=memory(_MADE, g.dtype)))


def _differentiated(
    spec: ActivationSpec,
    g: Tensor,
    product: Tensor | None,
    gate: Tensor,
    dx: Tensor | None,
    dgate: Tensor | None,
    values: Sequence[Parameter],
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """`_piece` by the definition, which gives the value and its derivative at once."""
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
            a = function(gate)
        else:
            # Indexed: the function has no auxiliary output, which its declared type allows for.
            result = torch.func.vjp(function, gate, *active.values())
            a = result[0]
            found, *grads = result[1](product)
    if dx is not None:
        dx.copy_(g * a)
    if product is None:
        return [None] * len(values)
    if dgate is not None:
        dgate.copy_(found)
    rest = iter(grads)
    return [next(rest) if i in active else None for i in range(len(values))]
