"""Times biased activations beside PyTorch's chain, forward and backward: `python -m bench.biased_times`.

`--write` keeps the figures in bench/results/biased_times.json, with the machine and its state, and brings the table of
docs/bias.md up to date; `--tables` does only that, and `--check` exits with 1 if the table is not what is kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import cases, environment
from fusedact import functional as FF

RESULTS, PAGE = environment.ROOT / "bench/results/biased_times.json", environment.ROOT / "docs/bias.md"
BEGIN, END = "<!-- times:begin -->\n", "<!-- times:end -->\n"
COLUMNS = 1024
EXPONENTS = (10, 16, 18, 20, 22, 24)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rounds: at least, and so many more as fit into these seconds.
ROUNDS, MOST, SECONDS = 9, 501, 1.0
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu_sigmoid": lambda z: torch.relu(z) * torch.sigmoid(z),
}
# The activation, the probability of dropout, and whether there is a residual.
CASES = {
    **{name: (name, 0.0, False) for name in PLAIN},
    "silu, residual": ("silu", 0.0, True),
    "silu, dropout": ("silu", 0.1, False),
    "silu, dropout, residual": ("silu", 0.1, True),
}


def fused(name: str, p: float, residual: Tensor | None, x: Tensor, bias: Tensor) -> Tensor:
    """One call."""
    return FF.bias_act(x, bias, name, residual, p)


def chain(name: str, p: float, residual: Tensor | None, x: Tensor, bias: Tensor) -> Tensor:
    """What one writes in PyTorch."""
    y = PLAIN[name](x + bias)
    if p:
        y = F.dropout(y, p)
    return y if residual is None else y + residual


def row(case: str, dtype: str, exponent: int) -> dict[str, Any]:
    """Microseconds of a call and its gradients."""
    name, p, has_residual = CASES[case]
    size = 2**exponent
    columns = min(COLUMNS, size)
    x, g, residual = (torch.randn(size // columns, columns).to(DTYPES[dtype]) for _ in range(3))
    given = (x.requires_grad_(), g, torch.randn(columns).to(DTYPES[dtype]).requires_grad_())
    calls = {
        provider: partial(
            cases.forward_backward, partial(function, name, p, residual if has_residual else None), *given
        )
        for provider, function in (("fusedact", fused), ("eager", chain))
    }
    times = {provider: round(seconds * 1e6, 2) for provider, seconds in medians(calls).items()}
    return {"case": case, "dtype": dtype, "exponent": exponent, "threads": torch.get_num_threads(), **times}


def medians(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of calls that alternate: with one thread those in which it computes, else those of the clock.

    On an idle machine they are the same; on a busy one others take no part of the first.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    # One round, which warms up, counts for nothing.
    while len(found["eager"]) <= ROUNDS or (time.perf_counter() - begun < SECONDS and len(found["eager"]) < MOST):
        for name, call in calls.items():
            start = clock()
            call()
            found[name].append(clock() - start)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def measured(threads: Sequence[int]) -> Iterator[dict[str, Any]]:
    """All rows."""
    for count in threads:
        torch.set_num_threads(count)
        for dtype in DTYPES:
            for case in CASES:
                for exponent in EXPONENTS:
                    yield row(case, dtype, exponent)


def table(kept: dict[str, Any]) -> str:
    """How many times as fast as PyTorch's chain, as docs/bias.md has it."""
    found = {(r["threads"], r["dtype"], r["case"], r["exponent"]): r["eager"] / r["fusedact"] for r in kept["rows"]}
    known = kept["environment"]
    lines = [
        f"Measured on {known['cpu']}, PyTorch {known['torch']}, at a load of {kept['state']['load']}.",
        "",
        f"| threads | dtype | case | {' | '.join(f'2^{e}' for e in EXPONENTS)} |",
        f"|---:|---|---|{'---:|' * len(EXPONENTS)}",
    ]
    for threads, dtype, case in dict.fromkeys(key[:3] for key in found):
        cells = " | ".join(f"{found[threads, dtype, case, e]:.2f}" for e in EXPONENTS)
        lines.append(f"| {threads} | {dtype} | {case} | {cells} |")
    return "\n".join(lines) + "\n"


def page(path: Path = RESULTS) -> str:
    """docs/bias.md with the table of what is kept."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table(json.loads(path.read_text())) + END + rest.split(END)[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.biased_times", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--tables", action="store_true", help="measure nothing, and write the table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the table is not current")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    options = parser.parse_args(arguments)
    if options.check:
        sys.exit(
            f"{PAGE} is not current: run python -m bench.biased_times --tables" if page() != PAGE.read_text() else 0
        )
    if not options.tables:
        device = torch.device("cpu")
        known = environment.facts(device)
        rows = []
        for found in measured(options.threads):
            rows.append(found)
            print(*found.values(), f"{found['eager'] / found['fusedact']:.2f}", flush=True)
        if not options.write:
            return
        given = shlex.join(["python", "-m", "bench.biased_times", *(sys.argv[1:] if arguments is None else arguments)])
        kept = {
            "environment": known,
            "state": environment.state(device),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "command": given,
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
