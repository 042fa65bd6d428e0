"""Gated activations on the CPU: values, gradients of every order, layouts, transforms, what is kept."""

from __future__ import annotations

import math

import pytest
import torch
from gated_oracle import BF16, FP16, FP32, FP64, LAYOUTS, halves, in_small_pieces
from hosts import Made, assert_near, differentiated
from linear_oracle import bent
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.hosts import gating_pieces

layouts = pytest.mark.parametrize("layout", LAYOUTS)


# The activation, its parameters, and the same in plain operators.
GATES = {
    "silu": ("silu", {}, F.silu),
    "sigmoid": ("sigmoid", {}, torch.sigmoid),
    "tanh": ("tanh", {}, torch.tanh),
    "relu": ("relu", {}, F.relu),
    "gelu": ("gelu", {}, F.gelu),
    "gelu, tanh": ("gelu", {"approximate": "tanh"}, lambda t: F.gelu(t, approximate="tanh")),
    "a function": (FF.mish, {}, F.mish),
    "swish": ("swish", {"beta": 1.5}, lambda t, beta=1.5: t * torch.sigmoid(beta * t)),
    "generated": ("squareplus", {"b": 3.0}, lambda t, b=3.0: (t + torch.sqrt(t * t + b)) / 2),
    "own": (bent, {"a": 0.25}, lambda t, a=0.25: t + a * torch.tanh(t) ** 2),
}
gates = pytest.mark.parametrize("name", GATES)


@pytest.fixture
def in_pieces(monkeypatch):
    in_small_pieces(monkeypatch)


@gates
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16, FP16], ids=str)
@pytest.mark.parametrize("how", ["plain", "pieces"])
def test_values_and_gradients(name, dtype, how, request):
    if how == "pieces":
        request.getfixturevalue("in_pieces")
    activation, parameters, plain = GATES[name]
    x, gate, g = (torch.randn(13, 20, dtype=FP64).to(dtype) for _ in range(3))
    y, grads = differentiated(lambda x, gate: FF.gated(x, gate, activation, **parameters), (x, gate), g)
    true, true_grads = differentiated(lambda x, gate: plain(gate) * x, (x.double(), gate.double()), g)
    assert y.dtype == dtype
    for got, expected in zip((y, *grads), (true, *true_grads), strict=True):
        assert got.dtype == dtype
        assert_near(got, expected, dtype, scale=2.0)


@layouts
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((6, 24), -1), ((6, 24), 0), ((2, 10, 3, 5), 1), ((2, 0, 3), 1), ((0, 4), 1), ((130,), 0)],
    ids=str,
)
@pytest.mark.parametrize("how", ["plain", "pieces"])
@pytest.mark.parametrize("activation", ["silu", "swish"])
def test_packed(layout, shape, dim, how, activation, request):
    if how == "pieces":
        request.getfixturevalue("in_pieces")
    packed = torch.randn(shape)

    def composition(t):
        value, gate = halves(t, dim, layout)
        return F.silu(gate) * value

    true = composition(packed.double())
    g = torch.randn(true.shape)
    y, (grad,) = differentiated(lambda t: FF.packed_glu(t, activation, dim, layout=layout), (packed,), g)
    true, (true_grad,) = differentiated(composition, (packed.double(),), g)
    assert y.shape == true.shape
    assert_near(y, true, FP32)
    assert_near(grad, true_grad, FP32)


VIEWS = {
    "transposed": lambda t: t.t(),
    "columns": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand(*t.shape),
    "reversed": lambda t: t.flip(0)[1:],
    "conjugated": lambda t: torch.complex(t, t).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("activation", ["silu", "swish", "mish"])
def test_strides(view, activation, in_pieces):
    x, gate, g = (torch.randn(12, 16) for _ in range(3))
    seen = VIEWS[view]

    def ours(x, gate):
        return FF.gated(seen(x), seen(gate), activation)

    def composition(x, gate):
        return getattr(FF, activation)(seen(gate)) * seen(x)

    g = torch.randn(ours(x, gate).shape)
    y, grads = differentiated(ours, (x, gate), g)
    true, true_grads = differentiated(composition, (x.double(), gate.double()), g)
    for got, expected in zip((y, *grads), (true, *true_grads), strict=True):
        assert_near(got, expected, FP32, scale=4.0)


def test_the_result_has_the_values_layout(in_pieces):
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    assert FF.gated(x, x.contiguous()).is_contiguous(memory_format=torch.channels_last)
    packed = x.clone().requires_grad_()
    y = FF.packed_glu(packed, dim=1, layout="gate_value")
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert packed.grad.is_contiguous(memory_format=torch.channels_last)


def test_no_dimensions_and_no_elements(in_pieces):
    assert FF.gated(torch.tensor(2.0), torch.tensor(3.0), "relu").item() == 6.0
    x = torch.empty(0, 3, requires_grad=True)
    FF.gated(x, x, "swish", beta=torch.ones(3, requires_grad=True)).sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("activation", ["silu", "swish", "relu", "tanh"])
def test_extremes_are_those_of_the_product(activation, in_pieces):
    edge = torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e30, -1e30])
    x, gate = (t.flatten() for t in torch.meshgrid(edge, edge, indexing="ij"))
    expected = getattr(FF, activation)(gate) * x
    assert torch.equal(FF.gated(x, gate, activation).isnan(), expected.isnan())
    torch.testing.assert_close(FF.gated(x, gate, activation), expected, equal_nan=True)


