"""What softmax and its kin keep for backward: their output, or the input, which makes that again."""

from __future__ import annotations

import copy
import pickle

import pytest
import rows_oracle as oracle
import torch
from saving_cases import DTYPES, HALVES, kept, made, same
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import crossovers, dispatch
from fusedact import functional as FF

names = pytest.mark.parametrize("name", oracle.NAMES)
policies = pytest.mark.parametrize("policy", ["input", "output"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
MODULES = {"Softmax": (1,), "LogSoftmax": (1,), "Softmin": (1,), "Softmax2d": ()}

KEEP = torch.arange(40) % 3 != 1
GIVEN = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "left out": {"mask": KEEP},
    "added": {"temperature": 2.0, "mask": torch.linspace(-1, 1, 40)},
}
given = pytest.mark.parametrize("given", GIVEN)


@pytest.fixture(params=[False, True], ids=["few", "many"])
def sizes(request, monkeypatch):
    """Few elements, which take plain operators by default; and as many take it."""
    if request.param:
        for name in ("MASKED_ROWS_BELOW", "UNMASKED_ROWS_BELOW", "UNMASKED_ROWS_BELOW_RECORDED"):
            assert getattr(dispatch, name) == getattr(crossovers, name)
            monkeypatch.setattr(dispatch, name, 0)


def large(found, x):
    """Those of x's size."""
    return [t for t in found if t.untyped_storage().nbytes() >= x.nbytes]


def derived(name, x, g, **arguments):
    leaf = x.detach().requires_grad_()
    y = oracle.ours(name)(leaf, 1, **arguments)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


@dtypes
@given
@policies
@names
def test_one_tensor_is_kept(name, policy, given, dtype, sizes):
    x = made(30, 40, dtype=dtype)
    found, y = kept(oracle.ours(name), x, 1, **GIVEN[given], save=policy)
    (tensor,) = large(found, x)
    assert tensor.data_ptr() == (x if policy == "input" else y).data_ptr()
    told = fusedact.explain(name, x, **GIVEN[given], save=policy)
    assert told.keeps == policy and told.because


@dtypes
@given
@policies
@names
def test_gradients_are_those_by_default(name, policy, given, dtype, sizes):
    x, g = torch.randn(30, 40).to(dtype), torch.randn(30, 40).to(dtype)
    if name == "log_softmax" and given == "left out":
        g = g * KEEP
    found, wanted = (derived(name, x, g, **GIVEN[given], save=s) for s in (policy, "auto"))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], wanted[0], rtol=2 * eps, atol=eps)
    torch.testing.assert_close(found[1], wanted[1], rtol=8 * eps, atol=8 * eps)


@names
def test_plainly_the_bits_are_those_by_default(name):
    """By the same operators."""
    x, g = torch.randn(30, 40), torch.randn(30, 40)
    for a, b in zip(derived(name, x, g, save="input"), derived(name, x, g), strict=True):
        same(a, b)


@names
def test_what_learns(name, sizes):
    """A temperature and a mask; the input alone tells their gradients, too."""

    def grads(save):
        x = torch.linspace(-3, 3, 60, dtype=torch.float64).cos().reshape(6, 10).requires_grad_()
        t = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
        mask = torch.linspace(-1, 1, 10, dtype=torch.float64).requires_grad_()
        found, y = kept(oracle.ours(name), x * 1, 1, temperature=t, mask=mask, save=save)
        assert len([f for f in found if f.dim() == 2 and f.stride(0) != 0]) == (1 if save == "input" else 2)
        return torch.autograd.grad(y.square().sum(), (x, t, mask))

    for a, b, c in zip(*map(grads, ("input", "output", "input")), strict=True):
        torch.testing.assert_close(a, b)
        same(a, c)
    told = fusedact.explain(name, torch.zeros(3), temperature=torch.ones(1, requires_grad=True), save="output")
    assert told.keeps == "output and input"


@policies
@names
def test_higher_orders(name, policy):
    def function(x, t):
        return oracle.ours(name)(x, 1, temperature=t, save=policy)

    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, t), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (x, t))

    def third(save):
        y = oracle.ours(name)(x, 1, temperature=t, save=save)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return y

    torch.testing.assert_close(third(policy), third("auto"))


