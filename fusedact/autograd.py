"""The autograd Functions of elementwise calls, and what they do below autograd: as an operator where somebody watches.

`_Fast` and its like are the normal way; `_Transformable` serves torch.func and forward-mode differentiation, which the
first kind cannot serve and which costs 8 us more a call. They keep only what the gradient needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import compat, execution, operators
from .cpu import cpu_kernels, pieces
from .cpu.cpu_kernels import Kernels
from .derivatives import (
    expanded,
    first_order,
    formula_of,
    merged,
    recorded,
    restored,
    second_order,
    summed,
    tangent,
    tensors_of,
    unrecorded,
)
from .dispatch import LARGE_CPU, PIECES_CPU, Path
from .eager import HALF_DTYPES, numeric
from .execution import Call, Parameters
from .registry import ActivationSpec
from .saving.saving import operator_keeps

__all__ = ["apply", "apply_short", "gradients", "of_learned", "of_one_piece"]


def apply(call: Call, x: Tensor, params: Parameters, recording: bool) -> Tensor:
    """The activation of x; `recording`: autograd wants a gradient of x or of a parameter."""
    if compat.transforms_active():
        return _Transformable.apply(call, x, *params)
    if not recording:
        return forward(call, x, params)
    if call.path is LARGE_CPU and operator_keeps(call.spec) == "output":
        kernels = cpu_kernels.large(call.spec, x)
        assert kernels is not None
        return _Valued.apply(kernels, x)
    return _Numbers.apply(call, params, x) if numeric(params) else _Fast.apply(call, x, *params)


def forward(call: Call, x: Tensor, params: Parameters) -> Tensor:
    """The value, below autograd."""
    if compat.dispatch_mode_active():
        return operators.forward(call, x, params)
    return execution.forward(call, x, params)


def backward(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed, below autograd."""
    if call.spec.key is not None and compat.is_legacy_batched(g):
        return unrecorded(call, g, x, params, needed)
    if compat.dispatch_mode_active() or compat.is_legacy_batched(g):
        return operators.backward(call, g, x, params, needed)
    return execution.backward(call, g, x, params, needed)


def _save(ctx: Any, params: Parameters, *tensors: Tensor) -> None:
    if numeric(params):
        ctx.numbers = params
        ctx.save_for_backward(*tensors)
        return
    ctx.numbers = tuple(None if isinstance(p, Tensor) else p for p in params)
    ctx.save_for_backward(*tensors, *tensors_of(params))


def _saved(ctx: Any, count: int) -> tuple[Sequence[Tensor], Parameters]:
    """The first `count` saved tensors, and the parameters."""
    saved = ctx.saved_tensors
    if len(saved) == count:
        return saved, ctx.numbers
    rest = iter(saved[count:])
    return saved[:count], [next(rest) if n is None else n for n in ctx.numbers]


