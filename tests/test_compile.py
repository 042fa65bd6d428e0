"""Compilers, exporters, tracers, modes, subclasses and autocast: what each sees, and that the result is the same."""

from __future__ import annotations

import pickle

import oracles
import pwl_oracle
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.cpu import pieces

names = pytest.mark.parametrize("name", fusedact.names("elementwise"))
# And of activations of one's own, those that stand for them.
every = pytest.mark.parametrize("name", (*oracles.NAMES, *oracles.CHOSEN))
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    # All modules share one `forward`, whose recompilations Dynamo counts.
    torch.compiler.reset()


def both(function, x):
    x = x.detach().requires_grad_()
    y = function(x)
    return y, torch.autograd.grad(y.sum(), x)[0]


WHOLE = [(n, d) for n in (*oracles.NAMES, *oracles.CHOSEN) for d in DTYPES]
# Of PyTorch's own operators, and of those whose formula is computed in float32 whatever the dtype, one.
WHOLE = [(n, d) for n, d in WHOLE if n in (*oracles.STRICT, *oracles.CHOSEN) or d == torch.bfloat16]


@pytest.mark.parametrize(("name", "dtype"), WHOLE, ids=str)
def test_compile_whole_graph(name, dtype):
    function, x = oracles.function(name), torch.randn(6, 7).to(dtype)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(both(compiled, x), both(function, x))


@every
def test_compile_modules(name):
    x = torch.randn(6, 7)
    made = [oracles.module(name)] + (
        [oracles.module(name, inplace=True)] if not oracles.spec(name).always_learned else []
    )
    for module in made:
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x.clone()), module(x.clone()))


@names
def test_compile_by_name(name):
    x = torch.randn(6, 7)
    required = {p.name: p.default for p in registry.get(name).parameters if p.required}
    for function in (lambda x: FF.activate(x, name, **required), fusedact.Activation(name, **oracles.required(name))):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(both(compiled, x), both(oracles.function(name), x))


@every
def test_compile_in_place_under_autograd(name):
    function, x = oracles.function(name), torch.randn(6, 7)
    compiled = torch.compile(lambda x: function(x * 2, inplace=True), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(both(compiled, x), both(lambda x: function(x * 2), x))


def test_compile_a_learnable_module():
    module, x = fusedact.ReLUSigmoid(0.2, learnable=True), torch.randn(6, 7)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).sum(), module.threshold), torch.autograd.grad(module(x).sum(), module.threshold)
    )


def test_compile_learnable_modules_of_ones_own():
    module, x = oracles.module("xielu_by_hand", learnable=True, num_parameters=7), torch.randn(6, 7)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        *(torch.autograd.grad(m(x).sum(), list(module.parameters())) for m in (compiled, module))
    )


@pytest.mark.parametrize("name", oracles.CHOSEN)
def test_export_of_ones_own_holds_plain_operators(name):
    module, x = oracles.module(name), torch.randn(3, 4)
    program = torch.export.export(module, (x,))
    called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert called and all(target.startswith("aten.") for target in called)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("name", oracles.CHOSEN)
def test_operators_of_ones_own(name):
    """A graph of operators holds them whole, on the path of large tensors, and gives what they give."""
    x = torch.randn(5)
    with fusedact.backend("eager"):
        graph = make_fx(lambda x: both(oracles.function(name), x)[1])(x)
        torch.testing.assert_close(graph(x), both(oracles.function(name), x)[1])
    assert any("fusedact" in str(n.target) for n in graph.graph.nodes)


# Of the catalog those with one parameter that are written by hand, and those that stand for the engine's.
LEARNED = ["relu_sigmoid", "elu", "prelu", "swish", "leaky_relu", "softshrink"]
learned = pytest.mark.parametrize("name", LEARNED)
bounded = pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=["free", "bounded"])
OUTSIDE = torch.tensor([1.5, 0.5, -0.5])


def outside(name, bounds):
    """A module with three channels, whose parameter is where an optimizer may have put it."""
    return leave(fusedact.Activation(name, learnable=True, num_parameters=3, bounds=bounds))


def leave(module):
    (p,) = module.parameters()
    p.data.copy_(OUTSIDE)
    return module


def with_parameter(module, x):
    x = x.detach().requires_grad_()
    y = module(x)
    return y, *torch.autograd.grad(y.square().sum(), (x, *module.parameters()))


def expected(name, bounds, x):
    x, p = x.detach().requires_grad_(), (OUTSIDE if bounds is None else OUTSIDE.clamp(*bounds)).clone().requires_grad_()
    y = getattr(FF, name)(x, p)
    return y, *torch.autograd.grad(y.square().sum(), (x, p))


