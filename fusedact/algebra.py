"""Rules that make an expression cheaper or more accurate, each a law of real numbers; a test proves each.

They keep what PyTorch's own operators give at infinities and NaN, or give the limit where those lose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from .expressions import Graph, Node, order

__all__ = ["RULES", "rewrite"]

Rule = Callable[[Graph, tuple[Node, ...]], Node | None]

# By the operation at an expression's root: the rules, tried in order.
RULES: dict[str, list[Rule]] = {}


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for op in ops:
            RULES.setdefault(op, []).append(rule)
        return rule

    return add


def rewrite(graph: Graph, op: str, args: tuple[Node, ...]) -> Node | None:
    """What an operation becomes; None if no rule applies."""
    for rule in RULES.get(op, ()):
        found = rule(graph, args)
        if found is not None:
            return found
    return None


def _is(node: Node, value: float) -> bool:
    return node.op == "constant" and node.value == value


def _either(args: tuple[Node, ...]) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    """Both orders of two arguments."""
    a, b = args
    return (a, b), (b, a)


def _one_plus(node: Node) -> Node | None:
    """u where the node is 1 + u."""
    if node.op == "add":
        for a, b in _either(node.args):
            if _is(a, 1.0):
                return b
    return None


# ----- numbers


@_rule("add")
def add_zero(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a + 0 = a."""
    return next((a for a, b in _either(args) if _is(b, 0.0)), None)


