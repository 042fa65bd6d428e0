"""bias_act on the CPU: values, gradients of every order, dropout, layouts, transforms, what is kept, errors."""

from __future__ import annotations

import math

import pytest
import torch
from biased_oracle import factors, in_small_pieces, seeded
from hosts import Made, assert_near, differentiated
from linear_oracle import bent
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.dispatch import PIECES_CPU
from fusedact.hosts import biased_operators, biased_pieces
from fusedact.hosts.hosted import Hosted

FP32, FP64, BF16, FP16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


# The activation, its parameters, and the same in plain operators.
HOSTED = {
    "silu": ("silu", {}, F.silu),
    "sigmoid": ("sigmoid", {}, torch.sigmoid),
    "relu": ("relu", {}, F.relu),
    "gelu, tanh": ("gelu", {"approximate": "tanh"}, lambda t: F.gelu(t, approximate="tanh")),
    "a function": (FF.mish, {}, F.mish),
    "without lean forms": ("leaky_relu", {"negative_slope": 0.1}, lambda t: F.leaky_relu(t, 0.1)),
    "swish": ("swish", {"beta": 1.5}, lambda t, beta=1.5: t * torch.sigmoid(beta * t)),
    "generated": ("squareplus", {"b": 3.0}, lambda t, b=3.0: (t + torch.sqrt(t * t + b)) / 2),
    "own": (bent, {"a": 0.25}, lambda t, a=0.25: t + a * torch.tanh(t) ** 2),
}
hosted = pytest.mark.parametrize("name", HOSTED)


@pytest.fixture
def way(request, monkeypatch):
    if request.param == "pieces":
        in_small_pieces(monkeypatch)
    return request.param


@pytest.fixture
def in_pieces(monkeypatch):
    in_small_pieces(monkeypatch)


both_ways = pytest.mark.parametrize("way", ["plain", "pieces"], indirect=True)


@hosted
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16, FP16], ids=str)
@both_ways
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_values_and_gradients(name, dtype, way, p):
    activation, parameters, plain = HOSTED[name]
    x, residual, g = (torch.randn(13, 20, dtype=FP64).to(dtype) for _ in range(3))
    bias = torch.randn(20, dtype=FP64).to(dtype)
    if dtype in (BF16, FP16) and way == "plain":
        # Plain operators round the sum, too: here it is exact.
        x, bias = (t.mul(8).round().div(8).clamp(-3, 3) for t in (x, bias))
    dropped = factors(x.shape, p)
    y, grads = differentiated(
        seeded(lambda x, b, r: FF.bias_act(x, b, activation, r, p, **parameters)), (x, bias, residual), g
    )
    true, true_grads = differentiated(
        lambda x, b, r: plain(x + b) * dropped + r, [t.double() for t in (x, bias, residual)], g
    )
    assert y.dtype == dtype
    for got, expected, scale in zip((y, *grads), (true, *true_grads), (4, 2, 20, 1), strict=True):
        assert got.dtype == dtype
        assert_near(got, expected, dtype, scale)


