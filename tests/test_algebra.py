"""Each rule of algebra.py alone, against what it rewrites: as real numbers, and at zeros, infinities and NaN."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys

import evaluation
import mpmath
import pytest

from fusedact.engine import algebra
from fusedact.engine.expressions import Graph, order

INF, NAN = math.inf, math.nan

# By rule: what it rewrites, of the inputs a and b, and conditions c and d.
LEFT = {
    "add_zero": ["a + 0.0", "0.0 + a"],
    "subtract_zero": ["a - 0.0", "0.0 - a"],
    "multiply_by_one": ["a * 1.0", "1.0 * a", "a * -1.0", "-1.0 * a"],
    "join_factors": ["a * 3.0 * 0.7", "-a * 3.0", "3.0 * -a", "a * 3.0 * 0.0", "0.7 * (3.0 * a)"],
    "divide_by_constant": ["a / 4.0", "a / -0.5", "1.0 / a", "-1.0 / a"],
    "multiply_by_reciprocal": ["a * reciprocal(b)", "reciprocal(a) * b"],
    "negate_twice": ["-(-a)", "-(a * 3.0)"],
    "add_negative": ["a + -b", "-a + b"],
    "subtract_negative": ["a - -b"],
    "small_powers": [f"pow(a, {p})" for p in (0.0, 1.0, 0.5, -0.5, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0)],
    "reciprocal_of_root": ["reciprocal(sqrt(a))"],
    "exp_minus_one": ["exp(a) - 1.0"],
    "expm1_plus_one": ["expm1(a) + 1.0", "1.0 + expm1(a)", "exp(a) + -1.0"],
    "log_of_one_plus": ["log(1.0 + a)", "log(a + 1.0)"],
    "log1p_of_exp": ["log1p(exp(a))"],
    "log_of_sigmoid": ["log(sigmoid(a))", "log(complement(a))"],
    "reciprocal_is_sigmoid": ["reciprocal(1.0 + exp(a))", "reciprocal(exp(a) + 1.0)"],
    "quotient_is_sigmoid": ["exp(a) / (1.0 + exp(a))", "b / (1.0 + exp(a))"],
    "exp_times_complement": [
        *("exp(a) * complement(a)", "exp(a) * (b * complement(a))", "exp(a) * -(b * -complement(a))"),
        *("(complement(a) * b) * exp(a)", "exp(a) * sigmoid_slope(a)", "exp(a) * (b * sigmoid_slope(a))"),
    ],
    "sigmoid_times_complement": [
        *("sigmoid(a) * complement(a)", "complement(a) * sigmoid(a)", "sigmoid(a) * -(b * complement(a))"),
        *("complement(a) * (sigmoid(a) * (b * 3.0))", "b * sigmoid(a) * 3.0 * complement(a)"),
    ],
    "slope_of_negative": ["sigmoid_slope(-a)"],
    "one_minus_sigmoid": ["1.0 - sigmoid(a)", "1.0 - complement(a)"],
    "sigmoid_of_negative": ["sigmoid(-a)"],
    "complement_of_negative": ["complement(-a)"],
    "one_minus_twice_sigmoid": ["1.0 + sigmoid(a) * -2.0", "-2.0 * sigmoid(a) + 1.0"],
    "one_minus_square_of_tanh": ["1.0 - tanh(a) * tanh(a)"],
    "one_plus_erf": ["1.0 + erf(a)", "erf(a) + 1.0"],
    "one_minus_erf": ["1.0 - erf(a)"],
    "same_choice": ["where(a < b, a, a)", "where(true, a, b)", "where(false, a, b)", "where(~(a < b), a, b)"],
    "known_in_branches": [
        *("where(a < b, where(a < b, a, 2.0), b)", "where(a < b, a, where(a < b, 2.0, b))"),
        *("where(a <= 0.0, exp(a) * b, b)", "where(a < 0.0, expm1(a) + 1.0, b)", "where(a > 0.0, b, exp(a))"),
        *(
            "where(a <= 0.0, min(a, 0.0), b)",
            "where(a < b, max(a, b), a)",
            "where(a < 2.0, b, max(a, 2.0))",
            "where(a <= b, 0.0, max(a - b, 0.0))",
        ),
    ],
    "quotient_of_scaled": ["b / (sqrt(a) * 2.0)", "a / (b * -4.0)"],
    "constant_from_quotient": ["a * 3.0 / b", "0.7 * a / b"],
    "square_of_reciprocal": [
        *("b * (reciprocal(abs(a) + 1.0) * reciprocal(abs(a) + 1.0))", "square(reciprocal(a * a + 0.5)) * (a * b)"),
    ],
    "join_constants": ["a * 3.0 * (b * 1.7)", "a * 0.5 * (a * -0.5)"],
    "slope_of_quotient": [
        *("g / (abs(a) + 1.0) + a / (abs(a) + 1.0) / (abs(a) + 1.0) * -g * sign(a)",),
        *("g / (a + 3.0) + a / (a + 3.0) / (a + 3.0) * -g", "-(a / (a + 0.5) / (a + 0.5) * g) + g / (a + 0.5)"),
    ],
    "one_minus_slope_of_tanh": ["g + -g * sech2(a)", "a * sech2(b) * -2.0 + a * 2.0", "1.0 + -sech2(a)"],
    "like_terms": [
        *("g * a * b + b * g * (a + 2.0)", "g * a * 0.5 + (a + 3.0) * g * 0.5", "g * a * b * 3.0 + a * b * g"),
        "b * g * (a * a + b) + g * a * a * b * 2.0",
    ],
    "like_terms_of_difference": ["-g * a - g * (a + 2.0)", "-(g * a * b) - b * a * g * 3.0"],
    "choice_of_bound": [
        *("where(a > 2.0, 2.0, a)", "where(a <= -3.0, -3.0, a)", "where(a > 2.0, 2.0, max(a, -2.0))"),
        *("where(a < -2.0, -2.0, min(a, 3.0))", "where(a >= 2.0, 2.0, max(a, 2.0))"),
    ],
    "beyond_opposites": ["where(a > 2.0, b, where(a < -2.0, b, a))", "where(a < -2.0, 0.0, where(a > 2.0, 0.0, b))"],
    "beyond_saturation": [
        *("where(a > 40.0, a, softplus(a))", "where(a >= 40.0, b * 2.0, b * sigmoid(a) * 2.0)"),
        "where(a > 40.0, where(a < b, 0.0, g), where(a < b, 0.0, g * sigmoid(a)))",
    ],
    "difference_lt_zero": ["where(a - b < 0.0, a, b)"],
    "difference_le_zero": ["where(a - b <= 0.0, a, b)"],
    "difference_gt_zero": ["where(a - b > 0.0, a, b)"],
    "difference_ge_zero": ["where(a - b >= 0.0, a, b)"],
    "between_opposites": ["where((a >= -2.0) & (a <= 2.0), a, b)", "where((a <= 2.0) & (a >= -2.0), b, a)"],
    "exp_of_nonpositive": ["exp(-(a * a))", "exp(a * a * -0.5)", "exp(min(a, -1.0))", "exp(-abs(a))"],
    "expm1_of_nonpositive": ["expm1(-(a * a))", "expm1(min(a, 0.0))"],
    "factor_through_gate": [
        *("where(a < b, 0.0, g) * a", "b * where(a < 2.0, g, 0.0)", "a * where(a < 2.0, g, 0.0)"),
        *("where(a < b, 0.0, a) * g", "where(a >= 2.0, g, 0.0) * exp(a)"),
    ],
    "divisor_through_gate": ["where(a < b, 0.0, g) / a", "where(a < 2.0, g, 0.0) / b", "where(a < 2.0, g, 0.0) / a"],
    "sign_through_gate": ["-where(a < b, 0.0, g)", "-where(a < b, g * a, 0.0)"],
    "sum_of_gates": [
        *("where(a < b, 0.0, g) + where(a < b, g * a, 0.0)", "where(a < b, g, g * b) + where(a < b, 0.0, g * a)"),
        "where(a < 2.0, 0.0, g * a) + where(a >= 2.0, 0.0, g)",
    ],
    "order_of_gates": [
        *("where(a < b, where(a < 2.0, g, 0.0), 0.0)", "where((a < 2.0) & (a < b), where(a < 2.0, 0.0, g), 0.0)"),
        "where((a < 2.0) | (a < b), 0.0, where(a < 2.0, g, 0.0))",
    ],
    "relu_below": ["where(max(a, 0.0) <= 0.0, a, b)", "where(max(a, 0.5) <= 0.5, a, b)"],
    "negated": ["where(~~(a < b), a, b)", "where(~true, a, b)", "where(~false, a, b)"],
    "known_condition": ["where((a < b) & (a < b), a, b)", "where((a < b) | (a < b), a, b)"],
    "and_known": ["where((a < b) & true, a, b)", "where(false & (a < b), a, b)"],
    "or_known": ["where((a < b) | true, a, b)", "where(false | (a < b), a, b)"],
}
CASES = [(rule, text) for rule, texts in LEFT.items() for text in texts]
FUNCTIONS = {rule.__name__: rule for rules in algebra.RULES.values() for rule in rules}

FINITE = [1e-300, 1e-17, 0.1, 0.5, 1.0, 2.0, 3.7, 18.0, 30.0, 700.0, 800.0, 1e10, 1e200]
FINITE = [0.0, *FINITE, *(-v for v in FINITE)]
SPECIAL = [0.0, -0.0, INF, -INF, NAN]


# Where an infinity times or over an infinity loses the limit, at a = inf: b, or 1.
LIMITS = ["exp(a) / (1.0 + exp(a))", *LEFT["exp_times_complement"]]
# Rules that give the limit where an infinity would meet another one, or a zero.
LIMIT_RULES = ["slope_of_quotient", "one_minus_slope_of_tanh", "like_terms", "like_terms_of_difference"]
# What may turn the sign of a zero, as the operators do by which PyTorch itself writes these formulas.
SIGN_OF_ZERO = [
    *("a + 0.0", "0.0 + a", "0.0 - a", "exp(a) - 1.0", "exp(a) + -1.0", "log(1.0 + a)", "log(a + 1.0)"),
    *("log(sigmoid(a))", "log(complement(a))", "where(a <= 0.0, min(a, 0.0), b)"),
    *LEFT["one_minus_slope_of_tanh"],
    *LEFT["like_terms"],
    # The 0 of a choice takes no sign.
    *LEFT["factor_through_gate"],
    *LEFT["divisor_through_gate"],
    *LEFT["sign_through_gate"],
]


class Term:
    """Builds expressions with Python's operators."""

    def __init__(self, graph, node):
        self.graph, self.node = graph, node


