"""What an activation costs when its input is split over ranks: collectives, what they carry, and time.

    torchrun --nproc-per-node 2 bench/scaling.py

For swish with a beta per channel, forward, backward and the sum that an optimizer asks for, with the input split along
rows, along channels, or not at all; and the time of one call on one rank alone over that of its shards on all at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import Placement

import fusedact
from fusedact import functional as FF

LAYOUTS: dict[str, tuple[Placement, Placement]] = {
    "rows": (Shard(0), Replicate()),
    "channels": (Shard(1), Shard(0)),
    "not at all": (Replicate(), Replicate()),
}


def counted(call: Callable[[], object]) -> str:
    """The collectives of a call, by their kind."""
    with CommDebugMode() as watched:
        call()
    found = {str(kind).rsplit(".", 1)[-1]: count for kind, count in watched.get_comm_counts().items() if count}
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "none"


def collectives(x: Tensor, beta: Tensor, mesh: DeviceMesh, layout: tuple[Placement, Placement]) -> list[str]:
    """What forward, backward and the sum of beta's gradient send."""
    held, learned = (distribute_tensor(t, mesh, [p]).requires_grad_() for t, p in zip((x, beta), layout, strict=True))
    g = distribute_tensor(torch.ones_like(x), mesh, [layout[0]])
    kept: list[Tensor] = []
    forward = counted(lambda: kept.append(FF.swish(held, learned)))
    backward = counted(lambda: kept[0].backward(g))
    assert isinstance(learned.grad, DTensor)
    placed, grad = str(learned.grad.placements[0]), learned.grad
    summed = counted(lambda: grad.redistribute(placements=learned.placements))  # type: ignore[attr-defined]
    return [forward, backward, placed, summed]


def timed(x: Tensor, beta: Tensor, repeats: int) -> float:
    """The median seconds of forward and backward."""
    x, beta, g = x.clone().requires_grad_(), beta.clone().requires_grad_(), torch.ones_like(x)
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        torch.autograd.grad(FF.swish(x, beta), (x, beta), g)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def reduced(beta: Tensor, repeats: int) -> float:
    """The median seconds of one all-reduce of as many numbers."""
    t, taken = beta.clone(), []
    for _ in range(repeats + 2):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(t)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    x, beta = torch.randn(options.rows, options.channels), torch.rand(options.channels)

    def say(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    say(f"swish, float32 ({options.rows}, {options.channels}), {world} ranks of one thread, gloo")
    say(f"torch {torch.__version__}, fusedact {fusedact.__version__}, Python {platform.python_version()}, {_cpu()}\n")
    say("| x is split along | forward | backward | beta's gradient | made whole by |\n| --- | --- | --- | --- | --- |")
    for name, layout in LAYOUTS.items():
        say(f"| {name} | " + " | ".join(collectives(x, beta, mesh, layout)) + " |")
    whole = torch.zeros(1)
    if rank == 0:
        whole[0] = timed(x, beta, options.repeats)
    dist.barrier()
    dist.broadcast(whole, 0)
    mine = torch.tensor([timed(x.chunk(world)[rank], beta, options.repeats)])
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    send = reduced(beta, options.repeats)
    say(
        f"\nforward and backward, one rank alone: {1e3 * whole.item():.2f} ms; its shards on {world} ranks at once: "
        f"{1e3 * mine.item():.2f} ms, {whole.item() / mine.item():.2f} times as fast; "
        f"an all-reduce of {options.channels} numbers: {1e3 * send:.2f} ms"
    )
    dist.barrier()
    os._exit(0)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
