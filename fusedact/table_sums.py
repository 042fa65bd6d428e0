"""The sums over all elements of which the gradients of a table are made, on the eager path."""

from __future__ import annotations

import torch
from torch import Tensor

from .tables import Table

__all__ = ["backward"]


def backward(
    table: Table, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums in float64: (rows, K + 2) or (rows, 2, K + 1), see learned.py."""
    K = table.count
    rows = table.data.shape[0]
    size = table.size
    dt = table.data.dtype
    beside = table.beside(x)
    idx = table._index(x.to(dt), beside).long()
    base = beside[4].long() if beside else torch.zeros_like(idx)
    seg = idx - base
    row = base // table.data.shape[1]
    D = table.data
    sl = D[:, 8 + size : 8 + size + K + 1]
    turns = D[:, 8 : 8 + K].double()
    at = torch.cat([turns[:, :1], turns], 1)
    dx = (g.to(dt) * sl[row, seg]).to(x.dtype) if dx_needed else None
    gd, xd = g.double(), x.double()
    loc = xd - at[row, seg]
    flat = (row * (K + 1) + seg).reshape(-1)
    tot = torch.zeros(rows * (K + 1), dtype=torch.float64).index_add_(0, flat, gd.reshape(-1)).view(rows, K + 1)
    mom = torch.zeros(rows * (K + 1), dtype=torch.float64).index_add_(0, flat, (gd * loc).reshape(-1)).view(rows, K + 1)
    if wanted == "lines":
        return dx, torch.stack([tot, mom], 1)
    r = mom[:, 1:-1] / turns.diff()
    l_ = tot[:, 1:-1] - r
    out = torch.zeros(rows, K + 2, dtype=torch.float64)
    out[:, 0] += tot[:, 0]
    out[:, K - 1] += tot[:, K]
    out[:, : K - 1] += l_
    out[:, 1:K] += r
    out[:, K], out[:, K + 1] = mom[:, 0], mom[:, -1]
    return dx, out
