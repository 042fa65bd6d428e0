"""STUB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SAVED", "SavedForm"]


@dataclass(frozen=True)
class SavedForm:
    """Stub."""

    name: str
    bits: bool
    safe: Callable[..., str]
    gradient: Callable[..., tuple[Tensor, ...]]
    side: Callable[..., Tensor] | None = None
    recover: Callable[..., Tensor] | None = None
    tensors: str = ""


def _hs_grad(g, y, bit):
    r = torch.sqrt((9 + 24 * y).clamp(min=0)) / 6
    d = torch.where(y >= 3, 1.0, torch.where(bit, r, torch.where(y == 0, 0.0, -r)))
    return g * d, ()


SAVED = {
    f.name: f
    for f in [
        SavedForm("relu", False, lambda: "", lambda g, y, b: (torch.where(y <= 0, 0.0, g), ()), None, lambda y, b: y),
        SavedForm(
            "sigmoid", False, lambda: "", lambda g, y, b: (g * y * (1 - y), ()), None, lambda y, b: torch.logit(y)
        ),
        SavedForm(
            "tanh", False, lambda: "", lambda g, y, b: (g * (1 - y) * (1 + y), ()), None, lambda y, b: torch.atanh(y)
        ),
        SavedForm(
            "elu",
            False,
            lambda alpha: "" if alpha >= 0 else f"alpha must not be negative, got {alpha}",
            lambda g, y, b, a: (torch.where(y > 0, g, g * (y + a)), (torch.where(y > 0, 0.0, g * y / a),)),
            None,
            lambda y, b, a: torch.where(y > 0, y, torch.log1p(y.clamp(max=0) / a)),
        ),
        SavedForm(
            "hardswish",
            True,
            lambda: "",
            _hs_grad,
            lambda x: x > -1.5,
            lambda y, b: torch.where(
                y >= 3,
                y,
                torch.where(
                    b,
                    (-3 + torch.sqrt((9 + 24 * y).clamp(min=0))) / 2,
                    torch.where(y == 0, -4.0, (-3 - torch.sqrt((9 + 24 * y).clamp(min=0))) / 2),
                ),
            ),
        ),
    ]
}
