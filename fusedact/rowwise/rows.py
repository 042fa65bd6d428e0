"""Softmax and its kin along a dimension: the formula, what a call accepts, and its differentiation.

What exponentials are taken of are the scores: x, negated for softmin, divided by a temperature; and a mask, which
leaves elements out or is added. Transforms, compilers and tensor subclasses see the formula.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import compat
from ..checks import FLOAT_DTYPES, check_dtype, check_input, check_number, owner
from ..dispatch import FORMULA_COMPILING, Path, choose, saving_path
from ..eager import HALF_DTYPES
from ..registry import ActivationSpec
from ..saving import saving
from . import row_operators
from .row_blocks import Call, Number, wide_of
from .row_operators import Gradients

__all__ = ["apply", "few", "formula", "is_plain", "log_softmax", "softmax", "softmin"]


# ----- definitions


def formula(call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    """The definition in plain operators, differentiable to any order; halves are computed in fp32 and rounded once."""
    function = torch.log_softmax if call.log else torch.softmax
    if is_plain(temperature, mask):
        return function(-x if call.negated else x, call.dim, dtype=None if x.dtype == call.dtype else call.dtype)
    wide = wide_of(call.dtype)
    z = -x.to(wide) if call.negated else x.to(wide)
    if isinstance(temperature, Tensor) or temperature != 1.0:
        z = z / (temperature.to(wide) if isinstance(temperature, Tensor) else temperature)
    if mask is not None:
        z = torch.where(mask, z, -torch.inf) if mask.dtype == torch.bool else z + mask.to(wide)
    return function(z, call.dim).to(call.dtype)


def few(function: Callable[..., Tensor], x: Tensor, divisor: Any, dim: int | None) -> Tensor:
    """PyTorch's function of x / divisor, for `shortest.for_twin_of_rows`."""
    return function(x / divisor, dim) if x.dtype not in HALF_DTYPES else function(x.float() / divisor, dim).to(x.dtype)


def is_plain(temperature: object, mask: object) -> bool:
    """Whether PyTorch's own function does it."""
    return mask is None and not isinstance(temperature, Tensor) and temperature == 1.0


def _along(dim: int | None, x: Tensor) -> int:
    """PyTorch's choice of a dimension where none is given."""
    return dim if dim is not None else 0 if x.dim() in (0, 1, 3) else 1


def softmax(x: Tensor, dim: int | None = None, dtype: torch.dtype | None = None, *_: object) -> Tensor:
    """PyTorch's softmax."""
    return torch.softmax(x, _along(dim, x), dtype=dtype)


def log_softmax(x: Tensor, dim: int | None = None, dtype: torch.dtype | None = None, *_: object) -> Tensor:
    """PyTorch's log_softmax."""
    return torch.log_softmax(x, _along(dim, x), dtype=dtype)


def softmin(x: Tensor, dim: int | None = None, dtype: torch.dtype | None = None, *_: object) -> Tensor:
    """PyTorch's softmin."""
    return torch.softmax(-x, _along(dim, x), dtype=dtype)


# ----- a call


def apply(
    spec: ActivationSpec,
    x: Tensor,
    dim: int | None,
    stacklevel: int,
    dtype: torch.dtype | None,
    temperature: Number,
    mask: Tensor | None,
    save: str = "auto",
) -> Tensor:
    """The function of x, on the path that `dispatch.choose` finds; everything is checked here."""
    name, given = owner(spec), x
    if dtype is not None and isinstance(x, Tensor):
        x = _converted(name, x, dtype)
    if not isinstance(x, Tensor) or x.dtype not in FLOAT_DTYPES:
        check_input(spec, x)
    dim = _checked_dim(name, x, dim, stacklevel)
    if type(temperature) is not float:
        temperature = _checked_temperature(name, x, temperature)
    elif temperature != 1.0:
        _check_positive(name, temperature)
    if mask is not None:
        _check_mask(name, x, mask)
    if save == "auto":
        save = saving.in_force()
    else:
        saving.check_save("", spec, save)
    plain = is_plain(temperature, mask)
    tensors = [t for t in (temperature, mask) if isinstance(t, Tensor)]
    path = choose(spec, x, tensors, plain)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors))
    if save != "auto" and wanted and path is not FORMULA_COMPILING and not compat.transforms_active():
        path = saving_path(spec, x, tensors, plain, path, saving.plan_of_rows(save, False).policy)
    if path.kind == "aten":
        assert spec.aten is not None
        return spec.aten(x, dim, dtype)
    made = dtype or (torch.float32 if _widens(x) else x.dtype)
    number = None if isinstance(temperature, Tensor) else temperature
    call = Call(spec.name == "log_softmax", spec.name == "softmin", dim, made, number)
    # A number, and what has no elements, has no rows to speak of.
    if path.kind == "formula" or compat.transforms_active() or x.dim() == 0 or x.numel() == 0:
        return formula(call, x, temperature, mask)
    if mask is not None:
        mask = mask.expand(x.shape)
    if wanted and save == "input":
        return _RowsOfInput.apply(path, call, given, temperature, mask)
    x = _computed(path, call, x)
    if wanted:
        return _Rows.apply(path, call, x, temperature, mask)
    return row_operators.forward(path, call, x, temperature, mask)


def _computed(path: Path, call: Call, x: Tensor) -> Tensor:
    """x in the dtype in which kernels or blocks take it."""
    kept = path.kind == "triton" and call.dtype == torch.float32 and x.dtype in HALF_DTYPES
    return x if kept else x.to(call.dtype)


def _widens(x: Tensor) -> bool:
    """Whether autocast has the twin compute halves in fp32, which it does on a GPU."""
    return x.is_cuda and x.dtype in HALF_DTYPES and torch.is_autocast_enabled("cuda")


