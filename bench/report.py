"""Tables and plots from the files of the runs: `python -m bench.report`; `--check` tells whether they are current.

README.md gets the main figures, the README.md in each folder of results all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import plots
from bench.cases import DIRECTIONS, SUBJECTS
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
    load,
    losses,
)

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

# The main table: the largest of these that was timed, beyond the caches.
MAIN_SIZES = (2**20, 2**24, 2**28)
MAIN_DTYPES = ("float32", "bfloat16")

RATIO = "the ratio is its time over fusedact's, so below 1 fusedact is slower"


# ----- markdown


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    """A markdown table; the columns after the first ones are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _kept(case: Comparison) -> str:
    values = [case.by[name]["kept_bytes_per_element"] for name in ("eager", "fusedact")]
    return " / ".join(f"{float(v):g}" for v in values) if all(values) else ""


def _spread(case: Comparison, provider: str, clock: str) -> str:
    """Median and quartiles."""
    if clock == "call":
        return duration(case.time(provider, clock))
    record = case.by[provider]
    low, high = (duration(float(record[f"device_{q}_us"])) for q in ("q25", "q75"))
    return f"{duration(case.time(provider))} ({low} to {high})"


# ----- main figures


def _cell(case: Comparison | None, result: Result) -> str:
    """The ratio, and what else the main table says of one case."""
    if case is None:
        return ""
    text = f"{case.ratio():.2f}"
    over = case.over_compile()
    if over is not None:
        text += f" / {over:.2f}"
    return f"{text} ({case.ratio('copy'):.0%})" if result.on_gpu else text


def main_table(result: Result, sizes: Sequence[int] = MAIN_SIZES, dtypes: Sequence[str] = MAIN_DTYPES) -> str:
    """A line for each activation, with the ratios at the largest of these sizes that it was timed with."""
    cases = [c for c in comparisons(result.records) if c.size in sizes and c.dtype in dtypes]
    header = ["activation", *(f"{dtype} {short}" for dtype in dtypes for short in ("fwd", "fwd+bwd"))]
    header += ["kept B/element, eager / fusedact", "elements"]
    body = []
    for activation in dict.fromkeys(c.activation for c in cases):
        size = max(c.size for c in cases if c.activation == activation)
        by = {(c.dtype, c.direction): c for c in cases if (c.activation, c.size) == (activation, size)}
        kept = next((_kept(by[dtype, DIRECTIONS[1]]) for dtype in dtypes if (dtype, DIRECTIONS[1]) in by), "")
        cells = [_cell(by.get((dtype, d)), result) for dtype in dtypes for d in DIRECTIONS]
        body.append([f"`{activation}`", *cells, kept, elements(size)])
    return _table(header, body, text_columns=1)


def _group_line(group: Group, clocks: bool) -> list[str]:
    worst = group.worst
    c = worst.case
    where = f"{worst.ratio:.2f} (at {elements(c.size)})"
    clock = [worst.clock] if clocks else []
    return [f"`{c.activation}`", c.dtype, c.direction, *clock, worst.family, group.sizes, where]


def losses_sentence(result: Result, page: str) -> str:
    """How many cases are lost, and where they stand."""
    cases = comparisons(result.records)
    lost = {id(loss.case) for loss in losses(cases, result.on_gpu)}
    return (
        f"In {len(lost)} of {len(cases)} cases, of all sizes and dtypes, another way takes less than {LOST} of "
        f"fusedact's time: [all figures, curves by size, and every loss]({page})."
    )


def losses_summary(result: Result) -> str:
    """The losses of all sizes, grouped; or a sentence that there are none."""
    cases = comparisons(result.records)
    groups = grouped(losses(cases, result.on_gpu), cases)
    if not groups:
        return f"No case has a ratio below {LOST}."
    clock = ["time"] if result.on_gpu else []
    header = ["activation", "dtype", "direction", *clock, "faster", "elements", "lowest ratio"]
    return _table(header, [_group_line(group, result.on_gpu) for group in groups], text_columns=len(header) - 1)


def caption(result: Result) -> str:
    """Hardware, versions, date and command of a run."""
    e = result.environment
    threads = "" if result.on_gpu else f", {e['threads']} thread{'s' if e['threads'] != 1 else ''}"
    versions = f"PyTorch {e['torch']}, Triton {e['triton']}, Python {e['python']}, {e['os']}"
    backend = "" if e["fusedact_backend"] == "auto" else f", backend {e['fusedact_backend']}"
    commands = ", ".join(f"`{command}`" for command in e["commands"])
    return f"**{e['device']}**{threads}; {versions}{backend}; {e['date']}, {commands}."


def _learned(result: Result) -> str:
    """Which of the activations have parameters that learn; empty if none of them has."""
    names = dict.fromkeys(r["activation"] for r in result.records)
    learned = [f"`{name}`" for name in names if name in SUBJECTS and SUBJECTS[name].learned]
    if not learned:
        return ""
    return f"The backward of {', '.join(learned)} includes the parameter's gradient."


def _meaning(result: Result) -> str:
    text = "Medians; the ratio is eager's time over fusedact's, so above 1 fusedact is faster."
    if _learned(result):
        text += f" {_learned(result)}"
    if any(case.over_compile() is not None for case in comparisons(result.records)):
        text += " Behind the slash: the best of torch.compile's times over fusedact's."
    if result.on_gpu:
        text += " Times are the device's; in parentheses the share of the bandwidth of a copy of as many bytes."
    return text


def section(result: Result, link: str) -> str:
    """The main figures of a run; `link` leads from the README to its folder."""
    return "\n\n".join(
        [
            f"{caption(result)} {_meaning(result)}",
            main_table(result),
            losses_sentence(result, f"{link}/README.md"),
        ]
    )


