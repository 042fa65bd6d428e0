"""Tables of a run, in markdown: main figures, resources, losses, every case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.cases import DIRECTIONS, FORWARD
from bench.figures import (
    LOST,
    Comparison,
    Group,
    Loss,
    Result,
    comparisons,
    duration,
    elements,
    grouped,
    losses,
)
from bench.markdown import table

if TYPE_CHECKING:
    from bench.model import Model

# The main table: the largest of these that was timed, beyond the caches.
MAIN_SIZES = (2**20, 2**24, 2**28)
MAIN_DTYPES = ("float32", "bfloat16")

BOTH = DIRECTIONS[1]
KEPT = "kept_bytes_per_element"
NONE = f"No case has a ratio below {LOST}."


def _pair(case: Comparison, column: str, form: str = "g") -> str:
    """What a column says of eager and of fusedact."""
    values = [case.value(name, column) for name in ("eager", "fusedact")]
    return " / ".join("" if v is None else f"{v:{form}}" for v in values) if any(v is not None for v in values) else ""


def _spread(case: Comparison, provider: str, clock: str) -> str:
    """Median and quartiles."""
    if clock == "call":
        return duration(case.time(provider, clock))
    record = case.by[provider]
    low, high = (duration(float(record[f"device_{q}_us"])) for q in ("q25", "q75"))
    return f"{duration(case.time(provider))} ({low} to {high})"


def _cell(case: Comparison | None, share: bool) -> str:
    """The ratio, and what else the main table says of one case."""
    if case is None:
        return ""
    text = f"{case.ratio():.2f}"
    over = case.over_compile()
    if over is not None:
        text += f" / {over:.2f}"
    if not share:
        return text
    # What moves nothing has no share.
    return f"{text} ({case.ratio('copy'):.0%})" if case.ratio("copy") < 10 else f"{text} (>999%)"


def _largest(cases: Sequence[Comparison]) -> Iterator[tuple[str, int, dict[tuple[str, str], Comparison]]]:
    """Each activation's cases at the largest of the main sizes that it was timed with; else at the largest of all."""
    for activation in dict.fromkeys(c.activation for c in cases):
        sizes = {c.size for c in cases if c.activation == activation}
        size = max(sizes & {*MAIN_SIZES} or sizes)
        some = [c for c in cases if (c.activation, c.size) == (activation, size)]
        yield activation, size, {(c.dtype, c.direction): c for c in some}


def main_table(cases: Sequence[Comparison], shares: bool = False, kept: bool = False) -> str:
    """A line for each activation, with its ratios; with the share of a copy's bandwidth, and with the bytes kept."""
    dtypes = [d for d in MAIN_DTYPES if any(c.dtype == d for c in cases)]
    header = ["activation", *(f"{dtype} {short}" for dtype in dtypes for short in ("fwd", "fwd+bwd"))]
    header += ["kept B/element, eager / fusedact"] if kept else []
    body = []
    for activation, size, by in _largest(cases):
        cells = [_cell(by.get((dtype, d)), shares) for dtype in dtypes for d in DIRECTIONS]
        if kept:
            cells.append(next((_pair(by[d, BOTH], KEPT) for d in dtypes if (d, BOTH) in by), ""))
        body.append([f"`{activation}`", *cells, elements(size)])
    return table([*header, "elements"], body, text_columns=1)


def resources_table(cases: Sequence[Comparison]) -> str:
    """A line for each activation: memory, kernels and errors, eager / fusedact. Empty columns are left out."""
    dtypes = [d for d in MAIN_DTYPES if any(c.dtype == d for c in cases)]
    # What each column shows: its name in the file, of the first dtype that has it or of each, and the direction.
    columns = {"kept B/element": (KEPT, BOTH, dtypes)}
    for direction, short in zip(DIRECTIONS, ("fwd", "fwd+bwd"), strict=True):
        columns[f"peak B/element {short}"] = ("peak_bytes_per_element", direction, dtypes)
        columns[f"kernels {short}"] = ("kernels", direction, dtypes)
    columns |= {f"error {dtype}": ("error", FORWARD, [dtype]) for dtype in dtypes}
    lines = []
    for activation, _, by in _largest(cases):
        cells = [
            next((text for d in some if (d, direction) in by and (text := _pair(by[d, direction], name, ".3g"))), "")
            for name, direction, some in columns.values()
        ]
        lines.append([f"`{activation}`", *cells])
    filled = [i for i, column in enumerate(zip(*lines, strict=True)) if any(column)]
    if len(filled) == 1:
        return ""
    header = ["activation", *columns]
    return table([header[i] for i in filled], [[line[i] for i in filled] for line in lines], text_columns=1)


