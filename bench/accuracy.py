"""Largest errors of every activation, beside PyTorch's own on the same inputs: `python -m bench.accuracy`.

All 65,536 inputs of each half type, and numbers of every exponent in float32, against float64: values and gradients on
the CPU path, of the kernels (in Triton's interpreter where there is no GPU), and of PyTorch. It takes minutes;
`--tables` only writes docs/accuracy.md and README.md again, and `--check` tells whether they are current.
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import environment
from fusedact import registry

ROOT = environment.ROOT
# The truths, which the tests also compare with, and the activations of one's own that they know.
sys.path.append(str(ROOT / "tests"))

RESULTS, PAGE, README = ROOT / "bench/results/accuracy.json", ROOT / "docs/accuracy.md", ROOT / "README.md"
BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
WHATS = ("value", "gradient")
POINTS = 10_000_000
CHUNK = 2**20
# What the README shows: where spellings differ most.
SHOWN = ("gelu", "gelu_tanh", "silu", "mish", "softplus", "tanh", "elu", "selu", "relu_sigmoid", "serf", "telu")

Evaluation = Callable[[str, Tensor, tuple[float, ...]], tuple[Tensor, Tensor]]


def inputs(dtype: torch.dtype, points: int) -> Iterator[Tensor]:
    """All numbers of a half type that are finite; of float32 so many, evenly over the bit patterns of both signs."""
    if dtype != torch.float32:
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        yield x[x.isfinite()]
        return
    largest, each = 0x7F7FFFFF, points // 2
    for start in range(0, each, CHUNK):
        # An odd step reaches every low bit.
        bits = torch.arange(start, min(each, start + CHUNK), dtype=torch.int64) * (largest // each | 1) % largest
        for sign in (0, -(2**31)):
            yield (bits + sign).to(torch.int32).view(torch.float32)


def by_torch(name: str, x: Tensor, params: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Value and gradient as a user of PyTorch gets them."""
    import oracles

    return oracles.yardstick(name, x, params), oracles.yardstick_gradient(name, torch.ones_like(x), x, params)


