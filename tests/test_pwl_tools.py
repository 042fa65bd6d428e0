"""What is around piecewise-linear modules: export to plain PyTorch, regularisers, fewer breakpoints, plots."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from itertools import combinations, pairwise

import oracles
import pwl_oracle as oracle
import pytest
import torch
from torch import nn

import fusedact
from fusedact.looking import drawing
from fusedact.piecewise import export

PWL = fusedact.PWL
SPECIAL = [torch.inf, -torch.inf, torch.nan, 1e30, -3e38, 0.0, -0.0]
EVEN = oracle.CASES["even"][1]


def per_channel(count=6, **arguments):
    """Three tables, with outer slopes of 0 among others."""
    generator = torch.Generator().manual_seed(count)
    b = torch.linspace(-3, 3, count) + 0.1 * torch.rand(3, count, generator=generator)
    v = torch.randn(3, count, generator=generator)
    return PWL(b, v, torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.5, 0.0, 0.25]), **arguments)


ALL = ("values", "slopes", "breakpoints")
LEARNED = {
    "values": {"learnable": True},
    "all": {"learnable": ALL},
    "channels": {"learnable": ALL, "num_parameters": 3},
    "monotone": {"learnable": ALL, "num_parameters": 3, "monotone": True},
    "slopes": {"learnable": "slopes", "num_parameters": 3},
}
learned = pytest.mark.parametrize("how", LEARNED)


def learning(how, dtype=torch.float32):
    """A module that has learned something."""
    act = PWL.from_function("softplus", -3.0, 3.0, 6, dtype=dtype, **LEARNED[how])
    with torch.no_grad():
        for t in act.parameters():
            t.add_(0.1 * torch.rand_like(t))
    return act


# ----- export

methods = pytest.mark.parametrize("method", ["where", "bucketize"])


@methods
@pytest.mark.parametrize("case", oracle.CASES)
def test_the_plain_module_has_the_same_values(case, method):
    arguments = oracle.CASES[case][1]
    if method == "where" and len(arguments[0]) > 64:
        arguments = (arguments[0][:64], arguments[1][:64], *arguments[2:])
    act = PWL(*arguments)
    plain = act.to_torch(method)
    x = torch.cat([oracle.inputs32(arguments), torch.tensor(SPECIAL)])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        y = plain(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y, act(x.to(dtype)), equal_nan=True)
    # The yardstick is the composition that one would write.
    yard = oracle.composition(x, arguments)
    oracles.assert_accurate(plain(x), oracle.value(x, arguments), yard, x=x)
    wide = PWL(*arguments, dtype=torch.float64)
    torch.testing.assert_close(
        wide.to_torch(method)(x.double()), wide(x.double()), rtol=1e-12, atol=1e-12, equal_nan=True
    )
    x = x[x.isfinite()].requires_grad_()
    slopes, expected = (torch.autograd.grad(f(x).sum(), x)[0] for f in (plain, act))
    torch.testing.assert_close(slopes, expected)


@methods
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 3, 5), 1), ((7, 3), -1), ((3,), 0), ((2, 3, 4, 4), 1), ((0, 3, 4), 1), ((3, 9), -2)],
    ids=str,
)
def test_the_plain_module_with_a_table_per_channel(shape, dim, method):
    act = per_channel(channel_dim=dim)
    plain = act.to_torch(method)
    x = 4 * torch.randn(shape)
    some = x.view(-1)[: len(SPECIAL)]
    some.copy_(torch.tensor(SPECIAL)[: len(some)])
    torch.testing.assert_close(plain(x), act(x), equal_nan=True)
    x = torch.randn(shape, requires_grad=True)
    slopes, expected = (torch.autograd.grad(f(x).sum(), x)[0] for f in (plain, act))
    torch.testing.assert_close(slopes, expected)


@methods
def test_shapes_of_the_plain_module(method):
    plain = PWL(*EVEN).to_torch(method)
    for x in (torch.tensor(0.3), torch.zeros(0), torch.randn(4, 5).T, torch.randn(2, 6)[:, ::2]):
        assert plain(x).shape == x.shape
        torch.testing.assert_close(plain(x), PWL(*EVEN)(x))


def test_the_plain_module_is_apart():
    act = PWL([0.0, 1.0], [0.0, 2.0], learnable=ALL)
    plain = act.to_torch()
    with torch.no_grad():
        act.values.mul_(3.0)
    assert plain(torch.tensor([0.5])).item() == 1.0
    assert not any(t.requires_grad for t in plain.state_dict().values())
    assert set(plain.state_dict()) == {"ends", "slopes", "starts", "anchors", "low", "high"}
    assert "fusedact" not in plain.code
    single = PWL.relu().to_torch()
    torch.testing.assert_close(single(torch.tensor([-torch.inf, -1.0, 2.0])), torch.tensor([0.0, 0.0, 2.0]))


@learned
def test_the_plain_module_of_what_has_learned(how):
    act = learning(how)
    x = 4 * torch.randn(50, 3)
    torch.testing.assert_close(act.to_torch()(x), act(x).detach())


def test_the_plain_module_loads_without_this_library(tmp_path):
    x = torch.randn(4, 3)
    kept = []
    for act in (PWL(*EVEN), per_channel()):
        plain = act.to_torch()
        kept.append((plain, x, act(x)))
        for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
            torch.testing.assert_close(twin(x), act(x))
    torch.save(kept, tmp_path / "plain.pt")
    code = (
        "import sys; sys.modules['fusedact'] = None\nimport torch\n"
        f"for plain, x, y in torch.load({str(tmp_path / 'plain.pt')!r}, weights_only=False):\n"
        "    torch.testing.assert_close(plain(x), y)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@methods
@pytest.mark.parametrize("make", [PWL.hardtanh, per_channel], ids=["number", "channels"])
def test_the_plain_module_exports(make, method):
    act, x = make(), 3 * torch.randn(4, 3, 5)
    plain = act.to_torch(method)
    names = list(plain.state_dict())
    for strict in (True, False):
        exported = torch.export.export(plain, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)
        torch.testing.assert_close(exported.module()(x[:3]), act(x[:3]))
        operators = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
        assert operators and all(o.startswith(("aten.", "<built-in", "torch.", "<function")) for o in operators)
    torch.testing.assert_close(torch.compile(plain, backend="eager", fullgraph=True)(x), act(x))
    assert list(plain.state_dict()) == names


def test_the_faster_method_is_taken():
    def chosen(count):
        return "bucketize" in PWL(torch.arange(float(count)), torch.zeros(count)).to_torch().code

    assert not chosen(export.FEW) and chosen(export.FEW + 1)
    with pytest.raises(
        ValueError, match=r"fusedact.PWL.to_torch: method must be None, 'where' or 'bucketize', got 'sum'"
    ):
        PWL.relu().to_torch("sum")


# ----- regularisers


def slopes_of(act):
    """In float64, by channel, one after the other."""
    b, v, left, right = (t.detach().double() for t in (act.breakpoints, act.values, act.left_slope, act.right_slope))
    rows = max(*(t.shape[0] for t in (b, v) if t.dim() == 2), len(left), len(right), 1)
    found = []
    for c in range(rows):
        bs, vs = ((t[c] if t.dim() == 2 else t).tolist() for t in (b, v))
        chords = [(vs[i + 1] - vs[i]) / (bs[i + 1] - bs[i]) for i in range(len(bs) - 1)]
        ends = [(s[c] if len(s) > 1 else s[0]).item() for s in (left, right)]
        found.append([ends[0], *chords, ends[1]])
    return found


@pytest.mark.parametrize("make", [lambda: PWL(*EVEN), per_channel, PWL.relu], ids=["number", "channels", "relu"])
def test_regularisers(make):
    act = make()
    slopes = slopes_of(act)
    variation = sum(abs(b - a) for row in slopes for a, b in pairwise(row))
    bounds = [max(map(abs, row)) for row in slopes]
    assert fusedact.second_order_total_variation(act).item() == pytest.approx(variation, rel=1e-5)
    assert fusedact.lipschitz_bound(act).item() == pytest.approx(max(bounds), rel=1e-5)
    assert fusedact.lipschitz_bound(act, per_channel=True).tolist() == pytest.approx(bounds, rel=1e-5)


def test_regularisers_of_modules():
    first, second = PWL(*EVEN), per_channel()
    model = nn.Sequential(nn.Linear(3, 3), first, nn.Sequential(second, nn.ReLU()), first)
    variation, bound = fusedact.second_order_total_variation, fusedact.lipschitz_bound
    torch.testing.assert_close(variation(model), variation(first) + variation(second))
    torch.testing.assert_close(bound(model), torch.maximum(bound(first), bound(second)))


def test_shared_breakpoints_and_slopes():
    """Tables of which some parts are one for all channels."""
    b, v = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[0.0, 1.0, 1.0], [0.0, -2.0, 0.0]])
    act = PWL(b, v, 0.0, torch.tensor([1.0, -1.0]))
    assert fusedact.second_order_total_variation(act).item() == (1 + 1 + 1) + (2 + 3 + 2)
    assert fusedact.lipschitz_bound(act, per_channel=True).tolist() == [1.0, 2.0]
    act = PWL(torch.stack([b, b]), v[0], 0.0, torch.tensor([1.0, -1.0]))
    assert fusedact.second_order_total_variation(act).item() == (1 + 1 + 1) + (1 + 1 + 1)


class Regulariser(nn.Module):
    """What a function makes of a module, as the forward of another."""

    def __init__(self, act, function):
        super().__init__()
        self.act, self.function = act, function

    def forward(self):
        return self.function(self.act)


@learned
@pytest.mark.parametrize("function", [fusedact.second_order_total_variation, fusedact.lipschitz_bound])
def test_regularisers_have_gradients(function, how):
    module = Regulariser(learning(how, torch.float64), function)
    names, parameters = zip(*module.named_parameters(), strict=True)
    torch.autograd.gradcheck(
        lambda *tensors: torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), ()), parameters
    )
    slopes = slopes_of(module.act)
    expected = {
        fusedact.second_order_total_variation: sum(abs(b - a) for row in slopes for a, b in pairwise(row)),
        fusedact.lipschitz_bound: max(abs(s) for row in slopes for s in row),
    }
    assert module().item() == pytest.approx(expected[function], rel=1e-12)


def test_total_variation_removes_breakpoints():
    """Plain descent draws a noisy line straight."""
    b = torch.linspace(-2, 2, 9)
    act = PWL(b, 0.5 * b + 0.05 * torch.randn(9), 0.5, 0.5, learnable=True)
    before = fusedact.second_order_total_variation(act).item()
    optimizer = torch.optim.SGD(act.parameters(), lr=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        fusedact.second_order_total_variation(act).backward()
        optimizer.step()
    assert fusedact.second_order_total_variation(act).item() < before / 5
    assert len(act.simplified(0.01).breakpoints) < 9


@pytest.mark.parametrize("function", [fusedact.second_order_total_variation, fusedact.lipschitz_bound])
def test_errors_of_regularisers(function):
    owner = f"fusedact.{function.__name__}: "
    with pytest.raises(TypeError, match=owner + r"module must be a torch.nn.Module, got Tensor"):
        function(torch.zeros(3))
    with pytest.raises(ValueError, match=owner + r"module must be or hold a fusedact.PWL, and ReLU holds none"):
        function(nn.ReLU())
    with pytest.raises(ValueError, match=r"per_channel=True needs a PWL itself, got Sequential"):
        fusedact.lipschitz_bound(nn.Sequential(PWL.relu()), per_channel=True)


# ----- fewer breakpoints


def farthest(a, b, channels=1):
    """The largest distance of two modules, far outside too."""
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([-1e6, 1e6])]).double()
    x = x[:, None].expand(-1, channels)
    return (copy.deepcopy(a).double()(x) - copy.deepcopy(b).double()(x)).abs().max().item()


@pytest.mark.parametrize("tolerance", [0.0, 1e-4, 1e-3, 1e-2, 0.3])
def test_simplified_stays_within_its_tolerance(tolerance):
    act = PWL.from_function("gelu", -6.0, 6.0, 200)
    simple = act.simplified(tolerance)
    assert farthest(act, simple) <= tolerance + 2e-6
    kept = simple.breakpoints.tolist()
    assert set(kept) <= set(act.breakpoints.tolist())
    assert (simple.left_slope, simple.right_slope) == (act.left_slope, act.right_slope)
    if tolerance == 1e-3:
        # As few as an adaptive fit of that error has, but for where breakpoints may be.
        fewest = next(
            k for k in range(2, 99) if PWL.from_function("gelu", -6, 6, k, spacing="adaptive").fitting_error < tolerance
        )
        assert len(kept) <= 1.4 * fewest


def test_simplified_takes_the_fewest():
    """By trying all choices of a small table."""
    generator = torch.Generator().manual_seed(3)
    for tolerance in (0.1, 0.4, 1.0):
        b = torch.arange(7.0)
        v = torch.randn(7, generator=generator).cumsum(0)
        act = PWL(b, v, 0.25, -0.5)
        simple = act.simplified(tolerance)
        assert farthest(act, simple) <= tolerance + 1e-5
        for count in range(1, len(simple.breakpoints)):
            for kept in map(list, combinations(range(7), count)):
                assert farthest(act, PWL(b[kept], v[kept], 0.25, -0.5)) > tolerance


def test_what_bends_nowhere_needs_nothing():
    b = torch.linspace(-3, 3, 40)
    assert len(PWL(b, 0.3 * b + 1.0, 0.3, 0.3).simplified().breakpoints) == 1
    assert PWL(b, b.relu(), 0.0, 1.0).simplified().breakpoints.tolist() == pytest.approx([b[19].item(), b[20].item()])
    inner = PWL(b, torch.randn(40)).simplified()
    assert len(inner.breakpoints) == 40


def test_simplified_by_channel():
    b = torch.linspace(-4, 4, 33)
    act = PWL(b, torch.stack([torch.tanh(b), b.relu(), 0 * b]), 0.0, torch.tensor([0.0, 1.0, 0.0]), channel_dim=-1)
    simple = act.simplified(1e-2)
    assert 3 < len(simple.breakpoints) < 33
    assert farthest(act, simple, 3) <= 1e-2 + 1e-6
    assert simple.channel_dim == -1


@learned
def test_simplified_of_what_has_learned(how):
    act = learning(how)
    for tolerance in (0.0, 0.3):
        simple = act.simplified(tolerance)
        assert farthest(act, simple, 3) <= tolerance + 1e-6
        assert not simple.learnable and not list(simple.parameters())
        assert simple.breakpoints.shape[-1] <= 6


@pytest.mark.parametrize(("tolerance", "kind"), [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_errors_of_simplified(tolerance, kind):
    with pytest.raises(kind, match=r"fusedact.PWL.simplified: tolerance must be"):
        PWL.relu().simplified(tolerance)


# ----- plots


def moved(act, shift):
    """The module, after its values have learned so much."""
    with torch.no_grad():
        act.values.add_(shift)
    return act


def test_plot_draws_the_function_over_the_initial_one(tmp_path):
    act = moved(PWL([-1.0, 0.0, 2.0], [0.75, 0.25, 2.25], -0.5, 1.0, learnable=True), -0.25)
    path = tmp_path / "curve.png"
    figure = act.plot(path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    value, slope = figure.axes
    learned, initial = (next(line for line in value.lines if line.get_label() == n) for n in ("learned", "initial"))
    for line, shift in ((learned, 0.0), (initial, 0.25)):
        x, y = (torch.as_tensor(t) for t in line.get_data())
        torch.testing.assert_close(y, oracle.value(x, ([-1.0, 0.0, 2.0], [0.5, 0.0, 2.0], -0.5, 1.0)) + shift)
        assert x[0] < -1.0 and x[-1] > 2.0
    dots = next(line for line in value.lines if line.get_marker() == "o")
    assert dots.get_xdata().tolist() == [-1.0, 0.0, 2.0] and dots.get_ydata().tolist() == [0.5, 0.0, 2.0]
    steps = next(line for line in slope.lines if line.get_color() == learned.get_color()).get_ydata()
    assert {round(float(s), 6) for s in steps} == {-0.5, 1.0}


def test_plot_of_channels():
    act = learning("channels")
    (value,) = act.plot(slopes=False, low=-2.0, high=2.0).axes
    lines = {line.get_label(): line for line in value.lines}
    mean = torch.as_tensor(lines["mean of 3 channels"].get_ydata())
    x = torch.as_tensor(lines["mean of 3 channels"].get_xdata())
    torch.testing.assert_close(mean, act.double()(x[:, None].expand(-1, 3)).detach().mean(1))
    assert len([line for line in value.lines if line.get_linewidth() == 0.7]) == 3
    assert (x[0], x[-1]) == (-2.0, 2.0)


def test_plot_without_the_initial_function():
    for figure in (PWL.relu().plot(), learning("values").plot(initial=False)):
        assert "initial" not in [line.get_label() for line in figure.axes[0].lines]
    with pytest.raises(ValueError, match=r"fusedact.PWL.plot: low must be below high, got 1.0 and -1.0"):
        PWL.relu().plot(1.0, -1.0)


def test_plot_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"fusedact.PWL.plot needs matplotlib: pip install 'fusedact\[plot\]'"):
        PWL.relu().plot()


def test_many_breakpoints_are_not_marked():
    figure = PWL.from_function("gelu", -4.0, 4.0, drawing.MARKED + 1).plot()
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "o"]
