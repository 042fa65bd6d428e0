"""Times fusedact against PyTorch on whatever device there is: `python -m bench.run`.

Continues a run that was cut off; refuses to mix figures of another environment.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import math
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import environment
from bench.cases import (
    COMPILE,
    DTYPES,
    FORWARD,
    FORWARD_BACKWARD,
    SUBJECTS,
    Case,
    Function,
    Inputs,
    all_cases,
    compilers,
    inputs,
    inputs_of,
    kept_bytes,
    path,
    providers,
    refused,
)
from bench.store import Row, Store
from bench.timing import Contender, Samples, buffer_count, contender, measure
from fusedact import compat

# Threads of a small operation wait for each other: with a core taken by another process, for its whole time slice.
BUSY = 0.5
# What the fused minimum moves, in tensors: x and y; then g, x and dx.
TENSORS_MOVED = {FORWARD: 2, FORWARD_BACKWARD: 5}
# What a case takes, in tensors: inputs, and for each provider results and what it keeps and makes on the way.
TENSORS_HELD, TENSORS_PER_PROVIDER = 8, 6


@dataclass(frozen=True)
class Suite:
    """What a run times, in powers of two: the most telling sizes first, for a limit cuts off the rest."""

    exponents: tuple[int, ...]
    # Where torch.compile is timed, which takes seconds a case and way; and where its other ways are.
    compiled: tuple[int, ...]
    tuned: tuple[int, ...]
    # For a case, if it allows enough rounds; and for the whole run, after which no case is begun.
    seconds: float
    limit: float


SUITES = {
    "cpu": {
        # 2^24 elements are beyond the caches; those of 2^26 would take as long as all other sizes together.
        "full": Suite((20, 24, 16, 10, 18, 22, 14, 12, 6), (16, 20, 24), (), seconds=0.4, limit=540),
        "quick": Suite((20, 16, 10), (20,), (), seconds=0.1, limit=50),
    },
    "cuda": {
        "full": Suite((24, 28, 20, 16, 26, 22, 12, 18, 14, 10), (24, 20), (24,), seconds=0.3, limit=540),
        "quick": Suite((24, 20, 16), (24,), (), seconds=0.2, limit=50),
    },
}


# ----- cases


def _label(size: int) -> str:
    return f"2^{size.bit_length() - 1}"


# Normally distributed numbers that a copy's source repeats.
COPIED = 2**20

_inputs = functools.lru_cache(maxsize=1)(inputs)


def _copied(x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(x)


def copy_contender(case: Case, device: torch.device) -> Contender:
    """A plain copy that moves as many bytes as the case must, each way half."""
    elements, dtype = case.size * TENSORS_MOVED[case.direction] // 2, DTYPES[case.dtype]
    count = buffer_count(elements, dtype, device)
    numbers = torch.randn(COPIED, device=device, dtype=dtype)
    source = numbers.repeat(math.ceil(count * elements / COPIED))[: count * elements].view(count, elements)
    return contender(_copied, FORWARD, [(x, x) for x in source])


def _quartiles(name: str, samples: Sequence[float]) -> dict[str, float]:
    """Median, first and third quartile in microseconds, by the names of a row."""
    q25, median, q75 = (round(q * 1e6, 4) for q in statistics.quantiles(samples, n=4, method="inclusive"))
    return {f"{name}_us": median, f"{name}_q25_us": q25, f"{name}_q75_us": q75}


def rows(case: Case, functions: Mapping[str, Function], given: Inputs, samples: Mapping[str, Samples]) -> Iterator[Row]:
    """The samples of a case in figures."""
    x, _, *learned = given
    times = {name: _quartiles("device", s.device) | _quartiles("host", s.host) for name, s in samples.items()}
    bytes_moved = TENSORS_MOVED[case.direction] * case.size * DTYPES[case.dtype].itemsize
    for name, s in samples.items():
        device = times[name]["device_us"]
        keeps = case.direction == FORWARD_BACKWARD and name in functions
        yield Row(
            **asdict(case),
            provider=name,
            **times[name],
            clock=s.clock,
            ratio=round(times["eager"]["device_us"] / device, 4),
            host_ratio=round(times["eager"]["host_us"] / times[name]["host_us"], 4),
            gb_per_s=round(bytes_moved / device / 1e3, 3),
            copy_share=round(times["copy"]["device_us"] / device, 4),
            kept_bytes_per_element=round(kept_bytes(functions[name], x, *learned) / case.size, 3) if keeps else "",
            path=path(case.activation, x, *learned) if name == "fusedact" else "",
            rounds=len(s.device),
            calls_per_round=s.calls,
        )


def run_case(case: Case, functions: Mapping[str, Function], given: Sequence[Inputs], seconds: float) -> list[Row]:
    """Time all providers of a case, and a copy. Their results must have been checked."""
    device = given[0][0].device
    contenders = {name: contender(function, case.direction, given) for name, function in functions.items()}
    contenders["copy"] = copy_contender(case, device)
    samples = measure(contenders, seconds, device)
    return list(rows(case, functions, given[0], samples))


def fits(size: int, dtype: torch.dtype, count: int, device: torch.device) -> bool:
    """Whether a case with that many providers has room."""
    needed = size * dtype.itemsize * (TENSORS_HELD + TENSORS_PER_PROVIDER * count)
    return needed <= environment.available_bytes(device)


@dataclass
class Plan:
    """What to time, and what was left out."""

    cases: Sequence[Case]
    device: torch.device
    seconds: float
    # Ways of torch.compile, by size.
    compiled: Mapping[int, Sequence[str]]
    # Why a provider was not timed, by subject, dtype, size and provider.
    refused: dict[str, str] = field(default_factory=dict)
    # Cases without room, or with nothing to compare.
    skipped: int = 0

    def groups(self) -> Iterator[tuple[str, str, int, list[Case]]]:
        """Cases that share inputs and providers."""
        groups: dict[tuple[str, str, int], list[Case]] = {}
        for case in self.cases:
            groups.setdefault((case.activation, case.dtype, case.size), []).append(case)
        for key, cases in groups.items():
            yield *key, cases

    def run(self) -> Iterator[list[Row]]:
        """Check and time the cases; the rows of each as soon as they are there."""
        for subject, dtype_name, size, cases in self.groups():
            dtype, compiled = DTYPES[dtype_name], self.compiled.get(size, ())
            label = f"{subject} {dtype_name} {_label(size)}"
            if not fits(size, dtype, 2 + len(compiled), self.device):
                self.refused[label] = f"{label}: needs more memory than is free; not timed"
                self.skipped += len(cases)
                continue
            given = inputs_of(subject, _inputs(dtype, size, self.device, buffer_count(size, dtype, self.device)))
            functions = providers(subject, self.device, compiled)
            wrong = refused(subject, functions, given[0])
            self.refused |= {f"{label} {name}": why for name, why in wrong.items()}
            functions = {name: function for name, function in functions.items() if name not in wrong}
            if "eager" not in functions or "fusedact" not in functions:
                self.skipped += len(cases)
                continue
            for case in cases:
                yield run_case(case, functions, given, self.seconds)


# ----- command line


def _print_case(case_rows: Sequence[Row]) -> None:
    first = case_rows[0]
    times = "  ".join(f"{r.provider} {r.device_us:.2f} us (x{r.ratio:.2f})" for r in case_rows)
    print(f"{first.activation} {first.dtype} {_label(first.size)} {first.direction}:  {times}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the results; by default bench/results/<device>")
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--suite", choices=("full", "quick"), default="full", help="under ten minutes, or under one")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=tuple(SUBJECTS), help="these activations")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=tuple(DTYPES), help="these dtypes")
    parser.add_argument("--exponents", type=int, nargs="+", help="sizes, as powers of two, instead of the suite's")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="time torch.compile too, at some of the sizes or at all --exponents; by default on a GPU only",
    )
    parser.add_argument("--seconds", type=float, help="time for a case, if it allows enough rounds")
    parser.add_argument("--limit", type=float, help="seconds after which no case is begun; run again to continue")
    parser.add_argument("--fresh", action="store_true", help="forget the results that are in the folder")
    return parser


def _compiled(suite: Suite, exponents: Sequence[int] | None, device: torch.device) -> dict[int, list[str]]:
    """Ways of torch.compile by size: the suite's, or all of them at sizes that were asked for."""
    wanted: dict[int, list[str]] = {}
    for way in compilers(device):
        for exponent in exponents or (suite.compiled if way == COMPILE else suite.tuned):
            wanted.setdefault(2**exponent, []).append(way)
    return wanted


