"""One of two processes that train a sharded network: `python sharded_training.py RANK FILE`. Prints what it found."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import fusedact


@fusedact.optim.update_rule(state=("velocity",))
def momentum(param, grad, velocity, *, lr, momentum=0.9):
    velocity = momentum * velocity - lr * grad
    return param + velocity, velocity


def main() -> None:
    rank, file = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    # Shards of different sizes, and one that is empty.
    whole = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    sharded = copy.deepcopy(whole)
    fully_shard(sharded, mesh=mesh)
    made: list[tuple[nn.Module, Any]] = [(whole, None), (sharded, None)]
    for kind in ("adamw", "momentum"):
        for i, (model, _) in enumerate(made):
            params = model.parameters()
            opt = fusedact.optim.AdamW(params, lr=0.01) if kind == "adamw" else momentum.optimizer(params, lr=0.01)
            made[i] = model, opt
        for step in range(4):
            x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
            for model, opt in made:
                opt.zero_grad()
                model(x).square().mean().backward()
                opt.step()
        for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
            assert isinstance(q, DTensor)
            torch.testing.assert_close(q.full_tensor().detach(), p.detach(), rtol=1e-5, atol=1e-6)
            states = {n: t for n, t in made[1][1].state[q].items() if n != "step"}
            assert states and all(isinstance(t, DTensor) and t.placements == q.placements for t in states.values())
            for n, t in states.items():
                torch.testing.assert_close(t.full_tensor(), made[0][1].state[p][n], rtol=1e-5, atol=1e-6)
        found = get_optimizer_state_dict(sharded, made[1][1])["state"]
        assert set(found) == {name for name, _ in sharded.named_parameters()}
    print(f"rank {rank}: {sum(p.to_local().numel() for p in sharded.parameters())} elements here")  # noqa: T201
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
