"""Values and gradients on the CPU: every half, every exponent of float32, any layout, inputs left alone.

Of the catalog, and of activations of one's own: on the path of small tensors, their formula, and that of large ones.
"""

from __future__ import annotations

import math

import oracles
import pytest
import torch

import fusedact
from fusedact.cpu import pieces

cases = pytest.mark.parametrize(("name", "params"), oracles.CASES, ids=oracles.IDS)
some_cases = pytest.mark.parametrize(
    ("name", "params"),
    oracles.CASES + [(name, oracles.sweep(name)[0]) for name in oracles.CHOSEN],
    ids=oracles.IDS + list(oracles.CHOSEN),
)
ways = pytest.mark.parametrize(("name", "params", "backend"), oracles.WAYS, ids=oracles.WAY_IDS)
gradients = pytest.mark.parametrize(("name", "params", "backend", "kind"), oracles.GRADIENTS, ids=oracles.GRADIENT_IDS)
name_ways = pytest.mark.parametrize(("name", "backend"), oracles.NAME_WAYS, ids=oracles.NAME_WAY_IDS)
HALVES = [torch.float16, torch.bfloat16]


def same(a, b):
    """Equal, NaN equal to NaN and infinities apart from the largest numbers."""
    return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def evaluate(name, x, params, g, backend="auto"):
    x = x.detach().requires_grad_()
    with fusedact.backend(backend):
        y = oracles.function(name)(x, *params)
        return y.detach(), torch.autograd.grad(y, x, g)[0]


def evaluated(name, x, params, g, backend):
    """The same; and that nothing is changed."""
    before = x.clone(), g.clone()
    found = evaluate(name, x, params, g, backend)
    assert same(x, before[0])
    assert same(g, before[1])
    return found


@gradients
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves(name, params, backend, kind, dtype):
    x = oracles.halves(dtype)
    g = torch.ones_like(x) if kind == "ones" else torch.randn(x.shape).to(dtype)
    y, dx = evaluated(name, x, params, g, backend)
    oracles.assert_value(y, name, x, params, backend)
    oracles.assert_gradient(dx, name, g, x, params, backend)


def terms(name, x, params):
    """What the terms of swish's derivative sum to in magnitude: they cancel where it is 0."""
    if name not in ("swish", "quick_gelu"):
        return torch.zeros(())
    z = (params[0] if params else 1.702) * x.double()
    return torch.sigmoid(z) * (1 + z.abs())


CANCELLING = ("clipped_gelu", "snake", "xielu", "serf", "telu")
# Not what PyTorch's operators compute, nor clipped_gelu, whose GELU is PyTorch's, nor where terms cancel.
COMPUTED = [
    (name, params)
    for name, params in oracles.CASES
    if name in ("elu", "selu", "prelu") or (oracles.spec(name).aten is None and name not in CANCELLING)
]


@pytest.mark.parametrize(("name", "params"), COMPUTED, ids=oracles.ids(COMPUTED))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_are_rounded_once(name, params, dtype):
    """Sharper than the yardstick, which rounds at every step: what float32 loses on the way hardly shows."""
    x = oracles.halves(dtype)
    x = x[x.isfinite()]
    if name in ("swish", "quick_gelu"):
        # PyTorch's sigmoid is 0 where exp(-x) overflows float32.
        x = x[(params[0] if params else 1.702) * x.double() > -88]
    g = torch.ones_like(x)
    y, dx = evaluate(name, x, params, g)
    lost = torch.finfo(torch.float32).eps * terms(name, x, params)
    for ours, truth, slack in (
        (y, oracles.value(name, x, params), 0.0),
        (dx, oracles.gradient(name, g, x, params), lost),
    ):
        wrong = (ours.double() - truth).abs() > 0.51 * oracles.ulp(truth, dtype) + slack
        assert not wrong[ours.isfinite()].any()


def floats(name, params):
    kinks = oracles.rounded(oracles.kinks(name, params), torch.float32)
    return torch.cat([oracles.floats32(), oracles.near(0.0, *kinks, dtype=torch.float32)])


@ways
def test_float32(name, params, backend):
    x = floats(name, params)
    y, _ = evaluated(name, x, params, torch.ones_like(x), backend)
    oracles.assert_value(y, name, x, params, backend)


