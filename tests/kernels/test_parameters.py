"""Tensor parameters and their gradients; in place; tensors whose values are not in memory as they stand."""

from __future__ import annotations

import oracles
import pytest
import torch

import fusedact
from fusedact import functional
from fusedact.kernels import grids, launch

# One template runs them all: these stand for the catalog where only the template matters.
NAMES = (*oracles.STRICT, "gelu", "hardtanh", *oracles.CHOSEN)
WITH_PARAMETERS = [n for n in (*oracles.NAMES, *oracles.CHOSEN) if oracles.spec(n).learnable]
FEW = [n for n in WITH_PARAMETERS if n in NAMES]
FLAT = ("forward_kernel", "backward_kernel")
STRIDED = ("forward_strided_kernel", "backward_strided_kernel")


def tensors(name, shape=(), dtype=torch.float32):
    """Parameters, as tensors where these are accepted; exact in every dtype, and none of another's."""
    values = [round(16 * p.default + 4) / 16 for p in oracles.spec(name).parameters]
    return tuple(oracles.given(name, values, dtype, shape))


def as_numbers(params):
    return tuple(float(p) for p in params)


def given_tensors(params):
    return [p for p in params if isinstance(p, torch.Tensor)]


def assert_parameter_gradient(got, name, g, x, params):
    """Within what fp32 terms and their sum may lose, in whatever order it is taken."""
    numbers = [float(p) for p in params]
    x, g = x.cpu(), g.cpu()
    # Halves have the approximate exponential in their terms.
    terms = 2**-20 if x.dtype == torch.float32 else 2**-15
    truth, scale = (f(name, g, x, numbers) for f in (oracles.parameter_gradient, oracles.parameter_scale))
    for ours, exact, size, p in zip(got, truth, scale, given_tensors(params), strict=True):
        assert ours.shape == p.shape and ours.dtype == p.dtype
        bound = terms * size + torch.finfo(p.dtype).eps * exact.abs()
        assert (ours.double() - exact).abs() <= bound


MIXED = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.float64),
]
# All of them for those that stand for the others, which have two.
CASES = [(n, *pair, ()) for n in WITH_PARAMETERS for pair in MIXED[: 5 if n in NAMES else 2]]
CASES += [(n, *pair, (1,)) for n in FEW for pair in MIXED]


@pytest.mark.parametrize(("name", "x_dtype", "p_dtype", "shape"), CASES, ids=str)
def test_gradients(run, name, x_dtype, p_dtype, shape, device):
    params = tensors(name, shape, p_dtype)
    for n in (1, 1000, 10_007):
        x, g = (3 * torch.randn(n, device=device)).to(x_dtype), torch.randn(n, device=device).to(x_dtype)
        got = run(name, x, params, g)
        assert_parameter_gradient(got.dparams, name, g, x, params)
        numbers = run(name, x, as_numbers(params), g)
        # The parameter reaches the kernel as a number or through a pointer; the results are the same.
        assert torch.equal(got.y, numbers.y) and torch.equal(got.dx, numbers.dx)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("layout", ["sliced", "expanded", "transposed", "one gradient"])
def test_gradients_of_strided_tensors(run, name, layout, device):
    x, g = torch.randn(70, 90, device=device), torch.randn(70, 90, device=device)
    kernels = STRIDED
    if layout == "sliced":
        x, g = x[:, ::2], g[:, ::2]
    elif layout == "expanded":
        x, g = x[:1].expand(70, 90), g[:, :1].expand(70, 90)
    elif layout == "transposed":
        x, g, kernels = x.t(), g.t(), FLAT
    else:
        g, kernels = g[0, 0].expand(70, 90), (FLAT[0], STRIDED[1])
    params = tensors(name)
    got = run(name, x, params, g, kernels=kernels)
    assert_parameter_gradient(got.dparams, name, g, x, params)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[:, ::2], lambda t: t[:1].expand(64, 40)])
def test_only_the_parameter_needs_a_gradient(run, name, view, device):
    """No dx is allocated or written; x and g may share a layout that has gaps."""
    x, g = view(torch.randn(64, 40, device=device)), view(torch.randn(64, 40, device=device))
    flat = x.is_contiguous()
    params = tensors(name)
    before = x.clone(), g.clone()
    got = run(name, x, params, g, x_needs_grad=False, kernels=FLAT if flat else STRIDED)
    assert got.dx is None
    assert_parameter_gradient(got.dparams, name, g, x, params)
    assert torch.equal(x, before[0]) and torch.equal(g, before[1])


@pytest.mark.parametrize("name", FEW)
def test_gradient_of_x_alone(run, launches, name, device):
    """A tensor parameter that needs no gradient costs no sums."""
    x = torch.randn(1000, device=device, requires_grad=True)
    params = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in tensors(name))
    y = oracles.function(name)(x, *params)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert launches == list(FLAT)
    numbers = run(name, x, as_numbers(params), torch.ones_like(y))
    assert torch.equal(dx.cpu(), numbers.dx)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_are_bit_equal(run, name, dtype, device):
    x, g = torch.randn(20_000, device=device).to(dtype), torch.randn(20_000, device=device).to(dtype)
    first, second = (run(name, x, tensors(name), g) for _ in range(2))
    assert torch.equal(first.y, second.y) and torch.equal(first.dx, second.dx)
    assert all(torch.equal(a, b) for a, b in zip(first.dparams, second.dparams, strict=True))


