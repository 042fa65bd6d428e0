"""Piecewise-linear functions whose tables learn: all gradients, transforms, modules and what they hold, errors."""

from __future__ import annotations

import copy
import functools
import io
import pickle

import pwl_oracle
import pytest
import torch
from functorch.compile import make_boxed_func
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_oracle import assert_sums, composition, gradients, inputs, made, rising
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import fusedact
from fusedact import execution
from fusedact import functional as FF
from fusedact.piecewise import learned, table_rows

COUNTS = (2, 3, 8, 16, 17, 64, 256, 1024)
ALL = ("values", "slopes", "breakpoints")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


# ----- values and gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spacing", ["even", "uneven"])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("count", COUNTS)
def test_all_gradients(count, channels, spacing, dtype):
    points = made(count, spacing, channels)
    # Channels first: the composition takes one at a time.
    x = inputs(points[0], (3, 300, 4)).to(dtype)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    given = [t.float() if dtype != torch.float64 else t for t in points]
    y, dx, *found = gradients(functools.partial(FF.pwl, channel_dim=0), x, given, g)
    reference = functools.partial(composition, channel_dim=0)
    truth_y, truth_dx, *truth = gradients(reference, x.double(), points, g.double())
    _, _, *terms = gradients(reference, x.double(), rising(*points), g.double().abs())
    precision = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(y.double(), truth_y, rtol=precision, atol=1e-5)
    torch.testing.assert_close(dx.double(), truth_dx, rtol=precision, atol=1e-5)
    for sums in zip(found, truth, terms, strict=True):
        assert_sums(*sums, 1e-10 if dtype == torch.float64 else 1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_tables(data):
    """Any breakpoints at least 2^-10 apart, any values, any inputs, 0 and breakpoints among them."""
    count = data.draw(st.integers(1, 12))
    steps = data.draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count))
    b = torch.tensor(steps, dtype=torch.float64).cumsum(0) / 1024 - data.draw(st.integers(0, 20))
    numbers = st.floats(-8, 8, width=32)
    v, (left, right) = (
        torch.tensor(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=torch.float64) for n in (count, 2)
    )
    places = st.one_of(st.floats(-30, 30, width=32), st.sampled_from(b.tolist()))
    x = torch.tensor(data.draw(st.lists(places, min_size=1, max_size=20)), dtype=torch.float64)
    points, g = [b, v, left.reshape(1), right.reshape(1)], torch.linspace(-1, 2, len(x), dtype=torch.float64)
    for ours, theirs in zip(gradients(FF.pwl, x, points, g), gradients(composition, x, points, g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("needed", [n for n in range(1, 32) if n != 31])
def test_only_what_is_asked_for(needed):
    points = made(5, "uneven", 3)
    x = torch.randn(7, 3, dtype=torch.float64)
    leaves = [t.clone().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate((x, *points))]
    wanted = [t for t in leaves if t.requires_grad]
    found = torch.autograd.grad(FF.pwl(*leaves).square().sum(), wanted)
    expected = torch.autograd.grad(composition(*leaves).square().sum(), wanted)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shared", range(4))
def test_what_channels_share_gets_the_sum(shared):
    points = made(5, "uneven", 3)
    points[shared] = points[shared][:1].clone() if shared > 1 else points[shared][0].clone()
    x, g = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(gradients(FF.pwl, x, points, g), gradients(composition, x, points, g))


@pytest.mark.parametrize("place", [0, 1, -1])
def test_the_place_of_channels(place):
    points = made(5, "even", 4)
    x, g = torch.randn(4, 4, 4, dtype=torch.float64), torch.randn(4, 4, 4, dtype=torch.float64)
    found = gradients(lambda *a: FF.pwl(*a, channel_dim=place), x, points, g)
    torch.testing.assert_close(found, gradients(lambda *a: composition(*a, channel_dim=place), x, points, g))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite(dtype):
    """An infinity goes with the outer value and slope, a NaN with the first: nothing else is touched."""
    b, v = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 2.0])

    def table_gradients(*x):
        leaves = [t.clone().requires_grad_() for t in (v, torch.tensor([0.5]), torch.tensor([1.5]))]
        y = FF.pwl(torch.tensor(x, dtype=dtype), b, *leaves)
        return [t.tolist() for t in torch.autograd.grad(y, leaves, torch.full_like(y, 2.0))]

    inf, nan = torch.inf, torch.nan
    assert table_gradients(inf, 0.5) == [[0.0, 1.0, 3.0], [0.0], [inf]]
    assert table_gradients(-inf, 0.5) == [[2.0, 1.0, 1.0], [-inf], [0.0]]
    (first, *rest), (left,), right = table_gradients(nan, 0.5)
    assert (first, rest, right) == (2.0, [1.0, 1.0], [0.0]) and left != left


