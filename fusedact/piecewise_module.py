"""The module `PWL`: piecewise-linear activations, fixed or learned, and their constructors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import compat, learned, ops, registry, tables
from .checks import check_channel_dim, check_input, check_number
from .learned import Points
from .piecewise import Numbers, check_channels, pwl
from .registry import ActivationSpec
from .table_parameters import TableParameters, chosen_tables
from .tables import Plan, Table

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
        inplace: overwrite the input; only if nothing learns.
        device, dtype: of the tables, which are parameters where they learn, else buffers.

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
    # The largest distance from the function that `from_function` was given; None for other tables.
    fitting_error: float | None

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
    ) -> None:
        super().__init__()
        chosen = chosen_tables(OWNER, learnable)
        if chosen and inplace:
            raise ValueError(f"{OWNER}: inplace=True cannot be combined with learnable tables")
        b, v = (tables.as_table(OWNER, n, t) for n, t in (("breakpoints", breakpoints), ("values", values)))
        channels = tables.channels_of(OWNER, b, v)
        slopes: list[Tensor] = []
        for name, s in (("left_slope", left_slope), ("right_slope", right_slope)):
            slope = torch.tensor(s, dtype=torch.float64) if isinstance(s, list | tuple) else s
            slopes.append(torch.as_tensor(tables.as_slope(OWNER, name, slope, channels)).reshape(-1))
            channels = max(channels, slopes[-1].numel())
        channels = _checked_channels(channels, num_parameters, chosen)
        dtype = dtype or torch.get_default_dtype()
        b, v, left, right = (t.detach().to(dtype) for t in (b, v, *slopes))
        tables.check_tables(OWNER, b, v, (left, right))
        if "values" in chosen and b.shape[-1] < 2:
            raise ValueError(f"{OWNER}: values learn at two breakpoints or more, got one; its slopes may learn")
        bound = check_number(OWNER, "min_slope", min_slope)
        self._hold(OWNER, (b, v, left, right), chosen, channels, monotone, bound, min_gap, device)
        self.channel_dim = check_channel_dim(OWNER, channel_dim)
        self.inplace = inplace
        self.fitting_error = None
        self._prepared: tuple[Any, list[Tensor], Table] | None = None
        self._planned: tuple[Any, Tensor, Plan] | None = None

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
        b, s = (tables.as_table(owner, n, t).double() for n, t in (("breakpoints", breakpoints), ("slopes", slopes)))
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
        function: Callable[[Tensor], Tensor],
        low: float,
        high: float,
        num_breakpoints: int,
        *,
        left_slope: float | None = None,
        right_slope: float | None = None,
        **arguments: Any,
    ) -> PWL:
        """The chords of a function between evenly spaced points; `fitting_error` is their distance from it,
        the largest at 64 points of each chord.

        Args:
            function: maps a float64 tensor to one of its shape.
            low, high: the first and the last breakpoint.
            num_breakpoints: from 2 to 1024.
            left_slope, right_slope: the slopes outside; by default the outermost chords go on.
            arguments: of the class, as keywords.

        Raises:
            ValueError: if low is not below high, or the number of breakpoints is out of range.

        >>> act = fusedact.PWL.from_function(torch.tanh, -4.0, 4.0, 65, left_slope=0.0, right_slope=0.0)
        >>> round(act.fitting_error, 4)
        0.0015
        """
        owner = "fusedact.PWL.from_function"
        if not low < high:
            raise ValueError(f"{owner}: low must be below high, got {low} and {high}")
        if not 2 <= num_breakpoints <= tables.MAX_BREAKPOINTS:
            raise ValueError(
                f"{owner}: num_breakpoints must be from 2 to {tables.MAX_BREAKPOINTS}, got {num_breakpoints}"
            )
        b = torch.linspace(low, high, num_breakpoints, dtype=torch.float64)
        v = function(b).detach()
        chords = v.diff() / b.diff()
        left = chords[0].item() if left_slope is None else left_slope
        right = chords[-1].item() if right_slope is None else right_slope
        made = cls(b, v, left, right, **arguments)
        between = torch.linspace(low, high, 64 * (num_breakpoints - 1) + 1, dtype=torch.float64)
        widths = (num_breakpoints, num_breakpoints, 1, 1)
        points = [t.double().reshape(-1, w)[0] for t, w in zip(made.initial, widths, strict=True)]
        with torch.no_grad():
            error = pwl(between, *points) - function(between)
        made.fitting_error = error.abs().max().item()
        return made

    @classmethod
    def identity(cls, **arguments: Any) -> PWL:
        """x."""
        return cls([0.0], [0.0], 1.0, 1.0, **arguments)

    @classmethod
    def relu(cls, **arguments: Any) -> PWL:
        """max(x, 0), as torch.nn.ReLU."""
        return cls([0.0], [0.0], 0.0, 1.0, **arguments)

    @classmethod
    def leaky_relu(cls, slope: float = 0.01, **arguments: Any) -> PWL:
        """x where x > 0, else slope * x, as torch.nn.LeakyReLU; at 0 the gradient is the slope, if it is at most 1."""
        return cls([0.0], [0.0], slope, 1.0, **arguments)

    @classmethod
    def hardtanh(cls, low: float = -1.0, high: float = 1.0, **arguments: Any) -> PWL:
        """min(max(x, low), high), as torch.nn.Hardtanh."""
        return cls([low, high], [low, high], **arguments)

    @classmethod
    def hardsigmoid(cls, **arguments: Any) -> PWL:
        """min(max(x / 6 + 1 / 2, 0), 1), as torch.nn.Hardsigmoid."""
        return cls([-3.0, 3.0], [0.0, 1.0], **arguments)

    # ----- use

    def forward(self, input: Tensor) -> Tensor:
        if not is_compiling():
            check_input(SPEC, input)
        check_channels(OWNER, input, self._channels, self.channel_dim)
        if is_compiling():
            y = learned.compiled(input, self._points(), self.channel_dim)
            return input.copy_(y) if self.inplace else y
        stored = self._all_stored()
        if stored[0].device != input.device:
            raise ValueError(
                f"{OWNER}: the input must be on the device of the tables, {stored[0].device}, "
                f"got a tensor on {input.device}"
            )
        if self.learnable and torch.is_grad_enabled() and any(t.requires_grad for t in stored):
            return learned.apply(input, self._points(), self._plan(), self.channel_dim)
        return ops.apply(self._table(input.dtype).spec, input, (), self.inplace)

    @property
    def _channels(self) -> int:
        return tables.rows_of(*self._points())

    @property
    def spec(self) -> ActivationSpec:
        """The record of this function, which `fusedact.explain` asks for."""
        return self._table(torch.float32).spec

    def _points(self) -> Points:
        return Points(self.breakpoints, self.values, self.left_slope, self.right_slope)

    def _plan(self) -> Plan:
        """How segments are found while values change; asked of the tables' device once."""
        if "breakpoints" in self.learnable or not compat.holds_numbers(self.breakpoints):
            return tables.SEARCH
        version, found = compat.version(self.breakpoints), self._planned
        if found is None or found[1] is not self.breakpoints or found[0] != version:
            tables.check_breakpoints(OWNER, self.breakpoints)
            self._planned = found = version, self.breakpoints, tables.plan(self.breakpoints)
        return found[2]

    def _table(self, dtype: torch.dtype) -> Table:
        """The prepared table, made anew when a tensor has changed, moved or been loaded."""
        stored = self._all_stored()
        key = (dtype == torch.float64, self.channel_dim, *map(compat.version, stored))
        found = self._prepared
        if found is None or found[0] != key or any(a is not b for a, b in zip(found[1], stored, strict=True)):
            with torch.no_grad():
                points = self._points()
                how = tables.SEARCH
                if not points.breakpoints.is_meta:
                    tables.check_tables(OWNER, points.breakpoints, points.values, points[2:])
                    how = tables.plan(points.breakpoints, points.values)
                table = points.table(torch.empty(0, dtype=dtype), how, self.channel_dim)
            if compat.transforms_active():
                # What is made under a transform belongs to it.
                return table
            self._prepared = found = key, stored, table
        return found[2]

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
        if self._channels > 1:
            parts.append(f"{self._channels} channels")
            if self.channel_dim != 1:
                parts.append(f"channel_dim={self.channel_dim}")
        if self.inplace:
            parts.append("inplace=True")
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
