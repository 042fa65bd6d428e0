"""Conversion of functions: attributes, and calls in methods."""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import pickle
import traceback

import pytest
import torch
import torch.nn.functional
from converted import left, line_of, made_of, rows, seen, wave
from torch import nn, relu
from torch.nn import functional as F
from torch.nn.utils import parametrize

import fusedact
from fusedact import functional as FF
from fusedact.conversion import functional_calls


class Net(nn.Module):
    """Most ways to call an activation, and control flow that no symbolic trace would follow."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.act, self.tanh_act = F.gelu, functools.partial(F.gelu, approximate="tanh")
        self.drop = 0.5

    def branch(self, x, /, *, factor: float = 2.0):
        def inner(y):
            return torch.nn.functional.softplus(y, beta=factor)

        return inner(x) * factor

    def forward(self, x):
        x = F.relu(self.first(x))
        if x.sum() > -1:
            x = F.dropout(F.leaky_relu(x, 0.2), self.drop, self.training)
        for step in range(2):
            x = relu(x - step)
        x = self.act(x).tanh() + self.tanh_act(x) + self.branch(x)
        return torch.softmax(self.second(x), -1), [y.sigmoid() for y in x.unbind(-1)]


CALLS = [
    ("act", "F.gelu", "FF.gelu"),
    ("tanh_act", "F.gelu", "FF.gelu"),
    ("branch", "torch.nn.functional.softplus", "FF.softplus"),
    ("forward", "F.relu", "FF.relu"),
    ("forward", "F.leaky_relu", "FF.leaky_relu"),
    ("forward", "relu", "FF.relu"),
    ("forward", ".tanh", "FF.tanh"),
    ("forward", "torch.softmax", "FF.softmax"),
    ("forward", ".sigmoid", "FF.sigmoid"),
]
CALLED = [*("relu", "leaky_relu", "relu", "relu", "gelu", "tanh", "gelu", "softplus", "softmax"), *["sigmoid"] * 6]


def test_calls():
    model, x = Net().eval(), torch.randn(4, 6)
    expected = model(x)
    plain = copy.deepcopy(model)
    report = fusedact.convert(model, verify=x)
    assert rows(report) == CALLS and not report.left and report.difference < 1e-6
    assert seen(model, x) == CALLED
    torch.testing.assert_close(model(x), expected)
    assert isinstance(model, Net) and type(model).__name__ == "Net" and repr(model) == repr(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    again = fusedact.convert(model)
    assert not again.changes and again.already == len(CALLS)
    # Python's control flow is still there.
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])
    report.revert()
    assert type(model) is Net and model.act is F.gelu and not seen(model.eval(), x)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(how):
    model, x = Net().eval(), torch.randn(4, 6)
    fusedact.convert(model)
    made = how(model)
    assert seen(made, x) == CALLED and type(made) is type(model)
    torch.testing.assert_close(made(x), model(x))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.gate, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.SiLU()

    def forward(self, x):
        x = F.elu(self.linear(x), 0.5) + torch.sigmoid(x)
        return x.relu() + self.act(self.gate(x)) * x


@pytest.mark.parametrize("how", ["before", "after", "in place"])
def test_compiled(how):
    """What is compiled already is compiled anew."""
    torch.compiler.reset()
    model, x = Flat(), torch.randn(4, 6)
    compiled = model if how == "in place" else torch.compile(model, backend="aot_eager", fullgraph=True)
    if how == "in place":
        model.compile(backend="aot_eager", fullgraph=True)
    if how != "after":
        torch.testing.assert_close(compiled(x), Flat.forward(model, x))
    report = fusedact.convert(compiled, {F.elu: "mish", nn.SiLU: "tanh"})
    assert len(report.changes) == 2
    hidden = FF.mish(model.linear(x)) + x.sigmoid()
    expected = hidden.relu() + model.gate(hidden).tanh() * hidden
    torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
    assert model.gate.weight.grad is not None
    fusedact.convert(compiled)
    torch.testing.assert_close(compiled(x), expected)


def test_traces_exports_and_scripts():
    model, x = Flat(), torch.randn(4, 6)
    expected = model(x)
    fusedact.convert(model)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)


def test_hooks_and_modes():
    model, called = Flat().eval(), []
    handle = model.register_forward_hook(lambda *a: called.append("after"))
    model.register_forward_pre_hook(lambda *a: called.append("before"))
    fusedact.convert(model)
    model(torch.randn(2, 6))
    handle.remove()
    model(torch.randn(2, 6))
    assert called == ["before", "after", "before"] and not model.training


def test_what_is_not_served_goes_to_torch():
    class Integers(nn.Module):
        def forward(self, x, y):
            return torch.sigmoid(x), x.relu(), F.relu(y), y.tanh()

    model = Integers()
    fusedact.convert(model)
    x, y = torch.tensor([-1, 2]), torch.randn(2, dtype=torch.float64)
    for a, b in zip(model(x, y), Integers()(x, y), strict=True):
        torch.testing.assert_close(a, b)

    class Mine:
        def relu(self):
            return "mine"

    asked = made_of("return x.relu()")
    fusedact.convert(asked)
    assert asked(Mine()) == "mine" and asked(x).tolist() == [0, 2]


def test_errors_show_the_users_source():
    class Fails(nn.Module):
        def forward(self, x):
            return F.relu(x) + F.relu(x, inplace=self.missing)

    model = Fails()
    fusedact.convert(model)
    with pytest.raises(AttributeError) as caught:
        model(torch.zeros(2))
    shown = [f.line for f in traceback.extract_tb(caught.value.__traceback__) if f.name == "forward"]
    assert shown == ["return F.relu(x) + F.relu(x, inplace=self.missing)"]
    assert "F.relu(x) + F.relu" in inspect.getsource(type(model).forward)


# ----- every function


FUNCTIONS = {
    "F.relu": lambda x: F.relu(x, True),
    "F.threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, max_val=0.4),
    "F.elu": lambda x: F.elu(input=x, alpha=0.4),
    "F.softplus": lambda x: F.softplus(x, 2.0, 3.0),
    "F.logsigmoid": lambda x: F.logsigmoid(x),
    "F.softmin": lambda x: F.softmin(x, dim=0),
    "F.log_softmax": lambda x: F.log_softmax(x, -1, dtype=torch.float64),
    "F.glu": lambda x: F.glu(x, 0),
    "F.rrelu": lambda x: F.rrelu(x, 0.1, 0.2),
    "F.prelu": lambda x: F.prelu(x, x.new_full((1,), 0.3)),
    "F.elu_": lambda x: F.elu_(x, 0.3),
    "F.hardtanh_": lambda x: F.hardtanh_(x, -0.3),
    "torch.relu_": lambda x: torch.relu_(x),
    "torch.celu": lambda x: torch.celu(x, alpha=0.3),
    "torch.prelu": lambda x: torch.prelu(x, x.new_full((1,), 0.3)),
    "torch.softmax": lambda x: torch.softmax(x, dim=1, dtype=torch.float64),
    "torch.special.expit": lambda x: torch.special.expit(x),
    "torch.threshold_": lambda x: torch.threshold_(x, 0.2, 0.1),
    ".softmax": lambda x: x.softmax(-1),
    ".log_softmax": lambda x: x.log_softmax(dim=0, dtype=torch.float64),
    ".relu_": lambda x: x.relu_(),
    ".tanh_": lambda x: (x + 1).tanh_(),
    ".hardshrink": lambda x: x.hardshrink(0.3),
    ".prelu": lambda x: x.prelu(x.new_full((1,), 0.3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    """A class with the expression as its forward, made of this file's own text."""
    expression = next(
        line.split("lambda x: ", 1)[1].rstrip(",\n")
        for line in inspect.getsourcelines(inspect.getmodule(test_functions))[0]
        if line.startswith(f'    "{name}": lambda x: ')
    )
    model = made_of(f"return {expression}")
    report = fusedact.convert(model)
    assert [(r[1], r[2].rstrip("_")) for r in rows(report)] == [
        (name, "FF." + {"expit": "sigmoid"}.get(n := name.split(".")[-1].rstrip("_"), n))
    ]
    x = torch.randn(4, 6)
    given, other = x.clone(), x.clone()
    y = model(given)
    torch.testing.assert_close(y, FUNCTIONS[name](other))
    # What overwrites its input still does.
    torch.testing.assert_close(given, other)
    assert (y.data_ptr() == given.data_ptr()) == (FUNCTIONS[name](other).data_ptr() == other.data_ptr())


