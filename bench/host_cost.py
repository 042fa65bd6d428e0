"""What a call costs the host, where tensors are so small that this is all there is: `python -m bench.host_cost`.

On the CPU beside what one writes by hand, and what PyTorch has of the same name. On the way of a kernel with nothing
behind it: a stub in the driver's place launches nothing, and CPU tensors stand in for those of a GPU, so that the
Python part is left. What it lacks of the real way is Triton's launcher and the guard of the device. Beside it an
autograd Function that only allocates.

Times are of the process and of short runs that alternate, the tenth percentile of them, in microseconds. `--write`
keeps them in bench/results/host_cost.json, with the machine and its state.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fusedact
from bench import environment
from fusedact import compat, registry
from fusedact import functional as FF

RESULTS = environment.ROOT / "bench/results/host_cost.json"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
EXPONENTS = (2, 8, 11, 13)
# Calls of a run, and runs.
CALLS, RUNS = 20, 200

Call = Callable[[], object]


def alternating(calls: dict[str, Call], runs: int = RUNS) -> dict[str, float]:
    """Microseconds of processor time that each call takes: the tenth percentile of runs."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(CALLS):
            call()
    # As timeit does: what a collection takes depends on everything that the process holds.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(runs):
            for name, call in calls.items():
                began = time.thread_time_ns()
                for _ in range(CALLS):
                    call()
                times[name].append(time.thread_time_ns() - began)
    finally:
        if collecting:
            gc.enable()
    return {name: sorted(found)[runs // 10] / CALLS / 1e3 for name, found in times.items()}


class _Allocating(torch.autograd.Function):
    """What no autograd Function in Python can do without: keep the input, and allocate the results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.empty_like(x)


Function = Callable[[Tensor], Tensor]


def _kinds(x: Tensor, functions: dict[str, Function], runs: int, nothing: Function | None = None) -> dict[str, float]:
    """Times of the functions without and with a gradient; one kind after the other, so that few share the caches.

    `nothing` stands in for the one that is called "beside" where no gradient is wanted.
    """
    leaf, g = x.clone().requires_grad_(), torch.ones_like(x)
    grad = torch.autograd.grad
    plain = functions | ({"beside": nothing} if nothing is not None else {})
    kinds: dict[str, dict[str, Call]] = {
        "forward": {name: lambda f=f: f(x) for name, f in plain.items()},
        "recorded": {name: lambda f=f: f(leaf) for name, f in functions.items()},
        "forward+backward": {name: lambda f=f: grad(f(leaf), leaf, g) for name, f in functions.items()},
    }
    times = {}
    for kind, calls in kinds.items():
        times |= {f"{name} {kind}": time for name, time in alternating(calls, runs).items()}
    return times


def _by_hand(x: Tensor, threshold: float) -> Tensor:
    return torch.relu(x - threshold if threshold else x) * torch.sigmoid(x)


def on_cpu(dtype: torch.dtype, exponent: int, threshold: float = 0.0, runs: int = RUNS) -> dict[str, float]:
    """Times of relu_sigmoid, its function and its module, on so many elements."""
    x = torch.randn(2**exponent, generator=torch.Generator().manual_seed(0)).to(dtype)
    functions: dict[str, Function] = {
        "function": lambda x: FF.relu_sigmoid(x, threshold),
        "module": fusedact.ReLUSigmoid(threshold),
        "beside": lambda x: _by_hand(x, threshold),
    }
    return _kinds(x, functions, runs)


# What PyTorch has under the same name, as a function and as a module.
TWINS = ("relu", "elu", "selu", "silu", "gelu", "mish", "softplus", "hardtanh", "hardswish", "logsigmoid", "prelu")


def of_twins(names: Sequence[str] = TWINS, runs: int = RUNS) -> dict[str, tuple[float, float]]:
    """By function and module: times of one call of eight elements, without a gradient, ours and PyTorch's."""
    x = torch.randn(8, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in names:
        kind = registry.get(name).module
        pairs: dict[str, tuple[Function, Function]] = {kind: (getattr(fusedact, kind)(), getattr(torch.nn, kind)())}
        if name != "prelu":
            # Its function takes a tensor, which the module has.
            pairs[name] = getattr(FF, name), getattr(torch.nn.functional, name)
        for case, (ours, theirs) in pairs.items():
            times = alternating({"ours": lambda f=ours: f(x), "theirs": lambda f=theirs: f(x)}, runs)
            found[case] = times["ours"], times["theirs"]
    return found


@contextmanager
def no_launch() -> Iterator[None]:
    """Inside, calls take the way of a kernel, which is compiled and never launched."""
    from triton.backends.compiler import GPUTarget

    from bench.stub_driver import stub_driver

    with ExitStack() as stack:
        stub = stack.enter_context(stub_driver(GPUTarget("cuda", 90, 32)))
        stack.enter_context(
            mock.patch.object(type(stub), "launcher_cls", lambda self, source, metadata: lambda *args: None)
        )
        stack.enter_context(mock.patch.object(compat, "kernels_serve_device", lambda device: ""))
        stack.enter_context(fusedact.backend("triton"))
        yield


def on_kernel(runs: int = RUNS) -> dict[str, float]:
    """Times of the Python part on the way of a kernel."""
    x = torch.zeros(2**12)
    with no_launch():
        times = _kinds(x, {"flat": FF.relu_sigmoid, "beside": _Allocating.apply}, runs, torch.empty_like)
        wide, weight = torch.zeros(64, 128), torch.zeros(64)
        others: dict[str, Call] = {
            "strided forward": lambda: FF.relu_sigmoid(wide[:, ::2]),
            "per channel forward": lambda: FF.relu_sigmoid(wide[:, :64], weight),
        }
        return times | alternating(others, runs)


def _rows(where: dict[str, Any], times: dict[str, float], prefix: str = "") -> list[dict[str, Any]]:
    found = []
    for case, ours in times.items():
        name, kind = case.rsplit(" ", 1)
        if name != "beside":
            beside = times[f"beside {kind}"]
            found.append(where | {"case": prefix + case, "fusedact": round(ours, 2), "beside": round(beside, 2)})
    return found


def measured(threads: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each case."""
    for count in threads:
        torch.set_num_threads(count)
        for name, dtype in DTYPES.items():
            for exponent in EXPONENTS:
                where = {"path": "cpu", "threads": count, "dtype": name, "elements": 2**exponent}
                yield from _rows(where, on_cpu(dtype, exponent))
                yield from _rows(where, on_cpu(dtype, exponent, 0.1), "threshold 0.1, ")
        where = {"path": "cpu, twins", "threads": count, "dtype": "float32", "elements": 8}
        for case, (ours, theirs) in of_twins().items():
            yield where | {"case": case, "fusedact": round(ours, 2), "beside": round(theirs, 2)}
    where = {"path": "kernel, no launch", "threads": 1, "dtype": "float32", "elements": 2**12}
    yield from _rows(where, on_kernel())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.host_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    known = environment.facts(torch.device("cpu"))
    rows = []
    for row in measured(options.threads):
        rows.append(row)
        print(*row.values(), f"{row['fusedact'] / row['beside']:.2f}", flush=True)
    if options.write:
        given = shlex.join(["python", "-m", "bench.host_cost", *(sys.argv[1:] if arguments is None else arguments)])
        kept = {
            "environment": known,
            "state": environment.state(torch.device("cpu")),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "command": given,
            "unit": "microseconds of processor time per call",
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
