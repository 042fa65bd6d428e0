"""How large weights should begin, given the activation that follows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .dispatch import backend
from .piecewise.callables import Function, as_function, check_elementwise, values
from .quadrature import gauss_legendre

__all__ = ["gain"]

OWNER = "fusedact.gain"
# A standard normal variable is outside with probability 4e-33.
REACH = 12
# Gauss-Legendre points of a panel, and the first panels to an end; panels are halved where their halves tell otherwise.
POINTS, PANELS = 16, 48
# What a panel may add to the relative error; how much all together may when halving ends; how long it goes on.
SETTLED, ACCEPTED = 1e-15, 1e-6
ROUNDS, MOST_PANELS = 64, 2**14


def gain(activation: str | nn.Module | Callable[..., Tensor], /, **parameters: Any) -> float:
    """The factor that keeps a signal's scale: 1 / sqrt(E[f(z)^2]) for a standard normal z.

    Weights of standard deviation gain / sqrt(fan_in), applied to what the activation f made of inputs with mean 0 and
    variance 1, give such values again.

    The mean is computed in float64, to about 1e-14 of it, wherever f bends or jumps. It agrees with
    torch.nn.init.calculate_gain for linear, relu and leaky_relu. That has other values for tanh, 5/3 where this has
    1.5925, for sigmoid, 1 where this has 1.8462, and for selu, 3/4 where this has 1: with it SELU keeps mean 0 and
    variance 1.

    Args:
        activation: a name, as for `fusedact.functional.activate`, a function or module of this library, an activation
            of one's own, a torch.nn module, or any function of a tensor that works element by element. A module is
            taken as it is, with what its parameters have learned; they must have one entry.
        parameters: of the activation, as keywords; otherwise what its module begins with.

    Returns:
        a number.

    Raises:
        TypeError: if `activation` is none of these, or does not return a tensor of real numbers.
        ValueError: if it is not elementwise, has an entry per channel, or the mean is 0, infinite or NaN; for an
            unknown name.

    >>> round(fusedact.gain("leaky_relu", negative_slope=0.2), 6)
    1.38675
    >>> weight = torch.randn(256, 128) * fusedact.gain("mish") / 128**0.5

    Source: He et al., 2015, arXiv:1502.01852, for any activation.
    """
    function, name = as_function(OWNER, activation, parameters, "gain")
    with torch.no_grad(), torch.device("cpu"), backend("eager"):
        mean = _mean_square(function, name)
    if not (math.isfinite(mean) and mean > 0.0):
        raise ValueError(
            f"{OWNER}: the mean square of {name} for a standard normal input must be positive and finite, got {mean}"
        )
    return 1.0 / math.sqrt(mean)


def _mean_square(function: Function, name: str) -> float:
    """E[f(z)^2]: the sum over panels, of which those that have not settled are halved.

    Raises:
        TypeError: if the function returns something else than real numbers.
        ValueError: if it is not elementwise, or the sum does not settle.
    """
    nodes, weights = gauss_legendre(POINTS)

    def sums(low: Tensor, high: Tensor) -> Tensor:
        """The integral of f^2 times the density over each panel."""
        half = ((high - low) / 2.0)[:, None]
        z = (low[:, None] + half * (1.0 + nodes)).flatten()
        return (_weighted(z, values(OWNER, function, z, name)).view(len(low), -1) * weights * half).sum(1)

    edges = torch.linspace(-REACH, REACH, 2 * PANELS + 1, dtype=torch.float64)
    check_elementwise(OWNER, function, edges, name)
    low, high = edges[:-1], edges[1:]
    whole = sums(low, high)
    total, error = 0.0, 0.0
    for _ in range(ROUNDS):
        middle = (low + high) / 2.0
        left, right = sums(low, middle), sums(middle, high)
        off = (left + right - whole).abs()
        # What is not finite settles at once: halving makes it no better.
        open_ = off > SETTLED * (total + (left + right).sum())
        total += (left + right)[~open_].sum().item()
        low, high = torch.cat([low[open_], middle[open_]]), torch.cat([middle[open_], high[open_]])
        whole, error = torch.cat([left[open_], right[open_]]), off[open_].sum().item()
        if not 0 < len(whole) <= MOST_PANELS:
            break
    total += whole.sum().item()
    # At the ends next to nothing may be left.
    ends = edges[[0, -1]]
    error += _weighted(ends, values(OWNER, function, ends, name)).sum().item()
    if math.isfinite(total) and not error <= ACCEPTED * total and total > 0.0:
        raise ValueError(
            f"{OWNER}: the mean square of {name} for a standard normal input is infinite, or hard to find: the "
            "function must be smooth but for kinks and jumps, and not grow like exp(x^2)"
        )
    return total


def _weighted(z: Tensor, y: Tensor) -> Tensor:
    """The square times the density of a standard normal."""
    return (y * torch.exp(-0.25 * z.square())).square() / math.sqrt(2.0 * math.pi)
