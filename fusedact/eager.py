"""Activations in plain PyTorch: the reference, what torch.compile and tensor subclasses see, and the CPU path.

A definition takes the input and the parameters, each a number or a zero-dimensional tensor of the input's dtype.
`formula` applies it to a tensor of any kind. `forward` and `backward` are the lean CPU path: a dense tensor is
worked in cache-sized pieces, so that intermediate results never reach main memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import ActivationSpec

__all__ = ["backward", "elu", "formula", "forward", "relu_sigmoid", "relu_sigmoid_backward", "selu"]

Parameter = float | Tensor

HALF_DTYPES = (torch.float16, torch.bfloat16)

# Elements of a piece per thread: 512 KiB of fp32, so that a piece and its intermediate results stay in the cache.
# Measured on two cores with 1 MiB of second-level cache each: 2^16 per thread is 8% slower, 2^18 no faster.
PIECE_PER_THREAD = 2**17

# ----- definitions


def relu_sigmoid(x: Tensor, threshold: Parameter = 0.0) -> Tensor:
    """relu(x - threshold) * sigmoid(x)."""
    # sigmoid is 1 from 700 on in every dtype; the bound keeps the gradient at +inf from becoming inf * 0.
    return torch.relu(x - threshold) * torch.sigmoid(x.clamp(max=700.0))


def relu_sigmoid_backward(g: Tensor, x: Tensor, threshold: float) -> Tensor:
    """g * s * (1 + (x - threshold) * (1 - s)) where x > threshold and s = sigmoid(x), else 0."""
    s = torch.sigmoid(x)
    shifted = (x - threshold).clamp_(0.0, torch.finfo(x.dtype).max)
    dx = torch.ops.aten.sigmoid_backward(shifted, s).add_(s).mul_(g)
    return torch.ops.aten.threshold_backward.grad_input(dx, shifted, 0.0, grad_input=dx)


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


def _in_dtype(params: Sequence[Parameter], dtype: torch.dtype) -> list[Parameter]:
    return [(p.reshape(()) if p.numel() == 1 else p).to(dtype) if isinstance(p, Tensor) else p for p in params]


def formula(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The definition on any tensor, differentiable to any order; halves are computed in fp32 and rounded once."""
    if spec.aten is not None and not any(isinstance(p, Tensor) for p in params):
        return spec.aten(x, *params)
    if x.dtype in HALF_DTYPES:
        return spec.eager(x.float(), *_in_dtype(params, torch.float32)).to(x.dtype)
    return spec.eager(x, *_in_dtype(params, x.dtype))


def _piece_limit(x: Tensor) -> int:
    return PIECE_PER_THREAD * torch.get_num_threads() if x.device.type == "cpu" else x.numel()


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape that cover them in pieces of at most a cache's size, without a copy.

    The last tensor is dense. Where all share its layout they are cut as flat memory, else along their dimensions.
    """
    limit = _piece_limit(tensors[-1])
    numel = tensors[-1].numel()
    if numel <= limit:
        yield tensors
        return
    strides = tensors[-1].stride()
    if all(t.stride() == strides for t in tensors):
        flat = [t.as_strided((numel,), (1,)) for t in tensors]
        yield from zip(*(t.split(limit) for t in flat), strict=True)
        return
    # Along the dimension of the largest stride in the result, which keeps the rest of a piece together.
    dim = max((d for d in range(len(strides)) if tensors[-1].shape[d] > 1), key=lambda d: strides[d])
    length = max(1, limit * tensors[-1].shape[dim] // numel)
    for parts in zip(*(t.split(length, dim) for t in tensors), strict=True):
        yield from _pieces(*parts)


def forward(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter], out: Tensor | None = None) -> Tensor:
    """The value, in pieces; into `out`, a dense tensor of x's shape or x itself, if given."""
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    params = _in_dtype(params, dtype)
    if out is None:
        if x.numel() <= _piece_limit(x):
            return spec.eager(x.to(dtype), *params).to(x.dtype)
        out = torch.empty_like(x)
    for x_piece, out_piece in _pieces(x, out):
        out_piece.copy_(spec.eager(x_piece.to(dtype), *params))
    return out


def backward(
    spec: ActivationSpec, g: Tensor, x: Tensor, params: Sequence[Parameter], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed; a parameter's is summed piece by piece in order."""
    dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
    if spec.eager_backward is not None and needed[0] and not any(isinstance(p, Tensor) for p in params):
        if x.numel() <= _piece_limit(x):
            return [spec.eager_backward(g.to(dtype), x.to(dtype), *params).to(x.dtype), *(None for _ in params)]
        dx = torch.empty_like(x)
        for g_piece, x_piece, dx_piece in _pieces(g, x, dx):
            dx_piece.copy_(spec.eager_backward(g_piece.to(dtype), x_piece.to(dtype), *params))
        return [dx, *(None for _ in params)]

    dx = torch.empty_like(x) if needed[0] else None
    leaves = [p.detach().requires_grad_(n) if isinstance(p, Tensor) else p for p, n in zip(params, needed[1:])]
    sums: list[Tensor | None] = [
        torch.zeros_like(p, dtype=dtype) if n and isinstance(p, Tensor) else None for p, n in zip(params, needed[1:])
    ]
    wanted = [p for p, n in zip(leaves, needed[1:]) if n]
    for g_piece, x_piece, dx_piece in _pieces(g, x, x if dx is None else dx):
        with torch.enable_grad():
            x_leaf = x_piece.detach().to(dtype).requires_grad_(needed[0])
            y = spec.eager(x_leaf, *_in_dtype(leaves, dtype))
        grads = list(torch.autograd.grad(y, [x_leaf, *wanted] if needed[0] else wanted, g_piece.to(dtype)))
        if dx is not None:
            dx_piece.copy_(grads.pop(0))
        for total in sums:
            if total is not None:
                total.add_(grads.pop(0))
    return [dx, *(s if s is None else s.to(p.dtype) for s, p in zip(sums, params))]
