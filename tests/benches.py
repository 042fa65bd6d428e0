"""Loads modules of bench/, which is no part of the package."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """bench.<name>, with the repository's root on the path for just as long: `kernels` there must shadow nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        return importlib.import_module(f"bench.{name}")
