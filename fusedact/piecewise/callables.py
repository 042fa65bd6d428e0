"""What may be given as an activation, a name, a module or a function, as a function of float64 tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..checks import check_accepted, check_names
from . import table_checks, tables

__all__ = ["Function", "as_function", "check_elementwise", "values"]

Function = Callable[[Tensor], Any]


def as_function(owner: str, activation: Any, parameters: dict[str, Any], what: str) -> tuple[Function, str]:
    """What is applied to a tensor, and its name in errors; `what` is said not to be had by those that are not taken.

    Raises:
        TypeError: if it is neither a name, a module nor a function, or for an unknown parameter.
        ValueError: for an unknown name, and for what is not elementwise or has an entry per channel.
    """
    if isinstance(activation, str):
        return _named(owner, activation, parameters, what), repr(activation)
    if isinstance(activation, type) or not callable(activation):
        given = f"the class {activation.__name__}" if isinstance(activation, type) else type(activation).__name__
        raise TypeError(f"{owner}: activation must be a name, a module or a function of a tensor, got {given}")
    if not isinstance(activation, nn.Module):
        return lambda z: activation(z, **parameters), getattr(activation, "__name__", type(activation).__name__)
    name = type(activation).__name__
    if getattr(activation, "num_parameters", 1) != 1:
        raise ValueError(
            f"{owner}: {name} has {activation.num_parameters} channels with parameters of their own, and each has a "
            f"{what} of its own; give the activation's name with one channel's parameters"
        )
    # A copy: modules may hold float32, lie on another device, and bound their parameters as they are called.
    wide = copy.deepcopy(activation).to(device="cpu", dtype=torch.float64)
    return lambda z: wide(z, **parameters), name


def _named(owner: str, activation: str, parameters: dict[str, Any], what: str) -> Function:
    """The function of that name."""
    spec = registry.get(activation, owner)
    check_names(owner, spec, parameters)
    if spec.kind == "rowwise":
        raise ValueError(f"{owner}: {spec.name} is not elementwise, and has no {what}")
    missing = [p.name for p in spec.parameters if p.required_by_module and p.name not in parameters]
    if missing:
        raise TypeError(f"{owner}: {spec.name} needs {' and '.join(missing)}")
    # What the function must be given, the module begins with.
    numbers: list[Any] = [parameters.get(p.name, p.default) for p in spec.parameters]
    if spec.kind == "piecewise":
        return _table(owner, *numbers)
    check_accepted(owner, spec, numbers)
    if spec.kind == "random":
        # The mean of its slopes.
        lower, upper, *_ = numbers
        return lambda z: registry.get("leaky_relu").eager(z, (lower + upper) / 2.0)
    spec = registry.chosen(owner, spec, *(parameters.get(o.name, o.default) for o in spec.options))
    return lambda z: spec.eager(z, *numbers)


def _table(owner: str, breakpoints: Any, values: Any, left_slope: Any, right_slope: Any) -> Function:
    """The piecewise-linear function of one table."""
    b, v = (table_checks.as_table(owner, n, t).double() for n, t in (("breakpoints", breakpoints), ("values", values)))
    channels = table_checks.channels_of(owner, b, v)
    slopes = [
        table_checks.as_slope(owner, n, t, 1) for n, t in (("left_slope", left_slope), ("right_slope", right_slope))
    ]
    if channels > 1:
        raise ValueError(f"{owner}: pwl must have one table here, got {channels}")
    table_checks.check_tables(owner, b, v, slopes)
    return lambda z: tables.reference(z, b.reshape(-1), v.reshape(-1), *slopes)


def values(owner: str, function: Function, z: Tensor, name: str) -> Tensor:
    """The function's values, in float64.

    Raises:
        TypeError: if it returns something else than real numbers.
        ValueError: if it returns another shape.
    """
    # A copy: it may work in place.
    y = function(z.clone())
    if not isinstance(y, Tensor) or y.is_complex():
        got = f"one of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{owner}: {name} must return a tensor of real numbers, got {got}")
    if y.shape != z.shape:
        raise ValueError(
            f"{owner}: {name} must be elementwise, and made a tensor of shape {tuple(y.shape)} of one of shape "
            f"{tuple(z.shape)}"
        )
    return y.double()


def check_elementwise(owner: str, function: Function, z: Tensor, name: str) -> None:
    """Raise ValueError unless each value depends on its own input alone, and on nothing random."""
    all_, some = values(owner, function, z, name), values(owner, function, z[::2], name)
    if not torch.allclose(all_[::2], some, rtol=1e-5, atol=1e-8, equal_nan=True):
        raise ValueError(f"{owner}: {name} must be elementwise and not random: its values depend on the other elements")
