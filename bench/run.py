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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import environment, plan
from bench.cases import (
    DTYPES,
    FORWARD,
    FORWARD_BACKWARD,
    Case,
    Inputs,
    bytes_moved,
    inputs,
    inputs_of,
    label,
)
from bench.catalog import SUBJECTS
from bench.checks import Findings, examine
from bench.footprint import call_of, kept_bytes, kernels, peak_bytes
from bench.plan import SUITES, Group, Suite, Tier
from bench.providers import COPY, EAGER, FUSEDACT, compilers, path, providers
from bench.store import Row, Store
from bench.subjects import Function
from bench.timing import Contender, Samples, buffer_count, contender, measure
from fusedact import compat

# Threads of a small operation wait for each other: with a core taken by another process, for its whole time slice.
BUSY = 0.5
# What a case takes, in tensors: inputs, and for each provider results and what it keeps and makes on the way.
TENSORS_HELD, TENSORS_PER_PROVIDER = 8, 6


# ----- cases


# Normally distributed numbers that a copy's source repeats.
COPIED = 2**20

_inputs = functools.lru_cache(maxsize=1)(inputs)


def _copied(x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(x)


def copy_contender(case: Case, given: Inputs) -> Contender:
    """A plain copy that moves as many bytes as the case must, each way half."""
    dtype, device = DTYPES[case.dtype], given[0].device
    elements = math.ceil(bytes_moved(case.direction, given) / dtype.itemsize / 2)
    count = buffer_count(elements, dtype, device)
    numbers = torch.randn(min(COPIED, count * elements), device=device, dtype=dtype)
    source = numbers.repeat(math.ceil(count * elements / len(numbers)))[: count * elements].view(count, elements)
    return contender(_copied, FORWARD, [(x, x) for x in source])


def copies(given: Sequence[Inputs]) -> list[Inputs]:
    """Inputs of one's own, for a provider that writes over them."""
    return [
        tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)  # type: ignore[misc]
        for tensors in given
    ]


def _quartiles(name: str, samples: Sequence[float]) -> dict[str, float]:
    """Median, first and third quartile in microseconds, by the names of a row."""
    q25, median, q75 = (round(q * 1e6, 4) for q in statistics.quantiles(samples, n=4, method="inclusive"))
    return {f"{name}_us": median, f"{name}_q25_us": q25, f"{name}_q75_us": q75}


@dataclass(frozen=True)
class Footprint:
    """What a provider takes beside time; empty where it is not known."""

    kernels: int | str = ""
    peak_bytes_per_element: float | str = ""
    kept_bytes_per_element: float | str = ""


def footprint(case: Case, function: Function, given: Inputs, counting: bool) -> Footprint:
    """That of a provider, which must have run before."""
    x, _, *others = given
    call = call_of(function, case.direction, given)
    counted = kernels(call, x.device) if counting else None
    keeps = case.direction == FORWARD_BACKWARD
    return Footprint(
        kernels="" if counted is None else counted,
        peak_bytes_per_element=round(peak_bytes(call, x.device) / case.size, 3),
        kept_bytes_per_element=round(kept_bytes(function, x, *others) / case.size, 3) if keeps else "",
    )


def rows(
    case: Case,
    given: Inputs,
    samples: Mapping[str, Samples],
    footprints: Mapping[str, Footprint],
    errors: Mapping[str, float],
) -> Iterator[Row]:
    """The samples of a case in figures."""
    x, _, *others = given
    times = {name: _quartiles("device", s.device) | _quartiles("host", s.host) for name, s in samples.items()}
    moved = bytes_moved(case.direction, given)
    for name, s in samples.items():
        device = times[name]["device_us"]
        yield Row(
            **asdict(case),
            form=SUBJECTS[case.activation].form,
            provider=name,
            **times[name],
            clock=s.clock,
            ratio=round(times[EAGER]["device_us"] / device, 4),
            host_ratio=round(times[EAGER]["host_us"] / times[name]["host_us"], 4),
            bytes_moved=moved,
            gb_per_s=round(moved / device / 1e3, 3),
            copy_share=round(times[COPY]["device_us"] / device, 4),
            **asdict(footprints.get(name, Footprint())),
            error=float(f"{errors[name]:.4g}") if name in errors else "",
            path=path(case.activation, x, *others) if name == FUSEDACT else "",
            rounds=len(s.device),
            calls_per_round=s.calls,
        )


