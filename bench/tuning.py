"""Which block sizes the elementwise templates should have, by what is counted of each: `python -m bench.tuning`.

Every combination of bytes that a thread takes of each tensor, and warps to a program, is compiled for each
architecture. Of those without spills that keep enough bytes on their way to hide the memory's latency (or, where none
does, the most), those are good that take the least time as the ledgers' model has it: what moving the bytes takes, or
issuing the instructions. The one of them with the most bytes on their way is best, and of equals the smallest program,
which leaves the shortest tail. No device was asked: caches, and what a launch of more programs costs, are not in it.

`--write` keeps bench/results/tuning.csv and brings kernels/README.md's table up to date with it, `--check` says whether
the launcher has what that file makes best.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean
from unittest import mock

from bench import aot, ledger, markdown, model
from fusedact.kernels import grids, launch, relaunch

FIGURES, README = Path("bench/results/tuning.csv"), Path("kernels/README.md")
BEGIN, END = "<!-- tuning:begin -->", "<!-- tuning:end -->"
# What is tried: bytes of each tensor for a thread, and warps to a program.
TRIED = [(size, warps) for size in (16, 32, 64) for warps in (4, 8)]
# Cheap and dear ones, in both directions, and one that sums gradients of a parameter.
KERNELS = ("relu_sigmoid", "elu", "gelu", "mish", "swish (learned)", "pwl_bucket")
DTYPES = ("bf16", "fp32")
# Times that differ by less are the same.
SAME = 0.02


@dataclass(frozen=True)
class Multiprocessor:
    """What one holds and can do, from published figures of the device named.

    `registers` are of 32 bits, and a thread has them in groups of eight; so many `warps`, and 32 programs of any size,
    fit at the most. A second has `bytes` from its share of the memory, and issues so many `instructions` of a thread.
    """

    device: str
    registers: int
    warps: int
    bytes: float
    instructions: float

    @property
    def needed(self) -> int:
        """Bytes that the memory delivers to it within its latency."""
        return round(LATENCY * self.bytes)

    def threads(self, registers: int, warps: int, warp_size: int) -> int:
        """How many threads are at work, of kernels with so many registers and warps to a program."""
        each = -(-registers // 8) * 8 * warp_size
        return min(min(self.registers // each, self.warps) // warps, 32) * warps * warp_size

    def seconds(self, instructions: float, moved: int) -> float:
        """For an element, by the slower of both."""
        return max(moved / self.bytes, instructions / (self.instructions * model.ISSUE_SHARE))


LATENCY = 0.7e-6
# Bandwidths by multiprocessors; lanes that issue in a cycle, by clock.
MULTIPROCESSORS = {
    "sm_80": Multiprocessor("A100", 65536, 64, 2.0e12 / 108, 128 * 1.41e9),
    "sm_90": Multiprocessor("H200", 65536, 64, 4.8e12 / 132, 128 * 1.98e9),
    "sm_100": Multiprocessor("B200", 65536, 64, 8.0e12 / 148, 128 * 1.96e9),
    "gfx942": Multiprocessor("MI300X", 131072, 32, 5.3e12 / 304, 64 * 2.1e9),
}


@dataclass(frozen=True)
class Row:
    """A line of the file: a kernel, a combination, and what is counted of it."""

    kernel: str
    direction: str
    dtype: str
    target: str
    bytes_per_thread: int
    warps: int
    # For an element, with its share of what comes before the first.
    instructions: float
    registers: int
    spills: int
    # Bytes that a multiprocessor has on its way where all programs that fit have asked for theirs.
    in_flight: int

    @property
    def combination(self) -> tuple[int, int]:
        return self.bytes_per_thread, self.warps


@contextmanager
def trying(bytes_per_thread: int, warps: int) -> Iterator[None]:
    """The launcher with another combination; the kernels that it has compiled are forgotten before and after."""
    with (
        mock.patch.multiple(grids, BYTES_PER_THREAD=bytes_per_thread, NUM_WARPS=warps),
        mock.patch.object(launch, "_compiled", {}),
        mock.patch.dict(launch._run.__kwdefaults__, num_warps=warps),
        mock.patch.object(relaunch, "_plans", {}),
    ):
        yield


def rows(targets: Iterable[str] = aot.TARGETS, kernels: Sequence[str] = KERNELS) -> Iterator[Row]:
    """Compile and count everything."""
    for size, warps in TRIED:
        with trying(size, warps):
            for found in ledger.sweep(ledger.cases(kernels, DTYPES, targets)):
                warp_size = aot.TARGETS[found.target].warp_size
                threads = MULTIPROCESSORS[found.target].threads(found.registers, warps, warp_size)
                yield Row(
                    *found.key,
                    bytes_per_thread=size,
                    warps=warps,
                    instructions=found.issued,
                    registers=found.registers,
                    spills=found.spills,
                    in_flight=threads * size * ledger.MOVED[found.direction][0],
                )


def slowness(found: Sequence[Row], target: str) -> dict[tuple[int, int], float]:
    """By combination: how many times as long its kernels take, on average, as each does at best."""
    device, times = MULTIPROCESSORS[target], {}
    for r in found:
        if r.target == target:
            moved = sum(ledger.MOVED[r.direction]) * ledger.DTYPES[r.dtype].itemsize
            kernel = times.setdefault((r.kernel, r.direction, r.dtype), {})
            kernel[r.combination] = device.seconds(r.instructions, moved)
    each = [{c: seconds / min(kernel.values()) for c, seconds in kernel.items()} for kernel in times.values()]
    return {c: mean(kernel[c] for kernel in each) for c in each[0]}


def least_in_flight(found: Sequence[Row], target: str) -> dict[tuple[int, int], int]:
    """By combination: the bytes on their way of the kernel that has the fewest; 0 where one spills."""
    mine = [r for r in found if r.target == target]
    return {
        c: min(0 if r.spills else r.in_flight for r in mine if r.combination == c)
        for c in dict.fromkeys(r.combination for r in mine)
    }


def best(found: Sequence[Row], target: str) -> tuple[int, int]:
    """The combination to take on an architecture."""
    flight = least_in_flight(found, target)
    # Where none has enough, the most.
    enough = min(MULTIPROCESSORS[target].needed, max(flight.values()))
    fit = {c: times for c, times in slowness(found, target).items() if flight[c] >= enough}
    good = [c for c, times in fit.items() if times <= min(fit.values()) * (1 + SAME)]
    return min(good, key=lambda c: (-flight[c], c[0] * c[1], c[1]))


def table(found: Sequence[Row]) -> str:
    """A line for each architecture and combination."""
    lines = []
    for target in dict.fromkeys(r.target for r in found):
        times, flight, chosen = slowness(found, target), least_in_flight(found, target), best(found, target)
        device = MULTIPROCESSORS[target]
        for c in times:
            mine = [r for r in found if r.target == target and r.combination == c]
            counts = [
                f"{mean(r.instructions for r in mine):.1f}",
                f"{max(r.registers for r in mine)}",
                f"{times[c]:.3f}",
            ]
            ways = f"{flight[c] / 1000:.1f} of {device.needed / 1000:.1f}" if flight[c] else "spills"
            lines.append([f"{target}, {device.device}", *map(str, c), *counts, ways, "best" if c == chosen else ""])
    header = [
        "architecture",
        "bytes a thread",
        "warps",
        "instructions",
        "registers, most",
        "time",
        "kB on their way",
        "",
    ]
    return markdown.table(header, lines, 1)


def load(path: Path = FIGURES) -> list[Row]:
    """The kept figures."""
    kinds = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Row)}
    with path.open(newline="") as file:
        return [Row(**{n: kinds[n](text) for n, text in line.items()}) for line in csv.DictReader(file)]


def write(found: Iterable[Row], path: Path = FIGURES) -> None:
    """Keep the figures."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tuning", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--check", action="store_true", help="compile nothing; compare the launcher with the file")
    options = parser.parse_args(arguments)
    found = load() if options.check else [replace(r, instructions=round(r.instructions, 2)) for r in rows()]
    if options.write:
        write(found)
    print(table(found))
    if options.write:
        README.write_text(markdown.updated(README.read_text(), table(found), BEGIN, END))
    have = grids.BYTES_PER_THREAD, grids.NUM_WARPS
    others = {target: b for target in MULTIPROCESSORS if (b := best(found, target)) != have}
    if options.check and others:
        sys.exit(f"bench.tuning: the launcher has {have}, but best are {others}")


if __name__ == "__main__":
    main()
