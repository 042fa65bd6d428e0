"""Which input gave an output, for functions that fall to one minimum and rise from there: an output and a bit tell it.

In plain PyTorch, for tensors of float32 and float64. A polynomial comes near, and steps of Newton's do the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import valleys

__all__ = ["FAR", "GELU", "GELU_TANH", "MISH", "SILU", "Inverse"]

# Of inputs that lie further out, every slope that has an exponential tail is 0 in all dtypes.
FAR = 1000.0
# From here on all of them are the identity in all dtypes.
IDENTITY = 64.0
ROOT_2 = math.sqrt(2.0)
TANH_SCALE = 2.0 * math.sqrt(2.0 / math.pi)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    p = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * x + c
    return p


@dataclass(frozen=True)
class Inverse:
    """A function, given by its value and slope, and its two inverses."""

    valley: valleys.Valley
    parts: Callable[[Tensor], tuple[Tensor, Tensor]]

    def right(self, x: Tensor) -> Tensor:
        """Whether x lies on the right of the minimum."""
        return x > self.valley.bottom

    def slope(self, x: Tensor) -> Tensor:
        """The derivative."""
        return self.parts(x.clamp_max(IDENTITY))[1]

    def input(self, y: Tensor, right: Tensor) -> Tensor:
        """The x on this side whose value is y; one far out, where an output of 0 says no more."""
        x = self.near_input(y, right)
        return torch.where(y > IDENTITY, y, x)

    def near_input(self, y: Tensor, right: Tensor) -> Tensor:
        """The same for y that are not large; of others, one whose slope is 1."""
        # `torch.where` and comparisons cost several times what arithmetic does.
        valley, info = self.valley, torch.finfo(y.dtype)
        near = y.clamp(valley.minimum, IDENTITY)
        single = valley.minimum_single
        s = ((near - single) - (valley.minimum - single)).clamp_min(0.0).sqrt().clamp_max(valley.right_end)
        above = near + (valley.bottom - valley.minimum) + s * _polynomial(s, valley.right)
        # The root of log2(minimum / y); any number on the right.
        r = (near * (1.0 / valley.minimum)).clamp(info.tiny, 1.0).log2().neg().sqrt().clamp_max(valley.left_end)
        x = torch.where(right, above, valley.bottom + r * _polynomial(r, valley.left))
        left = 1.0 - right.to(y.dtype)
        half, below = 0.5 * left, near.clamp_max(-info.tiny)
        for _ in range(5 if y.dtype == torch.float64 else 1):
            value, slope = self.parts(x)
            # On the left the step is that of the logarithm, which bends less: q - q^2 / 2 = log(1 - q), and so on.
            difference = value - near
            difference = difference * (1.0 + half * (difference / below).clamp(-0.5, 0.5))
            step = difference * slope / (slope * slope + info.tiny)
            # A larger step is not the error of x, but the value's rounding where the slope is nearly 0.
            limit = (x - valley.bottom).abs() * 2.0**-9
            x = x - step.clamp(-limit, limit)
        return x - (FAR * left) * (y == 0)


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(x)
    return x * s, s * (1.0 + x * torch.sigmoid(-x))


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    p = 0.5 * torch.erfc(x * (-1.0 / ROOT_2))
    return x * p, p + x * (torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    # sigmoid is 0 or 1 beyond, in every dtype.
    near = x.clamp(-32.0, 32.0)
    square = near * near
    z = near * (TANH_SCALE + (0.044715 * TANH_SCALE) * square)
    s = torch.sigmoid(z)
    return x * s, s * (1.0 + near * (TANH_SCALE + (3.0 * 0.044715 * TANH_SCALE) * square) * torch.sigmoid(-z))


def _mish(x: Tensor) -> tuple[Tensor, Tensor]:
    e = torch.exp(x.clamp_max(20.0))
    d = e * (e + 2.0) + 2.0
    gate = torch.where(x > 0, 1.0 - 2.0 / d, e * (e + 2.0) / d)
    return x * gate, gate + x * (4.0 * e / d * ((e + 1.0) / d))


SILU = Inverse(valleys.SILU, _silu)
GELU = Inverse(valleys.GELU, _gelu)
GELU_TANH = Inverse(valleys.GELU_TANH, _gelu_tanh)
MISH = Inverse(valleys.MISH, _mish)
