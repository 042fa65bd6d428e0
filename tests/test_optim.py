"""The ready optimizers against torch.optim's, and torch.optim's protocol."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from optimizer_cases import PAIRS, assert_close, closeness, copies, give_gradients, parameters

import fusedact
from fusedact import optim
from fusedact.optim import ready_rules

pairs = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture(params=["twin", "rule"])
def way(request, monkeypatch):
    """PyTorch's own fused step, or the rule in pieces."""
    if request.param == "rule":
        for cls in (optim.SGD, optim.Adam, optim.ScaledSGD):
            monkeypatch.setattr(cls, "_twin", lambda self, group: None)
    return request.param


def stepped(name, dtype=torch.float32, steps=100, **changes):
    """Both optimizers' parameters after so many steps, and the optimizers."""
    cls, torch_cls, settings = PAIRS[name]
    ours, theirs = (parameters(dtype) for _ in range(2))
    mine, other = cls(ours, **settings, **changes), torch_cls(theirs, **settings, **changes)
    for step in range(steps):
        give_gradients(step, ours, theirs)
        mine.step()
        other.step()
    return ours, theirs, mine, other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pairs
def test_as_torch(name, dtype, way):
    ours, theirs, _, _ = stepped(name, dtype)
    assert_close(ours, theirs, **closeness(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sgd, momentum", "adamw"])
def test_halves_round_once_a_step(name, dtype):
    """As torch's step of float32 copies that are rounded after each."""
    cls, torch_cls, settings = PAIRS[name]
    ours = parameters(dtype)
    wide = copies(ours, torch.float32)
    mine, other = cls(ours, **settings), torch_cls(wide, **settings)
    for step in range(20):
        give_gradients(step, ours, wide)
        mine.step()
        other.step()
        for p in wide:
            p.data.copy_(p.detach().to(dtype))
        # Where two ways of rounding in float32 meet a tie, one unit; the next step begins alike.
        for p, q in zip(ours, wide, strict=True):
            torch.testing.assert_close(p.detach().float(), q.detach(), rtol=torch.finfo(dtype).eps, atol=1e-7)
            q.data.copy_(p.detach())
    assert all(t.dtype == torch.float32 for entry in mine.state.values() for t in entry.values())


@pairs
def test_groups_and_schedulers(name):
    cls, torch_cls, settings = PAIRS[name]
    lists, made = [], []
    for c in (cls, torch_cls):
        params = parameters()
        groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.003, "weight_decay": 0.05}]
        opt = c(groups, **settings)
        opt.add_param_group({"params": [late := torch.ones(5, requires_grad=True)], "lr": 0.02})
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.02, total_steps=40, cycle_momentum=False)
        lists.append([*params, late])
        made.append((opt, schedule))
    for step in range(30):
        give_gradients(step, *lists)
        for opt, schedule in made:
            opt.step()
            schedule.step()
    assert_close(*lists, **closeness(torch.float32))
    assert made[0][0].param_groups[1]["lr"] == pytest.approx(made[1][0].param_groups[1]["lr"])


@pytest.mark.parametrize("direction", ["from torch", "to torch", "to itself"])
@pairs
def test_state_dicts_go_both_ways(name, direction):
    cls, torch_cls, settings = PAIRS[name]
    ours, theirs, mine, other = stepped(name, steps=7)
    source, kind, params = (other, cls, theirs) if direction == "from torch" else (mine, torch_cls, ours)
    kind = cls if direction == "to itself" else kind
    went_on, resumed = params, copies(params)
    following = kind(resumed, lr=0.5)
    # Through a file, as it is meant.
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    following.load_state_dict(torch.load(file))
    assert following.param_groups[0]["lr"] == settings["lr"]
    for step in range(7, 20):
        give_gradients(step, went_on, resumed)
        source.step()
        following.step()
    if direction == "to itself":
        assert_close(resumed, went_on, rtol=0, atol=0)
    else:
        assert_close(resumed, went_on, **closeness(torch.float32))


def test_states_of_halves_are_loaded_exactly():
    params = parameters(torch.bfloat16)
    opt = optim.Adam(params, lr=0.01)
    give_gradients(0, params)
    opt.step()
    resumed = copies(params)
    following = optim.Adam(resumed, lr=0.01)
    following.load_state_dict(opt.state_dict())
    for p, q in zip(params, resumed, strict=True):
        for name, t in opt.state[p].items():
            assert following.state[q][name].dtype == torch.float32
            assert following.state[q][name].equal(t) and following.state[q][name] is not t
    for step in range(1, 4):
        give_gradients(step, params, resumed)
        opt.step()
        following.step()
    assert_close(resumed, params, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alike(how):
    model = torch.nn.Linear(5, 3)
    opt = optim.Adam(model.parameters(), lr=0.01)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    pair = (model, opt)
    other, following = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    opt.step()
    following.step()
    assert_close(list(other.parameters()), list(model.parameters()), rtol=0, atol=0)
    assert following.param_groups[0]["params"][0] is other.weight


def test_each_parameter_has_its_own_count():
    """One that got no gradient for a while is corrected for its own steps."""
    ours, theirs = ([torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)] for _ in range(2))
    mine, other = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for step in range(9):
        for params in (ours, theirs):
            params[0].grad = torch.full((3,), 0.5 + step)
            params[1].grad = torch.full((2,), 1.5 - step) if step in (3, 4, 7) else None
        mine.step()
        other.step()
    assert_close(ours, theirs, **closeness(torch.float32))
    assert [mine.state[p]["step"].item() for p in ours] == [9, 3]


