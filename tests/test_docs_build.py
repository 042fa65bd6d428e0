"""The documentation builds without a warning, its reference tells of everything, and links lead somewhere."""

from __future__ import annotations

import ast
import functools
import html
import inspect
import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote, urlsplit

import benches
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import fusedact
from fusedact import functional, modules, optim, registry

ROOT = benches.ROOT
PACKAGE = ROOT / "fusedact"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation as HTML."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(ROOT / "docs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def told(site) -> dict[str, str]:
    """What the documentation has an entry for, by name, and its page."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    entries = [line.split(" ") for line in zlib.decompress(packed).decode().splitlines()]
    # A class has a second entry, of priority -1, for the place where it is defined.
    return {
        name: page.partition("#")[0]
        for name, kind, priority, page, *_ in entries
        if kind[:3] == "py:" and priority != "-1"
    }


def exported() -> dict[str, object]:
    """All that users import, save what needs an optional library, by one of its names."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) and n.level for a in n.names if a.asname]
    found = {f"fusedact.{name}": getattr(fusedact, name) for name in names}
    for module in (functional, modules, optim):
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    return {name: thing for name, thing in found.items() if thing not in (functional, optim)}


def test_every_export_has_one_entry(told):
    things = exported()
    assert len(things) > 150
    entries: dict[int, list[str]] = {}
    for name in told:
        # Integrations import what need not be there: their names are compared below.
        if ".integrations." not in name:
            entries.setdefault(id(resolve_name(name)), []).append(name)
    wrong = {name: entries.get(id(thing)) for name, thing in things.items() if len(entries.get(id(thing), ())) != 1}
    assert not wrong
    assert all(told[entries[id(thing)][0]].startswith("reference/") for thing in things.values())


def test_every_integration_has_an_entry(told):
    for path in sorted((PACKAGE / "integrations").glob("[!_]*.py")):
        (names,) = [
            ast.literal_eval(n.value)
            for n in ast.parse(path.read_text()).body
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
        ]
        for name in names:
            assert told[f"fusedact.integrations.{path.stem}.{name}"] == "reference/integrations.html"


def entry(site: Path, told: dict[str, str], name: str) -> str:
    """The entry of a function or class, as HTML, up to the next one or the next heading."""
    text = (site / told[name]).read_text()
    _, rest = text.split(f'id="{name}"')
    return re.split(r'<dl class="py (?:function|class)">|<h2', rest)[0]


def shown(fragment: str) -> str:
    """What a reader sees of HTML, with single spaces."""
    return " ".join(html.unescape(re.sub(r"</?[a-z][^>]*>", "", fragment)).split())


def test_docstrings_are_shown_whole(site, told):
    """Descriptions with their formulas, and examples: nothing of them is taken for markup."""
    checked = 0
    for name in told:
        if ".integrations." not in name:
            text = shown(entry(site, told, name))
            for part in re.split(r"\n\n", inspect.getdoc(resolve_name(name)) or ""):
                if not re.match(r"[A-Z]\w+:\n", part) and "doctest:" not in part:
                    assert " ".join(part.replace("`", "").split()) in text, name
                    checked += 1
    assert checked > 500


@pytest.mark.parametrize("name", registry.names("elementwise"))
def test_parameters_are_listed(site, told, name):
    spec = registry.get(name)
    function, module = (entry(site, told, f"fusedact.{n}") for n in (f"functional.{name}", spec.module))
    for parameter in inspect.signature(getattr(functional, name)).parameters:
        assert f"<strong>{parameter}</strong>" in function
    for parameter in inspect.signature(getattr(fusedact, spec.module)).parameters:
        assert f"<strong>{parameter}</strong>" in module


# ----- links


def documents() -> list[Path]:
    """All documents of the repository."""
    found = [*ROOT.glob("*.md"), *(ROOT / "kernels").glob("*.md")]
    return sorted([*found, *(file for folder in ("bench", "docs") for file in (ROOT / folder).rglob("*.md"))])


@functools.cache
def tokens(text: str) -> list[Token]:
    """A document's parts, down to words and links."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


@functools.cache
def anchors(text: str) -> set[str]:
    """Where a link into a document can lead: its headings as GitHub names them, and ids in its HTML."""
    found: dict[str, int] = {}
    names = set()
    parts = tokens(text)
    for opening, inline in itertools.pairwise(parts):
        if opening.type == "heading_open":
            words = "".join(t.content for t in inline.children or () if t.type in ("text", "code_inline"))
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            names.add(f"{name}-{found[name]}" if name in found else name)
            found[name] = found.get(name, 0) + 1
    for token in parts:
        if token.type in ("html_inline", "html_block"):
            names |= set(re.findall(r"""<\w+[^>]*\s(?:id|name)=["']([^"']+)""", token.content))
    return names


def targets(text: str) -> list[str]:
    """What a document links to, and shows."""
    found = [str(value) for t in tokens(text) for key in ("href", "src") if (value := t.attrs.get(key)) is not None]
    for token in tokens(text):
        if token.type in ("html_inline", "html_block"):
            found += re.findall(r"""<\w+[^>]*\s(?:href|src)=["']([^"']+)""", token.content)
    return found


def fault(document: Path, target: str) -> str:
    """What is wrong with a link; an empty string if nothing is."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme in ("http", "https") and re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", parts.netloc)
        return "" if well_formed else "is no address"
    place = document.parent / unquote(parts.path) if parts.path else document
    if not place.resolve().is_relative_to(ROOT) and document.is_relative_to(ROOT):
        return "leaves the repository"
    if not place.exists():
        return "does not exist"
    if parts.fragment and (place.suffix != ".md" or parts.fragment not in anchors(place.read_text())):
        return "has no such heading"
    return ""


@pytest.mark.parametrize("document", documents(), ids=lambda d: str(d.relative_to(ROOT)))
def test_links_resolve(document):
    text = document.read_text()
    assert not {target: why for target in targets(text) if (why := fault(document, target))}


def test_there_are_links():
    """They are found: in text, tables and pictures."""
    readme = targets((ROOT / "README.md").read_text())
    assert {"docs/pwl.png", "docs/pwl.md#networks-that-learn-them", "bench/results/cpu"} <= set(readme)
    assert len(targets((ROOT / "docs" / "gallery.md").read_text())) >= 2 * len(registry.names())


WRONG = {
    "gone.md": "does not exist",
    "gone.png": "does not exist",
    "#no": "has no such heading",
    "other.md#two-2": "has no such heading",
    "picture.png#one": "has no such heading",
    "https://": "is no address",
    "https://nowhere": "is no address",
    "htp://example.org/x": "is no address",
}


def test_wrong_links_are_found(tmp_path):
    (tmp_path / "picture.png").touch()
    (tmp_path / "other.md").write_text("# One `x_i` & *two*\n\n## Two\n\n## Two\n\n<a id='three'></a>\n")
    document = tmp_path / "page.md"
    right = ["other.md", "other.md#one-x_i--two", "other.md#two", "other.md#two-1", "other.md#three", "picture.png"]
    right += ["#here", "https://example.org/a?b=c#d"]
    text = "# Here\n\n```\n[not](a.md)\n```\n\n`[not](b.md)`\n\n"
    links = [f"[x]({target})" for target in (*right, *WRONG)]
    document.write_text(text + "\n".join(links) + "\n\n|a|\n|-|\n|![x](gone.gif)|\n\n<img src='gone.jpg'>\n")
    found = {target: fault(document, target) for target in targets(document.read_text())}
    expected = {**dict.fromkeys(right, ""), **WRONG, "gone.gif": "does not exist", "gone.jpg": "does not exist"}
    assert found == expected
