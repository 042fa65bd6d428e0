"""The activation that draws random numbers: the function rrelu and the module RReLU.

A call draws one seed, a tensor on the input's device, from PyTorch's generator; slopes are made of the seed and an
element's place in row-major order. So a kernel makes them again in backward, `torch.manual_seed` repeats them, and
neither checkpoints nor captured graphs lose them. On the CPU, where drawing takes most of the time, slopes are kept in
the place of the input, and few elements go to PyTorch's operator, which keeps both, unless a saving policy says what is
kept beside the seed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import compat, eager, ops, registry
from .checks import check_input, check_number
from .cpu import large_pages
from .dispatch import PIECES_SAVING, choose, wants_gradient
from .eager import HALF_DTYPES
from .execution import on_device
from .hosts import seeds
from .saving import saving
from .saving.packing import pack, unpack
from .shortest import for_twin_of_random

__all__ = ["RReLU", "rrelu"]

_SPEC = registry.get("rrelu")
OWNER = "fusedact.functional.rrelu"

# Elements of a piece on the CPU.
PIECE = 2**17


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    save: str = "auto",
) -> Tensor:
    """Leaky ReLU with a random slope for each element in training, and their mean otherwise.

        x for x > 0, else slope * x; in training slope is uniform between lower and upper, otherwise (lower + upper) / 2

    At 0 the gradient is the slope, as in PyTorch. At an infinity the value is the limit; a NaN gives NaN, and 1 as its
    gradient in training.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        lower, upper: numbers, the least and the largest slope.
        training: draw slopes. One seed is drawn from PyTorch's generator of the input's device; the slopes follow from
            it and an element's place in row-major order, and kernels make them again in backward; on the CPU they are
            kept, and the input is not. PyTorch draws others for the same torch.manual_seed; on the CPU it is PyTorch's
            operator that draws the slopes of few elements (`fusedact.explain` says how many), unless the call says
            what to save; not in float16, which it does not take.
        inplace: overwrite the input.
        save: what is kept for backward beside the seed: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.
            A block of that changes no number: of few elements on the CPU the slopes alone are kept there.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if lower is above upper, or one is not finite, or save is none of these.

    >>> FF.rrelu(torch.tensor([-2.0, 3.0]), 0.1, 0.3)
    tensor([-0.4000,  3.0000])

    Source: torch.nn.functional.rrelu; Xu et al., 2015, arXiv:1505.00853.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(rrelu, (input,), input, lower, upper, training, inplace, save=save)
    if training is True and save == "auto" and for_twin_of_random(input, lower, upper):
        return _by_operator(input, lower, upper, inplace)
    check_input(_SPEC, input)
    low, high = _bounds(OWNER, lower, upper)
    if save != "auto":
        saving.check_save(OWNER, _SPEC, save)
    if not training:
        return ops.apply(registry.get("leaky_relu"), input, ((low + high) / 2,), inplace, save=save)
    return _drawn(input, low, high, inplace, save)


rrelu.spec = _SPEC  # type: ignore[attr-defined]


def _bounds(owner: str, lower: object, upper: object) -> tuple[float, float]:
    low, high = (check_number(owner, name, value) for name, value in (("lower", lower), ("upper", upper)))
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{owner}: lower must be at most upper, both finite, got {low} and {high}")
    return low, high


def _follows(x: Tensor) -> bool:
    """Whether derivatives of x are under way."""
    return wants_gradient(x) or compat.transforms_active()


def _by_operator(x: Tensor, low: float, high: float, inplace: bool, slopes_alone: bool = False) -> Tensor:
    """PyTorch's operator, whose result is in row-major order, in x's layout."""
    if wants_gradient(x) and (slopes_alone or compat.has_saved_tensors_hooks()):
        y = _OfKeptSlopes.apply(low, high, x.clone() if inplace else x)
    elif inplace:
        return torch.rrelu_(x, low, high, True)
    else:
        y = torch.rrelu(x, low, high, True)
    if inplace:
        return x.copy_(y)
    return y if x.is_contiguous() else torch.empty_like(x).copy_(y)


def _drawn(x: Tensor, low: float, high: float, inplace: bool, save: str) -> Tensor:
    """With slopes drawn now: the same whether a gradient is wanted, and in a block with a policy or out of it.

    A checkpoint may run one way and then the other.
    """
    path = choose(_SPEC, x, (), True)
    policy = saving.in_force() if save == "auto" else save
    if path.kind == "aten" and not compat.transforms_active():
        if save == "auto":
            return _by_operator(x, low, high, inplace, policy != "auto")
        path = PIECES_SAVING
    # Pieces draw from a generator of the CPU.
    plainly = path.kind == "formula" or compat.transforms_active() or (path.kind == "pieces" and not x.is_cpu)
    if inplace and _follows(x) and (plainly or policy in ("auto", "input")):
        return x.copy_(_drawn(x.clone(), low, high, False, save))
    if plainly:
        y = eager.rrelu(x, low, high)
        return x.copy_(y) if inplace else y
    kernel = path.kind == "triton"
    seed = seeds.drawn(x.device)
    if not wants_gradient(x):
        return _value(kernel, x, seed, low, high, inplace)
    if policy == "auto" and not (kernel or compat.dispatch_mode_active()):
        return _OfSlopes.apply(low, high, seed, x)
    if inplace and x.is_leaf:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    keeps = "input" if policy == "auto" else saving.plan_of_random(policy, low).policy
    return _OfSeed.apply(_Call(kernel, low, high, keeps, inplace), x, seed)


