"""Times fusedact against PyTorch in one interleaved run: `python -m bench.compare --out bench/results/cpu`."""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

import fusedact
from bench.cases import (
    DIRECTIONS,
    DTYPES,
    FORWARD,
    FORWARD_BACKWARD,
    PARAMETERS,
    Case,
    Function,
    Pair,
    check_accuracy,
    forward_backward,
    inputs,
    kept_bytes,
    providers,
)
from fusedact import compat, registry

EXPONENTS = (6, 10, 12, 14, 16, 18, 20, 24)
LARGE_EXPONENT = 26

# A sample repeats a call until it lasts this long, so that the timer's own noise (below 1 us) does not show.
SAMPLE_SECONDS = 1e-3
# Quartiles need a few samples; beyond the upper bound they no longer move.
MIN_ROUNDS, MAX_ROUNDS = 7, 301
# Buffers rotate over this many caches, or as many buffers as keep a small case from taking all the start-up time.
CACHES, MAX_BUFFERS = 4, 1024
# Threads of a small operation wait for each other: with a core taken by another process, for its whole time slice.
BUSY = 0.5
# What the fused minimum moves, in tensors: x and y; then g, x and dx.
TENSORS_MOVED = {FORWARD: 2, FORWARD_BACKWARD: 5}

Clock = Callable[[Callable[[], None]], float]


@dataclass(frozen=True)
class Row:
    """A line of elementwise.csv. Times are microseconds a call; `ratio` is eager's median over this one."""

    activation: str
    dtype: str
    size: int
    direction: str
    provider: str
    median_us: float
    q25_us: float
    q75_us: float
    ratio: float
    # Only where it applies, else empty: for forward+backward; for fusedact; on a GPU.
    kept_bytes_per_element: float | str
    path: str
    copy_share: float | str
    rounds: int
    calls_per_round: int


# ----- timing


def cpu_clock(work: Callable[[], None]) -> float:
    """Seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cuda_clock(work: Callable[[], None]) -> float:
    """Seconds between two events around the work: the device's time, or the host's where launching takes longer."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


@dataclass
class Contender:
    """A provider within a case, with the inputs that it takes in turn."""

    function: Function
    direction: str
    turn: Iterator[Pair]
    # Results stay alive for a turn, so that they too are written to memory that has left the cache.
    results: deque[Tensor]

    def run(self, calls: int) -> None:
        """Call the function that often."""
        function, results = self.function, self.results
        if self.direction == FORWARD:
            with torch.no_grad():
                for x, _ in itertools.islice(self.turn, calls):
                    results.append(function(x))
        else:
            for x, g in itertools.islice(self.turn, calls):
                results.append(forward_backward(function, x, g))


def contender(function: Function, direction: str, pairs: Sequence[Pair]) -> Contender:
    """A provider that is ready to run; with a single pair no result is kept."""
    return Contender(function, direction, itertools.cycle(pairs), deque(maxlen=len(pairs) - 1))


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


def _sample(one: Contender, calls: int, clock: Clock) -> float:
    return clock(lambda: one.run(calls)) / calls


def _plan(contenders: Iterable[Contender], seconds: float, clock: Clock) -> tuple[int, int]:
    """Rounds, and calls in a round, after a warm-up: enough calls for a sample, and rounds for the time there is."""
    costs = []
    for one in contenders:
        one.run(1)
        cost = _sample(one, 1, clock)
        if cost < SAMPLE_SECONDS:
            one.run(3)
            calls = math.ceil(SAMPLE_SECONDS / 10 / max(cost, 1e-9))
            cost = min(_sample(one, calls, clock) for _ in range(3))
        costs.append(cost)
    calls = max(1, math.ceil(SAMPLE_SECONDS / min(costs)))
    rounds = int(seconds / (calls * sum(costs)))
    return min(max(rounds, MIN_ROUNDS), MAX_ROUNDS), calls


def measure(contenders: dict[str, Contender], seconds: float, clock: Clock) -> tuple[dict[str, list[float]], int]:
    """Seconds a call, one sample of every contender in every round; and the calls in a sample.

    Contenders alternate, and each round begins with another one, so that a slow moment of the machine meets all.
    """
    with _no_collection():
        rounds, calls = _plan(contenders.values(), seconds, clock)
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        order = deque(contenders)
        for _ in range(rounds):
            for name in order:
                samples[name].append(_sample(contenders[name], calls, clock))
            order.rotate(1)
    return samples, calls


# ----- cases


