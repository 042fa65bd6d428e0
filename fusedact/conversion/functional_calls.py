"""Calls of PyTorch's activation functions: which there are, and what takes their place in a model that is converted.

Everything here gives what the replaced expression gave, also for what this library does not serve (integers, sparse or
quantized tensors, symbolic values of torch.fx): such a call goes to PyTorch's function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import compat, functional, registry
from ..custom import CustomActivation
from ..hosts.gating import PIECES_FROM
from .twin_modules import Elementwise

__all__ = [
    "METHODS",
    "Known",
    "TargetFunction",
    "call_of",
    "in_halves",
    "known",
    "left_product",
    "names",
    "of",
    "product",
    "shown",
    "twin",
]

_SERVED = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Known(NamedTuple):
    """A function of PyTorch: its record, the arguments that it takes by position, and by name only."""

    record: str
    positional: tuple[str, ...]
    by_name: tuple[str, ...] = ()
    inplace: bool = False


# Functions of torch, and of torch.nn.functional where they overwrite, with the arguments after the input.
_IN_TORCH: dict[str, tuple[str, ...]] = {
    "celu": ("alpha",),
    "hardshrink": ("lambd",),
    "prelu": ("weight",),
    "relu": (),
    "rrelu": ("lower", "upper", "training"),
    "selu": (),
    "sigmoid": (),
    "tanh": (),
    "threshold": ("threshold", "value"),
}
_OVERWRITING: tuple[tuple[Any, str], ...] = (
    *((torch, name) for name in ("relu", "sigmoid", "tanh", "selu", "celu", "threshold", "rrelu")),
    *((F, name) for name in ("relu", "elu", "selu", "celu", "leaky_relu", "hardtanh", "threshold", "rrelu")),
)


def _arguments(name: str) -> tuple[str, ...]:
    """The arguments of a function of torch.nn.functional after the input, without `inplace`."""
    if name in ("softmax", "log_softmax", "softmin"):
        return "dim", "_stacklevel", "dtype"
    spec = registry.get(name)
    return *(p.name for p in spec.parameters), *(o.name for o in spec.options)


def _table() -> dict[Any, Known]:
    made: dict[Any, Known] = {}
    for name in registry.names():
        spec = registry.get(name)
        if spec.twin != f"torch.nn.functional.{name}":
            continue
        function = getattr(F, name)
        code = getattr(function, "__code__", None)
        inplace = ("inplace",) if code is not None and "inplace" in code.co_varnames else ()
        made[function] = Known(name, ("input", *_arguments(name), *inplace))
    for name, arguments in _IN_TORCH.items():
        made[getattr(torch, name)] = Known(name, ("input", *arguments))
    for name in ("softmax", "log_softmax"):
        for home in (torch, torch.special):
            made[getattr(home, name)] = Known(name, ("input", "dim"), ("dtype",))
    made[torch.special.expit] = Known("sigmoid", ("input",))
    for home, name in _OVERWRITING:
        made[getattr(home, f"{name}_")] = Known(name, ("input", *_arguments(name)), inplace=True)
    return made


_KNOWN = _table()

# Methods of tensors, of which the input is the first argument.
METHODS: dict[str, Known] = {
    **{name: Known(name, ()) for name in ("relu", "sigmoid", "tanh")},
    **{f"{name}_": Known(name, (), inplace=True) for name in ("relu", "sigmoid", "tanh")},
    "prelu": Known("prelu", ("weight",)),
    "hardshrink": Known("hardshrink", ("lambd",)),
    "softmax": Known("softmax", ("dim",), ("dtype",)),
    "log_softmax": Known("log_softmax", ("dim",), ("dtype",)),
}
# What takes a function's place: a name of ours, or what `fusedact.activation` made.
TargetFunction = str | CustomActivation


def names() -> set[str]:
    """The names that functions are found by."""
    return {f.__name__.removeprefix("_").removeprefix("special_") for f in _KNOWN} | {"logsigmoid"}


def known(function: object) -> Known | None:
    """What is known of a function, if it is one of PyTorch's activations."""
    try:
        return _KNOWN.get(function)
    except TypeError:  # it has no hash
        return None


def twin(function: Any) -> Any:
    """Our function in place of one that a module keeps as an attribute; it can be pickled by its name."""
    found = _KNOWN[function]
    made = getattr(functional, found.record)
    return partial(made, inplace=True) if found.inplace else made


