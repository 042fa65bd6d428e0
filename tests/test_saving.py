"""What is kept for backward under each policy, and that everything else stays as it was."""

from __future__ import annotations

import copy
import pickle

import oracles
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import describe, registry, saving
from fusedact import functional as FF
from fusedact.saved_forms import SAVED

# PyTorch warns where an operator inside a loop over a batch has no batching rule.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
SPECS = {name: registry.get(name) for name in oracles.NAMES}
SERVED = [(name, p) for name, spec in SPECS.items() for p in saving.accepted(spec) if p in ("output", "bits")]
SERVED = [(name, p) for name, p in SERVED if name != "identity"]
served = pytest.mark.parametrize(("name", "policy"), SERVED, ids=[f"{n}-{p}" for n, p in SERVED])
names = pytest.mark.parametrize("name", [n for n in oracles.NAMES if n != "identity"])
# Which serve, of all that the tests sweep, for their policy.
CASES = [
    (name, policy, params)
    for name, policy in SERVED
    for params in oracles.sweep(name)
    if saving.plan(SPECS[name], torch.zeros(1), params, True, policy).policy == policy
]
cases = pytest.mark.parametrize(
    ("name", "policy", "params"), CASES, ids=[f"{n}-{p}{list(a) if a else ''}" for n, p, a in CASES]
)


def usual(name):
    """Parameters for which every policy that an activation offers serves."""
    return (0.5, 0.25) if name == "threshold" else oracles.defaults(name)


def kept(function, *args, **keywords):
    """The tensors kept for backward, and the value."""
    found = []

    def pack(t):
        found.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*args, **keywords)
    return found, y


def made(*shape, dtype=torch.float32):
    """A tensor that an operator made, as autograd wants it."""
    return torch.randn(*shape).to(dtype).requires_grad_() * 1


def gradient(name, x, params, g, **keywords):
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(oracles.function(name)(leaf, *params, **keywords), leaf, g)[0]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# ----- the choice


def test_every_form_belongs_to_an_activation():
    assert set(SAVED) | set(saving.TWO_SLOPES) <= set(oracles.NAMES)
    assert all(name == form.name for name, form in SAVED.items())


@pytest.mark.parametrize("name", [n for n in oracles.NAMES if SPECS[n].aten is not None])
def test_what_operators_keep_is_what_is_written(name):
    words = {"x": "input", "y": "output", "nothing": "nothing", "x, a buffer": "input and a buffer"}
    found = describe.kept(SPECS[name])[1]
    assert saving.operator_keeps(SPECS[name]) == words.get(found, found)


@pytest.mark.parametrize("policy", ["outputs", None, 1])
def test_unknown_policies(policy):
    x = torch.ones(2)
    for call in (
        lambda: FF.elu(x, save=policy),
        lambda: fusedact.ELU(save=policy),
        lambda: fusedact.Activation("elu", save=policy),
        lambda: fusedact.explain("elu", x, save=policy) if policy is not None else FF.elu(x, save=None),
        lambda: fusedact.save_policy(policy).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"must be one of 'auto', 'input', 'output'.*, got"):
            call()


@pytest.mark.parametrize(("name", "policy"), [("snake", "output"), ("silu", "bits"), ("sigmoid", "bits")])
def test_what_an_activation_cannot_serve(name, policy):
    """Said of the call it is an error; of a block, the next best is taken."""
    x = made(100)
    with pytest.raises(ValueError, match=f"fusedact.functional.{name}: save must be one of 'auto', 'input'"):
        oracles.function(name)(x, save=policy)
    with pytest.raises(ValueError, match=f"fusedact.{SPECS[name].module}: save must be one of"):
        oracles.module(name, save=policy)
    with fusedact.save_policy(policy):
        y = oracles.function(name)(x)
    assert y.requires_grad


