"""The signatures and docstrings of what is made from a record: its function and its module."""

from __future__ import annotations

import inspect

from .registry import ActivationSpec

__all__ = ["function_docstring", "function_signature", "module_docstring", "module_signature"]


def function_signature(spec: ActivationSpec) -> str:
    """The parameters of a function, as they stand in its definition."""
    params = "".join(f", {p.name}: float | Tensor = {p.default!r}" for p in spec.parameters)
    return f"{spec.input_name}: Tensor{params}, inplace: bool = False"


def function_docstring(spec: ActivationSpec) -> str:
    """The documentation of a function."""
    params = "".join(
        f"\n    {p.name}: {p.doc}; a number, or a tensor of shape () or (1,), which gets a gradient."
        for p in spec.parameters
    )
    return f"""{spec.summary}

{spec.formula}

{spec.limits}

Args:
    {spec.input_name}: tensor of any shape and strides, float16, bfloat16, float32 or float64.{params}
    inplace: overwrite the input.

Returns:
    tensor of the input's shape, dtype and layout.

Raises:
    TypeError: if an argument has another type or dtype.
    ValueError: if a parameter does not fit.

{spec.example}

Source: {spec.reference}
"""


def module_signature(spec: ActivationSpec) -> inspect.Signature:
    """The signature of a class: the record's parameters, then torch.nn's `inplace`, then what is ours."""
    make, either, keyword = inspect.Parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    arguments = [make("self", either)]
    arguments += [make(p.name, either, default=p.default, annotation="float") for p in spec.parameters]
    inplace = make("inplace", either, default=False, annotation="bool")
    learnable = make("learnable", keyword, default=False, annotation="bool | str | tuple[str, ...]")
    if not spec.parameters:
        arguments.append(inplace)
    elif spec.aten is not None:
        arguments += [inplace, learnable]
    else:
        arguments += [learnable.replace(kind=either), inplace.replace(kind=keyword)]
    if spec.parameters:
        arguments += [
            make("device", keyword, default=None, annotation="Any"),
            make("dtype", keyword, default=None, annotation="torch.dtype | None"),
        ]
    return inspect.Signature(arguments, return_annotation="None")


def module_docstring(spec: ActivationSpec) -> str:
    """The documentation of a class."""
    params = "".join(f"    {p.name}: {p.doc}.\n" for p in spec.parameters)
    if spec.parameters:
        params += (
            "    learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become\n"
            "        nn.Parameters of shape (1,).\n"
            "    device, dtype: of the learnable parameters.\n"
        )
    return f"""{spec.summary} The module of `fusedact.functional.{spec.name}`.

{spec.formula}

{spec.limits}

Args:
{params}    inplace: overwrite the input.

Shape:
    input and output: any shape; the same.

Raises:
    TypeError: if an argument has another type.
    ValueError: if `learnable` names no parameter.

>>> fusedact.{spec.module}()
{spec.module}({", ".join(f"{p.name}={p.default}" for p in spec.parameters)})

Source: {spec.reference}
"""
