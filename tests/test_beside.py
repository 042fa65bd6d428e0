"""Runs beside the other tests, in other processes: tests/kernels in Triton's interpreter, then what compiles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from fusedact import compat

TESTS = Path(__file__).parent
# Not `python -m pytest`, which puts the current directory on sys.path: the repository's root must stay off it.
PROGRAM = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Beside:
    """Several sessions in turn, from the beginning of this one on; on one thread, as others run beside them.

    Triton decides on import whether it interprets kernels or compiles them, so one process cannot do both.
    """

    def __init__(self, compiled: Mapping[str, list[str]]) -> None:
        self._runs: list[tuple[str, list[str], dict[str, str]]] = [
            ("in the interpreter", ["kernels"], {"TRITON_INTERPRET": "1"}),
            *((kind, files, {}) for kind, files in compiled.items() if files),
        ]
        self._outputs = [tempfile.TemporaryFile("w+") for _ in self._runs]  # noqa: SIM115 (open as long as the process)
        self._statuses = [-1] * len(self._runs)
        self._processes: list[subprocess.Popen[str]] = []
        self._waiting = iter(range(len(self._runs)))
        # For what is waiting and for what runs.
        self._lock = threading.Lock()
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._begin()

    def _begin(self) -> None:
        self._threads.append(threading.Thread(target=self._work, daemon=True))
        self._threads[-1].start()

    def _work(self) -> None:
        """Run what nobody else has begun, until there is no more."""
        while True:
            with self._lock:
                number = next(self._waiting, None)
                if number is None or self._ended:
                    return
                _, paths, environment = self._runs[number]
                arguments = [
                    *(str(TESTS / p) for p in paths),
                    "-q",
                    "--import-mode=importlib",
                    "-p",
                    "no:cacheprovider",
                ]
                process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, *arguments, "--color=no"],
                    cwd=TESTS,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                    stdout=self._outputs[number],
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                self._processes.append(process)
            self._statuses[number] = process.wait()

    def results(self) -> list[tuple[str, int, str]]:
        """What ran, the exit status, and what was printed, of each session; two run at a time from now on."""
        self._begin()
        for thread in self._threads:
            thread.join()
        printed = []
        for output in self._outputs:
            output.seek(0)
            printed.append(output.read())
        return [(kind, *rest) for (kind, *_), *rest in zip(self._runs, self._statuses, printed, strict=True)]

    def end(self) -> None:
        """Stop it, if this session ends before it does."""
        with self._lock:
            self._ended = True
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for thread in self._threads:
            thread.join()
        for output in self._outputs:
            output.close()


@pytest.mark.last
@pytest.mark.skipif(compat.interpreting, reason="already in the interpreter: tests/kernels is collected itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_what_runs_beside(beside, capsys):
    for kind, status, output in beside.results():
        assert status == 0, f"\n{output}"
        with capsys.disabled():
            sys.stdout.write(f"\n{kind}: {output.strip().splitlines()[-1]}\n")
