"""The commands `show`, `plot`, `check` and `bench`, and what others print as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys

import pytest
import torch

import fusedact
from fusedact import describe, properties, registry
from fusedact.looking import cli, cli_measure, selftest, stopwatch, terminal


def printed(capsys, *arguments):
    """What a command prints; it must succeed."""
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def as_json(capsys, *arguments):
    return json.loads(printed(capsys, *arguments, "--json"))


# ----- show


def facts(out):
    """The lines of facts, by their first column."""
    return dict(re.findall(r"^(\S.*?) {2,}(.*)$", out, re.MULTILINE))


def test_show_tells_what_is_measured(capsys):
    out = printed(capsys, "show", "mish", "--no-timing")
    assert out.startswith("mish  The input weighted by the tanh of its softplus.\nx * tanh(log(1 + exp(x)))\n")
    told = facts(out)
    assert told["range"] == "[-0.30884, inf), -0.30884 at -1.1924"
    assert told["monotone"] == "not monotone"
    assert told["smoothness"] == "smooth"
    assert told["slope"] == "at most 1.0885 in magnitude"
    assert told["far left, right"] == "0; x"
    assert told["of normal inputs"] == "mean 0.2404, standard deviation 0.6281"
    assert told["dead"] == "0.00% of normal inputs have slope 0"
    assert told["gain"] == "1.4868; with it a layer multiplies gradients by 1.0291"
    assert told["save="] == "auto, input, output"
    assert (told["in PyTorch"], told["kept for backward"]) == ("F.mish", "x")
    assert "cost" not in out


def test_show_draws_the_curve(capsys):
    out = printed(capsys, "show", "relu", "--no-timing", "--low", "-2", "--high", "6")
    rows = [line for line in out.splitlines() if set(line) & set(map(chr, range(0x2801, 0x2900)))]
    assert len(rows) == 14
    assert rows[0].split()[0] == "6" and rows[-1].split()[0] == "0"
    # Above 0 alone: no dot to the left of a quarter.
    assert not any(ord(c) > 0x2800 for line in rows[:-1] for c in line[:17])
    assert re.search(r"^ +-2 +6$", out, re.MULTILINE)


def test_show_takes_parameters(capsys):
    told = facts(printed(capsys, "show", "leaky_relu:negative_slope=0.5", "--no-timing"))
    assert told["far left, right"] == "0.5 x; x"
    assert as_json(capsys, "show", "gelu:approximate=tanh", "--no-timing")["measured"]["low"]["value"] == pytest.approx(
        properties.measure("gelu_tanh").low.value
    )


@pytest.mark.parametrize("name", fusedact.names())
def test_show_knows_every_activation(name, capsys):
    told = as_json(capsys, "show", name, "--no-timing")
    spec = registry.get(name)
    assert (told["name"], told["formula"], told["in_torch"]) == (name, spec.formula, describe.twin(spec))
    assert (told["measured"] is None) == (spec.kind in ("rowwise", "gated", "piecewise"))
    assert told["cost"] is None


def test_show_counts_instructions_in_a_checkout(capsys, monkeypatch, tmp_path):
    told = as_json(capsys, "show", "elu", "--no-timing")["instructions"]
    assert told.keys() == {"forward", "backward"} and all(1 < n < 100 for n in told.values())
    monkeypatch.setattr(cli_measure, "LEDGER", tmp_path / "none.csv")
    assert as_json(capsys, "show", "elu", "--no-timing")["instructions"] == {}


def test_show_times_calls(capsys, monkeypatch):
    monkeypatch.setattr(cli_measure, "SHOWN_SIZE", 2**10)
    threads = torch.get_num_threads()
    told = as_json(capsys, "show", "tanh")["cost"]
    assert told.keys() == {"forward", "forward and backward"} and 0.1 < told["forward"] < math.inf
    assert re.search(r"^cost, in copies +forward [\d.e+]+, forward and backward", printed(capsys, "show", "tanh"), re.M)
    assert torch.get_num_threads() == threads


def test_show_needs_no_library(tmp_path):
    code = (
        "import sys; sys.modules['rich'] = sys.modules['matplotlib'] = None\n"
        "from fusedact.looking import cli; sys.exit(cli.main(['show', 'relu', '--no-timing']))"
    )
    options = {"capture_output": True, "env": {**os.environ, "PYTHONIOENCODING": "ascii"}}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 0, done.stderr
    assert b"*****" in done.stdout and b"50.00% of normal inputs have slope 0" in done.stdout


# ----- plot


def test_plot_writes_a_file(tmp_path, capsys):
    file = tmp_path / "a.png"
    out = printed(capsys, "plot", "mish", "elu:alpha=0.5", "-o", str(file), "--derivatives", "1")
    assert out == f"Written: {file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    printed(capsys, "plot", "threshold", "-o", str(tmp_path / "b.svg"), "--low", "-1", "--high", "1")
    assert b"<svg" in (tmp_path / "b.svg").read_bytes()


WRONG = {
    "name": (["show", "mihs"], "fusedact: no activation is named 'mihs'; did you mean 'mish'?\n"),
    "parameter": (["show", "elu:alph=1"], "fusedact: elu has no parameter alph; its parameters are alpha\n"),
    "pair": (["show", "elu:1"], "fusedact: expected elu:parameter=value,..., got 'elu:1'\n"),
    "value": (["show", "elu:alpha=a"], "fusedact: elu's alpha must be a number, got 'a'\n"),
    "folder": (["plot", "elu", "-o", "/no/such/folder/a.png"], "fusedact: [Errno 2] No such file or directory"),
    "format": (["plot", "elu", "-o", "a.nothing"], "Format 'nothing' is not supported"),
    "ends": (["plot", "elu", "-o", "a.png", "--low", "9"], "fusedact.plot: low must be below high"),
    "curve": (["plot", "softmax", "-o", "a.png"], "fusedact.plot: softmax is not elementwise, and has no curve\n"),
    "table": (["bench", "pwl"], "fusedact bench: pwl needs points; name an activation without a table\n"),
    "device": (["bench", "elu", "--device", "nowhere"], "fusedact: there is no device 'nowhere'"),
    "check": (["check", "--device", "cuda:99"], "fusedact: there is no device 'cuda:99'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_one_line(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[case]
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith(message) and told.count("\n") == 1


OWN = """
import fusedact, torch
@fusedact.activation
def bent(x, a=0.5):
    "A wave that grows.\\n\\nx + sin(a x)"
    return x + torch.sin(a * x)
