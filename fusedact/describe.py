"""The signatures and docstrings of what is made from a record: its function and its module."""

from __future__ import annotations

import inspect
from typing import Any

from .checks import owner
from .registry import ActivationSpec

__all__ = ["function_docstring", "function_signature", "module_docstring", "module_signature"]

BOUNDS = "Bounds | dict[str, Bounds] | None"
WEIGHT_DECAY = """
Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.
"""


def function_signature(spec: ActivationSpec) -> str:
    """The parameters of a function, as they stand in its definition."""
    parts = [f"{spec.input_name}: Tensor"]
    for p in spec.parameters:
        parts.append(f"{p.name}: float | Tensor" + ("" if p.required else f" = {p.default!r}"))
    parts.append("inplace: bool = False")
    if spec.parameters:
        parts += ["*", "channel_dim: int = 1"]
    return ", ".join(parts)


def function_docstring(spec: ActivationSpec) -> str:
    """The documentation of a function."""
    x = spec.input_name
    params = "".join(
        f"\n    {p.name}: {p.doc}; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient."
        for p in spec.parameters
    )
    channel = (
        f"\n    channel_dim: the dimension of {x} that has C entries, where a parameter has one per channel; -1 for "
        "channels last."
        if spec.parameters
        else ""
    )
    fit = f", or its shape does not fit {x}'s" if spec.parameters else ""
    return f"""{spec.summary}

{spec.formula}

{spec.limits}

Args:
    {x}: tensor of any shape and strides, float16, bfloat16, float32 or float64.{params}
    inplace: overwrite the input.{channel}

Returns:
    tensor of the input's shape, dtype and layout.

Raises:
    TypeError: if an argument has another type or dtype.
    ValueError: if a parameter is on another device{fit}.

{spec.example}

Source: {spec.reference}
"""


def module_signature(spec: ActivationSpec) -> inspect.Signature:
    """The signature of a class: the record's parameters, then torch.nn's `inplace`, then what is ours."""
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

    def make(name: str, default: object, annotation: str, kind: Any = either) -> inspect.Parameter:
        return inspect.Parameter(name, kind, default=default, annotation=annotation)

    arguments = [inspect.Parameter("self", either)]
    factory = [("device", "Any"), ("dtype", "torch.dtype | None")]
    if spec.always_learned:
        arguments += [make("num_parameters", 1, "int"), make("init", spec.parameters[0].default, "float")]
        arguments += [make(name, None, annotation) for name, annotation in factory]
        arguments += [make("channel_dim", 1, "int", keyword), make("bounds", None, BOUNDS, keyword)]
        return inspect.Signature(arguments, return_annotation="None")
    arguments += [make(p.name, p.default, "float") for p in spec.parameters]
    inplace = make("inplace", False, "bool")
    if not spec.parameters:
        return inspect.Signature([*arguments, inplace], return_annotation="None")
    learned = [make("learnable", False, "bool | str | tuple[str, ...]"), make("num_parameters", 1, "int")]
    if spec.aten is not None:
        arguments += [inplace, *(p.replace(kind=keyword) for p in learned)]
    else:
        arguments += [*learned, inplace.replace(kind=keyword)]
    arguments += [make("channel_dim", 1, "int", keyword), make("bounds", None, BOUNDS, keyword)]
    arguments += [make(name, None, annotation, keyword) for name, annotation in factory]
    return inspect.Signature(arguments, return_annotation="None")


def module_docstring(spec: ActivationSpec) -> str:
    """The documentation of a class."""
    learned = ""
    if spec.parameters and not spec.always_learned:
        learned += (
            "    learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become\n"
            "        nn.Parameters.\n"
        )
    if spec.parameters:
        learned += (
            "    num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.\n"
        )
    if spec.always_learned:
        learned += "    init: what it begins with.\n"
    if spec.parameters:
        learned += (
            "    channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.\n"
            "    bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is\n"
            "        clamped to before each forward and in state_dict(), whatever an optimizer does.\n"
            "    device, dtype: of the learnable parameters.\n"
        )
    params = "" if spec.always_learned else "".join(f"    {p.name}: {p.doc}.\n" for p in spec.parameters)
    inplace = "" if spec.always_learned else "    inplace: overwrite the input.\n"
    errors = "    ValueError: if names, counts or bounds do not fit.\n" if spec.parameters else ""
    decay = WEIGHT_DECAY if spec.parameters else ""
    values = "num_parameters=1" if spec.always_learned else ", ".join(f"{p.name}={p.default}" for p in spec.parameters)
    about = "\n\n".join(filter(None, (spec.formula, spec.limits)))
    # One's own is found under a name that this library does not know.
    example = "" if spec.key else f"\n>>> fusedact.{spec.module}()\n{spec.module}({values})\n"
    return f"""{spec.summary} The module of `{owner(spec)}`.

{about}

Args:
{params}{learned}{inplace}
Shape:
    input and output: any shape; the same.
{decay}
Raises:
    TypeError: if an argument has another type.
{errors}{example}
Source: {spec.reference}
"""
