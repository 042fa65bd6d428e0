"""Outputs of a model for an example, before and after something is done to it, compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["compared", "outputs", "tolerance"]

# Differences that rounding makes across many layers, as a share of the largest output.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def tolerance(dtypes: set[torch.dtype]) -> float:
    """The difference that is still rounding, for the coarsest of these dtypes."""
    return max((_TOLERANCES.get(d, 0.0) for d in dtypes), default=0.0)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; the model's modes and the random numbers to come stay what they are."""
    training = [(m, m.training) for m in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    kind = next(iter(devices)).type if devices else "cuda"
    try:
        with torch.random.fork_rng(sorted(d.index or 0 for d in devices), device_type=kind), torch.no_grad():
            torch.manual_seed(0)
            for module, _ in training:
                module.training = False
            yield
    finally:
        for module, mode in training:
            module.training = mode


def outputs(model: nn.Module, example: Any) -> Any:
    """What a model gives for a tensor, a tuple of arguments, or a dict of them."""
    with _undisturbed(model):
        # A module may overwrite its input.
        given = copy.deepcopy(example)
        if isinstance(given, tuple | list):
            made = model(*given)
        elif isinstance(given, Mapping):
            made = model(**given)
        else:
            made = model(given)
        return copy.deepcopy(made)


def _tensors(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested structure, with where they are."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{where}[{key!r}]")
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from _tensors(part, f"{where}[{i}]")
    elif hasattr(value, "__dict__"):
        for key, part in vars(value).items():
            yield from _tensors(part, f"{where}.{key}")


def compared(before: Any, after: Any) -> tuple[float, str, set[torch.dtype]]:
    """The largest difference as a share of the largest element of its tensor, where, and the dtypes.

    Raises:
        ValueError: if the two do not hold tensors of the same shapes in the same places.
    """
    old, new = list(_tensors(before, "the output")), list(_tensors(after, "the output"))
    if [(w, t.shape, t.dtype) for w, t in old] != [(w, t.shape, t.dtype) for w, t in new]:
        raise ValueError("the outputs are of other shapes, dtypes or structure than before")
    if not old:
        raise ValueError("the outputs hold no tensors")
    worst, place, dtypes = 0.0, old[0][0], set()
    for (where, a), (_, b) in zip(old, new, strict=True):
        dtypes.add(a.dtype)
        difference = _difference(a, b)
        if difference > worst:
            worst, place = difference, where
    return worst, place, dtypes


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.is_floating_point() and not a.is_complex():
        return 0.0 if torch.equal(a, b) else float("inf")
    if a.is_nested or a.layout is not torch.strided:
        return 0.0 if not a.is_nested and torch.equal(a.to_dense(), b.to_dense()) else float("inf")
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    apart = torch.where(same, 0.0, (a - b).abs())
    largest = a[a.isfinite()].abs().max() if bool(a.isfinite().any()) else a.new_ones(())
    share = float((apart.max() / largest.clamp_min(torch.finfo(a.dtype).tiny)).item())
    return float("inf") if share != share else share
