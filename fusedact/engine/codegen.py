"""Writes expressions as Triton device functions, in the contract of kernels/README.md."""

from __future__ import annotations

import keyword
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .expressions import LARGEST, Node, order, varies
from .ranges import Ranges

__all__ = ["MODULES", "RESERVED", "Function", "module_text", "safe_name", "usable"]

# Operations that are device functions, by the file of kernels/ that holds them: name(a, ..., precise).
MODULES: dict[str, tuple[str, ...]] = {
    "device_math": (
        *("exp", "exp2", "exp_nonpositive", "expm1", "expm1_nonpositive", "tanh", "tanh_parts", "sigmoid"),
        *("sigmoid_complement_slope", "reciprocal", "divide", "sqrt", "rsqrt"),
        *("divide_by_parameter", "product_with_inverse", "reciprocal_normal", "sqrt_normal", "rsqrt_normal"),
    ),
    "logarithms": ("log", "log1p", "log2", "log10", "softplus", "softplus_and_sigmoid"),
    "powers": ("pow", "hypot"),
    "error_function": ("erf", "erfc", "erfinv"),
    "trigonometry": ("sin", "cos", "sin_and_cos", "tan", "asin", "acos", "atan", "atan2"),
    "hyperbolic": ("sinh", "cosh", "asinh", "acosh", "atanh"),
    "rounding": ("trunc", "round", "fmod", "remainder"),
}
_HOME = {function: module for module, functions in MODULES.items() for function in functions}
# Names that mean something in every text.
RESERVED = frozenset({*_HOME, "tl", "triton", "float", "precise"})
# Where an operation's name is not its function's; and where its argument is positive and normal.
_FUNCTION = {"div": "divide"}
_OF_NORMAL = {"reciprocal": "reciprocal_normal", "sqrt": "sqrt_normal", "rsqrt": "rsqrt_normal"}