def test_precedence():
    x = made(8)
    module = fusedact.ELU(save="input")
    with fusedact.save_policy("output"):
        assert kept(FF.elu, x)[0][0].data_ptr() != x.data_ptr()
        assert kept(FF.elu, x, save="input")[0][0].data_ptr() == x.data_ptr()
        assert kept(module, x)[0][0].data_ptr() == x.data_ptr()
        with fusedact.save_policy("auto"):
            assert kept(FF.elu, x)[0][0].data_ptr() == x.data_ptr()
        assert kept(FF.elu, x)[0][0].data_ptr() != x.data_ptr()
    assert kept(FF.elu, x)[0][0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("call", "keeps"),
    [
        (lambda x, **k: FF.elu(x, -1.0, **k), "input"),
        (lambda x, **k: FF.softplus(x, 1.0, 2.0, **k), "input"),
        # One bit tells exactly what the output does not.
        (lambda x, **k: FF.leaky_relu(x, -0.5, **k), "bits"),
        (lambda x, **k: FF.elu(x, torch.tensor(1.0), **k), "output"),
        (lambda x, **k: FF.elu(x, torch.tensor([0.5, -1.0]), channel_dim=-1, **k), "input"),
    ],
    ids=["elu", "softplus", "leaky_relu", "tensor", "channels"],
)
def test_parameters_outside_the_safe_set(call, keeps):
    x, g = made(50, 2), torch.randn(50, 2)
    found, y = kept(call, x, save="output")
    where = {x.data_ptr(): "input", y.data_ptr(): "output"}
    assert where.get(found[0].data_ptr(), "bits") == keeps
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(call(x), x, g)[0])


def test_parameters_on_a_device_are_not_looked_at():
    """A meta tensor stands for one on a device; its module knows its bounds."""
    x = torch.zeros(2, device="meta")
    alpha = torch.zeros(1, device="meta")
    assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "input"
    with saving.bounded({"alpha": (0.1, None)}):
        assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "output"
    with saving.bounded({"alpha": (-1.0, None)}):
        assert saving.plan(SPECS["elu"], x, (alpha,), False, "output").policy == "input"


@pytest.mark.parametrize("policy", saving.POLICIES)
@names
def test_explain_tells_what_is_kept(name, policy):
    x = made(64)
    with fusedact.save_policy(policy):
        path = fusedact.explain(name, x)
        found, y = kept(oracles.function(name), x, *usual(name))
    if path.kind != "formula" and name != "threshold":
        words = {x.data_ptr(): "input", y.data_ptr(): "output"}
        told = [words.get(t.data_ptr(), "bits" if t.dtype == torch.uint8 else "a buffer") for t in found]
        assert path.keeps == " and ".join(dict.fromkeys(told))
        assert path.because


# ----- bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@served
def test_bytes_kept(name, policy, dtype):
    x = made(40, 25, dtype=dtype)
    found, y = kept(oracles.function(name), x, *usual(name), save=policy)
    bits = [t for t in found if t.dtype == torch.uint8]
    others = [t.data_ptr() for t in found if t.dtype != torch.uint8]
    assert [t.nbytes for t in bits] == ([125] if policy == "bits" or SAVED[name].bits else [])
    assert others == ([y.data_ptr()] if policy == "output" else [])


@served
def test_nothing_is_kept_without_a_gradient(name, policy):
    x, function = made(100), oracles.function(name)
    with torch.no_grad():
        assert kept(function, x, *usual(name), save=policy)[0] == []
    assert kept(function, x.detach(), *usual(name), save=policy)[0] == []
    with torch.inference_mode():
        same(function(x.detach(), *usual(name), save=policy), function(x.detach(), *usual(name)))


