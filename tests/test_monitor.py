"""`monitor` through its public face: what it tells against float64, where it looks, and that it leaves no trace."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import monitored
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import fusedact

QUIET = {"dead_above": None, "exploding_above": None, "on_nan": None}
MODULES = {
    "kept in pieces": fusedact.ReLUSigmoid(0.1),
    "learned": fusedact.Swish(1.5, learnable=True),
    "per channel": fusedact.PReLU(24),
    "twin": fusedact.GELU(),
    "relu": fusedact.ReLU(),
    "torch relu": nn.ReLU(),
    "torch in place": nn.ELU(inplace=True),
    "in place": fusedact.SiLU(inplace=True),
    "torch per channel": nn.PReLU(24),
    "torch sigmoid": nn.Sigmoid(),
    "periodic": fusedact.Snake(),
    "table": fusedact.PWL([-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
    "learned table": fusedact.PWL([-1.0, 0.0, 2.0], [0.0, 0.0, 1.0], learnable=True),
    "engine": fusedact.Erf(),
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), fusedact.ELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def trained(model, steps=1, x=None, **options):
    """The records of some steps."""
    x = torch.linspace(-2, 2, 128).reshape(16, 8) if x is None else x
    with fusedact.monitor(model, **{**QUIET, **options}) as stats:
        for _ in range(steps):
            model(x).square().sum().backward()
    assert not hooks(model)
    return monitored.without_time(stats.records())


def assert_same(records, others, tolerance=1e-6):
    """Raise unless records agree to rounding."""
    assert len(records) == len(others)
    for one, other in zip(records, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[name], rel=tolerance, abs=tolerance, nan_ok=True), name
            else:
                assert value == other[name]


# ----- what it tells


@pytest.mark.parametrize("shape", [(40, 24), (2, 24, 9, 5), (96, 24, 20, 20)], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_as_in_float64(name, shape):
    module, dim = copy.deepcopy(MODULES[name]), 1
    x = 3.0 * torch.randn(shape)
    x[:, 3] = -40.0
    truth_slopes = monitored.slopes(module, x)
    with fusedact.monitor(module, **QUIET) as stats:
        y = module(x.clone())
    # Of the pieces' sums as of the whole: a part in 10^5 of the largest value.
    monitored.assert_told(stats.to_dict()["model"], monitored.figures(y, truth_slopes, dim), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("make", [fusedact.SiLU, nn.Tanh, fusedact.ReLUSigmoid])
def test_other_dtypes(make, dtype):
    x = (3.0 * torch.randn(64, 24)).to(dtype)
    with fusedact.monitor(module := make(), **QUIET) as stats:
        y = module(x)
    monitored.assert_told(stats.to_dict()["model"], monitored.figures(y, monitored.slopes(module, x), -1))


def test_layouts():
    x = torch.randn(6, 24, 30, 40)
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3),
        x[:, :, ::3],
        x.expand(6, 24, 30, 40),
    ):
        for module in (fusedact.ReLUSigmoid(), nn.SiLU()):
            with fusedact.monitor(module, **QUIET) as stats:
                y = module(view)
            monitored.assert_told(stats.to_dict()["model"], monitored.figures(y, monitored.slopes(module, view), 1))


def test_nan_infinities_and_accuracy():
    x = 1000.0 + 0.01 * torch.randn(50, 100)
    x[0, 0], x[1, 1] = math.nan, math.inf
    for module in (nn.ReLU(), fusedact.ReLUSquared(), nn.Identity()):
        with fusedact.monitor(module, layers=[module], **QUIET) as stats:
            y = module(x)
        found, truth = stats.to_dict()["model"], monitored.figures(y, None, -1)
        assert (found["nan"], found["inf"]) == (1, 1)
        assert found["std"] == pytest.approx(truth["std"], rel=2e-3)
        assert found["mean"] == pytest.approx(truth["mean"], rel=1e-6)
    for size in (1e-30, 1e30):
        with fusedact.monitor(module, layers=[module], **QUIET) as stats:
            y = module(size * torch.randn(100, 10))
        assert stats.to_dict()["model"]["std"] == pytest.approx(y.double().std(correction=0).item(), rel=1e-5)


def test_the_device_path_tells_the_same():
    """Figures that make nobody wait, as a GPU's outputs have them."""
    from fusedact.watching import figures

    y = torch.randn(100, 40)
    y[0, 0], y[1, 1], y[2, 2] = math.nan, -math.inf, 0.0
    found = figures.of_tensor(y).tolist()
    truth = monitored.figures(y, None, -1)
    assert found[:2] == [3998.0, pytest.approx(truth["mean"])]
    assert math.sqrt(found[2] / found[0]) == pytest.approx(truth["std"])
    assert found[3:8] == [truth["min"], truth["max"], 1.0, 1.0, 1.0]