_aten = torch.ops.aten
_threshold_backward = _aten.threshold_backward.grad_input


# ----- below autograd: as an operator where somebody watches, else directly


def _value(kernel: bool, x: Tensor, seed: Tensor, low: float, high: float, inplace: bool) -> Tensor:
    """The function of x, where nothing is recorded."""
    if inplace and not compat.dispatch_mode_active() and compat.is_dense(x) and not x.is_neg():
        _run(kernel, x, x, seed, low, high, x)
        if not x.is_inference():
            torch.autograd.graph.increment_version(x)
        return x
    y = _applied(kernel, x, x, seed, low, high)
    return x.copy_(y) if inplace else y


def _applied(kernel: bool, value: Tensor, x: Tensor, seed: Tensor, low: float, high: float) -> Tensor:
    """value where x > 0, else value times the slope: forward of x itself, backward of a gradient."""
    if compat.dispatch_mode_active():
        return torch.ops.fusedact.rrelu(value, x, seed, low, high, value is x)
    return _run(kernel, value, x, seed, low, high)


def _run(
    kernel: bool, value: Tensor, x: Tensor, seed: Tensor, low: float, high: float, out: Tensor | None = None
) -> Tensor:
    same = value is x
    x = compat.materialized(x)
    value = x if same else compat.materialized(value)
    out = large_pages.empty_like(x, value.dtype) if out is None else out
    if not kernel:
        _in_pieces(value, x, seed, low, high, out)
        return out
    from .kernels import launch_rrelu

    with on_device(x):
        launch_rrelu.run(value, x, out, seed, low, high)
    return out


def _in_pieces(
    value: Tensor, x: Tensor, seed: Tensor, low: float, high: float, out: Tensor, kept: Tensor | None = None
) -> None:
    """The same on the CPU, in row-major order whatever the layout; slopes, 1 where x > 0, into `kept` if given.

    Where value is not x, that may be of uint8, 1 where it was > 0.
    """
    if not all(t.is_contiguous() for t in (value, x, out)):
        made = torch.empty(x.shape, dtype=out.dtype)
        dense = x.contiguous()
        _in_pieces(dense if value is x else value.contiguous(), dense, seed, low, high, made, kept)
        out.copy_(made)
        return
    dtype = torch.float32 if out.dtype in HALF_DTYPES else out.dtype
    size = min(PIECE, x.numel())
    numbers = seeds.Numbers(seed, size)
    slopes, scaled = (torch.empty(size, dtype=dtype) for _ in range(2))
    plain = value is x and kept is None
    ones = None if plain or low < 0.0 or high > 1.0 else torch.ones(size, dtype=dtype)
    one = torch.ones((), dtype=dtype)
    flat = [t.view(-1) for t in (value, x, out, out if kept is None else kept)]
    pieces = [flat] if x.numel() <= PIECE else zip(*(t.split(PIECE) for t in flat), strict=True)
    for value_piece, x_piece, out_piece, kept_piece in pieces:
        count = x_piece.numel()
        slope, product = slopes[:count], scaled[:count]
        slope.copy_(numbers(count)).mul_((high - low) * 2.0**-32).add_((low + high) / 2).clamp_(low, high)
        if plain:
            # A half becomes an fp32 first.
            torch.clamp_max(product.copy_(x_piece), 0.0, out=product).mul_(slope)
            torch.add(product, x_piece.clamp_min(0.0), out=out_piece if out.dtype == dtype else product)
        elif ones is not None:
            # 0 or 1: without branches, which nothing could foresee.
            _threshold_backward(ones[:count], product.copy_(x_piece), 0.0, grad_input=product)
            torch.maximum(slope, product, out=product)
        else:
            torch.where(x_piece <= 0, slope, one, out=product)
        if kept is not None:
            kept_piece.copy_(product)
        if not plain:
            product.mul_(value_piece)
        if not plain or out.dtype != dtype:
            out_piece.copy_(product)


_library = torch.library.Library("fusedact", "FRAGMENT")
_library.define("rrelu(Tensor value, Tensor x, Tensor seed, float lower, float upper, bool forward) -> Tensor")