def test_memory_and_parameters_may_change_between_steps():
    ours, theirs = (parameters() for _ in range(2))
    mine, other = optim.AdamW(ours, lr=0.01), torch.optim.AdamW(theirs, lr=0.01)
    for step in range(6):
        give_gradients(step, ours, theirs)
        mine.step()
        other.step()
        if step == 2:
            for params in (ours, theirs):
                params[0].data = params[0].data.clone() * 2
            mine.state[ours[4]]["exp_avg"] = torch.zeros_like(ours[4])
            other.state[theirs[4]]["exp_avg"] = torch.zeros_like(theirs[4])
        if step == 3:
            for opt, params in ((mine, ours), (other, theirs)):
                opt.state.pop(params[4])
        if step == 4:
            mine.state.clear()
            other.state.clear()
    assert_close(ours, theirs, **closeness(torch.float32))


def test_settings_are_numbers_or_tensors():
    lists, made = [], []
    for as_tensors in (False, True):
        params = parameters()
        one = torch.tensor if as_tensors else float
        opt = optim.AdamW(params, lr=one(0.01), betas=(one(0.9), one(0.99)), weight_decay=one(0.1))
        lists.append(params)
        made.append(opt)
    traced = len(ready_rules.adam._programs)
    for step in range(5):
        give_gradients(step, *lists)
        made[0].param_groups[0]["lr"] = 0.01 / (step + 1)
        made[1].param_groups[0]["lr"].fill_(0.01 / (step + 1))
        for opt in made:
            opt.step()
    assert_close(*lists, rtol=1e-6, atol=1e-7)
    assert len(ready_rules.adam._programs) - traced <= 1


# ----- calls


def test_a_call_is_a_step():
    weight = torch.ones(2, requires_grad=True)
    opt = optim.SGD([weight], lr=0.5)
    weight.sum().backward()
    assert opt() is None
    assert weight.tolist() == [0.5, 0.5]
    opt.zero_grad()
    assert weight.grad is None

    def closure():
        opt.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 1.0
    assert opt(closure).item() == 0.0
    assert weight.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("cls", [optim.SGD, optim.ClassicMomentum])
def test_a_call_with_gradients(cls):
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    opt = cls([a, b], lr=0.5)
    a.grad = torch.full((2,), 100.0)
    opt([b], [torch.ones(3)])
    opt(a, torch.ones(2))
    opt([a, b], [None, torch.zeros(3)])
    assert a.tolist() == [0.5, 0.5]
    # What the parameters hold was neither used nor lost.
    assert a.grad.tolist() == [100.0, 100.0] and b.grad is None


def test_own_step():
    class Signs(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p -= group["lr"] * p.grad.sign()

    weight = torch.ones(2, requires_grad=True)
    opt = Signs([weight], lr=0.5)
    opt([weight], [torch.tensor([3.0, -2.0])])
    assert weight.tolist() == [0.5, 1.5]
    (weight * torch.tensor([1.0, -1.0])).sum().backward()
    opt()
    assert weight.tolist() == [0.0, 2.0]
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["lr"] == 0.25
    with pytest.raises(NotImplementedError, match="Optimizer must have a step"):
        optim.Optimizer([weight], {}).step()


@pytest.mark.parametrize("scale", [4.0, 2.0**40])
def test_gradients_scaled_by_amp(scale):
    """A step with an overflow is none, and counts for nothing."""
    ours, theirs = ([torch.ones(3, requires_grad=True)] for _ in range(2))
    made = [(optim.Adam(ours, lr=0.1), ours), (torch.optim.Adam(theirs, lr=0.1), theirs)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for _ in made]
    for step in range(4):
        for (opt, (p,)), scaler in zip(made, scalers, strict=True):
            opt.zero_grad()
            x = torch.tensor([1.0, 2.0, math.inf if step == 1 else 3.0])
            scaler.scale((p * x).sum()).backward()
            if step == 2:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
    assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert made[0][0].state[ours[0]]["step"].item() == 3
    assert scalers[0].get_scale() == scalers[1].get_scale()


def test_a_scale_alone():
    p = torch.ones(2, requires_grad=True)
    opt = optim.SGD([p], lr=1.0)
    opt.grad_scale = torch.tensor(4.0)
    p.grad = torch.full((2,), 2.0)
    opt.step()
    assert p.tolist() == [0.5, 0.5] and p.grad.tolist() == [2.0, 2.0]


def test_hooks_and_named_parameters():
    model = torch.nn.Linear(2, 2)
    opt = optim.SGD(model.named_parameters(), lr=0.1)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))
    model(torch.ones(1, 2)).sum().backward()
    opt()
    assert seen == ["before", "after"]
    assert "SGD" in repr(opt) and "nesterov: False" in repr(opt)


