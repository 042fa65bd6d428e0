"""What is kept for backward under each policy: the choice, the bytes, and the gradients."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import benches
import oracles
import pytest
import torch
from saving_cases import (
    CASES,
    DTYPES,
    HALVES,
    SPECS,
    TENSORS,
    gradient,
    kept,
    made,
    names,
    parametrized,
    same,
    served,
    usual,
)
from torch import nn

import fusedact
from fusedact import describe
from fusedact import functional as FF
from fusedact.saving import saving
from fusedact.saving.saved_forms import SAVED

between = benches.load("between")

# ----- the choice


def test_every_form_belongs_to_an_activation():
    assert set(SAVED) | set(saving.TWO_SLOPES) <= set(oracles.NAMES)
    assert all(name == form.name for name, form in SAVED.items())


@pytest.mark.parametrize("name", [n for n in oracles.NAMES if SPECS[n].aten is not None])
def test_what_operators_keep_is_what_is_written(name):
    words = {"x": "input", "y": "output", "nothing": "nothing", "x, a buffer": "input and a buffer"}
    found = describe.kept(SPECS[name])[1]
    assert saving.operator_keeps(SPECS[name]) == words.get(found, found)


@pytest.mark.parametrize("policy", ["outputs", None, 1])
def test_unknown_policies(policy):
    x = torch.ones(2)
    for call in (
        lambda: FF.elu(x, save=policy),
        lambda: fusedact.ELU(save=policy),
        lambda: fusedact.Activation("elu", save=policy),
        lambda: fusedact.explain("elu", x, save=policy) if policy is not None else FF.elu(x, save=None),
        lambda: fusedact.save_policy(policy).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"must be one of 'auto', 'input', 'output'.*, got"):
            call()


@pytest.mark.parametrize(("name", "policy"), [("snake", "output"), ("silu", "bits"), ("sigmoid", "bits")])
def test_what_an_activation_cannot_serve(name, policy):
    """Said of the call it is an error; of a block, the next best is taken."""
    x = made(100)
    with pytest.raises(ValueError, match=f"fusedact.functional.{name}: save must be one of 'auto', 'input'"):
        oracles.function(name)(x, save=policy)
    with pytest.raises(ValueError, match=f"fusedact.{SPECS[name].module}: save must be one of"):
        oracles.module(name, save=policy)
    with fusedact.save_policy(policy):
        y = oracles.function(name)(x)
    assert y.requires_grad


def test_precedence():
    x = made(8)
    module = fusedact.ELU(save="input")
    with fusedact.save_policy("output"):
        assert kept(FF.elu, x)[0][0].data_ptr() != x.data_ptr()
        assert kept(FF.elu, x, save="input")[0][0].data_ptr() == x.data_ptr()
        assert kept(module, x)[0][0].data_ptr() == x.data_ptr()
        with fusedact.save_policy("auto"):
            assert kept(FF.elu, x)[0][0].data_ptr() == x.data_ptr()
        assert kept(FF.elu, x)[0][0].data_ptr() != x.data_ptr()
    assert kept(FF.elu, x)[0][0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("call", "keeps"),
    [
        (lambda x, **k: FF.elu(x, -1.0, **k), "input"),
        (lambda x, **k: FF.softplus(x, 1.0, 2.0, **k), "input"),
        # One bit tells exactly what the output does not.
        (lambda x, **k: FF.leaky_relu(x, -0.5, **k), "bits"),
        (lambda x, **k: FF.elu(x, torch.tensor(1.0), **k), "output"),
        (lambda x, **k: FF.elu(x, torch.tensor([0.5, -1.0]), channel_dim=-1, **k), "input"),
    ],
    ids=["elu", "softplus", "leaky_relu", "tensor", "channels"],
)
def test_parameters_outside_the_safe_set(call, keeps):
    x, g = made(50, 2), torch.randn(50, 2)
    found, y = kept(call, x, save="output")
    where = {x.data_ptr(): "input", y.data_ptr(): "output"}
    assert where.get(found[0].data_ptr(), "bits") == keeps
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(call(x), x, g)[0])


def test_parameters_on_a_device_are_not_looked_at():
    """A meta tensor stands for one on a device; its module knows its bounds."""
    x = torch.zeros(2, device="meta")
    alpha = torch.zeros(1, device="meta")
    assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "input"
    with saving.bounded({"alpha": (0.1, None)}):
        assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "output"
    with saving.bounded({"alpha": (-1.0, None)}):
        assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "input"


@pytest.mark.parametrize("policy", saving.POLICIES)
@names
def test_explain_tells_what_is_kept(name, policy):
    x = made(64)
    with fusedact.save_policy(policy):
        path = fusedact.explain(name, x)
        found, y = kept(oracles.function(name), x, *usual(name))
    if path.kind != "formula" and name != "threshold":
        words = {x.data_ptr(): "input", y.data_ptr(): "output"}
        told = [words.get(t.data_ptr(), "bits" if t.dtype == torch.uint8 else "a buffer") for t in found]
        assert path.keeps == " and ".join(dict.fromkeys(told))
        assert path.because


# ----- bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@served
def test_bytes_kept(name, policy, dtype):
    x = made(40, 25, dtype=dtype)
    found, y = kept(oracles.function(name), x, *usual(name), save=policy)
    bits = [t for t in found if t.dtype == torch.uint8]
    others = [t.data_ptr() for t in found if t.dtype != torch.uint8]
    assert [t.nbytes for t in bits] == ([125] if policy == "bits" or SAVED[name].bits else [])
    assert others == ([y.data_ptr()] if policy == "output" else [])


@served
def test_nothing_is_kept_without_a_gradient(name, policy):
    x, function = made(100), oracles.function(name)
    with torch.no_grad():
        assert kept(function, x, *usual(name), save=policy)[0] == []
    assert kept(function, x.detach(), *usual(name), save=policy)[0] == []
    with torch.inference_mode():
        same(function(x.detach(), *usual(name), save=policy), function(x.detach(), *usual(name)))


def storages(found, module):
    """Bytes of the storages among these that are no parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(size for at, size in sizes.items() if at not in own)


