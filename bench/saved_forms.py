"""Errors of the derivatives that come from the output: `python -m bench.saved_forms`.

For each activation that need not keep its input, on all finite halves and on float32's numbers: the derivative by the
kernels (in Triton's interpreter where there is no GPU) and on the CPU path, against float64 at the input. Beside it
stand the derivative of the calls that keep the input, and what the rounding of the output alone leaves to be known. It
takes minutes; `--tables` only writes docs/saving_accuracy.md again, and `--check` tells whether it is current.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fusedact
from bench import accuracy, environment
from fusedact import functional
from fusedact.saving.saved_forms import SAVED

ROOT = environment.ROOT
RESULTS, PAGE = ROOT / "bench/results/saved_forms.json", ROOT / "docs/saving_accuracy.md"
DTYPES = accuracy.DTYPES
BACKENDS = {"kernels": "triton", "cpu": "eager"}
POINTS = 1_000_000
# Inputs of a normal distribution, for float32.
DRAWN = 1_000_000


def cases() -> Iterator[tuple[str, tuple[float, ...]]]:
    """Activations, and parameters of the tests for which the output is right."""
    import oracles

    for name, form in SAVED.items():
        yield from ((name, tuple(params)) for params in oracles.sweep(name) if not form.safe(*params))


def derivative(name: str, x: Tensor, params: Sequence[float], save: str) -> Tensor:
    """The gradient of a call for a gradient of ones, in x's dtype."""
    x = x.detach().requires_grad_()
    y = getattr(functional, name)(x, *params, save=save)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


def _through(backend: str, name: str, x: Tensor, params: Sequence[float], save: str) -> Tensor:
    """The same on one path."""
    with fusedact.backend(backend):
        return derivative(name, x, params, save)


def from_rounded_output(name: str, x: Tensor, params: Sequence[float]) -> Tensor:
    """The derivative in float64 of an output that was rounded to x's dtype: nobody can know more."""
    import oracles

    form, values = SAVED[name], oracles.rounded(params, x.dtype)
    bit = None if form.side is None else form.side(x.double(), *values)
    y = oracles.value(name, x, params).to(x.dtype).double()
    return form.gradient(torch.ones_like(y), y, bit, *values)[0]


def shares(x: Tensor) -> Tensor:
    """What part of a normal distribution is rounded to each of a half type's numbers, which lie in any order."""
    order = x.double().argsort()
    at = x.double()[order]
    middles = torch.cat([at.new_tensor([-math.inf]), (at[1:] + at[:-1]) / 2, at.new_tensor([math.inf])])
    # Of both tails from the side where they are small.
    tail = 0.5 * torch.erfc(middles.abs() / math.sqrt(2.0))
    below = torch.where(middles < 0, tail, 1.0 - tail)
    same_side = torch.where(at > 0, tail[:-1] - tail[1:], below[1:] - below[:-1])
    return torch.empty_like(same_side).scatter_(0, order, same_side)


def relative(found: Tensor, truth: Tensor, weights: Tensor) -> float:
    """The relative error in the mean square."""
    drawn = weights > 0
    found, truth, weights = found[drawn].double(), truth[drawn], weights[drawn]
    return math.sqrt(((found - truth).square() @ weights / (truth.square() @ weights)).item())


def _worst(found: Tensor, truth: Tensor, x: Tensor) -> tuple[float, float]:
    """The largest error, infinite for a NaN, and where it is."""
    worst, at = (found.double() - truth).abs().nan_to_num(nan=math.inf).max(0)
    return worst.item(), x[int(at)].item()


def _beyond(found: Tensor, truth: Tensor, yard: Tensor) -> int:
    """On how many halves the error is more than twice PyTorch's and half a unit."""
    return int((accuracy.units(found, truth) > 2 * accuracy.units(yard, truth) + 0.5).sum())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def measure(backends: dict[str, str], cases: Sequence[tuple[str, tuple[float, ...]]], points: int) -> list[Any]:
    """A row for each case, dtype and policy: how it was computed, "rounding" for what no computation can undo."""
    return [row for name, params in cases for d in DTYPES for row in rows(backends, name, params, d, points)]