def test_the_list_of_functions_has_the_arguments_of_torch():
    """And of ours, by position."""
    for function, known in functional_calls._KNOWN.items():
        ours = list(inspect.signature(getattr(FF, known.record)).parameters)
        assert ours[: len(known.positional)] == list(known.positional), function
        try:
            theirs = list(inspect.signature(function).parameters)
        except ValueError:
            continue
        assert theirs[: len(known.positional)] == list(known.positional), function


# ----- mappings


def test_functions_as_keys():
    model, x = Net().eval(), 10 * torch.randn(4, 6)
    report = fusedact.convert(model, {F.relu: "relu_sigmoid", F.gelu: wave, F.leaky_relu: None}, verify=x)
    assert rows(report) == [
        ("act", "F.gelu", "wave"),
        ("tanh_act", "F.gelu", "wave"),
        ("forward", "F.relu", "FF.relu_sigmoid"),
        ("forward", "relu", "FF.relu_sigmoid"),
    ]
    assert left(report) == [("forward", "F.leaky_relu", "the mapping says so")]
    assert report.warnings == [
        "not in the mapping, and left: 1 .sigmoid, 1 .tanh, 1 torch.nn.functional.softplus, 1 torch.softmax"
    ]
    assert report.difference > 1e-3
    assert [n for n in seen(model, x) if n != "wave"] == ["relu_sigmoid"] * 3
    # Twins for all others; what was asked for stays, also in copies.
    more = fusedact.convert(model)
    assert [r[1] for r in rows(more)] == [
        *("torch.nn.functional.softplus", "F.leaky_relu", ".tanh", "torch.softmax", ".sigmoid"),
    ]
    assert seen(pickle.loads(pickle.dumps(model)), x).count("relu_sigmoid") == 3
    more.revert()
    report.revert()
    assert type(model) is Net and model.act is F.gelu


