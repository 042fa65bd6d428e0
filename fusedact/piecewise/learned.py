"""Differentiation of piecewise-linear functions whose tables learn.

One pass over the input gives its gradient and a few sums for each row of the table; the gradients of values, outer
slopes and breakpoints follow from them in closed form: see `_gradients`. What no kernel serves, and derivatives of
second order, are those of the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_exporting

from .. import compat, eager, execution, operators, registry, sharding
from ..dispatch import Path, choose
from ..execution import Call
from . import table_checks, table_rows
from .table_grid import Grid
from .table_rows import Plan
from .tables import Table

__all__ = ["SEARCHING", "Finder", "Points", "apply", "compiled", "formula", "to_differentiate"]


class Points(NamedTuple):
    """The tables as they were given: of shape (K,) or (C, K), and the outer slopes, numbers or (), (1,) or (C,)."""

    breakpoints: Tensor
    values: Tensor
    left_slope: float | Tensor
    right_slope: float | Tensor

    def table(self, x: Tensor, plan: Plan, channel_dim: int) -> Table:
        """What an evaluation at x needs, differentiable."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return Table(table_rows.prepare(*self, plan, dtype), self.breakpoints.shape[-1], plan, channel_dim)


class Finder:
    """How segments are found while values learn: the plan, and what of a table depends on the breakpoints alone."""

    def __init__(self, plan: Plan, fixed: bool = True) -> None:
        """Not `fixed` breakpoints may be others at each call."""
        self.plan = plan
        self._fixed = fixed
        self._grids: dict[Any, Grid] = {}

    def table(self, x: Tensor, points: Points, channel_dim: int, path: Path) -> Table:
        """What an evaluation at x needs; fixed breakpoints are those that the plan was made for."""
        if compat.dispatch_mode_active():
            return points.table(x, self.plan, channel_dim)
        if path.kind == "triton":
            rows = execution.table_rows(*points, self.plan)
            return Table(rows, points.breakpoints.shape[-1], self.plan, channel_dim)
        if not x.is_cpu or not self._fixed or x.dtype == torch.float64:
            return points.table(x, self.plan, channel_dim)
        key = table_checks.rows_of(*points), channel_dim
        found = self._grids.get(key)
        if found is None:
            found = self._grids[key] = Grid(points.breakpoints.detach(), self.plan, *key)
        return found.table(*points[1:])


# For breakpoints that learn, or cannot be asked.
SEARCHING = Finder(table_rows.SEARCH, fixed=False)


def apply(owner: str, x: Tensor, points: Points, finder: Finder, channel_dim: int) -> Tensor:
    """The function at x; gradients go to x and to those tables that require one.

    Raises:
        TypeError: if a table is a DTensor and x is not, or x is and a table that learns is not.
    """
    if sharding.among(x, *points):
        return _by_shards(owner, x, points, finder, channel_dim)
    tensors = [t for t in points if isinstance(t, Tensor)]
    path = choose(registry.get("pwl"), x, tensors, False)
    if path.kind == "formula" or compat.transforms_active():
        return formula(x, points, finder.plan, channel_dim)
    return _Learned.apply(path, finder, channel_dim, x, *points)


def _by_shards(owner: str, x: Tensor, points: Points, finder: Finder, channel_dim: int) -> Tensor:
    """The call with DTensors, as calls with their shards."""
    if not all(sharding.served(t) for t in (x, *points) if isinstance(t, Tensor)):
        raise TypeError(f"{owner}: a DTensor is placed in another way than by Shard, Replicate and Partial")
    # Of breakpoints and values, rows; of outer slopes, entries.
    rows = [isinstance(t, Tensor) and (t.dim() == 2 or (i > 1 and t.numel() > 1)) for i, t in enumerate(points)]
    beside = [sharding.Beside(*given) for given in zip(Points._fields, points, rows, strict=True)]

    def function(x: Tensor, *parts: Any) -> Tensor:
        return apply(owner, x, Points(*parts), finder, channel_dim)

    return sharding.locally(owner, "x", x, beside, channel_dim % x.dim() if any(rows) else None, function)


def to_differentiate(x: Tensor, inplace: bool) -> Tensor:
    """What is given in x's place where x will be overwritten: backward needs it as it is."""
    return x.clone() if inplace else x


def formula(x: Tensor, points: Points, plan: Plan, channel_dim: int) -> Tensor:
    """The function in plain operators, halves in float32."""
    table = points.table(x, plan, channel_dim)
    wide = x.float() if x.dtype in eager.HALF_DTYPES else x
    return table.value(wide, *table.beside(x)).to(x.dtype)


# Where a compiled graph keeps the operators: what a compiler makes of the formula's gathers sums by atomics there.
OPERATOR_DEVICES = ("cuda",)


def compiled(x: Tensor, points: Points, channel_dim: int) -> Tensor:
    """The function in a graph that is being compiled or exported, which cannot ask for numbers."""
    learns = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in points)
    if not learns or x.device.type not in OPERATOR_DEVICES or is_exporting() or compat.transforms_active():
        # A search is right for tables that were changed since they were planned for.
        return formula(x, points, table_rows.SEARCH, channel_dim)
    return _Compiled.apply(channel_dim, x, *points)


