"""The benchmarks run, refuse wrong results, go on where they stopped; their tables and plots follow the files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import benches
import pytest
import torch

from fusedact import registry

CPU = torch.device("cpu")
MARKERS = "# Title\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nrest\n"
MODULES = ("cases", "environment", "figures", "plots", "report", "run", "store", "timing")

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


@pytest.fixture(scope="module")
def bench():
    """The modules in bench/."""
    return SimpleNamespace(**{name: benches.load(name) for name in MODULES})


@pytest.fixture
def run(bench, tmp_path):
    """Times elu on the CPU, fast; gives the folder's rows and facts."""

    def run(*arguments, out="results"):
        folder = tmp_path / out
        fixed = ["--out", str(folder), "--device", "cpu", "--seconds", "0"]
        defaults = {"--only": "elu", "--exponents": "4", "--dtypes": "float32"}
        chosen = [word for name, value in defaults.items() if name not in arguments for word in (name, value)]
        bench.run.main([*fixed, *chosen, *arguments])
        facts, records = bench.store.read(folder)
        return SimpleNamespace(folder=folder, facts=facts, records=records)

    return run


# ----- what is timed


def test_every_activation_is_timed(bench):
    timed = {s.activation for s in bench.cases.SUBJECTS.values() if s.own is None}
    # What is gated has a result of another shape than its input.
    assert timed == set(registry.names()) - set(registry.names("gated"))
    assert [s for s in bench.cases.SUBJECTS.values() if s.own is not None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_providers_of_all_activations_pass_the_check(bench, dtype):
    pairs = bench.cases.inputs(bench.cases.DTYPES[dtype], 2**16, CPU)
    for subject in bench.cases.SUBJECTS:
        (given,) = bench.cases.inputs_of(subject, pairs)
        bench.cases.check_accuracy(subject, bench.cases.providers(subject, CPU), given)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: torch.nn.functional.elu(x) + 0.01, "value"),
        (lambda x: torch.where(x < 2.0, torch.nn.functional.elu(x), torch.nan), "value"),
        (lambda x: torch.nn.functional.elu(x) + (x - x.detach()), "gradient"),
    ],
    ids=["value", "nan", "gradient"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_wrong_provider_is_refused(bench, wrong, what, dtype):
    pair = bench.cases.inputs(dtype, 4096, CPU)[0]
    with pytest.raises(AssertionError, match=f"elu by wrong: the {what} at x = .*not timed"):
        bench.cases.check_accuracy("elu", {"wrong": wrong}, pair)


def test_a_provider_that_fails_or_changes_the_dtype_is_refused(bench):
    def failing(x):
        raise ValueError("no such device\nand more")

    pair = bench.cases.inputs(torch.bfloat16, 64, CPU)[0]
    functions = {"failing": failing, "wide": lambda x: torch.nn.functional.elu(x.float())}
    assert bench.cases.refused("elu", functions, pair) == {
        "failing": "elu by failing fails: ValueError: no such device; not timed",
        "wide": "elu by wide gives torch.float32 and torch.bfloat16 where x is torch.bfloat16; not timed",
    }


LEARNED = [
    *("pwl learned (17 points)", "pwl learned (64 points)", "pwl learned per channel (17 points)"),
    *("relu_sigmoid (learned)", "swish (learned)", "prelu (per channel)", "own snake (learned)"),
]


def test_parameters_learn_in_these(bench):
    assert [name for name, s in bench.cases.SUBJECTS.items() if s.learned] == LEARNED


@pytest.mark.parametrize(("size", "shape"), [(2**16, (256, 256)), (256, (1, 256)), (16, (1, 16))])
def test_a_parameter_for_each_channel_goes_with_rows(bench, size, shape):
    pairs = bench.cases.inputs(torch.bfloat16, size, CPU, count=2)
    (x, g, weight), (other, _, same) = bench.cases.inputs_of("prelu (per channel)", pairs)
    assert x.shape == g.shape == shape
    assert (weight.shape, weight.dtype, weight.requires_grad) == (shape[1:], x.dtype, True)
    assert weight is same and len(weight.unique()) > 1
    # The memory of the pairs themselves, of which inputs rotate.
    assert [x.data_ptr(), other.data_ptr()] == [pair[0].data_ptr() for pair in pairs]


@pytest.mark.parametrize("subject", LEARNED)
def test_gradients_of_what_learns_are_asked_for(bench, subject):
    (given,) = bench.cases.inputs_of(subject, bench.cases.inputs(torch.float32, 1024, CPU))
    for function in bench.cases.providers(subject, CPU).values():
        dx, dp = bench.cases.forward_backward(function, *given)
        assert (dx.shape, dp.shape) == (given[0].shape, given[2].shape)


@pytest.mark.parametrize("subject", LEARNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, float("nan")])
def test_a_wrong_gradient_of_a_parameter_is_refused(bench, subject, dtype, scale):
    """A sum of terms of either sign, much smaller than they are: what is allowed must not reach it."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p):
            return p.clone()

        @staticmethod
        def backward(ctx, g):
            return g * scale

    (given,) = bench.cases.inputs_of(subject, bench.cases.inputs(dtype, 2**14, CPU))
    right = bench.cases.eager(subject, CPU)
    (parameter,) = bench.cases.SUBJECTS[subject].learned
    wanted = re.escape(f"{subject} by wrong: the gradient of {parameter}[") + r"\d+\] .*not timed"
    with pytest.raises(AssertionError, match=wanted):
        bench.cases.check_accuracy(subject, {"wrong": lambda x, p: right(x, Scaled.apply(p))}, given)


def test_mixed_up_channels_are_refused(bench):
    subject = "prelu (per channel)"
    (given,) = bench.cases.inputs_of(subject, bench.cases.inputs(torch.float32, 2**12, CPU))
    with pytest.raises(AssertionError, match="the value at x"):
        bench.cases.check_accuracy(subject, {"wrong": lambda x, w: torch.where(x > 0, x, x * w.flip(0))}, given)


def test_what_learns_is_not_kept_for_backward(bench):
    x, _, weight = bench.cases.inputs_of("prelu (per channel)", bench.cases.inputs(torch.float32, 512, CPU))[0]
    assert bench.cases.kept_bytes(torch.nn.functional.prelu, x, weight) == 512 * 4


def test_a_twin_may_name_its_arguments_otherwise(bench):
    x = torch.tensor([-2.0, 3.0])
    assert bench.cases.eager("prelu", CPU)(x).tolist() == bench.cases.fused("prelu", CPU)(x).tolist() == [-0.5, 3.0]


def test_other_libraries_are_timed_where_installed(bench, monkeypatch):
    others = {"theirs": "torch.nn.functional:elu", "missing": "no_such_package:elu", "lacking": "torch:no_such_name"}
    monkeypatch.setitem(bench.cases.SUBJECTS, "elu", bench.cases.Subject("elu", others=others))
    assert list(bench.cases.providers("elu", CPU)) == ["eager", "theirs", "fusedact"]


@pytest.mark.parametrize(("activation", "learned"), [("relu_sigmoid", ()), ("elu", ("alpha",))])
def test_an_activation_without_a_twin_needs_a_composition(bench, monkeypatch, activation, learned):
    """As a twin takes numbers, there is none where they learn."""
    monkeypatch.setitem(bench.cases.SUBJECTS, "bare", bench.cases.Subject(activation, learned=learned))
    with pytest.raises(ValueError, match=f"{activation} has no twin in PyTorch and needs a composition"):
        bench.cases.providers("bare", CPU)


def test_kept_bytes_count_storages_once_and_leave_out_the_output(bench):
    x = torch.randn(64)
    assert bench.cases.kept_bytes(torch.sigmoid, x) == 0
    assert bench.cases.kept_bytes(lambda x: x * x, x) == 64 * 4
    assert bench.cases.kept_bytes(bench.cases.eager("relu_sigmoid", CPU), torch.randn(2, 64)[0]) == 2 * 64 * 4


# ----- samples


def test_inputs_take_turns_and_results_stay_as_long(bench):
    pairs = bench.cases.inputs(torch.float32, 8, CPU, count=3)
    seen = []
    one = bench.timing.contender(lambda x: seen.append(x) or x * 2, "forward", pairs)
    one.run(2)
    one.run(2)
    assert [x.data_ptr() for x in seen] == [pairs[i][0].data_ptr() for i in (0, 1, 2, 0)]
    assert len(one.results) == 2


def test_each_round_begins_with_another_provider(bench):
    assert "".join(bench.timing._rounds("abc", 3)) == "abcbcacab"


def by_hand(work):
    """The median time of some calls, written out."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def test_figures_agree_with_a_timing_by_hand(run):
    """For calls of milliseconds. Another process may take the core from one of both; hardly three times in a row."""
    x = torch.randn(2**22)
    x_grad, g = x.clone().requires_grad_(), torch.randn(2**22)
    for attempt in range(3):
        records = run("--exponents", "22", "--seconds", "0.2", out=str(attempt)).records
        times = {r["direction"]: float(r["device_us"]) for r in records if r["provider"] == "eager"}
        forward = by_hand(lambda: torch.nn.functional.elu(x))
        both = by_hand(lambda: torch.autograd.grad(torch.nn.functional.elu(x_grad), x_grad, g))
        ratios = [times["forward"] / forward, times["forward+backward"] / both]
        if all(0.5 < ratio < 2.0 for ratio in ratios):
            return
    raise AssertionError(f"the runner's figures are {ratios} times those by hand")


