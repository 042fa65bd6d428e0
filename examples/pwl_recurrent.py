"""A recurrent network whose nonlinearity is learned: it reads handwritten digits row by row.

    pip install 'fusedact[demo]'
    python examples/pwl_recurrent.py

The cell is written by hand: state = f(W row + U state + b). f is tanh, or a piecewise-linear function for each unit of
the state, which begins as 17 points of tanh and learns its values and outer slopes. One module serves all steps of a
sequence, so the gradients of its tables come from all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from fusedact import demo

HIDDEN = 64
BATCH = 64


def learned_tanh() -> fusedact.PWL:
    return fusedact.PWL.from_function("tanh", -3.0, 3.0, 17, learnable=("values", "slopes"), num_parameters=HIDDEN)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "PWL, learned per unit": learned_tanh}


class Reader(nn.Module):
    """Reads a sequence of rows, and says which digit they make."""

    def __init__(self, width: int, classes: int, activation: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(width, HIDDEN)
        self.recurrent = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.activation = activation
        self.outer = nn.Linear(HIDDEN, classes)
        nn.init.orthogonal_(self.recurrent.weight)

    def forward(self, rows: Tensor) -> Tensor:
        state = rows.new_zeros(len(rows), HIDDEN)
        for row in self.inner(rows).unbind(1):
            state = self.activation(row + self.recurrent(state))
        return self.outer(state)


def sequences(x: Tensor) -> Tensor:
    """Images as sequences of rows."""
    return common.as_images(x).squeeze(1)


def trained(data: demo.Dataset, name: str, epochs: int, seed: int, device: str) -> tuple[list[float], float, Reader]:
    """The mean loss of each epoch, the accuracy on digits held out, and the network."""
    torch.manual_seed(seed)
    x, y = sequences(data.train_x).to(device), data.train_y.to(device)
    network = Reader(x.shape[2], data.classes, ACTIVATIONS[name]()).to(device)
    optimizer = torch.optim.AdamW(common.parameter_groups(network), lr=3e-3)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            # What goes through many steps may grow with each.
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(x))
    with torch.no_grad():
        right = network(sequences(data.test_x).to(device)).argmax(1) == data.test_y.to(device)
    return losses, round(right.float().mean().item(), 4), network


def draw(losses: dict[str, list[float]], network: Reader) -> Any:
    drawn, axes = common.figure(9, 3.8, 1, 2)
    common.draw_learned(axes[0][0], network.activation, "what five of the 64 units learned", -4.5, 4.5)
    axes[0][0].legend(loc="upper left", frameon=False)
    for name, values in losses.items():
        axes[0][1].semilogy(range(1, len(values) + 1), values, label=name)
    axes[0][1].set(title="training loss", xlabel="epoch")
    axes[0][1].legend(frameon=False)
    axes[0][1].grid(alpha=0.25)
    axes[0][1].spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> None:
    options = common.digits_parser(__doc__, "pwl_recurrent.png", range(3), epochs=15).parse_args()

    accuracy: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    losses: dict[str, list[float]] = {}
    for seed in options.seeds:
        data = common.load(options.data, seed)
        for name in ACTIVATIONS:
            losses[name], reached, network = trained(data, name, options.epochs, seed, options.device)
            accuracy[name].append(reached)
            print(f"{name:22} seed {seed}: {reached:.2%}, last loss {losses[name][-1]:.4f}", flush=True)
    print()
    for name, reached in accuracy.items():
        print(f"{name:22} {statistics.mean(reached):.2%}, from {min(reached):.2%} to {max(reached):.2%}")
    about = {"data": data.name, "epochs": options.epochs, "seeds": options.seeds}
    common.save(options.plot, draw(losses, network))
    common.write(options.json, options.device, {**about, "accuracy": accuracy, "loss": losses})


if __name__ == "__main__":
    main()
