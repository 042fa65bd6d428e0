"""Validation of what callers pass, and the wording of the errors."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .registry import ActivationSpec

__all__ = ["FLOAT_DTYPES", "check_input", "check_parameter", "check_parameters"]

FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
ACCEPTED_DTYPES = "float16, bfloat16, float32 or float64"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _owner(spec: ActivationSpec) -> str:
    return f"fusedact.functional.{spec.name}"


def check_input(spec: ActivationSpec, x: object) -> None:
    """Raise TypeError unless x is a floating-point tensor that the activations serve."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{_owner(spec)}: {spec.input_name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{_owner(spec)}: {spec.input_name} must have dtype {ACCEPTED_DTYPES}, got {_dtype_name(x.dtype)}"
        )


def check_parameter(owner: str, name: str, value: object) -> float | Tensor:
    """A parameter as the library holds it: a float, or a floating-point tensor with one element.

    Raises:
        TypeError: if it is neither a real number nor a floating-point tensor.
        ValueError: if it is a tensor with more or fewer elements than one.
    """
    if isinstance(value, Tensor):
        if value.dtype not in FLOAT_DTYPES:
            raise TypeError(f"{owner}: {name} must have dtype {ACCEPTED_DTYPES}, got {_dtype_name(value.dtype)}")
        if tuple(value.shape) not in ((), (1,)):
            raise ValueError(
                f"{owner}: {name} must be a number or a tensor of shape () or (1,), got shape {tuple(value.shape)}"
            )
        return value
    # A number whose value a compiler keeps symbolic passes as it is.
    if isinstance(value, torch.SymFloat | torch.SymInt):
        return cast("float", value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{owner}: {name} must be a number or a tensor with one element, got {type(value).__name__}")


def check_parameters(spec: ActivationSpec, x: Tensor, params: Sequence[object]) -> tuple[float | Tensor, ...]:
    """All parameters of a call, checked against the input."""
    owner = _owner(spec)
    checked = tuple(check_parameter(owner, p.name, v) for p, v in zip(spec.parameters, params, strict=True))
    for p, value in zip(spec.parameters, checked, strict=True):
        if isinstance(value, Tensor) and value.device != x.device:
            raise ValueError(f"{owner}: {p.name} is on {value.device}, but {spec.input_name} is on {x.device}")
    return checked
