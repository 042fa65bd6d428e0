"""What every rank of a job runs: checks against one process, for tests/test_distributed.py.

    python -m torch.distributed.run --nproc-per-node 2 tests/distributed_job.py results.json

Rank 0 writes, by the name of a check, "" or what went wrong. A check that fails ends the job, since other ranks may
wait for what will not come.
"""

from __future__ import annotations

import copy
import datetime
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import functional as FF
from fusedact.integrations.distributed import ActivationParallel

C = 8
TABLE = {"function": torch.tanh, "low": -3.0, "high": 3.0, "num_breakpoints": 9}


@fusedact.activation
def bump(x, a=0.5):
    """A wave under a bell."""
    return torch.sin(x) * torch.exp(-a * x * x)


# Modules for C channels, which are dimension 1 of (N, C).
ACTIVATIONS = {
    "relu_sigmoid, a number": lambda: fusedact.ReLUSigmoid(0.1),
    "relu_sigmoid, learned": lambda: fusedact.ReLUSigmoid(0.1, True),
    "relu_sigmoid, per channel": lambda: fusedact.ReLUSigmoid(0.1, True, C),
    "prelu, per channel": lambda: fusedact.PReLU(C),
    "swish, bounded": lambda: fusedact.Swish(learnable=True, bounds=(0.5, None)),
    "xielu": fusedact.XIELU,
    "one's own, per channel": lambda: bump.module(learnable=True, num_parameters=C),
    "pwl": lambda: fusedact.PWL.from_function(**TABLE),
    "pwl, learned": lambda: fusedact.PWL.from_function(**TABLE, learnable=("values", "slopes", "breakpoints")),
    "pwl, per channel": lambda: fusedact.PWL.from_function(
        **TABLE, learnable=("values", "slopes", "breakpoints"), num_parameters=C
    ),
    "pwl, monotone": lambda: fusedact.PWL.from_function(**TABLE, learnable=True, monotone=True, num_parameters=C),
    "pwl, fixed per channel": lambda: fusedact.PWL(
        [-1.0, 0.0, 1.0], torch.linspace(-1, 1, 3 * C).reshape(C, 3).sort().values, right_slope=1.0
    ),
}

CHECKS = {}
ONLY = {}


def check(*worlds):
    """A check, for jobs of so many ranks."""

    def add(function):
        CHECKS[function.__name__] = function
        ONLY[function.__name__] = worlds
        return function

    return add


def model(name, channels=C):
    """The same on every rank, with parameters that are not those it began with."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, channels), ACTIVATIONS[name](), nn.Linear(channels, 4)).double()
    with torch.no_grad():
        for p in net[1].parameters():
            p.mul_(1 + 0.2 * torch.rand_like(p))
    return net


def data(rows=12):
    torch.manual_seed(2)
    return torch.randn(rows, 6, dtype=torch.float64)


def full(t):
    return t.full_tensor() if isinstance(t, DTensor) else t


def assert_trained(net, reference, found, expected):
    """Loss, gradients, and what steps of optimizers make of them, are those of one process."""
    torch.testing.assert_close(full(found), expected)
    pairs = list(zip(net.named_parameters(), reference.parameters(), strict=True))
    for (_, p), q in pairs:
        torch.testing.assert_close(full(p.grad), q.grad, rtol=1e-11, atol=1e-13)
    for make in (torch.optim.SGD, torch.optim.AdamW):
        norms = [nn.utils.clip_grad_norm_(m.parameters(), 0.1) for m in (net, reference)]
        torch.testing.assert_close(full(norms[0]), norms[1])
        for m in (net, reference):
            make(m.parameters(), lr=0.05).step()
    for (_, p), q in pairs:
        torch.testing.assert_close(full(p), q.detach() if q.requires_grad else q, rtol=1e-8, atol=1e-10)


def trained_alone(reference, x):
    loss = reference(x).square().mean()
    loss.backward()
    return loss.detach()


def halves(x):
    """This rank's rows."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def averaged(loss):
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


# ----- data parallel


