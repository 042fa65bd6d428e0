"""Plots of activations and their derivatives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from .drawing import empty_figure, style
from .modules import create
from .registry import ActivationSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "plot"]

Drawn = str | nn.Module | tuple[str | nn.Module, str | nn.Module]


def curves(
    activation: str | nn.Module, low: float, high: float, points: int = 1001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, values and derivatives in float64 on an even grid, with a column per channel if parameters have entries.

    Inputs have shape (points,), the others (points,), or (points, channels) if there are several.

    Raises:
        ValueError: for softmax and its kin, whose elements depend on each other.
    """
    module = create(activation) if isinstance(activation, str) else activation
    spec: ActivationSpec | None = getattr(module, "spec", None)
    if spec is not None and spec.kind == "rowwise":
        raise ValueError(f"fusedact.plotting: {spec.name} is not elementwise, and has no curve")
    if spec is not None and spec.kind == "random":
        # The mean of its slopes.
        module = copy.deepcopy(module).eval()
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    channels: int = getattr(module, "num_parameters", 1)
    if channels == 1:
        x = grid.clone().requires_grad_()
        y = module(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        return grid, y.detach(), slope
    # As many dimensions as the channels' one needs; the points lie along another.
    channel = cast("int", module.channel_dim)
    shape = [1] * max(2, channel + 1, -channel)
    channel %= len(shape)
    along = 0 if channel else 1
    shape[along], shape[channel] = points, channels
    x = grid.reshape([points if d == along else 1 for d in range(len(shape))]).expand(shape).clone().requires_grad_()
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    value, slope = (t.detach().movedim((along, channel), (0, 1)).reshape(points, channels) for t in (y, slope))
    return grid, value, slope


def _draw(axes: Axes, x: torch.Tensor, y: torch.Tensor, **style: Any) -> Any:
    """A curve; of several channels their mean, and the range of all behind it. Returns the colour."""
    mean = y.mean(1) if y.dim() > 1 else y
    (line,) = axes.plot(x.numpy(), mean.numpy(), linewidth=2, **style)
    colour = line.get_color()
    if y.dim() > 1:
        axes.fill_between(x.numpy(), y.amin(1).numpy(), y.amax(1).numpy(), color=colour, alpha=0.2, linewidth=0)
    return colour


def _draw_row(row: Sequence[Drawn], both: Sequence[Axes], low: float, high: float) -> None:
    """Values and derivatives, each on its axes."""
    for drawn in row:
        before, activation = drawn if isinstance(drawn, tuple) else (None, drawn)
        label = activation if isinstance(activation, str) else repr(activation)
        x, *after = curves(activation, low, high)
        colours = [_draw(axes, x, y, label=label) for axes, y in zip(both, after, strict=True)]
        if before is not None:
            _, *dashed = curves(before, low, high)
            for axes, y, colour in zip(both, dashed, colours, strict=True):
                _draw(axes, x, y, color=colour, linestyle="--")
    for axes, title in zip(both, ("value", "derivative"), strict=True):
        style(axes, f"{title} (dashed: before)" if isinstance(row[0], tuple) else title)


def plot(*activations: Drawn, low: float = -5.0, high: float = 5.0) -> Figure:
    """Draw activations, and beside them their derivatives.

    Args:
        activations: names, or modules; a module's repr is its label. Pairs of them, such as before and after learning,
            have axes of their own, on which the first is dashed. Where a parameter has an entry per channel, the line
            is the mean over the channels, and an area shows their range.
        low: left end of the inputs.
        high: right end of the inputs.

    Returns:
        a matplotlib Figure; `figure.savefig(path)` writes it.

    Raises:
        ImportError: without matplotlib.
        ValueError: without an activation, or if low is not below high.
    """
    if not activations:
        raise ValueError("fusedact.plotting.plot: name at least one activation")
    if not low < high:
        raise ValueError(f"fusedact.plotting.plot: low must be below high, got {low} and {high}")
    single: list[Drawn] = [drawn for drawn in activations if not isinstance(drawn, tuple)]
    pairs: list[Drawn] = [drawn for drawn in activations if isinstance(drawn, tuple)]
    rows = [row for row in (single, pairs) if row]
    figure = empty_figure("fusedact.plotting.plot", 10.0, 3.8 * len(rows))
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for row, both in zip(rows, grid, strict=True):
        _draw_row(row, both, low, high)
    if pairs:
        grid[-1][0].legend(loc="upper left", frameon=False)
    if single:
        # Outside: a module's repr may be long.
        handles, labels = grid[0][0].get_legend_handles_labels()
        columns = max(1, min(len(single), 120 // (max(map(len, labels)) + 8)))
        figure.set_figheight(3.8 * len(rows) + 0.22 * -(-len(single) // columns))
        where: Any = "outside upper center" if pairs else "outside lower center"
        figure.legend(handles, labels, loc=where, frameon=False, ncols=columns)
    return figure
