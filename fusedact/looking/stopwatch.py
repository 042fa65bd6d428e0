"""Times of calls that alternate, so that a slow moment of the machine meets them all."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Timing", "alternating"]

# A sample repeats its call until it lasts that long: far more than reading the clock takes.
SAMPLE_SECONDS = 2e-4
# Quartiles need a few samples; beyond the upper bound they no longer move.
LEAST_ROUNDS, MOST_ROUNDS = 5, 201


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of the samples, and their quartiles."""

    median: float
    low: float
    high: float


def alternating(
    calls: dict[str, Callable[[], object]], device: torch.device, seconds: float = 0.3
) -> dict[str, Timing]:
    """Times of calls without arguments, by name, in about as many seconds altogether.

    On a GPU it is the device's time between two events, with the waits between kernels that the host is too slow for.
    """
    repeats = {}
    total = 0.0
    for name, call in calls.items():
        # The first call compiles, the second finds memory.
        call()
        once = _sample(call, 1, device)
        once = min(once, _sample(call, 1, device))
        repeats[name] = max(1, min(1000, round(SAMPLE_SECONDS / max(once, 1e-7))))
        total += max(once * repeats[name], 1e-7)
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(seconds / total)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = deque(calls)
    for _ in range(rounds):
        for name in order:
            samples[name].append(_sample(calls[name], repeats[name], device) / repeats[name])
        # Each round begins with another one.
        order.rotate(-1)
    return {name: _timing(found) for name, found in samples.items()}


def _timing(samples: list[float]) -> Timing:
    low, median, high = statistics.quantiles(samples, n=4)
    return Timing(median, low, high)


def _sample(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds that so many calls take."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(repeats):
                call()
            end.record()
            end.synchronize()
        return start.elapsed_time(end) * 1e-3
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - began