_INFIX = {
    **{"add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "lt": ("<", 2), "le": ("<=", 2), "gt": (">", 2)},
    **{"ge": (">=", 2), "eq": ("==", 2), "ne": ("!=", 2), "and": ("&", 4), "or": ("|", 3), "xor": ("^", 3)},
}
# What Python's numbers can do, too, beside blocks.
_ARITHMETIC = frozenset({"add", "sub", "mul", "neg", "max", "min", "where"})
_NAN = "propagate_nan=tl.PropagateNan.ALL"
_TL = {
    **{"abs": "tl.abs({})", "floor": "tl.floor({})", "ceil": "tl.ceil({})", "where": "tl.where({}, {}, {})"},
    **{"max": f"tl.maximum({{}}, {{}}, {_NAN})", "min": f"tl.minimum({{}}, {{}}, {_NAN})"},
    **{"fmax": "tl.maximum({}, {})", "fmin": "tl.minimum({}, {})"},
    # 0 for a NaN, as torch.sign.
    "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
}
# Operations that share their exponential, or their reduction: by the function that gives them, in its order.
_TOGETHER = {
    "sigmoid_complement_slope": ("sigmoid", "complement", "sigmoid_slope"),
    "softplus_and_sigmoid": ("softplus", "sigmoid", "complement", "sigmoid_slope"),
    "tanh_parts": ("tanh", "sech2"),
    "sin_and_cos": ("sin", "cos"),
}
_SHARING = frozenset(op for ops in _TOGETHER.values() for op in ops)
# Of these, those that no other function gives.
_NEVER_ALONE = frozenset({"sech2", "sigmoid_slope"})

# What a line may hold before an expression gets a name of its own.
WIDTH = 72
ATOM = 9

LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass
class Function:
    """A device function to be written: `values` are its blocks, `results` what it returns, nested like the text."""

    name: str
    doc: str
    # By input: its name in the text, and what it is taken from, unless it is an argument. The first is a block of the
    # result's shape.
    inputs: dict[str, tuple[str, str | None]]
    signature: str
    results: Sequence[Node]
    # The text of the return statement, with a place for each result.
    returns: str
    # By index: results that must be blocks, not single numbers.
    blocks: frozenset[int]


class _Writer:
    """The body of one device function."""

    def __init__(self, function: Function, names: dict[Node, str], reserved: Iterable[str]) -> None:
        self._function = function
        self._taken = set(reserved) | {"params", "values"}
        self._taken |= {name for name, _ in function.inputs.values()}
        self._shape = next(iter(function.inputs.values()))[0]
        self._lines: list[str] = []
        self._written: dict[Node, tuple[str, int]] = {}
        self.used: set[str] = set()
        self._names = names
        nodes = list(order(function.results))
        self._uses = Counter(a for n in nodes for a in n.args)
        self._uses.update(function.results)
        # By argument: what is wanted of it that shares an exponential or a reduction, by operation.
        self._wanted: dict[Node, dict[str, Node]] = {}
        for n in nodes:
            if n.op in _SHARING:
                self._wanted.setdefault(n.args[0], {})[n.op] = n
        self._ranges = Ranges()
        self._scaled = _only_scaled(nodes)
        widened = self._widened(nodes)
        for key, (name, source) in function.inputs.items():
            if source is not None and any(n.op == "input" and n.name == key for n in nodes):
                self._lines.append(
                    f"{name} = {source}" + (f" + tl.zeros_like({self._shape})" if key in widened else "")
                )
        if widened:
            self._need_shape()
        if any(self._is_constant_block(i, n) for i, n in enumerate(function.results)):
            self._need_shape()
        for n in nodes:
            self._write(n)

    def _widened(self, nodes: Sequence[Node]) -> set[str]:
        """The parameters that functions take by themselves: numbers are plain ones to the interpreter."""
        found: set[str] = set()
        for n in nodes:
            if n.op not in _ARITHMETIC:
                alone = [a for a in n.args if a.op != "constant" and not self._is_block(a)]
                found.update(i.name for i in order(alone) if i.op == "input")
        return found

    def _is_constant_block(self, i: int, node: Node) -> bool:
        return i in self._function.blocks and not self._is_block(node)

    def _need_shape(self) -> None:
        """Make sure that the block that lends its shape is there."""
        name, source = next(iter(self._function.inputs.values()))
        if source is not None and f"{name} = {source}" not in self._lines:
            self._lines.insert(0, f"{name} = {source}")

    def text(self) -> str:
        f = self._function
        made = []
        for i, node in enumerate(f.results):
            text = self._written[node][0]
            if self._is_constant_block(i, node):
                text = (
                    f"tl.full({self._shape}.shape, {text}, tl.float32)"
                    if node.op == "constant"
                    else f"{text} + tl.zeros_like({self._shape})"
                )
            made.append(text)
        body = [*self._lines, f"return {f.returns.format(*made)}"]
        lines = "\n".join(f"    {line}" for line in body)
        return f'@triton.jit\ndef {f.name}({f.signature}):\n    """{f.doc}"""\n{lines}\n'

    def _is_block(self, node: Node) -> bool:
        """Whether a node has an element for each of x's."""
        return any(n.op == "input" and varies(n.name) for n in order([node]))

    def _fresh(self, node: Node | None = None) -> str:
        wished = self._names.get(node) if node is not None else None
        if wished is not None and usable(wished) and wished not in self._taken:
            self._taken.add(wished)
            return wished
        number = 1
        while f"t{number}" in self._taken:
            number += 1
        self._taken.add(f"t{number}")
        return f"t{number}"

    def _write(self, node: Node) -> None:
        if node in self._written:
            return
        if node.op == "constant":
            self._written[node] = _number(node.value)
            return
        if node.op == "input":
            self._written[node] = self._function.inputs[node.name][0], ATOM
            return
        if node.op in _SHARING and self._write_together(node):
            return
        text, strength = self._expression(node)
        named = self._names.get(node)
        short = len(text) <= WIDTH and (named is None or not usable(named) or named in self._taken)
        if short and self._uses[node] == 1:
            self._written[node] = text, strength
            return
        name = self._fresh(node)
        self._lines.append(f"{name} = {text}")
        self._written[node] = name, ATOM

    def _write_together(self, node: Node) -> bool:
        """Write operations on one argument that share their exponential; not where there is only one."""
        wanted = self._wanted[node.args[0]]
        # The function that gives most of them, and of such the one that gives least else.
        giving = [function for function, ops in _TOGETHER.items() if node.op in ops]
        function = max(giving, key=lambda f: (len(wanted.keys() & set(_TOGETHER[f])), -len(_TOGETHER[f])))
        found = [wanted.get(op) for op in _TOGETHER[function]]
        if sum(n is not None for n in found) == 1 and node.op not in _NEVER_ALONE:
            return False
        self.used.add(function)
        names = ["_" if n is None else self._fresh(n) for n in found]
        self._lines.append(f"{', '.join(names)} = {function}({self._argument(node.args[0])}, precise)")
        for name, n in zip(names, found, strict=True):
            if n is not None:
                self._written[n] = name, ATOM
        return True

    def _argument(self, node: Node) -> str:
        """A node as an argument of a device function, which takes no plain numbers."""
        if node.op != "constant":
            return self._written[node][0]
        self._need_shape()
        return f"tl.full({self._shape}.shape, {self._written[node][0]}, tl.float32)"

    def _operand(self, node: Node, strength: int) -> str:
        text, own = self._written[node]
        return text if own > strength else f"({text})"

    def _expression(self, node: Node) -> tuple[str, int]:
        op, args = node.op, node.args
        if op in _INFIX:
            sign, strength = _INFIX[op]
            # Left to right; a comparison is never chained.
            left = self._operand(args[0], strength - 1 if strength > 4 else strength)
            return f"{left} {sign} {self._operand(args[1], strength)}", strength
        if op == "neg":
            return f"-{self._operand(args[0], 7)}", 7
        if op == "not":
            return f"~{self._operand(args[0], 7)}", 7
        if op in _TL:
            return _TL[op].format(*(self._operand(a, 2 if op == "sign" else 0) for a in args)), ATOM
        if op == "complement":
            self.used.add("sigmoid")
            return f"sigmoid(-{self._operand(args[0], 7)}, precise)", ATOM
        function = self._function_of(node)
        self.used.add(function)
        return f"{function}({', '.join(map(self._argument, args))}, precise)", ATOM

    def _function_of(self, node: Node) -> str:
        """The device function of an operation: a shorter one, where its last argument and its use allow it."""
        op, args = node.op, node.args
        normal = (op == "div" or op in _OF_NORMAL) and self._ranges(args[-1]).normal
        if op == "div" and normal and (node in self._scaled or args[0].op == "constant"):
            return "product_with_inverse"
        if op == "div" and args[1].op != "constant" and not self._is_block(args[1]):
            return "divide_by_parameter"
        return _OF_NORMAL[op] if normal and op != "div" else _FUNCTION.get(op, op)


def _only_scaled(nodes: Sequence[Node]) -> set[Node]:
    """Those of which nothing is made but products and gradients, where no difference shows what rounding lost.

    `nodes` are in order.
    """
    others = {a for n in nodes if not n.flows for a in n.args if n.op not in ("mul", "neg", "where", "div")}
    others |= {n.args[1] for n in nodes if n.op == "div"}
    for n in reversed(nodes):
        if n in others:
            others.update(n.args)
    return {n for n in nodes if n not in others}


def _number(value: float) -> tuple[str, int]:
    if math.isnan(value):
        return 'float("nan")', ATOM
    if math.isinf(value):
        return ('float("inf")', ATOM) if value > 0 else ('-float("inf")', 7)
    if abs(value) == LARGEST:
        value = math.copysign(LARGEST_FLOAT32, value)
    return repr(value), ATOM if value >= 0 else 7


def usable(name: str) -> bool:
    """Whether a user's name may be one in Triton's code."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_") and name.isascii()


def safe_name(name: str) -> str:
    """An identifier that resembles a name."""
    made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "activation"
    return made if usable(made) and made not in RESERVED else f"{made}_activation"


def module_text(head: str, functions: Sequence[Function], names: dict[Node, str]) -> str:
    """The text of a module with these device functions; `names` are the user's for what he named."""
    reserved = {*RESERVED, *(f.name for f in functions)}
    writers = [_Writer(f, names, reserved) for f in functions]
    used = set[str]().union(*(w.used for w in writers))
    imports = ["import triton", "import triton.language as tl", ""]
    for module in MODULES:
        mine = sorted(name for name in used if _HOME[name] == module)
        if mine:
            imports.append(f"from fusedact.kernels.{module} import {', '.join(mine)}")
    above = "\n".join(imports).rstrip()
    return f'"""{head}"""\n\n{above}\n\n\n' + "\n\n".join(w.text() for w in writers)
