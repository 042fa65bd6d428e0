"""Device functions by name: those that are written by hand, and those that are made at run time."""

from __future__ import annotations

import threading
from typing import Any

from . import activations, from_bits, from_output, gates, piecewise, smooth

# Device functions written by hand, by name: pairs, so not what those modules import.
_written = {
    name: function
    for module in (activations, gates, piecewise, smooth)
    for name, function in vars(module).items()
    if hasattr(module, f"{name.removesuffix('_backward')}_backward")
}
# Those that take the output, or the output and a bit, or give the bits that are kept.
_written |= {
    name: function
    for module in (from_output, from_bits, piecewise)
    for name, function in vars(module).items()
    if name.endswith(("_from_output", "_from_bits", "_side", "_segment"))
}
# Device functions made at run time, by name.
_registered: dict[str, Any] = {}
_registering = threading.Lock()


def register(name: str, forward: Any, **derivatives: Any) -> None:
    """Make device functions known: `forward` as `name`, `backward` and `double_backward` as `name` and a suffix.

    A name stands for the same functions for good, as compiled kernels are kept by name: the first ones count.
    """
    unknown = derivatives.keys() - {"backward", "double_backward"}
    if unknown:
        raise TypeError(f"register() takes forward, backward and double_backward, not {', '.join(sorted(unknown))}")
    with _registering:
        if name not in _registered:
            _registered.update({f"{name}_{suffix}": function for suffix, function in derivatives.items()})
            # Last: who finds the name finds all.
            _registered[name] = forward


def registered(name: str) -> bool:
    """Whether device functions of that name have been made known."""
    return name in _registered


def named(name: str) -> Any:
    """The device function of that name."""
    return _written.get(name) or _registered[name]


def saved_function(suffix: str, *names: str) -> str:
    """The first name with that suffix that a device function has, such as "from_output", of an activation's names."""
    return next(found for name in names if (found := f"{name}_{suffix}") in _written)
