"""`fusedact.activation`: a plain PyTorch function becomes an activation with kernels, a module, and a CPU path."""

from __future__ import annotations

import functools
import inspect
import keyword
import os
import threading
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import modules, ops, registry
from .checks import check_number
from .dispatch import is_recording, recorded
from .engine import codegen, engine, pairs, sources
from .engine.tracing import UnsupportedError
from .registry import ActivationSpec, ParameterSpec
from .saving.saving import check_save

__all__ = ["CustomActivation", "activation"]

OWNER = "fusedact.activation"
# What every activation takes beside its parameters, or its module has.
RESERVED = frozenset(
    {"inplace", "channel_dim", "save", "learnable", "num_parameters", "bounds", "device", "dtype"}
    | {"self", "spec", "own", "_initial", "_bounds", *dir(torch.nn.Module())}
)


@overload
def activation(function: Callable[..., Tensor], *, fallback: str | None = None) -> CustomActivation: ...


@overload
def activation(*, fallback: str | None = None) -> Callable[[Callable[..., Tensor]], CustomActivation]: ...


@overload
def activation(
    *, forward: Any, backward: Any, eager: Callable[..., Tensor], check: bool = True
) -> CustomActivation: ...


def activation(
    function: Callable[..., Tensor] | None = None,
    *,
    fallback: str | None = None,
    forward: Any = None,
    backward: Any = None,
    eager: Callable[..., Tensor] | None = None,
    check: bool = True,
) -> Any:
    """Make an activation of a plain PyTorch function: with fused kernels, derivatives, a module and a lean CPU path.

    The function takes x and, each with a number as default, its parameters; it returns a tensor of x's shape and dtype,
    each element made of the same element of x alone. Inside it parameters are tensors that broadcast with x. What it
    takes from outside, numbers in a closure or a module, are constants: they are read at its first use.

    What is made is called as the function is; a parameter is a number, or a tensor with one element or one per
    channel, which gets a gradient. It also takes `inplace`, `channel_dim` and `save` ("auto" or "input"), as the
    library's own functions.

    Args:
        function: elementwise, without side effects, randomness, or Python decisions that depend on a tensor's values.
            The operators it may be made of stand in docs/operators.md.
        fallback: None, or "eager" to accept any function: what is not elementwise then runs as plain PyTorch.
        forward, backward: in place of what would be generated, two @triton.jit functions in the contract of
            kernels/README.md: forward(x, params, precise) -> y, backward(g, x, params, precise) -> dx, (dp0, ...).
        eager: the same as a plain PyTorch function, which serves where no kernel runs.
        check: compare the two with `eager`, and with finite differences, before their first launch.

    Returns:
        a CustomActivation: callable, with `module`, `source` and `spec`.

    Raises:
        TypeError: if the function's signature is none of an activation, or a device function's none of the contract.
        ValueError: for another fallback; and at the first use, naming the operator and the line, if the function is no
            activation, or at the first launch, if forward or backward computes something else than eager.

    >>> @fusedact.activation
    ... def snake(x, a=1.0):
    ...     return x + torch.sin(a * x) ** 2 / a
    >>> snake(torch.tensor([0.0, 1.0]), a=2.0)
    tensor([0.0000, 1.4134])
    >>> snake.module(a=0.5, learnable=True)
    Snake(a=learnable)
    """
    if fallback not in (None, "eager"):
        raise ValueError(f"{OWNER}: fallback must be None or 'eager', got {fallback!r}")
    if forward is not None or backward is not None or eager is not None:
        if function is not None or fallback is not None:
            raise TypeError(f"{OWNER}: forward, backward and eager go without a function and without fallback")
        if forward is None or backward is None or eager is None:
            raise TypeError(f"{OWNER}: forward, backward and eager go together")
        return CustomActivation(eager, None, lambda spec: pairs.with_pair(spec, forward, backward, check))
    if function is None:
        return functools.partial(activation, fallback=fallback)
    return CustomActivation(function, fallback)


