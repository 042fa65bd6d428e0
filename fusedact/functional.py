"""Activation functions, one per record of the catalog, and `activate`, which takes a name.

Each is made from its record: signature and docstring are real ones, and functional.pyi shows them to editors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import autograd, describe, eager, ops, registry, shortest
from .checks import check_names
from .engine import sources
from .hosts.affine import linear
from .hosts.biased import bias_act
from .hosts.gating import gated, glu, packed_glu
from .piecewise.piecewise import pwl
from .randomized import rrelu
from .registry import ActivationSpec
from .rowwise.rowwise import log_softmax, softmax, softmax2d, softmin

__all__ = [
    "activate",
    "bias_act",
    "gated",
    "glu",
    "linear",
    "log_softmax",
    "packed_glu",
    "pwl",
    "rrelu",
    "softmax",
    "softmax2d",
    "softmin",
    *registry.names("elementwise"),
]


def activate(x: Tensor, activation: str, *, save: str = "auto", **parameters: Any) -> Tensor:
    """Apply the activation of that name.

    Args:
        x: tensor of any shape, float16, bfloat16, float32 or float64.
        activation: a name out of `fusedact.names()`, or one that another library has for it.
        save: what is kept for backward: a policy that the activation can serve; see `fusedact.save_policy`.
        parameters: of the activation, and its options, by name; the defaults otherwise.

    Returns:
        tensor of x's shape and dtype.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or a policy that the activation does not serve.
        TypeError: for an unknown parameter.

    >>> FF.activate(torch.tensor([-1.0, 2.0]), "relu_sigmoid", threshold=0.5)
    tensor([0.0000, 1.3212])
    """
    spec = registry.get(activation, "fusedact.functional.activate")
    check_names("fusedact.functional.activate", spec, parameters)
    return _functions[spec.name](x, **parameters, save=save)


def _define(spec: ActivationSpec) -> Any:
    """Compile the function's source, so that a call costs what a hand-written one costs."""
    name, x = spec.name, spec.input_name
    values = "".join(f"{p.name}, " for p in spec.parameters)
    options = "".join(f"{o.name}, " for o in spec.options)
    usual = " and ".join(f"{o.name} == {o.default!r}" for o in spec.options)
    record = f"spec if {usual} else chosen({options})" if options else "spec"
    channel, by_name = ("channel_dim", "channel_dim=channel_dim, ") if spec.learnable else ("1", "")
    shortest, called = _shortest(spec)
    # A closure, not globals: Dynamo looks a function's globals up in the module that it names.
    source = [
        "def make(spec, chosen, apply, called, handle_torch_function, has_torch_function_unary):",
        *(f"    {function} = called[{function!r}]" for function in called),
        f"    def {name}({describe.function_signature(spec)}) -> Tensor:",
        f"        if has_torch_function_unary({x}):",
        f"            named = dict({by_name}save=save)",
        f"            return handle_torch_function(function, ({x},), {x}, {values}{options}inplace, **named)",
        *shortest,
        f"        return apply({record}, {x}, ({values}), inplace, {channel}, save)",
        f"    function = {name}",
        "    return function",
    ]
    namespace = {"__name__": __name__, "Tensor": Tensor}
    made = sources.run("\n".join(source), f"<fusedact.functional.{name}>", namespace)["make"]
    chosen = partial(registry.chosen, f"fusedact.functional.{name}", spec)
    function = made(spec, chosen, ops.apply, called, handle_torch_function, has_torch_function_unary)
    function.__qualname__ = name
    function.__doc__ = describe.function_docstring(spec)
    function.spec = spec
    return function


def _shortest(spec: ActivationSpec) -> tuple[list[str], dict[str, Any]]:
    """The lines for small tensors on the CPU where nothing else is asked for; and what they call, by the names there.

    `ops.apply` would do the same, and take as long as the arithmetic.
    """
    x, names = spec.input_name, [p.name for p in spec.parameters]
    given = ", ".join([x, *names])
    asked = ["not inplace", "save == 'auto'"]
    if spec.aten_tensors is not None:
        # An operator whose one parameter is a tensor.
        lines = _guarded([*asked, "channel_dim == 1", f"for_twin_of_tensor({given})"], f"twin({given})")
        return lines, {"twin": spec.aten_tensors, "for_twin_of_tensor": shortest.for_twin_of_tensor}
    asked += [f"type({name}) is float" for name in names]
    learned, called = _of_learned(spec)
    if spec.learnable:
        asked.append("type(channel_dim) is int")
    if spec.refuses is not None:
        asked.append(f"not refuses({', '.join(names)})")
        called["refuses"] = spec.refuses
    if spec.aten is None and spec.lean_backward is not None and not spec.autocast and not spec.options:
        values = "".join(f"{name}, " for name in names)
        call, called["for_one_piece"] = f"of_one_piece(spec, ({values}), {x})", shortest.for_one_piece
        if spec.lean_by_engine:
            # Below dispatch.FORMULA_SMALL.
            call, called["formula"] = f"formula(spec, {x}, ({values}))", eager.formula
        else:
            called["of_one_piece"] = autograd.of_one_piece
        return [*_guarded([*asked, f"for_one_piece({x})"], call), *learned], called
    lines = []
    choices = [(f"{o.name} == {value!r}", registry.get(r)) for o in spec.options for value, r in o.choices.items()]
    for chosen, record in choices or [("", spec)]:
        if record.aten is None or record.autocast:
            continue
        twin = f"twin_{record.name}"
        called |= {twin: record.aten, "for_twin": shortest.for_twin}
        defaults = " and ".join(f"{p} == {value!r}" for p, value in zip(names, spec.usual or (), strict=False))
        short = f"{twin}({x}) if {defaults} else " if defaults else ""
        below = "".join(f", {count}" for count in (record.pieces_from, record.pieces_from_recorded) if count)
        conditions = [*asked, f"for_twin({x}{below})"]
        lines += _guarded([chosen, *conditions] if chosen else conditions, f"{short}{twin}({given})")
    return lines + learned, called


def _of_learned(spec: ActivationSpec) -> tuple[list[str], dict[str, Any]]:
    """The same where parameters are tensors of one element."""
    served = spec.learnable and spec.lean_backward is not None and not spec.lean_by_engine
    if not served or spec.autocast or spec.options:
        return [], {}
    x, names = spec.input_name, [p.name for p in spec.parameters]
    tensors = [p.name for p in spec.parameters if not p.fixed]
    asked = ["not inplace", "save == 'auto'", *(f"type({p.name}) is float" for p in spec.parameters if p.fixed)]
    asked += [f"({' or '.join(f'type({name}) is not float' for name in tensors)})", "type(channel_dim) is int"]
    lines = _guarded(
        [*asked, f"for_learned({', '.join([x, 'channel_dim', *tensors])})"],
        f"of_learned(spec, ({''.join(f'{n}, ' for n in names)}), channel_dim, {x})",
    )
    return lines, {"for_learned": shortest.for_learned, "of_learned": autograd.of_learned}


def _guarded(conditions: list[str], call: str) -> list[str]:
    """The lines that return a call where all conditions hold."""
    return [f"        if {' and '.join(conditions)}:", f"            return {call}"]


# Beside the module's globals, which Dynamo cannot look into.
_functions = {name: _define(registry.get(name)) for name in registry.names("elementwise")}
globals().update(_functions)
_functions |= {f.spec.name: f for f in (pwl, softmax, log_softmax, softmin, softmax2d, rrelu)}
_functions |= {"glu": glu}
