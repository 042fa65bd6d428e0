"""Counts what every kernel executes, from its machine code and without a device: `python -m bench.ledger`.

`--write` keeps the figures in bench/results/ledger.csv, `--readme` brings README.md's table up to date with that file.
`--check` writes nothing and exits with 1: after compiling, if a figure is worse than what is kept; with `--readme`, if
the table is not current.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import triton

from bench import aot, by_hand, disassembly, markdown, model, own
from fusedact import registry
from fusedact.engine import engine
from fusedact.kernels import grids, launch
from fusedact.piecewise import table_rows
from fusedact.registry import ActivationSpec

FIGURES, FACTS, README = Path("bench/results/ledger.csv"), Path("bench/results/ledger.json"), Path("README.md")
BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DIRECTIONS = ("forward", "backward")
# Tensors read and written.
MOVED = {"forward": (1, 1), "backward": (2, 1)}

# A kept figure may rise by so much.
TOLERANCE = 0.05

# The device that predictions are kept of.
DEVICE = model.H200
PREDICTED_FOR = DEVICE.target

# Every activation that kernels compute.
NAMES = tuple(name for name in registry.names("elementwise") if not registry.get(name).always_aten)

# What bf16 on sm_90 must keep to, in instructions per element: what leaves the memory the bound, and less for some.
BUDGETS = {"forward": 24, "backward": 36}
LIMITS = {
    **{(name, direction): BUDGETS[direction] for name in NAMES for direction in DIRECTIONS},
    ("relu_sigmoid", "forward"): 14,
    ("relu_sigmoid", "backward"): 22,
    ("elu", "forward"): 20,
    ("elu", "backward"): 20,
    ("selu", "forward"): 20,
    ("selu", "backward"): 20,
    ("tanh", "forward"): 20,
    ("gelu_tanh", "forward"): 14,
    ("silu", "forward"): 12,
    ("mish", "forward"): 15,
    ("softplus", "forward"): 14,
    ("pwl_uniform", "forward"): 20,
    ("pwl_uniform (steep)", "forward"): 20,
    ("pwl_uniform", "backward"): 24,
    # What leaves the memory the bound.
    **{
        (f"{name} ({how})", "backward"): 37
        for name in ("relu_sigmoid", "prelu", "swish")
        for how in ("learned", "per channel, last", "per channel, second")
    },
}
# A derivative that is right for every finite bfloat16 takes the sine of numbers up to 2^128: four words of 2 / pi are
# chosen and multiplied for each element.
del LIMITS["snake", "backward"]

# Where the channels of parameters per channel are; every size a multiple of what a thread takes.
PER_CHANNEL = {"last": ((64, 1024), 1), "second": ((8, 64, 1024), 1)}

# 63 breakpoints: tables with 64 entries, which a search halves six times.
BREAKPOINTS, ENTRIES, HALVINGS = 63, 64, 6
CELLS = 200

SPECIAL_FUNCTIONS = r"MUFU\b|v_(exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos)_(f16|f32)"
# Conversions that NVIDIA runs on the unit of the special functions; I2FP and F2FP are others.
CONVERSIONS = r"(F2I|I2F|F2F|FRND)\b"


@dataclass(frozen=True)
class Row:
    """A line of ledger.csv. Per element: what a thread executes for a whole block, after the prologue, by elements."""

    kernel: str
    direction: str
    dtype: str
    target: str
    instructions: float
    special: float
    conversions: float
    # Loads of less than 16 bytes.
    narrow_loads: float
    # Instructions a thread executes before the masked path leaves, or outside a loop over blocks, whatever the number
    # of its elements.
    prologue: int
    # Instructions with that share of the prologue that an element of a whole block has.
    issued: float
    # Of the accesses to global memory after the prologue, in bytes.
    widest_load: int
    narrowest_load: int
    widest_store: int
    narrowest_store: int
    # Whether the tensors move in 16-byte accesses alone; a table's entries are read one by one.
    wide: bool
    registers: int
    # Bytes of stack and local memory; on AMD, of private memory, and the registers spilled.
    spills: int
    # Only on sm_90: instructions that leave the memory the bound, the limit set, and what is predicted.
    budget: float | None = None
    limit: int | None = None
    bound: str = ""
    predicted_tb_s: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.kernel, self.direction, self.dtype, self.target


RISING = ("instructions", "special", "conversions", "narrow_loads", "prologue", "registers")


# ----- kernels


@dataclass(frozen=True)
class Kernel:
    """A device function with parameters; how often its loop, if it has one, runs; the channels' dimension."""

    function: str
    params: tuple[Any, ...] = ()
    directions: tuple[str, ...] = DIRECTIONS
    trips: int | None = None
    shape: tuple[int, ...] = (8, 1024)
    channel_dim: int | None = None
    # What is counted of it: all, or less of what the engine writes, which is compiled from the same templates.
    dtypes: tuple[str, ...] = tuple(DTYPES)
    targets: tuple[str, ...] = tuple(aot.TARGETS)


