"""The command line: `fusedact demo`, `fusedact list`, `fusedact doctor`."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch

import fusedact

from . import describe, registry, sources

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except ImportError as error:
        print(f"fusedact: {error}; pip install 'fusedact[demo]' brings what the command line needs", file=sys.stderr)  # noqa: T201
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fusedact", description="Fused activation functions for PyTorch.")
    parser.add_argument("--version", action="version", version=f"fusedact {fusedact.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser("demo", help="train a small network once per activation")
    demo.add_argument("--data", metavar="NPZ", help="the full MNIST in Keras's format, in place of small digits")
    demo.add_argument("--plot", metavar="PNG", default="fusedact-demo.png", help="where the curves go")
    demo.add_argument("--epochs", type=_positive, help="epochs on the digits (default 30; 5 with --data)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    demo.set_defaults(command=_demo)
    commands.add_parser("list", help="show all activations").set_defaults(command=_list)
    doctor = commands.add_parser("doctor", help="show versions, devices, and the path that each call takes")
    doctor.set_defaults(command=_doctor)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _print(*items: Any) -> None:
    from rich.console import Console

    # Tables keep their columns where the output is not a terminal.
    console = Console(width=None if sys.stdout.isatty() else 110)
    for item in items:
        console.print(item)


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _demo(arguments: argparse.Namespace) -> None:
    from rich.progress import Progress

    from . import demo
    from .plotting import plot

    digits = demo.load_mnist(arguments.data) if arguments.data else demo.load_digits(arguments.seed)
    circles = demo.load_circles(arguments.seed)
    epochs = {digits.name: arguments.epochs or (5 if arguments.data else 30), circles.name: 60}
    with Progress(transient=True) as progress:
        task = progress.add_task("training", total=len(demo.ACTIVATIONS) * sum(epochs.values()))

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=f"training {name}")

        results = demo.run([digits, circles], epochs, arguments.seed, arguments.device, advance)
    table = _table(
        f"{digits.train_x.shape[1]} → {demo.HIDDEN} → activation → {digits.classes} on {arguments.device}",
        *("activation", digits.name, circles.name, "step", "kept for backward", "path"),
    )
    for r in results:
        scores = [f"{r.accuracy[d.name]:.1%}" for d in (digits, circles)]
        table.add_row(r.activation, *scores, f"{r.step_seconds * 1e6:.0f} µs", f"{r.bytes_kept:g} B/element", r.path)
    moved = _table(
        f"What the parameters learned on {digits.name}",
        *("activation", "parameter", "entries", "began", "ended", "range"),
    )
    for r in results:
        for m in r.moved:
            span = f"{m.low:.3f} to {m.high:.3f}" if m.entries > 1 else ""
            moved.add_row(r.activation, m.name, str(m.entries), f"{m.start:.3f}", f"{m.mean:.3f}", span)
    starts = [demo.ACTIVATIONS[r.activation]() for r in results]
    curves = [(start, r.module) if r.moved else start for start, r in zip(starts, results, strict=True)]
    plot(*curves).savefig(arguments.plot, dpi=150)
    tables = [table, moved] if moved.row_count else [table]
    _print(*tables, f"Curves and derivatives: {arguments.plot}")


def _list(_: argparse.Namespace) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title="Activations", title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("name (aliases)", "module", "formula, parameters", "in PyTorch", "kernel", "kept"):
        # Formulas take what is left.
        wide = column.startswith("formula")
        table.add_column(column, ratio=1 if wide else None, no_wrap=not wide)
    for spec in map(registry.get, registry.names()):
        name = Text(spec.name, "bold").append("".join(f"\n({a})" for a in spec.aliases), "not bold")
        numbers = ", ".join(f"{text}{'*' if learns else ''}" for text, learns in describe.parameters(spec))
        ours, torchs = describe.kept(spec)
        kept = ours if torchs in ("", ours) else f"{ours}; {torchs}"
        # The option of a twin is told by its value.
        twin = re.sub(r"\(\w+=", "\n(", describe.twin(spec))
        formula = Text(spec.formula + (f"\n{numbers}" if numbers else ""))
        table.add_row(name, spec.module, formula, Text(twin), describe.kernel(spec), kept)
    _print(table, Text("*: a number, or a tensor with one entry or one per channel, which learns."))
    _print(Text(f"kept: for backward. {describe.KEPT}"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _doctor(_: argparse.Namespace) -> None:
    versions = _table("Versions", "what", "version")
    for name, version in (
        ("fusedact", fusedact.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("triton", _version("triton")),
    ):
        versions.add_row(name, version)
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    paths = _table("Paths of a tensor with 2^22 elements", "device", "dtype", "activations", "path", "why")
    for device in devices:
        grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for dtype in DTYPES:
            # Nothing is allocated but one element: only kind, dtype, device and size count.
            x = torch.empty(1, dtype=dtype, device=device).expand(2**22)
            for name in registry.names():
                path = fusedact.explain(name, x)
                grouped.setdefault((path.kind, path.reason), []).append((str(dtype).removeprefix("torch."), name))
        for (kind, reason), uses in grouped.items():
            dtypes = ", ".join(dict.fromkeys(dtype for dtype, _ in uses))
            activations = ", ".join(dict.fromkeys(name for _, name in uses))
            paths.add_row(device, dtypes, activations, kind, reason)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kept = sources.folder()
    _print(f"Generated code: {kept}" if kept else "Generated code: in memory alone, as no folder is this user's own")
    _print(versions, f"Devices: cpu ({torch.get_num_threads()} threads){''.join(f', {n}' for n in names)}", paths)
