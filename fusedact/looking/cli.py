"""The command line: `python -m fusedact demo`, `list`, `show`, `plot`, `check`, `bench`, `doctor`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import fusedact

from .. import describe, registry
from ..engine import sources
from . import cli_measure, environment
from .terminal import as_json, say

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMED = (
    "an activation's name, or NAME:parameter=value,... such as leaky_relu:negative_slope=0.2; of your own, module.NAME"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.command(arguments)
    except ImportError as error:
        print(f"fusedact: {error}; pip install 'fusedact[demo]' brings what the command line needs", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"fusedact: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (TypeError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fusedact", description="Fused activation functions for PyTorch.")
    parser.add_argument("--version", action="version", version=f"fusedact {fusedact.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    demo = commands.add_parser("demo", help="train a small network once per activation")
    demo.add_argument("--data", metavar="NPZ", help="the full MNIST in Keras's format, in place of small digits")
    demo.add_argument("--plot", metavar="PNG", default="fusedact-demo.png", help="where the curves go")
    demo.add_argument("--epochs", type=_positive, help="epochs on the digits (default 30; 5 with --data)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--device", default=device)
    demo.set_defaults(command=_demo)

    listing = commands.add_parser("list", help="show all activations")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(command=_list)

    show = commands.add_parser("show", help="show the curve of an activation, and what is measured of it")
    show.add_argument("name", metavar="NAME", help=NAMED)
    _add_ends(show, -5.0, 5.0)
    show.add_argument("--no-timing", action="store_true", help="leave out the cost")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(command=cli_measure.show)

    plot = commands.add_parser("plot", help="draw activations, derivatives and second derivatives into a file")
    plot.add_argument("names", metavar="NAME", nargs="+", help=NAMED)
    plot.add_argument("-o", "--output", metavar="FILE", required=True, help="such as curves.png, .svg or .pdf")
    _add_ends(plot, None, None)
    plot.add_argument("--derivatives", type=int, default=2, choices=(0, 1, 2))
    plot.set_defaults(command=_plot)

    check = commands.add_parser("check", help="compare kernels and gradients on this device with the formulas")
    check.add_argument("--device", default=device)
    check.add_argument("--full", action="store_true", help="every dtype and layout: some minutes")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(command=cli_measure.check)

    bench = commands.add_parser("bench", help="time activations beside PyTorch and a copy")
    bench.add_argument("names", metavar="NAME", nargs="+", help=NAMED)
    bench.add_argument("--sizes", type=_positive, nargs="+", metavar="ELEMENTS", help="of the tensors")
    bench.add_argument("--dtype", default="float32", choices=tuple(cli_measure.DTYPES))
    bench.add_argument("--device", default=device)
    bench.add_argument("--seconds", type=float, default=0.3, help="for each size, forward and backward each")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.set_defaults(command=cli_measure.bench)

    doctor = commands.add_parser("doctor", help="show versions, devices, and the path that each call takes")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_ends(parser: argparse.ArgumentParser, low: float | None, high: float | None) -> None:
    parser.add_argument("--low", type=float, default=low, help="left end of the inputs")
    parser.add_argument("--high", type=float, default=high, help="right end of the inputs")


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

    from .. import demo
    from .plotting import plot

    environment.checked_device(arguments.device)
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
    plot(*curves, derivatives=1).savefig(arguments.plot, dpi=150)
    tables = [table, moved] if moved.row_count else [table]
    _print(*tables, f"Curves and derivatives: {arguments.plot}")


def _plot(arguments: argparse.Namespace) -> None:
    from ..modules import create
    from .plotting import plot

    ends = {"low": arguments.low, "high": arguments.high, "derivatives": arguments.derivatives}
    given = [cli_measure.given(text) for text in arguments.names]
    if len(given) == 1:
        ((activation, _, parameters),) = given
        figure = plot(activation, **ends, **parameters)
    else:
        drawn = [partial(a, **kw) if callable(a) else create(a, **kw) if kw else a for a, _, kw in given]
        figure = plot(*drawn, **ends, labels=arguments.names)
    figure.savefig(arguments.output, dpi=150)
    say(f"Written: {arguments.output}")


def _list(arguments: argparse.Namespace) -> None:
    if arguments.json:
        say(as_json([_told(registry.get(name)) for name in registry.names()]))
        return
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


def _told(spec: registry.ActivationSpec) -> dict[str, Any]:
    """What the list says of an activation."""
    ours, torchs = describe.kept(spec)
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "module": spec.module,
        "kind": spec.kind,
        "formula": spec.formula,
        "parameters": [{"name": p.name, "default": p.default, "learns": not p.fixed} for p in spec.parameters],
        "in_torch": describe.twin(spec),
        "kernel": describe.kernel(spec),
        "kept": {"kernels": ours, "torch": torchs},
    }


def _doctor(arguments: argparse.Namespace) -> None:
    versions, devices, kept = environment.versions(), environment.device_names(), sources.folder()
    found = [row for device in devices for row in _paths(device)]
    if arguments.json:
        known = {"versions": versions, "devices": devices, "generated_code": kept and str(kept)}
        say(as_json({**known, "paths": found}))
        return
    table = _table("Versions", "what", "version")
    for name, version in versions.items():
        table.add_row(name, version)
    paths = _table("Paths of a tensor with 2^22 elements", "device", "dtype", "activations", "path", "why")
    for row in found:
        paths.add_row(row["device"], ", ".join(row["dtypes"]), ", ".join(row["activations"]), row["path"], row["why"])
    _print(f"Generated code: {kept}" if kept else "Generated code: in memory alone, as no folder is this user's own")
    _print(table, f"Devices: {', '.join(f'{name} ({what})' for name, what in devices.items())}", paths)


def _paths(device: str) -> list[dict[str, Any]]:
    """The path of each activation and dtype on a device, those together that share one and its reason."""
    grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for dtype in DTYPES:
        # Nothing is allocated but one element: only kind, dtype, device and size count.
        x = torch.empty(1, dtype=dtype, device=device).expand(2**22)
        for name in registry.names():
            path = fusedact.explain(name, x)
            grouped.setdefault((path.kind, path.reason), []).append((str(dtype).removeprefix("torch."), name))
    return [
        {
            "device": device,
            "dtypes": list(dict.fromkeys(dtype for dtype, _ in uses)),
            "activations": list(dict.fromkeys(name for _, name in uses)),
            "path": kind,
            "why": reason,
        }
        for (kind, reason), uses in grouped.items()
    ]
