"""Tables and plots of the benchmarks follow the files."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import json
from types import SimpleNamespace

import benches
import pytest
import torch

CPU = torch.device("cpu")
MARKERS = "# Title\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nrest\n"
MODULES = ("environment", "figures", "plots", "report", "tables")

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


@pytest.fixture(scope="module")
def bench():
    """The modules in bench/."""
    return SimpleNamespace(**{name: benches.load(name) for name in MODULES})


def made_up(**changes):
    """A row of elementwise.csv."""
    row = {
        "activation": "elu",
        "dtype": "float32",
        "size": 2**20,
        "direction": "forward",
        "provider": "eager",
        "device_us": 100.0,
        "device_q25_us": 90.0,
        "device_q75_us": 110.0,
        "host_us": 5.0,
        "host_q25_us": 4.0,
        "host_q75_us": 6.0,
        "clock": "wall",
        "ratio": 1.0,
        "host_ratio": 1.0,
        "gb_per_s": 1.0,
        "copy_share": 0.5,
        "kept_bytes_per_element": 4.0 if changes.get("direction") == "forward+backward" else "",
        "path": "",
        "rounds": 7,
        "calls_per_round": 1,
    }
    return {key: str(value) for key, value in (row | changes).items()}


BOTH = {"direction": "forward+backward"}
ROWS = [
    made_up(),
    made_up(provider="fusedact", device_us=50.0),
    made_up(provider="copy", device_us=40.0),
    made_up(**BOTH, device_us=1234.0),
    made_up(**BOTH, provider="fusedact", device_us=2468.0),
    made_up(**BOTH, provider="copy", device_us=40.0),
]


@pytest.fixture
def made_up_run(bench, tmp_path):
    """A folder of results in which fusedact wins forward and loses forward+backward; and a README with markers."""

    def make(rows=ROWS, device_type="cpu"):
        folder = tmp_path / "results" / "made_up"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "elementwise.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        facts = bench.environment.facts(CPU) | {"device": "A device", "device_type": device_type, "date": "a date"}
        (folder / "environment.json").write_text(json.dumps(facts | {"commands": ["python -m bench.run --somehow"]}))
        readme = tmp_path / "README.md"
        readme.write_text(MARKERS)
        report = functools.partial(bench.report.main, ["--results", str(folder.parent), "--readme", str(readme)])
        check = functools.partial(
            bench.report.main, ["--results", str(folder.parent), "--readme", str(readme), "--check"]
        )
        return SimpleNamespace(folder=folder, readme=readme, report=report, check=check)

    return make


@needs_matplotlib
def test_report_shows_figures_and_losses(made_up_run):
    made = made_up_run()
    made.report()
    text, page = made.readme.read_text(), (made.folder / "README.md").read_text()
    assert text.startswith("# Title\n") and text.endswith("<!-- bench:end -->\nrest\n")
    assert "old" not in text
    assert torch.__version__ in text and "`python -m bench.run --somehow`" in text
    assert "| `elu` | 2.00 | 0.50 | 4 / 4 | 2^20 |" in text
    assert "In 1 of 2 cases" in text
    assert "| `elu` | float32 | forward+backward | eager | 2^20 | 0.50 (at 2^20) |" in page
    assert "| `elu` | float32 | forward |" not in page
    assert "(results/made_up/README.md)" in text and "(ratio.png)" in page
    lost = "| `elu` | float32 | forward+backward | eager | 2^20 | 1.23 ms (90.0 us to 110 us) | 2.47 ms"
    assert lost in page and "| float32 | 2^20 | forward | 100 us | 50.0 us | 40.0 us | 2.00 |" in page
    assert (made.folder / "ratio.png").read_bytes().startswith(b"\x89PNG")


@needs_matplotlib
def test_report_of_a_gpu_shows_both_clocks(made_up_run):
    """A call that the host takes longer for than the device is lost by the call's time alone."""
    rows = [
        made_up(device_us=4.0, host_us=6.0),
        made_up(provider="compile", device_us=3.0, host_us=40.0),
        made_up(provider="compile fast-math", device_us=1.0, host_us=40.0),
        made_up(provider="fusedact", device_us=2.0, host_us=9.0),
        made_up(provider="copy", device_us=1.5, host_us=3.0),
    ]
    made = made_up_run(rows, "cuda")
    made.report()
    text, page = made.readme.read_text(), (made.folder / "README.md").read_text()
    assert "| `elu` | 2.00 / 0.50 (75%) |  |  | 2^20 |" in text
    assert "| `elu` | float32 | forward | call | eager | 2^20 | 0.67 (at 2^20) |" in page
    assert "| `elu` | float32 | forward | device | compile | 2^20 | 0.50 (at 2^20) |" in page
    assert "| `elu` | float32 | forward | call | compile" not in page
    assert "| 6.00 us | 9.00 us | 0.67 | wall |" in page
    assert (made.folder / "copy-share.png").exists()


