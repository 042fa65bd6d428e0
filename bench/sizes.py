"""Time per element from 2^20 to 2^26 elements: `python -m bench.sizes`, in three minutes on a CPU.

Forward and backward in float32; all sizes of an activation alternate. `spread` is the largest time per element over the
smallest, by medians: 1 where it is constant. `--write` keeps the figures in bench/results/<device>/sizes.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench import environment, timing
from bench.cases import FORWARD_BACKWARD
from fusedact import functional as FF

EXPONENTS = (20, 22, 24, 26)
COLUMNS = 2**11


def _pwl(x: Tensor) -> Tensor:
    return FF.pwl(x, [-2.0, -1.0, 0.5, 2.0], [0.0, -0.3, 0.4, 2.0], 0.0, 1.0)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "relu_sigmoid": (lambda x: FF.relu_sigmoid(x, 0.1), 1),
    "mish": (FF.mish, 1),
    "pwl": (_pwl, 1),
    # Its result has half as many elements, which are those that count.
    "gated silu": (lambda x: FF.packed_glu(x, layout="gate_value"), 2),
}


def row(name: str, exponents: Sequence[int], seconds: float, device: torch.device) -> dict[str, Any]:
    """The time per element, in nanoseconds, by size."""
    function, width = ACTIVATIONS[name]
    contenders = {}
    for exponent in exponents:
        shape = (2**exponent // COLUMNS, COLUMNS)
        x = torch.randn(shape[0], width * shape[1], device=device).requires_grad_()
        contenders[str(exponent)] = timing.contender(
            function, FORWARD_BACKWARD, [(x, torch.randn(shape, device=device))]
        )
    found = timing.measure(contenders, seconds, device)
    each = {n: round(1e9 * median(samples.device) / 2 ** int(n), 4) for n, samples in found.items()}
    return {"activation": name, "ns_per_element": each, "spread": round(max(each.values()) / min(each.values()), 3)}


def rows(exponents: Sequence[int], seconds: float, device: torch.device) -> Iterator[dict[str, Any]]:
    """All activations."""
    for name in ACTIVATIONS:
        yield row(name, exponents, seconds, device) | environment.state(device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each activation")
    parser.add_argument("--exponents", type=int, nargs="+", default=EXPONENTS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    made = []
    for one in rows(options.exponents, options.seconds, device):
        made.append(one)
        times = "  ".join(f"2^{n} {ns:.3f}" for n, ns in one["ns_per_element"].items())
        print(f"{one['activation']:<14} ns per element: {times}  spread {one['spread']:.2f}", flush=True)
    if options.write:
        command = shlex.join(["python", "-m", "bench.sizes", *(sys.argv[1:] if arguments is None else arguments)])
        result = {"environment": environment.facts(device), "command": command, "rows": made}
        path = environment.ROOT / "bench/results" / environment.slug(device) / "sizes.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
