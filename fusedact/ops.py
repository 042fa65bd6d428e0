"""Application of elementwise activations, and their differentiation: autograd, vmap, jvp, in place.

Autograd Functions carry the paths that keep only what the gradient needs: `_Fast` on the normal way, and
`_Transformable` under torch.func and forward-mode differentiation, which the first kind cannot serve and which costs
8 us more a call. Second and higher orders are derivatives of the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import compat, eager, execution, operators
from .checks import FLOAT_DTYPES, check_accepted, check_channel_dim, check_input, check_parameters, owner
from .cpu import pieces
from .dispatch import (
    ATEN_CPU,
    FORMULA_COMPILING,
    FORMULA_SMALL,
    LARGE_CPU,
    SHARDS,
    Path,
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
    if (
        # PyTorch's own operators on the CPU are reached below with fewer questions.
        (spec.aten is None or (type(x) is Tensor and x.is_cuda))
        and nothing_under_way(x)
        and numeric(params)
        and save == "auto"
        and not inplace
        and type(channel_dim) is int
        and not spec.autocast
        and (spec.refuses is None or not spec.refuses(*params))
    ):
        # The shortest way, for the cheapest operators and small tensors; what is written below would do the same.
        path = path_of_numbers(spec, x)
        if path.kind == "aten" and spec.aten is not None:
            return spec.aten(x) if params == spec.usual else spec.aten(x, *params)
        if path is FORMULA_SMALL:
            return eager.formula(spec, x, params)
        kernel = path.kind == "triton"
        if kernel or (path.kind == "pieces" and x.numel() <= pieces.FEW and spec.lean_backward is not None):
            if not x.requires_grad or not torch.is_grad_enabled():
                return (
                    execution.forward(Call(spec, path), x, params) if kernel else pieces.whole_forward(spec, x, params)
                )
            if not kernel or not saving.by_default(spec, x.dtype):
                return _apply_short(spec, path, params, x)
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
    if (
        path is ATEN_CPU
        and save == "auto"
        and not inplace
        and spec.aten is not None
        and saving.policy_var.get() == "auto"
    ):
        return spec.aten(x) if params == spec.usual else spec.aten(x, *params)
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
            return saved.apply(Call(spec, path, channel), plan, x, params, inplace, _gradients)
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
    if compat.transforms_active():
        if compat.functionalizing():
            return eager.formula(spec, x, params, channel)
        return _Transformable.apply(call, x, *params)
    if (x.requires_grad or not numbers) and _needs_grad(x, params):
        return _Numbers.apply(call, params, x) if numbers else _Fast.apply(call, x, *params)
    return _forward(call, x, params)


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


# ----- below autograd: as an operator where somebody watches, else directly


def _forward(call: Call, x: Tensor, params: Parameters) -> Tensor:
    if compat.dispatch_mode_active():
        return operators.forward(call, x, params)
    return execution.forward(call, x, params)


def _backward(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    if call.spec.key is not None and compat.is_legacy_batched(g):
        return _unrecorded(call, g, x, params, needed)
    if compat.dispatch_mode_active() or compat.is_legacy_batched(g):
        return operators.backward(call, g, x, params, needed)
    return execution.backward(call, g, x, params, needed)


# ----- derivatives of the formula, for what no kernel serves


def _formula(call: Call, x: Tensor, params: Parameters) -> Tensor:
    return eager.formula(call.spec, x, params, call.channel)


def _first_order(call: Call, params: Parameters) -> Callable[..., tuple[Tensor, ...]]:
    """(g, x, *tensor parameters) -> gradients of x and of the tensor parameters, by the formula."""

    def first(g: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(lambda x, *t: _formula(call, x, _merged(params, t)), x, *tensors)[1](g)

    return first


def _recorded(
    call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool], create_graph: bool = True
) -> list[Tensor | None]:
    """First-order gradients in a graph of plain operators: is_grads_batched=True loses that of a Function."""
    wanted = [t for t, n in zip((x, *params), needed, strict=True) if n and isinstance(t, Tensor)]
    y = _formula(call, x, params)
    return _restored(torch.autograd.grad(y, wanted, g, create_graph=create_graph), needed)


def _unrecorded(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """The same without a graph: an operator that takes a list of tensors has no batching rule."""
    with torch.enable_grad():
        leaves = [
            p.detach().requires_grad_(n) if isinstance(p, Tensor) else p
            for p, n in zip(params, needed[1:], strict=True)
        ]
        return _recorded(call, g, x.detach().requires_grad_(needed[0]), leaves, needed, create_graph=False)


def _merged(params: Parameters, tensors: Sequence[Tensor]) -> list[float | Tensor]:
    """params with its tensors replaced, in order."""
    rest = iter(tensors)
    return [next(rest) if isinstance(p, Tensor) else p for p in params]


def _tensors(params: Parameters) -> list[Tensor]:
    return [p for p in params if isinstance(p, Tensor)]


def _tangent(function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
    """The directional derivative of an elementwise function of tensors of one shape: slopes times tangents."""
    # Indexed: the function has no auxiliary output, which its declared type allows for.
    result = torch.func.vjp(function, *primals)
    out, pull = result[0], result[1]
    slopes = pull(torch.ones_like(out))
    terms = [s * t for s, t in zip(slopes, tangents, strict=True) if t is not None]
    # A parameter's dtype may be wider than the result's.
    return sum(terms[1:], terms[0]).to(out.dtype) if terms else torch.zeros_like(out)


def _expanded(call: Call, x: Tensor, t: Tensor) -> Tensor:
    """A parameter, or its tangent, at every element of x, so that its derivatives stay elementwise."""
    wide = eager.operand(t, x, call.channel, t.dtype)
    assert isinstance(wide, Tensor)
    return wide.expand(x.shape)


def _summed(call: Call, pointwise: Tensor, like: Tensor) -> Tensor:
    """What `_expanded` repeated, summed again."""
    if like.numel() == 1:
        return pointwise.sum().reshape(like.shape)
    others = [d for d in range(pointwise.dim()) if d != call.channel]
    return pointwise.sum(others) if others else pointwise


def _second_order(
    call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool], ggs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of (g, x, *params) from those of the needed first-order gradients."""
    tensors = _tensors(params)
    first = _first_order(call, params)
    result = torch.func.vjp(first, g, x, *tensors)
    grads, pull = result[0], result[1]
    kept = iter(ggs)
    wanted = [n for n, p in zip(needed, (x, *params), strict=True) if isinstance(p, Tensor)]
    cotangents = []
    for grad, n in zip(grads, wanted, strict=True):
        gg = next(kept) if n else None
        cotangents.append(torch.zeros_like(grad) if gg is None else gg)
    dg, dx, *dtensors = pull(tuple(cotangents))
    rest = iter(dtensors)
    return [dg, dx, *(next(rest) if isinstance(p, Tensor) else None for p in params)]


