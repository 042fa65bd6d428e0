"""The module `PWL`: piecewise-linear activations, fixed or learned, and their constructors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.fx import GraphModule

from .. import compat, ops, registry, sharding
from ..checks import check_channel_dim, check_input, check_number
from ..looking.drawing import draw_tables
from ..registry import ActivationSpec
from ..saving.saving import check_save
from . import fitting, learned, table_checks, table_rows
from .export import plain_module
from .learned import Finder, Points
from .piecewise import Numbers, check_channels
from .simplification import needed_breakpoints
from .table_parameters import TableParameters, chosen_tables
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PWL"]

SPEC = registry.get("pwl")
OWNER = "fusedact.PWL"


class PWL(TableParameters):
    """Piecewise-linear function, fixed or learned. The module of `fusedact.functional.pwl`.

    Linear between the points (breakpoint, value), with the given slopes outside. At a breakpoint the gradient is the
    adjacent slope of smaller magnitude, the right one if both are equal.

    Args:
        breakpoints: K from 1 to 1024 strictly increasing numbers, of shape (K,) for one table or (C, K) for one per
            channel.
        values: the function at the breakpoints, in the same shape; one of both may be (K,) for all channels.
        left_slope, right_slope: the slopes outside: numbers, or one per channel.
        learnable: what gets gradients: "values", "slopes" (the outer ones), "breakpoints" or a tuple of these; True
            means the values. Breakpoints that learn keep their order: see min_gap.
        num_parameters: C for a learned table per channel, each beginning with the given one.
        monotone: every slope stays at least min_slope; the values must learn.
        min_slope: the bound of slopes, if monotone.
        min_gap: how close breakpoints that learn may come to each other; by default a hundredth of the smallest gap.
        channel_dim: the input's dimension that has C entries, if there is a table per channel; -1 for channels last.
        inplace: overwrite the input; of which a copy is kept where something learns.
        device, dtype: of the tables, which are parameters where they learn, else buffers. The device is that of a
            table given as a tensor, or the default.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.functional.pwl`.

    What learns is held under the table's name: `values`, `left_slope`, `right_slope`. Breakpoints that learn
    are held as `first_breakpoint` and `gaps`, the values of a monotone function as `first_value` and `inner_slopes`;
    gaps and slopes are kept above their bounds by projection when they are used. `breakpoints`, `values`, `left_slope`
    and `right_slope` always give the tables as they are. A state_dict of one table loads into one per channel.

    Weight decay pulls values to 0, which is seldom meant: give them a parameter group with weight_decay=0.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if a table is not made of numbers, or another argument has the wrong type.
        ValueError: if tables do not fit each other, are not finite or do not increase, values learn at fewer than two
            breakpoints, or the function is not monotone to begin with.

    >>> fusedact.PWL([0.0, 1.0], [0.0, 2.0], right_slope=1.0)
    PWL(2 breakpoints from 0 to 1, left_slope=0, right_slope=1)
    >>> fusedact.PWL([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0], right_slope=1.0, learnable=True, num_parameters=64)
    PWL(3 breakpoints from -1 to 1, left_slope=0, right_slope=1, learnable=values, 64 channels)

    Source: numpy.interp, with slopes outside; as a learned activation, Agostinelli et al., 2014, arXiv:1412.6830, and
    Zhou et al., 2021, arXiv:2104.03693.
    """

    inplace: bool
    save: str = "auto"
    # How many functions it holds: 1, or one for each channel.
    num_parameters: int
    # The first tables' largest distance from the function that `from_function` was given, and the root of the mean
    # square one; None for other tables.
    fitting_error: float | None
    fitting_rms: float | None

    def __init__(
        self,
        breakpoints: Numbers,
        values: Numbers,
        left_slope: float | Sequence[float] | Tensor = 0.0,
        right_slope: float | Sequence[float] | Tensor = 0.0,
        learnable: bool | str | tuple[str, ...] = False,
        num_parameters: int = 1,
        *,
        monotone: bool = False,
        min_slope: float = 0.0,
        min_gap: float | None = None,
        channel_dim: int = 1,
        inplace: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        super().__init__()
        check_save(OWNER, SPEC, save)
        chosen = chosen_tables(OWNER, learnable)
        if chosen and save == "bits":
            raise ValueError(f"{OWNER}: save='bits' cannot be combined with learnable tables, which need the input")
        cpu = torch.device("cpu")
        if device is None:
            given = [t for t in (breakpoints, values, left_slope, right_slope) if isinstance(t, Tensor)]
            device = given[0].device if given else torch.get_default_device()
        b, v = (table_checks.as_table(OWNER, n, t, cpu) for n, t in (("breakpoints", breakpoints), ("values", values)))
        channels = table_checks.channels_of(OWNER, b, v)
        slopes: list[Tensor] = []
        for name, s in (("left_slope", left_slope), ("right_slope", right_slope)):
            slope = torch.tensor(s, dtype=torch.float64, device=cpu) if isinstance(s, list | tuple) else s
            slope = table_checks.as_slope(OWNER, name, slope, channels)
            slope = slope if isinstance(slope, Tensor) else torch.tensor(slope, dtype=torch.float64, device=cpu)
            slopes.append(slope.reshape(-1))
            channels = max(channels, slopes[-1].numel())
        channels = _checked_channels(channels, num_parameters, chosen)
        dtype = dtype or torch.get_default_dtype()
        b, v, left, right = (t.detach().to(cpu, dtype) for t in (b, v, *slopes))
        table_checks.check_tables(OWNER, b, v, (left, right))
        if "values" in chosen and b.shape[-1] < 2:
            raise ValueError(f"{OWNER}: values learn at two breakpoints or more, got one; its slopes may learn")
        bound = check_number(OWNER, "min_slope", min_slope)
        self._hold(OWNER, (b, v, left, right), chosen, channels, monotone, bound, min_gap, device)
        self.channel_dim = check_channel_dim(OWNER, channel_dim)
        self.inplace = inplace
        self.save = save
        self.num_parameters = channels
        self.fitting_error = self.fitting_rms = None
        self._prepared: tuple[Any, list[Tensor], Table] | None = None
        self._planned: tuple[Any, Tensor, Finder] | None = None

    # ----- constructors

    @classmethod
    def from_slopes(
        cls, breakpoints: Sequence[float], slopes: Sequence[float], value_at_first: float = 0.0, **arguments: Any
    ) -> PWL:
        """The function with these slopes: before the first breakpoint, between breakpoints, after the last.

        Args:
            breakpoints: K strictly increasing numbers.
            slopes: K + 1 numbers.
            value_at_first: the function at the first breakpoint.
            arguments: of the class, as keywords.

        Raises:
            ValueError: if there are not K + 1 slopes.
        """
        owner = "fusedact.PWL.from_slopes"
        b, s = (
            table_checks.as_table(owner, n, t).double() for n, t in (("breakpoints", breakpoints), ("slopes", slopes))
        )
        if b.dim() != 1 or s.shape != (len(b) + 1,):
            raise ValueError(
                f"{owner}: slopes must have one entry more than breakpoints, "
                f"got {tuple(s.shape)} for breakpoints {tuple(b.shape)}"
            )
        first = check_number(owner, "value_at_first", value_at_first)
        steps = torch.cat([b.new_tensor([first]), s[1:-1] * b.diff()])
        return cls(b, steps.cumsum(0), s[0].item(), s[-1].item(), **arguments)

    @classmethod
    def from_function(
        cls,
        function: str | nn.Module | Callable[[Tensor], Tensor],
        low: float,
        high: float,
        num_breakpoints: int,
        *,
        spacing: str = "uniform",
        outer: str = "match",
        fit: str = "interpolate",
        left_slope: float | None = None,
        right_slope: float | None = None,
        **arguments: Any,
    ) -> PWL:
        """A piecewise-linear fit of a function. `fitting_error` is its largest distance from the function between
        `low` and `high`, and `fitting_rms` the root of the mean square one, at 256 points of each chord.

        Args:
            function: the name of an activation, a function or module of this library, a torch.nn module, or any
                elementwise function of a float64 tensor.
            low, high: the first and the last breakpoint.
            num_breakpoints: from 2 to 1024.
            spacing: "uniform"; or "adaptive": kinks are breakpoints, and between them they are dense where the
                function bends, such that all chords are about as far from it. Evenly spaced ones are found in less
                time.
            outer: the slopes outside. "match": of the function's asymptotes. The fit lies on an asymptote that passes
                the function's end no farther than the chords do; without an asymptote the slope is the function's own
                just outside. "flat": 0. "extend": the outermost chords go on.
            fit: "interpolate": the function's values at the breakpoints; or "least_squares": those with the least mean
                square distance, by which it falls to a sixth where the function is smooth.
            left_slope, right_slope: numbers in place of what `outer` says.
            arguments: parameters of an activation that is named, and arguments of the class.

        Raises:
            TypeError: if an argument has another type.
            ValueError: for an unknown name or choice, if low is not below high, if the number of breakpoints is out of
                range, or if the function is not elementwise or not finite from low to high.

        >>> act = fusedact.PWL.from_function("gelu", -4.0, 4.0, 32, spacing="adaptive")
        >>> act, round(act.fitting_error, 4)
        (PWL(32 breakpoints from -4 to 4, left_slope=0, right_slope=1), 0.001)
        """
        owner = "fusedact.PWL.from_function"
        parameters, arguments = fitting.split(owner, function, arguments)
        choices: dict[str, Any] = {"spacing": spacing, "outer": outer, "how": fit}
        choices |= {"left_slope": left_slope, "right_slope": right_slope}
        found = fitting.fit(owner, function, parameters, low, high, num_breakpoints, **choices)
        made = cls(found.breakpoints, found.values, found.left_slope, found.right_slope, **arguments)
        made.fitting_error, made.fitting_rms = found.errors(*made.initial[:2])
        return made

    @classmethod
    def identity(cls, **arguments: Any) -> PWL:
        """x, before anything is learned; `arguments` are those of the class, by name."""
        return cls([0.0], [0.0], 1.0, 1.0, **arguments)

    @classmethod
    def relu(cls, **arguments: Any) -> PWL:
        """max(x, 0), as torch.nn.ReLU; `arguments` are those of the class, by name."""
        return cls([0.0], [0.0], 0.0, 1.0, **arguments)

    @classmethod
    def leaky_relu(cls, slope: float = 0.01, **arguments: Any) -> PWL:
        """x where x > 0, else slope * x, as torch.nn.LeakyReLU; at 0 the gradient is the slope, if it is at most 1.

        The other `arguments` are those of the class, by name.
        """
        return cls([0.0], [0.0], slope, 1.0, **arguments)

    @classmethod
    def hardtanh(cls, low: float = -1.0, high: float = 1.0, **arguments: Any) -> PWL:
        """min(max(x, low), high), as torch.nn.Hardtanh; the other `arguments` are those of the class, by name."""
        return cls([low, high], [low, high], **arguments)

    @classmethod
    def hardsigmoid(cls, **arguments: Any) -> PWL:
        """min(max(x / 6 + 1 / 2, 0), 1), as torch.nn.Hardsigmoid; `arguments` are those of the class, by name."""
        return cls([-3.0, 3.0], [0.0, 1.0], **arguments)

    # ----- use

    def forward(self, input: Tensor) -> Tensor:
        if not is_compiling():
            check_input(SPEC, input)
        check_channels(OWNER, input, self.num_parameters, self.channel_dim)
        if is_compiling():
            given = learned.to_differentiate(input, self.inplace)
            y = learned.compiled(given, self._points(), self.channel_dim)
            return input.copy_(y) if self.inplace else y
        stored = self._all_stored()
        if stored[0].device != input.device:
            raise ValueError(
                f"{OWNER}: the input must be on the device of the tables, {stored[0].device}, "
                f"got a tensor on {input.device}"
            )
        learns = self.learnable and torch.is_grad_enabled() and any(t.requires_grad for t in stored)
        if learns or sharding.among(*stored) or (self.num_parameters > 1 and sharding.among(input)):
            given = learned.to_differentiate(input, self.inplace)
            y = learned.apply(OWNER, given, self._points(), self._finder(), self.channel_dim)
            return input.copy_(y) if self.inplace else y
        return ops.apply(self._table(input.dtype).spec, input, (), self.inplace, save=self.save)

    @property
    def spec(self) -> ActivationSpec:
        """The record of this function, which `fusedact.explain` asks for."""
        return self._table(torch.float32).spec

    def _points(self) -> Points:
        return Points(self.breakpoints, self.values, self.left_slope, self.right_slope)

    def _finder(self) -> Finder:
        """How segments are found while values change; asked of the tables' device once."""
        if "breakpoints" in self.learnable or not compat.holds_numbers(self.breakpoints):
            return learned.SEARCHING
        version, found = compat.version(self.breakpoints), self._planned
        if found is None or found[1] is not self.breakpoints or found[0] != version:
            table_checks.check_breakpoints(OWNER, self.breakpoints)
            self._planned = found = version, self.breakpoints, Finder(table_rows.plan(self.breakpoints))
        return found[2]

    def _table(self, dtype: torch.dtype) -> Table:
        """The prepared table, made anew when a tensor has changed, moved or been loaded."""
        stored = self._all_stored()
        key = (dtype == torch.float64, self.channel_dim, *map(compat.version, stored))
        found = self._prepared
        if found is None or found[0] != key or any(a is not b for a, b in zip(found[1], stored, strict=True)):
            with torch.no_grad():
                points = self._points()
                how = table_rows.SEARCH
                if not points.breakpoints.is_meta:
                    table_checks.check_tables(OWNER, points.breakpoints, points.values, points[2:])
                    how = table_rows.plan(points.breakpoints, points.values)
                table = points.table(torch.empty(0, dtype=dtype), how, self.channel_dim)
            if compat.transforms_active():
                # What is made under a transform belongs to it.
                return table
            self._prepared = found = key, stored, table
        return found[2]

    def to_torch(self, method: str | None = None) -> GraphModule:
        """The same function as it is now, in plain PyTorch: for exporters, and for programs without this library.

        Its tables are buffers, apart from this module's. It is differentiable in its input, compiles and exports; what
        `torch.save` writes of it is loaded without fusedact.

        Args:
            method: "where", a comparison for each breakpoint; "bucketize", a search and gathers; None for the faster
                one. ONNX has no search in a table per channel.

        Returns:
            a torch.fx.GraphModule, which prints as the Python code that it is.

        Raises:
            ValueError: for another method.

        >>> fusedact.PWL.hardtanh().to_torch()(torch.tensor([-2.0, 0.5, 3.0]))
        tensor([-1.0000,  0.5000,  1.0000])
        """
        parts = (self.breakpoints, self.values, self.left_slope, self.right_slope)
        return plain_module("fusedact.PWL.to_torch", *parts, self.channel_dim, method)

    def plot(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        initial: bool = True,
        slopes: bool = True,
        path: str | PathLike[str] | None = None,
    ) -> Figure:
        """Draw the function, with a dot at each breakpoint, and over it that with which a module that learns began.

        With a table per channel each is a thin line, and their mean a thick one.

        Args:
            low, high: the ends of the inputs; by default a little outside the breakpoints.
            initial: draw the function with which a module that learns began, dashed.
            slopes: draw the slopes beside.
            path: where to save the figure, if anywhere.

        Returns:
            a matplotlib Figure.

        Raises:
            ImportError: without matplotlib.
            ValueError: if low is not below high.
        """
        parts = (self.breakpoints, self.values, self.left_slope, self.right_slope)
        began = self.initial if initial and self.learnable else None
        return draw_tables("fusedact.PWL.plot", parts, began, low, high, slopes, path)

    def simplified(self, tolerance: float = 0.0) -> PWL:
        """A fixed PWL with as few of these breakpoints as serve to stay within `tolerance` of this function everywhere.

        The outer slopes stay. Tables per channel keep the same ones out of their breakpoints.

        Args:
            tolerance: how far values may move: beyond what rounding does, if it is 0.

        Raises:
            TypeError: if it is no number.
            ValueError: if it is negative or not finite.

        >>> fusedact.PWL.from_function("hardtanh", -2.0, 2.0, 17).simplified()
        PWL(2 breakpoints from -1 to 1, left_slope=0, right_slope=0)
        """
        b, v, left, right = (t.detach() for t in (self.breakpoints, self.values, self.left_slope, self.right_slope))
        kept = needed_breakpoints("fusedact.PWL.simplified", b, v, left, right, tolerance).to(b.device)
        place: dict[str, Any] = {"channel_dim": self.channel_dim, "device": b.device, "dtype": b.dtype}
        return PWL(b[..., kept], v[..., kept], left, right, inplace=self.inplace, **place)

    def extra_repr(self) -> str:
        b = self.breakpoints.detach().reshape(-1, self.breakpoints.shape[-1])
        count = f"{b.shape[1]} breakpoint{'s' if b.shape[1] > 1 else ''}"
        where = f"from {b.min().item():g} to {b.max().item():g}" if b.shape[1] > 1 else f"at {b[0, 0].item():g}"
        parts = [f"{count} {where}"]
        for name in ("left_slope", "right_slope"):
            slope = getattr(self, name)
            parts.append(f"{name}={slope.item():g}" if slope.numel() == 1 else f"{name} per channel")
        if self.learnable:
            parts.append(f"learnable={'+'.join(self.learnable)}")
        if self.monotone:
            parts.append(f"min_slope={self.min_slope:g}")
        if self.num_parameters > 1:
            parts.append(f"{self.num_parameters} channels")
            if self.channel_dim != 1:
                parts.append(f"channel_dim={self.channel_dim}")
        if self.inplace:
            parts.append("inplace=True")
        if self.save != "auto":
            parts.append(f"save={self.save!r}")
        return ", ".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None, "_planned": None}


def _checked_channels(channels: int, num_parameters: int, chosen: tuple[str, ...]) -> int:
    """How many tables there are, from how many were given and how many are to learn."""
    if isinstance(num_parameters, bool) or not isinstance(num_parameters, int):
        raise TypeError(f"{OWNER}: num_parameters must be an int, got {type(num_parameters).__name__}")
    if num_parameters < 1 or (num_parameters > 1 and not chosen):
        accepted = "at least 1" if chosen else "1, since nothing is learnable"
        raise ValueError(f"{OWNER}: num_parameters must be {accepted}, got {num_parameters}")
    if num_parameters > 1 and channels not in (1, num_parameters):
        raise ValueError(
            f"{OWNER}: num_parameters must be {channels}, as the tables have channels, got {num_parameters}"
        )
    return max(channels, num_parameters)
