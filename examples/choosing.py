"""What an activation does to a network: three small experiments, whose figures docs/choosing.md tells.

    python examples/choosing.py
    python examples/choosing.py --json figures.json

1. Units that die: two hidden layers learn to tell two rings apart, at learning rates that are right and far too large.
   A unit is dead if its gradient is zero for every input.
2. Gradients through thirty layers, whose weights begin with `fusedact.gain`, and what `fusedact.properties` predicts.
3. SELU through fifty layers, with what keeps its mean at 0 and its variance at 1, and with one thing of it wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fusedact
from fusedact import properties

DYING = ("relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "mish", "softplus", "relu_sigmoid")
RATES = (0.1, 1.0, 3.0)
DEEP = ("sigmoid", "hardsigmoid", "tanh", "softsign", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish")
WIDTH, SEEDS = 64, (0, 1, 2, 3, 4)


# ----- units that die


def rings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points on two circles with noise, and which circle."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2.0 * math.pi * torch.rand(count, generator=generator)
    label = torch.arange(count) % 2
    radius = 1.0 + 0.8 * label + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), label


def slopes(activation: nn.Module, x: Tensor) -> Tensor:
    """The derivative at each element."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(activation(x).sum(), x)[0]


def train(name: str, rate: float, seed: int, steps: int) -> tuple[float, float]:
    """The share of hidden units that are dead after training, and the accuracy on points that it has not seen."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(2, WIDTH),
        fusedact.create(name),
        nn.Linear(WIDTH, WIDTH),
        fusedact.create(name),
        nn.Linear(WIDTH, 2),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    x, label = rings(512, seed)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), label).backward()
        # Without it the loss may become infinite at once; what remains large is the step.
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    dead = []
    h = x
    for layer in network:
        if not isinstance(layer, nn.Linear):
            dead.append((slopes(layer, h) == 0).all(0))
        h = layer(h).detach()
    unseen, expected = rings(1024, seed + 100)
    with torch.no_grad():
        right = (network(unseen).argmax(1) == expected).float().mean().item()
    return torch.cat(dead).float().mean().item(), right


def dying(seeds: tuple[int, ...], steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Means over seeds, by activation and learning rate."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in DYING:
        found[name] = {}
        for rate in RATES:
            dead, right = zip(*(train(name, rate, seed, steps) for seed in seeds), strict=True)
            found[name][str(rate)] = {"dead": statistics.mean(dead), "accuracy": statistics.mean(right)}
    return found


# ----- gradients through many layers


def gradient_ratio(name: str, seed: int, layers: int, width: int = 256) -> tuple[float, float]:
    """The gradient's norm at the first layer over that at the last, and the scale of what the last one gives."""
    torch.manual_seed(seed)
    activation = fusedact.create(name)
    std = fusedact.gain(name) / math.sqrt(width)
    h = torch.randn(128, width).requires_grad_()
    first = h
    for _ in range(layers):
        h = activation(h) @ (std * torch.randn(width, width))
    g = torch.randn_like(h)
    (back,) = torch.autograd.grad(h, first, g)
    return (back.norm() / g.norm()).item(), h.square().mean().sqrt().item()


def gradients(seeds: tuple[int, ...], layers: int = 30) -> dict[str, dict[str, float]]:
    """Geometric means over seeds, and the power of the factor of one layer."""
    found = {}
    for name in DEEP:
        ratios, scales = zip(*(gradient_ratio(name, seed, layers) for seed in seeds), strict=True)
        factor = properties.measure(name).gradient_factor
        assert factor is not None
        measured, scale = map(statistics.geometric_mean, (ratios, scales))
        found[name] = {"measured": measured, "predicted": factor**layers, "scale": scale}
    return found


# ----- SELU


def lecun_normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def he_normal(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def torch_default(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


Variant = tuple[Callable[[Tensor], None], nn.Module, Callable[[Tensor], Tensor]]
VARIANTS: dict[str, Variant] = {
    "all three conditions": (lecun_normal, nn.AlphaDropout(0.1), lambda x: x),
    "no dropout": (lecun_normal, nn.Identity(), lambda x: x),
    "weights as for ReLU (He)": (he_normal, nn.AlphaDropout(0.1), lambda x: x),
    "weights as nn.Linear begins": (torch_default, nn.AlphaDropout(0.1), lambda x: x),
    "dropout in place of AlphaDropout": (lecun_normal, nn.Dropout(0.1), lambda x: x),
    "inputs from 0 to 1": (lecun_normal, nn.AlphaDropout(0.1), lambda x: torch.special.ndtr(x)),
    "a residual sum in each layer": (lecun_normal, nn.AlphaDropout(0.1), lambda x: x),
}


def self_normalizing(name: str, seed: int, layers: int = 50, width: int = 256) -> dict[str, float]:
    """Mean and standard deviation of the activations of the first layer and the last."""
    torch.manual_seed(seed)
    initial, dropout, prepared = VARIANTS[name]
    activation = fusedact.SELU()
    h = prepared(torch.randn(512, width))
    told = {}
    with torch.no_grad():
        for i in range(layers):
            weight = torch.empty(width, width)
            initial(weight)
            y = dropout(activation(h @ weight.t()))
            h = h + y if "residual" in name else y
            if i in (0, layers - 1):
                told |= {f"mean {i + 1}": h.mean().item(), f"std {i + 1}": h.std().item()}
    return told


def selu(seeds: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Means over seeds."""
    found = {}
    for name in VARIANTS:
        runs = [self_normalizing(name, seed) for seed in seeds]
        found[name] = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    options = parser.parse_args()
    seeds = tuple(options.seeds)

    died = dying(seeds, options.steps)
    print(f"{'dead units, accuracy':<24}" + "".join(f"{f'rate {rate:g}':>22}" for rate in RATES))
    for name, rates in died.items():
        print(f"{name:<24}" + "".join(f"{r['dead']:>13.1%}{r['accuracy']:>9.1%}" for r in rates.values()))
    through = gradients(seeds)
    print(f"\n{'gradient after 30 layers':<24}{'measured':>12}{'predicted':>12}{'scale of values':>18}")
    for name, r in through.items():
        print(f"{name:<24}{r['measured']:>12.2g}{r['predicted']:>12.2g}{r['scale']:>18.2g}")
    kept = selu(seeds)
    print(f"\n{'SELU, mean and std':<34}{'layer 1':>16}{'layer 50':>20}")
    for name, r in kept.items():
        print(f"{name:<34}{r['mean 1']:>8.2f}{r['std 1']:>8.2f}{r['mean 50']:>10.2g}{r['std 50']:>10.2g}")
    if options.json:
        figures = {"seeds": seeds, "steps": options.steps, "dying": died, "gradients": through, "selu": kept}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