@gradients
def test_float32_gradients(name, params, backend, kind):
    x = floats(name, params)
    g = torch.ones_like(x) if kind == "ones" else torch.randn(x.shape)
    _, dx = evaluated(name, x, params, g, backend)
    oracles.assert_gradient(dx, name, g, x, params, backend)


FIRST = [case for case in oracles.CASES if case[0] in ("relu_sigmoid", "elu", "selu", "prelu", "swish")]


@pytest.mark.parametrize(("name", "params"), FIRST, ids=oracles.ids(FIRST))
def test_float64(name, params):
    x = [torch.randn(2000) * 5, -torch.logspace(-12, 2.8, 2000), oracles.near(0.0, *params, dtype=torch.float64)]
    x = torch.cat([part.double() for part in x])
    y, dx = evaluate(name, x, params, torch.ones_like(x))
    # PyTorch's derivative of the sigmoid takes 1 - s, which cancels: 15 units measured where x is near 19.
    for ours, truth, units in (
        (y, oracles.value(name, x, params), 4),
        (dx, oracles.gradient(name, torch.ones_like(x), x, params), 20 if name == "relu_sigmoid" else 4),
    ):
        assert ours.dtype == torch.float64
        scale = truth if ours is y else torch.maximum(truth.abs(), terms(name, x, params))
        assert ((ours - truth).abs() / oracles.ulp(scale, torch.float64)).max() <= units


EXACT_WAYS = [
    (way, i)
    for way, i in zip(oracles.WAYS, oracles.WAY_IDS, strict=True)
    # PyTorch's CELU and hard sigmoid have constants of float32.
    if way[0] not in ("celu", "hardsigmoid")
]


@pytest.mark.parametrize(("name", "params", "backend"), [way for way, _ in EXACT_WAYS], ids=[i for _, i in EXACT_WAYS])
def test_float64_is_as_exact_as_the_formula(name, params, backend):
    """Both cancel, but by how much is the formula's affair."""
    x = torch.cat(
        [torch.randn(2000).double() * 5, oracles.near(0.0, *oracles.kinks(name, params), dtype=torch.float64)]
    )
    g = torch.randn(x.shape, dtype=torch.float64)
    y, dx = evaluate(name, x, params, g, backend)
    assert y.dtype == dx.dtype == torch.float64
    torch.testing.assert_close(y, oracles.value(name, x, params), rtol=1e-9, atol=1e-11, equal_nan=True)
    torch.testing.assert_close(dx, oracles.gradient(name, g, x, params), rtol=1e-9, atol=1e-11, equal_nan=True)


AT_KINKS = {
    **{name: lambda *_: (0.0,) for name in ("relu_sigmoid", "relu", "threshold")},
    **{name: lambda p: (p,) for name in ("elu", "prelu", "leaky_relu")},
    **{name: lambda *_: (0.0, 0.0) for name in ("relu6", "hardtanh", "hardsigmoid", "softshrink", "hardshrink")},
    "selu": lambda: (1.7580993175506592,),
    "celu": lambda alpha: (1.0,),
    "softplus": lambda beta, threshold: (1 / (1 + math.exp(-threshold)),),
    "hardswish": lambda: (0.0, 1.0),
    # Half of what the bounded term has, and none of it.
    "xielu": lambda p, n, beta, eps: (
        0.5 * (beta + math.log1p(math.exp(n))) * math.exp(eps) - math.log1p(math.exp(n)),
        -math.log1p(math.exp(n)),
    ),
    "hard_mish": lambda: (-1.0,),
}


@pytest.mark.parametrize(("name", "params"), [c for c in oracles.CASES if oracles.kinks(*c)])
@pytest.mark.parametrize("backend", oracles.BACKENDS)
def test_gradient_at_the_kink_is_that_of_torch(name, params, backend):
    x = torch.tensor(oracles.kinks(name, params))
    _, dx = evaluate(name, x, params, torch.ones_like(x), backend)
    assert dx.tolist() == pytest.approx(AT_KINKS[name](*params), rel=1e-6, abs=1e-7)


