"""`monitor`: hooks on a model's layers that gather statistics of what goes through them."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from .. import compat
from ..checks import check_count, check_number
from ..eager import HALF_DTYPES
from ..looking.drawing import BEYOND
from ..piecewise.piecewise_module import PWL
from ..registry import ActivationSpec
from . import gathering
from .arrival import Call, Layer, Pass
from .gathering import Gather, Scratch
from .histograms import Histogram
from .rereading import is_activation, is_fixed, is_pointwise, reread
from .watching import OWNER, Statistics, Thresholds

__all__ = ["monitor"]

Chosen = str | nn.Module | type[nn.Module]


def monitor(
    model: nn.Module,
    *,
    every: int = 1,
    layers: Iterable[Chosen] | Callable[[str, nn.Module], bool] | None = None,
    channel_dim: int | None = None,
    on_nan: str | None = "warn",
    dead_above: float | None = 0.9,
    exploding_above: float | None = 1e4,
    history: int = 1000,
) -> AbstractContextManager[Statistics]:
    """Gather statistics of what a model's activations compute, in a `with` block, without changing any value.

    In every n-th forward pass: mean, standard deviation, minimum and maximum of the finite elements of a layer's
    output, how many are NaN, infinite and zero, which share is saturated, which share of its units is dead, and the
    norm of the output's gradient. Time is taken in the pass after it, which gathers nothing, unless every pass is
    watched.

    An element is saturated where the magnitude of the activation's slope is at most 1/128, and a unit is dead if all of
    its elements are: in the pass, or, in `to_dict` and the table, in all passes. Where a layer has no slope, as
    softmax, saturation is not known, and the units that are zero throughout are dead.

    Where a kernel runs, or pieces on the CPU, the statistics are gathered in the pass over memory that computes the
    values; the outputs of other operators are read again. On a GPU nothing waits for results but what reads them and
    on_nan="raise". What a checkpoint computes again does not count again. Inside code that torch.compile compiled
    nothing is seen: of a compiled module the passes that are watched run uncompiled. Under torch.func there are no
    gradients, slopes or units. Passes are taken in up to eight at a time: warnings may come so many late, but for those
    of NaN and infinities in outputs.

    Args:
        model: a module.
        every: watch every n-th forward pass of the model, from the first on; where only its layers are called, every
            n-th call of each.
        layers: what is watched: names, modules or classes, or a function of name and module that tells. By default all
            activation modules of this library and of torch.nn.
        channel_dim: the dimension of a layer's output that counts its units. By default the module's own where it has
            parameters per channel, else 1 where there are four dimensions or more, and the last where there are fewer.
        on_nan: "raise" (an error names the layer; every watched call waits for the device), "warn" (once for each
            layer, when the numbers have arrived) or None.
        dead_above: warn, once for each layer, from this share of dead units in a pass on; None for never.
        exploding_above: warn once of a greater magnitude or gradient's norm, and of infinities; None for never.
        history: how many passes `records` and plots keep.

    Returns:
        a context manager that gives a Statistics: it prints as a table, and has `to_dict()`, `records()`,
        `to_dataframe()`, `plot()` and `plot_pwl(layer)`, in the block and after it.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: for another value, if no layer is found, or if `model.compile()` compiled the model in place.
        FloatingPointError: in the block, with on_nan="raise".

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), fusedact.ReLU())
    >>> with fusedact.monitor(net) as stats:
    ...     y = net(torch.ones(2, 4))
    >>> stats.to_dict()["1"]["calls"]
    1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{OWNER}: model must be a torch.nn.Module, got {type(model).__name__}")
    for name, value in (("every", every), ("history", history)):
        check_count(OWNER, name, value)
    if channel_dim is not None and (isinstance(channel_dim, bool) or not isinstance(channel_dim, int)):
        raise TypeError(f"{OWNER}: channel_dim must be an int or None, got {type(channel_dim).__name__}")
    if on_nan not in ("raise", "warn", None):
        raise ValueError(f"{OWNER}: on_nan must be 'raise', 'warn' or None, got {on_nan!r}")
    dead, exploding = (
        None if value is None else check_number(OWNER, name, value, "a number or None")
        for name, value in (("dead_above", dead_above), ("exploding_above", exploding_above))
    )
    if compat.compiled_in_place(compat.inner_module(model)):
        raise ValueError(
            f"{OWNER}: model.compile() compiled the model in place, hooks included; watch torch.compile(model) instead"
        )
    found = _chosen(compat.inner_module(model), layers)
    statistics = Statistics(found, every, Thresholds(dead, exploding, on_nan == "warn"), history)
    return _Monitor(model, found, statistics, every, channel_dim, on_nan == "raise").watching()