def _needed_only(grads: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(grad for grad in grads if grad is not None)


# By the number of parameters: that only x's gradient is needed.
_X_ONLY = tuple((True, *[False] * count) for count in range(16))


def gradients(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """What backward returns on the normal way."""
    # A transform may have begun since forward; create_graph=True enables grad mode.
    if torch.is_grad_enabled() or compat.transforms_active():
        if torch.is_grad_enabled() and compat.is_legacy_batched(g):
            return recorded(call, g, x, params, needed)
        function = _TransformableBackward if compat.transforms_active() else _FastBackward
        return restored(function.apply(call, needed, g, x, *params), needed)
    return backward(call, g, x, params, needed)


class _Fast(Function):
    """The normal way: forward saves the input and the tensor parameters, nothing else."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *params: float | Tensor) -> Tensor:
        ctx.call = call
        _save(ctx, params, x)
        return forward(call, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        return None, *gradients(ctx.call, g, x, params, ctx.needs_input_grad[1:])


class _Numbers(Function):
    """`_Fast` where no parameter is a tensor: with fewer arguments a call on a small tensor takes 2 us less."""

    @staticmethod
    def forward(ctx: Any, call: Call, params: Parameters, x: Tensor) -> Tensor:
        ctx.call = call, params
        ctx.save_for_backward(x)
        return forward(call, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        call, params = ctx.call
        return None, None, gradients(call, g, ctx.saved_tensors[0], params, _X_ONLY[len(params)])[0]


def of_one_piece(spec: ActivationSpec, params: Parameters, x: Tensor, path: Path = PIECES_CPU) -> Tensor:
    """The activation of a CPU tensor of one piece, where nothing is under way."""
    if x.requires_grad and torch.is_grad_enabled():
        return apply_short((spec, path, params), x)
    return pieces.whole_forward(spec, x, params)


class _Short(Function):
    """`_Numbers` where nothing is under way: by a kernel, or of a CPU tensor of one piece."""

    @staticmethod
    def forward(ctx: Any, call: tuple[ActivationSpec, Path, Parameters], x: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(x)
        spec, path, params = call
        if path.kind == "triton":
            return execution.forward(Call(spec, path), x, params)
        return pieces.whole_forward(spec, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        spec, path, params = ctx.call
        (x,) = ctx.saved_tensors
        # What was not under way in forward may be now.
        if torch.is_grad_enabled() or compat.observed(x) or compat.is_legacy_batched(g):
            return None, gradients(Call(spec, path), g, x, params, _X_ONLY[len(params)])[0]
        if path.kind == "triton":
            return None, execution.backward(Call(spec, path), g, x, params, _X_ONLY[len(params)])[0]
        return None, pieces.whole_backward(spec, g, x, params)


apply_short = compat.direct_apply(_Short)


def of_learned(spec: ActivationSpec, params: Parameters, channel_dim: int, x: Tensor) -> Tensor:
    """The same where some parameters are tensors, of one element or of one for each channel."""
    counted = any(isinstance(p, Tensor) and p.numel() != 1 for p in params)
    call = Call(spec, PIECES_CPU, channel_dim % x.dim() if counted else None)
    if torch.is_grad_enabled() and (x.requires_grad or any(isinstance(p, Tensor) and p.requires_grad for p in params)):
        return apply_learned(call, x, *params)
    return _value_of_learned(call, x, params)


def _value_of_learned(call: Call, x: Tensor, params: Parameters) -> Tensor:
    spec = call.spec
    if call.channel is not None:
        return pieces.forward(spec, x, params, None, call.channel)
    numbers = [p.item() if isinstance(p, Tensor) else p for p in params]
    return pieces.whole_forward(spec, x, numbers) if spec.aten is None else spec.aten(x, *numbers)


class _ShortLearned(Function):
    """`_Fast` of a CPU tensor of one piece, where nothing is under way."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *params: float | Tensor) -> Tensor:
        ctx.call = call
        _save(ctx, params, x)
        return _value_of_learned(call, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        call, needed = ctx.call, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or compat.observed(x) or compat.is_legacy_batched(g):
            return None, *gradients(call, g, x, params, needed)
        dtype = torch.float32 if x.dtype in HALF_DTYPES else x.dtype
        return None, *pieces.at_once(call.spec, g, x, params, needed, call.channel, dtype)


apply_learned = compat.direct_apply(_ShortLearned)


class _Valued(Function):
    """PyTorch's own kernels that keep their value, of a large CPU tensor."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor) -> Tensor:
        ctx.kernels = kernels
        y = cpu_kernels.large_forward(kernels, x, ())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled() or compat.observed(y) or compat.is_legacy_batched(g):
            return None, ctx.kernels.backward(g, y)
        return None, cpu_kernels.large_backward(ctx.kernels, g, y, ())


class _FastBackward(Function):
    """The first-order gradient as an operation of its own, for second and higher orders."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, needed: Sequence[bool], g: Tensor, x: Tensor, *params: float | Tensor
    ) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.needed = needed
        _save(ctx, params, g, x)
        ctx.set_materialize_grads(False)
        return _needed_only(backward(call, g, x, params, needed))

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        if not torch.is_grad_enabled() and not compat.transforms_active() and not compat.dispatch_mode_active():
            kept = iter(ggs)
            found = execution.double_backward(ctx.call, [next(kept) if n else None for n in ctx.needed], g, x, params)
            if found is not None:
                return None, None, *found
        return None, None, *second_order(ctx.call, g, x, params, ctx.needed, ggs)


class _Transformable(Function):
    """The same under torch.func and forward-mode differentiation."""

    @staticmethod
    def forward(call: Call, x: Tensor, *params: float | Tensor) -> Tensor:
        return forward(call, x, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call, x, *params = inputs
        _save(ctx, params, x)
        ctx.save_for_forward(x, *tensors_of(params))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        needed = ctx.needs_input_grad[1:]
        grads = _TransformableBackward.apply(ctx.call, needed, g, x, *params)
        return None, *restored(grads, needed)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (x,), params = _saved(ctx, 1)
        call = ctx.call
        along = [t for t, p in zip(tangents[2:], params, strict=True) if isinstance(p, Tensor)]
        primals = [x, *(expanded(call, x, t) for t in tensors_of(params))]
        return tangent(
            lambda x, *t: formula_of(call, x, merged(params, t)),
            primals,
            [tangents[1], *(t if t is None else expanded(call, x, t) for t in along)],
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, x: Tensor, *params: float | Tensor) -> tuple[Tensor, int]:
        # A channel is counted along another dimension in the batch than in its entries.
        if not _by_channel(call) and all(d is None for d in in_dims[2:]):
            return _Transformable.apply(call, x, *params), in_dims[1]
        dims = tuple(d for d, p in zip(in_dims[2:], params, strict=True) if isinstance(p, Tensor))
        formula = torch.func.vmap(
            lambda x, *t: formula_of(call, x, merged(params, t)), (in_dims[1], *dims), randomness=info.randomness
        )
        return formula(x, *tensors_of(params)), 0


class _TransformableBackward(Function):
    """The first-order gradient under transforms."""

    @staticmethod
    def forward(
        call: Call, needed: Sequence[bool], g: Tensor, x: Tensor, *params: float | Tensor
    ) -> tuple[Tensor, ...]:
        return _needed_only(backward(call, g, x, params, needed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, ctx.needed, g, x, *params = inputs
        _save(ctx, params, g, x)
        ctx.save_for_forward(g, x, *tensors_of(params))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        return None, None, *second_order(ctx.call, g, x, params, ctx.needed, ggs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        (g, x), params = _saved(ctx, 2)
        call, tensors = ctx.call, tensors_of(params)
        along = [t for t, p in zip(tangents[4:], params, strict=True) if isinstance(p, Tensor)]
        primals = [g, x, *(expanded(call, x, t) for t in tensors)]
        directions = [tangents[2], tangents[3], *(t if t is None else expanded(call, x, t) for t in along)]
        first = first_order(call, params)
        wanted = [n for n, p in zip(ctx.needed, (x, *params), strict=True) if isinstance(p, Tensor)]
        results = []
        for i, (n, like) in enumerate(zip(wanted, (x, *tensors), strict=True)):
            if n:
                pointwise = tangent(lambda *args, i=i: first(*args)[i], primals, directions)
                results.append(pointwise if i == 0 else summed(call, pointwise, like))
        return tuple(results)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        call: Call,
        needed: Sequence[bool],
        g: Tensor,
        x: Tensor,
        *params: float | Tensor,
    ) -> tuple[tuple[Tensor, ...], Any]:
        g_dim, x_dim = in_dims[2:4]
        if not _by_channel(call) and not any(needed[1:]) and all(d is None for d in in_dims[4:]):
            if x_dim is None:
                x, x_dim = x.unsqueeze(g_dim).expand_as(g), g_dim
            elif g_dim is None:
                g = g.unsqueeze(x_dim).expand_as(x)
            else:
                g = g.movedim(g_dim, x_dim)
            return _TransformableBackward.apply(call, needed, g, x, *params), (x_dim,)
        # Each entry of the batch has parameter gradients of its own, which the kernels' sums would merge.
        wanted = [n for n, p in zip(needed, (x, *params), strict=True) if isinstance(p, Tensor)]
        dims = tuple(d for d, p in zip(in_dims[4:], params, strict=True) if isinstance(p, Tensor))
        first = first_order(call, params)

        def kept(*args: Tensor) -> tuple[Tensor, ...]:
            return tuple(grad for grad, n in zip(first(*args), wanted, strict=True) if n)

        grads = torch.func.vmap(kept, (g_dim, x_dim, *dims), randomness=info.randomness)(g, x, *tensors_of(params))
        return grads, tuple(0 for _ in grads)


def _by_channel(call: Call) -> bool:
    """Whether something counts the input's channels."""
    return call.channel is not None or (call.spec.table is not None and call.spec.table.channel_dim is not None)