def test_a_function_by_its_own_name_keeps_its_hyper_parameters():
    model = made_of("return F.leaky_relu(x, 0.3) + F.gelu(x, approximate='tanh')")
    x = torch.randn(5)
    expected = model(x)
    report = fusedact.convert(model, {F.leaky_relu: "leaky_relu", F.gelu: F.gelu}, verify=x)
    assert len(report.changes) == 2 and seen(model, x) == ["leaky_relu", "gelu"]
    torch.testing.assert_close(model(x), expected)


def test_a_mapping_without_functions_looks_for_none():
    space = {"nn": nn, "F": F, "__name__": "nowhere"}
    exec("class Unread(nn.Module):\n    def forward(self, x):\n        return F.relu(x)\n", space)
    report = fusedact.convert(space["Unread"](), {nn.ReLU: "mish"})
    assert not report.left and report.warnings == ["the key nn.ReLU matches nothing"]
    why = "in forward, whose source cannot be read"
    assert left(fusedact.convert(space["Unread"]())) == [("forward", "what may be an activation", why)]


def test_names_as_keys():
    model = nn.Sequential(Net(), Net())
    report = fusedact.convert(model, {"1.act": "silu", "*.tanh_act": "twin"})
    assert rows(report) == [
        ("0.tanh_act", "F.gelu", "FF.gelu"),
        ("1.act", "F.gelu", "FF.silu"),
        ("1.tanh_act", "F.gelu", "FF.gelu"),
    ]
    assert model[1].act is FF.silu and model[0].tanh_act.keywords == {"approximate": "tanh"}
    with pytest.raises(TypeError, match=r"1\.act is a function; no module can take its place"):
        fusedact.convert(nn.Sequential(Net(), Net()), {"1.act": nn.Tanh()})


