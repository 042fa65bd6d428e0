"""MLPs: values, gradients of every order, what they keep, other people's layers and checkpoints."""

from __future__ import annotations

import copy
import pickle
import socket

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

gates = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
recomputes = pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])


@pytest.fixture
def own(monkeypatch):
    always_own(monkeypatch)


def composition(plain, gated):
    """The same in plain operators, of x and the parameters in the order of `tensors_of`."""

    def run(x, *weights):
        pairs = [(weights[i], weights[i + 1]) for i in range(0, 6 if gated else 4, 2)]
        extra = weights[2 * len(pairs) :]
        up = F.linear(x, *pairs[0])
        h = plain(F.linear(x, *pairs[1]), *extra) * up if gated else plain(up, *extra)
        return F.linear(h, *pairs[-1])

    return run


def tensors_of(module):
    layers = [module.up_proj, *([module.gate_proj] if module.gated else []), module.down_proj]
    return [t for layer in layers for t in (layer.weight, layer.bias)] + list(module.activation.parameters())


def run_on(module, names, x, *tensors):
    """The module with other parameters."""
    return torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), (x,))


def names_of(module):
    known = {id(p): name for name, p in module.named_parameters()}
    return [known[id(t)] for t in tensors_of(module) if t is not None]


def compared(name, gated, dtype=FP32, rows=(11,), recompute=False, **arguments):
    activation, parameters, plain = ACTIVATIONS[name]
    module = fusedact.MLP(
        6, 10, 4, activation, gated=gated, recompute=recompute, dtype=dtype, **parameters, **arguments
    )
    x, g = torch.randn(*rows, 6, dtype=FP64).to(dtype), torch.randn(*rows, 4, dtype=FP64).to(dtype)
    names, tensors = names_of(module), [x, *tensors_of(module)]
    wide = [None if t is None else t.double() for t in tensors]
    ours = lambda x, *t: run_on(module, names, x, *[u for u in t if u is not None])  # noqa: E731
    return (
        differentiated(ours, tensors, g),
        differentiated(composition(plain, gated), tensors, g),
        differentiated(composition(plain, gated), wide, g),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [FP32, FP64, BF16, FP16], ids=str)
@gates
def test_values_and_gradients(name, dtype, gated, own):
    assert_as_accurate(*compared(name, gated, dtype), dtype)


@pytest.mark.parametrize("rows", [(), (2, 0), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@gates
@recomputes
def test_shapes(rows, bias, gated, recompute, own):
    for name in ("silu", "relu"):
        assert_as_accurate(*compared(name, gated, FP32, rows, recompute, bias=bias), FP32)


@gates
@recomputes
def test_small_ones(gated, recompute):
    assert_as_accurate(*compared("relu_sigmoid", gated, FP32, (2, 3), recompute), FP32)


@pytest.mark.parametrize("name", ["silu", "relu", "elu", "hardtanh", "swish"])
@pytest.mark.parametrize("save", ["input", "output"])
def test_policies(name, save, own):
    got, _, true = compared(name, False, save=save)
    for ours, expected in zip(got, true, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_bits_do_not_tell_the_output(own):
    assert_as_accurate(*compared("hardtanh", False, save="bits"), FP32)
    module = fusedact.MLP(6, 64, activation="leaky_relu", negative_slope=-0.5, save="bits")
    x = torch.randn(8, 6, requires_grad=True)
    ours, theirs = module(x), module.down_proj(F.leaky_relu(module.up_proj(x), -0.5))
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x))


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("activation", ["swish", bent], ids=["swish", "own"])
@gates
@recomputes
def test_parameters_get_gradients(count, activation, gated, recompute, own):
    module = fusedact.MLP(6, 10, 4, activation, gated=gated, recompute=recompute, learnable=True, num_parameters=count)
    plain = ACTIVATIONS["own" if activation is bent else "swish"][2]
    x, g, names = torch.randn(9, 6), torch.randn(9, 4), names_of(module)
    leaves = [x, *tensors_of(module)]
    got = differentiated(lambda x, *t: run_on(module, names, x, *t), leaves, g)
    theirs = differentiated(composition(plain, gated), leaves, g)
    assert_as_accurate(got, theirs, differentiated(composition(plain, gated), [t.double() for t in leaves], g), FP32)
    assert got[-1].shape == (count,)


@gates
@recomputes
@pytest.mark.parametrize("frozen", ["up_proj.weight", "down_proj.weight", "down_proj.bias", "up_proj.bias", "x"])
def test_frozen_parameters(frozen, gated, recompute, own):
    module = fusedact.MLP(6, 10, activation="silu", gated=gated, recompute=recompute)
    x = torch.randn(5, 6).requires_grad_(frozen != "x")
    for name, p in module.named_parameters():
        p.requires_grad_(name != frozen)
    leaves = [t for t in (x, *tensors_of(module)) if t.requires_grad]
    got = torch.autograd.grad(module(x).sum(), leaves)
    theirs = torch.autograd.grad(composition(F.silu, gated)(x, *tensors_of(module)).sum(), leaves)
    torch.testing.assert_close(got, theirs, rtol=1e-5, atol=1e-5)


@gates
@recomputes
@pytest.mark.parametrize("name", ["silu", "relu_sigmoid", "swish"])
def test_gradcheck(gated, recompute, name, own):
    activation, parameters, _ = ACTIVATIONS[name]
    module = fusedact.MLP(
        3, 4, 2, activation, gated=gated, recompute=recompute, learnable=bool(parameters), dtype=FP64, **parameters
    )
    names = names_of(module)
    inputs = torch.randn(2, 3, dtype=FP64, requires_grad=True), *tensors_of(module)
    function = lambda x, *t: run_on(module, names, x, *t)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_backward_ad=False)