def rows(
    backends: dict[str, str], name: str, params: tuple[float, ...], dtype_name: str, points: int
) -> Iterator[dict[str, Any]]:
    """Those of a case and dtype."""
    import oracles

    dtype = DTYPES[dtype_name]
    half = dtype != torch.float32
    x = torch.cat(list(accuracy.inputs(dtype, points)))
    # Every half counts for as much as it is drawn; of float32 some are.
    normal = x if half else torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))
    weights = shares(x) if half else torch.ones(DRAWN, dtype=torch.float64)
    truth, truth_normal = (oracles.gradient(name, torch.ones_like(t), t, params) for t in (x, normal))
    yard = oracles.yardstick_gradient(name, torch.ones_like(x), x, params)
    found: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
        (by, save): partial(_through, backend, name, params=params, save=save)
        for by, backend in backends.items()
        for save in ("output", "input")
    }
    if "cpu" in backends:
        found["rounding", "output"] = partial(from_rounded_output, name, params=params)
    for (by, save), compute in found.items():
        slope = compute(x)
        worst, at = _worst(slope, truth, x)
        yield {
            **{"activation": name, "params": params, "dtype": dtype_name, "by": by, "save": save},
            "relative": _rounded(relative(slope if half else compute(normal), truth_normal, weights)),
            **{"worst": _rounded(worst), "at": at, "inputs": x.numel()},
            "beyond": _beyond(slope, truth, yard) if half and by != "rounding" else None,
        }
    print(f"bench.saved_forms: {name} {params} {dtype_name}", file=sys.stderr, flush=True)


def _kernel_rows(names: Sequence[str], points: int) -> list[Any]:
    """Those of the kernels, by a process that interprets them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "bench.saved_forms", "--kernels", str(out), "--points", str(points), *names]
        # The interpreter computes with NumPy, which warns of every overflow.
        quiet = {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run(command, env={**os.environ, **quiet}, check=True, cwd=ROOT)
        found: list[Any] = json.loads(out.read_text())
        return found


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old result with the rows of some activations replaced, in the order of the cases.

    Raises:
        SystemExit: if they were made on another machine or with other versions.
    """
    for fact, value in new["environment"].items():
        if fact != "sources" and old["environment"].get(fact) != value:
            sys.exit(f"bench.saved_forms: {RESULTS.name} was made with another {fact}; measure all activations")
    measured = {row["activation"] for row in new["rows"]}
    rows = [row for row in old["rows"] if row["activation"] not in measured] + new["rows"]
    order = list(SAVED)
    commands = ", ".join(dict.fromkeys([*old["command"].split(", "), new["command"]]))
    return new | {"command": commands, "rows": sorted(rows, key=lambda row: order.index(row["activation"]))}


# ----- tables


MEANING = """# How exact a derivative is that comes from the output

Made by `python -m bench.saved_forms` from `bench/results/saved_forms.json`.

{caption} Where `save="output"` keeps the output in place of the input, or the output and a bit per element, its
derivative depends on how the output was rounded. Each line has errors against float64 at the input:

- *relative*: in the mean square, for normally distributed inputs, over the mean square of the derivative;
- *largest*: the largest error of a derivative on all finite inputs of the half types, {points:,} of float32 over all
  exponents, and where it is;
- *rounding of y*: what the rounding of the output leaves to be known, by inverting it in float64; *input*: what the
  rounding of the derivative itself leaves, by `save="input"`. No form that stores the output can be better than both.
- *beyond*: on how many of all finite inputs the error is larger than what this library promises by default, twice that
  of PyTorch in the same dtype and half a unit in the last place: kernels / CPU path.

The default could keep the output where none is beyond, for all parameters and both half types: {exact}. Of `sigmoid`
and `tanh` PyTorch keeps the output, and so does the default. `relu_sigmoid` of the smallest positive number is 0, and
from a 0 comes no gradient, where the input gives a half.

Near the minimum of a function that has one, the derivative changes as the root of the output: there half a unit of the
output is much, and the largest errors are.
"""


