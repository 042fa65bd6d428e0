"""Update rules: what a function that steps one element takes, and what is made of it."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number
from . import rule_programs
from .rule_programs import Program

__all__ = ["OWNER", "Rule", "check_setting"]

OWNER = "fusedact.optim.update_rule"
# What every optimizer's groups hold, or its calls take.
RESERVED = frozenset({"params", "maximize", "capturable", "differentiable", "foreach", "fused", "param_names", "self"})
STEP, FIRST = "step", "first"


class Rule:
    """An update rule: its signature checked, its function traced. Call it as the function."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]
    # What log_step watches its optimizers with.
    step_log: Any = None

    def __init__(self, function: Callable[..., Any], state: Sequence[str], init: Mapping[str, str]) -> None:
        if not callable(function) or isinstance(function, type | Rule):
            raise TypeError(f"{OWNER}: expected a function, got {type(function).__name__}")
        if isinstance(state, str):
            raise TypeError(f'{OWNER}: state must be a tuple of names, such as ("{state}",), got a string')
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = self.__name__
        functools.update_wrapper(self, function)
        self._function = function
        self.states = tuple(state)
        self.values, self.defaults, self.required, self.options = _signature(self.__name__, function, self.states)
        self.counts = STEP in self.required
        self.tells_first = FIRST in self.options
        self.required.discard(STEP)
        self.options.discard(FIRST)
        self.defaults.pop(FIRST, None)
        self.initial = {name: init.get(name, "zeros") for name in self.states}
        for name, value in init.items():
            if name not in self.states:
                raise ValueError(f"{OWNER}: init names {name!r}, which is no state of {self.__name__}")
            if value not in ("zeros", "param"):
                raise ValueError(f"{OWNER}: init of {name} must be 'zeros' or 'param', got {value!r}")
        # The names of its numbers, as traced.
        self.numbers = (*(["step"] if self.counts else []), *sorted({*self.defaults, *self.required} - self.options))
        self._programs: dict[tuple[tuple[str, bool], ...], Program] = {}
        self._lock = threading.RLock()

    # ----- what users see

    def __call__(self, param: Tensor, grad: Tensor, *states: Tensor, **settings: Any) -> Any:
        numbers = {**{n: v for n, v in self.defaults.items() if n not in self.options}, **settings}
        # In float64, which does not change the dtype of what they are multiplied by.
        wide = {
            n: torch.full((), v, dtype=torch.float64, device=param.device)
            if isinstance(v, float | int) and not isinstance(v, bool)
            else v
            for n, v in numbers.items()
        }
        return self._function(param, grad, *states, **wide)

    def __repr__(self) -> str:
        return f"<fusedact update rule {self.__qualname__}{inspect.signature(self._function)}>"

    def __reduce__(self) -> str:
        # By name, as functions are pickled and copied.
        return self.__qualname__

    @property
    def source(self) -> str:
        """The Triton code of a step, with the options at their defaults.

        Raises:
            ValueError: if the function is not elementwise or returns something else.
        """
        return self.program({name: self.defaults[name] for name in self.options}).triton

    # ----- what is made of it

    def checked(self, owner: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, as a group holds them.

        Raises:
            TypeError: for one that is unknown, missing, or of another type than the rule takes.
        """
        known = {*self.defaults, *self.required}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise TypeError(
                f"{owner}: {self.__name__} has no setting {', '.join(unknown)}; its settings are "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        made = {**self.defaults, **settings}
        missing = sorted(self.required - set(made))
        if missing:
            raise TypeError(f"{owner}: {self.__name__} needs {', '.join(missing)}")
        for name, value in made.items():
            if name in self.options:
                if not isinstance(value, bool):
                    raise TypeError(f"{owner}: {name} must be True or False, got {type(value).__name__}")
            else:
                made[name] = check_setting(owner, name, value)
        return made

    def program(self, options: Mapping[str, bool], maximize: bool = False, first: bool = False) -> Program:
        """What runs the rule with these options, made once for each choice of them.

        Raises:
            ValueError: if the function is not elementwise or returns something else.
        """
        chosen = {**options, **({FIRST: first} if self.tells_first else {})}
        key = (*sorted(chosen.items()), ("maximize", maximize))
        found = self._programs.get(key)
        if found is None:
            with self._lock:
                function = self.plain(chosen, maximize)
                found = rule_programs.program(function, self.__name__, self.values, self.numbers, self._origin())
                self._programs[key] = found
        return found

    def plain(self, options: Mapping[str, bool], maximize: bool = False) -> Callable[..., Any]:
        """The rule with its options, as a function of tensors and numbers."""

        def plain(param: Tensor, grad: Tensor, *states: Tensor, **numbers: Any) -> Any:
            return self(param, -grad if maximize else grad, *states, **numbers, **options)

        plain.__wrapped__ = self._function  # type: ignore[attr-defined]
        return plain

    def _origin(self) -> str:
        code = getattr(self._function, "__code__", None)
        return f"{os.path.basename(code.co_filename)}, line {code.co_firstlineno}" if code else repr(self._function)


def check_setting(owner: str, name: str, value: object) -> float | Tensor:
    """A setting as groups hold it: a number as it is, or a tensor of one element.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is a tensor with more elements.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.dtype.is_floating_point:
            raise ValueError(
                f"{owner}: {name} must be a number or a floating-point tensor of one element, got "
                f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
            )
        return value
    return check_number(owner, name, value, "a number or a tensor of one element")


def _signature(
    name: str, function: Callable[..., Any], states: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, Any], set[str], set[str]]:
    """The tensors' names, the defaults of the settings, those without, and which of all are options.

    Raises:
        TypeError: if the signature is none of an update rule.
    """
    try:
        arguments = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(f"{OWNER}: {name} has no signature; wrap it in a function of your own") from None
    values, defaults, required, options = [], dict[str, Any](), set[str](), set[str]()
    for p in arguments:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            if p.default is not p.empty:
                raise TypeError(f"{OWNER}: {name} must take {p.name} without a default, or after a `*`, as a setting")
            values.append(p.name)
            continue
        if p.kind is not p.KEYWORD_ONLY:
            raise TypeError(f"{OWNER}: {name} must name each of its arguments, and {p} is open")
        if p.name in RESERVED:
            raise TypeError(f"{OWNER}: {name} has a setting {p.name}, which every optimizer has or takes")
        if p.name == STEP and p.default is not p.empty:
            raise TypeError(f"{OWNER}: {name} must take step, the number of steps, without a default")
        if p.default is p.empty:
            required.add(p.name)
        elif isinstance(p.default, bool):
            options.add(p.name)
            defaults[p.name] = p.default
        else:
            defaults[p.name] = check_number(OWNER, f"the default of {name}'s setting {p.name}", p.default)
    if len(values) < 2 or tuple(values[2:]) != tuple(states):
        wanted = ", ".join(["param", "grad", *states])
        raise TypeError(
            f"{OWNER}: {name} must take ({wanted}, *, settings): a parameter, its gradient and the states that `state` "
            f"names, got ({', '.join(values)})"
        )
    if STEP in states or len({*states}) != len(states):
        raise TypeError(f"{OWNER}: the states of {name} must have names of their own, none of them step")
    if FIRST in required or (FIRST in defaults and FIRST not in options):
        raise TypeError(f"{OWNER}: {name} must take first with True or False as default")
    return tuple(values), defaults, required, options
