"""Fits of piecewise-linear tables to functions: their errors, breakpoints, and what they do outside."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import truths
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact import registry
from fusedact.piecewise import placement

fit = fusedact.PWL.from_function
SMOOTH = ["gelu", "silu", "mish", "tanh"]
NAMED = [n for n in registry.names("elementwise") if not any(p.required_by_module for p in registry.get(n).parameters)]


def exact(name):
    """The function with the parameters that its module begins with."""
    spec = registry.get(name)
    return lambda x: spec.eager(x, *(p.default for p in spec.parameters))


def distance(act, function, low, high, points=50_001):
    """Largest and root mean square distance of the module from the function, on a grid of its own."""
    x = torch.linspace(low, high, points, dtype=torch.float64)
    off = (act.double()(x) - function(x)).detach()
    return off.abs().max().item(), off.square().mean().sqrt().item()


# ----- how near


@pytest.mark.parametrize(("spacing", "how"), [("uniform", "interpolate"), ("adaptive", "least_squares")])
@pytest.mark.parametrize("name", NAMED)
def test_reported_errors_are_those_of_the_module(name, how, spacing):
    act = fit(name, -4.0, 4.0, 24, spacing=spacing, fit=how, dtype=torch.float64)
    largest, rms = distance(act, exact(name), -4.0, 4.0)
    assert act.breakpoints.shape == (24,)
    assert (act.breakpoints[0].item(), act.breakpoints[-1].item()) == (-4.0, 4.0)
    # A grid misses the largest error a little, and of a jump much; the mean of a jump's chord depends on it too.
    jumps = name == "hardshrink"
    assert act.fitting_error == pytest.approx(largest, rel=0.05 if jumps else 0.01, abs=1e-12)
    assert act.fitting_rms == pytest.approx(rms, rel=0.05 if jumps else 0.01, abs=1e-12)


@pytest.mark.parametrize("count", [16, 32])
@pytest.mark.parametrize("name", SMOOTH)
def test_adaptive_breakpoints_are_worth_it(name, count):
    for how in ("interpolate", "least_squares"):
        even = fit(name, -8.0, 8.0, count, fit=how)
        adaptive = fit(name, -8.0, 8.0, count, fit=how, spacing="adaptive")
        assert adaptive.fitting_error < even.fitting_error / 4
        assert adaptive.fitting_rms < even.fitting_rms / 2


@pytest.mark.parametrize("name", SMOOTH)
def test_errors_fall_with_the_square_of_the_count(name):
    for spacing in ("uniform", "adaptive"):
        errors = [fit(name, -8.0, 8.0, k, spacing=spacing, outer="extend").fitting_error for k in (33, 65, 129, 257)]
        for more, fewer in pairwise(errors):
            assert more / fewer == pytest.approx(4.0, rel=0.12)


@pytest.mark.parametrize("name", SMOOTH)
def test_chords_are_all_as_far_off(name):
    """The adaptive fit is within a twentieth of the least possible: no chord is much nearer than the farthest."""
    function = exact(name)
    b = placement.adaptive(function, -3.0, 2.9, 40)
    errors = placement.chord_errors(function, b, function(b), 64).abs().amax(1)
    # Where a function turns from one bend to another a chord may be nearer.
    assert errors.sort()[0][4] > 0.9 * errors.max()


def test_least_squares_are_least():
    """The gradient of the mean square error vanishes, and it is a sixth of that of chords."""
    chords, least = (
        fit("silu", -6.0, 6.0, 33, outer="extend", fit=f, dtype=torch.float64) for f in ("interpolate", "least_squares")
    )
    assert (chords.fitting_rms / least.fitting_rms) ** 2 == pytest.approx(6.0, rel=0.1)
    x = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    b, v = least.breakpoints, least.values.clone().requires_grad_()
    square = (FF.pwl(x, b, v) - F.silu(x)).square().mean()
    (slope,) = torch.autograd.grad(square, v)
    assert slope.abs().max() < 1e-6 * chords.fitting_rms


# ----- kinks

KINKED = ["relu", "leaky_relu", "relu6", "hardtanh", "hardsigmoid", "softshrink", "prelu", "identity"]


@pytest.mark.parametrize("count", [5, 16, 37])
@pytest.mark.parametrize("name", KINKED)
def test_what_is_piecewise_linear_is_met(name, count):
    act = fit(name, -4.0, 7.0, count, spacing="adaptive", dtype=torch.float64)
    assert act.fitting_error < 1e-9
    x = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    torch.testing.assert_close(act(x), exact(name)(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in NAMED if n != "hardshrink"])
def test_kinks_are_breakpoints(name):
    spec = registry.get(name)
    kinks = [k for k in truths.TRUTHS[name].kinks(*(p.default for p in spec.parameters)) if -4 < k < 4]
    slopes = truths.TRUTHS[name].slope
    b = fit(name, -4.0, 4.0, 40, spacing="adaptive", dtype=torch.float64).breakpoints
    for kink in kinks:
        beside = torch.tensor([kink - 1e-4, kink + 1e-4], dtype=torch.float64)
        below, above = slopes(beside, *(p.default for p in spec.parameters)).tolist()
        if abs(above - below) > 1e-3:
            assert (b - kink).abs().min() < 1e-6


def test_kinks_anywhere():
    generator = torch.Generator().manual_seed(5)
    for _ in range(8):
        kinks = (6 * torch.rand(3, generator=generator, dtype=torch.float64) - 3).sort()[0]
        jumps = torch.randn(3, generator=generator, dtype=torch.float64)
        if kinks.diff().min() < 0.02 or jumps.abs().min() < 0.05:
            continue

        def bent(x, kinks=kinks, jumps=jumps):
            return 0.2 * torch.sin(x) + (jumps * (x[..., None] - kinks).abs()).sum(-1)

        b = fit(bent, -4.0, 4.0, 33, spacing="adaptive", dtype=torch.float64).breakpoints
        assert (b[:, None] - kinks).abs().amin(0).max() < 1e-7


def test_few_breakpoints_are_not_spent_on_kinks():
    for count in (2, 3, 4, 5, 8):
        even = fit("hardswish", -4.0, 4.0, count, outer="extend")
        adaptive = fit("hardswish", -4.0, 4.0, count, outer="extend", spacing="adaptive")
        assert adaptive.fitting_error <= even.fitting_error * 1.0001


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tanh(1000 * x),
        lambda x: x.abs().sqrt(),
        lambda x: (17 * x).sin(),
        torch.floor,
        torch.zeros_like,
        lambda x: x.sign() + x,
    ],
    ids=["steep", "root", "waves", "steps", "zero", "jump"],
)
@pytest.mark.parametrize("count", [2, 7, 64])
def test_hard_functions_get_valid_tables(function, count):
    act = fit(function, -4.0, 4.5, count, spacing="adaptive")
    assert len(act.breakpoints) == count
    assert (act.breakpoints.diff() > 0).all()
    # Kinks that take breakpoints may leave a little more to the rest.
    assert act.fitting_error <= fit(function, -4.0, 4.5, count).fitting_error * 1.01 + 1e-7


def test_a_jump_is_climbed_in_one_step():
    act = fit("hardshrink", -2.0, 2.0, 24, spacing="adaptive")
    far = torch.linspace(-2, 2, 4001)
    far = far[(far.abs() - 0.5).abs() > 2e-3]
    torch.testing.assert_close(act(far), F.hardshrink(far), rtol=0, atol=1e-5)


# ----- outside

LINES = {
    "gelu": ((0, 0), (1, 0)),
    "silu": ((0, 0), (1, 0)),
    "tanh": ((0, -1), (0, 1)),
    "relu": ((0, 0), (1, 0)),
    "elu": ((0, -1), (1, 0)),
    "selu": ((0, -1.7580993408473766), (1.0507009873554805, 0)),
    "softplus": ((0, 0), (1, 0)),
    "logsigmoid": ((1, 0), (0, 0)),
    "tanhshrink": ((1, 1), (1, -1)),
    "softshrink": ((1, 0.5), (1, -0.5)),
    "erf": ((0, -1), (0, 1)),
    "hardswish": ((0, 0), (1, 0)),
    "squareplus": ((0, 0), (1, 0)),
    "softsign": ((0, -1), (0, 1)),
}


@pytest.mark.parametrize("name", LINES)
def test_the_fit_is_right_far_out(name):
    """Where the function has come near its asymptotes at the ends."""
    reach = {"squareplus": 400.0, "softsign": 400.0}.get(name, 20.0)
    act = fit(name, -reach, reach, 64, dtype=torch.float64)
    x = torch.tensor([-1e4, 1e4], dtype=torch.float64)
    lines = torch.tensor([a * p + c for (a, c), p in zip(LINES[name], x.tolist(), strict=True)], dtype=torch.float64)
    torch.testing.assert_close(act(x), lines, rtol=1e-8, atol=1e-6)
    assert (act.left_slope.item(), act.right_slope.item()) == pytest.approx([a for a, _ in LINES[name]], abs=1e-12)


def test_near_ends_keep_the_function_and_take_the_slope():
    act = fit("tanh", -1.0, 1.0, 16, dtype=torch.float64)
    assert act.values[-1].item() == pytest.approx(math.tanh(1.0), rel=1e-12)
    assert (act.left_slope.item(), act.right_slope.item()) == (0.0, 0.0)
    # relu6 has not turned yet.
    act = fit("relu6", -1.0, 4.0, 6, dtype=torch.float64)
    assert (act.values[-1].item(), act.right_slope.item()) == (4.0, 0.0)


OUTSIDE = {
    # Function, left and right slope.
    "exp": (torch.exp, 0.0, math.exp(3.0)),
    "square": (torch.square, -6.0, 6.0),
    "sine": (torch.sin, 0.0, 0.0),
    "snake": ("snake", 1.0, 1.0),
    "root": (lambda x: x.abs().sqrt(), -0.5 / math.sqrt(3.0), 0.5 / math.sqrt(3.0)),
    # exp(x) overflows where the asymptote is looked for first.
    "naive": (lambda x: torch.exp(x) / (1 + torch.exp(x)), 0.0, 0.0),
    "large": (lambda x: 1e6 * torch.tanh(x), 0.0, 0.0),
    "small": (lambda x: 1e-6 * torch.tanh(4 * x) + 1e-6 * x, 1e-6, 1e-6),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_slopes_outside(case):
    function, left, right = OUTSIDE[case]
    act = fit(function, -3.0, 3.0, 32, dtype=torch.float64)
    assert act.left_slope.item() == pytest.approx(left, rel=1e-6, abs=1e-11)
    assert act.right_slope.item() == pytest.approx(right, rel=1e-6, abs=1e-11)


def test_where_the_function_ends_the_chords_go_on():
    act = fit(lambda x: torch.asin(x), -1.0, 1.0, 17, dtype=torch.float64)
    chords = act.values.diff() / act.breakpoints.diff()
    assert act.left_slope.item() == pytest.approx(chords[0].item())
    assert act.right_slope.item() == pytest.approx(chords[-1].item())


def test_other_slopes_outside():
    act = fit("gelu", -2.0, 2.0, 9, outer="flat", dtype=torch.float64)
    assert (act.left_slope.item(), act.right_slope.item()) == (0.0, 0.0)
    act = fit("gelu", -2.0, 2.0, 9, outer="extend", dtype=torch.float64)
    chords = act.values.diff() / act.breakpoints.diff()
    assert (act.left_slope.item(), act.right_slope.item()) == (chords[0].item(), chords[-1].item())
    act = fit("gelu", -2.0, 2.0, 9, outer="flat", right_slope=0.75, dtype=torch.float64)
    assert (act.left_slope.item(), act.right_slope.item()) == (0.0, 0.75)
    torch.testing.assert_close(act.values, F.gelu(act.breakpoints))


def test_least_squares_end_on_asymptotes():
    act = fit("gelu", -8.0, 8.0, 33, fit="least_squares", dtype=torch.float64)
    assert (act.values[0].item(), act.values[-1].item()) == (pytest.approx(0.0, abs=1e-12), 8.0)


# ----- what may be fitted


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return F.silu(x) * self.scale


def test_whatever_is_an_activation():
    expected = fit(lambda x: F.elu(x, 0.5), -4.0, 4.0, 16)
    for function in (
        *(nn.ELU(0.5), nn.ELU(0.5, inplace=True), fusedact.ELU(0.5), fusedact.ELU(0.5, learnable=True)),
        *(lambda x: FF.elu(x, 0.5), lambda x: F.elu(x.float(), 0.5)),
    ):
        torch.testing.assert_close(fit(function, -4.0, 4.0, 16).state_dict(), expected.state_dict())
    by_name = fit("elu", -4.0, 4.0, 16, alpha=0.5, channel_dim=-1, inplace=True)
    torch.testing.assert_close(by_name.state_dict(), expected.state_dict())
    assert by_name.channel_dim == -1 and by_name.inplace
    module = Doubled()
    assert fit(module, -4.0, 4.0, 16).values[-1] == pytest.approx(2 * F.silu(torch.tensor(4.0)).item(), rel=1e-6)
    assert module.scale.dtype == torch.float32


def test_aliases_and_options():
    tanh_form = fit("gelu_new", -4.0, 4.0, 16).values
    torch.testing.assert_close(fit("gelu", -4.0, 4.0, 16, approximate="tanh").values, tanh_form)
    assert (tanh_form != fit("gelu", -4.0, 4.0, 16).values).any()
    assert fit("rrelu", -4.0, 4.0, 9).left_slope.item() == pytest.approx(11 / 48)
    assert fit("threshold", -4.0, 4.0, 9, threshold=0.0, value=0.0).values[0] == 0.0


def test_other_tables_tell_no_error():
    assert fusedact.PWL.relu().fitting_error is None
    assert fusedact.PWL.relu().fitting_rms is None


def test_it_does_not_depend_on_settings():
    expected = fit("mish", -4.0, 4.0, 16, spacing="adaptive", fit="least_squares").state_dict()
    torch.set_default_dtype(torch.float16)
    try:
        with fusedact.backend("triton"), torch.no_grad():
            found = fit("mish", -4.0, 4.0, 16, spacing="adaptive", fit="least_squares", dtype=torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found.state_dict(), expected, rtol=0, atol=0)


ERRORS = {
    "name": (("gelo", -1, 1, 4), {}, ValueError, "no activation is named 'gelo'; did you mean"),
    "softmax": (("softmax", -1, 1, 4), {}, ValueError, "softmax is not elementwise, and has no chords"),
    "missing": (("threshold", -1, 1, 4), {}, TypeError, "threshold needs threshold and value"),
    "option": (("gelu", -1, 1, 4), {"approximate": "sin"}, ValueError, "approximate must be 'none' or 'tanh'"),
    "refused": (("snake", -1, 1, 4), {"alpha": 0.0}, ValueError, "alpha"),
    "class": ((nn.ReLU, -1, 1, 4), {}, TypeError, "got the class ReLU"),
    "number": ((3, -1, 1, 4), {}, TypeError, "must be a name, a module or a function of a tensor, got int"),
    "shape": ((torch.sum, -1, 1, 4), {}, ValueError, "sum must be elementwise"),
    "softmax module": ((nn.Softmax(0), -1, 1, 4), {}, ValueError, "Softmax must be elementwise and not random"),
    "channels": ((nn.PReLU(4), -1, 1, 4), {}, ValueError, "PReLU has 4 channels with parameters of their own"),
    "nan": ((torch.log, -1, 1, 4), {}, ValueError, "log must be finite from low to high, got nan at -1"),
    "pole": ((torch.reciprocal, -1, 1, 4), {}, ValueError, "reciprocal must be finite from low to high, got inf at 0"),
    "ends": ((torch.tanh, 1, -1, 4), {}, ValueError, "low must be below high, got 1.0 and -1.0"),
    "infinite": ((torch.tanh, -math.inf, 1, 4), {}, ValueError, "low and high must be finite, got -inf and 1.0"),
    "nan end": ((torch.tanh, math.nan, 1, 4), {}, ValueError, "low must be below high, got nan and 1.0"),
    "end": ((torch.tanh, "a", 1, 4), {}, TypeError, "low must be a number, got str"),
    "many": ((torch.tanh, -1, 1, 1025), {}, ValueError, "num_breakpoints must be from 2 to 1024, got 1025"),
    "float": ((torch.tanh, -1, 1, 4.0), {}, TypeError, "num_breakpoints must be an int, got float"),
    "spacing": ((torch.tanh, -1, 1, 4), {"spacing": "log"}, ValueError, "spacing must be 'uniform' or 'adaptive'"),
    "outer": (
        (torch.tanh, -1, 1, 4),
        {"outer": "x"},
        ValueError,
        "outer must be 'match' or 'flat' or 'extend', got 'x'",
    ),
    "fit": (
        (torch.tanh, -1, 1, 4),
        {"fit": "l1"},
        ValueError,
        "fit must be 'interpolate' or 'least_squares', got 'l1'",
    ),
    "slope": ((torch.tanh, -1, 1, 4), {"left_slope": "0"}, TypeError, "left_slope must be a number or None, got str"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    arguments, keywords, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message) as caught:
        fit(*arguments, **keywords)
    assert str(caught.value).startswith("fusedact.PWL.from_function: ")
