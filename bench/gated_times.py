"""Times gated activations on a CPU beside PyTorch's chain: `python -m bench.gated_times`, in a quarter of an hour.

Forms, sizes, dtypes and threads; each case is checked first, and both providers alternate. One thread is timed by the
processor's time that it takes, which other programs hardly change; several by the time that passes. The figures go to
bench/results/cpu/gated.json and, as tables, into docs/gated.md; `--tables` only writes the tables, and `--check` exits
with 1 if they are not what the file says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import environment, timing
from bench.cases import DIRECTIONS, DTYPES, FORWARD_BACKWARD, forward_backward
from bench.checks import TOLERANCES
from fusedact import functional as FF

RESULTS, PAGE = environment.ROOT / "bench/results/cpu/gated.json", environment.ROOT / "docs/gated.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
EXPONENTS, THREADS = (12, 16, 20, 22, 24), (1, 2)
USED_DTYPES = ("float32", "bfloat16")
CPU = torch.device("cpu")
COLUMNS = 2**11
# Larger ones are made of the same pieces, and float64 takes as long as all timing.
CHECKED = 22


@dataclass(frozen=True)
class Form:
    """A form and its chain in plain PyTorch, of one tensor that holds both, or of two, and of what learns."""

    ours: Callable[..., Tensor]
    chain: Callable[..., Tensor]
    packed: bool = False
    learns: bool = False


def _packed_silu(t: Tensor) -> Tensor:
    gate, value = t.chunk(2, -1)
    return F.silu(gate) * value


def _interleaved_silu(t: Tensor) -> Tensor:
    return F.silu(t[..., ::2]) * t[..., 1::2]


def _gpt_oss(t: Tensor) -> Tensor:
    gate, value = t[..., ::2].clamp(max=7.0), t[..., 1::2].clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (value + 1)


FORMS = {
    "two tensors, silu": Form(FF.gated, lambda x, gate: F.silu(gate) * x),
    "two tensors, gelu": Form(lambda x, gate: FF.gated(x, gate, "gelu"), lambda x, gate: F.gelu(gate) * x),
    "two tensors, swish, learned": Form(
        lambda x, gate, beta: FF.gated(x, gate, "swish", beta=beta),
        lambda x, gate, beta: gate * torch.sigmoid(beta * gate) * x,
        learns=True,
    ),
    "`gate_value`, silu": Form(lambda t: FF.packed_glu(t, layout="gate_value"), _packed_silu, packed=True),
    "`interleaved`, silu": Form(lambda t: FF.packed_glu(t, layout="interleaved"), _interleaved_silu, packed=True),
    "`interleaved`, gpt-oss": Form(
        lambda t: FF.packed_glu(t, "swish", layout="interleaved", beta=1.702, limit=7.0, offset=1.0),
        _gpt_oss,
        packed=True,
    ),
}


def inputs(form: Form, dtype: torch.dtype, size: int) -> tuple[Tensor, ...]:
    """x, the gradient of the result, and what else is differentiated: the result has `size` elements."""
    generator = torch.Generator().manual_seed(0)
    rows = (max(1, size // COLUMNS), min(size, COLUMNS))

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    leaves = [made(rows[0], 2 * rows[1])] if form.packed else [made(*rows), made(*rows)]
    leaves += [torch.tensor([1.5], dtype=dtype)] if form.learns else []
    first, *rest = (t.requires_grad_() for t in leaves)
    return first, made(*rows), *rest


def check(form: Form, given: tuple[Tensor, ...]) -> None:
    """Raise AssertionError if both providers do not give what float64 does."""
    # Gradients of what learns are sums, which the tests of the library compare.
    count = 1 if form.packed else 2
    x, g, *rest = given
    wide = [t.detach().double().requires_grad_() for t in (x, *rest)]
    true = [form.chain(*wide), *forward_backward(form.chain, wide[0], g.double(), *wide[1:])[:count]]
    rtol, atol = TOLERANCES[x.dtype]
    for function in (form.ours, form.chain):
        got = [function(x, *rest), *forward_backward(function, *given)[:count]]
        for one, other in zip(got, true, strict=True):
            # A chain in halves rounds at each step.
            torch.testing.assert_close(one.double(), other, rtol=2 * rtol, atol=8 * atol)


Row = dict[str, Any]


def compared(form: Form, given: tuple[Tensor, ...], direction: str, seconds: float) -> Row:
    """The times of both providers, in turn."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    runs = {
        who: timing.contender(function, direction, [given]).run
        for who, function in (("chain", form.chain), ("fusedact", form.ours))
    }

    def sample(who: str, calls: int) -> float:
        start = clock()
        runs[who](calls)
        return (clock() - start) / calls

    calls = {}
    for who in runs:
        sample(who, 1)
        calls[who] = max(1, int(timing.SAMPLE_SECONDS / max(sample(who, 1), 1e-9)))
    one_round = sum(count * sample(who, count) for who, count in calls.items())
    rounds = min(max(int(seconds / one_round), timing.MIN_ROUNDS), timing.MAX_ROUNDS)
    samples: dict[str, list[float]] = {who: [] for who in runs}
    order = list(runs)
    for _ in range(rounds):
        for who in order:
            samples[who].append(sample(who, calls[who]))
        order.reverse()
    chain, ours = (1e6 * statistics.median(samples[who]) for who in runs)
    return {
        "chain_us": round(chain, 2),
        "fusedact_us": round(ours, 2),
        "ratio": round(chain / ours, 3),
        "ratio_of_best": round(min(samples["chain"]) / min(samples["fusedact"]), 3),
        "rounds": rounds,
    }


