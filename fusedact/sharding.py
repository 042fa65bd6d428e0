"""Calls on DTensors: every rank makes the plain call on its own shard, forward and backward, and asks no other rank.

Only gradients of parameters belong to several ranks: where these have shards of the same channels, each has a part of
the sum, and the gradient is `Partial`; where each has channels of its own, the gradient is split as the parameter is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import compat

__all__ = ["Beside", "among", "locally", "served"]


class Beside(NamedTuple):
    """A parameter or table: its name, its value, and whether it has an entry, or a row, for each channel."""

    name: str
    value: float | Tensor
    by_channel: bool


def among(*values: object) -> bool:
    """Whether one of these is a DTensor."""
    return any(map(compat.is_distributed, values))


def served(x: Tensor) -> bool:
    """Whether x is no DTensor, or one that is split along dimensions, the same everywhere, or the parts of a sum."""
    if not compat.is_distributed(x):
        return True
    from torch.distributed.tensor import Partial, Replicate, Shard

    return all(type(p) in (Partial, Replicate, Shard) for p in x.placements)  # type: ignore[attr-defined]


def locally(
    owner: str,
    input_name: str,
    x: Any,
    beside: Sequence[Beside],
    channel: int | None,
    function: Callable[..., Tensor],
) -> Tensor:
    """function(x, *values) on each rank's shards, as a DTensor that is placed as x is; a sum is summed before.

    Args:
        owner: what errors begin with.
        input_name: x's name in errors.
        x: the input, a DTensor.
        beside: the parameters. DTensors are redistributed to x's shards where they lie otherwise. Of plain tensors,
            which must be the same on every rank, each takes what belongs to its shard.
        channel: x's dimension of channels, counted from the first.
        function: elementwise in x.

    Raises:
        TypeError: if a parameter is a DTensor and x is not, or a plain one beside x requires a gradient.
        ValueError: if a parameter lies on another mesh.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    for name, value, _ in beside:
        if compat.is_distributed(value) and not compat.is_distributed(x):
            raise TypeError(
                f"{owner}: {name} is a DTensor, but {input_name} is a plain tensor; use {name}.to_local(), or "
                "fusedact.integrations.distributed.ActivationParallel for a module"
            )
    mesh = x.device_mesh
    placements = [Replicate() if p.is_partial() else p for p in x.placements]
    if placements != list(x.placements):
        x = x.redistribute(placements=placements)
    sharded = [p.dim % x.dim() if isinstance(p, Shard) else None for p in placements]
    values: list[Any] = []
    for name, value, by_channel in beside:
        if not isinstance(value, Tensor):
            values.append(value)
            continue
        if not isinstance(value, DTensor):
            if value.requires_grad and torch.is_grad_enabled():
                raise TypeError(
                    f"{owner}: {name} is a plain tensor, whose gradient would be that of this rank's shard alone, "
                    f"beside the DTensor {input_name}; use distribute_tensor, or "
                    "fusedact.integrations.distributed.ActivationParallel for a module"
                )
            value = DTensor.from_local(value, mesh, [Replicate()] * len(placements), run_check=False)
        elif value.device_mesh != mesh:
            raise ValueError(f"{owner}: {name} and {input_name} lie on two meshes: {value.device_mesh} and {mesh}")
        split = [by_channel and dim is not None and dim == channel for dim in sharded]
        wanted = [Shard(0) if s else Replicate() for s in split]
        grads = [
            Partial() if dim is not None and not s else w for dim, s, w in zip(sharded, split, wanted, strict=True)
        ]
        if list(value.placements) != wanted:
            value = value.redistribute(placements=wanted)
        values.append(value.to_local(grad_placements=grads))
    y = function(x.to_local(), *values)
    strides = _strides(x.shape, y)
    return DTensor.from_local(y, mesh, placements, run_check=False, shape=x.shape, stride=strides)


def _strides(shape: torch.Size, like: Tensor) -> tuple[int, ...]:
    """Strides of a dense tensor whose dimensions are in memory as those of `like`."""
    strides, expected = [0] * len(shape), 1
    for d in sorted(range(len(shape)), key=lambda d: (like.stride(d), -d)):
        strides[d] = expected
        expected *= max(shape[d], 1)
    return tuple(strides)
