"""The records that describe activations, and the table that holds them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

__all__ = [
    "ActivationSpec",
    "Argument",
    "OptionSpec",
    "ParameterSpec",
    "aliases",
    "chosen",
    "get",
    "get_own",
    "names",
    "register",
    "register_own",
]

# Of the activations that have names.
KINDS = ("elementwise", "piecewise", "rowwise", "random", "gated")


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter of an activation: a number, or a tensor with one element or one per channel, which gets a gradient.

    Without a default it must be given, and is a table.
    """

    name: str
    default: float | None
    doc: str
    # Functions have no default for it; modules begin with it, unless they have none either.
    required: bool = False
    required_by_module: bool = False
    # A number only, since the function is constant in it almost everywhere.
    fixed: bool = False

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default:g}"


@dataclass(frozen=True)
class OptionSpec:
    """A choice between records that share their parameters: gelu's approximate="tanh" is the record gelu_tanh."""

    name: str
    default: str
    # The name of the record that each value means.
    choices: dict[str, str]
    doc: str


@dataclass(frozen=True)
class Argument:
    """What a module takes in place of a parameter that it learns."""

    name: str
    default: float
    doc: str


@dataclass(frozen=True, kw_only=True)
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
    reference: str = ""
    # The definition: eager(x, *parameters), plain differentiable PyTorch, for tensors that broadcast with x too.
    eager: Callable[..., Tensor]
    # The device functions' name in kernels/; `<device>_backward` is beside it. Without one they are
    # written by the engine: see `engine.generated`.
    device: str = ""
    parameters: tuple[ParameterSpec, ...] = ()
    options: tuple[OptionSpec, ...] = ()
    # Other names that libraries have for it.
    aliases: tuple[str, ...] = ()
    # Why numbers are no parameters of it; an empty string if they are.
    refuses: Callable[..., str] | None = None
    # "elementwise": function and module are made from this record. "piecewise": they are written out in piecewise.py,
    # and each table has a record of its own, without parameters. "rowwise": in rowwise.py. "random": in randomized.py.
    # "gated": in gating.py. "host": of no activation, but of a form that takes any.
    kind: str = "elementwise"
    # Its module always learns what is not fixed. It takes these arguments in place of the first parameters, which
    # `initial` makes of them and the fixed ones; and, where they are named, these by position.
    always_learned: bool = False
    arguments: tuple[Argument, ...] = ()
    initial: Callable[..., tuple[float, ...]] | None = None
    by_position: tuple[str, ...] = ()
    # Its module takes any other arguments too, and ignores them.
    ignores: bool = False
    # Autocast converts its arguments to lower precision, as it does for the twin.
    autocast: bool = False
    # Written out for the CPU path where that measures faster than `eager` and its autograd. They may overwrite `out`,
    # which they return if it is given, and what they get from `spare`, a cpu_forms.Spare, and nothing else:
    # lean_forward(x, *parameters, out, spare) -> y; lean_backward(g, x, *parameters, needed, out, spare) ->
    # cpu_forms.Gradients.
    lean_forward: Callable[..., Tensor] | None = None
    lean_backward: Callable[..., tuple[Tensor | None, ...]] | None = None
    # lean_halves(*parameters): whether, for these numbers, both take halves as they are and round once in all.
    lean_halves: Callable[..., bool] | None = None
    # PyTorch's function of which this is the twin, by name; and the function itself, for numeric parameters:
    # aten(input, *parameters), and the same in place.
    twin: str = ""
    aten: Callable[..., Tensor] | None = None
    aten_inplace: Callable[..., Tensor] | None = None
    # The twin is a composition of operators, never faster than one kernel.
    composite: bool = False
    # Measured: from so many elements of a CPU tensor on, working in pieces is faster than the twin. 0 for never.
    pieces_from: int = 0
    # The same where autograd records the call, if that is another number.
    pieces_from_recorded: int = 0
    # What torch.compile sees of numeric parameters: the "twin", or the "formula" where a compiler makes more of that.
    compiled: str = "twin"
    # What stands in the place of both in graphs that torch.compile makes, in float32 and halves, where that measures
    # faster: (value(x, *parameters), gradients(g, x, *parameters, needed=...)), see economical.py.
    spelled: tuple[Callable[..., Tensor], Callable[..., tuple[Tensor | None, ...]]] | None = None
    # No kernel can be better than the operator: it serves every size.
    always_aten: bool = False
    # The same for tensors of the input's dtype: aten_tensors(input, *parameters, channel=None).
    aten_tensors: Callable[..., Tensor] | None = None

    # The prepared table of a piecewise-linear activation, which its definitions are bound to: see tables.Table.
    table: Any = None

    # Of an activation of one's own: its first argument's name, and how its operator finds it.
    first: str | None = None
    key: str | None = None
    # Of one that the engine wrote: whether its lean forms, too; what makes its device functions before a launch,
    # build(device), and what gives that of second derivatives, if any: see engine.py.
    lean_by_engine: bool = False
    build: Any = None
    build_double: Any = None

    @property
    def input_name(self) -> str:
        """The first argument's name: the twin's where there is one."""
        return self.first or ("input" if self.twin else "x")

    @cached_property
    def usual(self) -> tuple[float | None, ...] | None:
        """The twin's defaults, if it has them: PyTorch takes as long to read two numbers as to compute with them."""
        return None if any(p.required for p in self.parameters) else tuple(p.default for p in self.parameters)

    @cached_property
    def learnable(self) -> tuple[ParameterSpec, ...]:
        """The parameters that may be tensors, which get gradients."""
        return tuple(p for p in self.parameters if not p.fixed)


