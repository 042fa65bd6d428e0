"""Gated activations: a value times an activated gate, from two tensors or from one that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from .. import compat, eager, ops, registry
from ..checks import check_channel_dim, check_parameters
from ..cpu.large_pages import LARGE
from ..dispatch import FORMULA_COMPILING, PIECES_CPU, choose, saving_path
from ..execution import Parameters
from ..saving import saving
from .gating_limits import NONE, Limits, check, limited
from .gating_operators import IN_HALVES, LAYOUTS, Call, backward, forward, halves
from .gating_pieces import by_hand
from .hosted import Hosted, alike, check_tensor, recorded, small_twin, stays_in_eager

__all__ = ["check_layout", "gated", "glu", "packed_glu"]

_RECORD = registry.get("glu")
_ARGUMENTS = """
    limit: gates are cut off above it, and values on both sides of 0, before all else; gradients are 0 beyond it. None
        is no limit.
    offset: added to the value after that. docs/gated.md says which models have these, and what numbers.
    activation: what the gate goes through: the name of an elementwise activation, a function of this module, or what
        `fusedact.activation` made.
    channel_dim: the gate's dimension that a parameter with several entries counts.
    save: what is kept for backward: 'auto', or 'input' for what is given alone, in small calls on a CPU, too.
    parameters: of the activation, and its options, by name: numbers, or tensors of shape (), (1,) or (C,), which get
        gradients; the defaults otherwise."""
_RAISES = """
    TypeError: if an argument has another type or dtype, or the activation has no such parameter.
    ValueError: for an unknown name, or an activation that is not elementwise; for a limit that is not above 0; if save
        is none of these; """


def gated(
    x: Tensor,
    gate: Tensor,
    activation: Any = "silu",
    *,
    limit: float | None = None,
    offset: float = 0.0,
    channel_dim: int = 1,
    save: str = "auto",
    **parameters: float | Tensor | str,
) -> Tensor:
    # Documented below.
    if has_torch_function_variadic(x, gate):
        keywords: dict[str, Any] = {"limit": limit, "offset": offset, "channel_dim": channel_dim, "save": save}
        return handle_torch_function(gated, (x, gate), x, gate, activation, **keywords | parameters)
    plainly = limit is None and offset == 0.0 and save == "auto"
    twin = small_twin(activation, parameters, gate) if plainly else None
    if twin is not None and alike(x, gate) and x.shape == gate.shape and type(channel_dim) is int:
        return x * twin(gate)
    owner = "fusedact.functional.gated"
    check_tensor(owner, "x", x)
    check_tensor(owner, "gate", gate)
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if not compat.tracing() and x.shape != gate.shape:
        raise ValueError(f"{owner}: x and gate must have one shape, got {tuple(x.shape)} and {tuple(gate.shape)}")
    if x.device != gate.device:
        raise ValueError(f"{owner}: x and gate must be on one device, got {x.device} and {gate.device}")
    if save != "auto":
        saving.check_save(owner, _RECORD, save)
    hosted, limits = Hosted.of(owner, activation, parameters), check(owner, limit, offset)
    return apply(hosted, (x, gate), channel_dim, limits=limits, save=save)


def packed_glu(
    x: Tensor,
    activation: Any = "silu",
    dim: int = -1,
    *,
    layout: str,
    limit: float | None = None,
    offset: float = 0.0,
    channel_dim: int = 1,
    save: str = "auto",
    **parameters: float | Tensor | str,
) -> Tensor:
    # Documented below.
    if has_torch_function_unary(x):
        keywords: dict[str, Any] = {"limit": limit, "offset": offset, "channel_dim": channel_dim, "save": save}
        return handle_torch_function(packed_glu, (x,), x, activation, dim, layout=layout, **keywords | parameters)
    owner = "fusedact.functional.packed_glu"
    plainly = limit is None and offset == 0.0 and save == "auto"
    twin = small_twin(activation, parameters, x) if plainly else None
    if twin is not None and layout in IN_HALVES and type(channel_dim) is int:
        parts = x.chunk(2, _checked_dim(owner, "x", x, dim))
        return parts[1] * twin(parts[0]) if layout == "gate_value" else parts[0] * twin(parts[1])
    check_tensor(owner, "x", x)
    check_layout(owner, layout)
    gate = Hosted.of(owner, activation, parameters)
    limits = check(owner, limit, offset)
    if save != "auto":
        saving.check_save(owner, _RECORD, save)
    return apply(gate, (x,), channel_dim, _checked_dim(owner, "x", x, dim), layout, limits, save)


def glu(input: Tensor, dim: int = -1, *, save: str = "auto") -> Tensor:
    """The first half of the input along a dimension, weighted by the sigmoid of the second.

        a * sigmoid(b), with a, b = input.chunk(2, dim)

    At -inf of b the weight is 0, at +inf 1. `packed_glu` takes other layouts and activations.

    Args:
        input: tensor of any strides, float16, bfloat16, float32 or float64.
        dim: the dimension that holds both halves, of even size.
        save: what is kept for backward: 'auto' or 'input', which it is in any case.

    Returns:
        tensor of the input's shape and dtype, with half the size in `dim`.

    Raises:
        TypeError: if the input is no tensor, or of another dtype.
        ValueError: if the input has no dimensions, or an odd size in `dim`, or save is none of these.
        IndexError: if there is no dimension `dim`.

    >>> FF.glu(torch.tensor([1.0, 2.0, 0.0, 3.0]))
    tensor([0.5000, 1.9051])

    Source: torch.nn.functional.glu; Dauphin et al., 2016, arXiv:1612.08083.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(glu, (input,), input, dim, save=save)
    owner = "fusedact.functional.glu"
    check_tensor(owner, "input", input)
    if save != "auto":
        saving.check_save(owner, _RECORD, save)
    at = _checked_dim(owner, "input", input, dim)
    if choose(_RECORD, input, (), True).kind in ("aten", "formula"):
        return F.glu(input, dim)
    return apply(Hosted(registry.get("sigmoid"), ()), (input,), 1, at, "value_gate")


