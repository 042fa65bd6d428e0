"""What a monitor says: its table, dict and frame, pictures, warnings and errors, word for word."""

from __future__ import annotations

import itertools
import math
import sys
import types
import warnings

import benches
import pytest
import torch
from torch import nn

import fusedact
from fusedact.watching import monitoring

QUIET = {"dead_above": None, "exploding_above": None, "on_nan": None}


@pytest.fixture
def clock(monkeypatch):
    """Half a millisecond passes between any two looks at the clock."""
    ticks = itertools.count()
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: 0.0005 * next(ticks))


def network():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), fusedact.PWL([-1.0, 1.0], [0.0, 2.0]), nn.Softmax(-1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, -1.0]]))
        net[0].bias.zero_()
    return net


X = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 0.5]])

TABLE = """\
3 passes, every 2 watched
layer  kind     calls    mean     std     min     max   dead  saturated  gradient  nan  inf   ms
------------------------------------------------------------------------------------------------
1      ReLU         2  0.7083    1.01       0       3  50.0%      58.3%    0.1265    0    0  0.5
2      PWL          2   1.375  0.4621       1       2  25.0%      33.3%    0.2336    0    0  0.5
3      Softmax      2    0.25  0.1189  0.1345  0.4754   0.0%          -     1.918    0    0  0.5"""


def test_the_table(clock):
    net = network()
    with fusedact.monitor(net, every=2, **QUIET) as stats:
        for _ in range(3):
            net(X).square().sum().backward()
    assert str(stats) == TABLE


def test_a_table_of_nothing():
    net = network()
    with pytest.warns(UserWarning, match="no pass"), fusedact.monitor(net) as stats:
        pass
    lines = str(stats).splitlines()
    assert lines[0] == "0 passes"
    assert lines[3].split() == ["1", "ReLU", "0", *["-"] * 7, "0", "0", "-"]


def test_the_dict(clock):
    net = network()
    with fusedact.monitor(net, **QUIET) as stats:
        net(X)
    told = stats.to_dict()
    assert list(told) == ["1", "2", "3"]
    assert math.isnan(told["1"].pop("gradient"))
    mean = 8.5 / 12
    assert told["1"] == {
        "kind": "ReLU",
        "calls": 1,
        "mean": pytest.approx(mean),
        "std": pytest.approx(math.sqrt((1 + 9 + 4 + 4 + 0.25) / 12 - mean**2)),
        "min": 0.0,
        "max": 3.0,
        "zeros": pytest.approx(7 / 12),
        "saturated": pytest.approx(7 / 12),
        "nan": 0,
        "inf": 0,
        "dead": 0.5,
        "ms": pytest.approx(0.5),
    }


def test_it_can_be_read_in_the_block():
    net = network()
    with fusedact.monitor(net, **QUIET) as stats:
        for step in range(3):
            net(X).sum().backward()
            assert stats.steps == tuple(range(step + 1))
            assert stats.records()[-1]["gradient"] > 0


def test_history_is_bounded_and_totals_are_not():
    net = network()
    with fusedact.monitor(net, history=2, **QUIET) as stats:
        for _ in range(5):
            net(X)
    assert stats.steps == (3, 4) and len(stats.records()) == 6
    assert stats.to_dict()["1"]["calls"] == 5


def test_the_frame(monkeypatch):
    net = network()
    with fusedact.monitor(net, **QUIET) as stats:
        net(X)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"fusedact\.monitor: to_dataframe needs pandas: pip install pandas"):
        stats.to_dataframe()
    # What pandas is given.
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda records: ("frame", records)))
    kind, records = stats.to_dataframe()
    assert kind == "frame" and [r["layer"] for r in records] == ["1", "2", "3"]
    keys = "step layer kind calls mean std min max zeros saturated nan inf dead gradient ms"
    assert list(records[0]) == keys.split()


# ----- warnings and errors


