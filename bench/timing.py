"""Samples of the time of a call: providers alternate; on a GPU the device's time and the host's are apart."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cases import FORWARD, Inputs, forward_backward
from bench.subjects import Function
from fusedact.cpu import large_pages

# A sample repeats a call until it lasts this long, so that the timer's own noise (below 1 us) does not show.
SAMPLE_SECONDS = 1e-3
# So many bytes are written once before calls are timed that take longer than a sample: see `_touch`.
TOUCHED = 2**30
# Quartiles need a few samples; beyond the upper bound they no longer move.
MIN_ROUNDS, MAX_ROUNDS = 7, 301
# A busy machine may take hundreds of times what was planned: then fewer rounds do, past so many times the case's time.
HURRIED_ROUNDS, OVERTIME = 3, 10
# On a GPU, buffers rotate over this many caches, or as many as keep a small case from taking all the start-up time.
CACHES, MAX_BUFFERS = 4, 256
# Calls in a GPU's sample: each is a few nodes of a graph.
MAX_CALLS = 1024
# Calls in a sample of the host's time: few enough that the queue (about 1000 launches) never makes the host wait.
HOST_CALLS = 20


@dataclass(frozen=True)
class Samples:
    """Seconds a call, sample by sample."""

    device: list[float]
    host: list[float]
    # What the device's time is: "wall" on a CPU, where both are one; "graph" for replays of a CUDA graph; "events" for
    # calls queued behind other work; with "host-bound" where the device waited for the host, whose time it then is.
    clock: str
    calls: int


@dataclass
class Contender:
    """A provider within a case, with the inputs that it takes in turn."""

    function: Function
    direction: str
    inputs: Sequence[Inputs]
    turn: Iterator[Inputs]
    # Results stay alive for a turn, so that they too are written to memory that has left the cache.
    results: deque[Tensor | tuple[Tensor, ...]]

    def run(self, calls: int) -> None:
        """Call the function that often."""
        function, results = self.function, self.results
        if self.direction == FORWARD:
            with torch.no_grad():
                for x, _, *others in itertools.islice(self.turn, calls):
                    results.append(function(x, *others))
        else:
            for given in itertools.islice(self.turn, calls):
                results.append(forward_backward(function, *given))


def contender(function: Function, direction: str, inputs: Sequence[Inputs]) -> Contender:
    """A provider that is ready to run; with a single input no result is kept."""
    return Contender(function, direction, inputs, itertools.cycle(inputs), deque(maxlen=len(inputs) - 1))


def buffer_count(size: int, dtype: torch.dtype, device: torch.device) -> int:
    """How many inputs take turns: one on a CPU, where an activation finds its input in the cache; many on a GPU."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MAX_BUFFERS, math.ceil(CACHES * cache / (size * dtype.itemsize)))


def measure(contenders: dict[str, Contender], seconds: float, device: torch.device) -> dict[str, Samples]:
    """One sample of every contender in every round.

    Contenders alternate, and each round begins with another one, so that a slow moment of the machine meets all.
    """
    with _no_collection():
        if device.type == "cuda":
            return _measure_cuda(contenders, seconds, device)
        return _measure_cpu(contenders, seconds)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _wall(work: Callable[[], None]) -> float:
    """Seconds until the work returns."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rounds(names: Iterable[str], count: int) -> Iterator[str]:
    """All names in every round, beginning with another one each time."""
    order = deque(names)
    for _ in range(count):
        yield from order
        order.rotate(-1)


def _round_count(seconds: float, one_round: float) -> int:
    return min(max(int(seconds / one_round), MIN_ROUNDS), MAX_ROUNDS)


# ----- CPU


def _cost(one: Contender) -> float:
    """About how long a call takes, after a warm-up."""
    one.run(1)
    cost = _wall(functools.partial(one.run, 1))
    if cost >= SAMPLE_SECONDS:
        return cost
    one.run(3)
    calls = math.ceil(SAMPLE_SECONDS / 10 / max(cost, 1e-9))
    return min(_wall(functools.partial(one.run, calls)) for _ in range(3)) / calls


def _touch() -> None:
    """Write memory once and free it again, for all contenders.

    A virtual machine may have given free memory back to its host, mostly in large pages, and gets it ten times slower
    than its own: whoever asks for it next would pay for the pause before.
    """
    large_pages.advised(torch.empty(TOUCHED, dtype=torch.uint8)).fill_(1)


def _measure_cpu(contenders: dict[str, Contender], seconds: float) -> dict[str, Samples]:
    costs = {name: _cost(one) for name, one in contenders.items()}
    if max(costs.values()) > SAMPLE_SECONDS:
        _touch()
        costs = {name: _cost(one) for name, one in contenders.items()}
    calls = {name: math.ceil(SAMPLE_SECONDS / cost) for name, cost in costs.items()}
    rounds = _round_count(seconds, sum(calls[name] * cost for name, cost in costs.items()))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for name in _rounds(contenders, rounds):
        times[name].append(_wall(functools.partial(contenders[name].run, calls[name])) / calls[name])
        hurried = time.perf_counter() - start > OVERTIME * seconds
        if hurried and min(map(len, times.values())) >= HURRIED_ROUNDS:
            break
    return {name: Samples(values, values, "wall", calls[name]) for name, values in times.items()}


# ----- GPU


class Plug:
    """Work that occupies the device for about as long as it is told to, while the host queues more behind it."""

    BYTES = 2**28

    def __init__(self, device: torch.device):
        self._source = torch.zeros(self.BYTES, dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        self._run(500)  # brings the clocks up
        start, end = _event(), _event()
        start.record()
        self._run(20)
        end.record()
        end.synchronize()
        self._unit = start.elapsed_time(end) * 1e-3 / 20

    def _run(self, times: int) -> None:
        for _ in range(times):
            self._target.copy_(self._source)

    def occupy(self, seconds: float) -> None:
        """Queue that much work. A few hundred launches at most, which leaves room in the queue."""
        self._run(min(max(1, math.ceil(seconds / self._unit)), 256))


@functools.cache
def plug(device: torch.device) -> Plug:
    """The plug of a device."""
    return Plug(device)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


@dataclass(frozen=True)
class _Timed:
    """A sample on its way: whether the device had reached its start before the host had queued it all."""

    start: torch.cuda.Event
    end: torch.cuda.Event
    exposed: bool

    def seconds(self) -> float:
        return self.start.elapsed_time(self.end) * 1e-3


def _queue(work: Callable[[], None]) -> _Timed:
    start, end = _event(), _event()
    start.record()
    work()
    end.record()
    return _Timed(start, end, exposed=start.query())


def _device_cost(one: Contender, device: torch.device) -> tuple[float, float]:
    """About how long a call takes the device, and the host."""
    calls = 4
    one.run(max(calls, len(one.inputs)))  # fills the allocator's cache
    torch.cuda.synchronize(device)
    host = _wall(functools.partial(one.run, calls)) / calls
    torch.cuda.synchronize(device)
    plug(device).occupy(2 * host * calls + 1e-4)
    timed = _queue(functools.partial(one.run, calls))
    torch.cuda.synchronize(device)
    return max(timed.seconds() / calls, 1e-7), host


def _captured(one: Contender, calls: int, device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of that many calls, on buffers that take turns."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        one.run(2)
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    # Results from before must not be freed while the graph is recorded; those of its own stay until it goes.
    one.results.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        one.run(calls)
    return graph


@dataclass(frozen=True)
class _Work:
    """What a sample of the device's time queues."""

    run: Callable[[], None]
    calls: int
    clock: str
    # About how long the device and the host take for it.
    device: float
    host: float