gated.__doc__ = f"""A value weighted by an activated gate.

    activation(gate) * x; with a limit and an offset, of min(gate, limit) and clamp(x, -limit, limit) + offset

One pass reads both and writes the result; backward reads them and the gradient, and writes both gradients. Halves are
computed in float32 and rounded once, and x and the gate are kept for backward, nothing else. On a CPU, activations that
PyTorch has in one operator round halves as it does, and small calls also keep what it keeps: see docs/gated.md.

Args:
    x, gate: tensors of one shape and any strides, float16, bfloat16, float32 or float64; of two dtypes, the result
        has the wider one.{_ARGUMENTS}

Returns:
    tensor of x's shape and layout.

Raises:{_RAISES}or if x and gate have two shapes.

>>> FF.gated(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]), "silu")
tensor([0.0000, 5.7154])

Source: Shazeer, 2020, arXiv:2002.05202.
"""

packed_glu.__doc__ = f"""A value weighted by an activated gate, where one tensor holds both.

    activation(gate) * value; with a limit and an offset, of min(gate, limit) and clamp(value, -limit, limit) + offset

Nothing is cut or copied; the gradient is written as one tensor. The world disagrees on which half is the gate, so that
`layout` has no default: "gate_value" (gate first, as in Llama's descendants), "value_gate" (as in
torch.nn.functional.glu), "interleaved" (gate and value in turn, as in gpt-oss). docs/gated.md names more.

Args:
    x: tensor of any strides, float16, bfloat16, float32 or float64.
    activation: what the gate goes through, as for `gated`.
    dim: the dimension that holds both, of even size.
    layout: "gate_value", "value_gate" or "interleaved".
    limit, offset, channel_dim, save, parameters: as for `gated`.

Returns:
    tensor of x's shape and dtype, with half the size in `dim`.

Raises:{_RAISES}for another layout; if x has no
        dimensions, or an odd size in `dim`.
    IndexError: if there is no dimension `dim`.

>>> FF.packed_glu(torch.tensor([0.0, 3.0, 1.0, 2.0]), "silu", layout="gate_value")
tensor([0.0000, 5.7154])

Source: Shazeer, 2020, arXiv:2002.05202.
"""


# ----- checks


def check_layout(owner: str, layout: object) -> str:
    """Raise ValueError unless it is one of the layouts."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(
            f"{owner}: layout must be {', '.join(map(repr, LAYOUTS[:-1]))} or {LAYOUTS[-1]!r}, got {layout!r}"
        )
    return layout


def _checked_dim(owner: str, name: str, x: Tensor, dim: object) -> int:
    """The dimension that holds both halves, counted from the first."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{owner}: dim must be an int, got {type(dim).__name__}")
    count = x.dim()
    if count == 0:
        raise ValueError(f"{owner}: {name} must have a dimension to halve, got a tensor without any")
    if not -count <= dim < count:
        raise IndexError(
            f"{owner}: dim must be from {-count} to {count - 1} for a tensor of {count} dimensions, got {dim}"
        )
    if not compat.tracing() and x.shape[dim] % 2:
        raise ValueError(f"{owner}: {name} must have an even size in dimension {dim}, got shape {tuple(x.shape)}")
    return dim % count


# ----- a call


