"""What examples share: the digits, the options of a command line, and what a reader of figures needs to know."""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from fusedact import demo
from fusedact.looking import plotting


def parser(doc: str | None, plot: str, seeds: Sequence[int], **counts: int) -> argparse.ArgumentParser:
    """The options that examples share, and counts, such as epochs=20."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in counts.items():
        made.add_argument(f"--{name}", type=int, default=count, help="default %(default)s")
    made.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="default %(default)s")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--plot", metavar="FILE", default=plot, help="where the picture goes; default %(default)s")
    made.add_argument("--json", metavar="FILE", help="where the figures go")
    return made


def digits_parser(doc: str | None, plot: str, seeds: Sequence[int], **counts: int) -> argparse.ArgumentParser:
    """The same for examples on digits."""
    made = parser(doc, plot, seeds, **counts)
    made.add_argument("--data", metavar="NPZ", help="MNIST in Keras's format, in place of small digits")
    return made


def load(path: str | None, seed: int) -> demo.Dataset:
    """MNIST from a file, or scikit-learn's small digits, of which the seed chooses the fifth that is held out."""
    return demo.load_mnist(path) if path else demo.load_digits(seed)


def unit(data: demo.Dataset) -> demo.Dataset:
    """The data with pixels from 0 to 1."""
    low, span = data.train_x.min(), data.train_x.max() - data.train_x.min()
    return replace(data, train_x=(data.train_x - low) / span, test_x=(data.test_x - low) / span)


def as_images(x: Tensor) -> Tensor:
    """Rows of pixels as square images with one channel."""
    side = math.isqrt(x.shape[1])
    return x.reshape(-1, 1, side, side)


def parameter_groups(network: nn.Module, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Weights, which decay, and tables of piecewise-linear functions, for which 0 is no better than another value."""
    tables = [p for m in network.modules() if isinstance(m, fusedact.PWL) for p in m.parameters()]
    known = {id(p) for p in tables}
    weights = [p for p in network.parameters() if id(p) not in known]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": tables, "weight_decay": 0.0}]


def draw_learned(axes: Any, act: fusedact.PWL, title: str, low: float, high: float) -> None:
    """Up to five of the curves, from the one that moved least to the one that moved most, and that they began with."""
    act = copy.deepcopy(act).cpu()
    x, after, _ = plotting.curves(act, low, high)
    act.reset_parameters()
    _, before, _ = plotting.curves(act, low, high)
    after, before = (y.reshape(len(x), -1) for y in (after, before))
    moved = (after - before).abs().mean(0).argsort()
    shown = moved[torch.linspace(0, len(moved) - 1, min(5, len(moved))).long()]
    axes.plot(x.numpy(), after[:, shown].numpy(), linewidth=1.4)
    axes.plot(x.numpy(), before[:, 0].numpy(), "k--", linewidth=1.6, label="before")
    axes.set(title=title, xlabel="x")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def pictures(axes: Any, rows: Sequence[Tensor], title: str) -> None:
    """Rows of images with pixels from 0 to 1, as one picture."""
    lines = [torch.cat([F.pad(image.cpu(), (1, 1, 1, 1), value=0.3) for image in row.squeeze(1)], 1) for row in rows]
    axes.imshow(torch.cat(lines).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium")


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of matplotlib without a display, and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)


def facts(device: str) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to repeat them."""
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fusedact": fusedact.__version__,
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def save(plot: str, drawn: Any) -> None:
    """Write a picture."""
    drawn.savefig(plot, dpi=100)
    print(f"picture: {plot}")


def write(path: str | None, device: str, figures: dict[str, Any]) -> None:
    """Write figures, with what a reader needs to know of them, if there is a path."""
    if path:
        Path(path).write_text(json.dumps({**figures, **facts(device)}, indent=2) + "\n")