# What is counted of kernels that the engine wrote, and of those written by hand for more than a few activations; and
# of the catalogue's other kernels.
WRITTEN: dict[str, Any] = {"dtypes": ("bf16", "fp32"), "targets": ("sm_90", "gfx942")}
OTHERS: dict[str, Any] = {"dtypes": ("bf16",), "targets": ("sm_90", "gfx942")}
# Of what the engine would write in the place of what is written by hand.
BESIDE: dict[str, Any] = {"dtypes": by_hand.DTYPES, "targets": (by_hand.TARGET,)}
# Those of which everything is counted.
EVERYTHING = ("relu_sigmoid", "elu", "prelu", "swish")


def _generated(spec: ActivationSpec) -> str:
    """The name of the device functions that the engine writes for a built-in activation."""
    made = engine.program(spec.eager, spec.name, [p.name for p in spec.parameters], spec.reference)
    return _built(engine.completed(spec, made))


def _built(spec: ActivationSpec) -> str:
    """The name of an activation's generated device functions, which the launcher knows from now on."""
    spec.build(torch.device("cpu"))
    return spec.device


def _learned(spec: ActivationSpec, entries: int) -> tuple[Any, ...]:
    """The parameters' defaults, as tensors of so many entries where they are learned."""
    return tuple(p.default if p.fixed else torch.full((entries,), p.default) for p in spec.parameters)


def kernels() -> dict[str, Kernel]:
    """Every activation, its backward with learned parameters, also per channel; ways to find a segment in a table."""
    found = {}
    for name in NAMES:
        spec = registry.get(name)
        counted = {} if name in EVERYTHING else OTHERS
        forms = counted if spec.build or not counted else WRITTEN
        function = _built(spec) if spec.build else spec.device
        found[name] = Kernel(function, tuple(p.default for p in spec.parameters), **forms)
        if spec.learnable:
            learned = _learned(spec, 1)
            found[f"{name} (learned)"] = Kernel(function, learned, ("backward",), **counted)
            for where, (shape, dim) in PER_CHANNEL.items() if name in EVERYTHING else ():
                each = _learned(spec, shape[dim])
                found[f"{name} (per channel, {where})"] = Kernel(
                    function, each, ("backward",), shape=shape, channel_dim=dim
                )
    breakpoints = torch.linspace(-4, 4, BREAKPOINTS)
    for kind, steep in (("uniform", False), ("uniform", True), ("bucket", False), ("search", False)):
        plan = table_rows.Plan(kind, CELLS, steep)
        rows = table_rows.prepare(breakpoints, breakpoints.sin(), 0.0, 0.5, plan, torch.float32)
        table = launch.Table(rows, ENTRIES, steep)
        kernel = Kernel(f"pwl_{kind}", (table,), trips=HALVINGS if kind == "search" else None)
        # Only the values of halves have two ways.
        found[f"pwl_{kind}{' (steep)' * steep}"] = (
            replace(kernel, directions=("forward",), dtypes=("bf16", "fp16")) if steep else kernel
        )
    for spec in map(registry.get, NAMES):
        if not spec.build:
            beside = replace(found[spec.name], function=_generated(spec), **BESIDE)
            found[by_hand.GENERATED.format(spec.name)] = beside
    for name, activation in own.ALL.items():
        defaults = tuple(p.default for p in activation.spec.parameters)
        found[f"own {name}"] = Kernel(_built(activation.spec), defaults, **WRITTEN)
    return found