@check(2, 4)
def data_parallel():
    for name in ACTIVATIONS:
        net = model(name)
        reference, x = copy.deepcopy(net), data()
        parallel = DistributedDataParallel(net)
        loss = parallel(halves(x)).square().mean()
        loss.backward()
        assert_trained(net, reference, averaged(loss), trained_alone(reference, x))


@check(2)
def data_parallel_accumulates():
    net = model("prelu, per channel")
    reference, x = copy.deepcopy(net), data(24)
    parallel = DistributedDataParallel(net)
    first, second = halves(x).chunk(2)
    with parallel.no_sync():
        (parallel(first).square().mean() / 2).backward()
    loss = parallel(second).square().mean() / 2
    loss.backward()
    trained_alone(reference, x)
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@check(2)
def data_parallel_with_checkpoints():
    for reentrant in (False, True):
        for name in ("relu_sigmoid, learned", "pwl, per channel"):
            net = model(name)
            reference, x = copy.deepcopy(net), data()

            class Saving(nn.Module):
                def __init__(self, inner, reentrant):
                    super().__init__()
                    self.inner, self.reentrant = inner, reentrant

                def forward(self, x):
                    y = self.inner[0](x)
                    y = checkpoint(self.inner[1], y, use_reentrant=self.reentrant)
                    return self.inner[2](y)

            parallel = DistributedDataParallel(Saving(net, reentrant))
            loss = parallel(halves(x)).square().mean()
            loss.backward()
            assert_trained(net, reference, averaged(loss), trained_alone(reference, x))


# ----- fully sharded


@check(2, 4)
def fully_sharded():
    for name in ACTIVATIONS:
        net = model(name)
        reference, x = copy.deepcopy(net), data()
        for layer in net:
            fully_shard(layer)
        fully_shard(net)
        mine = halves(x)
        y = net(mine)
        # What is gathered is the same, bit for bit.
        assert torch.equal(y, reference(mine))
        loss = y.square().mean()
        loss.backward()
        assert_trained(net, reference, averaged(loss), trained_alone(reference, x))


