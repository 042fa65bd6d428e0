"""The pictures of a monitor: heat maps over steps, and inputs under the curve that takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..looking.drawing import draw_tables, empty_figure
from ..piecewise.piecewise_module import PWL
from .arrival import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_heatmaps", "draw_histogram"]

# What a heat map may show, with its title; shares run from 0 to 1, magnitudes are drawn by their logarithm.
TITLES = {
    "mean": "mean",
    "std": "standard deviation",
    "min": "least value",
    "max": "greatest value",
    "zeros": "share of zeros",
    "dead": "dead units",
    "saturated": "saturated elements",
    "gradient": "norm of the gradient",
    "nan": "NaN",
    "inf": "infinities",
    "ms": "milliseconds",
}
SHARES, MAGNITUDES = ("zeros", "dead", "saturated"), ("std", "gradient", "ms")
LONGEST = 28


def draw_heatmaps(owner: str, records: Sequence[dict[str, Any]], layers: Sequence[str], names: Sequence[str]) -> Figure:
    """One heat map for each of these figures: layers, the first on top, by steps."""
    unknown = [name for name in names if name not in TITLES]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"{owner}: figures must be out of {', '.join(TITLES)}, got {got}")
    steps = sorted({record["step"] for record in records})
    if not steps:
        raise ValueError(f"{owner}: no pass was watched")
    columns = 1 if len(names) == 1 else 2
    rows = -(-len(names) // columns)
    figure = empty_figure(owner, 5.6 * columns, rows * (1.4 + 0.28 * len(layers)))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    at = {(record["layer"], record["step"]): record for record in records}
    for axes, name in zip(panels.flat, names, strict=False):
        image = axes.pcolormesh(
            range(len(steps) + 1),
            range(len(layers) + 1),
            [[_shade(name, at.get((layer, step), {}).get(name, math.nan)) for step in steps] for layer in layers],
            cmap="viridis",
            **({"vmin": 0.0, "vmax": 1.0} if name in SHARES else {}),
        )
        # Where nothing is known.
        axes.set_facecolor("0.9")
        axes.set_title(TITLES[name])
        bar = figure.colorbar(image, ax=axes)
        if name in MAGNITUDES:
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{10.0**value:.2g}")
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    panels[0][0].invert_yaxis()
    panels[0][0].set_yticks([i + 0.5 for i in range(len(layers))], [_shortened(name) for name in layers])
    marked = range(0, len(steps), max(1, len(steps) // 6))
    for axes in panels[-1]:
        axes.set_xticks([i + 0.5 for i in marked], [str(steps[i]) for i in marked])
        axes.set_xlabel("step")
    return figure


def _shade(name: str, value: float) -> float:
    """What is drawn of a figure: NaN, and the logarithm of 0, is left blank."""
    if name not in MAGNITUDES:
        return value if math.isfinite(value) else math.nan
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]


def draw_histogram(owner: str, layer: Layer) -> Figure:
    """A PWL's curve over the histogram of its inputs."""
    histogram, module = layer.histogram, layer.module
    assert histogram is not None and isinstance(module, PWL)
    edges, counts, outside = histogram.read()
    parts = (module.breakpoints, module.values, module.left_slope, module.right_slope)
    began = module.initial if module.learnable else None
    figure = draw_tables(owner, parts, began, histogram.low, histogram.high, False, None)
    axes = figure.axes[0]
    total = sum(counts) + outside
    share = f"{outside / total:.1%} of the inputs lie outside" if total else "no input yet"
    axes.set_title(f"{layer.name}: value, and its inputs ({share})", fontsize=10)
    behind = axes.twinx()
    behind.bar(edges[:-1], counts, edges[1] - edges[0], align="edge", color="C1", alpha=0.35, linewidth=0)
    behind.set_ylabel("inputs")
    behind.spines[["top"]].set_visible(False)
    # The curve in front.
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    return figure
