"""Predicts how long kernels take on a GPU, from what the ledgers counted: `python -m bench.model`.

A kernel takes as long as the slowest of three things: moving its bytes, issuing its instructions, and its special
functions; and what a launch costs comes to that. Latency, occupancy, and what caches keep of a table are not in it.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from bench.figures import Comparison, Result, comparisons, duration
from bench.markdown import table

RESULTS = Path("bench/results")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# By the ledgers' names.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# Of the instructions that a device could issue, what kernels reach; inferred from two published times.
ISSUE_SHARE = 0.8
# What the shortest kernel takes: published are 2 to 3 microseconds.
LAUNCH_US = 2.5
# The bounds, as the ledger names them, in words.
BOUNDS = {"HBM": "memory", "issue": "issue", "MUFU": "special functions"}


@dataclass(frozen=True)
class Work:
    """What a kernel does for an element: bytes, instructions, special functions."""

    moved: float
    issued: float
    special: float = 0.0


@dataclass(frozen=True)
class Device:
    """A GPU, and where its figures come from."""

    name: str
    # As its driver calls it.
    reported: str
    target: str
    # Bytes that are read and written in a second at best, and how that is known.
    bandwidth: float
    source: str
    multiprocessors: int
    clock: float

    @property
    def issue(self) -> float:
        """Instructions of a thread that are issued in a second: four warps of 32 in every cycle."""
        return self.multiprocessors * 4 * 32 * self.clock

    @property
    def special(self) -> float:
        """Special functions in a second: 16 in every cycle."""
        return self.multiprocessors * 16 * self.clock

    def rates(self, work: Work) -> dict[str, float]:
        """Elements in a second, by what would bound them."""
        return {
            "HBM": self.bandwidth / work.moved,
            "issue": self.issue * ISSUE_SHARE / work.issued,
            "MUFU": self.special / work.special if work.special else float("inf"),
        }

    def bound(self, work: Work) -> str:
        """What makes it as slow as it is."""
        rates = self.rates(work)
        return min(rates, key=lambda name: rates[name])

    def bandwidth_of(self, work: Work) -> float:
        """The bytes that a kernel moves in a second, launches aside."""
        return self.rates(work)[self.bound(work)] * work.moved

    def share(self, work: Work) -> float:
        """Of the bandwidth of a copy."""
        return self.bandwidth_of(work) / self.bandwidth

    def microseconds(self, work: Work, elements: int, launches: int = 1) -> float:
        """The time of a call."""
        return elements / self.rates(work)[self.bound(work)] * 1e6 + launches * LAUNCH_US

    def budget(self, moved: float) -> float:
        """Instructions for an element of so many bytes that leave memory the bound."""
        return self.issue * ISSUE_SHARE * moved / self.bandwidth


# Only devices of which a bandwidth that something reached is known. Both clocks are what is assumed of kernels that
# wait for memory.
H200 = Device("H200", "NVIDIA H200", "sm_90", 4.3e12, "a copy, measured on one", 132, 1.98e9)
H100 = Device(
    *("H100", "NVIDIA H100 80GB HBM3", "sm_90", 3.03e12),
    *("PyTorch's ReLU on 2^29 elements in bfloat16, published in pytorch#145746", 132, 1.98e9),
)
DEVICES = (H100, H200)


# What issues four warps and 16 special functions in every cycle, by a word of the device's name. Where such a device is
# not in the table, its own run tells the rest.
TARGETS = {"H100": "sm_90", "H200": "sm_90", "GH200": "sm_90", "B200": "sm_100", "GB200": "sm_100"}
# A copy of fewer elements takes most of its time for the launch.
COPIED = 2**24


def device_of(result: Result) -> Device | None:
    """The device of a run: as the table has it, or with the run's copy, multiprocessors and clock; None if unknown."""
    environment = result.environment
    reported = environment["device"]
    for device in DEVICES:
        if device.reported == reported:
            return device
    target = next((TARGETS[word] for word in re.split(r"\W+", reported) if word in TARGETS), None)
    clock = re.match(r"(\d+) MHz", environment.get("state", [{}])[0].get("before", {}).get("clocks.max.sm", ""))
    copies = [c.bandwidth("copy") for c in comparisons(result.records) if c.size >= COPIED]
    if target is None or clock is None or not copies:
        return None
    source = f"the copies of 2^{COPIED.bit_length() - 1} elements and more in this run"
    figures = (median(copies) * 1e9, source, environment["multiprocessors"], float(clock[1]) * 1e6)
    return Device(reported, reported, target, *figures)


# ----- what was counted


