"""Statistics as a monitor must tell them, in float64 and by the definitions, and models to watch."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

import fusedact

FLAT = 2.0**-7


def figures(y: Tensor, slope: Tensor | None, dim: int | None) -> dict[str, float]:
    """The figures of an output, the slopes of its elements, and the dimension of its units."""
    y = y.detach().double()
    finite = y[y.isfinite()]
    flat = y == 0 if slope is None else slope.double().abs() <= FLAT
    units = flat.reshape(-1, 1) if dim is None else flat.movedim(dim, -1).reshape(-1, flat.shape[dim])
    return {
        "mean": finite.mean().item(),
        "std": finite.std(correction=0).item(),
        "min": finite.min().item(),
        "max": finite.max().item(),
        "zeros": (y == 0).double().mean().item(),
        "saturated": math.nan if slope is None else flat.double().mean().item(),
        "nan": int(y.isnan().sum()),
        "inf": int(y.isinf().sum()),
        "dead": units.all(0).double().mean().item(),
    }


def slopes(module: nn.Module, x: Tensor) -> Tensor:
    """A pointwise module's derivative, by autograd of a copy in float64."""
    module = copy.deepcopy(module).cpu().double()
    leaf = x.detach().double().requires_grad_()
    with fusedact.backend("auto"):
        return torch.autograd.grad(module(leaf.clone()).sum(), leaf)[0]


def assert_told(told: dict[str, Any], truth: dict[str, float], tolerance: float = 1e-5) -> None:
    """Raise unless what a monitor tells is the truth: means to a part of the deviation, the rest relatively."""
    scale = max(abs(truth["min"]), abs(truth["max"]), 1e-30)
    for name, value in truth.items():
        allowed = tolerance * scale if name in ("mean", "std") else tolerance * abs(value)
        assert math.isnan(value) == math.isnan(told[name]), name
        assert math.isnan(value) or abs(told[name] - value) <= allowed, (name, told[name], value)


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what is not the same twice."""
    return [{k: v for k, v in record.items() if k != "ms"} for record in records]