def test_infinities_leave_the_sums_alone(device):
    """What is masked off a block must not reach a sum: at a masked element the formulas see zeros."""
    n = grids.block_size(4, grids.warp_size()) + 3
    x, g = torch.full((n,), -1.0, device=device), torch.full((n,), float("inf"), device=device)
    partials = launch.backward("elu", g, x, None, (torch.ones((), device=device),), (True,))
    assert torch.isneginf(partials).all()


# ----- in place


@pytest.mark.parametrize("name", [n for n in (*oracles.NAMES, *oracles.CHOSEN) if n != "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_in_place(run, launches, name, dtype, device):
    x = torch.randn(3000, device=device).to(dtype)
    expected = run(name, x)
    launches.clear()
    y = oracles.function(name)(x, inplace=True)
    assert y is x and torch.equal(x.cpu(), expected.y)
    assert launches == ["forward_kernel"]


@pytest.mark.parametrize("name", NAMES)
def test_in_place_on_views(run, launches, name, device):
    """The elements around the view stay, and so does the version count's meaning: what was saved is known stale."""
    base = torch.randn(64, 80, device=device)
    for view in (lambda t: t[:, 3:50], lambda t: t[::2], lambda t: t.t(), lambda t: t[8:16]):
        whole = base.clone()
        part, rest = view(whole), torch.ones_like(whole, dtype=torch.bool)
        view(rest).fill_(False)
        expected = run(name, view(base).contiguous())
        launches.clear()
        version = whole._version
        oracles.function(name)(part, inplace=True)
        assert len(launches) == 1 and whole._version > version
        assert torch.equal(part.cpu(), expected.y)
        assert torch.equal(whole[rest], base[rest])


@pytest.mark.parametrize("name", NAMES)
def test_in_place_gradient(run, launches, name, device):
    x, g = torch.randn(500, device=device), torch.randn(500, device=device)
    expected = run(name, x, g=g)
    launches.clear()
    leaf = x.clone().requires_grad_()
    y = leaf.clone()
    oracles.function(name)(y, inplace=True)
    (dx,) = torch.autograd.grad(y, leaf, g)
    assert launches == list(FLAT)
    assert torch.equal(y.detach().cpu(), expected.y) and torch.equal(dx.cpu(), expected.dx)


# ----- values that are not in memory as they stand


def negative_view(t):
    """A tensor whose sign is pending."""
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["input", "gradient", "both"])
def test_pending_negation(run, name, which, device):
    x, g = torch.randn(300, device=device), torch.randn(300, device=device)
    expected = run(name, x, g=g)
    if which != "gradient":
        x = negative_view(x)
    if which != "input":
        g = negative_view(g)
    got = run(name, x, g=g)
    assert torch.equal(got.y, expected.y) and torch.equal(got.dx, expected.dx)


@pytest.mark.parametrize("name", NAMES)
def test_pending_negation_in_place(run, name, device):
    x = torch.randn(300, device=device)
    expected = run(name, x)
    view = negative_view(x)
    oracles.function(name)(view, inplace=True)
    assert torch.equal(view.cpu(), expected.y)


@pytest.mark.parametrize("name", NAMES)
def test_zero_tensors(run, name, device):
    """A tensor that is zero without storage, as autograd hands on for what does not matter."""
    x = torch.randn(300, device=device)
    zero = torch._efficientzerotensor(300, device=device)
    got = run(name, x, g=zero)
    assert (got.dx == 0).all()
    got = run(name, zero, g=x)
    expected = run(name, torch.zeros(300, device=device), g=x)
    assert torch.equal(got.y, expected.y) and torch.equal(got.dx, expected.dx)


def test_grad_mode_and_inference_mode(launches, device):
    x = torch.randn(100, device=device)
    with torch.inference_mode():
        inside = x.clone()
        y = functional.relu_sigmoid(inside)
        functional.relu_sigmoid(inside, inplace=True)
        assert torch.equal(y, inside)
    with torch.no_grad():
        assert torch.equal(functional.relu_sigmoid(x.requires_grad_()), y.clone())
    assert launches == ["forward_kernel"] * 3


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_backends_agree(launches, name, shape, device):
    """The kernel and the path without one, over tensor parameters."""
    x = torch.randn(2000, device=device)
    params = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in tensors(name, shape))
    fused = oracles.function(name)(x, *params)
    assert len(launches) == 1
    with fusedact.backend("eager"):
        plain = oracles.function(name)(x, *params)
    assert len(launches) == 1
    torch.testing.assert_close(fused, plain)
