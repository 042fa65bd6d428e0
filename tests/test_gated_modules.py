"""glu, the modules of gated activations, and what their calls refuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from gated_oracle import BF16, FP32, FP64, LAYOUTS, halves, in_small_pieces
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.hosts import gating


@pytest.fixture
def in_pieces(monkeypatch):
    in_small_pieces(monkeypatch)


@pytest.mark.parametrize("how", ["aten", "pieces"])
def test_glu_is_torchs(how, request, monkeypatch):
    from torch.testing._internal.common_methods_invocations import op_db

    if how == "pieces":
        request.getfixturevalue("in_pieces")
        monkeypatch.setattr(gating, "F", None)
        monkeypatch.setattr("fusedact.hosts.gating.choose", lambda *_: fusedact.dispatch.PIECES_CPU)
    (info,) = [op for op in op_db if op.name == "nn.functional.glu"]
    for dtype in (FP32, FP64, BF16):
        for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
            expected = F.glu(sample.input, *sample.args, **sample.kwargs)
            got = FF.glu(sample.input, *sample.args, **sample.kwargs)
            assert got.shape == expected.shape and got.dtype == dtype
            torch.testing.assert_close(got, expected)
            g = torch.randn_like(expected)
            torch.testing.assert_close(
                torch.autograd.grad(got, sample.input, g), torch.autograd.grad(expected, sample.input, g)
            )


MODULES = {
    "GLU": (fusedact.GLU, "value_gate", torch.sigmoid),
    "SwiGLU": (fusedact.SwiGLU, "gate_value", F.silu),
    "GEGLU": (fusedact.GEGLU, "value_gate", F.gelu),
    "ReGLU": (fusedact.ReGLU, "value_gate", F.relu),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_modules(name, layout):
    cls, usual, plain = MODULES[name]
    x = torch.randn(3, 8, 5)
    module = cls(1) if layout is None else cls(1, layout=layout)
    value, gate = halves(x, 1, layout or usual)
    torch.testing.assert_close(module(x), plain(gate) * value)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(x), module(x)) and repr(copied) == repr(module)
    assert "dim=1" in repr(module)


def test_module_parameters():
    x = torch.randn(4, 6)
    module = fusedact.SwiGLU(beta=1.5, learnable=True, dtype=FP64)
    assert [p.dtype for p in module.parameters()] == [FP64]
    module(x).sum().backward()
    assert module.beta.grad.shape == (1,) and repr(module) == "SwiGLU(dim=-1, layout='gate_value', beta=learnable)"
    gate, value = x.chunk(2, -1)
    torch.testing.assert_close(fusedact.SwiGLU(beta=1.5)(x), gate * torch.sigmoid(1.5 * gate) * value)
    torch.testing.assert_close(fusedact.GEGLU(approximate="tanh")(x), gate * F.gelu(value, approximate="tanh"))
    assert isinstance(fusedact.create("glu", dim=0), fusedact.GLU)
    assert registry.names("gated") == ("glu",)


# ----- errors

X = torch.zeros(4, 6)
ERRORS = {
    "no tensor": (lambda: FF.gated([1.0], X), TypeError, "gated: x must be a torch.Tensor, got list"),
    "no gate": (lambda: FF.gated(X, 1.0), TypeError, "gated: gate must be a torch.Tensor, got float"),
    "dtype": (lambda: FF.gated(X.int(), X.int()), TypeError, "gated: x must have dtype float16.*got int32"),
    "shapes": (lambda: FF.gated(X, X[:, :3]), ValueError, r"one shape, got \(4, 6\) and \(4, 3\)"),
    "devices": (lambda: FF.gated(X, X.to("meta")), ValueError, "one device, got cpu and meta"),
    "name": (lambda: FF.gated(X, X, "sillu"), ValueError, "gated: no activation is named 'sillu'.*silu"),
    "rows": (lambda: FF.gated(X, X, "softmax"), ValueError, "activation must be elementwise.*softmax"),
    "table": (lambda: FF.gated(X, X, "pwl"), ValueError, "activation must be elementwise.*pwl"),
    "torch's": (lambda: FF.gated(X, X, F.silu), TypeError, "activation must be a name, a function of fusedact"),
    "a module": (lambda: FF.gated(X, X, fusedact.SiLU()), TypeError, "got fusedact.modules.SiLU"),
    "parameter": (lambda: FF.gated(X, X, "swish", alpha=1.0), TypeError, "gated: swish has no parameter alpha.*beta"),
    "value": (lambda: FF.gated(X, X, "swish", beta="1"), TypeError, "beta must be a number or a tensor, got str"),
    "channels": (lambda: FF.gated(X, X, "swish", beta=torch.ones(5)), ValueError, "channel_dim=1.*got shape"),
    "option": (lambda: FF.gated(X, X, "gelu", approximate="no"), ValueError, "approximate must be 'none' or 'tanh'"),
    "missing": (lambda: FF.gated(X, X, "prelu"), TypeError, "gated: prelu needs weight"),
    "no layout": (lambda: FF.packed_glu(X), TypeError, "layout"),
    "layout": (lambda: FF.packed_glu(X, layout="halves"), ValueError, "layout must be 'gate_value', .* got 'halves'"),
    "odd": (
        lambda: FF.packed_glu(X[:, :5], layout="gate_value"),
        ValueError,
        r"an even size in dimension -1.*\(4, 5\)",
    ),
    "no dimension": (lambda: FF.glu(torch.tensor(1.0)), ValueError, "glu: input must have a dimension to halve"),
    "dim": (lambda: FF.glu(X, 2), IndexError, "glu: dim must be from -2 to 1"),
    "dim's type": (lambda: FF.glu(X, 1.0), TypeError, "glu: dim must be an int, got float"),
    "a module's layout": (lambda: fusedact.ReGLU(layout=0), ValueError, "fusedact.ReGLU: layout must be"),
    "a module's dim": (lambda: fusedact.GLU(None), TypeError, "fusedact.GLU: dim must be an int, got NoneType"),
    "a module's beta": (lambda: fusedact.SwiGLU(beta="1"), TypeError, "fusedact.SwiGLU: beta must be a number"),
    "GEGLU's option": (lambda: fusedact.GEGLU(approximate="x"), ValueError, "fusedact.GEGLU: approximate must be"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        call()
