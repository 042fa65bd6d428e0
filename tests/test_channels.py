"""Parameters with one entry per channel, and gradients of parameters in general, on the CPU path."""

from __future__ import annotations

import gc

import oracles
import pytest
import torch
from gallery import GALLERY
from torch import func
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import fusedact
from fusedact import dispatch, registry, shortest
from fusedact import functional as FF
from fusedact.cpu import pieces

# Those with one parameter and all that is written by hand; `others` of the catalog are below.
LEARNED = ["relu_sigmoid", "elu", "prelu", "swish"]
OTHERS = [n for n in oracles.NAMES if registry.get(n).learnable and n not in LEARNED]
names = pytest.mark.parametrize("name", LEARNED)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

# A tensor of a dtype, and the dimension of channels, of which there are three.
LAYOUTS = {
    "(N, C)": (lambda dtype: torch.randn(29, 3, dtype=dtype), 1),
    "(N, C, H, W)": (lambda dtype: torch.randn(5, 3, 7, 4, dtype=dtype), 1),
    "channels_last": (lambda dtype: torch.randn(5, 3, 7, 4, dtype=dtype).to(memory_format=torch.channels_last), 1),
    "(B, T, C)": (lambda dtype: torch.randn(4, 9, 3, dtype=dtype), -1),
    "(B, T, C), from the first": (lambda dtype: torch.randn(4, 9, 3, dtype=dtype), 2),
    "(C, N)": (lambda dtype: torch.randn(3, 31, dtype=dtype), 0),
    "(C, N), from the last": (lambda dtype: torch.randn(3, 31, dtype=dtype), -2),
    "(1, C)": (lambda dtype: torch.randn(1, 3, dtype=dtype), 1),
    "(1, C, 1)": (lambda dtype: torch.randn(1, 3, 1, dtype=dtype), -2),
    "(C,)": (lambda dtype: torch.randn(3, dtype=dtype), 0),
    "transposed": (lambda dtype: torch.randn(3, 41, dtype=dtype).t(), 1),
    "permuted": (lambda dtype: torch.randn(3, 5, 7, dtype=dtype).permute(2, 0, 1), 1),
    "sliced": (lambda dtype: torch.randn(20, 9, 11, dtype=dtype)[::2, 1::3, ::4], 1),
    "half of the channels": (lambda dtype: torch.randn(7, 6, 5, dtype=dtype).chunk(2, dim=1)[1], 1),
    "expanded": (lambda dtype: torch.randn(1, 3, 1, dtype=dtype).expand(6, 3, 5), 1),
    "no batch": (lambda dtype: torch.randn(0, 3, 2, dtype=dtype), 1),
}

# Of the output, from a dense one.
GRADIENTS = {
    "dense": lambda g: g,
    "one number": lambda g: torch.full((), -0.7).to(g.dtype).expand(g.shape),
    "expanded": lambda g: g[..., :1].expand(g.shape),
    "of another layout": lambda g: g.transpose(0, -1).contiguous().transpose(0, -1),
    "negative": lambda g: torch.complex(torch.zeros_like(g), -g).conj().imag,
}