@policies
@names
def test_the_graph_can_be_kept(name, policy):
    x, g = made(5, 6), torch.randn(5, 6)
    y = oracle.ours(name)(x, 1, save=policy)
    first, second = (torch.autograd.grad(y, x, g, retain_graph=True)[0] for _ in range(2))
    same(first, second)


@given
@names
def test_changes_of_the_output(name, given, sizes):
    x = made(5, 40)
    g = torch.ones(5, 40) if given == "left out" else torch.randn(5, 40)
    y = oracle.ours(name)(x, 1, **GIVEN[given], save="input")
    wanted = derived(name, x, g, **GIVEN[given])[1]
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], wanted, rtol=1e-5, atol=1e-6)
    y = oracle.ours(name)(x, 1, **GIVEN[given], save="output")
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x, g)


@pytest.mark.parametrize("reentrant", [True, False])
@policies
@names
def test_checkpoints_and_hooks(name, policy, reentrant):
    x, g = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
    (_, wanted) = derived(name, x, g, save=policy)
    y = checkpoint(lambda x: oracle.ours(name)(x, 1, save=policy), x, use_reentrant=reentrant)
    y.backward(g)
    same(x.grad, wanted)
    with torch.autograd.graph.save_on_cpu():
        y = oracle.ours(name)(x, 1, save=policy)
    same(torch.autograd.grad(y, x, g)[0], wanted)


@policies
@names
def test_layouts(name, policy, monkeypatch):
    from fusedact.rowwise import row_blocks

    monkeypatch.setattr(row_blocks, "BLOCK_PER_THREAD", 16)
    base = torch.randn(6, 5, 4)
    for view in (lambda t: t.transpose(0, 2), lambda t: t[:, ::2], lambda t: t[:, :1].expand(6, 5, 4), lambda t: t[:0]):
        x = view(base)
        for g in (torch.randn(x.shape), torch.randn(()).expand(x.shape)):
            for temperature in (1.0, 0.5):
                a, b = (derived(name, x, g, temperature=temperature, save=s)[1] for s in (policy, "auto"))
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("source", [*HALVES, torch.float32], ids=str)
def test_another_dtype(source, dtype):
    """What is kept is the input as it was given."""
    x, g = made(4, 30, dtype=source), torch.randn(4, 30, dtype=dtype)
    found, y = kept(FF.softmax, x, 1, dtype=dtype, save="input")
    assert [t.data_ptr() for t in found] == [x.data_ptr()] and y.dtype == dtype
    (dx,) = torch.autograd.grad(y, x, g, retain_graph=True)
    want = torch.autograd.grad(FF.softmax(x, 1, dtype=dtype), x, g)[0]
    torch.testing.assert_close(dx, want)
    (graph,) = torch.autograd.grad(y, x, g, create_graph=True)
    torch.testing.assert_close(graph, want)


@names
def test_transforms_and_compilers_have_the_formula(name):
    x = torch.randn(3, 4, requires_grad=True)
    for policy in ("input", "output"):

        def call(x, policy=policy):
            return oracle.ours(name)(x, -1, save=policy)

        torch.testing.assert_close(torch.func.vmap(call)(x), call(x))
        torch.testing.assert_close(torch.func.jacrev(call)(x), torch.func.jacrev(lambda x: oracle.ours(name)(x, -1))(x))
        torch._dynamo.reset()
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x)[:, 0].sum(), x), torch.autograd.grad(call(x)[:, 0].sum(), x)
        )
    with fusedact.save_policy("input"):
        torch.testing.assert_close(torch.compile(lambda x: oracle.ours(name)(x, -1), backend="aot_eager")(x), call(x))


@names
def test_dispatch_modes_see_operators(name):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, g = made(3, 4), torch.randn(3, 4)
    with Watch():
        (dx,) = torch.autograd.grad(oracle.ours(name)(x, 1, temperature=0.5, save="input"), x, g)
    assert seen.count("fusedact.softmax.default") == 2 and seen.count("fusedact.softmax_backward.default") == 1
    torch.testing.assert_close(dx, derived(name, x, g, temperature=0.5)[1])


