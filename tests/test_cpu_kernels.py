"""PyTorch's own operators write large results into large pages, and give what they always give."""

from __future__ import annotations

import pytest
import torch

import fusedact
from fusedact import dispatch, ops, registry, shortest
from fusedact import functional as FF
from fusedact.cpu import cpu_kernels, large_pages

NAMES = sorted(cpu_kernels._KERNELS)
PLACES = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 3.0, -3.0, 6.0, 20.0, 21.0, 0.5, -0.5]


@pytest.fixture
def small_counts(monkeypatch):
    """Every tensor is large, and none is small."""
    monkeypatch.setattr(shortest, "FEW", 0)
    monkeypatch.setattr(ops, "FEW", 0)
    monkeypatch.setattr(large_pages, "LARGE", 1)
    monkeypatch.setattr(cpu_kernels, "LARGE_COUNT", 1)
    for module in (dispatch, shortest):
        monkeypatch.setattr(module, "LARGE_COUNT", 1)


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    flat = torch.cat([torch.tensor(PLACES), 4 * torch.randn(498, generator=generator)]).to(dtype)
    yield flat
    yield flat.view(32, 16).t()
    yield flat.view(2, 4, 8, 8).to(memory_format=torch.channels_last)
    yield flat.view(32, 16)[:, ::2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_the_operator(small_counts, name, dtype):
    spec = registry.get(name)
    function, usual = getattr(FF, name), tuple(p.default for p in spec.parameters)
    for x in inputs(dtype):
        assert dispatch.choose(spec, x, usual, True) == dispatch.LARGE_CPU
        y, expected = function(x, *usual), spec.aten(x, *usual)
        # PyTorch's own logsigmoid gives what is contiguous.
        assert y.dtype == dtype and y.stride() == (expected if name != "logsigmoid" else torch.empty_like(x)).stride()
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        ours, theirs = (x.detach().clone().requires_grad_() for _ in range(2))
        assert dispatch.choose(spec, ours, usual, True) == dispatch.LARGE_CPU
        g = torch.linspace(-1.0, 2.0, y.numel()).to(dtype).view(y.shape)
        y, expected = function(ours, *usual), spec.aten(theirs, *usual)
        y.backward(g), expected.backward(g)
        # PyTorch's derivative of erf rounds four times.
        rounding = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 1e-7} if name == "erf" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True, **rounding)


def test_what_has_no_kernel_has_a_form_for_pieces():
    for name, kernels in cpu_kernels._KERNELS.items():
        spec = registry.get(name)
        assert (kernels.forward is None) == (kernels.lean_forward is not None)
        assert (kernels.backward is None) == (kernels.lean_backward is not None)
        assert not (kernels.hosted and (spec.parameters or kernels.backward is None))


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).parameters])
def test_parameters_arrive(small_counts, name):
    spec = registry.get(name)
    given = {p.name: p.default + 0.25 for p in spec.parameters}
    ours, theirs = (torch.linspace(-5.0, 5.0, 101).requires_grad_() for _ in range(2))
    y, expected = getattr(FF, name)(ours, **given), spec.aten(theirs, *given.values())
    y.sum().backward(), expected.sum().backward()
    assert torch.equal(y, expected) and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["silu", "gelu", "relu", "sigmoid", "tanh"])
def test_second_derivatives(small_counts, name):
    x = torch.linspace(-3.0, 3.0, 32, dtype=torch.float64, requires_grad=True)
    function, batch = getattr(FF, name), torch.eye(32, dtype=torch.float64)
    assert torch.autograd.gradcheck(function, x) and torch.autograd.gradgradcheck(function, x)
    y, twin = function(x), registry.get(name).aten(x)
    assert y.grad_fn is not None and y.grad_fn.name() != twin.grad_fn.name()
    (found,) = torch.autograd.grad(y, x, batch, retain_graph=True, is_grads_batched=True)
    (expected,) = torch.autograd.grad(twin, x, batch, is_grads_batched=True)
    assert torch.equal(found, expected)
    with torch.autograd.set_detect_anomaly(True):
        (found,) = torch.autograd.grad(y, x, torch.full_like(y, torch.inf))
    (expected,) = torch.autograd.grad(registry.get(name).aten(x), x, torch.full_like(y, torch.inf))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("name", "what"), [("silu", "input"), ("relu", "output"), ("sigmoid", "output")])
def test_what_pytorch_keeps_is_kept(small_counts, name, what):
    x, kept = torch.randn(64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        y = getattr(FF, name)(x)
    assert kept == [(x if what == "input" else y).data_ptr()]
    assert fusedact.explain(name, x).keeps == what
    if what == "output":
        y = getattr(FF, name)(x).add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("policy", ["input", "output"])
def test_a_policy_is_kept(small_counts, policy):
    """Kernels that read the value are not given the input."""
    ours, theirs = (torch.linspace(-4.0, 4.0, 64).requires_grad_() for _ in range(2))
    FF.sigmoid(ours, save=policy).sum().backward(), torch.sigmoid(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7)


def test_who_watches_sees_pytorchs_operator(small_counts):
    x = torch.randn(64)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        FF.silu(x)
    assert seen == ["aten.silu.default"]
    assert torch.equal(torch.func.vmap(FF.silu)(x), torch.nn.functional.silu(x))
    value, tangent = torch.func.jvp(FF.silu, (x,), (torch.ones_like(x),))
    expected = torch.func.jvp(torch.nn.functional.silu, (x,), (torch.ones_like(x),))
    assert torch.equal(value, expected[0]) and torch.equal(tangent, expected[1])


@pytest.mark.parametrize("grad", [False, True])
def test_what_is_not_plain_goes_the_usual_way(small_counts, grad):
    class Sub(torch.Tensor):
        pass

    assert dispatch.choose(registry.get("silu"), torch.randn(8).as_subclass(Sub), (), True) == dispatch.ATEN_CPU
    sparse = torch.eye(4).to_sparse()
    assert FF.relu(sparse).is_sparse


def test_small_tensors_take_the_operator():
    assert fusedact.explain("silu", torch.zeros(8)) == dispatch.ATEN_CPU


def test_in_place_stays_in_place(small_counts):
    x = torch.randn(64)
    expected = torch.nn.functional.silu(x)
    assert FF.silu(x, inplace=True) is x and torch.equal(x, expected)


def test_no_result_is_what_was_given(small_counts):
    with torch.inference_mode():
        x = torch.randn(64)
        assert FF.elu(x).data_ptr() != x.data_ptr()
