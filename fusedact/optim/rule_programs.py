"""From an update rule's function to what runs it: expressions, those that are the same for all elements, texts."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..engine import algebra, codegen, sources, tracing
from ..engine.expressions import Graph, Node, numeric, order, varies
from ..engine.tracing import UnsupportedError, Words
from . import lean_steps

__all__ = ["Program", "program"]

RULE = Words(
    "fusedact.optim.update_rule",
    "an update rule",
    "a tensor nor a number that the rule takes",
    "what it is given",
    "param",
    "if it is one number, make it a keyword-only argument",
)


class _Recorder(tracing.Recorder):
    """Records a function of several tensors that returns several."""

    def record(
        self, function: Callable[..., Any], values: Sequence[str], numbers: Sequence[str], results: Sequence[str]
    ) -> list[Node]:
        inputs = [self._input(f"x{i}") for i in range(len(values))]
        inputs += [self._input(f"p{i}") for i in range(len(numbers))]

        def call(*tensors: Tensor) -> Any:
            return function(*tensors[: len(values)], **dict(zip(numbers, tensors[len(values) :], strict=True)))

        with torch.no_grad(), self:
            found = self._run(call, inputs, getattr(inspect.unwrap(function), "__code__", None))
            if isinstance(found, Tensor) and len(results) == 1:
                found = (found,)
            wanted = f"{len(results)} tensors ({', '.join(results)})" if len(results) > 1 else "one tensor (param)"
            if not isinstance(found, tuple | list):
                raise self._wrong(wanted, type(found).__name__)
            if len(found) != len(results):
                raise self._wrong(wanted, f"{len(found)}")
            for name, t in zip(results, found, strict=True):
                self._check_returned(t, f"for {name} a tensor")
            return [self._node(t) for t in found]

    def _wrong(self, wanted: str, got: str) -> UnsupportedError:
        return UnsupportedError(f"{self._words.owner}: {self.name} must return {wanted}, got {got}")


@dataclass(frozen=True)
class Program:
    """A rule's expressions.

    Tensors are x0, x1, ...: parameter, gradient, states; what is the same for all elements, p0, p1, ...: the values of
    `uniform`, expressions of the rule's numbers.
    """

    name: str
    values: tuple[str, ...]
    # In order: the parameter, the states.
    results: tuple[Node, ...]
    # The rule's numbers, p0, p1, ... of `uniform`.
    numbers: tuple[str, ...]
    uniform: tuple[Node, ...]
    names: dict[Node, str]
    origin: str

    @property
    def targets(self) -> tuple[int, ...]:
        """By result: the tensor that takes it."""
        return (0, *range(2, len(self.values)))

    @cached_property
    def key(self) -> str:
        """A name that equal programs have."""
        return f"{codegen.safe_name(self.name)}_{sources.digest(self.triton)}"

    # ----- numbers

    def scalars(self, given: Mapping[str, float | Tensor]) -> list[Any]:
        """What is the same for all elements: floats, or, where a number is a tensor, float64 tensors."""
        numbers = [given[name] for name in self.numbers]
        if any(isinstance(n, Tensor) for n in numbers):
            wide = [n.detach().double() if isinstance(n, Tensor) else n for n in numbers]
            device = next(n.device for n in wide if isinstance(n, Tensor))
            return _computed(
                self.uniform,
                [n if isinstance(n, Tensor) else torch.full((), n, dtype=torch.float64, device=device) for n in wide],
                device,
            )
        try:
            return [self._evaluated(node, numbers) for node in self.uniform]
        except (ArithmeticError, ValueError, KeyError):
            tensors = [torch.tensor(n, dtype=torch.float64, device="cpu") for n in numbers]
            return [float(t) for t in _computed(self.uniform, tensors, torch.device("cpu"))]

    def _evaluated(self, node: Node, numbers: Sequence[Any]) -> float:
        if node.op == "input":
            return numbers[int(node.name[1:])]
        if node.op == "constant":
            return node.value
        return _FLOAT[node.op](*(self._evaluated(a, numbers) for a in node.args))

    # ----- Triton

    @cached_property
    def triton(self) -> str:
        """The text of the module with the device function, in the contract of kernels/pointwise.py."""
        taken = {"values", "params", codegen.safe_name(self.name), *codegen.RESERVED}
        inputs: dict[str, tuple[str, str | None]] = {}
        for i, name in enumerate(self.values):
            shown = name if codegen.usable(name) and name not in taken else f"x{i}"
            taken.add(shown)
            inputs[f"x{i}"] = shown, f"values[{i}]"
        for i, node in enumerate(self.uniform):
            wished = self.numbers[int(node.name[1:])] if node.op == "input" else self.names.get(node, "")
            shown = wished if codegen.usable(wished) and wished not in taken else f"number{i}"
            while shown in taken:
                shown += "_"
            taken.add(shown)
            inputs[f"p{i}"] = shown, f"params[{i}]"
        function = codegen.Function(
            codegen.safe_name(self.name),
            f"One step of {self.name}: {', '.join(self.values[i] for i in self.targets)}.",
            inputs,
            "values, params, precise: tl.constexpr",
            self.results,
            f"({', '.join(['{}'] * len(self.results))}{',' if len(self.results) == 1 else ''}), ()",
            frozenset(range(len(self.results))),
        )
        head = (
            f"The step of {self.name}, written by fusedact from {self.origin}.\n\n"
            "Changes are lost: the file is written anew from the function.\n"
        )
        return codegen.module_text(head, [function], self.names)

    @cached_property
    def device_function(self) -> Any:
        """The device function. Importing Triton is the caller's doing."""
        name = f"rule_{self.key}"
        with _building:
            found = _built.get(name)
            if found is None:
                made = sources.run(
                    self.triton, sources.keep(name, self.triton), {"__name__": f"fusedact_generated.{name}"}
                )
                # Equal programs share one function, and with it what is compiled.
                found = _built[name] = made[codegen.safe_name(self.name)]
            return found

    # ----- the CPU

    @cached_property
    def lean(self) -> Callable[..., None]:
        """step(x0, x1, ..., (p0, ...), spare): writes into the tensors that `targets` says; the p are floats."""
        return lean_steps.compiled(self.name, len(self.values), len(self.uniform), self.results, self.targets)


