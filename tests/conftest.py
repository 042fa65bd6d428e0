"""What all tests share."""

from __future__ import annotations

import pytest
import torch

from fusedact import compat

# test_interpreter.py runs this folder in a process of its own, where the kernels are interpreted: Triton decides on
# import whether it compiles or interprets.
collect_ignore = [] if compat.interpreting or torch.cuda.is_available() else ["kernels"]


def pytest_report_header() -> str:
    try:
        from triton import __version__ as triton_version
    except ImportError:
        triton_version = "none"
    return f"torch {torch.__version__}, triton {triton_version}"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20240229)


@pytest.fixture(scope="session")
def device() -> str:
    """Where kernels run: on the CPU in the interpreter, else on the GPU."""
    if compat.interpreting:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("no GPU, and TRITON_INTERPRET is not set")


@pytest.fixture
def triton_cache(tmp_path_factory, monkeypatch):
    """An empty cache of compiled kernels."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
