"""Parameters with one entry per channel, and gradients of parameters in general, on the CPU path."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap

import oracles
import pytest
import torch
from torch import func
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import fusedact
from fusedact import functional as FF
from fusedact import pieces, registry

LEARNED = [n for n in fusedact.names("elementwise") if registry.get(n).parameters]
names = pytest.mark.parametrize("name", LEARNED)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

# Shape and the dimension of channels, of which there are three.
LAYOUTS = {
    "(N, C)": (lambda: torch.randn(29, 3), 1),
    "(N, C, H, W)": (lambda: torch.randn(5, 3, 7, 4), 1),
    "channels_last": (lambda: torch.randn(5, 3, 7, 4).to(memory_format=torch.channels_last), 1),
    "(B, T, C)": (lambda: torch.randn(4, 9, 3), -1),
    "(B, T, C), from the first": (lambda: torch.randn(4, 9, 3), 2),
    "(C, N)": (lambda: torch.randn(3, 31), 0),
    "(1, C)": (lambda: torch.randn(1, 3), 1),
    "(1, C, 1)": (lambda: torch.randn(1, 3, 1), -2),
    "(C,)": (lambda: torch.randn(3), 0),
    "transposed": (lambda: torch.randn(3, 41).t(), 1),
    "sliced": (lambda: torch.randn(20, 9, 11)[::2, 1::3, ::4], 1),
    "expanded": (lambda: torch.randn(1, 3, 1).expand(6, 3, 5), 1),
    "no batch": (lambda: torch.randn(0, 3, 2), 1),
}


def values(count, dtype=torch.float32):
    return torch.linspace(-0.8, 1.3, count).to(dtype).requires_grad_()


def truth(name, x, p, dim, g):
    """Value and gradients in float64, and the sums of absolute terms of the parameter's."""
    shape = [p.numel() if d == dim % x.dim() else 1 for d in range(x.dim())]
    wide, rounded = x.detach().double(), p.detach().float() if x.dtype != torch.float64 else p.detach()
    at = rounded.double().reshape(shape).expand(x.shape)
    flat = [oracles.FUNCTIONS[name], oracles.SLOPES[name], oracles.PARAMETER_SLOPES[name][0]]
    parts = [torch.empty_like(wide) for _ in flat]
    for c in range(p.numel()):
        for part, function in zip(parts, flat, strict=True):
            number = float(rounded[c])
            part.select(dim, c).copy_(function(wide.select(dim, c), number))
    assert at.shape == wide.shape
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    terms = g.double() * parts[2]
    sums = (terms.sum(others), terms.abs().sum(others)) if others else (terms, terms.abs())
    return parts[0], g.double() * parts[1], *sums


def assert_right(name, x, p, dim, g):
    y = getattr(FF, name)(x, p, channel_dim=dim)
    dx, dp = torch.autograd.grad(y, (x, p), g)
    assert (y.shape, y.dtype, dx.shape, dx.dtype) == (x.shape, x.dtype, x.shape, x.dtype)
    assert (dp.shape, dp.dtype) == (p.shape, p.dtype)
    value, slope, total, size = truth(name, x, p, dim, g)
    eps = torch.finfo(x.dtype).eps if x.dtype != torch.float64 else 1e-13
    assert ((y - value).abs() <= eps * (1 + value.abs())).all()
    assert ((dx - slope).abs() <= 2 * eps * (1 + slope.abs() + g.double().abs())).all()
    wide = 1e-13 if torch.float64 in (x.dtype,) else 2.0**-21
    assert ((dp.double() - total).abs() <= wide * size + torch.finfo(p.dtype).eps * total.abs()).all()


@names
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parameter", ["same", "float32"])
def test_layouts(name, layout, dtype, parameter):
    make, dim = LAYOUTS[layout]
    x = make()
    # Not torch.Tensor.to, which makes an expanded tensor whole.
    x = (torch.randn(1, 3, 1).to(dtype).expand(6, 3, 5) if layout == "expanded" else x.to(dtype)).requires_grad_()
    assert_right(name, x, values(3, dtype if parameter == "same" else torch.float32), dim, torch.randn_like(x))


@names
@pytest.mark.parametrize("count", [1, 3, 64, 257, 4096, 16384])
def test_counts(name, count):
    x = torch.randn(6, count, requires_grad=True)
    p = values(count)
    y = getattr(FF, name)(x, p)
    shape = p.detach().reshape(1, count).double()
    composed = {
        "relu_sigmoid": lambda x, t: torch.relu(x - t) * torch.sigmoid(x),
        "elu": lambda x, a: torch.where(x > 0, x, a * torch.expm1(x)),
        "prelu": lambda x, w: torch.where(x > 0, x, w * x),
        "swish": lambda x, b: x * torch.sigmoid(b * x),
    }[name]
    wide, p64 = x.detach().double().requires_grad_(), shape.requires_grad_()
    g = torch.randn_like(x)
    expected = torch.autograd.grad(composed(wide, p64), (wide, p64), g.double())
    dx, dp = torch.autograd.grad(y, (x, p), g)
    torch.testing.assert_close(dx, expected[0].float())
    torch.testing.assert_close(dp, expected[1].reshape(count).float(), atol=1e-5, rtol=1e-5)


