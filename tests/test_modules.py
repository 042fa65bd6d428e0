"""Modules, what is made from records, names, docstrings and stubs."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import pydoc

import oracles
import pytest
import torch
from torch import nn

import fusedact
from fusedact import functional as FF
from fusedact import modules, registry, stubs

names = pytest.mark.parametrize("name", fusedact.names("elementwise"))
own = pytest.mark.parametrize("name", oracles.OWN_NAMES)
learned_own = pytest.mark.parametrize("name", [n for n in oracles.OWN_NAMES if oracles.defaults(n)])
TWINS = {"elu": nn.ELU, "selu": nn.SELU, "prelu": nn.PReLU}


@pytest.mark.parametrize("name", TWINS)
def test_arguments_are_those_of_torch(name):
    pairs = [(modules.create(name).__class__.__init__, TWINS[name].__init__)]
    # torch.prelu is built in and shows no signature.
    pairs += [(getattr(FF, name), getattr(nn.functional, name))] if name != "prelu" else []
    for ours, theirs in pairs:
        mine = [
            (p.name, p.default) for p in inspect.signature(ours).parameters.values() if p.kind is not p.KEYWORD_ONLY
        ]
        assert mine == [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]


@pytest.mark.parametrize("name", TWINS)
def test_repr_and_state_are_those_of_torch(name):
    ours, theirs = modules.create(name), TWINS[name]()
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    if name != "prelu":
        assert repr(modules.create(name, inplace=True)) == repr(TWINS[name](inplace=True))


@names
def test_module_is_the_function(name):
    x, function = torch.randn(20), oracles.function(name)
    torch.testing.assert_close(oracles.module(name)(x), function(x))
    torch.testing.assert_close(fusedact.Activation(name, **oracles.required(name))(x), function(x))
    values = {p.name: p.default for p in registry.get(name).parameters if p.required}
    torch.testing.assert_close(FF.activate(x, name, **values), function(x))


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


def test_prelu_exchanges_its_state_with_torch():
    ours, theirs = fusedact.PReLU(3, init=0.1, dtype=torch.float64), nn.PReLU(3, init=0.4, dtype=torch.float64)
    assert repr(ours) == repr(theirs) == "PReLU(num_parameters=3)"
    assert (ours.num_parameters, ours.init) == (3, 0.1)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    theirs.load_state_dict(fusedact.PReLU(3).state_dict())
    assert torch.equal(theirs.weight, torch.full((3,), 0.25, dtype=torch.float64))
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(ours(x), nn.functional.prelu(x, ours.weight))


def test_one_entry_per_channel():
    module = fusedact.Swish(0.7, learnable=True, num_parameters=5, channel_dim=-1)
    assert module.beta.shape == (5,)
    assert repr(module) == "Swish(beta=learnable, num_parameters=5, channel_dim=-1)"
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(module(x), FF.swish(x, 0.7))
    with torch.no_grad():
        module.beta.copy_(torch.arange(5.0))
    torch.testing.assert_close(module(x), x * torch.sigmoid(torch.arange(5.0) * x))
    module.reset_parameters()
    torch.testing.assert_close(module.beta, torch.full((5,), 0.7), check_stride=False)
    assert fusedact.Activation("swish", learnable=True, num_parameters=5).beta.shape == (5,)
    assert fusedact.explain(module, x).kind == "pieces"


def test_parameters_on_the_meta_device_are_reset():
    module = fusedact.ELU(0.3, learnable=True, num_parameters=4, device="meta").to_empty(device="cpu")
    module.reset_parameters()
    assert module.alpha.tolist() == pytest.approx([0.3] * 4)


def test_bounds_hold_whatever_an_optimizer_does():
    module = fusedact.ReLUSigmoid(0.5, learnable=True, num_parameters=3, bounds=(0.0, 1.0))
    assert repr(module) == "ReLUSigmoid(threshold=learnable, num_parameters=3, bounds={'threshold': (0.0, 1.0)})"
    held, x = module.threshold, torch.randn(6, 3)
    with torch.no_grad():
        held.copy_(torch.tensor([-2.0, 0.5, 3.0]))
    assert module.state_dict()["threshold"].tolist() == [0.0, 0.5, 1.0]
    with torch.no_grad():
        held.copy_(torch.tensor([-2.0, 0.5, 3.0]))
    torch.testing.assert_close(module(x), FF.relu_sigmoid(x, torch.tensor([0.0, 0.5, 1.0])))
    assert module.threshold is held
    assert held.tolist() == [0.0, 0.5, 1.0]
    module.load_state_dict({"threshold": torch.tensor([9.0, 9.0, -9.0])})
    torch.testing.assert_close(module(x), FF.relu_sigmoid(x, torch.tensor([1.0, 1.0, 0.0])))


def test_an_optimizer_goes_on_from_the_bounds():
    """What a step leaves outside is brought back before it is used or saved; the optimizer keeps its parameter."""
    module = fusedact.Swish(0.5, learnable=True, num_parameters=2, bounds=(0.0, 1.0))
    held, x = module.beta, torch.full((4, 2), 2.0)
    optimizer = torch.optim.SGD([held], lr=10.0, momentum=0.9)
    for sign, reached in ((-1.0, 1.0), (1.0, 0.0)):
        for _ in range(2):
            optimizer.zero_grad()
            y = module(x)
            (sign * y.sum()).backward()
            optimizer.step()
        assert not ((held >= 0.0) & (held <= 1.0)).any()
        assert module.state_dict()["beta"].tolist() == [reached] * 2
        assert module.beta is held and optimizer.param_groups[0]["params"][0] is held
        optimizer.state.clear()


def test_a_module_inside_keeps_to_its_bounds_in_state_dict():
    net = nn.Sequential(nn.Linear(3, 3), fusedact.PReLU(3, bounds=(0.0, 1.0)))
    net[1].weight.data.fill_(7.0)
    assert net.state_dict()["1.weight"].tolist() == [1.0] * 3
    net[1].weight.data.fill_(7.0)
    assert net.state_dict(keep_vars=True)["1.weight"] is net[1].weight
    assert net[1].weight.tolist() == [1.0] * 3
    net[1].weight.data.fill_(-7.0)
    net[1].reset_parameters()
    assert net[1].weight.tolist() == [0.25] * 3


REPRESENTATIONS = {
    "PReLU(num_parameters=1)": lambda: fusedact.PReLU(),
    "PReLU(num_parameters=4, channel_dim=-1, bounds={'weight': (0.0, None)})": lambda: fusedact.PReLU(
        4, channel_dim=-1, bounds=(0, None)
    ),
    "Swish(beta=1.0)": lambda: fusedact.Swish(),
    "Swish(beta=learnable)": lambda: fusedact.Swish(learnable=True),
    "ELU(alpha=learnable, num_parameters=2)": lambda: fusedact.ELU(learnable=("alpha",), num_parameters=2),
    "Activation('prelu', num_parameters=2)": lambda: fusedact.Activation("prelu", num_parameters=2),
    "Activation('swish', beta=learnable, bounds={'beta': (None, 2.0)})": lambda: fusedact.Activation(
        "swish", learnable="beta", bounds={"beta": (None, 2)}
    ),
}


@pytest.mark.parametrize("expected", REPRESENTATIONS)
def test_representations(expected):
    assert repr(REPRESENTATIONS[expected]()) == expected


def test_what_is_its_own_of_prelu():
    parameters = inspect.signature(fusedact.PReLU).parameters
    assert [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == [
        "inplace",
        "channel_dim",
        "bounds",
        "save",
    ]
    assert "learnable" not in parameters


def test_a_bound_on_one_side():
    module = fusedact.Activation("elu", learnable=True, bounds={"alpha": (0.0, None)})
    with torch.no_grad():
        module.alpha.fill_(-1.0)
    assert module(torch.tensor([-50.0])).item() == 0.0
    with torch.no_grad():
        module.alpha.fill_(1e6)
    module(torch.ones(1))
    assert module.alpha.item() == 1e6


def test_bounds_leave_a_graph_usable():
    module, x = fusedact.PReLU(bounds=(0.0, 1.0)), torch.randn(5)
    first = module(x).sum()
    (first + module(2 * x).sum()).backward()
    torch.testing.assert_close(module.weight.grad, 3 * x.clamp(max=0).sum().reshape(1))


def test_a_bound_that_bites_between_forwards_leaves_the_graph_usable():
    module, x = fusedact.PReLU(bounds=(0.0, 1.0)), torch.randn(5)
    first = module(x)
    module.weight.data.fill_(3.0)
    second = module(x)
    (first + second).sum().backward()
    assert module.weight.item() == 1.0
    torch.testing.assert_close(module.weight.grad, 2 * x.clamp(max=0).sum().reshape(1))


def test_bounds_of_what_torch_func_puts_in_place():
    module, x = fusedact.PReLU(bounds=(0.0, 1.0)), torch.randn(5)
    given = torch.tensor([5.0])
    y = torch.func.functional_call(module, {"weight": given}, x)
    torch.testing.assert_close(y, x)
    assert given.item() == 5.0


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
    spec = registry.get(name)
    made = [oracles.module(name), fusedact.Activation(name, **oracles.required(name))]
    made += [oracles.module(name, learnable=True)] if spec.learnable and not spec.always_learned else []
    for module in made:
        other = roundtrips()[way](module)
        x = torch.randn(9)
        assert repr(other) == repr(module)
        torch.testing.assert_close(other(x), module(x))


# ----- of activations of one's own


@own
def test_modules_of_ones_own_are_the_function(name):
    x = torch.randn(20)
    module = oracles.module(name)
    torch.testing.assert_close(module(x), oracles.function(name)(x))
    for params in oracles.sweep(name):
        numbers = {p.name: v for p, v in zip(oracles.spec(name).parameters, params, strict=True)}
        torch.testing.assert_close(oracles.module(name, **numbers)(x), oracles.function(name)(x, *params))
    shown = ", ".join(f"{p.name}={p.default!r}" for p in oracles.spec(name).parameters)
    assert repr(module) == f"{oracles.spec(name).module}({shown})"
    given = x.clone()
    assert oracles.module(name, inplace=True)(given) is given
    torch.testing.assert_close(given, module(x))


LEARNED = {
    "one": lambda **how: fusedact.ReLUSigmoid(learnable=True, **how),
    "per channel": lambda **how: fusedact.PReLU(3, **how),
    "bounds": lambda **how: fusedact.Swish(learnable=True, bounds=(0.0, 2.0), **how),
    "table": lambda **how: fusedact.PWL([-1.0, 0.0, 1.0], [0.5, 0.0, 1.0], 0.1, 0.2, learnable=True, **how),
    "fixed table": lambda **how: fusedact.PWL([-1.0, 0.0, 1.0], [0.5, 0.0, 1.0], 0.1, 0.2, **how),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", LEARNED)
def test_in_place_beside_parameters_that_learn(case, compiled):
    """The input is overwritten and the gradients are those of the call that does not."""
    grads = []
    for inplace in (False, True):
        module = LEARNED[case](inplace=inplace)
        x = torch.linspace(-2.0, 2.0, 24).view(2, 3, 4).requires_grad_()

        def call(x, module=module):
            given = x * 1.0
            y = module(given)
            return y, given

        y, given = (torch.compile(call, backend="aot_eager") if compiled else call)(x)
        assert torch.equal(y, given) == inplace
        grads.append([y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])])
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("way", roundtrips())
@own
def test_copies_of_ones_own(name, way):
    made = [oracles.module(name)] + ([oracles.module(name, learnable=True)] if oracles.defaults(name) else [])
    for module in made:
        other = roundtrips()[way](module)
        x = torch.randn(9)
        assert type(other) is type(module) and repr(other) == repr(module)
        torch.testing.assert_close(other(x), module(x))
        assert list(other.state_dict()) == list(module.state_dict())
    assert roundtrips()["pickle"](oracles.function(name)) is oracles.function(name)


@learned_own
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_modules_of_ones_own_learn(name, backend):
    module, x = oracles.module(name, learnable=True, num_parameters=3), torch.randn(8, 3)
    expected = [p.name for p in oracles.spec(name).parameters]
    assert list(module.state_dict()) == expected == [n for n, _ in module.named_parameters()]
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    with fusedact.backend(backend):
        module(x).square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert all(p.shape == (3,) for p in module.parameters())
    assert any(not torch.equal(p, before[n]) for n, p in module.named_parameters())
    other = oracles.module(name, learnable=True, num_parameters=3)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x), module(x))
    module.reset_parameters()
    torch.testing.assert_close(dict(module.named_parameters()), before)
    first = oracles.module(name, learnable=expected[0])
    assert [n for n, _ in first.named_parameters()] == expected[:1]


@learned_own
def test_bounds_of_ones_own(name):
    attribute, default = oracles.spec(name).parameters[0].name, oracles.defaults(name)[0]
    bounds = {attribute: (default - 0.125, default + 0.125)}
    module, x = oracles.module(name, learnable=attribute, num_parameters=2, bounds=bounds), torch.randn(6, 2)
    held = getattr(module, attribute)
    with torch.no_grad():
        held.copy_(torch.tensor([-50.0, 50.0]))
    inside = torch.tensor(bounds[attribute])
    torch.testing.assert_close(module(x), oracles.function(name)(x, inside))
    assert getattr(module, attribute) is held and torch.equal(held, inside)
    with torch.no_grad():
        held.fill_(50.0)
    torch.testing.assert_close(module.state_dict()[attribute], inside[1:].expand(2), check_stride=False)


@pytest.mark.parametrize("way", roundtrips())
def test_copies_keep_bounds(way):
    other = roundtrips()[way](fusedact.PReLU(2, bounds=(0.1, 0.3)))
    with torch.no_grad():
        other.weight.fill_(7.0)
    assert other.state_dict()["weight"].tolist() == pytest.approx([0.3, 0.3])
    with torch.no_grad():
        other.weight.fill_(-7.0)
    torch.testing.assert_close(other(-torch.ones(1, 2)), torch.full((1, 2), -0.1))
    other.reset_parameters()
    assert other.weight.tolist() == [0.25, 0.25]


def test_state_dict_round_trip_and_conversion():
    module = fusedact.ReLUSigmoid(0.3, learnable=True)
    other = fusedact.ReLUSigmoid(learnable=True)
    other.load_state_dict(module.state_dict())
    assert other.threshold.item() == pytest.approx(0.3)
    assert module.half().threshold.dtype == torch.float16
    assert module.to("meta").threshold.is_meta
    assert fusedact.ReLUSigmoid(learnable=True, dtype=torch.float64).threshold.dtype == torch.float64


# What always learns cannot be in place.
@pytest.mark.parametrize("name", [n for n in oracles.NAMES if not oracles.spec(n).always_learned])
def test_in_place(name):
    x = torch.randn(20)
    expected = oracles.function(name)(x)
    for module in (
        oracles.module(name, inplace=True),
        fusedact.Activation(name, **oracles.required(name), inplace=True),
    ):
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
    function, cls = getattr(FF, name), type(oracles.module(name))
    assert (function.__module__, function.__qualname__) == ("fusedact.functional", name)
    assert (cls.__module__, cls.__qualname__) == ("fusedact.modules", registry.get(name).module)
    assert function.__doc__.startswith(registry.get(name).summary)
    assert f"def {name}(" in inspect.getsource(function)
    assert str(inspect.signature(cls)) == str(inspect.signature(cls.__init__)).replace("self, ", "")
    shown = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert f"{cls.__name__}{inspect.signature(cls)}" in shown
    assert getattr(fusedact, cls.__name__) is cls


@pytest.mark.parametrize("name", stubs.FILES)
def test_stubs_are_current(name):
    assert (stubs.FOLDER / name).read_text() == stubs.FILES[name](), "run python -m fusedact.stubs"