def storages(found, module):
    """Bytes of the storages among these that are no parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(size for at, size in sizes.items() if at not in own)


@served
def test_between_two_linear_layers(name, policy):
    required = oracles.required(name) | ({"value": 0.05} if name == "threshold" else {})
    act = fusedact.create(name, **required, save=policy)
    for p in act.parameters():
        p.requires_grad_(False)
    net = nn.Sequential(nn.Linear(16, 32), act, nn.Linear(32, 8))
    x = torch.randn(64, 16)
    one = 64 * 32 * 4
    bits = one // 32 if policy == "bits" or SAVED[name].bits else 0
    if name == "prelu" and policy == "bits":
        # Its module has a tensor, whose sign a bit does not tell; positive, the output does.
        bits = 0
    assert storages(kept(net, x)[0], net) == x.nbytes + one + bits


def test_eager_keeps_two_between_linear_layers():
    net = nn.Sequential(nn.Linear(16, 32), nn.ELU(), nn.Linear(32, 8))
    x = torch.randn(64, 16)
    assert storages(kept(net, x)[0], net) == x.nbytes + 2 * 64 * 32 * 4


# ----- gradients


# What rounding the output of a half makes of the derivative, relative, in the norm over normal inputs.
LOSS = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-6}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases
def test_gradients_are_those_from_the_input(name, policy, params, dtype):
    x, g = torch.randn(4000).to(dtype), torch.randn(4000).to(dtype)
    found = gradient(name, x, params, g, save=policy)
    wanted = gradient(name, x, params, g, save="input")
    if policy == "bits" and name != "hardsigmoid":
        same(found, wanted)
    elif policy == "bits":
        # PyTorch's sixth is one of float32.
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)
    else:
        norm = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-3)
        assert norm <= LOSS[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("name", "params"),
    [(n, a) for n, p, a in CASES if p == "bits"],
    ids=[f"{n}{list(a) if a else ''}" for n, p, a in CASES if p == "bits"],
)
def test_bits_are_exact_for_all_halves(name, params, dtype):
    """Infinities and NaN, in the input and in the gradient, among them."""
    x = oracles.halves(dtype)
    for value in (1.0, -3.0, float("inf"), float("nan")):
        g = torch.full_like(x, value)
        found, wanted = (gradient(name, x, params, g, save=s) for s in ("bits", "input"))
        # A NaN in x: what PyTorch's vector instructions and what remains of a tensor give differs.
        same(found[~x.isnan()], wanted[~x.isnan()])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@cases
def test_no_half_gives_nan(name, policy, params, dtype):
    x = oracles.halves(dtype)
    x = x[x.isfinite()]
    y = oracles.function(name)(x, *params)
    found = gradient(name, x, params, torch.ones_like(x), save=policy)
    assert found[y.isfinite()].isfinite().all()


@served
def test_layouts(name, policy):
    base = torch.randn(6, 5, 4)
    for view in (
        lambda t: t.transpose(0, 2),
        lambda t: t[:, ::2],
        lambda t: t[:, :1].expand(6, 5, 4),
        lambda t: t[0, 0, 0],
        lambda t: t[:0],
        lambda t: t.reshape(1, 6, 5, 4).contiguous(memory_format=torch.channels_last),
    ):
        x = view(base)
        for g in (torch.randn(x.shape), torch.randn(()).expand(x.shape)):
            a, b = (gradient(name, x, usual(name), g, save=s) for s in (policy, "input"))
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
            assert a.shape == x.shape


@served
def test_large_tensors(name, policy):
    """In pieces: the last one is no multiple of eight."""
    x = torch.linspace(-4.0, 4.0, 2**19 + 3)
    a, b = (gradient(name, x, usual(name), torch.ones_like(x), save=s) for s in (policy, "input"))
    assert (a - b).norm() <= 1e-4 * b.norm()


TENSORS = [
    name
    for name, policy in SERVED
    if policy == "output" and any(not p.fixed for p in SPECS[name].parameters) and not SAVED[name].bits
]


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_parameters_that_learn(name, shape):
    def grads(save):
        x = torch.linspace(-3, 3, 60).reshape(12, 5).requires_grad_()
        params = oracles.given(name, usual(name), shape=shape, requires_grad=True)
        leaves = [x, *(p for p in params if isinstance(p, torch.Tensor))]
        found, y = kept(oracles.function(name), x, *params, save=save)
        assert found[0].data_ptr() == (y if save == "output" else x).data_ptr()
        return torch.autograd.grad(y, leaves, torch.cos(x).detach())

    for a, b in zip(grads("output"), grads("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


# ----- what autograd does with it


@served
def test_the_graph_can_be_kept(name, policy):
    x, g = made(50), torch.randn(50)
    y = oracles.function(name)(x, *usual(name), save=policy)
    first, second = (torch.autograd.grad(y, x, g, retain_graph=True)[0] for _ in range(2))
    same(first, second)
    torch.autograd.grad(y, x, g)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, g)


# PyTorch's hard sigmoid has no second derivative.
BENT = [case for case in CASES if case[0] != "hardsigmoid"]


@pytest.mark.parametrize("shape", [(200,), (), (0,)], ids=str)
@pytest.mark.parametrize(("name", "policy", "params"), BENT, ids=[f"{n}-{p}{list(a) if a else ''}" for n, p, a in BENT])
def test_second_order(name, policy, params, shape):
    def second(save):
        torch.manual_seed(1)
        x, g, gg = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3))
        y = oracles.function(name)(x, *params, save=save)
        (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
        return torch.autograd.grad(dx, (x, g), gg)

    for a, b in zip(second(policy), second("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in TENSORS if n in ("elu", "relu_sigmoid", "prelu", "celu")])
def test_second_order_of_parameters(name):
    def second(save):
        x = torch.linspace(-2, 2, 21, dtype=torch.float64, requires_grad=True)
        p = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        y = oracles.function(name)(x, p, save=save)
        dx, dp = torch.autograd.grad(y.square().sum(), (x, p), create_graph=True)
        return torch.autograd.grad(dx.square().sum() + dp.square(), (x, p))

    for a, b in zip(second("output"), second("input"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_third_order():
    def third(save):
        x = torch.linspace(-2, 2, 20, dtype=torch.float64, requires_grad=True)
        t = FF.elu(x, save=save)
        for _ in range(3):
            (t,) = torch.autograd.grad(t.sum(), x, create_graph=True)
        return t

    torch.testing.assert_close(third("output"), third("input"))


@served
def test_batched_gradients(name, policy):
    def rows(save):
        x = torch.linspace(-2, 2, 7, requires_grad=True)
        y = oracles.function(name)(x, *usual(name), save=save)
        g = torch.eye(7)
        legacy = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)[0]
        func = torch.func.vmap(lambda g: torch.autograd.grad(y, x, g, retain_graph=True)[0])(g)
        torch.testing.assert_close(legacy, func)
        return legacy

    torch.testing.assert_close(rows(policy), rows("input"), rtol=1e-3, atol=1e-3)


@served
def test_hooks_may_move_what_is_kept(name, policy):
    x, g = made(6, 10), torch.randn(10, 6)
    wanted = gradient(name, x.t(), usual(name), g, save=policy)
    with torch.autograd.graph.save_on_cpu():
        y = oracles.function(name)(x.t(), *usual(name), save=policy)
    same(torch.autograd.grad(y, x, g)[0].t(), wanted)
    # What comes back has another layout.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t):
        y = oracles.function(name)(x.t(), *usual(name), save=policy)
    same(torch.autograd.grad(y, x, g)[0].t(), wanted)


@pytest.mark.parametrize("reentrant", [True, False])
@served
def test_checkpointing(name, policy, reentrant):
    x, g = torch.randn(50, requires_grad=True), torch.randn(50)

    def block(x):
        return oracles.function(name)(x * 1.5, *usual(name), save=policy) * 2

    wanted = torch.autograd.grad(block(x), x, g)[0]
    y = checkpoint(block, x, use_reentrant=reentrant)
    y.backward(g)
    same(x.grad, wanted)


@served
def test_transforms(name, policy):
    x = torch.linspace(-2, 2, 11)

    def slope(save):
        return torch.func.vmap(torch.func.grad(lambda x: oracles.function(name)(x, *usual(name), save=save)))(x)

    torch.testing.assert_close(slope(policy), slope("auto"))
    jvp = torch.func.jvp(lambda x: oracles.function(name)(x, *usual(name), save=policy), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(jvp[1], slope("auto"))


@served
def test_compiled(name, policy):
    x, g = torch.randn(30, requires_grad=True), torch.randn(30)

    def call(x):
        return oracles.function(name)(x, *usual(name), save=policy)

    torch._dynamo.reset()
    y = torch.compile(call, backend="aot_eager", fullgraph=True)(x)
    (found,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(found, gradient(name, x, usual(name), g), rtol=1e-3, atol=1e-4)


def test_compiled_inside_a_block():
    x = torch.randn(30, requires_grad=True)
    with fusedact.save_policy("output"):
        y = torch.compile(FF.elu, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, FF.elu(x))


@served
def test_operators_are_seen(name, policy):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, g = made(30), torch.randn(30)
    wanted = gradient(name, x, usual(name), g, save=policy)
    with Watch():
        y = oracles.function(name)(x, *usual(name), save=policy)
        (found,) = torch.autograd.grad(y, x, g)
    assert seen
    torch.testing.assert_close(found, wanted)


# ----- in place


@served
def test_changing_the_output_is_an_error_where_it_is_kept(name, policy):
    x = made(20)
    y = oracles.function(name)(x, *usual(name), save=policy)
    y += 1
    if policy == "bits":
        torch.autograd.grad(y.sum(), x)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), x)


@names
def test_with_its_input_kept_the_output_may_change(name):
    x = made(20)
    wanted = gradient(name, x, usual(name), torch.ones(20))
    y = oracles.function(name)(x, *usual(name), save="input")
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], wanted)


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2]], ids=["dense", "turned", "gaps"])
@served
def test_in_place(name, policy, view):
    leaf = torch.randn(8, 12, requires_grad=True)
    x = view(leaf * 1)
    g, before = torch.randn(x.shape), x.detach().clone()
    found, y = kept(oracles.function(name), x, *usual(name), inplace=True, save=policy)
    assert y is x
    torch.testing.assert_close(y.detach(), oracles.function(name)(before, *usual(name)))
    sizes = [t.nbytes for t in found if t.data_ptr() != x.data_ptr()]
    assert sizes == ([(x.numel() + 7) // 8] if policy == "bits" or SAVED[name].bits else [])
    (dx,) = torch.autograd.grad(y, leaf, g)
    torch.testing.assert_close(view(dx), gradient(name, before, usual(name), g, save=policy))


@served
def test_in_place_errors(name, policy):
    leaf = torch.randn(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        oracles.function(name)(leaf, *usual(name), inplace=True, save=policy)
    # exp needs its output, which is overwritten.
    y = oracles.function(name)(leaf.exp(), *usual(name), inplace=True, save=policy)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="single memory location"):
        oracles.function(name)(made(1).expand(8), *usual(name), inplace=True, save=policy)


@names
def test_in_place_with_the_input_kept(name):
    leaf = torch.randn(50, requires_grad=True)
    x, g = leaf * 1, torch.randn(50)
    wanted = gradient(name, x, usual(name), g)
    y = oracles.function(name)(x, *usual(name), inplace=True, save="input")
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y, leaf, g)[0], wanted)


# ----- modules


def test_modules():
    module = fusedact.ELU(save="output")
    assert module.save == "output"
    assert repr(module) == "ELU(alpha=1.0, save='output')"
    x = made(20)
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        found, y = kept(m, x)
        assert [t.data_ptr() for t in found] == [y.data_ptr()]
    assert fusedact.explain(module, x).keeps == "output"
    assert fusedact.Activation("silu", save="input").save == "input"
    gelu = fusedact.GELU(approximate="tanh", save="auto")
    assert kept(gelu, x)[0][0].data_ptr() == x.data_ptr()


# ----- piecewise-linear functions


def table(count, uneven):
    breakpoints = torch.linspace(-2, 2, count) if count > 1 else torch.zeros(1)
    if uneven:
        breakpoints = breakpoints + 1e-3 * torch.rand(count).sort().values
    return breakpoints, torch.randn(count), 0.3, -0.2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (4, 4), (15, 4), (16, 8), (255, 8)])
def test_the_segment_tells_the_slope(count, width, uneven, dtype):
    leaf, points = (1.5 * torch.randn(7, 143)).to(dtype).requires_grad_(), table(count, uneven)
    x, g = (leaf * 1).t(), torch.randn(143, 7).to(dtype)
    found, y = kept(FF.pwl, x, *points, save="bits")
    assert [(t.dtype, t.numel()) for t in found] == [(torch.uint8, -(-1001 * width // 8))]
    (dx,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
    same(dx, torch.autograd.grad(FF.pwl(x, *points, save="input"), leaf, g)[0])


def test_segments_at_all_halves():
    points = ([-1.0, 0.0, 2.0], [0.0, -0.25, 2.0], 0.0, 1.0)
    for dtype in HALVES:
        x = oracles.halves(dtype).requires_grad_()
        g = torch.ones_like(x)
        same(*(torch.autograd.grad(FF.pwl(x, *points, save=s), x, g)[0] for s in ("bits", "input")))


@pytest.mark.parametrize(
    ("points", "why"),
    [(table(256, False), "257 segments"), (([[0.0], [1.0]], [[0.0], [1.0]]), "each channel has a table")],
    ids=["many", "channels"],
)
def test_tables_that_keep_their_input(points, why):
    x = made(5, 2)
    found, _ = kept(FF.pwl, x, *points, save="bits")
    assert [t.data_ptr() for t in found] == [x.data_ptr()]
    path = fusedact.explain(fusedact.PWL(*points, save="bits"), x)
    assert (path.keeps, why in path.because) == ("input", True)


def test_modules_of_tables():
    module, x = fusedact.PWL.hardtanh(save="bits"), made(20)
    assert repr(module) == "PWL(2 breakpoints from -1 to 1, left_slope=0, right_slope=0, save='bits')"
    assert fusedact.explain(module, x).keeps == "bits"
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert [t.numel() for t in kept(m, x)[0]] == [5]
    with fusedact.save_policy("output"):
        assert [t.numel() for t in kept(fusedact.PWL.relu(), x)[0]] == [3]
    with pytest.raises(ValueError, match=r"fusedact.PWL: save must be one of 'auto', 'input', 'bits', got 'output'"):
        fusedact.PWL.relu(save="output")
    with pytest.raises(ValueError, match=r"fusedact.functional.pwl: save must be one of 'auto', 'input', 'bits', got"):
        FF.pwl(x, [0.0], [0.0], save="output")


def test_tables_and_what_autograd_does_with_them():
    points = ([-1.0, 0.5], [0.0, 2.0], 0.3, 1.0)
    x, g = torch.randn(50, requires_grad=True), torch.randn(50)
    wanted = torch.autograd.grad(FF.pwl(x, *points), x, g)[0]
    y = FF.pwl(x * 1, *points, save="bits", inplace=True)
    y += 1
    same(torch.autograd.grad(y, x, g)[0], wanted)
    (dx,) = torch.autograd.grad(FF.pwl(x, *points, save="bits"), x, g.requires_grad_(), create_graph=True)
    same(torch.autograd.grad(dx.sum(), x, retain_graph=True)[0], torch.zeros(50))
    slopes = torch.autograd.grad(FF.pwl(x, *points).sum(), x)[0]
    same(torch.autograd.grad(dx.sum(), g)[0], slopes)
