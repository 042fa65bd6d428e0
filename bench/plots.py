"""Plots of a run, from its rows: PyTorch's time over fusedact's, bandwidths, and on a GPU the share of a copy's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cases import DIRECTIONS, DTYPES
from bench.figures import Comparison, Result, comparisons
from bench.model import Model, device_of, kernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange", "float16": "tab:green"}
RATIO, SHARE = "ratio.png", "copy-share.png"
KEY = "Source"
# Activations beside each other.
COLUMNS = 5

# The activations that plots of the bandwidth show, as far as they were timed: which are one operator of PyTorch's and
# which several, which have parameters that learn, or tables, or go along rows; and the first of each of these forms.
TELLING = (
    *("relu", "silu", "gelu", "mish", "relu_sigmoid", "swish (learned)", "prelu (per channel)", "pwl (17 points)"),
    *("softmax", "softmax (temperature)"),
)
TELLING_FORMS = ("gated", "biased", "linear", "own")
ROOF = "copy, the roof"


def _line(axes: Axes, cases: Sequence[Comparison], value: Callable[[Comparison], float | None], **style: Any) -> None:
    points = [(c.size, value(c)) for c in cases]
    points = [(size, v) for size, v in points if v is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _band(axes: Axes, cases: Sequence[Comparison], colour: str) -> None:
    """Between eager's median over the quartiles of fusedact."""
    low, high = (
        [c.time("eager") / float(c.by["fusedact"][q]) for c in cases] for q in ("device_q75_us", "device_q25_us")
    )
    axes.fill_between([c.size for c in cases], low, high, color=colour, alpha=0.15, linewidth=0)


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    exponents = [size.bit_length() - 1 for size in sizes]
    axes.set_xticks([2**e for e in exponents], [f"$2^{{{e}}}$" for e in exponents])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _grid(
    result: Result, cases: Sequence[Comparison], y_label: str, draw: Callable[[Axes, list[Comparison]], None]
) -> Figure:
    """Axes for each activation and direction, one below the other, in which `draw` draws the cases of all dtypes."""
    from matplotlib.figure import Figure

    activations = list(dict.fromkeys(c.activation for c in cases))
    sizes = sorted({c.size for c in cases})
    columns = min(len(activations), COLUMNS)
    bands = [activations[i : i + columns] for i in range(0, len(activations), columns)]
    figure = Figure(figsize=(0.6 + 3.6 * columns, 0.4 + 5.8 * len(bands)), layout="constrained")
    grid = figure.subplots(len(bands) * len(DIRECTIONS), columns, sharex=True, sharey="row", squeeze=False)
    for row, (band, direction) in zip(grid, itertools.product(bands, DIRECTIONS), strict=True):
        for axes, activation in zip(row, band, strict=False):
            draw(axes, [c for c in cases if (c.activation, c.direction) == (activation, direction)])
            axes.set_title(f"{activation}, {direction}", fontsize=10)
            _size_axis(axes, sizes)
            if direction == DIRECTIONS[-1]:
                axes.tick_params(labelbottom=True)
                axes.set_xlabel("elements")
        row[0].set_ylabel(y_label)
        for axes in row[len(band) :]:
            axes.remove()
    # No axes need show every line.
    shown = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = min(len(shown), 2 + 2 * columns)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(str(result.environment["device"]), fontsize=11)
    return figure


def _by_dtype(cases: Sequence[Comparison]) -> Iterator[tuple[list[Comparison], str, str]]:
    """The cases of each dtype that was timed, its name and its colour."""
    for dtype, colour in COLOURS.items():
        some = [c for c in cases if c.dtype == dtype]
        if some:
            yield some, dtype, colour


def ratio_figure(result: Result) -> Figure:
    """Eager's time over fusedact's against the size; dashed, the best of torch.compile's over fusedact's."""

    def draw(axes: Axes, every: list[Comparison]) -> None:
        axes.axhline(1, color="0.5", linewidth=0.8, zorder=0)
        for cases, dtype, colour in _by_dtype(every):
            _line(axes, cases, lambda c: c.ratio(), color=colour, label=dtype, marker="o", markersize=3.5)
            _band(axes, cases, colour)
            if any(c.over_compile() is not None for c in cases):
                label = f"{dtype}, over the best torch.compile"
                _line(axes, cases, lambda c: c.over_compile(), color=colour, label=label, linestyle="--", marker=".")

    figure = _grid(result, comparisons(result.records), "PyTorch's time / fusedact's", draw)
    for axes in figure.axes:
        _ratio_axis(axes)
    return figure


