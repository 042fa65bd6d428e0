"""Statistics gathered in a kernel's pass: against float64 of what it stored, in all layouts, and without a trace."""

from __future__ import annotations

import math

import monitored
import oracles
import pytest
import torch

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.kernels import launch, statistics
from fusedact.watching.rereading import is_pointwise

NAMES = ("silu", "relu_sigmoid", "elu", "gelu", "tanh", "snake", "hardtanh")
SHAPES = {"flat": (37, 50), "image": (3, 5, 7, 11), "blocks": (3, 4096), "one": (1,), "none": ()}


def inputs(shape, dtype, device):
    x = (3.0 * torch.randn(shape)).to(dtype)
    if x.dim() > 1:
        # A unit that is saturated throughout, wherever units are counted.
        x[:, 2] = -40.0
        x[..., 1] = -40.0
    return x.to(device)


def told(module, x, **options):
    with fusedact.monitor(module, dead_above=None, exploding_above=None, on_nan=None, **options) as stats:
        y = module(x)
    return stats.to_dict()["model"], y


def assert_true(found, y, module, x, dim, tolerance=1e-5):
    truth = monitored.figures(y.cpu(), monitored.slopes(module.cpu(), x.cpu()), dim)
    monitored.assert_told(found, truth, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_as_in_float64(name, dtype, device, launches):
    module = fusedact.create(name)
    x = inputs((3, 5, 7, 11), dtype, device)
    found, y = told(module, x)
    assert launches == ["forward_kernel"]
    # The kernel's slope is its own, in a half's precision: none of these inputs has one at the edge of what is flat.
    slope = monitored.slopes(module, x.cpu())
    assert ((slope.abs() - monitored.FLAT).abs() > 1e-6).all()
    assert_true(found, y, module, x, 1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(shape, device, launches):
    x = inputs(shape, torch.float32, device)
    found, y = told(fusedact.SiLU(), x)
    assert launches == ["forward_kernel"]
    assert_true(found, y, fusedact.SiLU(), x, (1 if x.dim() >= 4 else -1) if x.dim() else None)


def test_layouts(device, launches):
    """Units are found in memory of any order, and in that of what is no memory of its own."""
    x = inputs((4, 6, 5, 8), torch.float32, device)
    for view, dim, kernel in (
        (x.contiguous(memory_format=torch.channels_last), 1, "forward_kernel"),
        (x.transpose(0, 3), 1, "forward_kernel"),
        (x.transpose(1, 2), 2, "forward_kernel"),
        (x[:, :, ::2], 1, "forward_strided_kernel"),
        (x[:, :, :, 0:1].expand(4, 6, 5, 8), 1, "forward_strided_kernel"),
        (x, 0, "forward_kernel"),
        (x, -1, "forward_kernel"),
    ):
        launches.clear()
        found, y = told(fusedact.ELU(), view, channel_dim=dim)
        assert launches == [kernel]
        assert_true(found, y, fusedact.ELU(), view, dim)


def test_parameters_per_channel_and_tables(device, launches):
    x = inputs((6, 5, 9), torch.float32, device)
    prelu = fusedact.PReLU(5, 0.001).to(device)
    found, y = told(prelu, x)
    assert launches == ["forward_strided_kernel"]
    assert_true(found, y, prelu, x, 1)
    pwl = fusedact.PWL([-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]).to(device)
    launches.clear()
    found, y = told(pwl, x)
    assert launches[-1] == "forward_kernel"
    assert_true(found, y, pwl, x, -1)


def test_an_own_activation(device, launches):
    @fusedact.activation
    def softened(x, a=0.5):
        return x * torch.sigmoid(a * x)

    found, y = told(softened.module(), x := inputs((8, 33), torch.float32, device))
    assert launches == ["forward_kernel"]
    assert_true(found, y, softened.module(), x, -1)


def test_nan_and_infinities_are_counted_apart(device):
    x = torch.randn(64, 100, device=device)
    x[3, 4], x[5, 6], x[7, 8], x[9, 9] = math.nan, math.inf, math.nan, -math.inf
    found, y = told(fusedact.ELU(), x)
    assert (found["nan"], found["inf"]) == (2, 1)
    assert_true(found, y, fusedact.ELU(), x, -1)
    # What a half cannot hold is infinite where it is stored.
    found, y = told(fusedact.ReLUSquared(), torch.full((4, 4), 300.0, dtype=torch.float16, device=device))
    assert found["inf"] == 16 and math.isnan(found["mean"])


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25, 1e38])
def test_squares_neither_overflow_nor_vanish(size, device):
    x = size * torch.rand(40, 100, device=device)
    found, y = told(fusedact.ReLU6() if size < 1 else fusedact.LeakyReLU(), x)
    truth = monitored.figures(y.cpu(), None, -1)
    assert abs(found["std"] / truth["std"] - 1) < 1e-5
    assert abs(found["mean"] / truth["mean"] - 1) < 1e-5