def _chosen(model: nn.Module, layers: Iterable[Chosen] | Callable[[str, nn.Module], bool] | None) -> list[Layer]:
    """The layers to watch; a module that occurs under several names has the first."""
    named = {name or "model": module for name, module in model.named_modules()}
    if layers is None:
        found = {name: module for name, module in named.items() if is_activation(module)}
    elif isinstance(layers, str | nn.Module) or not callable(layers) or isinstance(layers, type):
        found = _listed(model, named, [layers] if isinstance(layers, str | nn.Module | type) else layers)
    else:
        found = {name: module for name, module in named.items() if layers(name, module)}
    if not found:
        raise ValueError(
            f"{OWNER}: the model has no such layer; `layers` takes names, modules or classes, and functional calls are "
            "not seen"
        )
    return [_layer(name, module) for name, module in found.items()]


def _layer(name: str, module: nn.Module) -> Layer:
    pointwise = is_pointwise(module)
    gathers = pointwise and isinstance(getattr(module, "spec", None), ActivationSpec)
    own = getattr(module, "num_parameters", 1) != 1
    dim = getattr(module, "channel_dim", 1) if own else None
    return Layer(name, module, pointwise, gathers, is_fixed(module), _histogram(module), dim)


def _listed(model: nn.Module, named: dict[str, nn.Module], layers: Iterable[Chosen]) -> dict[str, nn.Module]:
    """Layers by name, themselves or class, in the model's order."""
    wanted: set[int] = set()
    every_name = {name or "model": module for name, module in model.named_modules(remove_duplicate=False)}
    if not isinstance(layers, Iterable):
        raise TypeError(f"{OWNER}: layers must be names, modules, classes or a function, got {type(layers).__name__}")
    for chosen in layers:
        if isinstance(chosen, str):
            if chosen not in every_name:
                raise ValueError(f"{OWNER}: the model has no layer {chosen!r}; it has {', '.join(map(repr, named))}")
            wanted.add(id(every_name[chosen]))
        elif isinstance(chosen, nn.Module):
            if chosen not in named.values():
                raise ValueError(f"{OWNER}: layers names a {type(chosen).__name__} that is no part of the model")
            wanted.add(id(chosen))
        elif isinstance(chosen, type) and issubclass(chosen, nn.Module):
            wanted.update(id(module) for module in named.values() if isinstance(module, chosen))
        else:
            raise TypeError(
                f"{OWNER}: layers must be names, modules, classes or a function, got a {type(chosen).__name__} in it"
            )
    return {name: module for name, module in named.items() if id(module) in wanted}


def _histogram(module: nn.Module) -> Histogram | None:
    """That of a piecewise-linear layer's inputs, around its breakpoints."""
    if not isinstance(module, PWL):
        return None
    low, high = module.breakpoints.min().item(), module.breakpoints.max().item()
    beyond = BEYOND * (high - low) or 3.0
    return Histogram(low - beyond, high + beyond)


class _Frame(NamedTuple):
    """A call under way: what is asked of it, and what is needed when it returns."""

    layer: Layer
    made: Pass
    watched: bool
    gather: Gather | None
    # Of who asked.
    token: Any
    # The input, a copy if it will be overwritten.
    x: Tensor | None
    # Seconds, or an event; None where time is not taken.
    began: Any


