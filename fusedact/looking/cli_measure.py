"""The commands that measure: `fusedact show`, `check` and `bench`."""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fusedact

from .. import compat, describe, functional, properties, registry
from ..checks import check_names
from ..custom import CustomActivation
from ..properties import Extremum, Properties
from ..registry import ActivationSpec
from ..saving import saving
from . import environment, selftest, stopwatch
from .plotting import curves
from .terminal import aligned, as_json, curve, say

__all__ = ["bench", "check", "facts_of", "given", "instructions", "interval", "show"]

# Where kernels of a checkout are counted; the wheel has no such file.
LEDGER = Path(__file__).resolve().parents[2] / "bench" / "results" / "ledger.csv"
COUNTED = ("bf16", "sm_90")
SIZES = (2**12, 2**16, 2**20, 2**22)
# Of the rows of softmax and of gates.
WIDTH = 256
# Where `show` takes the time.
SHOWN_SIZE = 2**20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class Given(NamedTuple):
    """An activation of the command line: its name, or one's own; its record, and its parameters."""

    activation: str | CustomActivation
    spec: ActivationSpec
    parameters: dict[str, Any]


def given(text: str) -> Given:
    """An activation as the command line has it: NAME or NAME:parameter=value,..., or module.NAME of one's own.

    Parameters that a function must be given have their module's defaults.

    Raises:
        TypeError: for a parameter that it does not have.
        ValueError: if the text is something else; for an unknown name, with the nearest ones.
    """
    name, _, rest = text.partition(":")
    activation = _own(name) if "." in name else name
    spec = registry.get(name, "fusedact") if isinstance(activation, str) else activation.spec
    parameters: dict[str, Any] = {p.name: p.default for p in spec.parameters if p.required and p.default is not None}
    for part in filter(None, rest.split(",")):
        key, sign, value = part.partition("=")
        if not sign or not key or not value:
            raise ValueError(f"fusedact: expected {name}:parameter=value,..., got {text!r}")
        check_names("fusedact", spec, [key])
        if any(key == option.name for option in spec.options):
            parameters[key] = value
            continue
        try:
            parameters[key] = float(value)
        except ValueError:
            raise ValueError(f"fusedact: {name}'s {key} must be a number, got {value!r}") from None
    return Given(activation, spec, parameters)


def _own(path: str) -> CustomActivation:
    """What `fusedact.activation` made, by the path of its module.

    Raises:
        ValueError: if there is none.
    """
    module, _, name = path.rpartition(".")
    # As python -m has it: modules of the folder that one is in.
    with_folder = [os.getcwd(), *sys.path]
    before, sys.path = sys.path, with_folder
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"fusedact: cannot find {path!r}: {error}") from None
    finally:
        sys.path = before
    if not isinstance(found, CustomActivation):
        raise ValueError(f"fusedact: {path} must be made by fusedact.activation, got {type(found).__name__}")
    return found


# ----- show


def show(arguments: argparse.Namespace) -> None:
    """Print the curve of an activation, what the record says, and what is measured."""
    subject = given(arguments.name)
    activation, spec, parameters = subject
    ours, torchs = describe.kept(spec)
    facts: dict[str, Any] = {
        "name": spec.name,
        "module": f"fusedact.{spec.module}"
        if isinstance(activation, str)
        else f"{arguments.name.split(':')[0]}.module",
        "parameters": {p.name: parameters.get(p.name, p.default) for p in spec.parameters},
        "formula": spec.formula,
        "in_torch": describe.twin(spec),
        "kernel": describe.kernel(spec),
        "kept_for_backward": {"kernels": ours, "torch": torchs, "policies": list(saving.accepted(spec))},
        "instructions": instructions(spec.name),
        "source": describe.source(spec),
    }
    measured = _measured(subject)
    cost = None if arguments.no_timing or measured is None else _cost(subject)
    if arguments.json:
        say(as_json({**facts, "measured": measured and measured.as_dict(), "cost": cost}))
        return
    said = ", ".join(f"{k}={v}" for k, v in facts["parameters"].items() if v is not None)
    say(f"{spec.name}  {spec.summary}\n{spec.formula}" + (f"\n{said}" if said else ""))
    if measured is not None:
        x, y = curves(activation, arguments.low, arguments.high, 481, 0, **parameters)
        say()
        for line in curve(x.tolist(), y.tolist()):
            say(line)
    rows = [] if measured is None else facts_of(measured)
    if cost is not None:
        told = ", ".join(f"{what} {times:.2g}" for what, times in cost.items())
        rows += [("cost, in copies", f"{told}; {SHOWN_SIZE} elements in float32, one thread of this CPU")]
    counted = facts["instructions"]
    if counted:
        told = ", ".join(f"{count:g} {direction}" for direction, count in counted.items())
        rows += [("instructions", f"{told}, for an element in {COUNTED[0]} on {COUNTED[1]}")]
    rows += [
        ("kept for backward", f"{ours}" + (f"; by PyTorch's operator {torchs}" if torchs not in ("", ours) else ""))
    ]
    rows += [("save=", ", ".join(saving.accepted(spec)))]
    rows += [("in PyTorch", describe.twin(spec) or "no"), ("kernel", describe.kernel(spec))]
    rows += [("source", describe.source(spec))] if describe.source(spec) else []
    say()
    for line in aligned(rows):
        say(line)


