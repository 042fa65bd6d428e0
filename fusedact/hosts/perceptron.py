"""Two linear layers with an activation or a gated one between them: autograd that keeps one tensor of the hidden width
for each product in front of the activation, or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .. import compat
from ..checks import check_parameters
from ..crossovers import aten_below
from ..dispatch import Path
from ..eager import numeric
from ..execution import Parameters
from ..registry import ActivationSpec
from . import gating, gating_operators, products
from .affine import activation_of, autocast, layer_path
from .hosted import Hosted, recorded

__all__ = ["Layer", "apply"]

# Weight and bias.
Layer = tuple[Tensor, Tensor | None]

# From so many hidden elements on the CPU, autograd of its own. Measured: below, what it costs to call it counts.
OWN_FROM = 2**18


class _Call(NamedTuple):
    """What of a call is no tensor: the activation, the path, the saving policy, and whether products are made again."""

    spec: ActivationSpec
    path: Path
    save: str
    recompute: bool


def apply(
    hosted: Hosted,
    x: Tensor,
    up: Layer,
    down: Layer,
    gate: Layer | None = None,
    save: str = "auto",
    recompute: bool = False,
) -> Tensor | None:
    """down(activation(up(x))), or down(activation(gate(x)) up(x)), for checked tensors; None where plain calls serve.

    Keeps x and, unless told to `recompute` them, the products of x, or the output in place of one.
    """
    spec, params = hosted
    layers = [t for layer in (up, down, gate) for t in layer or () if t is not None]
    tensors = [p for p in params if isinstance(p, Tensor)]
    path = layer_path(spec, x, [*layers, *tensors])
    if path is None or not torch.is_grad_enabled() or not up[0].requires_grad or not _pays(path, x, up, recompute):
        return None
    arguments, given = autocast(spec, [x, *up, *(gate or ()), *down], params)
    function = _MLP if gate is None else _GatedMLP
    return function.apply(_Call(spec, path, save, recompute), *arguments, *given)


def _pays(path: Path, x: Tensor, up: Layer, recompute: bool) -> bool:
    numel = math.prod(x.shape[:-1]) * up[0].shape[0]
    if x.is_cuda:
        return recompute or numel >= aten_below(x.device)
    return recompute or path.kind == "triton" or numel >= OWN_FROM


def composed(
    hosted: Hosted, x: Tensor, up: Layer, down: Layer, gate: Layer | None = None, save: str = "auto"
) -> Tensor:
    """The same by plain products and calls of the activation."""
    if gate is None:
        return F.linear(activation_of(hosted, F.linear(x, *up), save), *down)
    return F.linear(gating.apply(hosted, (F.linear(x, *up), F.linear(x, *gate)), -1), *down)


# ----- autograd


def _save(ctx: Any, call: _Call, count: int, tensors: Sequence[Tensor | None], params: Parameters) -> None:
    """Keep tensors, of which `count` are arguments, and the parameters."""
    ctx.call, ctx.count = call, count
    ctx.numbers = [None if isinstance(p, Tensor) else p for p in params]
    ctx.size = len(tensors)
    ctx.save_for_backward(*tensors, *(p for p in params if isinstance(p, Tensor)))


def _saved(ctx: Any) -> tuple[Sequence[Any], Sequence[Any], list[float | Tensor]]:
    """The arguments, what else is kept, and the parameters."""
    saved = ctx.saved_tensors
    rest = iter(saved[ctx.size :])
    params = [next(rest) if n is None else n for n in ctx.numbers]
    return saved[: ctx.count], saved[ctx.count : ctx.size], params


def _higher(ctx: Any, g: Tensor, arguments: Sequence[Any], params: Parameters, gated: bool) -> Any:
    """The gradients in a graph, where one is wanted, else None."""
    if not (torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g)):
        return None
    spec, _, save, _ = ctx.call

    def function(x: Tensor, *rest: Any) -> Tensor:
        layers = [(rest[i], rest[i + 1]) for i in range(0, 6 if gated else 4, 2)]
        hosted = Hosted(spec, rest[2 * len(layers) :])
        return composed(hosted, x, layers[0], layers[-1], layers[1] if gated else None, save)

    return recorded(function, (*arguments, *params), ctx.needs_input_grad[1:], g)


def _times(g: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    """g weight, in memory that is given, if it is."""
    return g @ weight if out is None or compat.dispatch_mode_active() else torch.mm(g, weight, out=out)


def _weights(g: Tensor, x: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a weight and a bias, those that are needed, from those of the product."""
    return g.t() @ x if needed[0] else None, g.sum(0) if needed[1] else None


