"""rrelu: PyTorch's function in evaluation; in training uniform slopes, which a seed and backward repeat.

Where nothing else is said, few elements are drawn as many are.
"""

from __future__ import annotations

import copy
import functools
import math
import pickle
import warnings

import pytest
import torch
import twins
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fusedact
from fusedact import crossovers, randomized
from fusedact import functional as FF
from fusedact.looking import plotting

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

pytest.importorskip("torch.testing._internal.common_methods_invocations")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db


BELOW = dict(crossovers.DRAWN_BELOW)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    for dtype in BELOW:
        monkeypatch.setitem(crossovers.DRAWN_BELOW, dtype, 0)


@pytest.fixture
def by_operator(seeded, monkeypatch):
    for dtype, below in BELOW.items():
        monkeypatch.setitem(crossovers.DRAWN_BELOW, dtype, below)


def drawn(x, *bounds, seed=0, **options):
    torch.manual_seed(seed)
    return FF.rrelu(x, *bounds, training=True, **options)


# ----- PyTorch's own samples: its values in evaluation


@dtypes
def test_operator_samples(dtype):
    (op,) = (op for op in op_db if op.name == "nn.functional.rrelu")
    count = 0
    for s in [*op.sample_inputs("cpu", dtype), *op.reference_inputs("cpu", dtype)]:
        keywords = {k: v for k, v in s.kwargs.items() if k not in ("training", "inplace")}
        args = s.args[:2]
        x, y = (s.input.detach().clone().requires_grad_() for _ in range(2))
        ours, theirs = FF.rrelu(x, *args, **keywords), F.rrelu(y, *args, **keywords)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        g = torch.ones_like(theirs)
        torch.testing.assert_close(
            torch.autograd.grad(ours, x, g), torch.autograd.grad(theirs, y, g), rtol=0, atol=0, equal_nan=True
        )
        count += 1
    assert count >= 5


def test_module_samples():
    infos = [info for info in module_db if info.module_cls is nn.RReLU]
    count = 0
    for info in infos:
        for ours, theirs, x in twins.module_samples(info, "cpu", torch.float32):
            twins.assert_modules(ours.eval(), theirs.eval(), x)
            count += 1
    assert count >= 1 or not infos


# ----- the distribution

N = 2**18


@dtypes
@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (-0.5, 0.25), (0.0, 2.0)], ids=str)
def test_slopes_are_uniform(dtype, bounds):
    low, high = bounds
    slopes = -drawn(torch.full((N,), -1.0, dtype=dtype), *bounds).double()
    eps = torch.finfo(dtype).eps
    assert low * (1 - eps if low > 0 else 1 + eps) <= slopes.min() <= low + 0.01 * (high - low) + eps
    assert high * (1 + eps) >= slopes.max() >= high - 0.01 * (high - low) - eps
    # The distance of the empirical distribution from the uniform one, whose 0.999 quantile is 1.95 / sqrt(n).
    ranks = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    distance = ((slopes.sort().values - low) / (high - low) - ranks).abs().max()
    assert distance < 1.95 / N**0.5 + 2 * eps * max(map(abs, bounds)) / (high - low)
    # Neighbours, and those a piece apart, tell nothing of each other.
    centred = slopes - slopes.mean()
    for lag in (1, 2, 3, 4, 64, 1024, randomized.PIECE):
        assert (centred[lag:] * centred[:-lag]).mean().abs() / centred.var() < 5 / (N - lag) ** 0.5


def test_calls_differ_and_seeds_repeat():
    x = torch.full((1000,), -1.0)
    first, again = drawn(x), FF.rrelu(x, training=True)
    assert (first != again).float().mean() > 0.99
    assert torch.equal(drawn(x), first) and not torch.equal(drawn(x, seed=1), first)


def test_one_number_is_drawn_from_the_generator():
    """Whatever the size."""
    states = []
    for n in (1, 100, 300_000):
        drawn(torch.ones(n))
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


@dtypes
@pytest.mark.parametrize("training", [True, False])
def test_positive_numbers_stay(dtype, training):
    x = torch.randn(1001).to(dtype)
    y = FF.rrelu(x, training=training)
    assert torch.equal(y[x > 0], x[x > 0])
    slopes = (y / x)[x < 0].double()
    assert (slopes > 1 / 8 - 1e-2).all() and (slopes < 1 / 3 + 1e-2).all()


