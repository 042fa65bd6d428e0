"""Rules of choices and conditions: gradients that a choice lets through, and what a condition says of its branches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .algebra_rules import Rules, either, equals, size
from .expressions import Graph, Node, order

__all__ = ["RULES"]

RULES = Rules()


# ----- gradients that a choice lets through: 0 on one side
#
# PyTorch multiplies that 0 by slopes that may be infinite there, or NaN, and gets NaN. Here the choice comes last,
# which gives the limit. Only for gradients: the NaN of a value must remain.


OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}


def _gate(node: Node, flows: bool = False) -> bool:
    """Whether a node is a gradient on one side of a choice and 0 on the other; or a factor of one that flows."""
    return node.op == "where" and (node.flows or flows) and (equals(node.args[1], 0.0) or equals(node.args[2], 0.0))


def _through(graph: Graph, gate: Node, function: Callable[[Node], Node]) -> Node:
    """A gate with a function, linear in the gradient, of its other side."""
    condition, a, b = gate.args
    if equals(a, 0.0):
        return graph("where", condition, a, function(b))
    return graph("where", condition, function(a), b)


def _compared(condition: Node) -> list[Node]:
    """The numbers that a condition compares, but constants."""
    inside = list(order([condition], enter=lambda n: n.boolean))
    return [n for n in inside if not n.boolean and n.op != "constant"]


def _hands_nan_on(node: Node, of: Node) -> bool:
    """Whether a node is NaN where another one is, which it is made of by arithmetic alone."""
    handing: set[Node] = set()
    for n in order([node]):
        arithmetic = not n.boolean and n.op not in ("where", "fmax", "fmin", "pow", "sign")
        if n is of or (arithmetic and any(a in handing for a in n.args)):
            handing.add(n)
    return node in handing


def _with_factor(graph: Graph, gate: Node, factor: Node, function: Callable[[Node], Node]) -> Node | None:
    """A gate of a product or a quotient. Where PyTorch multiplies the 0 by a compared number's NaN, NaN remains."""
    condition, a, _ = gate.args
    compared = _compared(condition)
    if equals(a, 0.0) or set(compared).isdisjoint(order([factor])):
        return _through(graph, gate, function)
    if condition.op in OPPOSITE and all(_hands_nan_on(factor, n) for n in compared):
        # A comparison with NaN is false: so that the NaN is on the side of the gradient.
        return graph("where", graph(OPPOSITE[condition.op], *condition.args), 0.0, function(a))
    return None


def _product(graph: Graph, factor: Node, side: Node) -> Node:
    return graph("mul", side, factor)


@RULES.add("mul")
def factor_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, 0, g) a = where(c, 0, g a)."""
    for gate, factor in either(args):
        if _gate(gate, factor.flows):
            return _with_factor(graph, gate, factor, partial(_product, graph, factor))
    return None


@RULES.add("div")
def divisor_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, 0, g) / a = where(c, 0, g / a)."""
    gate, divisor = args
    if not _gate(gate):
        return None
    return _with_factor(graph, gate, divisor, lambda side: graph("div", side, divisor))


@RULES.add("neg")
def sign_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-where(c, 0, g) = where(c, 0, -g)."""
    (gate,) = args
    return _through(graph, gate, lambda side: graph("neg", side)) if _gate(gate) else None


@RULES.add("add")
def sum_of_gates(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, g, 0) + where(c, 0, h) = where(c, g, h), and the like: no more additions than before."""
    a, b = args
    if not (a.op == b.op == "where" and a.flows and b.flows):
        return None
    if a.args[0] is not b.args[0]:
        return _sum_of_opposites(graph, a, b)
    if not any(equals(a.args[i], 0.0) or equals(b.args[i], 0.0) for i in (1, 2)):
        return None
    return graph("where", a.args[0], graph("add", a.args[1], b.args[1]), graph("add", a.args[2], b.args[2]))


def _sum_of_opposites(graph: Graph, a: Node, b: Node) -> Node | None:
    """where(u < v, 0, g) + where(u >= v, 0, h) = where(u < v, h, g): also at a NaN if g is NaN there."""
    for one, other in ((a, b), (b, a)):
        condition, opposite = one.args[0], other.args[0]
        if OPPOSITE.get(condition.op) != opposite.op or condition.args != opposite.args:
            continue
        compared = _compared(condition)
        if not equals(one.args[1], 0.0) or not all(_hands_nan_on(one.args[2], n) for n in compared):
            continue
        if equals(other.args[1], 0.0):
            return graph("where", condition, other.args[2], one.args[2])
    return None


