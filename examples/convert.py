"""One line into a model that exists: its activations become fusedact's, and its checkpoints stay what they were.

    pip install 'fusedact[demo]'
    python examples/convert.py

A convolutional network with gated blocks, written in plain PyTorch, is converted; it trains on scikit-learn's small
digits, watched, and saves a checkpoint, which the network as it was written loads. A copy gets other activations, with
parameters that learn. The pictures show both trainings, what was learned, and the activations over the steps.
"""

from __future__ import annotations

import copy

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact


# 1. A network as people have them: a module, functions, and a gated block. Nothing in it knows of fusedact.
class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate_proj, self.up_proj = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down_proj, self.act_fn = nn.Linear(2 * width, width), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down_proj(self.act_fn(self.gate_proj(y)) * self.up_proj(y))


class Network(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, width, 3, padding=1)
        self.act, self.blocks = nn.LeakyReLU(0.1), nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = self.act(self.second(x)).mean((2, 3))
        return self.head(self.blocks(x))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The loss of each step."""
    losses = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    with torch.no_grad():
        return (network(x).argmax(1) == y).float().mean().item()


def main() -> None:
    parser = common.digits_parser(__doc__, "convert.png", [0], epochs=12)
    parser.add_argument("--layers", default="convert-layers.png", help="where the monitor's picture goes")
    parser.add_argument("--checkpoint", default="convert.pt", help="where the checkpoint goes; default %(default)s")
    options = parser.parse_args()
    torch.manual_seed(options.seeds[0])
    data = common.unit(common.load(options.data, options.seeds[0]))
    x, x_test = (common.as_images(t).to(options.device) for t in (data.train_x, data.test_x))
    y, y_test = data.train_y.to(options.device), data.test_y.to(options.device)

    # 2. One line. The report says what became what, and that the outputs are still the same.
    network = Network().to(options.device)
    plain, other = copy.deepcopy(network), copy.deepcopy(network)
    print(fusedact.convert(network, verify=x[:32]))

    # 3. It trains, every tenth step watched, and the network as it was written loads its checkpoint.
    with fusedact.monitor(network, every=10) as stats:
        losses = {"twins": train(network, torch.optim.AdamW(network.parameters(), 3e-3), x, y, options.epochs)}
    print(f"\n{stats}")
    stats.plot(options.layers)
    torch.save(network.state_dict(), options.checkpoint)
    plain.load_state_dict(torch.load(options.checkpoint))
    print(f"\ntwins:              {accuracy(network, x_test, y_test):.1%} right of {len(x_test)} digits not seen")
    print(f"checkpoint, plain:  {accuracy(plain, x_test, y_test):.1%}, loaded from {options.checkpoint}\n")

    # 4. Other activations, with parameters that learn: the optimizer gets a group for them.
    optimizer = torch.optim.AdamW(other.parameters(), 3e-3)
    mapping = {nn.LeakyReLU: "relu_sigmoid", "blocks.*.act_fn": "swish", F.relu: "twin"}
    print(fusedact.convert(other, mapping, learnable=True, optimizer=optimizer, verify=x[:32]))
    before = {n: p.item() for n, p in other.named_parameters() if p.numel() == 1}
    losses["learned"] = train(other, optimizer, x, y, options.epochs)
    after = {n: p.item() for n, p in other.named_parameters() if p.numel() == 1}
    print(f"\nlearned:            {accuracy(other, x_test, y_test):.1%} right")
    for name, value in after.items():
        print(f"  {name:24} {before[name]:.3f} -> {value:.3f}")

    figure, axes = common.figure(10, 4, columns=2)
    for name, values in losses.items():
        axes[0, 0].semilogy(torch.tensor(values).unfold(0, 9, 1).mean(1), label=name)
    axes[0, 0].set(title="Loss, mean of nine steps", xlabel="step")
    grid = torch.linspace(-4, 4, 401, device=options.device)
    for name, module in other.named_modules():
        if list(module.parameters(recurse=False)) and hasattr(module, "spec"):
            axes[0, 1].plot(grid.cpu(), module(grid).detach().cpu(), label=name)
    axes[0, 1].set(title="What the activations learned", xlabel="x")
    for panel in axes[0]:
        panel.grid(alpha=0.3)
        panel.legend()
    common.save(options.plot, figure)


if __name__ == "__main__":
    main()