# ----- figures


def predicted(work: model.Work) -> dict[str, Any]:
    """What bounds a kernel, as the file says it."""
    return {
        "budget": round(DEVICE.budget(work.moved), 1),
        "bound": DEVICE.bound(work),
        "predicted_tb_s": round(DEVICE.bandwidth_of(work) / 1e12, 2),
    }


def _read(compiled: Any) -> tuple[list[disassembly.Instruction], int, int]:
    """A kernel's instructions, registers and spills."""
    if "amdgcn" in compiled.asm:
        spills = sum(aot.amd_metadata(compiled).values())
        return disassembly.gcn(compiled.asm["amdgcn"]), aot.amd_registers(compiled), spills
    used = aot.resources(compiled)
    return disassembly.sass(aot.disassembly(compiled)), used["REG"], used["STACK"] + used["LOCAL"]


Case = tuple[str, Kernel, str, str, str]


def sweep(cases: Iterable[Case]) -> Iterator[Row]:
    """Compile kernels as the launcher does, and count: their names, they, directions, dtypes, targets."""

    def compiled(_: str, kernel: Kernel, direction: str, dtype: str, target: str) -> tuple[Any]:
        how = (kernel.function, direction, target, DTYPES[dtype], kernel.params)
        return (aot.compile_kernel(*how, shape=kernel.shape, channel_dim=kernel.channel_dim),)

    def count(case: Case, made: tuple[Any]) -> Row:
        name, kernel, *rest = case
        return counted(*made, (name, *rest), kernel.trips, kernel.channel_dim is not None)

    return aot.counted(cases, compiled, count)


def row(*case: Any) -> Row:
    """That of one kernel."""
    (found,) = sweep([case])
    return found