# ----- losses


def _group_line(group: Group, clocks: bool) -> list[str]:
    worst = group.worst
    c = worst.case
    where = f"{worst.ratio:.2f} (at {elements(c.size)})"
    clock = [worst.clock] if clocks else []
    return [f"`{c.activation}`", c.dtype, c.direction, *clock, worst.family, group.sizes, where]


def losses_summary(result: Result) -> str:
    """The losses of all sizes, grouped; or a sentence that there are none."""
    cases = comparisons(result.records)
    groups = grouped(losses(cases, result.clocks), cases)
    if not groups:
        return NONE
    clock = ["time"] if result.on_gpu else []
    header = ["activation", "dtype", "direction", *clock, "faster", "elements", "lowest ratio"]
    return table(header, [_group_line(group, result.on_gpu) for group in groups], text_columns=len(header) - 1)


def _loss_line(loss: Loss, clocks: bool) -> list[str]:
    c = loss.case
    where = [f"`{c.activation}`", c.dtype, c.direction, *([loss.clock] if clocks else []), loss.rival, elements(c.size)]
    return [*where, _spread(c, loss.rival, loss.clock), _spread(c, "fusedact", loss.clock), f"{loss.ratio:.2f}"]


def losses_table(result: Result) -> str:
    """Every loss with its times, or a sentence that there are none."""
    found = losses(comparisons(result.records), result.clocks)
    if not found:
        return NONE
    clock = ["time"] if result.on_gpu else []
    header = [
        "activation",
        "dtype",
        "direction",
        *clock,
        "faster",
        "elements",
        "its time (quartiles)",
        "fusedact",
        "ratio",
    ]
    return table(header, [_loss_line(loss, result.on_gpu) for loss in found], text_columns=4 + len(clock))


def losses_by_size(result: Result) -> str:
    """Every loss as a ratio in the column of its size, a line for each rival; or a sentence that there are none."""
    cases = comparisons(result.records)
    groups = grouped(losses(cases, result.clocks), cases)
    if not groups:
        return NONE
    sizes = sorted({c.size for c in cases})
    header = ["activation", "dtype", "direction", *(["time"] if result.on_gpu else []), "faster", *map(elements, sizes)]
    lines = []
    for group in groups:
        c, ratios = group.worst.case, dict[int, float]()
        for loss in group.losses:
            ratios[loss.case.size] = min(loss.ratio, ratios.get(loss.case.size, LOST))
        clock = [group.worst.clock] if result.on_gpu else []
        cells = [f"{ratios[size]:.2f}" if size in ratios else "" for size in sizes]
        lines.append([f"`{c.activation}`", c.dtype, c.direction, *clock, group.worst.family, *cells])
    return table(header, lines, text_columns=len(header) - len(sizes))


# ----- every case


def full_table(cases: Sequence[Comparison], on_gpu: bool, model: Model | None = None) -> str:
    """A line for each case of an activation, with every provider; and with what a model predicts."""
    names = list(dict.fromkeys(name for c in cases for name in c.by))
    rivals = [name for name in names if name not in ("eager", "fusedact", "copy")]
    names = ["eager", *rivals, "fusedact", "copy"]
    header = ["dtype", "elements", "direction", *names, *(["predicted"] if model else [])]
    header += ["ratio", "spread", "GB/s", "of copy", "kept B/element", "path"]
    if on_gpu:
        header += ["host eager", "host fusedact", "host ratio", "clock"]
    lines = []
    for c in cases:
        ours = c.by["fusedact"]
        width = (float(ours["device_q75_us"]) - float(ours["device_q25_us"])) / c.time("fusedact")
        line = [c.dtype, elements(c.size), c.direction]
        line += [duration(c.time(name)) if name in c.by else "" for name in names]
        if model:
            line += [duration(judged.predicted) for judged in model.judged([c])] or [""]
        line += [f"{c.ratio():.2f}", f"{width:.0%}", f"{float(ours['gb_per_s']):.3g}", f"{c.ratio('copy'):.0%}"]
        line += [_pair(c, KEPT), c.path]
        if on_gpu:
            line += [duration(c.time(name, "host")) for name in ("eager", "fusedact")]
            line += [f"{c.ratio(clock='host'):.2f}", _clocks(c)]
        lines.append(line)
    return table(header, lines, text_columns=3)


def _clocks(case: Comparison) -> str:
    """How the device's time was taken; by provider where they differ."""
    clocks = {name: record["clock"] for name, record in case.by.items()}
    if len(set(clocks.values())) == 1:
        return next(iter(clocks.values()))
    return "; ".join(f"{name}: {clock}" for name, clock in clocks.items())
