"""The benchmarks run, refuse wrong results, and their tables follow the CSV files."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fusedact import registry

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
MARKERS = "# Title\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nrest\n"


@pytest.fixture(scope="module")
def bench():
    """The modules in bench/, which is no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        names = ("cases", "compare", "report")
        yield SimpleNamespace(**{name: importlib.import_module(f"bench.{name}") for name in names})


def made_up(bench, **changes):
    """A row of elementwise.csv."""
    row = {
        "activation": "elu",
        "dtype": "float32",
        "size": 2**20,
        "direction": "forward",
        "provider": "eager",
        "median_us": 100.0,
        "q25_us": 90.0,
        "q75_us": 110.0,
        "ratio": 1.0,
        "kept_bytes_per_element": 4.0 if changes.get("direction") == "forward+backward" else "",
        "path": "",
        "copy_share": "",
        "rounds": 7,
        "calls_per_round": 1,
    }
    return bench.compare.Row(**row | changes)


@pytest.fixture
def made_up_run(bench, tmp_path):
    """A folder of results in which fusedact wins forward and loses forward+backward; and a README with markers."""
    folder = tmp_path / "results" / "made_up"
    folder.mkdir(parents=True)
    table = [
        made_up(bench),
        made_up(bench, provider="fusedact", median_us=50.0, ratio=2.0),
        made_up(bench, direction="forward+backward", median_us=1234.0),
        made_up(bench, direction="forward+backward", provider="fusedact", median_us=2468.0, ratio=0.5),
    ]
    bench.compare.write_csv(folder / "elementwise.csv", table)
    (folder / "environment.json").write_text(json.dumps(bench.compare.environment(CPU, ["--out", "somewhere"])))
    readme = tmp_path / "README.md"
    readme.write_text(MARKERS)
    return SimpleNamespace(readme=readme, arguments=["--results", str(folder.parent), "--readme", str(readme)])


# ----- compare


def test_compare_writes_a_row_for_each_provider_and_case(bench, tmp_path):
    bench.compare.main(["--out", str(tmp_path), "--device", "cpu", "--exponents", "4", "--no-large", "--seconds", "0"])
    with (tmp_path / "elementwise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(registry.names("elementwise")) * 2 * 2 * 2
    assert {row["provider"] for row in rows} == {"eager", "fusedact"}
    assert all(float(row["q25_us"]) <= float(row["median_us"]) <= float(row["q75_us"]) for row in rows)
    assert all(float(row["ratio"]) == 1.0 for row in rows if row["provider"] == "eager")
    assert all(row["kept_bytes_per_element"] for row in rows if row["direction"] == "forward+backward")
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["torch"] == torch.__version__
    assert facts["command"].startswith("python -m bench.compare --out ")


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def test_a_copy_is_timed_beside_the_providers(bench, direction):
    pairs = bench.cases.inputs(torch.float32, 64, CPU, count=3)
    case = bench.cases.Case("selu", "float32", 64, direction)
    rows = bench.compare.run_case(case, bench.cases.providers("selu"), pairs, seconds=0.0, with_copy=True)
    assert [row.provider for row in rows] == ["eager", "fusedact", "copy"]
    assert rows[-1].copy_share == 1.0


def test_inputs_take_turns_and_results_stay_as_long(bench):
    pairs = bench.cases.inputs(torch.float32, 8, CPU, count=3)
    seen = []
    one = bench.compare.contender(lambda x: seen.append(x) or x * 2, "forward", pairs)
    one.run(2)
    one.run(2)
    assert [x.data_ptr() for x in seen] == [pairs[i][0].data_ptr() for i in (0, 1, 2, 0)]
    assert len(one.results) == 2


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: torch.nn.functional.elu(x) + 0.01, "value"),
        (lambda x: torch.where(x < 2.0, torch.nn.functional.elu(x), torch.nan), "value"),
        (lambda x: torch.nn.functional.elu(x) + (x - x.detach()), "gradient"),
    ],
    ids=["value", "nan", "gradient"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_wrong_provider_is_not_timed(bench, wrong, what, dtype):
    pair = bench.cases.inputs(dtype, 4096, CPU)[0]
    with pytest.raises(AssertionError, match=f"elu by wrong: the {what} at x = .*not timed"):
        bench.cases.check_accuracy("elu", {"wrong": wrong}, pair)


def test_kept_bytes_count_storages_once_and_leave_out_the_output(bench):
    x = torch.randn(64)
    assert bench.cases.kept_bytes(torch.sigmoid, x) == 0
    assert bench.cases.kept_bytes(lambda x: x * x, x) == 64 * 4
    assert bench.cases.kept_bytes(bench.cases.eager("relu_sigmoid"), torch.randn(2, 64)[0]) == 2 * 64 * 4


# ----- report


def test_report_shows_figures_and_losses(bench, made_up_run):
    bench.report.main(made_up_run.arguments)
    text = made_up_run.readme.read_text()
    assert text.startswith("# Title\n") and text.endswith("<!-- bench:end -->\nrest\n")
    assert "old" not in text
    assert torch.__version__ in text and "`python -m bench.compare --out somewhere`" in text
    assert "| `elu` | float32 | 2^20 | 100 us | 50.0 us | 2.00 | 1.23 ms | 2.47 ms | 0.50 | 4 / 4 |" in text
    lost = [line for line in text.splitlines() if "forward+backward | eager" in line]
    assert len(lost) == 1 and lost[0].endswith("| 0.50 |")
    assert not any("| forward | eager" in line for line in text.splitlines())


def test_check_tells_a_current_readme_from_a_stale_one(bench, made_up_run):
    with pytest.raises(SystemExit, match="not current"):
        bench.report.main([*made_up_run.arguments, "--check"])
    assert made_up_run.readme.read_text() == MARKERS
    bench.report.main(made_up_run.arguments)
    bench.report.main([*made_up_run.arguments, "--check"])
    made_up_run.readme.write_text(made_up_run.readme.read_text().replace("2.00", "3.00"))
    with pytest.raises(SystemExit, match="not current"):
        bench.report.main([*made_up_run.arguments, "--check"])


@pytest.mark.parametrize("text", ["", "<!-- bench:begin -->", "<!-- bench:end --> <!-- bench:begin -->", MARKERS * 2])
def test_report_needs_one_pair_of_markers(bench, made_up_run, text):
    made_up_run.readme.write_text(text)
    with pytest.raises(SystemExit, match="once each"):
        bench.report.main(made_up_run.arguments)
    assert made_up_run.readme.read_text() == text


def test_report_needs_results(bench, tmp_path):
    with pytest.raises(SystemExit, match="run bench"):
        bench.report.main(["--results", str(tmp_path)])


def test_times_have_three_digits(bench):
    times = {"0.987": "0.99 us", "1.5": "1.50 us", "123.4": "123 us", "1234": "1.23 ms", "601810": "602 ms"}
    assert {t: bench.report._time(t) for t in times} == times


def test_the_losses_say_when_there_are_none(bench):
    assert bench.report.losses_table([]) == "No case has a ratio below 0.95."