class Event:
    """A CUDA event that takes the host's time."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def elapsed_time(self, end):
        return (end.time - self.time) * 1e3

    def synchronize(self):
        pass

    def query(self):
        return Event.reached

    reached = False


class Graph:
    """A CUDA graph that takes a millisecond."""

    def replay(self):
        time.sleep(1e-3)


@pytest.fixture
def cuda(bench, monkeypatch):
    """torch.cuda's names, on the CPU, where calls are done when they return."""

    @contextlib.contextmanager
    def capture(graph, stream):
        if cuda.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield

    cuda = SimpleNamespace(fails=False)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capture,
        "stream": contextlib.nullcontext,
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "synchronize": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(bench.timing.Plug, "BYTES", 64)
    bench.timing.plug.cache_clear()
    yield cuda
    bench.timing.plug.cache_clear()
    Event.reached = False


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_gpu_s_time_and_the_host_s_are_apart(bench, cuda, direction, reached, fails):
    cuda.fails, Event.reached = fails, reached
    pairs = bench.cases.inputs(torch.float32, 64, CPU, count=4)
    one = bench.timing.contender(torch.sigmoid, direction, pairs)
    samples = bench.timing._measure_cuda({"one": one}, 0.0, CPU)["one"]
    assert samples.clock == ("events" if fails else "graph") + (", host-bound" if reached else "")
    assert len(samples.device) == len(samples.host) == bench.timing.MIN_ROUNDS
    if not fails:
        assert all(t * samples.calls >= 1e-3 for t in samples.device)
        assert samples.calls % len(pairs) == 0
    assert all(t > 0 for t in samples.host)


