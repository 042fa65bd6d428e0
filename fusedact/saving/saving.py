"""What a call keeps for its backward: the policies, and what an activation and its parameters allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import compat
from ..checks import owner
from ..registry import ActivationSpec
from .saved_forms import SAVED, SavedForm

__all__ = [
    "POLICIES",
    "Plan",
    "accepted",
    "bounded",
    "by_default",
    "check_policy",
    "check_save",
    "in_force",
    "operator_keeps",
    "plan",
    "plan_of_random",
    "plan_of_rows",
    "save_policy",
]

POLICIES = ("auto", "input", "output", "bits")


@dataclass(frozen=True)
class TwoSlopes:
    """An activation that has two slopes and no others: where the bit is 0, and where it is 1; and what tells them.

    `mask(x, *parameters)` is true where the second holds.
    """

    pair: tuple[float, float]
    mask: Callable[..., Tensor]


def _bent(x: Tensor, *_: float) -> Tensor:
    return x > 0


def _between(x: Tensor, low: float, high: float) -> Tensor:
    # As PyTorch has it, a NaN is between.
    return ((x <= low) | (x >= high)).logical_not_()


def _beyond(x: Tensor, lambd: float) -> Tensor:
    return ((x >= -lambd) & (x <= lambd)).logical_not_()


def _past(x: Tensor, threshold: float = 0.0, *_: float) -> Tensor:
    return (x <= threshold).logical_not_()


def _relu(mask: Callable[..., Tensor]) -> Callable[..., TwoSlopes]:
    return lambda *_: TwoSlopes((0.0, 1.0), mask)


# Activations of two slopes, by name, from their parameters.
TWO_SLOPES: dict[str, Callable[..., TwoSlopes]] = {
    "relu": _relu(_past),
    "relu6": _relu(lambda x: _between(x, 0.0, 6.0)),
    "leaky_relu": lambda slope: TwoSlopes((slope, 1.0), _bent),
    "prelu": lambda weight: TwoSlopes((weight, 1.0), _bent),
    "hardtanh": _relu(_between),
    "hardsigmoid": lambda: TwoSlopes((0.0, 1.0 / 6.0), lambda x: (x > -3.0) & (x < 3.0)),
    "hardshrink": _relu(_beyond),
    "softshrink": _relu(_beyond),
    "threshold": _relu(_past),
}


@dataclass(frozen=True, eq=False)
class Segments:
    """A piecewise-linear function of one table: the number of a segment in `width` bits tells the slope."""

    width: int
    # Where segments end, and the slope of each.
    ends: Tensor
    slopes: Tensor

    def code(self, x: Tensor) -> Tensor:
        """The segment of each element, in uint8; a NaN counts to the first."""
        return torch.bucketize(x.contiguous(), self.ends, out_int32=True).mul_(x == x).to(torch.uint8)

    def sloped(self, g: Tensor, code: Tensor) -> Tensor:
        """g times the slope of each segment."""
        return g * self.slopes[code.long()]


# The entries of a table's row before its ends: see kernels/piecewise.py.
HEADER = 8
# Of a table with more segments a number takes two bytes, as much as a half.
MOST_SEGMENTS = 256


# What is tried in turn where a policy is wanted; after these, the input is kept.
_TRIED = {"output": ("output", "bits"), "bits": ("bits", "output"), "input": (), "auto": ()}

# What PyTorch's operators keep, where it is not the input alone.
_OPERATOR_KEEPS = {
    **{"relu": "output", "sigmoid": "output", "tanh": "output", "identity": "nothing"},
    **{"logsigmoid": "input and a buffer", "softsign": "input and a buffer", "tanhshrink": "a buffer"},
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "softmax2d"), "output"),
    "rrelu": "input and slopes",
}


Bounds = dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Plan:
    """What one call keeps: "input", "output", "bits" or both of the first; and why."""

    policy: str
    reason: str
    # Of the output, and perhaps a bit; or the slopes that a bit tells.
    form: SavedForm | None = None
    slopes: TwoSlopes | None = None
    segments: Segments | None = None

    @property
    def replaces_input(self) -> bool:
        """Whether something else than the input is kept."""
        return self.policy in ("output", "bits")

    @property
    def width(self) -> int:
        """The bits of an element, where any are kept."""
        return 1 if self.segments is None else self.segments.width

    @property
    def packed(self) -> bool:
        """Whether bits are kept."""
        return self.policy == "bits" or (self.form is not None and self.form.bits)

    @property
    def keeps(self) -> str:
        """In words."""
        if self.policy == "bits":
            return "bits"
        return "output and bits" if self.packed else self.policy


policy_var: ContextVar[str] = ContextVar("fusedact_save_policy", default="auto")
# Between what parameters of the call under way are kept, by name.
_bounds: ContextVar[Bounds | None] = ContextVar("fusedact_bounds", default=None)


def check_policy(owner: str, argument: str, policy: object, known: Sequence[str] = POLICIES) -> None:
    """Raise ValueError unless it is one of the policies."""
    if not isinstance(policy, str) or policy not in known:
        raise ValueError(f"{owner}: {argument} must be one of {', '.join(map(repr, known))}, got {policy!r}")


@contextmanager
def save_policy(policy: str) -> Iterator[None]:
    """What activations keep for their backward in a `with` block, where a call or module does not say so itself.

    Args:
        policy: "auto" keeps what PyTorch keeps or less, and is as accurate. "input" keeps the input. "output" keeps
            the output, which costs nothing where the next layer keeps it too, with a bit per element where two inputs
            share an output; changing it in place is an error then, as after torch.relu. "bits" keeps a bit per element
            and no tensor, where the derivative has two values. An activation or parameters that do not allow it take
            the next best: the other of "output" and "bits", or the input. `fusedact.explain` tells what, and why.

    Raises:
        ValueError: for another policy.

    >>> with fusedact.save_policy("output"):
    ...     y = FF.elu(torch.ones(2, requires_grad=True))
    """
    check_policy("fusedact.save_policy", "policy", policy)
    token = policy_var.set(policy)
    try:
        yield
    finally:
        policy_var.reset(token)


@contextmanager
def bounded(bounds: Bounds) -> Iterator[None]:
    """Tells the call inside between what its parameters are kept, which may be tensors on a device."""
    token = _bounds.set(bounds)
    try:
        yield
    finally:
        _bounds.reset(token)


def in_force() -> str:
    """The policy of the block around."""
    # Dynamo cannot read the variable, and a compiler decides itself what to keep.
    return "auto" if is_compiling() else policy_var.get()


def accepted(spec: ActivationSpec) -> tuple[str, ...]:
    """The policies that an activation can serve, for some parameters at least."""
    if spec.always_aten:
        return POLICIES
    return tuple(p for p in POLICIES if p in ("auto", "input") or _offers(spec, p))


def _offers(spec: ActivationSpec, policy: str) -> bool:
    if spec.kind in ("piecewise", "rowwise"):
        return policy == ("bits" if spec.kind == "piecewise" else "output")
    if spec.kind == "random":
        return True
    if spec.kind != "elementwise" or spec.key is not None:
        return False
    return spec.name in (SAVED if policy == "output" else TWO_SLOPES)


def check_save(name: str, spec: ActivationSpec, policy: object) -> None:
    """Raise ValueError unless it is a policy that the activation can serve; an empty name means its function's."""
    check_policy(name or owner(spec), "save", policy, accepted(spec))


