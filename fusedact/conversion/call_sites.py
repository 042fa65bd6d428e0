"""Finds, in the source of a function, the calls of PyTorch's activations and the products with them, and replaces them.

A call is one if its name leads to one of those functions through the function's own globals and closure, or if it is a
method of that name; nothing is run. Other ways that lead to such a function are found, and left.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from .. import registry
from . import functional_calls as calls
from .functional_calls import Known, TargetFunction
from .leads import NAMES, content, defaults, held, is_home, is_scripted, names_any
from .twin_modules import home

__all__ = ["Found", "Plan", "Rewriter", "definition_of", "inside"]


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


def inside(function: types.FunctionType, method: str, plan: Plan, why: str, depth: int = 0) -> list[Found]:
    """The calls in a function that is no method, all of which stay as they are."""
    if not plan.asks() or home(function) in ("torch", "fusedact", "None") or not names_any(function):
        return []
    try:
        inner = Rewriter(function, definition_of(function), method, plan, depth)
    except (OSError, TypeError, SyntaxError, ValueError):
        why = f"in the function {function.__name__}, whose source cannot be read by itself"
        return [Found(method, function.__code__.co_firstlineno, "what may be an activation", "", "", why)]
    inner.itself = ""
    inner.rewrite()
    return [f.left(why) for f in inner.found]


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


class _Product(NamedTuple):
    """activation(gate) * value."""

    act: ast.expr
    gate: ast.expr
    value: ast.expr
    act_first: bool


class Rewriter(ast.NodeTransformer):
    """Rewrites one function's definition in place; `found` and the new variables, `steps`, are what there was to do."""

    def __init__(
        self, function: types.FunctionType, definition: ast.FunctionDef, method: str, plan: Plan, depth: int = 0
    ) -> None:
        self.function, self.definition, self.method, self.plan = function, definition, method, plan
        self.depth = depth
        self.found: list[Found] = []
        self.steps: dict[str, Any] = {}
        self.bound = set(_bound(definition))
        first = [*definition.args.posonlyargs, *definition.args.args][:1]
        self.itself = first[0].arg if first else ""
        self.names = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)}

    def rewrite(self) -> None:
        """Do it."""
        if self.plan.twins:
            self._fuse_halves(self.definition.body)
            self._fuse_assigned(self.definition.body)
        for name, known in defaults(self.function):
            self._leave(self.definition, known.record, f"{name}=F.{known.record}", "the default of an argument")
        self.definition.body = [self.visit(statement) for statement in self.definition.body]
        ast.fix_missing_locations(self.definition)

    # ----- names

    def _resolved(self, node: ast.expr) -> Any:
        """What an expression of names and dots stands for, if that is a module or in one; None otherwise."""
        if isinstance(node, ast.Name):
            name, function = node.id, self.function
            if name in self.bound:
                return None
            if name in function.__code__.co_freevars:
                return content((function.__closure__ or ())[function.__code__.co_freevars.index(name)])
            return function.__globals__.get(name, getattr(builtins, name, None))
        if isinstance(node, ast.Attribute):
            home = self._resolved(node.value)
            return getattr(home, node.attr, None) if isinstance(home, types.ModuleType) else None
        return None

    def _step(self, value: Any) -> ast.Name:
        """A new variable from outside with this value."""
        for name, known in self.steps.items():
            if known is value:
                return ast.Name(id=name, ctx=ast.Load())
        name = f"fusedact_{len(self.steps)}"
        while name in self.names or name in self.bound:
            name += "_"
        self.steps[name] = value
        return ast.Name(id=name, ctx=ast.Load())

    def _leave(self, node: Any, record: str, text: str, why: str) -> None:
        """List what leads to a function in another way than a call by its name."""
        if self.plan.target(record)[0]:
            self._note(node, record, "", why, text)

    def _note(self, node: Any, record: str, becomes: str, why: str = "", text: str = "") -> None:
        text = text or ast.unparse(node)
        text = text if len(text) <= 60 else text[:57] + "..."
        self.found.append(Found(self.method, node.lineno, text, record, becomes, why))

    # ----- calls

    def _known_call(self, node: ast.Call) -> tuple[Known, Any, str] | None:
        """What a call calls: what is known of it, the function, or the method's name."""
        function = self._resolved(node.func)
        if (found := calls.known(function)) is not None:
            return found, function, ""
        if function is None and isinstance(node.func, ast.Attribute) and node.func.attr in calls.METHODS:
            home = node.func.value
            if isinstance(home, ast.Name) and (home.id == self.itself or self._resolved(home) is not None):
                return None
            if isinstance(home, ast.Call) and isinstance(home.func, ast.Name) and home.func.id == "super":
                return None
            return calls.METHODS[node.func.attr], None, node.func.attr
        return None

    def visit_Call(self, node: ast.Call) -> ast.expr:
        what = self._known_call(node)
        if what is None:
            self._look_into(node)
            # A name that is called is not one that is passed on.
            node.func = node.func if isinstance(node.func, ast.Name) else self._below(node.func)
            node.args = [self.visit(a) for a in node.args]
            node.keywords = [self.visit(k) for k in node.keywords]
            return node
        found, function, method = what
        chosen, target = self.plan.target(found.record)
        why = _why_not_taken(node, found, bool(method)) if chosen else ""
        text = ast.unparse(node.func) if not method else f".{method}"
        if chosen:
            becomes = calls.shown(found.record if target is None else target)
            self._note(node, found.record, "" if why else becomes, why, text)
        if chosen and not why:
            step = self._step(calls.call_of(found, function, target, method))
            home = [self.visit(node.func.value)] if method else []  # type: ignore[attr-defined]
            node.func = ast.copy_location(step, node.func)
            node.args = [*home, *(self.visit(a) for a in node.args)]
        else:
            node.func = self._below(node.func)
            node.args = [self.visit(a) for a in node.args]
        node.keywords = [self.visit(k) for k in node.keywords]
        return node

    def _below(self, function: ast.expr) -> ast.expr:
        """What is called, with the expression before its last dot rewritten."""
        if isinstance(function, ast.Attribute):
            function.value = self.visit(function.value)
            return function
        return function if isinstance(function, ast.Name) else self.visit(function)

    def _look_into(self, node: ast.Call) -> None:
        """List what a call leads to that is no method, and no function of PyTorch by its name."""
        function = self._resolved(node.func)
        if function is getattr and node.args and is_home(self._resolved(node.args[0])):
            self._looked_up(node)
        elif isinstance(function, types.FunctionType) and self.depth < 3:
            why = f"in the function {function.__name__}, which is no method"
            self.found += inside(function, self.method, self.plan, why, self.depth + 1)
        elif isinstance(function, partial):
            self._listed(node.func)
        elif is_scripted(function):
            text, graph = ast.unparse(node.func), str(function.graph)
            for name in sorted(NAMES):
                if f"aten::{name}(" in graph:
                    record = name.rstrip("_")
                    self._leave(node, record, f"F.{record}", f"in the function {text}, which torch.jit.script made")

    def _looked_up(self, node: ast.Call) -> None:
        """List a function that is an attribute of PyTorch by a string."""
        text = ast.unparse(node)
        name = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else None
        if isinstance(name, str):
            found = calls.known(getattr(self._resolved(node.args[0]), name, None))
            if found is not None:
                self._leave(node, found.record, text, "looked up by its name")
        elif self.plan.asks():
            self._note(node, "", "", "looked up by a name that is known only when it runs", text)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        self._passed_on(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not self._passed_on(node):
            node.value = self.visit(node.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, *node.comparators]
        if any(calls.known(self._resolved(s)) for s in sides):
            return node
        self.generic_visit(node)
        return node

    def _passed_on(self, node: Any) -> bool:
        """List a function that is no call here, and those in a container."""
        if not isinstance(node.ctx, ast.Load):
            return False
        found = calls.known(self._resolved(node))
        if found is None:
            self._listed(node)
            return False
        why = "passed on as a value, so that nobody sees where it is called"
        self._leave(node, found.record, ast.unparse(node), why)
        return True

    def _listed(self, node: ast.expr) -> None:
        """List the functions that a name of the file holds, in a container or with arguments."""
        value = self._resolved(node)
        for found in held(value):
            self._leave(node, found.record, f"F.{found.record}", f"in {ast.unparse(node)}, a {type(value).__name__}")

    # ----- products

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        match = self._product(node) if self.plan.twins else None
        if match is None:
            self.generic_visit(node)
            return node
        self._note(node, "glu", "FF.gated")
        act, gate, value = self._activation(match.act), self.visit(match.gate), self.visit(match.value)
        arguments = [act, gate, value] if match.act_first else [value, act, gate]
        helper = self._step(calls.product if match.act_first else calls.left_product)
        return ast.copy_location(ast.Call(func=helper, args=arguments, keywords=[]), node)

    def _product(self, node: ast.AST) -> _Product | None:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            return None
        for call, value, first in ((node.left, node.right, True), (node.right, node.left, False)):
            if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords:
                continue
            if isinstance(call.args[0], ast.Starred) or isinstance(value, ast.Constant):
                continue
            if self._is_gate(call.func):
                return _Product(call.func, call.args[0], value, first)
        return None

    def _is_gate(self, function: ast.expr) -> bool:
        """Whether it is an elementwise activation: a function, or a module's attribute."""
        home = function.value if isinstance(function, ast.Attribute) else None
        if isinstance(home, ast.Name) and home.id == self.itself:
            return function.attr in self.plan.gates  # type: ignore[attr-defined]
        found = calls.known(self._resolved(function))
        if found is None or found.inplace or self.plan.target(found.record)[1] is not None:
            return False
        spec = registry.get(found.record)
        return spec.kind == "elementwise" and spec.usual is not None

    def _activation(self, function: ast.expr) -> ast.expr:
        found = calls.known(self._resolved(function))
        if found is None:
            return function
        return self._step(calls.call_of(found, self._resolved(function), None))

    def _fuse_assigned(self, body: list[Any]) -> None:
        """Make `gate = act(x)` and `gate * value`, where nothing else reads it, `gate = x` and `act(gate) * value`.

        Only plain assignments may stand in between, as the call moves past them; modules called there are taken to
        leave what they are not given as it is, like those of a product on one line.
        """
        for i, statement in enumerate(body):
            if isinstance(statement, ast.If | ast.With):
                self._fuse_assigned(statement.body)
                self._fuse_assigned(getattr(statement, "orelse", []))
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target, call = statement.targets[0], statement.value
            if not isinstance(target, ast.Name) or not isinstance(call, ast.Call) or not self._only(target.id):
                continue
            for using in body[i + 1 :]:
                if not isinstance(using, ast.Assign | ast.Return | ast.Expr) or _changes(using):
                    break
                if any(isinstance(n, ast.Name) and n.id == target.id for n in ast.walk(using)):
                    if self._put(call, target.id, using):
                        statement.value = call.args[0]
                    break
                if not isinstance(using, ast.Assign) or not all(isinstance(t, ast.Name) for t in using.targets):
                    break

    def _only(self, name: str) -> bool:
        """Whether a name is given one value and read once, and is seen nowhere else."""
        names = [n for n in ast.walk(self.definition) if isinstance(n, ast.Name)]
        uses = sorted(type(n.ctx).__name__ for n in names if n.id == name)
        outside = [n for n in ast.walk(self.definition) if isinstance(n, ast.Global | ast.Nonlocal) and name in n.names]
        looked_up = {"locals", "vars", "eval", "exec"} & {n.id for n in names}
        once = uses == ["Load", "Store"] and list(_bound(self.definition)).count(name) == 1
        return once and not outside and not looked_up

    def _put(self, call: ast.Call, name: str, statement: ast.stmt) -> bool:
        """Put a call of the name in its place, if it then is a product with a gate."""
        for node in ast.walk(statement):
            if not isinstance(node, ast.BinOp) or self._product(node) is not None:
                continue
            for side in ("left", "right"):
                read = getattr(node, side)
                if isinstance(read, ast.Name) and read.id == name:
                    moved = ast.copy_location(ast.Call(func=call.func, args=[read], keywords=call.keywords), read)
                    setattr(node, side, moved)
                    match = self._product(node)
                    if match is not None and match.act is call.func and len(call.args) == 1:
                        return not isinstance(call.args[0], ast.Starred)
                    setattr(node, side, read)
        return False

    def _fuse_halves(self, body: list[Any]) -> None:
        """Join `a, b = both.chunk(2, dim)` and the product right after it, where nothing else reads the halves."""
        for i, statement in enumerate(body):
            if isinstance(statement, ast.If | ast.With):
                self._fuse_halves(statement.body)
                self._fuse_halves(getattr(statement, "orelse", []))
            halves = self._halves(statement) if i + 1 < len(body) else None
            if halves is None:
                continue
            (a, b), both, dim = halves
            match = self._only_product(body[i + 1], a, b)
            if match is None or not self._read_once(statement, body[i + 1], (a, b)):
                continue
            node, product = match
            self._note(node, "glu", "FF.packed_glu")
            gate_first = ast.unparse(product.gate) == a
            kept = self._step(calls.in_halves)
            name = f"{kept.id}_both"
            statement.targets, statement.value = [ast.Name(id=name, ctx=ast.Store())], both
            self.bound.add(name)
            arguments = [
                self._activation(product.act),
                ast.Name(id=name, ctx=ast.Load()),
                ast.Constant(dim),
                ast.Constant(gate_first),
            ]
            made = ast.Call(func=kept, args=arguments, keywords=[])
            body[i + 1] = ast.copy_location(
                _Replace(node, ast.copy_location(made, node)).visit(body[i + 1]), body[i + 1]
            )

    def _halves(self, statement: ast.stmt) -> tuple[tuple[str, str], ast.expr, int] | None:
        """The names, the tensor and the dimension of `a, b = both.chunk(2, dim)`."""
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return None
        target, call = statement.targets[0], statement.value
        if not isinstance(target, ast.Tuple) or not isinstance(call, ast.Call) or len(target.elts) != 2:
            return None
        names = [n.id for n in target.elts if isinstance(n, ast.Name)]
        if len(set(names)) != 2 or not isinstance(call.func, ast.Attribute) or call.func.attr != "chunk":
            return None
        given = list(call.args)
        home = self._resolved(call.func.value)
        if home is None:
            given.insert(0, call.func.value)
        elif getattr(home, "__name__", "") != "torch":
            return None
        keywords = {k.arg: k.value for k in call.keywords}
        parts = dict(zip(("input", "chunks", "dim"), given, strict=False)) | keywords
        try:
            count, dim = ast.literal_eval(parts["chunks"]), ast.literal_eval(parts.get("dim", ast.Constant(0)))
        except (KeyError, ValueError, TypeError):
            return None
        known = {"input", "chunks", "dim"}
        if count != 2 or type(dim) is not int or not known >= set(parts) or len(parts) != len(given) + len(keywords):
            return None
        return (names[0], names[1]), parts["input"], dim

    def _only_product(self, statement: ast.stmt, a: str, b: str) -> tuple[Any, _Product] | None:
        """The product of one half, activated, and the other."""
        if not isinstance(statement, ast.Assign | ast.Return | ast.Expr):
            return None
        found = []
        for node in ast.walk(statement):
            match = self._product(node)
            if match is not None and {ast.unparse(match.gate), ast.unparse(match.value)} == {a, b}:
                found.append((node, match))
        return found[0] if len(found) == 1 else None

    def _read_once(self, halving: ast.Assign, using: ast.stmt, names: tuple[str, str]) -> bool:
        """Whether nothing reads the halves but the product."""
        inside = {id(n) for n in ast.walk(halving)}
        reads = [n for n in ast.walk(self.definition) if isinstance(n, ast.Name) and n.id in names]
        reads = [n for n in reads if isinstance(n.ctx, ast.Load) and id(n) not in inside]
        used = {id(n) for n in ast.walk(using)}
        stored = [t.id for t in getattr(using, "targets", []) if isinstance(t, ast.Name)]
        begin, end = (halving.lineno, halving.col_offset), (using.end_lineno or 0, using.end_col_offset or 0)
        others = [n for n in reads if id(n) not in used]
        return len(reads) - len(others) == 2 and all(
            (n.lineno, n.col_offset) < begin or (n.id in stored and (n.lineno, n.col_offset) >= end) for n in others
        )


class _Replace(ast.NodeTransformer):
    """One node by another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def _changes(statement: ast.stmt) -> bool:
    """Whether a statement says that it changes a tensor, or runs a part of it later, or elsewhere."""
    apart = (
        *(ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Lambda),
        *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
    )
    for node in ast.walk(statement):
        if isinstance(node, apart):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if (name.endswith("_") and not name.endswith("__")) or {"out", "inplace"} & {k.arg for k in node.keywords}:
                return True
    return False


def _bound(definition: ast.FunctionDef) -> Iterator[str]:
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


def _why_not_taken(node: ast.Call, found: Known, method: bool) -> str:
    """Why the twin cannot take a call's arguments; an empty string if it can."""
    if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
        return "its arguments are unpacked, so that they cannot be read"
    unknown = [k.arg for k in node.keywords if k.arg not in (*found.positional, *found.by_name)]
    if unknown:
        return f"the twin has no argument {unknown[0]}"
    if len(node.args) > len(found.positional):
        return f"called with {len(node.args)} arguments by position, of which the twin takes {len(found.positional)}"
    if not method and not node.args and "input" not in [k.arg for k in node.keywords]:
        return "called without an input"
    return ""
