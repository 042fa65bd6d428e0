"""What a monitor gathered, as its user sees it: a table, a dict, records, plots, and warnings."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import figures
from .arrival import Arriving, Layer, Pass, told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Statistics", "Thresholds"]

OWNER = "fusedact.monitor"
# Columns of the table, and how each is written.
SHARES, COUNTS = ("dead", "saturated"), ("nan", "inf")
COLUMNS = ("mean", "std", "min", "max", *SHARES, "gradient", *COUNTS, "ms")
# Passes are taken in by so many: one alone takes four times as long, as nothing of what does it is in the caches then.
TOGETHER = 8
# What `plot` draws.
DRAWN = ("std", "dead", "saturated", "gradient")


@dataclass(frozen=True)
class Thresholds:
    """When a monitor warns; None for never."""

    dead: float | None
    exploding: float | None
    nan: bool


class Statistics:
    """What `fusedact.monitor` gathers; it prints as a table. Reading it waits for what a device still computes.

    `steps` has the numbers of the passes that were watched, and `seen` is how many passes there were.
    """

    def __init__(self, layers: Sequence[Layer], every: int, thresholds: Thresholds, history: int) -> None:
        self.seen = 0
        self._layers = list(layers)
        self._every = every
        self._thresholds = thresholds
        # Passes that are over, and how many of them are taken in together; the first few are not kept waiting.
        self._over: list[Pass] = []
        self._together = 1
        self._arriving: deque[Arriving] = deque()
        self._records: deque[list[dict[str, Any]]] = deque(maxlen=history)
        self._steps: deque[int] = deque(maxlen=history)
        self._current: Pass | None = None

    # ----- what the monitor hands over

    def begin(self, step: int) -> Pass:
        """The pass of this step, at work from now on."""
        if self._current is None or self._current.step != step:
            made = self._end()
            if len(self._over) >= self._together or (made is not None and made.urgent):
                self.close()
                self._together = min(2 * self._together, TOGETHER)
            self._current = Pass(step)
        return self._current

    @property
    def current(self) -> Pass | None:
        """The last pass that was watched, unless it was read since."""
        return self._current

    def close(self) -> None:
        """Send what was gathered of passes on its way, and take in what has arrived."""
        self._end()
        self._arriving += map(Arriving, self._over)
        self._over = []
        while self._arriving and self._arriving[0].ready():
            self._take(self._arriving.popleft())

    def _end(self) -> Pass | None:
        """The last pass is over."""
        made, self._current = self._current, None
        if made is not None:
            made.closed = True
            if made.calls:
                self._over.append(made)
        return made

    def _settle(self) -> None:
        """Take in all there is."""
        self.close()
        while self._arriving:
            self._take(self._arriving.popleft())

    def _take(self, arriving: Arriving) -> None:
        records = []
        for layer, record, row in arriving.read():
            layer.calls += record["calls"]
            layer.total = figures.merged(layer.total, row)
            layer.gradients += [] if math.isnan(record["gradient"]) else [record["gradient"]]
            layer.times += [] if math.isnan(record["ms"]) else [record["ms"]]
            records.append(record)
            self._warn(layer, record)
        self._records.append(records)
        self._steps.append(arriving.step)

    def _warn(self, layer: Layer, record: dict[str, Any]) -> None:
        """Warn of what is wrong in a pass, once for each layer."""
        limits, where = self._thresholds, f"in pass {record['step']}"
        found: dict[str, str] = {}
        if limits.nan and record["nan"]:
            found["nan"] = f"{record['nan']} NaN {where}"
        if limits.dead is not None and record["dead"] >= limits.dead:
            found["dead"] = f"{record['dead']:.0%} of its units are dead {where}: no element of theirs has a slope"
        if limits.exploding is not None:
            size = max(abs(record["min"]), abs(record["max"]))
            if record["inf"]:
                found["exploding"] = f"{record['inf']} infinite values {where}"
            elif size > limits.exploding:
                found["exploding"] = f"values explode: a magnitude of {size:.3g} {where}"
            elif record["gradient"] > limits.exploding:
                found["exploding"] = f"its gradient explodes: a norm of {record['gradient']:.3g} {where}"
        for what, text in found.items():
            if what not in layer.warned:
                layer.warned.add(what)
                warnings.warn(f"{OWNER}: layer {layer.name!r} ({layer.kind}): {text}", stacklevel=2)

    # ----- what its user reads

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of the passes that were watched, of those that are kept."""
        self._settle()
        return tuple(self._steps)

    def records(self) -> list[dict[str, Any]]:
        """A dict for each layer of each pass that is kept, in order.

        Keys are step, layer, kind, calls, mean, std, min, max, zeros, saturated, nan, inf, dead, gradient and ms; what
        is not known is NaN.
        """
        self._settle()
        return [dict(record) for records in self._records for record in records]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By layer: its kind, calls and figures over all passes.

        mean, std, min and max are over the finite elements of all passes, `dead` is the share of units that were so in
        every pass, `gradient` the mean of the passes' norms, `ms` their median time.
        """
        self._settle()
        return {layer.name: self._summary(layer) for layer in self._layers}

    def _summary(self, layer: Layer) -> dict[str, Any]:
        units = sum(layer.alive)
        times = sorted(layer.times)
        return {
            "kind": layer.kind,
            "calls": layer.calls,
            **told(layer.total),
            "dead": sum(int((~a).sum()) for a in layer.alive.values()) / units if units else math.nan,
            "gradient": sum(layer.gradients) / len(layer.gradients) if layer.gradients else math.nan,
            "ms": times[len(times) // 2] if times else math.nan,
        }

    def to_dataframe(self) -> Any:
        """`records()` as a pandas DataFrame.

        Raises:
            ImportError: without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(f"{OWNER}: to_dataframe needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.records())

    def __str__(self) -> str:
        summary = self.to_dict()
        table = [["layer", "kind", "calls", *COLUMNS]]
        for name, told_of in summary.items():
            written = [_written(column, told_of[column]) for column in COLUMNS]
            table.append([name, told_of["kind"], str(told_of["calls"]), *written])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        watched = f"{self.seen} pass{'' if self.seen == 1 else 'es'}"
        return "\n".join([f"{watched}, every {self._every} watched" if self._every > 1 else watched, *lines])

    def plot(self, path: str | PathLike[str] | None = None, *, figures: Sequence[str] = DRAWN) -> Figure:
        """Draw heat maps of figures, layers by steps.

        Args:
            path: where to save the picture, if anywhere.
            figures: what to draw, out of the keys of `records()` that are numbers. The scale of magnitudes is
                logarithmic.

        Returns:
            a matplotlib Figure.

        Raises:
            ImportError: without matplotlib.
            ValueError: for an unknown figure, or if no pass was watched.
        """
        from .heatmaps import draw_heatmaps

        drawn = draw_heatmaps(f"{OWNER}: plot", self.records(), [layer.name for layer in self._layers], figures)
        if path is not None:
            drawn.savefig(path, dpi=110)
        return drawn

    def plot_pwl(self, layer: str, path: str | PathLike[str] | None = None) -> Figure:
        """Draw a PWL layer's curve as it is now over a histogram of the inputs that it got.

        Args:
            layer: the name of a layer that is a PWL.
            path: where to save the picture, if anywhere.

        Returns:
            a matplotlib Figure.

        Raises:
            ImportError: without matplotlib.
            ValueError: if no such layer is watched, or it is no PWL.
        """
        from .heatmaps import draw_histogram

        known = [found.name for found in self._layers if found.histogram is not None]
        for found in self._layers:
            if found.name == layer and found.histogram is not None:
                drawn = draw_histogram(f"{OWNER}: plot_pwl", found)
                if path is not None:
                    drawn.savefig(path, dpi=110)
                return drawn
        raise ValueError(
            f"{OWNER}: plot_pwl: no PWL named {layer!r} is watched; there is {', '.join(map(repr, known)) or 'none'}"
        )


def _written(column: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if column in SHARES:
        return f"{value:.1%}"
    return str(value) if column in COUNTS else f"{value:.4g}"
