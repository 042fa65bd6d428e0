"""Times linear layers and MLPs beside plain PyTorch, and what they keep: `python -m bench.layers`.

Forward and backward, by input and parameters. Both take turns, and each time is the median of its samples; `best` is
the quotient of the shortest ones, which says more on a busy machine. `kept_of_eager` is the quotient of what forward
keeps for backward beside the parameters. `--write` keeps each line in bench/results/cpu/layers.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact

FIGURES = Path(__file__).parent / "results" / "cpu" / "layers.csv"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "relu_sigmoid": lambda z: torch.relu(z) * torch.sigmoid(z),
}
# Rows, inner and outer or hidden size.
SHAPES = [(64, 64, 256), (512, 256, 1024), (2048, 256, 1024), (8192, 128, 1024)]
FORMS = ("linear", "mlp", "mlp recompute", "gated mlp")


class Plain(nn.Module):
    """What people write, with the layers of ours."""

    def __init__(self, module: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.activation = module, activation

    def forward(self, x: Tensor) -> Tensor:
        m: Any = self.module
        if isinstance(m, nn.Linear):
            return self.activation(F.linear(x, m.weight, m.bias))
        h = self.activation(m.gate_proj(x)) * m.up_proj(x) if m.gated else self.activation(m.up_proj(x))
        return m.down_proj(h)


def made(form: str, activation: str, inner: int, outer: int, dtype: torch.dtype) -> nn.Module:
    """One of ours."""
    if form == "linear":
        return fusedact.Linear(inner, outer, activation=activation, dtype=dtype)
    gated, recompute = form.startswith("gated"), form.endswith("recompute")
    return fusedact.MLP(inner, outer, activation=activation, gated=gated, recompute=recompute, dtype=dtype)


def kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that forward keeps for backward beside the parameters, and beside the output of a layer's."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
        # What comes behind keeps the output.
        y.square()
    return sum(size for at, size in storages.items() if at not in parameters)


def row(form: str, activation: str, dtype: str, shape: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    """A line of the table."""
    rows, inner, outer = shape
    torch.manual_seed(0)
    ours = made(form, activation, inner, outer, DTYPES[dtype])
    both = {"eager": Plain(ours, PLAIN[activation]), "fusedact": ours}
    x = torch.randn(rows, inner, dtype=DTYPES[dtype], requires_grad=True)
    g = torch.randn_like(ours(x).detach())
    leaves = [x, *ours.parameters()]
    times: dict[str, list[float]] = {name: [] for name in both}
    values = {name: [t.double() for t in torch.autograd.grad(m(x), leaves, g)] for name, m in both.items()}
    for a, b in zip(*values.values(), strict=True):
        # A wrong gradient is far outside.
        torch.testing.assert_close(a, b, rtol=0.0, atol=float(b.abs().max()) * (1e-4 if dtype == "float32" else 0.05))
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times["eager"]) < 5:
        for name in sorted(both, reverse=len(times["eager"]) % 2 == 1):
            start = time.perf_counter()
            torch.autograd.grad(both[name](x), leaves, g)
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) for name, t in times.items()}
    bytes_kept = {name: kept(m, x) for name, m in both.items()}
    return {
        "form": form,
        "activation": activation,
        "dtype": dtype,
        "shape": "x".join(map(str, shape)),
        "threads": torch.get_num_threads(),
        "eager_ms": round(1e3 * median["eager"], 3),
        "fusedact_ms": round(1e3 * median["fusedact"], 3),
        "of_eager": round(median["fusedact"] / median["eager"], 3),
        "best": round(min(times["fusedact"]) / min(times["eager"]), 3),
        "kept_of_eager": round(bytes_kept["fusedact"] / bytes_kept["eager"], 3),
        "samples": len(times["eager"]),
    }


def table(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for dtype in arguments.dtypes:
        for shape in SHAPES[: arguments.shapes]:
            for form in FORMS:
                for activation in PLAIN:
                    if activation in ("silu", "relu_sigmoid") or form in ("linear", "mlp"):
                        yield row(form, activation, dtype, shape, arguments.seconds)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="so many of the smallest; default all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case; default %(default)s")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {FIGURES}")
    parser.add_argument("--markdown", action="store_true", help="print the kept table for docs/linear.md, and no more")
    arguments = parser.parse_args()
    if arguments.markdown:
        print(markdown(), end="")
        return
    torch.set_num_threads(arguments.threads)
    for i, line in enumerate(table(arguments)):
        if i == 0:
            print(",".join(line))
        print(",".join(map(str, line.values())), flush=True)
        if arguments.write:
            _write(line)


def _write(line: dict[str, Any]) -> None:
    known = {_key(old): old for old in _read()} | {_key(line): line}
    with FIGURES.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(known.values())


def markdown() -> str:
    """The kept table as docs/linear.md shows it: for each shape the time beside eager's, and the best in brackets."""
    lines = _read()
    shapes = list(dict.fromkeys(line["shape"] for line in lines))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for line in lines:
        of = cells.setdefault((line["form"], line["activation"], line["dtype"]), {})
        of[line["shape"]] = f"{float(line['of_eager']):.2f} ({float(line['best']):.2f})"
        of["kept"] = f"{float(line['kept_of_eager']):.2f}"
    shown = ["| | " + " | ".join(shapes) + " | kept |", "|---|" + "---:|" * (len(shapes) + 1)]
    for names, of in cells.items():
        shown.append(f"| {', '.join(names)} | " + " | ".join(of.get(key, "") for key in (*shapes, "kept")) + " |")
    return "\n".join(shown) + "\n"


def _read() -> list[dict[str, Any]]:
    if not FIGURES.exists():
        return []
    with FIGURES.open(newline="") as file:
        return list(csv.DictReader(file))


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[name]) for name in ("form", "activation", "dtype", "shape", "threads"))


if __name__ == "__main__":
    main()
