"""The examples run, and do what they say."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys

import benches
import example_gallery
import numpy as np
import pytest
import torch

import fusedact


def test_own_activation(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, str(benches.ROOT / "examples" / "own_activation.py"), "--epochs", "2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"digits: +([\d.]+)% right", done.stdout)[1]) > 85
    low, high = map(float, re.search(r"now ([\d.]+) to ([\d.]+)", done.stdout).groups())
    assert 0.1 <= low < 1.0 < high
    assert "def snake_backward(g, x, params, precise: tl.constexpr):" in done.stdout
    assert (tmp_path / "own_activation.png").stat().st_size > 10_000


def test_convert(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, str(benches.ROOT / "examples" / "convert.py"), "--epochs", "3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "blocks.1.forward  self.act_fn(self.gate_proj(y)) * self.up_proj(y) -> FF.gated" in done.stdout
    assert "warning" not in done.stdout
    twins, plain, learned = (
        float(re.search(rf"{n}: +([\d.]+)%", done.stdout)[1]) for n in ("twins", "checkpoint, plain", "learned")
    )
    assert twins == plain > 50 and learned > 50
    for name, before, after in re.findall(r"  ([\w.]+) +([\d.-]+) -> ([\d.-]+)\n", done.stdout):
        assert before != after, name
    # Three epochs of 23 steps, and a row for each activation module.
    assert "69 passes, every 10 watched" in done.stdout
    assert len(re.findall(r"^(?:act|blocks\.\d\.act_fn) +\w+ +7 ", done.stdout, re.MULTILINE)) == 3
    for picture in ("convert.png", "convert-layers.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert (tmp_path / "convert.pt").exists()


def test_own_optimizer(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, str(benches.ROOT / "examples" / "own_optimizer.py"), "--epochs", "8", "--profile", "2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"digits: +([\d.]+)% right", done.stdout)[1]) > 90
    # The activation learned, and the rule ran: 8 epochs of 23 batches.
    assert abs(float(re.search(r"is now (-?[\d.]+)", done.stdout)[1]) - 0.1) > 0.01
    logged = re.findall(r"fusedact: momentum #(\d+): 5 tensors, [\d.]+ ms, gradient norm ([\d.]+)", done.stderr)
    assert [int(step) for step, _ in logged] == [1, 101] and all(float(norm) > 0 for _, norm in logged)
    assert "RuleOptimizer.step" in done.stdout and "aten::addmm" in done.stdout
    assert "def momentum(values, params, precise: tl.constexpr):" in done.stdout


FIGURES = benches.ROOT / "bench" / "results" / "cpu"


def mean_accuracy(figures, name):
    return statistics.mean(figures["activations"][name]["accuracy"])


def test_mnist(tmp_path):
    """On the small digits."""
    pytest.importorskip("sklearn")
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(benches.ROOT / "examples" / "mnist.py"), "--seeds", "0", "--json", str(figures)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(figures.read_text())
    kept = json.loads((FIGURES / "mnist.json").read_text())
    assert made.keys() == kept.keys()
    assert made["activations"].keys() == kept["activations"].keys()
    for name, found in made["activations"].items():
        assert found["accuracy"][0] > 0.93
        assert f"{name:21} seed 0: {found['accuracy'][0]:.2%}" in done.stdout
        # It learns where it should: away from 1, and the one with bounds stays in them.
        assert len(found["slope"]) == ("learned" in name)
        assert not found["slope"] or found["slope"][0] > 1.2


def test_the_figures_of_mnist():
    """Those kept are what the example was made to show, and what README.md says."""
    unit, standardized = (json.loads((FIGURES / f"mnist{s}.json").read_text()) for s in ("", "-standardized"))
    for figures in (unit, standardized):
        assert (figures["data"], figures["epochs"], len(figures["seeds"])) == ("mnist", 5, 3)
    assert mean_accuracy(unit, "PReLU, learned") >= 0.955
    assert all(2.5 <= slope <= 4.5 for slope in unit["activations"]["PReLU, learned"]["slope"])
    assert mean_accuracy(unit, "LeakyReLU(0.1)") >= 0.965
    text = (benches.ROOT / "README.md").read_text()
    for name in unit["activations"]:
        cells = []
        for figures in (unit, standardized):
            slopes = figures["activations"][name]["slope"]
            cells.append(f"{mean_accuracy(figures, name):.1%}")
            cells.append(f"{min(slopes):.2f} to {max(slopes):.2f}" if slopes else "")
        assert f"| {name} | {' | '.join(cells)} |" in text


def test_gallery(tmp_path):
    script = [sys.executable, str(benches.ROOT / "examples" / "gallery.py")]
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    done = subprocess.run([*script, "--plot", "all.png"], **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "all.png").stat().st_size > 10_000
    for name in example_gallery.ACTIVATIONS:
        assert f"\n{name}(x" in done.stdout
    assert len(re.findall(r"2097152 elements take the path pieces: ", done.stdout)) == 5
    assert re.search(r"  value +0.0000   0.0000   0.0000   0.2500   1.0000   2.0000   3.0000\n", done.stdout)
    assert "Pelu(a=learnable, b=learnable)" in done.stdout
    done = subprocess.run([*script, "--source", "rational"], **options)
    assert "def rational_backward(g, x, params, precise: tl.constexpr):" in done.stdout


@pytest.mark.parametrize("name", example_gallery.ACTIVATIONS)
def test_gallery_has_the_values_of_the_papers(name):
    x = torch.linspace(-7, 7, 2001, dtype=torch.float64)
    activation = example_gallery.ACTIVATIONS[name]
    for params in (activation.spec.usual, example_gallery.PARAMETERS[name]):
        expected = example_gallery.VALUES[name](x.numpy(), *params)
        np.testing.assert_allclose(activation(x, *params).numpy(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("name", example_gallery.ACTIVATIONS)
def test_gallery_has_the_gradients_of_autograd(name, backend):
    activation, x = example_gallery.ACTIVATIONS[name], torch.linspace(-9, 9, 1501)
    with fusedact.backend(backend):
        for params in (activation.spec.usual, example_gallery.PARAMETERS[name]):
            example_gallery.assert_derived(name, x, params)
    # In float64 by finite differences.
    x = torch.linspace(-4, 4, 13, dtype=torch.float64).requires_grad_() + 0.013
    params = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in example_gallery.PARAMETERS[name]]
    with fusedact.backend(backend):
        assert torch.autograd.gradcheck(activation, (x, *params))


def test_gallery_fits_leaky_relu():
    x = torch.linspace(-4, 4, 801)
    apart = example_gallery.ACTIVATIONS["rational"](x) - torch.nn.functional.leaky_relu(x)
    assert apart.abs().max() < 0.05


@pytest.mark.parametrize("name", example_gallery.ACTIVATIONS)
def test_gallery_is_finite_and_keeps_nan(name):
    # The rational function is made for numbers up to a million.
    x = torch.tensor([-1e6, -100.0, -0.0, 0.0, 100.0, 1e6, torch.nan])
    y, dx, *_ = example_gallery.derived(example_gallery.ACTIVATIONS[name], x, example_gallery.PARAMETERS[name], x.dtype)
    assert y[:-1].isfinite().all() and dx[:-1].isfinite().all()
    assert y[-1].isnan()


def assert_alike(figures):
    """Half is kept, with a bit at most; the losses of the last steps, and accuracies, differ less than seeds do."""
    for name, kept in figures["kept"].items():
        assert 0.5 <= kept["output"] / kept["input"] <= 0.5 + 1 / 32, name
        last = {p: [statistics.mean(steps[-10:]) for steps in s] for p, s in figures["losses"][name].items()}
        between = [abs(a - b) for a, b in zip(last["input"], last["output"], strict=True)]
        spread = statistics.stdev(last["input"]) if len(last["input"]) > 1 else 0.01
        assert max(between) < spread, name
        right = figures["digits"][name]
        between = [abs(a - b) for a, b in zip(right["input"], right["output"], strict=True)]
        spread = statistics.stdev(right["input"]) if len(right["input"]) > 1 else 0.01
        assert max(between) < spread and min(right["input"]) > 0.8, name


def test_saving(tmp_path):
    pytest.importorskip("matplotlib")
    figures, plot = tmp_path / "figures.json", tmp_path / "saving.png"
    command = [sys.executable, str(benches.ROOT / "examples" / "saving.py"), "--steps", "4", "--seeds", "0"]
    done = subprocess.run(
        [*command, "--activations", "elu", "gelu", "--json", str(figures), "--plot", str(plot)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert_alike(json.loads(figures.read_text()))
    assert plot.stat().st_size > 10_000


def test_what_training_gave_under_each_policy():
    figures = json.loads((FIGURES / "saving.json").read_text())
    assert_alike(figures)
    assert {len(seeds) for policies in figures["losses"].values() for seeds in policies.values()} == {5}


def assert_shown(figures):
    """What docs/choosing.md says of the experiments."""
    died = {name: list(by_rate.values()) for name, by_rate in figures["dying"].items()}
    # At the largest rate most of the units of what is flat below 0 die, and none of what has a slope there.
    assert min(died[name][-1]["dead"] for name in ("relu", "relu_sigmoid")) > 0.5
    assert max(died[name][-1]["dead"] for name in ("leaky_relu", "prelu", "softplus", "silu")) == 0.0
    assert all(rates[-1]["dead"] < 0.3 for name, rates in died.items() if name not in ("relu", "relu_sigmoid"))
    through = figures["gradients"]
    assert through["sigmoid"]["measured"] < 1e-11 and 0.3 < through["relu"]["measured"] < 3.0
    for name, r in through.items():
        # Where values keep their scale, so does the factor.
        if abs(math.log(r["scale"])) < 0.2:
            assert 0.5 < r["measured"] / r["predicted"] < 2.0, name
    selu = figures["selu"]
    for name in ("all three conditions", "no dropout"):
        assert abs(selu[name]["mean 50"]) < 0.1 and abs(selu[name]["std 50"] - 1.0) < 0.1
    off = {name: abs(math.log(r["std 50"])) + abs(r["mean 50"]) for name, r in selu.items()}
    kept = ("all three conditions", "no dropout", "inputs from 0 to 1")
    assert min(off[name] for name in off if name not in kept) > 0.15
    assert max(off[name] for name in kept) < 0.1 and abs(selu[kept[2]]["std 1"] - 1.0) > 0.2


def test_choosing(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(benches.ROOT / "examples" / "choosing.py"), "--seeds", "0", "--steps", "60"]
    done = subprocess.run(
        [*command, "--json", str(figures)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(figures.read_text())
    assert_shown(made)
    assert f"{made['dying']['relu']['0.1']['dead']:>13.1%}" in done.stdout


def test_the_figures_of_choosing():
    figures = json.loads((FIGURES / "choosing.json").read_text())
    assert (len(figures["seeds"]), figures["steps"]) == (5, 300)
    assert_shown(figures)
    relu, silu = (list(figures["dying"][name].values())[-1] for name in ("relu", "silu"))
    assert relu["accuracy"] < 0.75 and silu["accuracy"] > 0.95


def assert_trained_alike(figures, way, kept):
    """As good as plain layers, and with so much of what these keep."""
    plain, ours = figures["ways"]["eager"], figures["ways"][way]
    assert ours["first loss"] == pytest.approx(plain["first loss"], rel=1e-5)
    assert ours["loss"] == pytest.approx(plain["loss"], rel=2e-3)
    assert ours["loss"] < ours["first loss"] - 0.2
    assert ours["kept"] <= kept * plain["kept"]


def test_transformer_mlp(tmp_path):
    small = {"width": 32, "layers": 1, "heads": 2, "length": 16, "batch": 8, "steps": 12}
    done = subprocess.run(
        [
            *(sys.executable, str(benches.ROOT / "examples" / "transformer_mlp.py")),
            *(str(word) for name, value in small.items() for word in (f"--{name}", value)),
            *("--ways", "eager", "fusedact", "fusedact, recompute", "--json", str(tmp_path / "figures.json")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    # So small, the layers are plain ones but for what computes again.
    assert_trained_alike(figures, "fusedact", 1.0)
    assert_trained_alike(figures, "fusedact, recompute", 0.75)
    assert re.search(r"fusedact, recompute +[\d.]+ +[\d.]+x", done.stdout)


def test_what_the_transformers_took():
    figures = json.loads((FIGURES / "transformer_mlp.json").read_text())
    assert_trained_alike(figures, "fusedact", 0.8)
    assert_trained_alike(figures, "fusedact, recompute", 0.6)
    assert_trained_alike(figures, "torch.compile", 1.0)
    assert_trained_alike(figures, "fusedact, torch.compile", 1.0)


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def test_tutorial(tmp_path):
    """What it prints is what PyTorch computes; networks learn; every picture is one."""
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [
            *(sys.executable, str(benches.ROOT / "examples" / "tutorial.py"), "--epochs", "4"),
            *("--folder", "pictures", "--json", "figures.json"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = dict(re.findall(r"^(\w[\w ]+?): +(.+)$", done.stdout, re.MULTILINE))

    x = torch.tensor([-1.0, 0.5, 1.0, 2.0], requires_grad=True)
    y = torch.where(x > 0.5, torch.nn.functional.silu(x), 0.0)
    y.sum().backward()
    assert numbers(told["cut_silu"]) == [round(v, 3) for v in (*y.tolist(), *x.grad.tolist())]
    assert numbers(told["by hand"]) == [round(v, 3) for v in x.grad.tolist()]
    mean, std = y.mean().item(), y.std(correction=0).item()
    logged = re.findall(r"^(cut_silu #1.*): \(4,\) float32 cpu, (?:[\d.]+ ms, )?(.*)$", done.stdout, re.MULTILINE)
    assert logged == [
        ("cut_silu #1", f"mean {mean:.4}, std {std:.4}"),
        ("cut_silu #1 backward", "mean 1, std 0"),
    ]

    points = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    for name in ("relu", "leaky_relu", "tanh", "mish"):
        expected = getattr(torch.nn.functional, name)(points)
        assert numbers(told[name]) == [round(v, 3) for v in expected.tolist()]
    assert numbers(told["Linear"])[0] < 1e-6
    assert numbers(told["piecewise"])[:4] == [-1.2, 0.0, 1.5, 2.0] and numbers(told["piecewise"])[4] < 1e-6
    errors = [numbers(told[f"tanh of {count} points"])[0] for count in (8, 16, 32)]
    assert 3.0 < errors[0] / errors[1] < 5.0 and 3.0 < errors[1] / errors[2] < 5.0
    assert numbers(told["prelu"]) == [-0.1, -1.0, 3.0, -2.0, -1.0, -6.0]
    assert numbers(told["PReLU"]) == [-0.25, -0.5, 3.0, -1.0] and told["PReLU"].endswith("['weight']")

    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["activations"]) == 6
    for name, found in figures["activations"].items():
        assert found["last"] < found["first"] / 4 and found["right"] > 0.9, name
        learned = "learned" in name or "per unit" in name
        assert (found["moved"] > 0.02) == learned == (f"moved by up to {found['moved']:.2f}\n" in done.stdout), name
        assert f"{name:21} loss {found['first']:.3f} to {found['last']:.3f}, {found['right']:.1%} right" in done.stdout
    pictures = {file.stem: file for file in (tmp_path / "pictures").iterdir()}
    assert set(pictures) == {*fusedact.names("elementwise"), "pwl", "rrelu"}
    assert figures["pictures"] == len(pictures)
    for file in pictures.values():
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 4_000
