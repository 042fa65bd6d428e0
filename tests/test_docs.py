"""Documents that are made are current, and true."""

from __future__ import annotations

import math
import platform
import re

import benches
import pytest
import torch

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


def answer(function, x):
    """Value and gradient at a point, which has neighbours: some operators take several at once."""
    x = torch.full((64,), x, requires_grad=True)
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert all(t.isnan().all() or (t == t[0]).all() for t in (y, slope))
    return y[0].item(), slope[0].item()


TWINS = [n for n in fusedact.names("elementwise") if registry.get(n).twin.startswith("torch.nn.functional")]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="vectors of other CPUs answer otherwise")
@pytest.mark.parametrize("name", TWINS)
def test_where_torch_is_wrong(name):
    """The list is what PyTorch answers, and has every NaN at these inputs that is no limit."""
    spec = registry.get(name)
    function = spec.aten or getattr(torch.nn.functional, name)
    values = [p.default for p in spec.parameters]
    for x in (-math.inf, -2e19, 2e19, math.inf):
        found = answer(lambda t: function(t, *values), x)
        listed = make.WRONG.get((name, x))
        assert any(map(math.isnan, found)) == (listed is not None), (x, found)
        if listed is not None:
            assert found == pytest.approx(listed[0], rel=1e-6, nan_ok=True)


def gives_the_limit(function, place, elements):
    x = torch.full((elements,), place[1], requires_grad=True)
    y = function(x)
    y.sum().backward()
    value, slope = make.WRONG[place][1]
    assert (y == value).all() and (x.grad == slope).all()


@pytest.mark.parametrize("place", [p for p in make.WRONG if registry.get(p[0]).pieces_from], ids=str)
def test_pieces_give_the_limit(place):
    gives_the_limit(getattr(FF, place[0]), place, registry.get(place[0]).pieces_from)


@pytest.mark.parametrize("place", [p for p in make.WRONG if registry.get(p[0]).compiled == "formula"], ids=str)
def test_compiled_calls_give_the_limit(place):
    torch.compiler.reset()
    # What the compiler is given, without its back end.
    gives_the_limit(torch.compile(getattr(FF, place[0]), backend="eager", fullgraph=True), place, 8)


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
