"""`log_step`: logs what the steps of an optimizer do."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .. import compat
from ..watching.loggers import LOGGER, checked_logger
from .optimizer import RuleOptimizer
from .rules import Rule

__all__ = ["log_step"]

OWNER = "fusedact.log_step"


def log_step(
    target: Any = None,
    /,
    *,
    every: int = 1,
    name: str | None = None,
    logger: str | logging.Logger = LOGGER,
    level: int = logging.INFO,
) -> Any:
    """Log the steps of an optimizer, without changing them. A decorator, also called on an optimizer that is there.

    A line for every n-th step tells name, step, how many tensors had a gradient, the duration, the norm of all
    gradients and that of what was added to the parameters; a record's `optimizer` is a dict of the same. Nothing is
    computed where the logger does not take the level.

    Kernels take the norms in the step's own launch; elsewhere a step that is logged copies the parameters first. On a
    GPU it waits for the device; while a CUDA graph is captured nothing is logged. Of sharded parameters each
    process logs its own shards.

    Args:
        target: an update rule, a class of optimizers, or an optimizer; torch.optim's too. It is returned.
        every: log the first step and every n-th after it, of each optimizer.
        name: how lines begin; by default the rule's name, or that of the optimizer's class.
        logger: a logger or its name.
        level: of the lines.

    Returns:
        what was decorated, or without a target a decorator.

    Raises:
        TypeError: if the target or an argument is of another kind.
        ValueError: if every is less than 1.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.log_step(fusedact.optim.SGD([weight], lr=0.1), every=100)
    >>> opt([weight], [torch.ones(2)])
    """
    into = checked_logger(OWNER, every, name, logger, level)
    log = _Log(name, every, into, level)
    return (lambda target: _decorated(target, log)) if target is None else _decorated(target, log)


def _decorated(target: Any, log: _Log) -> Any:
    kind = target if isinstance(target, type) else type(target)
    if isinstance(target, Rule) or issubclass(kind, RuleOptimizer):
        target.step_log = log
    elif isinstance(target, type) and issubclass(target, torch.optim.Optimizer):
        target.step = _wrapped(target.step, log)  # type: ignore[method-assign]
    elif isinstance(target, torch.optim.Optimizer):
        _hook(target, log)
    else:
        got = f"the class {target.__name__}" if isinstance(target, type) else type(target).__name__
        raise TypeError(f"{OWNER}: target must be an update rule, an optimizer or a class of optimizers, got {got}")
    return target


class _Step(NamedTuple):
    """A step under way: its number, what it is called, and when it began, on the parameters' device."""

    number: int
    name: str
    device: torch.device
    began: Any
    # Gradients and parameters as they were, where the step itself takes no norms.
    grads: list[Tensor]
    params: list[Tensor]
    before: list[Tensor]


class _Log:
    """What is logged of optimizers, and how."""

    def __init__(self, name: str | None, every: int, logger: logging.Logger, level: int) -> None:
        self._name, self._every, self._logger, self._level = name, every, logger, level
        self._counts: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()

    def begin(self, optimizer: torch.optim.Optimizer, name: str, keep: bool = True) -> _Step | None:
        """Count a step; None if it is not logged. Unless `keep`, the step itself takes the norms."""
        count = self._counts.get(optimizer, 0)
        self._counts[optimizer] = count + 1
        if count % self._every or not self._logger.isEnabledFor(self._level):
            return None
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not params or compat.capturing(params[0]):
            return None
        device = params[0].device
        before = [p.detach().clone() for p in params] if keep else []
        grads = [p.grad for p in params] if keep else []
        return _Step(count + 1, self._name or name, device, _mark(device), grads, params, before)

    def end(self, step: _Step, squares: Sequence[Sequence[Tensor | float]] | None = None) -> None:
        """Log what a step did; `squares` are the sums of the squares of gradients and of what was added."""
        ended = _mark(step.device)
        with torch.no_grad():
            if squares is None:
                moved = [p.detach() - b for p, b in zip(step.params, step.before, strict=True)]
                squares = [[_square_sum(step.grads), _square_sum(moved)]]
            gradient, update = (sum(float(pair[i]) for pair in squares) ** 0.5 for i in (0, 1))
        milliseconds = _milliseconds(step.device, step.began, ended)
        told = {"name": step.name, "step": step.number, "tensors": len(step.params), "ms": milliseconds}
        told |= {"gradient_norm": gradient, "update_norm": update}
        self._logger.log(
            self._level,
            "%s #%d: %d tensors, %.3g ms, gradient norm %.4g, update norm %.4g",
            *told.values(),
            extra={"optimizer": told},
        )


def _square_sum(tensors: Sequence[Tensor]) -> float:
    local = [t.to_local() if compat.is_distributed(t) else t.detach() for t in tensors]  # type: ignore[attr-defined]
    return sum(float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 for t in local)


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _milliseconds(device: torch.device, began: Any, ended: Any) -> float:
    if device.type != "cuda":
        return 1e3 * (ended - began)
    ended.synchronize()
    return began.elapsed_time(ended)


def _wrapped(step: Callable[..., Any], log: _Log) -> Callable[..., Any]:
    """A class's step, logged."""

    @functools.wraps(step)
    def logged(self: torch.optim.Optimizer, *args: Any, **keywords: Any) -> Any:
        begun = log.begin(self, type(self).__name__)
        result = step(self, *args, **keywords)
        if begun is not None:
            log.end(begun)
        return result

    return logged


def _hook(optimizer: torch.optim.Optimizer, log: _Log) -> None:
    """The same by hooks, for one optimizer."""
    under_way: list[_Step | None] = []

    def before(made: torch.optim.Optimizer, *_: Any) -> None:
        # One that failed left its own behind.
        under_way[:] = [log.begin(made, type(made).__name__)]

    def after(*_: Any) -> None:
        begun = under_way.pop()
        if begun is not None:
            log.end(begun)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
