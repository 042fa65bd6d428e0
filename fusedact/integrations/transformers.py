"""Activations of this library by name in configurations of transformers: `hidden_act="relu_sigmoid"`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .. import modules, registry
from ..custom import CustomActivation
from ..piecewise.piecewise_module import PWL

__all__ = ["initialize", "register"]

OWNER = "fusedact.integrations.transformers.register"

# What a name may stand for: a name of the catalogue, an activation of one's own, or what makes a module, if need be
# with its arguments.
Entry = str | CustomActivation | Callable[..., nn.Module] | tuple[Any, dict[str, Any]]


def register(activations: Entry | Mapping[str, Entry] | None = None, *, override: bool = False) -> dict[str, Any]:
    """Let configurations of transformers name activations of this library.

    A model makes its activations when it is made, so register first; each layer has a module of its own, and so
    parameters of its own where they learn. A configuration holds the name alone: whoever loads a saved model registers
    the same before.

    Args:
        activations: None for every elementwise activation under all its names; a name of the catalogue; an activation
            that `fusedact.activation` made; or a dict of names with, for each, one of these, a class or function that
            makes a module, or a pair of any of them and a dict of arguments.
        override: replace names that transformers has. Those that the catalogue shares with it have the same formulas.
            Otherwise such a name is left as it is where `activations` is None, and refused where it is asked for.

    Returns:
        what was registered, by name, as it stands in `transformers.activations.ACT2FN`.

    Raises:
        TypeError: if an activation is none of these.
        ValueError: for an unknown activation, arguments that it does not take, or a name that is taken; nothing is
            registered then.

    >>> from fusedact.integrations import transformers
    >>> sorted(transformers.register({"gate": ("swish", {"learnable": True})}))
    ['gate']
    """
    if activations is None:
        every = (*registry.names("elementwise"), *registry.aliases())
        found = {name: _class(name) for name in every if registry.get(name).kind == "elementwise"}
        if not override:
            found = {name: made for name, made in found.items() if _may_take(name, made)}
    else:
        found = {name: _entry(name, given) for name, given in _named(activations).items()}
        taken = [] if override else [name for name, made in found.items() if not _may_take(name, made)]
        if taken:
            raise ValueError(
                f"{OWNER}: transformers has {', '.join(map(repr, taken))} already; take another name, or override=True"
            )
    ACT2FN.update(found)
    return found


def _may_take(name: str, made: Any) -> bool:
    """Whether a name is free, or stands for just this."""
    return name not in ACT2FN or ACT2FN.get(name) == made


def _named(activations: Entry | Mapping[str, Entry]) -> Mapping[str, Entry]:
    """Activations by name; a single one has its own."""
    if isinstance(activations, Mapping):
        for name in activations:
            if not isinstance(name, str):
                raise TypeError(f"{OWNER}: names must be strings, got {type(name).__name__}")
        return activations
    if isinstance(activations, str):
        return {activations: activations}
    if isinstance(activations, CustomActivation):
        return {activations.__name__: activations}
    raise TypeError(
        f"{OWNER}: activations must be None, a name, what fusedact.activation made or a dict of them by name, "
        f"got {type(activations).__name__}"
    )


def _class(name: str) -> Any:
    return getattr(modules, registry.get(name, OWNER).module)


def _entry(name: str, given: Entry) -> Any:
    """What makes the module, with its arguments if there are any; it has been tried."""
    pair = given if isinstance(given, tuple) else (given, {})
    if len(pair) != 2 or not isinstance(pair[1], dict):
        raise TypeError(f"{OWNER}: {name!r} must be an activation, or a pair of it and a dict of arguments")
    made, arguments = pair
    if isinstance(made, str):
        made = _class(made)
    elif isinstance(made, CustomActivation):
        made = made.module
    if isinstance(made, nn.Module) or not callable(made):
        raise TypeError(
            f"{OWNER}: {name!r} must be a name of the catalogue, what fusedact.activation made, or what makes a module "
            f"for each layer, got {type(made).__name__}"
        )
    try:
        module = made(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{OWNER}: {name!r} cannot be made with {arguments}: {error}") from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"{OWNER}: {name!r} must make modules, got a function that makes {type(module).__name__}")
    return (made, arguments) if arguments else made


def initialize(model: nn.Module, missing_keys: Iterable[str]) -> list[str]:
    """Give parameters of activations that a checkpoint does not hold the values that they begin with.

    A pretrained model that is loaded with another, learning activation lacks its parameters, and `from_pretrained`
    leaves memory as it found it in those of modules that it does not know. Call this before anything else:

        model, info = GPT2LMHeadModel.from_pretrained(name, activation_function="gate", output_loading_info=True)
        initialize(model, info["missing_keys"])

    Args:
        model: what was loaded.
        missing_keys: the names that were not in the checkpoint; those of other libraries' modules are left alone.

    Returns:
        the names of the parameters that were given values.
    """
    missing, found = set(missing_keys), []
    for path, module in model.named_modules():
        # The record of a table is made of numbers, which are not there yet.
        if not isinstance(module, PWL) and not isinstance(getattr(module, "spec", None), registry.ActivationSpec):
            continue
        held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        own = {f"{path}.{name}" if path else name: t for name, t in held}
        lacking = missing & own.keys()
        if lacking:
            kept = {name: t.detach().clone() for name, t in own.items() if name not in lacking}
            module.reset_parameters()  # type: ignore[operator]
            with torch.no_grad():
                for name, values in kept.items():
                    own[name].copy_(values)
            found += sorted(lacking)
    return found