def test_sums_repeat_to_the_bit():
    x, g = torch.randn(2, 3, 2**17)
    points = [t.float() for t in made(17, "even", 3)]
    x, g = x.T.contiguous(), g.T.contiguous()
    first, second = (gradients(FF.pwl, x, points, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_the_input_and_the_tables_are_kept():
    kept = []
    x = torch.randn(1000, requires_grad=True)
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 17, learnable=ALL)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        act(x)
    assert sum(t.numel() == 1000 for t in kept) == 1
    assert max(t.numel() for t in kept if t.numel() != 1000) == 17


# ----- orders, transforms, compilers


def double(channels=None, count=4, spacing="uneven"):
    points = made(count, spacing, channels)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return [t.requires_grad_() for t in (x, *points)]


@pytest.mark.parametrize("channels", [None, 3])
def test_gradcheck(channels):
    leaves = double(channels)
    assert gradcheck(FF.pwl, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(FF.pwl, leaves, check_batched_grad=True)


def test_mixed_second_order():
    """Zero along x twice; along x and the values it is the slope's derivative."""
    x, b, v, left, right = double()
    (dx,) = torch.autograd.grad(FF.pwl(x, b, v, left, right).sum(), x, create_graph=True)
    ddx, dv = torch.autograd.grad(dx.sum(), (x, v), allow_unused=True, materialize_grads=True)
    assert not ddx.any()
    inside = torch.bucketize(x.detach(), b.detach(), right=True)
    steps = 1 / b.detach().diff()
    counts = torch.stack([(inside == i + 1).sum() for i in range(3)])
    expected = torch.zeros(4, dtype=torch.float64)
    expected[1:] += counts * steps
    expected[:-1] -= counts * steps
    torch.testing.assert_close(dv, expected)


@pytest.mark.parametrize("channels", [None, 3])
def test_transforms(channels):
    x, *points = (t.detach() for t in double(channels))

    def loss(*args):
        return FF.pwl(*args).square().sum()

    def reference(*args):
        return composition(*args).square().sum()

    every = tuple(range(5))
    torch.testing.assert_close(grad(loss, every)(x, *points), grad(reference, every)(x, *points))
    tangents = tuple(torch.ones_like(t) for t in (x, *points))
    torch.testing.assert_close(jvp(FF.pwl, (x, *points), tangents), jvp(composition, (x, *points), tangents))
    batch = torch.stack([points[1], 2 * points[1]])
    found = vmap(grad(loss, (0, 2)), (None, None, 0, None, None))(x, points[0], batch, *points[2:])
    for i, v in enumerate(batch):
        expected = grad(reference, (0, 2))(x, points[0], v, *points[2:])
        torch.testing.assert_close([t[i] for t in found], list(expected))
    torch.testing.assert_close(jacfwd(FF.pwl, 2)(x, *points), jacfwd(composition, 2)(x, *points))


@pytest.mark.parametrize(
    ("backend", "channels", "learnable"),
    [("aot_eager", None, ALL), ("aot_eager", 3, ALL), ("inductor", 3, "values")],
    ids=str,
)
def test_compile(backend, channels, learnable):
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=learnable, num_parameters=channels or 1)
    x = torch.randn(64, 3, requires_grad=True)
    leaves = [x, *act.parameters()]
    compiled = torch.compile(act, backend=backend, fullgraph=True)
    for _ in range(2):
        y, z = compiled(x), act(x)
        torch.testing.assert_close(y, z)
        found, expected = (torch.autograd.grad(t.square().sum(), leaves) for t in (y, z))
        torch.testing.assert_close(found, expected)
        with torch.no_grad():
            for p in act.parameters():
                p.mul_(1.1)


@pytest.mark.parametrize(("channels", "learnable"), [(1, "values"), (3, ALL)], ids=str)
def test_compiled_graphs_keep_the_operators(learnable, channels, monkeypatch):
    """Where kernels serve a device; so they do not on this one."""
    monkeypatch.setattr(learned, "OPERATOR_DEVICES", ("cpu",))
    targets = []

    def backend(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=learnable, num_parameters=channels)
    x = torch.randn(64, 3, requires_grad=True)
    leaves = [x, *act.parameters()]
    inspect_backend = aot_autograd(fw_compiler=backend, bw_compiler=backend)
    y, z = torch.compile(act, backend=inspect_backend, fullgraph=True)(x), act(x)
    torch.testing.assert_close(y, z)
    found, expected = (torch.autograd.grad(t.square().sum(), leaves) for t in (y, z))
    torch.testing.assert_close(found, expected)
    assert {"fusedact.pwl.default", "fusedact.pwl_learned_backward.default"} <= set(targets)
    # Not under transforms.
    points = [t.detach() for t in (act.breakpoints, act.values)]

    def slope(x, v):
        return grad(lambda v: FF.pwl(x, points[0], v).sum())(v)

    compiled = torch.compile(slope, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.detach(), points[1]), slope(x.detach(), points[1]))