def counted(compiled: Any, key: tuple[str, str, str, str], trips: int | None = None, loop: bool = False) -> Row:
    """The figures of a compiled kernel; with `loop`, of one that goes through its blocks in a loop."""
    name, direction, dtype, target = key
    size = DTYPES[dtype].itemsize
    elements = grids.BYTES_PER_THREAD // size
    code, registers, spills = _read(compiled)
    if loop:
        way = disassembly.once_round(code, grids.BYTES_PER_THREAD)
        elements = sum(int(i.stores * times) for i, times in way.rest) // size
    else:
        way = disassembly.whole_block(code, grids.BYTES_PER_THREAD, elements, trips)

    def each(pattern: str) -> float:
        return sum(times for i, times in way.rest if re.match(pattern, i.name)) / elements

    loads, stores = Counter(), Counter()
    for i, times in way.rest:
        loads.update({i.loads: times} if i.loads else {})
        stores.update({i.stores: times} if i.stores else {})
    in_16_bytes = (loads[16] * 16 // (elements * size), stores[16] * 16 // (elements * size))
    instructions, special, conversions = each(""), each(SPECIAL_FUNCTIONS), each(CONVERSIONS)
    issued = instructions + (0 if loop else len(way.prologue) / elements)
    prediction: dict[str, Any] = {}
    if target == PREDICTED_FOR:
        prediction = predicted(model.Work(sum(MOVED[direction]) * size, issued, special + conversions))
        if dtype == "bf16":
            prediction["limit"] = LIMITS.get((name, direction))
    return Row(
        *key,
        instructions=round(instructions, 2),
        special=round(special, 2),
        conversions=round(conversions, 2),
        narrow_loads=round(sum(count for width, count in loads.items() if width < 16) / elements, 2),
        prologue=len(way.prologue),
        issued=round(issued, 2),
        widest_load=max(loads),
        narrowest_load=min(loads),
        widest_store=max(stores),
        narrowest_store=min(stores),
        wide=all(found >= needed for found, needed in zip(in_16_bytes, MOVED[direction], strict=True)),
        registers=registers,
        spills=spills,
        **prediction,
    )


def cases(
    names: Collection[str] | None = None, dtypes: Iterable[str] = DTYPES, targets: Iterable[str] = aot.TARGETS
) -> Iterator[Case]:
    """All that is counted, or some kernels, dtypes and targets."""
    for name, kernel in kernels().items():
        if names is None or name in names:
            for direction in kernel.directions:
                for dtype in dtypes:
                    for target in targets:
                        if dtype in kernel.dtypes and target in kernel.targets:
                            yield name, kernel, direction, dtype, target


# ----- what is kept


def facts(arguments: Sequence[str]) -> dict[str, str]:
    """What the figures depend on, and how they were made."""
    versions = {name: aot.tool(name, "--version") for name in ("ptxas", "ptxas-blackwell", "nvdisasm")}
    return {
        "triton": triton.__version__,
        **{name: re.findall(r"V([\d.]+)", text)[0] for name, text in versions.items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "breakpoints": str(BREAKPOINTS),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(["python", "-m", "bench.ledger", *arguments]),
    }


def write(rows: Iterable[Row], path: Path) -> None:
    """Write ledger.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


_READ = {"str": str, "int": int, "float": float, "bool": lambda text: text == "True"}


def load(path: Path) -> list[Row]:
    """Read ledger.csv."""
    kinds = {f.name: _READ[str(f.type).removesuffix(" | None")] for f in fields(Row)}
    with path.open(newline="") as file:
        return [
            Row(**{name: kinds[name](text) if text or kinds[name] is str else None for name, text in line.items()})
            for line in csv.DictReader(file)
        ]


def problems(rows: Iterable[Row], kept: Iterable[Row]) -> Iterator[str]:
    """What is worse than what is kept, or than it may be."""
    before = {r.key: r for r in kept}
    now = dict(before)
    for r in rows:
        now[r.key] = r
        where = " ".join(r.key)
        if r.spills:
            yield f"{where}: spills ({r.spills})"
        if not r.wide:
            yield f"{where}: a tensor is not read or written 16 bytes at a time"
        if r.limit is not None and r.instructions > r.limit:
            yield f"{where}: {r.instructions:g} instructions per element, above the limit {r.limit}"
        old = before.get(r.key)
        if old is None:
            yield f"{where}: not in the kept figures"
            continue
        for name in RISING:
            new, was = getattr(r, name), getattr(old, name)
            if new > was * (1 + TOLERANCE):
                yield f"{where}: {name} rose from {was:g} to {new:g}"
    yield from by_hand.problems({key: r.instructions for key, r in now.items()})


# ----- text


def table(rows: Iterable[Row]) -> str:
    """All figures, a line each."""
    header = ["kernel", "direction", "dtype", "target", "predicted bound", "instr", "special", "conv", "narrow"]
    header += ["prologue", "load", "store", "regs", "spills", "budget", "limit"]
    lines = [header]
    for r in rows:
        bound = f"{r.bound}, {r.predicted_tb_s:.2f} TB/s" if r.bound else ""
        each = [f"{f:.2f}" for f in (r.instructions, r.special, r.conversions, r.narrow_loads)]
        widths = [f"{r.widest_load}/{r.narrowest_load}", f"{r.widest_store}/{r.narrowest_store}"]
        limits = ["" if value is None else f"{value:g}" for value in (r.budget, r.limit)]
        lines.append([*r.key, bound, *each, str(r.prologue), *widths, str(r.registers), str(r.spills), *limits])
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = header.index("instr")
    return "\n".join(
        "  ".join([c.ljust(w) for c, w in zip(line[:texts], wide, strict=False)])
        + "".join([f"  {c:>{w}}" for c, w in zip(line[texts:], wide[texts:], strict=True)])
        for line in lines
    )


def _readme_line(r: Row) -> str:
    limit = f"{r.budget:g}" if r.limit is None else f"{r.limit:g}"
    cells = [f"`{r.kernel}`", r.direction, f"{r.instructions:.1f}", limit, f"{r.special + r.conversions:.2g}"]
    cells += [f"{r.registers}", f"{r.bound}, {r.predicted_tb_s:.1f} TB/s"]
    return f"| {' | '.join(cells)} |"


def section(rows: Iterable[Row], known: dict[str, str]) -> str:
    """README.md's table: bf16 on sm_90."""
    rows = [r for r in rows if (r.dtype, r.target) == ("bf16", PREDICTED_FOR)]
    beside = {by_hand.GENERATED.format(name) for name in NAMES}
    chosen = [r for r in rows if r.kernel not in beside]
    return "\n".join(
        [
            f"bfloat16 compiled for sm_90 by Triton {known['triton']} (ptxas {known['ptxas']}), {known['date']}; "
            f"`pwl` with {known['breakpoints']} breakpoints:",
            "",
            "| kernel | direction | instructions | limit | special | registers | predicted bound |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- |",
            *map(_readme_line, chosen),
        ]
    )


# ----- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--readme", action="store_true", help="write the table of the kept figures into README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something is not as kept")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="count these only")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--targets", nargs="+", choices=aot.TARGETS, default=list(aot.TARGETS))
    parser.add_argument("--figures", type=Path, default=FIGURES, help="the kept figures; the facts lie beside them")
    parser.add_argument("--readme-file", type=Path, default=README)
    return parser


def _everything(options: argparse.Namespace) -> bool:
    return not options.kernels and {*options.dtypes} == {*DTYPES} and {*options.targets} == {*aot.TARGETS}


def _count(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Compile and count, then keep or compare."""
    facts_file = options.figures.with_suffix(FACTS.suffix)
    if options.check:
        known = json.loads(facts_file.read_text())["triton"]
        if known != triton.__version__:
            sys.exit(f"bench.ledger: the kept figures are Triton {known}'s, this is {triton.__version__}")
    found = list(sweep(cases(options.kernels, options.dtypes, options.targets)))
    print(table(found))
    if options.check:
        kept = load(options.figures)
        worse = list(problems(found, kept))
        if _everything(options):
            gone = {r.key for r in kept} - {r.key for r in found}
            worse += [f"{' '.join(key)}: kept, but there is no such kernel" for key in sorted(gone)]
        if worse:
            sys.exit("\n".join(["bench.ledger: worse than the kept figures:", *worse]))
    elif options.write:
        write(found, options.figures)
        facts_file.write_text(json.dumps(facts(arguments), indent=2) + "\n")


def _readme(options: argparse.Namespace) -> None:
    """Write README.md's table, or compare it."""
    known = json.loads(options.figures.with_suffix(FACTS.suffix).read_text())
    text = options.readme_file.read_text()
    try:
        current = markdown.updated(text, section(load(options.figures), known), BEGIN, END)
    except ValueError as error:
        sys.exit(f"bench.ledger: {options.readme_file}: {error}")
    if not options.check:
        options.readme_file.write_text(current)
    elif text != current:
        sys.exit(f"bench.ledger: {options.readme_file} is not current; run python -m bench.ledger --readme")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if options.kernels and (unknown := set(options.kernels) - set(kernels())):
        sys.exit(f"bench.ledger: no kernel {sorted(unknown)[0]!r}; there are {', '.join(kernels())}")
    if options.write and (options.check or not _everything(options)):
        sys.exit("bench.ledger: --write keeps all figures, and goes with neither --check nor a choice")
    if options.write or not options.readme:
        _count(options, arguments)
    if options.readme:
        _readme(options)


if __name__ == "__main__":
    main()
