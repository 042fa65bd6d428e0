"""A linear layer and its activation in one call: `linear`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from .. import compat, eager, ops, registry
from ..checks import check_parameters
from ..cpu import cpu_kernels
from ..cpu.large_pages import LARGE
from ..crossovers import aten_below
from ..dispatch import Path, choose, wants_gradient
from ..execution import Parameters
from ..registry import ActivationSpec
from ..saving import saving
from . import products
from .hosted import Hosted, alike, check_tensor, record, recorded, small_twin, stays_in_eager

__all__ = [
    "activated_layer",
    "activation_of",
    "apply",
    "autocast",
    "check_layer",
    "is_plain",
    "layer_path",
    "linear",
]

OWNER = "fusedact.functional.linear"
_RECORD = record("linear")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Any = "relu_sigmoid",
    *,
    save: str = "auto",
    **parameters: float | Tensor | str,
) -> Tensor:
    """A linear layer and its activation.

        activation(x weight^T + bias)

    The product is PyTorch's own, which the activation overwrites where backward does not need it. Backward makes the
    gradients of the product and of the bias in one pass, in a fixed order, and PyTorch's products make the others.

    Args:
        x: tensor of shape (..., in_features) and any strides, float16, bfloat16, float32 or float64.
        weight: tensor of shape (out_features, in_features), of x's dtype.
        bias: tensor of shape (out_features,), of x's dtype, or None.
        activation: the name of an elementwise activation, a function of this module, or what `fusedact.activation`
            made.
        save: what is kept for backward: "auto", "input" (the product), "output" or "bits", as far as the activation can
            serve them; see `fusedact.save_policy`.
        parameters: of the activation, and its options, by name: numbers, or tensors of shape (), (1,) or
            (out_features,), which get gradients; the defaults otherwise. prelu, whose weight has the name of the
            layer's, is leaky_relu with a tensor as negative_slope.

    Returns:
        tensor of shape (..., out_features).

    Raises:
        TypeError: if an argument has another type or dtype, or the activation has no such parameter.
        ValueError: for an unknown name, an activation that is not elementwise, a policy that it does not serve, or
            shapes or devices that do not fit.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    >>> FF.linear(torch.tensor([2.0, 3.0]), weight, torch.tensor([0.0, 1.0, -1.0]), "relu")
    tensor([2., 0., 4.])

    Source: torch.nn.functional.linear.
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(
            linear, tensors, x, weight, bias=bias, activation=activation, save=save, **parameters
        )
    return activated_layer(x, weight, bias, activation, save, parameters)


def activated_layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Any, save: str, parameters: dict[str, Any]
) -> Tensor:
    """`linear`, whose arguments' names a parameter may have, as prelu's weight."""
    twin = small_twin(activation, parameters, x) if save == "auto" else None
    if twin is not None and alike(weight, x) and is_plain(x, weight) and _adds(x, weight, bias):
        z = F.linear(x, weight, bias)
        over = None if wants_gradient(z) or compat.observed(z) else cpu_kernels.hosted(registry.get(activation))
        return twin(z) if over is None or over.forward is None else over.forward(z, out=z)
    check_layer(OWNER, x, weight, bias)
    hosted = Hosted.of(OWNER, activation, parameters)
    if save != "auto":
        saving.check_save(OWNER, hosted.spec, save)
    return apply(hosted, x, weight, bias, save)


# ----- checks


