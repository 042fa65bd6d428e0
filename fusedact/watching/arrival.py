"""What a monitor's hooks gather of a pass, and its way from a device to the host, on which nobody waits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import figures
from .histograms import Histogram

__all__ = ["Arriving", "Call", "Layer", "Pass"]


@dataclass
class Call:
    """What was gathered of one call of a layer; tensors may be on a device that has not computed them yet."""

    row: Sequence[float] | Tensor | None = None
    # The norm of the output's gradient.
    gradient: Tensor | None = None
    # Seconds, or the events before and after.
    time: Any = None


@dataclass(eq=False)
class Layer:
    """A layer that is watched, and what all its passes together had that have arrived."""

    name: str
    module: nn.Module
    # Whether it has slopes, and whether it can gather while it runs.
    pointwise: bool
    gathers: bool
    # Whether its class and arguments alone tell what it computes.
    fixed: bool
    histogram: Histogram | None
    # The dimension that counts its units, where it has parameters for each of them.
    channel_dim: int | None
    # Calls outside a forward pass of the model.
    alone: int = 0
    # Calls that were watched.
    calls: int = 0
    total: tuple[float, ...] = figures.EMPTY
    # By the number of units: those of which an element with a slope was ever seen.
    alive: dict[int, Tensor] = field(default_factory=dict)
    gradients: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """The class of the module."""
        return type(self.module).__name__


class Pass:
    """A pass that is watched: the calls of each layer in it, and by the number of units those that were alive."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.closed = False
        # Whether its numbers shall not wait for those of other passes.
        self.urgent = False
        self.calls: dict[Layer, list[Call]] = {}
        self.alive: dict[Layer, dict[int, Tensor]] = {}

    def call(self, layer: Layer) -> Call:
        """A new call of the layer."""
        made = Call()
        self.calls.setdefault(layer, []).append(made)
        return made

    def mark(self, layer: Layer, alive: Tensor) -> None:
        """Note the units that were alive in a call."""
        join(self.alive.setdefault(layer, {}), alive if alive.dtype == torch.bool else alive != 0)


def join(found: dict[int, Tensor], alive: Tensor) -> None:
    """Add units that are alive to those found, by their number."""
    before = found.get(len(alive))
    found[len(alive)] = alive if before is None or before.device != alive.device else before | alive


@dataclass
class _Part:
    """What arrives of a layer: rows of figures, gradients' norms, the dead units and all of them, the calls."""

    layer: Layer
    rows: list[Any]
    gradients: list[Any]
    dead: list[Any]
    units: int
    calls: list[Call]


class Arriving:
    """A pass that is over, whose numbers are on their way."""

    def __init__(self, made: Pass) -> None:
        self.step = made.step
        self._parts = []
        for layer, calls in made.calls.items():
            alive = made.alive.get(layer, {})
            for units in alive.values():
                join(layer.alive, units)
            self._parts.append(
                _Part(
                    layer,
                    [c.row for c in calls if c.row is not None],
                    [_numbers(c.gradient) for c in calls if c.gradient is not None],
                    [_numbers(len(units) - units.sum()) for units in alive.values()],
                    sum(alive),
                    calls,
                )
            )
        self._copies = [
            _Copy(device, [t for t in self._tensors() if t.device == device])
            for device in dict.fromkeys(t.device for t in self._tensors())
        ]

    def _tensors(self) -> Iterable[Tensor]:
        for part in self._parts:
            yield from (t for t in (*part.rows, *part.gradients, *part.dead) if isinstance(t, Tensor))

    def ready(self) -> bool:
        """Whether all has arrived."""
        ends = [c.time[1] for part in self._parts for c in part.calls if isinstance(c.time, tuple)]
        return all(copy.ready() for copy in self._copies) and all(end.query() for end in ends)

    def read(self) -> Iterable[tuple[Layer, dict[str, Any], tuple[float, ...]]]:
        """Each layer with its record of the pass, and its figures; waits for what has not arrived."""
        host = {id(t): numbers for copy in self._copies for t, numbers in copy.read()}

        def numbers(value: Any) -> Sequence[float]:
            return host[id(value)] if isinstance(value, Tensor) else value

        for part in self._parts:
            row: tuple[float, ...] = figures.EMPTY
            for r in part.rows:
                row = figures.merged(row, numbers(r))
            norms = [numbers(g)[0] for g in part.gradients]
            record: dict[str, Any] = {
                "step": self.step,
                "layer": part.layer.name,
                "kind": part.layer.kind,
                "calls": len(part.rows),
                **told(row),
                "dead": sum(numbers(d)[0] for d in part.dead) / part.units if part.units else math.nan,
                "gradient": math.hypot(*norms) if norms else math.nan,
                "ms": _milliseconds(part.calls),
            }
            yield part.layer, record, row


def _numbers(t: Tensor) -> list[float] | Tensor:
    """A tensor of one element as a list where that makes nobody wait."""
    return [t.item()] if t.is_cpu else t


class _Copy:
    """Tensors of one device, copied to the host together."""

    def __init__(self, device: torch.device, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        joined = torch.cat([t.detach().reshape(-1).double() for t in tensors])
        self._event = None
        self._host = joined
        if device.type == "cuda":
            self._host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
            self._host.copy_(joined, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(device))

    def ready(self) -> bool:
        return self._event is None or self._event.query()

    def read(self) -> Iterable[tuple[Tensor, list[float]]]:
        if self._event is not None:
            self._event.synchronize()
        numbers, at = self._host.tolist(), 0
        for t in self._tensors:
            yield t, numbers[at : at + t.numel()]
            at += t.numel()


def _milliseconds(calls: Iterable[Call]) -> float:
    """The time of all calls of a layer in a pass; NaN if none was measured."""
    spans = []
    for call in calls:
        if isinstance(call.time, tuple):
            call.time[1].synchronize()
            spans.append(call.time[0].elapsed_time(call.time[1]))
        elif call.time is not None:
            spans.append(1e3 * call.time)
    return sum(spans) if spans else math.nan


def told(row: Sequence[float]) -> dict[str, float]:
    """Figures as they are told."""
    count, mean, squares, low, high, nan, infinite, zeros, flat = row
    total = count + nan + infinite
    return {
        "mean": mean if count else math.nan,
        "std": math.sqrt(max(squares, 0.0) / count) if count else math.nan,
        "min": low if count else math.nan,
        "max": high if count else math.nan,
        "zeros": zeros / total if total else math.nan,
        "saturated": flat / total if total else math.nan,
        "nan": int(nan),
        "inf": int(infinite),
    }
