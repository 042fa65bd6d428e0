"""An optimizer of one's own and an activation of one's own, together, in the loop that tutorials have.

    pip install 'fusedact[demo]'
    python examples/own_optimizer.py

It trains a network on scikit-learn's handwritten digits, logs every hundredth step, prints how the network does on
digits that it has not seen, and the Triton code that was made of the rule. `--profile 5` shows where the time of five
steps goes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import fusedact


# 1. An activation: a formula in plain PyTorch.
@fusedact.activation
def relu_sigmoid(x, threshold=0.0):
    """relu(x - threshold) sigmoid(x)."""
    return torch.relu(x - threshold) * torch.sigmoid(x)


# 2. An optimizer: how one element of a parameter changes, and its state. Settings come after the `*`. On a GPU a step
# is one kernel over all parameters; every hundredth is logged.
@fusedact.log_step(every=100)
@fusedact.optim.update_rule(state=("velocity",))
def momentum(param, grad, velocity, *, lr, momentum=0.9):
    velocity = momentum * velocity - lr * grad
    return param + velocity, velocity


def network(learnable: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 128),
        relu_sigmoid.module(threshold=0.1, learnable="threshold" if learnable else False),
        nn.Linear(128, 10),
    )


# 3. The loop. The loader is anything that gives batches: a list, a DataLoader, a generator.
def train(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    opt: fusedact.optim.Optimizer,
    profiled: int = 0,
) -> float:
    """Train on a loader's batches, the first `profiled` of them under a profiler; the mean loss of the last twenty."""
    losses: list[float] = []
    profiler = torch.profiler.profile() if profiled else None
    if profiler:
        profiler.start()
    for step, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt()
        losses.append(loss.item())
        if profiler and step + 1 == profiled:
            profiler.stop()
            print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
            profiler = None
    if profiler:
        profiler.stop()
    last = losses[-20:]
    return sum(last) / len(last) if last else float("nan")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images as rows of 64 numbers from 0 to 1, and their digits."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16.0, labels, test_size=0.2, random_state=0, stratify=labels)
    return (
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y),
        torch.tensor(x_test, dtype=torch.float32),
        torch.tensor(y_test),
    )


def batches(x: Tensor, y: Tensor, epochs: int, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """A generator: all images in a new order, as often as there are epochs."""
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(size):
            yield x[rows], y[rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="default %(default)s")
    parser.add_argument("--lr", type=float, default=0.05, help="default %(default)s")
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="profile so many steps")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    torch.manual_seed(0)

    x, y, x_test, y_test = digits()
    model = network()
    opt = momentum.optimizer(model.parameters(), lr=options.lr)
    loss = train(model, batches(x, y, options.epochs), opt, options.profile)
    accuracy = (model(x_test).argmax(1) == y_test).float().mean()
    print(f"loss of the last steps: {loss:.4f}")
    print(f"digits:                 {accuracy:.1%} right of {len(x_test)} that it has not seen")
    print(f"the threshold began at 0.1 and is now {model[1].threshold.item():.3f}")

    # 4. What a GPU runs for all parameters at once.
    print(momentum.source)


if __name__ == "__main__":
    main()
