"""What is said of a record: signatures and docstrings of its function and module, and the lines of the catalogue."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import torch
from torch import Tensor

from . import registry
from .checks import SHAPES, owner
from .registry import ActivationSpec, OptionSpec
from .saving import saving

__all__ = [
    "function_docstring",
    "function_signature",
    "indented",
    "kept",
    "kernel",
    "module_docstring",
    "module_signature",
    "parameters",
    "source",
    "twin",
]

BOUNDS = "Bounds | dict[str, Bounds] | None"
WEIGHT_DECAY = """
Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.
"""


def function_signature(spec: ActivationSpec) -> str:
    """The parameters of a function, as they stand in its definition."""
    parts = [f"{spec.input_name}: Tensor"]
    for p in spec.parameters:
        kind = "float" if p.fixed else "float | Tensor"
        parts.append(f"{p.name}: {kind}" + ("" if p.required else f" = {p.default!r}"))
    parts += [f"{o.name}: str = {o.default!r}" for o in spec.options]
    parts += ["inplace: bool = False", "*"]
    if spec.learnable:
        parts.append("channel_dim: int = 1")
    parts.append("save: str = 'auto'")
    return ", ".join(parts)


def function_docstring(spec: ActivationSpec) -> str:
    """The documentation of a function."""
    x = spec.input_name
    params = "".join(
        f"\n    {p.name}: {p.doc}; a number"
        + ("." if p.fixed else f", or a tensor of {SHAPES}, which gets a gradient.")
        for p in spec.parameters
    )
    params += "".join(f"\n    {o.name}: {o.doc}; {_accepted(o)}." for o in spec.options)
    channel = (
        f"\n    channel_dim: the dimension of {x} that has C entries, where a parameter has one per channel; -1 for "
        "channels last."
        if spec.learnable
        else ""
    )
    saved = f"\n    save: {_saving(spec)}"
    wrong = ["a parameter is on another device, or its shape does not fit " + x + "'s"] if spec.learnable else []
    wrong += ["a number is not accepted"] if spec.refuses else []
    wrong += ["an option has another value"] if spec.options else []
    wrong += ["save is none of these"]
    raises = f"\n    ValueError: if {', or '.join(wrong)}."
    return f"""{spec.summary}

{indented(spec.formula)}

{spec.limits}

Args:
    {x}: tensor of any shape and strides, float16, bfloat16, float32 or float64.{params}
    inplace: overwrite the input.{channel}{saved}

Returns:
    tensor of the input's shape, dtype and layout.

Raises:
    TypeError: if an argument has another type or dtype.{raises}

{spec.example}

Source: {source(spec)}
"""


def source(spec: ActivationSpec) -> str:
    """Where it comes from: PyTorch's twin first."""
    told = "; ".join(filter(None, (spec.twin, spec.reference)))
    return told or (f"torch.{spec.aten.__name__}" if spec.aten else "")


def indented(formula: str) -> str:
    """A formula as it stands in docstrings."""
    return textwrap.indent(formula, "    ")


def _saving(spec: ActivationSpec) -> str:
    """What an argument `save` may be."""
    known = saving.accepted(spec)
    return f"what is kept for backward: {', '.join(map(repr, known))}; see `fusedact.save_policy`."


def _accepted(option: OptionSpec) -> str:
    return " or ".join(map(repr, option.choices))


def module_signature(spec: ActivationSpec) -> inspect.Signature:
    """The signature of a class: the record's parameters, then torch.nn's `inplace`, then what is ours."""
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    made: dict[str, inspect.Parameter] = {}

    def add(name: str, default: object, annotation: str, kind: Any = either) -> None:
        made[name] = inspect.Parameter(name, kind, default=default, annotation=annotation)

    for a in spec.arguments:
        add(a.name, a.default, "float")
    for p in spec.parameters[len(spec.arguments) :]:
        add(p.name, inspect.Parameter.empty if p.required_by_module else p.default, "float")
    for o in spec.options:
        add(o.name, o.default, "str")
    if spec.learnable:
        # PyTorch has `inplace` by position; what has no twin learns by position, too.
        ours = keyword if spec.twin else either
        if spec.twin and not spec.always_learned:
            add("inplace", False, "bool")
        if not spec.always_learned:
            add("learnable", False, "bool | str | tuple[str, ...]", ours)
        add("num_parameters", 1, "int", keyword if spec.always_learned else ours)
        if not spec.twin or spec.always_learned:
            add("inplace", False, "bool", keyword)
        add("channel_dim", 1, "int", keyword)
        add("bounds", None, BOUNDS, keyword)
        add("device", None, "Any", keyword)
        add("dtype", None, "torch.dtype | None", keyword)
    elif spec.ignores:
        add("args", inspect.Parameter.empty, "Any", inspect.Parameter.VAR_POSITIONAL)
        add("inplace", False, "bool", keyword)
        add("kwargs", inspect.Parameter.empty, "Any", inspect.Parameter.VAR_KEYWORD)
    else:
        add("inplace", False, "bool")
    kwargs = made.pop("kwargs", None)
    add("save", "auto", "str", keyword)
    made |= {"kwargs": kwargs} if kwargs else {}
    first = [made.pop(name).replace(kind=either) for name in spec.by_position]
    rest = [p.replace(kind=keyword) if first else p for p in made.values()]
    return inspect.Signature([inspect.Parameter("self", either), *first, *rest], return_annotation="None")


