"""Modules, what is made from records, names, docstrings and stubs."""

from __future__ import annotations

import copy
import doctest
import inspect
import io
import pickle
import pydoc
from pathlib import Path

import oracles
import pytest
import torch
from torch import nn

import fusedact
from fusedact import dispatch, functional, modules, registry, stubs
from fusedact import functional as FF

names = pytest.mark.parametrize("name", fusedact.names("elementwise"))
TWINS = {"elu": nn.ELU, "selu": nn.SELU}


@pytest.mark.parametrize("name", TWINS)
def test_arguments_are_those_of_torch(name):
    for ours, theirs in (
        (modules.create(name).__class__.__init__, TWINS[name].__init__),
        (getattr(FF, name), getattr(nn.functional, name)),
    ):
        mine = [
            (p.name, p.default) for p in inspect.signature(ours).parameters.values() if p.kind is not p.KEYWORD_ONLY
        ]
        assert mine == [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]


@pytest.mark.parametrize("name", TWINS)
def test_repr_and_state_are_those_of_torch(name):
    ours, theirs = modules.create(name), TWINS[name]()
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert repr(modules.create(name, inplace=True)) == repr(TWINS[name](inplace=True))


@names
def test_module_is_the_function(name):
    x = torch.randn(20)
    torch.testing.assert_close(fusedact.create(name)(x), oracles.function(name)(x))
    torch.testing.assert_close(fusedact.Activation(name)(x), oracles.function(name)(x))
    required = {p.name: p.default for p in registry.get(name).parameters if p.required}
    torch.testing.assert_close(FF.activate(x, name, **required), oracles.function(name)(x))


def test_parameters_by_name():
    x = torch.randn(20)
    expected = FF.relu_sigmoid(x, 0.4)
    for y in (
        fusedact.ReLUSigmoid(0.4)(x),
        fusedact.create("relu_sigmoid", threshold=0.4)(x),
        fusedact.Activation("relu_sigmoid", threshold=0.4)(x),
        FF.activate(x, "relu_sigmoid", threshold=0.4),
    ):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("learnable", [True, "threshold", ("threshold",)], ids=str)
@pytest.mark.parametrize("make", [fusedact.ReLUSigmoid, lambda **kw: fusedact.Activation("relu_sigmoid", **kw)])
def test_learnable(learnable, make):
    module = make(threshold=0.2, learnable=learnable)
    assert module.threshold.shape == (1,)
    assert list(module.state_dict()) == ["threshold"]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.rand(100) + 1).sum().backward()
    optimizer.step()
    assert module.threshold.item() > 0.2


def roundtrips():
    def saved(module):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    return {"pickle": lambda m: pickle.loads(pickle.dumps(m)), "deepcopy": copy.deepcopy, "torch.save": saved}


@pytest.mark.parametrize("way", roundtrips())
@names
def test_copies(name, way):
    learnable = bool(registry.get(name).parameters)
    made = [fusedact.create(name), fusedact.Activation(name)]
    made += [fusedact.create(name, learnable=True)] if learnable and name != "prelu" else []
    for module in made:
        other = roundtrips()[way](module)
        x = torch.randn(9)
        assert repr(other) == repr(module)
        torch.testing.assert_close(other(x), module(x))


def test_state_dict_round_trip_and_conversion():
    module = fusedact.ReLUSigmoid(0.3, learnable=True)
    other = fusedact.ReLUSigmoid(learnable=True)
    other.load_state_dict(module.state_dict())
    assert other.threshold.item() == pytest.approx(0.3)
    assert module.half().threshold.dtype == torch.float16
    assert module.to("meta").threshold.is_meta
    assert fusedact.ReLUSigmoid(learnable=True, dtype=torch.float64).threshold.dtype == torch.float64


@pytest.mark.parametrize("name", [n for n in fusedact.names("elementwise") if n != "prelu"])
def test_in_place(name):
    x = torch.randn(20)
    expected = oracles.function(name)(x)
    for module in (fusedact.create(name, inplace=True), fusedact.Activation(name, inplace=True)):
        given = x.clone()
        assert module(given) is given
        torch.testing.assert_close(given, expected)
        assert "inplace=True" in repr(module)


def test_attributes_may_be_set():
    module, x = fusedact.ELU(), torch.randn(20)
    module.alpha = 2
    assert repr(module) == "ELU(alpha=2)"
    torch.testing.assert_close(module(x), FF.elu(x, 2.0))


def test_subclasses():
    class Mine(fusedact.ReLUSigmoid):
        def __init__(self):
            super().__init__(0.3, learnable=True)

    module = Mine()
    assert repr(copy.deepcopy(module)) == "Mine(threshold=learnable)"
    assert list(module.double().state_dict()) == ["threshold"]
    assert module.threshold.dtype == torch.float64


@names
def test_they_look_written_by_hand(name):
    function, cls = getattr(FF, name), fusedact.create(name).__class__
    assert (function.__module__, function.__qualname__) == ("fusedact.functional", name)
    assert (cls.__module__, cls.__qualname__) == ("fusedact.modules", registry.get(name).module)
    assert function.__doc__.startswith(registry.get(name).summary)
    assert f"def {name}(" in inspect.getsource(function)
    assert str(inspect.signature(cls)) == str(inspect.signature(cls.__init__)).replace("self, ", "")
    shown = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert f"{cls.__name__}{inspect.signature(cls)}" in shown
    assert getattr(fusedact, cls.__name__) is cls


@pytest.mark.parametrize("which", ["functional", "modules"])
def test_stubs_are_current(which):
    text = getattr(stubs, f"{which}_stub")()
    file = Path(stubs.__file__).with_name(f"{which}.pyi")
    assert file.read_text() == text, "run python -m fusedact.stubs"


DOCUMENTED = [
    *[getattr(functional, name) for name in functional.__all__],
    *[getattr(modules, name) for name in modules.__all__],
    dispatch.backend,
    dispatch.explain,
]


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda d: d.__name__)
def test_examples_in_docstrings(documented):
    scope = {"torch": torch, "fusedact": fusedact, "FF": FF}
    test = doctest.DocTestParser().get_doctest(documented.__doc__, scope, documented.__name__, None, 0)
    assert test.examples
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.failures == 0