# ----- parameters that learn


@pytest.mark.parametrize("shape", [(), (1,), (6,)], ids=str)
@pytest.mark.parametrize("how", ["plain", "pieces"])
@pytest.mark.parametrize("form", ["two tensors", *LAYOUTS])
@pytest.mark.parametrize("name", ["swish", "own"])
def test_parameters_get_gradients(shape, how, form, name, request):
    if how == "pieces":
        request.getfixturevalue("in_pieces")
    activation, parameters, plain = GATES[name]
    (key,) = parameters
    p = torch.rand(shape) + 0.5
    dim = 1
    g = torch.randn(4, 6, 30)
    shaped = (lambda p: p.reshape(-1, 1)) if shape == (6,) else (lambda p: p.reshape(()))
    if form == "two tensors":
        given = (torch.randn(4, 6, 30), torch.randn(4, 6, 30))
        ours = lambda x, gate, p: FF.gated(x, gate, activation, **{key: p})  # noqa: E731
        composition = lambda x, gate, p: plain(gate, shaped(p)) * x  # noqa: E731
    else:
        given = (torch.randn(4, 12, 30),)
        ours = lambda t, p: FF.packed_glu(t, activation, dim, layout=form, **{key: p})  # noqa: E731

        def composition(t, p):
            value, gate = halves(t, dim, form)
            return plain(gate, shaped(p)) * value

    y, grads = differentiated(ours, (*given, p), g)
    true, true_grads = differentiated(composition, [t.double() for t in (*given, p)], g)
    for got, expected in zip((y, *grads[:-1]), (true, *true_grads[:-1]), strict=True):
        assert_near(got, expected, FP32, scale=4.0)
    assert grads[-1].shape == shape
    torch.testing.assert_close(grads[-1].double(), true_grads[-1], rtol=1e-5, atol=1e-4)


# ----- higher orders, transforms, and who else watches


@pytest.mark.parametrize("name", ["silu", "swish", "own"])
@pytest.mark.parametrize("form", ["two tensors", "value_gate", "interleaved"])
def test_gradcheck(name, form, in_pieces):
    activation, parameters, _ = GATES[name]
    p = {key: torch.full((3,), 0.8, dtype=FP64, requires_grad=True) for key in parameters}
    if form == "two tensors":
        given = [torch.randn(2, 3, dtype=FP64, requires_grad=True) for _ in range(2)]
        function = lambda x, gate, *p: FF.gated(x, gate, activation, **dict(zip(parameters, p, strict=True)))  # noqa: E731
    else:
        given = [torch.randn(2, 6, dtype=FP64, requires_grad=True)]
        function = lambda t, *p: FF.packed_glu(  # noqa: E731
            t, activation, layout=form, **dict(zip(parameters, p, strict=True))
        )
    inputs = (*given, *p.values())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)


@pytest.mark.parametrize("form", ["two tensors", "packed"])
def test_transforms(form, in_pieces):
    packed = torch.randn(3, 8, dtype=FP64)
    split = halves(packed, 1, "gate_value")

    def ours(t):
        if form == "packed":
            return FF.packed_glu(t, "swish", beta=1.5, layout="gate_value")
        return FF.gated(*halves(t, -1, "gate_value"), "swish", beta=1.5)

    def plain(t):
        value, gate = halves(t, -1, "gate_value")
        return gate * torch.sigmoid(1.5 * gate) * value

    func = torch.func
    t = torch.randn_like(packed)
    close = torch.testing.assert_close
    close(func.vmap(ours)(packed), plain(packed))
    close(func.jvp(ours, (packed,), (t,)), func.jvp(plain, (packed,), (t,)))
    close(
        func.vmap(func.grad(lambda row: ours(row).sum()))(packed),
        func.vmap(func.grad(lambda row: plain(row).sum()))(packed),
    )
    close(func.jacrev(ours)(packed[0]), func.jacrev(plain)(packed[0]))
    close(func.hessian(lambda row: ours(row).sum())(packed[0]), func.hessian(lambda row: plain(row).sum())(packed[0]))
    assert split[0].shape == (3, 4)
    # One that begins after forward.
    leaf = packed.clone().requires_grad_()
    y, basis = ours(leaf), torch.eye(12, dtype=FP64).view(12, 3, 4)
    rows = func.vmap(lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0])(basis)
    close(rows.view(3, 4, 3, 8), func.jacrev(plain)(packed))