def assert_at_every_place(y, dx, name, x, params, g):
    """Nothing is lost or moved. How accurate float32 is cannot be told of repeated inputs: no neighbours differ."""
    if x.dtype == torch.float32:
        torch.testing.assert_close(y, oracles.value(name, x, params).float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(dx, oracles.gradient(name, g, x, params).float(), rtol=1e-5, atol=1e-5)
    else:
        oracles.assert_value(y, name, x, params)
        oracles.assert_gradient(dx, name, g, x, params)


SPREADS = {
    "dense": lambda t: t,
    "transposed": lambda t: t.t(),
    "strided": lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.fixture
def cuts(monkeypatch):
    """Small pieces, and how many each call was cut into."""
    counts = []
    cut = pieces.pieces_of

    def counted(*tensors, limit):
        parts = list(cut(*tensors, limit=limit))
        counts.append(len(parts))
        return iter(parts)

    monkeypatch.setattr(pieces, "pieces_of", counted)
    monkeypatch.setattr(pieces, "PIECE_PER_THREAD", 2000)
    return counts


@some_cases
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_tensors_are_worked_in_pieces(name, params, dtype, spread, cuts):
    """Straight from the CPU path, which PyTorch's own kernels would serve ELU and SELU before."""
    spec = oracles.spec(name)
    x, g = (SPREADS[spread]((3 * torch.randn(101, 211)).to(dtype)) for _ in range(2))
    before = x.clone(), g.clone()
    y = pieces.forward(spec, x, params)
    (dx,) = pieces.backward(spec, g, x, params, [True] + [False] * len(params))[:1]
    assert max(cuts) > 3
    assert_at_every_place(y, dx, name, x, params, g)
    assert same(x, before[0])
    assert same(g, before[1])


@name_ways
@pytest.mark.parametrize("spread", ["dense", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("all_threads")
def test_beyond_a_real_piece(name, backend, dtype, spread):
    columns = pieces.PIECE_PER_THREAD * torch.get_num_threads() // 64 + 1
    x, g = (SPREADS[spread](torch.randn(65, columns).to(dtype)) for _ in range(2))
    assert x.numel() > pieces.piece_limit(x)
    params = oracles.sweep(name)[-1]
    y, dx = evaluate(name, x, params, g, backend)
    assert_at_every_place(y, dx, name, x, params, g)
    # PyTorch's own logsigmoid gives what is contiguous.
    assert name == "logsigmoid" or y.stride() == dx.stride() == x.stride()


@pytest.fixture
def forced(backend):
    """The path that a test's parameter names."""
    with fusedact.backend(backend):
        yield


LAYOUTS = {
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "transposed": lambda: torch.randn(37, 53).t(),
    "sliced": lambda: torch.randn(64, 64)[::2, 1::3],
    "expanded": lambda: torch.randn(1, 31).expand(29, 31),
    "channels_last": lambda: torch.randn(2, 5, 7, 9).to(memory_format=torch.channels_last),
    "chunk": lambda: torch.randn(16, 64).chunk(2, dim=1)[1],
}


@name_ways
@pytest.mark.parametrize("gradient", ["same", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, backend, layout, gradient, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_PER_THREAD", 100)
    x = LAYOUTS[layout]()
    params = oracles.sweep(name)[0]
    g = {"same": torch.randn_like(x), "contiguous": torch.randn(x.shape), "expanded": torch.ones(()).expand(x.shape)}
    y, dx = evaluate(name, x, params, g[gradient], backend)
    assert y.shape == x.shape
    if layout in ("transposed", "channels_last") and name != "logsigmoid":
        assert y.stride() == x.stride()
    torch.testing.assert_close(y, oracles.value(name, x, params).float())
    torch.testing.assert_close(dx, oracles.gradient(name, g[gradient], x, params).float())


LEARNED = {"relu_sigmoid": (0.3,), "elu": (0.7,), "prelu": (0.25,), "swish": (1.3,)}


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", [name for name in oracles.NAMES if oracles.spec(name).learnable])
def test_parameter_gradients(name, dtype, shape, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_PER_THREAD", 1000)
    if name in LEARNED:
        # A twentieth of this was measured: PyTorch sums pairwise.
        assert_parameter_gradients(name, LEARNED[name], dtype, shape, "auto", 1.0)
        return
    for params in oracles.sweep(name):
        for backend in oracles.BACKENDS:
            assert_parameter_gradients(name, params, dtype, shape, backend, 8.0)


def assert_parameter_gradients(name, values, dtype, shape, backend, terms):
    x, g = torch.randn(5000).to(dtype), torch.randn(5000).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    given = oracles.given(name, values, wide, shape, requires_grad=True)
    params = [p for p in given if isinstance(p, torch.Tensor)]
    with fusedact.backend(backend):
        grads = torch.autograd.grad(oracles.function(name)(x, *given), params, g)
    truth, scale = (f(name, g, x, values) for f in (oracles.parameter_gradient, oracles.parameter_scale))
    for dp, p, exact, size in zip(grads, params, truth, scale, strict=True):
        assert dp.shape == p.shape
        assert dp.dtype == p.dtype
        assert (dp.double() - exact).abs() <= terms * torch.finfo(wide).eps * size


learned = [way for way in oracles.OWN_WAYS if way[1]]


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "params", "backend"), learned)
def test_parameter_gradients_of_ones_own(name, params, backend, dtype, shape, monkeypatch):
    """The formula's terms may each lose a few units."""
    monkeypatch.setattr(pieces, "PIECE_PER_THREAD", 1000)
    assert_parameter_gradients(name, params, dtype, shape, backend, 8.0)


# All but the identity, which writes nothing; and PyTorch's threshold_ does not look at what overlaps.
WRITES = [(way, i) for way, i in zip(oracles.NAME_WAYS, oracles.NAME_WAY_IDS, strict=True) if way[0] != "identity"]
LOOKS = [(way, i) for way, i in WRITES if way[0] != "threshold"]
writes, looks = (
    pytest.mark.parametrize(("name", "backend"), [way for way, _ in kept], ids=[i for _, i in kept])
    for kept in (WRITES, LOOKS)
)


@writes
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
def test_inplace_matches_the_value(name, backend, dtype, forced):
    x = torch.randn(300).to(dtype)
    before, expected = x.clone(), oracles.function(name)(x)
    version = x._version
    assert oracles.function(name)(x, inplace=True) is x
    if oracles.spec(name).composite:
        # PyTorch rounds at each step, and does nothing in place.
        oracles.assert_value(x, name, before, ())
    else:
        torch.testing.assert_close(x, expected)
    assert x._version > version


@writes
def test_inplace_on_a_strided_view_changes_it_alone(name, backend, forced):
    base = torch.randn(20, 20)
    view, before, version = base[::2, ::3], base.clone(), base._version
    assert oracles.function(name)(view, inplace=True) is view
    assert base._version > version
    expected = before.clone()
    expected[::2, ::3] = oracles.function(name)(before[::2, ::3])
    untouched = torch.ones_like(base, dtype=torch.bool)
    untouched[::2, ::3] = False
    torch.testing.assert_close(base, expected)
    assert torch.equal(base[untouched], before[untouched])


@looks
def test_inplace_on_overlapping_memory_raises_as_in_torch(name, backend, forced):
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        oracles.function(name)(torch.zeros(1).expand(4), inplace=True)


@writes
def test_inplace_on_what_another_gradient_needs_raises(name, backend, forced):
    kept = torch.randn(5, requires_grad=True).exp()
    oracles.function(name)(kept, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


@name_ways
def test_inplace_on_a_view_is_differentiable(name, backend, forced):
    leaf = torch.randn(6, requires_grad=True)
    whole = leaf * 1.0
    oracles.function(name)(whole[2:4], inplace=True)
    (dx,) = torch.autograd.grad(whole.sum(), leaf)
    expected = torch.ones(6)
    expected[2:4] = evaluate(name, leaf[2:4], (), torch.ones(2))[1]
    torch.testing.assert_close(dx, expected)


@name_ways
def test_inplace_is_differentiable(name, backend, forced):
    leaf = torch.randn(50, requires_grad=True)
    y = oracles.function(name)(leaf * 1.0, inplace=True)
    (dx,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(dx, evaluate(name, leaf, (), torch.ones(50))[1])


@writes
def test_inplace_on_a_leaf_raises_and_changes_nothing(name, backend, forced):
    leaf = torch.randn(50, requires_grad=True)
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        oracles.function(name)(leaf, inplace=True)
    assert torch.equal(leaf.detach(), before)


@name_ways
def test_saved_tensors_are_not_overwritten(name, backend, forced):
    x = torch.randn(2**15, requires_grad=True)
    y = oracles.function(name)(x)
    g = torch.randn(2**15)
    kept, before = g.clone(), x.detach().clone()
    first = torch.autograd.grad(y, x, g, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x, g)[0])
    assert torch.equal(g, kept)
    assert torch.equal(x, before)