def _ratio_axis(axes: Axes) -> None:
    """A logarithmic axis with powers of two, or their halves where the range is short."""
    axes.set_yscale("log", base=2)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    ticks = [t for t in (1 / 8, 1 / 4, 1 / 2, 0.7, 1, 1.4, 2, 2.8, 4, 8, 16, 32, 64) if low <= t <= high]
    if high / low > 8:
        ticks = [t for t in ticks if t not in (0.7, 1.4, 2.8)]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def share_figure(result: Result) -> Figure:
    """The time of a plain copy of as many bytes over fusedact's, and dotted over eager's, against the size."""

    def draw(axes: Axes, every: list[Comparison]) -> None:
        axes.axhline(1, color="0.5", linewidth=0.8, zorder=0)
        for cases, dtype, colour in _by_dtype(every):
            _line(axes, cases, lambda c: c.ratio("copy"), color=colour, label=dtype, marker="o", markersize=3.5)
            label = f"{dtype}, eager"
            _line(axes, cases, lambda c: c.time("copy") / c.time("eager"), color=colour, label=label, linestyle=":")

    figure = _grid(result, comparisons(result.records), "share of a copy's bandwidth", draw)
    for axes in figure.axes:
        axes.set_ylim(bottom=0)
    return figure


def _telling(result: Result) -> list[Comparison]:
    """The cases that plots of the bandwidth show."""
    cases = comparisons(result.records)
    firsts = [next((c.activation for c in cases if c.form == form), "") for form in TELLING_FORMS]
    chosen = [name for name in (*TELLING, *firsts) if any(c.activation == name for c in cases)]
    chosen = chosen or list(dict.fromkeys(c.activation for c in cases))[:COLUMNS]
    return sorted((c for c in cases if c.activation in chosen), key=lambda c: chosen.index(c.activation))


def _reached(provider: str, case: Comparison) -> float | None:
    return case.bandwidth(provider) if provider in case.by else None


def roofline_figure(result: Result, dtype: str) -> Figure:
    """The bandwidth that each provider reaches against the size; a copy is the roof, and dotted what is predicted."""
    cases = [c for c in _telling(result) if c.dtype == dtype]
    names = [name for name in dict.fromkeys(name for c in cases for name in c.by) if name not in ("fusedact", "copy")]
    device = device_of(result) if result.on_gpu else None
    model = Model(device, kernels(result.folder.parent)) if device else None

    def predicted(c: Comparison) -> float | None:
        return next((c.bytes / judged.predicted / 1e3 for judged in model.judged([c])), None) if model else None

    def draw(axes: Axes, some: list[Comparison]) -> None:
        _line(axes, some, partial(_reached, "copy"), color="0.4", label=ROOF, linestyle="--", linewidth=1.2)
        for i, name in enumerate(names):
            colour = OTHERS[i % len(OTHERS)]
            _line(axes, some, partial(_reached, name), color=colour, label=name, marker="o", markersize=3)
        style = {"color": "tab:blue", "label": "fusedact", "marker": "o", "markersize": 4, "zorder": 5}
        _line(axes, some, partial(_reached, "fusedact"), **style)
        _line(axes, some, predicted, color="tab:blue", label="fusedact, predicted", linestyle=":", zorder=5)

    figure = _grid(result, cases, f"GB/s, {dtype}", draw)
    for axes in figure.axes:
        axes.set_yscale("log")
    return figure


def rooflines(result: Result) -> dict[str, str]:
    """The plots of the bandwidth, by the name of their file: what they show."""
    timed = {r["dtype"] for r in result.records}
    return {f"bandwidth-{d}.png": f"Bandwidth reached over the size, {d}" for d in DTYPES if d in timed}


def figures(result: Result) -> dict[str, Callable[[Result], Figure]]:
    """The plots of a run, by the name of their file."""
    found: dict[str, Callable[[Result], Figure]] = {RATIO: ratio_figure}
    for name in rooflines(result):
        found[name] = partial(roofline_figure, dtype=name.removeprefix("bandwidth-").removesuffix(".png"))
    return found | ({SHARE: share_figure} if result.on_gpu else {})


def write(result: Result) -> None:
    """Draw what is not drawn from these rows yet, into the run's folder.

    Raises:
        ImportError: without matplotlib.
    """
    for name, draw in figures(result).items():
        path = result.folder / name
        if source(path) != result.digest:
            draw(result).savefig(path, dpi=110, metadata={KEY: result.digest, "Software": None})


def source(path: Path) -> str:
    """The digest of the rows that a PNG was drawn from; empty if there is no such file or text."""
    if not path.exists():
        return ""
    content, key = path.read_bytes(), b"tEXt" + KEY.encode("latin-1") + b"\0"
    at = content.find(key)
    if at < 0:
        return ""
    length = int.from_bytes(content[at - 4 : at], "big")
    return content[at + len(key) : at + 4 + length].decode("latin-1")