@names
@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_pieces_cut_rows_and_channels(name, layout, dtype, size, monkeypatch):
    monkeypatch.setattr(pieces, "_piece_limit", lambda x: size)
    test_layouts(name, layout, dtype, "float32")


@names
def test_an_expanded_gradient(name):
    x = torch.randn(7, 3, 5, requires_grad=True)
    assert_right(name, x, values(3), 1, torch.randn(1, 3, 1).expand(7, 3, 5))


@names
@pytest.mark.parametrize("shape", [(500_000, 3), (3, 500_000)], ids=str)
def test_two_runs_give_the_same_bits(name, shape):
    x, p = torch.randn(shape, requires_grad=True), values(3)
    g = torch.randn(shape)

    def grads():
        return torch.autograd.grad(getattr(FF, name)(x, p, channel_dim=shape.index(3)), (x, p), g)

    for a, b in zip(grads(), grads(), strict=True):
        assert torch.equal(a, b)


@names
@pytest.mark.parametrize("count", [1, 3])
def test_only_what_is_asked_for(name, count, monkeypatch):
    """The lean backward is told what is owed, and returns nothing else."""
    spec, owed = registry.get(name), []
    lean = spec.lean_backward

    def watched(*args, needed=None, **rest):
        grads = lean(*args, needed=needed, **rest)
        owed.append((tuple(needed) if needed is not None else None, [g is not None for g in grads]))
        return grads

    x, g = torch.randn(70_000, 3), torch.randn(70_000, 3)
    p = values(count).detach()
    object.__setattr__(spec, "lean_backward", watched)
    try:
        (dx,) = torch.autograd.grad(getattr(FF, name)(x.requires_grad_(), p), x, g)
        (dp,) = torch.autograd.grad(getattr(FF, name)(x.detach(), p.requires_grad_()), p, g)
    finally:
        object.__setattr__(spec, "lean_backward", lean)
    assert [(n, made[0], any(made[1:])) for n, made in owed] == [
        (owed[0][0], True, False),
        ((False, True), False, True),
    ]
    assert owed[0][0] in (None, (True, False))
    both = torch.autograd.grad(getattr(FF, name)(x, p), (x, p), g)
    torch.testing.assert_close((dx, dp), both)


@names
def test_a_shared_parameter_gets_the_sum(name):
    first, second = (fusedact.create(name, **LEARN[name], num_parameters=3) for _ in range(2))
    attribute = registry.get(name).parameters[0].name
    setattr(second, attribute, getattr(first, attribute))
    x = torch.randn(8, 3)
    shared = getattr(first, attribute)
    (total,) = torch.autograd.grad(first(x).sum() + second(2 * x).sum(), shared)
    parts = [torch.autograd.grad(m.sum(), shared)[0] for m in (first(x), second(2 * x))]
    torch.testing.assert_close(total, parts[0] + parts[1])


LEARN = {name: {} if name == "prelu" else {"learnable": True} for name in LEARNED}


@names
def test_a_hundred_million_terms(name):
    """A period that repeats, whose sum is known exactly: 3 * 2^25 terms in pieces."""
    period, repeats = 2**15, 3 * 2**10
    generator = torch.Generator().manual_seed(0)
    row, g = (torch.randn(period, generator=generator) for _ in range(2))
    p = torch.tensor([0.3], requires_grad=True)
    x, gradient = (t.expand(repeats, period) for t in (row, g))
    (dp,) = torch.autograd.grad(getattr(FF, name)(x, p), p, gradient)
    exact, size = (repeats * f(name, g, row, (0.3,))[0] for f in (oracles.parameter_gradient, oracles.parameter_scale))
    assert (dp.double() - exact).abs() <= 1e-6 * size


@names
@pytest.mark.parametrize("count", [1, 256])
def test_no_temporary_of_full_size(name, count):
    """Beside dx, backward takes a few pieces' worth of memory."""
    x, g = torch.randn(2**14, 256, requires_grad=True), torch.randn(2**14, 256)
    p = values(count)
    y = getattr(FF, name)(x, p)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        grads = torch.autograd.grad(y, (x, p), g)
    del grads
    taken = sum(max(0, e.self_cpu_memory_usage) for e in record.events())
    assert 0 < taken < 4 * (x.numel() + 8 * pieces._piece_limit(x))


# ----- derivatives of every order and mode

PLAIN = {
    "relu_sigmoid": lambda x, t: torch.relu(x - t) * torch.sigmoid(x),
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)),
    "prelu": lambda x, w: torch.where(x > 0, x, w * x),
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
}


