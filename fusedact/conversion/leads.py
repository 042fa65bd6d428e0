"""What a function names that leads to one of PyTorch's activations; nothing is run for that."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from . import functional_calls as calls
from .functional_calls import Known

__all__ = ["NAMES", "content", "defaults", "held", "is_home", "is_scripted", "names_any"]

# Containers with more entries hold data.
MANY = 1000

# Of functions and methods.
NAMES = frozenset(calls.METHODS) | calls.names()


def names_any(function: types.FunctionType, gates: frozenset[str] = frozenset()) -> bool:
    """Whether a function names anything that could be one of those functions, methods, or attributes."""
    names = set(_names(function.__code__))
    if names & (NAMES | gates) or any(True for _ in defaults(function)):
        return True
    outside = [function.__globals__.get(n) for n in names] + [content(c) for c in function.__closure__ or ()]
    if "getattr" in names and any(is_home(v) for v in outside):
        return True
    return any(calls.known(v) or is_scripted(v) or any(True for _ in held(v)) for v in outside)


def held(value: Any) -> Iterator[Known]:
    """The functions that a container holds, or a functools.partial gives arguments to."""
    if isinstance(value, partial):
        value = (value.func,)
    elif isinstance(value, dict):
        # Not its own methods: nothing of a user's is run.
        value = tuple(dict.values(value)) if dict.__len__(value) <= MANY else ()
    if isinstance(value, list | tuple) and len(value) <= MANY:
        for one in value:
            found = calls.known(one.func if isinstance(one, partial) else one)
            if found is not None:
                yield found


def defaults(function: types.FunctionType) -> Iterator[tuple[str, Known]]:
    """The arguments whose default is a function of PyTorch."""
    code, given = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    for name, value in (*zip(names, given, strict=True), *(function.__kwdefaults__ or {}).items()):
        if (found := calls.known(value)) is not None:
            yield name, found


def is_home(value: Any) -> bool:
    """Whether it is a module of PyTorch that has those functions."""
    return value is torch or value is torch.nn.functional or value is torch.special


def is_scripted(value: Any) -> bool:
    """Whether it is a function that torch.jit.script or trace made."""
    return isinstance(value, torch.jit.ScriptFunction)


def content(cell: types.CellType) -> Any:
    """What a variable of a closure holds, or None."""
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _names(code: types.CodeType) -> Iterator[str]:
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
