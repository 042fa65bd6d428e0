"""`log_activation`, a decorator that logs what a function or a layer computes, and `log_to_console`."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import compat
from . import figures
from .loggers import LOGGER, checked_logger

__all__ = ["log_activation", "log_to_console"]

OWNER = "fusedact.log_activation"

Target = TypeVar("Target", bound=Callable[..., Any])


@overload
def log_activation(target: Target, /) -> Target: ...


@overload
def log_activation(
    *,
    every: int = 1,
    name: str | None = None,
    logger: str | logging.Logger = LOGGER,
    level: int = logging.INFO,
    gradients: bool = True,
) -> Callable[[Target], Target]: ...


def log_activation(
    target: Any = None,
    /,
    *,
    every: int = 1,
    name: str | None = None,
    logger: str | logging.Logger = LOGGER,
    level: int = logging.INFO,
    gradients: bool = True,
) -> Any:
    """Log what a function of tensors or a module's forward computes, without changing it. A decorator.

    A line for every n-th call tells name, call number, shape, dtype, device, duration, mean and standard deviation of
    the output, and another one, in backward, mean and standard deviation of its gradient. If the call raises, an error
    is logged with the name and the shapes and dtypes of its tensors, and the exception goes on. A record's `activation`
    is a dict of the same. Nothing is computed where the logger does not take the level.

    On a GPU the duration is between two events, and a call that is logged waits for the device. Inside code that
    torch.compile compiles nothing is logged; under torch.func, statistics are of all that vmap batches, and gradients
    are not logged. What a checkpoint computes again is not logged again.

    Args:
        target: a function, a method `forward`, a class of modules, whose forward is replaced, or a module. A module is
            given hooks, and returned.
        every: log the first call and every n-th after it. Methods count for each module.
        name: how lines begin; by default the function's name, or that of the module's class.
        logger: a logger or its name.
        level: of the lines.
        gradients: whether gradients are logged.

    Returns:
        what was decorated, or without a target a decorator.

    Raises:
        TypeError: if the target or an argument is of another kind.
        ValueError: if every is less than 1.

    >>> @fusedact.log_activation(every=100)
    ... def shifted_relu(x):
    ...     return torch.relu(x - 1.0)
    >>> shifted_relu(torch.tensor([0.0, 3.0]))
    tensor([0., 2.])
    """
    into = checked_logger(OWNER, every, name, logger, level)

    def decorate(target: Any) -> Any:
        return _decorated(target, lambda own: _Log(name or own, every, into, level, gradients))

    return decorate if target is None else decorate(target)


def _decorated(target: Any, log: Callable[[str], _Log]) -> Any:
    if isinstance(target, nn.Module):
        _hook(target, log(type(target).__name__))
        return target
    if isinstance(target, type) and issubclass(target, nn.Module):
        target.forward = _wrapped(target.forward, log(target.__name__))  # type: ignore[method-assign]
        return target
    if isinstance(target, type) or not callable(target):
        raise TypeError(f"{OWNER}: target must be a function, a module or a class of modules, got {_described(target)}")
    own = getattr(target, "__name__", type(target).__name__)
    if own == "forward":
        # A method, while its class is made.
        own = target.__qualname__.split(".")[-2:][0]
    return _wrapped(target, log(own))


def _described(target: Any) -> str:
    return f"the class {target.__name__}" if isinstance(target, type) else type(target).__name__


@dataclass(eq=False)
class _Calls:
    """How often a function or a module was called, and the number of the last call, 0 if that was not to be logged."""

    count: int = 0
    last: int = 0


class _Call(NamedTuple):
    """A call under way: its number, 0 if it is not logged, and when it began."""

    number: int
    clock: _Clock | None
    # What was being handled by then.
    handled: BaseException | None


class _Log:
    """What is logged of a function or of modules, and how."""

    def __init__(self, name: str, every: int, logger: logging.Logger, level: int, gradients: bool) -> None:
        self.name, self.every, self.logger, self.level, self.gradients = name, every, logger, level, gradients
        self._by_module: WeakKeyDictionary[nn.Module, _Calls] = WeakKeyDictionary()
        self._calls = _Calls()

    def _of(self, module: nn.Module | None) -> _Calls:
        return self._calls if module is None else self._by_module.setdefault(module, _Calls())

    def begin(self, module: nn.Module | None, values: Sequence[Any]) -> _Call:
        """Count a call."""
        calls = self._of(module)
        due = calls.count % self.every == 0 and self.logger.isEnabledFor(self.level)
        calls.count += 1
        logged = due and not any(isinstance(t, Tensor) and compat.capturing(t) for t in values)
        calls.last = calls.count if logged else 0
        return _Call(calls.last, _Clock(values) if logged else None, sys.exc_info()[1])

    def end(self, call: _Call, result: Any) -> None:
        """Log what came of a call."""
        y = _tensor(result)
        if call.clock is not None and y is not None:
            self.returned(call.number, y, call.clock.milliseconds())

    def returned(self, number: int, y: Tensor, milliseconds: float) -> None:
        """Log a call, and, once that is known, its gradient."""
        with torch.no_grad(), compat.unobserved():
            found = _statistics(compat.unwrapped(y))
        text = f"{self.name} #{number}: {_kind(y)} {y.device}, {milliseconds:.3g} ms{_moments(found)}"
        told = {"name": self.name, "call": number, "shape": tuple(y.shape), "dtype": y.dtype, "ms": milliseconds}
        self._write(text, told | found)
        self._watch_gradient(number, y)

    def again(self, module: nn.Module | None, result: Any) -> None:
        """A checkpoint computes a call again: its gradient comes now, if it had no graph before."""
        number, y = self._of(module).last, _tensor(result)
        if number and y is not None:
            self._watch_gradient(number, y)

    def _watch_gradient(self, number: int, y: Tensor) -> None:
        # A leaf would keep the hook.
        if self.gradients and y.requires_grad and y.grad_fn is not None and not compat.transforms_active():
            y.register_hook(functools.partial(self._gradient, number))

    def _gradient(self, number: int, g: Tensor) -> None:
        with torch.no_grad(), compat.unobserved():
            found = _statistics(g)
        text = f"{self.name} #{number} backward: {_kind(g)} {g.device}{_moments(found)}"
        told = {"name": self.name, "call": number, "shape": tuple(g.shape), "dtype": g.dtype, "backward": True}
        self._write(text, told | found)

    def failed(self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Log an exception, with the tensors that were given."""
        given = [f"{_kind(t)} {t.device}" for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        told = {"name": self.name, "error": type(error).__name__}
        self.logger.error(
            "%s: %s on %s: %s",
            *(self.name, type(error).__name__, ", ".join(given) or "no tensor", error),
            extra={"activation": told},
        )

    def _write(self, text: str, told: dict[str, Any]) -> None:
        self.logger.log(self.level, "%s", text, extra={"activation": told})


def _kind(t: Tensor) -> str:
    return f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"


def _statistics(t: Tensor) -> dict[str, float]:
    """Mean and standard deviation, of tensors that have numbers."""
    if not t.is_floating_point() or t.layout is not torch.strided or not compat.holds_numbers(t):
        return {}
    mean, std = figures.moments(t.detach())
    return {"mean": mean, "std": std}


def _moments(found: dict[str, float]) -> str:
    return f", mean {found['mean']:.4g}, std {found['std']:.4g}" if found else ""


def _tensor(value: Any) -> Tensor | None:
    """The first tensor of a result."""
    if isinstance(value, tuple | list):
        return next((t for t in value if isinstance(t, Tensor)), None)
    return value if isinstance(value, Tensor) else None


class _Clock:
    """The time between its creation and `milliseconds`, on the device of the tensors given, for which it waits."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._device = next((t.device for t in values if isinstance(t, Tensor) and t.is_cuda), None)
        self._began = self._mark()

    def _mark(self) -> Any:
        if self._device is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def milliseconds(self) -> float:
        ended = self._mark()
        if self._device is None:
            return 1e3 * (ended - self._began)
        ended.synchronize()
        return self._began.elapsed_time(ended)


def _wrapped(function: Callable[..., Any], log: _Log) -> Callable[..., Any]:
    """The function with its calls logged."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return function(*args, **kwargs)
        module = args[0] if args and isinstance(args[0], nn.Module) else None
        if compat.in_backward():
            result = function(*args, **kwargs)
            log.again(module, result)
            return result
        begun = log.begin(module, (*args, *kwargs.values()))
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            log.failed(error, args, kwargs)
            raise
        log.end(begun, result)
        return result

    return call


def _hook(module: nn.Module, log: _Log) -> None:
    """The same by hooks, for one module."""
    under_way: list[_Call] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not is_compiling() and not compat.in_backward():
            under_way.append(log.begin(module, (*args, *kwargs.values())))

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if is_compiling():
            return
        if compat.in_backward():
            log.again(module, result)
            return
        begun = under_way.pop()
        error = sys.exc_info()[1]
        if result is None and error is not None and error is not begun.handled:
            log.failed(error, args, kwargs)
        else:
            log.end(begun, result)

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after, with_kwargs=True, always_call=True)


class _Console(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))

    @property
    def stream(self) -> Any:  # type: ignore[override]
        return sys.stderr


def log_to_console(level: int = logging.INFO) -> None:
    """Show on stderr what this library logs, from a level on. A second call changes the level.

    An application that configures logging itself needs only `logging.getLogger("fusedact").setLevel(...)`.

    Args:
        level: such as logging.INFO.

    Raises:
        TypeError: if it is no int.

    >>> fusedact.log_to_console()
    """
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(
            f"fusedact.log_to_console: level must be an int such as logging.INFO, got {type(level).__name__}"
        )
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
    logger.setLevel(level)
