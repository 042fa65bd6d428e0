"""What a call of a small tensor costs beside what it must, in processor time of runs that alternate."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext

import benches
import pytest
import torch
from torch import nn

import fusedact
from fusedact import compat, crossovers, dispatch, registry
from fusedact import functional as FF
from fusedact.watching import gathering

host_cost = benches.load("host_cost")
# With one, PyTorch's own small product takes less.
pytestmark = pytest.mark.usefixtures("all_threads")

RUNS = 40


def over(measure, limits, tries=3):
    """The figures that stay over their limits in all tries: what is measured only gets slower by others' work."""
    found = dict.fromkeys(limits, float("inf"))
    for _ in range(tries):
        found = {name: min(found[name], figure) for name, figure in measure().items()}
        if all(found[name] < limit for name, limit in limits.items()):
            return {}
    return {name: figure for name, figure in found.items() if figure >= limits[name]}


def ratios(times, kind, *names):
    return {name: times[f"{name} {kind}"] / times[f"beside {kind}"] for name in names}


@pytest.mark.skipif(compat.interpreting, reason="the interpreter runs kernels in place of the CPU path")
@pytest.mark.parametrize("threshold", [0.0, 0.1])
@pytest.mark.parametrize("dtype", host_cost.DTYPES)
@pytest.mark.parametrize("exponent", [2, 11])
def test_small_cpu_tensors(dtype, exponent, threshold):
    """Forward and backward of the function take at most 1.4 times what takes the composition by hand.

    Halves with a threshold do not keep to it: they are computed in float32, between conversions, and take up to 1.57
    times as long. What is held of them is that they take no longer.
    """
    converted = dtype != "float32" and threshold != 0.0
    limit = 1.7 if converted else 1.4

    def measure():
        times = host_cost.on_cpu(host_cost.DTYPES[dtype], exponent, threshold, RUNS)
        return ratios(times, "forward+backward", "function", "module")

    assert not over(measure, {"function": limit, "module": limit + 0.1}, 8 if converted else 3)


@pytest.mark.skipif(compat.interpreting, reason="the interpreter runs kernels in place of the CPU path")
def test_twins():
    """A call takes longer than PyTorch's of the same name by less than PyTorch's ReLU of eight numbers takes in all.

    That is 1.1 us where a machine is as fast as that of bench/results/host_cost.json. It holds for most by far; none
    takes half as much again, but for PReLU, which looks at a tensor more.
    """

    def measure():
        times = host_cost.of_twins(runs=RUNS)
        more = {case: (ours - theirs) / times["relu"][1] for case, (ours, theirs) in times.items()}
        return more | {"most": sorted(more.values())[len(more) // 2]}

    cases = host_cost.of_twins(runs=1)
    assert not over(measure, dict.fromkeys(cases, 1.5) | {"PReLU": 2.0, "most": 0.8}, 8)


def small_hosts():
    """By form: a call with a named activation, and the chain by hand."""
    x, gate, packed = (torch.randn(8, n) for n in (64, 64, 128))
    weight, bias = torch.randn(64, 64), torch.randn(64)
    F = torch.nn.functional
    return {
        "gated": (lambda: FF.gated(x, gate, "silu"), lambda: x * F.silu(gate)),
        "packed": (
            lambda: FF.packed_glu(packed, "silu", layout="gate_value"),
            lambda: (lambda a, b: F.silu(a) * b)(*packed.chunk(2, -1)),
        ),
        "bias": (lambda: FF.bias_act(x, bias, "relu"), lambda: F.relu(x + bias)),
        "bias, residual": (lambda: FF.bias_act(x, bias, "relu", gate), lambda: F.relu(x + bias) + gate),
        "linear": (lambda: FF.linear(x, weight, bias, "gelu"), lambda: F.gelu(F.linear(x, weight, bias))),
    }


@pytest.mark.skipif(compat.interpreting, reason="the interpreter runs kernels in place of the CPU path")
def test_small_hosts():
    """A small call with an activation of PyTorch's, by name, takes little longer than the chain by hand."""
    forms = small_hosts()
    for ours, theirs in forms.values():
        torch.testing.assert_close(ours(), theirs(), rtol=0, atol=0)

    def measure():
        found = {}
        for name, (ours, theirs) in forms.items():
            times = host_cost.alternating({"ours": ours, "theirs": theirs}, RUNS)
            found[name] = times["ours"] / times["theirs"]
        return found

    assert not over(measure, dict.fromkeys(forms, 1.8), 8)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(compat.interpreting, reason="under TRITON_INTERPRET nothing is launched")
def test_the_way_of_a_kernel(monkeypatch, tmp_path):
    """Deciding on a kernel and its launch takes less than an autograd Function that only allocates."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kind, limit in (("recorded", 2.4), ("forward+backward", 1.9)):
        assert not over(lambda kind=kind: ratios(host_cost.on_kernel(RUNS), kind, "flat"), {"flat": limit})


class Watching(compat.DispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Asking:
    """A monitor's question."""

    def __enter__(self):
        self.token = gathering.ask(gathering.Gather(self, None))

    def __exit__(self, *_):
        gathering.done(self.token)


UNDER_WAY = {
    "a dispatch mode": Watching,
    "a saving policy": lambda: fusedact.save_policy("input"),
    "forward mode": torch.autograd.forward_ad.dual_level,
    "a monitor": Asking,
}


@pytest.mark.parametrize("name", UNDER_WAY)
def test_what_is_under_way_is_seen(name):
    x = torch.ones(3)
    assert dispatch.nothing_under_way(x)
    with UNDER_WAY[name]():
        assert not dispatch.nothing_under_way(x)
    assert dispatch.nothing_under_way(x)


def test_transforms_are_seen():
    seen = []
    x = torch.ones(3)

    def look(t):
        seen.append(dispatch.nothing_under_way(t))
        return t.sum()

    torch.func.grad(look)(x)
    torch.vmap(look)(x)
    torch.jit.trace(look, x, check_trace=False)
    dispatch.recorded(look, x)
    assert seen == [False] * 4


NOT_PLAIN = {
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2)]),
    "nothing": lambda: None,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_is_no_plain_tensor(kind):
    assert not dispatch.nothing_under_way(NOT_PLAIN[kind]())
    assert dispatch.nothing_under_way(nn.Parameter(torch.ones(2)))


