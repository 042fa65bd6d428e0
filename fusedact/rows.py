"""Softmax and its kin along a dimension: the formula, kernels and cache-sized blocks, autograd, and the operators.

What exponentials are taken of are the scores: x, negated for softmin, divided by a temperature; and a mask, which
leaves elements out or is added. Transforms, compilers and tensor subclasses see the formula.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from . import compat
from .checks import FLOAT_DTYPES, check_dtype, check_input, check_number, owner
from .dispatch import Path, choose
from .eager import HALF_DTYPES
from .execution import on_device
from .registry import ActivationSpec

__all__ = ["apply", "formula", "is_plain", "log_softmax", "softmax", "softmin"]

Number = float | Tensor

# Elements of a block per thread. Measured on one core: 2^17 is 14% slower, whole tensors 11%.
BLOCK_PER_THREAD = 2**19


class Call(NamedTuple):
    """What of a call is not a tensor; `temperature` is None where it is a tensor."""

    log: bool
    negated: bool
    dim: int
    # Of the result.
    dtype: torch.dtype
    temperature: float | None


# ----- definitions


def formula(call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    """The definition in plain operators, differentiable to any order; halves are computed in fp32 and rounded once."""
    function = torch.log_softmax if call.log else torch.softmax
    if is_plain(temperature, mask):
        return function(-x if call.negated else x, call.dim, dtype=None if x.dtype == call.dtype else call.dtype)
    wide = _wide(call.dtype)
    z = -x.to(wide) if call.negated else x.to(wide)
    if isinstance(temperature, Tensor) or temperature != 1.0:
        z = z / (temperature.to(wide) if isinstance(temperature, Tensor) else temperature)
    if mask is not None:
        z = torch.where(mask, z, -torch.inf) if mask.dtype == torch.bool else z + mask.to(wide)
    return function(z, call.dim).to(call.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In which it is computed."""
    return torch.float32 if dtype in HALF_DTYPES else dtype


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
) -> Tensor:
    """The function of x, on the path that `dispatch.choose` finds; everything is checked here."""
    name = owner(spec)
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
    plain = is_plain(temperature, mask)
    path = choose(spec, x, [t for t in (temperature, mask) if isinstance(t, Tensor)], plain)
    if path.kind == "aten":
        assert spec.aten is not None
        return spec.aten(x, dim, dtype)
    made = dtype or (torch.float32 if _widens(x) else x.dtype)
    number = None if isinstance(temperature, Tensor) else temperature
    call = Call(spec.name == "log_softmax", spec.name == "softmin", dim, made, number)
    # A number, and what has no elements, has no rows to speak of.
    if path.kind == "formula" or compat.transforms_active() or x.dim() == 0 or x.numel() == 0:
        return formula(call, x, temperature, mask)
    if path.kind != "triton":
        x = x.to(made)
    if mask is not None:
        mask = mask.expand(x.shape)
    tensors = [x] + [t for t in (temperature, mask) if isinstance(t, Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Rows.apply(path, call, x, temperature, mask)
    return _forward(path, call, x, temperature, mask)


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


# ----- below autograd: as an operator where somebody watches, else directly


def _forward(path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    if compat.dispatch_mode_active():
        return torch.ops.fusedact.softmax(x, *_described(call, temperature), mask)
    return _run_forward(path, call, x, temperature, mask)


def _run_forward(path: Path, call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    if path.kind != "triton":
        return _blocks_forward(call, x, temperature, mask)
    from .kernels import launch_softmax

    x = compat.materialized(x)
    out = torch.empty_like(x, dtype=call.dtype)
    with on_device(x):
        launch_softmax.forward(x, out, _scores(call, temperature, mask))
    return out


def _scores(call: Call, temperature: Number, mask: Tensor | None) -> Any:
    """A call as its kernels take it."""
    from .kernels import launch_softmax

    if isinstance(temperature, Tensor):
        temperature = compat.materialized(temperature)
    if mask is not None and mask.is_floating_point():
        mask = compat.materialized(mask)
    return launch_softmax.Scores(call.dim, call.log, call.negated, temperature, mask)


Gradients = list[Tensor | None]


def _backward(
    path: Path,
    call: Call,
    g: Tensor,
    y: Tensor,
    x: Tensor,
    temperature: Number,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of x, of the temperature and of the mask, those that are needed; x is y unless the second is.

    That of the mask has x's shape: autograd sums what was broadcast.
    """
    if compat.dispatch_mode_active():
        grads = torch.ops.fusedact.softmax_backward(g, y, x, *_described(call, temperature), mask, list(needed))
        return [grad if n else None for grad, n in zip(grads, needed, strict=True)]
    return _run_backward(path, call, g, y, x, temperature, mask, needed)


def _run_backward(
    path: Path,
    call: Call,
    g: Tensor,
    y: Tensor,
    x: Tensor,
    temperature: Number,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> Gradients:
    sign = -1.0 if call.negated else 1.0
    if path.kind != "triton":
        dx, total = _blocks_backward(call, g, y, x, temperature, mask, needed[1])
    else:
        from .kernels import launch_softmax

        g = compat.materialized(g)
        dx = torch.empty_like(x)
        with on_device(x):
            partials = launch_softmax.backward(g, y, x if needed[1] else None, dx, _scores(call, temperature, mask))
        total = None if partials is None else partials.sum()
    dtemperature = None
    if total is not None and isinstance(temperature, Tensor):
        dtemperature = (total * -sign / temperature.double().square()).to(temperature.dtype).reshape(temperature.shape)
    dmask = None
    if needed[2] and mask is not None:
        # The gradient of scores again, which dx is a multiple of.
        dmask = (dx * (sign * temperature)).to(mask.dtype)
    return [dx if needed[0] else None, dtemperature, dmask]


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
    wide = _wide(call.dtype)
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
        y = _forward(path, call, x, temperature, mask)
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
        return None, None, *(_differentiable(*arguments) if plain else _backward(path, *arguments))


# ----- on the CPU: blocks of whole rows that stay in the cache


def _blocks(dim: int, *tensors: Tensor | None) -> Iterator[Sequence[Tensor | None]]:
    """Views of tensors of the last one's shape, in blocks of whole rows of at most a cache's size, without a copy."""
    last = tensors[-1]
    assert last is not None
    limit = BLOCK_PER_THREAD * torch.get_num_threads() if last.is_cpu else last.numel()
    others = [d for d in range(last.dim()) if d != dim and last.shape[d] > 1]
    if last.numel() <= limit or not others:
        yield tensors
        return
    # Along the largest stride, which keeps the rest of a block together.
    longest = max(others, key=lambda d: last.stride(d))
    length = max(1, limit * last.shape[longest] // last.numel())
    for start in range(0, last.shape[longest], length):
        size = min(length, last.shape[longest] - start)
        yield from _blocks(dim, *(None if t is None else t.narrow(longest, start, size) for t in tensors))


class _Buffers:
    """Memory for what a block needs on the way, used again for the next one."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._memory: dict[int, Tensor] = {}

    def __call__(self, number: int, like: Tensor) -> Tensor:
        memory = self._memory.get(number)
        if memory is None or memory.numel() < like.numel():
            memory = self._memory[number] = torch.empty(like.numel(), dtype=self._dtype, device=self._device)
        return memory[: like.numel()].view(like.shape)


def _number(call: Call, temperature: Number) -> Number:
    """The temperature as a number, where that waits for no device."""
    return temperature.item() if isinstance(temperature, Tensor) and temperature.is_cpu else temperature


# A mask that is repeated so often is made one to add, which takes a third of the time that leaving out takes.
_REPEATED = 4


def _addend(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What to add, of the expanded mask's shape: 0 where an element takes part, else -inf; numbers in another dtype.

    None if that would be as large as x, or is the mask itself.
    """
    if mask is None or mask.dtype == dtype:
        return None
    small = mask[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.stride())]
    if small.numel() * _REPEATED > mask.numel():
        return None
    if mask.dtype != torch.bool:
        return small.to(dtype).expand(mask.shape)
    made = torch.zeros(small.shape, dtype=dtype, device=mask.device)
    return made.masked_fill_(~small, -torch.inf).expand(mask.shape)


def _blocks_forward(call: Call, x: Tensor, temperature: Number, mask: Tensor | None) -> Tensor:
    function = torch.log_softmax if call.log else torch.softmax
    half = x.dtype in HALF_DTYPES
    wide = _wide(x.dtype)
    buffers = _Buffers(wide, x.device)
    t = _number(call, temperature)
    scale = (-1.0 if call.negated else 1.0) / t
    out_of = torch.tensor(-torch.inf, dtype=wide, device=x.device)
    addend = _addend(mask, wide)
    y = torch.empty_like(x)
    for x_block, mask_block, addend_block, y_block in _blocks(call.dim, x, mask, addend, y):
        assert x_block is not None and y_block is not None
        z = buffers(0, x_block)
        wide_block = buffers(1, x_block).copy_(x_block) if half else x_block
        # PyTorch writes to a result with gaps as if it had none.
        target = y_block if not half and y_block.is_contiguous() else buffers(2, x_block)
        if mask_block is None:
            torch.mul(wide_block, scale, out=z)
        elif mask_block.dtype != torch.bool or addend_block is not None:
            _added(wide_block, scale, mask_block if addend_block is None else addend_block, z)
        else:
            _left_out(wide_block, scale, mask_block, out_of, z)
        function(z, call.dim, out=target)
        # What is left out may have been infinite or NaN, which adding does not remove.
        if (
            addend_block is not None
            and mask_block is not None
            and mask_block.dtype == torch.bool
            and target.sum().isnan()
        ):
            _left_out(wide_block, scale, mask_block, out_of, z)
            function(z, call.dim, out=target)
        if target is not y_block:
            y_block.copy_(target)
    return y


def _added(x: Tensor, scale: Number, addend: Tensor, out: Tensor) -> None:
    """scale x + addend."""
    if isinstance(scale, Tensor) or addend.dtype != x.dtype:
        torch.mul(x, scale, out=out).add_(addend)
    else:
        torch.add(addend, x, alpha=scale, out=out)


def _left_out(x: Tensor, scale: Number, mask: Tensor, out_of: Tensor, out: Tensor) -> None:
    """scale x, but `out_of` where the mask is False."""
    if isinstance(scale, Tensor) or scale != 1.0:
        x = torch.mul(x, scale, out=out)
    torch.where(mask, x, out_of, out=out)


_aten = torch.ops.aten


def _blocks_backward(
    call: Call, g: Tensor, y: Tensor, x: Tensor, temperature: Number, mask: Tensor | None, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of x; and, if the temperature is learned, the sum of x times that of scores.

    PyTorch's operators take halves, compute in fp32 and round once.
    """
    backward = _aten._log_softmax_backward_data.out if call.log else _aten._softmax_backward_data.out
    keyword = "out" if call.log else "grad_input"
    buffers, wide_buffers = _Buffers(y.dtype, y.device), _Buffers(_wide(y.dtype), y.device)
    t = _number(call, temperature)
    scale = (-1.0 if call.negated else 1.0) / t
    zero = torch.zeros((), dtype=y.dtype, device=y.device)
    kept = mask if mask is not None and mask.dtype == torch.bool else None
    dx = torch.empty_like(y)
    total = torch.zeros((), dtype=torch.float64, device=y.device) if learned else None
    for g_block, y_block, x_block, kept_block, dx_block in _blocks(call.dim, g, y, x, kept, dx):
        assert g_block is not None and y_block is not None and x_block is not None and dx_block is not None
        dz = dx_block if dx_block.is_contiguous() else buffers(0, dx_block)
        backward(g_block, y_block, call.dim, y.dtype, **{keyword: dz})
        # A softmax is 0 where it is left out, and so is its gradient, unless others are NaN.
        if kept_block is not None and (call.log or dz.sum().isnan()):
            torch.where(kept_block, dz, zero, out=dz)
        if total is not None:
            shares = wide_buffers(0, dz).copy_(dz).mul_(x_block)
            share = shares.sum()
            if share.isnan():
                # Nothing depends on an infinite x where this gradient is 0.
                share = torch.where(dz == 0, 0.0, shares).sum()
            total += share
        if isinstance(scale, Tensor) or scale != 1.0:
            dz.mul_(scale)
        if dz is not dx_block:
            dx_block.copy_(dz)
    return dx, total


# ----- operators: what a TorchDispatchMode sees

_library = torch.library.Library("fusedact", "FRAGMENT")
_ARGUMENTS = "bool log, bool negated, int dim, ScalarType dtype, float number, Tensor? temperature, Tensor? mask"
_library.define(f"softmax(Tensor x, {_ARGUMENTS}) -> Tensor")
_library.define(f"softmax_backward(Tensor grad, Tensor y, Tensor x, {_ARGUMENTS}, bool[] needed) -> Tensor[]")


def _described(call: Call, temperature: Number) -> tuple[Any, ...]:
    """A call and its temperature as operators take them."""
    given = temperature if isinstance(temperature, Tensor) else None
    number = 1.0 if call.temperature is None else call.temperature
    return call.log, call.negated, call.dim, call.dtype, number, given


def _physical(x: Tensor, tensors: Sequence[Tensor | None]) -> Path:
    """The path behind an operator, which must not end in PyTorch's autograd-aware function."""
    from . import registry

    path = choose(registry.get("softmax"), x, [t for t in tensors if t is not None], False)
    return path if path.kind == "triton" else Path("pieces", path.reason)


def _operator(x: Tensor, *arguments: Any) -> Tensor:
    log, negated, dim, dtype, number, given, mask = arguments
    call = Call(log, negated, dim, dtype, number if given is None else None)
    return _run_forward(_physical(x, (given, mask)), call, x, number if given is None else given, mask)


def _backward_operator(g: Tensor, y: Tensor, x: Tensor, *arguments: Any) -> list[Tensor]:
    log, negated, dim, dtype, number, given, mask, needed = arguments
    call = Call(log, negated, dim, dtype, number if given is None else None)
    t = number if given is None else given
    grads = _run_backward(_physical(x, (given, mask)), call, g, y, x, t, mask, needed)
    return [y.new_empty(0) if grad is None else grad for grad in grads]


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(x, dtype=arguments[3])


def _fake_backward(g: Tensor, y: Tensor, x: Tensor, *arguments: Any) -> list[Tensor]:
    given, mask, needed = arguments[5:]
    like = (x, given, mask)
    return [torch.empty_like(t) if n else y.new_empty(0) for t, n in zip(like, needed, strict=True)]


for _name, _function, _abstract in (
    ("softmax", _operator, _fake),
    ("softmax_backward", _backward_operator, _fake_backward),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusedact::{_name}", _abstract, lib=_library)
