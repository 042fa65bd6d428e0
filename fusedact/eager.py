"""Activations in plain PyTorch: the reference, what torch.compile and tensor subclasses see, and the CPU path.

A definition takes the input and the parameters, each a number or a zero-dimensional tensor of the input's dtype.
`formula` applies it to a tensor of any kind. `forward` and `backward` are the lean CPU path: a dense tensor is
worked in cache-sized pieces, so that intermediate results never reach main memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from . import compat
from .registry import ActivationSpec

__all__ = [
    "backward",
    "elu",
    "formula",
    "forward",
    "relu_sigmoid",
    "relu_sigmoid_backward_lean",
    "relu_sigmoid_lean",
    "selu",
]

Parameter = float | Tensor
# Gives a lean function memory for an intermediate result of its input's shape, by number and dtype: the same for all
# pieces of a tensor, since new memory from the system costs more than the arithmetic. Or None, for memory of its own.
Spare = Callable[..., Tensor | None]


def no_spare(_: int, dtype: torch.dtype | None = None) -> None:
    """For a tensor of one piece."""
    return None


HALF_DTYPES = (torch.float16, torch.bfloat16)
# Their conversions under names of their own, which cost two thirds of what Tensor.to does.
_narrow = {torch.float16: Tensor.half, torch.bfloat16: Tensor.bfloat16}

# Elements of a piece per thread: 512 KiB of fp32, so that a piece and its intermediate results stay in the cache.
# Measured on two cores with 1 MiB of second-level cache each: 2^16 per thread is 8% slower, 2^18 no faster.
PIECE_PER_THREAD = 2**17

# Resolved once: looking an overload up costs more than a small tensor's operation.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_silu_backward = torch.ops.aten.silu_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


@lru_cache(maxsize=256)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor, which saves an operation on a small tensor half its time."""
    return torch.tensor(value, dtype=dtype, device=device)


# ----- definitions


def relu_sigmoid(x: Tensor, threshold: Parameter = 0.0) -> Tensor:
    """relu(x - threshold) * sigmoid(x)."""
    # sigmoid is 1 from 700 on in every dtype; the bound keeps the gradient at +inf from becoming inf * 0. And `where`
    # stops an infinite or NaN gradient of the output, which the product would multiply by 0, below the threshold.
    product = torch.relu(x - threshold) * torch.sigmoid(x.clamp(max=700.0))
    return torch.where(x <= threshold, 0.0, product)


def relu_sigmoid_lean(x: Tensor, threshold: Parameter, out: Tensor | None = None, spare: Spare = no_spare) -> Tensor:
    """The same without a graph to record: in place on its own intermediate results."""
    if type(threshold) is float:
        if threshold == 0.0:
            positive = torch.clamp_min(x, 0.0, out=out)
            return F.silu(positive, inplace=True)
        threshold = constant(threshold, x.dtype, x.device)
    shifted = torch.sub(x, threshold, out=spare(0)).relu_()
    return torch.sigmoid(x, out=out).mul_(shifted)


def relu_sigmoid_backward_lean(
    g: Tensor, x: Tensor, threshold: float, out: Tensor | None = None, spare: Spare = no_spare
) -> Tensor:
    """g * s * (1 + (x - threshold) * (1 - s)) where x > threshold and s = sigmoid(x), else 0."""
    # A finite factor keeps inf * 0 out at +inf.
    largest = torch.finfo(x.dtype).max
    if threshold == 0.0:
        dx = torch.clamp_max(x, largest, out=spare(0))
        _silu_backward(g, dx, grad_input=dx)
    else:
        s = torch.sigmoid(x, out=spare(1))
        dx = torch.sub(x, constant(threshold, x.dtype, x.device), out=spare(0)).clamp_max_(largest)
        _sigmoid_backward(dx, s, grad_input=dx).add_(s).mul_(g)
    return _threshold_backward(dx, x, threshold, grad_input=dx if out is None else out)


