"""An activation of three formulas with two jumps, and what it is good for: a signal that jumps.

    python examples/jump.py
    python examples/jump.py --source        # the kernels that were made of it

A network with one hidden layer learns a sawtooth, once with ReLU and once with `stairs`, written in plain PyTorch with
torch.where. Each unit of `stairs` learns its own a, b and c.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact

HIDDEN = 64


@fusedact.activation
def stairs(x, a=-0.5, b=0.5, c=0.2):
    """a where x < -1, b * sin(pi / 2 * x) where -1 <= x < 1, from there 1 + c * log(x): with jumps at -1 and 1.

    As everywhere in PyTorch, the gradient knows nothing of the jumps: at one it is that of the formula that has the
    value there.
    """
    # The logarithm of what is below 1 is not chosen, but its gradient, 0 * inf at 0, would be NaN.
    right = 1.0 + c * torch.log(x.clamp(min=1.0))
    return torch.where(x < -1.0, a, torch.where(x < 1.0, b * torch.sin(math.pi / 2 * x), right))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "stairs, learned per unit": lambda: stairs.module(learnable=True, num_parameters=HIDDEN),
}


def sawtooth(x: Tensor) -> Tensor:
    """From -1 to 1, again and again."""
    return 2 * (x - x.floor()) - 1


def trained(make: Callable[[], nn.Module], steps: int, seed: int, device: str) -> tuple[list[float], nn.Sequential]:
    """The mean square error, each step, and the network."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(1, HIDDEN), make(), nn.Linear(HIDDEN, 1)).to(device)
    # Units that turn, or jump, all over the signal.
    nn.init.uniform_(network[0].weight, -4.0, 4.0)
    nn.init.uniform_(network[0].bias, -8.0, 8.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draws = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(steps):
        x = (4 * torch.rand(256, 1, generator=draws) - 2).to(device)
        loss = F.mse_loss(network(x), sawtooth(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(loss.item())
    return errors, network


def error(network: nn.Module, device: str) -> float:
    """The mean square error on an even grid."""
    x = torch.linspace(-2, 2, 4001, device=device).unsqueeze(1)
    with torch.no_grad():
        return F.mse_loss(network(x), sawtooth(x)).item()


def draw(networks: dict[str, nn.Sequential], errors: dict[str, list[float]]) -> Any:
    drawn, axes = common.figure(13, 3.8, 1, 3)
    x = torch.linspace(-4, 4, 801)
    act = networks["stairs, learned per unit"].cpu()[1]
    with torch.no_grad():
        after = act(x.unsqueeze(1).expand(-1, HIDDEN))[:, :: HIDDEN // 5]
    # Dots, so that no line joins what jumps.
    axes[0][0].plot(x, after, ".", markersize=1.5)
    axes[0][0].plot(x, stairs(x), "k.", markersize=2.5, label="before")
    axes[0][0].set(title="stairs, before and after, of some units", xlabel="x")
    axes[0][0].legend(loc="upper left", frameon=False, markerscale=4)
    x = torch.linspace(-2, 2, 1601).unsqueeze(1)
    axes[0][1].plot(x, sawtooth(x), "k.", markersize=2, label="the signal")
    for name, network in networks.items():
        with torch.no_grad():
            axes[0][1].plot(x, network.cpu()(x), ".", markersize=1.5, label=name)
    axes[0][1].set(title="what the networks learned", xlabel="x", ylim=(-1.5, 2.1))
    axes[0][1].legend(loc="upper left", frameon=False, markerscale=5, ncols=2)
    for name, values in errors.items():
        axes[0][2].semilogy(torch.tensor(values).unfold(0, 20, 20).mean(1), label=name)
    axes[0][2].set(title="mean square error", xlabel="20 steps")
    axes[0][2].legend(frameon=False)
    for panel in axes[0]:
        panel.grid(alpha=0.25)
    return drawn


def main() -> None:
    parser = common.parser(__doc__, "jump.png", range(3), steps=3000)
    parser.add_argument("--source", action="store_true", help="print the kernels, and nothing else")
    options = parser.parse_args()
    if options.source:
        print(stairs.source)
        return

    found: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    errors, networks = {}, {}
    for seed in options.seeds:
        for name, make in ACTIVATIONS.items():
            errors[name], networks[name] = trained(make, options.steps, seed, options.device)
            found[name].append(error(networks[name], options.device))
            print(f"{name:25} seed {seed}: mean square error {found[name][-1]:.4f}", flush=True)
    print()
    for name, values in found.items():
        print(f"{name:25} {statistics.mean(values):.4f}, from {min(values):.4f} to {max(values):.4f}")
    common.save(options.plot, draw(networks, errors))
    common.write(options.json, options.device, {"steps": options.steps, "seeds": options.seeds, "error": found})


if __name__ == "__main__":
    main()
