"""`plot`: activations, their derivatives and second derivatives."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..checks import check_number
from ..dispatch import backend
from ..modules import PWL
from ..piecewise.callables import as_function, check_elementwise, values
from ..piecewise.placement import kinks_of
from ..properties import derivative
from .drawing import bundle, empty_figure, mark, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "plot"]

OWNER = "fusedact.plot"
Activation = str | nn.Module | Callable[..., Tensor]
Drawn = Activation | tuple[Activation, Activation]

POINTS = 1001
# The inputs by default; more where the function bends or jumps up to FAR, unless at more than MANY places.
USUAL, FAR, MANY, BEYOND = 5.0, 16.0, 8, 0.15
TITLES = ("value", "derivative", "second derivative")
# Where all share their axes.
LINES = ("-", "--", ":")


class _Subject(NamedTuple):
    """What is drawn: a function of tensors of shape (points, channels), elementwise; its label, its breakpoints."""

    function: Callable[[Tensor], Tensor]
    channels: int
    label: str
    # Breakpoints and values of its tables, if it is made of them.
    tables: tuple[Tensor, Tensor] | None


def plot(
    *activations: Drawn,
    low: float | None = None,
    high: float | None = None,
    derivatives: int = 2,
    ax: Axes | Sequence[Axes] | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    **parameters: Any,
) -> Figure:
    """Draw activations, and beside them their derivatives and second derivatives.

    Derivatives are those of autograd, in float64: at a kink the one that training sees; a jump of the derivative does
    not show in the second one.

    Args:
        activations: names, modules of any library, functions of this one, what `fusedact.activation` made, or any
            function of a tensor that works element by element. A module is drawn as it is, with what it has learned;
            where a parameter has an entry per channel, each channel is a thin line, and their mean a thick one. Of
            piecewise-linear functions up to 256 breakpoints are marked. A pair, such as before and after learning,
            has axes of its own, on which the first is dashed.
        low, high: the ends of the inputs; by default -5 and 5, or further, where the function bends up to 16.
        derivatives: how many to draw: 0, 1 or 2.
        ax: where to draw: matplotlib's axes, one for each of value and derivatives, or a single one for all; by
            default those of a new figure.
        labels: of the activations, in place of their names and parameters.
        title: of the figure, in place of the label of what is drawn alone.
        parameters: of the activation, by name, if there is but one and it is no module.

    Returns:
        the matplotlib Figure: `figure.savefig(path)` writes it, and a notebook shows it.

    Raises:
        ImportError: without matplotlib.
        TypeError: if an activation is none of these, or has no such parameter.
        ValueError: without an activation, for an unknown name, for what is not elementwise, if low is not below high,
            or if derivatives, axes or labels do not fit.

    >>> figure = fusedact.plot("mish", "gelu", low=-4.0, high=4.0)
    >>> [axes.get_title() for axes in figure.axes]
    ['value', 'derivative', 'second derivative']
    """
    single = [drawn for drawn in activations if not isinstance(drawn, tuple)]
    pairs = [drawn for drawn in activations if isinstance(drawn, tuple)]
    _check(activations, pairs, derivatives, labels, parameters)
    named = dict(zip(map(id, activations), labels or (None,) * len(activations), strict=True))
    with torch.device("cpu"), backend("eager"):
        rows = [
            [
                [_subject(a, parameters, named[id(drawn)]) for a in (drawn if isinstance(drawn, tuple) else (drawn,))]
                for drawn in row
            ]
            for row in (single, pairs)
            if row
        ]
        ends = _ends([s for row in rows for both in row for s in both], low, high)
        figure, panels = _panels(ax, len(rows), derivatives + 1)
        for row, axes in zip(rows, panels, strict=True):
            _draw_row(row, axes, *ends, derivatives)
    _finish(figure, panels, rows, derivatives, title, ax is None)
    return figure


def curves(
    activation: Activation, low: float, high: float, points: int = POINTS, derivatives: int = 1, **parameters: Any
) -> tuple[Tensor, ...]:
    """Inputs, values and derivatives in float64 on an even grid, with a column per channel if parameters have entries.

    Inputs have shape (points,), the others (points,), or (points, channels) if there are several.

    Raises:
        TypeError: if it is no activation, or has no such parameter.
        ValueError: for softmax and its kin, whose elements depend on each other.
    """
    with torch.device("cpu"), backend("eager"):
        subject = _subject(activation, parameters, None)
        x = torch.linspace(low, high, points, dtype=torch.float64)
        found = _evaluated(subject, x, derivatives)
    return x, *(t[:, 0] if subject.channels == 1 else t for t in found)


# ----- what is given


def _check(
    activations: Sequence[Any],
    pairs: Sequence[Any],
    derivatives: object,
    labels: Sequence[str] | None,
    parameters: dict[str, Any],
) -> None:
    """Raise TypeError or ValueError unless the arguments of `plot` fit each other."""
    if not activations:
        raise ValueError(f"{OWNER}: name at least one activation")
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"{OWNER}: a pair is an activation before and one after, got {len(pair)}")
    if isinstance(derivatives, bool) or derivatives not in (0, 1, 2):
        raise ValueError(f"{OWNER}: derivatives must be 0, 1 or 2, got {derivatives!r}")
    if labels is not None and (isinstance(labels, str) or len(labels) != len(activations)):
        raise ValueError(f"{OWNER}: labels must be one for each of {len(activations)} activations, got {labels!r}")
    if parameters and (len(activations) > 1 or pairs or isinstance(activations[0], nn.Module)):
        raise TypeError(
            f"{OWNER}: {', '.join(parameters)}: parameters are taken for one activation that is no module; give "
            "several as modules, such as fusedact.ELU(0.5)"
        )


def _subject(activation: Any, parameters: dict[str, Any], label: str | None) -> _Subject:
    """What is drawn of an activation.

    Raises:
        TypeError: if it is none.
        ValueError: if it is not elementwise.
    """
    tables = None
    if isinstance(activation, nn.Module):
        # What is random draws its mean.
        activation = copy.deepcopy(activation).to("cpu").eval()
        tables = (activation.breakpoints, activation.values) if isinstance(activation, PWL) else None
    elif activation == "pwl" and {"breakpoints", "values"} <= parameters.keys():
        tables = (torch.as_tensor(parameters["breakpoints"]), torch.as_tensor(parameters["values"]))
    if tables is not None:
        tables = (tables[0].detach().double().cpu(), tables[1].detach().double().cpu())
    channels = getattr(activation, "num_parameters", 1) if isinstance(activation, nn.Module) else 1
    shown = _label(activation, parameters) if label is None else label
    if channels > 1:
        return _Subject(_by_channel(activation.double()), channels, shown, tables)
    given, name = as_function(OWNER, activation, parameters, "curve")

    def function(x: Tensor) -> Tensor:
        return values(OWNER, given, x[:, 0], name)[:, None]

    with torch.no_grad():
        # Not symmetric: else a mean, too, might not show that it depends on all.
        check_elementwise(OWNER, given, torch.linspace(-4.0, 5.0, 18, dtype=torch.float64), name)
    return _Subject(function, 1, shown, tables)


def _by_channel(module: Any) -> Callable[[Tensor], Tensor]:
    """A module with channels, of inputs of shape (points, channels)."""
    channel = cast("int", module.channel_dim)
    # As many dimensions as the channels' one needs; the points lie along another.
    count = max(2, channel + 1, -channel)
    channel %= count
    along = 0 if channel else 1

    def function(x: Tensor) -> Tensor:
        y = module(x.reshape(*x.shape, *[1] * (count - 2)).movedim((0, 1), (along, channel)))
        return y.movedim((along, channel), (0, 1)).reshape(x.shape)

    return function


def _label(activation: Any, parameters: dict[str, Any]) -> str:
    """What is drawn, in words: learned parameters by their values."""
    if isinstance(activation, functools.partial):
        return _label(activation.func, {**activation.keywords, **parameters})
    if not isinstance(activation, nn.Module):
        name = activation if isinstance(activation, str) else getattr(activation, "__name__", type(activation).__name__)
        given = ", ".join(f"{n}={v:g}" if isinstance(v, float) else f"{n}={v}" for n, v in parameters.items())
        return f"{name}({given})" if given and activation != "pwl" else name
    text = repr(activation)
    learned = {n: _range(p.detach()) for n, p in activation.named_parameters(recurse=False)}
    for name, value in learned.items():
        text = text.replace(f"{name}=learnable", f"{name}={value}")
    if learned and getattr(getattr(activation, "spec", None), "always_learned", False):
        text = f"{type(activation).__name__}({', '.join(f'{n}={v}' for n, v in learned.items())})"
    return type(activation).__name__ if "\n" in text else text


def _range(values: Tensor) -> str:
    low, high = f"{values.min().item():.4g}", f"{values.max().item():.4g}"
    return low if low == high else f"{low} to {high}"


def _ends(subjects: Sequence[_Subject], low: float | None, high: float | None) -> tuple[float, float]:
    """The ends of the inputs.

    Raises:
        ValueError: if low is not below high.
    """
    ends = [-USUAL if low is None else check_number(OWNER, "low", low)]
    ends += [USUAL if high is None else check_number(OWNER, "high", high)]
    bends: list[float] = []
    if low is None or high is None:
        for subject in subjects:
            found = [] if subject.tables is None else subject.tables[0].flatten().tolist()
            if subject.tables is None and subject.channels == 1:
                at = kinks_of(lambda x, s=subject: _evaluated(s, x, 0)[0][:, 0], -FAR, FAR)  # type: ignore[misc]
                found = [place for place, _, _ in at] if len(at) <= MANY else []
            bends += found
    if bends:
        room = BEYOND * (max(*bends, ends[1]) - min(*bends, ends[0]))
        if low is None and min(bends) < -USUAL + 0.5:
            ends[0] = min(bends) - room
        if high is None and max(bends) > USUAL - 0.5:
            ends[1] = max(bends) + room
    if not ends[0] < ends[1]:
        raise ValueError(f"{OWNER}: low must be below high, got {ends[0]} and {ends[1]}")
    return ends[0], ends[1]


def _evaluated(subject: _Subject, x: Tensor, derivatives: int) -> list[Tensor]:
    """Values and derivatives, of shape (points, channels)."""
    return derivative(subject.function, x[:, None].expand(-1, subject.channels), derivatives)


# ----- drawing


def _panels(ax: Any, rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """The figure, and for each row the axes of value and derivatives.

    Raises:
        ValueError: if these are not as many as are needed.
    """
    if ax is None:
        figure = empty_figure(OWNER, {1: 5.5, 2: 10.0, 3: 13.5}[columns], 3.8 * rows)
        return figure, [list(row) for row in figure.subplots(rows, columns, squeeze=False)]
    given = [ax] * columns if hasattr(ax, "plot") else list(getattr(ax, "flat", ax))
    if rows > 1 or len(given) != columns:
        wanted = "a new figure, as there are pairs and others" if rows > 1 else f"one, or {columns}"
        raise ValueError(f"{OWNER}: ax must be {wanted}, got {len(given)}")
    return cast("Figure", given[0].get_figure()), [given]


def _draw_row(
    row: Sequence[Sequence[_Subject]], panels: Sequence[Axes], low: float, high: float, derivatives: int
) -> None:
    """Values and derivatives, each on its axes, or all on one."""
    shared = derivatives > 0 and panels[0] is panels[-1]
    x = torch.linspace(low, high, POINTS, dtype=torch.float64)
    for *before, subject in row:
        colour = None
        for order, y in enumerate(_evaluated(subject, x, derivatives)):
            look: dict[str, Any] = {"linestyle": LINES[order] if shared else "-", "color": colour}
            colour = _draw(panels[order], x, y, label=None if order else subject.label, **look)
        if subject.tables is not None:
            mark(panels[0], *subject.tables, low, high, colour)
        for first in before:
            for axes, y in zip(panels, _evaluated(first, x, derivatives), strict=True):
                _draw(axes, x, y, color=colour, linestyle="--", thin=False)
    for order, axes in enumerate(panels[:1] if shared else panels):
        style(axes, "" if shared else TITLES[order] + (" (dashed: before)" if len(row[0]) > 1 else ""))


def _draw(axes: Axes, x: Tensor, y: Tensor, thin: bool = True, **look: Any) -> Any:
    """A curve; of several channels their mean, and each of them thin. Returns the colour."""
    (line,) = axes.plot(x.numpy(), y.mean(1).numpy(), linewidth=2, **look)
    if y.shape[1] > 1 and thin:
        axes.plot(x.numpy(), y.numpy(), color=line.get_color(), zorder=1, **bundle(y.shape[1]))
    return line.get_color()


def _finish(
    figure: Figure,
    panels: Sequence[Sequence[Axes]],
    rows: Sequence[Sequence[Sequence[_Subject]]],
    derivatives: int,
    title: str | None,
    own: bool,
) -> None:
    """Legends and titles."""
    alone = len(rows) == 1 and len(rows[0]) == 1
    first, *others = panels[0]
    if not own:
        if others and first is others[0]:
            _add_line_styles(first, derivatives, rows[0][0][-1].label if alone else None)
            first.set_title(title if title is not None else rows[0][0][-1].label if alone else "")
        else:
            first.legend(frameon=False)
            if title is not None:
                first.set_title(title)
        return
    if alone or title is not None:
        figure.suptitle(title if title is not None else rows[0][0][-1].label)
    for row, (axes, *_) in zip(rows, panels, strict=True):
        if len(row[0]) > 1 and not alone:
            axes.legend(loc="upper left", frameon=False)
        elif not alone:
            # Outside: a module's repr may be long.
            handles, labels = axes.get_legend_handles_labels()
            fitting = (60 * (derivatives + 1)) // (max(map(len, labels)) + 8)
            columns = max(1, min(len(labels), fitting))
            figure.set_figheight(3.8 * len(rows) + 0.22 * -(-len(labels) // columns))
            where: Any = "outside upper center" if len(rows) > 1 else "outside lower center"
            figure.legend(handles, labels, loc=where, frameon=False, ncols=columns)


def _add_line_styles(axes: Axes, derivatives: int, alone: str | None) -> None:
    """A legend of lines that tell derivatives apart, and, unless one is drawn alone, of the activations."""
    found = zip(*axes.get_legend_handles_labels(), strict=True)
    handles, labels = [], []
    colour: Any = "0.3"
    for handle, label in found:
        if label == alone:
            colour = cast("Any", handle).get_color()
        else:
            handles.append(handle)
            labels.append(label)
    for line, name in zip(LINES[: derivatives + 1], TITLES, strict=False):
        handles += axes.plot([], [], line, color=colour)
        labels.append(name)
    axes.legend(handles, labels, frameon=False)