@dataclass(frozen=True)
class Kernel:
    """A kernel as a ledger counts it."""

    form: str
    name: str
    direction: str
    dtype: str
    target: str
    work: Work
    # Whether its special functions were counted too.
    whole: bool
    # The sums of parameters' gradients end in a second one.
    launches: int = 1


# Tensors of the result's size that are read and written, by form and direction.
TENSORS = {
    "elementwise": {"forward": 2, "backward": 3},
    "rowwise": {"forward": 2, "backward": 3},
    "gated": {"forward": 3, "backward": 5},
    "biased": {"forward": 2, "backward": 3},
}
# Rows of so many elements are read twice; how much of that the cache serves is not known.
READ_TWICE = 65_536


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _elementwise(r: Mapping[str, str]) -> Kernel:
    name, dtype = r["kernel"], DTYPES[r["dtype"]]
    form = "own" if name.startswith("own ") else "piecewise" if name.startswith("pwl_") else "elementwise"
    moved = TENSORS["elementwise"][r["direction"]] * BYTES[dtype]
    work = Work(moved, float(r["issued"]), float(r["special"]) + float(r["conversions"]))
    sums = "(learned)" in name or "(per channel" in name
    return Kernel(form, name, r["direction"], dtype, r["target"], work, True, 1 + sums)


def _hosted(r: Mapping[str, str], form: str) -> Kernel:
    """A line of one of the ledgers that count instructions alone."""
    name, dtype = r["kernel"], DTYPES[r["dtype"]]
    if form == "rowwise":
        name = f"{name} in training" if name == "rrelu" else f"{name} (rows of {r['n']})"
    elif form == "biased":
        name = f"bias, {name}"
    tensors = TENSORS[form][r["direction"]] + (form == "biased" and "residual" in name)
    sums = r["direction"] == "backward" and ((form == "biased" and "no bias" not in name) or "learned" in name)
    work = Work(tensors * BYTES[dtype], float(r["instructions"]))
    return Kernel(form, name, r["direction"], dtype, r["target"], work, False, 1 + sums)


def _table_sums(r: Mapping[str, str]) -> Kernel:
    """The backward of a table whose values learn."""
    each = {"flat": "", "last": " per channel"}[r["layout"]]
    dtype = DTYPES[r["dtype"]]
    work = Work(TENSORS["elementwise"]["backward"] * BYTES[dtype], float(r["instructions"]))
    name = f"pwl learned{each} ({r['count']} points)"
    return Kernel("piecewise", name, "backward", dtype, "sm_90", work, False, launches=2)


def kernels(results: Path = RESULTS) -> list[Kernel]:
    """Everything that the ledgers keep and the model covers."""
    found = [_elementwise(r) for r in _rows(results / "ledger.csv")]
    for form, file in (("rowwise", "rows_ledger"), ("gated", "gated_ledger"), ("biased", "biased_ledger")):
        rows = _rows(results / f"{file}.csv")
        found += [_hosted(r, form) for r in rows if form != "rowwise" or int(r["n"]) < READ_TWICE]
    return found + [
        _table_sums(r)
        for r in _rows(results / "piecewise_ledger.csv")
        if (r["spacing"], r["wanted"]) == ("even", "values") and r["layout"] != "second"
    ]


# ----- cases of the benchmark


# The names of forms that host an activation, as patterns of what the benchmark calls them.
HOSTED = (
    (r"gated (\w+)", r"\1, two tensors"),
    (r"packed (\w+)", r"\1, gate_value"),
    (r"packed (\w+) \(interleaved\)", r"\1, interleaved"),
    (r"bias (\w+)", r"bias, \1"),
    (r"bias (\w+) dropout", r"bias, \1, dropout"),
)


def counted_as(activation: str, direction: str) -> str:
    """The ledgers' name of the kernel that a subject of the benchmark launches, forward or backward."""
    for pattern, name in HOSTED:
        if found := re.fullmatch(pattern, activation):
            return found.expand(name)
    if activation.startswith("pwl"):
        return activation if direction == "backward" and "learned" in activation else "pwl_uniform"
    if activation in ("softmax", "log_softmax"):
        return f"{activation} (rows of 1024)"
    if direction == "forward":
        return activation.removesuffix(" (learned)").removesuffix(" (per channel)")
    return activation.replace("(per channel)", "(per channel, last)")


# The paths on which a kernel of this library runs; a run does not say it of forms of which PyTorch has no operator.
KERNEL_PATHS = ("triton", "")


@dataclass(frozen=True)
class Judged:
    """A case that was measured, and what the model says of it, in microseconds."""

    case: Comparison
    predicted: float

    @property
    def error(self) -> float:
        """How much longer the prediction is, relative to the measurement."""
        return self.predicted / self.case.time("fusedact") - 1