@check(2)
def fully_sharded_with_checkpoints():
    for reentrant in (False, True):
        net = model("relu_sigmoid, per channel")
        reference, x = copy.deepcopy(net), data()
        act = net[1].forward
        net[1].forward = lambda x, act=act, r=reentrant: checkpoint(act, x, use_reentrant=r)
        fully_shard(net)
        loss = net(halves(x)).square().mean()
        loss.backward()
        expected = trained_alone(reference, x)
        torch.testing.assert_close(averaged(loss), expected)
        for p, q in zip(net.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(full(p.grad), q.grad)


@check(2)
def fully_sharded_in_bfloat16():
    """Parameters are gathered in bfloat16, and gradients summed in float32."""
    net = model("prelu, per channel").float()
    reference = copy.deepcopy(net).bfloat16()
    x = data().float()
    fully_shard(net, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    y = net(halves(x))
    assert y.dtype == torch.bfloat16 and torch.equal(y, reference(halves(x).bfloat16()))
    y.float().square().mean().backward()
    assert full(net[1].weight.grad).dtype == torch.float32 and net[1].weight.grad.isfinite().all()


@check(2)
def states_are_saved_and_loaded():
    """A sharded model's state is that of one process, and loads into it, and back."""
    for name in ("relu_sigmoid, learned", "prelu, per channel", "pwl, monotone"):
        net = model(name)
        whole = copy.deepcopy(net.state_dict())
        fully_shard(net)
        state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            assert state.keys() == whole.keys()
            for key in whole:
                torch.testing.assert_close(state[key], whole[key])
        other = nn.Sequential(nn.Linear(6, C), ACTIVATIONS[name](), nn.Linear(C, 4)).double()
        fully_shard(other)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(other, state, options=options)
        for p, q in zip(other.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(full(p), full(q))


# ----- tensors that are split


def tensor_plan():
    return {"0": ColwiseParallel(), "1": ActivationParallel(), "2": RowwiseParallel()}


@check(2, 4)
def tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ACTIVATIONS:
        net = model(name)
        reference, x = copy.deepcopy(net), data()
        parallelize_module(net, mesh, tensor_plan())
        count = getattr(net[1], "num_parameters", 1)
        loss = net(x).square().mean()
        loss.backward()
        for key, p in net[1].named_parameters():
            rows = p.shape[0] == count > 1
            assert p.placements == (Shard(0) if rows else Replicate(),), (name, key)
            assert p.grad.placements in ((Shard(0),), (Partial(),), (Replicate(),)) if not rows else (Shard(0),)
            assert p.to_local().shape[0] == (C // dist.get_world_size() if rows else p.shape[0])
        assert_trained(net, reference, loss, trained_alone(reference, x))
        with torch.no_grad():
            torch.testing.assert_close(net(x), reference(x), rtol=1e-6, atol=1e-8)


@check(2)
def tensor_parallel_dtensors():
    """The same with DTensors between the layers, and where channels are not a multiple of the ranks."""
    mesh = init_device_mesh("cpu", (2,))
    for name in ("relu_sigmoid, learned", "one's own, per channel", "pwl, learned"):
        net = model(name)
        reference, x = copy.deepcopy(net), data()
        styles = (
            ColwiseParallel(use_local_output=False),
            ActivationParallel(use_local_output=False),
            RowwiseParallel(use_local_output=False),
        )
        parallelize_module(net, mesh, {str(i): style for i, style in enumerate(styles)})
        y = net(x)
        assert isinstance(y, DTensor)
        loss = y.square().mean()
        loss.backward()
        assert_trained(net, reference, loss.detach(), trained_alone(reference, x))
    act = fusedact.PReLU(5).double()
    whole, x = copy.deepcopy(act), data()[:, :5]
    parallelize_module(act, mesh, ActivationParallel())
    mine = x.chunk(2, 1)[dist.get_rank()]
    y = act(mine)
    assert torch.equal(y, whole(x).chunk(2, 1)[dist.get_rank()])
    y.sum().backward()
    whole(x).sum().backward()
    torch.testing.assert_close(full(act.weight.grad), whole.weight.grad)


@check(2, 4)
def sequence_parallel():
    """Rows of a sequence on each rank: parameters are whole, and their gradients sums over ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("relu_sigmoid, learned", "relu_sigmoid, per channel", "pwl, per channel", "pwl, fixed per channel"):
        torch.manual_seed(3)
        net = nn.Sequential(nn.LayerNorm(C), ACTIVATIONS[name]()).double()
        net[1].channel_dim = -1
        reference, x = copy.deepcopy(net), torch.randn(3, 8, C, dtype=torch.float64)
        parallelize_module(net, mesh, {"0": SequenceParallel(), "1": ActivationParallel(Shard(1))})
        mine = x.chunk(dist.get_world_size(), 1)[dist.get_rank()]
        y = net(mine)
        expected = reference(x)
        torch.testing.assert_close(y, expected.chunk(dist.get_world_size(), 1)[dist.get_rank()])
        y.square().sum().backward()
        expected.square().sum().backward()
        for p, q in zip(net[1].parameters(), reference[1].parameters(), strict=True):
            assert p.placements == (Replicate(),)
            torch.testing.assert_close(full(p.grad), q.grad)
    # Ring attention and the like split plain tensors: a number needs nothing.
    x = torch.randn(3, 8, C)
    mine = x.chunk(dist.get_world_size(), 1)[dist.get_rank()]
    whole = FF.relu_sigmoid(x, 0.1).chunk(dist.get_world_size(), 1)[dist.get_rank()]
    torch.testing.assert_close(FF.relu_sigmoid(mine, 0.1), whole)


@check(4)
def two_dimensions():
    """Fully sharded over two pairs, tensor parallel in each."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    for name in ("relu_sigmoid, learned", "relu_sigmoid, per channel", "prelu, per channel", "pwl, learned"):
        net = model(name)
        reference, x = copy.deepcopy(net), data()
        parallelize_module(net, mesh["tensor"], tensor_plan())
        fully_shard(net, mesh=mesh["data"])
        mine = x.chunk(2)[mesh.get_local_rank("data")]
        loss = net(mine).square().mean()
        loss.backward()
        assert_trained(net, reference, averaged(loss), trained_alone(reference, x))


# ----- DTensors without modules


def assert_placed(function, x, params, mesh, placements, channel_dim=1):
    """A call's value and gradients on DTensors are those of one process, placed as they should be."""
    leaves = [t.clone().requires_grad_() for t in (x, *params)]
    y = function(*leaves)
    expected = (y, *torch.autograd.grad(y.sin().sum(), leaves))
    split = [isinstance(p, Shard) and p.dim % x.dim() == channel_dim % x.dim() for p in placements]
    held = [distribute_tensor(x, mesh, placements).requires_grad_()]
    for t in params:
        where = [Shard(0) if s and t.numel() > 1 else Replicate() for s in split]
        held.append(distribute_tensor(t, mesh, where).requires_grad_())
    y = function(*held)
    found = (y, *torch.autograd.grad(y.sin().sum(), held))
    assert list(y.placements) == list(placements) and list(found[1].placements) == list(placements)
    for t, grad in zip(params, found[2:], strict=True):
        wanted = [
            Shard(0) if s and t.numel() > 1 else Partial() if isinstance(p, Shard) else Replicate()
            for s, p in zip(split, placements, strict=True)
        ]
        assert list(grad.placements) == wanted
    # A vector instruction and its scalar twin, which does the end of a shard, may differ in the last bit.
    torch.testing.assert_close([full(t) for t in found[:2]], list(expected[:2]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close([full(t) for t in found[2:]], list(expected[2:]))


@check(2, 4)
def dtensors():
    """Every activation, its parameters learned, in every layout; sizes are no multiples of the ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in fusedact.names("elementwise"):
        spec = getattr(FF, name).spec
        x = 2 * torch.randn(7, C, 3)
        for count in (1, C):
            start = {p.name: 0.25 if p.default is None else p.default for p in spec.parameters}
            names = [p.name for p in spec.learnable]
            params = [start[n] + 0.1 * torch.rand(count) for n in names]

            def function(x, *params, name=name, names=names, start=start):
                return getattr(FF, name)(x, **{**start, **dict(zip(names, params, strict=True))})

            for placement in (Replicate(), Shard(0), Shard(1), Shard(2)):
                assert_placed(function, x, params, mesh, [placement])
            if not params:
                break


@check(4)
def dtensors_on_two_dimensions():
    mesh = init_device_mesh("cpu", (2, 2))
    x, p = torch.randn(6, C, 5), torch.rand(C)
    kinds = (Replicate(), Shard(0), Shard(1), Shard(2))
    for first in kinds:
        for second in kinds:
            for params in ([p], [p[:1].clone()]):
                assert_placed(FF.swish, x, params, mesh, [first, second])


@check(2)
def dtensors_of_other_kinds():
    mesh, close = init_device_mesh("cpu", (2,)), torch.testing.assert_close
    rank = dist.get_rank()
    x, p = torch.randn(6, C), torch.rand(C)
    # Parts of a sum are summed first.
    parts = DTensor.from_local(x * (1 if rank else 2), mesh, [Partial()], run_check=False)
    close(full(FF.relu_sigmoid(parts)), FF.relu_sigmoid(3 * x))
    # Parameters go where the input is.
    y = FF.swish(distribute_tensor(x, mesh, [Shard(0)]), distribute_tensor(p, mesh, [Shard(0)]))
    assert y.placements == (Shard(0),)
    close(full(y), FF.swish(x, p))
    leaf = distribute_tensor(p, mesh, [Shard(0)]).requires_grad_()
    FF.swish(distribute_tensor(x, mesh, [Shard(0)]), leaf).sum().backward()
    q = p.clone().requires_grad_()
    FF.swish(x, q).sum().backward()
    assert leaf.grad.placements == (Shard(0),)
    close(full(leaf.grad), q.grad)
    # A plain tensor that needs no gradient is the same on every rank.
    close(full(FF.swish(distribute_tensor(x, mesh, [Shard(1)]), p)), FF.swish(x, p))
    # Transposed, in place, with policies, by a path that says so.
    sharded = distribute_tensor(x, mesh, [Shard(0)])
    close(full(FF.relu_sigmoid(sharded.t(), 0.1)), FF.relu_sigmoid(x.t(), 0.1))
    assert FF.relu_sigmoid(sharded.t(), 0.1).stride() == x.t().stride()
    given = sharded.clone()
    assert FF.mish(given, inplace=True) is given
    close(full(given), FF.mish(x))
    leaf = sharded.clone().requires_grad_()
    FF.elu(leaf * 2, inplace=True, save="output").sum().backward()
    whole = x.clone().requires_grad_()
    FF.elu(whole * 2, save="output").sum().backward()
    close(full(leaf.grad), whole.grad)
    path = fusedact.explain("mish", sharded)
    assert path.kind == "shards" and "DTensor" in path.reason, path
    # A rank without a shard.
    few = torch.randn(1, 5)
    close(full(FF.mish(distribute_tensor(few, mesh, [Shard(0)]))), FF.mish(few))


@check(2)
def dtensors_of_gates_and_biases():
    mesh = init_device_mesh("cpu", (2,))
    x, bias = torch.randn(6, C), torch.randn(C)
    # PyTorch has no rule for the last three.
    for name in ("silu", "mish", "relu6", "hardsigmoid", "logsigmoid"):
        calls = {
            "gated": lambda x, b, name=name: FF.gated(x, 2 * x, name),
            "packed": lambda x, b, name=name: FF.packed_glu(x, name, layout="value_gate"),
            "biased": lambda x, b, name=name: FF.bias_act(x, b, name),
        }
        for kind, call in calls.items():
            leaf = x.clone().requires_grad_()
            y = call(leaf, bias)
            expected = (y, *torch.autograd.grad(y.sin().sum(), leaf))
            held = distribute_tensor(x, mesh, [Shard(0)]).requires_grad_()
            y = call(held, distribute_tensor(bias, mesh, [Replicate()]))
            found = (y, *torch.autograd.grad(y.sin().sum(), held))
            torch.testing.assert_close(
                [full(t) for t in found], list(expected), msg=lambda m, kind=kind: f"{kind}: {m}"
            )


@check(2)
def dtensors_of_higher_order():
    mesh = init_device_mesh("cpu", (2,))
    x, p = torch.randn(6, C, dtype=torch.float64), torch.rand(C, dtype=torch.float64)

    def second(x, p):
        gx, gp = torch.autograd.grad(FF.swish(x, p).sin().sum(), (x, p), create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gp.square().sum(), (x, p))

    expected = second(x.clone().requires_grad_(), p.clone().requires_grad_())
    for ours, beside in (([Shard(0)], [Replicate()]), ([Shard(1)], [Shard(0)]), ([Replicate()], [Replicate()])):
        leaves = (distribute_tensor(t, mesh, where).requires_grad_() for t, where in ((x, ours), (p, beside)))
        torch.testing.assert_close([full(t) for t in second(*leaves)], list(expected))


@check(2)
def dtensors_of_learned_tables():
    mesh = init_device_mesh("cpu", (2,))
    x = 2 * torch.randn(6, C, dtype=torch.float64)
    b = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for rows in (False, True):
        v = torch.randn(*([C] if rows else []), 5, dtype=torch.float64)
        slopes = torch.rand(C if rows else 1, dtype=torch.float64)
        for dim in (0, 1):
            leaves = [t.clone().requires_grad_() for t in (x, v, slopes)]
            y = FF.pwl(leaves[0], b, leaves[1], leaves[2], 1.0)
            expected = (y, *torch.autograd.grad(y.sin().sum(), leaves))
            where = [Shard(0) if rows and dim == 1 else Replicate()]
            held = [distribute_tensor(x, mesh, [Shard(dim)]), *(distribute_tensor(t, mesh, where) for t in (v, slopes))]
            held = [t.requires_grad_() for t in held]
            y = FF.pwl(held[0], b, held[1], held[2], 1.0)
            found = (y, *torch.autograd.grad(y.sin().sum(), held))
            assert list(found[2].placements) == ([Shard(0)] if rows and dim == 1 else [Partial()])
            torch.testing.assert_close([full(t) for t in found], list(expected))


def refused(error, words, call):
    try:
        call()
    except error as raised:
        assert words in str(raised), str(raised)
    else:
        raise AssertionError(f"nothing refused: {words}")


@check(2)
def errors():
    mesh = init_device_mesh("cpu", (2,))
    x, p = torch.randn(6, C), torch.rand(C)
    held, weight = distribute_tensor(x, mesh, [Shard(0)]), distribute_tensor(p, mesh, [Replicate()])
    refused(
        TypeError,
        "fusedact.functional.prelu: weight is a DTensor, but input is a plain tensor",
        lambda: FF.prelu(x, weight),
    )
    refused(
        TypeError,
        "fusedact.functional.prelu: weight is a plain tensor, whose gradient would be that of this rank's shard alone",
        lambda: FF.prelu(held, p.clone().requires_grad_()),
    )
    other = distribute_tensor(p, init_device_mesh("cpu", (2, 1)), [Replicate(), Replicate()])
    refused(ValueError, "fusedact.functional.prelu: weight and input lie on two meshes", lambda: FF.prelu(held, other))
    tables = distribute_tensor(torch.rand(5), mesh, [Replicate()]).requires_grad_()
    refused(
        TypeError,
        "values is a DTensor, but x is a plain tensor",
        lambda: FF.pwl(x, [-2.0, -1.0, 0.0, 1.0, 2.0], tables),
    )
    owner = "fusedact.integrations.distributed.ActivationParallel: "
    refused(TypeError, owner + "layout must be None", lambda: ActivationParallel(Partial()))
    refused(
        TypeError,
        owner + "the module must be an elementwise activation of fusedact, got PReLU",
        lambda: parallelize_module(nn.PReLU(), mesh, ActivationParallel()),
    )
    act = parallelize_module(fusedact.PReLU(C), mesh, ActivationParallel())
    refused(ValueError, owner + f"this rank has {C // 2} entries of weight", lambda: act(x))

    refused(ValueError, owner + "the input of shape (8,) has no dimension 1", lambda: act(p))
    act = parallelize_module(fusedact.PReLU(C), mesh, ActivationParallel(Shard(-1)))
    refused(ValueError, owner + "layout=Shard(dim=-1) splits the channels; leave it out", lambda: act(x))


@check(2)
def collectives():
    """What docs/scaling.md says is sent."""
    root = Path(__file__).parent.parent
    found = importlib.util.spec_from_file_location("scaling", root / "bench" / "scaling.py")
    scaling = importlib.util.module_from_spec(found)
    found.loader.exec_module(scaling)
    mesh = init_device_mesh("cpu", (2,))
    table = (root / "docs" / "scaling.md").read_text()
    for name, layout in scaling.LAYOUTS.items():
        row = scaling.collectives(torch.randn(6, C), torch.rand(C), mesh, layout)
        assert f"| {name} | {' | '.join(row)} |" in table, row


@check(2)
def prepared_inputs():
    """PrepareModuleInput hands DTensors to an activation of numbers, which returns them."""
    mesh = init_device_mesh("cpu", (2,))
    act = fusedact.Mish()
    plan = PrepareModuleInput(input_layouts=Shard(0), desired_input_layouts=Replicate())
    parallelize_module(act, mesh, plan)
    x = torch.randn(6, C)
    y = act(x.chunk(2)[dist.get_rank()])
    assert y.placements == (Replicate(),)
    torch.testing.assert_close(full(y), FF.mish(x))


def main() -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    found = {name: "not reached" for name, worlds in ONLY.items() if dist.get_world_size() in worlds}
    chosen = sys.argv[2:] or list(found)
    for name in chosen:
        torch.manual_seed(0)
        try:
            CHECKS[name]()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
            sys.stderr.write(f"rank {dist.get_rank()}, {name}:\n{found[name]}\n")
        if found[name] or dist.get_rank() == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))
        if found[name]:
            os._exit(1)
    dist.barrier()
    # Gloo's threads may outlive the interpreter and abort it.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