def module_docstring(spec: ActivationSpec) -> str:
    """The documentation of a class."""
    arguments = {a.name: f"{a.doc}." for a in spec.arguments}
    arguments |= {p.name: f"{p.doc}." for p in spec.parameters[len(spec.arguments) :]}
    arguments |= {o.name: f"{o.doc}; {_accepted(o)}." for o in spec.options}
    if spec.learnable:
        one = "all of these" if spec.always_learned else "all for which the function is not constant"
        arguments |= {
            "learnable": f"False, True ({one}), a parameter's name, or a tuple of names: these become\n        "
            "nn.Parameters.",
            "num_parameters": "how many entries a learnable parameter has: 1 for all channels, or one per channel.",
            "channel_dim": "the input's dimension that has num_parameters entries; -1 for channels last.",
            "bounds": "(low, high), None for no bound, or a dict of them by name: what a learnable parameter is\n"
            "        clamped to before each forward and in state_dict(), whatever an optimizer does.",
            "device": "of the learnable parameters.",
            "dtype": "of the learnable parameters.",
        }
    kept = ", of which a copy is kept where a parameter learns" if spec.learnable else ""
    arguments |= {"inplace": f"overwrite the input{kept}.", "save": _saving(spec)}
    if spec.ignores:
        arguments |= {"args": "ignored.", "kwargs": "ignored."}
    signature = module_signature(spec).parameters
    listed = "".join(f"    {name}: {arguments[name]}\n" for name in signature if name != "self")
    errors = "    ValueError: if names, counts, numbers or bounds do not fit.\n" if spec.parameters else ""
    errors = errors or "    ValueError: if save is none of these.\n"
    decay = WEIGHT_DECAY if spec.learnable else ""
    # What is said of an activation of one's own is no formula alone.
    about = "\n\n".join(filter(None, (spec.formula if spec.key else indented(spec.formula), spec.limits)))
    example = "" if spec.key else f"\n{_module_example(spec)}\n"
    return f"""{spec.summary} The module of `{owner(spec)}`.

{about}

Args:
{listed}
Shape:
    input and output: any shape; the same.
{decay}
Raises:
    TypeError: if an argument has another type.
{errors}{example}
Source: {source(spec)}
"""


def _module_example(spec: ActivationSpec) -> str:
    """How a module is made and shows itself. One's own is found under a name that this library does not know."""
    given = ", ".join(f"{p.default:g}" for p in spec.parameters if p.required_by_module)
    if spec.always_learned:
        shown = [f"{p.name}={p.default}" for p in spec.parameters if p.fixed] + ["num_parameters=1"]
    else:
        shown = [f"{p.name}={p.default}" for p in spec.parameters]
    shown += [f"{o.name}={o.default!r}" for o in spec.options]
    return f">>> fusedact.{spec.module}({given})\n{spec.module}({', '.join(shown)})"


# ----- the catalogue


def parameters(spec: ActivationSpec) -> list[tuple[str, bool]]:
    """Parameters with their defaults, and whether they may be tensors, which learn; then options."""
    return [(str(p), not p.fixed) for p in spec.parameters] + [(f"{o.name}={o.default!r}", False) for o in spec.options]


def twin(spec: ActivationSpec) -> str:
    """PyTorch's function of which it is the twin, as people abbreviate it, with what selects it."""
    short = spec.twin.replace("torch.nn.functional.", "F.").replace("torch.nn.", "nn.")
    for other in map(registry.get, registry.names()):
        for o in other.options:
            short += "".join(f"({o.name}={v!r})" for v, n in o.choices.items() if n == spec.name != other.name)
    return short


def kernel(spec: ActivationSpec) -> str:
    """Who wrote its device functions: "hand-written" or "generated"; "none" where PyTorch's operator always serves."""
    if spec.always_aten:
        return "none"
    return "hand-written" if spec.build is None else "generated"


KEPT = (
    "x is the input, y the output. Kernels and the CPU's pieces keep x, unless `save` says otherwise; PyTorch's own "
    "operator keeps what stands after a semicolon, where it serves the call, and so do kernels of relu, and of sigmoid "
    "and tanh in float32; plain operators, which run what is generated on small CPU tensors, keep more."
)


def kept(spec: ActivationSpec) -> tuple[str, str]:
    """What of the input's size is kept for backward: by kernels and pieces, and by PyTorch's operator if it has one.

    Ours keep the input and nothing else. PyTorch's operator is asked.
    """
    if spec.kind == "rowwise":
        return "y", "y"
    if spec.aten is None:
        return "x", ""
    found: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        found.append(t)
        return t

    # Begins nothing by itself: autograd wants an input that an operator made.
    x = torch.linspace(-2.0, 2.0, 8, device="cpu", requires_grad=True) * 1.0
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = spec.aten(x, *(p.default for p in spec.parameters))
    known = {x.data_ptr(): "x", y.data_ptr(): "y"}
    names = ", ".join(known.get(p, "a buffer") for p in dict.fromkeys(t.data_ptr() for t in found)) or "nothing"
    return names if spec.always_aten else "x", names
