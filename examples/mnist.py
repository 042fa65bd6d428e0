"""Which slope does a network choose? Handwritten digits, with activations that learn theirs.

    pip install 'fusedact[demo]'
    python examples/mnist.py --data mnist.npz

One hidden layer of 128 units, Adam, batches of 32: with a PReLU of one slope for all units, which begins at 1, where
the network is linear, and may not become negative; with max(a x, x), which is the same up to a = 1, and beyond that
steeper above 0 instead of below; and with the slopes 0.1 and 0. Pixels go from 0 to 1. What the slope becomes depends
on that: see `--standardized`. Without `--data`, an .npz of MNIST in Keras's format, it takes scikit-learn's 1,797 small
digits.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import common
import torch
from torch import nn

import fusedact
from fusedact import demo


@fusedact.activation
def steeper(x, a=1.0):
    """max(a x, x)."""
    return torch.maximum(a * x, x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "PReLU, learned": lambda: fusedact.PReLU(init=1.0, bounds=(0.0, None)),
    "max(a x, x), learned": lambda: steeper.module(a=1.0, learnable=True),
    "LeakyReLU(0.1)": lambda: fusedact.LeakyReLU(0.1),
    "ReLU": fusedact.ReLU,
}


def measured(data: demo.Dataset, epochs: int, seeds: list[int], device: str) -> dict[str, dict[str, list[float]]]:
    """The test accuracy of each activation and seed, and the slope that it ended with if it learned one."""
    found = {}
    for name, make in ACTIVATIONS.items():
        accuracy, slope = [], []
        for seed in seeds:
            trained = demo.train(data, make, epochs, seed, device, size=32, rate=1e-3)
            accuracy.append(round(trained.accuracy, 4))
            slope += [round(p.item(), 4) for p in trained.activation.parameters()]
            print(
                f"{name:21} seed {seed}: {accuracy[-1]:.2%}" + (f", slope {slope[-1]:.2f}" if slope else ""), flush=True
            )
        found[name] = {"accuracy": accuracy, "slope": slope}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="NPZ", help="MNIST in Keras's format, in place of small digits")
    parser.add_argument("--epochs", type=int, help="default 5 with --data, else 20")
    parser.add_argument("--standardized", action="store_true", help="pixels of mean 0 and variance 1, not from 0 to 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    options = parser.parse_args()

    data = demo.load_mnist(options.data) if options.data else demo.load_digits()
    if not options.standardized:
        data = common.unit(data)
    epochs = options.epochs or (5 if options.data else 20)
    found = measured(data, epochs, options.seeds, options.device)
    print()
    for name, figures in found.items():
        slopes = ", ".join(f"{a:.2f}" for a in figures["slope"])
        print(
            f"{name:21} {statistics.mean(figures['accuracy']):.2%}" + (f", slope from 1 to {slopes}" if slopes else "")
        )
    pixels = "mean 0, variance 1" if options.standardized else "0 to 1"
    about = {"data": data.name, "pixels": pixels, "epochs": epochs, "seeds": options.seeds}
    common.write(options.json, options.device, {**about, "activations": found})


if __name__ == "__main__":
    main()
