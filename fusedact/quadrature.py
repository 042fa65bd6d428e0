"""Gauss-Legendre quadrature."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gauss_legendre"]


def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Points between -1 and 1 and their weights, by the eigenvalues of the Jacobi matrix (Golub, Welsch, 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    beside = k / torch.sqrt(4.0 * k * k - 1.0)
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    weights = vectors[0].square()
    return nodes, 2.0 * weights / weights.sum()