def test_export():
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=("values", "breakpoints"), monotone=True)
    x = torch.randn(6, 3)
    program = torch.export.export(act, (x,))
    torch.testing.assert_close(program.module()(x), act(x))


def test_dispatch_modes_see_operators():
    x, v = torch.randn(6), torch.randn(4).requires_grad_()

    def step(x, v):
        return torch.autograd.grad(FF.pwl(x, [-1.0, 0.0, 1.0, 2.0], v).sum(), v)[0]

    graph = make_fx(step)(x, v)
    called = [str(node.target) for node in graph.graph.nodes]
    assert "fusedact.pwl.default" in called
    assert "fusedact.pwl_learned_backward.default" in called
    torch.testing.assert_close(graph(x, v.detach()), step(x, v))


@pytest.mark.parametrize("wanted", ["values", "lines"])
def test_operators(wanted):
    b, v, left, right = (t.float() for t in made(5, "even", 3))
    table = learned.Points(b, v, left, right).table(torch.empty(0), table_rows.SEARCH, 1)
    args = (torch.randn(4, 3), torch.randn(4, 3), *table.constants)
    for dx_needed in (True, False):
        torch.library.opcheck(torch.ops.fusedact.pwl_learned_backward.default, (*args, dx_needed, wanted, True))


def test_operators_know_the_whole_plan(monkeypatch):
    """Else kernels would sum in another way under a dispatch mode than without."""
    points = torch.linspace(-1, 1, 5), torch.rand(5)
    how = table_rows.plan(*points)
    seen, run = [], execution.learned_backward
    monkeypatch.setattr(
        execution, "learned_backward", lambda call, *a: seen.append(call.spec.table.how) or run(call, *a)
    )
    table = learned.Points(*points, 0.0, 1.0).table(torch.empty(0), how, 1)
    torch.ops.fusedact.pwl_learned_backward(torch.ones(3), torch.randn(3), *table.constants, True, "values", False)
    assert how.even and seen == [how]