def on_cpu(name: str, x: Tensor, params: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The same on the CPU path."""
    import oracles

    x = x.detach().requires_grad_()
    y = oracles.function(name)(x, *params)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y))[0]


def by_kernels(name: str, x: Tensor, params: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The same by the kernels."""
    from fusedact.kernels import launch

    spec = registry.get(name)
    if spec.build is not None:
        spec.build(x.device)
    y, dx = (torch.empty_like(x) for _ in range(2))
    launch.forward(spec.device, x, y, params)
    launch.backward(spec.device, torch.ones_like(x), x, dx, params, (False,) * len(params))
    return y, dx


def units(ours: Tensor, truth: Tensor) -> Tensor:
    """How far off each result is in units in the last place; infinite for a NaN."""
    import oracles

    largest = torch.finfo(ours.dtype).max
    after = largest + oracles.ulp(torch.tensor(largest, dtype=torch.float64), ours.dtype).item()
    reached, wanted = (t.double().clamp(-after, after) for t in (ours, truth))
    return ((reached - wanted).abs() / oracles.ulp(truth, ours.dtype)).nan_to_num(nan=math.inf, posinf=math.inf)


def measure(evaluations: dict[str, Evaluation], names: Sequence[str], points: int) -> list[dict[str, Any]]:
    """Rows with the largest error, and where it is, of each activation with its defaults."""
    import oracles

    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for name in names:
        params = tuple(oracles.sweep(name)[0])
        for dtype_name, dtype in DTYPES.items():
            count = 0
            for x in inputs(dtype, points):
                count += x.numel()
                truths = oracles.value(name, x, params), oracles.gradient(name, torch.ones_like(x), x, params)
                for by, evaluate in evaluations.items():
                    for what, ours, truth in zip(WHATS, evaluate(name, x, params), truths, strict=True):
                        worst, at = (t.item() for t in units(ours, truth).max(0))
                        key = (name, dtype_name, what, by)
                        if key not in rows or worst > rows[key]["units"]:
                            found = {"units": float(f"{worst:.4g}"), "at": x[int(at)].item()}
                            rows[key] = dict(zip(("activation", "dtype", "what", "by"), key, strict=True)) | found
            for (n, d, *_), row in rows.items():
                if (n, d) == (name, dtype_name):
                    row["inputs"] = count
        print(f"bench.accuracy: {name}", file=sys.stderr, flush=True)
    return list(rows.values())


def _kernel_rows(names: Sequence[str], points: int) -> list[dict[str, Any]]:
    """Those of the kernels, by a process that interprets them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "bench.accuracy", "--kernels", str(out), "--points", str(points), *names]
        # The interpreter computes with NumPy, which warns of every overflow.
        quiet = {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run(command, env={**os.environ, **quiet}, check=True, cwd=ROOT)
        return json.loads(out.read_text())


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old result with new rows in their places.

    Raises:
        SystemExit: if they were made on another machine or with other versions.
    """
    for fact, value in new["environment"].items():
        if fact != "sources" and old["environment"].get(fact) != value:
            sys.exit(f"bench.accuracy: {RESULTS.name} was made with another {fact}; measure all activations")
    found = {tuple(row[k] for k in ("activation", "dtype", "what", "by")): row for r in (old, new) for row in r["rows"]}
    commands = ", ".join(dict.fromkeys([*old["command"].split(", "), new["command"]]))
    return new | {"command": commands, "rows": list(found.values())}


# ----- tables


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return "NaN" if math.isinf(value) else f"{value:.3g}" if value < 1000 else f"{value:.0e}"


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """A line for each activation: kernels / CPU path / PyTorch, for each dtype, value and gradient."""
    found = {(r["activation"], r["dtype"], r["what"], r["by"]): r["units"] for r in rows}
    header = ["activation", *(f"{d} {w}" for d in DTYPES for w in WHATS)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for name in names:
        cells = [
            " / ".join(_figure(found.get((name, d, w, by))) for by in ("kernels", "cpu", "torch"))
            for d in DTYPES
            for w in WHATS
        ]
        lines.append([f"`{name}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _caption(result: dict[str, Any]) -> str:
    e = result["environment"]
    return (
        f"**{e['device']}**, kernels in {result['kernels']}; PyTorch {e['torch']}, Triton {e['triton']}, Python "
        f"{e['python']}; {result['date']}, {', '.join(f'`{c}`' for c in result['command'].split(', '))}."
    )


MEANING = (
    "Largest error in units in the last place against float64: kernels / CPU path / PyTorch's own operator, or the "
    "composition that a user would write, in the same dtype. 0.5 is correct rounding. All finite inputs of the half "
    "types, and {points:,} of float32 over all exponents; parameters are the defaults. Where a gradient crosses zero "
    "its unit is small, and an error of many units is still a small error. `NaN`: some finite input gives NaN or "
    "another infinity."
)


def texts(result: dict[str, Any]) -> dict[Path, str]:
    """What the files should say.

    Raises:
        ValueError: unless the README has its markers.
    """
    rows = result["rows"]
    names = list(dict.fromkeys(r["activation"] for r in rows))
    meaning = MEANING.format(points=max(r["inputs"] for r in rows))
    page = (
        "# Accuracy\n\nMade by `python -m bench.accuracy` from `bench/results/accuracy.json`.\n\n"
        f"{_caption(result)} {meaning}\n\n{_table(rows, names)}\n"
    )
    readme = README.read_text()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"bench.accuracy: {README.name} must hold {BEGIN} and {END}, once each")
    before, after = readme[: readme.index(BEGIN)], readme[readme.index(END) :]
    shown = _table(rows, [n for n in SHOWN if n in names])
    middle = (
        f"{BEGIN}\n\n{_caption(result)} {meaning}\n\n{shown}\n\nAll of them: [docs/accuracy.md](docs/accuracy.md).\n\n"
    )
    return {PAGE: page, README: before + middle + after}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("names", nargs="*", help="activations whose rows to measure again; all unless given")
    parser.add_argument("--points", type=int, default=POINTS, help="numbers of float32")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the tables")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is not current")
    parser.add_argument("--kernels", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.names or registry.names("elementwise")
    if options.kernels:
        import arithmetic

        from fusedact.kernels import grids

        arithmetic.as_hardware(setattr)
        # The interpreter pays by the program: larger ones.
        grids.INTERPRETER_WARP_SIZE = 2**12
        options.kernels.write_text(json.dumps(measure({"kernels": by_kernels}, names, options.points)))
        return
    if not (options.tables or options.check):
        rows = measure({"cpu": on_cpu, "torch": by_torch}, names, options.points)
        rows += _kernel_rows(names, options.points)
        result = {
            "environment": environment.facts(torch.device("cpu")),
            "kernels": "Triton's interpreter",
            "date": str(datetime.date.today()),
            "command": shlex.join(["python", "-m", "bench.accuracy", *(arguments or sys.argv[1:])]),
            "rows": rows,
        }
        if options.names:
            result = _joined(json.loads(RESULTS.read_text()), result)
        lines = ",\n".join(json.dumps(row) for row in result.pop("rows"))
        RESULTS.write_text(f'{json.dumps(result, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')
    wanted = texts(json.loads(RESULTS.read_text()))
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if options.check and old:
        sys.exit(
            f"bench.accuracy: not current: {', '.join(p.name for p in old)}; run python -m bench.accuracy --tables"
        )
    if not options.check:
        for path, text in wanted.items():
            path.write_text(text)


if __name__ == "__main__":
    main()