def warned(net, *inputs, backward=False, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with fusedact.monitor(net, **options):
            for x in inputs:
                y = net(x)
                if backward:
                    y.sum().backward()
    return [str(w.message) for w in found]


def test_dead_layers_are_named_once():
    net = nn.Sequential(nn.ReLU(), fusedact.SiLU())
    assert warned(net, *[-torch.ones(4, 10)] * 3) == [
        "fusedact.monitor: layer '0' (ReLU): 100% of its units are dead in pass 0: no element of theirs has a slope"
    ]
    assert warned(net, -torch.ones(4, 10), dead_above=None) == []
    half = torch.cat([-torch.ones(4, 5), torch.ones(4, 5)], 1)
    assert warned(net, half) == []
    assert "50% of its units" in warned(net, half, dead_above=0.5)[0]


def test_exploding_values_are_named_once():
    net = nn.Sequential(nn.ReLU())
    assert warned(net, torch.ones(2, 2), torch.full((2, 2), 2e4), torch.full((2, 2), 3e4)) == [
        "fusedact.monitor: layer '0' (ReLU): values explode: a magnitude of 2e+04 in pass 1"
    ]
    assert warned(net, torch.tensor([[1.0, math.inf]])) == [
        "fusedact.monitor: layer '0' (ReLU): 1 infinite values in pass 0"
    ]
    x = torch.full((2, 2), 1e5)
    assert warned(net, x, exploding_above=None) == [] and warned(net, x, exploding_above=1e6) == []


def test_exploding_gradients_are_named():
    class Steep(nn.Module):
        def forward(self, x):
            return 1e6 * x

    net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), Steep())
    (text,) = warned(net, torch.zeros(4, 2), backward=True)
    assert text.startswith("fusedact.monitor: layer '1' (Sigmoid): its gradient explodes: a norm of 2.83e+06 in pass 0")


class Broken(nn.Module):
    """Divides by what may be 0."""

    def forward(self, x):
        return x / x.sum()


def test_nan_warns():
    net = nn.Sequential(fusedact.ELU(), Broken(), nn.Tanh())
    assert warned(net, torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), dead_above=None) == [
        "fusedact.monitor: layer '2' (Tanh): 6 NaN in pass 1"
    ]
    assert warned(net, torch.zeros(2, 3), on_nan=None, dead_above=None) == []


def test_passes_are_taken_in_together():
    """But NaN is told of when the next pass begins, and reading or the end of the block takes in all."""
    net, good, dead = nn.Sequential(nn.ReLU()), torch.ones(2, 3), -torch.ones(2, 3)
    with warnings.catch_warnings(record=True) as caught, fusedact.monitor(net, exploding_above=None) as stats:
        warnings.simplefilter("always")
        for x in (*[good] * 20, math.nan * good, good, good):
            before = len(caught)
            net(x)
            assert len(caught) - before == (stats.seen == 22)
        assert stats.steps == tuple(range(23)) and len(stats.records()) == 23
        for x in (good, dead):
            net(x)
    assert [str(w.message).split("(ReLU): ")[-1].split(":")[0] for w in caught] == [
        "6 NaN in pass 20",
        "100% of its units are dead in pass 24",
    ]


@pytest.mark.parametrize("last", [nn.Tanh(), fusedact.ReLUSigmoid()])
def test_nan_raises_and_names_the_layer(last):
    net = nn.Sequential(fusedact.ELU(), Broken(), last)
    kind = type(last).__name__
    with (
        pytest.raises(FloatingPointError) as raised,
        fusedact.monitor(net, on_nan="raise", layers=[Broken, type(last)]) as stats,
    ):
        net(torch.ones(2, 3))
        net(torch.zeros(2, 3))
    assert str(raised.value) == (
        "fusedact.monitor: 6 NaN in the output of layer '1' (Broken), shape (2, 3), float32, in pass 1; its input has "
        "none"
    )
    assert stats.seen == 2 and not any(m._forward_hooks for m in net.modules())
    later = rf"layer '2' \({kind}\).* its input has 6, so that it comes from before"
    with pytest.raises(FloatingPointError, match=later), fusedact.monitor(net, on_nan="raise"):
        net(torch.zeros(2, 3))


