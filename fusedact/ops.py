"""Execution and differentiation of elementwise activations: autograd, vmap, jvp, in place, and the operators.

Two autograd Functions carry the paths that keep only what the gradient needs: `_Fast` on the normal way, and
`_Transformable` under torch.func and forward-mode differentiation, which the first kind cannot serve and which costs
8 us more a call. Second and higher orders are derivatives of the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import catalog as _catalog  # noqa: F401  (its records are defined as operators below)
from . import compat, eager, registry
from .checks import FLOAT_DTYPES, check_input, check_parameters
from .dispatch import Path, choose
from .registry import ActivationSpec
from .tables import Plan, Table

__all__ = ["apply"]

Parameters = Sequence[float | Tensor]


def apply(spec: ActivationSpec, x: Tensor, params: Parameters, inplace: bool = False) -> Tensor:
    """The activation of x, on the path that `dispatch.choose` finds."""
    if not isinstance(x, Tensor) or x.dtype not in FLOAT_DTYPES:
        check_input(spec, x)
    numbers = True
    for p in params:
        if type(p) is not float:
            params = check_parameters(spec, x, params)
            numbers = eager.numeric(params)
            break
    path = choose(spec, x, params, numbers)
    if inplace:
        return _apply_inplace(spec, path, x, params)
    if path.kind == "aten" and spec.aten is not None:
        return spec.aten(x, *params)
    if path.kind == "formula":
        return eager.formula(spec, x, params)
    if compat.transforms_active():
        if compat.functionalizing():
            return eager.formula(spec, x, params)
        return _Transformable.apply(spec, path, x, *params)
    if (x.requires_grad or not numbers) and _needs_grad(x, params):
        return _Numbers.apply(spec, path, params, x) if numbers else _Fast.apply(spec, path, x, *params)
    return _forward(spec, path, x, params)


def _needs_grad(x: Tensor, params: Parameters) -> bool:
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(isinstance(p, Tensor) and p.requires_grad for p in params)


def _apply_inplace(spec: ActivationSpec, path: Path, x: Tensor, params: Parameters) -> Tensor:
    """Overwrite x. Where a gradient is wanted a copy of the input is kept, as PyTorch does for SiLU and its like."""
    if path.kind == "aten" and spec.aten is not None:
        return spec.aten(x, *params, inplace=True)
    if _needs_grad(x, params) or compat.transforms_active():
        return x.copy_(apply(spec, x.clone(), params))
    if path.kind == "formula" or compat.dispatch_mode_active() or not compat.is_dense(x) or x.is_neg():
        return x.copy_(apply(spec, x, params))
    _run_forward(spec, path, x, params, out=x)
    if path.kind == "triton" and not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return x


# ----- execution on plain tensors, below autograd


def _run_forward(spec: ActivationSpec, path: Path, x: Tensor, params: Parameters, out: Tensor | None = None) -> Tensor:
    if path.kind != "triton":
        return eager.forward(spec, x, params, out)
    from .kernels import launch

    x = compat.materialized(x)
    if out is None:
        out = torch.empty_like(x)
    with _on_device(x):
        if spec.table is None:
            launch.forward(spec.device, x, out, tuple(params))
        else:
            launch.forward(spec.device, x, out, (_launched(spec.table),), spec.table.channel_dim)
    return out


def _run_backward(
    spec: ActivationSpec,
    path: Path,
    g: Tensor,
    x: Tensor,
    params: Parameters,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    if path.kind != "triton":
        return eager.backward(spec, g, x, params, needed)
    from .kernels import launch

    g, x = compat.materialized(g), compat.materialized(x)
    dx = torch.empty_like(x) if needed[0] else None
    with _on_device(x):
        if spec.table is not None:
            launch.backward(spec.device, g, x, dx, (_launched(spec.table),), (False,), spec.table.channel_dim)
            return [dx]
        partials = launch.backward(spec.device, g, x, dx, tuple(params), tuple(needed[1:]))
    sums: list[Tensor | None] = [None for _ in params]
    if partials is not None:
        for i, (p, wanted) in enumerate(zip(params, needed[1:], strict=True)):
            if wanted and isinstance(p, Tensor):
                sums[i] = partials[i].sum().to(p.dtype).reshape(p.shape)
    return [dx, *sums]


def _launched(table: Table) -> Any:
    """A table as its kernels take it."""
    from .kernels import launch

    return launch.Table(table.data, table.size, table.how.steep)


_NO_GUARD = nullcontext()


def _on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it x's. Nothing to do in the common case."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return _NO_GUARD


# ----- operators: what a TorchDispatchMode sees (selective checkpointing, FLOP counters, make_fx)

_library = torch.library.Library("fusedact", "FRAGMENT")


def _define_operators(spec: ActivationSpec) -> None:
    """fusedact::<name> and fusedact::<name>_backward; the overload `tensor` takes the parameters as tensors.

    There a number is a zero-dimensional CPU tensor, as elsewhere in PyTorch. What is not needed comes back empty.
    """
    for overload, kind in (("", "float"), (".tensor", "Tensor")):
        if overload and not spec.parameters:
            continue
        params = "".join(f", {kind} {p.name}" for p in spec.parameters)
        results = ", ".join(["Tensor"] * (1 + len(spec.parameters))) if overload else "Tensor"
        needed = ", bool[] needed" if overload else ""
        _library.define(f"{spec.name}{overload}(Tensor x{params}) -> Tensor")
        _library.define(f"{spec.name}_backward{overload}(Tensor grad, Tensor x{params}{needed}) -> ({results})")

        def forward(x: Tensor, *params: float | Tensor) -> Tensor:
            params = _unwrapped(x, params)
            return _run_forward(spec, _physical_path(spec, x, params), x, params)

        def backward(g: Tensor, x: Tensor, *params: Any) -> Tensor:
            dx = _run_backward(spec, _physical_path(spec, x, params), g, x, params, [True] + [False] * len(params))[0]
            return x.new_empty(0) if dx is None else dx

        def backward_tensor(g: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
            params, needed = _unwrapped(x, args[:-1]), args[-1]
            with compat.transforms_allowed():
                grads = _run_backward(spec, _physical_path(spec, x, params), g, x, params, needed)
            return tuple(x.new_empty(0) if grad is None else grad for grad in grads)

        def fake(x: Tensor, *_: Any) -> Tensor:
            return torch.empty_like(x)

        def fake_backward(g: Tensor, x: Tensor, *_: Any) -> Tensor:
            return torch.empty_like(x)

        def fake_backward_tensor(g: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
            like = (x, *args[:-1])
            return tuple(torch.empty_like(t) if n else x.new_empty(0) for t, n in zip(like, args[-1], strict=True))

        _library.impl(f"{spec.name}{overload}", forward, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fusedact::{spec.name}{overload}", fake, lib=_library)
        name = f"{spec.name}_backward{overload}"
        _library.impl(name, backward_tensor if overload else backward, "CompositeExplicitAutograd")
        torch.library.register_fake(
            f"fusedact::{name}", fake_backward_tensor if overload else fake_backward, lib=_library
        )


def _define_table_operators() -> None:
    """fusedact::pwl and fusedact::pwl_backward, which take a prepared table and what is known of it."""
    constants = "Tensor table, int count, str kind, int cells, bool steep, int? channel_dim"

    def spec_of(data: Tensor, count: int, kind: str, cells: int, steep: bool, channel_dim: int | None) -> Any:
        return Table(data, count, Plan(kind, cells, steep), 0 if channel_dim is None else channel_dim).spec

    def forward(x: Tensor, *args: Any) -> Tensor:
        spec = spec_of(*args)
        return _run_forward(spec, _physical_path(spec, x, ()), x, ())

    def backward(g: Tensor, x: Tensor, *args: Any) -> Tensor:
        spec = spec_of(*args)
        dx = _run_backward(spec, _physical_path(spec, x, ()), g, x, (), _X_ONLY[0])[0]
        return x.new_empty(0) if dx is None else dx

    _library.define(f"pwl(Tensor x, {constants}) -> Tensor")
    _library.define(f"pwl_backward(Tensor grad, Tensor x, {constants}) -> Tensor")
    _library.impl("pwl", forward, "CompositeExplicitAutograd")
    _library.impl("pwl_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake("fusedact::pwl", lambda x, *_: torch.empty_like(x), lib=_library)
    torch.library.register_fake("fusedact::pwl_backward", lambda g, x, *_: torch.empty_like(x), lib=_library)


def _constants(spec: ActivationSpec) -> tuple[Any, ...]:
    """What an operator takes after x and the parameters."""
    return () if spec.table is None else spec.table.constants


def _unwrapped(x: Tensor, params: Sequence[Any]) -> tuple[float | Tensor, ...]:
    return tuple(p.item() if isinstance(p, Tensor) and p.device != x.device else p for p in params)


def _physical_path(spec: ActivationSpec, x: Tensor, params: Parameters) -> Path:
    """The path of an operator's call, which must not end in ATen's autograd-aware twin."""
    path = choose(spec, x, params, eager.numeric(params))
    return path if path.kind == "triton" else Path("pieces", path.reason)


def _per_channel(spec: ActivationSpec) -> bool:
    return spec.table is not None and spec.table.channel_dim is not None


def _operator(name: str, params: Parameters) -> tuple[Callable[..., Any], Parameters, bool]:
    """The overload for these parameters, the parameters as it takes them, and whether it is the tensors' one."""
    packet = getattr(torch.ops.fusedact, name)
    if any(isinstance(p, Tensor) for p in params):
        wrapped = [p if isinstance(p, Tensor) else torch.tensor(p, dtype=torch.float64) for p in params]
        return packet.tensor, wrapped, True
    return packet.default, params, False


