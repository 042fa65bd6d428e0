"""Expressions of a step as the CPU runs them: PyTorch's operators that write into the tensors that are stepped."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import compat
from ..cpu.cpu_forms import constant
from ..engine import sources
from ..engine.expressions import Node
from ..engine.lean import NAMESPACE, Step, Writer, literal

__all__ = ["SHARED", "compiled", "function_text"]

# From so many elements on PyTorch shares an operator among its threads.
SHARED = 2**15


class _Writer(Writer):
    """The body of a function whose results go into memory of its inputs."""

    def __init__(self, results: Sequence[Node], inputs: dict[str, str], targets: Sequence[int]) -> None:
        self._targets = targets
        super().__init__(results, inputs)

    # ----- what is computed

    def _step(self, node: Node) -> Step:
        if node.op in ("add", "sub"):
            special = self._weighted(node) or self._decayed(node)
            if special is not None:
                return special
            a, b = node.args
            orders = [(a, b)] if node.op == "sub" else [(a, b), (b, a)]
            for whole, term in orders:
                found = self._added(term, "-" if node.op == "sub" else "") if self._varies(whole) else None
                if found is not None:
                    call, takes = found
                    return Step(node, call, [whole, *takes])
        return super()._step(node)

    def _weighted(self, node: Node) -> Step | None:
        """The sum of two tensors, each of them times a number: most averages."""
        (first, (a, kind, _)), (second, (b, other, _)) = map(self._factored, node.args)
        if first is None or second is None or kind or other:
            return None
        sign = "-" if node.op == "sub" else ""
        return Step(node, f"weighted({{}}, {{}}, {first}, {sign}{second}, {{}})", [a, b])

    def _decayed(self, node: Node) -> Step | None:
        """A result x + c (y + d x) that takes the place of x: most decays of weights."""
        at = next((t for r, t in zip(self._results, self._targets, strict=True) if r is node), None)
        for x, term in (node.args,) if node.op == "sub" else (node.args, node.args[::-1]):
            if at is None or x.op != "input" or x.name != f"x{at}":
                continue
            by, (inner, kind, _) = self._factored(term)
            if by is None or kind or inner.op not in ("add", "sub") or self._uses[inner] != 1:
                continue
            for y, part in (inner.args,) if inner.op == "sub" else (inner.args, inner.args[::-1]):
                decay, (what, kind, _) = self._factored(part)
                if decay is not None and not kind and what is x and self._varies(y):
                    signs = ["-" if n.op == "sub" else "" for n in (node, inner)]
                    call = f"decayed({{}}, {{}}, {signs[0]}{by}, {signs[1]}{decay}, {{}})"
                    return Step(node, call, [x, y])
        return None

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
            elif (place := self._place_of_input(i, step, last)) is not None:
                held[node] = memory = place
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

    def _place_of_input(self, i: int, step: Step, last: dict[Node, int]) -> str | None:
        """The input that the i-th step is the last to take, if its memory is free until its own result comes."""
        if step.node.boolean or step.node in self._results:
            return None
        order = list(self._steps)
        for result, target in zip(self._results, self._targets, strict=True):
            taken = next((n for n in step.takes if n.op == "input" and n.name == f"x{target}"), None)
            if taken is None or last[taken] != i or self._results.count(result) > 1:
                continue
            if result in self._steps and self._varies(result) and last[step.node] <= order.index(result):
                return taken.name
        return None


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
    return sources.run(text, f"<fusedact {name} step {sources.digest(text)}>", dict(_NAMESPACE))["step"]


# ----- what the text calls


@cache
def _one(dtype: torch.dtype) -> Tensor:
    return torch.ones(1, dtype=dtype)


def _weighted(a: Tensor, b: Tensor, first: float, second: float, out: Tensor | None) -> Tensor:
    """first a + second b, in one pass: b is its outer product with 1, and `addr` multiplies what it adds to, too."""
    flat = a.is_contiguous() and b.is_contiguous() and (out is None or out is a or out.is_contiguous())
    # `addr` does not look at what it multiplies by zero.
    if not flat or not first or not second or a.shape != b.shape:
        return torch.add(torch.mul(a, constant(first, a.dtype, a.device)), b, alpha=second, out=out)
    column = a.view(-1, 1)
    b = b if b.dim() == 1 else b.view(-1)
    if out is None:
        return torch.addr(column, b, _one(a.dtype), beta=first, alpha=second).view(a.shape)
    target = column if out is a else out.view(-1, 1)
    torch.addr(column, b, _one(a.dtype), beta=first, alpha=second, out=target)
    return out


_fused_sgd = compat.fused_step("sgd")


def _decayed(x: Tensor, y: Tensor, by: float, decay: float, out: Tensor | None) -> Tensor:
    """x + by (y + decay x), where `out` is x in one pass: as PyTorch's fused SGD steps x with the gradient y."""
    flat = out is x and x.is_contiguous() and y.is_contiguous() and x.shape == y.shape
    # It shares among threads what no other operator would.
    alone = x.numel() < SHARED and torch.get_num_threads() > 1
    if _fused_sgd is None or not flat or alone or not decay:
        return torch.add(x, torch.add(y, x, alpha=decay), alpha=by, out=out)
    _fused_sgd([x], [y], [], lr=-by, weight_decay=decay, **_PLAIN)
    return x


_PLAIN: dict[str, Any] = {
    **{"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False},
}
_NAMESPACE = {**NAMESPACE, "weighted": _weighted, "decayed": _decayed}