class Model:
    """What the ledgers' counts mean on a device."""

    def __init__(self, device: Device, counted: Iterable[Kernel]):
        self.device = device
        self._kernels = {(k.name, k.direction, k.dtype): k for k in counted if k.target == device.target}

    @cached_property
    def kernels(self) -> list[Kernel]:
        """Those that were compiled for this device."""
        return list(self._kernels.values())

    def time(self, kernel: Kernel, elements: int) -> float:
        """Microseconds."""
        return self.device.microseconds(kernel.work, elements, kernel.launches)

    def predicted(self, activation: str, direction: str, dtype: str, size: int) -> float | None:
        """Microseconds of a case of the benchmark; None where nothing was counted of it."""
        parts = [
            self._kernels.get((counted_as(activation, part), part, dtype))
            for part in direction.replace("forward+backward", "forward backward").split()
        ]
        return None if None in parts else sum(self.time(k, size) for k in parts if k is not None)

    def judged(self, cases: Iterable[Comparison]) -> Iterator[Judged]:
        """Every case that a kernel of this library was timed in and of which it was counted."""
        for c in cases:
            time = self.predicted(c.activation, c.direction, c.dtype, c.size)
            if time is not None and c.path in KERNEL_PATHS:
                yield Judged(c, time)


# ----- text


def devices_table(devices: Sequence[Device] = DEVICES) -> str:
    """The figures that predictions come from, a second."""
    header = ["device", "compiled for", "bandwidth known from", "bytes", "instructions", "special functions"]
    lines = []
    for d in devices:
        figures = [f"{d.bandwidth / 1e12:.3g}e12", f"{d.issue / 1e12:.4g}e12", f"{d.special / 1e12:.3g}e12"]
        lines.append([d.name, d.target, d.source, *figures])
    return table(header, lines, text_columns=3)


def _prediction(device: Device, k: Kernel | None, elements: int) -> str:
    """The time; and if memory is not the bound, what is, and the share of a copy's bandwidth that it leaves."""
    if k is None:
        return ""
    time, bound = duration(device.microseconds(k.work, elements, k.launches)), device.bound(k.work)
    return time if bound == "HBM" else f"{time} ({device.share(k.work):.0%}, {BOUNDS[bound]})"


def predictions_table(counted: Iterable[Kernel], elements: int, devices: Sequence[Device] = DEVICES) -> str:
    """A line for each kernel, all of one dtype, with its times on every device."""
    by = {(k.name, k.target, k.direction): k for k in counted}
    targets = list(dict.fromkeys(d.target for d in devices))
    header = ["kernel", *(["compiled for"] if len(targets) > 1 else [])]
    header += [
        "instructions fwd",
        "bwd",
        "special fwd",
        "bwd",
        *(f"{d.name} {p}" for d in devices for p in ("fwd", "bwd")),
    ]
    lines = []
    for name, target in dict.fromkeys(key[:2] for key in by if key[1] in targets):
        both = [by.get((name, target, direction)) for direction in ("forward", "backward")]
        line = [f"`{name}`", *([target] if len(targets) > 1 else [])]
        line += [f"{k.work.issued:.1f}" if k else "" for k in both]
        line += [f"{k.work.special:.2g}" if k and k.whole else "" for k in both]
        for d in devices:
            line += [_prediction(d, k if k and k.target == d.target else None, elements) for k in both]
        lines.append(line)
    return table(header, lines, text_columns=1 + (len(targets) > 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=BYTES, default=["bfloat16"])
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--exponent", type=int, default=26, help="of two; the elements of a call")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the ledgers' files")
    options = parser.parse_args(arguments)
    targets = {d.target for d in DEVICES}
    found = [k for k in kernels(options.results) if k.dtype in options.dtypes and k.target in targets]
    if not found:
        sys.exit(f"bench.model: no ledger counted anything in {options.results}; run bench.ledger --write")
    unknown = set(options.kernels or ()) - {k.name for k in found}
    if unknown:
        there = ", ".join(dict.fromkeys(k.name for k in found))
        sys.exit(f"bench.model: no kernel {min(unknown)!r}; there are {there}")
    print(devices_table())
    for dtype in options.dtypes:
        some = [k for k in found if k.dtype == dtype and k.name in (options.kernels or (k.name,))]
        print(f"\nPredicted, for 2^{options.exponent} elements in {dtype}:\n")
        print(predictions_table(some, 2**options.exponent))


if __name__ == "__main__":
    main()
