"""Validation of what callers pass, and the wording of the errors."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from . import compat
from .registry import ActivationSpec

__all__ = [
    "FLOAT_DTYPES",
    "check_accepted",
    "check_channel_dim",
    "check_count",
    "check_dtype",
    "check_input",
    "check_names",
    "check_number",
    "check_parameter",
    "check_parameters",
    "owner",
]

FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
ACCEPTED_DTYPES = "float16, bfloat16, float32 or float64"
SHAPES = "shape (), (1,) or (C,)"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape)


def check_count(owner: str, name: str, value: object) -> None:
    """Raise TypeError or ValueError unless it is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, got {value}")


def owner(spec: ActivationSpec) -> str:
    """How errors name an activation's function."""
    return spec.name if spec.key else f"fusedact.functional.{spec.name}"


def check_input(spec: ActivationSpec, x: object) -> None:
    """Raise TypeError unless x is a floating-point tensor that the activations serve."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner(spec)}: {spec.input_name} must be a torch.Tensor, got {type(x).__name__}")
    check_dtype(owner(spec), spec.input_name, x)


def check_dtype(owner: str, name: str, t: Tensor) -> None:
    """Raise TypeError unless a tensor's dtype is one that the activations serve."""
    if t.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{owner}: {name} must have dtype {ACCEPTED_DTYPES}, got {_dtype_name(t.dtype)}")


def check_parameter(owner: str, name: str, value: object) -> float | Tensor:
    """A parameter as the library holds it: a float, or a floating-point tensor with at most one dimension.

    Raises:
        TypeError: if it is neither a real number nor a floating-point tensor.
        ValueError: if it is a tensor with more dimensions.
    """
    if isinstance(value, Tensor):
        check_dtype(owner, name, value)
        if value.dim() > 1:
            raise ValueError(f"{owner}: {name} must be a number or a tensor of {SHAPES}, got shape {_shape(value)}")
        return value
    return check_number(owner, name, value, "a number or a tensor")


def check_channel_dim(owner: str, channel_dim: object) -> int:
    """Raise TypeError unless it is an integer."""
    if isinstance(channel_dim, bool) or not isinstance(channel_dim, int):
        raise TypeError(f"{owner}: channel_dim must be an int, got {type(channel_dim).__name__}")
    return channel_dim


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


def check_accepted(name: str, spec: ActivationSpec, params: Sequence[object]) -> None:
    """Raise ValueError unless the activation is defined for these numbers; an empty name means its function's."""
    why = "" if spec.refuses is None else spec.refuses(*params)
    if why:
        raise ValueError(f"{name or owner(spec)}: {why}")


def check_names(owner: str, spec: ActivationSpec, given: Iterable[str]) -> None:
    """Raise TypeError unless these are parameters or options of the activation."""
    known = [*(p.name for p in spec.parameters), *(o.name for o in spec.options)]
    unknown = sorted(set(given).difference(known))
    if unknown:
        raise TypeError(
            f"{owner}: {spec.name} has no parameter {', '.join(unknown)}; its parameters are "
            f"{', '.join(known) or 'none'}"
        )


def check_parameters(
    spec: ActivationSpec, x: Tensor, params: Sequence[object], channel_dim: int
) -> tuple[tuple[float | Tensor, ...], int | None]:
    """All parameters of a call, checked against the input; and the dimension of channels, where one counts them.

    Raises:
        TypeError: if a parameter is neither a number nor a floating-point tensor.
        ValueError: if a tensor is on another device, or its shape does not fit x.
    """
    name = owner(spec)
    checked = tuple(
        check_number(name, p.name, v) if p.fixed else check_parameter(name, p.name, v)
        for p, v in zip(spec.parameters, params, strict=True)
    )
    channel = None
    for p, value in zip(spec.parameters, checked, strict=True):
        if not isinstance(value, Tensor):
            continue
        if value.device != x.device:
            raise ValueError(
                f"{name}: {p.name} must be on the device of {spec.input_name}, {x.device}, got a tensor on "
                f"{value.device}"
            )
        # Under torch.jit.trace sizes are tensors, which warn when compared.
        if value.dim() == 1 and compat.tracing():
            channel = channel_dim % x.dim() if -x.dim() <= channel_dim < x.dim() else None
        elif value.dim() == 1 and value.shape[0] != 1:
            channel = _channel(name, p.name, value, spec, x, channel_dim)
    return checked, channel


def _channel(name: str, parameter: str, value: Tensor, spec: ActivationSpec, x: Tensor, channel_dim: int) -> int:
    """The dimension of x that has as many entries as a parameter, counted from the first."""
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(
            f"{name}: {parameter} has {value.shape[0]} entries, one per channel, but {spec.input_name} of shape "
            f"{_shape(x)} has no dimension channel_dim={channel_dim}"
        )
    if x.shape[channel_dim] != value.shape[0]:
        raise ValueError(
            f"{name}: {parameter} must be a number or a tensor of {SHAPES} with C the size of {spec.input_name} in "
            f"dimension channel_dim={channel_dim}; got shape {_shape(value)}, where {spec.input_name} has {_shape(x)}"
        )
    return channel_dim % x.dim()
