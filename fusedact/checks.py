"""Validation of what callers pass, and the wording of the errors."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from . import compat
from .registry import ActivationSpec

__all__ = ["FLOAT_DTYPES", "check_input", "check_names", "check_number", "check_parameter", "check_parameters"]

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
        # Under torch.jit.trace sizes are tensors, which warn when compared.
        if value.dim() > 1 or (value.dim() == 1 and not compat.tracing() and value.shape[0] != 1):
            raise ValueError(
                f"{owner}: {name} must be a number or a tensor of shape () or (1,), got shape {tuple(value.shape)}"
            )
        return value
    return check_number(owner, name, value, "a number or a tensor with one element")


def check_number(owner: str, name: str, value: object, accepted: str = "a number") -> float:
    """A number as a float.

    Raises:
        TypeError: if it is not a real number.
    """
    # A number whose value a compiler keeps symbolic passes as it is.
    if isinstance(value, torch.SymFloat | torch.SymInt):
        return cast("float", value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{owner}: {name} must be {accepted}, got {type(value).__name__}")


def check_names(owner: str, spec: ActivationSpec, given: Iterable[str]) -> None:
    """Raise TypeError unless these are parameters of the activation."""
    known = [p.name for p in spec.parameters]
    unknown = sorted(set(given).difference(known))
    if unknown:
        raise TypeError(
            f"{owner}: {spec.name} has no parameter {', '.join(unknown)}; its parameters are "
            f"{', '.join(known) or 'none'}"
        )


def check_parameters(spec: ActivationSpec, x: Tensor, params: Sequence[object]) -> tuple[float | Tensor, ...]:
    """All parameters of a call, checked against the input."""
    owner = _owner(spec)
    checked = tuple(check_parameter(owner, p.name, v) for p, v in zip(spec.parameters, params, strict=True))
    for p, value in zip(spec.parameters, checked, strict=True):
        if isinstance(value, Tensor) and value.device != x.device:
            raise ValueError(
                f"{owner}: {p.name} must be on the device of {spec.input_name}, {x.device}, got a tensor on "
                f"{value.device}"
            )
    return checked
