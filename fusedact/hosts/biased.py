"""Biased activations: an activation of a sum, with dropout and a residual in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from .. import compat, eager, ops
from ..checks import check_accepted, check_channel_dim, check_number, check_parameters
from ..cpu.large_pages import LARGE
from ..dispatch import PIECES_CPU, choose
from ..execution import Parameters
from . import seeds
from .biased_operators import RECORD, Call, backward, factors_of, forward, result_dtype
from .hosted import Hosted, alike, check_tensor, recorded, small_twin, stays_in_eager

__all__ = ["bias_act"]

_OWNER = "fusedact.functional.bias_act"


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    activation: Any,
    residual: Tensor | None = None,
    dropout_p: float = 0.0,
    training: bool = True,
    *,
    channel_dim: int = -1,
    **parameters: float | Tensor | str,
) -> Tensor:
    """An activation of a sum, with dropout and a residual in the same pass.

        activation(x + bias) * mask / (1 - dropout_p) + residual

    One pass reads x and writes the result; backward reads x and the gradient, and gives the gradients of x, of the bias
    and of the activation's parameters. Kept for backward are x and the bias, not the residual, and of the mask a seed.
    Halves are computed in float32 and rounded once. Small calls on a CPU take plain operators, which keep and round
    what PyTorch's do.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        bias: tensor of shape (), (1,) or (C,), with C the size of x in `channel_dim`; or None.
        activation: the name of an elementwise activation, a function of this module, or what `fusedact.activation`
            made.
        residual: tensor of x's shape, which is added at the end; or None.
        dropout_p: the probability with which an element of the activation's value becomes 0; the others are divided by
            1 - dropout_p. A call draws one seed from PyTorch's generator of x's device, and nothing else; the mask
            follows from it and an element's place in row-major order, and is made again in backward. PyTorch's own
            dropout draws another mask for the same torch.manual_seed.
        training: False for no dropout.
        channel_dim: x's dimension that the bias and parameters with several entries count.
        parameters: of the activation, and its options, by name: numbers, or tensors of shape (), (1,) or (C,), which
            get gradients; the defaults otherwise.

    Returns:
        tensor of x's shape and layout, in the dtype that PyTorch gives x + bias + residual.

    Raises:
        TypeError: if an argument has another type or dtype, or the activation has no such parameter.
        ValueError: for an unknown name, or an activation that is not elementwise; if dropout_p is not from 0 to 1; if
            the shape of the bias or the residual does not fit x, or one is on another device.

    >>> FF.bias_act(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 1.0]), "relu", residual=torch.ones(2))
    tensor([1., 4.])

    Source: Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html, of dropout.
    """
    given = x, bias, residual
    if has_torch_function(given):
        rest: dict[str, Any] = {"channel_dim": channel_dim, **parameters}
        return handle_torch_function(
            bias_act, given, x, bias, activation, residual=residual, dropout_p=dropout_p, training=training, **rest
        )
    twin = small_twin(activation, parameters, x) if dropout_p == 0.0 and type(training) is bool else None
    if twin is not None and _adds_last(bias, x, channel_dim):
        if residual is None:
            return twin(x + bias)
        if alike(residual, x) and residual.shape == x.shape:
            return twin(x + bias) + residual
    check_tensor(_OWNER, "x", x)
    hosted = Hosted.of(_OWNER, activation, parameters)
    check_channel_dim(_OWNER, channel_dim)
    _check_bias(x, bias, channel_dim)
    _check_residual(x, residual)
    p = _checked_probability(dropout_p, training)
    return apply(hosted, x, bias, residual, p, channel_dim)


# ----- checks


def _adds_last(bias: object, x: Tensor, channel_dim: int) -> TypeGuard[Tensor]:
    """Whether a bias, which something must be, has an entry for each of x's last dimension, and x's kind."""
    return (
        type(channel_dim) is int
        and alike(bias, x)
        and bias.dim() == 1
        and (count := x.dim()) > 0
        and (channel_dim == -1 or channel_dim == count - 1)
        and x.shape[-1] == bias.shape[0]
    )


def _check_bias(x: Tensor, bias: object, channel_dim: int) -> None:
    if bias is None:
        return
    check_tensor(_OWNER, "bias", bias)
    assert isinstance(bias, Tensor)
    if bias.device != x.device:
        raise ValueError(f"{_OWNER}: bias must be on the device of x, {x.device}, got a tensor on {bias.device}")
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if bias.dim() == 0 or (bias.dim() == 1 and (compat.tracing() or bias.shape[0] == 1)):
        return
    if bias.dim() > 1 or not -x.dim() <= channel_dim < x.dim() or x.shape[channel_dim] != bias.shape[0]:
        raise ValueError(
            f"{_OWNER}: bias must have shape (), (1,) or (C,) with C the size of x in dimension "
            f"channel_dim={channel_dim}; got shape {tuple(bias.shape)}, where x has {tuple(x.shape)}"
        )


def _check_residual(x: Tensor, residual: object) -> None:
    if residual is None:
        return
    check_tensor(_OWNER, "residual", residual)
    assert isinstance(residual, Tensor)
    if not compat.tracing() and residual.shape != x.shape:
        raise ValueError(
            f"{_OWNER}: residual must have the shape of x, {tuple(x.shape)}, got shape {tuple(residual.shape)}"
        )
    if residual.device != x.device:
        raise ValueError(
            f"{_OWNER}: residual must be on the device of x, {x.device}, got a tensor on {residual.device}"
        )


def _checked_probability(dropout_p: object, training: object) -> float:
    """The probability of dropout, 0 where there is none."""
    p = check_number(_OWNER, "dropout_p", dropout_p)
    if not isinstance(training, bool):
        raise TypeError(f"{_OWNER}: training must be True or False, got {type(training).__name__}")
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{_OWNER}: dropout_p must be from 0 to 1, got {p}")
    return p if training else 0.0


# ----- a call


def apply(
    hosted: Hosted, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, channel_dim: int
) -> Tensor:
    """The activation of x + bias, with dropout and a residual, on the path that fits."""
    spec, params = hosted
    if not eager.numeric(params):
        params, _ = check_parameters(spec, x, params, channel_dim)
    if eager.numeric(params):
        check_accepted("", spec, params)
    if bias is None and residual is None and p == 0.0:
        return ops.apply(spec, x, params, channel_dim=channel_dim)
    if x.dtype != torch.float64 and result_dtype(x, bias, residual) == torch.float64:
        x = x.double()
    tensors = [t for t in (bias, residual, *params) if isinstance(t, Tensor)]
    path = choose(RECORD, x, tensors, False)
    # Where nothing counts it, there may be no such dimension.
    dim = channel_dim % x.dim() if -x.dim() <= channel_dim < x.dim() else 0
    call = Call(spec, path, dim, p)
    if path.kind == "formula" or compat.transforms_active() or _never_random(call, x):
        return _formula(call, x, bias, residual, params)
    seed = seeds.drawn(x.device) if p > 0.0 else None
    if _plainly(call, x, params):
        return _plain(call, x, bias, residual, params, seed)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors)):
        return _Biased.apply(call, seed, residual, x, bias, *params)
    return forward(call, x, bias, residual, params, seed)


def _never_random(call: Call, x: Tensor) -> bool:
    """Whether there is nothing to draw, or nobody to: pieces draw from a generator of the CPU."""
    return stays_in_eager(call.spec) or call.p == 1.0 or (call.p > 0.0 and call.path.kind == "pieces" and not x.is_cpu)


# From so many elements on the CPU's pieces pay where PyTorch has no operator for the activation, or parameters learn.
# Measured, with and without dropout: at half as many they take as long as plain operators, or longer.
PIECES_FROM = 2**21
# And from so many bytes of a tensor on everywhere: each one that autograd keeps is then new memory from the system.
PIECES_FROM_BYTES = LARGE


def _plainly(call: Call, x: Tensor, params: Parameters) -> bool:
    """Whether plain operators take less time, although pieces could serve."""
    if call.path != PIECES_CPU or x.nbytes >= PIECES_FROM_BYTES:
        return False
    return x.numel() < PIECES_FROM or (call.spec.aten is not None and eager.numeric(params))


def _plain(
    call: Call, x: Tensor, bias: Tensor | None, residual: Tensor | None, params: Parameters, seed: Tensor | None
) -> Tensor:
    """The sum, the activation as it is called by itself, and the factors of dropout."""
    z = x
    if bias is not None:
        if bias.dtype != x.dtype:
            z = x.to(result_dtype(x, bias, None))
        # Along the last dimension it is found there.
        z = z + (bias if call.dim + 1 == x.dim() else eager.operand(bias, x, call.dim, bias.dtype))
    y = ops.apply(call.spec, z, params, channel_dim=call.dim)
    if seed is not None:
        y = y * factors_of(call, x, seed)
    if residual is not None:
        y = y + residual
    return y if y.dtype == x.dtype else y.to(result_dtype(x, bias, residual))


def _formula(
    call: Call,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    params: Parameters,
    factors: Tensor | None = None,
) -> Tensor:
    """The definition in plain operators, with these factors of dropout, or PyTorch's own dropout.

    Halves are computed in fp32 and rounded once.
    """
    dtype = result_dtype(x, bias, residual)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    z = x.to(wide)
    if bias is not None:
        z = z + eager.operand(bias, x, call.dim, wide)
    if compat.is_distributed(z):
        # Not every operator of PyTorch's has a rule for DTensors.
        y = ops.apply(call.spec, z, params, channel_dim=call.dim)
    else:
        y = eager.formula(call.spec, z, params, call.dim)
    if factors is not None:
        y = y * factors
    elif call.p:
        y = F.dropout(y, call.p)
    if residual is not None:
        y = y + residual
    return y.to(dtype)


class _Biased(Function):
    """Keeps x, the bias, the activation's parameters and the seed."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, seed: Tensor | None, residual: Tensor | None, x: Tensor, *arguments: float | Tensor | None
    ) -> Tensor:
        ctx.call = call
        ctx.residual = None if residual is None else residual.dtype
        given = seed, x, *arguments
        ctx.others = [None if isinstance(a, Tensor) else (a,) for a in given]
        ctx.save_for_backward(*(a for a in given if isinstance(a, Tensor)))
        bias, *params = arguments
        return forward(call, x, bias, residual, params, seed)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        seed, *arguments = (next(saved) if other is None else other[0] for other in ctx.others)
        call, needed = ctx.call, ctx.needs_input_grad[3:]
        of_residual = g.to(ctx.residual) if ctx.needs_input_grad[2] else None
        if not any(needed):
            return None, None, of_residual, *(None for _ in needed)
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            return None, None, of_residual, *_recorded(call, g, seed, arguments, needed)
        x, bias, *params = arguments
        return None, None, of_residual, *backward(call, g, x, bias, params, seed, needed)


def _recorded(
    call: Call, g: Tensor, seed: Tensor | None, arguments: Sequence[Any], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients by the formula, with the mask that forward had."""
    factors = None
    if seed is not None:
        # A constant, which no transform knows of; only g may be one's.
        with torch.no_grad(), compat.transforms_allowed():
            factors = factors_of(call, arguments[0].detach(), seed)

    def formula(x: Tensor, bias: Tensor | None, *params: float | Tensor) -> Tensor:
        return _formula(call, x, bias, None, params, factors)

    return recorded(formula, arguments, needed, g.to(result_dtype(arguments[0], arguments[1], None)))
