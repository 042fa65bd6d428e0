"""Writes the measured figures into README.md: `python -m bench.report`; `--check` tells whether they are current."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

# Sizes of the main table: the call dominates; the cache of a core; leaving the cache; main memory. All are in the CSV.
MAIN_SIZES = (2**10, 2**16, 2**20, 2**24)
DIRECTIONS = ("forward", "forward+backward")

# Below this ratio a case counts as lost; nearer to 1 it is within the spread.
LOST = 0.95

Record = dict[str, str]
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Result:
    """What one run left in its folder."""

    folder: Path
    environment: dict[str, object]
    records: list[Record]


def load(results: Path) -> list[Result]:
    """All runs under a folder, by name."""
    found = []
    for table in sorted(results.glob("*/elementwise.csv")):
        with table.open(newline="") as file:
            records = list(csv.DictReader(file))
        environment = json.loads((table.parent / "environment.json").read_text())
        found.append(Result(table.parent, environment, records))
    return found


# ----- tables


def _time(microseconds: str) -> str:
    """Three digits and a unit."""
    value, unit = float(microseconds), "us"
    if value >= 1000:
        value, unit = value / 1000, "ms"
    digits = max(0, 3 - len(str(int(value)))) if value >= 1 else 2
    return f"{value:.{digits}f} {unit}"


def _size(count: int) -> str:
    """A power of two as such."""
    return f"2^{count.bit_length() - 1}" if count & (count - 1) == 0 else str(count)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    """A markdown table; the columns after the first ones are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _by_case(records: Iterable[Record]) -> dict[Key, dict[tuple[str, str], Record]]:
    """The records of an activation, dtype and size, by direction and provider."""
    cases: dict[Key, dict[tuple[str, str], Record]] = {}
    for r in records:
        key = (r["activation"], r["dtype"], int(r["size"]))
        cases.setdefault(key, {})[r["direction"], r["provider"]] = r
    order = list(dict.fromkeys(key[0] for key in cases))
    return dict(sorted(cases.items(), key=lambda item: (order.index(item[0][0]), item[0][1] != "float32", item[0][2])))


def _columns(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """(field, provider, heading) of the figures in each direction, as far as the run has them."""
    measured = {r["provider"] for r in records}
    columns = [("median_us", name, name) for name in ("eager", "compile", "fusedact") if name in measured]
    columns.append(("ratio", "fusedact", "ratio"))
    if "copy" in measured:
        columns.append(("copy_share", "fusedact", "of copy"))
    return columns


def _cell(record: Record | None, field: str) -> str:
    if record is None or not record[field]:
        return ""
    if field == "median_us":
        return _time(record[field])
    if field == "copy_share":
        return f"{float(record[field]):.0%}"
    return f"{float(record[field]):.2f}"


def _kept(case: dict[tuple[str, str], Record]) -> str:
    values = [case["forward+backward", name]["kept_bytes_per_element"] for name in ("eager", "fusedact")]
    return " / ".join(f"{float(v):g}" for v in values)


def main_table(records: Sequence[Record], sizes: Sequence[int] = MAIN_SIZES) -> str:
    """A line for each activation, dtype and size: the times of both directions, and what is kept for backward."""
    columns = _columns(records)
    header = ["activation", "dtype", "elements"]
    header += [f"{short} {heading}" for short in ("fwd", "fwd+bwd") for _, _, heading in columns]
    header.append("kept B/element, eager / fusedact")
    lines = []
    for (activation, dtype, size), case in _by_case(records).items():
        if size not in sizes:
            continue
        figures = [_cell(case.get((d, provider)), field) for d in DIRECTIONS for field, provider, _ in columns]
        lines.append([f"`{activation}`", dtype, _size(size), *figures, _kept(case)])
    return _table(header, lines, text_columns=2)


def _spread(record: Record) -> str:
    return f"{_time(record['median_us'])} ({_time(record['q25_us'])} to {_time(record['q75_us'])})"


def losses(records: Iterable[Record]) -> Iterator[list[str]]:
    """A line for each case, of every size, in which another way is faster."""
    for (activation, dtype, size), case in _by_case(records).items():
        for direction in DIRECTIONS:
            ours = case[direction, "fusedact"]
            for name in ("eager", "compile"):
                other = case.get((direction, name))
                if other is None:
                    continue
                ratio = float(other["median_us"]) / float(ours["median_us"])
                if ratio < LOST:
                    where = [f"`{activation}`", dtype, direction, name, _size(size)]
                    yield [*where, _spread(other), _spread(ours), f"{ratio:.2f}"]


def losses_table(records: Iterable[Record]) -> str:
    """The losses, or a sentence that there are none."""
    lines = list(losses(records))
    if not lines:
        return f"No case has a ratio below {LOST}."
    header = ["activation", "dtype", "direction", "faster", "elements", "its time (quartiles)", "fusedact", "ratio"]
    return _table(header, lines, text_columns=4)


# ----- text


def caption(result: Result) -> str:
    """Hardware, versions, date and command of a run."""
    e = result.environment
    threads = "" if e["device_type"] == "cuda" else f", {e['threads']} thread{'s' if e['threads'] != 1 else ''}"
    versions = f"PyTorch {e['torch']}, Triton {e['triton']}, Python {e['python']}, {e['os']}"
    backend = "" if e["fusedact_backend"] == "auto" else f", backend {e['fusedact_backend']}"
    return (
        f"**{e['device']}**{threads}; {versions}{backend}; {e['date']}, `{e['command']}`. "
        "Medians; the ratio is eager's time over fusedact's, so above 1 fusedact is faster."
    )


def section(result: Result) -> str:
    """The text for one run."""
    return "\n\n".join(
        [
            caption(result),
            main_table(result.records),
            f"Where another way is faster, out of all sizes (ratio below {LOST}):",
            losses_table(result.records),
        ]
    )


def render(results: Iterable[Result]) -> str:
    """The text between the markers."""
    return "\n\n".join(map(section, results))


def updated(text: str, figures: str) -> str:
    """The README's text with these figures between the markers.

    Raises:
        ValueError: unless there is one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README must hold {BEGIN} and after it {END}, once each")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{figures}\n\n{text[text.index(END) :]}"


# ----- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder with a folder for each run")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is not current")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    results = load(options.results)
    if not results:
        sys.exit(f"bench.report: no elementwise.csv in a folder under {options.results}; run bench.compare")
    text = options.readme.read_text()
    try:
        current = updated(text, render(results))
    except ValueError as error:
        sys.exit(f"bench.report: {options.readme}: {error}")
    if options.check:
        if text != current:
            sys.exit(f"bench.report: {options.readme} is not current; run python -m bench.report")
    else:
        options.readme.write_text(current)
        print(render(results))


if __name__ == "__main__":
    main()