def test_calls_have_no_place_for_parameters():
    report = fusedact.convert(Flat(), learnable=True)
    assert report.warnings == ["forward: a call has no place for parameters that learn"]


# ----- what is left, and why


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.ones(4)), nn.Tanh()

    def forward(self, x):
        return F.relu(x * self.weight) + self.act(x)


def test_parametrized_modules():
    """Parametrization is a class of its own, which knows only the one that it was made of."""
    model, x = Weighted(), torch.randn(2, 4)
    parametrize.register_parametrization(model, "weight", nn.Hardtanh())
    report = fusedact.convert(model, verify=x)
    assert left(report) == [
        ("forward", "F.relu", "parametrized, which is a class of its own: convert the model before")
    ]
    assert [r[0] for r in rows(report)] == ["act", "parametrizations.weight.0"]
    parametrize.remove_parametrizations(model, "weight")
    assert type(model) is Weighted
    report = fusedact.convert(model, verify=x)
    parametrize.register_parametrization(model, "weight", nn.Hardtanh())
    assert seen(model, x) == ["relu", "tanh"]
    again = fusedact.convert(model)
    assert [r[0] for r in rows(again)] == ["parametrizations.weight.0"] and not again.left
    with pytest.raises(RuntimeError, match="a Weighted was changed since, to a ParametrizedWeighted; take that back"):
        report.revert()
    parametrize.remove_parametrizations(model, "weight")
    report.revert()
    assert type(model) is Weighted and seen(model, x) == ["tanh"]


def test_reverts_go_backwards():
    model = nn.Sequential(nn.ReLU())
    first, second = fusedact.convert(model), fusedact.convert(model, {fusedact.ReLU: "mish"})
    with pytest.raises(RuntimeError, match="revert: a ReLU was changed since, to a Mish"):
        first.revert()
    second.revert()
    first.revert()
    assert type(model[0]) is nn.ReLU


def helper(x):
    return x * torch.sigmoid(x)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Base(nn.Module):
    def forward(self, x):
        return F.relu(x)


class Hard(Base):
    def __init__(self):
        super().__init__()
        self.options = [F.relu, nn.Tanh()]
        self.table = {"elu": F.elu}

    def forward(self, x):
        shadow, F = super().forward(x), torch.nn.functional
        y = helper(x) + self.wrapped(x) + self.fixed(x) + F.elu(x) + self.passed(x)
        return torch.sigmoid(x, out=torch.empty_like(x)) + torch.tanh(*[x]) + x.softmax(-1, torch.float32) + y + shadow

    @decorated
    def wrapped(self, x):
        return torch.relu(x)

    @staticmethod
    def fixed(x):
        return torch.selu(x)

    def passed(self, x):
        return sum(map(torch.tanh, [x])) if self.table["elu"] is not torch.relu else x


def test_what_is_left():
    model, x = Hard(), torch.randn(3, 4)
    report = fusedact.convert(model, verify=x)
    assert not report.changes and type(model) is Hard
    assert left(report) == [
        ("options", "F.relu", "a function in a list"),
        ("options", "nn.Tanh()", "in a plain list, where PyTorch does not see it: use nn.ModuleList or nn.ModuleDict"),
        ("table", "F.elu", "a function in a dict"),
        ("forward", "x * torch.sigmoid(x)", "in the function helper, which is no method"),
        ("forward", "torch.sigmoid", "the twin has no argument out"),
        ("forward", "torch.tanh", "its arguments are unpacked, so that they cannot be read"),
        ("forward", ".softmax", "called with 2 arguments by position, of which the twin takes 1"),
        ("wrapped", "torch.relu", "in wrapped, which is decorated"),
        ("fixed", "torch.selu", "in Hard.fixed, a staticmethod"),
        ("passed", "torch.tanh", "passed on as a value, so that nobody sees where it is called"),
        ("forward", "F.relu", "in Base.forward, reached through super()"),
        (
            "forward",
            "F.elu",
            f"called in {line_of(Hard.forward, 'F.elu')}, in a way that the source of no method shows",
        ),
    ]