@_rule("sub")
def subtract_zero(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a - 0 = a; 0 - a = -a."""
    a, b = args
    return a if _is(b, 0.0) else graph("neg", b) if _is(a, 0.0) else None


@_rule("mul")
def multiply_by_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a 1 = a; a (-1) = -a."""
    for a, b in _either(args):
        if _is(b, 1.0):
            return a
        if _is(b, -1.0):
            return graph("neg", a)
    return None


@_rule("mul")
def join_factors(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """(a c) d = a (c d) for constants c, d; (-a) d = a (-d)."""
    for a, d in _either(args):
        if d.op != "constant":
            continue
        if a.op == "neg":
            return graph("mul", a.args[0], -d.value)
        if a.op == "mul" and a.args[1].op == "constant":
            product = a.args[1].value * d.value
            # Neither overflow nor what fp32 has not as a normal number.
            if product == 0.0 or 1e-30 < abs(product) < 1e30:
                return graph("mul", a.args[0], product)
    return None


def _exact_reciprocal(value: float) -> bool:
    """Whether a number is a power of two, not too large or small to be inverted in fp32."""
    if value == 0.0 or not math.isfinite(value):
        return False
    mantissa, exponent = math.frexp(value)
    return abs(mantissa) == 0.5 and abs(exponent) < 100


@_rule("div")
def divide_by_constant(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a / c = a (1 / c) where 1 / c is exact; a / a stays, which is NaN at 0."""
    a, c = args
    if c.op == "constant" and _exact_reciprocal(c.value):
        return graph("mul", a, 1.0 / c.value)
    if _is(a, 1.0):
        return graph("reciprocal", c)
    if _is(a, -1.0):
        return graph("neg", graph("reciprocal", c))
    return None


@_rule("mul")
def multiply_by_reciprocal(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a (1 / b) = a / b, rounded once less."""
    for a, b in _either(args):
        if b.op == "reciprocal" and a.op != "reciprocal":
            return graph("div", a, b.args[0])
    return None


@_rule("neg")
def negate_twice(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-(-a) = a; -(a c) = a (-c)."""
    (a,) = args
    if a.op == "neg":
        return a.args[0]
    if a.op == "mul" and a.args[1].op == "constant":
        return graph("mul", a.args[0], -a.args[1].value)
    return None


@_rule("add")
def add_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a + (-b) = a - b."""
    for a, b in _either(args):
        if b.op == "neg":
            return graph("sub", a, b.args[0])
    return None


@_rule("sub")
def subtract_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a - (-b) = a + b."""
    a, b = args
    return graph("add", a, b.args[0]) if b.op == "neg" else None


# ----- powers


@_rule("pow")
def small_powers(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """Powers by products, roots and reciprocals, as torch.pow takes them."""
    a, exponent = args
    if exponent.op != "constant":
        return None
    p = exponent.value
    if p == 0.0:
        return graph.constant(1.0)
    if p == 1.0:
        return a
    if p == 0.5:
        return graph("sqrt", a)
    if p == -0.5:
        return graph("rsqrt", a)
    if p in (2.0, 3.0, 4.0):
        square = graph("mul", a, a)
        return square if p == 2.0 else graph("mul", square, a if p == 3.0 else square)
    if p in (-1.0, -2.0, -3.0, -4.0):
        return graph("reciprocal", graph("pow", a, -p))
    return None


@_rule("div")
def quotient_of_scaled(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a / (b c) = (a / b) / c where 1 / c is exact."""
    a, b = args
    if b.op == "mul" and b.args[1].op == "constant" and _exact_reciprocal(b.args[1].value):
        return graph("mul", graph("div", a, b.args[0]), 1.0 / b.args[1].value)
    return None


@_rule("reciprocal")
def reciprocal_of_root(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 / sqrt(a) = rsqrt(a); 1 / (1 / a) stays."""
    (a,) = args
    return graph("rsqrt", a.args[0]) if a.op == "sqrt" else None


# ----- exponentials


@_rule("sub")
def exp_minus_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) - 1 = expm1(a)."""
    a, b = args
    return graph("expm1", a.args[0]) if a.op == "exp" and _is(b, 1.0) else None


@_rule("add")
def expm1_plus_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """expm1(a) + 1 = exp(a); exp(a) + (-1) = expm1(a)."""
    for a, b in _either(args):
        if a.op == "expm1" and _is(b, 1.0):
            return graph("exp", a.args[0])
        if a.op == "exp" and _is(b, -1.0):
            return graph("expm1", a.args[0])
    return None


@_rule("log")
def log_of_one_plus(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log(1 + a) = log1p(a)."""
    rest = _one_plus(args[0])
    return None if rest is None else graph("log1p", rest)


@_rule("log1p")
def log1p_of_exp(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log1p(exp(a)) = softplus(a), which does not overflow."""
    (a,) = args
    return graph("softplus", a.args[0]) if a.op == "exp" else None


@_rule("log")
def log_of_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log(sigmoid(a)) = -softplus(-a); log(1 - sigmoid(a)) = -softplus(a)."""
    (a,) = args
    if a.op == "sigmoid":
        return graph("neg", graph("softplus", graph("neg", a.args[0])))
    return graph("neg", graph("softplus", a.args[0])) if a.op == "complement" else None


# ----- sigmoid: value and complement share their exponential


def _logistic(graph: Graph, denominator: Node) -> Node | None:
    """What 1 / denominator is, where the denominator is 1 + exp(a): 1 - sigmoid(a)."""
    rest = _one_plus(denominator)
    return graph("complement", rest.args[0]) if rest is not None and rest.op == "exp" else None


@_rule("reciprocal")
def reciprocal_is_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 / (1 + exp(a)) = 1 - sigmoid(a)."""
    return _logistic(graph, args[0])


@_rule("div")
def quotient_is_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) / (1 + exp(a)) = sigmoid(a); b / (1 + exp(a)) = b (1 - sigmoid(a))."""
    b, denominator = args
    complement = _logistic(graph, denominator)
    if complement is None:
        return None
    rest = _one_plus(denominator)
    return graph("sigmoid", rest.args[0]) if b is rest and rest is not None else graph("mul", b, complement)


def _replaced(graph: Graph, product: Node, factor: Node, by: Node, depth: int = 6) -> Node | None:
    """A product with one of its factors replaced; None if it has no such factor, or only deep inside."""
    if product is factor:
        return by
    if depth == 0:
        return None
    if product.op == "neg":
        inner = _replaced(graph, product.args[0], factor, by, depth - 1)
        return None if inner is None else graph("neg", inner)
    if product.op == "mul":
        for a, b in _either(product.args):
            inner = _replaced(graph, a, factor, by, depth - 1)
            if inner is not None:
                return graph("mul", inner, b)
    return None


@_rule("mul")
def exp_times_complement(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) (1 - sigmoid(a)) = sigmoid(a), also beside other factors; it does not overflow."""
    for e, product in _either(args):
        if e.op == "exp":
            (a,) = e.args
            found = _replaced(graph, product, graph("complement", a), graph("sigmoid", a))
            if found is not None:
                return found
    return None


@_rule("sub")
def one_minus_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - sigmoid(a) without cancellation; and back."""
    one, s = args
    if not _is(one, 1.0):
        return None
    if s.op == "sigmoid":
        return graph("complement", s.args[0])
    return graph("sigmoid", s.args[0]) if s.op == "complement" else None


@_rule("sigmoid")
def sigmoid_of_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """sigmoid(-a) = 1 - sigmoid(a)."""
    (a,) = args
    return graph("complement", a.args[0]) if a.op == "neg" else None


@_rule("complement")
def complement_of_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - sigmoid(-a) = sigmoid(a)."""
    (a,) = args
    return graph("sigmoid", a.args[0]) if a.op == "neg" else None


@_rule("add")
def one_minus_twice_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - 2 sigmoid(a) = (1 - sigmoid(a)) - sigmoid(a)."""
    for one, twice in _either(args):
        if _is(one, 1.0) and twice.op == "mul" and twice.args[0].op == "sigmoid" and _is(twice.args[1], -2.0):
            return graph("sub", graph("complement", twice.args[0].args[0]), twice.args[0])
    return None


# ----- tanh: value and derivative share their exponential


@_rule("sub")
def one_minus_square_of_tanh(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - tanh(a)^2 = sech(a)^2, without cancellation."""
    one, square = args
    if _is(one, 1.0) and square.op == "mul" and square.args[0] is square.args[1] and square.args[0].op == "tanh":
        return graph("sech2", square.args[0].args[0])
    return None


# ----- error function


@_rule("add")
def one_plus_erf(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 + erf(a) = erfc(-a), whose tail keeps its relative accuracy."""
    for one, e in _either(args):
        if _is(one, 1.0) and e.op == "erf":
            return graph("erfc", graph("neg", e.args[0]))
    return None


@_rule("sub")
def one_minus_erf(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - erf(a) = erfc(a)."""
    one, e = args
    return graph("erfc", e.args[0]) if _is(one, 1.0) and e.op == "erf" else None


# ----- gradients that a choice lets through: 0 on one side
#
# PyTorch multiplies that 0 by slopes that may be infinite there, or NaN, and gets NaN. Here the choice comes last,
# which gives the limit. Only for gradients: the NaN of a value must remain.


OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}


def _gate(node: Node, flows: bool = False) -> bool:
    """Whether a node is a gradient on one side of a choice and 0 on the other; or a factor of one that flows."""
    return node.op == "where" and (node.flows or flows) and (_is(node.args[1], 0.0) or _is(node.args[2], 0.0))


def _through(graph: Graph, gate: Node, function: Callable[[Node], Node]) -> Node:
    """A gate with a function, linear in the gradient, of its other side."""
    condition, a, b = gate.args
    if _is(a, 0.0):
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
    if _is(a, 0.0) or set(compared).isdisjoint(order([factor])):
        return _through(graph, gate, function)
    if condition.op in OPPOSITE and all(_hands_nan_on(factor, n) for n in compared):
        # A comparison with NaN is false: so that the NaN is on the side of the gradient.
        return graph("where", graph(OPPOSITE[condition.op], *condition.args), 0.0, function(a))
    return None


def _product(graph: Graph, factor: Node, side: Node) -> Node:
    return graph("mul", side, factor)


@_rule("mul")
def factor_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, 0, g) a = where(c, 0, g a)."""
    for gate, factor in _either(args):
        if _gate(gate, factor.flows):
            return _with_factor(graph, gate, factor, partial(_product, graph, factor))
    return None


@_rule("div")
def divisor_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, 0, g) / a = where(c, 0, g / a)."""
    gate, divisor = args
    if not _gate(gate):
        return None
    return _with_factor(graph, gate, divisor, lambda side: graph("div", side, divisor))


@_rule("neg")
def sign_through_gate(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-where(c, 0, g) = where(c, 0, -g)."""
    (gate,) = args
    return _through(graph, gate, lambda side: graph("neg", side)) if _gate(gate) else None


@_rule("add")
def sum_of_gates(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(c, g, 0) + where(c, 0, h) = where(c, g, h), and the like: no more additions than before."""
    a, b = args
    if not (a.op == b.op == "where" and a.flows and b.flows):
        return None
    if a.args[0] is not b.args[0]:
        return _sum_of_opposites(graph, a, b)
    if not any(_is(a.args[i], 0.0) or _is(b.args[i], 0.0) for i in (1, 2)):
        return None
    return graph("where", a.args[0], graph("add", a.args[1], b.args[1]), graph("add", a.args[2], b.args[2]))


def _sum_of_opposites(graph: Graph, a: Node, b: Node) -> Node | None:
    """where(u < v, 0, g) + where(u >= v, 0, h) = where(u < v, h, g): also at a NaN if g is NaN there."""
    for one, other in ((a, b), (b, a)):
        condition, opposite = one.args[0], other.args[0]
        if OPPOSITE.get(condition.op) != opposite.op or condition.args != opposite.args:
            continue
        compared = _compared(condition)
        if not _is(one.args[1], 0.0) or not all(_hands_nan_on(one.args[2], n) for n in compared):
            continue
        if _is(other.args[1], 0.0):
            return graph("where", condition, other.args[2], one.args[2])
    return None


@_rule("where")
def order_of_gates(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """where(d, where(c, g, 0), 0) = where(d and c, g, 0), and sums meet on the earlier of unlike choices."""
    condition, a, b = args
    inner, at = (b, 2) if _is(a, 0.0) else (a, 1)
    if not _is(args[3 - at], 0.0) or not _gate(inner):
        return None
    if at == 1 and _is(inner.args[2], 0.0):
        return graph("where", graph("and", condition, inner.args[0]), inner.args[1], 0.0)
    if not inner.args[0].number < condition.number:
        return None

    def outer(side: Node) -> Node:
        return graph("where", condition, *((0.0, side) if at == 2 else (side, 0.0)))

    return _through(graph, inner, outer)


# ----- choices


@_rule("where")
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
        if node.op in _NONPOSITIVE and node.args[0] is small and _is(large, 0.0):
            return self._graph(_NONPOSITIVE[node.op], small)
        if node.op in ("min", "max") and small in node.args and large in node.args:
            found, dropped = (small, large) if node.op == "min" else (large, small)
            # Where a comparison is false, either may be NaN.
            return found if self._truth or dropped.op == "constant" else None
        if node.op == "max" and node.args[0].op == "sub" and node.args[0].args == (large, small):
            return node.args[0] if _is(node.args[1], 0.0) else None
        return None


@_rule("where")
def known_in_branches(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """What a condition says of its own branches: exponentials of what is not positive, bounds that do not bind."""
    condition, a, b = args
    if not condition.args:
        return None
    made = _Assuming(graph, condition, True)(a), _Assuming(graph, condition, False)(b)
    return None if made == (a, b) else graph("where", condition, *made)


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
    _rule(op)(rule)


for _op in _NONPOSITIVE:
    _bounded_exponential(_op)


@_rule("le")
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
        return graph(op, *a.args) if a.op == "sub" and _is(zero, 0.0) else None

    rule.__name__ = f"difference_{op}_zero"
    _rule(op)(rule)


for _op in ("lt", "le", "gt", "ge"):
    _difference(_op)


@_rule("not")
def negated(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """not not a = a."""
    (a,) = args
    if a.op in ("true", "false"):
        return graph.constant(a.op == "false")
    return a.args[0] if a.op == "not" else None


@_rule("and", "or")
def known_condition(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """A condition with itself."""
    a, b = args
    return a if a is b else None


@_rule("and")
def and_known(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a and true = a; a and false = false."""
    for a, b in _either(args):
        if b.op in ("true", "false"):
            return a if b.op == "true" else b
    return None


@_rule("and")
def between_opposites(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a >= -c and a <= c is |a| <= c."""
    for low, high in _either(args):
        if low.op == "ge" and high.op == "le" and low.args[0] is high.args[0]:
            a, b = low.args[1], high.args[1]
            if a.op == b.op == "constant" and a.value == -b.value:
                return graph("le", graph("abs", low.args[0]), b)
    return None


@_rule("or")
def or_known(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a or true = true; a or false = a."""
    for a, b in _either(args):
        if b.op in ("true", "false"):
            return b if b.op == "true" else a
    return None
