"""PyTorch's own operators write large results into large pages, and give what they always give."""

from __future__ import annotations

import pytest
import torch

import fusedact
from fusedact import dispatch, registry
from fusedact import functional as FF
from fusedact.cpu import large_pages, large_results, pieces

NAMES = sorted(large_results._OPERATORS)
PLACES = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 3.0, -3.0, 6.0, 20.0, 21.0, 0.5, -0.5]


@pytest.fixture
def small_counts(monkeypatch):
    """Every tensor is large, and none is small."""
    monkeypatch.setattr(pieces, "FEW", 0)
    monkeypatch.setattr(large_pages, "LARGE", 1)
    monkeypatch.setattr(large_results, "LARGE_COUNT", 1)
    monkeypatch.setattr(dispatch, "LARGE_COUNT", 1)


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
        assert y.dtype == dtype and y.stride() == expected.stride()
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        ours, theirs = (x.detach().clone().requires_grad_() for _ in range(2))
        keeps_x = large_results._OPERATORS[name].backward is not None
        assert (dispatch.choose(spec, ours, usual, True) == dispatch.LARGE_CPU) == keeps_x
        g = torch.linspace(-1.0, 2.0, y.numel()).to(dtype).view(y.shape)
        y, expected = function(ours, *usual), spec.aten(theirs, *usual)
        y.backward(g), expected.backward(g)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).parameters])
def test_parameters_arrive(small_counts, name):
    spec = registry.get(name)
    given = {p.name: p.default + 0.25 for p in spec.parameters}
    ours, theirs = (torch.linspace(-5.0, 5.0, 101).requires_grad_() for _ in range(2))
    y, expected = getattr(FF, name)(ours, **given), spec.aten(theirs, *given.values())
    y.sum().backward(), expected.sum().backward()
    assert torch.equal(y, expected) and torch.equal(ours.grad, theirs.grad)


def test_second_derivatives(small_counts):
    x = torch.linspace(-3.0, 3.0, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(FF.silu, x) and torch.autograd.gradcheck(FF.gelu, x)


def test_only_x_is_kept(small_counts):
    x, kept = torch.randn(64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()), lambda t: t):
        FF.silu(x)
    assert kept == [x.data_ptr()]


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
