"""The page docs/performance.md, from the files of all runs and of the ledgers: what is measured, and what predicted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import by_hand, crossover, plots
from bench.cases import SUBJECTS
from bench.figures import LOST, Result, comparisons, elements
from bench.markdown import table
from bench.model import DEVICES, LAUNCH_US, Kernel, Model, device_of, devices_table, predictions_table
from bench.tables import losses_by_size, main_table, resources_table

PAGE = Path("docs/performance.md")
# The headings of forms, in order; what a run does not say comes last.
FORMS = {
    "elementwise": "Elementwise",
    "rowwise": "Softmax and its relatives",
    "gated": "Gated",
    "biased": "With bias, dropout and residual",
    "linear": "Behind a linear layer",
    "piecewise": "Piecewise linear",
    "own": "Of one's own",
    "": "All",
}
# Elements and dtype of the predictions that the page shows.
PREDICTED_EXPONENT, PREDICTED_DTYPE = 26, "bfloat16"

METHOD = """## Method

In short; [bench/README.md]({bench}/README.md) has all of it.

- Every provider's values and gradients are compared with float64 first, at every element. What is wrong is not timed.
- The providers of a case alternate in one run, and each round begins with another one. Figures are medians of time.
- `eager` is PyTorch's own operator, or else what one writes by hand. The **ratio** is eager's time over fusedact's:
  above 1 fusedact is faster. Behind a slash stands the least of torch.compile's times over fusedact's, if it was timed.
- **Bandwidth** counts the bytes that a case must move, whatever a provider moves. The roof is a copy of as many bytes,
  timed among the others; a percentage in parentheses is the share of its bandwidth that fusedact reaches. A linear
  layer stays far below: its product of matrices takes the time, not the memory.
- **Kept** is what autograd stores for backward, **peak** what a call allocates beyond its inputs when that is most, in
  bytes for an element; **kernels** are those that a call launches, counted on GPUs; the **error** is the largest of the
  values, in units of the last place of the dtype, that of a sum or a product before the activation included. What was
  not measured on a device has no column.
- A case is **lost** where another way takes less than {lost} of fusedact's time. A nearer one is within the spread.
- On a GPU there are two times: the device's, from a graph of calls with a cold cache, and a call's, the longer of the
  device's and the host's, which is what it costs in a loop."""

CROSSOVER = """### From which size on it gains

The smallest of the timed sizes from which on fusedact takes less time than eager at every one; in parentheses the
size at which that begins, by interpolation to the next smaller one. `all`: at every timed size; `none`: not at the
largest. A cell is empty, or a line missing, where PyTorch's own operators are what runs. For programs:
[{file}]({link}/{file})."""

PREDICTED = """## Predicted: GPUs