def _within(found: Iterable[list[Row]], limit: float) -> Iterator[list[Row]]:
    """Cases until the time is over. The next one is not begun."""
    start = time.monotonic()
    for case_rows in found:
        yield case_rows
        if time.monotonic() - start > limit:
            return


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if compat.interpreting:
        sys.exit("bench.run: TRITON_INTERPRET is set, and the interpreter's times mean nothing")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    suite = SUITES[device.type][options.suite]
    seconds = suite.seconds if options.seconds is None else options.seconds
    compiles = device.type == "cuda" if options.compile is None else options.compile
    folder = options.out or environment.ROOT / "bench" / "results" / environment.slug(device)
    identity = environment.facts(device) | {"seconds": seconds, "compile": compiles}
    try:
        store = Store(folder, identity, options.fresh)
    except ValueError as error:
        sys.exit(f"bench.run: {error}")

    before = environment.state(device)
    if device.type == "cpu" and (before["load"] or 0) > BUSY:
        print(f"bench.run: the load is {before['load']}; another process that takes a core makes the figures worthless")
    sizes = [2**e for e in options.exponents or suite.exponents]
    wanted = all_cases(options.dtypes, sizes, options.only)
    todo = [case for case in wanted if case not in store]
    if len(todo) < len(wanted):
        print(f"bench.run: {len(wanted) - len(todo)} of {len(wanted)} cases are in {folder} already")
    if not todo:
        return
    plan = Plan(todo, device, seconds, _compiled(suite, options.exponents, device) if compiles else {})
    # What is loaded stays: the collection before each case, which takes long beside a small case, need not look at it.
    gc.freeze()
    done, start = 0, time.monotonic()
    _note(store, shlex.join(["python", "-m", "bench.run", *arguments]), before)
    for case_rows in _within(plan.run(), suite.limit if options.limit is None else options.limit):
        _print_case(case_rows)
        store.add(case_rows)
        done += 1
    store.facts["state"][-1]["after"] = environment.state(device)
    store.facts["refused"] |= plan.refused
    store.save()

    for why in plan.refused.values():
        print(f"bench.run: {why}")
    print(f"bench.run: {done} cases in {time.monotonic() - start:.0f} s, {len(store)} in {folder}")
    left = len(todo) - done - plan.skipped
    if left:
        print(f"bench.run: the time is over with {left} cases left; without --fresh the same command continues")
    if plan.refused:
        sys.exit(1)


def _note(store: Store, command: str, state: Mapping[str, Any]) -> None:
    """Put down by which command the rows to come are made, and when."""
    facts = store.facts
    facts["date"] = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    facts["commands"] = list(dict.fromkeys([*facts.get("commands", ()), command]))
    facts["state"] = [*facts.get("state", ()), {"before": state}]
    facts.setdefault("refused", {})


if __name__ == "__main__":
    main()
