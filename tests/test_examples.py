"""The examples run, and do what they say."""

from __future__ import annotations

import os
import re
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