@served
def test_between_two_linear_layers(name, policy):
    required = oracles.required(name) | ({"value": 0.05} if name == "threshold" else {})
    act = fusedact.create(name, **required, save=policy)
    for p in act.parameters():
        p.requires_grad_(False)
    net = nn.Sequential(nn.Linear(16, 32), act, nn.Linear(32, 8))
    x = torch.randn(64, 16)
    one = 64 * 32 * 4
    bits = one // 32 if policy == "bits" or SAVED[name].bits else 0
    if name == "prelu" and policy == "bits":
        # Its module has a tensor, whose sign a bit does not tell; positive, the output does.
        bits = 0
    assert storages(kept(net, x)[0], net) == x.nbytes + one + bits


def test_eager_keeps_two_between_linear_layers():
    net = nn.Sequential(nn.Linear(16, 32), nn.ELU(), nn.Linear(32, 8))
    x = torch.randn(64, 16)
    assert storages(kept(net, x)[0], net) == x.nbytes + 2 * 64 * 32 * 4


def test_between_linear_layers_as_published(monkeypatch):
    published = json.loads((between.environment.ROOT / "bench/results/cpu/between.json").read_text())["rows"]
    small = {name: replace(network, rows=16, width=64) for name, network in between.NETWORKS.items()}
    monkeypatch.setattr(between, "NETWORKS", small)
    assert list(between.rows(torch.device("cpu"))) == published


# ----- gradients


# What rounding the output of a half makes of the derivative, relative, in the norm over normal inputs.
LOSS = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-6}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@parametrized(CASES)
def test_gradients_are_those_from_the_input(name, policy, params, dtype):
    x, g = torch.randn(4000).to(dtype), torch.randn(4000).to(dtype)
    found = gradient(name, x, params, g, save=policy)
    wanted = gradient(name, x, params, g, save="input")
    if policy == "bits" and name != "hardsigmoid":
        same(found, wanted)
    elif policy == "bits":
        # PyTorch's sixth is one of float32.
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)
    else:
        norm = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-3)
        assert norm <= LOSS[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("name", "params"),
    [(n, a) for n, p, a in CASES if p == "bits"],
    ids=[f"{n}{list(a) if a else ''}" for n, p, a in CASES if p == "bits"],
)
def test_bits_are_exact_for_all_halves(name, params, dtype):
    """Infinities and NaN, in the input and in the gradient, among them."""
    x = oracles.halves(dtype)
    for value in (1.0, -3.0, float("inf"), float("nan")):
        g = torch.full_like(x, value)
        found, wanted = (gradient(name, x, params, g, save=s) for s in ("bits", "input"))
        # A NaN in x: what PyTorch's vector instructions and what remains of a tensor give differs.
        same(found[~x.isnan()], wanted[~x.isnan()])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@parametrized(CASES)
def test_no_half_gives_nan(name, policy, params, dtype):
    x = oracles.halves(dtype)
    x = x[x.isfinite()]
    y = oracles.function(name)(x, *params)
    found = gradient(name, x, params, torch.ones_like(x), save=policy)
    assert found[y.isfinite()].isfinite().all()


@served
def test_layouts(name, policy):
    base = torch.randn(6, 5, 4)
    for view in (
        lambda t: t.transpose(0, 2),
        lambda t: t[:, ::2],
        lambda t: t[:, :1].expand(6, 5, 4),
        lambda t: t[0, 0, 0],
        lambda t: t[:0],
        lambda t: t.reshape(1, 6, 5, 4).contiguous(memory_format=torch.channels_last),
    ):
        x = view(base)
        for g in (torch.randn(x.shape), torch.randn(()).expand(x.shape)):
            a, b = (gradient(name, x, usual(name), g, save=s) for s in (policy, "input"))
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
            assert a.shape == x.shape


@served
def test_large_tensors(name, policy):
    """In pieces: the last one is no multiple of eight."""
    x = torch.linspace(-4.0, 4.0, 2**19 + 3)
    a, b = (gradient(name, x, usual(name), torch.ones_like(x), save=s) for s in (policy, "input"))
    assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_parameters_that_learn(name, shape):
    def grads(save):
        x = torch.linspace(-3, 3, 60).reshape(12, 5).requires_grad_()
        params = oracles.given(name, usual(name), shape=shape, requires_grad=True)
        leaves = [x, *(p for p in params if isinstance(p, torch.Tensor))]
        found, y = kept(oracles.function(name), x, *params, save=save)
        assert found[0].data_ptr() == (y if save == "output" else x).data_ptr()
        return torch.autograd.grad(y, leaves, torch.cos(x).detach())

    for a, b in zip(grads("output"), grads("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


# ----- modules


def test_modules():
    module = fusedact.ELU(save="output")
    assert module.save == "output"
    assert repr(module) == "ELU(alpha=1.0, save='output')"
    x = made(20)
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        found, y = kept(m, x)
        assert [t.data_ptr() for t in found] == [y.data_ptr()]
    assert fusedact.explain(module, x).keeps == "output"
    assert fusedact.Activation("silu", save="input").save == "input"
    gelu = fusedact.GELU(approximate="tanh", save="auto")
    assert kept(gelu, x)[0][0].data_ptr() == x.data_ptr()
