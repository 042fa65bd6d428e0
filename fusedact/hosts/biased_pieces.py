"""Biased activations on the CPU, in cache-sized pieces: nothing beside results and gradients reaches main memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cpu import cpu_kernels
from ..cpu.cpu_kernels import Kernels
from ..cpu.pieces import Memory, _differentiated, _Filled, operands_of, piece_limit, pieces_of
from ..cpu.totals import Totals
from ..eager import Parameter, numeric
from ..registry import ActivationSpec
from .seeds import Numbers

__all__ = ["backward", "factors", "forward", "scale_of"]

_threshold_backward = torch.ops.aten.threshold_backward.grad_input

# Numbers of buffers beyond those of lean functions.
_Z, _G, _VALUE, _MADE, _FACTOR = range(100, 105)


def scale_of(p: float) -> float:
    """What dropout multiplies the elements with that it keeps."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def _dtype(*tensors: Tensor | None) -> torch.dtype:
    """What pieces are computed in."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


class _Factors:
    """What dropout multiplies a piece with: 0 with a probability, else what keeps the mean; piece after piece."""

    def __init__(self, seed: Tensor, p: float, most: int, dtype: torch.dtype) -> None:
        self._numbers = Numbers(seed, most)
        # Numbers are from -2^31 to below 2^31.
        self._threshold = p * 2.0**32 - 2.0**31 - 0.5
        self._scale = torch.full((), scale_of(p), dtype=dtype)
        self._dtype = dtype

    def __call__(self, memory: Memory) -> Tensor:
        """Those of a piece, in memory that the next one gets."""
        return self.write(memory(_FACTOR, self._dtype))

    def write(self, out: Tensor) -> Tensor:
        """Those of a piece, written to a tensor in row-major order."""
        out.copy_(self._numbers(out.numel()).view(out.shape))
        # Without branches, which nothing could foresee.
        return _threshold_backward(self._scale.expand(out.shape), out, self._threshold, grad_input=out)


def factors(p: float, seed: Tensor, out: Tensor) -> None:
    """Write what dropout multiplies with to a contiguous tensor in float32 or float64."""
    limit = piece_limit(out)
    made = _Factors(seed, p, min(limit, out.numel()), out.dtype)
    for piece in out.view(-1).split(limit):
        made.write(piece)


def _shifted(x: Tensor, bias: Parameter | None, dtype: torch.dtype, out: Tensor) -> Tensor:
    """x + bias in this dtype, in memory of `out`."""
    if x.dtype != dtype:
        out.copy_(x)
        return out if bias is None else out.add_(bias)
    return out.copy_(x) if bias is None else torch.add(x, bias, out=out)


def _in_row_major_order(*tensors: Tensor | None) -> bool:
    return all(t is None or t.is_contiguous() for t in tensors)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def forward(
    spec: ActivationSpec,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    params: Sequence[Parameter],
    dim: int,
    p: float,
    seed: Tensor | None,
    out: Tensor,
) -> None:
    """out = act(x + bias), times dropout's factor if there is a seed, plus the residual."""
    if out.numel() == 0:
        return
    if seed is not None and not _in_row_major_order(x, residual, out):
        made = torch.empty(out.shape, dtype=out.dtype)
        forward(spec, x.contiguous(), bias, _contiguous(residual), params, dim, p, seed, made)
        out.copy_(made)
        return
    into = cpu_kernels.hosted(spec)
    dtype = _dtype(out, bias)
    limit = piece_limit(out)
    operands = _Filled(operands_of([*params, *_listed(bias)], x, dim, dtype))
    factors = None if seed is None else _Factors(seed, p, min(limit, out.numel()), dtype)
    memory = Memory(out)
    beside = [*operands.cut, *_listed(residual)]
    for x_piece, *cut, out_piece in pieces_of(x, *beside, out, limit=limit):
        memory.piece = out_piece
        values, shift = _split(operands(cut[: len(operands.cut)]), len(params))
        target = out_piece if out.dtype == dtype else memory(_VALUE, dtype)
        y = _value(spec, x_piece, shift, values, target, memory, into)
        if factors is not None:
            y.mul_(factors(memory))
        if residual is not None:
            y.add_(cut[-1])
        if y is not out_piece:
            out_piece.copy_(y)


def _listed(t: Tensor | None) -> list[Tensor]:
    return [] if t is None else [t]


def _split(values: Sequence[Parameter], count: int) -> tuple[Sequence[Parameter], Parameter | None]:
    """The activation's parameters, and the bias."""
    return values[:count], values[count] if len(values) > count else None


