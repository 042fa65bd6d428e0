"""The optimizers' template, against torch.optim and the CPU path."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from optimizer_cases import (
    PAIRS,
    assert_close,
    copies,
    drawn_rule,
    drawn_tensors,
    give_gradients,
    judged_step,
    parameters,
    random_rules,
)

import fusedact
from fusedact import compat, optim
from fusedact.kernels import launch_optimizer
from fusedact.optim import update_rule

SHAPES = ((3, 4), (), (0,), (1,), (130, 7), (4096,), (4097,), (9001,))


@update_rule(state=("average",))
def lion(param, grad, average, *, lr=1e-2, beta1=0.9, beta2=0.99, weight_decay=0.1):
    step = torch.sign(beta1 * average + (1 - beta1) * grad)
    return param - lr * (step + weight_decay * param), beta2 * average + (1 - beta2) * grad


def tolerance(dtype):
    if dtype == torch.float32:
        return {"rtol": 2e-5, "atol": 2e-6}
    # The interpreter cuts bits off instead of rounding to bfloat16: a unit in each of the steps.
    return {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-3}


@pytest.mark.parametrize("name", PAIRS)
def test_as_torch(name, device, launches):
    cls, torch_cls, settings = PAIRS[name]
    ours, theirs = parameters(shapes=SHAPES, device=device), parameters(shapes=SHAPES)
    mine, other = cls(ours, **settings), torch_cls(theirs, **settings)
    for step in range(4):
        give_gradients(step, ours, theirs)
        launches.clear()
        mine.step()
        other.step()
        # One launch for all; those in their first step after others are on their own.
        assert set(launches) == {"optimizer_kernel"} and len(launches) <= 2
    assert_close(ours, theirs, **tolerance(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_with_states_in_float32(dtype, device):
    ours, theirs = parameters(dtype, SHAPES, device), parameters(dtype, SHAPES)
    mine, other = (lion.optimizer(p) for p in (ours, theirs))
    for step in range(3):
        give_gradients(step, ours, theirs)
        mine.step()
        with fusedact.backend("eager"):
            other.step()
    assert_close(ours, theirs, **tolerance(dtype))
    for p, q in zip(ours, theirs, strict=True):
        if p in mine.state:
            assert mine.state[p]["average"].dtype == torch.float32
            torch.testing.assert_close(mine.state[p]["average"].cpu(), other.state[q]["average"], rtol=1e-5, atol=1e-6)


def test_dtypes_go_apart(device, launches):
    params = [
        torch.ones(100, device=device, dtype=d).requires_grad_() for d in (torch.float32, torch.float16) for _ in "ab"
    ]
    opt = lion.optimizer(params)
    opt(params, [torch.ones_like(p) for p in params])
    assert launches == ["optimizer_kernel"] * 2
    expected = 1 - 0.01 * 1.1
    assert all(p.detach().float().allclose(torch.tensor(expected), rtol=1e-3) for p in params)


def test_only_its_elements(device):
    """Nothing before, behind or between tensors is touched; parameters and gradients that are not aligned, too."""
    whole = torch.full((60000,), 7.0, device=device)
    places = [(8, 5000), (5010, 1), (5013, 4096), (12000, 12289), (30001, 9000)]
    params = [whole[at : at + n].fill_(1.0).requires_grad_() for at, n in places]
    grads = torch.full((60000,), 1.0, device=device)
    opt = optim.SGD(params, lr=0.5)
    opt(params, [grads[at + 1 : at + 1 + n] for at, n in places])
    inside = torch.zeros(60000, dtype=torch.bool)
    for at, n in places:
        inside[at : at + n] = True
    assert whole.detach().cpu()[inside].eq(0.5).all() and whole.detach().cpu()[~inside].eq(7.0).all()


def test_layouts(device):
    """Gaps, columns first, and gradients that lie otherwise."""
    lists = []
    for where, cls in ((device, optim.Adam), ("cpu", torch.optim.Adam)):
        base = torch.arange(2400.0).reshape(60, 40) / 2400
        gaps = base.clone().to(where)[:, ::2].requires_grad_()
        params = [gaps, base.clone().to(where).t().requires_grad_(), base.clone().to(where).requires_grad_()]
        opt = cls(params, lr=0.1)
        for step in range(3):
            for p in params:
                grad = (torch.arange(p.numel()).reshape(p.shape[::-1]) % 7 - 3.0 + step).t()
                p.grad = grad.to(where)
            opt.step()
        lists.append(params)
    assert_close(*lists, **tolerance(torch.float32))


def test_tables_follow_the_gradients(device, monkeypatch):
    """They are made once; where gradients move, their column alone is written."""
    made = []
    table = launch_optimizer.chunk_table
    monkeypatch.setattr(launch_optimizer, "chunk_table", lambda *a: made.append(1) or table(*a))
    p, q = torch.ones(5000, device=device).requires_grad_(), torch.ones(3, device=device).requires_grad_()
    opt = optim.SGD([p, q], lr=1.0)
    kept = []
    for step in range(1, 4):
        p.grad, q.grad = torch.full_like(p, step), torch.full_like(q, 10.0 * step)
        kept += [p.grad, q.grad]
        opt.step()
    assert p[0].item() == 1 - 6 and q[0].item() == 1 - 60
    assert len(made) == 1
    # A parameter that moves makes new ones.
    p.data = p.data.clone()
    opt.step()
    assert p[4999].item() == 1 - 9 and len(made) == 2


def test_numbers_in_tensors(device):
    """What a CUDA graph can replay: the count and the numbers are read from memory."""
    lists = []
    for tensors in (False, True):
        params = parameters(shapes=SHAPES[:5], device=device)
        lr = torch.tensor(0.01, device=device) if tensors else 0.01
        opt = optim.AdamW(params, lr=lr, weight_decay=0.1, capturable=tensors)
        for _ in range(3):
            give_gradients(0, params)
            opt.step()
            if tensors:
                lr.mul_(0.5)
            else:
                opt.param_groups[0]["lr"] *= 0.5
        lists.append(params)
        if tensors:
            count = opt.state[params[0]]["step"]
            assert count.device == params[0].device and count.item() == 3
    assert_close(*lists, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_amp(found, device):
    p = torch.ones(5000, device=device).requires_grad_()
    opt = optim.Adam([p], lr=0.1)
    opt([p], [torch.ones_like(p)])
    before = p.detach().clone()
    opt.grad_scale, opt.found_inf = torch.tensor(8.0, device=device), torch.tensor(found, device=device)
    opt([p], [torch.full_like(p, 8.0)])
    del opt.grad_scale, opt.found_inf
    if found:
        assert p.equal(before)
    else:
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.8), rtol=1e-5, atol=0)
    assert opt.state[p]["step"].item() == 2 - found
    # And on without them.
    opt([p], [torch.ones_like(p)])
    assert opt.state[p]["step"].item() == 3 - found
    opt.grad_scale = torch.tensor(2.0, device=device)
    opt([p], [torch.ones_like(p)])


def test_norms_are_taken_in_the_launch(device, launches, caplog, monkeypatch):
    caplog.set_level("INFO", logger="fusedact")
    params = parameters(shapes=SHAPES, device=device)
    give_gradients(0, params)
    expected = math.sqrt(sum(p.grad.double().square().sum().item() for p in params))
    before = copies(params)
    opt = fusedact.log_step(optim.SGD(params, lr=0.25))
    monkeypatch.setattr(torch.linalg, "vector_norm", None)
    found = []
    for _ in range(2):
        launches.clear()
        opt.step()
        assert set(launches) == {"optimizer_kernel"}
        found.append(caplog.records[-1].optimizer)
        for p, q in zip(params, before, strict=True):
            p.data.copy_(q)
    assert found[0]["gradient_norm"] == pytest.approx(expected, rel=1e-6)
    assert found[0]["update_norm"] == pytest.approx(0.25 * expected, rel=1e-5)
    # The same bits again.
    assert all(found[0][n] == found[1][n] for n in ("gradient_norm", "update_norm"))


def test_nan_and_infinities(device):
    grad = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    p, q = torch.ones(4, device=device).requires_grad_(), torch.ones(4, requires_grad=True)
    mine, other = optim.Adam([p], lr=0.1), torch.optim.Adam([q], lr=0.1)
    for _ in range(2):
        p.grad, q.grad = grad.to(device), grad.clone()
        mine.step()
        other.step()
    torch.testing.assert_close(p.detach().cpu(), q.detach(), equal_nan=True)


def test_what_kernels_do_not_serve(device):
    p = torch.ones(3, dtype=torch.float64, device=device).requires_grad_()
    with fusedact.backend("auto"):
        optim.Adam([p], lr=0.1)([p], [torch.ones_like(p)])
    torch.testing.assert_close(p.detach(), torch.full_like(p, 0.9), rtol=1e-7, atol=0)
    with fusedact.backend("triton"), pytest.raises(RuntimeError, match="the input is float64"):
        optim.Adam([p], lr=0.1)([p], [torch.ones_like(p)])


def test_a_captured_step_follows_its_numbers(device):
    if compat.interpreting:
        # What is captured are launches of compiled kernels; the interpreter's steps read the same memory each time.
        p = torch.ones(10).requires_grad_()
        lr = torch.tensor(0.5)
        opt = optim.SGD([p], lr=lr, capturable=True)
        p.grad = torch.ones(10)
        opt.step()
        lr.fill_(0.25)
        opt.step()
        assert p[0].item() == 0.25
        return
    p = torch.ones(10, device=device).requires_grad_()
    p.grad = torch.ones_like(p)
    lr = torch.tensor(0.5, device=device)
    opt = optim.Adam([p], lr=lr, capturable=True)
    for _ in range(2):
        opt.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    at = p.detach().clone()
    lr.fill_(0.25)
    graph.replay()
    torch.testing.assert_close(p.detach(), at - 0.25, rtol=1e-4, atol=0)
    assert opt.state[p]["step"].item() == 3


QUICK = {"derandomize": True, "deadline": None, "database": None}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], **QUICK)
@given(texts=random_rules())
def test_random_rules(texts, device):
    """As the plain function in float64, as far as float32 can tell."""
    rule = drawn_rule(texts)
    p, grad, states = drawn_tensors(torch.float32, device)
    expected, slack = judged_step(rule, p, grad, states, 2.0**-23)
    opt = rule.optimizer([p], lr=0.3)
    opt.state[p].update(zip(rule.states, states, strict=True))
    opt([p], [grad])
    for got, t, s in zip((p.detach(), *states), expected, slack, strict=True):
        got = got.cpu().double()
        assert ((got - t).abs() <= s)[s.isfinite()].all(), texts
