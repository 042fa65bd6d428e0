"""What `fusedact.plot` draws."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import fusedact
from fusedact import functional as FF
from fusedact.looking import plotting


def lines(axes):
    """The curves, without axes through the origin, breakpoints and channels."""
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 2 and line.get_linewidth() == 2]


def thin(axes):
    return [line for line in axes.get_lines() if line.get_linewidth() < 0.75]


def dots(axes):
    return [line for line in axes.get_lines() if line.get_marker() == "o"]


def test_value_derivative_and_second_derivative():
    figure = fusedact.plot("relu_sigmoid", fusedact.ELU(0.5), low=-2, high=2)
    assert [axes.get_title() for axes in figure.axes] == ["value", "derivative", "second derivative"]
    drawn = [lines(axes)[1] for axes in figure.axes]
    x = torch.from_numpy(drawn[0].get_xdata())
    assert (x[0], x[-1], len(x)) == (-2, 2, plotting.POINTS)
    below = 0.5 * x.exp()
    truths = torch.where(x > 0, x, below - 0.5), torch.where(x > 0, 1.0, below), torch.where(x > 0, 0.0, below)
    for line, truth in zip(drawn, truths, strict=True):
        np.testing.assert_allclose(line.get_ydata(), truth.numpy(), atol=1e-12)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["relu_sigmoid", "ELU(alpha=0.5)"]


@pytest.mark.parametrize("derivatives", [0, 1, 2])
def test_as_many_derivatives_as_are_asked_for(derivatives):
    assert len(fusedact.plot("mish", derivatives=derivatives).axes) == derivatives + 1


@pytest.mark.parametrize("name", fusedact.names("elementwise"))
def test_every_activation_has_both_derivatives(name):
    """By differences."""
    needed = {p.name: p.default for p in fusedact.functional.registry.get(name).parameters if p.required_by_module}
    x, y, slope, second = plotting.curves(name, -3.71, 3.69, 4001, 2, **needed)
    step = (x[1] - x[0]).item()
    for f, d in ((y, slope), (slope, second)):
        off = (f[2:] - f[:-2]) / (2 * step) - d[1:-1]
        # But beside a handful of kinks.
        assert (off.abs() > 2e-4 * (1 + d[1:-1].abs())).sum() <= 12


def test_what_may_be_drawn():
    """Functions and modules of any library, with what they hold; labels tell it."""

    @fusedact.activation
    def own(x, a=1.0):
        return x * torch.sigmoid(a * x)

    learned = fusedact.Swish(learnable=True)
    with torch.no_grad():
        learned.beta.fill_(2.0)
    given = [own, FF.silu, torch.sin, functools.partial(FF.swish, beta=2.0), learned, torch.nn.Softplus()]
    figure = fusedact.plot(*given, fusedact.PReLU(), torch.nn.Sequential(torch.nn.ReLU()), low=-1, high=1)
    drawn = lines(figure.axes[0])
    labels = [line.get_label() for line in drawn]
    assert labels == [
        *("own", "silu", "sin", "swish(beta=2)", "Swish(beta=2)", "Softplus(beta=1.0, threshold=20.0)"),
        *("PReLU(weight=0.25)", "Sequential"),
    ]
    np.testing.assert_allclose(drawn[0].get_ydata(), drawn[1].get_ydata(), atol=1e-12)
    np.testing.assert_allclose(drawn[3].get_ydata(), drawn[4].get_ydata(), atol=1e-12)
    assert learned.beta.dtype == torch.float32 and learned.training


def test_parameters_by_name():
    figure = fusedact.plot("leaky_relu", negative_slope=0.5, derivatives=0, low=-4.0, high=4.0)
    (line,) = lines(figure.axes[0])
    assert line.get_ydata()[0] == -2.0
    assert figure.get_suptitle() == "leaky_relu(negative_slope=0.5)"


def test_random_slopes_are_drawn_by_their_mean():
    act = fusedact.RReLU(0.1, 0.3)
    _, y = plotting.curves(act, -2.0, -1.0, 3, 0)
    torch.testing.assert_close(y, torch.tensor([-0.4, -0.3, -0.2], dtype=torch.float64))
    assert act.training


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1, -3])
def test_channels_are_a_bundle_with_their_mean(channel_dim):
    act = fusedact.Swish(learnable=True, num_parameters=3, channel_dim=channel_dim)
    with torch.no_grad():
        act.beta.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x, values, slopes = plotting.curves(act, -2.0, 2.0, points=5)
    assert values.shape == slopes.shape == (5, 3)
    torch.testing.assert_close(values, x[:, None] * torch.sigmoid(x[:, None] * act.beta.detach().double()))
    figure = fusedact.plot(act)
    for axes, y in zip(figure.axes, plotting.curves(act, -5.0, 5.0, derivatives=2)[1:], strict=True):
        (line,) = lines(axes)
        np.testing.assert_allclose(line.get_ydata(), y.mean(1).numpy())
        for channel, curve in zip(thin(axes), y.unbind(1), strict=True):
            np.testing.assert_allclose(channel.get_ydata(), curve.numpy())
            assert channel.get_color() == line.get_color()
    assert figure.get_suptitle() == (
        f"Swish(beta=0.5 to 2, num_parameters=3{f', channel_dim={channel_dim}' if channel_dim != 1 else ''})"
    )


def test_breakpoints_are_marked():
    points, heights = [-7.0, 0.0, 2.0], [1.0, 0.0, 1.0]
    for figure in (
        fusedact.plot(fusedact.PWL(points, heights, learnable=True)),
        fusedact.plot("pwl", breakpoints=points, values=heights),
    ):
        (marked,) = dots(figure.axes[0])
        assert (list(marked.get_xdata()), list(marked.get_ydata())) == (points, heights)
        assert not dots(figure.axes[1])
        # All of them show.
        assert lines(figure.axes[0])[0].get_xdata()[0] < -7.0


def test_inputs_reach_as_far_as_it_bends():
    def reach(*given, **keywords):
        x = lines(fusedact.plot(*given, derivatives=0, **keywords).axes[0])[0].get_xdata()
        return x[0], x[-1]

    assert reach("mish") == (-5.0, 5.0)
    low, high = reach("relu6")
    assert low == -5.0 and 6.5 < high < 9.0
    assert reach("relu6", high=4.0) == (-5.0, 4.0)


def test_pairs_have_axes_of_their_own():
    before, after = (fusedact.ELU(alpha, learnable=True) for alpha in (1.0, 0.5))
    figure = fusedact.plot("selu", (before, after), derivatives=1)
    assert [len(lines(axes)) for axes in figure.axes] == [1, 1, 2, 2]
    for axes in figure.axes[2:]:
        solid, dashed = lines(axes)
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
        assert solid.get_color() == dashed.get_color()
    starts = [line.get_ydata()[0] for line in lines(figure.axes[2])]
    np.testing.assert_allclose(starts, [-0.5, -1.0], rtol=0.01)
    assert len(fusedact.plot((before, after)).axes) == 3


def test_axes_of_ones_own():
    figure = Figure()
    one, (first, second) = figure.add_subplot(211), (figure.add_subplot(223), figure.add_subplot(224))
    assert fusedact.plot("mish", ax=one) is figure
    assert [line.get_linestyle() for line in lines(one) if line.get_xdata()[0] == -5] == ["-", "--", ":"]
    assert [t.get_text() for t in one.get_legend().get_texts()] == ["value", "derivative", "second derivative"]
    assert one.get_title() == "mish"
    fusedact.plot("mish", "elu", ax=np.array([first, second]), derivatives=1, labels=["a", "b"])
    assert [len(lines(axes)) for axes in (first, second)] == [2, 2]
    assert [t.get_text() for t in first.get_legend().get_texts()] == ["a", "b"]


def test_titles_and_notebooks():
    figure = fusedact.plot("mish", "elu", title="Two")
    assert figure.get_suptitle() == "Two"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_does_not_differentiate_has_slope_0():
    *_, slope, second = plotting.curves(lambda x: (x > 0).double(), -1.0, 1.0, 5, 2)
    assert not slope.any() and not second.any()


def test_gradients_are_drawn_where_none_are_recorded():
    with torch.no_grad():
        (line,) = lines(fusedact.plot("mish", derivatives=1).axes[1])
    assert line.get_ydata()[-1] == pytest.approx(1.0, abs=1e-2)


ERRORS = {
    "nothing": (lambda: fusedact.plot(), ValueError, "name at least one"),
    "ends": (lambda: fusedact.plot("elu", low=3.0, high=1.0), ValueError, "low must be below high, got 3.0 and 1.0"),
    "name": (lambda: fusedact.plot("rellu"), ValueError, "no activation is named 'rellu'; did you mean 'relu'"),
    "rows": (lambda: fusedact.plot("softmax"), ValueError, "softmax is not elementwise, and has no curve"),
    "elements": (lambda: fusedact.plot(lambda x: x - x.mean()), ValueError, "must be elementwise"),
    "type": (lambda: fusedact.plot(3), TypeError, "must be a name, a module or a function of a tensor, got int"),
    "class": (lambda: fusedact.plot(torch.nn.ReLU), TypeError, "got the class ReLU"),
    "parameter": (lambda: fusedact.plot("elu", beta=1.0), TypeError, "elu has no parameter beta"),
    "parameters": (lambda: fusedact.plot("elu", "celu", alpha=1.0), TypeError, "taken for one activation"),
    "module": (lambda: fusedact.plot(fusedact.ELU(), alpha=1.0), TypeError, "taken for one activation"),
    "needed": (lambda: fusedact.plot("threshold"), TypeError, "threshold needs threshold and value"),
    "derivatives": (lambda: fusedact.plot("elu", derivatives=3), ValueError, "derivatives must be 0, 1 or 2, got 3"),
    "labels": (lambda: fusedact.plot("elu", labels=["a", "b"]), ValueError, "labels must be one for each of 1"),
    "axes": (lambda: fusedact.plot("elu", ax=[None, None]), ValueError, "ax must be one, or 3, got 2"),
    "pair": (lambda: fusedact.plot(("elu",)), ValueError, "a pair is an activation before and one after, got 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


def test_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "import fusedact\n"
        "try: fusedact.plot('elu')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "fusedact.plot needs matplotlib: pip install 'fusedact[plot]'\n"