def _operator(value: Tensor, x: Tensor, seed: Tensor, low: float, high: float, forward: bool) -> Tensor:
    return _run(choose(_SPEC, value, (), True).kind == "triton", x if forward else value, x, seed, low, high)


_library.impl("rrelu", _operator, "CompositeExplicitAutograd")
torch.library.register_fake(
    "fusedact::rrelu", lambda value, x, *_: torch.empty_like(x, dtype=value.dtype), lib=_library
)


class _OfKeptSlopes(Function):
    """What PyTorch's operator gives, for hooks: its autograd hands them slopes that it has not drawn yet.

    A non-reentrant checkpoint keeps those: github.com/pytorch/pytorch/issues/193671.
    """

    @staticmethod
    def forward(ctx: Any, low: float, high: float, x: Tensor) -> Tensor:
        # Selective checkpointing can keep what this operator returns, not what the other one writes.
        slopes = torch.empty_like(x, memory_format=torch.contiguous_format)
        y, slopes = _aten.rrelu_with_noise_functional(x, slopes, low, high, True)
        ctx.save_for_backward(slopes)
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (slopes,) = ctx.saved_tensors
        return None, None, g * slopes


class _OfSlopes(Function):
    """On the CPU: keeps the slopes, so that nothing is drawn again."""

    @staticmethod
    def forward(ctx: Any, low: float, high: float, seed: Tensor, x: Tensor) -> Tensor:
        x = compat.materialized(x)
        y, slopes = large_pages.empty_like(x), large_pages.advised(torch.empty(x.shape, dtype=x.dtype))
        _in_pieces(x, x, seed, low, high, y, slopes)
        ctx.save_for_backward(slopes)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (slopes,) = ctx.saved_tensors
        if torch.is_grad_enabled() or compat.observed(g) or compat.is_legacy_batched(g):
            return None, None, None, g * slopes
        return None, None, None, torch.mul(g, slopes, out=large_pages.empty_like(slopes))


class _Call(NamedTuple):
    """What of a call is no tensor; `keeps` is "input", "output" or "bits"."""

    kernel: bool
    low: float
    high: float
    keeps: str
    inplace: bool


class _OfSeed(Function):
    """Keeps the seed, and what tells which elements have a slope: the input, the output, or bits."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, seed: Tensor) -> Tensor:
        # What may be overwritten, and be a view, comes first: autograd wants it so.
        ctx.call = call
        told = x
        if call.keeps == "bits":
            # In the order of its own memory, which has no gaps.
            mask = (x <= 0).logical_not_()
            told, ctx.order = pack(mask.as_strided((mask.numel(),), (1,))), (mask.shape, mask.stride())
        y = _value(call.kernel, x, seed, call.low, call.high, call.inplace)
        if call.inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(y if call.keeps == "output" else told, seed)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        told, seed = ctx.saved_tensors
        kernel, low, high, keeps, _ = ctx.call
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            # The slopes are a constant, which no transform knows of; only g may be one's.
            with torch.no_grad(), compat.transforms_allowed():
                x = _unpacked(told, *ctx.order) if keeps == "bits" else told.detach()
                slopes = _run(kernel, torch.ones_like(x, dtype=g.dtype), x, seed, low, high)
            return None, g * slopes, None
        x = _unpacked(told, *ctx.order) if keeps == "bits" else told
        return None, _applied(kernel, g, x, seed, low, high), None


def _unpacked(bits: Tensor, shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """1 where x was > 0, in uint8 and of x's layout."""
    return unpack(bits, math.prod(shape)).as_strided(shape, order).view(torch.uint8)


class RReLU(nn.Module):
    """Leaky ReLU with random slopes in training, and their mean in evaluation. The module of
    `fusedact.functional.rrelu`.

        x for x > 0, else slope * x; in training slope is uniform between lower and upper, otherwise (lower + upper) / 2

    Args:
        lower, upper: the least and the largest slope.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.functional.rrelu`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if lower is above upper, or one is not finite, or save is none of these.

    >>> fusedact.RReLU(0.1, 0.3)
    RReLU(lower=0.1, upper=0.3)

    Source: torch.nn.RReLU; Xu et al., 2015, arXiv:1505.00853.
    """

    spec = _SPEC
    save: str = "auto"

    def __init__(
        self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False, *, save: str = "auto"
    ) -> None:
        super().__init__()
        saving.check_save("fusedact.RReLU", _SPEC, save)
        self.lower, self.upper = _bounds("fusedact.RReLU", lower, upper)
        self.inplace = inplace
        self.save = save

    def forward(self, input: Tensor) -> Tensor:
        return rrelu(input, self.lower, self.upper, self.training, self.inplace, save=self.save)

    def extra_repr(self) -> str:
        shown = f"lower={self.lower}, upper={self.upper}" + (", inplace=True" if self.inplace else "")
        return shown if self.save == "auto" else f"{shown}, save={self.save!r}"
