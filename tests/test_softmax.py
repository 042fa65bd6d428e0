"""Softmax, log_softmax, softmin and softmax2d: values, gradients, extremes, layouts, transforms, modules, errors."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import rows_oracle as oracle
import torch
import twins
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fusedact
from fusedact import crossovers, dispatch
from fusedact import functional as FF
from fusedact.looking import plotting

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INF, NAN = math.inf, math.nan
names = pytest.mark.parametrize("name", oracle.NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _blocks_of_any_size(monkeypatch):
    """Small tensors take the way of large ones."""
    for module, name in CROSSOVERS:
        monkeypatch.setattr(module, name, 0)


UNMASKED = ("UNMASKED_ROWS_BELOW", "UNMASKED_ROWS_BELOW_RECORDED")
CROSSOVERS = [(dispatch, name) for name in ("MASKED_ROWS_BELOW", *UNMASKED)]


@pytest.fixture
def usual(monkeypatch):
    """As users have it."""
    for module, name in CROSSOVERS:
        monkeypatch.setattr(module, name, getattr(crossovers, name))


def test_few_elements_take_plain_operators(usual):
    def kind(rows, dtype=torch.float32, grad=False, **keywords):
        x = torch.zeros(rows, 1024, dtype=dtype, requires_grad=grad)
        return fusedact.explain("softmax", x, **keywords).kind

    keep, added = torch.ones(1024, dtype=torch.bool), torch.zeros(1024)
    assert [kind(rows, mask=keep) for rows in (64, 127, 128)] == ["formula", "formula", "pieces"]
    assert fusedact.explain("softmax", torch.zeros(2, 1024), mask=keep).reason.startswith(
        "below 131072 elements on the CPU"
    )
    for keywords in ({"temperature": 2.0}, {"temperature": torch.ones(1)}, {"mask": added}):
        assert [kind(rows, **keywords) for rows in (2, 1024, 8192)] == ["formula", "formula", "pieces"]
        assert [kind(rows, grad=True, **keywords) for rows in (2, 1024)] == ["formula", "pieces"]
        assert kind(1024, torch.bfloat16, **keywords) == "pieces"


@names
@dtypes
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("shape", "dim"), [((3, 4, 5), 0), ((3, 4, 5), -1), ((7,), 0), ((0, 3), 1), ((), 0)])
def test_the_shortest_way(usual, name, dtype, temperature, shape, dim):
    """What small tensors with a number as temperature take: the same, with its gradient."""
    x = torch.randn(shape).to(dtype).requires_grad_()
    y = oracle.ours(name)(x, dim, temperature=temperature)
    wide, eps = x.detach().double().requires_grad_(), torch.finfo(dtype).eps
    truth = oracle.composition(name, wide, dim, temperature)
    torch.testing.assert_close(
        y, truth.to(dtype), rtol=0, atol=4 * torch.finfo(dtype).eps * (10 if "log" in name else 1)
    )
    g = torch.randn(shape)
    y.backward(g.to(dtype))
    truth.backward(g.to(dtype).double())
    torch.testing.assert_close(x.grad, wide.grad.to(dtype), rtol=0, atol=30 * eps)


@names
def test_the_shortest_way_refuses_as_the_long_one(usual, name):
    x, function = torch.randn(3, 4), oracle.ours(name)
    with pytest.raises(IndexError, match="dim must be from -2 to 1 for a tensor of 2 dimensions, got 2"):
        function(x, 2)
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got -1\.0"):
        function(x, 1, temperature=-1.0)
    with pytest.raises(TypeError, match="dim must be an int, got bool"):
        function(x, True)
    with pytest.raises(ValueError, match=r"input must have shape \(C, H, W\) or \(N, C, H, W\), got \(1, 1, 1, 1, 1\)"):
        FF.softmax2d(torch.randn(1, 1, 1, 1, 1))


def masks(shape, generator=None):
    """Boolean and additive, whole and broadcast; each row keeps something."""
    keep = torch.rand(shape, generator=generator) > 0.3
    keep[..., 0] = True
    add = torch.randn(shape, generator=generator)
    add[..., -1] = -INF
    return {
        "keep": keep,
        "keep, broadcast": keep[(0,) * (len(shape) - 1)],
        "add": add,
        "add, broadcast": add[..., :1, :],
    }


# ----- PyTorch's own samples

pytest.importorskip("torch.testing._internal.common_methods_invocations")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPERATORS = {
    (op.name.removeprefix("nn.functional."), op.variant_test_name): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in oracle.NAMES
}
INFOS = {info.module_cls.__name__: info for info in module_db}
CLASSES = ("Softmax", "LogSoftmax", "Softmin", "Softmax2d")


def derived(function, sample):
    x = sample.input.detach()
    if x.is_floating_point():
        x.requires_grad_()
    y = function(x, *sample.args, **sample.kwargs)
    g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y.detach(), *(torch.autograd.grad(y, x, g) if x.requires_grad else ())


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize(("name", "variant"), OPERATORS, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_operator_samples(name, variant, dtype, backend):
    op = OPERATORS[name, variant]
    if not op.supports_dtype(dtype, "cpu"):
        with pytest.raises(TypeError):
            oracle.ours(name)(torch.ones(3, dtype=dtype), 0)
        return
    count = 0
    for s in op.sample_inputs("cpu", dtype):
        if "softmin" in name and not dtype.is_floating_point and s.kwargs.get("dtype") is None:
            continue
        if not s.kwargs.get("dtype", torch.float32).is_floating_point:
            continue
        with fusedact.backend(backend):
            got = derived(oracle.ours(name), s)
        torch.testing.assert_close(got, derived(op, s), equal_nan=True)
        count += 1
    assert count >= 3


def test_which_operators_have_samples():
    assert {name for name, _ in OPERATORS} == set(oracle.NAMES)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_module_samples(name, dtype):
    count = 0
    for ours, theirs, x in twins.module_samples(INFOS[name], "cpu", dtype):
        twins.assert_modules(ours, theirs, x)
        count += 1
    assert count >= 1


# ----- float64 truth

LENGTHS = [1, 2, 3, 17, 64, 1000, 4097, 262_144]


@names
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_against_float64(name, n, dtype):
    count = 2 if n > 100_000 else 5
    x, g = (scale * torch.randn(count, n).to(dtype) for scale in (5, 1))
    temperature = torch.tensor([0.7])
    keep = torch.rand(n) > 0.3
    keep[0] = True
    oracle.assert_right(name, x, g, 1)
    oracle.assert_right(name, x, g, 1, temperature=0.7)
    oracle.assert_right(name, x, g, 1, temperature, torch.randn(n, dtype=dtype))
    if name != "log_softmax":
        oracle.assert_right(name, x, g, 1, temperature, keep)


@names
@pytest.mark.parametrize("mask", ["keep", "keep, broadcast", "add", "add, broadcast"])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_masks_along_any_dim(name, mask, dim):
    x, g = torch.randn(4, 6, 5), torch.randn(4, 6, 5)
    keep = masks((4, 6, 5))[mask]
    if keep.dtype == torch.bool:
        keep[..., :] |= torch.arange(keep.shape[-1]) < 2
        # A sum along another dimension needs something, too.
        g = g.where(keep, 0.0)
    elif dim in (2, -1):
        keep = keep.requires_grad_()
    got = oracle.found(oracle.ours(name), x, g, dim, torch.tensor([1.5]), keep)
    truth = oracle.plain(name, torch.float64, x, g, dim, torch.tensor([1.5]), keep)
    for what in ("y", "dx", "dtemperature", "dmask"):
        torch.testing.assert_close(
            getattr(got, what), getattr(truth, what) if getattr(truth, what) is None else getattr(truth, what).float(),
            equal_nan=True,
        )  # fmt: skip


@dtypes
def test_rows_sum_to_one(dtype):
    x = 10 * torch.randn(50, 300).to(dtype)
    keep = torch.rand(300) > 0.5
    for y in (FF.softmax(x, 1), FF.softmax(x, 1, temperature=0.3, mask=keep), FF.softmin(x, 1, mask=keep)):
        torch.testing.assert_close(
            y.double().sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=150 * torch.finfo(dtype).eps
        )
        assert (y >= 0).all()
    logs = FF.log_softmax(x, 1, mask=keep)
    assert (logs <= 0).all() and (logs[:, ~keep] == -INF).all()


@names
@pytest.mark.parametrize("offset", [2.0**10, -(2.0**20), 2.0**100])
def test_shifts_change_nothing(name, offset):
    """Integers, whose sums with the offset are exact up to 2^20; from 2^100 on all are one number."""
    x = torch.randint(-8, 8, (7, 40)).float()
    function = oracle.ours(name)
    expected = x if abs(offset) < 2**24 else torch.zeros_like(x)
    torch.testing.assert_close(function(x + offset, 1), function(expected, 1))
    # A power of two, so that the quotients are exact, too.
    torch.testing.assert_close(function(x + offset, 1, temperature=2.0), function(expected, 1, temperature=2.0))


EXTREMES = torch.tensor(
    [
        *([-INF, -INF, -INF, -INF], [INF, 0, 1, 2], [INF, INF, 0, -INF], [-INF, 0, 1, 2], [NAN, 0, 1, 2]),
        *([NAN, -INF, INF, 0], [3e38, -3e38, 0, 1], [-3e38, -3e38, -3e38, -3e38], [1e-40, -1e-40, 0, -0.0]),
        *([200, 0, -200, -104], [INF, NAN, 0, 1]),
    ]
)
KEPT = [None, [True, True, False, True], [False, True, True, True], [False, False, False, False]]


@names
@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.5, torch.tensor([2.0])], ids=str)
@pytest.mark.parametrize("broadcast", [True, False])
def test_extremes(name, kept, temperature, broadcast):
    x = EXTREMES.repeat(3, 1)
    mask = None if kept is None else torch.tensor(kept)
    if mask is not None and not broadcast:
        mask = mask.expand(x.shape).clone()
    assert_as_composed(name, x, temperature, mask)


def assert_as_composed(name, x, temperature, mask):
    """Value and gradient of the input; that of the temperature is finite where the composition multiplies 0 by inf."""
    g = torch.linspace(-1, 2, x.numel()).reshape(x.shape)
    got = oracle.found(oracle.ours(name), x, g, 1, temperature, mask)
    want = oracle.plain(name, torch.float32, x, g, 1, temperature, mask)
    torch.testing.assert_close(got.y, want.y, equal_nan=True)
    # The composition divides infinite inputs, whose gradients are the same.
    torch.testing.assert_close(got.dx, want.dx, equal_nan=True)


@names
def test_a_mask_that_adds_minus_infinity(name):
    x = torch.randn(6, 5)
    add = torch.zeros(6, 5)
    add[0], add[1, 2], add[2, 1:] = -INF, -INF, -INF
    assert_as_composed(name, x, 1.0, add)
    assert FF.softmax(x, 1, mask=add)[0].isnan().all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
@pytest.mark.parametrize("masked", ["none", "left out", "added"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_temperature_learns_from_what_is_not_rounded(name, masked, dtype):
    """Where every gradient is the same, the errors of a rounded output would add up."""
    x, t = torch.randn(128, 1024).to(dtype), torch.tensor([1.3], requires_grad=True)
    mask = {"none": None, "left out": torch.rand(1024) > 0.2, "added": torch.randn(1024)}[masked]
    y = oracle.ours(name)(x, 1, temperature=t, mask=mask)
    g = torch.ones_like(x) if name == "log_softmax" else torch.randn(x.shape).to(dtype)
    y.backward(g)
    z = x.double() * (-1 if name == "softmin" else 1) / t.detach().double()
    scores = z if mask is None else z.masked_fill(~mask, -torch.inf) if masked == "left out" else z + mask.double()
    p = scores.softmax(1)
    terms = ((p * z).sum(1, keepdim=True) - z) / t.detach().double() * g.double()
    terms = terms if name == "log_softmax" else terms * p
    if masked == "left out" and name == "log_softmax":
        # Of what is left out the gradient goes to the others, by their shares, and none to itself.
        terms = torch.where(mask, terms, (p * z).sum(1, keepdim=True) / t.detach().double() * g.double())
    assert (t.grad.double() - terms.sum()).abs() < 1e-6 * terms.abs().sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.25, 1.7, 2.0**-70])
@pytest.mark.parametrize("broadcast", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@names
def test_halves_are_rounded_once(name, dtype, broadcast, temperature):
    """Whether scores are halves, which a power of two leaves exact, or not; what is left out may be anything."""
    keep = torch.rand(1 if broadcast else 64, 96) > 0.3
    keep[:, :2] = True
    x = torch.randn(64, 96).to(dtype).masked_fill(~keep, torch.nan)
    x[:, 95] = torch.inf
    keep[:, 95] = False
    z = x.double() * (-1 if name == "softmin" else 1) / temperature
    scores = z.masked_fill(~keep, -torch.inf)
    truth = scores.log_softmax(1) if name == "log_softmax" else scores.softmax(1)
    with fusedact.backend("eager"):
        y = oracle.ours(name)(x, 1, temperature=temperature, mask=keep)
    # Half a unit of a half, and what float32 loses, relative to the largest score.
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    lost = 1e-6 * (1.0 + z.where(keep, 0.0).abs().amax(1, keepdim=True).clamp(max=1e3))
    bound = 0.505 * eps * truth.abs() + lost * (1.0 if name == "log_softmax" else truth) + eps * tiny
    finite = truth.abs() < torch.finfo(dtype).max
    assert ((y.double() - truth).abs() <= bound)[finite].all()
    assert torch.equal(y[~keep.expand_as(y)], truth[~keep.expand_as(y)].to(dtype))


def test_the_temperature_of_an_infinite_input():
    """Its part of the sum is 0."""
    x = torch.tensor([[-INF, 0.0, 1.0]])
    t = torch.tensor([2.0], requires_grad=True)
    small = torch.tensor([2.0], requires_grad=True)
    FF.softmax(x, 1, temperature=t)[0, 1].backward()
    FF.softmax(x[:, 1:], 1, temperature=small)[0, 0].backward()
    torch.testing.assert_close(t.grad, small.grad)


# ----- layouts

VIEWS = {
    "transposed": lambda x: x.transpose(0, 2),
    "every other": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(7, -1, -1),
    "flipped": lambda x: x.flip(1)[:, 1:],
    "permuted": lambda x: x.permute(1, 2, 0),
}


@names
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_layouts(name, view, dim, monkeypatch):
    from fusedact.rowwise import row_blocks

    # Several blocks.
    monkeypatch.setattr(row_blocks, "BLOCK_PER_THREAD", 16)
    x = VIEWS[view](torch.randn(5, 8, 6))
    mask = torch.randn(x.shape[-1])
    g = torch.randn(x.shape)
    got = oracle.found(oracle.ours(name), x, g, dim, torch.tensor(0.8), mask)
    want = oracle.plain(name, torch.float32, x, g, dim, torch.tensor(0.8), mask)
    for ours, theirs in ((got.y, want.y), (got.dx, want.dx), (got.dtemperature, want.dtemperature)):
        torch.testing.assert_close(ours, theirs)
    if view != "expanded":
        assert got.y.stride() == torch.empty_like(x).stride()


@names
@pytest.mark.parametrize(
    ("shape", "dim"), [((0, 3), 1), ((3, 0), 1), ((3, 0), 0), ((0,), 0), ((), 0), ((), -1), ((1,), 0)]
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_hardly_any_elements(name, shape, dim, temperature):
    x = torch.randn(shape, requires_grad=True)
    y = oracle.ours(name)(x, dim, temperature=temperature)
    torch.testing.assert_close(y, oracle.composition(name, x, dim, temperature))
    y.sum().backward()
    assert x.grad.shape == x.shape


# ----- derivatives and transforms


@names
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("mask", [None, "keep", "add"])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_gradients(name, dim, mask, backend):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    keep = torch.rand(4, 2) > 0.3
    keep[:, 0], keep[0] = True, True
    given = {None: None, "keep": keep, "add": torch.randn(4, 2, dtype=torch.float64, requires_grad=True)}[mask]
    inputs = [x, t, *([given] if mask == "add" else [])]

    def function(x, t, added=None):
        y = oracle.ours(name)(x, dim, temperature=t, mask=given if added is None else added)
        # -inf has no finite differences.
        return y.where(keep, 0.0) if mask == "keep" else y

    with fusedact.backend(backend):
        assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, inputs)
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_backward_ad=False)


@names
def test_transforms(name):
    function, x = oracle.ours(name), torch.randn(3, 4, 5, dtype=torch.float64)
    add, t = torch.randn(5, dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)

    def ours(x, t):
        return function(x, -1, temperature=t, mask=add)

    def plain(x, t):
        return oracle.composition(name, x, -1, t, add)

    each = torch.func.vmap(ours, (1, None))(x, t)
    torch.testing.assert_close(each, torch.func.vmap(plain, (1, None))(x, t))
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        for argument in (0, 1):
            got, want = (transform(lambda x, t, f=f: f(x, t).square().sum(), argument)(x, t) for f in (ours, plain))
            torch.testing.assert_close(got, want)
    _, tangent = torch.func.jvp(ours, (x, t), (x.cos(), t))
    torch.testing.assert_close(tangent, torch.func.jvp(plain, (x, t), (x.cos(), t))[1])
    leaf = x.clone().requires_grad_()
    y = ours(leaf, t)
    basis = torch.eye(60, dtype=torch.float64).reshape(60, *y.shape)
    (batched,) = torch.autograd.grad(y, leaf, basis, is_grads_batched=True)
    torch.testing.assert_close(batched.reshape(60, 60), torch.func.jacrev(lambda x: plain(x, t))(x).reshape(60, 60))


@names
def test_compiled(name):
    function = oracle.ours(name)
    keep, t = torch.tensor([True, False, True, True]), torch.tensor([0.5], requires_grad=True)

    def call(x, t):
        return function(x, 1, temperature=t, mask=keep).where(keep, 0.0).sin()

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4, requires_grad=True)
    got, want = (torch.autograd.grad(f(x, t).sum(), (x, t)) for f in (compiled, call))
    torch.testing.assert_close(got, want)
    plainly = torch.compile(lambda x: function(x, 0), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(plainly(x), function(x, 0))


def test_what_the_compiler_makes():
    x, t = torch.randn(64, 100, requires_grad=True), torch.tensor([0.5], requires_grad=True)
    compiled = torch.compile(lambda x, t: FF.softmax(x, 1, temperature=t), fullgraph=True)
    got = torch.autograd.grad(compiled(x, t)[:, 0].sum(), (x, t))
    torch.testing.assert_close(got, torch.autograd.grad(FF.softmax(x, 1, temperature=t)[:, 0].sum(), (x, t)))


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@names
def test_dispatch_modes_see_one_operator(name):
    x, t = torch.randn(3, 4, requires_grad=True), torch.tensor([2.0], requires_grad=True)
    keep = torch.tensor([True, False, True, True])
    function, g = oracle.ours(name), torch.randn(3, 4)
    with Watch() as watch:
        y = function(x, 1, temperature=t, mask=keep)
        grads = torch.autograd.grad(y, (x, t), g)
    assert "fusedact.softmax.default" in watch.seen and "fusedact.softmax_backward.default" in watch.seen
    assert not [n for n in watch.seen if "aten._softmax" in n or "aten._log_softmax" in n]
    again = function(x, 1, temperature=t, mask=keep)
    torch.testing.assert_close(y, again)
    torch.testing.assert_close(grads, torch.autograd.grad(again, (x, t), g))


def test_the_operators_are_well_formed():
    x, keep, t = torch.randn(3, 4), torch.rand(3, 4) > 0.5, torch.tensor([2.0])
    arguments = (False, True, 1, torch.float32, 1.0, t, keep)
    y = torch.ops.fusedact.softmax(x, *arguments)
    for operator, given in (
        (torch.ops.fusedact.softmax, (x, *arguments)),
        (torch.ops.fusedact.softmax, (x.t(), *arguments[:-3], 2.0, None, None)),
        (torch.ops.fusedact.softmax_backward, (x, y, x, *arguments, [True, True, False])),
    ):
        torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))


@names
def test_meta_and_checkpoints(name):
    function = oracle.ours(name)
    x = torch.randn(3, 4, device="meta", requires_grad=True)
    y = function(x, 1, temperature=0.5, mask=torch.ones(4, device="meta", dtype=torch.bool))
    y.sum().backward()
    assert y.is_meta and y.shape == x.grad.shape == (3, 4)
    x, g = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
    y = torch.utils.checkpoint.checkpoint(lambda x: function(x, 1, temperature=0.5), x, use_reentrant=False)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, g), torch.autograd.grad(oracle.composition(name, x, 1, 0.5), x, g)
    )


class Logged(torch.Tensor):
    pass


def test_subclasses_stay():
    x = torch.randn(3, 4).as_subclass(Logged)
    y = FF.softmax(x, 1, temperature=0.5)
    assert type(y) is Logged
    torch.testing.assert_close(y.as_subclass(torch.Tensor), torch.softmax(x.as_subclass(torch.Tensor) / 0.5, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("source", [torch.bfloat16, torch.float16, torch.float32, torch.int64], ids=str)
def test_another_dtype(source, dtype):
    x = (4 * torch.randn(3, 40)).to(source)
    for temperature in (1.0, 0.5):
        y = FF.softmax(x, 1, dtype=dtype, temperature=temperature)
        assert y.dtype == dtype
        torch.testing.assert_close(
            y, torch.softmax(x.to(dtype) / temperature, 1), rtol=4 * torch.finfo(dtype).eps, atol=1e-6
        )
    if source.is_floating_point:
        leaf = x.requires_grad_()
        (dx,) = torch.autograd.grad(FF.softmax(leaf, 1, dtype=dtype, temperature=0.5)[:, 0].sum(), leaf)
        (want,) = torch.autograd.grad(torch.softmax(leaf.to(dtype) / 0.5, 1)[:, 0].sum(), leaf)
        assert dx.dtype == source
        torch.testing.assert_close(dx, want, rtol=1e-2 if dtype == torch.float16 else 1e-4, atol=1e-4)


# ----- modules


@pytest.mark.parametrize("name", CLASSES)
def test_modules(name):
    dims = () if name == "Softmax2d" else (1,)
    cls, x = getattr(fusedact, name), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(cls(*dims)(x), getattr(nn, name)(*dims)(x))
    assert repr(cls(*dims)) == repr(getattr(nn, name)(*dims))
    module = cls(*dims, temperature=2.0, learnable=True)
    assert repr(module) == f"{name}({'' if not dims else 'dim=1, '}temperature=learnable)"
    assert [tuple(p.shape) for p in module.parameters()] == [(1,)]
    keep = torch.rand(3, 1, 1) > 0.5
    keep[0] = True
    y = module(x, keep)
    torch.testing.assert_close(y, cls(*dims, temperature=2.0)(x, keep))
    y.where(keep, 0.0).square().sum().backward()
    assert module.temperature.grad.shape == (1,) and module.temperature.grad.item() != 0
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(x, keep), y)
        assert other.spec is module.spec
    other = cls(*dims, learnable=True)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x, keep), y)
    with torch.no_grad():
        module.temperature.fill_(5.0)
    module.reset_parameters()
    assert module.temperature.item() == 2.0
    assert type(fusedact.create(module.spec.name)) is cls


def test_by_name():
    x = torch.randn(3, 4)
    torch.testing.assert_close(FF.activate(x, "log_softmax", dim=1), torch.log_softmax(x, 1))
    torch.testing.assert_close(FF.activate(x, "softmax", dim=0, temperature=2.0), torch.softmax(x / 2, 0))
    assert fusedact.names("rowwise") == ("softmax", "log_softmax", "softmin", "softmax2d")
    assert fusedact.explain("softmax", x).kind == "aten"
    assert fusedact.explain("softmax", x, temperature=2.0).kind == "pieces"
    assert fusedact.explain(fusedact.Softmax(1, learnable=True), x).kind == "pieces"
    assert fusedact.explain(FF.softmin, x, mask=x > 0).kind == "pieces"
    with pytest.raises(
        ValueError, match=r"fusedact.Activation: 'softmax' takes arguments of its own; use fusedact.Softmax"
    ):
        fusedact.Activation("softmax")
    with pytest.raises(ValueError, match=r"fusedact.gain: softmax is not elementwise, and has no gain"):
        fusedact.gain("softmax")
    with pytest.raises(ValueError, match="softmin is not elementwise, and has no curve"):
        plotting.curves("softmin", -1.0, 1.0)


def test_what_is_kept():
    """The output alone, and the input where a temperature is learned: as the catalogue says."""
    x = torch.randn(64, 100, requires_grad=True)

    def kept(**arguments):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            y = FF.softmax(x, 1, **arguments)
        return [t for t in found if t.untyped_storage().nbytes() >= x.untyped_storage().nbytes()], y

    for arguments in ({}, {"temperature": 2.0}, {"temperature": 2.0, "mask": torch.ones(100, dtype=torch.bool)}):
        (tensor,), y = kept(**arguments)
        assert tensor.data_ptr() == y.data_ptr()
    tensors, _ = kept(temperature=torch.tensor([2.0], requires_grad=True))
    assert len(tensors) == 2


# ----- what goes wrong


@names
def test_a_dim_that_is_not_given(name):
    for shape in ((), (3,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.randn(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = getattr(F, name)(x)
        with pytest.warns(UserWarning, match=f"fusedact.functional.{name}: dim is not given") as caught:
            got = oracle.ours(name)(x)
        torch.testing.assert_close(got, want)
        assert caught[0].filename == __file__
    module = {"softmax": fusedact.Softmax, "log_softmax": fusedact.LogSoftmax, "softmin": fusedact.Softmin}[name]()
    with pytest.warns(UserWarning, match="dim is not given") as caught:
        module(torch.randn(3))
    assert caught[0].filename == __file__


WRONG = [
    (lambda f: f([1.0], 0), TypeError, "input must be a torch.Tensor, got list"),
    (lambda f: f(torch.ones(3, dtype=torch.int64), 0), TypeError, "input must have dtype float16, bfloat16, .* int64"),
    (lambda f: f(torch.ones(3), 1), IndexError, "dim must be from -1 to 0 for a tensor of 1 dimensions, got 1"),
    (lambda f: f(torch.ones(()), 1), IndexError, "dim must be from -1 to 0 for a tensor of 0 dimensions, got 1"),
    (lambda f: f(torch.ones(3), 0.0), TypeError, "dim must be an int, got float"),
    (lambda f: f(torch.ones(3), True), TypeError, "dim must be an int, got bool"),
    (lambda f: f(torch.ones(3), 0, dtype=torch.int64), TypeError, "dtype must be float16, .* got int64"),
    (lambda f: f(torch.ones(3), 0, dtype="half"), TypeError, "dtype must be a torch.dtype, got str"),
    (lambda f: f(torch.ones(3), 0, temperature=0.0), ValueError, "temperature must be positive and finite, got 0.0"),
    (lambda f: f(torch.ones(3), 0, temperature=-1), ValueError, "temperature must be positive and finite, got -1.0"),
    (lambda f: f(torch.ones(3), 0, temperature=INF), ValueError, "temperature must be positive and finite, got inf"),
    (lambda f: f(torch.ones(3), 0, temperature="1"), TypeError, "temperature must be a number or a tensor, got str"),
    (
        lambda f: f(torch.ones(3), 0, temperature=torch.ones(3)),
        ValueError,
        r"temperature must be a number or a tensor of shape \(\) or \(1,\), got shape \(3,\)",
    ),
    (
        lambda f: f(torch.ones(3), 0, temperature=torch.ones(1, device="meta")),
        ValueError,
        "temperature must be on the device of input, cpu, got a tensor on meta",
    ),
    (lambda f: f(torch.ones(3), 0, mask=[True]), TypeError, "mask must be a torch.Tensor, got list"),
    (
        lambda f: f(torch.ones(3), 0, mask=torch.ones(3, dtype=torch.int64)),
        TypeError,
        "mask must have dtype bool, float16, .* got int64",
    ),
    (
        lambda f: f(torch.ones(2, 3), 0, mask=torch.ones(2)),
        ValueError,
        r"mask must broadcast to the shape of input, \(2, 3\), got shape \(2,\)",
    ),
    (
        lambda f: f(torch.ones(3), 0, mask=torch.ones(2, 3)),
        ValueError,
        r"mask must broadcast to the shape of input, \(3,\), got shape \(2, 3\)",
    ),
    (
        lambda f: f(torch.ones(3), 0, mask=torch.ones(3, device="meta")),
        ValueError,
        "mask must be on the device of input, cpu, got a tensor on meta",
    ),
]


@names
@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[m for _, _, m in WRONG])
def test_errors(name, call, error, message):
    with pytest.raises(error, match=f"^fusedact.functional.{name}: {message}"):
        call(oracle.ours(name))


def test_errors_of_modules_and_images():
    with pytest.raises(
        ValueError, match=r"softmax2d: input must have shape \(C, H, W\) or \(N, C, H, W\), got \(3, 4\)"
    ):
        FF.softmax2d(torch.ones(3, 4))
    with pytest.raises(TypeError, match=r"fusedact.Softmax: dim must be an int, got float"):
        fusedact.Softmax(0.5)
    with pytest.raises(TypeError, match=r"fusedact.Softmin: learnable must be a bool, got str"):
        fusedact.Softmin(0, learnable="temperature")
    with pytest.raises(ValueError, match=r"fusedact.Softmax2d: temperature must be positive and finite, got 0.0"):
        fusedact.Softmax2d(temperature=0.0)
    with (
        fusedact.backend("triton"),
        pytest.raises(RuntimeError, match=r"fusedact.functional.softmax: the triton backend is forced, but no kernel"),
    ):
        FF.softmax(torch.ones(3, dtype=torch.float64), 0)


# ----- the oracle itself


@pytest.mark.parametrize("wrong", [lambda y: y * (1 + 3e-6), lambda y: y + 1e-6, lambda y: y.where(y > 0.01, NAN)])
def test_the_oracle_rejects(wrong):
    x = torch.randn(5, 60)
    truth, yard = torch.softmax(x.double(), 1), torch.softmax(x, 1)
    oracle.assert_rows(yard, truth, yard, 1)
    with pytest.raises(AssertionError):
        oracle.assert_rows(wrong(yard), truth, yard, 1)


@pytest.mark.parametrize("name", [*oracle.NAMES, "softmax2d"])
def test_documentation(name):
    text = oracle.ours(name).__doc__
    for part in ("Args:", "temperature:", "mask:", "Returns:", "Raises:", ">>> FF.", "Source:"):
        assert part in text
