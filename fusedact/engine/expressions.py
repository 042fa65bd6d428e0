"""Elementwise expressions: the form in which the engine holds a function between tracing it and writing its code."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

__all__ = ["BOOLEAN", "LARGEST", "Graph", "Node", "numeric", "order", "varies"]

# Stands for the largest number of the dtype that is computed in.
LARGEST = sys.float_info.max

# Operations whose result is true or false.
BOOLEAN = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not", "true", "false"})
# Of these, those that take such results.
CONNECTIVES = frozenset({"and", "or", "xor", "not"})
COMMUTATIVE = frozenset({"add", "mul", "max", "min", "fmax", "fmin", "eq", "ne", "and", "or", "xor"})


@dataclass(frozen=True, eq=False)
class Node:
    """An operation on other nodes; or a constant, with its value; or an input, with its name.

    The nodes of a graph are the same object where they are the same expression.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: float = 0.0
    name: str = ""
    # Whether a gradient that comes in is a part of it: an input "g", "ggx" or "ggp".
    flows: bool = False
    # Counts the nodes of a graph as they are made: an operation comes after what it takes.
    number: int = 0

    @property
    def boolean(self) -> bool:
        return self.op in BOOLEAN

    def __repr__(self) -> str:
        if self.op == "constant":
            return f"{self.value:g}"
        if self.op == "input":
            return self.name
        return f"{self.op}({', '.join(map(repr, self.args))})"


def varies(name: str) -> bool:
    """Whether the input of this name has an element for each of x's; parameters, p0 and so on, need not."""
    return name.startswith(("x", "g")) and not name.startswith("ggp")


# What an operation does with numbers, where torch's own name says it not.
_FOLDED: dict[str, Callable[..., torch.Tensor]] = {
    "sub": torch.sub,
    "max": torch.maximum,
    "min": torch.minimum,
    "neg": torch.neg,
    "sech2": lambda x: 1 / torch.cosh(x) ** 2,
    "complement": lambda x: torch.sigmoid(-x),
    "sigmoid_slope": lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    "softplus": torch.nn.functional.softplus,
    **{"exp_nonpositive": torch.exp, "expm1_nonpositive": torch.expm1},
    **{f"{op}": getattr(torch, f"logical_{op}") for op in ("and", "or", "xor", "not")},
}


def numeric(op: str) -> Callable[..., torch.Tensor] | None:
    """The function of tensors that an operation is; None for one that torch has not under its own name."""
    return _FOLDED.get(op) or getattr(torch, op, None)


def _folded(op: str, values: Sequence[float]) -> float | None:
    """An operation on constants, in float64; None for one that has no numbers for a result."""
    function = numeric(op)
    if op in BOOLEAN or function is None:
        return None
    return float(function(*(torch.tensor(v, dtype=torch.float64, device="cpu") for v in values)))


@dataclass
class Graph:
    """Makes nodes: equal ones once, constants folded, and each through the rules of `rewrite`."""

    rewrite: Callable[[Graph, str, tuple[Node, ...]], Node | None] = lambda *_: None
    # The user's name for a node, where there is one.
    names: dict[Node, str] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Node] = field(default_factory=dict)

    def _intern(self, op: str, args: tuple[Node, ...] = (), value: float = 0.0, name: str = "") -> Node:
        # The sign of a zero tells constants apart; one NaN is like another.
        shown = (math.copysign(1.0, value), "nan" if math.isnan(value) else value)
        key = (op, args, shown, name)
        node = self._known.get(key)
        if node is None:
            flows = name.startswith("g") or any(a.flows for a in args)
            node = self._known[key] = Node(op, args, value, name, flows, len(self._known))
        return node

    def input(self, name: str) -> Node:
        return self._intern("input", name=name)

    def constant(self, value: float | bool) -> Node:
        if isinstance(value, bool):
            return self._intern("true" if value else "false")
        return self._intern("constant", value=float(value))

    def number(self, a: Node | float | bool) -> Node:
        """A condition as 1 or 0; anything else as it is."""
        node = a if isinstance(a, Node) else self.constant(a)
        return self("where", node, 1.0, 0.0) if node.boolean else node

    def condition(self, a: Node | float | bool) -> Node:
        """A number as whether it is not 0; a condition as it is."""
        node = a if isinstance(a, Node) else self.constant(a)
        return node if node.boolean else self("ne", node, 0.0)

    def __call__(self, op: str, *arguments: Node | float | bool) -> Node:
        """The node of an operation; its arguments become numbers or conditions, whichever it takes."""
        taken = len(arguments) if op in CONNECTIVES else 1 if op == "where" else 0
        args = (*map(self.condition, arguments[:taken]), *map(self.number, arguments[taken:]))
        if args and all(a.op == "constant" for a in args):
            value = _folded(op, [a.value for a in args])
            if value is not None:
                return self.constant(value)
        found = self.rewrite(self, op, args)
        if found is not None:
            return found
        if op in COMMUTATIVE:
            # Constants last, else in the order of their making.
            args = tuple(sorted(args, key=lambda a: (a.op == "constant", a.number)))
        return self._intern(op, args)

    def copied(self, nodes: Iterable[Node], into: Graph) -> list[Node]:
        """The same expressions as nodes of another graph, through its rules; user's names come along."""
        nodes = list(nodes)
        made: dict[Node, Node] = {}
        for node in order(nodes):
            if node.op in ("input", "constant"):
                made[node] = into._intern(node.op, value=node.value, name=node.name)
            else:
                made[node] = into(node.op, *(made[a] for a in node.args))
            if node in self.names:
                into.names.setdefault(made[node], self.names[node])
        return [made[n] for n in nodes]


def order(nodes: Iterable[Node], enter: Callable[[Node], bool] = lambda _: True) -> Iterator[Node]:
    """These nodes and all that they are made of, each after its arguments; nothing that only those not entered need."""
    seen: set[Node] = set()

    def arguments(node: Node) -> Iterator[Node]:
        return iter(node.args if enter(node) else ())

    for root in nodes:
        stack = [(root, arguments(root))]
        if root in seen:
            continue
        while stack:
            node, rest = stack[-1]
            following = next((a for a in rest if a not in seen), None)
            if following is not None:
                stack.append((following, arguments(following)))
                continue
            stack.pop()
            if node not in seen:
                seen.add(node)
                yield node