def values(count, dtype=torch.float32):
    """For each channel another, from 61 on again the first."""
    return torch.linspace(-0.8, 1.3, min(count, 61)).repeat(1 + count // 61)[:count].to(dtype).requires_grad_()


def truth(name, x, p, dim, g):
    """Value and gradients in float64, and the sums of what the terms of the parameter's may lose."""
    rounded = p.detach() if x.dtype == torch.float64 else p.detach().float()
    parts = [torch.empty(x.shape, dtype=torch.float64) for _ in range(3)]
    slopes = oracles.FUNCTIONS[name], oracles.SLOPES[name], oracles.PARAMETER_SLOPES[name][0]
    for number in rounded.unique().tolist():
        channels = (rounded == number).nonzero().flatten()
        for part, function in zip(parts, slopes, strict=True):
            part.index_copy_(dim, channels, function(x.detach().index_select(dim, channels).double(), number))
    terms, others = g.double() * parts[2], [d for d in range(x.dim()) if d != dim % x.dim()]
    # swish's have 1 - sigmoid as a factor, which cancels.
    lost = terms.abs() + ((g * x.detach() ** 2).abs().double() if name == "swish" else 0.0)
    sums = (terms.sum(others), lost.sum(others)) if others else (terms, lost)
    return parts[0], g.double() * parts[1], *sums


def assert_right(name, x, p, dim, g):
    y = getattr(FF, name)(x, p, channel_dim=dim)
    dx, dp = torch.autograd.grad(y, (x, p), g)
    assert (y.shape, y.dtype, dx.shape, dx.dtype) == (x.shape, x.dtype, x.shape, x.dtype)
    assert (dp.shape, dp.dtype) == (p.shape, p.dtype)
    value, slope, total, size = truth(name, x, p, dim, g)
    eps = torch.finfo(x.dtype).eps if x.dtype != torch.float64 else 1e-13
    assert ((y - value).abs() <= 2 * eps * (1 + value.abs())).all()
    assert ((dx - slope).abs() <= 2 * eps * (1 + slope.abs() + g.double().abs())).all()
    terms = 1e-13 if x.dtype == torch.float64 else 2.0**-21
    assert ((dp.double() - total).abs() <= terms * size + torch.finfo(p.dtype).eps * total.abs()).all()


def drawn(layout, dtype, parameter):
    make, dim = LAYOUTS[layout]
    return make(dtype).requires_grad_(), values(3, dtype if parameter == "same" else torch.float32), dim


@names
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parameter", ["same", "float32"])
def test_layouts(name, layout, dtype, parameter):
    x, p, dim = drawn(layout, dtype, parameter)
    assert_right(name, x, p, dim, torch.randn(x.shape, dtype=dtype))


@pytest.fixture
def cuts(monkeypatch):
    """Pieces of so many elements, also of what PyTorch's operator would serve; and how many each call was cut into."""
    counts, cut = [], pieces.pieces_of

    def counted(*tensors, limit):
        parts = list(cut(*tensors, limit=limit))
        counts.append(len(parts))
        return iter(parts)

    def limit(size):
        monkeypatch.setattr(pieces, "piece_limit", lambda x, table_sums=False: size)
        return counts

    for module in (dispatch, shortest):
        monkeypatch.setattr(module, "ATEN_TENSORS_BELOW", 0)
    monkeypatch.setattr(pieces, "pieces_of", counted)
    return limit


@names
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "parameter"),
    [(torch.float32, "same"), (torch.bfloat16, "float32"), (torch.float16, "same"), (torch.float64, "same")],
    ids=str,
)
def test_pieces_cut_rows_and_channels(name, layout, dtype, parameter, size, cuts):
    x, p, dim = drawn(layout, dtype, parameter)
    counts = cuts(size)
    assert_right(name, x, p, dim, torch.randn(x.shape, dtype=dtype))
    assert max(counts, default=1) >= x.numel() / size


@names
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("layout", ["(N, C, H, W)", "channels_last", "permuted"])
def test_gradients_of_another_layout(name, layout, gradient, cut, cuts):
    x, p, dim = drawn(layout, torch.float32, "same")
    cuts(8 if cut else 2**18)
    assert_right(name, x, p, dim, GRADIENTS[gradient](torch.randn(x.shape)))


PARAMETERS = {
    "sliced": lambda p: torch.stack([p, p + 1], 1)[:, 0],
    "expanded": lambda p: p[:1].expand(3),
    "negative": GRADIENTS["negative"],
}


@names
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("kind", PARAMETERS)
def test_parameters_in_memory_of_any_kind(name, kind, cut, cuts):
    x, p, dim = drawn("(N, C, H, W)", torch.float32, "same")
    cuts(8 if cut else 2**18)
    assert_right(name, x, PARAMETERS[kind](p.detach()).requires_grad_(), dim, torch.randn(x.shape))


@names
@pytest.mark.parametrize("last", [False, True], ids=["second", "last"])
@pytest.mark.parametrize("count", [1, 3, 64, 257, 4096, 16384])
def test_counts(name, count, last):
    shape, dim = ((6, count), -1) if last else ((2, count, 3), 1)
    assert_right(name, torch.randn(shape, requires_grad=True), values(count), dim, torch.randn(shape))


@names
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("layout", ["(N, C)", "(B, T, C)", "(C, N)", "channels_last", "sliced"])
def test_in_place(name, layout, cut, cuts):
    (x, p, dim), function = drawn(layout, torch.float32, "same"), getattr(FF, name)
    cuts(8 if cut else 2**18)
    expected = function(x.detach(), p.detach(), channel_dim=dim)
    given = LAYOUTS[layout][0](torch.float32).copy_(x.detach())
    assert function(given, p.detach(), inplace=True, channel_dim=dim) is given
    assert torch.equal(given, expected)
    results = []
    for inplace in (False, True):
        y = function(x * 2, p, inplace=inplace, channel_dim=dim)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, p))))
    torch.testing.assert_close(*results)


