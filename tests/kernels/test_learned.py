"""Learned piecewise-linear functions through kernels: a launch for the table, one forward, one backward."""

from __future__ import annotations

import pytest
import torch
from learned_oracle import assert_sums, composition, gradients, inputs, made, rising
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import fusedact
from fusedact import functional as FF

LEARNED = ["rows_kernel", "forward_kernel", "sums_kernel"]
PER_CHANNEL = ["rows_kernel", "forward_strided_kernel", "sums_kernel"]
PRECISION = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("spacing", ["even", "uneven"])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("count", [3, 17])
def test_all_gradients(count, channels, spacing, dtype, device, launches):
    points = made(count, spacing, channels)
    x = inputs(points[0], (40, 3, 4)).to(dtype)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = gradients(FF.pwl, x.to(device), [t.float().to(device) for t in points], g.to(device))
    assert launches == (LEARNED if channels is None else PER_CHANNEL)
    y, dx, *sums = (t.cpu() for t in found)
    truth_y, truth_dx, *truth = gradients(composition, x.double(), points, g.double())
    torch.testing.assert_close(y.double(), truth_y, rtol=PRECISION[dtype], atol=1e-5)
    torch.testing.assert_close(dx.double(), truth_dx, rtol=PRECISION[dtype], atol=1e-5)
    _, _, *terms = gradients(composition, x.double(), rising(*points), g.double().abs())
    for parts in zip(sums, truth, terms, strict=True):
        assert_sums(*parts, 1e-5)


@pytest.mark.parametrize("learnable", ["values", "slopes", "breakpoints"])
@pytest.mark.parametrize("needs_dx", [True, False])
def test_only_what_is_asked_for(learnable, needs_dx, device, launches):
    act = fusedact.PWL.from_function("tanh", -3.0, 3.0, 9, learnable=learnable, num_parameters=3).to(device)
    x = torch.randn(20, 3, device=device).requires_grad_(needs_dx)
    y = act(x)
    leaves = [*([x] if needs_dx else []), *act.parameters()]
    found = torch.autograd.grad(y.square().sum(), leaves)
    assert launches == PER_CHANNEL
    with fusedact.backend("eager"):
        expected = torch.autograd.grad(act(x).square().sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_training_step(device, launches):
    """Tables change from step to step; two runs have the same bits."""
    tables = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(4, 3),
            fusedact.PWL.from_function("relu", -3.0, 3.0, 7, learnable=("values", "slopes", "breakpoints")),
        ).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(16, 4).to(device)).square().mean().backward()
            optimizer.step()
        tables.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*tables)
    assert launches == LEARNED * 6


def test_second_order(device):
    x, *points = (t.float().to(device).requires_grad_() for t in (torch.randn(30, 3), *made(5, "uneven", 3)))

    def penalty(function):
        (dx,) = torch.autograd.grad(function(x, *points).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), (x, *points))

    torch.testing.assert_close(penalty(FF.pwl), penalty(composition), rtol=1e-4, atol=1e-4)


def test_operators_run_kernels(device, launches):
    x, v = torch.randn(6, device=device), torch.randn(4, device=device)

    def step(x, v):
        v = v.detach().requires_grad_()
        return torch.autograd.grad(FF.pwl(x, [-1.0, 0.0, 1.0, 2.0], v).sum(), v)[0]

    expected = step(x, v)
    graph = make_fx(step)(x, v)
    launches.clear()
    torch.testing.assert_close(graph(x, v), expected)
    assert launches == LEARNED[1:]
