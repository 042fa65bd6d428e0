"""What a mapping for `fusedact.convert` says: which places its keys mean, and what its values put there."""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import registry
from ..custom import CustomActivation
from ..modules import create
from . import functional_calls as calls
from .functional_calls import TargetFunction
from .rewriting import original
from .twin_modules import qualified, record_of, twin_of

__all__ = ["Mapped", "Place", "Target"]

OWNER = "fusedact.convert"


class Place(NamedTuple):
    """A module that is to be replaced: where new parameters go, and what else is asked for."""

    module: nn.Module
    device: torch.device | None
    dtype: torch.dtype | None
    learnable: bool | tuple[str, ...]


class Target(NamedTuple):
    """A value of the mapping; `make` gives a module for a place, and `function` replaces calls, if it can."""

    make: Callable[[Place], nn.Module]
    function: TargetFunction | None
    is_twin: Callable[[nn.Module], bool]


def _never(module: nn.Module) -> bool:
    return False


def learned(spec: registry.ActivationSpec, asked: bool | tuple[str, ...]) -> tuple[str, ...]:
    """The parameters of an activation that are to learn."""
    known = tuple(p.name for p in spec.learnable)
    if spec.kind != "elementwise":
        known = ("temperature",) if asked is not True and spec.kind == "rowwise" else ()
    return known if asked is True else tuple(n for n in asked or () if n in known)


def twin_at(place: Place) -> nn.Module:
    """The twin of what stands in a place."""
    spec = record_of(place.module)
    assert spec is not None
    return twin_of(place.module, learned(spec, place.learnable), place.device, place.dtype)


TWIN = Target(twin_at, None, lambda module: True)


def _of_record(name: str) -> Target:
    spec = registry.get(name, OWNER)

    def same(module: nn.Module) -> bool:
        found = record_of(module)
        return found is not None and found.name == spec.name

    def make(place: Place) -> nn.Module:
        if same(place.module):
            return twin_at(place)
        names = learned(spec, place.learnable)
        arguments: dict[str, Any] = {}
        if spec.kind == "elementwise":
            if spec.learnable and (names or spec.always_learned):
                arguments |= {"device": place.device, "dtype": place.dtype}
            if names and not spec.always_learned:
                arguments["learnable"] = names
            elif getattr(place.module, "inplace", False) is True and not spec.always_learned:
                arguments["inplace"] = True
        return create(spec.name, **arguments)

    return Target(make, spec.name if spec.kind == "elementwise" else None, same)


def _of_own(own: CustomActivation) -> Target:
    def make(place: Place) -> nn.Module:
        names = learned(own.described, place.learnable)
        if names:
            return own.module(learnable=names, device=place.device, dtype=place.dtype)
        return own.module(inplace=getattr(place.module, "inplace", False) is True)

    return Target(make, own, _never)