def test_source_that_is_not_what_runs():
    model = made_of("return F.relu(x)")
    file = type(model).forward.__code__.co_filename
    text = "class Made(nn.Module):\n    def forward(self, x):\n        return -F.relu(x)\n"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    assert left(fusedact.convert(model)) == [("forward", "F.relu", "in forward, whose source is not what runs")]
    del linecache.cache[file]
    # For another mapping the class is read again.
    report = fusedact.convert(model, {F.relu: "mish"})
    assert left(report) == [("forward", "what may be an activation", "in forward, whose source cannot be read")]


def test_a_method_whose_file_is_no_python_elsewhere():
    """Of a page, or being edited."""
    model, x = made_of("return F.relu(x)"), torch.randn(5)
    file = type(model).forward.__code__.co_filename
    lines = [*linecache.getlines(file), "Here is what it prints:\n"]
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    report = fusedact.convert(model, verify=x)
    assert len(report.changes) == 1 and seen(model, x) == ["relu"]


def test_classes_that_nothing_can_be_derived_from():
    class Final(nn.Module):
        def __init_subclass__(cls):
            raise RuntimeError("final")

        def forward(self, x):
            return F.relu(x)

    report = fusedact.convert(Final())
    assert left(report) == [("forward", "F.relu", "no class can be derived from Final: RuntimeError: final")]


def test_graphs():
    report = fusedact.convert(torch.fx.symbolic_trace(Flat()))
    why = "in a graph of torch.fx: convert the model before it is traced"
    assert left(report) == [("elu", "F.elu", why), ("sigmoid", "F.sigmoid", why), ("relu", "F.relu", why)]
    assert [r[0] for r in rows(report)] == ["act"]


def test_a_forward_of_the_instance():
    model = Flat()
    model.forward = model.forward
    report = fusedact.convert(model)
    assert [r[0] for r in rows(report)] == ["act"]
    assert {e.why for e in report.left} == {"its forward was replaced by another function"} and len(report.left) == 4


class Tricky(Net):
    """What makes the meaning of a name depend on where it stands."""

    __scale = 2.0

    def __init__(self):
        super().__init__()
        self.__own = 0.5

    def forward(self, x, *rest, scale=None, **more):
        """Documented."""
        global _calls
        _calls = [F.elu(x, alpha=self.__own) for F in (torch.nn.functional,)]
        if (total := torch.tanh(x).sum()) is not None:
            out, _ = super().forward(x * self.__scale)
        with torch.no_grad():
            pair = (lambda y, k=torch.sigmoid(total): y.relu() + k)(out)  # noqa: B008
        return pair, {k: torch.selu(v) for k, v in {"a": out, "b": pair}.items()}, f"{torch.relu(total):.2f}"


def test_tricky_sources():
    model, x = Tricky().eval(), torch.randn(4, 6)
    expected = model(x)
    report = fusedact.convert(model)
    own = [r[1] for r in rows(report) if r[0] == "forward"]
    assert own == ["torch.tanh", "torch.sigmoid", ".relu", "torch.selu", "torch.relu"]
    assert [e.what for e in report.left] == [r[1] for r in CALLS if r[0] == "forward"]
    for a, b in zip(model(x)[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b)
    assert model(x)[2] == expected[2] and type(model).forward.__doc__ == "Documented."
    assert pickle.loads(pickle.dumps(model))(x)[2] == expected[2]
