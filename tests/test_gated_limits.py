"""Limits of gates and values, and offsets of values, on the CPU: against each model's formula, written out."""

from __future__ import annotations

import math

import pytest
import torch
from gated_oracle import BF16, FP16, FP32, FP64, LAYOUTS, halves, in_small_pieces
from linear_oracle import bent
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.hosts import gating_pieces
from fusedact.hosts.gating_limits import Limits

LIMITS = {"limit and offset": (1.5, 1.0), "limit": (1.0, 0.0), "offset": (None, -0.5)}
both = pytest.mark.parametrize("how", ["plain", "pieces"])
# And, at sizes between these, with the activation as one operation.
ways_of_all_sizes = pytest.mark.parametrize("how", ["plain", "one", "pieces"])


@fusedact.activation
def capped_silu(x, limit=7.0):
    """silu(x), at most the limit."""
    return torch.clamp(F.silu(x), max=limit)


# By each of the ways in which the pieces evaluate it: PyTorch's kernel, a lean form, the definition, generated text.
GATES = {
    "silu": ("silu", {}, F.silu),
    "relu": ("relu", {}, F.relu),
    "swish": ("swish", {"beta": 1.5}, lambda t, beta=1.5: t * torch.sigmoid(beta * t)),
    "mish": ("mish", {}, F.mish),
    "own": (bent, {"a": 0.25}, lambda t, a=0.25: t + a * torch.tanh(t) ** 2),
}


@pytest.fixture(autouse=True)
def ways(request, monkeypatch):
    parameters = getattr(request.node, "callspec", None)
    how = "pieces" if parameters is None else parameters.params.get("how", "pieces")
    if how == "pieces":
        in_small_pieces(monkeypatch)
    elif how == "one":
        monkeypatch.setattr("fusedact.dispatch.GATES_BELOW", 0)


def gpt_oss(gate, value, alpha=1.702, limit=7.0):
    gate = gate.clamp(max=limit)
    value = value.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (value + 1)


def composition(plain, limit, offset):
    def function(x, gate, *p):
        if limit is not None:
            x, gate = x.clamp(-limit, limit), gate.clamp(max=limit)
        return plain(gate, *p) * (x + offset)

    return function


def differentiated(function, leaves, g):
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, g.to(y.dtype))


def assert_near(got, true, dtype):
    eps = torch.finfo(dtype).eps
    for one, other in zip(got, true, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other.double(), rtol=8 * eps, atol=16 * eps, equal_nan=True)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("which", LIMITS)
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16, FP16], ids=str)
@ways_of_all_sizes
def test_values_and_gradients(name, which, dtype, how):
    activation, parameters, plain = GATES[name]
    limit, offset = LIMITS[which]
    x, gate, g = (2 * torch.randn(13, 20, dtype=FP64).to(dtype) for _ in range(3))
    got = differentiated(
        lambda x, gate: FF.gated(x, gate, activation, limit=limit, offset=offset, **parameters), (x, gate), g
    )
    true = differentiated(composition(plain, limit, offset), (x.double(), gate.double()), g)
    assert_near(got, true, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@both
def test_gpt_oss(layout, dtype, how):
    packed, g = 5 * torch.randn(6, 3, 40).to(dtype), torch.randn(6, 3, 20).to(dtype)

    def theirs(t):
        value, gate = halves(t, 2, layout)
        return gpt_oss(gate, value)

    true = differentiated(theirs, (packed.double(),), g)
    module = fusedact.SwiGLU(layout=layout, beta=1.702, limit=7.0, offset=1.0)
    assert_near(differentiated(module, (packed,), g), true, dtype)
    ours = lambda t: FF.packed_glu(t, "swish", layout=layout, beta=1.702, limit=7.0, offset=1.0)  # noqa: E731
    assert_near(differentiated(ours, (packed,), g), true, dtype)


@both
def test_a_limit_after_the_activation_is_an_activation(how):
    gate, value, g = (5 * torch.randn(6, 40) for _ in range(3))
    true = differentiated(
        lambda x, gate: F.silu(gate).clamp(max=7.0) * x.clamp(-7.0, 7.0), (value.double(), gate.double()), g
    )
    assert_near(
        differentiated(lambda x, gate: FF.gated(x.clamp(-7.0, 7.0), gate, capped_silu), (value, gate), g), true, FP32
    )


EDGES = [0.0, -0.0, 1.0, 1.5, -1.5, 1.5000001, -1.5000001, 40.0, -40.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("which", LIMITS)
@pytest.mark.parametrize("name", ["silu", "relu", "swish"])
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16], ids=str)
@both
def test_edges_are_those_of_clamp(which, name, dtype, how):
    """At the limit gradients pass, beyond it and at NaN they are 0."""
    activation, parameters, _ = GATES[name]
    limit, offset = LIMITS[which]
    spec = registry.get(activation)
    # What takes no part in a formula gets 0 there, even of NaN.
    evaluated = spec.aten if how == "plain" and spec.aten else spec.eager if how == "plain" else getattr(FF, activation)
    plain = lambda t: evaluated(t, *parameters.values())  # noqa: E731
    edge = torch.tensor(EDGES, dtype=dtype)
    x, gate = (t.flatten() for t in torch.meshgrid(edge, edge, indexing="ij"))
    wide = FP32 if dtype == BF16 else dtype
    got = differentiated(
        lambda x, gate: FF.gated(x, gate, activation, limit=limit, offset=offset, **parameters),
        (x, gate),
        torch.ones_like(x),
    )
    true = differentiated(composition(plain, limit, offset), (x.to(wide), gate.to(wide)), torch.ones_like(x))
    assert_near(got, [t.to(dtype) for t in true], dtype)