@pytest.mark.parametrize("bias", ["none", "()", "(1,)", "(C,)"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channel_dim", [0, 1, -2, -1])
@both_ways
def test_forms(bias, residual, channel_dim, way):
    shape = (5, 6, 4, 3)
    given = [torch.randn(shape)]
    if bias != "none":
        given.append(torch.randn({"()": (), "(1,)": (1,)}.get(bias, (shape[channel_dim],))))
    if residual:
        given.append(torch.randn(shape))
    along = [1] * 4
    along[channel_dim] = -1

    def ours(x, *rest):
        rest = list(rest)
        return FF.bias_act(
            x,
            rest.pop(0) if bias != "none" else None,
            "silu",
            rest.pop(0) if residual else None,
            channel_dim=channel_dim,
        )

    def composition(x, *rest):
        rest = list(rest)
        b = rest.pop(0) if bias != "none" else torch.zeros(())
        y = F.silu(x + (b.reshape(along) if bias == "(C,)" else b.reshape(())))
        return y + rest.pop(0) if residual else y

    g = torch.randn(shape)
    y, grads = differentiated(ours, given, g)
    true, true_grads = differentiated(composition, [t.double() for t in given], g)
    for got, expected, of in zip((y, *grads), (true, *true_grads), (given[0], *given), strict=True):
        assert got.shape == of.shape
        assert_near(got, expected, FP32, 4 if got.dim() == 4 else 60)


VIEWS = {
    "transposed": lambda t: t.t(),
    "columns": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand(*t.shape),
    "reversed": lambda t: t.flip(0)[1:],
    "conjugated": lambda t: torch.complex(t, t).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("activation", ["silu", "swish", "mish"])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_strides(view, activation, p, in_pieces):
    seen = VIEWS[view]
    x, residual = torch.randn(12, 16), torch.randn(12, 16)
    shape = seen(x).shape
    bias, g, dropped = torch.randn(shape[1]), torch.randn(shape), factors(shape, p)
    ours = seeded(lambda x, b, r: FF.bias_act(seen(x), b, activation, seen(r), p))
    y, grads = differentiated(ours, (x, bias, residual), g)
    true, true_grads = differentiated(
        lambda x, b, r: getattr(FF, activation)(seen(x) + b) * dropped + seen(r),
        [t.double() for t in (x, bias, residual)],
        g,
    )
    for got, expected in zip((y, *grads), (true, *true_grads), strict=True):
        assert_near(got, expected, FP32, scale=30.0)


def test_the_result_has_the_layout_of_x(in_pieces):
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last).requires_grad_()
    for p in (0.0, 0.5):
        y = FF.bias_act(x, torch.ones(6), "silu", x.detach().contiguous(), p, channel_dim=1)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.is_contiguous(memory_format=torch.channels_last)


def test_no_dimensions_and_no_elements(in_pieces):
    assert FF.bias_act(torch.tensor(2.0), torch.tensor([-3.0]), "relu", torch.tensor(1.0)).item() == 1.0
    assert FF.bias_act(torch.tensor(2.0), None, "relu", None, 0.5).item() in (0.0, 4.0)
    x, bias = torch.empty(0, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    for p in (0.0, 0.5):
        grads = torch.autograd.grad(FF.bias_act(x, bias, "silu", x, p).sum(), (x, bias))
        assert grads[0].shape == (0, 3) and torch.equal(grads[1], torch.zeros(3))


@pytest.mark.parametrize("activation", ["silu", "swish", "relu", "tanh"])
@both_ways
def test_extremes_are_those_of_the_sum(activation, way):
    edge = torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e30, -1e30])
    x, bias = edge[:, None].expand(9, 9), edge
    expected = getattr(FF, activation)(x + bias)
    torch.testing.assert_close(FF.bias_act(x, bias, activation), expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(), (1,), (30,)], ids=str)
@both_ways
@pytest.mark.parametrize("name", ["swish", "own"])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_parameters_get_gradients(shape, way, name, p):
    activation, parameters, plain = HOSTED[name]
    (key,) = parameters
    x, bias, q, g = torch.randn(4, 6, 30), torch.randn(30), torch.rand(shape) + 0.5, torch.randn(4, 6, 30)
    dropped = factors(x.shape, p)
    ours = seeded(lambda x, b, q: FF.bias_act(x, b, activation, None, p, **{key: q}))
    y, grads = differentiated(ours, (x, bias, q), g)
    true, true_grads = differentiated(lambda x, b, q: plain(x + b, q) * dropped, [t.double() for t in (x, bias, q)], g)
    for got, expected in zip((y, *grads[:2]), (true, *true_grads[:2]), strict=True):
        assert_near(got, expected, FP32, scale=40.0)
    assert grads[2].shape == shape
    torch.testing.assert_close(grads[2].double(), true_grads[2], rtol=1e-5, atol=1e-4)


def test_sums_of_halves_are_not_rounded_on_the_way(in_pieces):
    bias = torch.zeros(4, dtype=BF16, requires_grad=True)
    FF.bias_act(torch.ones(1001, 4, dtype=BF16), bias, "relu").sum().backward()
    assert torch.equal(bias.grad, torch.full((4,), 1001.0).to(BF16))


@pytest.mark.parametrize("dtypes", [(BF16, FP32, None), (BF16, None, FP32), (FP32, BF16, BF16), (FP16, FP64, FP32)])
@both_ways
def test_dtypes_are_promoted_as_by_plain_operators(dtypes, way):
    x, bias, residual = (
        None if d is None else torch.randn(s).to(d).requires_grad_()
        for s, d in zip(((6, 40), 40, (6, 40)), dtypes, strict=True)
    )
    y = FF.bias_act(x, bias, "silu", residual)
    wide = [torch.zeros(()) if t is None else t.detach().double() for t in (x, bias, residual)]
    true = F.silu(wide[0] + wide[1]) + wide[2]
    plain = x if bias is None else x + bias
    assert y.dtype == (plain if residual is None else plain + residual).dtype
    if bias is not None or way == "pieces":
        # What is rounded is what has the narrower dtype at first.
        assert_near(y, true, y.dtype, 4)
    leaves = [t for t in (x, bias, residual) if t is not None]
    assert [grad.dtype for grad in torch.autograd.grad(y.sum(), leaves)] == [t.dtype for t in leaves]