def apply(
    gate: Hosted,
    given: tuple[Tensor, ...],
    channel_dim: int,
    dim: int = 0,
    layout: str = "",
    limits: Limits = NONE,
    save: str = "auto",
) -> Tensor:
    """The gated activation of x and a gate, or of one tensor that holds both, on the path that fits."""
    spec, params = gate
    check_channel_dim("fusedact.functional.packed_glu" if layout else "fusedact.functional.gated", channel_dim)
    channel = None
    if not eager.numeric(params):
        counted = halves(given[0], dim, layout)[1] if layout else given[1]
        params, channel = check_parameters(spec, counted, params, channel_dim)
    if spec.refuses is not None and eager.numeric(params) and (why := spec.refuses(*params)):
        raise ValueError(f"fusedact.functional.{spec.name}: {why}")
    if not layout and given[0].dtype != given[1].dtype:
        common = torch.promote_types(given[0].dtype, given[1].dtype)
        given = given[0].to(common), given[1].to(common)
    tensors = [p for p in params if isinstance(p, Tensor)]
    path = choose(_RECORD, given[0], [*given[1:], *tensors], False)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (*given, *tensors))
    chosen = wanted and (saving.in_force() if save == "auto" else save) != "auto"
    if chosen and path is not FORMULA_COMPILING and not compat.transforms_active():
        # All policies keep what is given.
        path = saving_path(_RECORD, given[0], [*given[1:], *tensors], False, path, "input")
    call = Call(spec, path, channel, dim, layout, limits)
    if path.kind == "formula" or compat.transforms_active():
        return _formula(call, given, params)
    if _plainly(call, given, params):
        # An activation with a form by hand is faster than its definition, whose graph has an operator for each step.
        return _formula(call, given, params, by_hand(spec) and not (spec.aten is not None and eager.numeric(params)))
    if wanted:
        return _Gated.apply(call, *given, *params)
    return forward(call, given, params)


# From so many elements on the CPU's pieces pay where PyTorch has no operator for all of it: with forms written by hand,
# or by the engine; and with an operator, where x and the gate lie in turn. Measured: with a quarter as many they take
# as long as plain operators, or longer.
PIECES_FROM, PIECES_FROM_BY_ENGINE, PIECES_FROM_IN_TURN = 2**18, 2**20, 2**19
# And from so many bytes of a tensor on everywhere: each one that autograd keeps is then new memory from the system.
PIECES_FROM_BYTES = LARGE


def _plainly(call: Call, given: Sequence[Tensor], params: Parameters) -> bool:
    """Whether plain operators take less time, although pieces, or a kernel, could serve."""
    spec = call.spec
    if stays_in_eager(spec):
        return True
    if call.path != PIECES_CPU:
        return False
    if given[0].nbytes >= PIECES_FROM_BYTES:
        return False
    numel = given[0].numel() // (2 if call.layout else 1)
    if spec.aten is not None and eager.numeric(params) and call.limits == NONE:
        return call.layout != "interleaved" or numel < PIECES_FROM_IN_TURN
    return numel < (PIECES_FROM if by_hand(spec) else PIECES_FROM_BY_ENGINE)


def _formula(call: Call, given: Sequence[Tensor], params: Parameters, as_one: bool = False) -> Tensor:
    """The definition in plain operators; halves as PyTorch's own operator has them, or in fp32 and rounded once.

    With `as_one` the activation is one operation of this library.
    """
    x, gate = halves(given[0], call.dim, call.layout) if call.layout else given
    dtype = x.dtype
    aten = call.spec.aten is not None and not call.spec.composite and eager.numeric(params) and not is_compiling()
    if dtype in eager.HALF_DTYPES and not (aten and call.limits == NONE):
        x, gate = x.float(), gate.float()
    if call.limits != NONE:
        x, gate = limited(x, gate, call.limits)
    if as_one or compat.is_distributed(gate):
        # Of DTensors, not every operator of PyTorch's has a rule for them.
        activated = ops.apply(call.spec, gate, params, channel_dim=1 if call.channel is None else call.channel)
    else:
        activated = eager.formula(call.spec, gate, params, call.channel)
    return (x * activated).to(dtype)


class _Gated(Function):
    """Keeps what is given, nothing else."""

    @staticmethod
    def forward(ctx: Any, call: Call, *arguments: float | Tensor) -> Tensor:
        ctx.call = call
        ctx.numbers = [None if isinstance(a, Tensor) else a for a in arguments]
        ctx.save_for_backward(*(a for a in arguments if isinstance(a, Tensor)))
        count = 1 if call.layout else 2
        return forward(call, arguments[:count], arguments[count:])  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if n is None else n for n in ctx.numbers]
        call, needed = ctx.call, ctx.needs_input_grad[1:]
        count = 1 if call.layout else 2
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            return None, *recorded(lambda *a: _formula(call, a[:count], a[count:]), arguments, needed, g)
        return None, *backward(call, g, arguments[:count], arguments[count:], needed)