def test_gradient_norm():
    net, outputs = network(), []
    handle = net[1].register_forward_hook(lambda m, a, y: (y.retain_grad(), outputs.append(y))[1])
    with fusedact.monitor(net, **QUIET) as stats:
        net(torch.randn(16, 8)).square().sum().backward()
    handle.remove()
    assert stats.records()[0]["gradient"] == pytest.approx(outputs[0].grad.norm().item(), rel=1e-6)


def test_dead_units_of_the_window():
    """A unit that lives in one pass is not dead; in the others it is."""
    net = nn.Sequential(nn.ReLU())
    with fusedact.monitor(net, **QUIET) as stats:
        for column in range(3):
            x = -torch.ones(5, 4)
            x[:, column] = 1.0
            net(x)
    assert [r["dead"] for r in stats.records()] == [0.75] * 3
    assert stats.to_dict()["0"]["dead"] == 0.25


def test_units_are_counted_along_channel_dim():
    net = nn.Sequential(nn.ReLU())
    x = torch.ones(4, 6, 10)
    x[:, 2:4] = -1.0
    for dim, dead in ((1, 2 / 6), (-2, 2 / 6), (None, 0.0), (2, 0.0)):
        with fusedact.monitor(net, channel_dim=dim, **QUIET) as stats:
            net(x)
        assert stats.to_dict()["0"]["dead"] == pytest.approx(dead)
    with pytest.raises(ValueError, match=r"channel_dim=3, but the output of layer '0' has shape \(4, 6, 10\)"):  # noqa: SIM117
        with fusedact.monitor(net, channel_dim=3):
            net(x)
    assert not hooks(net)


# ----- where and when it looks


def test_every():
    net = network()
    with fusedact.monitor(net, every=3) as stats:
        for _ in range(8):
            net(torch.randn(4, 8))
    assert stats.steps == (0, 3, 6) and stats.seen == 8
    assert [r["step"] for r in stats.records()] == [0, 0, 3, 3, 6, 6]
    # In the passes after these.
    assert all(r["ms"] > 0 for r in stats.records())


def test_layers():
    net = network()
    for layers, names in (
        (None, ["1", "3"]),
        (["3", "0"], ["0", "3"]),
        ("2", ["2"]),
        (nn.Linear, ["0", "2", "4"]),
        ([net[1], nn.Linear], ["0", "1", "2", "4"]),
        (lambda name, module: name == "4", ["4"]),
        (net[3], ["3"]),
    ):
        with fusedact.monitor(net, layers=layers, **QUIET) as stats:
            net(torch.randn(4, 8))
        assert list(stats.to_dict()) == names
    assert math.isnan(stats.to_dict()["3"]["gradient"])


def test_shared_and_repeated_modules():
    act = fusedact.ELU()
    net = nn.Sequential(nn.Linear(8, 16), act, nn.Linear(16, 6), act, act)
    x = torch.randn(10, 8)
    outputs = []
    handle = act.register_forward_hook(lambda m, a, y: outputs.append(y.detach().reshape(-1)))
    with fusedact.monitor(net, **QUIET) as stats:
        net(x)
    handle.remove()
    (found,) = stats.to_dict().values()
    truth = monitored.figures(torch.cat(outputs), None, None)
    assert found["calls"] == 3
    for name in ("mean", "std", "min", "max"):
        assert found[name] == pytest.approx(truth[name], rel=1e-5)