class CustomActivation:
    """An activation made by `fusedact.activation` of a function. Call it as the function."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Tensor]

    def __init__(
        self,
        function: Callable[..., Tensor],
        fallback: str | None,
        pair: Callable[[ActivationSpec], ActivationSpec] | None = None,
    ) -> None:
        if not callable(function) or isinstance(function, CustomActivation | type):
            got = f"the class {function.__name__}" if isinstance(function, type) else _kind(function)
            raise TypeError(f"{OWNER}: expected a function, got {got}")
        # What is callable but no function has no name: that of its class.
        name = self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = name
        functools.update_wrapper(self, function)
        self._function = function
        self._fallback = fallback
        # What puts an expert's device functions into the record.
        self._pair = pair
        # Why it is plain PyTorch, where it is.
        self._eager_because = ""
        self._lock = threading.RLock()
        self._input, self._parameters = _signature(name, function)
        self._plain = self._described(name)
        self._full: ActivationSpec | None = None
        self._module: type[torch.nn.Module] | None = None
        if pair is not None:
            # What is wrong with device functions shows here, not at their first launch.
            pair(self._plain)
        self._call = _compiled(self)
        self.__signature__ = inspect.signature(self._call)

    def _described(self, name: str) -> ActivationSpec:
        """The record, with nothing traced: enough for plain operators."""
        doc = inspect.getdoc(self._function) or f"The activation {name}."
        code = getattr(self._function, "__code__", None)
        where = f"{os.path.basename(code.co_filename)}, line {code.co_firstlineno}" if code else _kind(self._function)
        return ActivationSpec(
            name=name,
            module="".join(part[:1].upper() + part[1:] for part in codegen.safe_name(name).split("_") if part),
            summary=doc.splitlines()[0],
            formula="\n".join(doc.splitlines()[1:]).strip(),
            limits="",
            example="",
            reference=where,
            eager=_definition(self._function),
            device="",
            parameters=self._parameters,
            first=self._input,
            key=f"{self.__module__}:{self.__qualname__}",
            lean_by_engine=True,
        )

    # ----- what users see

    def __call__(self, *args: Any, **keywords: Any) -> Tensor:
        return self._call(*args, **keywords)

    def __repr__(self) -> str:
        return f"<fusedact activation {self.__qualname__}{self.__signature__}>"

    def __reduce__(self) -> str:
        # By name, as functions are pickled and copied.
        return self.__qualname__

    @property
    def spec(self) -> ActivationSpec:
        """The record, traced: raises what the first call would."""
        if self._full is None:
            with self._lock:
                if self._full is None:
                    self._full = self._traced()
        return self._full

    @property
    def described(self) -> ActivationSpec:
        """The record with nothing traced: enough for plain operators."""
        return self._plain

    @property
    def source(self) -> str:
        """The Triton code of the forward and backward device functions.

        Raises:
            ValueError: if the function is no activation, or stays in eager.
        """
        build = self.spec.build
        if build is None:
            raise ValueError(f"{OWNER}: {self._plain.name} runs as plain PyTorch: {self._eager_because}")
        return build.text

    @property
    def module(self) -> type[torch.nn.Module]:
        """The class of modules that hold the parameters, as in `f.module(a=0.3, learnable="a", num_parameters=64)`."""
        if self._module is None:
            with self._lock:
                if self._module is None:
                    self._module = modules.define_own(self, self._plain)
        return self._module

    # ----- what is made of the function

    def _traced(self) -> ActivationSpec:
        names = [p.name for p in self._parameters]
        try:
            made = engine.program(self._plain.eager, self._plain.name, names, self._plain.reference)
        except UnsupportedError as error:
            if self._pair is None and self._fallback is None:
                raise
            self._eager_because = str(error)
            spec = self._plain
        else:
            spec = engine.completed(self._plain, made)
        if self._pair is not None:
            spec = self._pair(spec)
        if spec.build is not None:
            registry.register_own(spec)
        return spec

    def _applied(self, x: Any, params: tuple[Any, ...], inplace: bool, channel_dim: int, save: str) -> Tensor:
        """What a call does after its arguments are in order."""
        if has_torch_function_unary(x):
            channel = {"channel_dim": channel_dim} if self._parameters else {}
            return handle_torch_function(self, (x,), x, *params, inplace=inplace, **channel, save=save)
        if is_compiling() or is_recording():
            # Nothing is traced inside another trace: what may be no activation runs as it is.
            if self._fallback is not None and (self._full is None or self._full.build is None):
                return self._function(x, *params)
            return ops.apply(self._plain, x, params, inplace, channel_dim, save)
        spec = self._full or self.spec
        if spec.build is None:
            if inplace:
                raise ValueError(f"{spec.name}: inplace=True is not for what runs as plain PyTorch")
            if save != "auto":
                check_save("", spec, save)
                raise ValueError(f"{spec.name}: save={save!r} is not for what runs as plain PyTorch")
            return self._function(x, *params)
        return ops.apply(spec, x, params, inplace, channel_dim, save)


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _signature(name: str, function: Callable[..., Any]) -> tuple[str, tuple[ParameterSpec, ...]]:
    """The name of a function's first argument, and the others as parameters.

    Raises:
        TypeError: if they are none of an activation.
    """
    try:
        arguments = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(f"{OWNER}: {name} has no signature; wrap it in a function of your own") from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not arguments or arguments[0].kind not in kinds or arguments[0].default is not inspect.Parameter.empty:
        raise TypeError(f"{OWNER}: {name} must take the input as its first argument, without a default")
    found = []
    for p in arguments[1:]:
        if p.kind not in kinds:
            raise TypeError(f"{OWNER}: {name} must take each parameter by position, and {p.name} is not")
        if p.name in RESERVED:
            raise TypeError(f"{OWNER}: {name} has a parameter {p.name}, which every activation or its module has")
        if p.default is inspect.Parameter.empty:
            raise TypeError(
                f"{OWNER}: parameter {p.name} of {name} must have a number as default, what modules begin with"
            )
        default = check_number(OWNER, f"the default of {name}'s parameter {p.name}", p.default)
        found.append(ParameterSpec(p.name, default, "a parameter"))
    return arguments[0].name, tuple(found)


def _definition(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function for parameters that may be numbers: inside it they are tensors."""

    def definition(x: Tensor, *params: float | Tensor) -> Tensor:
        tensors = [p if isinstance(p, Tensor) else torch.full((), p, dtype=x.dtype, device=x.device) for p in params]
        if is_compiling():
            return function(x, *tensors)
        # Activations inside it get parameters that already broadcast with x.
        return recorded(function, x, *tensors)

    definition.__wrapped__ = function  # type: ignore[attr-defined]
    return definition


def _compiled(own: CustomActivation) -> Callable[..., Tensor]:
    """The public function, with the signature of the user's: compiled, so that a call binds nothing by hand."""
    x = own._input
    arguments = "".join(f", {p.name}: float | Tensor = {p.default!r}" for p in own._parameters)
    values = "".join(f"{p.name}, " for p in own._parameters)
    channel, passed = ("channel_dim: int = 1, ", "channel_dim") if own._parameters else ("", "1")
    name = own._plain.name
    if not name.isidentifier() or keyword.iskeyword(name) or name in ("Tensor", "bool", "float", "int"):
        name = "function"
    # A name that no argument has.
    applied = "_".join(["applied", x, *(p.name for p in own._parameters)])
    text = (
        f"def make({applied}):\n"
        f"    def {name}({x}: Tensor{arguments}, inplace: bool = False, *, {channel}save: str = 'auto') -> Tensor:\n"
        f"        return {applied}({x}, ({values}), inplace, {passed}, save)\n"
        f"    return {name}\n"
    )
    file = f"<fusedact {own._plain.key} {sources.digest(text)}>"
    made = sources.run(text, file, {"Tensor": Tensor})["make"](own._applied)
    # Python's own errors name it.
    made.__qualname__ = own.__qualname__
    return made