@pytest.mark.parametrize("shape", [(), (6,)], ids=str)
@pytest.mark.parametrize("form", ["", *LAYOUTS])
@pytest.mark.parametrize("name", ["swish", "own"])
@ways_of_all_sizes
def test_parameters_get_gradients(shape, form, name, how):
    activation, parameters, plain = GATES[name]
    (key,) = parameters
    p, g = torch.rand(shape) + 0.5, torch.randn(4, 6, 30)
    keywords = {"limit": 1.5, "offset": 1.0}
    function = composition(plain, 1.5, 1.0)
    shaped = (lambda p: p.reshape(-1, 1)) if shape else (lambda p: p)
    if form:
        given = (2 * torch.randn(4, 12, 30),)
        ours = lambda t, p: FF.packed_glu(t, activation, 1, layout=form, **keywords, **{key: p})  # noqa: E731
        theirs = lambda t, p: function(*halves(t, 1, form), shaped(p))  # noqa: E731
    else:
        given = (2 * torch.randn(4, 6, 30), 2 * torch.randn(4, 6, 30))
        ours = lambda x, gate, p: FF.gated(x, gate, activation, **keywords, **{key: p})  # noqa: E731
        theirs = lambda x, gate, p: function(x, gate, shaped(p))  # noqa: E731
    *got, got_p = differentiated(ours, (*given, p), g)
    *true, true_p = differentiated(theirs, [t.double() for t in (*given, p)], g)
    assert_near(got, true, FP32)
    assert got_p.shape == shape
    torch.testing.assert_close(got_p.double(), true_p, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("which", LIMITS)
@pytest.mark.parametrize("alone", range(2))
@pytest.mark.parametrize("name", ["silu", "swish", "mish", "own"])
def test_each_gradient_alone(which, alone, name):
    activation, parameters, _ = GATES[name]
    limit, offset = LIMITS[which]
    tensors = [2 * torch.randn(5, 40), 2 * torch.randn(5, 40)]

    def run(*wanted):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        FF.gated(*leaves, activation, limit=limit, offset=offset, **parameters).sum().backward()
        return leaves[alone].grad

    torch.testing.assert_close(run(alone), run(0, 1))


@pytest.mark.parametrize("form", ["", "interleaved"])
@pytest.mark.parametrize("name", ["silu", "swish"])
def test_higher_orders(form, name):
    activation, parameters, _ = GATES[name]
    p = [torch.full((1,), v, dtype=FP64, requires_grad=True) for v in parameters.values()]
    keywords = {"limit": 0.9, "offset": 1.0}

    def ours(*given):
        named = dict(zip(parameters, given[len(given) - len(p) :], strict=True))
        if form:
            return FF.packed_glu(given[0], activation, layout=form, **keywords, **named)
        return FF.gated(*given[:2], activation, **keywords, **named)

    given = [torch.randn(2, 6 if form else 3, dtype=FP64, requires_grad=True) for _ in range(1 if form else 2)]
    assert torch.autograd.gradcheck(ours, (*given, *p), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours, (*given, *p))


def test_transforms():
    packed, tangent = 2 * torch.randn(3, 8, dtype=FP64), torch.randn(3, 8, dtype=FP64)
    ours = lambda t: FF.packed_glu(t, "swish", beta=1.702, limit=1.0, offset=1.0, layout="interleaved")  # noqa: E731
    theirs = lambda t: gpt_oss(t[..., ::2], t[..., 1::2], limit=1.0)  # noqa: E731
    func, close = torch.func, torch.testing.assert_close
    close(func.vmap(ours)(packed), theirs(packed))
    close(func.jvp(ours, (packed,), (tangent,)), func.jvp(theirs, (packed,), (tangent,)))
    per_row = [func.vmap(func.grad(lambda row, f=f: f(row).sum()))(packed) for f in (ours, theirs)]
    close(*per_row)
    close(func.jacrev(ours)(packed[0]), func.jacrev(theirs)(packed[0]))


def test_compiled_and_exported_it_is_plain_operators():
    module = fusedact.SwiGLU(layout="interleaved", beta=1.702, limit=1.0, offset=1.0)
    x = (2 * torch.randn(4, 6)).requires_grad_()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x), torch.autograd.grad(module(x).sum(), x))
    program = torch.export.export(module, (x.detach(),))
    assert not [n for n in program.graph.nodes if "fusedact" in str(n.target)]
    torch.testing.assert_close(program.module()(x), module(x))


