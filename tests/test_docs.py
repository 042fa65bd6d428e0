"""Documents that are made are current."""

from __future__ import annotations

import importlib.util

import benches


def test_the_operators_are_listed():
    where = benches.ROOT / "docs" / "make.py"
    spec = importlib.util.spec_from_file_location("docs_make", where)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.FILE.read_text() == make.text(), "run python docs/make.py"
