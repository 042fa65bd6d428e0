"""Calls that no name leads to: a conversion lists them, from the source or an example."""

from __future__ import annotations

import functools

import pytest
import torch
from converted import left, line_of, made_of, rows
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fusedact

TABLE = {"relu": F.relu, "tanh_gelu": functools.partial(F.gelu, approximate="tanh"), "none": None}
tanh_gelu = functools.partial(F.gelu, approximate="tanh")
leaky = lambda x: F.leaky_relu(x, 0.2)  # noqa: E731
SHOWN = "in a way that the source of no method shows"


@torch.jit.script
def scripted(x):
    return torch.relu(x) * torch.sigmoid(x)


class Holder:
    """No module."""

    act = F.silu

    def run(self, x):
        return torch.tanh(x)


# ----- from the source


class Shown(nn.Module):
    table = (F.elu, 1.0)
    shared = staticmethod(F.selu)

    def __init__(self):
        super().__init__()
        self.name = "relu"
        self.own = lambda x: F.mish(x)
        self.helper = helper
        self.pair = [functools.partial(F.hardtanh, min_val=0.0)]

    def chosen(self, x, act=F.hardtanh, *, last=F.relu6):
        return last(act(x))

    def forward(self, x):
        x = TABLE[self.name](x) + tanh_gelu(x) + scripted(x) + leaky(x)
        x = getattr(F, self.name)(x) + getattr(torch, "celu")(x) + getattr(x, self.name)()  # noqa: B009
        return self.own(x) + self.helper(x) + self.table[0](x) + self.shared(x) + self.chosen(x) + self.pair[0](x)


def helper(x):
    return F.softplus(x)


BY_SOURCE = [
    ("own", "what may be an activation", "in the function <lambda>, whose source cannot be read by itself"),
    ("helper", "F.softplus", "in the function helper, which is no method"),
    ("pair", "F.hardtanh", "a function in a list"),
    ("table", "F.elu", "in a tuple, an attribute of the class Shown"),
    ("shared", "F.selu", "an attribute of the class Shown"),
    ("chosen", "act=F.hardtanh", "the default of an argument"),
    ("chosen", "last=F.relu6", "the default of an argument"),
    ("forward", "F.relu", "in TABLE, a dict"),
    ("forward", "F.gelu", "in TABLE, a dict"),
    ("forward", "F.gelu", "in tanh_gelu, a partial"),
    ("forward", "F.relu", "in the function scripted, which torch.jit.script made"),
    ("forward", "F.sigmoid", "in the function scripted, which torch.jit.script made"),
    ("forward", "what may be an activation", "in the function <lambda>, whose source cannot be read by itself"),
    ("forward", "getattr(F, self.name)", "looked up by a name that is known only when it runs"),
    ("forward", "getattr(torch, 'celu')", "looked up by its name"),
]


def test_what_the_source_shows():
    report = fusedact.convert(Shown())
    assert not report.changes and left(report) == BY_SOURCE


def test_what_an_example_adds():
    """Nothing that is listed as a call of the same function in the same method."""
    report = fusedact.convert(Shown(), verify=torch.randn(3, 4))
    assert not report.changes and report.difference == 0.0
    here, there = line_of(Shown.forward, "return self.own"), line_of(leaky, "leaky = lambda")
    assert left(report)[len(BY_SOURCE) :] == [
        ("forward", "F.leaky_relu", f"called in {there}, {SHOWN}"),
        ("forward", "F.mish", f"called in {line_of(Shown.__init__, 'F.mish')}, {SHOWN}"),
        ("forward", "F.softplus", f"called in {line_of(helper, 'F.softplus')}, {SHOWN}"),
        ("forward", "F.elu", f"called in {here}, {SHOWN}"),
        ("forward", "F.selu", f"called in {here}, {SHOWN}"),
        ("forward", "F.hardtanh", f"called in {here}, {SHOWN}"),
    ]


def test_a_mapping_lists_what_it_names():
    report = fusedact.convert(Shown(), {F.elu: "mish", F.selu: None, F.softplus: "silu"}, verify=torch.randn(3, 4))
    names = [(place, what) for place, what, _ in left(report) if "what may be" not in what]
    assert names == [
        ("helper", "F.softplus"),
        ("table", "F.elu"),
        ("shared", "F.selu"),
        ("forward", "getattr(F, self.name)"),
        ("forward", "F.softplus"),
        ("forward", "F.elu"),
    ]
    assert ("shared", "F.selu", "the mapping says so") in left(report)
    report = fusedact.convert(Shown(), {nn.ReLU: "mish"}, verify=torch.randn(3, 4))
    assert not report.left


