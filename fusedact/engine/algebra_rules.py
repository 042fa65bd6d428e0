"""What the rules of algebra_arithmetic.py and algebra_choices.py are made of."""

from __future__ import annotations

from collections.abc import Callable

from .expressions import Graph, Node

__all__ = ["Rule", "Rules", "either", "equals"]

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
