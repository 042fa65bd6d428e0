"""A deep network that is badly initialised learns nothing, and a monitor shows where: what goes through each layer.

Two networks of eight layers learn to tell two spirals apart: one begins with small weights and a bias that kills its
units, the other as `fusedact.gain` says. `--plot` names the picture of the
first, `--curve` that of a learned activation.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor, nn

import fusedact

WIDTH, LAYERS, STEPS = 64, 8, 200


def spirals(count: int = 512) -> tuple[Tensor, Tensor]:
    """Points of two spirals, and which one each is of."""
    angle = 3.0 * math.pi * torch.rand(count).sqrt()
    which = torch.arange(count) % 2
    turned = angle + math.pi * which
    return torch.stack([angle * turned.cos(), angle * turned.sin()], 1) / 5.0, which


def network(good: bool) -> nn.Sequential:
    """Layers of ReLU, the last of them a learned curve; begun well, or badly."""
    layers: list[nn.Module] = [nn.Linear(2, WIDTH), fusedact.ReLU()]
    for _ in range(LAYERS - 2):
        layers += [nn.Linear(WIDTH, WIDTH), fusedact.ReLU()]
    curve = fusedact.PWL.from_function("relu", -2.0, 4.0, 13, learnable=True)
    layers += [nn.Linear(WIDTH, WIDTH), curve, nn.Linear(WIDTH, 2)]
    net = nn.Sequential(*layers)
    for layer in net:
        if isinstance(layer, nn.Linear):
            gain = fusedact.gain("relu") if good else 0.5
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.constant_(layer.bias, 0.0 if good else -0.02)
    return net


def learn(net: nn.Sequential, steps: int) -> tuple[Any, float]:
    """What a monitor saw while the network learned, and the share that it tells right in the end."""
    x, which = spirals()
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    with fusedact.monitor(net, every=10, dead_above=None) as stats:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), which).backward()
            optimizer.step()
    return stats, (net(x).argmax(1) == which).float().mean().item()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="default %(default)s")
    parser.add_argument("--plot", metavar="FILE", help="where the heat maps go")
    parser.add_argument("--curve", metavar="FILE", help="where the learned curve and its inputs go")
    options = parser.parse_args()
    for good in (False, True):
        torch.manual_seed(0)
        stats, right = learn(network(good), options.steps)
        print(f"{'begun well' if good else 'begun badly'}: {right:.1%} right\n{stats}\n")
        if options.plot and not good:
            stats.plot(options.plot)
        if options.curve and good:
            stats.plot_pwl(str(2 * LAYERS - 1), options.curve)


if __name__ == "__main__":
    main()
