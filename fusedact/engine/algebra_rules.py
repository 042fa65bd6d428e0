"""What the rules of algebra_arithmetic.py and algebra_choices.py are made of."""

from __future__ import annotations

from collections.abc import Callable

from .expressions import Graph, Node, order

__all__ = ["DEPTH", "Rule", "Rules", "either", "equals", "factors", "one_plus", "size"]

# What an operation on these arguments becomes; None if the rule does not apply.
Rule = Callable[[Graph, tuple[Node, ...]], Node | None]


class Rules(dict[str, list[Rule]]):
    """By the operation at an expression's root: the rules, tried in order."""

    def add(self, *ops: str) -> Callable[[Rule], Rule]:
        """A decorator of a rule for these operations."""

        def add(rule: Rule) -> Rule:
            for op in ops:
                self.setdefault(op, []).append(rule)
            return rule

        return add


def equals(node: Node, value: float) -> bool:
    """Whether a node is this constant."""
    return node.op == "constant" and node.value == value


def either(args: tuple[Node, ...]) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    """Both orders of two arguments."""
    a, b = args
    return (a, b), (b, a)


def size(*nodes: Node) -> int:
    """How many operations these are made of."""
    return sum(bool(n.args) for n in order(nodes))


def one_plus(node: Node) -> Node | None:
    """u where the node is 1 + u."""
    if node.op == "add":
        for a, b in either(node.args):
            if equals(a, 1.0):
                return b
    return None


# How far down products and sums are taken apart: long ones would take long.
DEPTH = 8


def factors(node: Node, depth: int = DEPTH) -> tuple[float, list[Node]]:
    """What a product is of: the constants' product, and the others in the order of their making."""
    if node.op == "constant":
        return node.value, []
    if depth == 0 or node.op not in ("neg", "mul"):
        return 1.0, [node]
    if node.op == "neg":
        number, found = factors(node.args[0], depth - 1)
        return -number, found
    (one, first), (other, second) = (factors(a, depth - 1) for a in node.args)
    return one * other, sorted(first + second, key=lambda n: n.number)