@pytest.mark.parametrize("begun", ["grad mode", "forward mode", "a dispatch mode", "batched gradients"])
def test_what_begins_between_forward_and_backward(begun):
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).requires_grad_()
    y = FF.relu_sigmoid(x)
    assert y.grad_fn.name() == "_ShortBackward"
    g = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = torch.autograd.grad(torch.relu(x) * torch.sigmoid(x), x, g)[0]
    if begun == "batched gradients":
        batch = torch.stack([g, 2 * g])
        (dx,) = torch.autograd.grad(y, x, batch, is_grads_batched=True)
        torch.testing.assert_close(dx, torch.stack([expected, 2 * expected]))
        return
    within = {"forward mode": torch.autograd.forward_ad.dual_level, "a dispatch mode": Watching}.get(begun, nullcontext)
    with within():
        (dx,) = torch.autograd.grad(y, x, g, create_graph=begun == "grad mode")
    torch.testing.assert_close(dx, expected)
    if begun == "grad mode":
        (second,) = torch.autograd.grad(dx.sum(), x)
        assert second[0] == 0.0 and bool(second[1:].ne(0.0).all())


def test_crossovers():
    """A power of two for each kind of device, and one for what is not known."""
    assert crossovers.LEAST_ATEN_BELOW == 2**18 and crossovers.LARGEST_ATEN_BELOW == 2**22
    assert crossovers.aten_below(torch.device("cpu")) == 2**21


@pytest.mark.parametrize(
    ("hip", "capability", "name", "below"),
    [
        (None, (9, 0), "", 2**21),
        (None, (8, 0), "", 2**20),
        (None, (99, 0), "", 2**21),
        ("6.4", None, "gfx942:sramecc+:xnack-", 2**21),
        ("6.4", None, "gfx90a", 2**19),
    ],
)
def test_a_device_has_its_crossover(monkeypatch, hip, capability, name, below):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    properties = type("Properties", (), {"gcnArchName": name})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert crossovers.aten_below.__wrapped__(torch.device("cuda", 0)) == below


def test_a_twin_crosses_over_and_a_composition_does_not(monkeypatch):
    """On a device that kernels serve; the reason that `explain` hands on says the number."""
    monkeypatch.setattr(compat, "kernels_serve_device", lambda device: "")
    monkeypatch.setattr(compat, "interpreting", False)
    monkeypatch.setattr(dispatch, "aten_below", lambda device: 8)
    silu, relu_sigmoid = registry.get("silu"), registry.get("relu_sigmoid")
    small, large = torch.ones(7), torch.ones(8)
    path = dispatch._by_device(silu, small, True, "auto")
    assert path.kind == "aten" and path.reason.startswith("below 8 elements")
    assert dispatch._by_device(silu, large, True, "auto") == dispatch.TRITON
    assert dispatch._by_device(relu_sigmoid, small, False, "auto") == dispatch.TRITON
