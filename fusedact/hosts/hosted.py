"""Any activation as a form that hosts one takes it: gated, with a bias, behind a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import compat, registry
from ..checks import check_dtype, check_names
from ..crossovers import PLAIN_HOST_BELOW
from ..dispatch import is_recording
from ..registry import ActivationSpec
from ..shortest import for_twin

__all__ = ["Hosted", "alike", "check_tensor", "record", "recorded", "small_twin", "stays_in_eager"]


class Hosted(NamedTuple):
    """An elementwise activation, and its parameters."""

    spec: ActivationSpec
    params: tuple[Any, ...]

    @staticmethod
    def of(owner: str, activation: object, parameters: dict[str, Any]) -> Hosted:
        """An activation as it is given, with parameters by name.

        Raises:
            TypeError: if it is no activation, or has no such parameter, or one without a default is missing.
            ValueError: for an unknown name, or one that is not elementwise.
        """
        spec = _spec(owner, activation)
        if not parameters and not spec.parameters and not spec.options:
            return Hosted(spec, ())
        check_names(owner, spec, parameters)
        values = dict(parameters)
        spec = registry.chosen(owner, spec, *(values.pop(o.name, o.default) for o in spec.options))
        missing = [p.name for p in spec.parameters if p.required and p.name not in values]
        if missing:
            raise TypeError(f"{owner}: {spec.name} needs {' and '.join(missing)}")
        return Hosted(spec, tuple(values.get(p.name, p.default) for p in spec.parameters))


def _spec(owner: str, activation: object) -> ActivationSpec:
    if isinstance(activation, str):
        spec = registry.get(activation, owner)
    elif hasattr(activation, "described") and (is_compiling() or is_recording()):
        # Nothing is traced inside another trace.
        return activation.described
    else:
        found = getattr(activation, "spec", None)
        if not isinstance(found, ActivationSpec) or isinstance(activation, torch.nn.Module | type):
            kind = type(activation)
            raise TypeError(
                f"{owner}: activation must be a name, a function of fusedact.functional, or what fusedact.activation "
                f"made, got {kind.__module__}.{kind.__qualname__}"
            )
        spec = found
    if spec.kind != "elementwise":
        raise ValueError(f"{owner}: activation must be elementwise and take numbers, and {spec.name} does not")
    return spec


def small_twin(activation: object, parameters: dict[str, Any], x: Tensor) -> Callable[..., Tensor] | None:
    """PyTorch's operator of an activation, where plain operators serve a host of a small x on the CPU; None elsewhere.

    All that a host would find out takes longer than they do.
    """
    plainly = type(activation) is str and not parameters and for_twin(x, PLAIN_HOST_BELOW)
    return _usual_twin(activation) if plainly and x.layout is torch.strided and not x.is_nested else None


@cache
def _usual_twin(name: str) -> Callable[..., Tensor] | None:
    """PyTorch's operator of an activation with its defaults; None where it has none, or there is no such name."""
    try:
        spec = registry.get(name)
    except ValueError:
        return None
    plain = spec.kind == "elementwise" and not spec.autocast and not spec.composite
    return spec.aten if plain and spec.usual is not None else None


def alike(other: object, x: Tensor) -> TypeGuard[Tensor]:
    """Whether something is a plain tensor on the CPU, of x's dtype."""
    return (
        (type(other) is Tensor or type(other) is torch.nn.Parameter)
        and other.dtype == x.dtype
        and other.is_cpu
        and other.layout is torch.strided
        and not other.is_nested
    )


def stays_in_eager(spec: ActivationSpec) -> bool:
    """Whether an activation of one's own has nothing to work in pieces or to launch."""
    return spec.key is not None and spec.build is None


def check_tensor(owner: str, name: str, x: object) -> None:
    """Raise TypeError unless x is a floating-point tensor that the activations serve."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner}: {name} must be a torch.Tensor, got {type(x).__name__}")
    check_dtype(owner, name, x)


def record(name: str) -> ActivationSpec:
    """What `dispatch.choose` has to know of a host: its name, and that PyTorch has no operator for it."""
    return ActivationSpec(
        name=name, module="", summary="", formula="", limits="", example="", eager=torch.clone, kind="host"
    )


def recorded(
    formula: Callable[..., Tensor], arguments: Sequence[Any], needed: Sequence[bool], g: Tensor
) -> list[Tensor | None]:
    """The needed gradients of a formula of these arguments, in plain operators: for higher orders, under transforms."""
    create_graph = torch.is_grad_enabled()

    def value(*wanted: Tensor) -> Tensor:
        rest = iter(wanted)
        return formula(*(next(rest) if n else a for a, n in zip(arguments, needed, strict=True)))

    wanted = [a for a, n in zip(arguments, needed, strict=True) if n]
    if compat.transforms_active() and not create_graph:
        grads = iter(torch.func.vjp(value, *wanted)[1](g))
    else:
        with torch.enable_grad():
            wanted = wanted if create_graph else [a.detach().requires_grad_() for a in wanted]
            grads = iter(torch.autograd.grad(value(*wanted), wanted, g, create_graph=create_graph))
    return [next(grads) if n else None for n in needed]
