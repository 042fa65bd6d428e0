"""Train on several processes: data parallel, fully sharded, or tensor parallel, with activations that learn.

    torchrun --nproc-per-node 2 examples/distributed.py
    torchrun --nproc-per-node 2 examples/distributed.py --way fsdp
    torchrun --nproc-per-node 2 examples/distributed.py --way tensor
    python examples/distributed.py                              # one process, the same losses

The network has a threshold per channel in its first activation and a learned piecewise-linear function in its second.
Each way computes the losses of one process: an activation needs nothing of other ranks, and the gradients of its
parameters are summed with those of the weights. On GPUs, where there is one for each process, NCCL is used, else Gloo.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import fusedact
from fusedact.integrations.distributed import ActivationParallel

WIDTH = 64


def network() -> nn.Sequential:
    """The same on every rank, since every rank has the same seed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, WIDTH),
        fusedact.ReLUSigmoid(0.1, learnable=True, num_parameters=WIDTH),
        nn.Linear(WIDTH, WIDTH),
        fusedact.PWL.from_function("gelu", -3.0, 3.0, 13, learnable=True),
        nn.Linear(WIDTH, 1),
    )


def data(rows: int, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(rows, 8)
    return x.to(device), torch.sin(x[:, :2].sum(1, keepdim=True) * 2).to(device)


def distributed(net: nn.Sequential, way: str, device: str) -> nn.Module:
    """The network in one of the ways."""
    if way == "ddp":
        return DistributedDataParallel(net)
    mesh = init_device_mesh(device.split(":")[0], (dist.get_world_size(),))
    if way == "fsdp":
        for layer in net:
            fully_shard(layer, mesh=mesh)
        return fully_shard(net, mesh=mesh)
    # Columns of the first layer and rows of the second; beyond, every rank has all.
    plan = {"0": ColwiseParallel(), "1": ActivationParallel(), "2": RowwiseParallel()}
    return parallelize_module(net, mesh, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=("ddp", "fsdp", "tensor"), default="ddp")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=512, help="of a batch; each rank of ddp and fsdp has its part")
    options = parser.parse_args()

    rank, world, local = (
        int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    on_gpus = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = f"cuda:{local}" if on_gpus else "cpu"
    if on_gpus:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if on_gpus else "gloo")

    net = network().to(device)
    thresholds, table = net[1], net[3]
    model = distributed(net, options.way, device) if world > 1 else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.0)
    x, y = data(options.rows, device)
    if options.way != "tensor":
        x, y = x.chunk(world)[rank], y.chunk(world)[rank]

    for step in range(options.steps):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown = loss.detach()
        if world > 1 and options.way != "tensor":
            dist.all_reduce(shown)
            shown = shown / world
        if rank == 0 and (step % 10 == 0 or step == options.steps - 1):
            print(f"step {step:3}: loss {shown.item():.6f}", flush=True)

    # What learned, gathered from the ranks that have it.
    low, high = (f(whole(thresholds.threshold)).item() for f in (torch.min, torch.max))
    moved = (whole(table.values) - table.initial[1].to(device)).abs().max().item()
    if rank == 0:
        print(f"thresholds from {low:.4f} to {high:.4f}; the table moved by up to {moved:.4f}")
    if world > 1:
        dist.destroy_process_group()


def whole(t: Tensor) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach()


if __name__ == "__main__":
    main()
