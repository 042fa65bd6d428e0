"""Regularisers of piecewise-linear activations, differentiable in the tables that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .piecewise_module import PWL

__all__ = ["lipschitz_bound", "second_order_total_variation"]


def second_order_total_variation(module: nn.Module) -> Tensor:
    """How much the slopes of piecewise-linear activations change: the sum of |slope[k + 1] - slope[k]|.

    The sum goes over all breakpoints, the slopes beside them, all channels, and all `PWL` in a module; one that stands
    in it several times counts once. Added to a loss it keeps learned activations simple: its gradient draws the slopes
    beside a breakpoint together until they are equal, and `PWL.simplified` removes the breakpoint.

    Args:
        module: a `PWL`, or a module that holds some.

    Returns:
        tensor of shape (), with a gradient with respect to the tables that learn.

    Raises:
        TypeError: if it is no module.
        ValueError: if there is no `PWL` in it.

    >>> fusedact.second_order_total_variation(fusedact.PWL([-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]))
    tensor(4.)

    Source: Unser, 2019, arXiv:1802.09210; Bohra et al., 2020, doi:10.1109/OJSP.2020.3039379.
    """
    activations = _activations("fusedact.second_order_total_variation", module)
    terms = [_slopes(a).diff().abs().sum() for a in activations]
    return torch.stack([t.to(terms[0]) for t in terms]).sum()


def lipschitz_bound(module: nn.Module, *, per_channel: bool = False) -> Tensor:
    """The largest magnitude of a slope: the smallest L with |f(x) - f(y)| <= L |x - y|.

    Of all `PWL` in a module, and all channels, it is the largest one. A network's constant is at most the product of
    the bounds of its activations and the norms of its layers.

    Args:
        module: a `PWL`, or a module that holds some.
        per_channel: of a `PWL`, a bound for each table.

    Returns:
        tensor of shape (), or (C,) per channel, with a gradient with respect to the tables that learn.

    Raises:
        TypeError: if it is no module.
        ValueError: if there is no `PWL` in it, or it holds some and `per_channel` is asked for.

    >>> fusedact.lipschitz_bound(fusedact.PWL([-1.0, 0.0, 1.0], [3.0, 0.0, 1.0]))
    tensor(3.)

    Source: Aziznejad et al., 2020, arXiv:2001.06263.
    """
    owner = "fusedact.lipschitz_bound"
    activations = _activations(owner, module)
    if per_channel:
        if not isinstance(module, PWL):
            raise ValueError(f"{owner}: per_channel=True needs a PWL itself, got {type(module).__name__}")
        return _slopes(module).abs().amax(1)
    terms = [_slopes(a).abs().amax() for a in activations]
    return torch.stack([t.to(terms[0]) for t in terms]).amax()


def _activations(owner: str, module: nn.Module) -> list[PWL]:
    """All PWL in a module."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{owner}: module must be a torch.nn.Module, got {type(module).__name__}")
    found = [m for m in module.modules() if isinstance(m, PWL)]
    if not found:
        raise ValueError(f"{owner}: module must be or hold a fusedact.PWL, and {type(module).__name__} holds none")
    return found


def _slopes(act: PWL) -> Tensor:
    """All slopes from left to right, of shape (C, K + 1)."""
    chords = torch.atleast_2d(act.values.diff() / act.breakpoints.diff())
    left, right = act.left_slope.reshape(-1, 1), act.right_slope.reshape(-1, 1)
    channels = max(t.shape[0] for t in (chords, left, right))
    return torch.cat([t.expand(channels, -1) for t in (left, chords, right)], 1)
