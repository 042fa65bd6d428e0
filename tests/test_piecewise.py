"""Piecewise-linear activations: values, gradients at breakpoints, tables per channel, modules, errors, transforms."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pwl_oracle as oracle
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.piecewise import piecewise, table_rows, tables

cases = pytest.mark.parametrize("case", oracle.CASES)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EVEN = oracle.CASES["even"][1]


def evaluate(x, arguments, g=None):
    leaf = x.clone().requires_grad_()
    y = FF.pwl(leaf, *arguments)
    return y.detach(), torch.autograd.grad(y, leaf, torch.ones_like(y) if g is None else g)[0]


def assert_value(y, x, arguments):
    """Against numpy.interp; the yardstick is the composition in x's dtype."""
    truth, yard = oracle.value(x, arguments), oracle.composition(x, arguments)
    oracles.assert_accurate(y, truth, yard, x=x)


# ----- values and gradients


@cases
def test_how_segments_are_found(case):
    kind, (b, v, _, _) = oracle.CASES[case]
    assert table_rows.plan(torch.tensor(b), torch.tensor(v)).kind == kind


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_halves(case, dtype):
    x = oracles.halves(dtype)
    arguments = oracle.CASES[case][1]
    y, dx = evaluate(x, arguments)
    assert_value(y, x, arguments)
    torch.testing.assert_close(dx, oracle.slope(x, arguments).to(dtype), rtol=0, atol=0)


@cases
def test_float32(case):
    arguments = oracle.CASES[case][1]
    x = oracle.inputs32(arguments)
    y, dx = evaluate(x, arguments)
    assert_value(y, x, arguments)
    torch.testing.assert_close(dx, oracle.slope(x, arguments).float(), rtol=0, atol=0)


@cases
def test_float64(case):
    arguments = oracle.CASES[case][1]
    x = oracle.inputs32(arguments).double()
    y, dx = evaluate(x, arguments)
    torch.testing.assert_close(y, oracle.value(x, arguments), rtol=1e-13, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(dx, oracle.slope(x, arguments), rtol=1e-13, atol=0)


@cases
def test_every_way_to_find_a_segment_agrees(case):
    arguments = oracle.CASES[case][1]
    x = oracle.inputs32(arguments)
    b, v = (torch.tensor(t) for t in arguments[:2])
    results = []
    for how in (table_rows.plan(b, v), table_rows.SEARCH):
        table = tables.Table(table_rows.prepare(b, v, *arguments[2:], how, torch.float32), len(b), how, 1)
        results.append((table.value(x), table.gradient(torch.ones_like(x), x)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0, equal_nan=True)


def test_random_tables_are_indexed_exactly():
    """The grids' rounding never costs a segment: many tables, at every breakpoint and beside it."""
    generator = torch.Generator().manual_seed(1)
    kinds = set()
    for i in range(200):
        count = int(torch.randint(2, 200, (), generator=generator))
        offset, scale = torch.randn(2, generator=generator).tolist()
        b = torch.linspace(0, 1, count) if i % 2 else torch.rand(count, generator=generator).sort()[0].unique()
        b = ((b + 10 * offset) * 10 ** (3 * scale)).unique()
        v = torch.randn(len(b), generator=generator)
        how = table_rows.plan(b, v)
        kinds.add(how.kind)
        table = tables.Table(table_rows.prepare(b, v, 0.5, -0.5, how, torch.float32), len(b), how, 1)
        infinity = torch.tensor(torch.inf)
        x = torch.cat([b, torch.nextafter(b, infinity), torch.nextafter(b, -infinity), (b[1:] + b[:-1]) / 2])
        expected = oracle.slope(x, (b.tolist(), v.tolist(), 0.5, -0.5)).float()
        torch.testing.assert_close(table.gradient(torch.ones_like(x), x)[0], expected, rtol=0, atol=0)
    assert kinds == {"uniform", "bucket", "search"}


TWINS = {
    "relu": (fusedact.PWL.relu, F.relu),
    "leaky_relu": (lambda: fusedact.PWL.leaky_relu(0.1), lambda x: F.leaky_relu(x, 0.1)),
    "relu6": (lambda: fusedact.PWL.hardtanh(0.0, 6.0), F.relu6),
    "hardtanh": (fusedact.PWL.hardtanh, F.hardtanh),
    "hardsigmoid": (fusedact.PWL.hardsigmoid, F.hardsigmoid),
    "identity": (fusedact.PWL.identity, lambda x: x * 1),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_constructors_agree_with_their_twins(name, dtype):
    make, twin = TWINS[name]
    x = oracles.halves(torch.bfloat16).to(dtype)
    x = x[~x.isnan()]
    results = []
    for function in (make(), twin):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y.detach(), torch.autograd.grad(y.sum(), leaf)[0]))
    # Hardsigmoid: x / 6 + 1 / 2 is rounded in another order.
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 0}
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(results[0][0], results[1][0], **(tolerance if name == "hardsigmoid" else exact))
    torch.testing.assert_close(results[0][1], results[1][1], **(tolerance if name == "hardsigmoid" else exact))


