"""Conversion of functions: attributes, calls in methods, and gated products."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import traceback

import pytest
import torch
import torch.nn.functional
from torch import nn, relu
from torch.nn import functional as F

import fusedact
from fusedact import call_sites, functional_calls, gating
from fusedact import functional as FF


@fusedact.activation
def wave(x, a=1.0):
    """x + sin(a x)."""
    return x + torch.sin(a * x)


def lines(report):
    return [" ".join(line.split()) for line in str(report).splitlines()]


def rows(report):
    return [(c.place, c.what, c.becomes) for c in report.changes]


def left(report):
    return [(e.place, e.what, e.why) for e in report.left]


class Watch(torch.overrides.TorchFunctionMode):
    """The functions of this library that are called."""

    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if hasattr(function, "spec") or function in (FF.gated, FF.packed_glu):
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def seen(model, *args):
    with Watch() as watch:
        model(*args)
    return watch.seen


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


def test_compiled():
    torch.compiler.reset()
    model, x = Flat(), torch.randn(4, 6)
    expected = model(x)
    fusedact.convert(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
    assert model.gate.weight.grad is not None


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


_files = []


def made_of(*body, **more):
    """A module whose class has this forward, with a source that can be read."""
    import linecache

    text = "class Made(nn.Module):\n    def forward(self, x):\n" + "".join(f"        {line}\n" for line in body)
    file = f"<made {len(_files)}>"
    _files.append(file)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space = {"nn": nn, "F": F, "torch": torch, "__name__": "somewhere", **more}
    exec(compile(text, file, "exec"), space)
    return space["Made"]()


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
    ]


def test_source_that_is_not_what_runs():
    import linecache

    model = made_of("return F.relu(x)")
    file = type(model).forward.__code__.co_filename
    text = "class Made(nn.Module):\n    def forward(self, x):\n        return -F.relu(x)\n"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    assert left(fusedact.convert(model)) == [("forward", "F.relu", "in forward, whose source is not what runs")]
    del linecache.cache[file]
    # For another mapping the class is read again.
    report = fusedact.convert(model, {F.relu: "mish"})
    assert left(report) == [("forward", "what may be an activation", "in forward, whose source cannot be read")]


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


# ----- gated products


class Llama(nn.Module):
    def __init__(self, act=None, size=8):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(size, 2 * size), nn.Linear(size, 2 * size)
        self.down_proj, self.act_fn = nn.Linear(2 * size, size), act or nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Mistral(Llama):
    def forward(self, x):
        return self.down_proj(self.up_proj(x) * F.silu(self.gate_proj(x)))


class Phi(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(size, 4 * size), nn.Linear(2 * size, size)
        self.activation_fn = nn.SiLU()

    def forward(self, hidden_states):
        up_states = self.gate_up_proj(hidden_states)
        gate, up_states = up_states.chunk(2, dim=-1)
        up_states = up_states * self.activation_fn(gate)
        return self.down_proj(up_states)


class Dino(Phi):
    def forward(self, x):
        value, gate = torch.chunk(self.gate_up_proj(x), 2, -1)
        return self.down_proj(F.gelu(gate) * value)


class Reads(Phi):
    """Reads a half once more."""

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        hidden = up * self.activation_fn(gate)
        return self.down_proj(hidden + up)


GATED = {
    Llama: ("self.act_fn(self.gate_proj(x)) * self.up_proj(x)", "gated"),
    Mistral: ("self.up_proj(x) * F.silu(self.gate_proj(x))", "gated"),
    Phi: ("up_states * self.activation_fn(gate)", "packed_glu"),
    Dino: ("F.gelu(gate) * value", "packed_glu"),
    Reads: ("up * self.activation_fn(gate)", "gated"),
}


@pytest.mark.parametrize("cls", GATED)
def test_gated_products(cls, monkeypatch):
    text, name = GATED[cls]
    model, x = cls(), torch.randn(5, 8)
    expected = model(x)
    expected.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    report = fusedact.convert(model, verify=x)
    assert rows(report)[-1] == ("forward", text, f"FF.{name}")
    # Small tensors on a CPU take both operators.
    assert name not in seen(model, x)
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    assert seen(model, x) == [name]
    model.zero_grad()
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[n])
    assert name in seen(pickle.loads(pickle.dumps(model)), x)
    report.revert()
    assert type(model) is cls and not seen(model, x)


ACTS = {
    "hyper-parameters": (lambda: nn.ELU(0.3), ["gated"]),
    "options": (lambda: nn.GELU("tanh"), ["gated"]),
    "learned": (lambda: nn.PReLU(5), ["gated"]),
    "own": (lambda: wave.module(a=2.0), ["gated"]),
    "function": (lambda: F.mish, ["gated"]),
    "in place": (lambda: nn.SiLU(inplace=True), ["silu"]),
    "hooked": (lambda: hooked(), ["silu"]),
    "rows": (lambda: nn.Softmax(-1), ["softmax"]),
    "bounded": (lambda: fusedact.ELU(learnable=True, bounds=(0.1, 2.0)), ["elu"]),
    "not one": (lambda: nn.Dropout(0.0), []),
}


def hooked():
    act = nn.SiLU()
    act.register_forward_hook(lambda *a: None)
    return act


@pytest.mark.parametrize("case", ACTS)
def test_gates(case, monkeypatch):
    """What a gate may be, and what it then is."""
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    make, called = ACTS[case]
    model, x = Llama(make()), torch.randn(3, 5, 8)
    plain = copy.deepcopy(model)
    fusedact.convert(model)
    assert seen(model, x) == called
    torch.testing.assert_close(model(x), plain(x))


def test_products_that_are_no_gates(monkeypatch):
    """A broadcast, a number, another dtype."""
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    model = made_of(
        "a = torch.sigmoid(x.mean(-1, keepdim=True)) * x",
        "b = torch.tanh(x) * len(x) + 2.0 * F.silu(x)",
        "return a, b, F.silu(x) * x.double(), torch.sigmoid(x) * torch.tanh(x)",
    )
    x = torch.randn(3, 4)
    expected = model(x)
    report = fusedact.convert(model, verify=x)
    assert seen(model, x) == ["sigmoid", "tanh", "silu", "silu", "tanh", "gated"] and len(report.changes) == 6
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "body",
    [
        ["for _ in range(2):", "    a, b = x.chunk(2, -1)", "    c = a * F.silu(b)", "return c"],
        ["a, b = x.chunk(2, -1)", "c = a * F.silu(b)", "return lambda: a + c"],
        ["a, b = x.chunk(3, -1)[:2]", "return a * F.silu(b)"],
        ["a, b = x.chunk(2, -1)", "c = 1", "return a * F.silu(b)"],
        ["a, b = x.chunk(2, -1)", "return a * F.silu(b) + a"],
        ["b = 1", "a, b = x.chunk(2, dim=len(x))", "return a * F.silu(b)"],
    ],
)
def test_halves_that_stay_apart(body):
    report = fusedact.convert(made_of(*body))
    assert [r[2] for r in rows(report)] == ["FF.gated"]


def test_small_products_are_left_to_both_operators():
    assert functional_calls.PIECES_FROM == gating.PIECES_FROM


def test_autocast(monkeypatch):
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    model, x = Llama(), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        fusedact.convert(model)
        assert torch.equal(model(x), expected)


def test_plans_add_up():
    first = call_sites.Plan((("relu", "mish"),))
    second = call_sites.Plan((("elu", None),), frozenset({"act"}), True)
    assert second.over(first) == call_sites.Plan((("elu", None), ("relu", "mish")), frozenset({"act"}), True)
    assert second.over(second) == second
