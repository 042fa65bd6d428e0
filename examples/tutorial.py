"""What articles on activations in PyTorch teach, with this library's parts in place of theirs.

    pip install 'fusedact[demo]'
    python examples/tutorial.py --folder pictures

A custom activation with a threshold, logged; activations by name, and a linear layer that has one; piecewise functions;
PReLU as a function and as a class; a training loop on scikit-learn's handwritten digits, or on MNIST with `--data`;
and every activation plotted, a picture each.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from fusedact import demo
from fusedact import functional as FF

HIDDEN = 128


# 1. A custom activation with a threshold. The articles derive a class from torch.autograd.Function and write its
#    backward; here the formula is enough.
@fusedact.activation
def cut_silu(x, threshold=0.5):
    """x * sigmoid(x) above the threshold, 0 up to it."""
    return torch.where(x > threshold, x * torch.sigmoid(x), 0.0)


def custom_and_logged() -> None:
    logged = fusedact.log_activation(name="cut_silu")(cut_silu)
    x = torch.tensor([-1.0, 0.5, 1.0, 2.0], requires_grad=True)
    y = logged(x, threshold=0.5)
    y.sum().backward()
    print(f"cut_silu:    {shown(y)}, gradient {shown(x.grad)}")
    # The same backward, written by hand.
    s = torch.sigmoid(x.detach())
    by_hand = torch.where(x.detach() > 0.5, s * (1.0 + x.detach() * (1.0 - s)), 0.0)
    print(f"by hand:     gradient {shown(by_hand)}")


# 2. Activations by name, and a linear layer that has one.
def by_name() -> None:
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    for name in ("relu", "leaky_relu", "tanh", "mish"):
        print(f"{name + ':':12} {shown(fusedact.Activation(name)(x))}")
    layer = fusedact.Linear(4, 3, activation="relu")
    plain = nn.Linear(4, 3)
    plain.load_state_dict(layer.state_dict())
    batch = torch.randn(8, 4)
    apart = (layer(batch) - F.relu(plain(batch))).abs().max().item()
    print(f"Linear:      {apart:.1e} from nn.Linear and relu")


# 3. Piecewise functions: a table in place of a chain of torch.where.
def piecewise() -> None:
    def chain(x: Tensor) -> Tensor:
        return torch.where(x < -1.0, -1.0 + 0.1 * (x + 1.0), torch.where(x < 2.0, x, 2.0))

    act = fusedact.PWL([-1.0, 2.0], [-1.0, 2.0], left_slope=0.1, right_slope=0.0)
    x = torch.linspace(-4.0, 4.0, 1001, requires_grad=True)
    apart = (act(x) - chain(x)).abs().max().item()
    print(f"piecewise:   {shown(act(torch.tensor([-3.0, 0.0, 1.5, 5.0])))}, {apart:.1e} from torch.where")
    for count in (8, 16, 32):
        fit = fusedact.PWL.from_function("tanh", -4.0, 4.0, count, spacing="adaptive")
        print(f"tanh of {count} points: {fit.fitting_error:.4f} off at most")


# 4. PReLU as a function, whose slopes are an argument, and as a class, which owns them.
def prelu() -> None:
    x = torch.tensor([[-1.0, -2.0], [3.0, -4.0]])
    slopes = torch.tensor([0.1, 0.5], requires_grad=True)
    y = FF.prelu(x, slopes)
    y.sum().backward()
    print(f"prelu:       {shown(y.flatten())}, gradient of the slopes {shown(slopes.grad)}")
    act = fusedact.PReLU(num_parameters=2, init=0.25)
    print(f"PReLU:       {shown(act(x).flatten())}, state_dict {[*act.state_dict()]}")


# 5. A training loop. What learns beside the weights is told; it gets no weight decay, which would pull it to 0.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": lambda: fusedact.Activation("identity"),
    "relu": lambda: fusedact.Activation("relu"),
    "relu_sigmoid, learned": lambda: fusedact.ReLUSigmoid(0.1, learnable=True),
    "cut_silu": lambda: cut_silu.module(threshold=0.1),
    "prelu, per unit": lambda: fusedact.PReLU(HIDDEN),
    "pwl, learned": lambda: fusedact.PWL.from_function("relu", -3.0, 3.0, 9, learnable=True),
}


def train(net: nn.Sequential, data: demo.Dataset, epochs: int) -> list[float]:
    """The mean loss of each epoch."""
    shapes = list(net[1].parameters())
    weights = [*net[0].parameters(), *net[2].parameters()]
    groups = [{"params": weights, "weight_decay": 1e-2}, {"params": shapes, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=2e-3)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(data.train_x)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(data.train_x[rows]), data.train_y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(data.train_x))
    return losses


def training(data: demo.Dataset, epochs: int) -> dict[str, dict[str, float]]:
    """The first and the last loss, and the test accuracy, of each activation; how far what it learned has moved."""
    found = {}
    for name, make in ACTIVATIONS.items():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(data.train_x.shape[1], HIDDEN), make(), nn.Linear(HIDDEN, data.classes))
        before = [p.detach().clone() for p in net[1].parameters()]
        losses = train(net, data, epochs)
        with torch.no_grad():
            right = (net(data.test_x).argmax(1) == data.test_y).float().mean().item()
        moved = max(((p - b).abs().max().item() for p, b in zip(net[1].parameters(), before, strict=True)), default=0.0)
        found[name] = {"first": losses[0], "last": losses[-1], "right": right, "moved": moved}
        learned = f", moved by up to {moved:.2f}" if before else ""
        print(f"{name:21} loss {losses[0]:.3f} to {losses[-1]:.3f}, {right:.1%} right{learned}")
    return found


# 6. Every activation that works element by element, and its derivative: a picture each.
GIVEN: dict[str, nn.Module] = {
    "pwl": fusedact.PWL([-2.0, 0.0, 1.0], [0.0, -0.5, 1.0], right_slope=1.0),
    "threshold": fusedact.Threshold(0.5, -0.5),
}


def plots(folder: Path) -> int:
    """How many pictures were drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for kind in ("elementwise", "piecewise", "random") for name in fusedact.names(kind)]
    figure, axes = common.figure(5, 3.5)
    for name in names:
        axes[0, 0].clear()
        fusedact.plot(GIVEN.get(name, name), derivatives=1, ax=axes[0, 0], title=name)
        figure.savefig(folder / f"{name}.png", dpi=80)
    print(f"{len(names)} pictures in {folder}")
    return len(names)


def shown(t: Tensor) -> list[float]:
    return [round(v, 3) for v in t.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="NPZ", help="MNIST in Keras's format, in place of small digits")
    parser.add_argument("--epochs", type=int, default=10, help="default %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("activations"), help="of the pictures; default %(default)s")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    options = parser.parse_args()
    # What log_activation says, among what is printed.
    logger = logging.getLogger("fusedact")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    torch.manual_seed(0)

    for part in (custom_and_logged, by_name, piecewise, prelu):
        part()
    data = common.load(options.data, 0)
    print(f"{data.name}: {data.train_x.shape[1]} to {HIDDEN} to {data.classes}, {options.epochs} epochs")
    found = training(data, options.epochs)
    count = plots(options.folder)
    about = {"data": data.name, "epochs": options.epochs, "pictures": count}
    common.write(options.json, "cpu", {**about, "activations": found})


if __name__ == "__main__":
    main()
