"""How large weights should begin, given the activation that follows them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import registry
from .checks import check_names
from .dispatch import backend
from .functional import activate

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
    function, name = _function(activation, parameters)
    with torch.no_grad(), torch.device("cpu"), backend("eager"):
        mean = _mean_square(function, name)
    if not (math.isfinite(mean) and mean > 0.0):
        raise ValueError(
            f"{OWNER}: the mean square of {name} for a standard normal input must be positive and finite, got {mean}"
        )
    return 1.0 / math.sqrt(mean)


def _function(activation: Any, parameters: dict[str, Any]) -> tuple[Callable[[Tensor], Any], str]:
    """What is applied to a tensor, and its name in errors."""
    if isinstance(activation, str):
        spec = registry.get(activation, OWNER)
        check_names(OWNER, spec, parameters)
        if spec.kind == "rowwise":
            raise ValueError(f"{OWNER}: {spec.name} is not elementwise, and has no gain")
        # What the function must be given, and the module begins with.
        begins = {p.name: p.default for p in spec.parameters if p.required and not p.required_by_module}
        return lambda z: activate(z, activation, **(begins | parameters)), repr(activation)
    if isinstance(activation, type) or not callable(activation):
        what = f"the class {activation.__name__}" if isinstance(activation, type) else type(activation).__name__
        raise TypeError(f"{OWNER}: activation must be a name, a module or a function of a tensor, got {what}")
    if not isinstance(activation, nn.Module):
        return lambda z: activation(z, **parameters), getattr(activation, "__name__", type(activation).__name__)
    name = type(activation).__name__
    if getattr(activation, "num_parameters", 1) != 1:
        raise ValueError(
            f"{OWNER}: {name} has {activation.num_parameters} channels with parameters of their own, and each has a "
            "gain of its own; give the activation's name with one channel's parameters"
        )
    # A copy: modules may hold float32, lie on another device, and bound their parameters as they are called.
    wide = copy.deepcopy(activation).to(device="cpu", dtype=torch.float64)
    return lambda z: wide(z, **parameters), name


def _mean_square(function: Callable[[Tensor], Any], name: str) -> float:
    """E[f(z)^2]: the sum over panels, of which those that have not settled are halved.

    Raises:
        TypeError: if the function returns something else than real numbers.
        ValueError: if it is not elementwise, or the sum does not settle.
    """
    nodes, weights = _gauss_legendre(POINTS)

    def sums(low: Tensor, high: Tensor) -> Tensor:
        """The integral of f^2 times the density over each panel."""
        half = ((high - low) / 2.0)[:, None]
        z = (low[:, None] + half * (1.0 + nodes)).flatten()
        return (_weighted(z, _values(function, z, name)).view(len(low), -1) * weights * half).sum(1)

    edges = torch.linspace(-REACH, REACH, 2 * PANELS + 1, dtype=torch.float64)
    _check_elementwise(function, edges, name)
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
    error += _weighted(ends, _values(function, ends, name)).sum().item()
    if math.isfinite(total) and not error <= ACCEPTED * total and total > 0.0:
        raise ValueError(
            f"{OWNER}: the mean square of {name} for a standard normal input is infinite, or hard to find: the "
            "function must be smooth but for kinks and jumps, and not grow like exp(x^2)"
        )
    return total


def _weighted(z: Tensor, y: Tensor) -> Tensor:
    """The square times the density of a standard normal."""
    return (y * torch.exp(-0.25 * z.square())).square() / math.sqrt(2.0 * math.pi)


def _values(function: Callable[[Tensor], Any], z: Tensor, name: str) -> Tensor:
    """The function's values, in float64."""
    # A copy: it may work in place.
    y = function(z.clone())
    if not isinstance(y, Tensor) or y.is_complex():
        got = f"one of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{OWNER}: {name} must return a tensor of real numbers, got {got}")
    if y.shape != z.shape:
        raise ValueError(
            f"{OWNER}: {name} must be elementwise, and made a tensor of shape {tuple(y.shape)} of one of shape "
            f"{tuple(z.shape)}"
        )
    return y.double()


def _check_elementwise(function: Callable[[Tensor], Any], z: Tensor, name: str) -> None:
    """Each value depends on its own input alone, and on nothing random."""
    all_, some = _values(function, z, name), _values(function, z[::2], name)
    if not torch.allclose(all_[::2], some, rtol=1e-5, atol=1e-8, equal_nan=True):
        raise ValueError(f"{OWNER}: {name} must be elementwise and not random: its values depend on the other elements")


def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Points between -1 and 1 and their weights, by the eigenvalues of the Jacobi matrix (Golub, Welsch, 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    beside = k / torch.sqrt(4.0 * k * k - 1.0)
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    weights = vectors[0].square()
    return nodes, 2.0 * weights / weights.sum()