def swept(name, column, gradient):
    """With a channel for each value that numbers are tested with: these, and the channels of y and dx."""
    sweep = oracles.PARAMETERS[name]
    p = torch.tensor(sweep).flatten().requires_grad_()
    x, g = (t.unsqueeze(1).repeat(1, len(sweep)) for t in (column, gradient))
    y = getattr(FF, name)(x.requires_grad_(), p)
    dx, _ = torch.autograd.grad(y, (x, p), g)
    return zip(sweep, y.unbind(1), dx.unbind(1), strict=True)


@names
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_all_halves(name, dtype):
    x = oracles.halves(dtype)
    g = torch.randn(x.shape, dtype=dtype)
    for params, y, dx in swept(name, x, g):
        oracles.assert_accurate(y, oracles.value(name, x, params), oracles.yardstick(name, x, params), x=x)
        yard = oracles.yardstick_gradient(name, g, x, params)
        oracles.assert_accurate(dx, oracles.gradient(name, g, x, params), yard, x=x)


@names
def test_float32(name):
    x = oracles.floats32()
    # A NaN's slope is that of a number's test, or of a vector instruction.
    x = x[~x.isnan()]
    g = torch.randn(x.shape)
    for params, y, dx in swept(name, x, g):
        oracles.assert_accurate(y, oracles.value(name, x, params), oracles.yardstick(name, x, params), x=x)
        truth = oracles.gradient(name, g, x, params)
        if name == "swish":
            # Its terms cancel where the slope is 0, and the tail magnifies what the product of beta and x loses.
            z = (params[0] * x.double()).nan_to_num().clamp(-1e3, 1e3)
            lost = torch.sigmoid(z) * (1 + z.abs() + z.clamp(max=0).square())
            assert ((dx - truth).abs() <= 2 * torch.finfo(x.dtype).eps * g.abs() * lost + 1e-35).all()
        else:
            oracles.assert_accurate(dx, truth, oracles.yardstick_gradient(name, g, x, params), x=x)


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_no_number_stays_one(name, dtype):
    x = torch.full((2, 3), torch.nan, dtype=dtype)
    assert getattr(FF, name)(x, values(3, dtype)).isnan().all()


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
    monkeypatch.setattr(pieces, "piece_limit", lambda x, table_sums=False: x.numel())
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


# 3 * 2^25 terms take seconds; where nothing else is to be seen, 2^24.
@pytest.mark.parametrize(("name", "repeats"), [("prelu", 3 * 2**10), *((n, 2**9) for n in LEARNED if n != "prelu")])
def test_a_hundred_million_terms(name, repeats):
    """A period that repeats, whose sum is known exactly."""
    period = 2**15
    row, g = torch.randn(period), torch.randn(period)
    p = torch.tensor([0.3], requires_grad=True)
    x, gradient = (t.expand(repeats, period) for t in (row, g))
    (dp,) = torch.autograd.grad(getattr(FF, name)(x, p), p, gradient)
    exact, size = (repeats * f(name, g, row, (0.3,))[0] for f in (oracles.parameter_gradient, oracles.parameter_scale))
    assert (dp.double() - exact).abs() <= 1e-6 * size


@names
def test_many_terms_per_channel(name):
    """The same for 2^16 terms in each of 64 channels."""
    row, g = torch.randn(2**6, 64), torch.randn(2**6, 64)
    x, gradient = (t.expand(2**10, 2**6, 64) for t in (row, g))
    p = values(64)
    (dp,) = torch.autograd.grad(getattr(FF, name)(x, p, channel_dim=-1), p, gradient)
    _, _, total, size = truth(name, row, p, 1, g)
    assert ((dp.double() - 2**10 * total).abs() <= 1e-6 * 2**10 * size).all()


@names
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=["both", "x", "p"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 64])
def test_no_temporary_of_full_size(name, count, dtype, needed, monkeypatch):
    """Beside dx, where it is needed, backward takes a few pieces' worth of memory."""
    limit = 2**13
    monkeypatch.setattr(pieces, "piece_limit", lambda x, table_sums=False: limit)
    x, g = (torch.randn(2**12, 64, dtype=dtype) for _ in range(2))
    x.requires_grad_(needed[0])
    p = values(count).requires_grad_(needed[1])
    leaves = [t for t in (x, p) if t.requires_grad]
    y = getattr(FF, name)(x, p)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        grads = torch.autograd.grad(y, leaves, g)
    assert len(grads) == len(leaves)
    taken = sum(max(0, e.self_cpu_memory_usage) for e in record.events())
    dx = x.numel() * x.itemsize if needed[0] else 0
    assert taken > 0
    assert dx <= taken <= dx + 8 * 4 * limit


