"""Statistics of a layer that gathered none while it ran: its input and output are read again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from . import dispatch, figures, flatness
from .eager import HALF_DTYPES
from .flatness import Intervals
from .gathering import Gather, Tally, slope
from .pieces import piece_limit, pieces_of
from .registry import ActivationSpec

__all__ = ["POINTWISE", "is_activation", "is_pointwise", "reread"]

# PyTorch's modules that compute one number of another, and those whose elements depend on each other or on chance.
POINTWISE = (
    *(nn.ELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardtanh, nn.Hardswish, nn.LeakyReLU, nn.LogSigmoid, nn.PReLU, nn.ReLU),
    *(nn.ReLU6, nn.SELU, nn.CELU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Mish, nn.Softplus, nn.Softshrink, nn.Softsign),
    *(nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
OTHERS = (nn.GLU, nn.RReLU, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation of this library or of PyTorch."""
    return isinstance(module, (*POINTWISE, *OTHERS)) or isinstance(getattr(module, "spec", None), ActivationSpec)


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is an activation whose output is a function of one element, which has a slope."""
    spec = getattr(module, "spec", None)
    if isinstance(spec, ActivationSpec):
        return spec.kind in ("elementwise", "piecewise")
    return isinstance(module, POINTWISE)


def _forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A module's forward, which leaves its argument as it is."""
    if getattr(module, "inplace", False):
        return lambda x: module.forward(x.clone())
    return module.forward


def _intervals(module: nn.Module) -> Intervals | None:
    """Where a module's slope is flat, if its arguments alone tell."""
    kind = type(module)
    if not kind.__module__.startswith(("torch.nn.modules.", "fusedact.")):
        return None
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return None
    with dispatch.backend("auto"):
        return flatness.known((kind, module.extra_repr()), lambda x: slope(_forward(module), x))


def reread(gather: Gather, module: nn.Module, x: Tensor | None, y: Tensor) -> None:
    """Fill `gather` from a call's output and, for slopes, its input: None where it has none of the output's shape.

    Without waiting for a device, and on the CPU in pieces that stay in the cache.
    """
    if x is not None and (not is_pointwise(module) or x.shape != y.shape or x.device != y.device):
        x = None
    # Zero and flat are the same for these.
    exact = x is not None and (
        isinstance(module, nn.ReLU) or getattr(getattr(module, "spec", None), "name", "") == "relu"
    )
    if y.is_cpu:
        _reread_pieces(gather, module, x, y, exact)
        return
    row = figures.of_tensor(y)
    flat = y == 0 if x is None or exact else slope(_forward(module), x).abs() <= figures.FLAT
    units = gather.units(y)
    count = flat.sum(figures.others(y.dim(), gather.dim)) if units > 1 else flat.sum().reshape(1)
    if x is not None:
        row[-1] = count.sum()
    gather.fill(y, row, count < y.numel() / max(units, 1))


def _reread_pieces(gather: Gather, module: nn.Module, x: Tensor | None, y: Tensor, exact: bool) -> None:
    # A piece may lack channels whose parameters the module has.
    whole = any(p.numel() > 1 for p in module.parameters()) or any(b.numel() > 1 for b in module.buffers())
    limit = max(y.numel(), 1) if whole else piece_limit(y)
    tally = Tally(y, gather.dim, y.numel() <= limit)
    intervals = None if x is None or exact else _intervals(module)
    for x_piece, *target, y_piece in pieces_of(y if x is None else x, *tally.cut, y, limit=limit):
        wide = y_piece.float() if y_piece.dtype in HALF_DTYPES else y_piece
        if x is None or exact:
            tally.values_with_zeros(wide, target, exact)
        else:
            if intervals is not None:
                tally.inputs(x_piece.float() if x_piece.dtype in HALF_DTYPES else x_piece, intervals, target)
            else:
                tally.slopes(slope(_forward(module), x_piece), target)
            # Sums over less are more accurate.
            for (part,) in pieces_of(wide, limit=piece_limit(y)):
                tally.values(part)
    tally.fill(gather, y)