@gates
@recomputes
def test_transforms(gated, recompute, own):
    module = fusedact.MLP(3, 5, 2, "silu", gated=gated, recompute=recompute, dtype=FP64)
    names, tensors, x = names_of(module), tensors_of(module), torch.randn(4, 3, dtype=FP64)
    ours = lambda x, *t: run_on(module, names, x, *t)  # noqa: E731
    theirs = composition(F.silu, gated)
    func, close = torch.func, torch.testing.assert_close
    close(func.vmap(lambda r: ours(r, *tensors))(x), theirs(x, *tensors))
    each = [
        func.vmap(func.grad(lambda w, r, f=f: f(r, w, *tensors[1:]).sum()), (None, 0))(tensors[0], x)
        for f in (ours, theirs)
    ]
    close(*each)
    close(func.jvp(lambda r: ours(r, *tensors), (x,), (x,)), func.jvp(lambda r: theirs(r, *tensors), (x,), (x,)))
    close(*(func.hessian(lambda r, f=f: f(r, *tensors).sum())(x[0]) for f in (ours, theirs)))


@gates
@recomputes
def test_compiled_and_exported_it_is_plain_operators(gated, recompute):
    module = fusedact.MLP(6, 10, activation="swish", gated=gated, recompute=recompute, learnable=True)
    x = torch.randn(5, 6, requires_grad=True)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    leaves = (x, *module.parameters())
    expected, got = module(x), compiled(x)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), rtol=1e-5, atol=1e-5
    )
    program = torch.export.export(module.eval(), (x.detach(),))
    assert not [n for n in program.graph.nodes if "fusedact" in str(n.target)]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_traced_it_is_plain_operators(own):
    x = torch.randn(5, 6)
    learned = {"activation": "swish", "learnable": True, "num_parameters": 10}
    for module in (
        fusedact.MLP(6, 10, **learned),
        fusedact.MLP(6, 10, gated=True, recompute=True, **learned),
        fusedact.Linear(6, 10, **learned),
    ):
        traced = torch.jit.trace(module, x)
        more = torch.randn(7, 6)
        torch.testing.assert_close(traced(more), module(more))


@gates
@recomputes
def test_autocast_and_a_scaler(gated, recompute, own):
    module = fusedact.MLP(6, 10, activation="silu", gated=gated, recompute=recompute)
    x, leaves = torch.randn(33, 6), tensors_of(module)
    with torch.autocast("cpu", FP16):
        y, plain = module(x), composition(F.silu, gated)(x, *leaves)
    true = composition(F.silu, gated)(x.double(), *(t.double() for t in leaves))
    assert y.dtype == FP16
    grads, theirs, truth = (torch.autograd.grad(t.sum(), leaves) for t in (y, plain, true))
    for a, b, t in zip((y.detach(), *grads), (plain.detach(), *theirs), (true.detach(), *truth), strict=True):
        error, yardstick = ((u.double() - t).abs().max() for u in (a, b))
        assert error <= 2 * yardstick + torch.finfo(FP16).eps * t.abs().max()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**8), torch.optim.SGD(module.parameters(), 0.1)
    before = copy.deepcopy(module.state_dict())
    with torch.autocast("cpu", FP16):
        loss = module(x).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert all(not torch.equal(before[key], value) for key, value in module.state_dict().items())


