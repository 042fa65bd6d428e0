"""Runs what documents show: the code of a page, and the examples of a docstring."""

from __future__ import annotations

import doctest
import io
import linecache
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import benches
import pytest

# README.md, and what lies in docs/.
PAGES = [benches.ROOT / "README.md", *sorted((benches.ROOT / "docs").rglob("*.md"))]

# A block of Python; a comment before it, which readers do not see, tells why it is not run.
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """Code, the number of lines before it, and why it is not run, if it is not."""

    code: str
    line: int
    reason: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m["code"], text.count("\n", 0, m.start("code")), m["reason"]) for m in BLOCK.finditer(text)]


def run(page: Path, **given: Any) -> dict[str, Any]:
    """Run the blocks of a page one after the other, with the names that are given, and return their names.

    Of a block with `>>>` what is printed must be what stands there.
    """
    names = {"__name__": page.stem, **given}
    found = [block for block in blocks(page) if not block.reason]
    # What tracebacks and inspect read: the code alone, with the line numbers of the page.
    lines = ["\n"] * page.read_text().count("\n")
    for block in found:
        if ">>>" not in block.code:
            lines[block.line : block.line + block.code.count("\n")] = block.code.splitlines(keepends=True)
    file = f"<{page.name}>"
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    for block in found:
        if ">>>" in block.code:
            names = examples(block.code, names, page.name, block.line)
        else:
            exec(compile("\n" * block.line + block.code, file, "exec"), names)
    return names


@contextmanager
def needing(*libraries: str) -> Iterator[None]:
    """Around code that needs libraries: skips without them; loggers and transformers' names are as before after it."""
    for library in libraries:
        pytest.importorskip(library)
    logger = logging.getLogger("fusedact")
    level, handlers = logger.level, list(logger.handlers)
    names: dict[str, Any] = {}
    if "transformers" in libraries:
        from transformers.activations import ACT2FN as names
        from transformers.utils import logging as told

        told.set_verbosity_error()
        told.disable_progress_bar()
    before = dict(names.items())
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        names.clear()
        names.update(before)


def examples(text: str | None, names: dict[str, Any], title: str, line: int = 0) -> dict[str, Any]:
    """Run a doctest, compare what it prints, in which `...` stands for any text, and return its names."""
    test = doctest.DocTestParser().get_doctest(text or "", names, f"{title}:{line}", title, line)
    assert test.examples, f"{title} shows no example"
    # For what is defined here and read by inspect after this test.
    for i, example in enumerate(test.examples):
        file = f"<doctest {test.name}[{i}]>"
        linecache.cache[file] = (len(example.source), None, example.source.splitlines(keepends=True), file)
    told = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed = runner.run(test, out=told.write, clear_globs=False).failed
    assert failed == 0, told.getvalue()
    return test.globs