# ----- derivatives of every order and mode


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
    "vmap over the last dimension of p": lambda f: (
        lambda x, p: func.vmap(f, (None, -1))(x, torch.stack([p, 2 * p], -1))
    ),
    "vmap over both": lambda f: lambda x, p: func.vmap(f)(torch.stack([x, 2 * x]), torch.stack([p, 2 * p])),
    "vmap over x, then over p": lambda f: (
        lambda x, p: func.vmap(func.vmap(f, (0, None)), (None, 0))(torch.stack([x, 2 * x]), torch.stack([p, 2 * p]))
    ),
    "vmap over the gradient of the output": lambda f: (
        lambda x, p: func.vmap(func.vjp(f, x, p)[1])(torch.stack([x, x.sin()]))
    ),
    "gradients of x alone": lambda f: (
        lambda x, p: func.vmap(func.grad(lambda x, p: f(x, p).square().sum()), (0, None))(torch.stack([x, 2 * x]), p)
    ),
    "vmap over the gradient of x alone": lambda f: (
        lambda x, p: func.vmap(func.vjp(lambda x: f(x, p), x)[1])(torch.stack([x, x.sin()]))
    ),
    "third order": lambda f: func.jacfwd(func.hessian(lambda x, p: f(x, p).sum(), 1), 0),
    "functionalize": lambda f: func.functionalize(func.grad(lambda x, p: f(x, p).sum(), argnums=(0, 1))),
    "in place": lambda f: (
        lambda x, p: func.grad(lambda x, p: overwritten(f, x, p).square().sum(), argnums=(0, 1))(x, p)
    ),
    "per-sample gradients": lambda f: (
        lambda x, p: func.vmap(func.grad(lambda x, p: f(x, p).sum(), (0, 1)), (0, None))(torch.stack([x, 2 * x]), p)
    ),
}


def overwritten(function, x, p):
    return function(x * 1, p, inplace=True) if function not in oracles.PLAIN.values() else function(x, p)


def assert_transformed(name, transform, way=lambda function: function):
    x, p = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    made = TRANSFORMS[transform]
    torch.testing.assert_close(way(made(getattr(FF, name)))(x, p), made(oracles.PLAIN[name])(x, p))


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
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=["free", "bounded"])
def test_per_sample_gradients_of_a_module(name, bounds):
    module = fusedact.Activation(name, learnable=True, num_parameters=3, bounds=bounds).double()
    x, (attribute, p) = torch.randn(5, 3, 4, dtype=torch.float64), next(module.named_parameters())
    p = values(3, torch.float64).detach()

    def loss(p, row):
        return func.functional_call(module, {attribute: p}, row.unsqueeze(0)).square().sum()

    def plain(p, row):
        inside = p if bounds is None else p.clamp(*bounds)
        return oracles.PLAIN[name](row, inside.unsqueeze(1)).square().sum()

    rows, expected = (func.vmap(func.grad(f), (None, 0))(p, x) for f in (loss, plain))
    assert rows.shape == (5, 3)
    torch.testing.assert_close(rows, expected)


@names
def test_an_ensemble_of_modules(name):
    made = [fusedact.Activation(name, learnable=True, num_parameters=3, bounds=(0.0, 1.0)) for _ in range(2)]
    params, _ = func.stack_module_state(made)
    (p,) = params.values()
    x, many = torch.randn(5, 3), values(6).detach().reshape(2, 3)
    p.data.copy_(many)

    def call(params, x):
        return func.functional_call(made[0], params, x)

    expected = torch.stack([oracles.PLAIN[name](x, row.clamp(0.0, 1.0)) for row in many])
    torch.testing.assert_close(func.vmap(call, (0, None))(params, x), expected)


@names
@pytest.mark.parametrize("layout", ["(N, C)", "channels_last", "half of the channels"])
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=["both", "x", "p"])
def test_operators_check_themselves(name, layout, needed):
    x, p, _ = drawn(layout, torch.float32, "same")
    x, p = x.detach(), p.detach()
    torch.library.opcheck(getattr(torch.ops.fusedact, name).tensor, (x, p), {"channel": 1})
    backward = getattr(torch.ops.fusedact, f"{name}_backward").tensor
    torch.library.opcheck(backward, (torch.randn_like(x), x, p, list(needed)), {"channel": 1})


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


# ----- activations of one's own, with several parameters per channel

own = pytest.mark.parametrize("name", [n for n in oracles.CHOSEN if oracles.defaults(n)])
own_and_others = pytest.mark.parametrize("name", [*(n for n in oracles.CHOSEN if oracles.defaults(n)), *OTHERS])
paths = pytest.mark.parametrize("backend", oracles.BACKENDS)