class _Monitor:
    """The hooks, and where the model is."""

    def __init__(
        self, model: nn.Module, layers: list[Layer], statistics: Statistics, every: int, dim: int | None, raises: bool
    ) -> None:
        self._model, self._layers, self._statistics = model, layers, statistics
        self._every, self._dim, self._raises = every, dim, raises
        # How many calls of the model are under way, one inside the other, and whether that one is watched and timed.
        self._depth = 0
        self._now = (False, False)
        # The number of the last pass.
        self._step = -1
        self._frames: list[_Frame] = []
        self._scratch = Scratch()
        self._uncompiled: Any = None
        self._attached: list[RemovableHandle] = []

    @contextmanager
    def watching(self) -> Iterator[Statistics]:
        handles: list[RemovableHandle] = []
        try:
            # The model first: it may itself be a layer, and then is always hooked.
            handles.append(self._model.register_forward_pre_hook(self._enter, prepend=True))
            handles += self._hook(lambda layer: layer.module is self._model)
            self._attach()
            handles.append(self._model.register_forward_hook(self._leave, always_call=True))
            yield self._statistics
        finally:
            for handle in (*handles, *self._attached):
                handle.remove()
            for frame in reversed(self._frames):
                self._dismiss(frame)
            self._compiled_again()
            self._statistics.close()
        if not self._statistics.seen:
            warnings.warn(
                f"{OWNER}: no pass of the model was seen; what torch.compile compiled as a whole is not watched",
                stacklevel=3,
            )

    def _hook(self, which: Callable[[Layer], bool]) -> Iterator[RemovableHandle]:
        for layer in filter(which, self._layers):
            yield layer.module.register_forward_pre_hook(partial(self._before, layer), with_kwargs=True)
            yield layer.module.register_forward_hook(partial(self._after, layer), with_kwargs=True, always_call=True)

    def _attach(self) -> None:
        if not self._attached:
            self._attached += self._hook(lambda layer: layer.module is not self._model)

    def _detach(self) -> None:
        """A hook takes time even where it returns at once."""
        while self._attached:
            self._attached.pop().remove()

    # ----- the model

    def _enter(self, *_: Any) -> None:
        if is_compiling() or compat.in_backward():
            return
        self._depth += 1
        if self._depth > 1:
            return
        watched, timed = self._now = self._begin(self._statistics.seen)
        # Until the next pass: what a checkpoint computes again in between has its gradient then.
        if watched or timed:
            self._attach()
        elif self._attached:
            self._detach()
        # Compiled code has no hooks. What was never imported compiled nothing.
        if watched and "torch._dynamo" in sys.modules:
            self._uncompiled = torch.compiler.set_stance("force_eager")
            self._uncompiled.__enter__()

    def _leave(self, *_: Any) -> None:
        if is_compiling() or compat.in_backward():
            return
        self._depth -= 1
        if self._uncompiled is not None and not self._depth:
            self._compiled_again()

    def _compiled_again(self) -> None:
        stance, self._uncompiled = self._uncompiled, None
        if stance is not None:
            stance.__exit__(None, None, None)

    def _begin(self, step: int) -> tuple[bool, bool]:
        """Whether a pass of this number is watched, and whether it is timed."""
        if step >= self._statistics.seen:
            self._statistics.seen = step + 1
        self._step, turn = step, step % self._every
        if turn == 0:
            self._statistics.begin(step)
        return turn == 0, turn == 1 % self._every

    # ----- a layer

    def _before(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any) -> None:
        # What a checkpoint computes again has been counted.
        if is_compiling() or compat.in_backward():
            return
        if self._depth:
            watched, timed = self._now
        else:
            watched, timed = self._begin(layer.alone)
            layer.alone += 1
        made = self._statistics.current
        if made is None or not (watched or timed):
            return
        x = _first_tensor((args, kwargs))
        if x is not None and compat.capturing(x):
            return
        gather, token = None, None
        if watched and x is not None and layer.pointwise:
            if getattr(module, "inplace", False):
                x = x.detach().clone()
            units = self._units(layer, x)
            # That of a monitor around this one, if it asks for the same.
            gather = gathering.wanted()
            if gather is None or gather.layer is not module or gather.dim != units:
                gather = Gather(module, units, self._scratch)
                if layer.gathers and not compat.transforms_active():
                    token = gathering.ask(gather)
        if watched and x is not None and layer.histogram is not None:
            with torch.no_grad(), compat.unobserved():
                layer.histogram.add(compat.unwrapped(x))
        began = _clock(x) if timed else None
        self._frames.append(_Frame(layer, made, watched, gather, token, x, began))

    def _after(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if is_compiling():
            return
        if compat.in_backward():
            self._again(layer, output)
            return
        if not self._frames or self._frames[-1].layer is not layer:
            return
        frame = self._frames.pop()
        self._dismiss(frame)
        y = _first_tensor(output)
        if y is None or not y.numel() or not _plain(y):
            return
        call = frame.made.call(layer)
        if frame.began is not None:
            ended = _clock(y)
            call.time = ended - frame.began if isinstance(ended, float) else (frame.began, ended)
        if not frame.watched:
            return
        transformed = compat.transforms_active()
        with torch.no_grad(), compat.unobserved():
            self._gather(frame, call, y, transformed)
        self._watch_gradient(frame.made, layer, call, y)

    def _dismiss(self, frame: _Frame) -> None:
        if frame.token is not None:
            gathering.done(frame.token)

    def _gather(self, frame: _Frame, call: Call, y: Tensor, transformed: bool) -> None:
        layer, gather, x = frame.layer, frame.gather, frame.x
        inside = compat.unwrapped(y).detach()
        if transformed:
            # Its dimensions are not those that the layer sees.
            gather, x = Gather(layer.module, None, self._scratch), None
        elif gather is None:
            gather = Gather(layer.module, self._units(layer, y), self._scratch)
        if not gather.is_of(inside):
            reread(gather, layer.module, layer.fixed, x, inside)
        row = call.row = gather.row
        if row is not None and (isinstance(row, Tensor) or row[5] or row[6]):
            # A device's are sent on their way; NaN and infinities are told of at once.
            frame.made.urgent = True
        if gather.alive is not None and not transformed:
            frame.made.mark(layer, gather.alive)
        if self._raises and row is not None:
            nan = float(row[5])
            if nan:
                self._raise(frame, y, int(nan))

    def _raise(self, frame: _Frame, y: Tensor, nan: int) -> None:
        layer = frame.layer
        source = ""
        if frame.x is not None and _plain(frame.x):
            before = int(compat.unwrapped(frame.x).isnan().sum())
            source = f"; its input has {before}, so that it comes from before" if before else "; its input has none"
        raise FloatingPointError(
            f"{OWNER}: {nan} NaN in the output of layer {layer.name!r} ({layer.kind}), shape {tuple(y.shape)}, "
            f"{str(y.dtype).removeprefix('torch.')}, in pass {frame.made.step}{source}"
        )

    def _units(self, layer: Layer, y: Tensor) -> int | None:
        """The dimension that counts a layer's units."""
        if not y.dim():
            return None
        dim = self._dim
        if dim is None:
            dim = layer.channel_dim
        if dim is None:
            dim = 1 if y.dim() >= 4 else -1
        if not -y.dim() <= dim < y.dim():
            raise ValueError(
                f"{OWNER}: channel_dim={dim}, but the output of layer {layer.name!r} has shape {tuple(y.shape)}"
            )
        return dim % y.dim()

    # ----- gradients

    def _watch_gradient(self, made: Pass, layer: Layer, call: Call, y: Tensor) -> None:
        # A leaf would keep the hook.
        if y.requires_grad and y.grad_fn is not None and not compat.transforms_active():
            y.register_hook(partial(self._gradient, made, layer, call))

    def _again(self, layer: Layer, output: Any) -> None:
        """A checkpoint computes a call again. If that ran without a graph before, its gradient comes only now."""
        made, y = self._statistics.current, _first_tensor(output)
        if made is None or made.step != self._step or y is None:
            return
        if any(call.row is not None for call in made.calls.get(layer, ())):
            self._watch_gradient(made, layer, made.call(layer), y)

    def _gradient(self, made: Pass, layer: Layer, call: Call, g: Tensor) -> None:
        if made.closed or is_compiling() or not _plain(g) or compat.transforms_active():
            return
        with torch.no_grad(), compat.unobserved():
            norm = torch.linalg.vector_norm(g.detach(), dtype=torch.float32 if g.dtype in HALF_DTYPES else None)
            # A graph that is gone through twice has the last one's.
            call.gradient = norm
            if self._raises and bool(norm.isnan()):
                nan = int(g.isnan().sum())
                raise FloatingPointError(
                    f"{OWNER}: {nan} NaN in the gradient of the output of layer {layer.name!r} ({layer.kind}), shape "
                    f"{tuple(g.shape)}, {str(g.dtype).removeprefix('torch.')}, in pass {made.step}"
                )


def _first_tensor(value: Any) -> Tensor | None:
    """The first floating-point tensor in arguments or results."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    return next((t for t in map(_first_tensor, value) if t is not None), None)


def _plain(t: Tensor) -> bool:
    """Whether a tensor has numbers in memory of its own."""
    return type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided and not t.is_meta and not t.is_nested


def _clock(t: Tensor | None) -> Any:
    """Now: an event of a GPU's stream, or seconds."""
    if t is None or not t.is_cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(t.device))
    return event