def test_subclasses_and_meta_tensors():
    class Logged(torch.Tensor):
        pass

    x = torch.randn(3, 4)
    y = FF.softmax(x.as_subclass(Logged), 1, save="input")
    assert type(y) is Logged
    torch.testing.assert_close(y.as_subclass(torch.Tensor), torch.softmax(x, 1))
    y = FF.softmax(torch.ones(3, 4, device="meta", requires_grad=True), 1, save="input")
    y.sum().backward()
    for shape, dim in (((), 0), ((0, 3), 1), ((3, 0), 1)):
        leaf = torch.randn(shape, requires_grad=True)
        FF.softmax(leaf, dim, save="input").sum().backward()
        assert leaf.grad.shape == leaf.shape


def test_nothing_is_kept_without_a_gradient():
    x = torch.randn(3, 4)
    for policy in ("auto", "input", "output"):
        assert kept(FF.softmax, x, 1, save=policy)[0] == []
        with torch.no_grad():
            assert kept(FF.softmax, x.requires_grad_(), 1, save=policy)[0] == []
        x = x.detach()


# ----- policies: of a call, of a module, of a block


@names
def test_blocks(name):
    x = made(5, 6)
    function = oracle.ours(name)
    for policy, keeps in (("auto", "output"), ("input", "input"), ("output", "output"), ("bits", "output")):
        with fusedact.save_policy(policy):
            (tensor,), y = kept(function, x, 1)
            assert tensor.data_ptr() == (x if keeps == "input" else y).data_ptr()
            assert fusedact.explain(name, x).keeps == keeps
            (tensor,), y = kept(function, x, 1, temperature=2.0)
            assert tensor.data_ptr() == (x if keeps == "input" else y).data_ptr()
    with fusedact.save_policy("input"):
        (tensor,), y = kept(function, x, 1, save="output")
        assert tensor.data_ptr() == y.data_ptr()


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    cls, dims, x = getattr(fusedact, name), MODULES[name], made(3, 4, 5)
    module = cls(*dims, save="input")
    assert repr(module) == f"{name}({'dim=1, ' if dims else ''}save='input')"
    learned = cls(*dims, temperature=2.0, learnable=True, save="output")
    assert repr(learned).endswith("temperature=learnable, save='output')")
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        (tensor,), y = kept(m, x)
        assert tensor.data_ptr() == x.data_ptr()
        torch.testing.assert_close(y, cls(*dims)(x))
    assert fusedact.explain(module, x).keeps == "input" and fusedact.explain(cls(*dims), x).keeps == "output"
    named = fusedact.create(module.spec.name, save="input")
    assert type(named) is cls and named.save == "input"
    older = cls(*dims)
    del older.__dict__["save"]
    same(pickle.loads(pickle.dumps(older))(x), cls(*dims)(x))


def test_by_name():
    x = made(3, 4)
    (tensor,), _ = kept(FF.activate, x, "softmax", dim=1, save="input")
    assert tensor.data_ptr() == x.data_ptr()


@names
def test_what_is_refused(name):
    x, module = torch.ones(2, 3), {"softmax": "Softmax", "log_softmax": "LogSoftmax", "softmin": "Softmin"}[name]
    known = "save must be one of 'auto', 'input', 'output', got"
    for policy in ("bits", "outputs", None, 1):
        with pytest.raises(ValueError, match=f"^fusedact.functional.{name}: {known} {policy!r}$"):
            oracle.ours(name)(x, 1, save=policy)
        with pytest.raises(ValueError, match=f"^fusedact.{module}: {known} {policy!r}$"):
            getattr(fusedact, module)(1, save=policy)
    with pytest.raises(ValueError, match=f"^fusedact.explain: {known} 'bits'$"):
        fusedact.explain(name, x, save="bits")
    with pytest.raises(ValueError, match=f"^fusedact.functional.softmax2d: {known} 'bits'$"):
        FF.softmax2d(torch.ones(1, 2, 3), save="bits")


def test_memory_report():
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), fusedact.Softmax(-1), torch.nn.Dropout(0.5))
    (row,) = fusedact.memory_report(net, torch.randn(32, 16)).rows
    assert row.kept == dict.fromkeys(("auto", "input", "output", "bits"), 32 * 64 * 4)
