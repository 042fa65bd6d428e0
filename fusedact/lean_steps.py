"""Expressions of a step as the CPU runs them: PyTorch's operators that write into the tensors that are stepped."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from . import sources
from .expressions import Node
from .lean import NAMESPACE, Step, Writer, literal

__all__ = ["compiled", "function_text"]


class _Writer(Writer):
    """The body of a function whose results go into memory of its inputs."""

    def __init__(self, results: Sequence[Node], inputs: dict[str, str], targets: Sequence[int]) -> None:
        self._targets = targets
        super().__init__(results, inputs)

    # ----- what is computed

    def _step(self, node: Node) -> Step:
        if node.op in ("add", "sub"):
            a, b = node.args
            orders = [(a, b)] if node.op == "sub" else [(a, b), (b, a)]
            for whole, term in orders:
                found = self._added(term, "-" if node.op == "sub" else "") if self._varies(whole) else None
                if found is not None:
                    call, takes = found
                    return Step(node, call, [whole, *takes])
        return super()._step(node)

    def _added(self, term: Node, sign: str) -> tuple[str, list[Node]] | None:
        """The operator that adds a product or quotient with a number, and what it takes beside."""
        factor, (first, op, second) = self._factored(term)
        if factor is not None and op == "":
            return f"torch.add({{}}, {{}}, alpha={sign}{factor}, out={{}})", [first]
        if op:
            value = f"{sign}{factor or '1.0'}"
            return f"torch.addc{op}({{}}, {{}}, {{}}, value={value}, out={{}})", [first, second]
        return None

    def _factored(self, node: Node) -> tuple[str | None, tuple[Node, str, Node]]:
        """A node as a number times another one, or times the product or quotient of two."""
        if self._uses[node] != 1 or node.op not in ("mul", "div"):
            return None, (node, "", node)
        a, b = node.args
        if node.op == "mul":
            for number, rest in ((a, b), (b, a)):
                if self._is_number(number) and self._varies(rest):
                    inner, parts = self._factored(rest)
                    return self._number(number), parts if inner is None else (rest, "", rest)
        if self._varies(a) and self._varies(b):
            factor, parts = self._factored(a)
            if factor is not None and not parts[1]:
                return factor, (parts[0], node.op, b)
            if node.op == "mul":
                factor, parts = self._factored(b)
                if factor is not None and not parts[1]:
                    return factor, (parts[0], node.op, a)
            return None, (a, node.op, b)
        return None, (node, "", node)

    @staticmethod
    def _is_number(node: Node) -> bool:
        return node.op == "constant" or (node.op == "input" and node.name.startswith("p"))

    @staticmethod
    def _number(node: Node) -> str:
        return f"({literal(node.value)})" if node.op == "constant" else f"n{node.name[1:]}"

    # ----- where it lies

    def lines(self) -> list[str]:
        """The statements."""
        last: dict[Node, int] = {}
        for i, step in enumerate(self._steps.values()):
            for n in step.takes:
                last[n] = i
        input_of = {n.name: n for s in self._steps.values() for n in s.takes if n.op == "input"}
        # Inputs that are results elsewhere keep their values in a copy.
        kept = {
            r.name: f"k{i}"
            for i, (r, t) in enumerate(zip(self._results, self._targets, strict=True))
            if r.op == "input" and self._varies(r) and r.name != f"x{t}"
        }
        made = [f"{copy} = {self._inputs[name]}.clone()" for name, copy in kept.items()]
        held: dict[Node, str] = {}
        free: dict[bool, list[str]] = {False: [], True: []}
        count = {False: 0, True: 0}
        for i, step in enumerate(self._steps.values()):
            node = step.node
            taken = [self._operand(n, held) for n in step.takes]
            for n in dict.fromkeys(step.takes):
                if last[n] == i and n not in self._results and held.get(n, "s").startswith(("t", "c")):
                    free[n.boolean].append(held[n])
            target = next((t for r, t in zip(self._results, self._targets, strict=True) if r is node), None)
            if target is not None and last.get(input_of.get(f"x{target}", node), -1) > i and f"x{target}" in input_of:
                # What it would overwrite is still needed.
                target = None
            if not self._varies(node):
                held[node], memory = f"s{len(held)}", "None"
            elif target is not None:
                held[node] = memory = f"x{target}"
            elif free[node.boolean]:
                held[node] = memory = free[node.boolean].pop()
            else:
                kind = node.boolean
                held[node] = f"{'c' if kind else 't'}{count[kind]}"
                memory = f"spare({count[kind]}{', torch.bool' if kind else ''})"
                count[kind] += 1
            made.append(f"{held[node]} = {step.call.format(*taken, memory)}")
        for result, t in zip(self._results, self._targets, strict=True):
            source = kept.get(result.name) if result.op == "input" else None
            source = source or self._operand(result, held)
            if source != f"x{t}":
                made.append(f"x{t}.copy_({source})")
        return made or ["pass"]


def function_text(values: int, numbers: int, results: Sequence[Node], targets: Sequence[int]) -> str:
    """The function step(x0, x1, ..., numbers, spare)."""
    inputs = {f"x{i}": f"x{i}" for i in range(values)} | {f"p{i}": f"p{i}" for i in range(numbers)}
    lines = ["x = x0"]
    body = _Writer(results, inputs, targets).lines()
    text = "\n".join(body)
    for i in range(numbers):
        if re.search(rf"\bn{i}\b", text):
            lines.append(f"n{i} = numbers[{i}]")
        if re.search(rf"\bp{i}\b", text):
            lines.append(f"p{i} = operand(numbers[{i}], x)")
    whole = "\n".join(f"    {line}" for line in [*lines, *body])
    return f"def step({', '.join(f'x{i}' for i in range(values))}, numbers, spare):\n{whole}\n"


def compiled(
    name: str, values: int, numbers: int, results: Sequence[Node], targets: Sequence[int]
) -> Callable[..., Any]:
    """The function of a rule, for so many tensors and numbers."""
    text = function_text(values, numbers, results, targets)
    return sources.run(text, f"<fusedact {name} step {sources.digest(text)}>", dict(NAMESPACE))["step"]
