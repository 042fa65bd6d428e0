"""Runs tests/kernels in Triton's interpreter, in a process of its own, beside the other tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fusedact import compat

TESTS = Path(__file__).parent
# Not `python -m pytest`, which puts the current directory on sys.path: the repository's root must stay off it.
PROGRAM = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Beside:
    """The tests in the interpreter, from the beginning of the session on; on one thread, as others run beside it."""

    def __init__(self) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        arguments = [str(TESTS / "kernels"), "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--color=no"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=TESTS,
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def result(self) -> tuple[int, str]:
        """The exit status, and all that was printed."""
        status = self._process.wait()
        self._output.seek(0)
        return status, self._output.read()

    def end(self) -> None:
        """Stop it, if a session ends before it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.mark.last
@pytest.mark.skipif(compat.interpreting, reason="already in the interpreter: tests/kernels is collected itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_in_the_interpreter(beside, capsys):
    status, output = beside.result()
    assert status == 0, f"\n{output}"
    with capsys.disabled():
        sys.stdout.write(f"\nin the interpreter: {output.strip().splitlines()[-1]}\n")