def test_a_large_mean_costs_no_accuracy(device):
    x = 1000.0 + 0.01 * torch.randn(50, 100, device=device)
    found, y = told(fusedact.LeakyReLU(), x)
    truth = monitored.figures(y.cpu(), None, -1)
    assert abs(found["std"] / truth["std"] - 1) < 1e-3


def test_values_and_gradients_stay_as_they_are(device, launches):
    x = inputs((3, 5, 7, 11), torch.float32, device).requires_grad_()
    act = fusedact.SiLU()
    plain = act(x)
    (before,) = torch.autograd.grad(plain.sum(), x)
    with fusedact.monitor(act, dead_above=None):
        watched = act(x)
        (after,) = torch.autograd.grad(watched.sum(), x)
    assert torch.equal(plain, watched) and torch.equal(before, after)
    assert launches == ["forward_kernel", "backward_strided_kernel"] * 2


def test_twice_the_same_bits(device):
    x = torch.randn(64, 333, device=device)
    first, second = (told(fusedact.Mish(), x)[0] for _ in range(2))
    del first["ms"], second["ms"]
    assert first == second


def test_in_place(device, launches):
    x = inputs((20, 40), torch.float32, device)
    before = x.clone()
    found, y = told(fusedact.ELU(inplace=True), x)
    assert y.data_ptr() == x.data_ptr()
    assert_true(found, y, fusedact.ELU(), before, -1)


def test_an_empty_tensor_has_none(device):
    found, _ = told(fusedact.SiLU(), torch.empty(0, 4, device=device))
    assert found["calls"] == 0 and math.isnan(found["mean"])


def test_other_paths_are_read_again(device, launches):
    """What packs bits, and what no kernel serves."""
    x = inputs((16, 40), torch.float32, device).requires_grad_()
    module = fusedact.SiLU(save="output")
    found, y = told(module, x)
    assert launches[0] == "forward_bits_kernel"
    assert_true(found, y, module, x, -1)
    found, y = told(torch.nn.GELU(), x)
    assert_true(found, y, torch.nn.GELU(), x, -1)


def test_another_round_than_the_template_counts_in(monkeypatch, device, launches):
    """Where channels are too far apart for 32 bits, the strided template serves."""
    monkeypatch.setattr(launch, "_round", lambda *_: 2**30)
    x = inputs((6, 50), torch.float32, device)
    found, y = told(fusedact.SiLU(), x)
    assert launches == ["forward_strided_kernel"]
    assert_true(found, y, fusedact.SiLU(), x, -1)


def test_without_a_monitor_nothing_is_gathered(device, monkeypatch):
    calls = []
    run = launch._run
    monkeypatch.setattr(
        launch,
        "_run",
        lambda kernel, grid, key, *args, **kw: (calls.append(args), run(kernel, grid, key, *args, **kw))[1],
    )
    FF.silu(torch.randn(100, device=device))
    assert calls[0][-2:] == ((), None)
    assert calls[0][-1] is None


def test_names_agree():
    from fusedact.watching import figures

    assert (figures.NAMES[0], figures.NAMES[1], "deviation", *figures.NAMES[3:]) == statistics.STATISTICS
    assert statistics.FLAT.value == figures.FLAT == monitored.FLAT


def test_every_pointwise_activation_gathers(device, launches):
    x = 0.4 + torch.rand(5, 7, device=device)
    for name in registry.names("elementwise"):
        if registry.get(name).always_aten or any(p.required_by_module for p in registry.get(name).parameters):
            continue
        module = fusedact.create(name).to(device)
        assert is_pointwise(module)
        launches.clear()
        found, y = told(module, x)
        assert launches[0] == "forward_kernel", name
        assert abs(found["mean"] - y.double().mean().item()) < 1e-5
        assert found["calls"] == 1 and not math.isnan(found["saturated"])
    assert oracles.function("silu") is not None
