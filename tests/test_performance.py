"""docs/performance.md, the model of time and the crossovers say what the files of runs and ledgers say."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import re
import shutil
from types import SimpleNamespace

import benches
import pytest

MODULES = ("crossover", "figures", "model", "performance", "plots", "report", "tables")
LEDGERS = ("ledger.csv", "ledger.json", "rows_ledger.csv", "gated_ledger.csv", "biased_ledger.csv")
FORWARD, BOTH = "forward", "forward+backward"

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


@pytest.fixture(scope="module")
def bench():
    """The modules in bench/."""
    return SimpleNamespace(**{name: benches.load(name) for name in MODULES})


@pytest.fixture(scope="module")
def counted(bench):
    """What the committed ledgers count."""
    return bench.model.kernels(benches.ROOT / bench.model.RESULTS)


def rows(activation="elu", times=None, path="triton", **columns):
    """The rows of one case: times in microseconds by provider."""
    for provider, time in (times or {"eager": 100.0, "fusedact": 50.0, "copy": 40.0}).items():
        row = {"activation": activation, "dtype": "float32", "size": 2**20, "direction": FORWARD, "provider": provider}
        row |= dict.fromkeys(("device_us", "device_q25_us", "device_q75_us"), time)
        row |= dict.fromkeys(("host_us", "host_q25_us", "host_q75_us"), 1.0)
        row |= {"clock": "graph", "ratio": 1.0, "host_ratio": 1.0, "gb_per_s": round(8 * 2**20 / time / 1e3, 3)}
        row |= {"copy_share": 1.0, "kept_bytes_per_element": "", "path": path if provider == "fusedact" else ""}
        yield {key: str(value) for key, value in (row | {"rounds": 7, "calls_per_round": 1} | columns).items()}


ENVIRONMENT = {
    **{"device": "A device", "device_type": "cpu", "threads": 2, "os": "an os", "fusedact_backend": "auto"},
    **{"torch": "2.0", "triton": "3.0", "python": "3.11", "date": "a date", "commands": ["python -m bench.run"]},
}


@pytest.fixture
def published(bench, tmp_path):
    """Writes a folder of results and a README with markers, and makes the report of them."""

    def make(records, ledgers=False, name="made-up", **environment):
        folder = tmp_path / "bench" / "results" / name
        folder.mkdir(parents=True, exist_ok=True)
        records = list(records)
        with (folder / "elementwise.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | environment))
        for ledger in LEDGERS if ledgers else ():
            shutil.copy(benches.ROOT / bench.model.RESULTS / ledger, folder.parent)
        readme = tmp_path / "README.md"
        readme.write_text(f"{bench.report.BEGIN}\n{bench.report.END}\n")

        def report(*options):
            bench.report.main(["--results", str(folder.parent), "--readme", str(readme), *options])

        page = tmp_path / "docs" / "performance.md"
        result = next(r for r in bench.figures.load(folder.parent) if r.folder == folder)
        return SimpleNamespace(folder=folder, readme=readme, page=page, report=report, result=result)

    return make


def gpu(bench):
    return {"device": bench.model.H200.reported, "device_type": "cuda", "name": "nvidia-h200"}


# ----- the model


@pytest.mark.parametrize(
    ("issued", "special", "bound", "terabytes"),
    [(10, 2, "HBM", 4.3), (50, 2, "issue", 2.14), (10, 5, "MUFU", 3.35), (10, 0, "HBM", 4.3)],
)
def test_the_slowest_of_three_bounds(bench, issued, special, bound, terabytes):
    work = bench.model.Work(4, issued, special)
    device = bench.model.H200
    assert device.bound(work) == bound
    assert device.bandwidth_of(work) / 1e12 == pytest.approx(terabytes, abs=0.005)
    assert device.share(work) == pytest.approx(terabytes / 4.3, abs=0.002)
    assert device.microseconds(work, 0, launches=3) == 3 * bench.model.LAUNCH_US
    millions = device.microseconds(work, 10**6) - bench.model.LAUNCH_US
    assert millions == pytest.approx(4e6 / device.bandwidth_of(work) * 1e6)


def test_a_budget_leaves_memory_the_bound(bench):
    for device in bench.model.DEVICES:
        most = device.budget(6)
        assert device.bound(bench.model.Work(6, most * 0.999)) == "HBM"
        assert device.bound(bench.model.Work(6, most * 1.001)) == "issue"
    assert round(bench.model.H200.budget(4), 1) == 24.9
    assert round(bench.model.H200.budget(12), 1) == 74.7


def test_it_agrees_with_what_the_ledger_keeps(bench, counted):
    """Which is computed when a kernel is compiled."""
    path = benches.ROOT / bench.model.RESULTS / "ledger.csv"
    with path.open(newline="") as file:
        kept = {(r["kernel"], r["direction"], r["dtype"]): r for r in csv.DictReader(file) if r["target"] == "sm_90"}
    ours = [k for k in counted if k.whole and k.target == "sm_90"]
    assert len(ours) == len(kept) > 200
    short = {long: name for name, long in bench.model.DTYPES.items()}
    for k in ours:
        row = kept[k.name, k.direction, short[k.dtype]]
        assert bench.model.H200.bound(k.work) == row["bound"]
        assert round(bench.model.H200.bandwidth_of(k.work) / 1e12, 2) == float(row["predicted_tb_s"])


def test_a_kernel_has_one_count(counted):
    keys = [(k.name, k.direction, k.dtype, k.target) for k in counted]
    assert len(keys) == len(set(keys))
    assert {k.form for k in counted} == {"elementwise", "rowwise", "gated", "biased", "piecewise", "own"}
    assert not [k for k in counted if "65536" in k.name]


@pytest.mark.parametrize(
    ("activation", "forward", "backward"),
    [
        ("silu", "silu", "silu"),
        ("swish (learned)", "swish", "swish (learned)"),
        ("prelu (per channel)", "prelu", "prelu (per channel, last)"),
        ("pwl (1024 points)", "pwl_uniform", "pwl_uniform"),
        ("pwl learned (17 points)", "pwl_uniform", "pwl learned (17 points)"),
        ("pwl learned per channel (17 points)", "pwl_uniform", "pwl learned per channel (17 points)"),
        ("softmax", "softmax (rows of 1024)", "softmax (rows of 1024)"),
        ("gated gelu_tanh", "gelu_tanh, two tensors", "gelu_tanh, two tensors"),
        ("packed silu", "silu, gate_value", "silu, gate_value"),
        ("packed silu (interleaved)", "silu, interleaved", "silu, interleaved"),
        ("bias gelu", "bias, gelu", "bias, gelu"),
        ("bias silu dropout", "bias, silu, dropout", "bias, silu, dropout"),
        ("own snake", "own snake", "own snake"),
    ],
)
def test_cases_are_counted_as_kernels(bench, counted, activation, forward, backward):
    assert bench.model.counted_as(activation, "forward") == forward
    assert bench.model.counted_as(activation, "backward") == backward
    names = {(k.name, k.direction) for k in counted}
    assert {(forward, "forward"), (backward, "backward")} <= names
    model = bench.model.Model(bench.model.H200, counted)
    there, back = (model.predicted(activation, d, "bfloat16", 2**24) for d in (FORWARD, BOTH))
    alone = next(k for k in model.kernels if (k.name, k.direction, k.dtype) == (backward, "backward", "bfloat16"))
    assert back - there == pytest.approx(model.time(alone, 2**24)) and there > 2 * bench.model.LAUNCH_US


def test_nothing_is_predicted_of_what_was_not_counted(bench, counted):
    model = bench.model.Model(bench.model.H200, counted)
    # In evaluation it is another kernel than the one that was counted; of these no ledger knows.
    for activation in ("rrelu", "own snake (learned)", "linear gelu", "softmax (temperature)"):
        assert model.predicted(activation, BOTH, "bfloat16", 2**20) is None
    assert model.predicted("silu", FORWARD, "float64", 2**20) is None


def test_a_device_is_known_from_the_table_or_from_its_run(bench, published):
    clock = {"state": [{"before": {"clocks.max.sm": "1500 MHz"}}], "multiprocessors": 100}
    large = list(rows(times={"eager": 50.0, "fusedact": 50.0, "copy": 40.0}, size=2**24, bytes_moved=10**8))

    def device(records, name, **environment):
        return bench.model.device_of(published(records, device=name, device_type="cuda", **environment).result)

    assert device(large, "NVIDIA H200", **clock) is bench.model.H200
    assert device(large, "NVIDIA H100 80GB HBM3") is bench.model.H100
    found = device(large, "NVIDIA B200", **clock)
    assert (found.target, found.bandwidth) == ("sm_100", pytest.approx(2.5e12))
    assert (found.issue, found.special) == (100 * 128 * 1.5e9, 100 * 16 * 1.5e9)
    assert device(rows(), "NVIDIA B200", **clock) is None, "its copies are too small to tell"
    assert device(large, "NVIDIA B200", multiprocessors=100) is None, "nobody knows its clock"
    assert device(large, "NVIDIA GeForce RTX 4090", **clock) is None


def test_traffic_of_forms(counted):
    """In bfloat16, for an element of the result."""
    moved = {(k.name, k.direction): k.work.moved for k in counted if (k.dtype, k.target) == ("bfloat16", "sm_90")}
    assert (moved["silu", "forward"], moved["silu", "backward"]) == (4, 6)
    assert (moved["silu, gate_value", "forward"], moved["silu, gate_value", "backward"]) == (6, 10)
    assert (moved["bias, silu", "forward"], moved["bias, silu", "backward"]) == (4, 6)
    assert moved["bias, silu, residual", "forward"] == 6
    assert moved["pwl learned (17 points)", "backward"] == 6


def test_the_command_prints_predictions(bench, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(benches.ROOT)
    bench.model.main(["--kernels", "silu", "snake", "--dtypes", "bfloat16", "float32", "--exponent", "26"])
    out = capsys.readouterr().out
    assert "| H200 | sm_90 | a copy, measured on one | 4.3e12 | 33.45e12 | 4.18e12 |" in out
    # 4 and 6 bytes for each of 2^26 elements at 3.03e12 and 4.3e12 a second, and a launch.
    assert re.search(r"\| `silu` \|.*\| 91\.1 us \| 135 us \| 64\.9 us \| 96\.1 us \|", out)
    assert re.search(r"\| `snake` \|.*\(52%, issue\) \|", out)
    assert "in bfloat16" in out and "in float32" in out
    with pytest.raises(SystemExit, match="no kernel 'sine'"):
        bench.model.main(["--kernels", "sine"])
    with pytest.raises(SystemExit, match=r"no ledger counted anything"):
        bench.model.main(["--results", str(tmp_path)])


# ----- the model beside measurements


def judged_rows(bench, counted):
    """A run whose times are the predicted ones, times a factor: 1, 2 and 4 for silu, 0.5 for a gated activation."""
    model = bench.model.Model(bench.model.H200, counted)
    for exponent, factor in ((20, 1.0), (22, 2.0), (24, 4.0)):
        time = model.predicted("silu", FORWARD, "float32", 2**exponent) * factor
        times = {"eager": 2 * time, "fusedact": time, "copy": 0.9 * time}
        yield from rows("silu", times, size=2**exponent, form="elementwise")
    time = model.predicted("gated silu", BOTH, "float32", 2**20) / 2
    yield from rows("gated silu", {"eager": time, "fusedact": time, "copy": time}, direction=BOTH, form="gated")
    time = model.predicted("bias silu", FORWARD, "float32", 2**20)
    yield from rows("bias silu", {"eager": time, "fusedact": time, "copy": time}, path="", form="biased")
    # Neither of these is a kernel's time to predict.
    yield from rows("gelu", path="aten", form="elementwise")
    yield from rows("linear gelu", form="linear")


@needs_matplotlib
def test_the_model_s_error_is_reported_by_form(bench, counted, published):
    made = published(judged_rows(bench, counted), ledgers=True, **gpu(bench))
    made.report()
    page = made.page.read_text()
    assert "### How right the model is" in page
    assert "| Elementwise | `silu`, float32, forward, 2^24 | 3 | 50% | -75% |" in page
    assert "| Gated | `gated silu`, float32, forward+backward, 2^20 | 1 | 100% | +100% |" in page
    assert "| With bias, dropout and residual | `bias silu`, float32, forward, 2^20 | 1 | 0% | " in page
    assert "No GPU has been measured" not in page and "no figure of a GPU" not in page
    assert "## Measured: NVIDIA H200\n" in page and "**Nothing in this section is measured.**" in page
    table = (made.folder / "README.md").read_text()
    predicted = bench.model.Model(bench.model.H200, counted).predicted("silu", FORWARD, "float32", 2**22)
    words = bench.figures.duration
    assert f"| {words(2 * predicted)} | {words(1.8 * predicted)} | {words(predicted)} | 2.00 |" in table


@needs_matplotlib
def test_a_device_that_the_model_does_not_know(published):
    made = published(rows(form="elementwise"), device="NVIDIA Something", device_type="cuda")
    made.report()
    assert "The model knows no figures of this device" in made.page.read_text()
    assert "| predicted |" not in (made.folder / "README.md").read_text()
    assert "The ledgers have counted nothing yet." in made.page.read_text()


# ----- crossovers


def cases_of(bench, published, ratios, paths=None):
    """A case at sizes of 2^4, 2^6, 2^8, ... with these ratios."""
    records = []
    for i, ratio in enumerate(ratios):
        path = paths[i] if paths else "pieces"
        records += rows(times={"eager": ratio, "fusedact": 1.0, "copy": 1.0}, size=4 ** (2 + i), path=path)
    made = published(records)
    return bench.figures.comparisons(made.result.records), made.result


@pytest.mark.parametrize(
    ("ratios", "wins_from", "below", "estimate", "text"),
    [
        ([0.5, 2.0, 3.0], 64, 16, 32, "2^6 (2^5.0)"),
        ([0.5, 0.25, 2.0], 256, 64, round(64 * 4 ** (2 / 3)), "2^8 (2^7.3)"),
        # Won, lost and won again: it gains from the last loss on.
        ([2.0, 0.5, 2.0], 256, 64, 128, "2^8 (2^7.0)"),
        ([2.0, 1.5, 1.1], 16, None, None, "all"),
        ([2.0, 1.5, 1.0], None, None, None, "none"),
    ],
)
def test_where_gains_begin(bench, published, ratios, wins_from, below, estimate, text):
    cases, result = cases_of(bench, published, ratios)
    found = bench.crossover.crossover(cases, "device")
    assert (found.wins_from, found.below, found.estimate, found.text) == (wins_from, below, estimate, text)
    (row,) = json.loads(bench.crossover.text(result))["rows"]
    assert row == dataclasses.asdict(found)
    assert f"| `elu` | {text} |" in bench.crossover.crossover_table(result)


def test_pytorch_s_operator_is_neither_won_nor_lost(bench, published):
    cases, _ = cases_of(bench, published, [0.9, 1.3, 2.0], ["aten", "formula", "triton"])
    found = bench.crossover.crossover(cases, "device")
    assert (found.wins_from, found.below, found.what_below) == (256, 64, "PyTorch's own operators run")
    assert found.estimate is None and found.text == "2^8, PyTorch's below"
    cases, result = cases_of(bench, published, [1.1, 1.1, 1.1], ["aten", "aten", "formula"])
    assert bench.crossover.crossover(cases, "device") is None
    assert json.loads(bench.crossover.text(result))["rows"] == []
    assert "no case anything" in bench.crossover.crossover_table(result)


def test_a_gpu_has_a_crossover_for_each_clock(bench, published):
    """On the device it gains at both sizes, in a loop, where the host is what takes time, at the larger one."""
    records = []
    for exponent, eager, host in ((10, 3.0, (5.0, 9.0)), (20, 100.0, (5.0, 9.0))):
        some = list(rows(times={"eager": eager, "fusedact": eager / 2, "copy": 1.0}, size=2**exponent))
        for row, time in zip(some, host, strict=False):
            row["host_us"] = str(time)
        records += some
    result = published(records, **gpu(bench)).result
    found = {c.clock: c.wins_from for c in bench.crossover.crossovers(result)}
    assert found == {"device": 2**10, "call": 2**20}
    assert "| `elu` | call | 2^20 (" in bench.crossover.crossover_table(result)


# ----- the page


COLUMNS = {"kernels": 3, "bytes_moved": 8 * 2**20, "peak_bytes_per_element": 12.0, "error": 0.512}


@needs_matplotlib
def test_the_page_has_forms_resources_and_losses(published):
    records = [*rows("elu", form="elementwise", **COLUMNS), *rows("gated silu", form="gated", **COLUMNS)]
    records += rows("gated silu", {"eager": 40.0, "fusedact": 50.0, "copy": 5.0}, size=2**10, form="gated", **COLUMNS)
    made = published(records)
    made.report()
    text = made.page.read_text()
    elementwise, gated = text.index("### Elementwise"), text.index("### Gated")
    assert elementwise < text.index("| `elu` | 2.00 (80%) |") < gated < text.index("| `gated silu` | 2.00 (80%) |")
    assert "| activation | peak B/element fwd | kernels fwd | error float32 |" in text
    assert "| `gated silu` | 12 / 12 | 3 / 3 | 0.512 / 0.512 |" in text
    assert "kept B/element |" not in text, "nothing was kept, so there is no such column"
    assert "In 1 of 3 cases" in text
    assert "| faster | 2^10 | 2^20 |" in text and "| `gated silu` | float32 | forward | eager | 0.80 |  |" in text
    assert "is older than the columns" not in text
    assert "every figure of a GPU is predicted" in text and "no figure of a GPU has been measured yet" in text
    assert "(docs/performance.md)" in made.readme.read_text()
    for link in re.findall(r"\]\((\.\.[^)#]+)", text):
        if "README.md" not in link or "made-up" in link:
            assert (made.page.parent / link).exists(), link


@needs_matplotlib
def test_the_page_says_what_an_old_run_lacks(published):
    made = published(rows())
    made.report()
    text = made.page.read_text()
    assert "older than the columns `form`, `kernels`, `bytes_moved`, `peak_bytes_per_element`, `error`" in text
    assert "### All" in text and "| `elu` | 2.00 (80%) |  | 2^20 |" in text
    assert "eager / fusedact:" not in text


@needs_matplotlib
def test_the_page_s_forced_backend_and_moves_of_nothing(published):
    made = published(rows(times={"eager": 1.0, "fusedact": 1.0, "copy": 900.0}), fusedact_backend="triton")
    made.report()
    assert "## Measured: A device, backend triton" in made.page.read_text()
    assert "| `elu` | 1.00 (>999%) |" in made.page.read_text()


@needs_matplotlib
def test_check_covers_the_page_the_crossovers_and_the_plots(published):
    made = published(rows(form="elementwise"))
    made.report()
    made.report("--check")
    for path in (made.page, made.folder / "crossover.json"):
        text = path.read_text()
        path.write_text(text.replace("2", "3", 1))
        with pytest.raises(SystemExit, match=f"not current: .*{path.name}"):
            made.report("--check")
        path.write_text(text)
    (made.folder / "bandwidth-float32.png").unlink()
    with pytest.raises(SystemExit, match=r"not current: .*bandwidth-float32\.png"):
        made.report("--check")


def test_the_committed_page_tells_measured_from_predicted(bench):
    path = benches.ROOT / bench.performance.PAGE
    text = path.read_text()
    results = bench.figures.load(benches.ROOT / bench.model.RESULTS)
    for result in results:
        cases = bench.figures.comparisons(result.records)
        assert f"## Measured: {result.environment['device']}" in text
        assert result.environment["torch"] in text and result.environment["date"] in text
        # Every loss stands in the tables of losses.
        found = bench.figures.losses(cases, result.clocks)
        losses = bench.tables.losses_by_size(result)
        assert losses in text
        lost = {(x.case.activation, x.case.dtype, x.case.direction, x.case.size, x.clock, x.family) for x in found}
        assert len(re.findall(r"\| 0\.\d\d(?= )", losses)) == len(lost)
    if not any(result.on_gpu for result in results):
        assert "**No GPU has been measured yet: every figure of a GPU is predicted.**" in text
    measured, predicted = text.split("## Predicted: GPUs")
    facts = json.loads((benches.ROOT / bench.model.RESULTS / "ledger.json").read_text())
    assert all(facts[name] in predicted for name in ("triton", "date", "command"))
    assert "H200" in predicted and not re.search(r"\| H[12]00 (fwd|bwd)", measured)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (path.parent / link).exists(), link


# ----- plots


@needs_matplotlib
def test_bandwidths_over_size_by_provider(bench, counted, published):
    records = []
    for exponent in (20, 22):
        times = {"eager": 40.0, "compile": 30.0, "fusedact": 20.0, "copy": 10.0}
        records += rows("silu", times, size=2**exponent, form="elementwise", bytes_moved=8 * 2**exponent)
        records += rows("not telling", size=2**exponent, form="elementwise", bytes_moved=8)
    made = published(records, ledgers=True, **gpu(bench))
    figure = bench.plots.roofline_figure(made.result, "float32")
    (axes,) = (a for a in figure.axes if a.get_lines())
    assert axes.get_title() == "silu, forward" and axes.get_ylabel() == "GB/s, float32"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert list(lines) == ["copy, the roof", "eager", "compile", "fusedact", "fusedact, predicted"]
    for name, time in (("copy, the roof", 10.0), ("eager", 40.0), ("compile", 30.0), ("fusedact", 20.0)):
        assert lines[name] == pytest.approx([8 * 2**e / time / 1e3 for e in (20, 22)])
    model = bench.model.Model(bench.model.H200, counted)
    reached = [8 * 2**e / model.predicted("silu", FORWARD, "float32", 2**e) / 1e3 for e in (20, 22)]
    assert lines["fusedact, predicted"] == pytest.approx(reached)
    assert list(bench.plots.rooflines(made.result)) == ["bandwidth-float32.png"]


@needs_matplotlib
def test_bytes_that_a_run_did_not_say_are_the_copy_s(bench, published):
    made = published(rows(times={"eager": 50.0, "fusedact": 20.0, "copy": 8.0}))
    (case,) = bench.figures.comparisons(made.result.records)
    assert case.bytes == pytest.approx(8 * 2**20, rel=1e-3)
    assert case.bandwidth("eager") == pytest.approx(8 * 2**20 / 50 / 1e3, rel=1e-3)
    titles = {a.get_title() for a in bench.plots.roofline_figure(made.result, "float32").axes}
    assert "elu, forward" in titles, "where nothing telling was timed, the first ones are shown"


@needs_matplotlib
def test_pictures_tell_of_every_form(bench, published):
    names = {"relu": "elementwise", "gated silu": "gated", "gated gelu": "gated", "bias silu": "biased"}
    names |= {"linear silu": "linear", "own snake": "own", "elu": "elementwise"}
    made = published([row for name, form in names.items() for row in rows(name, form=form)])
    shown = {c.activation for c in bench.plots._telling(made.result)}
    assert shown == {"relu", "gated silu", "bias silu", "linear silu", "own snake"}
