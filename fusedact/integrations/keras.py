"""Activations of this library in models of Keras 3 on its torch backend, which save and load."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import keras
from torch.nn import Module

from .. import functional, registry
from ..custom import CustomActivation

__all__ = ["register"]

OWNER = "fusedact.integrations.keras.register"
PACKAGE = "fusedact"


def register(*activations: str | CustomActivation | Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Let Keras save and load models whose layers have activations of this library.

    Layers take the functions themselves, `keras.layers.Dense(64, activation=fusedact.functional.mish)`, and need no
    registration to train. What is registered is known to `keras.saving` by a name, under which a model is saved;
    register the same before loading it, and no `custom_objects` are needed. Keras saves nothing but functions: of an
    activation of your own, give layers what this returns.

    Args:
        activations: names of the catalogue, functions of `fusedact.functional`, or what `fusedact.activation` made;
            none for all elementwise functions of the catalogue.

    Returns:
        the functions, by the names that `keras.activations.deserialize` and `keras.saving.get_registered_object` know.

    Raises:
        RuntimeError: if Keras runs on another backend than torch.
        TypeError: if an activation is none of these.
        ValueError: for an unknown name, or one that another activation has.

    >>> from fusedact.integrations import keras  # doctest: +SKIP
    >>> list(keras.register("relu_sigmoid"))  # doctest: +SKIP
    ['fusedact>relu_sigmoid']
    """
    if keras.config.backend() != "torch":
        raise RuntimeError(
            f"{OWNER}: activations take torch tensors, but Keras runs on {keras.config.backend()!r}; set "
            "KERAS_BACKEND=torch before importing it"
        )
    return dict(map(_registered, activations or registry.names("elementwise")))


def _registered(activation: Any) -> tuple[str, Callable[..., Any]]:
    """An activation's name in Keras, and the function that has it."""
    function = _function(activation)
    name = f"{PACKAGE}>{function.__name__}"
    known = keras.saving.get_registered_object(name)
    if known is None or (known is not function and _place(known) == _place(function)):
        keras.saving.register_keras_serializable(PACKAGE, function.__name__)(function)
    elif known is not function:
        raise ValueError(
            f"{OWNER}: {name!r} is registered for {'.'.join(_place(known))}, and {'.'.join(_place(function))} has the "
            "same name"
        )
    return name, function


def _place(function: Any) -> tuple[str, str]:
    """Where a function is defined: one that is defined anew there takes its place."""
    return function.__module__, function.__qualname__


def _function(activation: Any) -> Callable[..., Any]:
    if isinstance(activation, str):
        return cast("Callable[..., Any]", getattr(functional, registry.get(activation, OWNER).name))
    if isinstance(activation, CustomActivation):
        known = keras.saving.get_registered_object(f"{PACKAGE}>{activation.__name__}")
        if getattr(known, "__wrapped__", None) is activation:
            return cast("Callable[..., Any]", known)
        return functools.wraps(activation)(lambda x, *args, **keywords: activation(x, *args, **keywords))
    if (
        getattr(activation, "spec", None) is not None
        and callable(activation)
        and not isinstance(activation, Module | type)
    ):
        return cast("Callable[..., Any]", activation)
    raise TypeError(
        f"{OWNER}: activations must be names, functions of fusedact.functional or what fusedact.activation made, "
        f"got {type(activation).__name__}"
    )