**Nothing in this section is measured{yet}.** The instructions of every kernel are counted in its machine code ([the
ledger]({bench}/README.md#the-ledger)). A kernel takes as long as the slowest of three things: moving its bytes,
issuing its instructions, of which four fifths of the most are reached, and its special functions; and {launch:g} us
for each launch. Latency, occupancy and caches are not in it. In a second the devices do:"""

UNKNOWN = """A clock of 1.98 GHz is assumed of both. What bandwidth anything reaches on an A100, a B200 and AMD's
devices is not known here, so nothing is predicted of them; of a B200 a run of the benchmarks would tell it."""

COUNTED = """The elementwise, piecewise-linear and own kernels were counted as Triton {triton} compiles them (ptxas
{ptxas}, PyTorch {torch}, Python {python}), {date}, `{command}`; the others by the commands in
[bench/README.md]({bench}/README.md#the-ledger)."""

PREDICTIONS = """Times of one kernel on 2^{exponent} elements in {dtype}; instructions and special functions are
those of an element. Where no more is said the memory is the bound, as it is of a copy of the same bytes; else the
share of the copy's bandwidth and the bound stand behind the time. Special functions that are not told were not
counted, and are in no bound."""

BY_HAND = """### Written by hand

The device functions of these activations are written by hand, those of all other elementwise ones by the engine.
Instructions for an element, by hand / by the engine, compiled for {target}. A pair by hand takes fewer in bf16, in one
direction at least, or is right where the engine's is not; and the engine's takes at most {ratio:g} times as many,
unless something is done by hand that no rule of the engine knows."""

REPRODUCE = """## How to reproduce

On a machine that does nothing else, from the root of the repository:

```
python -m bench.run                    # times everything on the GPU, or else on the CPU
bash bench/on_gpu.sh OUT               # on a bare GPU machine: the kernels' tests, then the same
FUSEDACT_BACKEND=triton python -m bench.run --out bench/results/nvidia-h200-kernels
                                       # on a GPU: kernels at every size, and from which on they gain
python -m bench.ledger --write         # counts the instructions of every kernel; no device needed
python -m bench.model                  # predictions from these, of any size and dtype
python -m bench.report                 # this page, the tables of README.md and the plots, from their files
```

The rows of every run are in `bench/results/<device>/elementwise.csv`, the machine, versions and commands in
`environment.json` beside it."""


def caption(result: Result) -> str:
    """Hardware, versions, date and command of a run."""
    e = result.environment
    threads = "" if result.on_gpu else f", {e['threads']} thread{'s' if e['threads'] != 1 else ''}"
    versions = f"PyTorch {e['torch']}, Triton {e['triton']}, Python {e['python']}, {e['os']}"
    backend = "" if e["fusedact_backend"] == "auto" else f", backend {e['fusedact_backend']}"
    commands = ", ".join(f"`{command}`" for command in e["commands"])
    return f"**{e['device']}**{threads}; {versions}{backend}; {e['date']}, {commands}."


def _name(result: Result) -> str:
    """The device; and the backend, if one was forced."""
    backend = result.environment["fusedact_backend"]
    return result.environment["device"] + ("" if backend == "auto" else f", backend {backend}")


def learned(result: Result) -> str:
    """Which of the activations have parameters that learn; empty if none of them has."""
    names = dict.fromkeys(r["activation"] for r in result.records)
    learn = [f"`{name}`" for name in names if name in SUBJECTS and SUBJECTS[name].learned]
    return f"The backward of {', '.join(learn)} includes the parameter's gradient." if learn else ""


def losses_count(result: Result) -> str:
    """How many cases are lost."""
    cases = comparisons(result.records)
    lost = sum(any(c.ratio(rival, clock) < LOST for rival in c.rivals() for clock in result.clocks) for c in cases)
    where = f"In {lost} of {len(cases)} cases, of all sizes and dtypes,"
    return f"{where} another way takes less than {LOST} of fusedact's time"


def _in_order(forms: set[str]) -> list[str]:
    return [*(form for form in FORMS if form in forms), *sorted(forms - {*FORMS})]


def _lacking(result: Result) -> str:
    if not result.lacking:
        return ""
    names = ", ".join(f"`{name}`" for name in result.lacking)
    return (
        f"This run's file is older than the columns {names}, so the tables by form, of peak memory, of errors or of "
        "kernels are incomplete until `python -m bench.run --fresh` has been run again."
    )


def _predictions_error(result: Result, counted: Sequence[Kernel]) -> str:
    """How far the model is from what was measured, by form."""
    device = device_of(result)
    if device is None:
        return "The model knows no figures of this device, and predicts nothing of it."
    judged = list(Model(device, counted).judged(comparisons(result.records)))
    if not judged:
        return "No kernel of this library was timed of which the ledgers have counted the instructions."
    lines = []
    for form in _in_order({j.case.form for j in judged}):
        some = [j for j in judged if j.case.form == form]
        worst = max(some, key=lambda j: abs(j.error))
        c = worst.case
        where = f"`{c.activation}`, {c.dtype}, {c.direction}, {elements(c.size)}"
        middle = median(abs(j.error) for j in some)
        lines.append([FORMS.get(form, form), where, str(len(some)), f"{middle:.0%}", f"{worst.error:+.0%}"])
    header = ["form", "worst case", "cases", "median of the error's size", "worst error"]
    return (
        "The predicted time over the measured one, less 1, in every case in which a kernel of this library ran and "
        f"whose instructions were counted. The bandwidth is known from {device.source}.\n\n"
        f"{table(header, lines, text_columns=2)}"
    )


def _measured(result: Result, link: str, counted: Sequence[Kernel]) -> list[str]:
    """What one run has measured."""
    cases = comparisons(result.records)
    parts = [f"## Measured: {_name(result)}", caption(result), learned(result), _lacking(result)]
    parts.append(f"Each case by itself, with its spread, is in [the run's own page]({link}/README.md).")
    parts += [f"![{alt}]({link}/{name})" for name, alt in plots.rooflines(result).items()]
    for form in _in_order({c.form for c in cases}):
        some = [c for c in cases if c.form == form]
        parts += [f"### {FORMS.get(form, form)}", "Ratio to eager, and the share of a copy's bandwidth in parentheses:"]
        parts.append(main_table(some, shares=True))
        resources = resources_table(some)
        if resources:
            parts += ["At the same sizes, eager / fusedact:", resources]
    parts += ["### Losses", f"{losses_count(result)}. Every one, as the rival's time over fusedact's:"]
    parts.append(losses_by_size(result))
    parts += [CROSSOVER.format(file=crossover.FILE, link=link), crossover.crossover_table(result)]
    if result.on_gpu:
        parts += ["### How right the model is", _predictions_error(result, counted)]
    return [part for part in parts if part]


def _predicted(counted: Sequence[Kernel], on_gpu: bool, ledgers: Path, bench: str) -> list[str]:
    """What the model says of devices."""
    yet = "" if on_gpu else ": no figure of a GPU has been measured yet"
    parts = [PREDICTED.format(yet=yet, bench=bench, launch=LAUNCH_US), devices_table(), UNKNOWN]
    targets = {d.target for d in DEVICES}
    instructions = by_hand.counted(ledgers / "ledger.csv")
    beside = {by_hand.GENERATED.format(name) for name in by_hand.names(instructions)}
    chosen = [k for k in counted if k.target in targets and k.dtype == PREDICTED_DTYPE and k.name not in beside]
    if not chosen:
        return [*parts, "The ledgers have counted nothing yet."]
    facts = json.loads((ledgers / "ledger.json").read_text())
    parts.append(COUNTED.format(**facts, bench=bench))
    parts.append(PREDICTIONS.format(exponent=PREDICTED_EXPONENT, dtype=PREDICTED_DTYPE))
    for form in _in_order({k.form for k in chosen}):
        parts += [f"### Predicted: {FORMS[form].lower()}"]
        parts.append(predictions_table([k for k in chosen if k.form == form], 2**PREDICTED_EXPONENT))
    return [*parts, BY_HAND.format(target=by_hand.TARGET, ratio=by_hand.RATIO), by_hand.summary(instructions)]


def page(results: Sequence[Result], path: Path, counted: Sequence[Kernel], ledgers: Path) -> str:
    """What the file at this path should say."""

    def link(folder: Path) -> str:
        return Path(os.path.relpath(folder.resolve(), path.resolve().parent)).as_posix()

    on_gpu = any(result.on_gpu for result in results)
    devices = ", ".join(f"{_name(r)} ({'GPU' if r.on_gpu else 'CPU'})" for r in results)
    gpus = "" if on_gpu else " **No GPU has been measured yet: every figure of a GPU is predicted.**"
    parts = [
        "# Performance",
        "Made by `python -m bench.report` from the files of the runs and of the ledgers; nothing on it is written by "
        f"hand. Measured: {devices}. Predicted: {', '.join(d.name for d in DEVICES)}.{gpus}",
        METHOD.format(bench=link(ledgers.parent), lost=LOST),
    ]
    for result in results:
        parts += _measured(result, link(result.folder), counted)
    parts += _predicted(counted, on_gpu, ledgers, link(ledgers.parent))
    return "\n\n".join([*parts, REPRODUCE]) + "\n"
