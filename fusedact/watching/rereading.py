"""Statistics of a layer that gathered none while it ran: its input and output are read again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .. import dispatch
from ..cpu.pieces import piece_limit, pieces_of
from ..eager import HALF_DTYPES
from ..registry import ActivationSpec
from . import figures, flatness
from .flatness import Intervals
from .gathering import Gather, Tally, slope

__all__ = ["POINTWISE", "is_activation", "is_fixed", "is_pointwise", "reread"]

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
    if isinstance(module, POINTWISE):
        return True
    spec = getattr(module, "spec", None)
    return isinstance(spec, ActivationSpec) and spec.kind in ("elementwise", "piecewise")


def is_fixed(module: nn.Module) -> bool:
    """Whether a module's class and arguments alone tell what it computes."""
    if not type(module).__module__.startswith(("torch.nn.modules.", "fusedact.")):
        return False
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A module's forward, which leaves its argument as it is."""
    if getattr(module, "inplace", False):
        return lambda x: module.forward(x.clone())
    return module.forward


def _intervals(module: nn.Module) -> Intervals | None:
    """Where the slope of a module that `is_fixed` is flat."""

    def at(x: Tensor) -> Tensor:
        with dispatch.backend("auto"):
            return slope(_forward(module), x)

    return flatness.known((type(module), module.extra_repr()), at)


def reread(gather: Gather, module: nn.Module, fixed: bool, x: Tensor | None, y: Tensor) -> None:
    """Fill `gather` from a call's output and, for slopes, its input: None where it has none of the output's shape.

    `fixed` is what `is_fixed` says of the module.

    Without waiting for a device, and on the CPU in pieces that stay in the cache.
    """
    if x is not None and (not is_pointwise(module) or x.shape != y.shape or x.device != y.device):
        x = None
    # Zero and flat are the same for these.
    exact = x is not None and (
        isinstance(module, nn.ReLU) or getattr(getattr(module, "spec", None), "name", "") == "relu"
    )
    if y.is_cpu:
        _reread_pieces(gather, module, fixed, x, y, exact)
        return
    row = figures.of_tensor(y)
    flat = y == 0 if x is None or exact else slope(_forward(module), x).abs() <= figures.FLAT
    units = gather.units(y)
    count = flat.sum(figures.others(y.dim(), gather.dim)) if units > 1 else flat.sum().reshape(1)
    if x is not None:
        row[-1] = count.sum()
    gather.fill(y, row, count < y.numel() / max(units, 1))


def _reread_pieces(gather: Gather, module: nn.Module, fixed: bool, x: Tensor | None, y: Tensor, exact: bool) -> None:
    limit = part = piece_limit(y)
    if y.numel() > limit and any(t.numel() > 1 for t in (*module.parameters(), *module.buffers())):
        # A piece would lack channels whose parameters the module has.
        limit = y.numel()
    tally = Tally(y, gather, y.numel() <= limit)
    intervals = None if x is None or exact or not fixed else _intervals(module)
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
            for (values,) in pieces_of(wide, limit=part):
                tally.values(values)
    tally.fill(gather, y)
