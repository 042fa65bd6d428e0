"""What a call takes beside time: kernels, memory at its peak, and what autograd keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.cases import FORWARD, Inputs, forward_backward
from bench.subjects import Function


def call_of(function: Function, direction: str, given: Inputs) -> Callable[[], Any]:
    """One call, which gives its results."""
    x, g, *others = given

    def forward() -> Tensor:
        with torch.no_grad():
            return function(x, *others)

    def both() -> tuple[Tensor, ...]:
        return forward_backward(function, x, g, *others)

    return forward if direction == FORWARD else both


def kernels(call: Callable[[], Any], device: torch.device) -> int | None:
    """How many kernels, copies and fills the device executes for a call; None on a CPU, where there is no such number.

    The call must have run before.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        result = call()
        torch.cuda.synchronize(device)
    del result
    executed = [e for e in seen.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return len(executed) or None


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Memory allocated beyond what there was before, at the peak of a call; its results are part of it.

    The call must have run before. On a CPU what other threads than the caller's allocate is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        del result
        return peak
    # The profiler's library prints a line for each session.
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        result = call()
    recorded = seen.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del result
    return peak


def kept_bytes(function: Function, x: Tensor, *others: Tensor) -> int:
    """Bytes that stay in memory between forward and backward, beside the output and what learns.

    Each storage counts once.
    """
    # The input may be a part of a larger pool, which must not count; nor does what learns.
    x = x.detach().clone().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: x):
        y = function(x, *others)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    for t in (y, *others):
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())
