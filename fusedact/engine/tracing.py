"""Records what a plain PyTorch function and its derivatives compute, as expressions.

The function is run on small tensors, in a thread of its own, where no transform, mode or autocast of the caller is at
work; every operator that PyTorch executes for it, and for autograd after it, is looked up in `lowering.TABLE`.
"""

from __future__ import annotations

import keyword
import linecache
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from .. import compat, dispatch
from .expressions import Graph, Node
from .lowering import TABLE

__all__ = ["ACTIVATION", "SHAPES", "Recorder", "Trace", "UnsupportedError", "Words", "in_thread", "record"]


class UnsupportedError(ValueError):
    """A function that is no elementwise activation, or is made of something that the kernels have not."""


@dataclass
class Trace:
    """A function's expressions: its value, its gradients, and theirs.

    Inputs are named "x", "g" (the gradient that comes in), "ggx" (that of x's gradient), and the parameters p0, p1, ...
    with ggp0, ggp1, ... of theirs.
    """

    graph: Graph
    value: Node
    # Of x, and of each parameter.
    gradients: list[Node] = field(default_factory=list)
    # Of g, of x, and of each parameter, from ggx and the ggp. Empty where PyTorch has no second derivative.
    second: list[Node] = field(default_factory=list)


# Two shapes: a function that depends on the shape gives different expressions.
SHAPES = ((2, 3), (5,))
FOLDERS = tuple(
    os.path.dirname(os.path.abspath(f)) + os.sep for f in (torch.__file__, os.path.dirname(os.path.abspath(__file__)))
)

INSTEAD = {
    "random": "draws random numbers, and {kind} always gives the same; do that outside",
    "control": "turns a tensor into a Python number or condition; use torch.where instead of if, torch.maximum instead "
    "of max, and torch's operators instead of Python's math",
    "numpy": "leaves PyTorch for NumPy; use torch's operators",
    "reduce": "is not elementwise, and {kind} maps each element by itself; do that outside",
    "inplace": "changes {given} in place; use the operator that makes a new tensor",
    "assign": "changes elements in place; use torch.where",
    "dtype": "computes in {0}, and kernels in float32; leave the dtype as it is",
    "outside": "of shape {0} is made of neither {inputs}; {instead}",
    "learned": "that requires a gradient is neither {inputs}; make it a parameter",
    "unknown": "is not among the elementwise operators that kernels have, which docs/operators.md lists; write it in "
    "those",
    "derivative": "has no derivative in PyTorch; use it under torch.no_grad(), or another operator",
    "shape": "depends on the shape of {first}, and {kind} maps each element by itself",
    "number": "; the parameters are tensors inside the function: write the formula in operators that take tensors, "
    "such as torch.where",
}


@dataclass(frozen=True)
class Words:
    """How errors speak of what is traced."""

    owner: str
    kind: str
    # What it is given, as the inputs of a formula, and as what must not be changed.
    inputs: str
    given: str
    first: str
    # What to make of a tensor from outside.
    instead: str
    # What every error ends with.
    ending: str = ""

    def why(self, reason: str, *details: object) -> str:
        """A reason of INSTEAD in full."""
        return INSTEAD[reason].format(*details, **vars(self))


ACTIVATION = Words(
    "fusedact.activation",
    "an activation",
    "x nor a parameter",
    "x or a parameter",
    "x",
    "if it is one number, or one per channel, make it a parameter",
    "; or pass fallback='eager', which stays in PyTorch",
)
# What Python calls them that resolve_name knows by their methods.
SPOKEN = {
    "torch.Tensor.__getitem__": "indexing",
    "torch.Tensor.__setitem__": "an assignment to elements",
    "torch.Tensor.__floordiv__": "the operator //",
    "torch.Tensor.__rfloordiv__": "the operator //",
}