plain = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the folder that one is in."""
    (tmp_path / "my_acts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "my_acts"
    sys.modules.pop("my_acts", None)


def test_activations_of_ones_own(own_module, capsys, tmp_path):
    out = printed(capsys, "show", "my_acts.bent", "--no-timing")
    assert out.startswith("bent  A wave that grows.\nx + sin(a x)\na=0.5\n")
    assert facts(out)["slope"] == "at most 1.5 in magnitude"
    assert as_json(capsys, "show", "my_acts.bent:a=3", "--no-timing")["measured"]["lipschitz"] == pytest.approx(4.0)
    printed(capsys, "plot", "my_acts.bent:a=2", "my_acts.bent", "elu", "-o", "own.png")
    printed(capsys, "plot", "my_acts.bent:a=2", "-o", "alone.png")
    assert {file.name for file in tmp_path.glob("*.png")} == {"own.png", "alone.png"}
    rows = as_json(capsys, "bench", "my_acts.bent", "--sizes", "64", "--seconds", "0.001", "--device", "cpu")["rows"]
    assert {row["activation"] for row in rows} == {"bent"}
    for path, message in (
        ("my_acts.bend", "fusedact: cannot find 'my_acts.bend': module 'my_acts' has no attribute 'bend'"),
        ("no_such.bent", "fusedact: cannot find 'no_such.bent': No module named 'no_such'"),
        ("my_acts.plain", "fusedact: my_acts.plain must be made by fusedact.activation, got int"),
    ):
        assert cli.main(["show", path]) == 1
        assert capsys.readouterr().err == message + "\n"


# ----- check


def families(monkeypatch, *names):
    """Only these, so that a test is quick."""
    monkeypatch.setattr(selftest, "FAMILIES", {name: selftest.FAMILIES[name] for name in names})


def test_check_finds_nothing_wrong(capsys):
    out = printed(capsys, "check", "--device", "cpu")
    assert "Values and gradients on cpu, by the path for the CPU (kernels do not run on cpu)" in out
    rows = re.findall(r"^(\S[\w ]+?) {2,}(\d+) +(\d+) +(\d+)% of what is allowed +[\d.]+$", out, re.MULTILINE)
    assert [row[0] for row in rows] == list(selftest.FAMILIES)
    assert all(int(cases) > 0 and wrong == "0" and int(worst) <= 100 for _, cases, wrong, worst in rows)
    assert f"All {sum(int(row[1]) for row in rows)} cases are right." in out


def test_check_in_full():
    results = selftest.run("cpu", full=True)
    assert not [failure for r in results for failure in r.failures]
    assert sum(r.cases for r in results) > 700


def test_check_as_json(capsys, monkeypatch):
    families(monkeypatch, "random")
    told = as_json(capsys, "check", "--device", "cpu")
    assert told["right"] and told["versions"]["torch"] == torch.__version__
    (row,) = told["families"]
    assert (row["family"], row["failures"]) == ("random", [])


def test_what_is_wrong_is_reported(capsys, monkeypatch):
    families(monkeypatch, "elementwise")
    right = selftest.execution.backward

    def wrong(call, g, x, params, needed):
        slopes = right(call, g, x, params, needed)
        return [slopes[0] * (1 + 1e-3), *slopes[1:]] if call.spec.name == "mish" else slopes

    monkeypatch.setattr(selftest.execution, "backward", wrong)
    assert cli.main(["check", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^elementwise +\d+ +1 ", out, re.MULTILINE)
    assert re.search(r"  elementwise, mish, float32, \w+: the gradient at input [-\d.e]+ is [-\d.e]+ in place of", out)
    assert f"  torch: {torch.__version__}\n" in out and "  command: python -m fusedact check --device cpu\n" in out


# What is wrong: of which family it is, and what to replace by what.
def _lean(name, field, changed):
    def replace(monkeypatch):
        spec = registry.get(name)
        monkeypatch.setitem(
            registry._records, name, dataclasses.replace(spec, **{field: changed(getattr(spec, field))})
        )

    return replace


def _off(form):
    def changed(*args, **keywords):
        y = form(*args, **keywords)
        return y.mul_(1.01) if isinstance(y, torch.Tensor) else (y[0].mul_(1.01), *y[1:])

    return changed


def _module(module, name, changed):
    return lambda monkeypatch: monkeypatch.setattr(module, name, changed(getattr(module, name)))


def _weaker(t):
    """The same, with a gradient that is a little smaller."""
    return t.detach() + 0.99 * (t - t.detach())


BROKEN = {
    "a lean forward": ("elementwise", _lean("swish", "lean_forward", _off)),
    "a lean backward": ("elementwise", _lean("elu", "lean_backward", _off)),
    "an exception": (
        "elementwise",
        _lean("snake", "lean_forward", lambda form: lambda *args, **keywords: 1 / 0),
    ),
    "softmax": ("along a dimension", _module(selftest.functional, "softmax", _off)),
    "a gate": ("gated", _module(selftest.functional, "gated", _off)),
    "a table": ("piecewise linear", _module(selftest.functional, "pwl", _off)),
    "slopes": ("random", _module(selftest.functional, "rrelu", lambda f: lambda t, *_, **__: f(t, 0.1, 0.4, True))),
    "no slopes": ("random", _module(selftest.functional, "rrelu", lambda f: lambda t, *_, **__: f(t, 0.2, 0.2, True))),
    "an own one": ("your own", _module(selftest, "_example", lambda f: lambda x, a, b: f(x, a * 1.01, b))),
    "a parameter": (
        "learned parameters",
        _module(
            selftest.functional,
            "elu",
            lambda f: lambda x, alpha, **k: f(x, alpha.detach() + 0.99 * (alpha - alpha.detach()), **k),
        ),
    ),
    "what is kept": (
        "kept for backward",
        _module(selftest.functional, "tanh", lambda f: lambda x, **_: torch.tanh(x) * 1.01),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_found(case, monkeypatch):
    family, replace = BROKEN[case]
    families(monkeypatch, family)
    (right,) = selftest.run("cpu")
    replace(monkeypatch)
    (wrong,) = selftest.run("cpu")
    assert not right.failures and wrong.failures
    assert ("ZeroDivisionError" in wrong.failures[0]) == (case == "an exception")


# ----- bench


def test_bench_prints_a_table(capsys):
    out = printed(
        capsys, "bench", "silu", "softmax", "rrelu", "glu", "--sizes", "512", "--seconds", "0.001", "--device", "cpu"
    )
    rows = re.findall(
        r"^(\w+) +512 +(forward|forward and backward) +(fusedact|PyTorch|copy) +([\d.e+]+) ", out, re.MULTILINE
    )
    assert len(rows) == 4 * 2 * 3
    assert {name for name, *_ in rows} == {"silu", "softmax", "rrelu", "glu"}
    assert "float32 on cpu" in out


def test_bench_as_json(capsys):
    told = as_json(capsys, "bench", "elu:alpha=0.5", "--sizes", "64", "128", "--seconds", "0.001", "--device", "cpu")
    assert told["device"] == "cpu" and told["dtype"] == "float32"
    assert [(r["elements"], r["what"], r["provider"]) for r in told["rows"]] == [
        (n, what, provider)
        for n in (64, 128)
        for what in ("forward", "forward and backward")
        for provider in ("fusedact", "PyTorch", "copy")
    ]
    for row in told["rows"]:
        assert 0 < row["low_us"] <= row["us"] <= row["high_us"]
        assert row["provider"] != "copy" or row["copies"] == 1.0


def test_times_alternate(monkeypatch):
    calls = []
    work = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    clock = iter(range(10**9))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(clock)))
    found = stopwatch.alternating(work, torch.device("cpu"), 15.0)
    assert found.keys() == set("abc")
    # Each ticks once, then in rounds which begin with another one each time.
    after = "".join(calls)[9:]
    assert after.startswith("abcbcacab") and len(after) == 15
    assert all((t.low, t.median, t.high) == (1.0, 1.0, 1.0) for t in found.values())


# ----- JSON of the others, and text


def test_list_as_json(capsys):
    told = as_json(capsys, "list")
    assert [row["name"] for row in told] == list(fusedact.names())
    (elu,) = [row for row in told if row["name"] == "elu"]
    assert elu["parameters"] == [{"name": "alpha", "default": 1.0, "learns": True}]
    assert (elu["module"], elu["in_torch"], elu["kind"]) == ("ELU", "F.elu", "elementwise")


def test_doctor_as_json(capsys):
    told = as_json(capsys, "doctor")
    assert told["versions"]["torch"] == torch.__version__ and "cpu" in told["devices"]
    named = {(dtype, name) for row in told["paths"] for dtype in row["dtypes"] for name in row["activations"]}
    assert {name for _, name in named} == set(fusedact.names())
    assert {row["path"] for row in told["paths"]} <= {"aten", "pieces", "formula", "triton"}


def test_curves_in_text():
    x = [-1.0, -0.5, 0.0, 0.5, 1.0]
    drawn = terminal.curve(x, [1.0, math.nan, math.inf, 1.0, 0.0], width=10, height=3)
    assert len(drawn) == 4 and drawn[0].startswith("1 ") and drawn[-1] == "  -1       1"
    # Nothing finite, and a constant, are drawn too.
    assert len(terminal.curve(x, [math.nan] * 5, 10, 3)) == 4
    assert terminal.curve(x, [2.0] * 5, 10, 3)[0].startswith("2 ")


def test_text_that_a_terminal_lacks(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.say("3 \u00b5s")
    stream.flush()
    assert stream.buffer.getvalue() == b"3 ?s\n"