def test_nan_and_infinite_gradients(way):
    lists = [[torch.ones(4, requires_grad=True)] for _ in range(2)]
    grad = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    made = [c(p, lr=0.1) for c, p in zip((optim.Adam, torch.optim.Adam), lists, strict=True)]
    for _ in range(2):
        for opt, (p,) in zip(made, lists, strict=True):
            p.grad = grad.clone()
            opt.step()
    torch.testing.assert_close(*[p.detach() for (p,) in lists], equal_nan=True)


def test_layouts_other_than_the_parameters(way):
    lists = []
    for cls in (optim.Adam, torch.optim.Adam):
        whole = torch.arange(24000.0).reshape(200, 120) / 24000
        params = [
            whole.clone()[:, ::2].requires_grad_(),
            whole.clone().t().requires_grad_(),
            whole.clone().requires_grad_(),
        ]
        opt = cls(params, lr=0.1, **({} if cls is optim.Adam else {"foreach": False}))
        for step in range(3):
            for p in params:
                p.grad = (torch.arange(p.numel()).reshape(p.shape[::-1]) % 7 - 3.0 + step).t()
            opt.step()
        lists.append(params)
    assert_close(*lists, **closeness(torch.float32))


# ----- errors


def refused(error, match, function):
    with pytest.raises(error, match=match):
        function()


def test_wrong_settings():
    p = [torch.ones(2, requires_grad=True)]
    refused(ValueError, r"optim\.SGD: lr must not be negative, got -1", lambda: optim.SGD(p, lr=-1.0))
    refused(ValueError, "nesterov needs a momentum", lambda: optim.SGD(p, nesterov=True))
    refused(TypeError, "nesterov must be True or False, got int", lambda: optim.SGD(p, momentum=0.9, nesterov=1))
    refused(TypeError, r"optim\.Adam: lr must be a number or a tensor", lambda: optim.Adam(p, lr="fast"))
    refused(TypeError, "betas must be two numbers", lambda: optim.Adam(p, betas=0.9))
    refused(ValueError, r"betas\[1\] must be at least 0 and below 1, got 1", lambda: optim.Adam(p, betas=(0.9, 1.0)))
    refused(ValueError, r"tensor of one element, got float32 of shape \(2,\)", lambda: optim.SGD(p, lr=torch.ones(2)))
    refused(TypeError, "maximize must be True or False", lambda: optim.AdamW(p, maximize=None))
    refused(TypeError, "lr must be a number", lambda: optim.SGD([{"params": p, "lr": None}]))
    refused(TypeError, "betas must be two numbers", lambda: optim.Adam([{"params": p, "betas": 0.9}]))
    differentiable = {"params": p, "differentiable": True}
    refused(ValueError, "differentiable=True is not served", lambda: optim.Adam([differentiable]))


def test_wrong_gradients():
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    refused(
        TypeError,
        r"SGD: gradients must be dense, got one of layout torch\.sparse_coo",
        optim.SGD(table.parameters()).step,
    )
    p = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    p.grad = torch.ones_like(p)
    opt = optim.Adam([p])
    refused(TypeError, "Adam: parameters must have dtype .* got complex64", opt.step)
    # One that turns sparse later.
    dense = torch.ones(3, requires_grad=True)
    opt = optim.Adam([dense], lr=0.1)
    opt([dense], [torch.ones(3)])
    before = dense.detach().clone()
    dense.grad = torch.ones(3).to_sparse()
    refused(TypeError, "gradients must be dense", opt.step)
    assert dense.equal(before)


def test_wrong_calls():
    p, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    opt = optim.SGD([p], lr=0.1)
    refused(TypeError, r"SGD\(\): parameters and gradients go together", lambda: opt([p]))
    refused(ValueError, "got 1 parameters and 2 gradients", lambda: opt([p], [p, p]))
    refused(ValueError, r"a tensor of shape \(2,\) is no parameter of this optimizer", lambda: opt([other], [p]))
    refused(ValueError, "given twice", lambda: opt([p, p], [other, other]))
    refused(TypeError, "expected tensors, got Tensor and int", lambda: opt([p], [3]))
    assert p.grad is None


def test_a_state_of_another_shape():
    p = torch.ones(2, requires_grad=True)
    opt = optim.ClassicMomentum([p], lr=0.1)
    opt.state[p]["velocity"] = torch.zeros(3)
    p.grad = torch.ones(2)
    refused(ValueError, r"the state velocity has shape \(3,\), and its parameter \(2,\)", opt.step)


def test_backends():
    p = torch.ones(2, requires_grad=True)
    opt = optim.Adam([p], lr=0.1)
    with fusedact.backend("eager"):
        opt([p], [torch.ones(2)])
    torch.testing.assert_close(p.detach(), torch.full((2,), 0.9))
    with fusedact.backend("triton"), pytest.raises(RuntimeError, match="the triton backend is forced, but no kernel"):
        opt([p], [torch.ones(2)])
