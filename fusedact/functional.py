"""Activation functions, one per record of the catalog, and `activate`, which takes a name.

Each is made from its record: signature and docstring are real ones, and functional.pyi shows them to editors.
"""

from __future__ import annotations

import linecache
from functools import partial
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import describe, ops, registry
from .checks import check_names
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


def activate(x: Tensor, activation: str, **parameters: Any) -> Tensor:
    """Apply the activation of that name.

    Args:
        x: tensor of any shape, float16, bfloat16, float32 or float64.
        activation: a name out of `fusedact.names()`, or one that another library has for it.
        parameters: of the activation, and its options, by name; the defaults otherwise.

    Returns:
        tensor of x's shape and dtype.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> FF.activate(torch.tensor([-1.0, 2.0]), "relu_sigmoid", threshold=0.5)
    tensor([0.0000, 1.3212])
    """
    spec = registry.get(activation, "fusedact.functional.activate")
    check_names("fusedact.functional.activate", spec, parameters)
    return _functions[spec.name](x, **parameters)


def _define(spec: ActivationSpec) -> Any:
    """Compile the function's source, so that a call costs what a hand-written one costs."""
    name, x = spec.name, spec.input_name
    values = "".join(f"{p.name}, " for p in spec.parameters)
    options = "".join(f"{o.name}, " for o in spec.options)
    usual = " and ".join(f"{o.name} == {o.default!r}" for o in spec.options)
    record = f"spec if {usual} else chosen({options})" if options else "spec"
    channel, by_name = ("channel_dim", "channel_dim=channel_dim, ") if spec.learnable else ("1", "")
    # A closure, not globals: Dynamo looks a function's globals up in the module that it names.
    source = (
        f"def make(spec, chosen, apply, handle_torch_function, has_torch_function_unary):\n"
        f"    def {name}({describe.function_signature(spec)}) -> Tensor:\n"
        f"        if has_torch_function_unary({x}):\n"
        f"            named = dict({by_name}save=save)\n"
        f"            return handle_torch_function(function, ({x},), {x}, {values}{options}inplace, **named)\n"
        f"        return apply({record}, {x}, ({values}), inplace, {channel}, save)\n"
        f"    function = {name}\n"
        f"    return function\n"
    )
    file = f"<fusedact.functional.{name}>"
    namespace: dict[str, Any] = {"__name__": __name__, "Tensor": Tensor}
    exec(compile(source, file, "exec"), namespace)
    # Tracebacks and inspect.getsource find the text here.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    chosen = partial(registry.chosen, f"fusedact.functional.{name}", spec)
    function = namespace["make"](spec, chosen, ops.apply, handle_torch_function, has_torch_function_unary)
    function.__qualname__ = name
    function.__doc__ = describe.function_docstring(spec)
    function.spec = spec
    return function


# Beside the module's globals, which Dynamo cannot look into.
_functions = {name: _define(registry.get(name)) for name in registry.names("elementwise")}
globals().update(_functions)
_functions |= {f.spec.name: f for f in (pwl, softmax, log_softmax, softmin, softmax2d, rrelu)}
_functions |= {"glu": glu}