# ----- higher orders, transforms, and who else watches


@pytest.mark.parametrize("name", ["silu", "swish", "own"])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradcheck(name, p, in_pieces):
    activation, parameters, _ = HOSTED[name]
    q = {key: torch.full((3,), 0.8, dtype=FP64, requires_grad=True) for key in parameters}
    given = [torch.randn(s, dtype=FP64, requires_grad=True) for s in ((4, 3), 3, (4, 3))]
    function = seeded(lambda x, b, r, *q: FF.bias_act(x, b, activation, r, p, **dict(zip(parameters, q, strict=True))))
    inputs = (*given, *q.values())
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@both_ways
def test_transforms(way):
    x, bias, t = torch.randn(3, 8, dtype=FP64), torch.randn(8, dtype=FP64), torch.randn(3, 8, dtype=FP64)

    def ours(x):
        return FF.bias_act(x, bias, "swish", x, beta=1.5)

    def plain(x):
        return (x + bias) * torch.sigmoid(1.5 * (x + bias)) + x

    func, close = torch.func, torch.testing.assert_close
    close(func.vmap(ours)(x), plain(x))
    close(func.jvp(ours, (x,), (t,)), func.jvp(plain, (x,), (t,)))
    grads = [func.vmap(func.grad(lambda row, f=f: f(row).sum()))(x) for f in (ours, plain)]
    close(*grads)
    close(func.jacrev(ours)(x[0]), func.jacrev(plain)(x[0]))
    close(*[func.hessian(lambda row, f=f: f(row).sum())(x[0]) for f in (ours, plain)])
    # One that begins after forward.
    leaf = x.clone().requires_grad_()
    torch.manual_seed(0)
    y = FF.bias_act(leaf, None, "identity", None, 0.5)
    basis = torch.eye(24, dtype=FP64).view(24, 3, 8)
    rows = func.vmap(lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0])(basis)
    close(rows.view(24, 24), torch.diag((y / leaf).detach().flatten()))


