"""Whether kernels can be compiled, for modules of tests that need it before they import Triton."""

from __future__ import annotations

import importlib.util

from fusedact import compat


def why_not() -> str:
    """Why none can; an empty string if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return "under TRITON_INTERPRET nothing is compiled" if compat.interpreting else ""
