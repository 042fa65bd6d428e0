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


def test_the_readme_names_everything():
    text = (benches.ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in fusedact.names())


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


@pytest.mark.parametrize("place", [p for p in make.WRONG if registry.get(p[0]).aten is None], ids=str)
@pytest.mark.parametrize("elements", [1, 2**20])
def test_composites_give_the_limit(place, elements):
    name, x = place
    x = torch.full((elements,), x, requires_grad=True)
    y = getattr(FF, name)(x)
    y.sum().backward()
    value, slope = make.WRONG[place][1]
    assert (y == value).all() and (x.grad == slope).all()
