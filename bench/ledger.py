"""Counts the instructions of every kernel from its machine code, without a device: `python -m bench.ledger`.

`--write` keeps the figures under bench/results/ and brings README.md's table up to date; `--check` compares with what
is kept, and exits with 1 if a figure rose, a 16-byte access was lost, or a register is spilled.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton

from bench import aot
from fusedact import registry, tables
from fusedact.kernels import launch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / "results"
FILE, FACTS = FOLDER / "ledger.csv", FOLDER / "ledger.json"
BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DIRECTIONS = ("forward", "backward")

# A figure may rise by so much before it counts as worse.
TOLERANCE = 1.05

# What sm_90 kernels on bfloat16 must not exceed, in instructions per element: (forward, backward).
LIMITS = {"relu_sigmoid": (14, 22), "elu": (20, 20), "selu": (20, 20), "pwl_uniform": (20, 24)}

# Whose instructions run several times; they are counted once.
LOOPS = ("pwl_search",)

# An H200: instructions and special functions per second, a fifth of the issue slots lost in practice; bytes per second
# of a copy. Measured or computed elsewhere; what follows from them here is a prediction.
ISSUE, ISSUE_SHARE, SPECIAL, BANDWIDTH = 33.45e12, 0.8, 4.18e12, 4.3e12

PWL_BREAKPOINTS = 63


@dataclass(frozen=True)
class Entry:
    """A line of ledger.csv. Instructions and special functions are per element on the path of a whole block."""

    kernel: str
    direction: str
    dtype: str
    target: str
    instructions: float
    special: float
    # Instructions before the first access, once per program.
    prologue: int
    # The width of accesses to tensors.
    access_bytes: int
    registers: int
    spills: int
    # On sm_90, unless a loop makes the count too small: issue slots that bandwidth leaves for an element, the limit set
    # for this kernel, what is predicted to bound it, and how many terabytes it moves in a second then.
    budget: float | str = ""
    limit: int | str = ""
    bound: str = ""
    predicted_tb_s: float | str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return self.kernel, self.direction, self.dtype, self.target


# ----- kernels


def kernels() -> dict[str, tuple[str, Sequence[Any], tuple[str, ...]]]:
    """(device function, parameters, directions) by name: every activation, with learned parameters, every table."""
    found: dict[str, tuple[str, Sequence[Any], tuple[str, ...]]] = {}
    for name in registry.names("elementwise"):
        spec = registry.get(name)
        found[name] = spec.device, [p.default for p in spec.parameters], DIRECTIONS
        if spec.parameters:
            learned = [torch.tensor([p.default]) for p in spec.parameters]
            found[f"{name} (learned)"] = spec.device, learned, ("backward",)
    breakpoints = torch.linspace(-4, 4, PWL_BREAKPOINTS)
    for kind in ("uniform", "bucket", "search"):
        how = tables.Plan(kind, 200, steep=False)
        rows = tables.prepare(breakpoints, breakpoints.sin(), 0.0, 0.5, how, torch.float32)
        found[f"pwl_{kind}"] = f"pwl_{kind}", [launch.Table(rows, 64, False)], DIRECTIONS
    return found


# ----- counting


@dataclass(frozen=True)
class Count:
    """What the instructions of a whole block are, those between its first wide load and its last wide store."""

    instructions: int
    special: int
    prologue: int
    access_bytes: int


def _widest(code: Sequence[str], kind: str, widths: dict[int, str]) -> tuple[int, list[int]]:
    """The width of the widest accesses of a kind, and where they are."""
    for width, pattern in widths.items():
        if at := [i for i, c in enumerate(code) if re.match(kind, c) and re.search(pattern, c)]:
            return width, at
    raise AssertionError(f"no {kind} in the kernel")


def _between(code: Sequence[str], load: str, store: str, special: str, widths: dict[int, str]) -> Count:
    """Count on the stretch of wide accesses; the masked path for the last block has narrow ones.

    `load`, `store` and `special` are patterns, `widths` those of accesses by width, widest first.
    """
    (load_width, loads), (store_width, stores) = (_widest(code, kind, widths) for kind in (load, store))
    body = code[loads[0] : stores[-1] + 1]
    return Count(len(body), sum(bool(re.match(special, c)) for c in body), loads[0], min(load_width, store_width))


def _cuda(kernel: Any) -> tuple[Count, int, int]:
    code = aot.sass(kernel)
    widths = {16: r"\.128", 8: r"\.64", 4: r"^(LDG|STG)\.E$|\.CONSTANT$", 2: r"\.U16"}
    used = aot.resources(kernel)
    spills = sum(c.startswith(("LDL", "STL")) for c in code) + used["STACK"] + used["LOCAL"]
    return _between(code, "LDG", "STG", "MUFU|F2I|I2F", widths), used["REG"], spills


def _hip(kernel: Any) -> tuple[Count, int, int]:
    code = aot.amdgcn(kernel)
    widths = {16: "dwordx4", 8: "dwordx2", 4: "dword$", 2: "short"}
    special = r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_f32"
    facts = aot.amd_metadata(kernel)
    spills = sum(count for name, count in facts.items() if name != "vgpr_count")
    load, store = "(buffer|global)_load", "(buffer|global)_store"
    return _between(code, load, store, special, widths), facts["vgpr_count"], spills


def _prediction(instructions: float, special: float, size: int, direction: str) -> dict[str, Any]:
    """What bounds a kernel on an H200, by the ceilings above."""
    moved = (2 if direction == "forward" else 3) * size
    rates = {
        "memory": BANDWIDTH / moved,
        "instructions": ISSUE * ISSUE_SHARE / instructions,
        "special functions": SPECIAL / special if special else float("inf"),
    }
    bound = min(rates, key=rates.__getitem__)
    return {
        "budget": round(ISSUE * ISSUE_SHARE / (BANDWIDTH / moved), 1),
        "bound": bound,
        "predicted_tb_s": round(rates[bound] * moved / 1e12, 2),
    }


def entry(name: str, direction: str, dtype: str, target: str) -> Entry:
    """Compile a kernel, and count."""
    function, params, _ = kernels()[name]
    compiled = aot.compile_kernel(function, direction, target, DTYPES[dtype], params)
    count, registers, spills = _hip(compiled) if target.startswith("gfx") else _cuda(compiled)
    size = DTYPES[dtype].itemsize
    warp = aot.TARGETS[target].warp_size
    per_thread = launch.block_size(size, warp) // (launch.NUM_WARPS * warp)
    instructions, special = round(count.instructions / per_thread, 2), round(count.special / per_thread, 2)
    extra: dict[str, Any] = {}
    if target == "sm_90" and name not in LOOPS:
        extra = _prediction(instructions, special, size, direction)
        if dtype == "bfloat16" and name in LIMITS:
            extra["limit"] = LIMITS[name][DIRECTIONS.index(direction)]
    return Entry(
        *(name, direction, dtype, target, instructions, special),
        *(count.prologue, count.access_bytes, registers, spills),
        **extra,
    )


def entries(targets: Iterable[str] = aot.TARGETS, dtypes: Iterable[str] = DTYPES) -> Iterator[Entry]:
    """All of them."""
    for name, (_, _, directions) in kernels().items():
        for dtype in dtypes:
            for target in targets:
                for direction in directions:
                    yield entry(name, direction, dtype, target)


# ----- the kept figures


def load(path: Path = FILE) -> list[Entry]:
    """The kept figures."""
    kinds = {f.name: f.type for f in fields(Entry)}

    def read(name: str, text: str) -> Any:
        kind = str(kinds[name])
        if not text or kind == "str":
            return text
        return float(text) if "float" in kind else int(text)

    with path.open(newline="") as file:
        return [Entry(**{n: read(n, t) for n, t in row.items()}) for row in csv.DictReader(file)]


def write(found: Sequence[Entry], path: Path = FILE) -> None:
    """Keep figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(f.name for f in fields(Entry))
        writer.writerows(map(astuple, found))