@learned
@bounded
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_modules_with_channels(name, bounds, dynamic):
    module = outside(name, bounds)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (5, 9):
        x = torch.randn(n, 3, 2)
        leave(module)
        torch.testing.assert_close(with_parameter(compiled, x), expected(name, bounds, x))
        (p,) = module.parameters()
        assert torch.equal(p, OUTSIDE if bounds is None else OUTSIDE.clamp(*bounds))


@learned
@bounded
@pytest.mark.parametrize("strict", [False, True])
def test_export_modules_with_channels(name, bounds, strict):
    """Exporting changes no parameter, and the program keeps to the bounds."""
    module, x = outside(name, bounds), torch.randn(5, 3, 2)
    program = torch.export.export(module, (x,), strict=strict).module()
    (p,) = module.parameters()
    assert torch.equal(p, OUTSIDE)
    torch.testing.assert_close(program(x), expected(name, bounds, x)[0])


@learned
@bounded
def test_jit_trace_of_modules_with_channels(name, bounds):
    module, x = outside(name, bounds), torch.randn(5, 3, 2)
    traced = torch.jit.trace(module, (torch.randn(4, 3, 1),))
    leave(module)
    torch.testing.assert_close(traced(x), expected(name, bounds, x)[0])


@learned
@bounded
def test_fx_keeps_bounds(name, bounds):
    model, x = nn.Sequential(outside(name, bounds)), torch.randn(5, 3, 2)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), expected(name, bounds, x)[0])


@learned
@bounded
def test_fake_tensors_with_channels(name, bounds):
    with FakeTensorMode():
        module = fusedact.Activation(name, learnable=True, num_parameters=3, bounds=bounds)
        y, dx, dp = with_parameter(module, torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last))
        assert y.stride() == dx.stride() == (60, 1, 15, 3)
        assert dp.shape == (3,)
    module = fusedact.Activation(name, learnable=True, num_parameters=3, bounds=bounds, device="meta")
    y, dx, dp = with_parameter(module, torch.empty(2, 3, device="meta"))
    assert y.is_meta and dx.is_meta and dp.is_meta
    assert (y.shape, dx.shape, dp.shape) == ((2, 3), (2, 3), (3,))