def _method(op, reflected=False):
    def apply(self, *others):
        nodes = [o.node if isinstance(o, Term) else o for o in (self, *others)]
        return Term(self.graph, self.graph(op, *(nodes[::-1] if reflected else nodes)))

    return apply


for _op in ("add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "and", "or"):
    setattr(Term, f"__{_op}__", _method(_op))
    setattr(Term, f"__r{_op}__", _method(_op, reflected=True))
Term.__invert__, Term.__truediv__, Term.__rtruediv__ = _method("not"), _method("div"), _method("div", reflected=True)
FUNCTION_NAMES = (
    "reciprocal pow sqrt exp expm1 log log1p sigmoid complement sigmoid_slope tanh sech2 erf softplus where max min "
    "abs sign"
)
# A gradient that comes in.
GRADIENT = 1.3


def built(text, graph):
    names = {name: _method(name) for name in FUNCTION_NAMES.split()}
    names["square"] = lambda a: a * a
    for name in ("a", "b", "g"):
        names[name] = Term(graph, graph.input(name))
    for name in (True, False):
        names[str(name).lower()] = Term(graph, graph.constant(name))
    return eval(text, names).node


def alone(rule):
    """A graph that knows one rule."""
    ops = {op for op, rules in algebra.RULES.items() if rule in rules}
    return Graph(lambda graph, op, args: rule(graph, args) if op in ops else None)


def points(text, values, step=1):
    return list(itertools.product(values, values[::step] if re.search(r"\bb\b", text) else [0.5]))


def test_every_rule_is_tested():
    assert set(LEFT) == set(FUNCTIONS)


@pytest.mark.parametrize(("rule", "text"), CASES)
def test_fires(rule, text):
    assert repr(built(text, alone(FUNCTIONS[rule]))) != repr(built(text, Graph()))


def same(got, want):
    """To roundoff; what float64 has not as a normal number counts as 0, or as infinite."""
    if math.isnan(got) or math.isnan(want):
        return math.isnan(got) and math.isnan(want)
    if math.isinf(got) or math.isinf(want) or got == want:
        return got == want
    return abs(got - want) <= 1e-14 * abs(want) + 1e-300


@pytest.mark.parametrize(("rule", "text"), CASES)
def test_real_numbers(rule, text):
    """Both sides are the same function; and what is made of it loses nothing in float64, however large or small."""
    left, right = built(text, Graph()), built(text, alone(FUNCTIONS[rule]))
    with mpmath.workdps(450):
        for a, b in points(text, FINITE, 3):
            values = {"a": a, "b": b, "g": GRADIENT}
            try:
                truth = evaluation.real(left, values)
            except (ZeroDivisionError, ValueError):
                continue
            if isinstance(truth, mpmath.mpc) or mpmath.isinf(truth):
                continue
            # Beyond the digits that mpmath was given, what cancels is 0.
            assert abs(evaluation.real(right, values) - truth) <= abs(truth) * 1e-14 + mpmath.mpf("1e-420")
            was, now = (evaluation.float64([side], values)[0].item() for side in (left, right))
            assert same(now, float(truth)) or same(now, was), (a, b, was, now, float(truth))


@pytest.mark.parametrize(("rule", "text"), CASES)
def test_special_points(rule, text):
    left, right = built(text, Graph()), built(text, alone(FUNCTIONS[rule]))
    for a, b in points(text, [*SPECIAL, 2.0, -2.0, 0.5, -0.5]):
        values = {"a": a, "b": b, "g": GRADIENT}
        was, now = (evaluation.float64([side], values)[0].item() for side in (left, right))
        if math.isnan(was) and not math.isnan(now) and "gate" in rule:
            # What a choice made 0 stays 0.
            was = evaluation.float64([left], values, gated=True)[0].item()
        if rule in LIMIT_RULES and math.isnan(was) and not math.isnan(now):
            assert math.isinf(a) or math.isinf(b) or a == -3.0 or a == -0.5
            assert rule != "slope_of_quotient" or now == 0.0 or abs(a) < 4.0
            continue
        if a == INF and not math.isnan(b) and text in LIMITS:
            assert math.isnan(was) and now == (b if "b" in text else 1.0)
            continue
        assert same(now, was), (a, b, was, now)
        if now == 0.0 and math.copysign(1.0, was) != math.copysign(1.0, now):
            assert text in SIGN_OF_ZERO, (a, b, was, now)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("g * sigmoid(a) * (1.0 - sigmoid(a))", "mul(g, sigmoid_slope(a))"),
        ("g * sigmoid(-a) * (1.0 - sigmoid(-a))", "mul(g, sigmoid_slope(a))"),
        ("sigmoid(a) + g * sigmoid(a) * complement(a)", "add(sigmoid(a), mul(g, sigmoid_slope(a)))"),
        ("g * complement(a) * complement(a) * exp(a)", "mul(g, sigmoid_slope(a))"),
        ("sigmoid(a) * complement(b)", "mul(sigmoid(a), complement(b))"),
        ("sigmoid(a) * sigmoid(a)", "mul(sigmoid(a), sigmoid(a))"),
    ],
)
def test_the_slope_of_sigmoid_is_found(text, want):
    """However it is spelled; each factor that stands alone remains."""
    assert repr(built(text, Graph(algebra.rewrite))) == want


