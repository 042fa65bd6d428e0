"""The records that describe activations, and the table that holds them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["ActivationSpec", "ParameterSpec", "get", "get_own", "names", "register", "register_own"]


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter of an activation: a number, or a tensor with one element or one per channel, which gets a gradient.

    Without a default it must be given, and is a table.
    """

    name: str
    default: float | None
    doc: str
    # Functions have no default for it; modules begin with it.
    required: bool = False

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default:g}"


@dataclass(frozen=True)
class ActivationSpec:
    """All that the library knows of one elementwise activation; everything else is made from it."""

    # Names: of the function, and of the module class.
    name: str
    module: str
    # Documentation: what it is, the formula, what holds at kinks and infinities, two doctest lines, the source.
    summary: str
    formula: str
    limits: str
    example: str
    reference: str
    # The definition: eager(x, *parameters), plain differentiable PyTorch, for tensors that broadcast with x too.
    eager: Callable[..., Tensor]
    # The device functions' name in kernels/activations.py; `<device>_backward` is beside it.
    device: str
    parameters: tuple[ParameterSpec, ...] = ()
    # "elementwise": function and module are made from this record. "piecewise": they are written out in piecewise.py,
    # and each table has a record of its own, without parameters.
    kind: str = "elementwise"
    # Its module always learns, and takes the arguments of torch.nn.PReLU.
    always_learned: bool = False
    # Autocast converts its arguments to lower precision, as it does for the twin.
    autocast: bool = False
    # Written out for the CPU path where that measures faster than `eager` and its autograd. They may overwrite `out`,
    # which they return if it is given, and what they get from `spare`, an eager.Spare, and nothing else:
    # lean_forward(x, *parameters, out, spare) -> y; lean_backward(g, x, *parameters, needed, out, spare) ->
    # eager.Gradients.
    lean_forward: Callable[..., Tensor] | None = None
    lean_backward: Callable[..., tuple[Tensor | None, ...]] | None = None
    # The exact twin in torch.nn.functional, for numeric parameters: aten(input, *parameters, inplace=False).
    aten: Callable[..., Tensor] | None = None
    # The same for tensors of the input's dtype: aten_tensors(input, *parameters, channel=None).
    aten_tensors: Callable[..., Tensor] | None = None

    # The prepared table of a piecewise-linear activation, which its definitions are bound to: see tables.Table.
    table: Any = None

    # Of an activation of one's own: its first argument's name; how its operator finds it; what makes its device
    # functions before a launch, build(device), and what gives that of second derivatives, if any: see engine.py.
    first: str | None = None
    key: str | None = None
    build: Any = None
    build_double: Any = None

    @property
    def input_name(self) -> str:
        """The first argument's name: the twin's where there is one."""
        return self.first or ("x" if self.aten is None else "input")


_records: dict[str, ActivationSpec] = {}
# Activations of one's own, by key.
_own: dict[str, ActivationSpec] = {}


def register(spec: ActivationSpec) -> ActivationSpec:
    """Add a record.

    Raises:
        ValueError: if the name is taken.
    """
    if spec.name in _records:
        raise ValueError(f"fusedact.registry.register: the name {spec.name!r} is taken")
    _records[spec.name] = spec
    return spec


def register_own(spec: ActivationSpec) -> None:
    """Let operators find an activation of one's own. What has the same key computes the same."""
    assert spec.key is not None
    _own.setdefault(spec.key, spec)


def get_own(key: str) -> ActivationSpec:
    """The activation of one's own with that key.

    Raises:
        RuntimeError: if this process has not used it.
    """
    if key not in _own:
        raise RuntimeError(
            f"fusedact: a graph holds the activation {key!r}, which this process has not defined; import the module "
            "that does, and use it once"
        )
    return _own[key]


def names(kind: str | None = None) -> tuple[str, ...]:
    """The names of all activations, or of those of a kind ("elementwise", "piecewise"), in the catalog's order."""
    return tuple(name for name, spec in _records.items() if kind in (None, spec.kind))


def get(name: str, owner: str = "fusedact.registry.get") -> ActivationSpec:
    """The record of that name; errors begin with `owner`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if there is none, with the nearest names.
    """
    if not isinstance(name, str):
        raise TypeError(f"{owner}: the activation's name must be a string, got {type(name).__name__}")
    try:
        return _records[name]
    except KeyError:
        near = difflib.get_close_matches(name, _records, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(names())}"
        raise ValueError(f"{owner}: no activation is named {name!r}; {hint}") from None
