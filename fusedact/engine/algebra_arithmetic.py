"""Rules of arithmetic and of functions: cheaper forms, and forms that do not cancel or overflow."""

from __future__ import annotations

import math

from .algebra_rules import Rules, either, equals, one_plus
from .expressions import Graph, Node
from .ranges import Ranges

__all__ = ["RULES"]

RULES = Rules()


# ----- numbers


@RULES.add("add")
def add_zero(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a + 0 = a."""
    return next((a for a, b in either(args) if equals(b, 0.0)), None)


@RULES.add("sub")
def subtract_zero(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a - 0 = a; 0 - a = -a."""
    a, b = args
    return a if equals(b, 0.0) else graph("neg", b) if equals(a, 0.0) else None


@RULES.add("mul")
def multiply_by_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a 1 = a; a (-1) = -a."""
    for a, b in either(args):
        if equals(b, 1.0):
            return a
        if equals(b, -1.0):
            return graph("neg", a)
    return None


@RULES.add("mul")
def join_factors(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """(a c) d = a (c d) for constants c, d; (-a) d = a (-d)."""
    for a, d in either(args):
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


@RULES.add("mul")
def join_constants(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """(a c) (b d) = (a b) (c d) for constants; not a large and a small one: what overflows by one still does."""
    a, b = args
    if a.op == b.op == "mul" and a.args[1].op == b.args[1].op == "constant":
        small, large = sorted(abs(n.args[1].value) for n in args)
        product = a.args[1].value * b.args[1].value
        if 1e-30 < abs(product) < 1e30 and (large < 2.0 or small >= 1.0):
            return graph("mul", graph("mul", a.args[0], b.args[0]), product)
    return None


def _exact_reciprocal(value: float) -> bool:
    """Whether a number is a power of two, not too large or small to be inverted in fp32."""
    if value == 0.0 or not math.isfinite(value):
        return False
    mantissa, exponent = math.frexp(value)
    return abs(mantissa) == 0.5 and abs(exponent) < 100


@RULES.add("div")
def divide_by_constant(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a / c = a (1 / c) where 1 / c is exact; a / a stays, which is NaN at 0."""
    a, c = args
    if c.op == "constant" and _exact_reciprocal(c.value):
        return graph("mul", a, 1.0 / c.value)
    if equals(a, 1.0):
        return graph("reciprocal", c)
    if equals(a, -1.0):
        return graph("neg", graph("reciprocal", c))
    return None


@RULES.add("mul")
def multiply_by_reciprocal(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a (1 / b) = a / b, rounded once less."""
    for a, b in either(args):
        if b.op == "reciprocal" and a.op != "reciprocal":
            return graph("div", a, b.args[0])
    return None


@RULES.add("neg")
def negate_twice(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """-(-a) = a; -(a c) = a (-c)."""
    (a,) = args
    if a.op == "neg":
        return a.args[0]
    if a.op == "mul" and a.args[1].op == "constant":
        return graph("mul", a.args[0], -a.args[1].value)
    return None


@RULES.add("add")
def add_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a + (-b) = a - b."""
    for a, b in either(args):
        if b.op == "neg":
            return graph("sub", a, b.args[0])
    return None


@RULES.add("sub")
def subtract_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a - (-b) = a + b."""
    a, b = args
    return graph("add", a, b.args[0]) if b.op == "neg" else None


# ----- powers


@RULES.add("pow")
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


@RULES.add("div")
def quotient_of_scaled(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a / (b c) = (a / b) / c where 1 / c is exact."""
    a, b = args
    if b.op == "mul" and b.args[1].op == "constant" and _exact_reciprocal(b.args[1].value):
        return graph("mul", graph("div", a, b.args[0]), 1.0 / b.args[1].value)
    return None


@RULES.add("div")
def constant_from_quotient(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """(a c) / b = (a / b) c for a constant c."""
    a, b = args
    if a.op == "mul" and a.args[1].op == "constant" and b.op != "constant":
        return graph("mul", graph("div", a.args[0], b), a.args[1])
    return None


@RULES.add("mul")
def square_of_reciprocal(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """a (1 / b)^2 = a / b / b where b is never near 0, as PyTorch has the slope of a quotient."""
    for a, square in either(args):
        if square.op == "mul" and square.args[0] is square.args[1] and square.args[0].op == "reciprocal":
            (b,) = square.args[0].args
            if Ranges()(b).normal:
                return graph("div", graph("div", a, b), b)
    return None


@RULES.add("reciprocal")
def reciprocal_of_root(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 / sqrt(a) = rsqrt(a); 1 / (1 / a) stays."""
    (a,) = args
    return graph("rsqrt", a.args[0]) if a.op == "sqrt" else None


# ----- exponentials


@RULES.add("sub")
def exp_minus_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) - 1 = expm1(a)."""
    a, b = args
    return graph("expm1", a.args[0]) if a.op == "exp" and equals(b, 1.0) else None


@RULES.add("add")
def expm1_plus_one(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """expm1(a) + 1 = exp(a); exp(a) + (-1) = expm1(a)."""
    for a, b in either(args):
        if a.op == "expm1" and equals(b, 1.0):
            return graph("exp", a.args[0])
        if a.op == "exp" and equals(b, -1.0):
            return graph("expm1", a.args[0])
    return None


@RULES.add("log")
def log_of_one_plus(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log(1 + a) = log1p(a)."""
    rest = one_plus(args[0])
    return None if rest is None else graph("log1p", rest)


@RULES.add("log1p")
def log1p_of_exp(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log1p(exp(a)) = softplus(a), which does not overflow."""
    (a,) = args
    return graph("softplus", a.args[0]) if a.op == "exp" else None


@RULES.add("log")
def log_of_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """log(sigmoid(a)) = -softplus(-a); log(1 - sigmoid(a)) = -softplus(a)."""
    (a,) = args
    if a.op == "sigmoid":
        return graph("neg", graph("softplus", graph("neg", a.args[0])))
    return graph("neg", graph("softplus", a.args[0])) if a.op == "complement" else None


# ----- sigmoid: value, complement and slope, which is their product, share their exponential


def _logistic(graph: Graph, denominator: Node) -> Node | None:
    """What 1 / denominator is, where the denominator is 1 + exp(a): 1 - sigmoid(a)."""
    rest = one_plus(denominator)
    return graph("complement", rest.args[0]) if rest is not None and rest.op == "exp" else None


@RULES.add("reciprocal")
def reciprocal_is_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 / (1 + exp(a)) = 1 - sigmoid(a)."""
    return _logistic(graph, args[0])


@RULES.add("div")
def quotient_is_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) / (1 + exp(a)) = sigmoid(a); b / (1 + exp(a)) = b (1 - sigmoid(a))."""
    b, denominator = args
    complement = _logistic(graph, denominator)
    if complement is None:
        return None
    rest = one_plus(denominator)
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
        for a, b in either(product.args):
            inner = _replaced(graph, a, factor, by, depth - 1)
            if inner is not None:
                return graph("mul", inner, b)
    return None


@RULES.add("mul")
def exp_times_complement(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """exp(a) (1 - sigmoid(a)) = sigmoid(a), also beside other factors, sigmoid(a) perhaps; it does not overflow."""
    for e, product in either(args):
        if e.op == "exp":
            (a,) = e.args
            s = graph("sigmoid", a)
            for factor, by in ((graph("complement", a), s), (graph("sigmoid_slope", a), graph("mul", s, s))):
                found = _replaced(graph, product, factor, by)
                if found is not None:
                    return found
    return None


_COMPLEMENT = {"sigmoid": "complement", "complement": "sigmoid"}


@RULES.add("mul")
def sigmoid_times_complement(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """sigmoid(a) (1 - sigmoid(a)) is sigmoid's slope, also beside other factors."""
    for s, product in either(args):
        if s.op in _COMPLEMENT:
            (a,) = s.args
            found = _replaced(graph, product, graph(_COMPLEMENT[s.op], a), graph("sigmoid_slope", a))
            if found is not None:
                return found
    return None


@RULES.add("sub")
def one_minus_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - sigmoid(a) without cancellation; and back."""
    one, s = args
    if not equals(one, 1.0):
        return None
    if s.op == "sigmoid":
        return graph("complement", s.args[0])
    return graph("sigmoid", s.args[0]) if s.op == "complement" else None


@RULES.add("sigmoid")
def sigmoid_of_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """sigmoid(-a) = 1 - sigmoid(a)."""
    (a,) = args
    return graph("complement", a.args[0]) if a.op == "neg" else None


@RULES.add("complement")
def complement_of_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - sigmoid(-a) = sigmoid(a)."""
    (a,) = args
    return graph("sigmoid", a.args[0]) if a.op == "neg" else None


@RULES.add("sigmoid_slope")
def slope_of_negative(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """sigmoid's slope is the same at -a as at a."""
    (a,) = args
    return graph("sigmoid_slope", a.args[0]) if a.op == "neg" else None


@RULES.add("add")
def one_minus_twice_sigmoid(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - 2 sigmoid(a) = (1 - sigmoid(a)) - sigmoid(a)."""
    for one, twice in either(args):
        if equals(one, 1.0) and twice.op == "mul" and twice.args[0].op == "sigmoid" and equals(twice.args[1], -2.0):
            return graph("sub", graph("complement", twice.args[0].args[0]), twice.args[0])
    return None


# ----- tanh: value and derivative share their exponential


@RULES.add("sub")
def one_minus_square_of_tanh(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - tanh(a)^2 = sech(a)^2, without cancellation."""
    one, square = args
    if equals(one, 1.0) and square.op == "mul" and square.args[0] is square.args[1] and square.args[0].op == "tanh":
        return graph("sech2", square.args[0].args[0])
    return None


# ----- error function


@RULES.add("add")
def one_plus_erf(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 + erf(a) = erfc(-a), whose tail keeps its relative accuracy."""
    for one, e in either(args):
        if equals(one, 1.0) and e.op == "erf":
            return graph("erfc", graph("neg", e.args[0]))
    return None


@RULES.add("sub")
def one_minus_erf(graph: Graph, args: tuple[Node, ...]) -> Node | None:
    """1 - erf(a) = erfc(a)."""
    one, e = args
    return graph("erfc", e.args[0]) if equals(one, 1.0) and e.op == "erf" else None
