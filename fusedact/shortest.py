"""Whether a call is so small, and so plain, that PyTorch's operator, or one piece, serves it at once: on the CPU alone.

`dispatch.choose` would decide the same, and take as long as the arithmetic.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Parameter

from . import compat
from .checks import FLOAT_DTYPES
from .cpu.cpu_kernels import LARGE_COUNT
from .crossovers import ATEN_TENSORS_BELOW, DRAWN_BELOW, FEW
from .dispatch import backend_var, few_rows, nothing_under_way, recording_var, wants_gradient
from .saving.saving import policy_var

__all__ = ["for_learned", "for_one_piece", "for_twin", "for_twin_of_random", "for_twin_of_rows", "for_twin_of_tensor"]


def for_twin(x: Tensor, below: int | None = None, below_recorded: int | None = None) -> bool:
    """Whether a plain tensor on the CPU is for PyTorch's own operator, whatever is under way, for numbers.

    `below` is the record's `pieces_from`, if it has one, and `below_recorded` the same where autograd records the call.
    The shortest way of all: these operators take a microsecond.
    """
    return (
        not is_compiling()
        and ((kind := type(x)) is Tensor or kind is Parameter)
        and x.is_cpu
        and x.dtype in FLOAT_DTYPES
        # Under torch.jit.trace sizes are tensors.
        and type(count := x.numel()) is int
        and count < (LARGE_COUNT if below is None else (below_recorded or below) if wants_gradient(x) else below)
        and not compat.interpreting
        and backend_var.get() == "auto"
        and policy_var.get() == "auto"
    )


def for_one_piece(x: Tensor) -> bool:
    """Whether a CPU tensor is one piece, for numbers, and nothing is under way; sooner told of one for a kernel."""
    return (
        # Dynamo cannot read the variable.
        not is_compiling()
        and ((kind := type(x)) is Tensor or kind is Parameter)
        and x.is_cpu
        and not compat.interpreting
        and backend_var.get() == "auto"
        and nothing_under_way(x)
        and x.numel() <= FEW
    )


def for_learned(x: Tensor, channel_dim: int, *params: float | Tensor) -> bool:
    """The same where some parameters are tensors of one element, or of one for each channel."""
    return for_one_piece(x) and all(
        type(p) is float
        or (
            (type(p) is Parameter or type(p) is Tensor)
            and p.is_cpu
            and p.dtype in FLOAT_DTYPES
            and p.layout is torch.strided
            and p.dim() <= 1
            and (
                (count := p.numel()) == 1
                or (-(dims := x.dim()) <= channel_dim < dims and x.shape[channel_dim] == count)
            )
        )
        for p in params
    )


def for_twin_of_tensor(x: Tensor, p: float | Tensor) -> bool:
    """The same for an operator with one parameter, a tensor of one element or one for each entry of x's dimension 1.

    In float32 alone: PyTorch rounds each term of the sums of halves.
    """
    return (
        (type(p) is Parameter or type(p) is Tensor)
        and p.dtype is torch.float32
        and x.dtype is torch.float32
        and for_twin(x, ATEN_TENSORS_BELOW)
        and p.is_cpu
        and p.dim() == 1
        and x.layout is torch.strided
        and not x.is_nested
        and ((count := p.numel()) == 1 or (x.dim() > 1 and x.shape[1] == count))
        and not compat.transforms_active()
        and not recording_var.get()
    )


def for_twin_of_random(x: Tensor, low: float, high: float) -> bool:
    """The same for rrelu, whose operator does not serve every dtype, nor every transform."""
    return (
        not is_compiling()
        and ((kind := type(x)) is Tensor or kind is Parameter)
        and x.is_cpu
        and type(low) is float
        and type(high) is float
        and -inf < low <= high < inf
        and x.layout is torch.strided
        and not x.is_nested
        # Before the number of elements, which under torch.jit.trace is a tensor.
        and not compat.observed(x)
        and x.numel() < DRAWN_BELOW.get(x.dtype, 0)
        and not compat.interpreting
        and backend_var.get() == "auto"
        and policy_var.get() == "auto"
        and not recording_var.get()
    )


def for_twin_of_rows(x: Tensor, dim: int | None, temperature: float | Tensor) -> bool:
    """The same for softmax along a dimension that x has, with a number as its temperature."""
    return (
        type(temperature) is float
        and type(dim) is int
        and not is_compiling()
        and ((kind := type(x)) is Tensor or kind is Parameter)
        and x.is_cpu
        and x.dtype in FLOAT_DTYPES
        and -(dims := x.dim()) <= dim < dims
        and not compat.interpreting
        and backend_var.get() == "auto"
        and policy_var.get() == "auto"
        # By 1 PyTorch's operator always serves.
        and (
            temperature == 1.0 or (0.0 < temperature < inf and type(count := x.numel()) is int and count < few_rows(x))
        )
    )
