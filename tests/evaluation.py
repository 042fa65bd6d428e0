"""What expressions are worth: in float64 by NumPy, or as real numbers by mpmath; without lean.py or codegen.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
from scipy import special

from fusedact.engine.expressions import Node, order


def _pow(a: Any, b: Any) -> Any:
    # A number of a half as exponent is a root to PyTorch.
    if np.ndim(b) == 0 and abs(b) == 0.5:
        return np.sqrt(a) if b > 0 else 1 / np.sqrt(a)
    return np.power(a, b)


def _remainder(a: Any, b: Any) -> Any:
    rest = np.fmod(a, b)
    return np.where((rest != 0) & ((b < 0) != (rest < 0)), rest + b, rest)


# By operation: on arrays of float64, or of bool.
FLOAT64: dict[str, Callable[..., Any]] = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.abs},
    **{"max": np.maximum, "min": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "pow": _pow, "hypot": np.hypot},
    **{"exp": np.exp, "expm1": np.expm1, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "log2": np.log2},
    **{"log10": np.log10, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "reciprocal": lambda a: 1 / a},
    **{"sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan},
    **{"sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh},
    **{"atanh": np.arctanh, "atan2": np.arctan2, "fmod": np.fmod, "remainder": _remainder},
    # Whatever is neither above nor below 0 has the sign 0, as in PyTorch.
    "sign": lambda a: np.greater(a, 0) * 1.0 - np.less(a, 0),
    **{"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint},
    **{"erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv, "sigmoid": special.expit},
    "complement": lambda a: special.expit(-a),
    "sigmoid_slope": lambda a: special.expit(a) * special.expit(-a),
    "sech2": lambda a: (2 * np.exp(-np.abs(a)) / (1 + np.exp(-2 * np.abs(a)))) ** 2,
    "softplus": lambda a: np.logaddexp(0, a),
    **{"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal},
    **{"ne": np.not_equal, "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not},
    "where": np.where,
    **{"true": lambda: True, "false": lambda: False},
    **{"exp_nonpositive": np.exp, "expm1_nonpositive": np.expm1},
}


def _chosen(node: Node) -> bool:
    """Whether a node is 0 on one side of a choice."""
    return node.op == "where" and any(a.op == "constant" and a.value == 0.0 for a in node.args[1:])


def float64(
    results: Sequence[Node],
    inputs: Mapping[str, Any],
    instead: Mapping[str, Callable[..., Any]] | None = None,
    gated: bool = False,
) -> list[np.ndarray]:
    """The values of expressions, given those of the inputs by name; with other functions for some operations.

    With `gated`, a gradient that a choice made 0 stays 0, whatever it is multiplied by or divided by.
    """
    functions = {**FLOAT64, **(instead or {})}
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for node in order(results):
            if node.op == "input":
                values[node] = np.asarray(inputs[node.name], dtype=np.float64)
            elif node.op == "constant":
                values[node] = np.float64(node.value)
            else:
                values[node] = functions[node.op](*(values[a] for a in node.args))
                if gated and node.flows and node.op in ("mul", "div"):
                    factors = [a for a in node.args if a.flows or _chosen(a)]
                    stopped = np.logical_or.reduce(np.broadcast_arrays(False, *(values[a] == 0 for a in factors)))
                    values[node] = np.where(stopped, 0.0, values[node])
    shape = np.broadcast_shapes(*(np.shape(v) for v in inputs.values()))
    return [np.broadcast_to(np.asarray(values[node], dtype=np.float64), shape) for node in results]


# On finite real numbers; what has no value there raises ZeroDivisionError or gives a complex number.
REAL: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": mpmath.sign,
    **{"exp_nonpositive": mpmath.exp, "expm1_nonpositive": mpmath.expm1},
    **{"max": max, "min": min, "pow": lambda a, b: a**b},
    **{"exp": mpmath.exp, "expm1": mpmath.expm1, "log": mpmath.log, "log1p": lambda a: mpmath.log(1 + a)},
    **{"sqrt": mpmath.sqrt, "rsqrt": lambda a: 1 / mpmath.sqrt(a), "reciprocal": lambda a: 1 / a},
    **{"tanh": mpmath.tanh, "erf": mpmath.erf, "erfc": lambda a: mpmath.erfc(a) if a < 1e9 else mpmath.mpf(0)},
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "complement": lambda a: 1 / (1 + mpmath.exp(a)),
    "sigmoid_slope": lambda a: 1 / ((1 + mpmath.exp(-a)) * (1 + mpmath.exp(a))),
    "sech2": lambda a: mpmath.sech(a) ** 2,
    "softplus": lambda a: mpmath.log(1 + mpmath.exp(a)),
    **{"lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b},
    **{"eq": lambda a, b: a == b, "ne": lambda a, b: a != b},
    **{"and": lambda a, b: a and b, "or": lambda a, b: a or b, "xor": lambda a, b: a is not b, "not": lambda a: not a},
    "where": lambda c, a, b: a if c else b,
    **{"true": lambda: True, "false": lambda: False},
}


def real(root: Node, inputs: Mapping[str, float]) -> Any:
    """The value of an expression of finite real numbers, to as many digits as mpmath works with."""
    values: dict[Node, Any] = {}
    for node in order([root]):
        if node.op == "input":
            values[node] = mpmath.mpf(float(inputs[node.name]))
        elif node.op == "constant":
            values[node] = mpmath.mpf(node.value)
        else:
            values[node] = REAL[node.op](*(values[a] for a in node.args))
    return values[root]
