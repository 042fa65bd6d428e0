"""An optimizer's groups when a model's parameters change: those that came, those that went, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["update"]


def update(
    optimizer: torch.optim.Optimizer, added: Sequence[nn.Parameter], removed: Sequence[nn.Parameter]
) -> Callable[[], None]:
    """Drop parameters with their state, and give new ones a group: the first one's settings, without weight decay.

    Returns:
        a function that puts everything back.
    """
    gone = {id(p) for p in removed}
    before = [list(group["params"]) for group in optimizer.param_groups]
    states: dict[torch.Tensor, Any] = {p: optimizer.state.pop(p) for p in removed if p in optimizer.state}
    for group in optimizer.param_groups:
        group["params"][:] = [p for p in group["params"] if id(p) not in gone]
    if added:
        first = optimizer.param_groups[0]
        settings = {k: v for k, v in first.items() if k not in ("params", "param_names", "name")}
        if "weight_decay" in settings:
            settings["weight_decay"] = 0.0
        names = {"param_names": [f"converted.{i}" for i in range(len(added))]} if "param_names" in first else {}
        optimizer.add_param_group({**settings, **names, "params": list(added)})

    def undo() -> None:
        # Groups are other dicts after load_state_dict.
        came = {id(p) for p in added}
        groups = [g for g in optimizer.param_groups if not came.intersection(map(id, g["params"]))]
        optimizer.param_groups[:] = groups
        for p in added:
            optimizer.state.pop(p, None)
        for group, params in zip(optimizer.param_groups, before, strict=False):
            group["params"][:] = params
        optimizer.state.update(states)

    return undo
