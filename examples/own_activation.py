"""From a formula to a trained network: an activation of one's own, with a parameter that learns.

    pip install 'fusedact[demo]'
    python examples/own_activation.py

It prints what the parameter learned on scikit-learn's handwritten digits and how the network does on digits that it has
not seen, then the Triton code that was made of the formula, and saves a plot of the function before and after.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import fusedact


# 1. The formula, in plain PyTorch. Inside, `a` is a tensor; its default is what modules begin with.
@fusedact.activation
def snake(x, a=1.0):
    """x + sin(a x)^2 / a: a line with a wave on it (Ziyin et al., 2020, arXiv:2006.08195)."""
    return x + torch.sin(a * x) ** 2 / a


# 2. It is a function: differentiable in x, and in `a` where that is a tensor which requires a gradient.
def as_a_function() -> None:
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    a = torch.tensor(2.0, requires_grad=True)
    snake(x, a).sum().backward()
    print("snake(x, a=2):    ", [round(v, 3) for v in snake(x, 2.0).tolist()])
    print("gradient of x:    ", [round(v, 3) for v in x.grad.tolist()])
    print("gradient of a:    ", round(a.grad.item(), 3))


# 3. It is a module: here with one learned `a` for each of 128 units, kept positive whatever the optimizer does.
def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 128),
        snake.module(a=1.0, learnable="a", num_parameters=128, bounds=(0.1, None)),
        nn.Linear(128, 10),
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images as rows of 64 numbers from 0 to 1, and their digits."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.2, random_state=0, stratify=labels)
    x, x_test, y, y_test = parts
    return (
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y),
        torch.tensor(x_test, dtype=torch.float32),
        torch.tensor(y_test),
    )


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    # A parameter of an activation is no weight: weight decay would pull it to 0.
    shapes = [p for name, p in net.named_parameters() if name.endswith(".a")]
    weights = [p for name, p in net.named_parameters() if not name.endswith(".a")]
    groups = [{"params": weights, "weight_decay": 1e-2}, {"params": shapes, "weight_decay": 0.0, "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()


def plot(learned: Tensor, file: str) -> None:
    """The function before, and after for the units whose `a` is smallest, in the middle and largest."""
    x = torch.linspace(-4, 4, 400)
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(x, snake(x, 1.0), "k--", label="before: a = 1")
    for name, a in zip(("smallest", "median", "largest"), learned.quantile(torch.tensor([0.0, 0.5, 1.0])), strict=True):
        axes.plot(x, snake(x, a), label=f"{name} learned: a = {a:.2f}")
    axes.set(xlabel="x", ylabel="snake(x, a)", title="What the units learned")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plot", default="own_activation.png", help="where the plot goes")
    options = parser.parse_args()
    torch.manual_seed(0)

    as_a_function()
    x, y, x_test, y_test = digits()
    net = network()
    train(net, x, y, options.epochs)
    accuracy = (net(x_test).argmax(1) == y_test).float().mean()
    learned = net[1].a.detach()
    print(f"digits:            {accuracy:.1%} right of {len(x_test)} that it has not seen")
    print(f"a began at 1.00:   now {learned.min():.2f} to {learned.max():.2f}, {learned.mean():.2f} on average")
    print("the path it takes: ", fusedact.explain(net[1], net[0](x_test)))

    # 4. What a GPU runs, in one pass forward and one backward.
    print(snake.source)
    plot(learned, options.plot)
    print(f"the function before and after: {options.plot}")


if __name__ == "__main__":
    main()