def _measured(subject: Given) -> Properties | None:
    """Nothing of what is not elementwise, or has no defaults."""
    activation, spec, parameters = subject
    if spec.kind in ("rowwise", "gated") or (spec.kind == "piecewise" and not parameters):
        return None
    return properties.measure(activation, **parameters)


def facts_of(p: Properties) -> list[tuple[str, str]]:
    """What was measured, in words, line by line."""
    places = {"jumps": p.jumps, "kinks": p.kinks, "bends": p.bends}
    smooth = "; ".join(f"{what} at {', '.join(f'{x:g}' for x in at)}" for what, at in places.items() if at)
    smooth = smooth.replace("kinks", "its slope jumps").replace("bends", "its slope bends") or "smooth"
    rows = [
        ("range", f"{interval(p.low, p.high)}{_where(p.low)}{_where(p.high)}"),
        ("monotone", p.monotone),
        ("smoothness", smooth),
        ("slope", f"at most {p.lipschitz:.6g} in magnitude" if math.isfinite(p.lipschitz) else "without bound"),
        ("far left, right", f"{p.left}; {p.right}"),
        ("of normal inputs", f"mean {p.mean:.4f}, standard deviation {p.std:.4f}"),
        ("dead", f"{p.dead:.2%} of normal inputs have slope 0"),
        ("saturated", _saturated(p)),
    ]
    if p.gain is not None and p.gradient_factor is not None:
        rows += [("gain", f"{p.gain:.4f}; with it a layer multiplies gradients by {p.gradient_factor:.4f}")]
    return rows


def _saturated(p: Properties) -> str:
    sides = [f"below {p.saturated_below:.4g}" if p.saturated_below is not None else ""]
    sides += [f"above {p.saturated_above:.4g}" if p.saturated_above is not None else ""]
    where = " and ".join(filter(None, sides)) or "on no side"
    return f"{where}: slope under a hundredth of the largest; {p.saturated:.2%} of normal inputs have such a slope"


def interval(low: Extremum, high: Extremum) -> str:
    """The range of values, with round brackets where an end is only approached."""
    return f"{'[' if low.attained else '('}{low.value:.5g}, {high.value:.5g}{']' if high.attained else ')'}"


def _where(end: Extremum) -> str:
    """Where an extremum is, if at a single place."""
    if not end.attained or abs(end.at) >= properties.FAR:
        return ""
    return f", {end.value:.5g} at {end.at:.5g}"


def instructions(name: str) -> dict[str, float]:
    """Instructions for an element in forward and backward, where this is a checkout; nothing otherwise."""
    if not LEDGER.is_file():
        return {}
    with LEDGER.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["kernel"] == name and (r["dtype"], r["target"]) == COUNTED]
    return {r["direction"]: float(r["instructions"]) for r in rows}


