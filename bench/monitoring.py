"""What `fusedact.monitor` adds to a training step: `python -m bench.monitoring`.

Two models of the same weights learn side by side, step by step in turn, one of them monitored, and for the second half
of the steps the other; who goes first alternates. A monitored step is compared with the other model's beside it, as a
machine's speed changes: what a monitor adds is the median of these ratios where it looks away, and that where it
watches, weighted as they occur. The times are medians, too. The clock is the processor's on one thread, the wall's on
several. `--write` keeps the figures in bench/results/cpu/monitor.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fusedact
from bench import environment

FIGURES = Path("bench/results/cpu/monitor.json")
EVERY, STEPS, THREADS = 10, 400, (1,)
# What may be added to a step.
LIMIT = 0.03


def mlp(activation: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Three layers on 28x28 pixels, 128 at a time."""
    model = nn.Sequential(
        *(nn.Linear(784, 512), activation(), nn.Linear(512, 256), activation(), nn.Linear(256, 10)),
    )
    return model, torch.randn(128, 784), torch.randint(10, (128,))


def cnn(activation: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Three convolutions on 32x32 pixels, 16 at a time."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), activation(), nn.Flatten(), nn.Linear(64 * 64, 10)),
    )
    return model, torch.randn(16, 3, 32, 32), torch.randint(10, (16,))


MODELS = {"mlp": mlp, "cnn": cnn}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "torch.nn.ReLU": nn.ReLU,
    "torch.nn.GELU": nn.GELU,
    "fusedact.ReLUSigmoid": lambda: fusedact.ReLUSigmoid(0.1),
}


def step_of(model: nn.Module, x: Tensor, target: Tensor, clock: Callable[[], float]) -> Callable[[], float]:
    """A function that takes a training step, and returns its seconds."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> float:
        began = clock()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        return clock() - began

    return step


def measured(model: str, activation: str, threads: int, count: int) -> dict[str, Any]:
    """The figures of a case, from so many steps of each model."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clock = time.process_time if threads == 1 else time.perf_counter
    one, x, target = MODELS[model](ACTIVATIONS[activation])
    models = [one, copy.deepcopy(one)]
    steps = [step_of(m, x, target, clock) for m in models]
    times: dict[str, list[float]] = {"plain": [], "idle": [], "watched": []}
    ratios: dict[str, list[float]] = {"idle": [], "watched": []}
    for step in steps:
        # The first are slower.
        for _ in range(3):
            step()
    for watched in (1, 0):
        with fusedact.monitor(models[watched], every=EVERY, dead_above=None, exploding_above=None):
            for i in range(count // 2):
                kind, taken = "idle" if i % EVERY else "watched", {}
                for which in ((0, 1), (1, 0))[i % 2]:
                    taken[which] = steps[which]()
                times["plain"].append(taken[1 - watched])
                times[kind].append(taken[watched])
                ratios[kind].append(taken[watched] / taken[1 - watched])
    middle = {kind: 1e3 * statistics.median(taken) for kind, taken in times.items()}
    idle, seen = (statistics.median(ratios[kind]) for kind in ("idle", "watched"))
    return {
        "model": model,
        "activation": activation,
        "threads": threads,
        "every": EVERY,
        "steps": count,
        **{f"{kind}_ms": round(taken, 4) for kind, taken in middle.items()},
        "overhead": round(((EVERY - 1) * idle + seen) / EVERY - 1, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each model")
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args(arguments)
    rows = []
    for threads in options.threads:
        for model in MODELS:
            for activation in ACTIVATIONS:
                rows.append(row := measured(model, activation, threads, options.steps))
                print(
                    f"{model} {activation:<22} {threads} thread{'s' if threads > 1 else ' '} {row['plain_ms']:8.3f} ms "
                    f"a step; idle {row['idle_ms']:8.3f}, watched {row['watched_ms']:8.3f}: {row['overhead']:+.1%}",
                    flush=True,
                )
    if options.write:
        known = environment.facts(torch.device("cpu"))
        FIGURES.write_text(json.dumps({"environment": known, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