# ----- what is kept


def bytes_kept(layers, x):
    def run():
        h = x
        for layer in layers:
            h = h + layer(h)
        return h

    parameters = {p.untyped_storage().data_ptr() for layer in layers for p in layer.parameters()}
    storages, result = kept_by(run)
    del result
    return sum(size for at, size in storages.items() if at not in parameters)


class Eager(nn.Module):
    """The MLP that everybody writes."""

    def __init__(self, dim, hidden, plain, gated):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gate = nn.Linear(dim, hidden) if gated else None
        self.plain = plain

    def forward(self, x):
        if self.gate is None:
            return self.down(self.plain(self.up(x)))
        return self.down(self.plain(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("name", ["silu", "gelu", "swish", "relu_sigmoid", "elu"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@gates
def test_twelve_keep_sixty_percent_of_eager(name, dtype, gated, own):
    activation, _, plain = ACTIVATIONS[name]
    x = torch.randn(64, 32, dtype=dtype, requires_grad=True)
    ours = [fusedact.MLP(32, 128, activation=activation, gated=gated, dtype=dtype) for _ in range(12)]
    again = [fusedact.MLP(32, 128, activation=activation, gated=gated, recompute=True, dtype=dtype) for _ in range(12)]
    theirs = [Eager(32, 128, plain, gated).to(dtype) for _ in range(12)]
    found, eager = bytes_kept(ours, x), bytes_kept(theirs, x)
    assert found <= 0.6 * eager
    assert bytes_kept(again, x) <= 0.15 * eager
    # x once, and what is in front of the activation.
    assert found == 12 * x.nbytes * (1 + 4 * (2 if gated else 1))


def test_relu_keeps_its_output_alone():
    # Large enough for autograd of its own.
    x = torch.randn(2**11, 32, requires_grad=True)
    assert bytes_kept([fusedact.MLP(32, 128, activation="relu")], x) == x.nbytes * 5


@pytest.mark.parametrize(("activation", "units"), [("silu", 2), ("relu", 2)])
def test_the_peak_of_a_step(activation, units):
    rows, hidden = 9 * 2**10, 2**10
    module, plain = fusedact.MLP(8, hidden, activation=activation), Eager(8, hidden, getattr(F, activation), False)
    x, g, size = torch.randn(rows, 8), torch.ones(rows, 8), rows * hidden * 4
    assert peak(lambda: module(x).backward(g)) < (units + 0.5) * size
    assert peak(lambda: plain(x).backward(g)) > (units + 0.8) * size


# ----- other people's layers and checkpoints


def test_names_are_those_of_llama():
    transformers_state = {f"{name}_proj.weight": torch.randn(8, 4) for name in ("gate", "up")}
    transformers_state["down_proj.weight"] = torch.randn(4, 8)
    module = fusedact.GatedMLP(4, 8)
    module.load_state_dict(transformers_state)
    x = torch.randn(3, 4)
    gate, up, down = (transformers_state[f"{n}_proj.weight"] for n in ("gate", "up", "down"))
    torch.testing.assert_close(module(x), F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down))
    assert sorted(fusedact.MLP(4, 8).state_dict()) == [
        f"{name}_proj.{t}" for name in ("down", "up") for t in ("bias", "weight")
    ]
    learned = fusedact.MLP(4, 8, activation="swish", learnable=True)
    assert set(learned.state_dict()) - set(fusedact.MLP(4, 8).state_dict()) == {"activation.beta"}


@gates
@pytest.mark.parametrize("rows", [5, 40000])
def test_copies_and_pickles(gated, rows):
    module = fusedact.MLP(4, 8, activation="swish", gated=gated, learnable=True)
    x = torch.randn(rows, 4)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(x), module(x))


class Adapter(nn.Linear):
    """A linear layer with something added."""

    def forward(self, x):
        return super().forward(x) + 1.0


def adapted(module, way):
    """Changes a layer of an MLP, and gives the function that its first layer is by now."""
    layer = module.up_proj
    if way == "hook":
        layer.register_forward_hook(lambda m, args, y: y + 1.0)
    elif way == "class":
        module.up_proj = Adapter(layer.in_features, layer.out_features)
        module.up_proj.load_state_dict(layer.state_dict())
    else:
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())


@pytest.mark.parametrize("way", ["hook", "class", "parametrization"])
@gates
@recomputes
@pytest.mark.parametrize("activation", ["silu", "module"])
def test_layers_that_do_more_are_called(way, gated, recompute, activation, own):
    given = nn.SiLU() if activation == "module" else activation
    module = fusedact.MLP(6, 10, activation=given, gated=gated, recompute=recompute)
    x = torch.randn(5, 6, requires_grad=True)
    adapted(module, way)
    up = module.up_proj(x)
    expected = module.down_proj(F.silu(module.gate_proj(x)) * up if gated else F.silu(up))
    got = module(x)
    torch.testing.assert_close(got, expected)
    leaves = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), rtol=1e-5, atol=1e-5
    )


