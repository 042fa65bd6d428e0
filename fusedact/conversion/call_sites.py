"""Finds the calls of PyTorch's activations in the source of a function, and replaces them.

A call is one if its name leads to one of those functions through the function's own globals and closure, or if it is a
method of that name; nothing is run. Other ways that lead to such a function are found, and left.
"""

from __future__ import annotations

import ast
import types
from functools import partial
from typing import Any

from . import functional_calls as calls
from .functional_calls import Known
from .leads import NAMES, defaults, held, is_home, is_scripted, names_any
from .products import Products
from .reading import Found, Plan, definition_of
from .twin_modules import home

__all__ = ["Rewriter", "inside"]


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


class Rewriter(Products):
    """Rewrites one function's definition in place: the products, and then the calls."""

    def rewrite(self) -> None:
        """Do it."""
        if self.plan.twins:
            self.fuse_statements()
        for name, known in defaults(self.function):
            self.leave(self.definition, known.record, f"{name}=F.{known.record}", "the default of an argument")
        self.definition.body = [self.visit(statement) for statement in self.definition.body]
        ast.fix_missing_locations(self.definition)

    # ----- calls

    def _known_call(self, node: ast.Call) -> tuple[Known, Any, str] | None:
        """What a call calls: what is known of it, the function, or the method's name."""
        function = self.resolved(node.func)
        if (found := calls.known(function)) is not None:
            return found, function, ""
        if function is None and isinstance(node.func, ast.Attribute) and node.func.attr in calls.METHODS:
            owner = node.func.value
            if isinstance(owner, ast.Name) and (owner.id == self.itself or self.resolved(owner) is not None):
                return None
            if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
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
            self.note(node, found.record, "" if why else becomes, why, text)
        if chosen and not why:
            step = self.step(calls.call_of(found, function, target, method))
            first = [self.visit(node.func.value)] if method else []  # type: ignore[attr-defined]
            node.func = ast.copy_location(step, node.func)
            node.args = [*first, *(self.visit(a) for a in node.args)]
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
        function = self.resolved(node.func)
        if function is getattr and node.args and is_home(self.resolved(node.args[0])):
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
                    self.leave(node, record, f"F.{record}", f"in the function {text}, which torch.jit.script made")

    def _looked_up(self, node: ast.Call) -> None:
        """List a function that is an attribute of PyTorch by a string."""
        text = ast.unparse(node)
        name = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else None
        if isinstance(name, str):
            found = calls.known(getattr(self.resolved(node.args[0]), name, None))
            if found is not None:
                self.leave(node, found.record, text, "looked up by its name")
        elif self.plan.asks():
            self.note(node, "", "", "looked up by a name that is known only when it runs", text)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        self._passed_on(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not self._passed_on(node):
            node.value = self.visit(node.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, *node.comparators]
        if any(calls.known(self.resolved(s)) for s in sides):
            return node
        self.generic_visit(node)
        return node

    def _passed_on(self, node: Any) -> bool:
        """List a function that is no call here, and those in a container."""
        if not isinstance(node.ctx, ast.Load):
            return False
        found = calls.known(self.resolved(node))
        if found is None:
            self._listed(node)
            return False
        why = "passed on as a value, so that nobody sees where it is called"
        self.leave(node, found.record, ast.unparse(node), why)
        return True

    def _listed(self, node: ast.expr) -> None:
        """List the functions that a name of the file holds, in a container or with arguments."""
        value = self.resolved(node)
        for found in held(value):
            self.leave(node, found.record, f"F.{found.record}", f"in {ast.unparse(node)}, a {type(value).__name__}")


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