def rows(seconds: float, threads: Sequence[int], exponents: Sequence[int], names: Sequence[str]) -> Iterator[Row]:
    """Time all cases."""
    for count, name, dtype, exponent in itertools.product(threads, names, USED_DTYPES, exponents):
        torch.set_num_threads(count)
        given = inputs(FORMS[name], DTYPES[dtype], 2**exponent)
        if exponent <= CHECKED:
            check(FORMS[name], given)
        for direction in DIRECTIONS:
            case = {"form": name, "dtype": dtype, "exponent": exponent, "threads": count, "direction": direction}
            yield case | compared(FORMS[name], given, direction, seconds) | environment.state(CPU)


def joined(old: Sequence[Row], new: Sequence[Row], command: str) -> list[Row]:
    """The old rows, those of cases that were timed again replaced, in the order of the cases; each with its command."""

    def case(row: Row) -> tuple[Any, ...]:
        form = list(FORMS).index(row["form"])
        return (
            row["threads"],
            form,
            USED_DTYPES.index(row["dtype"]),
            row["exponent"],
            DIRECTIONS.index(row["direction"]),
        )

    rows = {case(row): row for row in old} | {case(row): row | {"command": command} for row in new}
    return [rows[key] for key in sorted(rows)]


def tables(result: dict[str, Any]) -> str:
    """What the page should say between the marks."""
    facts, found = result["environment"], result["rows"]
    loads = [r["load"] for r in found]
    text = [
        "How many times as fast as PyTorch's chain forward and backward are, by medians of runs in turn, and by the",
        "best runs in brackets; below 1 the chain is faster. "
        f"{facts['cpu']}, {facts['cores']} cores, PyTorch {facts['torch']}; load {min(loads):g} to {max(loads):g};",
        "`python -m bench.gated_times`; each row's options are in "
        "[bench/results/cpu/gated.json](../bench/results/cpu/gated.json).",
    ]
    sizes = sorted({r["exponent"] for r in found})
    for threads in sorted({r["threads"] for r in found}):
        text += ["", "One thread, by its processor's time:" if threads == 1 else f"{threads} threads:", ""]
        text += [f"| form | dtype | {' | '.join(f'2^{n}' for n in sizes)} |", f"|---|---|{'---:|' * len(sizes)}"]
        by = {(r["form"], r["dtype"], r["exponent"]): r for r in found if r["threads"] == threads}
        by = {key: r for key, r in by.items() if r["direction"] == FORWARD_BACKWARD}
        for form, dtype in dict.fromkeys(key[:2] for key in by):
            cells = [by.get((form, dtype, n)) for n in sizes]
            shown = ["" if r is None else f"{r['ratio']:.2f} ({r['ratio_of_best']:.2f})" for r in cells]
            text.append(f"| {form} | {dtype} | {' | '.join(shown)} |")
    return "\n".join(text)


def page(text: str, made: str) -> str:
    """The page with these tables."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gated_times", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case; large ones take seven rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--exponents", type=int, nargs="+", default=EXPONENTS, help="of the sizes of results")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS), metavar="FORM")
    parser.add_argument("--tables", action="store_true", help="time nothing, write the tables")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is not current")
    options = parser.parse_args(arguments)
    if not (options.tables or options.check):
        made = []
        for row in rows(options.seconds, options.threads, options.exponents, options.forms):
            made.append(row)
            print(*(f"{value!s:<12}" for value in row.values()), flush=True)
        command = shlex.join(["python", "-m", "bench.gated_times", *(sys.argv[1:] if arguments is None else arguments)])
        old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
        result = {"environment": environment.facts(CPU), "rows": joined(old["rows"], made, command)}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    old = PAGE.read_text()
    new = page(old, tables(json.loads(RESULTS.read_text())))
    if options.check and new != old:
        sys.exit(f"bench.gated_times: {PAGE.name} is not what {RESULTS.name} says; run it with --tables")
    if not options.check:
        PAGE.write_text(new)


if __name__ == "__main__":
    main()
