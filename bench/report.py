"""Tables and plots from the files of the runs: `python -m bench.report`; `--check` tells whether they are current.

README.md gets the main figures, docs/performance.md what is measured and what is predicted, and each folder of results
every case in a README.md, plots, and the sizes from which on something is gained in crossover.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import crossover, model, performance, plots
from bench.figures import LOST, Result, comparisons, load
from bench.markdown import updated
from bench.performance import caption, learned, losses_count
from bench.tables import full_table, losses_summary, losses_table, main_table

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

RATIO = "the ratio is its time over fusedact's, so below 1 fusedact is slower"


# ----- main figures


def _meaning(result: Result) -> str:
    text = "Medians; the ratio is eager's time over fusedact's, so above 1 fusedact is faster."
    if learned(result):
        text += f" {learned(result)}"
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
            main_table(comparisons(result.records), shares=result.on_gpu, kept=True),
            f"{losses_count(result)}: [docs/performance.md]({performance.PAGE.as_posix()}) has every loss, bandwidths, "
            f"and what is predicted of GPUs; [{link}]({link}/README.md) every case and curves by size.",
        ]
    )


# ----- all figures


def page(result: Result, counted: Sequence[model.Kernel]) -> str:
    """The README of a folder of results: every figure."""
    cases = comparisons(result.records)
    device = model.device_of(result) if result.on_gpu else None
    predictions = model.Model(device, counted) if device else None
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
    if predictions:
        parts.append("`predicted` is what the ledger's counts predict for fusedact, where its kernel ran.")
    if learned(result):
        parts.append(learned(result))
    for activation in dict.fromkeys(c.activation for c in cases):
        some = [c for c in cases if c.activation == activation]
        parts += [f"## {activation}", full_table(some, result.on_gpu, predictions)]
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


def texts(results: Sequence[Result], readme: Path, ledgers: Path) -> dict[Path, str]:
    """What each file should say. The page on performance lies in docs beside the README.

    Raises:
        ValueError: unless the README has its markers.
    """
    folders = {r.folder: Path(*r.folder.resolve().relative_to(readme.resolve().parent).parts) for r in results}
    main = "\n\n".join(section(r, folders[r.folder].as_posix()) for r in results)
    counted, document = model.kernels(ledgers), readme.parent / performance.PAGE
    wanted = {readme: updated(readme.read_text(), main, BEGIN, END)}
    wanted[document] = performance.page(results, document, counted, ledgers)
    for r in results:
        wanted |= {r.folder / "README.md": page(r, counted), r.folder / crossover.FILE: crossover.text(r)}
    return wanted


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
        wanted = texts(results, options.readme, options.results)
    except ValueError as error:
        sys.exit(f"bench.report: {options.readme}: {error}")
    old = stale(results, wanted)
    if options.check:
        if old:
            sys.exit(f"bench.report: not current: {', '.join(map(str, old))}; run python -m bench.report")
        return
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for result in results:
        plots.write(result)
    print("\n".join(f"bench.report: wrote {path}" for path in old) or "bench.report: everything is current")


if __name__ == "__main__":
    main()