# ----- layouts and channels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 5), (3, 1, 4)], ids=str)
def test_shapes(shape, dtype):
    x = torch.randn(shape).to(dtype).requires_grad_()
    y = FF.pwl(x, *EVEN)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert (y.shape, y.dtype, dx.shape, dx.dtype) == (x.shape, dtype, x.shape, dtype)


CHANNEL_TABLES = (
    torch.tensor([oracle.EVEN, oracle.JITTERED, [2 * b for b in oracle.EVEN]]),
    torch.randn(3, 17, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0.0, 0.5, -1.0]),
    0.25,
)
UNEVEN_TABLES = (
    torch.tensor([oracle.UNEVEN, [b + 1 for b in oracle.UNEVEN], [2 * b for b in oracle.UNEVEN]]),
    torch.randn(3, 7, generator=torch.Generator().manual_seed(0)),
    0.0,
    torch.tensor([0.0, 0.5, -1.0]),
)
CLOSE_TABLES = (torch.tensor([oracle.CLOSE] * 3), torch.randn(3, 4), 0.0, 1.0)
PLACES = {
    "NCHW": ((4, 3, 5, 6), 1),
    "channels last": ((4, 5, 6, 3), -1),
    "channels first": ((3, 40), 0),
    "one sample": ((1, 3, 8), 1),
    "vector": ((3,), 0),
}


def by_channel(x, arguments, dim, function):
    parts = []
    for c, part in enumerate(x.unbind(dim)):
        one = [t[c] if isinstance(t, torch.Tensor) and t.numel() > 1 else t for t in arguments]
        parts.append(function(part, *one))
    return torch.stack(parts, dim)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("arguments", [CHANNEL_TABLES, UNEVEN_TABLES, CLOSE_TABLES], ids=["even", "uneven", "close"])
def test_one_table_per_channel(place, dtype, arguments):
    shape, dim = PLACES[place]
    x = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    g = torch.randn(shape).to(dtype)
    y = FF.pwl(x, *arguments, channel_dim=dim)
    expected = by_channel(x, arguments, dim, FF.pwl)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    (dx,), (expected_dx,) = torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["dense", "channels_last", "strided"])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("threads_to_take", [1, 10**6])
def test_large_tensors_are_worked_in_pieces(channels, layout, threads_to_take, monkeypatch):
    """With a serial gather, and with a parallel one."""
    monkeypatch.setattr("fusedact.cpu.pieces.PIECE_PER_THREAD", 500)
    monkeypatch.setattr(tables, "THREADS_TO_TAKE", threads_to_take)
    x = 3 * torch.randn(6, 3, 40, 20)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x[:, :, ::2, 1::3]
    arguments = CHANNEL_TABLES if channels else EVEN
    x = x.requires_grad_()
    y = FF.pwl(x, *arguments)
    assert y.stride() == torch.empty_like(x).stride()
    expected = by_channel(x, arguments, 1, FF.pwl) if channels else torch.cat([FF.pwl(p, *EVEN) for p in x.split(1)])
    # Vector instructions fuse a multiplication and an addition where scalar ones do not.
    torch.testing.assert_close(y, expected, rtol=2**-22, atol=0)
    (dx,), (expected_dx,) = (torch.autograd.grad(t.sum(), x) for t in (y, expected))
    torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0)


def test_only_the_input_is_kept():
    kept = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        FF.pwl(x, *EVEN)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


