"""From a plain PyTorch function to what runs it: expressions, rewritten, as Triton's text and as the CPU path's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from ..registry import ActivationSpec
from . import algebra, codegen, lean, sources, tracing
from .codegen import Function
from .expressions import Graph, Node

__all__ = ["Program", "completed", "double_backward", "generated", "program"]


@dataclass(frozen=True)
class Program:
    """A function's rewritten expressions, and its parameters' names."""

    function: Callable[..., Any]
    name: str
    parameters: tuple[str, ...]
    value: Node
    # Of x, and of each parameter.
    gradients: tuple[Node, ...]
    # The user's names for what he named.
    names: dict[Node, str]
    # Where the function stands, for the text's head.
    origin: str

    def triton(self) -> str:
        """The module with the device functions `name` and `name_backward`."""
        name = codegen.safe_name(self.name)
        inputs = {"x": ("x", None), **_parameters(self.parameters)}
        formula = f"{self.name}({', '.join(['x', *self.parameters])})"
        n = len(self.parameters)
        forward = Function(
            name,
            f"{formula}.",
            inputs,
            "x, params, precise: tl.constexpr",
            [self.value],
            "{}",
            frozenset({0}),
        )
        backward = Function(
            f"{name}_backward",
            f"Its gradients, from g, that of the value: of x, and elementwise of {_listed(self.parameters)}.",
            {"x": ("x", None), "g": ("g", None), **_parameters(self.parameters)},
            "g, x, params, precise: tl.constexpr",
            self.gradients,
            "{}, (" + "{}, " * n + ")",
            frozenset({0}),
        )
        return codegen.module_text(self.head(), [forward, backward], self.names)

    def head(self) -> str:
        return (
            f"The device functions of {self.name}, written by fusedact from {self.origin}.\n\n"
            "Changes are lost: the file is written anew from the function.\n"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no parameters"


def _parameters(names: Sequence[str], prefix: str = "p", first: int = 0) -> dict[str, tuple[str, str | None]]:
    """Parameters as the text takes them out of a tuple, by names that mean nothing else there."""
    taken = {"x", "g", "ggx", "params", "values", *codegen.RESERVED}
    made: dict[str, tuple[str, str | None]] = {}
    for i, name in enumerate(names):
        shown = name if codegen.usable(name) and not name.startswith("gg_") else f"{prefix}{i}"
        shown = f"gg_{shown}" if prefix == "ggp" else shown
        while shown in taken:
            shown += "_"
        taken.add(shown)
        made[f"{prefix}{i}"] = shown, f"params[{first + i}]"
    return made


def program(function: Callable[..., Any], name: str, parameters: Sequence[str], origin: str) -> Program:
    """Trace a function of x and these parameters, and rewrite it.

    Raises:
        UnsupportedError: if it is no elementwise activation, or is made of something that kernels have not.
    """
    trace = tracing.record(function, name, len(parameters))
    graph = Graph(algebra.rewrite)
    value, *gradients = trace.graph.copied([trace.value, *trace.gradients], graph)
    return Program(function, name, tuple(parameters), value, tuple(gradients), graph.names, origin)


def double_backward(made: Program) -> str | None:
    """The module with the device function `name_double_backward`; None where PyTorch has no second derivative."""
    trace = tracing.record(made.function, made.name, len(made.parameters), order=2)
    if not trace.second:
        return None
    graph = Graph(algebra.rewrite)
    results = trace.graph.copied(trace.second, graph)
    n = len(made.parameters)
    values: dict[str, tuple[str, str | None]] = {
        name: (name, f"values[{i}]") for i, name in ((2, "x"), (1, "g"), (0, "ggx"))
    }
    function = Function(
        f"{codegen.safe_name(made.name)}_double_backward",
        "Gradients of g, x and the parameters, from ggx and gg_*, those of their first gradients.",
        {**values, **_parameters(made.parameters), **_parameters(made.parameters, "ggp", n)},
        "values, params, precise: tl.constexpr",
        results,
        "({}, {}), (" + "{}, " * n + "0.0, " * n + ")",
        frozenset({0, 1}),
    )
    return codegen.module_text(made.head(), [function], graph.names)


# ----- from code to what runs it


def completed(spec: ActivationSpec, made: Program) -> ActivationSpec:
    """The record of an activation with all that its program gives."""
    text = made.triton()
    name, n = f"{codegen.safe_name(made.name)}_{sources.digest(text)}", len(made.parameters)
    return replace(
        spec,
        # By content: one place in a program may define many functions, a closure each time, or another in its turn.
        key=f"{spec.key}:{sources.digest(text)}",
        device=name,
        lean_forward=lean.compiled(made.name, "forward", n, [made.value]),
        lean_backward=lean.Backward(made.name, n, made.gradients),
        lean_by_engine=True,
        build=_Build(name, codegen.safe_name(made.name), text),
        build_double=_BuildDouble(made),
    )


def generated(spec: ActivationSpec) -> ActivationSpec:
    """The record of a built-in, where it has none of its own with kernels and lean forms that the engine writes.

    Its definition is traced when any of them is first needed.
    """
    later, written = _Later(spec), spec
    if not spec.device:
        written = replace(written, device=f"{spec.name}_generated", build=later.build, build_double=later.build_double)
    if spec.lean_forward is None and spec.lean_backward is None:
        written = replace(
            written, lean_forward=later.lean_forward, lean_backward=later.lean_backward, lean_by_engine=True
        )
    return written


class _Later:
    """What `completed` gives, made at the first use of any of it."""

    def __init__(self, spec: ActivationSpec) -> None:
        self._spec = spec

    @cached_property
    def _made(self) -> Program:
        spec = self._spec
        return program(spec.eager, spec.name, [p.name for p in spec.parameters], "its definition in fusedact/eager.py")

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        return lean.compiled(self._spec.name, "forward", len(self._spec.parameters), [self._made.value])

    @cached_property
    def _backward(self) -> lean.Backward:
        return lean.Backward(self._spec.name, len(self._spec.parameters), self._made.gradients)

    @cached_property
    def _build(self) -> _Build:
        return _Build(f"{self._spec.name}_generated", codegen.safe_name(self._spec.name), self._made.triton())

    @cached_property
    def _build_double(self) -> _BuildDouble:
        return _BuildDouble(self._made)

    def lean_forward(self, *args: Any, **keywords: Any) -> Any:
        return self._forward(*args, **keywords)

    def lean_backward(self, *args: Any, **keywords: Any) -> Any:
        return self._backward(*args, **keywords)

    def build(self, device: torch.device) -> None:
        self._build(device)

    def build_double(self) -> Double | None:
        return self._build_double()


class _Build:
    """Makes the device functions of a text, once, and lets the launcher find them."""

    def __init__(self, name: str, function: str, text: str) -> None:
        self._name, self._function, self.text = name, function, text
        self._done = False
        self._lock = threading.Lock()

    def __call__(self, _: torch.device) -> None:
        if self._done:
            return
        with self._lock:
            if not self._done:
                from ..kernels import device_functions

                found = _loaded(self._name, self.text)
                backward = found[f"{self._function}_backward"]
                device_functions.register(self._name, found[self._function], backward=backward)
                self._done = True


class Double(NamedTuple):
    """The device function of second derivatives, and the name by which compiled kernels are kept."""

    function: Any
    name: str


class _BuildDouble:
    """Makes the device function of second derivatives, once; None where PyTorch has none."""

    def __init__(self, made: Program) -> None:
        self._made = made
        self._found: list[Double | None] = []
        self._lock = threading.Lock()

    def __call__(self) -> Double | None:
        with self._lock:
            if not self._found:
                self._found.append(self._build())
            return self._found[0]

    def _build(self) -> Double | None:
        text = double_backward(self._made)
        if text is None:
            return None
        function = f"{codegen.safe_name(self._made.name)}_double_backward"
        name = f"{function}_{sources.digest(text)}"
        return Double(_loaded(name, text)[function], name)


def _loaded(name: str, text: str) -> dict[str, Any]:
    """The names in a module of generated device functions."""
    return sources.run(text, sources.keep(name, text), {"__name__": f"fusedact_generated.{name}"})