def record(function: Callable[..., Any], name: str, parameters: int, order: int = 1) -> Trace:
    """The expressions of function(x, *parameters) and of its derivatives up to an order; see Trace.

    Raises:
        UnsupportedError: naming the operator and the line, and saying what to write instead.
    """

    def run() -> Trace:
        # Anomaly mode asks each gradient whether it holds a NaN.
        with torch.autograd.set_detect_anomaly(False):
            made = Recorder(name, SHAPES[0]).run(function, parameters, order)
        other = Recorder(name, SHAPES[1]).run(function, parameters, 0)
        # In one graph equal expressions are one node.
        both = Graph()
        if made.graph.copied([made.value], both) != other.graph.copied([other.value], both):
            raise UnsupportedError(f"{ACTIVATION.owner}: {name} {ACTIVATION.why('shape')}{ACTIVATION.ending}")
        return made

    return in_thread(run)


def in_thread(function: Callable[[], Any]) -> Any:
    """A function's result, computed where nothing of this thread's state is seen."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="fusedact-tracing")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class _Calls(TorchFunctionMode):
    """Knows which of PyTorch's functions is being called, by the name that users have for it."""

    def __init__(self) -> None:
        super().__init__()
        self._function: Any = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self._function = func
        result = func(*args, **(kwargs or {}))
        # Kept where it fails.
        self._function = None
        return result

    @property
    def name(self) -> str:
        """The name, or an empty string where there is none."""
        found = resolve_name(self._function) if self._function is not None else None
        return SPOKEN.get(found or "", (found or "").removesuffix(".__get__"))


