"""How a module holds the tables of a piecewise-linear function: fixed or learned, increasing, or monotone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_number

__all__ = ["TableParameters", "chosen_tables"]

LEARNABLE = ("values", "slopes", "breakpoints")
# What has several entries for each channel.
ROWS = ("breakpoints", "values", "gaps", "inner_slopes")
# Breakpoints stay so many parts of their range apart, which float32 tells from each other.
CLOSEST = 2.0**-21


def chosen_tables(owner: str, learnable: bool | str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the tables that learn.

    Raises:
        TypeError: if `learnable` is no bool, name or tuple of names.
        ValueError: if it names something else.
    """
    if not isinstance(learnable, bool | str | tuple | list):
        raise TypeError(
            f"{owner}: learnable must be a bool, one of {', '.join(map(repr, LEARNABLE))} or a tuple of these, "
            f"got {type(learnable).__name__}"
        )
    names = ("values",) if learnable is True else () if learnable is False else learnable
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in LEARNABLE:
            raise ValueError(f"{owner}: learnable names {name!r}; the tables that learn are {', '.join(LEARNABLE)}")
    return names


class TableParameters(nn.Module):
    """Breakpoints, values and outer slopes as buffers, or, where they learn, as parameters.

    Breakpoints that learn are held as the first one and the gaps between them, and values of a monotone function as
    the first one and the slopes between breakpoints: `first_breakpoint`, `gaps`, `first_value`, `inner_slopes`. Gaps
    and slopes are kept above their bounds by projection: changed in place before they are used, so that an optimizer
    goes on from there. The attributes `breakpoints`, `values`, `left_slope` and `right_slope` give the tables
    as they are now, differentiable where they learn.
    """

    # What the tables were made with, on the CPU: breakpoints, values, left and right slope.
    initial: tuple[Tensor, Tensor, Tensor, Tensor]
    learnable: tuple[str, ...]
    monotone: bool
    min_slope: float
    min_gap: float

    def _hold(
        self,
        owner: str,
        points: tuple[Tensor, Tensor, Tensor, Tensor],
        learnable: tuple[str, ...],
        num_parameters: int,
        monotone: bool,
        min_slope: float,
        min_gap: float | None,
        device: Any,
    ) -> None:
        """Register checked tables, detached, in their dtype; a learned one gets an entry for each of the parameters."""
        self.learnable, self.monotone, self.min_slope = learnable, monotone, min_slope
        b, v, left, right = points
        if num_parameters > 1:
            wide = b if b.dim() == 2 else b.expand(num_parameters, -1)
            b = wide if "breakpoints" in learnable else b
            v = v.expand(num_parameters, -1) if "values" in learnable and v.dim() == 1 else v
            if "slopes" in learnable:
                left, right = (s.expand(num_parameters) for s in (left, right))
        self.initial = tuple(t.detach().cpu().clone() for t in (b, v, left, right))  # type: ignore[assignment]
        self.min_gap = self._least_gap(owner, b, min_gap) if "breakpoints" in learnable else 0.0
        if monotone:
            self._check_slopes(owner, b, v, left, right)
        for name, t in self._held(*self.initial).items():
            t = t.to(device, copy=True)
            # Not register_parameter, which takes the property of that name for a conflict.
            if self._learns(name):
                self._parameters[name] = nn.Parameter(t)
            else:
                self._buffers[name] = t

    @staticmethod
    def _least_gap(owner: str, breakpoints: Tensor, min_gap: float | None) -> float:
        least = breakpoints.double().diff().amin().item() if breakpoints.shape[-1] > 1 else torch.inf
        if min_gap is None:
            return least / 100 if least < torch.inf else 0.0
        gap = check_number(owner, "min_gap", min_gap)
        if not 0 < gap <= least:
            raise ValueError(
                f"{owner}: min_gap must be positive and at most the smallest gap between breakpoints, {least:g}, "
                f"got {gap}"
            )
        return gap

    def _check_slopes(self, owner: str, b: Tensor, v: Tensor, left: Tensor, right: Tensor) -> None:
        if "values" not in self.learnable:
            raise ValueError(f"{owner}: monotone=True needs learnable values, got learnable={self.learnable!r}")
        slopes = [left, right, (v.double().diff() / b.double().diff()).reshape(-1)]
        least = min(s.amin().item() for s in slopes)
        # What rounding the values took is given back by the projection.
        if least < self.min_slope - 1e-6 * max(1.0, abs(self.min_slope)):
            raise ValueError(
                f"{owner}: monotone=True needs slopes of at least min_slope={self.min_slope:g} to begin with, "
                f"got {least:g}"
            )

    def _held(self, b: Tensor, v: Tensor, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for these tables, by name."""
        made: dict[str, Tensor] = {}
        gaps = b.double().diff()
        if "breakpoints" in self.learnable:
            made |= {"first_breakpoint": b[..., 0].reshape(-1), "gaps": gaps.to(b.dtype)}
        else:
            made["breakpoints"] = b
        if self.monotone:
            slopes = (v.double().diff() / gaps).clamp(min=self.min_slope)
            made |= {"first_value": v[..., 0].reshape(-1), "inner_slopes": slopes.to(v.dtype)}
        else:
            made["values"] = v
        return made | {"left_slope": left, "right_slope": right}

    def _learns(self, name: str) -> bool:
        """Whether a held tensor is a parameter."""
        if name in ("left_slope", "right_slope"):
            return "slopes" in self.learnable
        return ("breakpoints" if name in ("breakpoints", "first_breakpoint", "gaps") else "values") in self.learnable

    def reset_parameters(self) -> None:
        """Give the tables the numbers that they began with."""
        with torch.no_grad():
            for name, t in self._held(*self.initial).items():
                self._stored(name).copy_(t)

    # ----- the tables as they are

    def _stored(self, name: str) -> Tensor:
        parameter = self._parameters.get(name)
        if parameter is not None:
            return parameter
        buffer = self._buffers[name]
        assert buffer is not None
        return buffer

    def _above(self, name: str, bound: float) -> Tensor:
        """A held tensor, with nothing below the bound.

        Through `data`, which does not count as a change: a graph that holds the parameter holds it so already. What
        torch.func puts in the parameter's place is left as it is, and so are the parameters of exported models.
        """
        t = self._stored(name)
        if isinstance(t, nn.Parameter) and not torch.compiler.is_exporting() and not torch.jit.is_tracing():
            t.data.clamp_(min=bound)
            return t
        return t.clamp(min=bound)

    def _gaps(self) -> Tensor:
        """The gaps between breakpoints that learn, in float64."""
        gaps = self._above("gaps", self.min_gap).double()
        reach = self._stored("first_breakpoint").detach().double().abs().reshape(-1, 1)
        reach = reach + gaps.detach().sum(-1, keepdim=True)
        return torch.maximum(gaps, (reach if gaps.dim() == 2 else reach[0]) * CLOSEST)

    @staticmethod
    def _summed(first: Tensor, steps: Tensor) -> Tensor:
        """The numbers that begin with `first` and go on by `steps`."""
        first = first.double().reshape(-1, 1) if steps.dim() == 2 else first.double()
        return torch.cat([first.expand(*steps.shape[:-1], 1), first + steps.cumsum(-1)], -1)

    @property
    def breakpoints(self) -> Tensor:
        """The breakpoints, of shape (K,) or (C, K)."""
        if "breakpoints" not in self.learnable:
            return self._stored("breakpoints")
        first = self._stored("first_breakpoint")
        return self._summed(first, self._gaps()).to(first.dtype)

    @property
    def values(self) -> Tensor:
        """The function at the breakpoints, of shape (K,) or (C, K)."""
        if not self.monotone:
            return self._stored("values")
        first, slopes = self._stored("first_value"), self._above("inner_slopes", self.min_slope)
        gaps = self._gaps() if "breakpoints" in self.learnable else self._stored("breakpoints").double().diff()
        return self._summed(first, slopes.double() * gaps).to(first.dtype)

    @property
    def left_slope(self) -> Tensor:
        """The slope before the first breakpoint, of shape (1,) or (C,)."""
        return self._outer("left_slope")

    @property
    def right_slope(self) -> Tensor:
        """The slope after the last breakpoint, of shape (1,) or (C,)."""
        return self._outer("right_slope")

    def _outer(self, name: str) -> Tensor:
        bounded = self.monotone and "slopes" in self.learnable
        return self._above(name, self.min_slope) if bounded else self._stored(name)

    def _all_stored(self) -> list[Tensor]:
        """Every held tensor, in a fixed order."""
        return [self._stored(name) for name in (*self._parameters, *self._buffers)]

    # ----- loading

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """One table loads into one per channel; the reverse is an error."""
        errors = args[4]
        for name in (*self._parameters, *self._buffers):
            given, own = state_dict.get(prefix + name), self._stored(name)
            if given is None or given.shape == own.shape:
                continue
            # The entries of one channel; the shape of what has one number for each is (1,) or (C,).
            row = own.shape[-1:] if name in ROWS else own.shape[:0]
            if given.numel() == row.numel():
                state_dict[prefix + name] = given.reshape(row).expand(own.shape)
            elif own.numel() == row.numel() and given.shape[1:] == row:
                errors.append(
                    f"{prefix + name} has an entry for each of {given.shape[0]} channels, and this module one for all; "
                    f"make it with num_parameters={given.shape[0]}"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)