def of(target: TargetFunction) -> Any:
    """The function of a name, or the activation itself."""
    return getattr(functional, target) if isinstance(target, str) else target


def shown(target: TargetFunction) -> str:
    """The function of a target as reports show it."""
    return f"FF.{target}" if isinstance(target, str) else target.__name__


def _is_served(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in _SERVED and x.layout is torch.strided and not x.is_nested


def call_of(found: Known, original: Any, target: TargetFunction | None, method: str = "") -> Callable[..., Any]:
    """What is called in place of `original`, or of a tensor's `method`: our twin, or another function of the input."""
    ours = of(found.record if target is None else target)
    if found.inplace:
        ours = partial(ours, inplace=True)
    elif target is not None:
        ours = _other(found, ours)

    def call(*args: Any, **keywords: Any) -> Any:
        x = args[0] if args else keywords.get("input")
        if _is_served(x):
            return ours(*args, **keywords)
        return getattr(x, method)(*args[1:], **keywords) if method else original(*args, **keywords)

    call.spec = registry.get(found.record)  # type: ignore[attr-defined]
    return call


def _other(found: Known, ours: Any) -> Callable[..., Any]:
    """Another function, which gets the input alone, and overwrites it where the one that it replaces would."""
    at = found.positional.index("inplace") if "inplace" in found.positional else None

    def call(*args: Any, **keywords: Any) -> Any:
        x = args[0] if args else keywords["input"]
        inplace = args[at] if at is not None and len(args) > at else keywords.get("inplace", False)
        return ours(x, inplace=True) if inplace else ours(x)

    return call


# ----- products with an activated gate


def product(act: Any, gate: Any, value: Any) -> Any:
    """act(gate) * value, in one pass where that serves."""
    fused = _fused(act, gate)
    if fused is None or not _fit(gate, value):
        return act(gate) * value
    return functional.gated(value, gate, fused[0], **fused[1])


def left_product(value: Any, act: Any, gate: Any) -> Any:
    """value * act(gate), in one pass where that serves."""
    fused = _fused(act, gate)
    if fused is None or not _fit(gate, value):
        return value * act(gate)
    return functional.gated(value, gate, fused[0], **fused[1])


def in_halves(act: Any, both: Any, dim: int, gate_first: bool) -> Any:
    """act(gate) * value, where one tensor holds both along a dimension."""
    fused = _fused(act, both)
    if fused is None or both.dim() == 0 or both.shape[dim] % 2:
        first, second = both.chunk(2, dim)
        return act(first) * second if gate_first else first * act(second)
    layout = "gate_value" if gate_first else "value_gate"
    return functional.packed_glu(both, fused[0], dim, layout=layout, **fused[1])


def _fit(gate: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == gate.shape and value.dtype == gate.dtype


def _fused(act: Any, gate: Any) -> tuple[Any, dict[str, Any]] | None:
    """The activation and its parameters as gated forms take them, where one pass is right, and no slower.

    On the CPU smaller tensors take the two operators anyway, and a compiler sees them.
    """
    if torch.compiler.is_compiling() or compat.tracing() or not _is_served(gate):
        return None
    if gate.is_cpu and gate.numel() < PIECES_FROM:
        return None
    kind = gate.device.type
    if gate.is_meta or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        # Autocast gives some of them another dtype.
        return None
    if isinstance(act, Elementwise):
        return _of_module(act)
    spec = getattr(act, "spec", None)
    if isinstance(act, nn.Module) or not isinstance(spec, registry.ActivationSpec) or spec.kind != "elementwise":
        return None
    return (spec.name if spec.key is None else act), {}


_HOOKS = tuple(k for k in nn.Module().__dict__ if k.endswith(("_forward_hooks", "_pre_hooks", "_backward_hooks")))


def _of_module(act: Any) -> tuple[Any, dict[str, Any]] | None:
    """A module's activation and parameters, if nobody waits for its call, and it does nothing beside."""
    state = act.__dict__
    if act.inplace or act._bounds or act.save != "auto" or any(state[h] for h in _HOOKS):
        return None
    parameters = {p.name: getattr(act, p.name) for p in (*act.spec.parameters, *act.spec.options)}
    if act.spec.learnable:
        parameters["channel_dim"] = act.channel_dim
    return (act.own if act.spec.key else act.spec.name), parameters