def test_randomness_under_transforms(in_pieces):
    x = torch.ones(4, 500)

    def dropped(x):
        return FF.bias_act(x, None, "identity", None, 0.5)

    for randomness in ("different", "same"):
        y = torch.func.vmap(dropped, randomness=randomness)(x)
        assert torch.equal(y[0], y[1]) == (randomness == "same")
        assert y.unique().tolist() == [0.0, 2.0]
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(dropped)(x)
    y, tangent = torch.func.jvp(dropped, (x,), (x,))
    assert torch.equal(y, tangent)
    assert torch.func.grad(lambda x: dropped(x).sum())(x).unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_what_is_given_is_kept_but_for_the_residual(p, in_pieces):
    kept = []
    x, residual = (torch.randn(40, 30, requires_grad=True) for _ in range(2))
    bias = torch.randn(30, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        FF.bias_act(x, bias, "silu", residual, p)
    assert {x.data_ptr(), bias.data_ptr()} <= {t.data_ptr() for t in kept}
    assert sorted(t.numel() for t in kept) == [1] * (p > 0) + [30, 1200]


@pytest.mark.parametrize("name", ["silu", "swish", "generated", "relu"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_nothing_large_is_made_beside_results(name, dtype, p, in_pieces):
    spec = registry.get(HOSTED[name][0])
    params = [q.default for q in spec.parameters]
    x, g, residual, out, dx = (torch.randn(64, 64).to(dtype) for _ in range(5))
    bias, seed = torch.randn(64).to(dtype), torch.tensor([5]) if p else None
    with Made(x, g, residual, out, dx) as made:
        biased_pieces.forward(spec, x, bias, residual, params, 1, p, seed, out)
        biased_pieces.backward(spec, g, x, bias, params, 1, p, seed, [True, True, *[False] * len(params)], dx)
    # The generator's state has 5056 bytes; a few elements of float64 to a piece of 64, or complex numbers.
    assert 0 < max(size for size in made.sizes if size != 5056) <= 64 * 16


def test_selective_checkpoints_can_keep_it(in_pieces):
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    x, bias = torch.randn(9, 10, requires_grad=True), torch.randn(10, requires_grad=True)
    calls = []

    def policy(ctx, function, *args, **kwargs):
        if function is torch.ops.fusedact.bias_act.default:
            calls.append(ctx.is_recompute)
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    def step(x, bias):
        return FF.bias_act(x, bias, "silu", None, 0.5) * 2

    torch.manual_seed(0)
    expected = torch.autograd.grad(step(x, bias).sum(), (x, bias))
    torch.manual_seed(0)
    y = checkpoint(step, x, bias, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, bias)), expected)
    assert False in calls


def test_operators_are_right_for_fake_tensors(in_pieces):
    x, bias, residual, seed = torch.randn(6, 4).t(), torch.randn(6).to(BF16), torch.randn(4, 6), torch.tensor([3])
    rest = [torch.ones(1)], [0.0], "swish", 1
    ops = torch.ops.fusedact
    for test in ("test_schema", "test_faketensor"):
        for r, s, p in ((residual, seed, 0.5), (None, None, 0.0)):
            torch.library.opcheck(ops.bias_act.default, (x, bias, r, s, *rest, p), test_utils=test)
            for needed in ([True] * 3, [False, True, False]):
                arguments = (residual, x, bias, s, *rest, p, needed)
                torch.library.opcheck(ops.bias_act_backward.default, arguments, test_utils=test)


@both_ways
def test_graphs_hold_the_operator_where_numbers_are_drawn(way):
    x, bias = torch.randn(4, 6), torch.randn(6)

    def step(x, bias):
        return FF.bias_act(x, bias, "silu", x, 0.5)

    graph = make_fx(step)(x, bias)
    assert sum("fusedact" in str(node.target) for node in graph.graph.nodes) == 1
    torch.testing.assert_close(seeded(graph)(x, bias), seeded(step)(x, bias))


def test_compiled_and_exported_it_is_plain_operators():
    x, bias, beta = torch.randn(4, 6), torch.randn(6), torch.tensor([1.3])
    leaves = [t.requires_grad_() for t in (x, bias, beta)]

    def step(x, bias, beta):
        return FF.bias_act(x, bias, "swish", x, 0.5, False, beta=beta) + FF.bias_act(x, bias, bent)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    expected, got = step(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), rtol=1e-5, atol=1e-5
    )

    constant = torch.randn(6)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return FF.bias_act(x, constant, "silu", x)

    program = torch.export.export(Layer(), (torch.randn(4, 6),))
    assert not [n for n in program.graph.nodes if "fusedact" in str(n.target)]
    torch.testing.assert_close(program.module()(x), Layer()(x))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_dropout_is_pytorchs(backend):
    x = torch.randn(4, 500, requires_grad=True)
    compiled = torch.compile(lambda x: FF.bias_act(x, None, "identity", None, 0.5), backend=backend, fullgraph=True)
    y = compiled(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, (y / x).detach())
    assert 0.4 < (dx == 0).float().mean() < 0.6 and dx.unique().tolist() == [0.0, 2.0]


class Overriding:
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function, args, kwargs


def test_what_overrides_functions_is_asked(in_pieces):
    function, args, kwargs = FF.bias_act(torch.ones(2), Overriding(), "silu", None, 0.5, beta=1.0)
    assert function is FF.bias_act and args[2] == "silu"
    assert kwargs == {"residual": None, "dropout_p": 0.5, "training": True, "channel_dim": -1, "beta": 1.0}


def test_what_stays_in_eager_is_hosted_too():
    @fusedact.activation(fallback="eager")
    def running(x, a=2.0):
        return a * torch.cumsum(x, -1)

    x, bias = torch.randn(3, 5), torch.randn(5)
    torch.testing.assert_close(FF.bias_act(x, bias, running, x), 2.0 * (x + bias).cumsum(-1) + x)


