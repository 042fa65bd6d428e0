"""Runs beside the other tests, in a process of its own: tests/kernels in Triton's interpreter, then what compiles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from fusedact import compat

TESTS = Path(__file__).parent
# Not `python -m pytest`, which puts the current directory on sys.path: the repository's root must stay off it.
PROGRAM = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Beside:
    """Two sessions in turn, from the beginning of this one on; on one thread, as others run beside them.

    Triton decides on import whether it interprets kernels or compiles them, so one process cannot do both.
    """

    def __init__(self, compiled: list[str]) -> None:
        self._runs = [(["kernels"], {"TRITON_INTERPRET": "1"})]
        if compiled:
            self._runs.append((compiled, {}))
        self._outputs = [tempfile.TemporaryFile("w+") for _ in self._runs]  # noqa: SIM115 (open as long as the process)
        self._statuses: list[int] = []
        self._process: subprocess.Popen[str] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for (paths, environment), output in zip(self._runs, self._outputs, strict=True):
            if self._ended:
                return
            arguments = [*(str(TESTS / p) for p in paths), "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments, "--color=no"],
                cwd=TESTS,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._statuses.append(self._process.wait())

    def results(self) -> list[tuple[int, str]]:
        """The exit status and what was printed, of each session."""
        self._thread.join()
        printed = []
        for output in self._outputs:
            output.seek(0)
            printed.append(output.read())
        return list(zip(self._statuses, printed, strict=True))

    def end(self) -> None:
        """Stop it, if this session ends before it does."""
        self._ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._thread.join()
        for output in self._outputs:
            output.close()


@pytest.mark.last
@pytest.mark.skipif(compat.interpreting, reason="already in the interpreter: tests/kernels is collected itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_what_runs_beside(beside, capsys):
    for (status, output), kind in zip(beside.results(), ("in the interpreter", "compiled"), strict=False):
        assert status == 0, f"\n{output}"
        with capsys.disabled():
            sys.stdout.write(f"\n{kind}: {output.strip().splitlines()[-1]}\n")
