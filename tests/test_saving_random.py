"""What rrelu keeps in training: a seed, and the input, the output or bits that tell which elements have a slope."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from saving_cases import DTYPES, gradient, kept, made, same
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import functional as FF

policies = pytest.mark.parametrize("policy", ["input", "output", "bits"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def drawn(x, *bounds, seed=0, **options):
    torch.manual_seed(seed)
    return FF.rrelu(x, *bounds, training=True, **options)


def derived(x, g, *bounds, **options):
    leaf = x.detach().requires_grad_()
    y = drawn(leaf, *bounds, **options)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def keeps(function, x, *args, **keywords):
    """What is kept beside the seed, in words."""
    found, y = kept(function, x, *args, **keywords)
    (seed,) = (t for t in found if t.dtype == torch.int64)
    assert seed.shape == (1,)
    words = {x.data_ptr(): "input", y.data_ptr(): "output"}
    (other,) = (t for t in found if t is not seed)
    if other.dtype == torch.uint8:
        assert other.nbytes == (x.numel() + 7) // 8
        return "bits"
    return words[other.data_ptr()]


@dtypes
@policies
def test_bytes_kept(policy, dtype):
    x = made(41, 25, dtype=dtype)
    assert keeps(FF.rrelu, x, training=True, save=policy) == policy
    path = fusedact.explain("rrelu", x, training=True, save=policy)
    assert path.kind == "pieces" and path.keeps == policy and "seed" in path.because + "seed" * (policy == "input")


@dtypes
@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (0.0, 0.0), (-0.5, 1.5), (0.5, 3.0)], ids=str)
@pytest.mark.parametrize("n", [1, 1001, 300_001])
@policies
def test_backward_has_the_slopes_of_forward(policy, dtype, bounds, n):
    x = torch.randn(n).to(dtype)
    # Where a half's quotient still tells the slope.
    x = x.where(x.abs() > 0.1, 0.5)
    g = torch.randn(n).to(dtype)
    y, dx = derived(x, g, *bounds, save=policy)
    wide = [t.double() for t in (x, y, g)]
    slopes = torch.where(wide[0] > 0, 1.0, wide[1] / wide[0])
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(dx.double(), wide[2] * slopes, rtol=tolerance, atol=1e-3 * tolerance)


@dtypes
@pytest.mark.parametrize("bounds", [(1 / 8, 1 / 3), (-0.5, 1.5)], ids=str)
def test_every_policy_draws_the_same(dtype, bounds):
    x, g = torch.randn(7, 301).to(dtype), torch.randn(7, 301).to(dtype)
    (y, dx), *others = (derived(x, g, *bounds, save=p) for p in ("input", "output", "bits"))
    for other in others:
        same(other[0], y)
        same(other[1], dx)
    assert (y[x < 0] / x[x < 0]).double().std() > 0.04
    # Whether a gradient is wanted or not.
    same(drawn(x, *bounds, save="bits"), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pieces_draw_as_by_default(dtype):
    x, g = torch.randn(3001, dtype=dtype), torch.randn(3001, dtype=dtype)
    with fusedact.backend("eager"):
        y, dx = derived(x, g)
        for policy in ("input", "output", "bits"):
            for a, b in zip(derived(x, g, save=policy), (y, dx), strict=True):
                same(a, b)


@policies
def test_extremes(policy):
    """Zeros, infinities, a NaN, and outputs that underflow."""
    inf, tiny = float("inf"), 1e-45
    x = torch.tensor([0.0, -0.0, inf, -inf, float("nan"), -tiny, tiny, -1e-44])
    for bounds in ((0.25, 0.5), (1e-3, 2e-3)):
        y, dx = derived(x, torch.ones(8), *bounds, save=policy)
        assert y[:4].tolist() == [0.0, 0.0, inf, -inf] and y[4].isnan()
        assert dx[[2, 4, 6]].tolist() == [1.0] * 3
        slopes = dx[[0, 1, 3, 5, 7]]
        assert ((slopes >= bounds[0]) & (slopes <= bounds[1])).all()


def test_a_slope_below_zero():
    """Of two inputs that share an output a bit tells."""
    x = made(40)
    assert keeps(FF.rrelu, x, -0.5, 0.5, True, save="output") == "bits"
    assert fusedact.explain("rrelu", x, lower=-0.5, upper=0.5, training=True, save="output").keeps == "bits"
    assert keeps(FF.rrelu, x, 0.0, 0.5, True, save="output") == "output"


VIEWS = {
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[::2, 1::2],
    "channels last": lambda x: x.reshape(2, 5, 8, -1).to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(7, -1),
    "one": lambda x: x[0, 0],
    "none": lambda x: x[:0],
}


@pytest.mark.parametrize("view", VIEWS)
@policies
def test_layouts(policy, view):
    x = VIEWS[view](torch.randn(40, 30))
    for g in (torch.randn(x.shape), torch.randn(()).expand(x.shape)):
        strided, dense = (derived(t, g, save=policy) for t in (x, x.contiguous()))
        for a, b in zip(strided, dense, strict=True):
            same(a, b)
        assert strided[1].stride() == torch.empty_like(x).stride()


# ----- autograd


@policies
def test_orders(policy):
    x = torch.randn(40, dtype=torch.float64, requires_grad=True)

    def function(x):
        return drawn(x, save=policy)

    assert torch.autograd.gradcheck(function, (x,)) and torch.autograd.gradgradcheck(function, (x,))
    y = function(x)
    basis = torch.eye(40, dtype=torch.float64)
    (rows,) = torch.autograd.grad(y, x, basis, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(rows, torch.diag((y / x).where(x < 0, 1.0).detach()))
    each = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(basis)
    torch.testing.assert_close(each, rows)
    first, second = (torch.autograd.grad(y, x, basis[0], retain_graph=True)[0] for _ in range(2))
    same(first, second)


@policies
def test_changes_of_the_output(policy):
    x = made(50)
    y = drawn(x, save=policy)
    slopes = (y / x).detach().where(x < 0, 1.0)
    y += 1
    if policy == "output":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), x)
    else:
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], slopes)


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2]], ids=["dense", "turned", "gaps"])
@policies
def test_in_place(policy, view):
    leaf = torch.randn(8, 12, requires_grad=True)
    x = view(leaf * 1)
    g, before = torch.randn(x.shape), x.detach().clone()
    torch.manual_seed(0)
    found, y = kept(FF.rrelu, x, training=True, inplace=True, save=policy)
    assert y is x
    want = derived(before, g, save=policy)
    same(y.detach(), want[0])
    sizes = [t.nbytes for t in found if t.data_ptr() != x.data_ptr()]
    assert sorted(sizes) == sorted([8] + {"input": [x.nbytes], "output": [], "bits": [(x.numel() + 7) // 8]}[policy])
    same(view(torch.autograd.grad(y, leaf, g)[0]), want[1])


@policies
def test_in_place_errors(policy):
    leaf = torch.randn(8, requires_grad=True)
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        drawn(leaf, inplace=True, save=policy)
    same(leaf.detach(), before)
    y = drawn(leaf.exp(), inplace=True, save=policy)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with torch.no_grad():
        same(drawn(leaf, inplace=True, save=policy), drawn(before, save=policy))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("n", [1000, 2**19])
@policies
def test_checkpoints(policy, reentrant, n):
    x, g = torch.randn(n, requires_grad=True), torch.randn(n)
    torch.manual_seed(0)
    y = checkpoint(lambda x: FF.rrelu(x, training=True, save=policy), x, use_reentrant=reentrant)
    y.backward(g)
    torch.testing.assert_close(x.grad, g * (y / x).detach())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("n", [1000, 2**19])
@policies
def test_a_checkpoint_that_leaves_its_block(policy, reentrant, n):
    """Its backward makes everything again outside of it: with the same slopes."""
    x, g = torch.randn(n, requires_grad=True), torch.randn(n)
    with fusedact.save_policy(policy):
        y = checkpoint(lambda x: FF.rrelu(x, training=True) * 2, x, use_reentrant=reentrant)
    try:
        y.backward(g)
    except torch.utils.checkpoint.CheckpointError:
        # It counts what is kept, which a policy changes.
        assert not reentrant and n > 1000
    else:
        torch.testing.assert_close(x.grad, g * (y / x).detach())


@policies
def test_hooks(policy):
    x, g = torch.randn(6, 10, requires_grad=True), torch.randn(10, 6)
    wanted = derived(x.t(), g, save=policy)[1]
    for hooks in (
        torch.autograd.graph.save_on_cpu(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t),
    ):
        with hooks:
            y = drawn(x.t(), save=policy)
        same(torch.autograd.grad(y, x, g)[0].t(), wanted)


@policies
def test_transforms_and_compilers_have_the_formula(policy):
    x = -torch.rand(3, 50) - 0.5

    def call(x):
        return FF.rrelu(x, training=True, save=policy)

    for y in (
        torch.func.vmap(call, randomness="different")(x),
        torch.func.jvp(call, (x,), (x,))[1],
        torch.func.grad(lambda x: call(x).sum())(x) * x,
        torch.compile(call, backend="aot_eager", fullgraph=True)(x),
    ):
        slopes = y / x
        assert ((slopes >= 1 / 8 - 1e-6) & (slopes <= 1 / 3 + 1e-6)).all() and slopes.std() > 0.04


@policies
def test_dispatch_modes_see_the_operator(policy):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, g = torch.randn(7, 9).requires_grad_(), torch.randn(7, 9)
    wanted = derived(x, g, save=policy)
    with Watch():
        y = drawn(x, save=policy)
        (dx,) = torch.autograd.grad(y, x, g)
    assert seen.count("fusedact.rrelu.default") == 2
    same(y, wanted[0])
    same(dx, wanted[1])
    signs = (x.detach() > 0).to(torch.uint8)
    arguments = (g, signs, torch.tensor([5]), 0.1, 0.3, False)
    torch.library.opcheck(torch.ops.fusedact.rrelu, arguments, test_utils=("test_schema", "test_faketensor"))


# ----- policies: of a call, of a module, of a block


@policies
def test_in_evaluation_it_is_leaky_relu(policy):
    x, g = made(40), torch.randn(40)
    y = FF.rrelu(x, save=policy)
    slope = (1 / 8 + 1 / 3) / 2
    same(torch.autograd.grad(y, x, g)[0], gradient("leaky_relu", x, (slope,), g, save=policy))
    assert fusedact.explain("rrelu", x, save=policy).keeps == policy
    assert fusedact.explain(fusedact.RReLU(save=policy).eval(), x).keeps == policy
    found, y = kept(FF.rrelu, x, save=policy)
    assert len(found) == 1 and (found[0].dtype == torch.uint8) == (policy == "bits")


@policies
def test_blocks(policy):
    """A block has what a call has, save that it changes no number: of few elements the slopes alone are kept."""
    few, many = made(1000), made(1000, dtype=torch.float16)
    usual = drawn(few)
    with fusedact.save_policy(policy):
        torch.manual_seed(0)
        found, y = kept(FF.rrelu, few, training=True)
        same(y, usual)
        (slopes,) = found
        assert slopes.shape == few.shape and slopes.data_ptr() not in (few.data_ptr(), y.data_ptr())
        torch.testing.assert_close(y / few, slopes)
        assert fusedact.explain("rrelu", few, training=True).keeps == "slopes"
        y += 1
        torch.testing.assert_close(torch.autograd.grad(y.sum(), few)[0], slopes)
        assert keeps(FF.rrelu, many, training=True) == fusedact.explain("rrelu", many, training=True).keeps == policy
        with fusedact.save_policy("auto"):
            assert fusedact.explain("rrelu", many, training=True).keeps == "slopes"
    assert fusedact.explain("rrelu", few, training=True).keeps == "input and slopes"


def test_modules():
    x = made(40)
    module = fusedact.RReLU(0.1, 0.3, save="bits")
    assert repr(module) == "RReLU(lower=0.1, upper=0.3, save='bits')"
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert keeps(m, x) == "bits"
    assert fusedact.explain(module, x).keeps == "bits"
    assert fusedact.create("rrelu", save="output").save == "output"
    assert keeps(FF.activate, x, "rrelu", training=True, save="input") == "input"
    older = fusedact.RReLU()
    del older.__dict__["save"]
    assert pickle.loads(pickle.dumps(older))(x).shape == x.shape


@pytest.mark.parametrize("training", [True, False])
def test_what_is_refused(training):
    for policy in ("outputs", None, 1):
        known = f"save must be one of 'auto', 'input', 'output', 'bits', got {policy!r}$"
        with pytest.raises(ValueError, match=f"^fusedact.functional.rrelu: {known}"):
            FF.rrelu(torch.ones(2), training=training, save=policy)
        with pytest.raises(ValueError, match=f"^fusedact.RReLU: {known}"):
            fusedact.RReLU(save=policy)


def test_memory_report():
    """Measured in blocks: a half takes the seed."""
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), fusedact.RReLU(), torch.nn.Dropout(0.5)).half()
    (row,) = fusedact.memory_report(net, torch.randn(32, 16).half()).rows
    one = 32 * 64 * 2
    assert row.kept == {"auto": one, "input": one + 8, "output": one + 8, "bits": one // 16 + 8}