def test_layers_that_are_called_alone():
    net = network()
    with fusedact.monitor(net, every=2) as stats:
        for _ in range(4):
            net[1](torch.randn(3, 32))
    assert stats.to_dict()["1"]["calls"] == 2 and stats.to_dict()["3"]["calls"] == 0


def test_nested_monitors_agree():
    net = nn.Sequential(nn.Linear(8, 8), nn.Sequential(fusedact.ReLUSigmoid(), nn.Linear(8, 4)), nn.ReLU())
    x = torch.randn(16, 8)
    with fusedact.monitor(net, **QUIET) as outer, fusedact.monitor(net[1], every=2, **QUIET) as inner:
        for _ in range(2):
            net(x).sum().backward()
    first = [r for r in monitored.without_time(outer.records()) if r["step"] == 0]
    assert {**first[0], "layer": "0"} == monitored.without_time(inner.records())[0]
    assert inner.steps == (0,) and outer.steps == (0, 1)
    assert not hooks(net)


class Checkpointed(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(8, 32), fusedact.ReLUSigmoid())
        self.b = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4))
        self.how = how

    def forward(self, x):
        if self.how is None:
            return self.b(self.a(x))
        return checkpoint(self.b, checkpoint(self.a, x, use_reentrant=self.how), use_reentrant=self.how)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_counts_once(reentrant):
    plain, other = Checkpointed(None), Checkpointed(reentrant)
    other.load_state_dict(plain.state_dict())
    x = torch.randn(16, 8, requires_grad=True)
    expected = trained(plain, 3, x, every=2)
    assert len(expected) == 4
    assert_same(trained(other, 3, x, every=2), expected)


def test_a_whole_model_that_is_checkpointed():
    plain, other = network(), network()
    x = torch.randn(16, 8, requires_grad=True)
    with fusedact.monitor(other, **QUIET) as stats:
        for _ in range(2):
            checkpoint(other, x, use_reentrant=False).square().sum().backward()
    assert_same(monitored.without_time(stats.records()), trained(plain, 2, x))


@pytest.mark.parametrize("when", ["before", "inside"])
def test_compiled(when):
    """The passes that are watched run uncompiled, the others compiled."""
    torch.compiler.reset()
    plain, net = network(), network()
    graphs = []

    def backend(graph, inputs):
        graphs.append(1)
        return graph

    compiled = torch.compile(net, backend=backend, fullgraph=True)
    x = torch.randn(16, 8)
    if when == "before":
        compiled(x)
    with fusedact.monitor(compiled, every=3, **QUIET) as stats:
        for _ in range(5):
            compiled(x).square().sum().backward()
    compiled(x)
    assert graphs
    assert stats.steps == (0, 3)
    assert_same(monitored.without_time(stats.records()), trained(plain, 5, x, every=3))
    assert not hooks(net) and not compiled._forward_hooks


def test_code_that_is_compiled_as_a_whole_is_not_watched():
    torch.compiler.reset()
    net = network()
    step = torch.compile(lambda x: net(x).sum(), backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="no pass of the model was seen"):  # noqa: SIM117
        with fusedact.monitor(net) as stats:
            step(torch.randn(2, 8))
    assert stats.seen == 0 and str(stats).startswith("0 passes")
    net.compile(backend="eager")
    with pytest.raises(ValueError, match="compiled the model in place"):
        fusedact.monitor(net)


