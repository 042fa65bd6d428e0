"""Rules that make an expression cheaper or more accurate, each a law of real numbers; a test proves each.

They keep what PyTorch's own operators give at infinities and NaN, or give the limit where those lose it.
"""

from __future__ import annotations

from . import algebra_arithmetic, algebra_choices, algebra_sums
from .algebra_rules import Rule
from .expressions import Graph, Node

__all__ = ["RULES", "rewrite"]

_PARTS = (algebra_arithmetic.RULES, algebra_choices.RULES, algebra_sums.RULES)
# By the operation at an expression's root: the rules, tried in order.
RULES: dict[str, list[Rule]] = {op: [r for part in _PARTS for r in part.get(op, ())] for part in _PARTS for op in part}


def rewrite(graph: Graph, op: str, args: tuple[Node, ...]) -> Node | None:
    """What an operation becomes; None if no rule applies."""
    for rule in RULES.get(op, ()):
        found = rule(graph, args)
        if found is not None:
            return found
    return None