def test_inplace():
    x = torch.randn(100)
    before, expected = x.clone(), FF.pwl(x, *EVEN)
    assert FF.pwl(x, *EVEN, inplace=True) is x
    torch.testing.assert_close(x, expected)
    leaf = before.requires_grad_()
    y = FF.pwl(leaf * 1, *EVEN, inplace=True)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), leaf)[0], oracle.slope(before, EVEN).float())


# ----- derivatives and transforms

SMOOTH = torch.linspace(-5.03, 4.9, 23, dtype=torch.float64)


def test_gradcheck():
    x = SMOOTH.clone().requires_grad_()
    torch.autograd.gradcheck(lambda x: FF.pwl(x, *EVEN), x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(lambda x: FF.pwl(x, *EVEN).square(), x)


def test_tables_that_require_a_gradient_get_one():
    b, v = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in EVEN[:2])
    left, right = (torch.tensor([s], dtype=torch.float64, requires_grad=True) for s in EVEN[2:])
    x = SMOOTH.clone().requires_grad_()
    torch.autograd.gradcheck(FF.pwl, (x, b, v, left, right))


@pytest.mark.parametrize("arguments", [EVEN, UNEVEN_TABLES[:2]], ids=["number", "channels"])
def test_transforms(arguments):
    x = torch.randn(4, 3, dtype=torch.float64)
    slopes = torch.autograd.grad(FF.pwl(leaf := x.clone().requires_grad_(), *arguments).sum(), leaf)[0]
    torch.testing.assert_close(grad(lambda x: FF.pwl(x, *arguments).sum())(x), slopes)
    torch.testing.assert_close(jvp(lambda x: FF.pwl(x, *arguments), (x,), (x,))[1], slopes * x)
    torch.testing.assert_close(jacrev(lambda x: FF.pwl(x, *arguments).sum(0))(x).sum(0), slopes)
    assert (hessian(lambda x: FF.pwl(x, *arguments).sum())(x) == 0).all()
    for dim in (0, 1, 2):
        many = torch.stack([x, x + 1, -x], dim)
        expected = torch.stack([FF.pwl(t, *arguments) for t in many.unbind(dim)])
        torch.testing.assert_close(vmap(lambda x: FF.pwl(x, *arguments), in_dims=dim)(many), expected)
    per_sample = vmap(grad(lambda x: FF.pwl(x[None], *arguments).sum()))(x)
    torch.testing.assert_close(per_sample, slopes)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch.compiler.reset()
    act = fusedact.PWL(*EVEN)
    x = torch.randn(64, requires_grad=True)
    for function in (act, lambda x: FF.pwl(x, *EVEN)):
        compiled = torch.compile(function, backend=backend, fullgraph=True)
        y, expected = compiled(x), act(x)
        torch.testing.assert_close(y, expected)
        (dx,), (expected_dx,) = (torch.autograd.grad(t.square().sum(), x) for t in (y, expected))
        torch.testing.assert_close(dx, expected_dx)


@pytest.mark.parametrize("arguments", [EVEN, UNEVEN_TABLES], ids=["number", "channels"])
@pytest.mark.parametrize("strict", [False, True])
def test_export(arguments, strict):
    act = fusedact.PWL(*arguments)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(torch.export.export(act, (x,), strict=strict).module()(x), act(x))


