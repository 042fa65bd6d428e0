"""How Sphinx builds the documentation: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import fusedact

FOLDER = Path(__file__).parent

project = "fusedact"
release = fusedact.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["**/*.py"]

html_theme = "furo"
html_title = f"fusedact {release}"
html_show_copyright = False
# The pages as they are in the repository; nothing else of it is copied.
html_copy_source = False
# What no page says is Python is none.
highlight_language = "none"
# One parameter a line where a signature is longer than this.
maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

# Quotes and dots stay what was written; two hyphens between a parameter and its description become a dash.
smartquotes_action = "D"
# Anchors as GitHub makes them.
myst_heading_anchors = 4

# What integrations import is not needed to read them.
autodoc_mock_imports = ["keras", "transformers"]
# torch.nn.Module's text about `forward` is no documentation of ours.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Shape", "returns_style")]

# Documents outside this folder, and the pages that include them.
HELD = {
    "README.md": "index",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "bench/README.md": "project/benchmarks",
    "kernels/README.md": "project/kernels",
}
INCLUDE = re.compile(r"```\{include\} (\S+)\n```")
LINK = re.compile(r"\]\(([^)\s#:]+)")


def _read(app: Any, page: str, source: list[str]) -> None:
    """Include documents, and let links lead to the pages that do."""
    here = (FOLDER / page).parent

    def included(found: re.Match[str]) -> str:
        document = here / found[1]
        app.env.note_dependency(document)
        return _relinked(document.read_text(), document.parent, here)

    source[0] = INCLUDE.sub(included, _relinked(source[0], here, here))


def _relinked(text: str, there: Path, here: Path) -> str:
    """Text from one folder as it stands in another."""

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(there / found[1]))
        if not target.exists():
            return found[0]
        held = HELD.get(os.path.relpath(target, FOLDER.parent))
        if held:
            return f"]({os.path.relpath(FOLDER / held, here)}.md"
        if target.is_dir():
            target /= "README.md"
        # Other documents are handed over as they are: large tables of measurements.
        elsewhere = target.suffix == ".md" and not target.is_relative_to(FOLDER)
        return f"]({'path:' if elsewhere else ''}{os.path.relpath(target, here)}"

    return LINK.sub(link, text)


# The names of a section's arguments, which are left to Napoleon; code in backticks; and what reST would take for
# emphasis, substitutions and references.
MARKUP = re.compile(r"(?m)(^ +\**\w+(?:, \**\w+)*:(?= ))|`([^`]+)`|([*|\\]|_(?!\w))")


def _as_rest(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make reST of a docstring, which is plain text: code in backticks, formulas indented, examples after `>>>`."""
    blocks = re.split(r"(\n(?: *\n)+)", "\n".join(lines))
    above = ""
    for i in range(0, len(blocks), 2):
        block = blocks[i].split("\n")
        if blocks[i].startswith(">>>"):
            blocks[i] = ".. code-block:: pycon\n\n" + textwrap.indent(blocks[i], "    ")
        elif all(line.startswith("    ") for line in block) and not re.fullmatch(r"[A-Z]\w+:", above):
            blocks[i] = f".. code-block:: none\n\n{blocks[i]}"
        else:
            blocks[i] = MARKUP.sub(_marked, blocks[i])
        above = next((line for line in reversed(block) if line[:1] != " "), above)
    lines[:] = "".join(blocks).split("\n")


def _marked(found: re.Match[str]) -> str:
    """In reST: code, with names of this library as links; characters that are no markup."""
    names, code, character = found.groups()
    if character:
        return f"\\{character}"
    code = " ".join((code or "").split())
    ours = re.fullmatch(r"(fusedact(?:\.\w+)+)(?:\(\))?", code)
    return names or (f":py:obj:`{code} <{ours[1]}>`" if ours else f"``{code}``")


def setup(app: Any) -> None:
    app.connect("source-read", _read)
    # Before Napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", _as_rest, priority=400)
