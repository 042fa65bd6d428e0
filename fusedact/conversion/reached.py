"""Which of PyTorch's activation functions a model still calls, seen by running it: what its source does not show."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from types import FrameType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import functional_calls as calls
from . import verification
from .functional_calls import Known

__all__ = ["Reached", "reached"]


class Reached(NamedTuple):
    """A call: the module that was running, the functions from the one that called to its method or hook, and where."""

    module: nn.Module
    through: tuple[str, ...]
    text: str
    record: str
    line: str


def reached(model: nn.Module, example: Any, modules: Mapping[nn.Module, Any]) -> list[Reached]:
    """The calls of PyTorch's activations that none of this library's functions made, nor PyTorch's own modules.

    The model runs once on the example, as `verification.outputs` runs it; what `torch.compile` made of it runs as it
    was written.
    """
    with _uncompiled(), _Watch(modules) as watch:
        verification.outputs(model, example)
    return list(watch.calls.values())


def _uncompiled() -> Any:
    # Only what has been imported can have compiled anything.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    from torch.compiler import set_stance

    return set_stance("force_eager")


class _Watch(TorchFunctionMode):
    """Notes calls by where they stand."""

    def __init__(self, modules: Mapping[nn.Module, Any]) -> None:
        super().__init__()
        self.modules = modules
        self.calls: dict[tuple[int, str, str], Reached] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        what = _known(function)
        if what is not None:
            self._note(*what, sys._getframe(1))
        return function(*args, **(kwargs or {}))

    def _note(self, found: Known, text: str, caller: FrameType | None) -> None:
        """Keep a call, if the way to the innermost module leads through a file that is not PyTorch's, nor ours."""
        line, through = "", []
        for frame, home in _frames(caller):
            if home == "fusedact":
                return
            if home != "torch":
                line = line or f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                through.append(frame.f_code.co_name)
            module = _itself(frame)
            if isinstance(module, nn.Module) and module in self.modules:
                if line:
                    made = Reached(module, tuple(through), text, found.record, line)
                    self.calls.setdefault((id(module), through[-1], found.record), made)
                return


def _known(function: Any) -> tuple[Known, str] | None:
    """What is known of a function or a tensor's method, and how reports show it."""
    found = calls.known(function)
    if found is not None:
        home = "F" if str(function.__module__).startswith(("torch.nn", "torch._C._nn")) else "torch"
        return found, f"{home}.{function.__name__.removeprefix('special_')}"
    name = getattr(function, "__name__", "")
    if name in calls.METHODS and function is getattr(Tensor, name):
        return calls.METHODS[name], f".{name}"
    return None


def _frames(frame: FrameType | None) -> Iterator[tuple[FrameType, str]]:
    """A frame and those that called it, each with the package of its file."""
    while frame is not None:
        yield frame, str(frame.f_globals.get("__name__", "")).split(".")[0]
        frame = frame.f_back


def _itself(frame: FrameType) -> Any:
    """The first argument of a frame's function."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