class _MLP(Function):
    """Keeps the input, and the product in front of the activation or the output in its memory; or the input alone."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        *params: float | Tensor,
    ) -> Tensor:
        z = products.product(x, up, up_bias)
        ctx.how, given = _planned(call, z, params)
        if call.recompute:
            kept: list[Tensor] = []
            h = products.into(ctx.how, z, given, None if compat.dispatch_mode_active() else z)
        else:
            h, kept = products.activated(ctx.how, z, given)
        _save(ctx, call, 5, (x, up, up_bias, down, down_bias, *kept), given)
        return products.product(h, down, down_bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        arguments, kept, params = _saved(ctx)
        found = _higher(ctx, g, arguments, params, False)
        if found is not None:
            return None, *found
        x, up, up_bias, down, _ = arguments
        needed, how, g = ctx.needs_input_grad[1:], ctx.how, products.rows(g)
        if ctx.call.recompute:
            kept = (products.product(x, up, up_bias),)
        # Bits have one dimension already.
        kept = [products.rows(t) if i == 0 else t for i, t in enumerate(kept)]
        ours = None
        h = kept[0]
        if not how.plan.replaces_input:
            h = ours = products.into(how, kept[0], params, None) if needed[3] else None
        of_down = _weights(g, h, needed[3:5]) if h is not None else (None, g.sum(0) if needed[4] else None)
        # The output is done with, where it is ours.
        dh = _times(g, down, ours)
        del h, ours
        own = None if compat.dispatch_mode_active() else dh
        dz, of_bias, *sums = products.derived(how, dh, kept, params, (needed[2], *needed[5:]), own)
        assert dz is not None
        dx = (dz @ up).view(x.shape) if needed[0] else None
        return None, dx, _weights(dz, products.rows(x), (needed[1], False))[0], of_bias, *of_down, *sums


def _planned(call: _Call, z: Tensor, params: Parameters) -> tuple[products.Activated, Parameters]:
    """How the hidden product is activated: as `save` says, but that bits alone do not tell the output."""
    how, given = products.planned(call.spec, call.path, z, params, "input" if call.recompute else call.save)
    if how.plan.policy == "bits":
        how, given = products.planned(call.spec, call.path, z, params, "output")
    if how.plan.policy == "bits":
        how, given = products.planned(call.spec, call.path, z, params, "input")
    return how, given


class _GatedMLP(Function):
    """Keeps the input and both of its products; or the input alone."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        gate: Tensor,
        gate_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        *params: float | Tensor,
    ) -> Tensor:
        made = products.product(x, up, up_bias), products.product(x, gate, gate_bias)
        given, channel = (params, None) if numeric(params) else check_parameters(call.spec, made[1], params, -1)
        # Backward works on matrices.
        ctx.channel = None if channel is None else 1
        h = gating_operators.forward(gating_operators.Call(call.spec, call.path, channel), made, given)
        kept = () if call.recompute else made
        _save(ctx, call, 7, (x, up, up_bias, gate, gate_bias, down, down_bias, *kept), given)
        return products.product(h, down, down_bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        arguments, kept, params = _saved(ctx)
        found = _higher(ctx, g, arguments, params, True)
        if found is not None:
            return None, *found
        x, up, up_bias, gate, gate_bias, down, _ = arguments
        needed, g = ctx.needs_input_grad[1:], products.rows(g)
        if ctx.call.recompute:
            kept = products.product(x, up, up_bias), products.product(x, gate, gate_bias)
        kept = [products.rows(t) for t in kept]
        call = gating_operators.Call(ctx.call.spec, ctx.call.path, ctx.channel)
        h = gating_operators.forward(call, kept, params) if needed[5] else None
        of_down = _weights(g, h, needed[5:7]) if h is not None else (None, g.sum(0) if needed[6] else None)
        dh = _times(g, down, h)
        del h
        d_up, d_gate, *sums = gating_operators.backward(call, dh, kept, params, (True, True, *needed[7:]))
        del dh, kept
        assert d_up is not None and d_gate is not None
        dx = None
        if needed[0]:
            dx = (d_up @ up).addmm_(d_gate, gate).view(x.shape)
        x = products.rows(x)
        return None, dx, *_weights(d_up, x, needed[1:3]), *_weights(d_gate, x, needed[3:5]), *of_down, *sums
