"""Sums over 10^8 elements, the gradients of learned parameters: `python -m bench.sums`, in ten minutes on a CPU.

Every activation that learns, with one parameter and with one per channel, and learned tables, in float32 and bfloat16,
against float64: an error is relative to the sum of the absolute terms, and the worst entry of all parameters counts.
Each sum is made twice, and must be the same to the bit. x is normal. A constant gradient comes in, as that of a mean,
so that terms of one sign add up; a normal one, so that they cancel; or, with a parameter per channel, both in turn.

Pixels have the same numbers many times. So the truth needs no float64 copy, and no pass over the elements for each
case: the gradient is summed once over the places of each number, in float64, and the truth of a case is a formula of
these numbers alone. Rows of softmax are all different, and read some at a time.

It exits with 1 if a sum is farther off than BOUND, or differs between two runs. `--write` keeps the figures in
bench/results/<device>/sums.json; `--check` measures nothing, and exits with 1 unless the file of the CPU has all cases,
all are within the bound, and README.md and docs/pwl.md say so. Breakpoints learn in every other table; with `--all`
each is tried in both ways.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import environment
from fusedact import functional as FF
from fusedact import registry

ROOT = environment.ROOT
# The truths, which the tests also compare with.
sys.path.append(str(ROOT / "tests"))

RESULTS = ROOT / "bench/results/cpu/sums.json"
PAGES = (ROOT / "README.md", ROOT / "docs/pwl.md")
BOUND = 1e-5
ELEMENTS = 10**8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMS = ("tensor", "channel")
POINTS, SPACINGS = (8, 17, 64, 1024), ("even", "uneven")
LEARNED = ("values, slopes", "values, slopes, breakpoints")
# Of x: images of so many channels and pixels; and rows, which are images of 10 by 10 by 10 to softmax2d.
CHANNELS, PIXELS, ROW = 16, (50, 50), (10, 10, 10)
WHOLE = CHANNELS * PIXELS[0] * PIXELS[1]
# How many numbers the pixels are drawn from; and how many rows are in float64 at a time.
NUMBERS, ROWS = 2**18, 2**10
# What comes in, by form; "both" is constant in every other channel, normal in the others.
GRADIENTS = {"tensor": ("constant", "normal"), "channel": ("both",)}
# Where the defaults leave nothing to sum, or are 0 in every channel.
VALUES = {"relu_sigmoid": (0.1,), "clipped_gelu": (-0.1, 1.5)}

Row = dict[str, Any]
# By a parameter's name: the sums, and those of the absolute terms.
Sums = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """An activation whose parameters learn; `points` and what follows are those of a table."""

    name: str
    form: str
    dtype: str
    points: int = 0
    spacing: str = ""
    learned: str = ""

    @property
    def kind(self) -> str:
        """As the registry has it."""
        return registry.get(self.name).kind

    def __str__(self) -> str:
        return f"{self.name} ({self.points}, {self.spacing}; {self.learned})" if self.points else self.name


def tables(every: bool = False) -> Iterator[Case]:
    """Those of tables: any three properties meet in all ways; or all do."""
    for k, s, f, d, n in itertools.product(range(len(POINTS)), *[range(2)] * 4):
        if every or n == (k + k // 2 + s + d) % 2:
            yield Case("pwl", FORMS[f], list(DTYPES)[d], POINTS[k], SPACINGS[s], LEARNED[n])


def cases(every: bool = False) -> list[Case]:
    """All that can learn."""
    learnable = [name for name in registry.names() if registry.get(name).learnable]
    of = {kind: [n for n in learnable if registry.get(n).kind == kind] for kind in registry.KINDS}
    if set(of["piecewise"]) != {"pwl"} or of["random"] or of["gated"]:
        raise NotImplementedError("bench.sums: a new kind of activation learns, and has no truth here")
    made = [Case(*c) for c in itertools.product(of["elementwise"], FORMS, DTYPES)]
    return [*made, *tables(every), *(Case(*c) for c in itertools.product(of["rowwise"], FORMS[:1], DTYPES))]


# ----- what comes in


@dataclass
class Inputs:
    """x, its gradients, and what truths are made of: for images, by channel and number, sums of g and of |g|.

    For rows these are x and its gradients again.
    """

    x: Tensor
    numbers: Tensor
    gradients: dict[str, Tensor]
    sums: dict[str, Tensor]
    sizes: dict[str, Tensor]


def images(dtype: torch.dtype, elements: int, device: torch.device) -> Inputs:
    """For what has channels."""
    generator = torch.Generator().manual_seed(0)
    count = min(NUMBERS, elements)
    numbers = torch.randn(count, generator=generator).to(dtype)
    shape = (elements // WHOLE, CHANNELS, *PIXELS)
    which = torch.randint(count, shape, generator=generator, dtype=torch.int32)
    x = numbers.index_select(0, which.flatten()).reshape(shape)
    normal = torch.randn(shape, generator=generator).to(dtype)
    same = torch.full((), 1 / elements).to(dtype)
    counts, sums, sizes = (torch.empty(CHANNELS, count, dtype=torch.float64) for _ in range(3))
    for c in range(CHANNELS):
        at, g = which[:, c].flatten(), normal[:, c].flatten().double()
        counts[c] = torch.bincount(at, minlength=count)
        sums[c] = torch.bincount(at, g, count)
        sizes[c] = torch.bincount(at, g.abs_(), count)
    del which
    counts *= same.double()
    even = (torch.arange(CHANNELS) % 2 == 0)[:, None]
    both = normal.clone()
    both[:, ::2] = same
    return Inputs(
        x.to(device),
        numbers.double(),
        {
            "constant": torch.full_like(x, same.item(), device=device),
            "normal": normal.to(device),
            "both": both.to(device),
        },
        {"constant": counts, "normal": sums, "both": torch.where(even, counts, sums)},
        {"constant": counts, "normal": sizes, "both": torch.where(even, counts, sizes)},
    )


def rows(dtype: torch.dtype, elements: int, device: torch.device) -> Inputs:
    """For softmax and its kin. Rows that come again would have the same errors of rounding, which then add up."""
    generator = torch.Generator().manual_seed(0)
    length = ROW[0] * ROW[1] * ROW[2]
    x, normal = (torch.randn(elements // length, length, generator=generator).to(dtype) for _ in range(2))
    gradients = {"constant": torch.full((), 1 / elements).to(dtype).expand(x.shape), "normal": normal}
    on_device = {name: g.to(device).contiguous() for name, g in gradients.items()}
    return Inputs(x.to(device), x, on_device, gradients, gradients)


# ----- what learns, and the truth of its gradients


def parameters(case: Case) -> dict[str, float | Tensor]:
    """Numbers for those that cannot learn, else float32, also where x is not; channels differ."""
    count = CHANNELS if case.form == "channel" else 1
    if case.kind == "piecewise":
        from learned_oracle import made

        points = made(case.points, case.spacing, None if count == 1 else count)
        names = ("breakpoints", "values", "left_slope", "right_slope")
        return {name: t.float() for name, t in zip(names, points, strict=True)}
    if case.kind == "rowwise":
        return {"temperature": torch.tensor([1.5])}
    specs = registry.get(case.name).parameters
    values = VALUES.get(case.name) or [p.default for p in specs]
    apart = 1 + torch.arange(count) / (2 * CHANNELS)
    return {p.name: v if p.fixed else v * apart for p, v in zip(specs, values, strict=True)}


def learning(case: Case, given: dict[str, float | Tensor]) -> list[str]:
    """The names of those that do."""
    fixed = "breakpoints" if case.points and "breakpoints" not in case.learned else ""
    return [name for name, p in given.items() if isinstance(p, Tensor) and name != fixed]


def call(case: Case, x: Tensor, given: dict[str, float | Tensor]) -> Tensor:
    """The public function."""
    function = getattr(FF, case.name)
    if case.kind != "rowwise":
        return function(x, **given)
    return function(x.view(-1, *ROW), **given).view(x.shape) if case.name == "softmax2d" else function(x, -1, **given)


def truth(case: Case, given: dict[str, float | Tensor], inputs: Inputs, gradient: str) -> Sums:
    """In float64."""
    sums, sizes = inputs.sums[gradient], inputs.sizes[gradient]
    if case.kind == "rowwise":
        return {"temperature": _of_temperature(case.name, inputs.numbers, sums, given["temperature"].double())}
    if case.form == "tensor":
        sums, sizes = sums.sum(0, keepdim=True), sizes.sum(0, keepdim=True)
    if case.kind == "piecewise":
        return _of_tables(inputs.numbers, given, sums, sizes)
    from truths import TRUTHS

    names = learning(case, given)
    found: Sums = {name: tuple(torch.empty(len(sums), dtype=torch.float64) for _ in range(2)) for name in names}
    for c in range(len(sums)):
        values = [p[c].item() if isinstance(p, Tensor) else p for p in given.values()]
        for name, slope in zip(names, TRUTHS[case.name].parameters, strict=True):
            terms = slope(inputs.numbers, *values)
            for into, weights, t in zip(found[name], (sums, sizes), (terms, terms.abs()), strict=True):
                into[c] = (weights[c] * t).sum()
    return found


def _of_temperature(name: str, x: Tensor, g: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """What each element of a row changes by with the temperature, times g."""
    dim, shape = (-3, (-1, *ROW)) if name == "softmax2d" else (-1, (-1, x.shape[-1]))
    total, size = torch.zeros(2, 1, dtype=torch.float64)
    for some, weights in zip(x.split(ROWS), g.split(ROWS), strict=True):
        z = some.double().view(shape) * (-1 if name == "softmin" else 1) / temperature
        y = torch.softmax(z, dim)
        terms = ((y * z).sum(dim, keepdim=True) - z) / temperature
        terms *= weights.double().view(shape) if name == "log_softmax" else y.mul_(weights.double().view(shape))
        total += terms.sum()
        size += terms.abs_().sum()
    return total, size


def _of_tables(x: Tensor, given: dict[str, float | Tensor], sums: Tensor, sizes: Tensor) -> Sums:
    """The shares of docs/pwl.md, in closed form, so that an entry that no element counts to is exactly 0."""
    b, v, *outer = (p.double().reshape(len(sums), -1) for p in given.values() if isinstance(p, Tensor))
    parts = [_of_table(x, b[c], v[c], *(s[c] for s in outer), (sums[c], sizes[c])) for c in range(len(sums))]
    shapes = {name: p.shape for name, p in given.items() if isinstance(p, Tensor)}
    return {
        name: (
            torch.stack([p[i][0] for p in parts]).reshape(shape),
            torch.stack([p[i][1] for p in parts]).reshape(shape),
        )
        for i, (name, shape) in enumerate(shapes.items())
    }


def _of_table(
    x: Tensor, b: Tensor, v: Tensor, left: Tensor, right: Tensor, weights: Sequence[Tensor]
) -> list[list[Tensor]]:
    """For breakpoints, values and slopes: the sums with these weights, the first with signs."""
    slopes = torch.cat([left, v.diff() / b.diff(), right])
    at = torch.bucketize(x, b, right=True)
    # At a breakpoint it is the flatter segment, the right one if both are.
    on = (at > 0) & (x == b[(at - 1).clamp(min=0)])
    at = at - (on & (slopes[at].abs() > slopes[(at - 1).clamp(min=0)].abs())).long()
    lower, upper = (at - 1).clamp(min=0), at.clamp(max=len(b) - 1)
    part = torch.where(upper > lower, (x - b[lower]) / (b[upper] - b[lower]), 0.0)
    below, above = (x - b[0]).clamp(max=0.0), (x - b[-1]).clamp(min=0.0)
    found: list[list[Tensor]] = [[], [], [], []]
    for i, w in enumerate(weights):
        steep, distances = (-slopes[at], (below, above)) if i == 0 else (slopes[at].abs(), (-below, above))
        for into, share in zip(found, (w * steep, w), strict=False):
            into.append(torch.bincount(lower, share * (1 - part), len(b)) + torch.bincount(upper, share * part, len(b)))
        for into, distance in zip(found[2:], distances, strict=True):
            into.append((w * distance).sum().reshape(1))
    return found


# ----- comparison


def error(found: Tensor, sums: Tensor, sizes: Tensor) -> float:
    """The worst entry; where there is nothing to sum it must be 0."""
    apart = (found.double() - sums).abs()
    relative = torch.where(apart == 0, 0.0, apart / sizes)
    return relative.nan_to_num(torch.inf, posinf=torch.inf).max().item()


def measured(case: Case, inputs: Inputs) -> Iterator[Row]:
    """A row for each gradient that comes in."""
    given = parameters(case)
    names = learning(case, given)
    # Copies, as the truth needs no graph.
    leaf = {name: p.to(inputs.x.device, copy=True) for name, p in given.items() if isinstance(p, Tensor)}
    for name in names:
        leaf[name].requires_grad_()
    x = inputs.x.detach().requires_grad_()
    leaves = [x, *(leaf[name] for name in names)]
    y = call(case, x, given | leaf)
    for gradient in GRADIENTS[case.form]:
        start = time.perf_counter()
        first, second = (
            [t.cpu() for t in torch.autograd.grad(y, leaves, inputs.gradients[gradient], retain_graph=True)[1:]]
            for _ in range(2)
        )
        seconds = time.perf_counter() - start
        true = truth(case, given, inputs, gradient)
        errors = {name: error(t, *true[name]) for name, t in zip(names, first, strict=True)}
        yield {
            "case": str(case),
            "form": case.form,
            "dtype": case.dtype,
            "gradient": gradient,
            "errors": {name: float(f"{e:.2g}") for name, e in errors.items()},
            "same_bits": all(map(torch.equal, first, second)),
            "seconds": round(seconds, 2),
        } | environment.state(inputs.x.device)


def measure(chosen: Sequence[Case], elements: int, device: torch.device) -> Iterator[Row]:
    """Rows of all cases: those that share inputs after each other."""
    for dtype, make in itertools.product(DTYPES, (images, rows)):
        these = [c for c in chosen if c.dtype == dtype and (c.kind == "rowwise") == (make is rows)]
        inputs = make(DTYPES[dtype], elements, device) if these else None
        for case in these:
            yield from measured(case, inputs)


def problems(rows_: Sequence[Row], chosen: Sequence[Case]) -> dict[tuple[str, ...], str]:
    """What is wrong with figures: cases that are missing, sums that are not within the bound, or not the same twice."""
    found: dict[tuple[str, ...], str] = {key: "missing" for c in chosen for key in _keys(c)}
    for row in rows_:
        found.pop(_key(row), None)
        # A NaN is not within it.
        if not max(row["errors"].values()) <= BOUND:
            found[_key(row)] = f"{row['errors']}, more than {BOUND:g}"
        if not row["same_bits"]:
            found[_key(row)] = "two runs differ"
    return found


def _keys(case: Case) -> list[tuple[str, ...]]:
    return [(str(case), case.form, case.dtype, gradient) for gradient in GRADIENTS[case.form]]


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[k] for k in ("case", "form", "dtype", "gradient"))


def sentence(result: dict[str, Any]) -> str:
    """What README.md and docs/pwl.md say."""
    worst = {_key(row): max(row["errors"].values()) for row in result["rows"]}
    of_tables = max(e for key, e in worst.items() if key[0].startswith("pwl ("))
    others = max(e for key, e in worst.items() if not key[0].startswith("pwl ("))
    count = f"10^{len(str(result['elements'])) - 1}"
    return (
        f"Over {count} elements on a CPU, in float32 and bfloat16, sums for learned tables are within {of_tables:.1g} "
        f"of float64, relative to the sum of the absolute terms, and those for all other parameters within "
        f"{others:.1g} (`python -m bench.sums`)."
    )


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old figures with new ones in their places.

    Raises:
        SystemExit: if they were made elsewhere, or of other elements.
    """
    facts = [{**r["environment"], "elements": r["elements"]} for r in (old, new)]
    for fact, value in facts[1].items():
        if fact != "sources" and facts[0].get(fact) != value:
            sys.exit(f"bench.sums: {RESULTS.name} was made with another {fact}; measure all cases")
    found = {_key(row): row for r in (old, new) for row in r["rows"]}
    order = [key for c in cases(True) for key in _keys(c)]
    commands = ", ".join(dict.fromkeys([*old["command"].split(", "), new["command"]]))
    return new | {"command": commands, "rows": [found[key] for key in order if key in found]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sums", description=__doc__)
    parser.add_argument("names", nargs="*", help="activations to measure; all unless given")
    parser.add_argument("--elements", type=int, default=ELEMENTS, help=f"of x, a multiple of {WHOLE:,}")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--all", action="store_true", help="every table, whether breakpoints learn or not")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--check", action="store_true", help="measure nothing; exit with 1 if the file is not right")
    options = parser.parse_args(arguments)
    if options.check:
        result = json.loads(RESULTS.read_text())
        wrong = problems(result["rows"], cases())
        text = sentence(result)
        _exit(
            wrong | {(p.name,): f"does not say: {text}" for p in PAGES if text not in " ".join(p.read_text().split())}
        )
        return
    if options.elements < WHOLE or options.elements % WHOLE:
        parser.error(f"--elements must be a multiple of {WHOLE:,}, got {options.elements:,}")
    device = torch.device(options.device)
    chosen = [
        c for c in cases(options.all) if (not options.names or c.name in options.names) and c.dtype in options.dtypes
    ]
    if unknown := set(options.names) - {c.name for c in cases()}:
        parser.error(f"nothing learns in {', '.join(sorted(unknown))}")
    made = []
    columns = "{:<50} {:<8} {:<9} {:<9} {:>8} {:>6} {:>8}  {}"
    print(columns.format("case", "form", "dtype", "gradient", "error", "bound", "seconds", "same bits"))
    for row in measure(chosen, options.elements, device):
        made.append(row)
        shown = f"{max(row['errors'].values()):.1e}", f"{BOUND:g}", row["seconds"], row["same_bits"]
        print(columns.format(*_key(row), *shown), flush=True)
    result = {
        "environment": environment.facts(device),
        "command": shlex.join(["python", "-m", "bench.sums", *(sys.argv[1:] if arguments is None else arguments)]),
        "elements": options.elements,
        "bound": BOUND,
        "rows": made,
    }
    if options.write:
        path = RESULTS.parents[1] / environment.slug(device) / RESULTS.name
        kept = result
        if path.exists() and (options.names or len(options.dtypes) < len(DTYPES)):
            kept = _joined(json.loads(path.read_text()), result)
        lines = ",\n".join(json.dumps(row) for row in kept["rows"])
        head = json.dumps({k: v for k, v in kept.items() if k != "rows"}, indent=1)
        path.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n]}}\n')
    _exit(problems(made, chosen))


def _exit(wrong: dict[tuple[str, ...], str]) -> None:
    """With 1, if anything is wrong."""
    if wrong:
        sys.exit("\n".join(f"bench.sums: {', '.join(key)}: {what}" for key, what in wrong.items()))


if __name__ == "__main__":
    main()