def by_default(spec: ActivationSpec, dtype: torch.dtype) -> bool:
    """Whether kernels keep the output where nothing is said: where PyTorch does, and they lose nothing by it.

    From a half that was rounded to 1, the slope of sigmoid and tanh is 0.
    """
    if _OPERATOR_KEEPS.get(spec.name) != "output" or spec.kind != "elementwise" or spec.key is not None:
        return False
    return spec.name == "relu" or dtype == torch.float32


def operator_keeps(spec: ActivationSpec) -> str:
    """What PyTorch's operator keeps for backward, for numbers."""
    return _OPERATOR_KEEPS.get(spec.name, "input")


_INPUT_WANTED = Plan("input", "it is what was asked for")
_NOTHING = Plan("nothing", "its gradient is that of its output")
_INPUT_AUTO = Plan("input", "by default only what is as accurate replaces it")


def plan(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], numbers: bool, policy: str) -> Plan:
    """What a call keeps under a policy; `numbers`: no parameter is a tensor."""
    if spec.always_aten:
        return _NOTHING
    if policy == "input":
        return _INPUT_WANTED
    if policy == "auto":
        if not by_default(spec, x.dtype):
            return _INPUT_AUTO
        policy = "output"
    if spec.table is not None:
        return _plan_for_table(spec.table)
    if numbers:
        return _plan(spec.name if len(accepted(spec)) > 2 else "", policy, *params)
    return _plan_for_tensors(spec, x, params, policy)