def test_nan_in_a_gradient_raises():
    class Root(nn.Module):
        def forward(self, x):
            return (x - x).sqrt() * 0.0

    net = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), Root())
    with (
        pytest.raises(
            FloatingPointError, match=r"6 NaN in the gradient of the output of layer '1' \(Sigmoid\), shape \(2, 3\)"
        ),
        fusedact.monitor(net, on_nan="raise"),
    ):
        net(torch.zeros(2, 3)).sum().backward()
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 1.5}, TypeError, "every must be an int, got float"),
        ({"history": 0}, ValueError, "history must be at least 1, got 0"),
        ({"channel_dim": "1"}, TypeError, "channel_dim must be an int or None, got str"),
        ({"on_nan": "stop"}, ValueError, "on_nan must be 'raise', 'warn' or None, got 'stop'"),
        ({"dead_above": "a"}, TypeError, "dead_above must be a number or None, got str"),
        ({"layers": ["7"]}, ValueError, "the model has no layer '7'; it has 'model', '0', '1', '2', '3'"),
        ({"layers": [nn.ReLU()]}, ValueError, "layers names a ReLU that is no part of the model"),
        ({"layers": [3]}, TypeError, "layers must be names, modules, classes or a function, got a int in it"),
        ({"layers": 3}, TypeError, "layers must be names, modules, classes or a function, got int"),
        ({"layers": nn.Conv2d}, ValueError, "the model has no such layer"),
    ],
    ids=lambda a: str(a) if isinstance(a, dict) else "",
)
def test_errors(arguments, error, text):
    with pytest.raises(error) as raised:
        fusedact.monitor(network(), **arguments)
    assert str(raised.value).startswith("fusedact.monitor: ") and text in str(raised.value)


def test_errors_of_the_model():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        fusedact.monitor(lambda x: x)
    with pytest.raises(
        ValueError, match="no such layer; `layers` takes names, modules or classes, and functional calls"
    ):
        fusedact.monitor(nn.Linear(2, 2))


# ----- pictures


def test_heat_maps(tmp_path):
    pytest.importorskip("matplotlib")
    net = network()
    with fusedact.monitor(net, **QUIET) as stats:
        for _ in range(4):
            net(X).sum().backward()
    figure = stats.plot(tmp_path / "map.png", figures=("std", "dead", "gradient"))
    assert (tmp_path / "map.png").stat().st_size > 5000
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["standard deviation", "dead units", "norm of the gradient"]
    dead = maps[1].collections[0].get_array()
    assert dead.shape == (3, 4) and dead[:2].tolist() == [[0.5] * 4, [0.25] * 4]
    assert [t.get_text() for t in maps[0].get_yticklabels()] == ["1", "2", "3"]
    with pytest.raises(ValueError, match=r"fusedact\.monitor: plot: figures must be out of mean, .*, got 'median'"):
        stats.plot(figures=("median",))


def test_no_heat_map_of_nothing():
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="no pass"), fusedact.monitor(network()) as stats:
        pass
    with pytest.raises(ValueError, match="no pass was watched"):
        stats.plot()


def test_histogram_under_the_curve(tmp_path):
    pytest.importorskip("matplotlib")
    net = nn.Sequential(fusedact.PWL([-1.0, 1.0], [0.0, 2.0], learnable=True), nn.ReLU())
    x = torch.tensor([[-5.0, -0.9, -0.9], [0.5, 0.5, 7.0], [math.nan, math.inf, 0.5]])
    with fusedact.monitor(net, **QUIET) as stats:
        net(x)
        net(x)
    figure = stats.plot_pwl("0", tmp_path / "pwl.png")
    assert (tmp_path / "pwl.png").stat().st_size > 5000
    curve, inputs = figure.axes
    assert "0: value, and its inputs (44.4% of the inputs lie outside)" in curve.get_title()
    bars = [(bar.get_x(), bar.get_height()) for bar in inputs.patches if bar.get_height()]
    width = 2.6 / 60
    assert [height for _, height in bars] == [4.0, 6.0]
    for (left, _), value in zip(bars, (-0.9, 0.5), strict=True):
        assert left <= value < left + width
    with pytest.raises(ValueError, match="plot_pwl: no PWL named '1' is watched; there is '0'"):
        stats.plot_pwl("1")


def test_the_example():
    """A signal that fades: nothing is left at the fifth layer."""
    example = benches.example("watching")
    torch.manual_seed(0)
    stats, right = example.learn(example.network(False), 11)
    told = stats.to_dict()
    assert stats.steps == (0, 10) and right <= 0.55
    assert told["9"]["dead"] == 1.0 and told["9"]["std"] == 0.0 and told["1"]["std"] > 0
