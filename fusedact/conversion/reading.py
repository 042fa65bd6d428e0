"""A function's source as it is read: what is asked for, what is found, and what its names stand for."""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from .functional_calls import TargetFunction
from .leads import content

__all__ = ["Found", "Plan", "Reader", "bound_names", "definition_of"]


class Plan(NamedTuple):
    """What is replaced: functions by their record's name, None for the twin; and all others by their twins if `twins`.

    `gates` are attributes of a module that hold an elementwise activation. Products with them, and with functions, are
    fused if `twins`.
    """

    functions: tuple[tuple[str, TargetFunction | None], ...] = ()
    gates: frozenset[str] = frozenset()
    twins: bool = False

    def asks(self) -> bool:
        """Whether it replaces any call."""
        return self.twins or bool(self.functions)

    def target(self, record: str) -> tuple[bool, TargetFunction | None]:
        """Whether calls of a record's function are replaced, and by what."""
        chosen = dict(self.functions)
        return self.twins or record in chosen, chosen.get(record)

    def over(self, earlier: Plan) -> Plan:
        """This plan for what an earlier one has changed already."""
        functions = {**dict(earlier.functions), **dict(self.functions)}
        return Plan(tuple(sorted(functions.items(), key=lambda f: f[0])), self.gates, earlier.twins or self.twins)


class Found(NamedTuple):
    """A call: where and what it is, its record, and what takes its place, or why nothing does."""

    method: str
    line: int
    text: str
    record: str
    becomes: str
    why: str = ""

    def left(self, why: str) -> Found:
        """The same, where it stays as it is."""
        return self._replace(becomes="", why=why) if self.becomes else self


def definition_of(function: Any) -> ast.FunctionDef:
    """A function's definition as its file has it, with that file's line numbers, and without decorators.

    Raises:
        OSError, TypeError, SyntaxError, ValueError: if there is none that can be read.
    """
    lines, first = inspect.getsourcelines(function)
    text = "".join(lines)
    if text[:1].isspace():
        # Keeps the columns, which errors point at.
        text, first = "if True:\n" + text, first - 1
    node: Any = ast.parse(text).body[0]
    if isinstance(node, ast.If):
        node = node.body[0]
    if not isinstance(node, ast.FunctionDef):
        raise ValueError("no def")
    node.decorator_list = []
    ast.increment_lineno(node, first - 1)
    return node


class Reader(ast.NodeTransformer):
    """One function's definition; `found` and the new variables, `steps`, are what there was to do."""

    def __init__(
        self, function: types.FunctionType, definition: ast.FunctionDef, method: str, plan: Plan, depth: int = 0
    ) -> None:
        self.function, self.definition, self.method, self.plan = function, definition, method, plan
        self.depth = depth
        self.found: list[Found] = []
        self.steps: dict[str, Any] = {}
        self.bound = set(bound_names(definition))
        first = [*definition.args.posonlyargs, *definition.args.args][:1]
        self.itself = first[0].arg if first else ""
        self.names = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)}

    def resolved(self, node: ast.expr) -> Any:
        """What an expression of names and dots stands for, if that is a module or in one; None otherwise."""
        if isinstance(node, ast.Name):
            name, function = node.id, self.function
            if name in self.bound:
                return None
            if name in function.__code__.co_freevars:
                return content((function.__closure__ or ())[function.__code__.co_freevars.index(name)])
            return function.__globals__.get(name, getattr(builtins, name, None))
        if isinstance(node, ast.Attribute):
            module = self.resolved(node.value)
            return getattr(module, node.attr, None) if isinstance(module, types.ModuleType) else None
        return None

    def step(self, value: Any) -> ast.Name:
        """A new variable from outside with this value."""
        for name, known in self.steps.items():
            if known is value:
                return ast.Name(id=name, ctx=ast.Load())
        name = f"fusedact_{len(self.steps)}"
        while name in self.names or name in self.bound:
            name += "_"
        self.steps[name] = value
        return ast.Name(id=name, ctx=ast.Load())

    def leave(self, node: Any, record: str, text: str, why: str) -> None:
        """List what leads to a function in another way than a call by its name."""
        if self.plan.target(record)[0]:
            self.note(node, record, "", why, text)

    def note(self, node: Any, record: str, becomes: str, why: str = "", text: str = "") -> None:
        text = text or ast.unparse(node)
        text = text if len(text) <= 60 else text[:57] + "..."
        self.found.append(Found(self.method, node.lineno, text, record, becomes, why))


def bound_names(definition: ast.FunctionDef) -> Iterator[str]:
    """Every name that a function, or one inside it, gives a value of its own."""
    for node in ast.walk(definition):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and node is not definition:
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