def _output(form: SavedForm) -> Plan:
    told = " and a bit per element" if form.bits else ""
    return Plan("output", f"the gradient is a function of the output{told}", form=form)


@lru_cache(maxsize=1024)
def _plan(name: str, policy: str, *params: float) -> Plan:
    """The plan for numbers; no name is that of an activation without forms."""
    why = "its gradient is made from the input alone"
    for p in _TRIED[policy] if name else ():
        if p == "bits" and name in TWO_SLOPES:
            return Plan("bits", "a bit tells which of its two slopes an element has", slopes=TWO_SLOPES[name](*params))
        if p == "output" and name in SAVED:
            form = SAVED[name]
            refused = form.safe(*params)
            if not refused:
                return _output(form)
            why = refused
    return Plan("input", why)


_ROWS = Plan("output", "the gradient is a function of the output")
_ROWS_LEARNED = Plan("output and input", "the gradient of the temperature is a function of both")


def plan_of_rows(policy: str, learned: bool) -> Plan:
    """What softmax and its kin keep beside a mask; `learned`: the temperature gets a gradient."""
    if policy == "input":
        return _INPUT_WANTED
    return _ROWS_LEARNED if learned else _ROWS


_SIGNS = Plan("output", "its sign tells which elements have a slope, which a seed makes again")
_SIGN_BITS = Plan("bits", "a bit tells which elements have a slope, which a seed makes again")


def plan_of_random(policy: str, lower: float) -> Plan:
    """What rrelu keeps beside its seed, for a policy that is not "auto"; `lower` is the least slope.

    Below 0 it gives outputs of both signs.
    """
    if policy == "input":
        return _INPUT_WANTED
    return _SIGNS if policy == "output" and lower >= 0.0 else _SIGN_BITS


def _plan_for_table(table: Any) -> Plan:
    """The plan of a piecewise-linear function."""
    if table.channel_dim is not None:
        return Plan("input", "each channel has a table of its own")
    count = table.count + 1
    if count > MOST_SEGMENTS:
        return Plan("input", f"the number of one of {count} segments takes as much as a half")
    width = next(w for w in (1, 2, 4, 8) if count <= 2**w)
    # The row as kernels/piecewise.py has it: a header, then the ends, then the slopes.
    ends, slopes = table.data[0, HEADER:], table.data[0, HEADER + table.size :]
    segments = Segments(width, ends[: table.count], slopes[:count])
    told = f"the number of its segment tells an element's slope, in {width} bit{'s' * (width > 1)}"
    return Plan("bits", told, segments=segments)


def _plan_for_tensors(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], policy: str) -> Plan:
    """The plan where a parameter is a tensor: it is looked at where that makes nobody wait."""
    form = SAVED.get(spec.name) if _offers(spec, "output") else None
    if form is None:
        return Plan("input", "its gradient is made from the input alone, where a parameter is a tensor")
    if form.bits:
        return Plan("input", form.tensors)
    bounds = _bounds.get() or {}
    looked_at = x.is_cpu and not compat.dispatch_mode_active()
    ends: list[tuple[float, float]] = []
    for p, value in zip(spec.parameters, params, strict=True):
        if not isinstance(value, Tensor):
            ends.append((value, value))
        elif p.name in bounds:
            low, high = bounds[p.name]
            ends.append((-math.inf if low is None else low, math.inf if high is None else high))
        elif looked_at and compat.holds_numbers(value) and value.numel():
            ends.append(tuple(torch.stack(value.detach().aminmax()).tolist()))
        elif form.tensors:
            return Plan("input", form.tensors)
        else:
            # Any value will do; the others may depend on it no more than on the usual one.
            ends.append((p.default or 0.0, p.default or 0.0))
    for end in (0, 1):
        refused = form.safe(*(pair[end] for pair in ends))
        if refused:
            return Plan("input", refused)
    return _output(form)
