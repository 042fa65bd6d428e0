"""Finds the products with an activation in the source of a function, and fuses them."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from .. import registry
from . import functional_calls as calls
from .reading import Reader, bound_names

__all__ = ["Products"]


class _Product(NamedTuple):
    """activation(gate) * value."""

    act: ast.expr
    gate: ast.expr
    value: ast.expr
    act_first: bool


class Products(Reader):
    """Rewrites the products of one function's definition in place."""

    def fuse_statements(self) -> None:
        """Join products that are written in several statements."""
        self._fuse_halves(self.definition.body)
        self._fuse_assigned(self.definition.body)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        match = self._product(node) if self.plan.twins else None
        if match is None:
            self.generic_visit(node)
            return node
        self.note(node, "glu", "FF.gated")
        act, gate, value = self._activation(match.act), self.visit(match.gate), self.visit(match.value)
        arguments = [act, gate, value] if match.act_first else [value, act, gate]
        helper = self.step(calls.product if match.act_first else calls.left_product)
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
        owner = function.value if isinstance(function, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id == self.itself:
            return function.attr in self.plan.gates  # type: ignore[attr-defined]
        found = calls.known(self.resolved(function))
        if found is None or found.inplace or self.plan.target(found.record)[1] is not None:
            return False
        spec = registry.get(found.record)
        return spec.kind == "elementwise" and spec.usual is not None

    def _activation(self, function: ast.expr) -> ast.expr:
        found = calls.known(self.resolved(function))
        if found is None:
            return function
        return self.step(calls.call_of(found, self.resolved(function), None))

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
        once = uses == ["Load", "Store"] and list(bound_names(self.definition)).count(name) == 1
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
            self.note(node, "glu", "FF.packed_glu")
            gate_first = ast.unparse(product.gate) == a
            kept = self.step(calls.in_halves)
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
        module = self.resolved(call.func.value)
        if module is None:
            given.insert(0, call.func.value)
        elif getattr(module, "__name__", "") != "torch":
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