def own_values(name, dtype):
    """Around the defaults, for each channel others; numbers where only these are accepted."""
    steps = torch.linspace(0.0, 0.3, 3, dtype=torch.float64)
    specs = oracles.spec(name).parameters
    return [p.default if p.fixed else (p.default + steps).to(dtype).requires_grad_() for p in specs]


def tensors(params):
    return [p for p in params if isinstance(p, torch.Tensor)]


def own_truth(name, x, params, dim, g):
    """Value and gradients in float64, and the sums of the absolute terms of the parameters'."""
    function = GALLERY[name].exact or GALLERY[name].formula
    wide = x.detach().double().requires_grad_()
    shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    each = [p.detach().double().reshape(shape).expand(x.shape).clone().requires_grad_() for p in params]
    y = function(wide, *each)
    dx, *terms = torch.autograd.grad(y, [wide, *each], g.double())
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    sums = [(t.sum(others), t.abs().sum(others)) if others else (t, t.abs()) for t in terms]
    return y.detach(), dx, sums


@own
@paths
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "parameter"), [(torch.float32, "same"), (torch.bfloat16, "float32")], ids=str)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_own_layouts(name, backend, layout, dtype, parameter, cut, cuts):
    make, dim = LAYOUTS[layout]
    x, params = make(dtype).requires_grad_(), own_values(name, torch.float32)
    g = torch.randn(x.shape, dtype=dtype)
    cuts(8 if cut else 2**18)
    with fusedact.backend(backend):
        y = oracles.function(name)(x, *params, channel_dim=dim)
        dx, *dparams = torch.autograd.grad(y, (x, *params), g)
    value, slope, sums = own_truth(name, x, params, dim, g)
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    # Roundings of each operator in float32, then one to the dtype.
    eps = max(torch.finfo(dtype).eps, 16 * torch.finfo(torch.float32).eps)
    assert ((y - value).abs() <= eps * (1 + value.abs())).all()
    assert ((dx - slope).abs() <= eps * (1 + slope.abs() + g.double().abs())).all()
    for dp, p, (total, size) in zip(dparams, params, sums, strict=True):
        assert (dp.shape, dp.dtype) == (p.shape, p.dtype)
        assert ((dp.double() - total).abs() <= 2.0**-20 * (size + g.double().abs().sum())).all()


@pytest.mark.parametrize("name", OTHERS)
@paths
@pytest.mark.parametrize("layout", ["(N, C, H, W)", "channels_last", "half of the channels"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_of_the_others(name, backend, layout, dtype, cuts):
    make, dim = LAYOUTS[layout]
    x, g = (make(dtype) for _ in range(2))
    params = own_values(name, torch.float64 if dtype == torch.float64 else torch.float32)
    cuts(8)
    x.requires_grad_()
    with fusedact.backend(backend):
        y = oracles.function(name)(x, *params, channel_dim=dim)
        dx, *dparams = torch.autograd.grad(y, (x, *tensors(params)), g)
    eps = max(torch.finfo(dtype).eps, 1e-14) if dtype == torch.float64 else max(torch.finfo(dtype).eps, 2.0**-19)
    for channel in range(3):
        numbers = [p[channel].item() if isinstance(p, torch.Tensor) else p for p in params]
        part, h, ours, slope = (t.detach().select(dim, channel) for t in (x, g, y, dx))
        exact = oracles.value(name, part, numbers)
        assert ((ours - exact).abs() <= eps * (1 + exact.abs())).all()
        exact = oracles.gradient(name, h, part, numbers)
        assert ((slope - exact).abs() <= eps * (1 + exact.abs() + h.double().abs())).all()
        totals, sizes = (f(name, h, part, numbers) for f in (oracles.parameter_gradient, oracles.parameter_scale))
        for dp, total, size in zip(dparams, totals, sizes, strict=True):
            bound = (1e-13 if dtype == torch.float64 else 2.0**-20) * (size + h.double().abs().sum())
            assert (dp[channel].double() - total).abs() <= bound


@own_and_others
@paths
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 1), ((2, 2, 3), -1)], ids=str)
def test_own_finite_differences(name, shape, dim, backend):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    params = own_values(name, torch.float64)

    def function(x, *given):
        given = iter(given)
        values = [next(given) if isinstance(p, torch.Tensor) else p for p in params]
        return oracles.function(name)(x, *values, channel_dim=dim)

    with fusedact.backend(backend):
        modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
        assert gradcheck(function, (x, *tensors(params)), **modes)
        modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}
        assert gradgradcheck(function, (x, *tensors(params)), **modes)


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
