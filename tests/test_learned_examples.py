"""The examples of learned piecewise-linear functions, and of jumps, do what they say; each in a short form."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys

import benches
import pytest
import torch

import fusedact

pytest.importorskip("sklearn")

KEPT = benches.ROOT / "bench" / "results" / "cpu" / "pwl_digits.json"
LEARNED = "PWL, learned per channel"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example, which must draw its picture; gives its figures and what it printed."""

    def call(name, *arguments):
        module = benches.example(name)
        figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
        options = ["--plot", str(picture), "--json", str(figures), "--device", "cpu", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        module.main()
        assert picture.stat().st_size > 20_000
        return json.loads(figures.read_text()), capsys.readouterr().out

    return call


def test_digits(tmp_path):
    """As a script."""
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    script = [sys.executable, str(benches.ROOT / "examples" / "pwl_digits.py")]
    done = subprocess.run(
        [*script, "--seeds", "0", "--epochs", "2", "--steps", "3", "--json", str(figures), "--plot", str(picture)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    made, kept = json.loads(figures.read_text()), json.loads(KEPT.read_text())
    assert made.keys() == kept.keys() and made["activations"].keys() == kept["activations"].keys()
    for name, found in made["activations"].items():
        assert found["accuracy"][0] > 0.85
        assert f"{name:25} seed 0: {found['accuracy'][0]:.2%}" in done.stdout
    assert f"a step takes {made['step_ratio']:.2f} times as long" in done.stdout
    assert picture.stat().st_size > 20_000


def test_digits_begins_as_relu():
    """Both networks begin with the same weights and the same outputs, and every table learns, without decay."""
    script, common = benches.example("pwl_digits"), benches.example("common")
    data = common.load(None, 0)
    relu, learned = (script.Training(name, data, 3, "cpu") for name in ("ReLU", LEARNED))
    x, y = common.as_images(data.train_x[:32]), data.train_y[:32]
    torch.testing.assert_close(relu.network(x), learned.network(x), rtol=1e-5, atol=1e-5)
    weights, tables = learned.optimizer.param_groups
    acts = [m for m in learned.network if isinstance(m, fusedact.PWL)]
    assert [id(p) for p in tables["params"]] == [id(m.values) for m in acts]
    assert [m.values.shape[0] for m in acts] == [32, 64, 128]
    assert tables["weight_decay"] == 0 < weights["weight_decay"]
    before = [p.clone() for p in tables["params"]]
    learned.step(x, y)
    assert all(((p - b) != 0).any(1).all() for p, b in zip(tables["params"], before, strict=True))


def test_the_figures_of_digits():
    """Those kept are of five seeds, and are what README.md says."""
    kept = json.loads(KEPT.read_text())
    assert (kept["data"], kept["seeds"]) == ("digits", [0, 1, 2, 3, 4])
    text = " ".join((benches.ROOT / "README.md").read_text().split())
    for name, shown in (("ReLU", "ReLU"), (LEARNED, "PWL")):
        found = kept["activations"][name]
        mean, deviation = statistics.mean(found["accuracy"]), statistics.stdev(found["accuracy"])
        assert len(found["accuracy"]) == 5 and mean > 0.98
        assert f"{shown} {mean:.2%} (standard deviation {deviation:.2%})" in text
    assert f"{kept['step_ratio']:.2f} times the time of a step with ReLU" in text


def test_recurrent(run):
    made, text = run("pwl_recurrent", "--seeds", 0, "--epochs", 3)
    for name, losses in made["loss"].items():
        assert losses[-1] < 0.5 * losses[0]
        assert made["accuracy"][name][0] > 0.8
        assert f"{name:22} seed 0: {made['accuracy'][name][0]:.2%}" in text


def test_recurrent_gathers_the_gradients_of_all_steps():
    """A table's gradient is the sum of those that modules of their own would get at each step."""
    script = benches.example("pwl_recurrent")
    torch.manual_seed(0)
    network = script.Reader(8, 10, script.learned_tanh())
    rows = 8 * torch.randn(5, 8, 8)
    network(rows).square().sum().backward()
    together = [p.grad.clone() for p in network.activation.parameters()]
    copies = [script.learned_tanh() for _ in range(8)]
    state = torch.zeros(5, script.HIDDEN)
    for row, act in zip(network.inner(rows).unbind(1), copies, strict=True):
        state = act(row + network.recurrent(state))
    network.outer(state).square().sum().backward()
    for whole, *parts in zip(together, *(c.parameters() for c in copies), strict=True):
        torch.testing.assert_close(whole, sum(p.grad for p in parts), rtol=1e-4, atol=1e-5)
        assert whole.abs().max() > 0


def test_autoencoder(run):
    made, text = run("pwl_autoencoder", "--seeds", 0, "--epochs", 8)
    average = float(re.search(r"the mean image in place of all: ([\d.]+)", text)[1])
    for errors in made["error"].values():
        assert errors[0] < 0.5 * average


def test_autoencoder_makes_brighter_pixels_of_more():
    """What makes pixels stays monotone, whatever training does to its parameters."""
    act = benches.example("pwl_autoencoder").pixel(True)
    optimizer = torch.optim.SGD(act.parameters(), lr=1.0)
    x = torch.linspace(-3, 4, 400)
    for _ in range(5):
        optimizer.zero_grad()
        act(x).mul(x).sum().backward()
        optimizer.step()
    y = act(x).detach()
    assert (y.diff() >= 0).all() and not torch.equal(act.values, benches.example("pwl_autoencoder").pixel(True).values)


def test_gan(run):
    made, text = run("pwl_gan", "--steps", 30)
    (before,), (after,) = made["energy_distance"]["before"], made["energy_distance"]["after"]
    assert after < 0.5 * before
    assert 0.8 < made["slope"][0] < 1.3
    assert f"energy distance from {before:.3f} to {after:.3f}" in text


def test_gan_differentiates_twice():
    """The penalty alone gives every table of the critic gradients: those of finite differences, in float64."""
    script = benches.example("pwl_gan")
    torch.manual_seed(0)
    judge = script.critic(6).double()
    # So large that both layers see what lies outside of their breakpoints.
    for act in (judge[1], judge[3]):
        torch.nn.init.normal_(act.values.data, std=4.0)
    true, made = 4 * torch.randn(2, 16, 6, dtype=torch.float64)

    def penalty():
        torch.manual_seed(1)
        return (script.slopes(judge, true, made) - 1).square().mean()

    penalty().backward()
    tables = [p for act in (judge[1], judge[3]) for p in act.parameters()]
    assert len(tables) == 6
    for p in tables:
        assert p.grad.isfinite().all() and p.grad.abs().max() > 0
        at = p.grad.abs().argmax()
        with torch.no_grad():
            sides = []
            for step in (1e-6, -1e-6):
                p.view(-1)[at] += step
                with torch.enable_grad():
                    sides.append(penalty().item())
                p.view(-1)[at] -= step
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(p.grad.view(-1)[at].item(), rel=1e-4)


def test_energy_distance():
    distance = benches.example("pwl_gan").energy_distance
    torch.manual_seed(0)
    x, y = torch.randn(2, 2000, 3)
    assert abs(distance(x, y)) < 0.01
    # Of two points: twice their distance.
    assert distance(torch.zeros(5, 3), torch.tensor([3.0, 4.0, 0.0]).expand(7, 3)) == pytest.approx(10.0)


def test_jump(run, monkeypatch, capsys):
    made, text = run("jump", "--steps", 400, "--seeds", 0)
    (relu,), (stairs,) = made["error"].values()
    assert stairs < 0.5 * relu
    assert f"{'ReLU':25} seed 0: mean square error {relu:.4f}" in text
    monkeypatch.setattr(sys, "argv", ["jump.py", "--source"])
    benches.example("jump").main()
    assert "def stairs_backward(g, x, params, precise: tl.constexpr):" in capsys.readouterr().out


@pytest.mark.parametrize("elements", [8, 2**20])
def test_stairs(elements):
    """Its values and gradients beside and at the jumps, of few elements and of many."""
    stairs = benches.example("jump").stairs
    at = math.pi / 2
    points = [-5.0, -1.000001, -1.0, 0.5, 0.999999, 1.0, 3.0, 0.0]
    x = torch.tensor(points).repeat(elements // 8).requires_grad_()
    params = [torch.tensor(v, requires_grad=True) for v in (-0.5, 0.5, 0.2)]
    y = stairs(x, *params)
    waves = [0.5 * math.sin(at * p) for p in points]
    expected = [-0.5, -0.5, waves[2], waves[3], waves[4], 1.0, 1 + 0.2 * math.log(3), 0.0]
    torch.testing.assert_close(y.detach()[-8:], torch.tensor(expected))
    # The mean of each point's elements, so that the sums are those of eight.
    dx, da, db, dc = torch.autograd.grad(y.sum() / (elements // 8), [x, *params])
    slopes = [0.5 * at * math.cos(at * p) for p in points]
    expected = [0.0, 0.0, slopes[2], slopes[3], slopes[4], 0.2, 0.2 / 3, slopes[7]]
    torch.testing.assert_close(dx[-8:] * (elements // 8), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    sums = [2.0, sum(math.sin(at * p) for p in points[2:5]), math.log(3)]
    torch.testing.assert_close(torch.stack([da, db, dc]), torch.tensor(sums), rtol=1e-5, atol=1e-5)