def _figure(value: float) -> str:
    return "NaN" if math.isinf(value) else "0" if value == 0 else f"{value:.1e}"


def _table(rows: Sequence[dict[str, Any]], dtype: str) -> str:
    found = {(r["activation"], tuple(r["params"]), r["by"], r["save"]): r for r in rows if r["dtype"] == dtype}
    half = dtype != "float32"
    header = ["activation", "kept", "relative: kernels / CPU", "rounding of y", "input", "largest: kernels / CPU"]
    header += ["at", "rounding of y", "beyond"][: 3 if half else 2]
    lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2)]
    for name, params in dict.fromkeys(key[:2] for key in found):
        kernels, cpu = (found[name, params, by, "output"] for by in ("kernels", "cpu"))
        limit, usual = found[name, params, "rounding", "output"], found[name, params, "kernels", "input"]
        called = f"`{name}({', '.join(f'{p:g}' for p in params)})`" if params else f"`{name}`"
        cells = [called, "output and bit" if SAVED[name].bits else "output"]
        cells += [f"{_figure(kernels['relative'])} / {_figure(cpu['relative'])}"]
        cells += [_figure(limit["relative"]), _figure(usual["relative"])]
        cells += [f"{_figure(kernels['worst'])} / {_figure(cpu['worst'])}"]
        cells += [f"{kernels['at']:.4g}" if kernels["worst"] else "", _figure(limit["worst"])]
        cells += [f"{kernels['beyond']} / {cpu['beyond']}"] if half else []
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(result: dict[str, Any]) -> str:
    """What the page should say."""
    rows = result["rows"]
    caption = accuracy._caption(result)
    points = max(r["inputs"] for r in rows)
    beyond = {row["activation"] for row in rows if row["save"] == "output" and row["beyond"]}
    exact = ", ".join(f"`{name}`" for name in SAVED if name not in beyond)
    parts = [MEANING.format(caption=caption, points=points, exact=exact)]
    parts += [f"\n## {dtype}\n\n{_table(rows, dtype)}\n" for dtype in DTYPES]
    return "".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.saved_forms", description=__doc__)
    parser.add_argument("names", nargs="*", help="activations whose rows to measure again; all unless given")
    parser.add_argument("--points", type=int, default=POINTS, help="numbers of float32")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the table is not current")
    parser.add_argument("--kernels", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = [case for case in cases() if not options.names or case[0] in options.names]
    if options.kernels:
        import arithmetic

        from fusedact.kernels import grids

        arithmetic.as_hardware(setattr)
        # The interpreter pays by the program: larger ones.
        grids.INTERPRETER_WARP_SIZE = 2**12
        options.kernels.write_text(json.dumps(measure({"kernels": BACKENDS["kernels"]}, chosen, options.points)))
        return
    if not (options.tables or options.check):
        rows = measure({"cpu": BACKENDS["cpu"]}, chosen, options.points)
        rows += _kernel_rows(options.names, options.points)
        result = {
            "environment": environment.facts(torch.device("cpu")),
            "kernels": "Triton's interpreter",
            "date": str(datetime.date.today()),
            "command": shlex.join(["python", "-m", "bench.saved_forms", *(arguments or sys.argv[1:])]),
            "rows": rows,
        }
        if options.names:
            result = _joined(json.loads(RESULTS.read_text()), result)
        lines = ",\n".join(json.dumps(row) for row in result.pop("rows"))
        RESULTS.write_text(f'{json.dumps(result, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')
    wanted = text(json.loads(RESULTS.read_text()))
    if options.check and (not PAGE.exists() or PAGE.read_text() != wanted):
        sys.exit(f"bench.saved_forms: not current: {PAGE.name}; run python -m bench.saved_forms --tables")
    if not options.check:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