def facts() -> dict[str, str]:
    """What the figures depend on."""
    ptxas = subprocess.run([f"{aot.TOOLS}/ptxas", "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "triton": triton.__version__,
        "ptxas": (re.findall(r"V([\d.]+)", ptxas) or ["unknown"])[0],
        "torch": torch.__version__,
        "breakpoints": str(PWL_BREAKPOINTS),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": "python -m bench.ledger --write",
    }


def problems(found: Iterable[Entry], kept: Iterable[Entry]) -> Iterator[str]:
    """What is worse than what was kept, or than it may be, in words."""
    before = {e.key: e for e in kept}
    for e in found:
        name = " ".join(e.key)
        if e.spills:
            yield f"{name}: {e.spills} spills"
        if e.access_bytes < 16:
            yield f"{name}: accesses of {e.access_bytes} bytes"
        if e.limit != "" and e.instructions > float(e.limit):
            yield f"{name}: {e.instructions} instructions per element, above the limit of {e.limit}"
        old = before.get(e.key)
        if old is None:
            yield f"{name}: not among the kept figures"
            continue
        for what in ("instructions", "special", "registers"):
            new, was = getattr(e, what), getattr(old, what)
            if new > was * TOLERANCE:
                yield f"{name}: {what} rose from {was:g} to {new:g}"


# ----- output


def table(found: Iterable[Entry]) -> str:
    """The figures of bfloat16 on sm_90 in markdown."""
    lines = [
        "| kernel | forward: instructions (limit) | backward (limit) | special functions | predicted bound |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    chosen = {e.key: e for e in found if (e.dtype, e.target) == ("bfloat16", "sm_90")}
    for name in dict.fromkeys(key[0] for key in chosen):
        both = [chosen.get((name, d, "bfloat16", "sm_90")) for d in DIRECTIONS]
        cells = []
        for e in both:
            limit = "" if e is None or e.limit == "" else f" ({e.limit})"
            cells.append("" if e is None else f"{e.instructions:.1f}{limit}")
        special = " / ".join(f"{e.special:g}" for e in both if e is not None)
        bounds = " / ".join(dict.fromkeys(e.bound for e in both if e is not None and e.bound))
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} | {special} | {bounds} |")
    return "\n".join(lines)


def section() -> str:
    """README.md's part, from the kept figures alone."""
    known = json.loads(FACTS.read_text())
    return (
        f"{BEGIN}\n\nTriton {known['triton']}, ptxas {known['ptxas']}, {known['date']}, `{known['command']}`; "
        f"bfloat16 on sm_90, per element; `pwl` with {known['breakpoints']} breakpoints, its search's loop counted "
        f"once.\n\n{table(load())}\n\n{END}"
    )


def updated(text: str) -> str:
    """README.md's text with the current section."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + section() + after


def _print(found: Iterable[Entry]) -> None:
    print(
        f"{'kernel':<24}{'direction':<10}{'dtype':<10}{'target':<8}{'instr':>7}{'special':>8}{'regs':>6}{'spills':>7}"
        f"{'width':>6}{'budget':>8}{'limit':>6}  predicted"
    )
    for e in found:
        predicted = f"{e.bound}, {e.predicted_tb_s} TB/s" if e.bound else ""
        print(
            f"{e.kernel:<24}{e.direction:<10}{e.dtype:<10}{e.target:<8}{e.instructions:>7.2f}{e.special:>8.2f}"
            f"{e.registers:>6}{e.spills:>7}{e.access_bytes:>6}{e.budget!s:>8}{e.limit!s:>6}  "
            f"{predicted}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {FILE.relative_to(ROOT)}")
    parser.add_argument("--check", action="store_true", help="exit with 1 if one is worse than what is kept")
    parser.add_argument("--targets", nargs="+", choices=aot.TARGETS, default=list(aot.TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    options = parser.parse_args(arguments)
    if options.write and (options.targets != list(aot.TARGETS) or options.dtypes != list(DTYPES)):
        parser.error("--write keeps all targets and dtypes")
    found = list(entries(options.targets, options.dtypes))
    _print(found)
    if options.write:
        write(found)
        FACTS.write_text(json.dumps(facts(), indent=2) + "\n")
        readme = ROOT / "README.md"
        readme.write_text(updated(readme.read_text()))
    if options.check:
        pinned = json.loads(FACTS.read_text())["triton"]
        if triton.__version__ != pinned:
            sys.exit(f"bench.ledger: the figures are of Triton {pinned}, this is {triton.__version__}")
        wrong = list(problems(found, load()))
        print("\n".join(wrong) or f"{len(found)} kernels: nothing is worse")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
