"""Conversion of products with an activated gate."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional
from converted import made_of, rows, seen, wave
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import fusedact
from fusedact.conversion import functional_calls, reading
from fusedact.hosts import gating

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


class Named(Llama):
    """The factors have names."""

    def forward(self, x):
        gate = F.silu(self.gate_proj(x))
        up = self.up_proj(x)
        return self.down_proj(gate * up)


class NamedLater(Llama):
    """The module's own gate, on the right, a name apart, inside a block."""

    def forward(self, x):
        with torch.enable_grad():
            gate = self.act_fn(self.gate_proj(x))
            x = self.up_proj(x)
            scale = 2.0
            hidden = (x + scale) * gate
        return self.down_proj(hidden)


GATED = {
    Named: ("F.silu(gate) * up", "gated"),
    NamedLater: ("(x + scale) * self.act_fn(gate)", "gated"),
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


STAYS = {
    "read twice": ["a = F.silu(x)", "return a * x + a"],
    "given twice": ["a = F.silu(x)", "b = a * x", "a = 2", "return b + a"],
    "its own place": ["a = F.silu(x)", "a = a * x", "return a"],
    "read by a function": ["a = F.silu(x)", "return (lambda: a * x)()"],
    "read by a comprehension": ["a = F.silu(x)", "return sum(a * x for _ in range(2))"],
    "changed in place": ["y = x.clone()", "a = F.silu(y)", "b = y.add_(1)", "return a * b"],
    "changed in the product": ["y = x.clone()", "a = F.silu(y)", "return y.add_(1) + a * x"],
    "changed by +=": ["y = x.clone()", "a = F.silu(y)", "y += 1", "return a * y"],
    "changed by an index": ["y = x.clone()", "a = F.silu(y)", "y[0] = 1", "return a * y"],
    "changed by out": ["y = x.clone()", "a = F.silu(y)", "b = torch.neg(x, out=y)", "return a * b"],
    "changed in place by a call": ["y = x.clone()", "a = F.silu(y)", "b = F.relu(y, inplace=True)", "return a * b"],
    "a loop between": ["a = F.silu(x)", "for _ in range(2):", "    x = x + 1", "return a * x"],
    "a branch between": ["a = F.silu(x)", "if x.sum() > 0:", "    return x", "return a * x"],
    "a name from outside": ["global a", "a = F.silu(x)", "return a * x"],
    "looked up": ["a = F.silu(x)", "return a * x + eval('a')"],
    "deleted": ["a = F.silu(x)", "b = a * x", "del a", "return b"],
    "a number": ["a = F.silu(x)", "return a * 2"],
    "a quotient": ["a = F.silu(x)", "return a / x"],
    "an argument more": ["a = F.silu(x, inplace=False)", "return a * x"],
    "no gate": ["a = F.softmax(x, -1)", "return a * x"],
    "a gate already": ["a = torch.tanh(x)", "return torch.sigmoid(x) * a"],
}


@pytest.mark.parametrize("case", STAYS)
def test_named_factors_that_stay(case, monkeypatch):
    """Where the call would not be the same at the product; the calls by themselves are converted as ever."""
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    model, x = made_of(*STAYS[case]), torch.randn(3, 4)
    expected = model(x)
    report = fusedact.convert(model, verify=x)
    changed = [r for r in rows(report) if r[2] == "FF.gated"]
    assert [r[1] for r in changed] == (["torch.sigmoid(x) * a"] if case == "a gate already" else [])
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


@pytest.mark.parametrize("cls", [Llama, Phi])
def test_transforms_and_traces(cls, monkeypatch):
    monkeypatch.setattr(functional_calls, "PIECES_FROM", 0)
    model, x = cls(), torch.randn(3, 8)
    expected, jacobian = model(x), torch.func.jacrev(model)(x)
    fusedact.convert(model)
    torch.testing.assert_close(torch.func.vmap(model)(x), expected)
    torch.testing.assert_close(torch.func.jacrev(model)(x), jacobian)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == x.shape
    assert model.to("meta")(x.to("meta")).is_meta


def test_plans_add_up():
    first = reading.Plan((("relu", "mish"),))
    second = reading.Plan((("elu", None),), frozenset({"act"}), True)
    assert second.over(first) == reading.Plan((("elu", None), ("relu", "mish")), frozenset({"act"}), True)
    assert second.over(second) == second
