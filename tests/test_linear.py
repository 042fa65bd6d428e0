"""A linear layer with its activation: values, gradients of every order, what is kept, transforms, mixed precision."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from linear_oracle import (
    ACTIVATIONS,
    BF16,
    FP16,
    FP32,
    FP64,
    always_own,
    assert_as_accurate,
    bent,
    differentiated,
    peak,
)
from linear_oracle import kept as kept_by
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.hosts import products

activations = pytest.mark.parametrize("name", ACTIVATIONS)
ways = pytest.mark.parametrize("how", ["plain", "own"])


@pytest.fixture
def own(monkeypatch):
    always_own(monkeypatch)


def layer(dtype=FP32, rows=(5,), inner=12, outer=7):
    """An input, a weight, a bias, and a gradient of the output."""
    shapes = ((*rows, inner), (outer, inner), (outer,), (*rows, outer))
    return [(torch.randn(shape, dtype=FP64) / shape[-1] ** 0.5).to(dtype) for shape in shapes]


def compared(name, x, weight, bias, g, **keywords):
    """Value and gradients of ours, of plain PyTorch, and the truth."""
    activation, parameters, plain = ACTIVATIONS[name]
    leaves = (x, weight, bias)

    def composition(x, weight, bias):
        return plain(F.linear(x, weight, bias))

    wide = [None if t is None else t.double() for t in leaves]
    return (
        differentiated(lambda *t: FF.linear(*t, activation, **parameters, **keywords), leaves, g),
        differentiated(composition, leaves, g),
        differentiated(composition, wide, g),
    )


@activations
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16, FP16], ids=str)
def test_values_and_gradients(name, dtype, own):
    assert_as_accurate(*compared(name, *layer(dtype, (3, 11))), dtype)


@activations
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_values_and_gradients_of_small_layers(name, dtype):
    assert_as_accurate(*compared(name, *layer(dtype, (3, 11))), dtype)


@pytest.mark.parametrize("rows", [(), (1,), (0,), (2, 0), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["silu", "relu", "swish"])
@ways
def test_shapes(rows, bias, name, how, request):
    if how == "own":
        request.getfixturevalue("own")
    x, weight, b, g = layer(rows=rows, inner=1 if rows == (1,) else 5, outer=3)
    assert_as_accurate(*compared(name, x, weight, b if bias else None, g), FP32)


@pytest.mark.parametrize("name", ["silu", "relu_sigmoid"])
def test_strides(name, own):
    x, weight, bias, g = layer(rows=(6, 4))
    assert_as_accurate(*compared(name, x.transpose(0, 1), weight, bias, g.transpose(0, 1)), FP32)
    assert_as_accurate(*compared(name, x, weight.t().contiguous().t(), bias, g), FP32)
    assert_as_accurate(*compared(name, x, weight, bias, g[:1, :1].expand_as(g)), FP32)
    assert_as_accurate(*compared(name, x[..., :1].expand_as(x), weight, bias[:1].expand_as(bias), g), FP32)


@pytest.mark.parametrize("save", ["input", "output", "bits"])
@pytest.mark.parametrize("name", ["relu", "elu", "hardtanh", "silu", "swish"])
@ways
def test_policies(save, name, how, request):
    if how == "own":
        request.getfixturevalue("own")
    if save == "bits" and name in ("elu", "silu", "swish"):
        with pytest.raises(ValueError, match=r"fusedact.functional.linear: save must be one of 'auto', 'input'"):
            compared(name, *layer(), save=save)
        return
    got, plain, true = compared(name, *layer(rows=(9,)), save=save)
    assert torch.equal(got[0], plain[0]) or name == "swish"
    assert_as_accurate(got[:1], plain[:1], true[:1], FP32)
    for ours, expected in zip(got[1:], true[1:], strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_block_says_the_policy(own):
    x, weight, bias, _ = (t.requires_grad_() for t in layer(rows=(64,)))
    with fusedact.save_policy("output"):
        storages, y = kept_by(lambda: FF.linear(x, weight, bias, "elu"))
    assert y.untyped_storage().data_ptr() in storages


@pytest.mark.parametrize("name", ["silu", "relu", "tanh", "gelu", "elu"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_values_are_those_of_pytorchs_product(name, dtype, own):
    activation, parameters, _ = ACTIVATIONS[name]
    x, weight, bias, _ = layer(dtype, (40,))
    expected = getattr(FF, activation)(F.linear(x, weight, bias), **parameters)
    # Once for nobody, once for backward.
    for w in (weight, weight.requires_grad_()):
        torch.testing.assert_close(FF.linear(x, w, bias, activation, **parameters), expected, rtol=0, atol=0)


def test_a_bias_that_cancels_costs_no_accuracy(own):
    # It is inside the product, not added to what was rounded.
    x, weight = torch.ones(4, 64, dtype=BF16), torch.full((3, 64), 1.0 + 2**-7, dtype=BF16)
    bias = torch.tensor([-64.0] * 3, dtype=BF16)
    expected = F.silu(F.linear(x, weight, bias))
    assert expected.abs().max() > 0
    assert torch.equal(FF.linear(x, weight.requires_grad_(), bias, "silu"), expected)


@pytest.mark.parametrize("shape", [(), (1,), (7,)], ids=str)
@pytest.mark.parametrize("name", ["swish", "own", "elu"])
@ways
def test_parameters_get_gradients(shape, name, how, request):
    if how == "own":
        request.getfixturevalue("own")
    activation, (key,), plain = ACTIVATIONS[name][0], ACTIVATIONS[name][1], ACTIVATIONS[name][2]
    if name == "elu":
        plain = lambda z, a: torch.where(z > 0, z, a * torch.expm1(z))  # noqa: E731
    x, weight, bias, g = layer(rows=(3, 5))
    leaves = (x, weight, bias, torch.rand(shape) + 0.5)
    got = differentiated(lambda x, w, b, p: FF.linear(x, w, b, activation, **{key: p}), leaves, g)
    composition = lambda x, w, b, p: plain(F.linear(x, w, b), p)  # noqa: E731
    theirs = differentiated(composition, leaves, g)
    assert_as_accurate(got, theirs, differentiated(composition, [t.double() for t in leaves], g), FP32)
    assert got[-1].shape == shape


@pytest.mark.parametrize("threads", [1, 2])
def test_the_biass_gradient_does_not_depend_on_threads(threads, own, monkeypatch):
    monkeypatch.setattr(products, "SUMMED", 64)
    x, weight, bias, g = layer(rows=(40,))
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(differentiated(lambda *t: FF.linear(*t, "silu"), (x, weight, bias), g)[3])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


# ----- higher orders, transforms, and who else watches


@pytest.mark.parametrize(
    ("name", "save"), [*((n, "auto") for n in ("silu", "swish", "own")), ("relu_sigmoid", "output"), ("elu", "output")]
)
def test_gradcheck(name, save, own):
    activation, parameters, _ = ACTIVATIONS[name]
    x, weight, bias, _ = layer(FP64, (2,), 3, 4)
    tensors = [t.requires_grad_() for t in (x, weight, bias)]
    learned = [torch.full((4,), v, dtype=FP64, requires_grad=True) for v in parameters.values()]

    def function(x, weight, bias, *p):
        return FF.linear(x, weight, bias, activation, save=save, **dict(zip(parameters, p, strict=True)))

    assert torch.autograd.gradcheck(function, (*tensors, *learned), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (*tensors, *learned))
    assert torch.autograd.gradcheck(function, (*tensors, *learned), check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_transforms(activation, own):
    x, weight, bias, _ = layer(FP64, (3,), 4, 5)
    plain = F.relu if activation == "relu" else F.silu
    ours = lambda x, w=weight: FF.linear(x, w, bias, activation)  # noqa: E731
    theirs = lambda x, w=weight: plain(F.linear(x, w, bias))  # noqa: E731
    func, close = torch.func, torch.testing.assert_close
    close(func.vmap(ours)(x), theirs(x))
    close(func.vmap(ours, (None, 0))(x, torch.stack([weight, -weight])), torch.stack([theirs(x), theirs(x, -weight)]))
    close(func.jvp(ours, (x,), (x,)), func.jvp(theirs, (x,), (x,)))
    for transform in (func.jacrev, func.jacfwd):
        close(transform(ours, (0, 1))(x, weight), transform(theirs, (0, 1))(x, weight))
    each = [
        func.vmap(func.grad(lambda w, r, f=f: f(r, w).square().sum()), (None, 0))(weight, x) for f in (ours, theirs)
    ]
    close(*each)
    close(func.hessian(lambda r: ours(r).sum())(x[0]), func.hessian(lambda r: theirs(r).sum())(x[0]))


def test_compiled_and_exported_it_is_plain_operators():
    x, weight, bias, _ = (t.requires_grad_() for t in layer(rows=(4,)))
    module = fusedact.Linear(12, 7, activation="swish", learnable=True, bounds=(0.1, 3.0))

    def step(x, weight, bias):
        return FF.linear(x, weight, bias, "silu") + FF.linear(x, weight, bias, bent, a=0.3) + module(x)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    leaves = (x, weight, bias, *module.parameters())
    (expected, grads), (got, ours) = (
        (y, torch.autograd.grad(y.sum(), leaves)) for y in (f(x, weight, bias) for f in (step, compiled))
    )
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours, grads, rtol=1e-5, atol=1e-5)
    program = torch.export.export(module, (x.detach(),))
    assert not [n for n in program.graph.nodes if "fusedact" in str(n.target)]
    torch.testing.assert_close(program.module()(x), module(x))


# ----- what is kept, and made


@pytest.mark.parametrize(
    ("activation", "save", "expected"),
    [
        *[("silu", "auto", "product"), ("swish", "auto", "product"), ("relu", "auto", "output")],
        *[("tanh", "auto", "output"), ("elu", "output", "output"), ("silu", "output", "output and bits")],
        *[("relu", "bits", "bits"), ("relu", "input", "product")],
    ],
)
@pytest.mark.parametrize("rows", [(64,), (8, 8)], ids=str)
def test_one_tensor_of_the_outputs_size_is_kept(activation, save, expected, rows, own):
    x, weight, bias, _ = layer(rows=rows, outer=16)
    x.requires_grad_()
    parameters = nn.Parameter(weight), nn.Parameter(bias)
    storages, y = kept_by(lambda x, w, b: FF.linear(x, w, b, activation, save=save), x, *parameters)
    assert storages.pop(x.untyped_storage().data_ptr())
    whole, bits = y.untyped_storage().nbytes(), y.numel() // 8
    of_output = storages.pop(y.untyped_storage().data_ptr(), None)
    assert of_output == (whole if expected.startswith("output") else None)
    assert (
        sorted(storages.values())
        == {"product": [whole], "output": [], "output and bits": [bits], "bits": [bits]}[expected]
    )


def test_without_a_gradient_nothing_is_kept(own):
    x, weight, bias, _ = layer()
    assert kept_by(lambda: FF.linear(x, weight, bias, "silu"))[0] == {}


@pytest.mark.parametrize("size", [2**6, 2**12])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "relu_sigmoid", "swish"])
def test_inference_overwrites_the_product(activation, size, monkeypatch):
    made = []
    plain = F.linear

    def watched(*args):
        made.append(plain(*args))
        return made[-1]

    monkeypatch.setattr(F, "linear", watched)
    x, weight, bias, _ = layer(rows=(size,))
    with torch.no_grad():
        y = FF.linear(x, weight, bias, activation)
    assert [t.data_ptr() for t in made] == [y.data_ptr()]


@pytest.mark.parametrize(
    ("activation", "save", "forward", "both"),
    # In tensors of the output's size: the product; and what backward adds at its peak, the gradient of the product.
    [("relu", "auto", 1, 2), ("silu", "auto", 2, 3), ("elu", "output", 1, 2)],
)
def test_nothing_as_large_is_made_beside(activation, save, forward, both):
    rows, outer = 9 * 2**10, 2**10
    x, g = torch.randn(rows, 8), torch.ones(rows, outer)
    module = fusedact.Linear(8, outer, activation=activation, save=save)
    size = rows * outer * 4

    def step():
        module(x).backward(g)

    with torch.no_grad():
        assert peak(lambda: module(x)) < 1.15 * size
    assert peak(lambda: module(x)) < (forward + 0.15) * size
    assert peak(step) < (both + 0.5) * size


def test_an_output_that_is_kept_must_not_change(own):
    x, weight, bias, _ = (t.requires_grad_() for t in layer())
    y = FF.linear(x, weight, bias, "relu")
    y.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = FF.linear(x, weight, bias, "silu")
    y.add_(1.0)
    y.sum().backward()


# ----- mixed precision


@ways
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_autocast(dtype, how, request):
    if how == "own":
        request.getfixturevalue("own")
    x, weight, bias, g = layer(rows=(33,))
    with torch.autocast("cpu", dtype):
        got = differentiated(lambda *t: FF.linear(*t, "silu"), (x, weight, bias), g)
        plain = differentiated(lambda *t: F.silu(F.linear(*t)), (x, weight, bias), g)
    assert got[0].dtype == dtype and {t.dtype for t in got[1:]} == {FP32}
    true = differentiated(lambda *t: F.silu(F.linear(*t)), [t.double() for t in (x, weight, bias)], g)
    for ours, theirs, expected in zip(got, plain, true, strict=True):
        error, yardstick = ((t.double() - expected).abs().max() for t in (ours, theirs))
        assert error <= 2 * yardstick + 0.5 * torch.finfo(dtype).eps * expected.abs().max()


def test_autocast_converts_a_learned_prelu_as_pytorch_does(own):
    x, *_ = layer()
    module = fusedact.Linear(12, 7, activation="prelu", num_parameters=7)
    with torch.autocast("cpu", BF16):
        y = module(x)
        plain = F.prelu(F.linear(x, module.weight, module.bias), module.activation.weight)
    assert y.dtype == plain.dtype == BF16
    torch.testing.assert_close(y, plain)
    y.sum().backward()
    assert module.activation.weight.grad.dtype == FP32


def test_a_scaler_steps(own):
    module = fusedact.Linear(12, 7, activation="swish", learnable=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = copy.deepcopy(module.state_dict())
    with torch.autocast("cpu", FP16):
        loss = module(layer(rows=(16,))[0]).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(not torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(p.isfinite().all() for p in module.parameters())


# ----- the module


def test_it_begins_as_a_linear_layer_does():
    torch.manual_seed(3)
    ours = fusedact.Linear(20, 30, activation="swish", learnable=True)
    torch.manual_seed(3)
    theirs = nn.Linear(20, 30)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
    ours.activation.beta.data.fill_(7.0)
    torch.manual_seed(3)
    ours.reset_parameters()
    assert torch.equal(ours.weight, theirs.weight) and ours.activation.beta.item() == 1.0


def test_checkpoints_load_both_ways():
    ours, theirs = fusedact.Linear(4, 3, activation="silu"), nn.Linear(4, 3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4)
    torch.testing.assert_close(ours(x), F.silu(theirs(x)))
    nn.Linear(4, 3).load_state_dict(fusedact.Linear(4, 3).state_dict())
    learned = fusedact.Linear(4, 3, activation="swish", learnable=True, num_parameters=3)
    assert sorted(learned.state_dict()) == ["activation.beta", "bias", "weight"]
    assert learned.load_state_dict(theirs.state_dict(), strict=False).missing_keys == ["activation.beta"]
    assert isinstance(ours, nn.Linear)


@pytest.mark.parametrize("size", [4, 40000])
def test_copies_and_pickles(size):
    module = fusedact.Linear(4, 3, activation=bent, a=0.3, learnable=True)
    x = torch.randn(size, 4)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(x), module(x))
        copied.activation.a.data.fill_(2.0)
        assert not torch.equal(copied(x), module(x))


GIVEN = {
    "a name": ("elu", lambda z: F.elu(z)),
    "a function": (FF.mish, F.mish),
    "one's own": (bent, lambda z: z + 0.5 * torch.tanh(z) ** 2),
    "a module": (fusedact.Swish(beta=2.0, learnable=True), lambda z: z * torch.sigmoid(2.0 * z)),
    "PyTorch's module": (nn.Softplus(), F.softplus),
    "a table": (fusedact.PWL([-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]), lambda z: (1 - z.abs()).clamp_min(0.0)),
    "rows": ("log_softmax", lambda z: F.log_softmax(z, -1)),
}


@pytest.mark.parametrize("what", GIVEN)
@ways
def test_what_an_activation_may_be(what, how, request):
    if how == "own":
        request.getfixturevalue("own")
    activation, plain = GIVEN[what]
    module = fusedact.Linear(12, 7, activation=activation, **({"dim": -1} if what == "rows" else {}))
    x, *_ = layer(rows=(6,))
    torch.testing.assert_close(module(x), plain(F.linear(x, module.weight, module.bias)))


def test_bounds_hold(own):
    module = fusedact.Linear(12, 7, activation="swish", learnable=True, bounds=(0.5, 2.0), save="output")
    module.activation.beta.data.fill_(5.0)
    x, *_ = layer()
    z = F.linear(x, module.weight, module.bias)
    torch.testing.assert_close(module(x), z * torch.sigmoid(2.0 * z))
    assert module.activation.beta.item() == 2.0 and module.save == "output"


def test_hooks_of_the_activation_are_called(own):
    module, seen = fusedact.Linear(12, 7, activation="silu"), []
    module.activation.register_forward_hook(lambda m, args, y: seen.append((args[0], y)))
    x, *_ = layer()
    y = module(x)
    ((z, a),) = seen
    torch.testing.assert_close(z, F.linear(x, module.weight, module.bias))
    assert a is y


@pytest.mark.parametrize("old", [False, True])
def test_its_weight_can_be_parametrized(old, own):
    module = fusedact.Linear(12, 7, activation="silu")
    x, *_ = layer()
    expected = module(x)
    norm = torch.nn.utils.weight_norm if old else torch.nn.utils.parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        norm(module)
    torch.testing.assert_close(module(x), expected)
    module(x).sum().backward()
    assert len([p for p in module.parameters() if p.grad is not None]) == 3


def test_the_memory_report_knows_it(own):
    network = nn.Sequential(fusedact.Linear(8, 64, activation="elu"), nn.Linear(64, 2))
    report = fusedact.memory_report(network, torch.ones(32, 8))
    (row,) = report.rows
    # Its input, of 1024 bytes, is among them.
    assert row.name == "0" and row.output_kept
    assert row.kept == {"auto": 9216, "input": 9216, "output": 1024, "bits": 1024}
    assert network[0].save == "auto"


# ----- what is refused


REFUSED = {
    "no tensor": (lambda x, w, b: FF.linear([1.0], w), TypeError, "x must be a torch.Tensor, got list"),
    "integers": (lambda x, w, b: FF.linear(x.int(), w), TypeError, "x must have dtype float16, .*, got int32"),
    "dtypes": (lambda x, w, b: FF.linear(x, w.double()), TypeError, "weight must have the dtype of x, float32, got"),
    "bias's dtype": (lambda x, w, b: FF.linear(x, w, b.half()), TypeError, "bias must have the dtype of x"),
    "dimensions": (
        lambda x, w, b: FF.linear(x, w[0]),
        ValueError,
        r"x must have shape \(..., in_features\) and weight",
    ),
    "features": (lambda x, w, b: FF.linear(x[:, 1:], w), ValueError, "last dimension of x must have weight's in_feat"),
    "bias": (lambda x, w, b: FF.linear(x, w, b[1:]), ValueError, r"bias must have shape \(7,\) beside a weight of"),
    "device": (lambda x, w, b: FF.linear(x, w.to("meta")), ValueError, "weight must be on the device of x, cpu"),
    "unknown": (lambda x, w, b: FF.linear(x, w, b, "silo"), ValueError, "silu"),
    "rowwise": (lambda x, w, b: FF.linear(x, w, b, "softmax"), ValueError, "activation must be elementwise"),
    "a class": (lambda x, w, b: FF.linear(x, w, b, nn.ReLU), TypeError, "activation must be a name, a function of"),
    "parameter": (lambda x, w, b: FF.linear(x, w, b, "elu", beta=1.0), TypeError, "elu has no parameter beta"),
    "channels": (lambda x, w, b: FF.linear(x, w, b, "swish", beta=torch.ones(5)), ValueError, "beta must be a number"),
    "save": (lambda x, w, b: FF.linear(x, w, b, "mish", save="bits"), ValueError, "save must be one of"),
    "module's save": (
        lambda x, w, b: fusedact.Linear(4, 3, activation="mish", save="bits"),
        ValueError,
        "save must be",
    ),
    "module's parameter": (lambda x, w, b: fusedact.Linear(4, 3, activation="elu", beta=1), TypeError, "beta"),
    "module's activation": (
        lambda x, w, b: fusedact.Linear(4, 3, activation=F.silu),
        TypeError,
        "must be a name, a fu",
    ),
    "module and more": (
        lambda x, w, b: fusedact.Linear(4, 3, activation=nn.ReLU(), learnable=True),
        TypeError,
        "a module as activation takes no learnable: it has its own",
    ),
    "count": (
        lambda x, w, b: fusedact.Linear(4, 3, activation="swish", learnable=True, num_parameters=4),
        ValueError,
        "num_parameters must be 1 or 3, got 4",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_named(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(*layer()[:3])


@pytest.mark.parametrize("size", [3, 30000])
def test_a_modules_bad_input_is_named(size):
    with pytest.raises(ValueError, match="last dimension of x must have weight's in_features"):
        fusedact.Linear(4, 3)(torch.randn(size, 5))
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        fusedact.Linear(4, 3)([1.0, 2.0])