# ----- the runner


def test_a_row_for_each_provider_and_case(bench, run):
    every = list(bench.cases.SUBJECTS)
    made = run("--only", *every, "--dtypes", "float32", "bfloat16", "float16")
    rows = made.records
    assert len(rows) == len(every) * 3 * 2 * 3
    assert {row["provider"] for row in rows} == {"eager", "fusedact", "copy"}
    for row in rows:
        assert float(row["device_q25_us"]) <= float(row["device_us"]) <= float(row["device_q75_us"])
        assert (row["device_us"], row["clock"]) == (row["host_us"], "wall")
        tensors = 2 if row["direction"] == "forward" else 5
        moved = tensors * 16 * (4 if row["dtype"] == "float32" else 2)
        assert float(row["gb_per_s"]) == pytest.approx(moved / float(row["device_us"]) / 1e3, abs=6e-4)
    assert all(float(row["ratio"]) == 1.0 for row in rows if row["provider"] == "eager")
    assert all(float(row["copy_share"]) == 1.0 for row in rows if row["provider"] == "copy")
    kept = [row for row in rows if row["direction"] == "forward+backward" and row["provider"] != "copy"]
    assert all(row["kept_bytes_per_element"] for row in kept)
    assert made.facts["torch"] == torch.__version__
    assert made.facts["commands"][0].startswith("python -m bench.run --out ")
    assert made.facts["refused"] == {}


def test_finished_cases_are_not_timed_again(run, capsys):
    first = run("--exponents", "4", "5", "--limit", "0")
    assert "the time is over with 3 cases left" in capsys.readouterr().out
    assert len(first.records) == 3
    second = run("--exponents", "4", "5")
    assert "1 of 4 cases are in" in capsys.readouterr().out
    assert len(second.records) == 12
    assert second.records[:3] == first.records
    third = run("--exponents", "4", "5")
    assert third.records == second.records
    assert len(third.facts["commands"]) == len(third.facts["state"]) == 2