def elu(x: Tensor, alpha: Parameter = 1.0) -> Tensor:
    """x where x > 0, else alpha * expm1(x)."""
    if not isinstance(alpha, Tensor):
        return F.elu(x, alpha)
    # The bound keeps alpha's gradient at +inf from becoming 0 * inf; a NaN takes the identity, whose slope is 1.
    return torch.where(x <= 0, alpha * F.elu(x.clamp(max=0.0)), x)


def selu(x: Tensor) -> Tensor:
    """scale * elu(x, alpha) with the constants of self-normalizing networks."""
    return F.selu(x)


# ----- application to whole tensors


def numeric(params: Sequence[Parameter]) -> bool:
    """Whether no parameter is a tensor. A loop: a generator costs as much as a small tensor's operation."""
    for p in params:  # noqa: SIM110
        if type(p) is not float:
            return False
    return True


def _in_dtype(params: Sequence[Parameter], dtype: torch.dtype) -> list[Parameter]:
    return [p if type(p) is float else _scalar(p).to(dtype) if isinstance(p, Tensor) else p for p in params]


def _scalar(p: Tensor) -> Tensor:
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    return p if p.dim() == 0 or (not compat.tracing() and p.numel() != 1) else p.reshape(())


def formula(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The definition on any tensor, differentiable to any order; halves are computed in fp32 and rounded once."""
    if spec.aten is not None and not any(isinstance(p, Tensor) for p in params):
        return spec.aten(x, *params)
    beside = () if spec.table is None else spec.table.beside(x)
    if x.dtype in HALF_DTYPES:
        return spec.eager(x.float(), *_in_dtype(params, torch.float32), *beside).to(x.dtype)
    return spec.eager(x, *_in_dtype(params, x.dtype), *beside)


def _piece_limit(x: Tensor) -> int:
    return PIECE_PER_THREAD * torch.get_num_threads() if x.is_cpu else x.numel()


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape that cover them in pieces of at most a cache's size, without a copy.

    Where all share one dense layout they are cut as flat memory, else along their dimensions.
    """
    limit = _piece_limit(tensors[-1])
    numel = tensors[-1].numel()
    if numel <= limit:
        yield tensors
        return
    strides = tensors[-1].stride()
    if all(t.stride() == strides for t in tensors) and compat.is_dense(tensors[-1]):
        flat = [t.as_strided((numel,), (1,)) for t in tensors]
        yield from zip(*(t.split(limit) for t in flat), strict=True)
        return
    # Along the dimension of the largest stride in the result, which keeps the rest of a piece together.
    dim = max((d for d in range(len(strides)) if tensors[-1].shape[d] > 1), key=lambda d: strides[d])
    length = max(1, limit * tensors[-1].shape[dim] // numel)
    for parts in zip(*(t.split(length, dim) for t in tensors), strict=True):
        yield from _pieces(*parts)


class _Memory:
    """Memory for the intermediate results of all pieces of a tensor; `piece` is the one at work."""

    def __init__(self, piece: Tensor) -> None:
        self.piece = piece
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(self, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
        count = self.piece.numel()
        buffer = self._buffers.get((number, dtype))
        if buffer is None or buffer.numel() < count:
            buffer = self._buffers[number, dtype] = torch.empty(count, dtype=dtype, device=self.piece.device)
        return buffer[:count].view(self.piece.shape)

    def widened(self, t: Tensor, number: int) -> Tensor:
        """t in float32."""
        return self(number).copy_(t)


# Numbers of buffers beyond those of lean functions.
_X, _G, _OUT = 100, 101, 102


def forward(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter], out: Tensor | None = None) -> Tensor:
    """The value, in pieces; into `out`, a dense tensor of x's shape or x itself, if given."""
    lean = spec.lean_forward
    function = lean or spec.eager
    half = x.dtype in HALF_DTYPES
    dtype = torch.float32 if half else x.dtype
    if not numeric(params):
        params = _in_dtype(params, dtype)
    beside = () if spec.table is None else spec.table.beside(x)
    if out is None:
        if x.numel() <= _piece_limit(x):
            if half:
                return _narrow[x.dtype](function(x.float(), *params, *beside))
            return function(x, *params, *beside)
        out = torch.empty_like(x)
    memory = _Memory(out)
    for x_piece, *beside_piece, out_piece in _pieces(x, *beside, out):
        memory.piece = x_piece
        if lean is None:
            out_piece.copy_(function(x_piece.to(dtype), *params, *beside_piece))
        elif half:
            wide = memory.widened(x_piece, _X)
            out_piece.copy_(lean(wide, *params, *beside_piece, out=memory(_OUT), spare=memory))
        elif x_piece.data_ptr() == out_piece.data_ptr() or dtype == torch.float64:
            # In place, and where the buffers' dtype is too narrow.
            out_piece.copy_(lean(x_piece, *params, *beside_piece))
        else:
            lean(x_piece, *params, *beside_piece, out=out_piece, spare=memory)
    return out


def backward(
    spec: ActivationSpec, g: Tensor, x: Tensor, params: Sequence[Parameter], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed; a parameter's is summed piece by piece in order."""
    half = x.dtype in HALF_DTYPES
    dtype = torch.float32 if half else x.dtype
    lean = spec.lean_backward
    if lean is not None and needed[0] and numeric(params):
        nothing = [None] * len(params)
        beside = () if spec.table is None else spec.table.beside(x)
        if x.numel() <= _piece_limit(x):
            if half:
                return [_narrow[x.dtype](lean(g.float(), x.float(), *params, *beside)), *nothing]
            return [lean(g, x, *params, *beside), *nothing]
        result = torch.empty_like(x)
        memory = _Memory(result)
        for g_piece, x_piece, *beside_piece, result_piece in _pieces(g, x, *beside, result):
            memory.piece = x_piece
            if half:
                wide = memory.widened(g_piece, _G), memory.widened(x_piece, _X)
                result_piece.copy_(lean(*wide, *params, *beside_piece, out=memory(_OUT), spare=memory))
            elif dtype == torch.float64:
                result_piece.copy_(lean(g_piece, x_piece, *params, *beside_piece))
            else:
                lean(g_piece, x_piece, *params, *beside_piece, out=result_piece, spare=memory)
        return [result, *nothing]

    dx = torch.empty_like(x) if needed[0] else None
    values = _in_dtype(params, dtype)
    wanted = [i for i, n in enumerate(needed[1:]) if n]
    sums = [torch.zeros((), dtype=dtype, device=x.device) for _ in wanted]
    for g_piece, x_piece, dx_piece in _pieces(g, x, x if dx is None else dx):
        grads = _piece_gradients(spec, g_piece.to(dtype), x_piece.to(dtype), values, needed[0], wanted)
        if dx is not None:
            dx_piece.copy_(grads.pop(0))
        for total, grad in zip(sums, grads, strict=True):
            total.add_(grad)
    totals: list[Tensor | None] = [None] * len(params)
    for i, total in zip(wanted, sums, strict=True):
        p = params[i]
        totals[i] = total.to(p.dtype).reshape(p.shape) if isinstance(p, Tensor) else None
    return [dx, *totals]


def _piece_gradients(
    spec: ActivationSpec, g: Tensor, x: Tensor, values: Sequence[Parameter], x_wanted: bool, wanted: Sequence[int]
) -> list[Tensor]:
    """Gradients by the formula, of x first; by torch.func, which works below autograd too, inside an operator."""

    def function(*active: Tensor) -> Tensor:
        rest = list(active)
        at = rest.pop(0) if x_wanted else x
        merged = list(values)
        for i, value in zip(wanted, rest, strict=True):
            merged[i] = value
        return spec.eager(at, *merged)

    active = [x] if x_wanted else []
    active += [v for i in wanted if isinstance(v := values[i], Tensor)]
    with torch.no_grad():
        return list(torch.func.vjp(function, *active)[1](g))