_built: dict[str, Any] = {}
_building = threading.Lock()

_FLOAT: dict[str, Callable[..., float]] = {
    **{"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b},
    **{"neg": lambda a: -a, "abs": abs, "sqrt": math.sqrt, "rsqrt": lambda a: 1 / math.sqrt(a), "exp": math.exp},
    **{"pow": math.pow, "reciprocal": lambda a: 1 / a, "log": math.log, "cos": math.cos, "sin": math.sin},
}


def _computed(nodes: Sequence[Node], numbers: Sequence[Tensor], device: torch.device) -> list[Any]:
    """Expressions of numbers that are float64 tensors."""
    made: dict[Node, Tensor] = {}
    for node in order(nodes):
        if node.op == "input":
            made[node] = numbers[int(node.name[1:])]
        elif node.op == "constant":
            made[node] = torch.full((), node.value, dtype=torch.float64, device=device)
        elif node.op in ("true", "false"):
            made[node] = torch.full((), node.op == "true", device=device)
        else:
            function = numeric(node.op)
            assert function is not None, node.op
            made[node] = function(*(made[a] for a in node.args))
    return [made[n] for n in nodes]


def program(
    function: Callable[..., Any],
    name: str,
    values: Sequence[str],
    numbers: Sequence[str],
    origin: str,
) -> Program:
    """Trace function(*values, **numbers), which returns the new values but for the second, the gradient.

    Raises:
        UnsupportedError: if it is not elementwise, is made of something that kernels have not, or returns otherwise.
    """
    results = [values[0], *values[2:]]

    def run() -> tuple[list[Node], dict[Node, str]]:
        recorders = [_Recorder(name, shape, RULE) for shape in tracing.SHAPES]
        found = [r.record(function, values, numbers, results) for r in recorders]
        both = Graph()
        first, second = (r.graph.copied(nodes, both) for r, nodes in zip(recorders, found, strict=True))
        if first != second:
            raise UnsupportedError(f"{RULE.owner}: {name} {RULE.why('shape')}{RULE.ending}")
        graph = Graph(algebra.rewrite)
        return recorders[0].graph.copied(found[0], graph), graph.names

    made, names = tracing.in_thread(run)
    split, uniform, names = _split(made, names)
    return Program(name, tuple(values), tuple(split), tuple(numbers), tuple(uniform), names, origin)


def _split(nodes: Sequence[Node], names: Mapping[Node, str]) -> tuple[list[Node], list[Node], dict[Node, str]]:
    """Expressions with all that is the same for every element as new inputs, and what these are."""
    varying: set[Node] = set()
    for node in order(nodes):
        if (node.op == "input" and varies(node.name)) or not varying.isdisjoint(node.args):
            varying.add(node)
    graph, uniform = Graph(), list[Node]()
    shown: dict[Node, str] = {}
    made: dict[Node, Node] = {}
    for node in order(nodes, enter=lambda n: n in varying):
        if node in varying:
            arguments = tuple(made[a] for a in node.args)
            made[node] = graph.input(node.name) if node.op == "input" else graph(node.op, *arguments)
        elif node.op in ("constant", "true", "false"):
            made[node] = graph.constant(node.value if node.op == "constant" else node.op == "true")
        else:
            # Numbers reach the kernel as floats.
            made[node] = graph.input(f"p{len(uniform)}")
            if node.boolean:
                made[node] = graph("ne", made[node], 0.0)
            uniform.append(node)
        if node in names:
            shown[made[node]] = names[node]
    shown.update({node: names[node] for node in uniform if node in names})
    return [made[n] for n in nodes], uniform, shown