# ----- autograd


def _save(ctx: Any, params: Parameters, *tensors: Tensor) -> None:
    if numeric(params):
        ctx.numbers = params
        ctx.save_for_backward(*tensors)
        return
    ctx.numbers = tuple(None if isinstance(p, Tensor) else p for p in params)
    ctx.save_for_backward(*tensors, *_tensors(params))


def _saved(ctx: Any, count: int) -> tuple[Sequence[Tensor], Parameters]:
    """The first `count` saved tensors, and the parameters."""
    saved = ctx.saved_tensors
    if len(saved) == count:
        return saved, ctx.numbers
    rest = iter(saved[count:])
    return saved[:count], [next(rest) if n is None else n for n in ctx.numbers]


def _needed_only(grads: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(grad for grad in grads if grad is not None)


def _restored(grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    rest = iter(grads)
    return [next(rest) if n else None for n in needed]


# By the number of parameters: that only x's gradient is needed.
_X_ONLY = tuple((True, *[False] * count) for count in range(16))


def _gradients(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """What backward returns on the normal way."""
    # A transform may have begun since forward; create_graph=True enables grad mode.
    if torch.is_grad_enabled() or compat.transforms_active():
        if torch.is_grad_enabled() and compat.is_legacy_batched(g):
            return _recorded(call, g, x, params, needed)
        function = _TransformableBackward if compat.transforms_active() else _FastBackward
        return _restored(function.apply(call, needed, g, x, *params), needed)
    return _backward(call, g, x, params, needed)


class _Fast(Function):
    """The normal way: forward saves the input and the tensor parameters, nothing else."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *params: float | Tensor) -> Tensor:
        ctx.call = call
        _save(ctx, params, x)
        return _forward(call, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        return None, *_gradients(ctx.call, g, x, params, ctx.needs_input_grad[1:])


class _Numbers(Function):
    """`_Fast` where no parameter is a tensor: with fewer arguments a call on a small tensor takes 2 us less."""

    @staticmethod
    def forward(ctx: Any, call: Call, params: Parameters, x: Tensor) -> Tensor:
        ctx.call = call, params
        ctx.save_for_backward(x)
        return _forward(call, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        call, params = ctx.call
        return None, None, _gradients(call, g, ctx.saved_tensors[0], params, _X_ONLY[len(params)])[0]


class _Short(Function):
    """`_Numbers` where nothing is under way: by a kernel, or of a CPU tensor of one piece."""

    @staticmethod
    def forward(ctx: Any, spec: ActivationSpec, path: Path, params: Parameters, x: Tensor) -> Tensor:
        ctx.call = spec, path, params
        ctx.save_for_backward(x)
        if path.kind == "triton":
            return execution.forward(Call(spec, path), x, params)
        return pieces.whole_forward(spec, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        spec, path, params = ctx.call
        x = ctx.saved_tensors[0]
        # What was not under way in forward may be now.
        if torch.is_grad_enabled() or compat.observed(x) or compat.is_legacy_batched(g):
            dx = _gradients(Call(spec, path), g, x, params, _X_ONLY[len(params)])[0]
        elif path.kind == "triton":
            dx = execution.backward(Call(spec, path), g, x, params, _X_ONLY[len(params)])[0]
        else:
            dx = pieces.whole_backward(spec, g, x, params)
        return None, None, None, dx


_apply_short = compat.direct_apply(_Short)


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
        return _needed_only(_backward(call, g, x, params, needed))

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        if not torch.is_grad_enabled() and not compat.transforms_active() and not compat.dispatch_mode_active():
            kept = iter(ggs)
            found = execution.double_backward(ctx.call, [next(kept) if n else None for n in ctx.needed], g, x, params)
            if found is not None:
                return None, None, *found
        return None, None, *_second_order(ctx.call, g, x, params, ctx.needed, ggs)


class _Transformable(Function):
    """The same under torch.func and forward-mode differentiation."""

    @staticmethod
    def forward(call: Call, x: Tensor, *params: float | Tensor) -> Tensor:
        return _forward(call, x, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call, x, *params = inputs
        _save(ctx, params, x)
        ctx.save_for_forward(x, *_tensors(params))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        needed = ctx.needs_input_grad[1:]
        grads = _TransformableBackward.apply(ctx.call, needed, g, x, *params)
        return None, *_restored(grads, needed)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (x,), params = _saved(ctx, 1)
        call = ctx.call
        along = [t for t, p in zip(tangents[2:], params, strict=True) if isinstance(p, Tensor)]
        primals = [x, *(_expanded(call, x, t) for t in _tensors(params))]
        return _tangent(
            lambda x, *t: _formula(call, x, _merged(params, t)),
            primals,
            [tangents[1], *(t if t is None else _expanded(call, x, t) for t in along)],
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, x: Tensor, *params: float | Tensor) -> tuple[Tensor, int]:
        # A channel is counted along another dimension in the batch than in its entries.
        if not _by_channel(call) and all(d is None for d in in_dims[2:]):
            return _Transformable.apply(call, x, *params), in_dims[1]
        dims = tuple(d for d, p in zip(in_dims[2:], params, strict=True) if isinstance(p, Tensor))
        formula = torch.func.vmap(
            lambda x, *t: _formula(call, x, _merged(params, t)), (in_dims[1], *dims), randomness=info.randomness
        )
        return formula(x, *_tensors(params)), 0


class _TransformableBackward(Function):
    """The first-order gradient under transforms."""

    @staticmethod
    def forward(
        call: Call, needed: Sequence[bool], g: Tensor, x: Tensor, *params: float | Tensor
    ) -> tuple[Tensor, ...]:
        return _needed_only(_backward(call, g, x, params, needed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, ctx.needed, g, x, *params = inputs
        _save(ctx, params, g, x)
        ctx.save_for_forward(g, x, *_tensors(params))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        return None, None, *_second_order(ctx.call, g, x, params, ctx.needed, ggs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        (g, x), params = _saved(ctx, 2)
        call, tensors = ctx.call, _tensors(params)
        along = [t for t, p in zip(tangents[4:], params, strict=True) if isinstance(p, Tensor)]
        primals = [g, x, *(_expanded(call, x, t) for t in tensors)]
        directions = [tangents[2], tangents[3], *(t if t is None else _expanded(call, x, t) for t in along)]
        first = _first_order(call, params)
        wanted = [n for n, p in zip(ctx.needed, (x, *params), strict=True) if isinstance(p, Tensor)]
        results = []
        for i, (n, like) in enumerate(zip(wanted, (x, *tensors), strict=True)):
            if n:
                pointwise = _tangent(lambda *args, i=i: first(*args)[i], primals, directions)
                results.append(pointwise if i == 0 else _summed(call, pointwise, like))
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
        first = _first_order(call, params)

        def kept(*args: Tensor) -> tuple[Tensor, ...]:
            return tuple(grad for grad, n in zip(first(*args), wanted, strict=True) if n)

        grads = torch.func.vmap(kept, (g_dim, x_dim, *dims), randomness=info.randomness)(g, x, *_tensors(params))
        return grads, tuple(0 for _ in grads)


def _by_channel(call: Call) -> bool:
    """Whether something counts the input's channels."""
    return call.channel is not None or (call.spec.table is not None and call.spec.table.channel_dim is not None)
