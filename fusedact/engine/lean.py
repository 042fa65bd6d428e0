"""Expressions as the CPU path runs them: PyTorch's operators on memory that is used again; see pieces.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cpu.cpu_forms import constant, no_spare
from . import sources
from .expressions import LARGEST, Node, order, varies

__all__ = ["NAMESPACE", "Backward", "Step", "Writer", "compiled", "function_text", "literal"]

# Operations whose operator is not torch's of the same name.
_OPERATORS = {
    **{"max": "torch.maximum", "min": "torch.minimum", "and": "torch.logical_and", "or": "torch.logical_or"},
    **{"exp_nonpositive": "torch.exp", "expm1_nonpositive": "torch.expm1"},
    **{"xor": "torch.logical_xor", "not": "torch.logical_not"},
}


@dataclass
class Step:
    """A node's computation: the call, with places for what it takes, then for the memory of its result."""

    node: Node
    call: str
    takes: list[Node]


class Writer:
    """The body of one function."""

    def __init__(self, results: Sequence[Node], inputs: dict[str, str]) -> None:
        self._inputs = inputs
        self._results = results
        self._uses = _uses(results)
        self._varying = set[Node]()
        for node in order(results):
            if varies(node.name) or not self._varying.isdisjoint(node.args):
                self._varying.add(node)
        self._steps: dict[Node, Step] = {}
        for node in results:
            self._plan(node)

    # ----- what is computed

    def _plan(self, root: Node) -> None:
        """Add the steps of a node, after those of what they take."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self._steps or node.op in ("input", "constant"):
                stack.pop()
                continue
            step = self._step(node)
            missing = [n for n in step.takes if n not in self._steps and n.op not in ("input", "constant")]
            if missing:
                stack.append(missing[0])
                continue
            self._steps[node] = step
            stack.pop()

    def _step(self, node: Node) -> Step:
        op, args = node.op, list(node.args)
        if op == "mul":
            for a, b in (args, args[::-1]):
                found = self._shared(a, b)
                if found is not None:
                    return Step(node, *found)
        if op == "where" and args[0].op == "le" and args[1].op == "constant" and args[1].value == 0.0:
            x, threshold = args[0].args
            if threshold.op == "constant" and self._varies(x) and self._varies(args[2]):
                call = f"threshold_backward({{}}, {{}}, {threshold.value!r}, grad_input={{}})"
                return Step(node, call, [args[2], x])
        if op in ("max", "min") and args[1].op == "constant" and self._varies(args[0]):
            name = "clamp_min" if op == "max" else "clamp_max"
            return Step(node, f"torch.{name}({{}}, {literal(args[1].value)}, out={{}})", args[:1])
        if op == "sech2":
            t = self._made("tanh", args[0])
            return Step(node, *(("one_minus_square({}, out={})", [t]) if t else ("sech_squared({}, out={})", args)))
        if op == "sigmoid_slope":
            factors = [self._with(factor, args[0]) for factor in ("sigmoid", "complement")]
            return Step(node, "torch.mul({}, {}, out={})", factors)
        if op == "complement":
            # Never 1 - s, which is 0 from 17 on: what divides by it, or multiplies it by an exponential, would be lost.
            return Step(node, "one_minus_sigmoid({}, out={})", args)
        if op == "softplus":
            return Step(node, "softplus({}, 1.0, 40.0, out={})", args)
        operator = _OPERATORS.get(op, f"torch.{op}")
        return Step(node, f"{operator}({', '.join(['{}'] * len(args))}, out={{}})", args)

    def _made(self, op: str, argument: Node) -> Node | None:
        """The node of an operation, if it is computed anyhow."""
        return next((n for n in self._uses if n.op == op and n.args[0] is argument), None)

    def _with(self, op: str, argument: Node) -> Node:
        """The node of an operation, which is computed from now on if it was not."""
        node = self._made(op, argument)
        if node is None:
            node = Node(op, (argument,))
            self._uses[node] += 1
            if self._varies(argument):
                self._varying.add(node)
        return node

    def _shared(self, a: Node, b: Node) -> tuple[str, list[Node]] | None:
        """a b in one operator, where b is the derivative of sigmoid or tanh."""
        if self._uses[b] != 1 or not self._varies(a):
            return None
        if b.op == "sech2":
            t = self._made("tanh", b.args[0])
            return ("tanh_backward({}, {}, grad_input={})", [a, t]) if t else None
        if b.op == "sigmoid_slope" and a.flows and self._made("complement", b.args[0]) is None:
            # PyTorch's own, which takes 1 - s as a difference: for gradients alone.
            return "sigmoid_backward({}, {}, grad_input={})", [a, self._with("sigmoid", b.args[0])]
        return None

    def _varies(self, node: Node) -> bool:
        """Whether a node has an element for each of x's, whatever the parameters are."""
        return node in self._varying

    # ----- where it lies

    def lines(self) -> list[str]:
        """The statements, the last of which returns the results."""
        last: dict[Node, int] = {}
        for i, step in enumerate(self._steps.values()):
            for n in step.takes:
                last[n] = i
        held: dict[Node, str] = {}
        free: dict[bool, list[str]] = {False: [], True: []}
        count = {False: 0, True: 0}
        made: list[str] = []
        returned = set(self._results)
        for i, step in enumerate(self._steps.values()):
            taken = [self._operand(n, held) for n in step.takes]
            node = step.node
            varies = self._varies(node)
            for n in dict.fromkeys(step.takes):
                if last[n] == i and n not in returned and held.get(n, "s").startswith(("t", "c")):
                    free[n.boolean].append(held[n])
            if not varies:
                # As many elements as the parameters have.
                held[node] = f"s{len(held)}"
                memory = "None"
            elif node is self._results[0]:
                held[node], memory = "y", "out"
            elif free[node.boolean]:
                held[node] = memory = free[node.boolean].pop()
            else:
                kind = node.boolean
                held[node] = f"{'c' if kind else 't'}{count[kind]}"
                memory = f"spare({count[kind]}{', torch.bool' if kind else ''})"
                count[kind] += 1
            made.append(f"{held[node]} = {step.call.format(*taken, memory)}")
        results = [self._result(i, n, held) for i, n in enumerate(self._results)]
        return [*made, f"return {results[0]}" if len(results) == 1 else f"return {', '.join(results)}"]

    def _operand(self, node: Node, held: dict[Node, str]) -> str:
        if node.op == "constant":
            return f"constant({literal(node.value)}, x.dtype, x.device)"
        return self._inputs[node.name] if node.op == "input" else held[node]

    def _result(self, i: int, node: Node, held: dict[Node, str]) -> str:
        """A result, which has an element for each of x's, the first in `out` if it is given."""
        text = self._operand(node, held)
        if node in self._steps and self._varies(node):
            return text
        return f"filled({text}, x, {'out' if i == 0 else 'None'})"


