"""Every call that the signatures of PyTorch's twins accept, ours accept: names, order, defaults, what is refused."""

from __future__ import annotations

import inspect

import pytest
import torch
import twins
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact import registry

EMPTY = inspect.Parameter.empty
# PyTorch's are built in and show no signature: as its documentation has them. Beyond these, `*` is by name alone.
BUILT_IN = {
    "prelu": "(input, weight)",
    "gelu": "(input, *, approximate='none')",
    "softplus": "(input, beta=1.0, threshold=20.0)",
    "logsigmoid": "(input)",
    "softshrink": "(input, lambd=0.5)",
    "hardshrink": "(input, lambd=0.5)",
}
# By name alone, and deprecated.
LEFT_OUT = {"hardtanh": ("min_value", "max_value")}
FUNCTIONS = twins.SAMPLED
MODULES = [n for n in twins.TWINS if n != "gelu_tanh"]


def stated(text):
    """The parameters of a signature that is written out."""
    namespace = {}
    exec(f"def made{text}: ...", namespace)
    return inspect.signature(namespace["made"]).parameters.values()


def torchs(name):
    return stated(BUILT_IN[name]) if name in BUILT_IN else inspect.signature(getattr(F, name)).parameters.values()


@pytest.mark.parametrize("name", BUILT_IN)
def test_those_written_out_show_none(name):
    with pytest.raises(ValueError):
        inspect.signature(getattr(F, name))


def assert_accepts(ours, theirs):
    """Raise unless each of their parameters is ours: by that name, with that default, and in that place."""
    mine = list(ours)
    place = [p.name for p in mine if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    for position, p in enumerate(theirs):
        (same,) = [q for q in mine if q.name == p.name]
        assert same.default == p.default or (same.default is EMPTY and p.default is EMPTY)
        if p.kind is p.POSITIONAL_OR_KEYWORD:
            assert place[position] == p.name
    required = [q.name for q in mine if q.default is EMPTY and q.kind not in (q.VAR_POSITIONAL, q.VAR_KEYWORD)]
    assert required == [p.name for p in theirs if p.default is EMPTY]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    assert_accepts(inspect.signature(getattr(FF, name)).parameters.values(), torchs(name))


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    ours, theirs = (getattr(n, registry.get(name).module) for n in (fusedact, nn))
    parameters = inspect.signature(theirs).parameters.values()
    wanted = [p for p in parameters if p.name not in LEFT_OUT.get(name, ())]
    if any(p.kind is p.VAR_POSITIONAL for p in wanted):
        # Identity takes what it is given; the others have no __init__ of their own.
        wanted = []
    assert_accepts(inspect.signature(ours).parameters.values(), wanted)


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("prelu", "identity")])
def test_attributes_and_state(name):
    required = {p.name: p.default for p in registry.get(name).parameters if p.required_by_module}
    ours = getattr(fusedact, registry.get(name).module)(**required)
    theirs = getattr(nn, registry.get(name).module)(**required)
    for p in inspect.signature(type(theirs)).parameters:
        if p in ("args", "kwargs", *LEFT_OUT.get(name, ())):
            continue
        assert getattr(ours, p) == getattr(theirs, p)
    assert list(theirs.state_dict()) == []
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_prelu_exchanges_its_state():
    ours, theirs = fusedact.PReLU(3, 0.1), nn.PReLU(3, 0.7)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours.weight, theirs.weight)
    theirs.load_state_dict(fusedact.PReLU(3, 0.1).state_dict(), strict=True)
    assert torch.equal(theirs.weight, torch.full((3,), 0.1))


def test_identity_takes_what_it_is_given():
    x = torch.randn(3)
    assert fusedact.Identity(54, unused=0.1)(x) is x
    assert list(fusedact.Identity(54).state_dict()) == []


# Calls as people write them, with what PyTorch has for them.
x = torch.linspace(-4, 4, 33)
CALLS = {
    "gelu by name": (lambda m: m.gelu(x, approximate="tanh")),
    "leaky_relu by position": (lambda m: m.leaky_relu(x.clone(), 0.2, True)),
    "elu by name": (lambda m: m.elu(input=x, alpha=0.5, inplace=False)),
    "celu": (lambda m: m.celu(x, 2)),
    "hardtanh by position": (lambda m: m.hardtanh(x.clone(), -2, 0.5, True)),
    "threshold by position": (lambda m: m.threshold(x.clone(), 1, 20, True)),
    "threshold by name": (lambda m: m.threshold(x, threshold=0.5, value=0.0)),
    "softplus by position": (lambda m: m.softplus(x, 2, 3)),
    "softshrink": (lambda m: m.softshrink(x, 1)),
    "hardshrink by name": (lambda m: m.hardshrink(x, lambd=1)),
    "relu in place": (lambda m: m.relu(x.clone(), True)),
    "relu6 in place": (lambda m: m.relu6(x.clone(), inplace=True)),
    "prelu by name": (lambda m: m.prelu(input=x, weight=torch.full((1,), 0.1))),
    "mish in place": (lambda m: m.mish(x.clone(), True)),
    "hardswish in place": (lambda m: m.hardswish(x.clone(), True)),
    "hardsigmoid in place": (lambda m: m.hardsigmoid(x.clone(), True)),
    "silu in place": (lambda m: m.silu(x.clone(), True)),
    "selu in place": (lambda m: m.selu(x.clone(), True)),
}
MADE = {
    "GELU by position": (lambda m: m.GELU("tanh")),
    "Hardtanh": (lambda m: m.Hardtanh(-2, 0.5, True)),
    "Threshold": (lambda m: m.Threshold(0.1, 20, True)),
    "Softplus": (lambda m: m.Softplus(2, 3)),
    "LeakyReLU": (lambda m: m.LeakyReLU(0.1, True)),
    "ELU": (lambda m: m.ELU(0.5, inplace=True)),
    "CELU": (lambda m: m.CELU(0.5, True)),
    "Hardshrink": (lambda m: m.Hardshrink(1)),
    "Softshrink": (lambda m: m.Softshrink(lambd=1)),
    "PReLU": (lambda m: m.PReLU(1, 0.1, "cpu", torch.float32)),
    "ReLU": (lambda m: m.ReLU(True)),
    "ReLU6": (lambda m: m.ReLU6(True)),
    "SiLU": (lambda m: m.SiLU(inplace=True)),
    "Mish": (lambda m: m.Mish(True)),
    "SELU": (lambda m: m.SELU(True)),
    "Hardswish": (lambda m: m.Hardswish(True)),
    "Hardsigmoid": (lambda m: m.Hardsigmoid(True)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls(call):
    torch.testing.assert_close(call(FF), call(F))


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_constructions(make):
    given = x.clone()
    made = make(fusedact)
    torch.testing.assert_close(made(given), make(nn)(x.clone()))
    # In place where it says so.
    torch.testing.assert_close(given, made(x.clone()) if getattr(made, "inplace", False) else x)