class Watching(TorchDispatchMode):
    """The arguments of the library's operators, and the bytes of each memory that operators return."""

    def __init__(self):
        super().__init__()
        self.seen, self.sizes = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.name().startswith("fusedact::"):
            self.seen.append((function.name(), [a for a in args if isinstance(a, float)]))
        self.sizes += [t.untyped_storage().nbytes() for t in [result] if isinstance(t, torch.Tensor)]
        return result


def test_dispatch_modes_see_the_limits():
    x, gate = (torch.randn(9, 10, requires_grad=True) for _ in range(2))

    def step():
        return torch.autograd.grad(FF.gated(x, gate, limit=0.5, offset=1.0).sum(), (x, gate))

    expected = step()
    with Watching() as watching:
        torch.testing.assert_close(step(), expected)
    assert watching.seen == [(f"fusedact::gated{s}", [0.5, 1.0]) for s in ("", "_backward")]


@pytest.mark.parametrize("how", ["one"])
def test_between_the_sizes_the_activation_is_one_operation(how):
    x, gate = torch.randn(9, 10), torch.randn(9, 10)
    with Watching() as watching:
        FF.gated(x, gate, "swish", beta=1.5, limit=1.0)
    assert watching.seen == [("fusedact::swish", [1.5])]
    assert FF.gated(x, gate, "silu").equal(x * F.silu(gate))


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_nothing_large_is_made_beside_results(dtype):
    spec, limits = registry.get("silu"), Limits(1.0, 1.0)
    x, gate, g, dx, dgate, out = (torch.randn(64, 64).to(dtype) for _ in range(6))
    with Watching() as watching:
        gating_pieces.forward(spec, x, gate, (), out, None, limits)
        gating_pieces.backward(spec, g, x, gate, dx, dgate, (), (), None, limits)
    whole = out.nbytes
    assert len(watching.sizes) > 0 and all(size <= 64 * 8 or size == whole for size in watching.sizes)
    torch.testing.assert_close(out, composition(F.silu, 1.0, 1.0)(x.float(), gate.float()).to(dtype))


def test_the_module():
    module = fusedact.SwiGLU(beta=1.702, limit=7, offset=1)
    assert (module.limit, module.offset) == (7.0, 1.0)
    assert repr(module) == "SwiGLU(dim=-1, layout='gate_value', beta=1.702, limit=7, offset=1)"
    learned = fusedact.SwiGLU(learnable=True, limit=1.0)
    assert "limit=1" in repr(learned) and "offset" not in repr(learned)
    x = 2 * torch.randn(4, 6)
    torch.testing.assert_close(learned(x), F.silu(x[:, :3].clamp(max=1)) * x[:, 3:].clamp(-1, 1))


X = torch.zeros(4, 6)
ERRORS = {
    "a limit of 0": (lambda: FF.gated(X, X, limit=0), ValueError, "functional.gated: limit must be above 0, got 0"),
    "NaN": (lambda: FF.gated(X, X, limit=math.nan), ValueError, "limit must be above 0, got nan; None is no limit"),
    "a tensor": (lambda: FF.gated(X, X, limit=X), TypeError, "limit must be a number or None, got Tensor"),
    "a bool": (lambda: FF.packed_glu(X, layout="interleaved", offset=True), TypeError, "offset must be a number"),
    "infinite": (
        lambda: FF.packed_glu(X, layout="interleaved", offset=math.inf),
        ValueError,
        "functional.packed_glu: offset must be finite, got inf",
    ),
    "a module's": (lambda: fusedact.SwiGLU(limit=-7.0), ValueError, "fusedact.SwiGLU: limit must be above 0, got -7"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        call()


SMALLEST = {
    "by hand": ("swish", {}, 2**18),
    "PyTorch's, with a limit": ("silu", {"limit": 7.0}, 2**18),
    "by the engine": ("hardswish", {"offset": 1.0}, 2**20),
    "one's own": (bent, {}, 2**20),
    "PyTorch's": ("silu", {}, 2**23),
}


@pytest.mark.parametrize("case", SMALLEST)
def test_where_pieces_begin(case, monkeypatch):
    """What goes in pieces keeps what is given alone; below it is as fast as plain operators, which keep more."""
    monkeypatch.undo()
    activation, keywords, smallest = SMALLEST[case]
    kept = []
    for numel in (smallest - 1, smallest):
        x, gate = (torch.zeros(numel, requires_grad=True) for _ in range(2))
        found = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, found=found: found.add(t.data_ptr()), lambda t: t):
            FF.gated(x, gate, activation, **keywords)
        kept.append(found == {x.data_ptr(), gate.data_ptr()})
    assert kept == [False, True]
