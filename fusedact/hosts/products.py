"""The activation of a matrix product that a layer owns: written over the product where what is kept allows that, and
its backward, which sums the gradient of the product's bias in the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import compat, eager
from ..checks import check_parameters
from ..cpu import cpu_kernels, large_pages
from ..cpu.cpu_kernels import Kernels
from ..dispatch import Path
from ..execution import Call, Parameters
from ..registry import ActivationSpec
from ..saving import saved, saving
from . import biased_operators

__all__ = ["Activated", "activated", "derived", "into", "planned", "product", "rows"]


# Elements of the rows that are differentiated and summed at a time on the CPU, whatever the number of threads: sums do
# not depend on it.
SUMMED = 2**18


class Activated(NamedTuple):
    """What of an activated product is no tensor: the activation with its path, and what is kept for backward."""

    call: Call
    plan: saving.Plan

    @property
    def bits(self) -> bool:
        """Whether the last of what is kept is bits."""
        return self.plan.packed


def rows(t: Tensor) -> Tensor:
    """t as a matrix with its last dimension."""
    return t.reshape(-1, t.shape[-1])


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias by PyTorch's operator, in memory of its own; what is large, in large pages."""
    shape = (*x.shape[:-1], weight.shape[0])
    if not x.is_cpu or math.prod(shape) * x.element_size() < large_pages.LARGE or compat.dispatch_mode_active():
        return F.linear(x, weight, bias)
    out = large_pages.empty(shape, x)
    if bias is None:
        torch.mm(rows(x), weight.t(), out=rows(out))
    else:
        torch.addmm(bias, rows(x), weight.t(), out=rows(out))
    return out


def planned(spec: ActivationSpec, path: Path, z: Tensor, params: Parameters, save: str) -> tuple[Activated, Parameters]:
    """How a product z is activated, and the parameters, checked.

    Raises:
        TypeError: if a parameter is neither a number nor a floating-point tensor.
        ValueError: if a tensor is on another device, or its shape does not fit z.
    """
    numbers, channel = eager.numeric(params), None
    if not numbers:
        params, channel = check_parameters(spec, z, params, -1)
        numbers = eager.numeric(params)
    policy = saving.in_force() if save == "auto" else save
    if policy == "auto" and path.kind != "triton" and numbers and saving.operator_keeps(spec) == "output":
        # As PyTorch's own operator, which is as accurate.
        policy = "output"
    return Activated(Call(spec, path, channel), saving.plan(spec, z, params, numbers, policy)), params


def activated(how: Activated, z: Tensor, params: Parameters) -> tuple[Tensor, list[Tensor]]:
    """The activation, and what `derived` needs: the product; or the output, in the product's memory, and bits."""
    call, plan = how
    if not plan.replaces_input:
        return into(how, z, params, None), [z]
    # Who watches may have kept the product.
    out = None if compat.dispatch_mode_active() else z
    y, bits = saved.forward(call, plan, z, params, out, z.stride())
    kept = [y] if plan.policy == "output" else []
    return y, kept if bits is None else [*kept, bits]


def into(how: Activated, z: Tensor, params: Parameters, out: Tensor | None) -> Tensor:
    """The activation, in memory of its own or in `out`, which may be z."""
    kernels = _kernels(how, z, params)
    if kernels is not None:
        out = large_pages.empty_like(z) if out is None else out
        kernels.forward(z, out=out)
        return out
    return biased_operators.forward(_biased(how, z), z, None, None, params, None, out)


def _kernels(how: Activated, z: Tensor, params: Parameters) -> Kernels | None:
    """PyTorch's own for the activation, on the CPU where nobody watches: they take halves as they are."""
    if not z.is_cpu or how.call.path.kind == "triton" or not eager.numeric(params) or compat.dispatch_mode_active():
        return None
    return cpu_kernels.hosted(how.call.spec)


def _biased(how: Activated, z: Tensor) -> biased_operators.Call:
    return biased_operators.Call(how.call.spec, how.call.path, z.dim() - 1, 0.0)


def derived(
    how: Activated,
    g: Tensor,
    kept: Sequence[Tensor],
    params: Parameters,
    needed: Sequence[bool],
    out: Tensor | None = None,
) -> list[Tensor | None]:
    """Gradients of the product, of its bias, and of each parameter; `needed` is of the bias and the parameters.

    g and what is kept are matrices, but for bits. The first may be written over `out`, which may be g.
    """
    call, plan = how
    kernels = _kernels(how, g, params)
    if kernels is not None and (plan.policy == "output") == kernels.from_value and not how.bits:
        return [*_in_rows(kernels, g, kept[0], needed[0], out), *(None for _ in params)]
    if not plan.replaces_input or (plan.policy == "output" and call.spec.name == "relu"):
        # The slope of relu is the same at its output.
        z = kept[0]
        # What the product has in it already: zeros stand for it, so that its gradient is summed.
        bias = z.new_zeros(z.shape[1]) if needed[0] else None
        return biased_operators.backward(_biased(how, z), g, z, bias, params, None, (True, *needed), out)
    y = kept[0] if plan.policy == "output" else None
    bits = kept[-1] if how.bits else None
    call = call._replace(channel=None if call.channel is None else 1)
    order = (g.shape[1], 1)
    dz, *sums = saved.backward(call, plan, g, y, bits, params, (True, *needed[1:]), order)
    return [dz, dz.sum(0) if needed[0] and dz is not None else None, *sums]


def _in_rows(
    kernels: Kernels, g: Tensor, kept: Tensor, summed: bool, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the product, and its sum over the rows, if wanted, while they are in the cache."""
    dz = large_pages.empty_like(kept) if out is None else out
    wide = torch.float32 if g.dtype in eager.HALF_DTYPES else g.dtype
    if kept.numel() <= SUMMED:
        kernels.backward(g, kept, grad_input=dz)
        return dz, dz.sum(0) if summed else None
    total = torch.zeros(kept.shape[1], dtype=wide) if summed else None
    for part in zip(*(t.split(max(1, SUMMED // kept.shape[1])) for t in (g, kept, dz)), strict=True):
        g_rows, kept_rows, out_rows = part
        kernels.backward(g_rows, kept_rows, grad_input=out_rows)
        if total is not None:
            total.add_(out_rows.sum(0, dtype=wide))
    return dz, None if total is None else total.to(g.dtype)