def buffer_count(size: int, dtype: torch.dtype, device: torch.device) -> int:
    """How many inputs take turns: one on a CPU, where an activation finds its input in the cache; many on a GPU."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MAX_BUFFERS, math.ceil(CACHES * cache / (size * dtype.itemsize)))


def _copied(x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(x)


def copy_contender(case: Case, device: torch.device) -> Contender:
    """A plain copy that moves as many bytes as the case must, each way half."""
    elements = case.size * TENSORS_MOVED[case.direction] // 2
    dtype = DTYPES[case.dtype]
    return contender(_copied, FORWARD, inputs(dtype, elements, device, buffer_count(elements, dtype, device)))


def _path(activation: str, x: Tensor) -> str:
    return fusedact.explain(activation, x, **PARAMETERS.get(activation, {})).kind


def rows(
    case: Case, functions: dict[str, Function], x: Tensor, samples: dict[str, list[float]], calls: int
) -> Iterator[Row]:
    """The samples of a case in figures."""
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for name, values in samples.items():
        q25, _, q75 = statistics.quantiles(values, n=4, method="inclusive")
        keeps = case.direction == FORWARD_BACKWARD and name in functions
        yield Row(
            **asdict(case),
            provider=name,
            median_us=round(medians[name] * 1e6, 4),
            q25_us=round(q25 * 1e6, 4),
            q75_us=round(q75 * 1e6, 4),
            ratio=round(medians["eager"] / medians[name], 4),
            kept_bytes_per_element=round(kept_bytes(functions[name], x) / case.size, 3) if keeps else "",
            path=_path(case.activation, x) if name == "fusedact" else "",
            copy_share=round(medians["copy"] / medians[name], 4) if "copy" in medians else "",
            rounds=len(values),
            calls_per_round=calls,
        )


def run_case(
    case: Case, functions: dict[str, Function], pairs: Sequence[Pair], seconds: float, with_copy: bool
) -> list[Row]:
    """Time all providers of a case. Their results must have been checked."""
    device = pairs[0][0].device
    contenders = {name: contender(function, case.direction, pairs) for name, function in functions.items()}
    if with_copy:
        contenders["copy"] = copy_contender(case, device)
    samples, calls = measure(contenders, seconds, cuda_clock if device.type == "cuda" else cpu_clock)
    return list(rows(case, functions, pairs[0][0], samples, calls))


def run(
    exponents: Sequence[int], device: torch.device, seconds: float, with_compile: bool = False
) -> Iterator[list[Row]]:
    """Check and time every activation, dtype, size and direction; the rows of each case as soon as they are there."""
    for (dtype_name, dtype), exponent in itertools.product(DTYPES.items(), exponents):
        size = 2**exponent
        pairs = inputs(dtype, size, device, buffer_count(size, dtype, device))
        for activation in registry.names("elementwise"):
            functions = providers(activation, with_compile)
            check_accuracy(activation, functions, pairs[0])
            for direction in DIRECTIONS:
                case = Case(activation, dtype_name, size, direction)
                yield run_case(case, functions, pairs, seconds, with_copy=device.type == "cuda")


# ----- environment


def _first_line(path: str, key: str) -> str:
    """The value after the first `key` in a file of `key: value` lines; empty if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key) and ":" in line), "")


def _cpu_name() -> str:
    return _first_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpu_state() -> dict[str, str]:
    """Driver and clocks, as nvidia-smi tells them; empty where there is no such program."""
    wanted = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(wanted)}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return {}
    return dict(zip(wanted, map(str.strip, answer.stdout.splitlines()[0].split(",")), strict=False))


def _load() -> float | None:
    """How many processes ran in the last minute, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment(device: torch.device, arguments: Sequence[str], load: float | None = None) -> dict[str, object]:
    """What a reader must know to judge or repeat the figures; `load` is the one before the run."""
    cuda = device.type == "cuda"
    facts: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "device_type": device.type,
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "os": _os_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "fusedact": fusedact.__version__,
        "fusedact_backend": os.environ.get("FUSEDACT_BACKEND", "auto"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(["python", "-m", "bench.compare", *arguments]),
    }
    if cuda:
        facts |= {"cuda": torch.version.cuda, "gpu": _gpu_state()}
    return facts


# ----- command line


def write_csv(path: Path, table: Iterable[Row]) -> None:
    """Write rows under a line of names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)


def _print_case(case_rows: Sequence[Row]) -> None:
    first = case_rows[0]
    times = "  ".join(f"{r.provider} {r.median_us:.2f} us (x{r.ratio:.2f})" for r in case_rows)
    label = f"{first.activation} {first.dtype} 2^{first.size.bit_length() - 1} {first.direction}"
    print(f"{label:<46} {times}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for elementwise.csv and environment.json")
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--exponents", type=int, nargs="+", default=EXPONENTS, help="sizes, as powers of two")
    parser.add_argument(
        "--large", action=argparse.BooleanOptionalAction, default=True, help=f"time 2^{LARGE_EXPONENT} elements too"
    )
    parser.add_argument("--compile", action="store_true", help="time torch.compile where PyTorch has no operator")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for a case, if it allows enough rounds")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if compat.interpreting:
        sys.exit("bench.compare: TRITON_INTERPRET is set, and the interpreter's times mean nothing")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    exponents = [*options.exponents, *([LARGE_EXPONENT] if options.large else [])]
    load = _load()
    if load is not None and load > BUSY:
        print(f"bench.compare: the load is {load}; another process that takes a core makes the figures worthless")
    start = time.monotonic()
    table: list[Row] = []
    for case_rows in run(exponents, device, options.seconds, options.compile):
        _print_case(case_rows)
        table += case_rows
    facts = environment(device, arguments, load)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / "elementwise.csv", table)
    (options.out / "environment.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{len(table)} rows in {time.monotonic() - start:.0f} s, written to {options.out}")


if __name__ == "__main__":
    main()
