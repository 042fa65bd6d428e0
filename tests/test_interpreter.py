"""Runs tests/kernels in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusedact import compat

TESTS = Path(__file__).parent
# Not `python -m pytest`, which puts the current directory on sys.path: the repository's root must stay off it.
PROGRAM = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.skipif(compat.interpreting, reason="already in the interpreter: tests/kernels is collected itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_in_the_interpreter(capsys):
    arguments = [str(TESTS / "kernels"), "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--color=no"]
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, f"\n{finished.stdout}"
    with capsys.disabled():
        sys.stdout.write(f"\nin the interpreter: {finished.stdout.strip().splitlines()[-1]}\n")