def _cost(subject: Given) -> dict[str, float]:
    """How many times as long as a copy a call takes on the CPU, in one thread, which other programs disturb least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = timed(subject, (SHOWN_SIZE,), torch.float32, torch.device("cpu"), 0.4)
    finally:
        torch.set_num_threads(threads)
    return {r["what"]: r["copies"] for r in rows if r["provider"] == "fusedact"}


# ----- bench


def bench(arguments: argparse.Namespace) -> None:
    """Time activations beside PyTorch and a copy."""
    device, dtype = environment.checked_device(arguments.device), DTYPES[arguments.dtype]
    rows: list[dict[str, Any]] = []
    for text in arguments.names:
        rows += timed(given(text), arguments.sizes or SIZES, dtype, device, arguments.seconds)
    if arguments.json:
        around = {"versions": environment.versions(), "device": str(device), "dtype": arguments.dtype}
        say(as_json({**around, "threads": torch.get_num_threads(), "rows": rows}))
        return
    head = ["activation", "elements", "what", "by", "\u00b5s", "quartiles", "copies", "path"]
    table = [head]
    for r in rows:
        quartiles = f"{r['low_us']:.3g} to {r['high_us']:.3g}"
        cells = [r["activation"], str(r["elements"]), r["what"], r["provider"], f"{r['us']:.3g}", quartiles]
        table.append([*cells, f"{r['copies']:.2f}", r["path"]])
    for line in aligned(table, right=(1, 4, 6)):
        say(line)
    name = environment.device_names().get(str(device), str(device))
    say(f"\n{arguments.dtype} on {device} ({name}); medians of calls that alternate; copies: times that of x.clone().")
    say("Forward moves as much as one copy, forward and backward as much as two and a half.")


def timed(
    subject: Given,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float,
) -> list[dict[str, Any]]:
    """Rows of times: for each size and direction of this library, of PyTorch, and of a copy.

    Raises:
        ValueError: for tables, which need points.
    """
    activation, spec, parameters = subject
    ours, torchs = _providers(subject)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        x = torch.randn(size, device=device).to(dtype)
        if spec.kind in ("rowwise", "gated"):
            x = x.view(-1, size if size % WIDTH else WIDTH)
        asked = {"training": True} if spec.kind == "random" else parameters
        path = fusedact.explain(activation, x, **asked)
        for what in ("forward", "forward and backward"):
            calls: dict[str, Callable[[], object]] = {"copy": x.clone}
            for provider, function in (("fusedact", ours), ("PyTorch", torchs)):
                calls[provider] = _call(function, x, what != "forward")
            times = stopwatch.alternating(calls, device, seconds)
            for provider in ("fusedact", "PyTorch", "copy"):
                t = times[provider]
                row = {"activation": spec.name, "elements": size, "what": what, "provider": provider}
                row |= {"us": t.median * 1e6, "low_us": t.low * 1e6, "high_us": t.high * 1e6}
                row |= {"copies": t.median / times["copy"].median}
                rows.append({**row, "path": path.kind if provider == "fusedact" else ""})
    return rows


def _providers(subject: Given) -> tuple[Callable[[Tensor], Tensor], ...]:
    """This library's function of a tensor, and PyTorch's operator, or the formula in its operators."""
    activation, spec, parameters = subject
    function: Any = getattr(functional, spec.name) if isinstance(activation, str) else activation
    if spec.kind == "piecewise":
        raise ValueError("fusedact bench: pwl needs points; name an activation without a table")
    if spec.kind == "random":
        return (
            lambda t: function(t, training=True, **parameters),
            lambda t: torch.nn.functional.rrelu(t, training=True, **parameters),
        )
    if spec.kind == "gated":
        return function, torch.nn.functional.glu
    if spec.kind == "rowwise":
        if spec.name == "softmax2d":
            raise ValueError("fusedact bench: softmax2d is softmax over channels; time softmax")
        plain = getattr(torch.nn.functional, spec.name)
        return lambda t: function(t, -1), lambda t: plain(t, -1)
    chosen = registry.chosen("fusedact bench", spec, *(parameters.get(o.name, o.default) for o in spec.options))
    numbers = [parameters.get(p.name, p.default) for p in spec.parameters]
    plainly = chosen.aten or chosen.eager
    return lambda t: function(t, **parameters), lambda t: plainly(t, *numbers)


def _call(function: Callable[[Tensor], Tensor], x: Tensor, backward: bool) -> Callable[[], object]:
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(x)

        return forward
    leaf = x.detach().clone().requires_grad_()
    g = torch.ones_like(function(x))
    return lambda: torch.autograd.grad(function(leaf), leaf, g)


# ----- check


def check(arguments: argparse.Namespace) -> int:
    """Compare everything with its formula; returns 1 if something is wrong."""
    device = environment.checked_device(arguments.device)
    why_not = compat.kernels_serve_device(device)
    how = f"the path for the CPU ({why_not})" if why_not else "Triton kernels"
    how += " in the interpreter" if not why_not and compat.interpreting else ""
    if not arguments.json:
        say(f"Values and gradients on {device}, by {how}, against the formulas in float64.")
        if device.type == "cuda":
            say("Kernels that are not in Triton's cache are compiled first, which takes a minute or two.")
    results = selftest.run(device, arguments.full)
    wrong = [failure for r in results for failure in r.failures]
    around = {"versions": environment.versions(), "devices": environment.device_names()}
    command = f"python -m fusedact check --device {device}" + " --full" * arguments.full
    if arguments.json:
        rows = [{**asdict(r), "worst": r.worst if math.isfinite(r.worst) else None} for r in results]
        say(as_json({**around, "command": command, "path": how, "right": not wrong, "families": rows}))
        return int(bool(wrong))
    table = [["family", "cases", "wrong", "largest error", "seconds"]]
    for r in results:
        error = f"{r.worst:.0%} of what is allowed"
        table.append([r.family, str(r.cases), str(len(r.failures)), error, f"{r.seconds:.1f}"])
    for line in aligned(table, right=(1, 2, 3, 4)):
        say(line)
    if not wrong:
        say(f"\nAll {sum(r.cases for r in results)} cases are right.")
        return 0
    say(f"\n{len(wrong)} of {sum(r.cases for r in results)} cases are wrong:")
    for failure in wrong[:20]:
        say(f"  {failure}")
    if len(wrong) > 20:
        say(f"  and {len(wrong) - 20} more; --json names all")
    say("\nPlease report this, with these lines and the ones above:")
    for name, value in {**around["versions"], **around["devices"]}.items():
        say(f"  {name}: {value}")
    say(f"  command: {command}")
    say("Until then FUSEDACT_BACKEND=eager keeps to PyTorch's operators.")
    return 1