@RULES.add("where")
def order_of_gates(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(d, where(c, g, 0), 0) = where(d and c, g, 0), and sums meet on the earlier of unlike choices."""
    condition, a, b = args
    inner, at = (b, 2) if equals(a, 0.0) else (a, 1)
    if not equals(args[3 - at], 0.0) or not _gate(inner):
        return None
    if at == 1 and equals(inner.args[2], 0.0):
        return graph("where", graph("and", condition, inner.args[0]), inner.args[1], 0.0)
    if not inner.args[0].number < condition.number:
        return None

    def outer(side: Node) -> Node:
        return graph("where", condition, *((0.0, side) if at == 2 else (side, 0.0)))

    return _through(graph, inner, outer)


# ----- choices


@RULES.add("where")
def same_choice(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """Both sides the same; a known or a negated condition."""
    condition, a, b = args
    if a is b or condition.op == "true":
        return a
    if condition.op == "false":
        return b
    return graph("where", condition.args[0], b, a) if condition.op == "not" else None


# Operations that cost an instruction or two.
CHEAP = frozenset({"add", "sub", "mul", "neg", "abs", "max", "min", "where"})
# What an operation becomes where its argument is known not to be positive.
_NONPOSITIVE = {"exp": "exp_nonpositive", "expm1": "expm1_nonpositive"}
# What a comparison of u and v says where it is true, and where it is false: which is the smaller, or a NaN is there.
_SMALLER = {"lt": (0, 1), "le": (0, 1), "gt": (1, 0), "ge": (1, 0)}


class _Assuming:
    """Rebuilds expressions for where a condition is true, or for where it is false; elsewhere they may be anything."""

    def __init__(self, graph: Graph, condition: Node, truth: bool) -> None:
        self._graph, self._condition, self._truth = graph, condition, truth
        self._made: dict[Node, Node] = {}
        self._small: Node | None = None
        self._large: Node | None = None
        if condition.op in _SMALLER:
            i, j = _SMALLER[condition.op] if truth else _SMALLER[condition.op][::-1]
            self._small, self._large = condition.args[i], condition.args[j]

    def __call__(self, root: Node) -> Node:
        # The argument of a function stays as it is elsewhere, where the function is computed perhaps.
        for node in order([root], enter=lambda n: n.op in CHEAP or n.boolean):
            if node not in self._made:
                self._made[node] = self._rebuilt(node)
        return self._made[root]

    def _rebuilt(self, node: Node) -> Node:
        if node is self._condition:
            return self._graph.constant(self._truth)
        known = self._known(node)
        if known is not None:
            return known
        if node.op not in CHEAP and not node.boolean:
            return node
        args = [self._made[a] for a in node.args]
        return node if all(a is b for a, b in zip(args, node.args, strict=True)) else self._graph(node.op, *args)

    def _known(self, node: Node) -> Node | None:
        """What a node is, knowing which of two is the smaller. A NaN stays one."""
        small, large = self._small, self._large
        if small is None or large is None:
            return None
        if node.op in _NONPOSITIVE and node.args[0] is small and equals(large, 0.0):
            return self._graph(_NONPOSITIVE[node.op], small)
        if node.op in ("min", "max") and small in node.args and large in node.args:
            found, dropped = (small, large) if node.op == "min" else (large, small)
            # Where a comparison is false, either may be NaN.
            return found if self._truth or dropped.op == "constant" else None
        if node.op == "max" and node.args[0].op == "sub" and node.args[0].args == (large, small):
            return node.args[0] if equals(node.args[1], 0.0) else None
        return None


@RULES.add("where")
def known_in_branches(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """What a condition says of its own branches: exponentials of what is not positive, bounds that do not bind."""
    condition, a, b = args
    if not condition.args:
        return None
    made = _Assuming(graph, condition, True)(a), _Assuming(graph, condition, False)(b)
    # What is taken elsewhere too stays, if nothing would come of a second form beside it.
    if made == (a, b) or size(condition, *made) > size(condition, a, b):
        return None
    return graph("where", condition, *made)


# ----- bounds, and what lies beyond them


@RULES.add("where")
def choice_of_bound(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(a > c, c, a) = min(a, c) for a constant c, and the like; where(a > c, c, max(a, d)) for d <= c too."""
    condition, bound, inner = args
    if condition.op not in _SMALLER or bound.op != "constant" or condition.args[1] is not bound:
        return None
    (a, c), above = condition.args, condition.op in ("gt", "ge")
    if inner is a:
        return graph("min" if above else "max", a, c)
    if inner.op == ("max" if above else "min") and inner.args[0] is a and inner.args[1].op == "constant":
        d = inner.args[1]
        if (d.value <= c.value) if above else (d.value >= c.value):
            return graph("min" if above else "max", inner, c)
    return None


@RULES.add("where")
def beyond_opposites(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(a > c, b, where(a < -c, b, d)) = where(|a| > c, b, d) for c >= 0."""
    first, b, inner = args
    if inner.op != "where" or inner.args[1] is not b:
        return None
    for high, low in either((first, inner.args[0])):
        if high.op == "gt" and low.op == "lt" and high.args[0] is low.args[0]:
            c, d = high.args[1], low.args[1]
            if c.op == d.op == "constant" and c.value == -d.value >= 0.0:
                return graph("where", graph("gt", graph("abs", high.args[0]), c), b, inner.args[2])
    return None


# From here on softplus(a) is a, and sigmoid(a) is 1, to the last bit of float64.
SATURATED = 37.5


@RULES.add("where")
def beyond_saturation(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(a > c, b, d) = d, where d is b with softplus(a) in place of a, or times sigmoid(a), and c is large."""
    condition, b, d = args
    if condition.op not in ("gt", "ge") or condition.args[1].op != "constant":
        return None
    a, c = condition.args
    if c.value < SATURATED:
        return None
    return d if _replacing(graph, d, {("softplus", a): a, ("sigmoid", a): graph.constant(1.0)}) is b else None


def _replacing(graph: Graph, root: Node, by: dict[tuple[str, Node], Node]) -> Node:
    """An expression with other nodes for some functions of one argument."""
    made: dict[Node, Node] = {}
    for node in order([root]):
        args = [made[n] for n in node.args]
        known = by.get((node.op, node.args[0])) if len(args) == 1 else None
        if known is None and node.op == "mul":
            known = next((a for a, b in either((args[0], args[1])) if equals(b, 1.0)), None)
        if known is None and args != list(node.args):
            known = graph(node.op, *args)
        made[node] = node if known is None else known
    return made[root]


def _not_positive(node: Node) -> bool:
    """Whether an expression is never above 0."""
    if node.op == "constant":
        return node.value <= 0.0
    if node.op == "min":
        return any(map(_not_positive, node.args))
    if node.op == "neg":
        return _not_negative(node.args[0])
    if node.op == "mul" and node.args[1].op == "constant":
        return node.args[1].value <= 0.0 and _not_negative(node.args[0])
    return False


def _not_negative(node: Node) -> bool:
    """Whether an expression is never below 0."""
    if node.op in ("abs", "exp", "softplus"):
        return True
    if node.op == "mul":
        a, b = node.args
        return a is b or (b.op == "constant" and b.value >= 0.0 and _not_negative(a))
    return False


def _bounded_exponential(op: str) -> None:
    def rule(graph: Graph, args: tuple[Node, ...]) -> Node | None:
        """exp(a) and expm1(a) where a is never positive, as in exp(-a^2)."""
        return graph(_NONPOSITIVE[op], args[0]) if _not_positive(args[0]) else None

    rule.__name__ = f"{op}_of_nonpositive"
    RULES.add(op)(rule)


for _op in _NONPOSITIVE:
    _bounded_exponential(_op)


@RULES.add("le")
def relu_below(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """max(a, c) <= c is a <= c, also for a NaN."""
    a, c = args
    if a.op == "max" and a.args[1] is c and c.op == "constant":
        return graph("le", a.args[0], c)
    return None


def _difference(op: str) -> None:
    def rule(graph: Graph, args: tuple[Node, ...]) -> Node | None:
        """a - b <= 0 is a <= b, and the like: a difference underflows to no zero."""
        a, zero = args
        return graph(op, *a.args) if a.op == "sub" and equals(zero, 0.0) else None

    rule.__name__ = f"difference_{op}_zero"
    RULES.add(op)(rule)


for _op in ("lt", "le", "gt", "ge"):
    _difference(_op)


@RULES.add("not")
def negated(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """not not a = a."""
    (a,) = args
    if a.op in ("true", "false"):
        return graph.constant(a.op == "false")
    return a.args[0] if a.op == "not" else None


@RULES.add("and", "or")
def known_condition(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """A condition with itself."""
    a, b = args
    return a if a is b else None


@RULES.add("and")
def and_known(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a and true = a; a and false = false."""
    for a, b in either(args):
        if b.op in ("true", "false"):
            return a if b.op == "true" else b
    return None


@RULES.add("and")
def between_opposites(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a >= -c and a <= c is |a| <= c."""
    for low, high in either(args):
        if low.op == "ge" and high.op == "le" and low.args[0] is high.args[0]:
            a, b = low.args[1], high.args[1]
            if a.op == b.op == "constant" and a.value == -b.value:
                return graph("le", graph("abs", low.args[0]), b)
    return None


@RULES.add("or")
def or_known(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a or true = true; a or false = a."""
    for a, b in either(args):
        if b.op in ("true", "false"):
            return b if b.op == "true" else a
    return None