def target_of(key: object, value: Any) -> Target | None:
    """What a value of the mapping means; None leaves a place as it is.

    Raises:
        TypeError: if it is nothing of what is accepted.
        ValueError: for an unknown name.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return TWIN if value == "twin" else _of_record(value)
    if isinstance(value, CustomActivation):
        return _of_own(value)
    if isinstance(value, nn.Module):
        return Target(lambda place: _moved(copy.deepcopy(value), place), None, _never)
    spec = getattr(value, "spec", None)
    if isinstance(spec, registry.ActivationSpec) and spec.key is None:
        # A class of ours, or a function: both have a record.
        return _of_record(spec.name)
    if (found := calls.known(value)) is not None:
        return _of_record(found.record)
    if callable(value):
        return Target(lambda place: _moved(_from_factory(key, value, place.module), place), None, _never)
    raise TypeError(
        f"{OWNER}: the value of {_shown(key)} must be a name, a module, a class of modules, what fusedact.activation "
        f"made, a function that makes a module, 'twin' or None, got {type(value).__name__}"
    )


def _moved(made: nn.Module, place: Place) -> nn.Module:
    """A module that a user made, where the model is."""
    return made if place.device is None else made.to(place.device)


def _from_factory(key: object, factory: Callable[..., Any], module: nn.Module) -> nn.Module:
    """A module from a class, or a function, which gets the module that it replaces if it takes an argument."""
    try:
        inspect.signature(factory).bind()
        arguments: tuple[Any, ...] = ()
    except TypeError:
        arguments = (module,)
    except ValueError:  # no signature
        arguments = ()
    made = factory(*arguments)
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"{OWNER}: the value of {_shown(key)} must make a torch.nn.Module, and made {type(made).__name__}; "
            "fusedact.activation makes an activation of a function"
        )
    return made


def _shown(key: object) -> str:
    """A key as messages show it."""
    if isinstance(key, str):
        return repr(key)
    name = getattr(key, "__name__", None)
    if isinstance(key, type):
        return f"nn.{name}" if qualified(key).startswith("torch.nn.") else str(name)
    return f"F.{name}"


class Mapped:
    """A mapping, checked; None is the twin everywhere."""

    def __init__(self, mapping: Mapping[Any, Any] | None) -> None:
        self.everything = mapping is None
        self.names: dict[str, Target | None] = {}
        self.patterns: dict[str, Target | None] = {}
        self.classes: dict[type, Target | None] = {}
        self.functions: dict[str, Target | None] = {}
        # The keys as messages show them, until they have matched something.
        self.unused: dict[Any, str] = {}
        if mapping is None:
            return
        if not isinstance(mapping, Mapping):
            raise TypeError(f"{OWNER}: mapping must be a dict or None, got {type(mapping).__name__}")
        for key, value in mapping.items():
            self._add(key, target_of(key, value))

    def _add(self, key: Any, target: Target | None) -> None:
        if isinstance(key, str):
            (self.patterns if any(c in key for c in "*?[") else self.names)[key] = target
        elif isinstance(key, type) and issubclass(key, nn.Module):
            self.classes[key] = target
        elif (found := calls.known(key)) is not None:
            if registry.get(found.record).kind != "elementwise":
                raise ValueError(f"{OWNER}: {_shown(key)} as a key must be elementwise, and {found.record} is not")
            if target is not None and target is not TWIN and target.function is None:
                raise TypeError(
                    f"{OWNER}: the value of {_shown(key)} must be a name, 'twin', or what fusedact.activation made: a "
                    "call has no place for a module"
                )
            self.functions[found.record] = target
            key = found
        else:
            raise TypeError(
                f"{OWNER}: keys must be classes of modules, names of modules, patterns of names, or functions of "
                f"PyTorch, got {key!r}"
            )
        self.unused[key] = _shown(key) if not isinstance(key, calls.Known) else f"F.{key.record}"

    def chosen(self, names: list[str], module: nn.Module) -> tuple[bool, Target | None]:
        """Whether a module is mapped, and to what: by its name, a pattern, or its class."""
        if self.everything:
            return record_of(module) is not None, TWIN
        cls = original(type(module))
        found = self._by_name(names, record_of(module) is not None)
        if found is None and cls in self.classes:
            self.unused.pop(cls, None)
            return True, self.classes[cls]
        return found or (False, None)

    def chosen_function(self, names: list[str], found: calls.Known) -> tuple[bool, Target | None]:
        """The same for a function that a module keeps as an attribute."""
        if self.everything:
            return True, TWIN
        by_name = self._by_name(names, True)
        if by_name is None and found.record in self.functions:
            self.use_function(found.record)
            return True, self.functions[found.record]
        return by_name or (False, None)

    def _by_name(self, names: list[str], is_activation: bool) -> tuple[bool, Target | None] | None:
        for name in names:
            if name in self.names:
                self.unused.pop(name, None)
                return True, self.names[name]
        for pattern, target in self.patterns.items():
            if is_activation and any(fnmatch.fnmatchcase(name, pattern) for name in names):
                self.unused.pop(pattern, None)
                return True, target
        return None

    def calls(self) -> tuple[tuple[str, TargetFunction | None], ...]:
        """The functions whose calls are replaced, as a Plan has them."""
        given = {record: t.function for record, t in self.functions.items() if t is not None}
        # By its own name a function keeps its hyper-parameters.
        return tuple((record, None if f == record else f) for record, f in given.items())

    def use_function(self, record: str) -> None:
        """Note that a function was found."""
        for key in [k for k in self.unused if isinstance(k, calls.Known) and k.record == record]:
            del self.unused[key]
