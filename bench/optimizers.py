"""Times steps of optimizers beside torch.optim's: `python -m bench.optimizers [--write]`.

For many parameters of one size: SGD, SGD with momentum and Adam beside torch's for-each and fused ways, and a rule of
eight operators, which torch has not, beside a plain loop over the parameters. The ways of a case alternate, each sample
is one step, and medians are compared. On one thread the time is the processor's, which other programs touch little; on
several, and on a GPU, the wall's. `--write` keeps the figures in
bench/results/<device>/optimizers.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fusedact
from bench import environment
from fusedact import optim

SIZES = {"100 x 10^5": (100, 10**5), "1000 x 4096": (1000, 4096), "10 x 10^6": (10, 10**6)}


@optim.update_rule(state=("velocity",))
def signs(param, grad, velocity, *, lr):  # type: ignore[no-untyped-def]
    velocity = 0.9 * velocity + 0.1 * grad
    return param - lr * (torch.sign(velocity) + 0.01 * param), velocity


@torch.no_grad()
def loop_of_signs(params: Sequence[Tensor], states: list[Tensor], lr: float) -> None:
    """The same as people write it."""
    for i, p in enumerate(params):
        states[i] = 0.9 * states[i] + 0.1 * p.grad
        p -= lr * (torch.sign(states[i]) + 0.01 * p)


def parameters(count: int, size: int, device: str) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    made = [torch.randn(size, generator=generator, device=device).requires_grad_() for _ in range(count)]
    for p in made:
        p.grad = torch.randn(size, generator=generator, device=device)
    return made


def ways(rule: str, count: int, size: int, device: str) -> dict[str, Callable[[], Any]]:
    """By name: one step, of parameters of its own."""

    def params() -> list[Tensor]:
        return parameters(count, size, device)

    if rule == "own rule":
        mine = params()
        states = [torch.zeros_like(p) for p in mine]
        return {
            "fusedact": signs.optimizer(params(), lr=1e-3).step,
            "loop": lambda: loop_of_signs(mine, states, 1e-3),
        }
    settings: dict[str, Any] = {"lr": 1e-3, **({"momentum": 0.9} if "momentum" in rule else {})}
    name = "Adam" if rule == "Adam" else "SGD"
    ours, theirs = getattr(optim, name), getattr(torch.optim, name)
    found = {
        "fusedact": ours(params(), **settings).step,
        "foreach": theirs(params(), foreach=True, **settings).step,
        "fused": theirs(params(), fused=True, **settings).step,
    }
    if rule == "Adam":
        # The rule as one's own would run.
        plain = ours(params(), **settings)
        plain._twin = lambda group: None
        found["fusedact, as a rule"] = plain.step
    return found


RULES = ("SGD", "SGD, momentum", "Adam", "own rule")


def timed(steps: dict[str, Callable[[], Any]], seconds: float, device: str) -> dict[str, float]:
    """Median milliseconds of a step; the ways alternate, and each round begins with another."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for step in steps.values():
        step()
        step()
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    end, first = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or first < 5:
        for name in names[first % len(names) :] + names[: first % len(names)]:
            if device != "cpu":
                torch.cuda.synchronize()
            began = clock()
            steps[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            samples[name].append(1e3 * (clock() - began))
        first += 1
    return {name: round(statistics.median(s), 4) for name, s in samples.items()}


def measured(device: str, threads: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """A line for each case and number of threads."""
    rows = []
    for number in threads:
        torch.set_num_threads(number)
        for size, (count, elements) in SIZES.items():
            for rule in RULES:
                found = timed(ways(rule, count, elements, device), seconds, device)
                rows.append({"threads": number, "parameters": size, "rule": rule, "ms": found})
                others = ", ".join(
                    f"{found[n] / found['fusedact']:.2f} x {n}" for n in found if not n.startswith("fusedact")
                )
                print(
                    f"{number} threads, {size:12} {rule:14} {found['fusedact']:8.3f} ms: {others}; {found}", flush=True
                )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case; default %(default)s")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    threads = options.threads if device.type == "cpu" else [torch.get_num_threads()]
    before = environment.state(device)
    rows = measured(options.device, threads, options.seconds)
    if options.write:
        about = {
            **environment.facts(device),
            "threads": threads,
            "state": {"before": before, "after": environment.state(device)},
            "fusedact": fusedact.__version__,
            "date": date.today().isoformat(),
            "command": f"python -m bench.optimizers {' '.join(sys.argv[1:])}",
        }
        path = Path("bench/results") / environment.slug(device) / "optimizers.json"
        path.write_text(json.dumps({"rows": rows, "about": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
