"""A small transformer learns to spell, once per saving policy: what each keeps for backward, and how well it learns.

Reads the texts of a folder, by default this repository's documents, letter by letter, in bfloat16 by autocast.
`--json` and `--plot` name files for the figures and their plot.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact

ROOT = Path(__file__).resolve().parent.parent
WIDTH, LENGTH, BATCH, LAYERS, HEADS = 128, 64, 16, 2, 4
POLICIES = ("input", "output")


class Block(nn.Module):
    """Attention, and two linear layers with an activation between them."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.act = fusedact.create(activation)

    def forward(self, x: Tensor) -> Tensor:
        h, hidden = self.norms[0](x), torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attention(h, h, h, attn_mask=hidden, need_weights=False)[0]
        return x + self.down(self.act(self.up(self.norms[1](x))))


class Speller(nn.Module):
    """The next letter's scores from those before it."""

    def __init__(self, letters: int, activation: str) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, WIDTH), nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.Sequential(*(Block(activation) for _ in range(LAYERS)))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters))

    def forward(self, text: Tensor) -> Tensor:
        return self.out(self.blocks(self.letters(text) + self.places))


def read(folder: Path) -> Tensor:
    """The texts as numbers from 0 on."""
    files = sorted(folder.glob("**/*.md"))
    if not files:
        raise SystemExit(f"examples/saving.py: there is no .md file in {folder}")
    text = "".join(f.read_text(encoding="utf-8", errors="replace") for f in files)
    return torch.tensor(list(text.encode()), dtype=torch.uint8).unique(return_inverse=True)[1]


def train(text: Tensor, activation: str, policy: str, seed: int, steps: int) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(seed)
    model = Speller(int(text.max()) + 1, activation)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (BATCH,))
        windows = torch.stack([text[s : s + LENGTH + 1] for s in starts.tolist()])
        with fusedact.save_policy(policy), torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plot(found: dict[str, dict[str, list[list[float]]]], kept: dict[str, dict[str, int]], path: Path) -> None:
    """Losses of every seed beside what is kept for backward."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    colours = {name: f"C{i}" for i, name in enumerate(found)}
    for name, policies in found.items():
        for policy, seeds in policies.items():
            mean = torch.tensor(seeds).mean(0)
            smooth = mean.unfold(0, min(10, len(mean)), 1).mean(1)
            if policy == "input":
                curves.plot(smooth, color=colours[name], linewidth=4, alpha=0.5, label=name)
            else:
                curves.plot(smooth, ":", color="black", linewidth=1)
    curves.set_xlabel("step")
    curves.set_title("loss in bfloat16, mean of all seeds; dotted: from the output")
    curves.legend(frameon=False, fontsize=8)
    height = 0.8 / len(POLICIES)
    for i, policy in enumerate(POLICIES):
        places = [n + (i - 0.5) * height for n in range(len(kept))]
        bars.barh(places, [k[policy] / 2**20 for k in kept.values()], height, label=policy, color=("0.7", "C0")[i])
    bars.set_yticks(range(len(kept)), list(kept))
    bars.invert_yaxis()
    bars.set_title("kept between the two linear layers, MiB")
    bars.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def between(text: Tensor, activation: str) -> dict[str, int]:
    """Bytes kept between the linear layers of all blocks: their shared tensor, and what the activation adds."""
    model = Speller(int(text.max()) + 1, activation)
    with torch.autocast("cpu", torch.bfloat16):
        report = fusedact.memory_report(model, text[: BATCH * LENGTH].reshape(BATCH, LENGTH))
    shared = LAYERS * BATCH * LENGTH * 4 * WIDTH * 2
    return {policy: shared + sum(row.kept[policy] for row in report.rows) for policy in POLICIES}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--activations", nargs="+", default=["relu_sigmoid", "gelu", "silu", "elu"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    text = read(arguments.folder)
    found: dict[str, dict[str, list[list[float]]]] = {}
    kept: dict[str, dict[str, int]] = {}
    print(f"{'activation':<14}{'kept, input':>14}{'output':>10}{'loss, input':>16}{'output':>16}")
    for name in arguments.activations:
        kept[name] = between(text, name)
        found[name] = {p: [train(text, name, p, s, arguments.steps) for s in arguments.seeds] for p in POLICIES}
        cells = []
        for policy in POLICIES:
            last = [statistics.mean(losses[-10:]) for losses in found[name][policy]]
            spread = statistics.stdev(last) if len(last) > 1 else 0.0
            cells.append(f"{statistics.mean(last):.3f} ± {spread:.3f}")
        sizes = [f"{kept[name][p] / 2**20:.2f} MiB" for p in POLICIES]
        print(f"{name:<14}{sizes[0]:>14}{sizes[1]:>10}{cells[0]:>16}{cells[1]:>16}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"kept": kept, "losses": found}) + "\n")
    if arguments.plot:
        plot(found, kept, arguments.plot)


if __name__ == "__main__":
    main()