def test_figures_of_another_environment_are_not_mixed(bench, run, monkeypatch):
    old = run()
    with pytest.raises(SystemExit, match=r"another environment: seconds was 0.0 and is 0.001; --fresh replaces them"):
        run("--seconds", "0.001")
    assert bench.store.read(old.folder)[1] == old.records
    monkeypatch.setattr(bench.environment, "sources", lambda: "other")
    with pytest.raises(SystemExit, match=r"another environment: sources was '.*' and is 'other'"):
        run("--exponents", "5")
    new = run("--exponents", "5", "--fresh")
    assert {r["size"] for r in new.records} == {"32"} and new.facts["sources"] == "other"


def test_half_a_run_is_not_continued(run):
    (run().folder / "environment.json").unlink()
    with pytest.raises(SystemExit, match="half a run"):
        run()


def test_the_runner_leaves_out_what_is_wrong(bench, run, monkeypatch, capsys):
    others = {"wrong": "torch.nn.functional:selu"}
    monkeypatch.setitem(bench.cases.SUBJECTS, "elu", bench.cases.Subject("elu", others=others))
    with pytest.raises(SystemExit) as stopped:
        run(out="wrong")
    assert stopped.value.code == 1
    out = capsys.readouterr().out
    assert "elu by wrong: the value at x = " in out and "the time is over" not in out


def test_nothing_is_compared_with_a_wrong_fusedact(bench, run, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.cases, "fused", lambda subject, device: torch.nn.functional.selu)
    with pytest.raises(SystemExit):
        run()
    facts, records = bench.store.read(tmp_path / "results")
    assert records == []
    assert list(facts["refused"]) == ["elu float32 2^4 fusedact"]


def test_cases_without_room_are_left_out(bench, run, monkeypatch, capsys):
    monkeypatch.setattr(bench.environment, "available_bytes", lambda device: 1000)
    with pytest.raises(SystemExit):
        run()
    assert "elu float32 2^4: needs more memory than is free; not timed" in capsys.readouterr().out


def test_folders_are_named_after_devices(bench, monkeypatch):
    assert bench.environment.slug(CPU) == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert bench.environment.slug(torch.device("cuda")) == "nvidia-h200"


def test_ways_to_compile_by_size(bench):
    suite = SimpleNamespace(compiled=(4, 6), tuned=(6,))
    gpu = torch.device("cuda")
    compiled = bench.run._compiled(suite, None, gpu)
    assert compiled[16] == ["compile"]
    assert compiled[64][:2] == ["compile", "compile max-autotune"]
    assert bench.run._compiled(suite, [5], CPU) == {32: ["compile"]}


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_for_gpus_runs_dry(tmp_path):
    environment = {"PYTHON": sys.executable, "TESTS": "tests/kernels/test_layouts.py -k no_elements"}
    arguments = ["--device", "cpu", "--only", "elu", "--dtypes", "float32", "--exponents", "4", "--seconds", "0"]
    bash = shutil.which("bash")
    finished = subprocess.run(
        [bash, "bench/on_gpu.sh", str(tmp_path / "out"), *arguments],
        cwd=benches.ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    logs = {"environment.txt", "tests.txt", "bench.txt", "summary.txt"}
    assert files == logs | {"results/elementwise.csv", "results/environment.json"}
    assert (tmp_path / "out" / "summary.txt").read_text().count("exit 0") == 3


# ----- report


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
    assert "| `elu` | 2.00 | 0.50 |  |  | 4 / 4 | 2^20 |" in text
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
    assert "| `elu` | 2.00 / 0.50 (75%) |  |  |  |" in text
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
    found = bench.figures.losses(cases, on_gpu=False)
    assert [loss.case.size for loss in found] == [16, 32, 64, 256]
    (group,) = bench.figures.grouped(found, cases)
    assert group.sizes == "2^4 to 2^6, 2^8"
    assert (group.worst.case.size, group.worst.ratio) == (32, 0.25)
    assert bench.report.losses_summary(result).count("\n") == 2
    assert bench.report.losses_table(result).count("\n") == 5


def test_the_losses_say_when_there_are_none(bench, made_up_run):
    result = bench.figures.load(made_up_run(ROWS[:3]).folder.parent)[0]
    assert bench.report.losses_table(result) == "No case has a ratio below 0.95."
    assert bench.report.losses_summary(result) == "No case has a ratio below 0.95."


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