def _work(one: Contender, costs: tuple[float, float], device: torch.device) -> _Work:
    """A graph if the calls can be captured, else the calls themselves."""
    cost, host = costs
    turns = math.ceil(SAMPLE_SECONDS / cost / len(one.inputs))
    calls = max(1, min(turns * len(one.inputs), MAX_CALLS))
    try:
        graph = _captured(one, calls, device)
    except RuntimeError:
        torch.cuda.synchronize(device)
        one.results.clear()
        # Few enough for the queue, with some ten launches a call.
        calls = min(calls, 50)
        one.run(max(4, len(one.inputs)))
        return _Work(functools.partial(one.run, calls), calls, "events", calls * cost, calls * host)
    return _Work(graph.replay, calls, "graph", calls * cost, _wall(graph.replay))


def _host_samples(
    contenders: dict[str, Contender], costs: dict[str, tuple[float, float]], seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds until a call returns, with an idle device and room in its queue."""
    calls = {name: min(HOST_CALLS, max(3, math.ceil(0.01 / cost))) for name, (cost, _) in costs.items()}
    one_round = sum(calls[name] * (cost + host) for name, (cost, host) in costs.items())
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name in _rounds(contenders, _round_count(seconds, one_round)):
        torch.cuda.synchronize(device)
        times[name].append(_wall(functools.partial(contenders[name].run, calls[name])) / calls[name])
    torch.cuda.synchronize(device)
    return times


def _measure_cuda(contenders: dict[str, Contender], seconds: float, device: torch.device) -> dict[str, Samples]:
    costs = {name: _device_cost(one, device) for name, one in contenders.items()}
    host = _host_samples(contenders, costs, seconds / 2, device)
    works = {name: _work(one, costs[name], device) for name, one in contenders.items()}
    for work in works.values():
        work.run()
    torch.cuda.synchronize(device)
    rounds = _round_count(seconds / 2, sum(work.device for work in works.values()))
    timed: dict[str, list[_Timed]] = {name: [] for name in works}
    plug(device).occupy(2 * sum(work.host for work in works.values()))
    for name in _rounds(works, rounds):
        work = works[name]
        if work.clock == "events":
            plug(device).occupy(2 * work.host)
        timed[name].append(_queue(work.run))
    torch.cuda.synchronize(device)
    return {name: _samples(timed[name], host[name], works[name]) for name in contenders}


def _samples(timed: Sequence[_Timed], host: list[float], work: _Work) -> Samples:
    """The samples for which the host was out of the way, if there are enough."""
    hidden = [one for one in timed if not one.exposed]
    enough = len(hidden) >= MIN_ROUNDS // 2 + 1
    clock = work.clock if enough else f"{work.clock}, host-bound"
    return Samples([one.seconds() / work.calls for one in (hidden if enough else timed)], host, clock, work.calls)
