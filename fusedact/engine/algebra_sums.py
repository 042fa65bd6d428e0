"""Rules of sums whose terms have something in common, as the slopes of products and quotients are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .algebra_rules import DEPTH, Rules, either, factors, size
from .expressions import Graph, Node
from .ranges import Ranges

__all__ = ["RULES"]

RULES = Rules()

# Half of a sum that may be larger is taken: far below what overflows, whatever it is multiplied with.
LARGE = 1e18


@RULES.add("add")
def slope_of_quotient(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """b / d - (a / d / d) b = c b / d / d for d = a + c, and 1 for c if d = |a| + 1 and sign(a) is beside b.

    No difference of what is nearly the same is left of the slopes of a / d.
    """
    for first, second in either(args):
        number, beside = factors(first)
        for quotient in beside:
            if quotient.op == "div" and quotient.args[1].op == "add":
                (b, d), others = quotient.args, [n for n in beside if n is not quotient]
                c = _slopes_differ_by(graph, d, number, [*others, *factors(b)[1]], second)
                if c is not None and factors(b)[0] == 1.0:
                    return graph("mul", graph("div", first, d), c)
    return None


def _slopes_differ_by(graph: Graph, d: Node, number: float, beside: list[Node], second: Node) -> Node | None:
    """The c of the rule above, if the second term is the slope of 1 / d."""
    for u, c in either((d.args[0], d.args[1])):
        if c.op != "constant" or (u.op == "abs" and c.value != 1.0):
            continue
        a, signs = (u.args[0], [graph("sign", u.args[0])]) if u.op == "abs" else (u, [])
        wanted = [*beside, *signs, graph("div", graph("div", a, d), d)]
        found = factors(second)
        if found == (-number, sorted(wanted, key=lambda n: n.number)):
            return c
    return None


@RULES.add("add")
def one_minus_slope_of_tanh(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """b - b sech(a)^2 = b tanh(a)^2, without cancellation."""
    for whole, product in either(args):
        number, rest = factors(whole)
        found, others = factors(product)
        slopes = [n for n in others if n.op == "sech2"]
        if len(slopes) == 1 and number == -found and [n for n in others if n is not slopes[0]] == rest:
            t = graph("tanh", slopes[0].args[0])
            return graph("mul", whole, graph("mul", t, t))
    return None


# ----- terms


@dataclass(frozen=True)
class Term:
    """A product, with a number beside it, as a sum has it."""

    number: float
    product: Node

    @property
    def factors(self) -> tuple[Node, ...]:
        return tuple(factors(self.product)[1])

    def times(self, number: float) -> Term:
        return Term(self.number * number, self.product)


def _terms(node: Node, depth: int = DEPTH) -> list[Term]:
    """What a sum is of."""
    if depth > 0 and node.op in ("add", "sub"):
        first, second = (_terms(a, depth - 1) for a in node.args)
        return first + [term.times(-1.0) for term in second] if node.op == "sub" else first + second
    if depth > 0 and node.op == "neg":
        return [term.times(-1.0) for term in _terms(node.args[0], depth - 1)]
    return [Term(factors(node)[0], node)]


def _without(graph: Graph, product: Node, dropped: Counter[Node], depth: int = DEPTH) -> Node | None:
    """A product without its numbers, and without these factors, else in its own order; None if nothing is left."""
    if product.op == "constant":
        return None
    if depth > 0 and product.op == "neg":
        return _without(graph, product.args[0], dropped, depth - 1)
    if depth > 0 and product.op == "mul":
        a, b = (_without(graph, n, dropped, depth - 1) for n in product.args)
        return graph("mul", a, b) if a is not None and b is not None else a if b is None else b
    if dropped[product] > 0:
        dropped[product] -= 1
        return None
    return product


def _collected(terms: list[Term]) -> dict[tuple[Node, ...], Term] | None:
    """Like terms added up; None where signs differ, as their sum may be 0, or not a number."""
    found: dict[tuple[Node, ...], Term] = {}
    for term in terms:
        before = found.get(term.factors)
        if before is not None and before.number * term.number < 0.0:
            return None
        number = term.number + (0.0 if before is None else before.number)
        found[term.factors] = Term(number, term.product if before is None else before.product)
    return found


def _shorter(graph: Graph, op: str, args: tuple[Node, ...]) -> Node | None:
    """A sum by the factors that all of its terms have, and with like terms added up, if that is shorter."""
    a, b = args
    if not (a.flows and b.flows):
        return None
    terms = _terms(a) + [term.times(-1.0 if op == "sub" else 1.0) for term in _terms(b)]
    shared = Counter(terms[0].factors)
    for term in terms[1:]:
        shared &= Counter(term.factors)
    if not shared:
        return None
    scale = abs(terms[0].number)
    if any(abs(term.number) != scale for term in terms):
        scale = 1.0
    inner: list[Term] = []
    for term in terms:
        rest = _without(graph, term.product, Counter(shared))
        number = term.number / scale
        if rest is None:
            inner.append(Term(number, graph.constant(1.0)))
        elif abs(number) == 1.0:
            inner += [more.times(number) for more in _terms(rest)]
        else:
            inner.append(Term(number, rest))
    collected = _collected(inner)
    if collected is None or len(collected) == len(inner):
        return None
    total = _sum(graph, list(collected.values()))
    largest = max(abs(bound) for bound in (Ranges()(total).low, Ranges()(total).high))
    if largest > LARGE and any(abs(term.number) > 1.0 for term in collected.values()):
        # So that nothing overflows that did not before.
        total = _sum(graph, [term.times(0.5) for term in collected.values()])
        scale *= 2.0
    common = _without(graph, terms[0].product, Counter(terms[0].factors) - shared)
    assert common is not None
    node = graph("mul", total, graph("mul", common, scale))
    return node if size(node) < size(a, b) + 1 else None


def _sum(graph: Graph, terms: list[Term]) -> Node:
    nodes = []
    for term in terms:
        rest = _without(graph, term.product, Counter())
        nodes.append(graph.constant(term.number) if rest is None else graph("mul", rest, term.number))
    total = nodes[0]
    for node in nodes[1:]:
        total = graph("add", total, node)
    return total


@RULES.add("add")
def like_terms(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """g (a + 2) + g a = g (2 a + 2), for a gradient g: numbers of one sign alone."""
    return _shorter(graph, "add", args)


@RULES.add("sub")
def like_terms_of_difference(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-g a - g (a + 2) = g (-2 a - 2), and the like."""
    return _shorter(graph, "sub", args)
