"""The examples run, and do what they say."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys

import benches
import pytest


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
