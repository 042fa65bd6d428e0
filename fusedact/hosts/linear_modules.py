"""`Linear`: torch.nn.Linear with an activation; and how modules of several layers hold one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import modules, registry
from ..custom import CustomActivation
from ..registry import ActivationSpec
from .affine import activated_layer, is_plain

__all__ = ["Held", "Holder", "Linear", "activation_module", "arguments_of_module", "hosted"]


class Holder:
    """What modules share that hold an activation, besides weights of their own."""

    activation: nn.Module

    @property
    def spec(self) -> ActivationSpec | None:
        """The activation's record, if it is one of this library's."""
        return getattr(self.activation, "spec", None)

    @property
    def save(self) -> str:
        """The activation's policy of what is kept for backward."""
        return getattr(self.activation, "save", "auto")

    @save.setter
    def save(self, policy: str) -> None:
        self.activation.save = policy  # type: ignore[assignment]


class Linear(Holder, nn.Linear):
    """A linear layer and its activation. The module of `fusedact.functional.linear`.

        activation(x weight^T + bias)

    It is a torch.nn.Linear, with its initialization, `weight` and `bias`. Checkpoints load both ways: the activation is
    the module `activation` inside, which has entries only where it learns.

    Args:
        in_features, out_features: the sizes of the last dimension of input and output.
        bias: whether there is one.
        activation: the name of an activation, a function of `fusedact.functional`, what `fusedact.activation` made, or
            a module, which is called on the product if it is none of this library's elementwise ones.
        learnable, num_parameters, bounds, save: of the activation's module, as for `fusedact.Activation`;
            num_parameters is 1 or out_features.
        device, dtype: of the parameters.
        parameters: of the activation, and its options, by name; the defaults otherwise.

    Shape:
        input: (..., in_features); output: (..., out_features).

    Raises:
        TypeError: if an argument has another type, or the activation has no such parameter.
        ValueError: for an unknown name, or numbers that the activation does not accept.

    >>> layer = fusedact.Linear(4, 3, activation="elu", alpha=0.5)
    >>> layer
    Linear(
      in_features=4, out_features=3, bias=True
      (activation): ELU(alpha=0.5)
    )
    >>> layer.load_state_dict(torch.nn.Linear(4, 3).state_dict())
    <All keys matched successfully>

    Source: torch.nn.Linear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: Any = "relu_sigmoid",
        *,
        learnable: bool | str | tuple[str, ...] = False,
        num_parameters: int = 1,
        bounds: Any = None,
        save: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **parameters: Any,
    ) -> None:
        arguments = arguments_of_module(learnable, num_parameters, bounds, save) | parameters
        made = activation_module("fusedact.Linear", activation, arguments, device, dtype)
        super().__init__(in_features, out_features, bias, device, dtype)
        if num_parameters not in (1, out_features):
            raise ValueError(f"fusedact.Linear: num_parameters must be 1 or {out_features}, got {num_parameters}")
        self.activation = made

    def reset_parameters(self) -> None:
        """Draw weight and bias as torch.nn.Linear does, and give the activation's the values that they began with."""
        super().reset_parameters()
        reset = getattr(getattr(self, "activation", None), "reset_parameters", None)
        if reset is not None:
            reset()

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        held = None if is_plain(input, weight) else hosted(self.activation)
        if held is None:
            return self.activation(F.linear(input, weight, self.bias))
        activation, save, parameters, within = held
        with within:
            return activated_layer(input, weight, self.bias, activation, save, parameters)


def arguments_of_module(learnable: Any, num_parameters: int, bounds: Any, save: str) -> dict[str, Any]:
    """Those arguments of an activation's module that are not the defaults: not every class takes them."""
    given = {"learnable": learnable, "num_parameters": num_parameters, "bounds": bounds, "save": save}
    usual = {"learnable": False, "num_parameters": 1, "bounds": None, "save": "auto"}
    return {name: value for name, value in given.items() if value != usual[name]}


def activation_module(
    owner: str, activation: Any, arguments: dict[str, Any], device: Any, dtype: torch.dtype | None
) -> nn.Module:
    """The module of an activation as it is given, which counts channels along the last dimension.

    Raises:
        TypeError: if it is no activation, or takes no such argument.
        ValueError: for an unknown name.
    """
    if isinstance(activation, nn.Module):
        if arguments:
            raise TypeError(f"{owner}: a module as activation takes no {', '.join(arguments)}: it has its own")
        return activation
    make: Callable[..., nn.Module]
    if isinstance(activation, CustomActivation):
        spec, make = activation.described, activation.module
    else:
        name = activation
        if not isinstance(activation, str):
            found = getattr(activation, "spec", None)
            if not isinstance(found, ActivationSpec) or isinstance(activation, type):
                kind = type(activation)
                raise TypeError(
                    f"{owner}: activation must be a name, a function of fusedact.functional, what fusedact.activation "
                    f"made, or a module, got {kind.__module__}.{kind.__qualname__}"
                )
            name = found.name
        spec = registry.get(name, owner)
        make = partial(modules.create, spec.name)
    if spec.always_learned or "learnable" in arguments:
        arguments = {"channel_dim": -1, "device": device, "dtype": dtype, **arguments}
    return make(**arguments)


Held = tuple[Any, str, dict[str, Any], AbstractContextManager[None]]


def hosted(module: nn.Module) -> Held | None:
    """An activation's module as a layer takes it; None where the module must be called."""
    find = getattr(module, "hosted", None)
    return None if find is None else find()
