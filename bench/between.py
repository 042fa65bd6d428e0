"""What is kept for backward between two linear layers, in bytes, by policy: `python -m bench.between`.

`--write` keeps the figures in bench/results/<device>/between.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from bench import environment
from fusedact import functional as FF

Activate = Callable[[Tensor], Tensor]

# As one writes them, and out of fusedact.
ACTIVATIONS: dict[str, tuple[Activate, Activate]] = {
    "relu_sigmoid": (lambda x: torch.relu(x) * torch.sigmoid(x), FF.relu_sigmoid),
    "elu": (F.elu, FF.elu),
    "gelu": (F.gelu, FF.gelu),
    "silu": (F.silu, FF.silu),
}
POLICIES = ("auto", "output")


@dataclass(frozen=True)
class Network:
    """Two linear layers: the rows of a batch, the width outside, and that between them."""

    rows: int
    width: int
    between: int
    dtype: torch.dtype


NETWORKS = {
    "4096 to 4096, a batch of 8192, float32": Network(8192, 4096, 4096, torch.float32),
    "a transformer block's MLP, width 512, float32": Network(8 * 1024, 512, 4 * 512, torch.float32),
    "a transformer block's MLP, width 512, bfloat16": Network(8 * 1024, 512, 4 * 512, torch.bfloat16),
}


def kept_between(network: Network, activate: Activate, device: torch.device) -> int:
    """The bytes that autograd keeps, beyond the layers' weights and what goes into the first."""
    sizes = (network.width, network.between, network.width)
    up, down = (nn.Linear(*pair, device=device, dtype=network.dtype) for pair in pairwise(sizes))
    x = torch.randn(network.rows, network.width, device=device, dtype=network.dtype)
    given = {t.untyped_storage().data_ptr() for t in (x, *up.parameters(), *down.parameters())}
    found: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = down(activate(up(x)))
    del result
    return sum(t.untyped_storage().nbytes() for at, t in found.items() if at not in given)


def rows(device: torch.device, networks: Sequence[str] = tuple(NETWORKS)) -> Iterator[dict[str, Any]]:
    """All networks and activations: bytes an element between the layers, eager and by policy."""
    for name in networks:
        network = NETWORKS[name]
        elements = network.rows * network.between
        for activation, (eager, ours) in ACTIVATIONS.items():
            found = {"eager": kept_between(network, eager, device)}
            for policy in POLICIES:
                with fusedact.save_policy(policy):
                    found[policy] = kept_between(network, ours, device)
            each = {way: round(kept / elements, 4) for way, kept in found.items()}
            yield {"network": name, "activation": activation, "bytes_per_element": each}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.between", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args(arguments)
    device, made = torch.device(options.device), []
    for row in rows(device):
        made.append(row)
        each = row["bytes_per_element"]
        told = "  ".join(f"{way} {kept:g}" for way, kept in each.items())
        less = 100 * (1 - each["output"] / each["eager"])
        print(f"{row['network']:<48}{row['activation']:<14}{told}  ({less:.0f}% less)", flush=True)
    if options.write:
        command = shlex.join(["python", "-m", "bench.between", *(sys.argv[1:] if arguments is None else arguments)])
        result = {"environment": environment.facts(device), "command": command, "rows": made}
        path = environment.ROOT / "bench/results" / environment.slug(device) / "between.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