def _forward(spec: ActivationSpec, path: Path, x: Tensor, params: Parameters) -> Tensor:
    if compat.dispatch_mode_active():
        operator, params, _ = _operator(spec.name, params)
        return operator(x, *params, *_constants(spec))
    return _run_forward(spec, path, x, params)


def _backward(
    spec: ActivationSpec, path: Path, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    if compat.dispatch_mode_active() or compat.is_legacy_batched(g):
        operator, params, tensors = _operator(f"{spec.name}_backward", params)
        if not tensors:
            return [operator(g, x, *params, *_constants(spec)), *(None for _ in params)]
        grads = operator(g, x, *params, list(needed))
        return [grad if n else None for grad, n in zip(grads, needed, strict=True)]
    return _run_backward(spec, path, g, x, params, needed)


# ----- derivatives of the formula, for what no kernel serves


def _first_order(spec: ActivationSpec, params: Parameters) -> Callable[..., tuple[Tensor, ...]]:
    """(g, x, *tensor parameters) -> gradients of x and of the tensor parameters, by the formula."""

    def first(g: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(lambda x, *t: eager.formula(spec, x, _merged(params, t)), x, *tensors)[1](g)

    return first


def _recorded(
    spec: ActivationSpec, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    """First-order gradients in a graph of plain operators: is_grads_batched=True loses that of a Function."""
    wanted = [t for t, n in zip((x, *params), needed, strict=True) if n and isinstance(t, Tensor)]
    y = eager.formula(spec, x, params)
    return _restored(torch.autograd.grad(y, wanted, g, create_graph=True), needed)


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


def _expanded(x: Tensor, t: Tensor) -> Tensor:
    """A parameter, or its tangent, at every element of x, so that its derivatives stay elementwise."""
    return t.reshape(()).expand(x.shape)


def _second_order(
    spec: ActivationSpec, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool], ggs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of (g, x, *params) from those of the needed first-order gradients."""
    tensors = _tensors(params)
    first = _first_order(spec, params)
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
    if eager.numeric(params):
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


def _gradients(
    spec: ActivationSpec, path: Path, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]
) -> list[Tensor | None]:
    """What backward returns on the normal way."""
    # A transform may have begun since forward; create_graph=True enables grad mode.
    if torch.is_grad_enabled() or compat.transforms_active():
        if torch.is_grad_enabled() and compat.is_legacy_batched(g):
            return _recorded(spec, g, x, params, needed)
        function = _TransformableBackward if compat.transforms_active() else _FastBackward
        return _restored(function.apply(spec, path, needed, g, x, *params), needed)
    return _backward(spec, path, g, x, params, needed)


class _Fast(Function):
    """The normal way: forward saves the input and the tensor parameters, nothing else."""

    @staticmethod
    def forward(ctx: Any, spec: ActivationSpec, path: Path, x: Tensor, *params: float | Tensor) -> Tensor:
        ctx.spec = spec
        ctx.path = path
        _save(ctx, params, x)
        return _forward(spec, path, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        return None, None, *_gradients(ctx.spec, ctx.path, g, x, params, ctx.needs_input_grad[2:])


class _Numbers(Function):
    """`_Fast` where no parameter is a tensor: with fewer arguments a call on a small tensor takes 2 us less."""

    @staticmethod
    def forward(ctx: Any, spec: ActivationSpec, path: Path, params: Parameters, x: Tensor) -> Tensor:
        ctx.call = spec, path, params
        ctx.save_for_backward(x)
        return _forward(spec, path, x, params)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        spec, path, params = ctx.call
        return None, None, None, _gradients(spec, path, g, ctx.saved_tensors[0], params, _X_ONLY[len(params)])[0]


class _FastBackward(Function):
    """The first-order gradient as an operation of its own, for second and higher orders."""

    @staticmethod
    def forward(
        ctx: Any,
        spec: ActivationSpec,
        path: Path,
        needed: Sequence[bool],
        g: Tensor,
        x: Tensor,
        *params: float | Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.spec = spec
        ctx.needed = needed
        _save(ctx, params, g, x)
        ctx.set_materialize_grads(False)
        return _needed_only(_backward(spec, path, g, x, params, needed))

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        return None, None, None, *_second_order(ctx.spec, g, x, params, ctx.needed, ggs)


class _Transformable(Function):
    """The same under torch.func and forward-mode differentiation."""

    @staticmethod
    def forward(spec: ActivationSpec, path: Path, x: Tensor, *params: float | Tensor) -> Tensor:
        return _forward(spec, path, x, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.spec, ctx.path, x, *params = inputs
        _save(ctx, params, x)
        ctx.save_for_forward(x, *_tensors(params))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,), params = _saved(ctx, 1)
        needed = ctx.needs_input_grad[2:]
        grads = _TransformableBackward.apply(ctx.spec, ctx.path, needed, g, x, *params)
        return None, None, *_restored(grads, needed)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (x,), params = _saved(ctx, 1)
        along = [t for t, p in zip(tangents[3:], params, strict=True) if isinstance(p, Tensor)]
        primals = [x, *(_expanded(x, t) for t in _tensors(params))]
        return _tangent(
            lambda x, *t: eager.formula(ctx.spec, x, _merged(params, t)),
            primals,
            [tangents[2], *(t if t is None else _expanded(x, t) for t in along)],
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], spec: ActivationSpec, path: Path, x: Tensor, *params: float | Tensor
    ) -> tuple[Tensor, int]:
        # A channel is counted along another dimension in the batch than in its entries.
        if not _per_channel(spec) and all(d is None for d in in_dims[3:]):
            return _Transformable.apply(spec, path, x, *params), in_dims[2]
        dims = tuple(d for d, p in zip(in_dims[3:], params, strict=True) if isinstance(p, Tensor))
        formula = torch.func.vmap(
            lambda x, *t: eager.formula(spec, x, _merged(params, t)), (in_dims[2], *dims), randomness=info.randomness
        )
        return formula(x, *_tensors(params)), 0


class _TransformableBackward(Function):
    """The first-order gradient under transforms."""

    @staticmethod
    def forward(
        spec: ActivationSpec, path: Path, needed: Sequence[bool], g: Tensor, x: Tensor, *params: float | Tensor
    ) -> tuple[Tensor, ...]:
        return _needed_only(_backward(spec, path, g, x, params, needed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.spec, _, ctx.needed, g, x, *params = inputs
        _save(ctx, params, g, x)
        ctx.save_for_forward(g, x, *_tensors(params))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *ggs: Tensor | None) -> tuple[Any, ...]:
        (g, x), params = _saved(ctx, 2)
        return None, None, None, *_second_order(ctx.spec, g, x, params, ctx.needed, ggs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        (g, x), params = _saved(ctx, 2)
        tensors = _tensors(params)
        along = [t for t, p in zip(tangents[5:], params, strict=True) if isinstance(p, Tensor)]
        primals = [g, x, *(_expanded(x, t) for t in tensors)]
        directions = [tangents[3], tangents[4], *(t if t is None else _expanded(x, t) for t in along)]
        first = _first_order(ctx.spec, params)
        wanted = [n for n, p in zip(ctx.needed, (x, *params), strict=True) if isinstance(p, Tensor)]
        results = []
        for i, (n, like) in enumerate(zip(wanted, (x, *tensors), strict=True)):
            if n:
                pointwise = _tangent(lambda *args, i=i: first(*args)[i], primals, directions)
                results.append(pointwise if i == 0 else pointwise.sum().reshape(like.shape))
        return tuple(results)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        spec: ActivationSpec,
        path: Path,
        needed: Sequence[bool],
        g: Tensor,
        x: Tensor,
        *params: float | Tensor,
    ) -> tuple[tuple[Tensor, ...], Any]:
        g_dim, x_dim = in_dims[3:5]
        if not _per_channel(spec) and not any(needed[1:]) and all(d is None for d in in_dims[5:]):
            if x_dim is None:
                x, x_dim = x.unsqueeze(g_dim).expand_as(g), g_dim
            elif g_dim is None:
                g = g.unsqueeze(x_dim).expand_as(x)
            else:
                g = g.movedim(g_dim, x_dim)
            return _TransformableBackward.apply(spec, path, needed, g, x, *params), (x_dim,)
        # Each entry of the batch has parameter gradients of its own, which the kernels' sums would merge.
        wanted = [n for n, p in zip(needed, (x, *params), strict=True) if isinstance(p, Tensor)]
        dims = tuple(d for d, p in zip(in_dims[5:], params, strict=True) if isinstance(p, Tensor))
        first = _first_order(spec, params)

        def kept(*args: Tensor) -> tuple[Tensor, ...]:
            return tuple(grad for grad, n in zip(first(*args), wanted, strict=True) if n)

        grads = torch.func.vmap(kept, (g_dim, x_dim, *dims), randomness=info.randomness)(g, x, *_tensors(params))
        return grads, tuple(0 for _ in grads)


for _name in registry.names("elementwise"):
    _define_operators(registry.get(_name))
_define_table_operators()
