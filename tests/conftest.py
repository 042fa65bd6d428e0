"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fusedact import compat

# test_beside.py runs this folder in a process of its own, where the kernels are interpreted: Triton decides on
# import whether it compiles or interprets.
collect_ignore = [] if compat.interpreting or torch.cuda.is_available() else ["kernels"]


def pytest_report_header() -> str:
    try:
        from triton import __version__ as triton_version
    except ImportError:
        triton_version = "none"
    return f"torch {torch.__version__}, triton {triton_version}"


_started: list[Any] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked so comes last; and in a session with the tests in the interpreter, what compiles goes beside.

    Together they take as long as all the others, and so they begin at once.
    """
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    asked = [item for item in items if item.name == "test_what_runs_beside"]
    skipped = [mark for item in asked for mark in item.iter_markers("skipif") if mark.args[0]]
    if not asked or skipped or config.option.collectonly:
        return
    beside = []
    # A choice of tests runs where it was made.
    if config.args_source is config.ArgsSource.TESTPATHS and not config.option.keyword and not config.option.markexpr:
        beside = [item for item in items if item.get_closest_marker("compiles")]
        config.hook.pytest_deselected(items=beside)
        items[:] = [item for item in items if not item.get_closest_marker("compiles")]
    files = sorted({item.path.name for item in beside})
    compiled = {
        "figures": [file for file in files if not file.endswith("compiled.py")],
        "machine code": [file for file in files if file.endswith("compiled.py")],
    }
    _started.append(asked[0].module.Beside(compiled))
    # Two threads that share a core with what runs beside wait for each other: what takes one of them half a second
    # took both half a minute.
    torch.set_num_threads(1)


def pytest_sessionfinish() -> None:
    for beside in _started:
        beside.end()


@pytest.fixture
def beside() -> Any:
    """The tests that run in the interpreter."""
    return _started[0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20240229)


_threads = torch.get_num_threads()


@pytest.fixture
def all_threads() -> Iterator[None]:
    """As many threads as PyTorch takes by itself, also in a whole session."""
    before = torch.get_num_threads()
    torch.set_num_threads(_threads)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def device() -> str:
    """Where kernels run: on the CPU in the interpreter, else on the GPU."""
    if compat.interpreting:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("no GPU, and TRITON_INTERPRET is not set")


@pytest.fixture(scope="session")
def _triton_folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("triton"))


@pytest.fixture
def triton_cache(_triton_folder, monkeypatch):
    """A cache of compiled kernels, empty at first, that all tests of a session share: much is compiled by several."""
    monkeypatch.setenv("TRITON_CACHE_DIR", _triton_folder)


@pytest.fixture
def profiled(monkeypatch):
    """What a profiler's hook sees of each launch."""
    triton = pytest.importorskip("triton")
    seen = []

    def hook(metadata):
        seen.append(metadata.get())

    if hasattr(triton.knobs.runtime.launch_enter_hook, "add"):
        triton.knobs.runtime.launch_enter_hook.add(hook)
        yield seen
        triton.knobs.runtime.launch_enter_hook.remove(hook)
    else:
        monkeypatch.setattr(triton.knobs.runtime, "launch_enter_hook", hook)
        yield seen
