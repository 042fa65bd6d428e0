"""An autoencoder whose activations are learned: handwritten digits through a bottleneck of a few numbers.

    pip install 'fusedact[demo]'
    python examples/pwl_autoencoder.py

The hidden layers have a piecewise-linear function for each unit, which begins as 9 points of ReLU. The last one makes
pixels: it begins as the clamp to 0 and 1, and is monotone, so that more is never darker; one table for all pixels. The
same network with activations that stay as they began is beside it.
"""

from __future__ import annotations

import statistics
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from fusedact import demo

HIDDEN = 96
BATCH = 64


def hidden(learn: bool) -> fusedact.PWL:
    """ReLU to begin with."""
    count = HIDDEN if learn else 1
    return fusedact.PWL.from_function("relu", -2.0, 2.0, 9, learnable=learn, num_parameters=count)


def pixel(learn: bool) -> fusedact.PWL:
    """The clamp to 0 and 1 to begin with, with a slight slope outside, without which a gradient would end there."""
    points = torch.linspace(-1.0, 2.0, 13)
    values = F.leaky_relu(points, 0.01) - 0.99 * F.relu(points - 1.0)
    return fusedact.PWL(points, values, 0.01, 0.01, learnable=learn, monotone=learn)


class Autoencoder(nn.Module):
    def __init__(self, pixels: int, bottleneck: int, learn: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, HIDDEN), hidden(learn), nn.Linear(HIDDEN, bottleneck))
        self.decoder = nn.Sequential(
            nn.Linear(bottleneck, HIDDEN), hidden(learn), nn.Linear(HIDDEN, pixels), pixel(learn)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def trained(
    data: demo.Dataset, bottleneck: int, learn: bool, epochs: int, seed: int, device: str
) -> tuple[list[float], Autoencoder]:
    """The mean square error on images held out, before and after each epoch, and the network."""
    torch.manual_seed(seed)
    x, test = data.train_x.to(device), data.test_x.to(device)
    network = Autoencoder(x.shape[1], bottleneck, learn).to(device)
    optimizer = torch.optim.AdamW(common.parameter_groups(network, weight_decay=1e-4), lr=3e-3)
    order = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def error() -> float:
        return F.mse_loss(network(test), test).item()

    errors = [error()]
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            F.mse_loss(network(x[batch]), x[batch]).backward()
            optimizer.step()
        errors.append(error())
    return errors, network


def draw(data: demo.Dataset, errors: dict[str, list[float]], networks: dict[str, Autoencoder]) -> Any:
    drawn, axes = common.figure(13, 6.5, 2, 3)
    learned = networks["learned"].cpu()
    for panel, name, act in zip(
        axes[0], ("encoder", "decoder"), (learned.encoder[1], learned.decoder[1]), strict=False
    ):
        common.draw_learned(panel, act, f"the {name}'s hidden layer, five units", -3.0, 3.0)
    common.draw_learned(axes[0][2], learned.decoder[3], "what makes pixels: monotone", -1.5, 2.5)
    axes[0][0].legend(loc="upper left", frameon=False)
    sample = data.test_x[:8]
    rows = [common.as_images(sample)]
    for network in networks.values():
        with torch.no_grad():
            rows.append(common.as_images(network.cpu()(sample)))
    common.pictures(axes[1][0], rows, f"held out; below through {', '.join(networks)}")
    for name, values in errors.items():
        axes[1][1].semilogy(values, label=name)
    axes[1][1].set(title="mean square error, held out", xlabel="epoch")
    axes[1][1].legend(frameon=False, title="activations")
    axes[1][1].grid(alpha=0.25)
    with torch.no_grad():
        codes = learned.encoder(data.test_x)
    dots = axes[1][2].scatter(codes[:, 0].numpy(), codes[:, -1].numpy(), c=data.test_y.numpy(), cmap="tab10", s=8)
    axes[1][2].set(title="the first and the last number of the code", xticks=[], yticks=[])
    drawn.colorbar(dots, ax=axes[1][2], ticks=range(10))
    return drawn


def main() -> None:
    options = common.digits_parser(__doc__, "pwl_autoencoder.png", range(2), epochs=40, bottleneck=8).parse_args()

    last: dict[str, list[float]] = {"learned": [], "fixed": []}
    errors: dict[str, list[float]] = {}
    networks: dict[str, Autoencoder] = {}
    for seed in options.seeds:
        data = common.unit(common.load(options.data, seed))
        for name in last:
            errors[name], networks[name] = trained(
                data, options.bottleneck, name == "learned", options.epochs, seed, options.device
            )
            last[name].append(errors[name][-1])
            print(f"{name:8} seed {seed}: error from {errors[name][0]:.4f} to {errors[name][-1]:.5f}", flush=True)
    average = data.train_x.mean(0)
    print(f"the mean image in place of all: {F.mse_loss(average.expand_as(data.test_x), data.test_x):.4f}")
    for name, found in last.items():
        print(f"{name:8} {statistics.mean(found):.5f}")
    about = {"data": data.name, "epochs": options.epochs, "seeds": options.seeds, "bottleneck": options.bottleneck}
    common.save(options.plot, draw(data, errors, networks))
    common.write(options.json, options.device, {**about, "error": last})


if __name__ == "__main__":
    main()
