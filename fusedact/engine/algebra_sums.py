"""Rules of sums whose terms have something in common, as the slopes of products and quotients are."""

from __future__ import annotations

from collections import Counter

from .algebra_rules import Rules, either, factors, size
from .expressions import Graph, Node

__all__ = ["RULES"]

RULES = Rules()

# A product: a number, and its other factors.
Term = tuple[float, list[Node]]


@RULES.add("add")
def slope_of_quotient(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """b / d - (a / d / d) b = c b / d / d for d = a + c, and 1 for c if d = |a| + 1 and sign(a) is beside b: no
    difference of what is nearly the same is left of the slopes of a / d."""
    for first, second in either(args):
        if first.op != "div" or first.args[1].op != "add":
            continue
        b, d = first.args
        for u, c in either(d.args):
            if c.op != "constant" or (u.op == "abs" and c.value != 1.0):
                continue
            a, beside = (u.args[0], [graph("sign", u.args[0])]) if u.op == "abs" else (u, [])
            number, found = factors(second)
            wanted, rest = factors(b)
            rest = sorted([*rest, *beside, graph("div", graph("div", a, d), d)], key=lambda n: n.number)
            if number == -wanted and found == rest:
                return graph("mul", graph("div", first, d), c)
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


def _terms(node: Node) -> list[Term]:
    """What a sum is of."""
    if node.op in ("add", "sub"):
        first, second = map(_terms, node.args)
        return first + [(-number, found) for number, found in second] if node.op == "sub" else first + second
    if node.op == "neg":
        return [(-number, found) for number, found in _terms(node.args[0])]
    return [factors(node)]


def _collected(terms: list[Term]) -> list[Term] | None:
    """Terms with what they share added up; None where signs differ, as their sum may be 0, or not a number."""
    found: dict[tuple[Node, ...], float] = {}
    for number, rest in terms:
        key = tuple(rest)
        if found.get(key, number) * number < 0.0:
            return None
        found[key] = found.get(key, 0.0) + number
    return [(number, list(rest)) for rest, number in found.items()]


def _product(graph: Graph, term: Term) -> Node:
    number, found = term
    if not found:
        return graph.constant(number)
    node = found[0]
    for other in found[1:]:
        node = graph("mul", node, other)
    return graph("mul", node, number)


def _sum(graph: Graph, terms: list[Term]) -> Node:
    node = _product(graph, terms[0])
    for term in terms[1:]:
        node = graph("add", node, _product(graph, term))
    return node


def _shorter(graph: Graph, op: str, args: tuple[Node, ...]) -> Node | None:
    """A sum by the factors that all of its terms have, and with like terms added up, if that is shorter."""
    a, b = args
    if not (a.flows and b.flows):
        return None
    terms = _terms(a) + [(-number, found) if op == "sub" else (number, found) for number, found in _terms(b)]
    shared = Counter(terms[0][1])
    for _, found in terms[1:]:
        shared &= Counter(found)
    common = sorted(shared.elements(), key=lambda n: n.number)
    if not common:
        return None
    scale = abs(terms[0][0])
    if any(abs(number) != scale for number, _ in terms):
        scale = 1.0
    inner: list[Term] = []
    for number, found in ((n / scale, f) for n, f in terms):
        rest = sorted((Counter(found) - shared).elements(), key=lambda n: n.number)
        alone = len(rest) == 1 and abs(number) == 1.0
        inner += [(number * more, left) for more, left in _terms(rest[0])] if alone else [(number, rest)]
    collected = _collected(inner)
    if collected is None or len(collected) == len(inner):
        return None
    node = graph("mul", _sum(graph, collected), _product(graph, (scale, common)))
    return node if size(node) < size(a, b) + 1 else None


@RULES.add("add")
def like_terms(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """g (a + 2) + g a = g (2 a + 2), for a gradient g: numbers of one sign alone."""
    return _shorter(graph, "add", args)


@RULES.add("sub")
def like_terms_of_difference(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-g a - g (a + 2) = g (-2 a - 2), and the like."""
    return _shorter(graph, "sub", args)
