"""Activations of one's own that are timed and counted, in plain PyTorch; four operators and more."""

from __future__ import annotations

import torch
from torch import Tensor

import fusedact


@fusedact.activation
def relu_tanh(x: Tensor, a: float | Tensor = 0.5, b: float | Tensor = 1.0) -> Tensor:
    """relu(x) tanh(a x) + b sigmoid(x)."""
    return torch.relu(x) * torch.tanh(a * x) + b * torch.sigmoid(x)


@fusedact.activation
def squareplus(x: Tensor, b: float | Tensor = 4.0) -> Tensor:
    """(x + sqrt(x^2 + b)) / 2 (Barron, 2021, arXiv:2112.11687)."""
    return 0.5 * (x + torch.sqrt(x * x + b))


@fusedact.activation
def snake(x: Tensor, a: float | Tensor = 1.0) -> Tensor:
    """x + sin(a x)^2 / a (Ziyin et al., 2020, arXiv:2006.08195)."""
    return x + torch.sin(a * x) ** 2 / a


@fusedact.activation
def telu(x: Tensor) -> Tensor:
    """x tanh(exp(x)) (Fernandez and Mali, 2024, arXiv:2412.20269)."""
    return x * torch.tanh(torch.exp(x))


@fusedact.activation
def bent_relu(x: Tensor, a: float | Tensor = 0.1) -> Tensor:
    """clamp(x, -2, 2) / 2 + a relu(x)^2 - |x| / 5: no transcendental function, so memory is the bound everywhere."""
    return torch.clamp(x, -2.0, 2.0) * 0.5 + torch.relu(x) ** 2 * a - torch.abs(x) * 0.2


ALL = {own.__name__: own for own in (relu_tanh, squareplus, snake, telu, bent_relu)}