class _Compiled(Function):
    """`_Learned` as a compiler can read it, with operators that stay as they are."""

    @staticmethod
    def forward(ctx: Any, channel_dim: int, x: Tensor, *points: Any) -> Tensor:
        constants = Points(*points).table(x, table_rows.SEARCH, channel_dim).constants
        ctx.constants = constants[1:]
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in points]
        ctx.save_for_backward(x, constants[0], *(p for p in points if isinstance(p, Tensor)))
        return torch.ops.fusedact.pwl(x, *constants)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, data, *tensors = ctx.saved_tensors
        rest = iter(tensors)
        points = Points(*[next(rest) if n is None else n for n in ctx.numbers])
        needed = ctx.needs_input_grad[1:]
        wanted = "lines" if needed[1] else "values"
        dx, sums = torch.ops.fusedact.pwl_learned_backward(
            g, x, data, *ctx.constants, needed[0], wanted, any(needed[3:])
        )
        return None, dx if needed[0] else None, *_gradients(points, sums, wanted, needed[1:])


class _Learned(Function):
    """Keeps the input and the tables, nothing else."""

    @staticmethod
    def forward(ctx: Any, path: Path, finder: Finder, channel_dim: int, x: Tensor, *points: Any) -> Tensor:
        ctx.plan, ctx.channel_dim = finder.plan, channel_dim
        ctx.call = call = Call(finder.table(x, Points(*points), channel_dim, path).record(), path)
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in points]
        ctx.save_for_backward(x, *(p for p in points if isinstance(p, Tensor)))
        return operators.forward(call, x, ()) if compat.dispatch_mode_active() else execution.forward(call, x, ())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        rest = iter(tensors)
        points = Points(*(next(rest) if n is None else n for n in ctx.numbers))
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            return None, None, None, *_recorded(ctx, g, x, points, needed)
        wanted = "lines" if needed[1] else "values"
        run = operators.learned_backward if compat.dispatch_mode_active() else execution.learned_backward
        dx, sums = run(ctx.call, g, x, needed[0], wanted, any(needed[3:]))
        return None, None, None, dx, *_gradients(points, sums, wanted, needed[1:])


def _recorded(ctx: Any, g: Tensor, x: Tensor, points: Points, needed: Sequence[bool]) -> list[Tensor | None]:
    """The gradients in a graph of plain operators."""
    create_graph = torch.is_grad_enabled()
    given = [x, *points]
    wanted = [t for t, n in zip(given, needed, strict=True) if n and isinstance(t, Tensor)]
    with torch.enable_grad():
        y = formula(x, points, ctx.plan, ctx.channel_dim)
        grads = iter(torch.autograd.grad(y, wanted, g, create_graph=create_graph))
    return [next(grads) if n else None for n in needed]


def _gradients(points: Points, sums: Tensor, wanted: str, needed: Sequence[bool]) -> list[Tensor | None]:
    """The tables' gradients from their rows' sums, those that are needed.

    `wanted` is "values": (rows, K + 2), the gradients of the values and of the outer slopes; or "lines":
    (rows, 2, K + 1), for each segment s the sum of g, and that of g (x - o), o the breakpoint where it begins, or, of
    the first segment, ends. With h the distance of two breakpoints and m the slope between them, y is
    v + m (x - b), and a part p = (x - b) / h of g goes to the right one's value, the rest to the left one's;
    the breakpoints get as much, times -m.
    """
    b, v, left, right = points
    slopes = [left, right]
    if wanted == "values":
        count = v.shape[-1]
        found: list[Tensor | None] = [None, sums[:, :count], None, None]
        if any(needed[2:]):
            found[2:] = sums[:, count], sums[:, count + 1]
    else:
        total, moment = sums.unbind(1)
        b_wide, v_wide = (t.detach().to(sums.dtype) for t in (b, v))
        left_wide, right_wide = (_column(s, sums.dtype) for s in slopes)
        gaps = b_wide.diff()
        to_right = moment[:, 1:-1] / gaps
        to_left = total[:, 1:-1] - to_right
        steep = v_wide.diff() / gaps
        pad = torch.nn.functional.pad
        outer = pad(total[:, :1], (0, b.shape[-1] - 1)) + pad(total[:, -1:], (b.shape[-1] - 1, 0))
        values = outer + pad(to_left, (0, 1)) + pad(to_right, (1, 0))
        ends = pad(total[:, :1] * left_wide, (0, b.shape[-1] - 1))
        ends = ends + pad(total[:, -1:] * right_wide, (b.shape[-1] - 1, 0))
        inner = pad(steep * to_left, (0, 1)) + pad(steep * to_right, (1, 0))
        found = [-(ends + inner), values, moment[:, 0], moment[:, -1]]
    grads: list[Tensor | None] = []
    for p, grad, n in zip((b, v, *slopes), found, needed, strict=True):
        if not n or grad is None or not isinstance(p, Tensor):
            grads.append(None)
            continue
        # Rows share what has no entry per channel.
        shared = p.dim() == 1 and grad.dim() == 2 if grad.dim() == 2 else p.numel() == 1
        grads.append((grad.sum(0) if shared else grad).to(p.dtype).reshape(p.shape))
    return grads


def _column(slope: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """An outer slope beside sums of one column."""
    return slope.detach().to(dtype).reshape(-1, 1) if isinstance(slope, Tensor) else slope
