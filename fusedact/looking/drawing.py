"""What plots share, and the curves of piecewise-linear tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import check_number
from ..piecewise import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Rows", "bundle", "draw_tables", "empty_figure", "mark", "style"]

# Breakpoints, values, left and right slopes.
Rows = Sequence[Tensor]

GRID = 801
# Breakpoints that are marked, and how far curves go on beyond them, in parts of the range.
MARKED, BEYOND = 256, 0.15
# On each side of a single breakpoint.
AROUND = 3.0


def empty_figure(owner: str, width: float, height: float) -> Figure:
    """A figure without axes.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{owner} needs matplotlib: pip install 'fusedact[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    # For notebooks, whose own way knows the figures of pyplot.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def bundle(count: int) -> dict[str, Any]:
    """How the curves of so many channels look."""
    return {"linewidth": 0.7, "alpha": max(0.05, min(0.5, 8.0 / count))}


def style(axes: Axes, title: str) -> None:
    """Title, axes through the origin and a light grid."""
    axes.set_title(title)
    axes.set_xlabel("x")
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_tables(
    owner: str,
    current: Rows,
    initial: Rows | None,
    low: float | None,
    high: float | None,
    slopes: bool,
    path: str | PathLike[str] | None,
) -> Figure:
    """The figure of `PWL.plot`.

    Raises:
        ImportError: without matplotlib.
        ValueError: if low is not below high.
    """
    figure = empty_figure(owner, 10.0 if slopes else 5.5, 3.8)
    current = [t.detach().to("cpu", torch.float64) for t in current]
    drawn = [current]
    if initial is not None:
        drawn.insert(0, [t.detach().to("cpu", torch.float64) for t in initial])
    points = torch.cat([rows[0].reshape(-1) for rows in drawn])
    first, last = points.min().item(), points.max().item()
    beyond = BEYOND * (last - first) or AROUND
    low = first - beyond if low is None else check_number(owner, "low", low)
    high = last + beyond if high is None else check_number(owner, "high", high)
    if not low < high:
        raise ValueError(f"{owner}: low must be below high, got {low} and {high}")
    inside = points[(points > low) & (points < high)].unique()
    # Corners are sharp where they are few enough to see.
    grid = torch.linspace(low, high, GRID, dtype=torch.float64)
    x = torch.cat([grid, inside]).sort()[0] if len(inside) <= GRID else grid
    panels = figure.subplots(1, 2 if slopes else 1, squeeze=False)[0]
    for axes, title in zip(panels, ("value", "slope"), strict=False):
        style(axes, title)
    y = torch.stack([tables.reference(x, *row) for row in _rows(current)])
    if len(y) > 1:
        thin: dict[str, Any] = {"color": "C0", **bundle(len(y))}
        _draw(panels, x, y, **thin)
    label = f"mean of {len(y)} channels" if len(y) > 1 else "learned" if initial is not None else None
    _draw(panels, x, y.mean(0, keepdim=True), color="C0", linewidth=2.0, label=label)
    if initial is not None:
        _draw(panels, x, _mean(x, drawn[0])[None], color="0.15", linestyle="--", linewidth=1.2, label="initial")
    mark(panels[0], current[0], current[1], low, high)
    if label:
        panels[0].legend(loc="best", frameon=False)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def _rows(parts: Rows) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The table of each channel."""
    b, v, left, right = parts
    wide = [b.reshape(-1, b.shape[-1]), v.reshape(-1, v.shape[-1]), left.reshape(-1), right.reshape(-1)]
    count = max(len(t) for t in wide)
    wide = [t.expand(count, *t.shape[1:]) for t in wide]
    return list(zip(*(t.unbind() for t in wide), strict=True))


def _mean(x: Tensor, parts: Rows) -> Tensor:
    rows = _rows(parts)
    return torch.stack([tables.reference(x, *row) for row in rows]).mean(0)


def _draw(panels: Sequence[Axes], x: Tensor, y: Tensor, label: str | None = None, **look: Any) -> None:
    """Curves, and on the second panel their slopes."""
    panels[0].plot(x.numpy(), y.T.numpy(), label=label, **look)
    if len(panels) > 1:
        steps = (y.diff(dim=1) / x.diff()).T.numpy()
        panels[1].plot(x[:-1].numpy(), steps, drawstyle="steps-post", **look)


def mark(axes: Axes, breakpoints: Tensor, values: Tensor, low: float, high: float, colour: Any = "C0") -> None:
    """Dots at the breakpoints: of one table on its curve, of several that share theirs on the mean."""
    b, v = (t.reshape(-1, t.shape[-1]) for t in (breakpoints, values))
    if len(b) == 1:
        v = v.mean(0, keepdim=True)
    b, v = b.reshape(-1), v.expand(len(b), -1).reshape(-1)
    shown = (b >= low) & (b <= high)
    if int(shown.sum()) <= MARKED:
        axes.plot(b[shown].numpy(), v[shown].numpy(), "o", color=colour, markersize=3.0, zorder=3)