_records: dict[str, ActivationSpec] = {}
# The record's name by alias.
_aliases: dict[str, str] = {}
# Activations of one's own, by key.
_own: dict[str, ActivationSpec] = {}


def register(spec: ActivationSpec) -> ActivationSpec:
    """Add a record.

    Raises:
        ValueError: if the name is taken.
    """
    for name in (spec.name, *spec.aliases):
        if name in _records or name in _aliases:
            raise ValueError(f"fusedact.registry.register: the name {name!r} is taken")
    _records[spec.name] = spec
    _aliases.update(dict.fromkeys(spec.aliases, spec.name))
    return spec


def register_own(spec: ActivationSpec) -> None:
    """Let operators find an activation of one's own. What has the same key computes the same."""
    assert spec.key is not None
    _own.setdefault(spec.key, spec)


def chosen(owner: str, spec: ActivationSpec, *values: str) -> ActivationSpec:
    """The record that these values of the options mean; errors begin with `owner`.

    Raises:
        ValueError: if a value is none of the choices.
    """
    for option, value in zip(spec.options, values, strict=True):
        if value not in option.choices:
            accepted = " or ".join(map(repr, option.choices))
            raise ValueError(f"{owner}: {option.name} must be {accepted}, got {value!r}")
        spec = _records[option.choices[value]]
    return spec


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
    """The names of all activations, or of those of a kind, in the catalog's order.

    Args:
        kind: None, "elementwise", "piecewise" (tables), "rowwise" (along a dimension), "random" or "gated".

    Raises:
        ValueError: for another kind.

    >>> fusedact.names("rowwise")
    ('softmax', 'log_softmax', 'softmin', 'softmax2d')
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"fusedact.names: kind must be None, {' or '.join(map(repr, KINDS))}, got {kind!r}")
    return tuple(name for name, spec in _records.items() if kind in (None, spec.kind))


def aliases() -> dict[str, str]:
    """Other names of activations, with those of their records."""
    return dict(_aliases)


def get(name: str, owner: str = "fusedact.registry.get") -> ActivationSpec:
    """The record of that name or alias; errors begin with `owner`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if there is none, with the nearest names.
    """
    if not isinstance(name, str):
        raise TypeError(f"{owner}: the activation's name must be a string, got {type(name).__name__}")
    try:
        return _records[_aliases.get(name, name)]
    except KeyError:
        near = difflib.get_close_matches(name, [*_records, *_aliases], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(names())}"
        raise ValueError(f"{owner}: no activation is named {name!r}; {hint}") from None
