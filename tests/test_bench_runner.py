"""The benchmarks run, refuse wrong results, and go on where they stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import benches
import pytest
import torch

CPU = torch.device("cpu")
MODULES = ("cases", "catalog", "environment", "plan", "providers", "run", "store", "subjects", "timing")


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

    run.folder = lambda out: tmp_path / out
    return run


# ----- samples


def test_inputs_take_turns_and_results_stay_as_long(bench):
    pairs = bench.cases.inputs_of("elu", bench.cases.inputs(torch.float32, 8, CPU, count=3))
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
    pairs = bench.cases.inputs_of("sigmoid", bench.cases.inputs(torch.float32, 64, CPU, count=4))
    one = bench.timing.contender(torch.sigmoid, direction, pairs)
    samples = bench.timing._measure_cuda({"one": one}, 0.0, CPU)["one"]
    assert samples.clock == ("events" if fails else "graph") + (", host-bound" if reached else "")
    assert len(samples.device) == len(samples.host) == bench.timing.MIN_ROUNDS
    if not fails:
        assert all(t * samples.calls >= 1e-3 for t in samples.device)
        assert samples.calls % len(pairs) == 0
    assert all(t > 0 for t in samples.host)


# ----- the runner


def test_a_row_for_each_provider_and_case(bench, run, monkeypatch):
    # Nothing here looks at the figures.
    monkeypatch.setattr(bench.timing, "SAMPLE_SECONDS", 1e-5)
    every = list(bench.catalog.SUBJECTS)
    made = run("--only", *every, "--dtypes", "bfloat16")
    rows = made.records
    assert len(rows) == len(every) * 2 * 3
    assert {row["provider"] for row in rows} == {"eager", "fusedact", "copy"}
    for row in rows:
        assert row["form"] == bench.catalog.SUBJECTS[row["activation"]].form
        assert float(row["device_q25_us"]) <= float(row["device_us"]) <= float(row["device_q75_us"])
        assert (row["device_us"], row["clock"]) == (row["host_us"], "wall")
        moved = int(row["bytes_moved"])
        assert float(row["gb_per_s"]) == pytest.approx(moved / float(row["device_us"]) / 1e3, abs=6e-4)
        if row["activation"] == "elu":
            assert moved == (2 if row["direction"] == "forward" else 5) * 16 * 2
        # There is no such number on a CPU.
        assert row["kernels"] == ""
    assert all(float(row["ratio"]) == 1.0 for row in rows if row["provider"] == "eager")
    copies, others = ([row for row in rows if (row["provider"] == "copy") == is_copy] for is_copy in (True, False))
    assert all(float(row["copy_share"]) == 1.0 for row in copies)
    assert {(row["error"], row["peak_bytes_per_element"], row["kept_bytes_per_element"]) for row in copies} == {
        ("",) * 3
    }
    assert all(float(row["error"]) >= 0 for row in others)
    # At least a result of two bytes; with backward, two.
    computing = [row for row in others if row["activation"] != "identity"]
    assert all(float(row["peak_bytes_per_element"]) >= 2 * (1 + (row["direction"] != "forward")) for row in computing)
    assert all(bool(row["kept_bytes_per_element"]) == (row["direction"] != "forward") for row in others)
    assert made.facts["torch"] == torch.__version__
    assert made.facts["commands"][0].startswith("python -m bench.run --out ")
    assert made.facts["refused"] == {}
    assert made.facts["state"][0]["cases"] == len(every) * 2


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
    others = {"wrong": lambda device: torch.nn.functional.selu}
    monkeypatch.setitem(bench.catalog.SUBJECTS, "elu", bench.subjects.Subject("elu", others=others))
    with pytest.raises(SystemExit) as stopped:
        run(out="wrong")
    assert stopped.value.code == 1
    out = capsys.readouterr().out
    assert "elu by wrong: the value at x = " in out and "the time is over" not in out


def test_nothing_is_compared_with_a_wrong_fusedact(bench, run, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.providers, "fused", lambda subject, device: torch.nn.functional.selu)
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


def test_who_writes_over_inputs_gets_some_of_its_own(bench, run, monkeypatch):
    seen = []

    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            seen.append(x.data_ptr())
            return torch.relu(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            x.data.copy_(g * (x > 0))
            return x.data

    others = {"careless": lambda device: Careless.apply}
    monkeypatch.setitem(bench.catalog.SUBJECTS, "relu", bench.subjects.Subject("relu", others=others))
    given = []
    inputs_of = bench.run.inputs_of
    monkeypatch.setattr(bench.run, "inputs_of", lambda *args: given.append(inputs_of(*args)) or given[-1])
    made = run("--only", "relu")
    assert "careless" in {row["provider"] for row in made.records}
    ((x, *_),) = given[0]
    assert x.data_ptr() not in seen
    assert torch.equal(x.detach(), bench.cases.inputs(torch.float32, 16, CPU)[0][0][:16])


# ----- plans


@pytest.mark.parametrize(("suite", "limit"), [("full", 480), ("quick", 60)])
def test_suites_of_a_gpu_keep_their_time(bench, suite, limit):
    gpu, plan = torch.device("cuda"), bench.plan
    groups = list(plan.groups(plan.SUITES["cuda"][suite].tiers, gpu))
    seconds = plan.SUITES["cuda"][suite].seconds
    assert plan.planned_seconds(groups, seconds, "cuda") <= limit
    assert {g.dtype for g in groups} >= {"bfloat16"}
    # What it does not name, another one does.
    every = {(g.subject, g.dtype, g.size) for g in plan.groups(plan.SUITES["cuda"]["all"].tiers, gpu)}
    assert {(g.subject, g.dtype, g.size) for g in groups} < every
    sizes = {2**e for e in range(10, 30, 2)}
    assert every == {
        (name, dtype, size)
        for name, subject in bench.catalog.SUBJECTS.items()
        for dtype in bench.cases.DTYPES
        for size in sizes
        if size <= subject.largest.get("cuda", size)
    }


def test_the_full_suite_has_every_activation_and_size(bench):
    groups = list(bench.plan.groups(bench.plan.SUITES["cuda"]["full"].tiers, torch.device("cuda")))
    for dtype in ("bfloat16", "float32"):
        for exponent in (16, 24):
            assert {g.subject for g in groups if (g.dtype, g.size) == (dtype, 2**exponent)} == set(
                bench.catalog.SUBJECTS
            )
    assert {g.size for g in groups if g.subject == "gelu"} == {2**e for e in range(10, 30, 2)}
    ways = [g.ways for g in groups if (g.subject, g.dtype, g.size) == ("gelu", "bfloat16", 2**24)]
    assert ways == [("compile", "compile max-autotune", "compile fast-math")]


def test_a_cpu_takes_twenty_minutes_for_everything_at_five_sizes(bench):
    tiers = [bench.plan.Tier((24, 20, 16, 10, 6), ("float32", "bfloat16"))]
    groups = list(bench.plan.groups(tiers, CPU))
    assert bench.plan.planned_seconds(groups, 0.15, "cpu") <= 1200
    assert ("linear gelu", 2**24) not in {(g.subject, g.size) for g in groups}


def test_a_part_of_a_plan_keeps_its_order(bench):
    tiers = bench.plan.SUITES["cuda"]["full"].tiers
    part = bench.plan.chosen(tiers, ["float32", "bfloat16"], ["silu", "gelu"])
    groups = list(bench.plan.groups(part, torch.device("cuda")))
    assert {(g.subject, g.dtype) for g in groups} == {(s, d) for s in ("silu", "gelu") for d in ("float32", "bfloat16")}
    whole = [g for g in bench.plan.groups(tiers, torch.device("cuda")) if g.subject in ("silu", "gelu")]
    assert [g for g in whole if g.dtype != "float16"] == groups


def test_ways_to_compile(bench):
    """All of them at sizes that were asked for; elsewhere what the suite says, as far as the device has it."""
    parser, suite = bench.run._parser(), bench.plan.SUITES["cuda"]["full"]

    def ways(device, compiles, *arguments):
        options = parser.parse_args(["--only", "gelu", "--dtypes", "bfloat16", *arguments])
        return {g.size: g.ways for g in bench.run._wanted(options, suite, torch.device(device), compiles)}

    assert ways("cpu", True, "--exponents", "5") == {32: ("compile",)}
    assert ways("cpu", False, "--exponents", "5") == {32: ()}
    assert ways("cuda", True)[2**24][:2] == ("compile", "compile max-autotune")
    assert ways("cpu", True)[2**24] == ("compile",)
    assert ways("cuda", True)[2**20] == ()


@pytest.fixture
def no_time(bench, monkeypatch):
    """Cases take no time, and their operators no other thread."""

    def measure(contenders, seconds, device):
        for one in contenders.values():
            one.run(1)
        return {name: bench.timing.Samples([1e-6] * 3, [1e-6] * 3, "wall", 1) for name in contenders}

    monkeypatch.setattr(bench.run, "measure", measure)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_gpu_s_whole_plan_is_gone_through(bench, run, no_time, monkeypatch, capsys):
    """With the square roots of its sizes, and in two runs, as if the first had been cut off."""
    monkeypatch.setattr(bench.run, "examine", lambda *args: bench.run.Findings())
    monkeypatch.setattr(bench.run, "footprint", lambda *args: bench.run.Footprint())
    every = list(bench.catalog.SUBJECTS)
    chosen = ["--rehearse", "--only", *every, "--dtypes", *bench.cases.DTYPES]

    def rehearsed(*more):
        folder = run.folder("results")
        bench.run.main(["--out", str(folder), "--device", "cpu", "--seconds", "0", *chosen, *more])
        return bench.store.read(folder)

    _, first = rehearsed("--limit", "0")
    assert len({(r["activation"], r["dtype"], r["size"], r["direction"]) for r in first}) == 1
    facts, records = rehearsed()
    assert records[: len(first)] == first
    tiers = bench.plan.SUITES["cuda"]["full"].tiers
    planned = {
        (g.subject, g.dtype, str(2 ** ((g.size.bit_length() - 1) // 2)))
        for g in bench.plan.groups(tiers, torch.device("cuda"))
    }
    assert {(r["activation"], r["dtype"], r["size"]) for r in records} == planned
    assert len(records) == len(planned) * 2 * 3
    assert facts["refused"] == {} and len(facts["commands"]) == 2
    assert "the time is over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "all"], "on a cpu there is no suite 'all'; there are full, quick"),
        (["--rehearse"], "--rehearse needs a folder"),
        (["--rehearse", "--device", "cuda"], "--rehearse is for a CPU"),
    ],
)
def test_what_there_is_not_is_said(bench, arguments, message):
    with pytest.raises(SystemExit, match=message):
        bench.run.main(["--device", "cpu", *arguments])


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_for_gpus_runs_dry(tmp_path):
    environment = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    arguments = ["--device", "cpu", "--only", "elu", "--dtypes", "float16", "--seconds", "0"]
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
    stages = ("environment", "tests", "large", "bench", "ledger")
    logs = {f"{name}.txt" for name in (*stages, "summary")}
    assert files == logs | {"results/elementwise.csv", "results/environment.json"}
    assert (tmp_path / "out" / "summary.txt").read_text().count("exit 0") == len(stages)


@pytest.mark.skipif(importlib.util.find_spec("pytest_benchmark") is None, reason="needs pytest-benchmark")
def test_pytest_benchmark_compares_with_what_this_machine_had(bench, tmp_path):
    def timed(*arguments):
        names = [f"test_activation[softsign-float32-2^10-forward-{who}]" for who in ("torch", "fusedact")]
        return subprocess.run(
            [
                *(sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"),
                *(f"bench/bench_activations.py::{name}" for name in names),
                *("--benchmark-enable", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"),
                *(f"--benchmark-storage={tmp_path}", "-q", "-p", "no:cacheprovider", *arguments),
            ],
            cwd=benches.ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    first = timed("--benchmark-autosave")
    assert first.returncode == 0, first.stdout + first.stderr
    (stored,) = tmp_path.rglob("*.json")
    assert len(json.loads(stored.read_text())["benchmarks"]) == 2
    second = timed("--benchmark-compare", "--benchmark-compare-fail=median:100000%")
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("(NOW)") == 2


def test_figures_of_another_device_are_not_compared_with(bench):
    """pytest-benchmark warns where what it keeps of the machine differs, and warnings are errors here."""
    known = {}
    benches.load("conftest").pytest_benchmark_update_machine_info(known)
    assert known["fusedact"] == {
        "device": bench.environment.device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