@learned
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_with_channels(name, dtype):
    """The gradient of a parameter has its dtype; prelu computes in the lower precision, the others in x's."""
    x, module = torch.randn(6, 3).to(dtype), outside(name, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, dx, dp = with_parameter(module, x)
    assert (y.dtype, dx.dtype, dp.dtype) == (torch.bfloat16 if name == "prelu" else dtype, dtype, torch.float32)
    truth = expected(name, None, x.float())
    close = {"rtol": 3e-2, "atol": 3e-2} if torch.bfloat16 in (dtype, y.dtype) else {}
    torch.testing.assert_close((y.float(), dx.float(), dp), truth, **close)


def test_compile_with_dynamic_shapes_and_parameters():
    compiled = torch.compile(FF.relu_sigmoid, backend="aot_eager", fullgraph=True, dynamic=True)
    for n, t in ((5, 0.1), (9, 0.2), (17, 0.3)):
        x = torch.randn(n)
        torch.testing.assert_close(compiled(x, t), FF.relu_sigmoid(x, t))


def test_inductor():
    x = torch.randn(1000)
    compiled = torch.compile(FF.relu_sigmoid, fullgraph=True)
    torch.testing.assert_close(both(lambda x: compiled(x, 0.1), x), both(lambda x: FF.relu_sigmoid(x, 0.1), x))


@pytest.mark.parametrize("strict", [False, True])
def test_export_holds_plain_operators(strict):
    module, x = nn.Sequential(fusedact.ReLUSigmoid(0.1), fusedact.ELU(), fusedact.SELU()), torch.randn(3, 4)
    program = torch.export.export(module, (x,), strict=strict)
    called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert called
    assert all(target.startswith("aten.") for target in called)
    torch.testing.assert_close(program.module()(x), module(x))


def test_fx_keeps_the_call_whole():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = fusedact.ELU(0.5)

        def forward(self, x):
            return FF.relu_sigmoid(self.act(x), threshold=0.1)

    model, x = Model(), torch.randn(5)
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [FF.elu, FF.relu_sigmoid]
    torch.testing.assert_close(traced(x), model(x))


def test_fx_keeps_learnable_parameters():
    model, x = nn.Sequential(fusedact.ReLUSigmoid(0.1, learnable=True), fusedact.SELU()), torch.randn(5)
    traced = pickle.loads(pickle.dumps(torch.fx.symbolic_trace(model)))
    assert list(traced.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(both(traced, x), both(model, x))


@every
def test_jit_trace(name):
    x = torch.randn(5)
    traced = torch.jit.trace(oracles.function(name), (x,))
    other = torch.randn(5)
    torch.testing.assert_close(traced(other), oracles.function(name)(other))


def test_make_fx_sees_the_operators():
    graph = make_fx(lambda x: both(lambda x: FF.relu_sigmoid(x, 0.1), x)[1])(torch.randn(5))
    targets = [n.target for n in graph.graph.nodes]
    assert torch.ops.fusedact.relu_sigmoid.default in targets
    assert torch.ops.fusedact.relu_sigmoid_backward.default in targets


@every
def test_fake_and_meta_tensors(name):
    with FakeTensorMode():
        fake = oracles.function(name)(torch.empty(3, 4).t())
        assert (fake.shape, fake.stride()) == ((4, 3), (1, 4))
    assert oracles.function(name)(torch.empty(3, 4, device="meta")).is_meta


@pytest.mark.parametrize("name", [n for n in (*oracles.NAMES, *oracles.CHOSEN) if n != "prelu"])
@dtypes
def test_autocast_keeps_the_dtype(name, dtype):
    x = torch.randn(50).to(dtype)
    expected = both(oracles.function(name), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(both(oracles.function(name), x), expected)


@dtypes
@pytest.mark.parametrize("weight", [torch.tensor([0.25]), torch.tensor([0.25, -0.5, 1.0])], ids=["one", "three"])
def test_autocast_converts_as_it_does_for_prelu_of_torch(weight, dtype):
    results = []
    for function in (FF.prelu, nn.functional.prelu):
        x, w = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(dtype), weight.to(dtype)
        leaves = [x.requires_grad_(), w.requires_grad_()]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = function(*leaves)
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    torch.testing.assert_close(*results)


def test_selective_checkpointing_sees_the_operator():
    op, seen = torch.ops.fusedact.relu_sigmoid.default, []

    def policy(ctx, called, *args, **kwargs):
        seen.append((called, ctx.is_recompute))
        return CheckpointPolicy.MUST_SAVE if called is op else CheckpointPolicy.PREFER_RECOMPUTE

    x = torch.randn(40, requires_grad=True)
    y = checkpoint(
        lambda x: FF.relu_sigmoid(x * 2, 0.1) * 3,
        x,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, both(lambda x: FF.relu_sigmoid(x * 2, 0.1) * 3, x)[1])
    assert (op, False) in seen


@pytest.mark.parametrize("t", [0.1, torch.tensor([0.1])], ids=["number", "tensor"])
def test_selective_checkpointing_recomputes_nothing_that_it_saves(t, monkeypatch):
    calls, forward = [], pieces.forward
    monkeypatch.setattr(pieces, "forward", lambda *args: calls.append(args) or forward(*args))
    saved = {torch.ops.fusedact.relu_sigmoid.default, torch.ops.fusedact.relu_sigmoid.tensor}

    def policy(ctx, called, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if called in saved else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts():
        return create_selective_checkpoint_contexts(policy)

    x = torch.randn(40, requires_grad=True)
    t = t.clone().requires_grad_() if isinstance(t, torch.Tensor) else t
    y = checkpoint(lambda x: FF.relu_sigmoid(x * 2, t) * 3, x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    assert len(calls) == 1


def test_plain_checkpointing():
    x = torch.randn(40, requires_grad=True)
    y = checkpoint(FF.relu_sigmoid, x, 0.1, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], both(lambda x: FF.relu_sigmoid(x, 0.1), x)[1])


OPERATORS = {
    "relu_sigmoid.default": lambda x: (torch.ops.fusedact.relu_sigmoid.default, (x, 0.1)),
    "relu_sigmoid.tensor": lambda x: (torch.ops.fusedact.relu_sigmoid.tensor, (x, torch.tensor(0.1))),
    "relu_sigmoid_backward.default": lambda x: (torch.ops.fusedact.relu_sigmoid_backward.default, (x, x, 0.1)),
    "relu_sigmoid_backward.tensor": lambda x: (
        torch.ops.fusedact.relu_sigmoid_backward.tensor,
        (x, x, torch.tensor(0.1), [True, True]),
    ),
    "elu_backward.tensor": lambda x: (
        torch.ops.fusedact.elu_backward.tensor,
        (x, x, torch.tensor([0.5]), [False, True]),
    ),
    "elu.default": lambda x: (torch.ops.fusedact.elu.default, (x, 0.5)),
    "selu.default": lambda x: (torch.ops.fusedact.selu.default, (x,)),
}


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator, layout):
    x = torch.randn(4, 5) if layout == "contiguous" else torch.randn(5, 4).t()
    torch.library.opcheck(*OPERATORS[operator](x))


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=str)
def test_the_backward_operator_of_tensor_parameters(needed):
    x, g, t = torch.randn(40, requires_grad=True), torch.randn(40), torch.tensor([0.1], requires_grad=True)
    expected = torch.autograd.grad(FF.relu_sigmoid(x, t), (x, t), g)
    got = torch.ops.fusedact.relu_sigmoid_backward.tensor(g, x.detach(), t.detach(), list(needed))
    for grad, wanted, truth in zip(got, needed, expected, strict=True):
        torch.testing.assert_close(grad, truth if wanted else torch.empty(0))


@pytest.mark.parametrize("t", [0.1, torch.tensor([0.1])], ids=["number", "tensor"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_dispatch_modes_see_the_operators(t, create_graph):
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    def gradients():
        x = torch.linspace(-2, 2, 30, requires_grad=True)
        leaves = [x, t.clone().requires_grad_()] if isinstance(t, torch.Tensor) else [x]
        y = FF.relu_sigmoid(x, leaves[1] if len(leaves) == 2 else t)
        first = torch.autograd.grad(y.sum(), leaves, create_graph=create_graph)
        return (*first, *torch.autograd.grad(first[0].sum(), leaves)) if create_graph else first

    expected = gradients()
    with Mode():
        torch.testing.assert_close(gradients(), expected)
    overload = "tensor" if isinstance(t, torch.Tensor) else "default"
    assert {f"fusedact.relu_sigmoid.{overload}", f"fusedact.relu_sigmoid_backward.{overload}"} <= set(seen)


def test_function_modes_see_the_public_function():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        FF.relu_sigmoid(torch.randn(3), 0.1)
    assert FF.relu_sigmoid in seen


@every
def test_subclasses_come_back(name):
    class Tagged(torch.Tensor):
        pass

    x = torch.randn(5)
    y = oracles.function(name)(x.as_subclass(Tagged))
    assert type(y) is Tagged
    torch.testing.assert_close(y.as_subclass(torch.Tensor), oracles.function(name)(x))


@pytest.fixture
def mesh():
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@every
def test_sharded_tensors(name, mesh):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    x = torch.randn(4, 6)
    found = both(oracles.function(name), distribute_tensor(x, mesh, [Shard(0)]))
    assert all(isinstance(t, DTensor) and t.placements == (Shard(0),) for t in found)
    torch.testing.assert_close(tuple(t.full_tensor() for t in found), both(oracles.function(name), x))


def test_sharded_tensors_with_a_tensor_parameter(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    x, t = torch.randn(4, 6), torch.tensor([0.1], requires_grad=True)
    shared = distribute_tensor(t.detach(), mesh, [Replicate()]).requires_grad_()
    y = FF.relu_sigmoid(distribute_tensor(x, mesh, [Shard(0)]), shared)
    (dt,) = torch.autograd.grad(y.sum(), shared)
    torch.testing.assert_close(dt.full_tensor(), torch.autograd.grad(FF.relu_sigmoid(x, t).sum(), t)[0])


@learned
@pytest.mark.parametrize(("dim", "whole"), [(0, True), (1, False)], ids=["rows", "channels"])
def test_sharded_tensors_with_channels(name, dim, whole, mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    x, p = torch.randn(4, 3), OUTSIDE.clone()
    placement = Replicate() if whole else Shard(0)
    leaves = [
        distribute_tensor(x, mesh, [Shard(dim)]).requires_grad_(),
        distribute_tensor(p, mesh, [placement]).requires_grad_(),
    ]
    y = getattr(FF, name)(*leaves)
    found = (y, *torch.autograd.grad(y.square().sum(), leaves))
    torch.testing.assert_close(tuple(t.full_tensor() for t in found), expected(name, None, x))


def test_fully_sharded_modules_keep_to_their_bounds(mesh):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    module, x = outside("prelu", (0.0, 1.0)), torch.randn(4, 3)
    net = nn.Sequential(module)
    fsdp.fully_shard(net, mesh=mesh)
    y = net(x)
    y.square().sum().backward()
    torch.testing.assert_close((y, module.weight.grad.full_tensor()), expected("prelu", (0.0, 1.0), x)[::2])
    with torch.no_grad():
        module.weight.fill_(2.0)
    assert net.state_dict()["0.weight"].full_tensor().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("case", [name for name in pwl_oracle.CASES if name != "long"])
def test_piecewise_linear_subclasses(case, mesh):
    """They mix with no tables: comparisons with numbers give the same values and gradients."""
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    arguments = pwl_oracle.CASES[case][1]
    x = pwl_oracle.inputs32(arguments)
    found = both(lambda x: FF.pwl(x, *arguments), distribute_tensor(x, mesh, [Shard(0)]))
    assert all(isinstance(t, DTensor) and t.placements == (Shard(0),) for t in found)
    y, dx = (t.full_tensor() for t in found)
    oracles.assert_accurate(y, pwl_oracle.value(x, arguments), pwl_oracle.composition(x, arguments), x=x)
    torch.testing.assert_close(dx, pwl_oracle.slope(x, arguments).float(), rtol=0, atol=0)
