"""Plots of activations and their derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .modules import create

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves", "plot"]


def curves(
    activation: str | nn.Module, low: float, high: float, points: int = 1001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, values and derivatives in float64 on an even grid."""
    module = create(activation) if isinstance(activation, str) else activation
    x = torch.linspace(low, high, points, dtype=torch.float64, requires_grad=True)
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return x.detach(), y.detach(), slope


def plot(*activations: str | nn.Module, low: float = -5.0, high: float = 5.0) -> Figure:
    """Draw activations, and beside them their derivatives.

    Args:
        activations: names, or modules; a module's repr is its label.
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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fusedact.plotting.plot needs matplotlib: pip install 'fusedact[plot]'") from error
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    value_axes, slope_axes = figure.subplots(1, 2)
    for activation in activations:
        label = activation if isinstance(activation, str) else repr(activation)
        x, y, slope = curves(activation, low, high)
        value_axes.plot(x.numpy(), y.numpy(), label=label, linewidth=2)
        slope_axes.plot(x.numpy(), slope.numpy(), linewidth=2)
    for axes, title in ((value_axes, "value"), (slope_axes, "derivative")):
        axes.set_title(title)
        axes.set_xlabel("x")
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    # Below both: a module's repr may be long.
    longest = max(len(str(text)) for text in value_axes.get_legend_handles_labels()[1])
    columns = max(1, min(len(activations), 120 // (longest + 8)))
    figure.set_figheight(3.8 + 0.22 * -(-len(activations) // columns))
    figure.legend(loc="outside lower center", frameon=False, ncols=columns)
    return figure