@needs_matplotlib
def test_check_tells_current_files_from_stale_ones(made_up_run):
    made = made_up_run()
    with pytest.raises(SystemExit, match="not current"):
        made.check()
    assert made.readme.read_text() == MARKERS
    made.report()
    made.check()
    for path, change in ((made.readme, "2.00"), (made.folder / "README.md", "2.00")):
        text = path.read_text()
        path.write_text(text.replace(change, "3.00"))
        with pytest.raises(SystemExit, match=f"not current: .*{path.name}"):
            made.check()
        path.write_text(text)
    made.check()
    table = made.folder / "elementwise.csv"
    table.write_text(table.read_text().replace(",90.0,", ",91.0,"))
    with pytest.raises(SystemExit, match=r"not current: .*ratio\.png"):
        made.check()
    made.report()
    made.check()


@pytest.mark.parametrize("text", ["", "<!-- bench:begin -->", "<!-- bench:end --> <!-- bench:begin -->", MARKERS * 2])
def test_report_needs_one_pair_of_markers(made_up_run, text):
    made = made_up_run()
    made.readme.write_text(text)
    with pytest.raises(SystemExit, match="once each"):
        made.report()
    assert made.readme.read_text() == text


def test_report_needs_results(bench, tmp_path):
    with pytest.raises(SystemExit, match="run bench"):
        bench.report.main(["--results", str(tmp_path)])


def test_times_have_three_digits(bench):
    times = {0.987: "0.99 us", 1.5: "1.50 us", 123.4: "123 us", 1234: "1.23 ms", 601810: "602 ms"}
    assert {t: bench.figures.duration(t) for t in times} == times


def test_losses_are_grouped_with_their_sizes(bench, made_up_run):
    """Lost at 2^4 to 2^6 and at 2^8, least at 2^5; equal within the spread, and won, at the others."""
    ours = {4: 200.0, 5: 400.0, 6: 110.0, 7: 104.0, 8: 120.0, 9: 50.0}
    rows = [made_up(size=2**e) for e in ours]
    rows += [made_up(size=2**e, provider="fusedact", device_us=us) for e, us in ours.items()]
    rows += [made_up(size=2**e, provider="copy") for e in ours]
    result = bench.figures.load(made_up_run(rows).folder.parent)[0]
    cases = bench.figures.comparisons(result.records)
    found = bench.figures.losses(cases, result.clocks)
    assert [loss.case.size for loss in found] == [16, 32, 64, 256]
    (group,) = bench.figures.grouped(found, cases)
    assert group.sizes == "2^4 to 2^6, 2^8"
    assert (group.worst.case.size, group.worst.ratio) == (32, 0.25)
    assert bench.tables.losses_summary(result).count("\n") == 2
    assert bench.tables.losses_table(result).count("\n") == 5


def test_the_losses_say_when_there_are_none(bench, made_up_run):
    result = bench.figures.load(made_up_run(ROWS[:3]).folder.parent)[0]
    assert bench.tables.losses_table(result) == "No case has a ratio below 0.95."
    assert bench.tables.losses_summary(result) == "No case has a ratio below 0.95."


@needs_matplotlib
def test_plots_of_many_activations_go_below_each_other(bench, made_up_run):
    names = ["elu", "selu", "swish (learned)", "prelu", "relu_sigmoid", "swish", "prelu (per channel)"]
    result = bench.figures.load(made_up_run().folder.parent)[0]
    rows = [row | {"activation": name} for name in names for row in result.records]
    axes = bench.plots.ratio_figure(dataclasses.replace(result, records=rows)).axes
    assert [a.get_title() for a in axes if a.get_title().endswith("forward")] == [f"{n}, forward" for n in names]
    assert len(axes) == 2 * len(names)
    assert all(a.get_xlabel() == "elements" for a in axes if a.get_title().endswith("backward"))


@needs_matplotlib
def test_report_says_whose_parameters_learn(made_up_run):
    sentence = "The backward of `swish (learned)` includes the parameter's gradient."
    made = made_up_run()
    made.report()
    assert "includes" not in made.readme.read_text()
    made = made_up_run([row | {"activation": "swish (learned)"} for row in ROWS])
    made.report()
    assert sentence in made.readme.read_text() and sentence in (made.folder / "README.md").read_text()


def test_the_published_figures_are_current(bench, monkeypatch):
    monkeypatch.chdir(benches.ROOT)
    bench.report.main(["--check"])