def test_only_what_is_given_is_kept(in_pieces):
    kept = []

    def pack(t):
        kept.append(t)
        return t

    x, gate = (torch.randn(40, 30, requires_grad=True) for _ in range(2))
    packed = torch.randn(40, 60, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        FF.gated(x, gate)
        FF.packed_glu(packed, layout="interleaved")
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (x, gate, packed)]


@pytest.mark.parametrize("name", ["silu", "swish", "generated", "gelu"])
@pytest.mark.parametrize("layout", ["", *LAYOUTS])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_nothing_large_is_made_beside_results(name, layout, dtype, in_pieces):
    spec = registry.get(GATES[name][0])
    params = [p.default for p in spec.parameters]
    g, out = torch.randn(64, 64).to(dtype), torch.empty(64, 64, dtype=dtype)
    given, grads = (
        halves(torch.randn(64, 128).to(dtype), 1, layout) if layout else (torch.randn_like(g), torch.randn_like(g))
        for _ in range(2)
    )
    with Made(g, out, *given, *grads) as made:
        gating_pieces.forward(spec, *given, params, out, None)
        gating_pieces.backward(spec, g, *given, *grads, params, [False] * len(params), None)
    # A few elements of float64 to a piece of 64, or complex numbers.
    assert 0 < max(made.sizes) <= 64 * 16


def test_operators_are_right_for_fake_tensors(in_pieces):
    x, gate, packed = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6)
    beta = torch.ones(1)
    rest = [beta], [0.0], "swish", None, 7.0, 1.0
    ops = torch.ops.fusedact
    for test in ("test_schema", "test_faketensor"):
        torch.library.opcheck(ops.gated.default, (x, gate, *rest), test_utils=test)
        torch.library.opcheck(ops.gated_backward.default, (x, x, gate, *rest, [True, False, True]), test_utils=test)
        torch.library.opcheck(ops.packed_glu.default, (packed, *rest, 1, "interleaved"), test_utils=test)
        arguments = (torch.randn(4, 3), packed, *rest, 1, "interleaved", [True, True])
        torch.library.opcheck(ops.packed_glu_backward.default, arguments, test_utils=test)


def test_compiled_and_exported_it_is_plain_operators():
    x, gate = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    beta = torch.tensor([1.3], requires_grad=True)

    def step(x, gate, beta):
        y = FF.gated(x, gate, "swish", beta=beta) + FF.gated(x, gate, bent)
        return y + FF.packed_glu(torch.cat([x, gate], 1), dim=1, layout="value_gate")

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    expected, got = step(x, gate, beta), compiled(x, gate, beta)
    torch.testing.assert_close(got, expected)
    leaves = (x, gate, beta)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), rtol=1e-5, atol=1e-5
    )
    module = fusedact.SwiGLU(beta=1.5)
    program = torch.export.export(module, (torch.randn(2, 6),))
    assert not [n for n in program.graph.nodes if "fusedact" in str(n.target)]
    t = torch.randn(2, 6)
    torch.testing.assert_close(program.module()(t), module(t))


def test_two_dtypes_give_the_wider_one():
    x, gate = torch.randn(8, dtype=BF16), torch.randn(8)
    y = FF.gated(x, gate)
    assert y.dtype == FP32
    torch.testing.assert_close(y, x.float() * F.silu(gate))
    with torch.autocast("cpu", dtype=BF16):
        made = nn.Linear(8, 8)(gate)
        assert FF.gated(made, made).dtype == BF16


def test_what_stays_in_eager_is_a_gate_too():
    @fusedact.activation(fallback="eager")
    def running(x, a=2.0):
        return a * torch.cumsum(x, -1)

    x, gate = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(FF.gated(x, gate, running), x * 2.0 * gate.cumsum(-1))
