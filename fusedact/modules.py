"""Activation modules, one class per record of the catalog, and `create` and `Activation`, which take a name.

Each class is made from its record; modules.pyi shows it to editors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import describe, functional, registry
from .checks import check_names, check_number
from .piecewise import PWL
from .registry import ActivationSpec

__all__ = ["PWL", "Activation", "create", *(registry.get(name).module for name in registry.names("elementwise"))]


class _Elementwise(nn.Module):
    """What all activation modules share: a record, its parameters as attributes, and a call of its function.

    A number stays a plain attribute, as in torch.nn. A learnable one is an nn.Parameter of shape (1,), which sharded
    training requires, under the same name in `state_dict`.
    """

    spec: ActivationSpec
    inplace: bool

    def _configure(
        self,
        spec: ActivationSpec,
        values: dict[str, float],
        learnable: bool | str | tuple[str, ...],
        inplace: bool,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        owner = f"fusedact.{type(self).__name__}"
        known = [p.name for p in spec.parameters]
        if not isinstance(learnable, bool | str | tuple | list):
            raise TypeError(
                f"{owner}: learnable must be a bool, the name of a parameter or a tuple of names, "
                f"got {type(learnable).__name__}"
            )
        if learnable is True and not known:
            raise ValueError(f"{owner}: learnable=True, but {spec.name} has no parameters")
        chosen = known if learnable is True else [] if learnable is False else learnable
        chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        for name in chosen:
            if name not in known:
                raise ValueError(f"{owner}: learnable names {name!r}; the parameters are {', '.join(known) or 'none'}")
        if learnable and inplace:
            raise ValueError(f"{owner}: inplace=True cannot be combined with learnable parameters")
        self.spec = spec
        self.inplace = inplace
        for p in spec.parameters:
            if isinstance(values[p.name], Tensor):
                raise TypeError(
                    f"{owner}: {p.name} must be a number (learnable=True makes it a parameter), got a tensor"
                )
            value = check_number(owner, p.name, values[p.name])
            if p.name in chosen:
                setattr(self, p.name, nn.Parameter(torch.full((1,), value, device=device, dtype=dtype)))
            else:
                setattr(self, p.name, value)

    def forward(self, input: Tensor) -> Tensor:
        spec = self.spec
        function = getattr(functional, spec.name)
        return function(input, *[getattr(self, p.name) for p in spec.parameters], inplace=self.inplace)

    def extra_repr(self) -> str:
        parts = []
        for p in self.spec.parameters:
            value = getattr(self, p.name)
            parts.append(f"{p.name}=learnable" if isinstance(value, Tensor) else f"{p.name}={value}")
        if self.inplace:
            parts.append("inplace=True")
        return ", ".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        # The record holds functions; its name is enough to find it again.
        return {**self.__dict__, "spec": self.spec.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "spec": registry.get(state["spec"])})


class Activation(_Elementwise):
    """The activation of a name, as a module: `Activation("elu", alpha=0.5)` computes what `ELU(alpha=0.5)` does.

    Args:
        name: a name out of `fusedact.names("elementwise")`.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names.
        inplace: overwrite the input.
        parameters: of the activation, by name; the defaults otherwise.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> fusedact.Activation("relu_sigmoid", threshold=0.1)
    Activation('relu_sigmoid', threshold=0.1)
    """

    def __init__(
        self,
        name: str,
        *,
        learnable: bool | str | tuple[str, ...] = False,
        inplace: bool = False,
        **parameters: float,
    ) -> None:
        super().__init__()
        spec = registry.get(name, "fusedact.Activation")
        if spec.kind != "elementwise":
            raise ValueError(f"fusedact.Activation: {name!r} takes tables, not numbers; use fusedact.{spec.module}")
        self._configure(spec, _complete("fusedact.Activation", spec, parameters), learnable, inplace)

    def extra_repr(self) -> str:
        rest = super().extra_repr()
        return f"{self.spec.name!r}, {rest}" if rest else repr(self.spec.name)


def _complete(owner: str, spec: ActivationSpec, parameters: dict[str, float]) -> dict[str, float]:
    check_names(owner, spec, parameters)
    return {p.name: parameters.get(p.name, p.default) for p in spec.parameters}


def create(name: str, **arguments: Any) -> nn.Module:
    """A module by the activation's name.

    Args:
        name: a name out of `fusedact.names()`.
        arguments: of the module's class, as keywords.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown argument.

    >>> fusedact.create("relu_sigmoid", threshold=0.1)
    ReLUSigmoid(threshold=0.1)
    """
    return _classes[registry.get(name, "fusedact.create").name](**arguments)


def _define(spec: ActivationSpec) -> type[_Elementwise]:
    init_signature = describe.module_signature(spec)

    def __init__(self: _Elementwise, *args: Any, **kwargs: Any) -> None:
        try:
            bound = init_signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"fusedact.{spec.module}: {error}") from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        del values["self"]
        nn.Module.__init__(self)
        numbers = {p.name: values.pop(p.name) for p in spec.parameters}
        self._configure(spec, numbers, values.pop("learnable", False), values.pop("inplace"), **values)

    __init__.__signature__ = init_signature
    __init__.__qualname__ = f"{spec.module}.__init__"
    return type(
        spec.module,
        (_Elementwise,),
        {"__module__": __name__, "__doc__": describe.module_docstring(spec), "__init__": __init__, "spec": spec},
    )


_classes: dict[str, type[nn.Module]] = {name: _define(registry.get(name)) for name in registry.names("elementwise")}
globals().update({cls.__name__: cls for cls in _classes.values()})
_classes["pwl"] = PWL
