"""Docstrings of all that the API reference tells of: their examples run, and they name every argument."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from pathlib import Path

import benches
import pages
import pytest
import torch

import fusedact
from fusedact import functional as FF
from fusedact import properties

# What calls return shows nothing that they do not; nor does what others derive from.
WITHOUT_EXAMPLE = {"fusedact.Path", "fusedact.optim.UpdateRule", "fusedact.optim.RuleOptimizer"}

PACKAGE = Path(fusedact.__file__).parent
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.Module)
NEEDS = {"transformers.py": ["transformers"]}
# Their examples are not run: they need the processes of a job, and Keras's backend, which a process chooses once.
SKIPPED = {"distributed.py", "keras.py"}


def entries():
    """Everything by the name that users import, and the methods of classes; of classes that calls return, these alone.

    Integrations need their libraries: test_integrations.py runs what they do.
    """
    reference = benches.documents()._beside("reference_pages")
    for page in reference.PAGES.values():
        for thing in (thing for section in page.sections for thing in section.objects):
            name = reference.name_of(thing)
            if not name.startswith(reference.OPTIONAL):
                found = reference.found(thing)
                yield from [(name, found)] if isinstance(thing, str) else []
                for member in reference.members(found) if isinstance(found, type) else []:
                    yield f"{name}.{member}", inspect.getattr_static(found, member)


ENTRIES = {"fusedact.properties.measure": properties.measure, **dict(entries())}
EXAMPLES = [name for name, thing in ENTRIES.items() if ">>>" in thing.__doc__]


@pytest.fixture
def quiet_after():
    """Examples of logging change the logger."""
    logger = logging.getLogger("fusedact")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.usefixtures("quiet_after")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    pages.examples(ENTRIES[name].__doc__, {"torch": torch, "fusedact": fusedact, "FF": FF}, name)


def written():
    """The other docstrings with an example that stand in files: file, line of the docstring, and text."""
    known = {inspect.cleandoc(ENTRIES[name].__doc__) for name in EXAMPLES}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            text = ast.get_docstring(node, clean=False) if isinstance(node, DOCUMENTED) else None
            if text and ">>>" in text and inspect.cleandoc(text) not in known:
                name = file.relative_to(PACKAGE).as_posix()
                yield pytest.param(name, node.body[0].lineno - 1, text, id=f"{name}-{getattr(node, 'name', '')}")


@pytest.mark.parametrize(("title", "line", "text"), list(written()))
def test_other_examples(title, line, text):
    file = Path(title).name
    assert ("+SKIP" in text) == (file in SKIPPED)
    with pages.needing(*NEEDS.get(file, [])):
        pages.examples(text, {"torch": torch, "fusedact": fusedact, "FF": FF}, title, line)


def test_there_is_an_example_of_everything():
    imported = {name for name, thing in ENTRIES.items() if callable(thing) and not is_method(name)}
    assert len(imported) > 100
    assert imported - set(EXAMPLES) == WITHOUT_EXAMPLE


def is_method(name):
    return name.split(".")[-2][:1].isupper()


@pytest.mark.parametrize("name", [name for name, thing in ENTRIES.items() if not isinstance(thing, property)])
def test_every_argument_is_named(name):
    """In the section of arguments nothing else, and all of them if it is there; otherwise in the text."""
    thing = getattr(ENTRIES[name], "__func__", ENTRIES[name])
    text = inspect.cleandoc(thing.__doc__)
    arguments = set(inspect.signature(thing).parameters) - {"self", "cls"}
    section = re.search(r"^(?:Args|Attributes):\n((?: +.*\n|\n(?= ))+)", f"{text}\n", re.MULTILINE)
    if section:
        names = re.findall(r"^    ((?:\w+, )*\w+):", section[1], re.MULTILINE)
        assert {name for line in names for name in line.split(", ")} == arguments
    else:
        assert arguments <= set(re.findall(r"\w+", text))
