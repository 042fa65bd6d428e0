"""Does it help when every channel learns its own activation? A small convolutional network on handwritten digits.

    pip install 'fusedact[demo]'
    python examples/pwl_digits.py

Three convolutions, once with ReLU, once with a piecewise-linear function for each channel, which begins as ReLU and
learns its values at nine points from -2 to 2. For each seed both networks begin with the same weights, on the same
split of the data, and see the same batches. Then it times their training steps in turn, and draws what some channels
learned. The weights' rate is the best one for ReLU on other splits; the tables have five times as much, or they would
hardly move so soon.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import demo

BATCH = 128
Make = Callable[[int], nn.Module]


def learned_relu(channels: int) -> nn.Module:
    """ReLU with nine points that learn, for each channel; 0 is one of them, so that it is ReLU to begin with."""
    return fusedact.PWL.from_function("relu", -2.0, 2.0, 9, learnable=True, num_parameters=channels)


# How an activation is made for so many channels, the rate of the weights, and that of the tables.
ACTIVATIONS: dict[str, tuple[Make, float, float]] = {
    "ReLU": (lambda channels: nn.ReLU(), 2e-3, 0.0),
    "PWL, learned per channel": (learned_relu, 2e-3, 1e-2),
}


def network(data: demo.Dataset, make: Make) -> nn.Sequential:
    """Three convolutions, each with batch normalization; the second and the third halve height and width."""

    def block(before: int, channels: int, *pool: nn.Module) -> list[nn.Module]:
        convolution = nn.Conv2d(before, channels, 3, padding=1)
        return [convolution, nn.BatchNorm2d(channels), *pool, make(channels)]

    side = common.as_images(data.train_x[:1]).shape[-1] // 4
    layers = [*block(1, 32), *block(32, 64, nn.MaxPool2d(2)), *block(64, 128, nn.MaxPool2d(2))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * side * side, data.classes))


class Training:
    """A network, its optimizer, and a step of both."""

    def __init__(self, name: str, data: demo.Dataset, seed: int, device: str) -> None:
        make, rate, table_rate = ACTIVATIONS[name]
        torch.manual_seed(seed)
        self.network = network(data, make).to(device)
        weights, tables = common.parameter_groups(self.network)
        self.optimizer = torch.optim.AdamW([{**weights, "lr": rate}, {**tables, "lr": table_rate}])

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(x), y).backward()
        self.optimizer.step()


def trained(name: str, data: demo.Dataset, epochs: int, seed: int, device: str) -> tuple[float, Training]:
    """The accuracy on the digits held out, and what was trained."""
    training = Training(name, data, seed, device)
    x, y = common.as_images(data.train_x).to(device), data.train_y.to(device)
    # Batches of their own seed: the same for both, whatever was drawn for weights.
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            training.step(x[rows], y[rows])
    training.network.eval()
    with torch.no_grad():
        right = training.network(common.as_images(data.test_x).to(device)).argmax(1) == data.test_y.to(device)
    return round(right.float().mean().item(), 4), training


def step_seconds(data: demo.Dataset, steps: int, device: str) -> dict[str, float]:
    """The median time of a training step of each network; they take turns."""
    trainings = {name: Training(name, data, 0, device) for name in ACTIVATIONS}
    x, y = common.as_images(data.train_x[:BATCH]).to(device), data.train_y[:BATCH].to(device)
    seconds: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    for i in range(steps + 10):
        for name, training in trainings.items():
            start = time.perf_counter()
            training.step(x, y)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if i >= 10:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def draw(training: Training, mean: dict[str, list[float]]) -> Any:
    """What the layers learned, and the accuracies that they were learned for."""
    drawn, axes = common.figure(13, 3.6, 1, 4)
    learned = [m for m in training.network if isinstance(m, fusedact.PWL)]
    for panel, act, number in zip(axes[0], learned, ("first", "second", "third"), strict=False):
        common.draw_learned(panel, act, f"after the {number} convolution", -3.0, 3.0)
    axes[0][0].legend(loc="upper left", frameon=False)
    axes[0][0].set_ylabel("activation, of five channels")
    panel = axes[0][3]
    percents = [[100 * a for a in accuracy] for accuracy in mean.values()]
    # A line for each seed, whose networks began with the same weights.
    panel.plot(range(len(mean)), percents, "o-", color="0.6", linewidth=0.8)
    for x, percent in enumerate(percents):
        panel.hlines(statistics.mean(percent), x - 0.2, x + 0.2, "k", linewidth=2)
    panel.set(xticks=range(len(mean)), xticklabels=[n.split(",")[0] for n in mean], xlim=(-0.6, len(mean) - 0.4))
    panel.set(title="accuracy, % (bars: means)")
    panel.grid(alpha=0.25, axis="y")
    panel.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    parser = common.digits_parser(__doc__, "pwl_digits.png", range(5), epochs=15)
    parser.add_argument("--steps", type=int, default=100, help="how many steps are timed; default %(default)s")
    options = parser.parse_args()

    accuracy: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    for seed in options.seeds:
        data = common.load(options.data, seed)
        for name in ACTIVATIONS:
            reached, training = trained(name, data, options.epochs, seed, options.device)
            accuracy[name].append(reached)
            print(f"{name:25} seed {seed}: {reached:.2%}", flush=True)
    seconds = step_seconds(data, options.steps, options.device)
    ratio = round(seconds["PWL, learned per channel"] / seconds["ReLU"], 3)
    print()
    found = {}
    for name, reached in accuracy.items():
        mean, spread = statistics.mean(reached), statistics.stdev(reached) if len(reached) > 1 else 0.0
        print(f"{name:25} {mean:.2%}, standard deviation {spread:.2%}, {1e3 * seconds[name]:.1f} ms a step")
        found[name] = {"accuracy": reached, "step_seconds": round(seconds[name], 6)}
    print(f"a step takes {ratio:.2f} times as long with learned functions")
    about = {"data": data.name, "epochs": options.epochs, "seeds": options.seeds, "step_ratio": ratio}
    common.save(options.plot, draw(training, accuracy))
    common.write(options.json, options.device, {**about, "activations": found})


if __name__ == "__main__":
    main()
