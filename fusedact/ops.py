"""Application of elementwise activations: checks, the path, shards, autocast, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd, compat, eager, execution
from .checks import FLOAT_DTYPES, check_accepted, check_channel_dim, check_input, check_parameters, owner
from .crossovers import FEW
from .dispatch import (
    ATEN_CPU,
    FORMULA_COMPILING,
    FORMULA_SMALL,
    LARGE_CPU,
    SHARDS,
    choose,
    is_recording,
    nothing_under_way,
    path_of_numbers,
    saving_path,
)
from .eager import numeric
from .execution import Call, Parameters
from .registry import ActivationSpec
from .saving import saved, saving
from .sharding import Beside, locally

__all__ = ["apply"]


def apply(
    spec: ActivationSpec,
    x: Tensor,
    params: Parameters,
    inplace: bool = False,
    channel_dim: int = 1,
    save: str = "auto",
) -> Tensor:
    """The activation of x, on the path that `dispatch.choose` finds; `save` says what is kept for backward."""
    # The shortest way, for small tensors; what is written below it would do the same.
    if (
        nothing_under_way(x)
        and numeric(params)
        and save == "auto"
        and not inplace
        and type(channel_dim) is int
        and not spec.autocast
        and (spec.refuses is None or not spec.refuses(*params))
    ):
        path = path_of_numbers(spec, x)
        if path.kind == "aten" and spec.aten is not None:
            return spec.aten(x) if params == spec.usual else spec.aten(x, *params)
        if path is FORMULA_SMALL:
            return eager.formula(spec, x, params)
        if path.kind == "pieces" and x.numel() <= FEW and spec.lean_backward is not None:
            return autograd.of_one_piece(spec, params, x, path)
        if path.kind == "triton":
            if not x.requires_grad or not torch.is_grad_enabled():
                return execution.forward(Call(spec, path), x, params)
            if not saving.by_default(spec, x.dtype):
                return autograd.apply_short((spec, path, params), x)
    if not isinstance(x, Tensor) or x.dtype not in FLOAT_DTYPES:
        check_input(spec, x)
    if type(channel_dim) is not int:
        check_channel_dim(owner(spec), channel_dim)
    numbers, channel = True, None
    for p in params:
        if type(p) is not float:
            if is_recording():
                # Parameters of x's shape, inside an activation that is being traced.
                return eager.formula(spec, x, params)
            params, channel = check_parameters(spec, x, params, channel_dim)
            numbers = numeric(params)
            break
    if numbers and spec.refuses is not None and spec.refuses(*params):
        check_accepted("", spec, params)
    if spec.autocast:
        x, params = _autocast(x, params)
    path = choose(spec, x, params, numbers)
    if inplace and path is LARGE_CPU:
        # Nothing new is written.
        path = ATEN_CPU
    if path is FORMULA_COMPILING and save == "auto" and not inplace:
        # The shortest way: a compiled graph looks at everything again that was looked at, in every call.
        return eager.formula(spec, x, params, channel)
    if path is SHARDS:
        return _by_shards(spec, x, params, inplace, channel, save)
    if save == "auto":
        save = saving.in_force()
    else:
        saving.check_save("", spec, save)
    chosen = save != "auto" or (path.kind == "triton" and saving.by_default(spec, x.dtype))
    if chosen and path is not FORMULA_COMPILING and _needs_grad(x, params) and not compat.transforms_active():
        plan = saving.plan(spec, x, params, numbers, save)
        path = saving_path(spec, x, params, numbers, path, plan.keeps)
        if plan.replaces_input and path.kind in ("pieces", "triton"):
            return saved.apply(Call(spec, path, channel), plan, x, params, inplace, autograd.gradients)
    if path.kind == "aten" and not inplace:
        if numbers and spec.aten is not None:
            return spec.aten(x) if params == spec.usual else spec.aten(x, *params)
        if spec.aten_tensors is not None:
            return spec.aten_tensors(x, *params, channel=channel)
    call = Call(spec, path, channel)
    if inplace:
        return _apply_inplace(call, x, params, save)
    if path.kind == "formula":
        return eager.formula(spec, x, params, channel)
    if compat.transforms_active() and compat.functionalizing():
        return eager.formula(spec, x, params, channel)
    return autograd.apply(call, x, params, (x.requires_grad or not numbers) and _needs_grad(x, params))


def _by_shards(
    spec: ActivationSpec, x: Tensor, params: Parameters, inplace: bool, channel: int | None, save: str
) -> Tensor:
    """The call with DTensors, as calls with their shards."""

    def function(x: Tensor, *values: float | Tensor) -> Tensor:
        return apply(spec, x, values, channel_dim=channel or 0, save=save)

    beside = [
        Beside(p.name, v, isinstance(v, Tensor) and v.numel() > 1) for p, v in zip(spec.parameters, params, strict=True)
    ]
    given = x.clone() if inplace and _needs_grad(x, params) else x
    y = locally(owner(spec), spec.input_name, given, beside, channel, function)
    return x.copy_(y) if inplace else y


def _needs_grad(x: Tensor, params: Parameters) -> bool:
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(isinstance(p, Tensor) and p.requires_grad for p in params)


def _autocast(x: Tensor, params: Parameters) -> tuple[Tensor, Parameters]:
    """Input and parameters as autocast converts those of the twin."""
    dtype = compat.autocast_dtype(x)
    if dtype is None:
        return x, params
    return x.to(dtype), tuple(p.to(dtype) if isinstance(p, Tensor) else p for p in params)


def _apply_inplace(call: Call, x: Tensor, params: Parameters, save: str) -> Tensor:
    """Overwrite x. Where a gradient is wanted a copy of the input is kept, as PyTorch does for SiLU and its like."""
    spec, path, channel = call
    differentiated = _needs_grad(x, params) or compat.transforms_active()
    # PyTorch's may keep the output.
    wanted = save == "input" and differentiated and not spec.always_aten
    if path.kind == "aten" and spec.aten_inplace is not None and numeric(params) and not wanted:
        return spec.aten_inplace(x, *params)
    if differentiated:
        return x.copy_(apply(spec, x.clone(), params, channel_dim=channel or 0, save=save))
    if path.kind == "formula" or compat.dispatch_mode_active() or not compat.is_dense(x) or x.is_neg():
        return x.copy_(apply(spec, x, params, channel_dim=channel or 0))
    execution.forward(call, x, params, out=x)
    if path.kind == "triton" and not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return x
