"""Loads modules of bench/, which is no part of the package."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """bench.<name>, with the root on the path no longer than that: `kernels` there must not shadow another package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        return importlib.import_module(f"bench.{name}")