def _converted(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as the result's dtype asks for it; kernels convert halves to fp32 themselves."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name}: dtype must be a torch.dtype, got {type(dtype).__name__}")
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: dtype must be float16, bfloat16, float32 or float64, got {str(dtype)[6:]}")
    return x if dtype is torch.float32 and x.dtype in HALF_DTYPES else x.to(dtype)


def _checked_dim(name: str, x: Tensor, dim: object, stacklevel: int) -> int:
    """The dimension, counted from the first."""
    if dim is None:
        chosen = _along(None, x)
        warnings.warn(
            f"{name}: dim is not given and taken to be {chosen}, as torch.nn.functional.{name.split('.')[-1]} does, "
            "which has deprecated that; give dim",
            stacklevel=stacklevel + 1,
        )
        return chosen
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{name}: dim must be an int, got {type(dim).__name__}")
    count = max(1, x.dim())
    if not -count <= dim < count:
        raise IndexError(
            f"{name}: dim must be from {-count} to {count - 1} for a tensor of {x.dim()} dimensions, got {dim}"
        )
    return dim % count


def _check_positive(name: str, temperature: float) -> None:
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"{name}: temperature must be positive and finite, got {temperature}")


def _checked_temperature(name: str, x: Tensor, temperature: object) -> Number:
    """The temperature as a float, or as a tensor of one element, whose value nobody asks for."""
    if not isinstance(temperature, Tensor):
        number = check_number(name, "temperature", temperature, "a number or a tensor")
        _check_positive(name, number)
        return number
    check_dtype(name, "temperature", temperature)
    if tuple(temperature.shape) not in ((), (1,)):
        raise ValueError(
            f"{name}: temperature must be a number or a tensor of shape () or (1,), "
            f"got shape {tuple(temperature.shape)}"
        )
    if temperature.device != x.device:
        raise ValueError(
            f"{name}: temperature must be on the device of input, {x.device}, got a tensor on {temperature.device}"
        )
    return temperature


def _check_mask(name: str, x: Tensor, mask: object) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name}: mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool and mask.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: mask must have dtype bool, float16, bfloat16, float32 or float64, got {str(mask.dtype)[6:]}"
        )
    if mask.device != x.device:
        raise ValueError(f"{name}: mask must be on the device of input, {x.device}, got a tensor on {mask.device}")
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if compat.tracing():
        return
    sizes = zip(reversed(mask.shape), reversed(x.shape), strict=False)
    if mask.dim() > x.dim() or any(m not in (1, s) for m, s in sizes):
        raise ValueError(
            f"{name}: mask must broadcast to the shape of input, {tuple(x.shape)}, got shape {tuple(mask.shape)}"
        )


# ----- differentiation


def _differentiable(
    call: Call,
    g: Tensor,
    y: Tensor,
    x: Tensor,
    temperature: Number,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> Gradients:
    """The same in plain operators: for higher orders, which go on through y, and under transforms."""
    wide = wide_of(call.dtype)
    g, y_wide = g.to(wide), y.to(wide)
    if call.log:
        dz = g - y_wide.exp() * g.sum(call.dim, keepdim=True)
    else:
        dz = y_wide * (g - (g * y_wide).sum(call.dim, keepdim=True))
    if mask is not None and mask.dtype == torch.bool:
        dz = torch.where(mask, dz, 0.0)
    t = temperature.to(wide) if isinstance(temperature, Tensor) else temperature
    sign = -1.0 if call.negated else 1.0
    dtemperature = dmask = None
    if needed[1] and isinstance(temperature, Tensor):
        total = torch.where(dz == 0, 0.0, dz * x.to(wide)).sum() * -sign
        dtemperature = (total / t / t).to(temperature.dtype).reshape(temperature.shape)
    if needed[2] and mask is not None:
        dmask = dz.to(mask.dtype)
    dx = (dz * sign / t).to(x.dtype) if needed[0] else None
    return [dx, dtemperature, dmask]


class _Rows(Function):
    """Keeps the output; the input too, if the temperature is learned."""

    @staticmethod
    def forward(ctx: Any, path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
        y = row_operators.forward(path, call, x, temperature, mask)
        ctx.call = path, call, x.dtype
        learned = ctx.needs_input_grad[3]
        given = temperature if isinstance(temperature, Tensor) else None
        ctx.save_for_backward(y, x if learned else None, given, mask)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        y, x, temperature, mask = ctx.saved_tensors
        path, call, dtype = ctx.call
        if x is None:
            # Only its kind matters.
            x = y if y.dtype == dtype else torch.empty_like(y, dtype=dtype)
        t = call.temperature if temperature is None else temperature
        plain = torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g)
        arguments = call, g, y, x, t, mask, ctx.needs_input_grad[2:]
        return None, None, *(_differentiable(*arguments) if plain else row_operators.backward(path, *arguments))


class _RowsOfInput(Function):
    """Keeps the input, and makes the output again."""

    @staticmethod
    def forward(ctx: Any, path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
        ctx.call = path, call
        ctx.save_for_backward(x, temperature if isinstance(temperature, Tensor) else None, mask)
        return row_operators.forward(path, call, _computed(path, call, x), temperature, mask)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, temperature, mask = ctx.saved_tensors
        path, call = ctx.call
        t, needed = call.temperature if temperature is None else temperature, ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            return None, None, *_differentiable(call, g, formula(call, x, t, mask), x, t, mask, needed)
        given, x = x.dtype, _computed(path, call, x)
        y = row_operators.forward(path, call, x, t, mask)
        dx, *others = row_operators.backward(path, call, g, y, x, t, mask, needed)
        return None, None, None if dx is None else dx.to(given), *others