# ----- modules


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("learnable", [True, "values", "slopes", "breakpoints", ALL], ids=str)
def test_modules(learnable, monotone, channels):
    names = ("values",) if learnable is True else (learnable,) if isinstance(learnable, str) else learnable
    if monotone and "values" not in names:
        return
    b, v = [-1.0, -0.25, 0.5, 2.0], [-1.0, 0.125, 0.25, 2.0]
    act = fusedact.PWL(b, v, 0.5, 1.5, learnable, channels, monotone=monotone)
    held = {"breakpoints": ("breakpoints",), "values": ("values",), "slopes": ("left_slope", "right_slope")}
    held |= {"breakpoints": ("first_breakpoint", "gaps")} if "breakpoints" in names else {}
    held |= {"values": ("first_value", "inner_slopes")} if monotone else {}
    assert set(act.state_dict()) == {n for group in held.values() for n in group}
    assert {n for n, _ in act.named_parameters()} == {n for name in names for n in held[name]}
    for p in act.parameters():
        assert p.dim() >= 1 and (channels == 1 or p.shape[0] == channels)
    for name, expected in (("breakpoints", b), ("values", v), ("left_slope", [0.5]), ("right_slope", [1.5])):
        found = getattr(act, name).detach()
        torch.testing.assert_close(found, torch.tensor(expected).expand_as(found))
    x = torch.randn(20, 3, requires_grad=True)
    tables_now = (act.breakpoints, act.values, act.left_slope, act.right_slope)
    y, expected = act(x), composition(x, *tables_now)
    torch.testing.assert_close(y, expected)
    leaves = [x, *act.parameters()]
    found, truth = (torch.autograd.grad(t.square().sum(), leaves) for t in (y, expected))
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(act(x), y.detach())


def test_values_learn_a_function():
    torch.manual_seed(0)
    act = fusedact.PWL([-2.0, -1.0, 0.0, 1.0, 2.0], [0.0] * 5, learnable=("values", "slopes"))
    optimizer = torch.optim.Adam(act.parameters(), 0.05)
    for _ in range(300):
        x = torch.rand(256) * 6 - 3
        optimizer.zero_grad()
        (act(x) - x.abs()).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(act.values.detach(), torch.tensor([2.0, 1.0, 0.0, 1.0, 2.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(act.left_slope.item(), -1.0, rtol=0, atol=0.1)


def test_breakpoints_that_no_longer_learn():
    """Frozen ones are not taken for those of another module, nor for what they were before a change."""
    x = torch.randn(50)
    for low in (-3.0, -2.0):
        act = fusedact.PWL.from_function(torch.tanh, low, 2.0, 9, learnable=("values", "breakpoints"))
        for name in ("first_breakpoint", "gaps"):
            getattr(act, name).requires_grad_(False)
        for _ in range(2):
            expected = composition(x, act.breakpoints, act.values, act.left_slope, act.right_slope)
            torch.testing.assert_close(act(x), expected)
            act.first_breakpoint.data.add_(0.5)


def test_breakpoints_never_cross():
    torch.manual_seed(0)
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 17, learnable=("values", "breakpoints"), num_parameters=3)
    optimizer = torch.optim.SGD(act.parameters(), lr=100.0)
    for _ in range(30):
        optimizer.zero_grad()
        y = act(torch.randn(50, 3) * 3)
        (y * torch.randn_like(y)).sum().backward()
        optimizer.step()
        assert (act.breakpoints.diff() > 0).all() and act(torch.randn(5, 3)).isfinite().all()
    with torch.no_grad():
        act.first_breakpoint.fill_(1e6)
        act.gaps.fill_(-1.0)
    assert (act.breakpoints.diff() > 0).all()


def test_a_monotone_function_stays_so():
    torch.manual_seed(0)
    act = fusedact.PWL([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0], 0.0, 1.0, ("values", "slopes"), monotone=True)
    optimizer = torch.optim.SGD(act.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        act(torch.linspace(-2, 2, 41)).diff().sum().backward()
        optimizer.step()
    x = torch.linspace(-3, 3, 101)
    assert (act(x).diff() >= 0).all()
    assert act.left_slope.item() == 0.0
    # An optimizer goes on from the bound.
    act(x).diff().sum().mul(-1).backward()
    optimizer.step()
    assert (act(x).diff() > 0).any()


def test_state_dicts_of_one_table_load_into_one_per_channel():
    one = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=ALL)
    several = fusedact.PWL.from_function(torch.sin, -3.0, 3.0, 9, learnable=ALL, num_parameters=3)
    several.load_state_dict(one.state_dict())
    x = torch.randn(20, 3)
    torch.testing.assert_close(several(x), one(x))
    with pytest.raises(RuntimeError, match="3 channels, and this module one for all; make it with num_parameters=3"):
        one.load_state_dict(several.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for values"):
        fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 8, learnable=True).load_state_dict(
            fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=True).state_dict()
        )


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "save"])
def test_copies(copied):
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=ALL, num_parameters=3, monotone=True)
    x = torch.randn(20, 3)
    act(x)
    if copied == "save":
        file = io.BytesIO()
        torch.save(act, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = pickle.loads(pickle.dumps(act)) if copied == "pickle" else copy.deepcopy(act)
    torch.testing.assert_close(other(x), act(x))
    with torch.no_grad():
        other.first_value.add_(1.0)
    assert not torch.equal(other(x), act(x))


def test_functional_call_and_parameters_begin_anew():
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=True)
    x = torch.randn(20)
    before = act(x)
    doubled = functional_call(act, {"values": 2 * act.values}, (x,))
    inside = x.abs() < 3
    torch.testing.assert_close(doubled[inside], 2 * before[inside])
    with torch.no_grad():
        act.values.zero_()
    act.reset_parameters()
    torch.testing.assert_close(act(x), before)
    on_meta = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=True, device="meta")
    made_here = on_meta.to_empty(device="cpu")
    made_here.reset_parameters()
    torch.testing.assert_close(made_here(x), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_and_halves(dtype):
    act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=True, num_parameters=4)
    net = nn.Sequential(nn.Linear(4, 4), act)
    with torch.autocast("cpu", dtype):
        y = net(torch.randn(8, 4))
    assert y.dtype == dtype
    y.sum().backward()
    assert act.values.grad.dtype == torch.float32 and act.values.grad.any()
    whole = net.to(dtype)
    whole(torch.randn(8, 4, dtype=dtype)).sum().backward()
    assert act.values.dtype == dtype


