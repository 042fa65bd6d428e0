"""Spellings for compilers: a value and its gradients, each in few operators, instead of a formula and its autograd.

Inductor does what it is told, operator by operator. What autograd makes of a formula that is right at infinities takes
it up to a third longer than the chain that one writes by hand, which is not. In graphs that torch.compile makes a
record's spelling stands in the formula's place, in float32 and halves. Exported programs and transforms see the
formula: of a Function Dynamo would drop the derivative there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling, is_exporting

from . import compat
from .registry import ActivationSpec

__all__ = ["apply", "serves"]


def serves(spec: ActivationSpec, x: Tensor) -> bool:
    """Whether this call is one of a graph that is being compiled, where the record has a spelling for it."""
    return (
        spec.spelled is not None
        and is_compiling()
        and x.dtype != torch.float64
        and not is_exporting()
        and not compat.transforms_active()
    )


def apply(spec: ActivationSpec, x: Tensor, operands: Sequence[float | Tensor]) -> Tensor:
    """The activation of x, whose operands are numbers, or tensors of float32 that broadcast with x."""
    assert spec.spelled is not None
    value, gradients = spec.spelled
    if not torch.is_grad_enabled():
        return value(x.float(), *operands).to(x.dtype)
    return _Spelled.apply(value, gradients, x, *operands)


class _Spelled(Function):
    """Keeps the input and the parameters; what the compiler makes of that is its own affair."""

    @staticmethod
    def forward(ctx: Any, value: Any, gradients: Any, x: Tensor, *operands: float | Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in operands]
        ctx.save_for_backward(x, *(p for p in operands if isinstance(p, Tensor)))
        return value(x.float(), *operands).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        rest = iter(tensors)
        operands = [next(rest) if n is None else n for n in ctx.numbers]
        needed = ctx.needs_input_grad[2:]
        dx, *parts = ctx.gradients(g.float(), x.float(), *operands, needed=needed)
        grads = [dx.to(x.dtype) if needed[0] else None]
        for p, n, part in zip(operands, needed[1:], parts, strict=True):
            grads.append(part.sum_to_size(p.shape) if n and part is not None and isinstance(p, Tensor) else None)
        return None, None, *grads