def test_make_fx():
    act = fusedact.PWL(*EVEN)
    x = torch.randn(20)
    # Tables are checked at the first call, which asks for their numbers.
    expected = act(x)
    graph = make_fx(act)(x)
    torch.testing.assert_close(graph(x), expected)
    assert torch.ops.fusedact.pwl.default in [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize("arguments", [EVEN, CHANNEL_TABLES], ids=["number", "channels"])
def test_operators(arguments):
    table = fusedact.PWL(*arguments).spec.table
    x = torch.randn(2, 3, 4)
    torch.library.opcheck(torch.ops.fusedact.pwl.default, (x, *table.constants))
    torch.library.opcheck(torch.ops.fusedact.pwl_backward.default, (x, x, *table.constants))


def test_a_dispatch_mode_sees_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(10, requires_grad=True)
    act = fusedact.PWL(*EVEN)
    with Watch():
        y = act(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert {torch.ops.fusedact.pwl.default, torch.ops.fusedact.pwl_backward.default} <= set(seen)
    torch.testing.assert_close(dx, oracle.slope(x, EVEN).float())


# ----- modules


def test_from_slopes():
    act = fusedact.PWL.from_slopes([-1.0, 0.0, 2.0], [0.5, -1.0, 2.0, 0.0], value_at_first=3.0)
    assert act.values.tolist() == [3.0, 2.0, 6.0]
    assert (act.left_slope.item(), act.right_slope.item()) == (0.5, 0.0)


def test_from_function_tells_its_error():
    errors = {}
    for count in (17, 33, 65):
        act = fusedact.PWL.from_function(F.silu, -8.0, 8.0, count, left_slope=0.0)
        x = torch.linspace(-8, 8, 10_001)
        assert (act(x) - F.silu(x)).abs().max() <= act.fitting_error * 1.001 + 1e-6
        assert act.right_slope.item() == pytest.approx(1.0, abs=0.02)
        errors[count] = act.fitting_error
    # Chords: a quarter of the error at half the step.
    assert errors[17] / errors[33] == pytest.approx(4.0, rel=0.15)
    assert errors[33] / errors[65] == pytest.approx(4.0, rel=0.15)


def test_changed_buffers_are_seen():
    act = fusedact.PWL(*EVEN)
    x = torch.randn(50)
    before = act(x)
    with torch.no_grad():
        act.values.mul_(2)
        act.right_slope.mul_(2)
    torch.testing.assert_close(act(x), 2 * before)
    other = fusedact.PWL([-1.0, 0.0, 0.001, 3.0], [0.0, 1.0, 0.0, 2.0])
    fresh = fusedact.PWL([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0])
    fresh(x)
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(fresh(x), other(x))
    assert list(other.state_dict()) == ["breakpoints", "values", "left_slope", "right_slope"]


def test_a_table_given_as_a_tensor_may_change_between_calls():
    x, b, v = torch.randn(50), torch.tensor(EVEN[0]), torch.tensor(EVEN[1])
    before = FF.pwl(x, b, v)
    v.mul_(2)
    torch.testing.assert_close(FF.pwl(x, b, v), 2 * before)
    del v
    torch.testing.assert_close(FF.pwl(x, b, torch.zeros(17)), torch.zeros(50))


def test_copies_and_casts():
    act = fusedact.PWL(*EVEN)
    x = torch.randn(50)
    y = act(x)
    for twin in (copy.deepcopy(act), pickle.loads(pickle.dumps(act))):
        torch.testing.assert_close(twin(x), y)
    double = copy.deepcopy(act).double()
    torch.testing.assert_close(double(x.double()), y.double(), rtol=1e-5, atol=1e-6)
    half = copy.deepcopy(act).half()
    assert half.values.dtype == torch.float16
    torch.testing.assert_close(half(x), y, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(functional_call(act, dict(double.named_buffers()), x), y)
    net = nn.Sequential(nn.Linear(4, 4), act)
    net.zero_grad()
    net(torch.randn(2, 4)).sum().backward()


def test_meta():
    """Made without memory, filled later, as large models are."""
    act = fusedact.PWL(*EVEN, device="meta")
    assert act(torch.empty(3, 4, device="meta")).shape == (3, 4)
    act = act.to_empty(device="cpu")
    act.load_state_dict(fusedact.PWL(*EVEN).state_dict())
    x = torch.randn(50)
    torch.testing.assert_close(act(x), FF.pwl(x, *EVEN))


def test_without_numbers():
    """Meta and fake tensors pass, and leave nothing behind that a later call with the same tables would find."""
    tables_ = [0.0, 1.25, 3.0], [0.0, 2.0, 1.0]
    assert FF.pwl(torch.empty(3, device="meta"), *tables_).is_meta
    with FakeTensorMode():
        assert FF.pwl(torch.empty(3), *tables_).shape == (3,)
    torch.testing.assert_close(FF.pwl(torch.ones(3), *tables_), torch.full((3,), 1.6))


@pytest.mark.parametrize("transform", [grad, lambda f: vmap(f, in_dims=0)], ids=["grad", "vmap"])
@pytest.mark.parametrize("convert", [list, torch.tensor], ids=["sequence", "tensor"])
def test_transforms_check_tables_too(transform, convert):
    breakpoints, values = convert([1.0, 0.0]), convert([0.0, 1.0])
    with pytest.raises(ValueError, match="strictly increasing"):
        transform(lambda x: FF.pwl(x, breakpoints, values).sum())(torch.ones(3))


def test_inference_mode_leaves_usable_tables():
    arguments = [0.0, 1.0, 4.5], [0.0, 2.0, 1.0]
    act = fusedact.PWL(*arguments)
    with torch.inference_mode():
        FF.pwl(torch.ones(3), *arguments)
        act(torch.ones(3))
    for function in (act, lambda x: FF.pwl(x, *arguments)):
        for count in (5, 10_000):
            x = torch.randn(count, requires_grad=True)
            (dx,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
            dx.sum().backward()
            slope = oracle.slope(x, (*arguments, 0.0, 0.0)).float()
            torch.testing.assert_close(x.grad, 2 * slope.square())


def test_a_default_device_is_not_asked():
    x = torch.randn(50)
    expected = [FF.pwl(x, *arguments) for _, arguments in oracle.CASES.values()]
    act = fusedact.PWL(*EVEN)
    piecewise._cache.clear()
    with torch.device("meta"):
        for (_, (b, v, left, right)), y in zip(oracle.CASES.values(), expected, strict=True):
            torch.testing.assert_close(FF.pwl(x, b, v, left, right), y, equal_nan=True)
        copy.deepcopy(act)(x)


def test_threads():
    """Many tables from several threads at once: the cache of prepared ones neither mixes them up nor breaks."""
    x = torch.randn(100)

    def work(i):
        return [FF.pwl(x, [0.0, 1.0 + i], [0.0, 1.0 + i + j], right_slope=1.0 + j) for j in range(40)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for i, results in enumerate(found):
        for j, y in enumerate(results):
            expected = oracle.value(x, ([0.0, 1.0 + i], [0.0, 1.0 + i + j], 0.0, 1.0 + j))
            torch.testing.assert_close(y, expected.float())


def test_names_and_repr():
    assert isinstance(fusedact.create("pwl", breakpoints=[0.0], values=[0.0]), fusedact.PWL)
    x = torch.randn(5)
    torch.testing.assert_close(FF.activate(x, "pwl", breakpoints=[0.0], values=[0.0], right_slope=1.0), F.relu(x))
    assert repr(fusedact.PWL.relu()) == "PWL(1 breakpoint at 0, left_slope=0, right_slope=1)"
    assert "pwl" in fusedact.names()
    assert fusedact.explain(fusedact.PWL.relu(), x).kind == fusedact.explain("pwl", x).kind == "pieces"


def test_sequences_of_every_kind():
    x = torch.randn(20)
    expected = FF.pwl(x, *EVEN)
    for convert in (tuple, np.array, lambda t: torch.tensor(t, dtype=torch.float64)):
        torch.testing.assert_close(FF.pwl(x, convert(EVEN[0]), convert(EVEN[1]), *EVEN[2:]), expected)


# ----- errors

X = torch.zeros(2, 3)
F_ = "fusedact.functional.pwl: "
ERRORS = {
    "input": (lambda: FF.pwl([1.0], [0.0], [0.0]), TypeError, F_ + "x must be a torch.Tensor, got list"),
    "integer input": (
        lambda: FF.pwl(X.long(), [0.0], [0.0]),
        TypeError,
        F_ + "x must have dtype float16, bfloat16, float32 or float64, got int64",
    ),
    "unsorted": (
        lambda: FF.pwl(X, [0.0, 2.0, 1.0], [0.0, 0.0, 0.0]),
        ValueError,
        F_ + "breakpoints must be strictly increasing, got 2.0 before 1.0 at position 1",
    ),
    "repeated": (
        lambda: FF.pwl(X, [0.0, 0.0], [0.0, 0.0]),
        ValueError,
        F_ + "breakpoints must be strictly increasing, got 0.0 before 0.0 at position 0",
    ),
    "repeated in float32": (
        lambda: FF.pwl(X, [1.0, 1.0 + 1e-12], [0.0, 0.0]),
        ValueError,
        F_ + "breakpoints must be strictly increasing, got 1.0 before 1.000000000001 at position 0, "
        "which are the same number in float32",
    ),
    "infinite": (
        lambda: FF.pwl(X, [0.0, float("inf")], [0.0, 0.0]),
        ValueError,
        F_ + "breakpoints must be finite, got inf",
    ),
    "nan value": (lambda: FF.pwl(X, [0.0], [float("nan")]), ValueError, F_ + "values must be finite, got nan"),
    "nan slope": (
        lambda: FF.pwl(X, [0.0], [0.0], float("nan")),
        ValueError,
        F_ + "left_slope must be finite, got nan",
    ),
    "empty": (
        lambda: FF.pwl(X, [], []),
        ValueError,
        F_ + "breakpoints must have shape (K,) or (C, K) with K from 1 to 1024, got shape (0,)",
    ),
    "too long": (
        lambda: FF.pwl(X, torch.arange(1025.0), torch.zeros(1025)),
        ValueError,
        F_ + "breakpoints must have shape (K,) or (C, K) with K from 1 to 1024, got shape (1025,)",
    ),
    "lengths": (
        lambda: FF.pwl(X, [0.0, 1.0], [0.0]),
        ValueError,
        F_ + "breakpoints and values must have the same shape, got (2,) and (1,)",
    ),
    "channels": (
        lambda: FF.pwl(X, torch.zeros(4, 1), torch.zeros(4, 1)),
        ValueError,
        F_ + "x must have 4 channels in dimension 1, got shape (2, 3)",
    ),
    "no such dimension": (
        lambda: FF.pwl(X, torch.zeros(3, 1), torch.zeros(3, 1), channel_dim=2),
        ValueError,
        F_ + "x must have 3 channels in dimension 2, got shape (2, 3)",
    ),
    "slope's shape": (
        lambda: FF.pwl(X, [0.0], [0.0], torch.zeros(2, 2)),
        ValueError,
        F_ + "left_slope must be a number or a tensor of shape (), (1,) or (C,), got shape (2, 2)",
    ),
    "slopes per channel": (
        lambda: FF.pwl(X, [0.0], [0.0], torch.zeros(2)),
        ValueError,
        F_ + "x must have 2 channels in dimension 1, got shape (2, 3)",
    ),
    "slopes of different channels": (
        lambda: FF.pwl(X, [0.0], [0.0], torch.zeros(3), torch.zeros(2)),
        ValueError,
        F_ + "right_slope must be a number or a tensor of shape (), (1,) or (3,), got shape (2,)",
    ),
    "slope's type": (
        lambda: FF.pwl(X, [0.0], [0.0], "steep"),
        TypeError,
        F_ + "left_slope must be a number or a tensor, got str",
    ),
    "integer table": (
        lambda: FF.pwl(X, torch.arange(2), torch.zeros(2)),
        TypeError,
        F_ + "breakpoints must have dtype float16, bfloat16, float32 or float64, got int64",
    ),
    "no table": (
        lambda: FF.pwl(X, "wide", [0.0]),
        TypeError,
        F_ + "breakpoints must be a tensor or a sequence of numbers, got str",
    ),
    "device": (
        lambda: FF.pwl(X, torch.zeros(1, device="meta"), torch.zeros(1)),
        ValueError,
        F_ + "breakpoints must be on the device of x, cpu, got a tensor on meta",
    ),
    "module's table": (
        lambda: fusedact.PWL([1.0, 0.0], [0.0, 0.0]),
        ValueError,
        "fusedact.PWL: breakpoints must be strictly increasing, got 1.0 before 0.0 at position 0",
    ),
    "module's input": (
        lambda: fusedact.PWL(torch.zeros(4, 1), torch.zeros(4, 1))(X),
        ValueError,
        "fusedact.PWL: x must have 4 channels in dimension 1, got shape (2, 3)",
    ),
    "slopes": (
        lambda: fusedact.PWL.from_slopes([0.0, 1.0], [1.0, 1.0]),
        ValueError,
        "fusedact.PWL.from_slopes: slopes must have one entry more than breakpoints, got (2,) for breakpoints (2,)",
    ),
    "range": (
        lambda: fusedact.PWL.from_function(torch.tanh, 1.0, 1.0, 5),
        ValueError,
        "fusedact.PWL.from_function: low must be below high, got 1.0 and 1.0",
    ),
    "count": (
        lambda: fusedact.PWL.from_function(torch.tanh, 0.0, 1.0, 1),
        ValueError,
        "fusedact.PWL.from_function: num_breakpoints must be from 2 to 1024, got 1",
    ),
    "by name": (
        lambda: fusedact.Activation("pwl"),
        ValueError,
        "fusedact.Activation: 'pwl' takes tables, not numbers; use fusedact.PWL",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message