def test_extremes():
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3e38, -3e38], requires_grad=True)
    y = drawn(x, 0.25, 0.5)
    assert y[:4].tolist() == [0.0, 0.0, math.inf, -math.inf] and y[4].isnan()
    assert y[5] == x[5] and y[7] == x[7] and 0.25 * 3e38 <= -y[8] <= 0.5 * 3e38
    (dx,) = torch.autograd.grad(y.sum(), x)
    slope = dx[[0, 1, 3, 6, 8]]
    assert ((slope >= 0.25) & (slope <= 0.5)).all()
    assert dx[[2, 4, 5, 7]].tolist() == [1.0] * 4


def test_equal_bounds_are_leaky_relu():
    x = torch.randn(1000)
    torch.testing.assert_close(drawn(x, 0.2, 0.2), F.leaky_relu(x, 0.2))


# ----- few elements on the CPU: PyTorch's operator


def theirs(x, *bounds, seed=0, inplace=False):
    torch.manual_seed(seed)
    return F.rrelu(x, *bounds, training=True, inplace=inplace)


@pytest.mark.usefixtures("by_operator")
class TestByOperator:
    @pytest.mark.parametrize("dtype", BELOW, ids=str)
    @pytest.mark.parametrize("shape", [(), (0, 3), (1001,), (4, 5, 6)], ids=str)
    @pytest.mark.parametrize("bounds", [(), (0.2, 0.2), (-0.5, 0), (0, 2)], ids=str)
    def test_draws_are_pytorchs(self, dtype, shape, bounds):
        x, g = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
        y, want = drawn(x, *bounds), theirs(x, *bounds)
        assert torch.equal(y, want)
        assert torch.equal(*(torch.autograd.grad(t, x, g)[0] for t in (y, want)))
        with torch.no_grad():
            assert torch.equal(drawn(x, *bounds), want)
        a, b = x.detach().clone(), x.detach().clone()
        assert drawn(a, *bounds, inplace=True) is a and torch.equal(a, theirs(b, *bounds, inplace=True))
        module = fusedact.RReLU(*bounds)
        torch.manual_seed(0)
        assert torch.equal(module(x), want)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("recorded", [True, False])
    def test_explained(self, dtype, recorded):
        """Whether a gradient is wanted or not: a reentrant checkpoint runs both ways."""
        below = BELOW.get(dtype, 0)
        x = torch.zeros(below + 1, dtype=dtype, requires_grad=recorded)
        for t in (x[:-1], x):
            want = "aten" if t.numel() < below else "pieces"
            assert fusedact.explain("rrelu", t, training=True).kind == want
            assert fusedact.explain(fusedact.RReLU(), t).kind == want
            if recorded:
                name = type(drawn(t).grad_fn).__name__
                assert name == ("RreluWithNoiseBackward0" if want == "aten" else "_OfSlopesBackward")
        if below:
            few = x[: below - 1]
            assert fusedact.explain("rrelu", few, training=True).kind == "aten"
            assert torch.equal(drawn(few), theirs(few))
            with fusedact.backend("eager"):
                assert fusedact.explain("rrelu", few, training=True).kind == "pieces"
                assert type(drawn(few.requires_grad_()).grad_fn).__name__ == "_OfSlopesBackward"

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpoints_replay(self, reentrant):
        x, g = torch.randn(1000, requires_grad=True), torch.randn(1000)
        torch.manual_seed(0)
        y = torch.utils.checkpoint.checkpoint(lambda x: FF.rrelu(x, training=True), x, use_reentrant=reentrant)
        y.backward(g)
        torch.testing.assert_close(x.grad, g * (y / x).detach())

    @pytest.mark.parametrize("dtype", BELOW, ids=str)
    @pytest.mark.parametrize("inplace", [True, False])
    def test_hooks_get_slopes_that_were_drawn(self, dtype, inplace):
        """PyTorch's operator hands hooks its slopes before it has drawn them."""
        x, g = torch.randn(50, 20).to(dtype).t().requires_grad_(), torch.randn(20, 50).to(dtype)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t.clone(), lambda t: t):
            y = drawn(x * 1 if inplace else x, inplace=inplace)
        assert [t.numel() for t in kept] == [1000] and torch.equal(y, theirs(x))
        assert torch.equal(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(theirs(x), x, g)[0])

    @pytest.mark.parametrize("kept", [True, False])
    def test_selective_checkpoints(self, kept):
        x, g = torch.randn(1000, requires_grad=True), torch.randn(1000)
        save = torch.utils.checkpoint.CheckpointPolicy.MUST_SAVE
        otherwise = torch.utils.checkpoint.CheckpointPolicy.PREFER_RECOMPUTE

        def policy(context, operator, *args, **keywords):
            return save if kept and "rrelu" in str(operator) else otherwise

        y = torch.utils.checkpoint.checkpoint(
            lambda x: FF.rrelu(x, training=True),
            x,
            use_reentrant=False,
            context_fn=functools.partial(torch.utils.checkpoint.create_selective_checkpoint_contexts, policy),
        )
        y.backward(g)
        torch.testing.assert_close(x.grad, g * (y / x).detach())

    def test_a_reentrant_checkpoint_under_hooks(self):
        """Which are there in forward, and not in backward."""
        x, g = torch.randn(1000, requires_grad=True), torch.randn(1000)
        with torch.autograd.graph.save_on_cpu():
            y = torch.utils.checkpoint.checkpoint(lambda x: FF.rrelu(x, training=True), x, use_reentrant=True)
        y.backward(g)
        torch.testing.assert_close(x.grad, g * (y / x).detach())

    def test_other_layouts_and_tensors(self):
        x = torch.randn(2, 5, 8, 3).to(memory_format=torch.channels_last)
        y = drawn(x)
        assert y.stride() == x.stride() and torch.equal(y, drawn(x.contiguous()))
        view = torch.randn(40, 30)[::2, 1::2]
        want = theirs(view)
        assert torch.equal(drawn(view, inplace=True), want)
        assert drawn(torch.ones(3, device="meta")).is_meta
        assert drawn(nn.Parameter(torch.randn(3))).shape == (3,)
        with torch.inference_mode():
            assert torch.equal(drawn(view), theirs(view))

    def test_derivatives_of_every_order(self):
        x = torch.randn(40, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(drawn, (x,)) and torch.autograd.gradgradcheck(drawn, (x,))

    def test_transforms_and_modes(self):
        x = -torch.rand(3, 50) - 0.5
        for y in (
            torch.func.vmap(lambda x: FF.rrelu(x, training=True), randomness="different")(x),
            torch.func.jvp(lambda x: FF.rrelu(x, training=True), (x,), (x,))[1],
            torch.jit.trace(lambda x: FF.rrelu(x, training=True), x, check_trace=False)(x),
            torch.compile(lambda x: FF.rrelu(x, training=True), backend="aot_eager", fullgraph=True)(x),
        ):
            slopes = y / x
            assert ((slopes >= 1 / 8 - 1e-6) & (slopes <= 1 / 3 + 1e-6)).all() and slopes.std() > 0.04
        with Watch() as watch:
            y = drawn(x)
        assert torch.equal(y, theirs(x)) and "aten.rrelu_with_noise.default" in watch.seen

    def test_errors(self):
        with pytest.raises(ValueError, match="lower must be at most upper"):
            FF.rrelu(torch.ones(2), 0.5, 0.1, training=True)
        with pytest.raises(ValueError, match="lower must be at most upper"):
            FF.rrelu(torch.ones(2), 0.5, math.nan, training=True)
        with pytest.raises(TypeError, match="input must have dtype"):
            FF.rrelu(torch.ones(2).int(), training=True)
        with pytest.raises(TypeError, match=r"input must be a torch\.Tensor"):
            FF.rrelu([1.0], training=True)


# ----- independence of layout, of pieces, of threads

VIEWS = {
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[::2, 1::2],
    "channels last": lambda x: x.reshape(2, 5, 8, -1).to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(7, -1),
    "flipped": lambda x: x.flip(0)[1:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_layouts(view):
    x = VIEWS[view](torch.randn(40, 30))
    g = torch.randn(x.shape)
    results = []
    for t in (x, x.contiguous()):
        leaf = t.detach().requires_grad_()
        y = drawn(leaf)
        results.append((y.detach(), torch.autograd.grad(y, leaf, g)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    if view != "expanded":
        assert results[0][0].stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_pieces(dtype, monkeypatch):
    x = torch.randn(1001).to(dtype)
    whole = drawn(x)
    monkeypatch.setattr(randomized, "PIECE", 64)
    assert torch.equal(drawn(x), whole)


# ----- derivatives


@dtypes
@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (-0.5, 1.5)], ids=str)
@pytest.mark.parametrize("n", [1, 2, 1001, 300_001])
def test_backward_has_the_same_slopes(dtype, bounds, n):
    x = torch.randn(n).to(dtype)
    # Where a half's quotient still tells the slope.
    x = x.where(x.abs() > 0.1, 0.5).requires_grad_()
    g = torch.randn(n).to(dtype)
    y = drawn(x, *bounds)
    (dx,) = torch.autograd.grad(y, x, g)
    wide = [t.detach().double() for t in (x, y, g)]
    slopes = torch.where(wide[0] > 0, 1.0, wide[1] / wide[0])
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(dx.double(), wide[2] * slopes, rtol=tolerance, atol=1e-3 * tolerance)


def test_gradcheck():
    x = torch.randn(40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(drawn, (x,))
    assert torch.autograd.gradgradcheck(drawn, (x,))
    y = drawn(x)
    basis = torch.eye(40, dtype=torch.float64)
    (jacobian,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
    torch.testing.assert_close(jacobian, torch.diag((y / x).where(x < 0, 1.0).detach()))
    y = drawn(x)
    each = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(basis)
    torch.testing.assert_close(each, jacobian)


@dtypes
def test_only_the_slopes_are_kept(dtype):
    kept = []
    x = torch.randn(1000).to(dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        drawn(x)
    assert [(t.shape, t.dtype) for t in kept] == [(x.shape, dtype)]


@dtypes
@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (-0.5, 1.5)], ids=str)
def test_a_gradient_changes_no_value(dtype, bounds):
    x = torch.randn(300_001).to(dtype)
    assert torch.equal(drawn(x, *bounds), drawn(x.clone().requires_grad_(), *bounds))


def test_checkpoints_replay():
    x, g = torch.randn(1000, requires_grad=True), torch.randn(1000)
    torch.manual_seed(3)
    (want,) = torch.autograd.grad(FF.rrelu(x, training=True), x, g)
    torch.manual_seed(3)
    y = torch.utils.checkpoint.checkpoint(lambda x: FF.rrelu(x, training=True), x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y, x, g)[0], want)


def test_transforms():
    x = -torch.rand(3, 50, dtype=torch.float64) - 0.5
    for randomness in ("different", "same"):
        y = torch.func.vmap(lambda x: FF.rrelu(x, training=True), randomness=randomness)(x)
        slopes = y / x
        assert ((slopes >= 1 / 8) & (slopes <= 1 / 3)).all()
        assert torch.allclose(slopes[0], slopes[1]) == (randomness == "same")
    grads = torch.func.grad(lambda x: FF.rrelu(x, training=True).sum())(x)
    assert ((grads >= 1 / 8) & (grads <= 1 / 3)).all()
    y, tangent = torch.func.jvp(lambda x: FF.rrelu(x, training=True), (x,), (x,))
    torch.testing.assert_close(y, tangent)
    torch.testing.assert_close(
        torch.func.vmap(lambda x: FF.rrelu(x))(x), F.rrelu(x)
    )  # fmt: skip


def test_compiled():
    x = torch.randn(4, 500, requires_grad=True)
    compiled = torch.compile(lambda x: FF.rrelu(x, training=True), backend="aot_eager", fullgraph=True)
    y = compiled(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    slopes = (y / x).detach()
    torch.testing.assert_close(dx, slopes)
    assert ((slopes[x < 0] > 0.12) & (slopes[x < 0] < 0.34)).all() and slopes[x < 0].std() > 0.04
    plain = torch.compile(lambda x: FF.rrelu(x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(plain(x), F.rrelu(x))


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_dispatch_modes_see_one_operator():
    x, g = torch.randn(100, requires_grad=True), torch.randn(100)
    with Watch() as watch:
        y = drawn(x)
        (dx,) = torch.autograd.grad(y, x, g)
    assert watch.seen.count("fusedact.rrelu.default") == 2
    again = drawn(x)
    assert torch.equal(y, again) and torch.equal(dx, torch.autograd.grad(again, x, g)[0])
    seed = torch.tensor([5])
    for forward in (True, False):
        arguments = (g, x.detach(), seed, 0.1, 0.3, forward)
        torch.library.opcheck(torch.ops.fusedact.rrelu, arguments, test_utils=("test_schema", "test_faketensor"))


# ----- in place, other kinds of tensors


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.t(), lambda x: x[:, ::2]], ids=["plain", "t", "strided"])
def test_inplace(training, view):
    base = torch.randn(20, 30)
    torch.manual_seed(0)
    want = FF.rrelu(view(base.clone()), training=training)
    x = view(base.clone())
    version = x._version
    torch.manual_seed(0)
    assert FF.rrelu(x, training=training, inplace=True) is x
    assert torch.equal(x, want) and x._version > version
    leaf = base.clone().requires_grad_()
    torch.manual_seed(0)
    y = FF.rrelu(view(leaf * 1.0), training=training, inplace=True)
    y.sum().backward()
    torch.testing.assert_close(view(leaf.grad), torch.where(view(base) > 0, 1.0, want / view(base)))
    with pytest.raises(RuntimeError, match="leaf"):
        FF.rrelu(leaf, training=training, inplace=True)


def test_other_tensors():
    assert drawn(torch.empty(0, 3)).shape == (0, 3)
    scalar = drawn(torch.tensor(-1.0))
    assert scalar.shape == () and -1 / 3 <= scalar <= -1 / 8
    assert drawn(torch.ones(3, device="meta")).is_meta
    empty = torch.empty(0, requires_grad=True)
    drawn(empty).sum().backward()
    assert empty.grad.shape == (0,)


# ----- the module, names, errors


def test_module():
    x = torch.randn(100)
    module = fusedact.RReLU(0.1, 0.3)
    assert repr(module) == repr(nn.RReLU(0.1, 0.3)) == "RReLU(lower=0.1, upper=0.3)"
    assert repr(fusedact.RReLU(0.1, 0.3, True)) == repr(nn.RReLU(0.1, 0.3, True))
    assert not torch.equal(module(x), module(x))
    torch.manual_seed(0)
    y = module(x)
    assert torch.equal(y, drawn(x, 0.1, 0.3))
    assert torch.equal(module.eval()(x), nn.RReLU(0.1, 0.3).eval()(x))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x)) and other.spec is module.spec
    assert type(fusedact.create("rrelu", lower=0.2)) is fusedact.RReLU
    y = x.clone()
    assert fusedact.RReLU(inplace=True)(y) is y


def test_by_name():
    x = torch.randn(10)
    assert torch.equal(FF.activate(x, "rrelu", lower=0.2, upper=0.4), F.rrelu(x, 0.2, 0.4))
    assert fusedact.names("random") == ("rrelu",)
    grid, curve, slope = plotting.curves("rrelu", -2.0, 2.0, 5)
    assert torch.equal(curve, F.rrelu(grid)) and slope[-1] == 1.0
    assert fusedact.explain("rrelu", x).kind == "aten"
    assert fusedact.explain("rrelu", x, training=True).kind == "pieces"
    assert fusedact.explain(fusedact.RReLU(), x).kind == "pieces"
    assert fusedact.explain(fusedact.RReLU().eval(), x).kind == "aten"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FF.rrelu([1.0]), TypeError, "functional.rrelu: input must be a torch.Tensor, got list"),
        (lambda: FF.rrelu(torch.ones(2).int()), TypeError, "functional.rrelu: input must have dtype .* got int32"),
        (lambda: FF.rrelu(torch.ones(2), 0.5, 0.1), ValueError, "functional.rrelu: lower must be at most upper, both"),
        (lambda: FF.rrelu(torch.ones(2), 0.5, math.inf), ValueError, "functional.rrelu: lower must be at most upper"),
        (lambda: FF.rrelu(torch.ones(2), math.nan), ValueError, "functional.rrelu: lower must be at most upper"),
        (lambda: FF.rrelu(torch.ones(2), "a"), TypeError, "functional.rrelu: lower must be a number, got str"),
        (lambda: fusedact.RReLU(0.5, 0.1), ValueError, "RReLU: lower must be at most upper, .* got 0.5 and 0.1"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^fusedact.{message}"):
        call()