def test_fully_sharded():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        x = torch.randn(8, 3)
        act = fusedact.PWL.from_function(torch.tanh, -3.0, 3.0, 9, learnable=ALL, num_parameters=3, monotone=True)
        expected = torch.autograd.grad(act(x).square().sum(), list(act.parameters()))
        net = nn.Sequential(act)
        mesh = init_device_mesh("cpu", (1,))
        fsdp.fully_shard(net, mesh=mesh)
        net(x).square().sum().backward()
        found = [p.grad.full_tensor() for p in net.parameters()]
        torch.testing.assert_close(found, list(expected))
    finally:
        torch.distributed.destroy_process_group()


# ----- what is refused

B, V = [-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]
ERRORS = {
    "one breakpoint": (
        lambda: fusedact.PWL([0.0], [0.0], 0.0, 1.0, learnable=True),
        ValueError,
        "fusedact.PWL: values learn at two breakpoints or more, got one; its slopes may learn",
    ),
    "learnable's name": (
        lambda: fusedact.PWL(B, V, learnable="knots"),
        ValueError,
        "fusedact.PWL: learnable names 'knots'; the tables that learn are values, slopes, breakpoints",
    ),
    "learnable's type": (
        lambda: fusedact.PWL(B, V, learnable=1.0),
        TypeError,
        "fusedact.PWL: learnable must be a bool, one of 'values', 'slopes', 'breakpoints' or a tuple of these, "
        "got float",
    ),
    "channels that nothing learns": (
        lambda: fusedact.PWL(B, V, num_parameters=4),
        ValueError,
        "fusedact.PWL: num_parameters must be 1, since nothing is learnable, got 4",
    ),
    "other channels": (
        lambda: fusedact.PWL(B, [V, V], learnable=True, num_parameters=4),
        ValueError,
        "fusedact.PWL: num_parameters must be 2, as the tables have channels, got 4",
    ),
    "input's channels": (
        lambda: fusedact.PWL(B, V, learnable=True, num_parameters=4)(torch.randn(2, 3)),
        ValueError,
        "fusedact.PWL: x must have 4 channels in dimension 1, got shape (2, 3)",
    ),
    "unsorted": (
        lambda: fusedact.PWL([0.0, -1.0], [0.0, 1.0], learnable="breakpoints"),
        ValueError,
        "fusedact.PWL: breakpoints must be strictly increasing, got 0.0 before -1.0 at position 0",
    ),
    "not monotone": (
        lambda: fusedact.PWL(B, [0.0, -0.5, 1.0], learnable=True, monotone=True),
        ValueError,
        "fusedact.PWL: monotone=True needs slopes of at least min_slope=0 to begin with, got -0.5",
    ),
    "outer slope not monotone": (
        lambda: fusedact.PWL(B, V, -0.25, learnable=True, monotone=True),
        ValueError,
        "fusedact.PWL: monotone=True needs slopes of at least min_slope=0 to begin with, got -0.25",
    ),
    "monotone, fixed": (
        lambda: fusedact.PWL(B, V, monotone=True),
        ValueError,
        "fusedact.PWL: monotone=True needs learnable values, got learnable=()",
    ),
    "min_gap": (
        lambda: fusedact.PWL(B, V, learnable="breakpoints", min_gap=2.0),
        ValueError,
        "fusedact.PWL: min_gap must be positive and at most the smallest gap between breakpoints, 1, got 2.0",
    ),
    "value of another K": (
        lambda: FF.pwl(torch.randn(3), B, torch.zeros(4, requires_grad=True)),
        ValueError,
        "fusedact.functional.pwl: breakpoints and values must have the same shape, got (3,) and (4,)",
    ),
    "unsorted, learned": (
        lambda: FF.pwl(torch.randn(3), torch.tensor([1.0, 0.0], requires_grad=True), [0.0, 1.0]),
        ValueError,
        "fusedact.functional.pwl: breakpoints must be strictly increasing, got 1.0 before 0.0 at position 0",
    ),
    "not finite, learned": (
        lambda: FF.pwl(torch.randn(3), [0.0, 1.0], torch.tensor([1.0, torch.nan], requires_grad=True)),
        ValueError,
        "fusedact.functional.pwl: values must be finite, got nan",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


def test_a_table_that_became_nonsense_is_refused():
    act = fusedact.PWL(B, V, learnable=True)
    act.breakpoints.copy_(torch.tensor([1.0, 0.0, 2.0]))
    with pytest.raises(ValueError, match="strictly increasing"):
        act(torch.randn(3))


def test_numpy_interp():
    import numpy as np

    b, v, left, right = made(17, "uneven")
    x = torch.linspace(b[0].item(), b[-1].item(), 1001, dtype=torch.float64)
    y = FF.pwl(x, b, v.requires_grad_(), left, right)
    np.testing.assert_allclose(y.detach().numpy(), np.interp(x, b, v.detach()), rtol=1e-12, atol=1e-12)


def test_the_cases_of_fixed_tables():
    """Learned tables give what the same ones give when they are fixed, to the bit."""
    for b, v, left, right in (case[1] for case in pwl_oracle.CASES.values()):
        x = pwl_oracle.inputs32((b, v, left, right)).requires_grad_()
        fixed, leaf = FF.pwl(x, b, v, left, right), torch.tensor(v, requires_grad=True)
        learning = FF.pwl(x, b, leaf, left, right)
        torch.testing.assert_close(learning, fixed, rtol=0, atol=0, equal_nan=True)
        ours, theirs = (torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (learning, fixed))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_devices_and_precision():
    assert fusedact.PWL.leaky_relu(0.1, dtype=torch.float64).left_slope.item() == 0.1
    with torch.device("meta"):
        assert fusedact.PWL(B, V, learnable=True).values.is_meta
    assert fusedact.PWL(torch.tensor(B), torch.tensor(V)).breakpoints.device.type == "cpu"
