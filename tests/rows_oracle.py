"""Softmax and its kin in plain PyTorch; and what an error may be, by rows, which share a maximum and a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from oracles import ulp
from torch import Tensor
from torch.nn import functional as F

from fusedact import functional as FF

NAMES = ("softmax", "log_softmax", "softmin")
ROWS_APART = "worst error of row {}: {:.2f} units in the last place, PyTorch's {:.2f}"


def ours(name: str) -> Any:
    return getattr(FF, name)


def composition(name: str, x: Tensor, dim: int, temperature: Any = 1.0, mask: Tensor | None = None) -> Tensor:
    """As one would write it."""
    z = -x if name == "softmin" else x
    if isinstance(temperature, Tensor) or temperature != 1.0:
        z = z / temperature
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else z + mask
    return (F.log_softmax if name == "log_softmax" else F.softmax)(z, dim)


@dataclass
class Found:
    """A value, and the gradients of the input, the temperature and the mask, as far as they are asked for."""

    y: Tensor
    dx: Tensor
    dtemperature: Tensor | None = None
    dmask: Tensor | None = None


def found(function: Any, x: Tensor, g: Tensor, dim: int, temperature: Any = 1.0, mask: Tensor | None = None) -> Found:
    """What a function of this form gives, on the CPU; a temperature that is a tensor is learned, a mask that requires
    a gradient gets one.
    """
    leaf = x.detach().requires_grad_()
    learned = isinstance(temperature, Tensor)
    t = temperature.detach().requires_grad_() if learned else temperature
    added = mask is not None and mask.requires_grad
    y = function(leaf, dim, temperature=t, mask=mask)
    wanted = [leaf, *[t] * learned, *[mask] * added]
    grads = iter(torch.autograd.grad(y, wanted, g))
    dx = next(grads).cpu()
    return Found(y.detach().cpu(), dx, next(grads).cpu() if learned else None, next(grads).cpu() if added else None)


def plain(name: str, dtype: torch.dtype, x: Tensor, g: Tensor, dim: int, temperature: Any, mask: Any) -> Found:
    """The composition in a dtype."""
    converted = [t.detach().cpu().to(dtype) if isinstance(t, Tensor) else t for t in (x, g, temperature)]
    added = mask
    if isinstance(mask, Tensor):
        added = mask.detach().cpu()
        if mask.is_floating_point():
            added = added.to(dtype).requires_grad_(mask.requires_grad)

    def function(x: Tensor, dim: int, *, temperature: Any, mask: Any) -> Tensor:
        return composition(name, x, dim, temperature, mask)

    return found(function, converted[0], converted[1], dim, converted[2], added)


def rounded_twice(name: str, x: Tensor, dim: int, temperature: Any, mask: Any) -> Tensor:
    """By row: what a score may be off by in fp32 if it is rounded twice, as x times a reciprocal is; 0 if never."""
    t = temperature.double().item() if isinstance(temperature, Tensor) else temperature
    scores = (x.cpu().double() / t).abs()
    if mask is not None and mask.is_floating_point():
        scores = scores + mask.detach().cpu().double().abs()
    largest = scores.where(scores.isfinite(), 0.0).amax(dim, keepdim=True)
    return largest * 2.0**-23 * (t != 1.0 or mask is not None)


def assert_rows(
    ours: Tensor,
    truth: Tensor,
    yard: Tensor,
    dim: int,
    size: Tensor | None = None,
    scores: Tensor | float = 0.0,
    logarithm: bool = False,
) -> None:
    """Raise unless in every row the worst error is at most twice that of the yardstick, and 1.5 units more.

    Units are those of the truth, or of `size`, which is what cancelled on the way. What is not a number, or infinite,
    must be the same. `scores`, by row, is an absolute error that scores may have, twice: their own, and the maximum's.
    It is one of a `logarithm`, and else relative to the size.
    """
    if ours.shape != truth.shape or ours.dtype != yard.dtype:
        raise AssertionError(f"got {ours.dtype} {tuple(ours.shape)}, expected {yard.dtype} {tuple(truth.shape)}")
    number = truth.isfinite()
    torch.testing.assert_close(ours[~number].double(), truth[~number], rtol=0, atol=0, equal_nan=True)
    size = truth.where(number, 0.0).abs() if size is None else size.double()
    unit = ulp(size, ours.dtype)
    more = torch.as_tensor(2 * scores).double() * (1.0 if logarithm else size) / unit
    error, yards = (((t.double() - truth).abs() / unit).where(number, 0.0) for t in (ours, yard))
    if error.numel() == 0:
        return
    worst, allowed = (e.nan_to_num(torch.inf).amax(dim, keepdim=True).flatten() for e in (error - more, yards))
    apart = worst - (2 * allowed.where(allowed.isfinite(), 0.0) + 1.5)
    row = int(apart.argmax())
    if apart[row] > 0:
        raise AssertionError(ROWS_APART.format(row, worst[row], allowed[row]))


def assert_right(
    name: str, x: Tensor, g: Tensor, dim: int, temperature: Any = 1.0, mask: Any = None, got: Found | None = None
) -> None:
    """Raise unless our function has, or `got` is, the value and the gradients of the composition in float64."""
    got = found(ours(name), x, g, dim, temperature, mask) if got is None else got
    truth = plain(name, torch.float64, x, g, dim, temperature, mask)
    yard = plain(name, x.dtype, x, g, dim, temperature, mask)
    scores = rounded_twice(name, x, dim, temperature, mask)
    logarithm = name == "log_softmax"
    assert_rows(got.y, truth.y, yard.y, dim, scores=scores, logarithm=logarithm)
    # g - sum(g y) cancels: its terms set the unit.
    g64, y64 = g.cpu().double(), truth.y.nan_to_num(0.0, 0.0, 0.0)
    if logarithm:
        size = g64.abs() + y64.exp() * g64.abs().sum(dim, keepdim=True)
    else:
        size = y64 * (g64.abs() + (g64 * y64).abs().sum(dim, keepdim=True))
    t = temperature.double().item() if isinstance(temperature, Tensor) else temperature
    assert_rows(got.dx, truth.dx, yard.dx, dim, size / t, scores)
    eps = torch.finfo(x.dtype).eps
    if got.dtemperature is not None and truth.dtemperature is not None:
        terms = (size * x.cpu().double().nan_to_num(0.0, 0.0, 0.0).abs() * (eps + 2 * scores)).sum().item() / t**2
        last = torch.finfo(got.dtemperature.dtype).eps
        torch.testing.assert_close(got.dtemperature.double(), truth.dtemperature, rtol=2 * last, atol=terms)
    if got.dmask is not None and truth.dmask is not None:
        terms = (size * (4 * eps + 2 * scores)).sum().item()
        torch.testing.assert_close(got.dmask.double(), truth.dmask, rtol=4 * eps, atol=terms)
