"""Piecewise-linear activations: the function `pwl`, the module `PWL`, and its constructors."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import compat, eager, ops, registry, tables
from .checks import check_input, check_number
from .registry import ActivationSpec
from .saving import check_save
from .tables import Table

__all__ = ["PWL", "pwl"]

Numbers = Sequence[float] | Sequence[Sequence[float]] | Tensor

SPEC = registry.get("pwl")
OWNER = "fusedact.functional.pwl"

# Prepared tables by what they were made of. Tensors count by identity and version; a weak reference tells that they
# are still the same objects.
_CACHED = 64
_cache: dict[Any, tuple[list[Any], Table]] = {}
_lock = threading.Lock()


def pwl(
    x: Tensor,
    breakpoints: Numbers,
    values: Numbers,
    left_slope: float | Tensor = 0.0,
    right_slope: float | Tensor = 0.0,
    *,
    channel_dim: int = 1,
    check: bool = False,
    inplace: bool = False,
    save: str = "auto",
) -> Tensor:
    """Piecewise-linear function: linear between the points (breakpoint, value), with the given slopes outside.

    y = values[i] + (values[i+1] - values[i]) / (breakpoints[i+1] - breakpoints[i]) * (x - breakpoints[i])
    for breakpoints[i] <= x < breakpoints[i+1]; values[0] + left_slope * (x - breakpoints[0]) before the first, and
    values[-1] + right_slope * (x - breakpoints[-1]) after the last.

    At a breakpoint the gradient is the adjacent slope of smaller magnitude, the right one if both are equal. At an
    infinity the value is the limit; a NaN gives NaN, with the left slope as gradient.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        breakpoints: K from 1 to 1024 strictly increasing numbers, or a tensor, of shape (K,) for one table or (C, K)
            for one per channel. Rounded to float32, as all tables, unless x is float64.
        values: the function at the breakpoints, in the same shape; one of both may be (K,) for all channels.
        left_slope, right_slope: numbers, or tensors of shape (), (1,) or (C,).
        channel_dim: the dimension of x that has C entries, if there is a table per channel.
        check: check tables on a GPU too, which waits for the device. Sequences and tables on a CPU always are, except
            under a compiler, which cannot ask for numbers.
        inplace: overwrite x.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`. "bits" keeps the number of
            the segment in 1, 2, 4 or 8 bits, for a table of up to 255 breakpoints that all channels share.

    Returns:
        tensor of x's shape, dtype and layout. Where a table requires a gradient, plain PyTorch operators compute it.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if tables do not fit each other or x, are on another device, are not finite or do not increase.

    >>> FF.pwl(torch.tensor([-2.0, 0.5, 3.0]), [0.0, 1.0], [0.0, 2.0], right_slope=1.0)
    tensor([0., 1., 4.])

    Source: numpy.interp, with slopes outside; as an activation, Zhou et al., 2021, arXiv:2104.03693.
    """
    if has_torch_function_unary(x):
        arguments: dict[str, Any] = {"channel_dim": channel_dim, "check": check, "inplace": inplace, "save": save}
        return handle_torch_function(pwl, (x,), x, breakpoints, values, left_slope, right_slope, **arguments)
    check_input(SPEC, x)
    check_save("", SPEC, save)
    sources = (breakpoints, values, left_slope, right_slope)
    key = None if is_compiling() or compat.transforms_active() else _key(x, channel_dim, sources)
    if key is not None:
        found = _cache.get(key)
        if found is not None and all(r is None or r() is s for r, s in zip(found[0], sources, strict=True)):
            _check_channels(OWNER, x, found[1].data.shape[0], channel_dim)
            return ops.apply(found[1].spec, x, (), inplace, save=save)
    b, v = (tables.as_table(OWNER, name, t, x.device) for name, t in (("breakpoints", breakpoints), ("values", values)))
    channels = tables.channels_of(OWNER, b, v)
    left = tables.as_slope(OWNER, "left_slope", left_slope, channels)
    right = tables.as_slope(OWNER, "right_slope", right_slope, channels)
    for name, t in (("breakpoints", b), ("values", v), ("left_slope", left), ("right_slope", right)):
        if isinstance(t, Tensor) and t.device != x.device:
            raise ValueError(f"{OWNER}: {name} must be on the device of x, {x.device}, got a tensor on {t.device}")
    _check_channels(OWNER, x, channels, channel_dim)
    plain = is_compiling() or compat.transforms_active()
    known = not is_compiling() and _may_check((b, v), sources, check)
    if known:
        tables.check_tables(OWNER, b, v, (left, right))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    learned = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (b, v, left, right))
    how = tables.plan(b, v) if known and not plain and not learned else tables.SEARCH
    table = Table(tables.prepare(b, v, left, right, how, dtype), b.shape[-1], how, channel_dim)
    if plain or learned:
        y = _formula(table, x)
        return x.copy_(y) if inplace else y
    if key is not None and compat.holds_numbers(table.data):
        references = [weakref.ref(s) if isinstance(s, Tensor) else None for s in sources]
        with _lock:
            if len(_cache) >= _CACHED:
                del _cache[next(iter(_cache))]
            _cache[key] = references, table
    return ops.apply(table.spec, x, (), inplace, save=save)


pwl.spec = SPEC  # type: ignore[attr-defined]


def _may_check(made: Sequence[Tensor], sources: Sequence[Any], asked: bool) -> bool:
    """Whether the tables' numbers are there, and may be asked for without waiting or because the caller wants it."""
    # Under FakeTensorMode, and for a meta tensor, what is made of a sequence has no numbers either.
    if any(t.is_meta or type(t) not in (Tensor, nn.Parameter) for t in made):
        return False
    given = [s for s in sources if isinstance(s, Tensor)]
    return all(compat.holds_numbers(s) and (asked or s.is_cpu) for s in given)


def _formula(table: Table, x: Tensor) -> Tensor:
    """The function in plain operators, halves in float32."""
    if x.dtype in eager.HALF_DTYPES:
        return table.value(x.float(), *table.beside(x)).to(x.dtype)
    return table.value(x, *table.beside(x))


def _key(x: Tensor, channel_dim: int, sources: Sequence[Any]) -> Any:
    """What a prepared table depends on; None if it cannot be told, or if it must be prepared in a captured graph."""
    parts: list[Any] = [x.device, x.dtype == torch.float64, channel_dim]
    for s in sources:
        if isinstance(s, Tensor):
            version = compat.version(s)
            if version is None or s.requires_grad or compat.capturing(s):
                return None
            parts.append((id(s), version, s.device))
        elif isinstance(s, list | tuple):
            parts.append(tuple(tuple(row) if isinstance(row, list | tuple) else row for row in s))
        else:
            parts.append(s)
    try:
        hash(key := tuple(parts))
    except TypeError:
        return None
    return key


def _check_channels(owner: str, x: Tensor, channels: int, channel_dim: int) -> None:
    """Raise ValueError unless x has a dimension for the channels."""
    if channels == 1:
        return
    if not -x.dim() <= channel_dim < x.dim() or x.shape[channel_dim] != channels:
        raise ValueError(
            f"{owner}: x must have {channels} channels in dimension {channel_dim}, got shape {tuple(x.shape)}"
        )


class PWL(nn.Module):
    """Piecewise-linear function with fixed tables. The module of `fusedact.functional.pwl`.

    Linear between the points (breakpoint, value), with the given slopes outside. At a breakpoint the gradient is the
    adjacent slope of smaller magnitude, the right one if both are equal.

    Args:
        breakpoints: K from 1 to 1024 strictly increasing numbers, of shape (K,) for one table or (C, K) for one per
            channel.
        values: the function at the breakpoints, in the same shape; one of both may be (K,) for all channels.
        left_slope, right_slope: the slopes outside: numbers, or one per channel.
        channel_dim: the input's dimension that has C entries, if there is a table per channel.
        inplace: overwrite the input.
        device, dtype: of the tables, which are buffers.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.functional.pwl`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if a table is not made of numbers.
        ValueError: if tables do not fit each other, are not finite or do not increase.

    >>> fusedact.PWL([0.0, 1.0], [0.0, 2.0], right_slope=1.0)
    PWL(2 breakpoints from 0 to 1, left_slope=0, right_slope=1)

    Source: numpy.interp, with slopes outside; as an activation, Zhou et al., 2021, arXiv:2104.03693.
    """

    breakpoints: Tensor
    values: Tensor
    left_slope: Tensor
    right_slope: Tensor
    inplace: bool
    save: str = "auto"
    # The largest distance from the function that `from_function` was given; None for other tables.
    fitting_error: float | None

    def __init__(
        self,
        breakpoints: Numbers,
        values: Numbers,
        left_slope: float | Sequence[float] | Tensor = 0.0,
        right_slope: float | Sequence[float] | Tensor = 0.0,
        *,
        channel_dim: int = 1,
        inplace: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        super().__init__()
        owner = "fusedact.PWL"
        check_save(owner, SPEC, save)
        b, v = (tables.as_table(owner, n, t) for n, t in (("breakpoints", breakpoints), ("values", values)))
        channels = tables.channels_of(owner, b, v)
        slopes = []
        for name, s in (("left_slope", left_slope), ("right_slope", right_slope)):
            slope = torch.tensor(s, dtype=torch.float64) if isinstance(s, list | tuple) else s
            slopes.append(torch.as_tensor(tables.as_slope(owner, name, slope, channels)).reshape(-1))
        dtype = dtype or torch.get_default_dtype()
        b, v, left, right = (t.detach().to(dtype) for t in (b, v, *slopes))
        tables.check_tables(owner, b, v, (left, right))
        for name, t in (("breakpoints", b), ("values", v), ("left_slope", left), ("right_slope", right)):
            self.register_buffer(name, t.to(device, copy=True))
        self.channel_dim = int(check_number(owner, "channel_dim", channel_dim))
        self.inplace = inplace
        self.save = save
        self.fitting_error = None
        self._prepared: tuple[Any, tuple[Tensor, ...], Table] | None = None

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
        with torch.no_grad():
            error = pwl(between, *(t.detach().cpu().double() for t in made.buffers())) - function(between)
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
        _check_channels("fusedact.PWL", input, self._channels, self.channel_dim)
        if is_compiling():
            # A search is right for tables that were changed since they were planned for; a compiler cannot ask.
            y = _formula(self._prepare(input.dtype, tables.SEARCH), input)
            return input.copy_(y) if self.inplace else y
        if self.breakpoints.device != input.device:
            raise ValueError(
                f"fusedact.PWL: the input must be on the device of the tables, {self.breakpoints.device}, "
                f"got a tensor on {input.device}"
            )
        return ops.apply(self._table(input.dtype).spec, input, (), self.inplace, save=self.save)

    @property
    def _channels(self) -> int:
        return max(t.shape[0] if t.dim() == 2 else 1 for t in (self.breakpoints, self.values))

    @property
    def spec(self) -> ActivationSpec:
        """The record of this function, which `fusedact.explain` asks for."""
        return self._table(torch.float32).spec

    def _prepare(self, dtype: torch.dtype, how: tables.Plan) -> Table:
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        data = tables.prepare(self.breakpoints, self.values, self.left_slope, self.right_slope, how, dtype)
        return Table(data, self.breakpoints.shape[-1], how, self.channel_dim)

    def _table(self, dtype: torch.dtype) -> Table:
        """The prepared table, made anew when a buffer has changed, moved or been loaded."""
        buffers = (self.breakpoints, self.values, self.left_slope, self.right_slope)
        key = (dtype == torch.float64, self.channel_dim, *map(compat.version, buffers))
        found = self._prepared
        if found is None or found[0] != key or any(a is not b for a, b in zip(found[1], buffers, strict=True)):
            how = tables.SEARCH
            if not self.breakpoints.is_meta:
                tables.check_tables("fusedact.PWL", self.breakpoints, self.values, (self.left_slope, self.right_slope))
                how = tables.plan(self.breakpoints, self.values)
            with torch.no_grad():
                table = self._prepare(dtype, how)
            if compat.transforms_active():
                # What is made under a transform belongs to it.
                return table
            self._prepared = found = key, buffers, table
        return found[2]

    def extra_repr(self) -> str:
        b = self.breakpoints.reshape(-1, self.breakpoints.shape[-1])
        count = f"{b.shape[1]} breakpoint{'s' if b.shape[1] > 1 else ''}"
        where = f"from {b.min().item():g} to {b.max().item():g}" if b.shape[1] > 1 else f"at {b[0, 0].item():g}"
        parts = [f"{count} {where}"]
        for name in ("left_slope", "right_slope"):
            slope = getattr(self, name)
            parts.append(f"{name}={slope.item():g}" if slope.numel() == 1 else f"{name} per channel")
        if self._channels > 1:
            parts.append(f"{self._channels} channels, channel_dim={self.channel_dim}")
        if self.inplace:
            parts.append("inplace=True")
        if self.save != "auto":
            parts.append(f"save={self.save!r}")
        return ", ".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}