class Recorder(compat.DispatchMode):  # type: ignore[misc]
    """Sees every operator below autograd, and knows each tensor by its memory."""

    def __init__(self, name: str, shape: tuple[int, ...], words: Words = ACTIVATION) -> None:
        super().__init__()
        self.name = name
        self._words = words
        self.graph = Graph()
        # By the address of a tensor's memory: the expression that it holds.
        self._held: dict[int, Node] = {}
        # All tensors, so that no memory is used twice; and the addresses that must not be written.
        self._alive: list[Tensor] = []
        self._inputs: set[int] = set()
        self._shape = shape
        self._deriving = False
        self._calls = _Calls()
        # An operator to be refused, where all others are known to be none.
        self._refused = ""
        # The caller's random numbers stay as they are.
        self._generator = torch.Generator(device="cpu").manual_seed(0)

    # ----- running

    def run(self, function: Callable[..., Any], parameters: int, order: int) -> Trace:
        inputs = [self._input("x"), *(self._input(f"p{i}") for i in range(parameters))]
        g, ggs = self._input("g"), [self._input("ggx"), *(self._input(f"ggp{i}") for i in range(parameters))]
        with torch.enable_grad(), self:
            y = self._called(function, inputs)
            trace = Trace(self.graph, self._node(y))
            self._deriving = True
            if order >= 1:
                try:
                    firsts = self._differentiated([y], inputs, [g], order > 1)
                except RuntimeError as error:
                    raise self._underivable(error, function, inputs) from error
                trace.gradients = self._nodes(firsts)
            if order >= 2:
                try:
                    trace.second = self._nodes(self._differentiated(firsts, [g, *inputs], ggs, False))
                except RuntimeError:
                    # Some operators are differentiable once.
                    trace.second = []
        return trace

    def _underivable(
        self, error: RuntimeError, function: Callable[..., Any], inputs: Sequence[Tensor]
    ) -> UnsupportedError:
        """The error for an operator that PyTorch cannot differentiate: it is known by name, and found once more."""
        found = re.search(r"derivative for aten::(\w+) is not implemented", str(error))
        if found:
            self._refused, self._deriving = found[1], False
            try:
                self._called(function, inputs)
            except UnsupportedError as refused:
                return refused
        return self._unsupported("PyTorch", f"raised {type(error).__name__}: {error}")

    def _nodes(self, tensors: Sequence[Tensor | None]) -> list[Node]:
        return [self.graph.constant(0.0) if t is None else self._node(t) for t in tensors]

    def _input(self, name: str) -> Tensor:
        # Not a leaf, which autograd itself forbids to change in place, with another error.
        t = torch.rand(self._shape, generator=self._generator, dtype=torch.float32, device="cpu").requires_grad_() * 1.0
        self._hold(t, self.graph.input(name))
        self._inputs.add(self._address(t))
        return t

    def _called(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Tensor:
        y = self._run(function, inputs, getattr(function, "__code__", None))
        self._check_returned(y, "a tensor")
        return y

    def _run(self, function: Callable[..., Any], inputs: Sequence[Tensor], code: CodeType | None) -> Any:
        """What a function returns; the names in this code of its are kept."""
        before = sys.getprofile()
        if code is not None:
            sys.setprofile(lambda frame, event, _: self._named(frame, event, code))
        try:
            with self._calls:
                return dispatch.recorded(function, *inputs)
        except UnsupportedError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        finally:
            sys.setprofile(before)

    def _check_returned(self, y: object, what: str) -> None:
        """Raise unless it is a tensor that an element of x's has an element of."""
        first, got = self._words.first, ""
        if not isinstance(y, Tensor):
            got = f"{what}, got {type(y).__name__}"
        elif tuple(y.shape) != self._shape:
            got = f"{what} of {first}'s shape, got {tuple(y.shape)} for {self._shape}"
        elif y.dtype != torch.float32:
            got = f"{what} of {first}'s dtype, float32, got {_dtype(y.dtype)}"
        if got:
            raise UnsupportedError(f"{self._words.owner}: {self.name} must return {got}")

    def _differentiated(
        self,
        outputs: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        grads: Sequence[Tensor],
        create_graph: bool,
    ) -> list[Tensor | None]:
        live = [(t, grad) for t, grad in zip(outputs, grads, strict=True) if t is not None and t.requires_grad]
        if not live:
            return [None] * len(inputs)
        ts, gs = zip(*live, strict=True)
        return list(compat.gradients(ts, inputs, gs, create_graph))

    def _named(self, frame: FrameType, event: str, code: CodeType) -> None:
        """Keep the names of a function's variables when it returns."""
        if event != "return" or frame.f_code is not code:
            return
        for name, value in frame.f_locals.items():
            if type(value) is Tensor and not keyword.iskeyword(name):
                node = self._held.get(self._address(value))
                if node is not None:
                    self.graph.names.setdefault(node, name)

    # ----- recording

    @staticmethod
    def _address(t: Tensor) -> int:
        return t.untyped_storage().data_ptr()

    def _hold(self, t: Tensor, node: Node) -> None:
        self._alive.append(t)
        self._held[self._address(t)] = node

    def _node(self, t: Tensor) -> Node:
        node = self._held.get(self._address(t))
        if node is not None:
            return node
        if t.requires_grad:
            raise self._unsupported("a tensor", self._words.why("learned"))
        if t.numel() != 1:
            raise self._unsupported("a tensor", self._words.why("outside", tuple(t.shape)))
        node = self.graph.constant(t.item())
        self._hold(t, node)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = compat.schema(func).name.split("::")[-1]
        why = self._why_not(func, name, args, kwargs)
        if why:
            raise self._unsupported(name, why)
        base = name.removesuffix("_") if compat.schema(func).is_mutable else name
        lowering = TABLE.get(base)
        if lowering is None:
            return self._decomposed(func, name, args, kwargs)
        nodes = [self._node(a) if isinstance(a, Tensor) else a for a in args]
        keywords = {k: self._node(a) if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        made = lowering(self.graph, *nodes, **keywords)
        # A zero without memory, as autograd makes them, would go through PyTorch's slowest ways.
        out = torch.zeros(args[0]) if name == "_efficientzerotensor" else func(*args, **kwargs)
        for t, node in zip(*((out, made) if isinstance(out, tuple) else ((out,), (made,))), strict=True):
            self._check_result(t, name, args)
            node = node if isinstance(node, Node) else self.graph.constant(node)
            # The address of a view or of what was changed in place takes the new expression.
            self._hold(t, node)
        return out

    def _why_not(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Why an operator cannot be part of what is traced; an empty string if it can."""
        if name == self._refused:
            return self._words.why("derivative")
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._words.why("random")
        if (
            name in ("_local_scalar_dense", "item", "is_nonzero", "equal")
            or torch.Tag.data_dependent_output in func.tags
        ):
            return self._words.why("control")
        if name.startswith(("index_put", "masked_scatter")):
            return self._words.why("assign")
        if compat.schema(func).is_mutable:
            for argument, value in zip(compat.schema(func).arguments, args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                if written and self._address(value) in self._inputs:
                    return self._words.why("inplace")
        dtype = kwargs.get("dtype")
        if (
            dtype is not None
            and dtype not in (torch.float32, torch.bool)
            and any(isinstance(a, Tensor) and a.numel() > 1 for a in args)
        ):
            return self._words.why("dtype", _dtype(dtype))
        return ""

    def _check_result(self, t: Tensor, name: str, args: tuple[Any, ...]) -> None:
        """Raise unless an operator's result is elementwise: of the input's shape, or a constant."""
        if tuple(t.shape) != self._shape and t.numel() != 1:
            if not any(isinstance(a, Tensor) for a in args):
                raise self._unsupported("a tensor", self._words.why("outside", tuple(t.shape)))
            raise self._unsupported(name, self._words.why("reduce"))
        if tuple(t.shape) != self._shape and any(isinstance(a, Tensor) and a.numel() > 1 for a in args):
            raise self._unsupported(name, self._words.why("reduce"))
        if t.dtype not in (torch.float32, torch.bool) and t.numel() > 1:
            raise self._unsupported(name, self._words.why("dtype", _dtype(t.dtype)))

    def _decomposed(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operator consists of, if PyTorch says so and every part is known."""
        with self:
            composed = func.decompose(*args, **kwargs)
        if composed is not NotImplemented:
            return composed
        decomposition = compat.decompositions().get(func)
        if decomposition is not None and (torch.Tag.pointwise in func.tags or name.endswith("_backward")):
            try:
                with self:
                    return decomposition(*args, **kwargs)
            except UnsupportedError:
                # A user knows not the part that failed, but the operator.
                raise self._unsupported(name, self._words.why("unknown")) from None
        if any(tuple(t.shape) != self._shape for t in _tensors(func(*args, **kwargs))):
            raise self._unsupported(name, self._words.why("reduce"))
        raise self._unsupported(name, self._words.why("unknown"))

    def _failed(self, error: Exception) -> UnsupportedError:
        """The error for a function that fails on the tensors it is traced with."""
        text = str(error)
        if any(sign in text for sign in ("Boolean value of Tensor", "to Python scalars", "converted to Scalar")):
            return self._unsupported("this line", self._words.why("control"), error)
        if "call numpy()" in text:
            return self._unsupported("this line", self._words.why("numpy"), error)
        hint = self._words.why("number") if isinstance(error, TypeError) and "not Tensor" in text else ""
        # PyTorch's errors may go on with all that a function takes.
        text = text.splitlines()[0] if text else ""
        return self._unsupported("this line", f"raised {type(error).__name__}: {text}{hint}", error)

    def _unsupported(self, what: str, why: str, error: Exception | None = None) -> UnsupportedError:
        """The error for an operator, by ATen's name, or for what raised `error`, with the user's line."""
        frames = [f for f, _ in traceback.walk_tb(error.__traceback__)][::-1] if error else _callers()
        where = _line(frames)
        place = f" ({where})" if where else ""
        subject = f"the derivative of {self.name}" if self._deriving else self.name
        if error is None and what.isidentifier() and what != "PyTorch":
            what = self._calls.name or f"torch.{what.strip('_')}"
        return UnsupportedError(f"{self._words.owner}: {subject}{place}: {what} {why}{self._words.ending}")


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]


def _callers() -> list[FrameType]:
    """The frames of this thread, innermost first."""
    return [frame for frame, _ in traceback.walk_stack(None)]


def _line(frames: Sequence[FrameType]) -> str:
    """The innermost line of somebody else than PyTorch, Python and this package, with its text."""
    for frame in frames:
        file = frame.f_code.co_filename
        if not os.path.abspath(file).startswith(FOLDERS) and file != threading.__file__ and "frozen" not in file:
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{os.path.basename(file)}, line {frame.f_lineno}" + (f": {text}" if text else "")
    return ""