def run_case(
    case: Case,
    functions: Mapping[str, Function],
    given: Sequence[Inputs],
    seconds: float,
    findings: Findings,
    counting: bool,
) -> list[Row]:
    """Time all providers of a case, and a copy. Their results must have been checked."""
    own = {name: copies(given) if name in findings.overwriting else given for name in functions}
    contenders = {name: contender(function, case.direction, own[name]) for name, function in functions.items()}
    contenders[COPY] = copy_contender(case, given[0])
    samples = measure(contenders, seconds, given[0][0].device)
    # Results that take turns would be freed while a call is watched.
    contenders.clear()
    footprints = {name: footprint(case, function, own[name][0], counting) for name, function in functions.items()}
    return list(rows(case, given[0], samples, footprints, findings.errors))


def fits(size: int, dtype: torch.dtype, count: int, device: torch.device) -> bool:
    """Whether a case with that many providers has room."""
    needed = size * dtype.itemsize * (TENSORS_HELD + TENSORS_PER_PROVIDER * count)
    return needed <= environment.available_bytes(device)


@dataclass
class Run:
    """Groups of cases that are checked and timed, and what was left out."""

    groups: Sequence[Group]
    device: torch.device
    seconds: float
    # Sizes at which kernels are counted.
    counted: Sequence[int]
    # Why a provider was not timed, by subject, dtype, size and provider.
    refused: dict[str, str] = field(default_factory=dict)
    # Cases without room, or with nothing to compare.
    skipped: int = 0

    def rows(self) -> Iterator[list[Row]]:
        """Check and time the cases; the rows of each as soon as they are there."""
        for group in self.groups:
            subject, size, dtype = group.subject, group.size, DTYPES[group.dtype]
            name = f"{subject} {group.dtype} {label(size)}"
            if not fits(size, dtype, 2 + len(group.ways), self.device):
                self.refused[name] = f"{name}: needs more memory than is free; not timed"
                self.skipped += len(group.cases)
                continue
            given = inputs_of(subject, _inputs(dtype, size, self.device, buffer_count(size, dtype, self.device)))
            functions = providers(subject, self.device, group.ways)
            findings = examine(subject, functions, given[0])
            self.refused |= {f"{name} {provider}": why for provider, why in findings.reasons.items()}
            functions = {who: function for who, function in functions.items() if who not in findings.reasons}
            if EAGER not in functions or FUSEDACT not in functions:
                self.skipped += len(group.cases)
                continue
            for case in group.cases:
                yield run_case(case, functions, given, self.seconds, findings, size in self.counted)


# ----- command line


def _print_case(case_rows: Sequence[Row]) -> None:
    first = case_rows[0]
    times = "  ".join(f"{r.provider} {r.device_us:.2f} us (x{r.ratio:.2f})" for r in case_rows)
    print(f"{first.activation} {first.dtype} {label(first.size)} {first.direction}:  {times}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the results; by default bench/results/<device>")
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument(
        "--suite",
        choices=("full", "quick", "all"),
        default="full",
        help="under eight minutes on a GPU, or under one; on a GPU also all there is, in several runs",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=tuple(SUBJECTS), help="these activations")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), help="these dtypes")
    parser.add_argument(
        "--exponents", type=int, nargs="+", help="everything at these sizes, powers of two, instead of the suite's plan"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="time torch.compile too, where the suite says or at all --exponents; by default on a GPU only",
    )
    parser.add_argument("--seconds", type=float, help="time for a case, if it allows enough rounds")
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds after which no case is begun, by default the suite's, or none with --exponents; run again to "
        "continue",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the results that are in the folder")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="on a CPU, go through the plan of a GPU with the square roots of its sizes and without torch.compile",
    )
    return parser


