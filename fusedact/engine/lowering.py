"""What PyTorch's operators are as expressions: the only list of what a user's activation may be made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .expressions import LARGEST, Graph, Node

__all__ = ["TABLE", "supported"]

Value = Node | float | bool
Lowering = Callable[..., Any]

# By the operator's name in ATen, without its overload: (graph, *arguments, **keywords) -> Node.
TABLE: dict[str, Lowering] = {}
# Those that only derivatives are made of, and what makes constants: not for documentation.
_INTERNAL: set[str] = set()

ROOT_HALF = math.sqrt(0.5)
TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)


def _lower(*names: str, internal: bool = False) -> Callable[[Lowering], Lowering]:
    def add(function: Lowering) -> Lowering:
        for name in names:
            TABLE[name] = function
            if internal:
                _INTERNAL.add(name)
        return function

    return add


def supported() -> list[str]:
    """The operators' names, as they are called in torch or torch.nn.functional."""
    return sorted(name for name in TABLE if name not in _INTERNAL and not name.startswith("_"))


def _same(op: str) -> Lowering:
    return lambda g, *args: g(op, *args)


for _name in (
    *("neg", "abs", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "sigmoid"),
    *("tanh", "erf", "erfc", "erfinv", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh"),
    *("atanh", "floor", "ceil", "trunc", "sign", "lt", "le", "gt", "ge", "eq", "ne", "atan2", "hypot", "fmod"),
    *("remainder", "pow", "fmax", "fmin"),
):
    TABLE[_name] = _same(_name)
TABLE["maximum"], TABLE["minimum"] = _same("max"), _same("min")
TABLE["sgn"] = _same("sign")


# ----- arithmetic


@_lower("add")
def _add(g: Graph, a: Value, b: Value, alpha: float = 1) -> Node:
    return g("add", a, b if alpha == 1 else g("mul", b, alpha))


@_lower("sub")
def _sub(g: Graph, a: Value, b: Value, alpha: float = 1) -> Node:
    return g("sub", a, b if alpha == 1 else g("mul", b, alpha))


@_lower("rsub")
def _rsub(g: Graph, a: Value, b: Value, alpha: float = 1) -> Node:
    return _sub(g, b, a, alpha)


@_lower("mul")
def _mul(g: Graph, a: Value, b: Value) -> Node:
    return g("mul", a, b)


@_lower("div")
def _div(g: Graph, a: Value, b: Value, rounding_mode: str | None = None) -> Node:
    if rounding_mode == "floor":
        return _floor_divide(g, a, b)
    quotient = g("div", a, b)
    return quotient if rounding_mode is None else g(rounding_mode, quotient)


@_lower("floor_divide")
def _floor_divide(g: Graph, a: Value, b: Value) -> Node:
    # As PyTorch and Python: the quotient without the rest, so that it is whole but for roundoff. Its own floor may be
    # one too much: 1 / 0.1 rounds to 10.
    rest = g("fmod", a, b)
    quotient = g("div", g("sub", a, rest), b)
    below = g("and", g("ne", rest, 0.0), g("xor", g("lt", b, 0.0), g("lt", rest, 0.0)))
    quotient = g("where", below, g("sub", quotient, 1.0), quotient)
    whole = g("floor", quotient)
    whole = g("where", g("gt", g("sub", quotient, whole), 0.5), g("add", whole, 1.0), whole)
    return g("where", g("eq", b, 0.0), g("div", a, b), whole)


@_lower("square")
def _square(g: Graph, x: Value) -> Node:
    return g("mul", x, x)


@_lower("addcmul")
def _addcmul(g: Graph, x: Value, a: Value, b: Value, value: float = 1) -> Node:
    return g("add", x, g("mul", g("mul", a, value), b))


@_lower("addcdiv")
def _addcdiv(g: Graph, x: Value, a: Value, b: Value, value: float = 1) -> Node:
    return g("add", x, g("mul", g("div", a, b), value))


@_lower("lerp")
def _lerp(g: Graph, start: Value, end: Value, weight: Value) -> Node:
    # From the nearer end, as PyTorch.
    way = g("sub", end, start)
    near = g("add", start, g("mul", weight, way))
    far = g("sub", end, g("mul", way, g("sub", 1.0, weight)))
    if isinstance(weight, Node):
        return g("where", g("lt", g("abs", weight), 0.5), near, far)
    return near if abs(weight) < 0.5 else far


@_lower("frac")
def _frac(g: Graph, x: Value) -> Node:
    return g("sub", x, g("trunc", x))


@_lower("round")
def _round(g: Graph, x: Value, decimals: int = 0) -> Node:
    scale = 10.0**decimals
    return g("round", x) if decimals == 0 else g("div", g("round", g("mul", x, scale)), scale)


@_lower("deg2rad")
def _deg2rad(g: Graph, x: Value) -> Node:
    return g("mul", x, math.pi / 180)


@_lower("rad2deg")
def _rad2deg(g: Graph, x: Value) -> Node:
    return g("mul", x, 180 / math.pi)


@_lower("copysign")
def _copysign(g: Graph, x: Value, sign: Value) -> Node:
    # The sign of a zero is that of its reciprocal.
    negative = g("or", g("lt", sign, 0.0), g("lt", g("reciprocal", sign), 0.0))
    magnitude = g("abs", x)
    return g("where", negative, g("neg", magnitude), magnitude)


@_lower("nan_to_num")
def _nan_to_num(g: Graph, x: Value, nan: float | None = None, posinf: float | None = None, neginf: Any = None) -> Node:
    y = g("where", g("ne", x, x), nan or 0.0, x)
    y = g("where", g("eq", x, math.inf), LARGEST if posinf is None else posinf, y)
    return g("where", g("eq", x, -math.inf), -LARGEST if neginf is None else neginf, y)


# ----- bounds and choices


@_lower("clamp")
def _clamp(g: Graph, x: Value, min: Value | None = None, max: Value | None = None) -> Node:
    x = x if min is None else g("max", x, min)
    return x if max is None else g("min", x, max)  # type: ignore[return-value]


@_lower("clamp_min")
def _clamp_min(g: Graph, x: Value, min: Value) -> Node:
    return g("max", x, min)


@_lower("clamp_max")
def _clamp_max(g: Graph, x: Value, max: Value) -> Node:
    return g("min", x, max)


@_lower("hardtanh")
def _hardtanh(g: Graph, x: Value, low: float = -1, high: float = 1) -> Node:
    return _clamp(g, x, low, high)


@_lower("where")
def _where(g: Graph, condition: Value, a: Value, b: Value) -> Node:
    return g("where", condition, a, b)


@_lower("masked_fill")
def _masked_fill(g: Graph, x: Value, mask: Value, value: Value) -> Node:
    return g("where", mask, value, x)


@_lower("isnan")
def _isnan(g: Graph, x: Value) -> Node:
    return g("ne", x, x)


@_lower("isinf")
def _isinf(g: Graph, x: Value) -> Node:
    return g("eq", g("abs", x), math.inf)


@_lower("isfinite")
def _isfinite(g: Graph, x: Value) -> Node:
    return g("lt", g("abs", x), math.inf)


for _op in ("and", "or", "xor", "not"):
    TABLE[f"logical_{_op}"] = TABLE[f"bitwise_{_op}"] = _same(_op)


# ----- logarithms of sums, entropies


@_lower("logaddexp")
def _logaddexp(g: Graph, a: Value, b: Value) -> Node:
    # Where both are the same infinity, their difference is no number.
    spread = g("neg", g("abs", g("sub", a, b)))
    return g("where", g("eq", a, b), g("add", a, math.log(2)), g("add", g("max", a, b), g("softplus", spread)))


@_lower("logaddexp2")
def _logaddexp2(g: Graph, a: Value, b: Value) -> Node:
    scale = math.log(2)
    return g("mul", _logaddexp(g, g("mul", a, scale), g("mul", b, scale)), 1 / scale)


@_lower("xlogy")
def _xlogy(g: Graph, x: Value, y: Value) -> Node:
    product = g("where", g("eq", x, 0.0), 0.0, g("mul", x, g("log", y)))
    return g("where", g("ne", y, y), math.nan, product)


@_lower("special_xlog1py")
def _xlog1py(g: Graph, x: Value, y: Value) -> Node:
    product = g("where", g("eq", x, 0.0), 0.0, g("mul", x, g("log1p", y)))
    return g("where", g("ne", y, y), math.nan, product)


@_lower("special_entr")
def _entr(g: Graph, x: Value) -> Node:
    inside = g("where", g("eq", x, 0.0), 0.0, g("mul", g("neg", x), g("log", x)))
    return g("where", g("ge", x, 0.0), inside, g("where", g("ne", x, x), x, -math.inf))


@_lower("special_ndtr")
def _ndtr(g: Graph, x: Value) -> Node:
    return g("mul", g("erfc", g("mul", x, -ROOT_HALF)), 0.5)


@_lower("sinc")
def _sinc(g: Graph, x: Value) -> Node:
    z = g("mul", x, math.pi)
    return g("where", g("eq", z, 0.0), 1.0, g("div", g("sin", z), z))


@_lower("logit")
def _logit(g: Graph, x: Value, eps: float | None = None) -> Node:
    z = x if eps is None else _clamp(g, x, eps, 1 - eps)
    return g("log", g("div", z, g("sub", 1.0, z)))


# ----- activations


@_lower("relu")
def _relu(g: Graph, x: Value) -> Node:
    return g("max", x, 0.0)


@_lower("threshold")
def _threshold(g: Graph, x: Value, threshold: float, value: float) -> Node:
    return g("where", g("le", x, threshold), value, x)


@_lower("leaky_relu")
def _leaky_relu(g: Graph, x: Value, slope: Value = 0.01) -> Node:
    return g("where", g("gt", x, 0.0), x, g("mul", x, slope))


@_lower("_prelu_kernel")
def _prelu(g: Graph, x: Value, weight: Value) -> Node:
    return _leaky_relu(g, x, weight)


@_lower("elu")
def _elu(g: Graph, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Node:
    below = g("mul", g("expm1", g("mul", x, input_scale)), alpha * scale)
    return g("where", g("le", x, 0.0), below, g("mul", x, scale))


@_lower("celu")
def _celu(g: Graph, x: Value, alpha: float = 1.0) -> Node:
    return _elu(g, x, alpha, 1.0, 1.0 / alpha)


@_lower("silu")
def _silu(g: Graph, x: Value) -> Node:
    return g("mul", x, g("sigmoid", x))


@_lower("mish")
def _mish(g: Graph, x: Value) -> Node:
    return g("mul", x, g("tanh", g("softplus", x)))


@_lower("gelu")
def _gelu(g: Graph, x: Value, approximate: str = "none") -> Node:
    if approximate == "tanh":
        # 1 + tanh(z) = 2 sigmoid(2 z)
        return g("mul", x, g("sigmoid", _gelu_tanh_argument(g, x)))
    return g("mul", x, _ndtr(g, x))


def _gelu_tanh_argument(g: Graph, x: Value) -> Node:
    """2 sqrt(2 / pi) (x + 0.044715 x^3)."""
    square = g("mul", x, x)
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    return g("mul", x, g("add", g("mul", square, scale * 0.044715), scale))


@_lower("softplus")
def _softplus(g: Graph, x: Value, beta: float = 1, threshold: float = 20) -> Node:
    z = g("mul", x, beta)
    return g("where", g("gt", z, threshold), x, g("div", g("softplus", z), beta))


@_lower("log_sigmoid_forward")
def _log_sigmoid(g: Graph, x: Value) -> tuple[Node, Node]:
    y = g("neg", g("softplus", g("neg", x)))
    return y, y


@_lower("hardsigmoid")
def _hardsigmoid(g: Graph, x: Value) -> Node:
    return g("div", _clamp(g, g("add", x, 3.0), 0.0, 6.0), 6.0)


@_lower("hardswish")
def _hardswish(g: Graph, x: Value) -> Node:
    return g("div", g("mul", x, _clamp(g, g("add", x, 3.0), 0.0, 6.0)), 6.0)


@_lower("hardshrink")
def _hardshrink(g: Graph, x: Value, lambd: float = 0.5) -> Node:
    return g("where", g("le", g("abs", x), lambd), 0.0, x)


@_lower("softshrink")
def _softshrink(g: Graph, x: Value, lambd: float = 0.5) -> Node:
    inner = g("where", g("lt", x, -lambd), g("add", x, lambd), g("mul", x, 0.0))
    return g("where", g("gt", x, lambd), g("sub", x, lambd), inner)


# ----- what only derivatives are made of


def _internal(*names: str) -> Callable[[Lowering], Lowering]:
    return _lower(*names, internal=True)


@_internal("sigmoid_backward")
def _sigmoid_backward(g: Graph, grad: Value, s: Node) -> Node:
    complement = g("complement", s.args[0]) if s.op == "sigmoid" else g("sub", 1.0, s)
    return g("mul", g("mul", grad, s), complement)


@_internal("tanh_backward")
def _tanh_backward(g: Graph, grad: Value, t: Node) -> Node:
    slope = g("sech2", t.args[0]) if t.op == "tanh" else g("sub", 1.0, g("mul", t, t))
    return g("mul", grad, slope)


@_internal("threshold_backward")
def _threshold_backward(g: Graph, grad: Value, x: Value, threshold: float) -> Node:
    return g("where", g("le", x, threshold), 0.0, grad)


@_internal("leaky_relu_backward")
def _leaky_relu_backward(g: Graph, grad: Value, x: Value, slope: Value, _: bool) -> Node:
    return g("where", g("gt", x, 0.0), grad, g("mul", grad, slope))


@_internal("_prelu_kernel_backward")
def _prelu_backward(g: Graph, grad: Value, x: Value, weight: Value) -> tuple[Node, Node]:
    positive = g("gt", x, 0.0)
    return g("where", positive, grad, g("mul", grad, weight)), g("where", positive, 0.0, g("mul", grad, x))


@_internal("elu_backward")
def _elu_backward(
    g: Graph, grad: Value, alpha: float, scale: float, input_scale: float, is_result: bool, x: Value
) -> Node:
    if is_result:
        below = g("mul", g("add", x, alpha * scale), input_scale)
    else:
        below = g("mul", g("exp", g("mul", x, input_scale)), alpha * scale * input_scale)
    return g("where", g("le", x, 0.0), g("mul", grad, below), g("mul", grad, scale))


@_internal("softplus_backward")
def _softplus_backward(g: Graph, grad: Value, x: Value, beta: float, threshold: float) -> Node:
    z = g("mul", x, beta)
    return g("where", g("gt", z, threshold), grad, g("mul", grad, g("sigmoid", z)))


@_internal("log_sigmoid_backward")
def _log_sigmoid_backward(g: Graph, grad: Value, x: Value, _: Value) -> Node:
    return g("mul", grad, g("complement", x))


@_internal("silu_backward")
def _silu_backward(g: Graph, grad: Value, x: Value) -> Node:
    s = g("sigmoid", x)
    return g("mul", grad, g("add", s, g("mul", g("mul", x, s), g("complement", x))))


@_internal("mish_backward")
def _mish_backward(g: Graph, grad: Value, x: Value) -> Node:
    inner = g("softplus", x)
    slope = g("add", g("tanh", inner), g("mul", g("mul", x, g("sech2", inner)), g("sigmoid", x)))
    return g("mul", grad, slope)


@_internal("gelu_backward")
def _gelu_backward(g: Graph, grad: Value, x: Value, approximate: str = "none") -> Node:
    if approximate == "tanh":
        z = _gelu_tanh_argument(g, x)
        s = g("sigmoid", z)
        scale = 2.0 * math.sqrt(2.0 / math.pi)
        inner = g("add", g("mul", g("mul", x, x), 3.0 * 0.044715 * scale), scale)
        rise = g("mul", g("mul", g("mul", x, inner), s), g("complement", z))
        return g("mul", grad, g("add", s, rise))
    density = g("mul", g("exp", g("mul", g("mul", x, x), -0.5)), TWO_OVER_ROOT_PI * ROOT_HALF / 2)
    return g("mul", grad, g("add", _ndtr(g, x), g("mul", x, density)))


@_internal("hardsigmoid_backward")
def _hardsigmoid_backward(g: Graph, grad: Value, x: Value) -> Node:
    inside = g("and", g("gt", x, -3.0), g("lt", x, 3.0))
    return g("where", inside, g("div", grad, 6.0), 0.0)


@_internal("hardswish_backward")
def _hardswish_backward(g: Graph, grad: Value, x: Value) -> Node:
    middle = g("mul", grad, g("add", g("div", x, 3.0), 0.5))
    return g("where", g("le", x, -3.0), 0.0, g("where", g("lt", x, 3.0), middle, grad))


@_internal("hardtanh_backward")
def _hardtanh_backward(g: Graph, grad: Value, x: Value, low: float, high: float) -> Node:
    return g("where", g("or", g("le", x, low), g("ge", x, high)), 0.0, grad)


@_internal("hardshrink_backward", "softshrink_backward")
def _shrink_backward(g: Graph, grad: Value, x: Value, lambd: float) -> Node:
    return g("where", g("le", g("abs", x), lambd), 0.0, grad)


@_internal("logit_backward")
def _logit_backward(g: Graph, grad: Value, x: Value, eps: float | None = None) -> Node:
    slope = g("div", grad, g("mul", x, g("sub", 1.0, x)))
    if eps is None:
        return g("where", g("and", g("ge", x, 0.0), g("le", x, 1.0)), slope, math.nan)
    return g("where", g("or", g("lt", x, eps), g("gt", x, 1 - eps)), 0.0, slope)


# ----- constants, and what leaves its argument as it is


@_internal("zeros_like", "new_zeros", "zeros", "_efficientzerotensor")
def _zeros(g: Graph, *_: Any, **__: Any) -> Node:
    return g.constant(0.0)


@_internal("empty_like", "new_empty", "empty")
def _empty(g: Graph, *_: Any, **__: Any) -> Node:
    # What nothing is written to after it.
    return g.constant(math.nan)


@_internal("ones_like", "new_ones", "ones")
def _ones(g: Graph, *_: Any, **__: Any) -> Node:
    return g.constant(1.0)


@_internal("full_like", "new_full", "full")
def _full(g: Graph, _: Any, value: float | bool, *__: Any, **___: Any) -> Node:
    return g.constant(value)


@_internal("scalar_tensor")
def _scalar_tensor(g: Graph, value: float | bool, **_: Any) -> Node:
    return g.constant(value)


@_internal("fill")
def _fill(g: Graph, _: Value, value: Value) -> Value:
    return value if isinstance(value, Node) else g.constant(value)


@_internal("zero")
def _zero(g: Graph, _: Value) -> Node:
    return g.constant(0.0)


@_internal("copy")
def _copy(g: Graph, _: Value, source: Value, *__: Any) -> Value:
    return source


@_internal("clone", "detach", "alias", "lift_fresh", "positive", "view", "_unsafe_view", "reshape", "expand")
@_internal("view_of", "broadcast_in_dim")
def _itself(g: Graph, x: Value, *_: Any, **__: Any) -> Value:
    return x


@_internal("_to_copy", "convert_element_type")
def _to_copy(g: Graph, x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    # To another dtype than float32 only a constant or a condition goes: the tracing sees to that.
    return g.number(x) if dtype == torch.float32 else x