# ----- from an example


class Hidden(nn.Module):
    """Calls that nothing in the source of a method names."""

    def __init__(self):
        super().__init__()
        self.layer, self.held, self.name = nn.Linear(4, 4), Holder(), "sigmoid"
        self.layer.register_forward_hook(lambda module, given, made: F.softplus(made))

    def inner(self, x):
        return Holder.act(x)

    def forward(self, x):
        x = self.held.run(self.layer(x)) + checkpoint(self.inner, x, use_reentrant=False)
        home = torch
        return F.relu(getattr(x, self.name)()) + home.celu(x) + home.nn.functional.elu(x)


def hidden(place=""):
    joined = f"{place}." if place else ""
    hook = line_of(Hidden.__init__, "F.softplus")
    last = line_of(Hidden.forward, "home.celu")
    return [
        (f"{joined}layer.<lambda>", "F.softplus", f"called in {hook}, {SHOWN}"),
        (f"{joined}forward", "torch.tanh", f"called in {line_of(Holder.run, 'torch.tanh')}, {SHOWN}"),
        (f"{joined}inner", "F.silu", f"called in {line_of(Hidden.inner, 'Holder.act')}, {SHOWN}"),
        (f"{joined}forward", ".sigmoid", f"called in {last}, {SHOWN}"),
        (f"{joined}forward", "torch.celu", f"called in {last}, {SHOWN}"),
        (f"{joined}forward", "F.elu", f"called in {last}, {SHOWN}"),
    ]


def test_calls_through_variables():
    model, x = Hidden(), torch.randn(3, 4)
    expected = model(x)
    report = fusedact.convert(model, verify=x)
    assert rows(report) == [("forward", "F.relu", "FF.relu")] and left(report) == hidden()
    torch.testing.assert_close(model(x), expected)
    # They are listed again, and nothing else is done.
    again = fusedact.convert(model, verify=x)
    assert not again.changes and left(again) == hidden()
    assert not fusedact.convert(model).left
    report.revert()
    assert type(model) is Hidden


def test_modules_inside_and_shared():
    part = Hidden()
    report = fusedact.convert(nn.Sequential(part, nn.Sequential(part)), verify=torch.randn(3, 4))
    assert left(report) == hidden("0")


def test_compiled_models_are_seen_as_written():
    model, x = Hidden(), torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    expected = compiled(x)
    report = fusedact.convert(compiled, verify=x)
    assert left(report) == hidden("_orig_mod")
    torch.testing.assert_close(compiled(x), expected)


def test_what_is_ours_or_pytorchs_is_not_listed():
    """Twins, functions that serve integers through PyTorch's, own activations, and modules of PyTorch."""

    @fusedact.activation
    def own(x):
        return torch.relu(x) * torch.tanh(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 1, 8, activation=F.gelu, batch_first=True)
            self.act, self.drop = nn.Mish(), nn.Dropout()

        def forward(self, x):
            return own(self.act(self.layer(x))) + F.relu((10 * x).int())

    report = fusedact.convert(Model(), verify=torch.randn(1, 3, 4))
    assert [r[0] for r in rows(report)] == ["act", "layer.activation", "forward"]
    assert left(report) == [
        ("layer.self_attn", "nn.MultiheadAttention(...)", "its softmax is inside PyTorch's attention")
    ]


def test_the_example_runs_undisturbed():
    """Nothing is kept of the run that looks: modes, random numbers, the mode of torch functions."""
    model, x = made_of("return F.dropout(torch.relu(x), training=self.training)"), torch.randn(5)
    model.train()
    torch.manual_seed(3)
    fusedact.convert(model, verify=x)
    assert model.training and torch.initial_seed() == 3 and not torch.overrides._is_torch_function_mode_enabled()


def test_an_example_that_fails_puts_everything_back():
    class Once(nn.Module):
        calls = 0

        def forward(self, x):
            Once.calls += 1
            if Once.calls == 3:
                raise RuntimeError("the third")
            return F.relu(x)

    model = Once()
    with pytest.raises(RuntimeError, match="the third"):
        fusedact.convert(model, verify=torch.randn(3))
    assert type(model) is Once