def check_layer(owner: str, x: object, weight: object, bias: object, of: str = "") -> None:
    """Raise TypeError or ValueError unless these are a linear layer's; `of` is put before the names of the layer's."""
    check_tensor(owner, "x", x)
    check_tensor(owner, f"{of}weight", weight)
    if bias is not None:
        check_tensor(owner, f"{of}bias", bias)
    assert isinstance(x, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if weight.dim() != 2 or x.dim() == 0:
        raise ValueError(
            f"{owner}: x must have shape (..., in_features) and {of}weight (out_features, in_features), got "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if not compat.tracing():
        if x.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"{owner}: the last dimension of x must have {of}weight's in_features, got shapes {tuple(x.shape)} and "
                f"{tuple(weight.shape)}"
            )
        if bias is not None and tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(
                f"{owner}: {of}bias must have shape {(weight.shape[0],)} beside a {of}weight of "
                f"{tuple(weight.shape)}, got {tuple(bias.shape)}"
            )
    casts = compat.autocast_dtype(x) is not None
    for name, t in ((f"{of}weight", weight), (f"{of}bias", bias)):
        if t is None:
            continue
        if t.device != x.device:
            raise ValueError(f"{owner}: {name} must be on the device of x, {x.device}, got a tensor on {t.device}")
        if t.dtype != x.dtype and not (casts and t.dtype != torch.float64):
            kinds = [str(d).removeprefix("torch.") for d in (x.dtype, t.dtype)]
            raise TypeError(f"{owner}: {name} must have the dtype of x, {kinds[0]}, got {kinds[1]}")


# ----- a call


def apply(hosted: Hosted, x: Tensor, weight: Tensor, bias: Tensor | None, save: str) -> Tensor:
    """The activation of a linear layer, on the path that fits."""
    spec, params = hosted
    tensors = [p for p in params if isinstance(p, Tensor)]
    path = layer_path(spec, x, [weight, *([] if bias is None else [bias]), *tensors])
    if path is None or not (torch.is_grad_enabled() and weight.requires_grad) or not _pays(path, x, weight):
        return composed(hosted, x, weight, bias, save)
    arguments, given = autocast(spec, (x, weight, bias), params)
    return _Linear.apply((spec, path, save), *arguments, *given)


def layer_path(spec: ActivationSpec, x: Tensor, others: Sequence[Tensor]) -> Path | None:
    """The path of a layer that has a backward of its own; None where plain operators must be seen, or serve best."""
    if spec.always_aten or stays_in_eager(spec):
        return None
    path = choose(_RECORD, x, others, False)
    if path.kind == "formula" or compat.transforms_active() or (path.kind != "triton" and not x.is_cpu):
        return None
    return path


# From so many bytes of the product on the CPU the layer's own backward takes less time than the operators': memory of
# that size is new from the system each time, and is entered in large pages here. Below, they take the same time.
LAYER_FROM_BYTES = LARGE


def _pays(path: Path, x: Tensor, weight: Tensor) -> bool:
    """Whether the layer's own backward takes less time than that of PyTorch's product and the activation."""
    numel = math.prod(x.shape[:-1]) * weight.shape[0]
    if x.is_cuda:
        return numel >= aten_below(x.device)
    return path.kind == "triton" or numel * x.element_size() >= LAYER_FROM_BYTES


# Below so many elements of the product on the CPU, modules call PyTorch's product and the activation's module: deciding
# on more takes longer than it can save.
PLAIN_BELOW = 2**16


def is_plain(x: object, weight: Tensor) -> bool:
    """Whether a layer's input is one for plain calls: small, or being compiled or traced."""
    if is_compiling() or compat.tracing():
        return True
    if type(x) is not Tensor or not x.is_cpu or x.dtype != weight.dtype or not x.dim() or compat.interpreting:
        return False
    shape = weight.shape
    return len(shape) == 2 and x.shape[-1] == shape[1] and x.numel() * shape[0] < PLAIN_BELOW * shape[1]


def _adds(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a layer has no bias, or one that fits and is of x's kind."""
    return bias is None or (alike(bias, x) and bias.dim() == 1 and bias.shape[0] == weight.shape[0])


def autocast(
    spec: ActivationSpec, tensors: Sequence[Tensor | None], params: Parameters
) -> tuple[Sequence[Tensor | None], Parameters]:
    """A layer's tensors, the input first, as autocast converts them; the parameters as for the activation's twin."""
    assert tensors[0] is not None
    dtype = compat.autocast_dtype(tensors[0])
    if dtype is None:
        return tensors, params
    if spec.autocast:
        params = tuple(p.to(dtype) if isinstance(p, Tensor) else p for p in params)
    return [None if t is None else t.to(dtype) for t in tensors], params


def composed(hosted: Hosted, x: Tensor, weight: Tensor, bias: Tensor | None, save: str) -> Tensor:
    """PyTorch's product, and the activation as a call of its own, which overwrites the product where it may."""
    return activation_of(hosted, F.linear(x, weight, bias), save)


def activation_of(hosted: Hosted, z: Tensor, save: str) -> Tensor:
    """The activation of a product z that nobody else has."""
    spec, params = hosted
    if stays_in_eager(spec):
        channel = z.dim() - 1 if any(isinstance(p, Tensor) and p.numel() > 1 for p in params) else None
        return eager.formula(spec, z, params, channel)
    if not _is_ours(z):
        return ops.apply(spec, z, params, channel_dim=-1, save=save)
    differentiated = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (z, *params))
    if not eager.numeric(params):
        params, _ = check_parameters(spec, z, params, -1)
    if differentiated:
        return ops.apply(spec, z, params, _kept_as_output(spec, z, params, save), -1, save)
    kernels = cpu_kernels.hosted(spec) if z.is_cpu and eager.numeric(params) and not compat.interpreting else None
    if kernels is not None and z.is_contiguous():
        kernels.forward(z, out=z)
        return z
    inplace = spec.aten is None or spec.aten_inplace is not None or not eager.numeric(params)
    return ops.apply(spec, z, params, inplace, -1, save)


def _is_ours(z: Tensor) -> bool:
    """Whether a product may be overwritten: nothing records or transforms what is done to it."""
    watched = is_compiling() or compat.tracing() or compat.transforms_active() or compat.dispatch_mode_active()
    return not watched and type(z) is Tensor and z.layout is torch.strided and not z.is_meta


def _kept_as_output(spec: ActivationSpec, z: Tensor, params: Parameters, save: str) -> bool:
    """Whether backward will not need the product."""
    numbers = eager.numeric(params)
    policy = saving.in_force() if save == "auto" else save
    if policy == "auto" and numbers and spec.aten_inplace is not None and saving.operator_keeps(spec) == "output":
        return choose(spec, z, params, True).kind == "aten"
    if policy == "auto" and not saving.by_default(spec, z.dtype):
        return False
    return saving.plan(spec, z, params, numbers, policy).replaces_input


class _Linear(Function):
    """Keeps the input, and the product or the output: one tensor of the output's size."""

    @staticmethod
    def forward(
        ctx: Any,
        call: tuple[ActivationSpec, Path, str],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *params: float | Tensor,
    ) -> Tensor:
        spec, path, save = call
        z = products.product(x, weight, bias)
        how, given = products.planned(spec, path, z, params, save)
        y, kept = products.activated(how, z, given)
        ctx.call, ctx.how, ctx.count = call, how, len(kept)
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in given]
        ctx.save_for_backward(x, weight, bias, *kept, *(p for p in given if isinstance(p, Tensor)))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, weight, bias, *saved = ctx.saved_tensors
        kept, rest = saved[: ctx.count], iter(saved[ctx.count :])
        params = [next(rest) if n is None else n for n in ctx.numbers]
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or compat.transforms_active() or compat.is_legacy_batched(g):
            spec, _, save = ctx.call
            return None, *recorded(
                lambda x, w, b, *p: composed(Hosted(spec, p), x, w, b, save), (x, weight, bias, *params), needed, g
            )
        matrices = [products.rows(t) for t in kept]
        if ctx.how.bits:
            matrices[-1] = kept[-1]
        dz, db, *sums = products.derived(ctx.how, products.rows(g), matrices, params, needed[2:])
        assert dz is not None
        dx = (dz @ weight).view(x.shape) if needed[0] else None
        dw = dz.t() @ products.rows(x) if needed[1] else None
        return None, dx, dw, db, *sums