def updated(text: str, content: str) -> str:
    """The README's text with this content between the markers.

    Raises:
        ValueError: unless there is one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README must hold {BEGIN} and after it {END}, once each")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{content}\n\n{text[text.index(END) :]}"


# ----- all figures


def full_table(cases: Sequence[Comparison], on_gpu: bool) -> str:
    """A line for each case of an activation, with every provider."""
    names = list(dict.fromkeys(name for c in cases for name in c.by))
    rivals = [name for name in names if name not in ("eager", "fusedact", "copy")]
    names = ["eager", *rivals, "fusedact", "copy"]
    header = ["dtype", "elements", "direction", *names, "ratio", "spread", "GB/s", "of copy", "kept B/element", "path"]
    if on_gpu:
        header += ["host eager", "host fusedact", "host ratio", "clock"]
    lines = []
    for c in cases:
        ours = c.by["fusedact"]
        width = (float(ours["device_q75_us"]) - float(ours["device_q25_us"])) / c.time("fusedact")
        line = [c.dtype, elements(c.size), c.direction]
        line += [duration(c.time(name)) if name in c.by else "" for name in names]
        line += [f"{c.ratio():.2f}", f"{width:.0%}", f"{float(ours['gb_per_s']):.3g}", f"{c.ratio('copy'):.0%}"]
        line += [_kept(c), ours["path"]]
        if on_gpu:
            line += [duration(c.time(name, "host")) for name in ("eager", "fusedact")]
            line += [f"{c.ratio(clock='host'):.2f}", _clocks(c)]
        lines.append(line)
    return _table(header, lines, text_columns=3)


def _clocks(case: Comparison) -> str:
    """How the device's time was taken; by provider where they differ."""
    clocks = {name: record["clock"] for name, record in case.by.items()}
    if len(set(clocks.values())) == 1:
        return next(iter(clocks.values()))
    return "; ".join(f"{name}: {clock}" for name, clock in clocks.items())


def _loss_line(loss: Loss, clocks: bool) -> list[str]:
    c = loss.case
    where = [f"`{c.activation}`", c.dtype, c.direction, *([loss.clock] if clocks else []), loss.rival, elements(c.size)]
    return [*where, _spread(c, loss.rival, loss.clock), _spread(c, "fusedact", loss.clock), f"{loss.ratio:.2f}"]


def losses_table(result: Result) -> str:
    """Every loss with its times, or a sentence that there are none."""
    found = losses(comparisons(result.records), result.on_gpu)
    if not found:
        return f"No case has a ratio below {LOST}."
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
    return _table(header, [_loss_line(loss, result.on_gpu) for loss in found], text_columns=4 + len(clock))


def page(result: Result) -> str:
    """The README of a folder of results: every figure."""
    cases = comparisons(result.records)
    parts = [
        f"# {result.environment['device']}",
        "Made by `python -m bench.report` from `elementwise.csv` and `environment.json`. "
        "[How it is measured](../../README.md).",
        caption(result),
    ]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in plots.figures(result)]
    parts += [
        "Times are medians; `ratio` is eager's time over fusedact's, `spread` the distance of fusedact's quartiles "
        "over its median, `GB/s` of the bytes that the case must move, `of copy` the time of a plain copy of as many "
        "bytes over fusedact's, `kept B/element` what autograd keeps for backward, eager / fusedact.",
    ]
    if _learned(result):
        parts.append(_learned(result))
    for activation in dict.fromkeys(c.activation for c in cases):
        some = [c for c in cases if c.activation == activation]
        parts += [f"## {activation}", full_table(some, result.on_gpu)]
    parts += [f"## Where another way is faster\n\nRatio below {LOST}; {RATIO}."]
    if result.on_gpu:
        parts.append("`device` is the device's time; `call` the longer of the device's and the host's.")
    parts += [losses_summary(result), "Each by itself:", losses_table(result)]
    refused = result.environment.get("refused", {})
    if refused:
        parts += ["## Not timed", "\n".join(f"- {why}" for why in refused.values())]
    return "\n\n".join(parts) + "\n"


# ----- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder with a folder for each run")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not current")
    return parser


def texts(results: Sequence[Result], readme: Path) -> dict[Path, str]:
    """What each file should say.

    Raises:
        ValueError: unless the README has its markers.
    """
    folders = {r.folder: Path(*r.folder.resolve().relative_to(readme.resolve().parent).parts) for r in results}
    main = "\n\n".join(section(r, folders[r.folder].as_posix()) for r in results)
    return {readme: updated(readme.read_text(), main)} | {r.folder / "README.md": page(r) for r in results}


def stale(results: Sequence[Result], wanted: dict[Path, str]) -> list[Path]:
    """The files that are not what the rows say."""
    files = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    pictures = [(r, r.folder / name) for r in results for name in plots.figures(r)]
    return files + [path for r, path in pictures if plots.source(path) != r.digest]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    results = load(options.results)
    if not results:
        sys.exit(f"bench.report: no elementwise.csv in a folder under {options.results}; run bench.run")
    try:
        wanted = texts(results, options.readme)
    except ValueError as error:
        sys.exit(f"bench.report: {options.readme}: {error}")
    old = stale(results, wanted)
    if options.check:
        if old:
            sys.exit(f"bench.report: not current: {', '.join(map(str, old))}; run python -m bench.report")
        return
    for path, text in wanted.items():
        path.write_text(text)
    for result in results:
        plots.write(result)
    print("\n".join(f"bench.report: wrote {path}" for path in old) or "bench.report: everything is current")


if __name__ == "__main__":
    main()
