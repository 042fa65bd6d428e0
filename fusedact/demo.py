"""The demonstration: a small network learns handwritten digits, and circles, once per activation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import modules, registry
from .explaining import explain

__all__ = [
    "ACTIVATIONS",
    "Dataset",
    "Moved",
    "Result",
    "Trained",
    "bytes_kept",
    "load_circles",
    "load_digits",
    "load_mnist",
    "run",
    "train",
]

HIDDEN = 128
BATCH = 128
RATE = 3e-3

# Identity and ReLU are the yardsticks.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "ReLU": nn.ReLU,
    "ReLUSigmoid(0.1)": lambda: modules.create("relu_sigmoid", threshold=0.1),
    "ELU": lambda: modules.create("elu"),
    "SELU": lambda: modules.create("selu"),
    "PWL(17 points of SiLU)": lambda: modules.PWL.from_function(F.silu, -4.0, 4.0, 17, left_slope=0.0),
    "PReLU, a slope per unit": lambda: modules.create("prelu", num_parameters=HIDDEN),
    "ReLUSigmoid, learned": lambda: modules.create("relu_sigmoid", threshold=0.1, learnable=True),
}


@dataclass(frozen=True)
class Dataset:
    """Inputs of shape (n, features), float32 and standardized, and labels; split for training and testing."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        return int(self.train_y.max()) + 1


@dataclass(frozen=True)
class Trained:
    """What one training gave: the test accuracy, the seconds of each step, and the activation as it ended."""

    accuracy: float
    seconds: list[float]
    activation: nn.Module


@dataclass(frozen=True)
class Moved:
    """Where a learned parameter began, and the mean and the range of its entries where it ended."""

    name: str
    entries: int
    start: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What one activation reached; step, parameters and module are those of the first data set."""

    activation: str
    accuracy: dict[str, float]
    step_seconds: float
    bytes_kept: float
    path: str
    moved: list[Moved]
    module: nn.Module


def _standardized(name: str, train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> Dataset:
    mean, std = train_x.mean(), train_x.std()
    return Dataset(name, (train_x - mean) / std, train_y.long(), (test_x - mean) / std, test_y.long())


def _split(name: str, x: Tensor, y: Tensor, seed: int) -> Dataset:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    return _standardized(name, x[train], y[train], x[test], y[test])


def load_digits(seed: int = 0) -> Dataset:
    """1,797 handwritten digits of 8 by 8 pixels, from scikit-learn; a fifth is held out."""
    from sklearn import datasets

    data = datasets.load_digits()
    return _split("digits", torch.from_numpy(data.data).float(), torch.from_numpy(data.target), seed)


def load_circles(seed: int = 0) -> Dataset:
    """Two concentric circles with noise, which no linear model separates; a fifth is held out."""
    from sklearn import datasets

    x, y = datasets.make_circles(2000, noise=0.08, factor=0.5, random_state=seed)
    return _split("circles", torch.from_numpy(x).float(), torch.from_numpy(y), seed)


def load_mnist(path: str | Path) -> Dataset:
    """MNIST in Keras's format: an .npz with x_train, y_train, x_test, y_test.

    Raises:
        ValueError: if there is no such file, or it is something else.
    """
    import numpy as np

    try:
        with np.load(path) as data:
            arrays = [torch.from_numpy(data[key]) for key in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"fusedact demo: --data must be an .npz with x_train, y_train, x_test and y_test, got {path} ({error})"
        ) from None
    train_x, train_y, test_x, test_y = arrays
    return _standardized("mnist", train_x.float().flatten(1), train_y, test_x.float().flatten(1), test_y)


def _network(features: int, classes: int, activation: nn.Module) -> nn.Sequential:
    first, second = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, classes)
    if getattr(activation, "spec", None) is registry.get("selu"):
        for layer in (first, second):
            # LeCun-normal, which self-normalization requires.
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(first, activation, second)


def train(
    data: Dataset,
    make: Callable[[], nn.Module],
    epochs: int,
    seed: int = 0,
    device: str = "cpu",
    on_epoch: Callable[[], None] = lambda: None,
    *,
    size: int = BATCH,
    rate: float = RATE,
) -> Trained:
    """Train a two-layer network with Adam, which has no weight decay: that would pull learned parameters to 0."""
    torch.manual_seed(seed)
    network = _network(data.train_x.shape[1], data.classes, make()).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    train_x, train_y = data.train_x.to(device), data.train_y.to(device)
    seconds = []
    for _ in range(epochs):
        for batch in torch.randperm(len(train_x)).split(size):
            start = time.perf_counter()
            loss = F.cross_entropy(network(train_x[batch.to(device)]), train_y[batch.to(device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        on_epoch()
    with torch.no_grad():
        correct = network(data.test_x.to(device)).argmax(1) == data.test_y.to(device)
    return Trained(correct.float().mean().item(), seconds, network[1].cpu())


def bytes_kept(activation: nn.Module, elements: int = 2**18, device: str = "cpu") -> float:
    """Bytes per element that the activation keeps for backward beyond its output and its parameters.

    Each memory counts once.
    """
    x = torch.randn(elements // HIDDEN, HIDDEN, device=device, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = activation(x)
    for t in (y, *activation.parameters()):
        saved.pop(t.untyped_storage().data_ptr(), None)
    return sum(saved.values()) / elements


def _path(activation: nn.Module, device: str) -> str:
    if not hasattr(activation, "spec"):
        return "torch"
    return explain(activation, torch.empty(BATCH, HIDDEN, device=device)).kind


def _moved(start: nn.Module, end: nn.Module) -> list[Moved]:
    """How far each learned parameter came."""
    before = dict(start.named_parameters())
    return [
        Moved(name, p.numel(), before[name].mean().item(), p.mean().item(), p.min().item(), p.max().item())
        for name, p in end.named_parameters()
    ]


def run(
    datasets: list[Dataset],
    epochs: dict[str, int],
    seed: int = 0,
    device: str = "cpu",
    on_epoch: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Train every activation on every data set; `on_epoch` gets the activation's name after each epoch."""
    results = []
    for name, make in ACTIVATIONS.items():
        trained = {d.name: train(d, make, epochs[d.name], seed, device, partial(on_epoch, name)) for d in datasets}
        first = trained[datasets[0].name]
        activation = make().to(device)
        results.append(
            Result(
                name,
                {data: t.accuracy for data, t in trained.items()},
                statistics.median(first.seconds),
                bytes_kept(activation, device=device),
                _path(activation, device),
                _moved(make(), first.activation),
                first.activation,
            )
        )
    return results
