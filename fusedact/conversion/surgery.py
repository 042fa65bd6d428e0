"""A module becomes another one and stays the same object, as under torch.nn.utils.parametrize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .twin_modules import constructor_arguments, record_of

__all__ = ["become", "set_attribute", "set_class"]

# What every module has: hooks, by the names of their dicts.
_HOOKS = tuple(
    k
    for k in nn.Module().__dict__
    if k not in ("training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
)


def become(module: nn.Module, made: nn.Module) -> Callable[[], None]:
    """Give a module the class and the state of another, and keep its hooks, mode, and what was attached to it.

    Returns:
        a function that puts everything back.

    Raises:
        TypeError: if Python cannot change the one class to the other.
    """
    before, old, new = type(module), module.__dict__, made.__dict__
    made.train(module.training)
    was_activation = record_of(module) is not None
    # Of a class that Python lays out otherwise nothing is changed yet.
    object.__setattr__(module, "__class__", type(made))
    own: list[tuple[dict[Any, Any], Any]] = []
    for key in _HOOKS:
        if isinstance(old[key], dict):
            # Whoever holds a handle of a hook holds the old dict.
            own += [(old[key], hook) for hook in new[key]]
            old[key].update(new[key])
            new[key] = old[key]
        elif old[key] is not None:
            new[key] = old[key]
    for key in ("_parameters", "_buffers"):
        if old[key].keys() == new[key].keys() and all(old[key][k] is new[key][k] for k in old[key]):
            new[key] = old[key]
    if was_activation:
        if not new["_buffers"]:
            new["_buffers"], new["_non_persistent_buffers_set"] = old["_buffers"], old["_non_persistent_buffers_set"]
        arguments = constructor_arguments(before)
        new.update({k: v for k, v in old.items() if k not in new and k not in arguments})
    # Methods that the new module gave away as hooks are bound to it: both have one state.
    object.__setattr__(module, "__dict__", new)

    def undo() -> None:
        check_unchanged(module, type(made))
        for hooks, key in own:
            hooks.pop(key, None)
        old["training"] = module.training
        object.__setattr__(module, "__class__", before)
        object.__setattr__(module, "__dict__", old)

    return undo


def set_attribute(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Set a plain attribute; the function returned puts the old one back."""
    before = module.__dict__[name]
    module.__dict__[name] = value

    def undo() -> None:
        module.__dict__[name] = before

    return undo


def set_class(module: nn.Module, cls: type) -> Callable[[], None]:
    """Set the class; the function returned puts the old one back."""
    before = type(module)
    object.__setattr__(module, "__class__", cls)

    def undo() -> None:
        check_unchanged(module, cls)
        object.__setattr__(module, "__class__", before)

    return undo


def check_unchanged(module: nn.Module, cls: type) -> None:
    """Raise RuntimeError if a module's class is another one now."""
    if type(module) is not cls:
        raise RuntimeError(
            f"fusedact.convert: revert: a {cls.__name__} was changed since, to a {type(module).__name__}; take that "
            "back first"
        )