def test_alone_it_is_the_activation():
    x = torch.randn(10)
    assert torch.equal(FF.bias_act(x, None, "silu"), F.silu(x))
    with fusedact.backend("eager"):
        assert torch.equal(FF.bias_act(x, None, "relu_sigmoid", threshold=0.5), FF.relu_sigmoid(x, 0.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: FF.bias_act([1.0], None, "silu"), TypeError, "x must be a torch.Tensor, got list"),
        (lambda x: FF.bias_act(x.int(), None, "silu"), TypeError, "x must have dtype .* got int32"),
        (lambda x: FF.bias_act(x, 1.0, "silu"), TypeError, "bias must be a torch.Tensor, got float"),
        (lambda x: FF.bias_act(x, x[0].int(), "silu"), TypeError, "bias must have dtype .* got int32"),
        (lambda x: FF.bias_act(x, x, "silu"), ValueError, r"bias must have shape .* got shape \(5, 4\)"),
        (lambda x: FF.bias_act(x, torch.ones(3), "silu"), ValueError, r"bias must have shape .* got shape \(3,\)"),
        (lambda x: FF.bias_act(x, x[0], "silu", channel_dim=2), ValueError, "bias must .* channel_dim=2; got shape"),
        (lambda x: FF.bias_act(x, x[0].to("meta"), "silu"), ValueError, "bias must be on the device of x, cpu, got"),
        (lambda x: FF.bias_act(x, None, "silu", 1.0), TypeError, "residual must be a torch.Tensor, got float"),
        (lambda x: FF.bias_act(x, None, "silu", x[0]), ValueError, "residual must have the shape of x"),
        (lambda x: FF.bias_act(x, None, "silu", x.to("meta")), ValueError, "residual must be on the device of x"),
        (lambda x: FF.bias_act(x, None, "silu", None, 1.5), ValueError, "dropout_p must be from 0 to 1, got 1.5"),
        (lambda x: FF.bias_act(x, None, "silu", None, math.nan), ValueError, "dropout_p must be from 0 to 1, got nan"),
        (lambda x: FF.bias_act(x, None, "silu", None, -0.1, False), ValueError, "dropout_p must be from 0 to 1"),
        (lambda x: FF.bias_act(x, None, "silu", None, "a"), TypeError, "dropout_p must be a number, got str"),
        (lambda x: FF.bias_act(x, None, "silu", None, True), TypeError, "dropout_p must be a number, got bool"),
        (lambda x: FF.bias_act(x, None, "silu", None, 0.5, 1), TypeError, "training must be True or False, got int"),
        (lambda x: FF.bias_act(x, None, "silu", channel_dim=1.0), TypeError, "channel_dim must be an int, got float"),
        (lambda x: FF.bias_act(x, None, "sillu"), ValueError, "no activation is named 'sillu'; did you mean"),
        (lambda x: FF.bias_act(x, None, "softmax"), ValueError, "activation must be elementwise"),
        (lambda x: FF.bias_act(x, None, F.silu), TypeError, "activation must be a name, a function of fusedact"),
        (lambda x: FF.bias_act(x, None, "silu", beta=1.0), TypeError, "silu has no parameter beta"),
        (lambda x: FF.bias_act(x, None, "gelu", approximate="no"), ValueError, "approximate must be"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^fusedact.functional.bias_act: {message}"):
        call(torch.randn(5, 4))


def test_parameters_are_checked_against_the_dimension():
    with pytest.raises(ValueError, match="has no dimension channel_dim=5"):
        FF.bias_act(torch.ones(2, 3), None, "swish", torch.ones(2, 3), beta=torch.ones(2), channel_dim=5)
    y = FF.bias_act(torch.ones(2, 3), torch.ones(1), "relu", channel_dim=5)
    assert torch.equal(y, torch.full((2, 3), 2.0))


def test_forcing_what_cannot_be_is_an_error():
    if fusedact.compat.interpreting or torch.cuda.is_available():
        pytest.skip("kernels can run")
    with fusedact.backend("triton"), pytest.raises(RuntimeError, match=r"^fusedact.functional.bias_act: the triton"):
        FF.bias_act(torch.ones(3), torch.ones(3), "silu")


@pytest.mark.parametrize("name", ["silu", "swish", "generated", "without lean forms", "own"])
@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_results_may_overwrite_what_they_are_made_of(name, p, dtype, in_pieces):
    """Below autograd, for who owns x or the gradient: the linear layers."""
    activation, parameters, _ = HOSTED[name]
    spec, params = Hosted.of("", activation, parameters)
    call = biased_operators.Call(spec, PIECES_CPU, 1, p)
    seed = torch.tensor([3]) if p else None
    x, g, bias = torch.randn(20, 9).to(dtype), torch.randn(20, 9).to(dtype), torch.randn(9).to(dtype)
    needed = [True, True, *[False] * len(params)]
    y = biased_operators.forward(call, x, bias, g, params, seed)
    dx, dbias, *_ = biased_operators.backward(call, g, x, bias, params, seed, needed)
    own = x.clone()
    assert biased_operators.forward(call, own, bias, g, params, seed, out=own) is own and torch.equal(own, y)
    for own_g, own_x, out in ((g.clone(), x, 0), (g, x.clone(), 1)):
        out = (own_g, own_x)[out]
        again = biased_operators.backward(call, own_g, own_x, bias, params, seed, needed, out=out)
        assert again[0] is out and torch.equal(out, dx) and torch.equal(again[1], dbias)
