"""Classes whose methods call this library: a subclass of the same name, with those methods compiled anew.

The source is read, and never run; Python's control flow in it stays what it is. It is trusted only if Python makes of
it the very code that the method has. Replacements come in as variables of a closure, which torch.compile follows.
"""

from __future__ import annotations
import __future__

import ast
import copyreg
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

from .call_sites import Rewriter
from .leads import names_any
from .reading import Found, Plan, definition_of
from .twin_modules import home

__all__ = ["original", "plan_of", "rewritten"]


def original(cls: type) -> type:
    """The class that was rewritten, or the class itself."""
    return vars(cls).get("_rewritten_from", (cls,))[0]


def plan_of(cls: type) -> Plan:
    """What was replaced in a class; nothing in one that was not rewritten."""
    return vars(cls).get("_rewritten_from", (cls, Plan()))[1]


_made: dict[tuple[type, Plan], tuple[type | None, tuple[Found, ...]]] = {}


def rewritten(cls: type, plan: Plan) -> tuple[type | None, tuple[Found, ...]]:
    """A subclass whose methods call what the plan says, None if nothing changes; and all calls that there are."""
    key = cls, plan
    if key not in _made:
        _made[key] = _rewrite_class(cls, plan)
    return _made[key]


def _methods(cls: type) -> Iterator[tuple[str, Any, type, bool]]:
    """The code of a class that is a user's, or another library's: name, value, where, and whether it is overridden."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if home(base) not in ("torch", "fusedact", "builtins", "abc", "typing", "keras"):
            for name, value in vars(base).items():
                if not name.startswith("__"):
                    yield name, value, base, name in seen
        seen |= set(vars(base))


def _rewrite_class(cls: type, plan: Plan) -> tuple[type | None, tuple[Found, ...]]:
    made: dict[str, Any] = {}
    found: list[Found] = []
    for name, value, base, hidden in _methods(cls):
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        wrapped = inspect.unwrap(function) if callable(function) else None
        if not isinstance(function, types.FunctionType) or not isinstance(wrapped, types.FunctionType):
            continue
        if home(wrapped) in ("torch", "fusedact") or not names_any(wrapped, plan.gates):
            continue
        changed, here = _rewrite_method(function, name, base, plan)
        if changed is not None and (hidden or function is not value):
            kind = "reached through super()" if hidden else f"a {type(value).__name__}"
            found += [f.left(f"in {base.__name__}.{name}, {kind}") for f in here]
            continue
        found += here
        if changed is not None:
            made[name] = changed
    if not made:
        return None, tuple(found)
    try:
        return _subclass(cls, plan, made), tuple(found)
    except Exception as error:  # whatever a metaclass, or __init_subclass__, raises
        why = f"no class can be derived from {cls.__name__}: {type(error).__name__}: {error}"
        return None, tuple(f.left(why) for f in found)


def _subclass(cls: type, plan: Plan, methods: dict[str, Any]) -> type:
    body = {
        **methods,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce_ex,
        "_rewritten_from": (cls, plan),
    }
    return types.new_class(cls.__name__, (cls,), {}, lambda namespace: namespace.update(body))


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """As its class is pickled and copied, and then rewritten again."""
    here: Any = next(c for c in type(self).__mro__ if "_rewritten_from" in vars(c))
    made = super(here, self).__reduce_ex__(protocol)
    if made[0] is copyreg.__newobj__ and made[1][0] is type(self):  # type: ignore[attr-defined]
        return _restored, (*vars(here)["_rewritten_from"], *made[1][1:]), *made[2:]
    return made


def _restored(cls: type, plan: Plan, *arguments: Any) -> Any:
    """An empty object of a class, rewritten."""
    made = rewritten(cls, plan)[0] or cls
    return made.__new__(made, *arguments)


def _rewrite_method(
    function: types.FunctionType, name: str, base: type, plan: Plan
) -> tuple[types.FunctionType | None, list[Found]]:
    wrapped = inspect.unwrap(function)
    if wrapped is not function:
        _, found = _rewrite_method(wrapped, name, base, plan)
        return None, [f.left(f"in {name}, which is decorated") for f in found]
    code = function.__code__
    try:
        definition, plain = definition_of(function), definition_of(function)
    except (OSError, TypeError, SyntaxError, ValueError):
        why = f"in {name}, whose source cannot be read"
        return None, [Found(name, code.co_firstlineno, "what may be an activation", "", "", why)]
    rewriter = Rewriter(function, definition, name, plan)
    rewriter.rewrite()
    if not rewriter.steps:
        return None, rewriter.found
    read = _compiled(function, base, plain, ())
    if read is None or not _same(read, code):
        return None, [f.left(f"in {name}, whose source is not what runs") for f in rewriter.found]
    changed = _compiled(function, base, definition, tuple(rewriter.steps))
    assert changed is not None
    return _with_code(function, changed, rewriter.steps), rewriter.found


_FUTURES = 0
for _feature in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _feature).compiler_flag


def _compiled(
    function: types.FunctionType, base: type, definition: ast.FunctionDef, extra: tuple[str, ...]
) -> types.CodeType | None:
    """What Python makes of a definition inside its class, with further variables from outside."""
    outer = [n for n in function.__code__.co_freevars if n != "__class__"]
    # Python calls what a file imports in another way than other globals.
    imports = "".join(f"import {name}\n" for name in _imported("".join(inspect.findsource(function)[0])))
    cls = base.__name__
    scope = "" if cls in outer else f" global {cls}\n"
    make: Any = ast.parse(f"{imports}def make({', '.join([*outer, *extra])}):\n{scope} class {cls}: pass")
    make.body[-1].body[-1].body = [definition]
    flags = function.__code__.co_flags & _FUTURES
    code: Any = compile(make, function.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    for name in ("make", cls, definition.name):
        inner = [c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name]
        if len(inner) != 1:
            return None
        code = inner[0]
    return code


@functools.lru_cache(32)
def _imported(text: str) -> tuple[str, ...]:
    """The names that a file imports outside of functions and classes."""
    found: set[str] = set()
    try:
        inner: list[Any] = list(ast.parse(text).body)
    except SyntaxError:
        # Only the method has to be Python: the rest may be a document, or be edited right now.
        return ()
    while inner:
        node = inner.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner += ast.iter_child_nodes(node)
    return tuple(sorted(found - {"*"}))


def _same(a: Any, b: Any) -> bool:
    """Whether two code objects, or constants, are the same wherever they stand in a file."""
    if not isinstance(a, types.CodeType) or not isinstance(b, types.CodeType):
        return type(a) is type(b) and repr(a) == repr(b)
    same = (
        *("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars"),
        *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
    )
    return (
        # But for where it is: inside another function, or not.
        (a.co_flags ^ b.co_flags) & ~inspect.CO_NESTED == 0
        and all(getattr(a, n) == getattr(b, n) for n in same)
        and len(a.co_consts) == len(b.co_consts)
        and all(_same(x, y) for x, y in zip(a.co_consts, b.co_consts, strict=True))
    )


def _with_code(function: types.FunctionType, code: types.CodeType, values: dict[str, Any]) -> types.FunctionType:
    """A function with other code, and variables of its closure beside those that it has."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: types.CellType(value) for name, value in values.items()}
    closure = tuple(cells[name] for name in code.co_freevars)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    for name in ("__kwdefaults__", "__annotations__", "__qualname__", "__doc__", "__module__"):
        setattr(made, name, getattr(function, name))
    made.__dict__.update(function.__dict__)
    return made