def test_tensor_parallelism(own):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch has no gloo")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = torch.randn(5, 8, requires_grad=True)
        for gated in (False, True):
            module = fusedact.MLP(8, 16, activation="swish", gated=gated, learnable=True)
            expected = module(x)
            grads = torch.autograd.grad(expected.sum(), (x, module.activation.beta))
            plan = {"up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
            if gated:
                plan["gate_proj"] = ColwiseParallel()
            parallelize_module(module, mesh, plan)
            assert isinstance(module.up_proj.weight, DTensor)
            got = module(x)
            torch.testing.assert_close(got, expected)
            torch.testing.assert_close(torch.autograd.grad(got.sum(), (x, module.activation.beta)), grads)
        layer = fusedact.Linear(8, 16, activation="relu_sigmoid")
        expected = layer(x)
        parallelize_module(layer, mesh, ColwiseParallel())
        got = layer(x)
        torch.testing.assert_close(got, expected)
        got.sum().backward()
        assert isinstance(layer.weight.grad, DTensor)
    finally:
        distributed.destroy_process_group()


class Block(nn.Module):
    """Attention and an MLP."""

    def __init__(self, mlp):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = mlp

    def forward(self, x):
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


@pytest.mark.parametrize(("gated", "recompute"), [(False, False), (True, True)])
def test_a_transformer_trains_to_the_same_loss(gated, recompute, own):
    plain = nn.Sequential(Block(Eager(16, 48, F.silu, gated)), nn.Linear(16, 16))
    ours = copy.deepcopy(plain)
    for block in ours[:1]:
        replaced = block.mlp
        block.mlp = fusedact.MLP(16, 48, activation="silu", gated=gated, recompute=recompute)
        state = {f"{k.split('.')[0]}_proj.{k.split('.')[1]}": v for k, v in replaced.state_dict().items()}
        block.mlp.load_state_dict(state)
    x = torch.randn(8, 6, 16)
    target = x.cumsum(1).tanh()
    losses = []
    for model in (plain, ours):
        optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
        for _ in range(12):
            loss = F.mse_loss(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    first = F.mse_loss(torch.zeros_like(target), target).item()
    assert losses[0] < 0.7 * first
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


REFUSED = {
    "size": (lambda: fusedact.MLP(4.0, 8), TypeError, "fusedact.MLP: dim must be an int, got float"),
    "flag": (lambda: fusedact.MLP(4, 8, gated="yes"), TypeError, "gated must be a bool, got str"),
    "save": (lambda: fusedact.MLP(4, 8, gated=True, save="input"), ValueError, "save must be 'auto' where gated"),
    "count": (
        lambda: fusedact.GatedMLP(4, 8, activation="swish", learnable=True, num_parameters=4),
        ValueError,
        "fusedact.GatedMLP: num_parameters must be 1 or 8, got 4",
    ),
    "name": (lambda: fusedact.MLP(4, 8, activation="silo"), ValueError, "fusedact.MLP: .*silu"),
    "activation": (lambda: fusedact.MLP(4, 8, activation=F.silu), TypeError, "fusedact.MLP: activation must be a name"),
    "features": (lambda: fusedact.MLP(4, 8)(torch.ones(2, 5)), ValueError, "must have up_proj.weight's in_features"),
    "input": (lambda: fusedact.GatedMLP(4, 8)([1.0]), TypeError, "fusedact.GatedMLP: x must be a torch.Tensor"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_named(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call()


def test_rows_may_be_activated_too():
    module = fusedact.MLP(4, 8, activation=fusedact.Softmax(-1))
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), module.down_proj(F.softmax(module.up_proj(x), -1)))