@names
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 1), ((2, 3, 2), 1), ((2, 2, 3), -1), ((3,), 0)], ids=str)
def test_finite_differences(name, shape, dim, backend):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64, requires_grad=True)

    def function(x, p):
        return getattr(FF, name)(x, p, channel_dim=dim)

    with fusedact.backend(backend):
        modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
        assert gradcheck(function, (x, p), **modes)
        modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}
        assert gradgradcheck(function, (x, p), **modes)


TRANSFORMS = {
    "grad": lambda f: func.grad(lambda x, p: f(x, p).sum(), argnums=(0, 1)),
    "hessian": lambda f: func.hessian(lambda x, p: f(x, p).sum(), argnums=(0, 1)),
    "jvp": lambda f: lambda x, p: func.jvp(f, (x, p), (torch.cos(x), torch.sin(p))),
    "jvp of grad": lambda f: (
        lambda x, p: func.jvp(func.grad(lambda x, p: f(x, p).sum(), 1), (x, p), (torch.cos(x), torch.sin(p)))
    ),
    "vmap over x": lambda f: lambda x, p: func.vmap(f, (0, None))(torch.stack([x, 2 * x]), p),
    "vmap over the last dimension of x": lambda f: (
        lambda x, p: func.vmap(f, (-1, None))(torch.stack([x, 2 * x], -1), p)
    ),
    "vmap over p": lambda f: lambda x, p: func.vmap(f, (None, 0))(x, torch.stack([p, 2 * p])),
    "vmap over both": lambda f: lambda x, p: func.vmap(f)(torch.stack([x, 2 * x]), torch.stack([p, 2 * p])),
    "per-sample gradients": lambda f: (
        lambda x, p: func.vmap(func.grad(lambda x, p: f(x, p).sum(), (0, 1)), (0, None))(torch.stack([x, 2 * x]), p)
    ),
}


def assert_transformed(name, transform, way=lambda function: function):
    x, p = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    made = TRANSFORMS[transform]
    torch.testing.assert_close(way(made(getattr(FF, name)))(x, p), made(PLAIN[name])(x, p))


@names
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(name, transform):
    assert_transformed(name, transform)


@names
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap over x"])
def test_transforms_under_compile(name, transform):
    torch.compiler.reset()
    assert_transformed(name, transform, lambda function: torch.compile(function, backend="aot_eager"))


@names
def test_operators(name):
    """What a dispatch mode sees, and that it gives what the direct way gives."""
    x, p = torch.randn(5, 3, 2), values(3).detach()

    def grads(x, p):
        x, p = x.detach().requires_grad_(), p.detach().requires_grad_()
        return torch.autograd.grad(getattr(FF, name)(x, p).sum(), (x, p))

    with fusedact.backend("eager"):
        graph = make_fx(grads)(x, p)
        called = {str(n.target) for n in graph.graph.nodes}
        assert {f"fusedact.{name}.tensor", f"fusedact.{name}_backward.tensor"} <= called
        torch.testing.assert_close(graph(x, p), grads(x, p))
        packet = getattr(torch.ops.fusedact, name)
        torch.library.opcheck(packet.tensor, (x, p), {"channel": 1})
        backward = getattr(torch.ops.fusedact, f"{name}_backward").tensor
        torch.library.opcheck(backward, (torch.randn_like(x), x, p, [True, True]), {"channel": 1})


@names
def test_meta_and_traced(name):
    x, p = torch.randn(5, 3), values(3).detach()
    function = getattr(FF, name)
    assert function(x.to("meta"), p.to("meta")).is_meta
    traced = torch.jit.trace(function, (x, p))
    torch.testing.assert_close(traced(2 * x, p), function(2 * x, p))
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    x, p = x.requires_grad_(), p.requires_grad_()
    for a, b in zip(*(torch.autograd.grad(f(x, p).sum(), (x, p)) for f in (compiled, function)), strict=True):
        torch.testing.assert_close(a, b)


# ----- the twin


@pytest.mark.parametrize("size", [2**8, 2**18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 16])
def test_prelu_is_that_of_torch(size, dtype, count):
    x, g = (torch.randn(size // 16, 16).to(dtype) for _ in range(2))
    x[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x = x.requires_grad_()
    w = values(count, dtype)
    ours, theirs = FF.prelu(x, w), F.prelu(x, w)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    (dx, _), (expected, _) = (torch.autograd.grad(y, (x, w), g) for y in (ours, theirs))
    torch.testing.assert_close(dx, expected, rtol=0, atol=0, equal_nan=True)


# ----- data parallel training

WORKER = """
    import sys, torch, torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel as DDP
    import fusedact

    rank, store = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), fusedact.PReLU(6), fusedact.Swish(learnable=True), fusedact.ReLUSigmoid(0.1, True, 6)
    )
    data = torch.randn(20, 4)
    whole = torch.autograd.grad(net(data).square().mean(), list(net.parameters()))
    parallel = DDP(net)
    parallel(data[rank::2]).square().mean().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], list(whole))
    dist.destroy_process_group()
"""


def test_averaging_over_two_processes(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