def _wanted(options: argparse.Namespace, suite: Suite, device: torch.device, compiles: bool) -> list[Group]:
    """What to time: the suite's plan, or everything at sizes that were asked for, as far as it was."""
    tiers = list(suite.tiers)
    if options.exponents:
        tiers = [Tier(tuple(options.exponents), ways=tuple(compilers(device)))]
    if not compiles:
        tiers = [replace(tier, ways=()) for tier in tiers]
    tiers = plan.chosen(tiers, options.dtypes, options.only)
    if options.rehearse:
        return [plan.rehearsed(group) for group in plan.groups(tiers, torch.device("cuda"))]
    known = compilers(device)
    return [
        replace(group, ways=tuple(way for way in group.ways if way in known)) for group in plan.groups(tiers, device)
    ]


def _unfinished(wanted: Sequence[Group], store: Store) -> list[Group]:
    """What of it the store lacks."""
    left = [replace(group, cases=tuple(case for case in group.cases if case not in store)) for group in wanted]
    return [group for group in left if group.cases]


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
    if options.rehearse and device.type != "cpu":
        sys.exit("bench.run: --rehearse is for a CPU")
    suites = SUITES["cuda" if options.rehearse else device.type]
    if options.suite not in suites:
        sys.exit(f"bench.run: on a {device.type} there is no suite {options.suite!r}; there are {', '.join(suites)}")
    suite = suites[options.suite]
    seconds = suite.seconds if options.seconds is None else options.seconds
    compiles = (device.type == "cuda" if options.compile is None else options.compile) and not options.rehearse
    folder = options.out or environment.ROOT / "bench" / "results" / environment.slug(device)
    if options.rehearse and options.out is None:
        sys.exit("bench.run: --rehearse needs a folder for its figures, which mean nothing: --out")
    identity = environment.facts(device) | {"seconds": seconds, "compile": compiles}
    try:
        store = Store(folder, identity, options.fresh)
    except ValueError as error:
        sys.exit(f"bench.run: {error}")

    before = environment.state(device)
    if device.type == "cpu" and (before["load"] or 0) > BUSY:
        print(f"bench.run: the load is {before['load']}; another process that takes a core makes the figures worthless")
    wanted = _wanted(options, suite, device, compiles)
    todo = _unfinished(wanted, store)
    count, left = (sum(len(group.cases) for group in some) for some in (wanted, todo))
    if left < count:
        print(f"bench.run: {count - left} of {count} cases are in {folder} already")
    if not todo:
        return
    planned = plan.planned_seconds(todo, seconds, device.type)
    print(f"bench.run: {left} cases, about {planned:.0f} s", flush=True)
    counted = [2**e for e in options.exponents or suite.counted]
    run = Run(todo, device, seconds, counted)
    limit = options.limit
    if limit is None:
        limit = math.inf if options.exponents else suite.limit
    done, start = 0, time.monotonic()
    _note(store, shlex.join(["python", "-m", "bench.run", *arguments]), before)
    try:
        for case_rows in _within(run.rows(), limit):
            _print_case(case_rows)
            store.add(case_rows)
            done += 1
            if done == 1:
                # What is loaded by now stays: the collection before each case, which takes longer than a small case,
                # need not look at it.
                gc.collect()
                gc.freeze()
    finally:
        took = time.monotonic() - start
        store.facts["state"][-1] |= {"cases": done, "took_s": round(took), "planned_s": round(planned)}
        store.facts["state"][-1]["after"] = environment.state(device)
        store.facts["refused"] |= run.refused
        store.save()

    for why in run.refused.values():
        print(f"bench.run: {why}")
    print(f"bench.run: {done} cases in {took:.0f} s, {len(store)} in {folder}")
    if left := left - done - run.skipped:
        print(f"bench.run: the time is over with {left} cases left; without --fresh the same command continues")
    if run.refused:
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