def test_transforms():
    net = network()
    p = {name: t.detach() for name, t in net.named_parameters()}
    x = torch.randn(6, 8)

    def loss(p, x):
        return functional_call(net, p, (x,)).square().sum()

    plain = vmap(grad(loss), (None, 0))(p, x)
    with fusedact.monitor(net, **QUIET) as stats:
        watched = vmap(grad(loss), (None, 0))(p, x)
        grad(loss)(p, x)
    assert all(torch.equal(plain[name], watched[name]) for name in p)
    with fusedact.monitor(net, **QUIET) as other:
        net(x)
    expected = other.records()[0]
    for record in stats.records()[::2]:
        assert record["mean"] == pytest.approx(expected["mean"], rel=1e-5)
        assert math.isnan(record["dead"]) and math.isnan(record["saturated"]) and math.isnan(record["gradient"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    net = network()
    with fusedact.monitor(net, **QUIET) as stats, mode():
        net(torch.randn(4, 8))
    assert all(r["calls"] == 1 and not math.isnan(r["dead"]) for r in stats.records())


def test_autocast():
    net = network()
    x = torch.randn(16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(x)
        with fusedact.monitor(net, **QUIET) as stats:
            assert torch.equal(net(x), plain)
    assert len(stats.records()) == 2


# ----- that it changes nothing


def test_training_is_the_same_to_the_bit():
    results = []
    for watched in (False, True):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), 0.05)

        def steps(net=net, optimizer=optimizer):
            torch.manual_seed(3)
            for _ in range(5):
                optimizer.zero_grad()
                net(torch.randn(16, 8)).square().sum().backward()
                optimizer.step()

        if watched:
            with fusedact.monitor(net, every=2):
                steps()
        else:
            steps()
        results.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nothing_is_kept_alive():
    net, refs = network(), []
    handles = [m.register_forward_hook(lambda m, a, y: refs.append(weakref.ref(y))) for m in net]
    with fusedact.monitor(net, **QUIET) as stats:
        for _ in range(2):
            net(torch.randn(4, 8)).sum().backward()
            gc.collect()
            assert len(refs) % 5 == 0 and not any(ref() is not None for ref in refs)
    assert stats.steps == (0, 1)
    for handle in handles:
        handle.remove()


def test_an_exception_leaves_no_hooks():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("as expected")

    net = nn.Sequential(fusedact.ReLUSigmoid(), nn.Sequential(nn.ReLU(), Failing()))
    with pytest.raises(RuntimeError, match="as expected"), fusedact.monitor(net) as stats:
        net(torch.randn(3, 4))
    assert not hooks(net) and stats.seen == 1
    # And one that was caught inside harms nothing.
    with fusedact.monitor(net, **QUIET) as stats:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="as expected"):
                net(torch.randn(3, 4))
    assert stats.steps == (0, 1) and stats.to_dict()["0"]["calls"] == 2


def test_passes_that_are_not_watched_gather_nothing(monkeypatch):
    """Of every ten, one: that is what makes it cheap."""
    from fusedact.watching import figures

    calls = []
    of_piece = figures.of_piece
    monkeypatch.setattr(figures, "of_piece", lambda *a, **k: (calls.append(1), of_piece(*a, **k))[1])
    net = nn.Sequential(fusedact.ReLUSigmoid(), nn.ReLU(), nn.GELU())
    x = torch.randn(64, 32)
    with fusedact.monitor(net, every=10, **QUIET):
        for step in range(30):
            before = len(calls)
            net(x)
            assert len(calls) - before == (3 if step % 10 == 0 else 0)


def test_pieces_gather_while_they_are_in_the_cache(monkeypatch):
    """Nothing of a large tensor is read again."""
    from fusedact.cpu import pieces
    from fusedact.watching import monitoring

    monkeypatch.setattr(pieces, "PIECE_PER_THREAD", 1000)
    monkeypatch.setattr(monitoring, "reread", lambda *_: pytest.fail("read again"))
    x = torch.randn(60, 7, 11).transpose(0, 1)
    module = fusedact.ReLUSigmoid()
    with fusedact.monitor(module, **QUIET) as stats:
        y = module(x)
    monitored.assert_told(stats.to_dict()["model"], monitored.figures(y, monitored.slopes(module, x), -1))


def test_inference_mode_before_and_after_training():
    """Memory that was made under inference mode serves a pass that trains, and the other way round."""
    net = nn.Sequential(nn.Linear(4, 300), nn.GELU(), nn.Linear(300, 4), fusedact.ReLUSigmoid(0.1))
    x = torch.randn(8, 4)
    with fusedact.monitor(net, dead_above=None) as stats:
        for inference in (True, False, True):
            with torch.inference_mode(inference):
                y = net(x)
            if not inference:
                y.sum().backward()
    assert stats.to_dict()["1"]["calls"] == stats.to_dict()["3"]["calls"] == 3
