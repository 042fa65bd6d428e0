"""Documents that are made are current, and true."""

from __future__ import annotations

import ast
import math
import re

import benches
import pytest
import torch
import twins

import fusedact
from fusedact import functional as FF
from fusedact import registry

make = benches.documents()


@pytest.mark.parametrize("file", make.FILES, ids=lambda f: f.name)
def test_what_is_made_is_current(file):
    assert file.read_text() == make.FILES[file](), "run python docs/make.py"


def test_the_catalogue_names_everything():
    text = make.catalogue()
    sections = dict(re.findall(r"\n### (\w+)\n(.*?)(?=\n###|\Z)", text, re.DOTALL))
    assert tuple(sections) == fusedact.names()
    for name, section in sections.items():
        spec = registry.get(name)
        told = " ".join(section.split())
        for part in (spec.summary, spec.limits, spec.formula, spec.module, *spec.aliases, *map(str, spec.parameters)):
            assert " ".join(part.split()) in told
        assert f"(#{name})" in text


def test_what_an_activation_takes_is_what_was_written():
    """The lines that CONTRIBUTING.md shows stand in the files, together, and are few."""
    text = (benches.ROOT / "CONTRIBUTING.md").read_text()
    (shown,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    parts = re.findall(r"^([\w/.]+)\n((?:\+.*\n)+)", shown, re.MULTILINE)
    assert len(parts) == 3 and "".join(f"{file}\n{lines}" for file, lines in parts) == shown
    assert shown.count("\n+") <= 15
    for file, lines in parts:
        assert re.sub(r"^\+", "", lines, flags=re.MULTILINE) in (benches.ROOT / file).read_text()


ROOT = benches.ROOT


@pytest.mark.parametrize("document", ["integrations", "scaling"])
def test_what_tables_name_as_tests_are_tests(document):
    table = (ROOT / "docs" / f"{document}.md").read_text()
    rows = re.findall(r"^\| .* \| `(tests/[\w/]+\.py)(?:::(\w+))?` \|$", table, re.MULTILINE)
    assert len(rows) == table.count("| `tests/") >= 9
    for file, name in rows:
        defined = {n.name for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)}
        assert not name or name in defined, f"{file}::{name}"


def wrong(condition):
    """Where PyTorch's limit is wrong at an infinity, of the records for which the condition holds."""
    found = [w for w in twins.WRONG if w.where in ("-inf", "+inf") and condition(registry.get(w.name))]
    return pytest.mark.parametrize("wrong", found, ids=lambda w: f"{w.name}-{w.what}-{w.where}")


def gives_the_limit(function, wrong, elements):
    value, slope = twins.derived(function, torch.full((elements,), float(wrong.where)))
    assert ((value if wrong.what == "value" else slope) == wrong.limit).all()


@wrong(lambda spec: spec.pieces_from)
def test_pieces_give_the_limit(wrong):
    spec = registry.get(wrong.name)
    gives_the_limit(getattr(FF, wrong.name), wrong, max(spec.pieces_from, spec.pieces_from_recorded))


@wrong(lambda spec: spec.compiled == "formula")
def test_compiled_calls_give_the_limit(wrong):
    torch.compiler.reset()
    # What the compiler is given, without its back end.
    gives_the_limit(torch.compile(getattr(FF, wrong.name), backend="eager", fullgraph=True), wrong, 8)


def tails():
    """What is no twin, at its infinities."""
    beyond = [n for n in fusedact.names("elementwise") if not registry.get(n).twin]
    return [(name, x) for name in beyond for x in (-math.inf, math.inf)]


@pytest.mark.parametrize("elements", [1, 2**20])
@pytest.mark.parametrize("place", tails(), ids=str)
def test_what_has_no_twin_gives_its_limit(place, elements):
    """A NaN, of value or gradient, only where there is no limit."""
    name, x = place
    x = torch.full((elements,), x, requires_grad=True)
    y = getattr(FF, name)(x)
    y.sum().backward()
    assert bool(y.isnan().any() or x.grad.isnan().any()) == (name == "snake")


def test_the_tables_of_biased_activations_are_what_was_measured_and_counted():
    times, ledger = map(benches.load, ("biased_times", "biased_ledger"))
    text = times.PAGE.read_text()
    assert times.page() == text
    kept = {
        (r.kernel, r.direction): r.instructions
        for r in ledger.LEDGER.load(benches.ROOT)
        if (r.dtype, r.target) == ("bf16", "sm_90")
    }
    shown = re.findall(r"^\| ([a-z, ]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(shown) == 6
    for name, *figures in shown:
        # Backward nothing is known of a residual.
        names = name, name.removesuffix(", residual")
        for figure, kernel, direction in zip(figures, names, ("forward", "backward"), strict=True):
            assert abs(float(figure) - kept[kernel, direction]) <= 0.051


def test_the_gallery_shows_everything_and_is_small():
    text = (benches.ROOT / "docs" / "gallery.md").read_text()
    pictures = {file.stem: file for file in (benches.ROOT / "docs" / "gallery").iterdir()}
    assert set(pictures) == set(fusedact.names())
    for name, file in pictures.items():
        assert text.count(f"![{name}](gallery/{name}.png)<br>[`{name}`](catalogue.md#{name})") == 1
        assert file.read_bytes().startswith(b"\x89PNG")
    assert sum(file.stat().st_size for file in pictures.values()) < 1e6


def test_pictures_are_drawn(tmp_path, monkeypatch):
    """Of some, into another folder."""
    looking = make._beside("looking")
    names = ("relu6", "softmax2d", "glu", "pwl", "rrelu")
    monkeypatch.setattr(looking, "PICTURES", tmp_path)
    monkeypatch.setattr(looking.registry, "names", lambda *_: names)
    looking.pictures()
    assert {file.stem for file in tmp_path.iterdir()} == set(names)


def test_choosing_tells_of_every_activation():
    text = (benches.ROOT / "docs" / "choosing.md").read_text()
    for name in fusedact.names("elementwise"):
        assert text.count(f"\n| `{name}` | [") + text.count(f"\n| `{name}` | (") == 1


def test_the_table_of_linear_layers_is_what_was_measured():
    assert benches.load("layers").markdown() in (benches.ROOT / "docs" / "linear.md").read_text()