@pytest.mark.parametrize("text", ["where(a < b, a, max(a, b))", "where(a > b, a, min(a, b))"])
def test_a_false_comparison_may_be_one_with_nan(text):
    node = built(text, Graph(algebra.rewrite))
    for a, b in ((NAN, 1.0), (1.0, NAN)):
        assert math.isnan(evaluation.float64([node], {"a": a, "b": b})[0].item())


# ----- all rules together


EXPRESSIONS = """
import sys
import fusedact
import torch
from torch.nn import functional as F

@fusedact.activation
def everything(x, a=1.0, b=0.5):
    s = torch.sigmoid(a * x)
    t = torch.tanh(F.softplus(b * x)) - 1 / (1 + torch.exp(-x / 2))
    gate = torch.where(x > a, s * (1 - s), torch.log(1 + torch.exp(-x)))
    return t * gate + F.gelu(x - b) + torch.erf(x).pow(3) / (torch.abs(x) + 1) + F.elu(x) * F.mish(a * x)

sys.stdout.write(everything.source)
"""


def here():
    namespace = {}
    exec(EXPRESSIONS.replace("sys.stdout.write(everything.source)", ""), namespace)
    return namespace["everything"].source


def test_the_same_text_twice():
    assert here() == here()


def test_the_same_text_in_another_process():
    done = subprocess.run(
        [sys.executable, "-c", EXPRESSIONS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    # The name of the file that the function came from stands in the head.
    assert done.stdout.splitlines()[1:] == here().splitlines()[1:]


@pytest.mark.parametrize(("rule", "text"), CASES)
def test_rewriting_ends(rule, text):
    """With all rules at work, what they gave is rewritten no further."""
    graph = Graph(algebra.rewrite)
    once = built(text, graph)
    (twice,) = graph.copied([once], Graph(algebra.rewrite))
    assert repr(once) == repr(twice)


def test_what_is_used_many_times_is_looked_at_once():
    """40 squares in a row are 2^40 paths."""
    graph = Graph(algebra.rewrite)
    x, g = graph.input("a"), graph.input("g")
    power = x
    for _ in range(40):
        power = graph("mul", power, power)
    gate = graph("where", graph("gt", graph.input("b"), 0.0), g, 0.0)
    assert graph("mul", gate, power).op == "where"
    assert graph("mul", graph("where", graph("gt", x, 0.0), g, 0.0), power).op == "where"


def test_long_chains_in_a_branch():
    graph = Graph(algebra.rewrite)
    x = node = graph.input("a")
    for i in range(1500):
        node = graph(("add", "max")[i % 2], node, 1.0 + i)
    assert graph("where", graph("gt", x, 0.0), node, 0.0).op == "where"


@pytest.mark.parametrize("condition", ["(a > 0.0) & (a < 1.0)", "(a > 0.0) | (a < -1.0)", "a > 0.0"])
def test_the_nan_of_a_compared_number_stays(condition):
    """Where PyTorch multiplies a gradient of 0 by it."""
    text = f"where({condition}, g, 0.0) * exp(a)"
    for rewritten in (built(text, Graph()), built(text, Graph(algebra.rewrite))):
        assert math.isnan(evaluation.float64([rewritten], {"a": NAN, "g": GRADIENT})[0].item())


def test_chains_end():
    graph = Graph(algebra.rewrite)
    node = graph.input("a")
    for i in range(300):
        node = graph(("neg", "reciprocal", "sigmoid", "exp", "sqrt", "log")[i % 6], node)
        node = graph("mul", graph("add", node, 1.0), -1.0)
        node = graph("sub", 1.0, graph("div", 1.0, node))
    assert len(list(order([node]))) < 3000