def _uses(results: Sequence[Node]) -> Counter[Node]:
    """How often each node is taken, by others or as a result."""
    uses: Counter[Node] = Counter(results)
    stack, seen = list(results), set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            uses.update(node.args)
            stack.extend(node.args)
    return uses


def literal(value: float) -> str:
    if abs(value) == LARGEST:
        return f"{'-' if value < 0 else ''}torch.finfo(x.dtype).max"
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def function_text(name: str, inputs: dict[str, str], results: Sequence[Node]) -> str:
    """A function of these inputs that returns these results, the first one in `out`."""
    lines = Writer(results, inputs).lines()
    wrapped = [f"{p} = operand({p}, x)" for key, p in inputs.items() if not varies(key)]
    body = "\n".join(f"    {line}" for line in [*wrapped, *lines])
    return f"def {name}({', '.join([*inputs.values(), 'out=None', 'spare=no_spare'])}):\n{body}\n"


# ----- from text to what runs it

_aten = torch.ops.aten


def _operand(p: float | Tensor, x: Tensor) -> Tensor:
    return p if isinstance(p, Tensor) else constant(p, x.dtype, x.device)


def _filled(value: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
    """A value that does not vary with x, or is an argument itself, as a result of x's shape."""
    return (torch.empty_like(x) if out is None else out).copy_(value)


def _with_memory(operator: Any, argument: str) -> Callable[..., Tensor]:
    """An operator that writes into memory only if it is given, as one that makes its own otherwise."""

    def call(first: Tensor, *args: Any, **keywords: Any) -> Tensor:
        if keywords[argument] is None:
            keywords[argument] = torch.empty_like(first)
        return operator(first, *args, **keywords)

    return call


def _one_minus_square(t: Tensor, out: Tensor | None) -> Tensor:
    return torch.sub(constant(1.0, t.dtype, t.device), torch.mul(t, t), out=out)


def _sech_squared(x: Tensor, out: Tensor | None) -> Tensor:
    return _one_minus_square(torch.tanh(x), out)


def _one_minus_sigmoid(x: Tensor, out: Tensor | None) -> Tensor:
    return torch.sigmoid(torch.neg(x, out=out), out=out)


# What the text of the CPU path calls.
NAMESPACE = {
    "torch": torch,
    "constant": constant,
    "no_spare": no_spare,
    "operand": _operand,
    "filled": _filled,
    "one_minus_square": _one_minus_square,
    "sech_squared": _sech_squared,
    "one_minus_sigmoid": _one_minus_sigmoid,
    "softplus": _with_memory(_aten.softplus.out, "out"),
    "sigmoid_backward": _with_memory(_aten.sigmoid_backward.grad_input, "grad_input"),
    "tanh_backward": _with_memory(_aten.tanh_backward.grad_input, "grad_input"),
    "threshold_backward": _with_memory(_aten.threshold_backward.grad_input, "grad_input"),
}


def compiled(activation: str, name: str, parameters: int, results: Sequence[Node]) -> Callable[..., Any]:
    """The function "forward" or "backward" of an activation, for so many parameters."""
    first = {"x": "x"} if name == "forward" else {"g": "g", "x": "x"}
    inputs = {**first, **{f"p{i}": f"p{i}" for i in range(parameters)}}
    text = function_text(name, inputs, results)
    return sources.run(text, f"<fusedact {activation} {name} {sources.digest(text)}>", dict(NAMESPACE))[name]


class Backward:
    """The gradients that are needed: a function for each choice of them."""

    def __init__(self, activation: str, parameters: int, gradients: Sequence[Node]) -> None:
        self._activation, self._parameters, self._gradients = activation, parameters, gradients
        self._functions: dict[tuple[bool, ...], Callable[..., Any]] = {}

    def __call__(
        self,
        g: Tensor,
        x: Tensor,
        *params: float | Tensor,
        needed: Sequence[bool] | None = None,
        out: Tensor | None = None,
        spare: Callable[..., Tensor | None] = no_spare,
    ) -> tuple[Tensor | None, ...]:
        owed = (True, *[False] * len(params)) if needed is None else tuple(needed)
        function = self._functions.get(owed)
        if function is None:
            results = [node for node, n in zip(self._gradients, owed, strict=True) if n]
            function = self._functions[owed] = compiled(self._activation, "backward", self._parameters, results)
        found = function(g, x, *params, out=out if owed[0] else None, spare=spare)
        rest = iter(found if isinstance(found, tuple) else (found,))
        return tuple(next(rest) if n else None for n in owed)
