"""Times models that torch.compile makes, beside the same written by hand: `python -m bench.compiled`, in ten minutes.

On a CPU, in float32. Both are compiled by Inductor without a graph break, for their size, and alternate; `ratio` is the
time of the one by hand over ours, by medians, and `ratio_of_best` by the shortest samples. The figures go to
bench/results/cpu/compiled.json and, as a table, into docs/integrations.md; `--tables` only writes the table, and
`--check` exits with 1 if it is not what the file says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from bench import environment, timing
from bench.cases import DIRECTIONS, forward_backward
from fusedact import functional as FF

RESULTS, PAGE = environment.ROOT / "bench/results/cpu/compiled.json", environment.ROOT / "docs/integrations.md"
BEGIN, END = "<!-- compiled:begin -->", "<!-- compiled:end -->"
EXPONENTS = (16, 22)
CHANNELS = 256
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A module of ours or a function, and what one writes by hand, of x and what learns."""

    ours: Callable[..., Tensor]
    by_hand: Callable[..., Tensor]
    # The parameters that learn, which both take behind x; x has the shape (elements / 256, 256).
    learned: Callable[[], tuple[Tensor, ...]] = tuple


def _gated(t: Tensor) -> Tensor:
    gate, value = t.chunk(2, -1)
    return F.silu(gate) * value


def _module(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: module(x)


CASES = {
    "relu_sigmoid": Case(_module(fusedact.ReLUSigmoid(0.1)), lambda x: F.relu(x - 0.1) * torch.sigmoid(x)),
    "swish": Case(_module(fusedact.Swish(1.5)), lambda x: x * torch.sigmoid(1.5 * x)),
    "swish, learned": Case(FF.swish, lambda x, b: x * torch.sigmoid(b * x), lambda: (torch.tensor([1.5]),)),
    "prelu, per channel": Case(FF.prelu, F.prelu, lambda: (torch.linspace(0.1, 0.4, CHANNELS),)),
    "pwl of three pieces": Case(_module(fusedact.PWL([-1.0, 1.0], [-1.0, 1.0])), F.hardtanh),
    "gated silu": Case(lambda t: FF.packed_glu(t, layout="gate_value"), _gated),
    "gelu": Case(_module(fusedact.GELU()), F.gelu),
    "mish": Case(_module(fusedact.Mish()), F.mish),
}

Row = dict[str, Any]


def inputs(case: Case, size: int) -> tuple[Tensor, ...]:
    """x, the gradient of the result, and what learns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size // CHANNELS, CHANNELS, generator=generator)
    g = torch.randn(case.by_hand(x, *case.learned()).shape, generator=generator)
    return x.requires_grad_(), g, *(p.requires_grad_() for p in case.learned())


def rows(seconds: float, exponents: Sequence[int], names: Sequence[str]) -> Iterator[Row]:
    """Check and time all cases."""
    for name, exponent in itertools.product(names, exponents):
        given = inputs(CASES[name], 2**exponent)
        torch.compiler.reset()
        both = {
            who: torch.compile(function, fullgraph=True, dynamic=False)
            for who, function in (("by_hand", CASES[name].by_hand), ("fusedact", CASES[name].ours))
        }
        # Sums of the gradients of what learns are off by more than single elements.
        for one, other in zip(*(forward_backward(f, *given) for f in both.values()), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * max(1.0, one.abs().max().item()))
        for direction in DIRECTIONS:
            contenders = {who: timing.contender(f, direction, [given]) for who, f in both.items()}
            samples = {who: s.host for who, s in timing.measure(contenders, seconds, CPU).items()}
            hand, ours = samples["by_hand"], samples["fusedact"]
            yield {
                "case": name,
                "exponent": exponent,
                "direction": direction,
                "by_hand_us": round(1e6 * median(hand), 2),
                "fusedact_us": round(1e6 * median(ours), 2),
                "ratio": round(median(hand) / median(ours), 3),
                "ratio_of_best": round(min(hand) / min(ours), 3),
            } | environment.state(CPU)


def table(result: dict[str, Any]) -> str:
    """What the page should say between the marks."""
    facts, found = result["environment"], result["rows"]
    loads = [r["load"] for r in found]
    sizes = sorted({r["exponent"] for r in found})
    heads = [f"{direction}, 2^{n}" for direction in DIRECTIONS for n in sizes]
    text = [
        "How many times as fast as the same model by hand, both compiled, in float32: by medians, and by the best",
        f"samples in brackets; below 1 ours is slower. {facts['cpu']}, {facts['threads']} thread(s), PyTorch "
        f"{facts['torch']}; load {min(loads):g} to {max(loads):g}; `{result['command']}`.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    by = {(r["case"], r["direction"], r["exponent"]): r for r in found}
    for name in dict.fromkeys(r["case"] for r in found):
        cells = [by[name, direction, n] for direction in DIRECTIONS for n in sizes]
        text.append(f"| {name} | " + " | ".join(f"{r['ratio']:.2f} ({r['ratio_of_best']:.2f})" for r in cells) + " |")
    lost = [r for r in found if r["ratio"] < 0.95]
    text += ["", f"Slower by more than 5%: {_named(lost)}."]
    return "\n".join(text)


def _named(lost: Sequence[Row]) -> str:
    each = [f"{r['case']}, {r['direction']}, 2^{r['exponent']}: {r['ratio']:.2f}" for r in lost]
    return "; ".join(each) or "none"


def page(text: str, made: str) -> str:
    """The page with this table."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compiled", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--exponents", type=int, nargs="+", default=EXPONENTS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--tables", action="store_true", help="time nothing, write the table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the table is not current")
    options = parser.parse_args(arguments)
    if not (options.tables or options.check):
        made = []
        torch.set_num_threads(options.threads)
        for row in rows(options.seconds, options.exponents, options.cases):
            made.append(row)
            print(*(f"{value!s:<18}" for value in row.values()), flush=True)
        command = shlex.join(["python", "-m", "bench.compiled", *(sys.argv[1:] if arguments is None else arguments)])
        result = {"environment": environment.facts(CPU), "command": command, "rows": made}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    old = PAGE.read_text()
    new = page(old, table(json.loads(RESULTS.read_text())))
    if options.check and new != old:
        sys.exit(f"bench.compiled: {PAGE.name} is not what {RESULTS.name} says; run it with --tables")
    if not options.check:
        PAGE.write_text(new)


if __name__ == "__main__":
    main()
