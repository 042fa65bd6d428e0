"""Activations of device functions that an expert wrote: `fusedact.activation(forward=..., backward=..., eager=...)`."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..registry import ActivationSpec
from . import codegen

__all__ = ["with_pair"]

OWNER = "fusedact.activation"
# Tells pairs apart for the launcher, which keeps what it compiled for good.
_made = itertools.count()
# Arguments of the contract in kernels/README.md, by position.
TAKES = {"forward": ("x", "params", "precise"), "backward": ("g", "x", "params", "precise")}
# How far kernels may be from the formula in float64, relative to 1 and to the value: an error of a formula is larger,
# fp32's is smaller.
TOLERANCE = 1e-4
# A central difference in float64, its own error, and the jump between both sides that tells a kink.
STEP, DIFFERENCE_TOLERANCE = 1e-5, 1e-5


def with_pair(spec: ActivationSpec, forward: Any, backward: Any, check: bool) -> ActivationSpec:
    """The record with these device functions, to be checked before their first launch if `check` is set.

    Raises:
        TypeError: if they are no Triton functions, or do not take what the contract says.
    """
    for role, function in (("forward", forward), ("backward", backward)):
        names = getattr(function, "arg_names", None)
        if names is None:
            raise TypeError(f"{OWNER}: {role} must be a @triton.jit function, got {type(function).__name__}")
        if len(names) != len(TAKES[role]):
            raise TypeError(f"{OWNER}: {role} must take ({', '.join(TAKES[role])}), got ({', '.join(names)})")
    name = f"{codegen.safe_name(spec.name)}_pair_{next(_made)}"
    made = replace(spec, device=name, build_double=None)
    return replace(made, build=_Pair(made, forward, backward, check))


def _text(function: Any) -> str:
    return str(getattr(function, "src", ""))


class _Pair:
    """Lets the launcher find two device functions, and checks them once."""

    def __init__(self, spec: ActivationSpec, forward: Any, backward: Any, check: bool) -> None:
        self._spec, self._forward, self._backward = spec, forward, backward
        self.text = f"{_text(forward)}\n\n{_text(backward)}"
        self._unchecked = check
        self._done = False
        self._lock = threading.Lock()

    def __call__(self, device: torch.device) -> None:
        if self._done:
            return
        with self._lock:
            if self._done:
                return
            from ..kernels import device_functions

            device_functions.register(self._spec.device, self._forward, backward=self._backward)
            if self._unchecked:
                _check(self._spec, device)
            self._done = True


def _check(spec: ActivationSpec, device: torch.device) -> None:
    """Compare kernels with the formula, and the formula's gradient with finite differences.

    Raises:
        ValueError: naming the function, and the input at which it is furthest off.
    """
    from ..kernels import launch

    x = torch.cat([torch.linspace(-8, 8, 2047, device=device), torch.tensor([0.0, -0.0, 1e-3, -1e-3], device=device)])
    g = torch.linspace(0.5, 1.5, x.numel(), device=device)
    params = tuple(torch.full((1,), p.default or 0.0, device=device) for p in spec.parameters)
    y, dx = torch.empty_like(x), torch.empty_like(x)
    launch.forward(spec.device, x, y, params)
    partials = launch.backward(spec.device, g, x, dx, params, (True,) * len(params))

    with torch.enable_grad():
        wide = [t.double().requires_grad_() for t in (x, *params)]
        truth = spec.eager(*wide)
        slopes = torch.autograd.grad(truth, wide, g.double(), allow_unused=True)
    grads = [torch.zeros_like(t) if s is None else s for t, s in zip(wide, slopes, strict=True)]
    _compare(spec, "forward", x, y, truth.detach())
    _compare(spec, "backward (x)", x, dx, grads[0])
    for i, p in enumerate(spec.parameters):
        assert partials is not None
        scale = max(1.0, float(grads[i + 1].abs()))
        if not abs(float(partials[i].double().sum()) - float(grads[i + 1])) <= TOLERANCE * scale * x.numel() ** 0.5:
            raise ValueError(
                f"{OWNER}: backward of {spec.name} gives {float(partials[i].sum()):g} for {p.name}, where the eager "
                f"formula gives {float(grads[i + 1]):g}"
            )
    _compare_differences(spec, [t.detach() for t in wide], g.double(), dx)


def _compare(spec: ActivationSpec, what: str, x: Tensor, ours: Tensor, truth: Tensor) -> None:
    off = (ours.double() - truth).abs() / (1 + truth.abs())
    off = torch.where(truth.isfinite() | ours.isfinite(), off, 0.0).nan_to_num(torch.inf)
    worst = int(off.argmax())
    if off[worst] > TOLERANCE:
        raise ValueError(
            f"{OWNER}: {what} of {spec.name} gives {ours[worst].item():g} at x = {x[worst].item():g}, where the eager "
            f"formula gives {truth[worst].item():g}"
        )


def _compare_differences(spec: ActivationSpec, wide: list[Tensor], g: Tensor, dx: Tensor) -> None:
    """Raise unless dx is the slope of the formula, except at kinks."""
    x, *params = wide
    before, at, after = (spec.eager(x + h, *params) for h in (-STEP, 0.0, STEP))
    left, right = (at - before) / STEP, (after - at) / STEP
    smooth = (left - right).abs() <= 1e-3 * (1 + left.abs())
    slope = torch.where(smooth, (left + right) / 2 * g, dx.double())
    off = (dx.double() - slope).abs() / (1 + slope.abs())
    worst = int(off.nan_to_num(0.0).argmax())
    if off[worst] > TOLERANCE + DIFFERENCE_TOLERANCE:
        raise ValueError(
            f"{OWNER}: backward of {spec.name} gives {dx[worst].item():g} at x = {x[worst].item():g}, where finite "
            f"differences of the eager formula give {slope[worst].item():g}"
        )
