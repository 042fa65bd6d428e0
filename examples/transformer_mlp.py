"""A small transformer whose MLPs are fusedact's by a change of one line: time and memory of a step, and what it learns.

It reads Python's own documentation, which the standard library holds, letter by letter. The same weights train in plain
PyTorch, with fusedact.MLP, with recompute=True, and the first two under torch.compile. Memory is what forward keeps for
backward beside the parameters. A step's time is the median over steps that take turns, after the first ones. `--json`
names a file for the figures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pydoc_data import topics

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact


class PlainMLP(nn.Module):
    """What fusedact.MLP takes the place of."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


def plain(dim: int, hidden: int) -> nn.Module:
    return PlainMLP(dim, hidden)


def ours(dim: int, hidden: int) -> nn.Module:
    return fusedact.MLP(dim, hidden, activation="gelu")


def recomputed(dim: int, hidden: int) -> nn.Module:
    return fusedact.MLP(dim, hidden, activation="gelu", recompute=True)


# How the MLPs are made, and whether the model is compiled.
WAYS: dict[str, tuple[Callable[[int, int], nn.Module], bool]] = {
    "eager": (plain, False),
    "fusedact": (ours, False),
    "fusedact, recompute": (recomputed, False),
    "torch.compile": (plain, True),
    "fusedact, torch.compile": (ours, True),
}


class Block(nn.Module):
    """Causal attention and an MLP."""

    def __init__(self, mlp: Callable[[int, int], nn.Module], dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.qkv, self.out, self.heads = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads
        self.mlp = mlp(dim, 4 * dim)  # the one line

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-3, -2).flatten(-2))
        return x + self.mlp(self.norms[1](x))


class Speller(nn.Module):
    """The next letter's scores from those before it."""

    def __init__(self, mlp: Callable[[int, int], nn.Module], letters: int, arguments: argparse.Namespace) -> None:
        super().__init__()
        dim = arguments.width
        self.letters, self.places = nn.Embedding(letters, dim), nn.Parameter(0.02 * torch.randn(arguments.length, dim))
        self.blocks = nn.Sequential(*(Block(mlp, dim, arguments.heads) for _ in range(arguments.layers)))
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, letters))

    def forward(self, text: Tensor) -> Tensor:
        return self.out(self.blocks(self.letters(text) + self.places))


def read() -> Tensor:
    """The text as numbers from 0 on."""
    text = "".join(topics.topics.values())
    return torch.tensor(list(text.encode()), dtype=torch.uint8).unique(return_inverse=True)[1]


def batch(text: Tensor, arguments: argparse.Namespace, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same for every way."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - arguments.length, (arguments.batch,), generator=generator).tolist()
    windows = torch.stack([text[s : s + arguments.length + 1] for s in starts]).to(arguments.device)
    return windows[:, :-1], windows[:, 1:]


class Run:
    """A model that trains in one way."""

    def __init__(self, way: str, letters: int, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        mlp, compiled = WAYS[way]
        self.device = arguments.device
        self.model = Speller(mlp, letters, arguments).to(self.device, getattr(torch, arguments.dtype))
        self.called = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def _loss(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.called(x).flatten(0, 1).float(), target.flatten())

    def step(self, x: Tensor, target: Tensor) -> None:
        self._wait()
        begin = time.perf_counter()
        loss = self._loss(x, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._wait()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss.item())

    def kept(self, x: Tensor, target: Tensor) -> int:
        """Bytes that forward keeps beside the parameters."""
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        storages: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = self._loss(x, target)
        del loss
        return sum(size for at, size in storages.items() if at not in parameters)

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("width", 128), ("layers", 4), ("heads", 4), ("length", 64), ("batch", 8), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=count, help="default %(default)s")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    arguments = parser.parse_args()
    text = read()
    runs = {way: Run(way, int(text.max()) + 1, arguments) for way in arguments.ways}
    figures: dict[str, dict[str, float]] = {}
    for step in range(arguments.steps):
        for run in runs.values():
            run.step(*batch(text, arguments, step))
    for way, run in runs.items():
        steady = run.seconds[min(3, len(run.seconds) - 1) :]
        figures[way] = {
            "milliseconds": 1e3 * statistics.median(steady),
            "kept": run.kept(*batch(text, arguments, 0)),
            "first loss": run.losses[0],
            "loss": statistics.mean(run.losses[-5:]),
        }
    first = next(iter(figures.values()))
    print(f"{'MLP':<26}{'ms a step':>12}{'':>8}{'kept, MiB':>12}{'':>8}{'loss':>10}")
    for way, row in figures.items():
        shares = [f"{row[key] / first[key]:.2f}x" for key in ("milliseconds", "kept")]
        cells = f"{row['milliseconds']:>12.1f}{shares[0]:>8}{row['kept'] / 2**20:>12.1f}{shares[1]:>8}"
        print(f"{way:<26}{cells}{row['loss']:>10.4f}")
    common.write(arguments.json, arguments.device, {"ways": figures})


if __name__ == "__main__":
    main()