def _value(
    spec: ActivationSpec,
    x: Tensor,
    bias: Parameter | None,
    values: Sequence[Parameter],
    out: Tensor,
    memory: Memory,
    into: Kernels | None,
) -> Tensor:
    """act(x + bias) in memory that may be written to."""
    if into is not None:
        into.forward(_shifted(x, bias, out.dtype, out), out=out)
        return out
    z = _shifted(x, bias, out.dtype, memory(_Z, out.dtype))
    if spec.lean_forward is not None and out.dtype == torch.float32:
        return spec.lean_forward(z, *values, out=out, spare=memory)
    # The buffers' dtype is too narrow.
    function = spec.lean_forward or (spec.aten if spec.aten is not None and numeric(values) else spec.eager)
    return out.copy_(function(z, *values))


def backward(
    spec: ActivationSpec,
    g: Tensor,
    x: Tensor,
    bias: Tensor | None,
    params: Sequence[Parameter],
    dim: int,
    p: float,
    seed: Tensor | None,
    needed: Sequence[bool],
    dx: Tensor | None,
) -> list[Tensor | None]:
    """Write dx, unless it is None; the gradients of the bias and the parameters, those that are needed.

    dx may be x or g. `needed` has an entry for x, bias and each parameter.
    """
    if seed is not None and not _in_row_major_order(g, x, dx):
        made = None if dx is None else torch.empty(dx.shape, dtype=dx.dtype)
        sums = backward(spec, g.contiguous(), x.contiguous(), bias, params, dim, p, seed, needed, made)
        if dx is not None and made is not None:
            dx.copy_(made)
        return sums
    into = cpu_kernels.hosted(spec)
    dtype = _dtype(g, x, bias)
    count = len(params)
    # The bias last.
    given, owed = [*params, *_listed(bias)], [*needed[2:], *([] if bias is None else [needed[1]])]
    totals = Totals(given, owed, x, dim, dtype)
    if x.numel():
        limit = piece_limit(x)
        operands = _Filled(operands_of(given, x, dim, dtype))
        factors = None if seed is None else _Factors(seed, p, min(limit, x.numel()), dtype)
        memory = Memory(x)
        # Lean forms may write to their result before they have read all.
        apart = dx is None or dx.dtype != dtype or dx.data_ptr() in (g.data_ptr(), x.data_ptr())
        for g_piece, x_piece, *rest, dx_piece in pieces_of(
            g, x, *operands.cut, *totals.cut, x if dx is None else dx, limit=limit
        ):
            memory.piece = x_piece
            cut = iter(rest)
            values, shift = _split(operands([next(cut) for _ in operands.cut]), count)
            if factors is not None:
                g_piece = torch.mul(g_piece, factors(memory), out=memory(_G, dtype))
            elif g_piece.dtype != dtype:
                g_piece = memory(_G, dtype).copy_(g_piece)
            z = x_piece
            if shift is not None or x_piece.dtype != dtype:
                z = _shifted(x_piece, shift, dtype, memory(_Z, dtype))
            out = memory(_MADE, dtype) if apart else dx_piece
            dz, *found = _piece(spec, g_piece, z, values, needed[2:], out, memory, into)
            if dx is not None and dz.data_ptr() != dx_piece.data_ptr():
                dx_piece.copy_(dz)
            totals.add([*found, *[None] * (count - len(found)), dz], cut)
    sums = totals.results()
    return [sums[count] if bias is not None else None, *sums[:count]]


def _piece(
    spec: ActivationSpec,
    g: Tensor,
    z: Tensor,
    values: Sequence[Parameter],
    needed: Sequence[bool],
    out: Tensor,
    memory: Memory,
    into: Kernels | None,
) -> Sequence[Tensor]:
    """Gradients of z and of the parameters, elementwise; z's possibly in memory of `out`."""
    if into is not None:
        kept = z
        if into.from_value:
            kept = memory(_VALUE, z.dtype)
            into.forward(z, out=kept)
        into.backward(g, kept, grad_input=out)
        return [out]
    owed = (True, *needed)
    if spec.lean_backward is None:
        return _differentiated(spec, g, z, values, owed)  # type: ignore[return-value]
    spare = {} if z.dtype == torch.float64 else {"out": out, "spare": memory}
    return spec.lean_backward(g, z, *values, needed=owed if any(needed) else None, **spare)  # type: ignore[return-value]
