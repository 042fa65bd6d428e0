"""Gradients from the output: what backward needs of an activation whose input is not kept.

A form is in plain PyTorch and elementwise. It takes tensors of float32 or float64; halves come converted. A parameter
is a number, or a tensor that broadcasts with the output. `kernels/from_output.py` and `from_bits.py` have the same for
kernels, and kernels/README.md the derivations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .inverses import FAR, GELU, GELU_TANH, MISH, SILU, Inverse

__all__ = ["SAVED", "SavedForm"]

Parameter = float | Tensor
Gradients = tuple[Tensor, tuple[Tensor | None, ...]]

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class SavedForm:
    """How an activation is differentiated from its output, or from that and a bit."""

    # The record's name.
    name: str
    # Whether a bit per element is kept beside the output.
    bits: bool
    # Why the output does not tell the gradient for these numbers as parameters; an empty string where it does.
    safe: Callable[..., str]
    # gradient(g, y, bit, *parameters) -> dx, (dp0, ...): elementwise, and None for a parameter that is a number.
    gradient: Callable[..., Gradients]
    # recover(y, bit, *parameters) -> x, or where many inputs have this output, one that has their derivatives.
    recover: Callable[..., Tensor]
    # side(x, *parameters) -> the bit: whether x lies on the right of the minimum.
    side: Callable[..., Tensor] | None = None
    # Why a tensor, of whose elements the host knows nothing, may not be a parameter; an empty string if it may.
    tensors: str = ""


def _always(*_: float) -> str:
    return ""


# ----- piecewise linear


def _relu_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return torch.where(y <= 0, 0.0, g), ()


def _identity(y: Tensor, *_: object) -> Tensor:
    return y


def _nonnegative(what: str) -> Callable[[float], str]:
    def safe(value: float) -> str:
        return "" if value >= 0.0 else f"for a negative {what} one output has two inputs"

    return safe


def _sign_unknown(what: str) -> str:
    return f"the sign of a {what} that is a tensor is not known without waiting for the device"


def _leaky_relu_gradient(g: Tensor, y: Tensor, _: None, slope: Parameter) -> Gradients:
    part = torch.where(y > 0, 0.0, g * (y / slope)) if isinstance(slope, Tensor) else None
    return torch.where(y > 0, g, slope * g), (part,)


def _over(y: Tensor, divisor: Parameter) -> Tensor:
    """y / divisor, and y, which is a zero, where the divisor is 0."""
    if isinstance(divisor, Tensor):
        return y / torch.where(divisor == 0, 1.0, divisor)
    return y if divisor == 0.0 else y / divisor


def _leaky_relu_input(y: Tensor, _: None, slope: Parameter) -> Tensor:
    return torch.where(y > 0, y, _over(y, slope))


def _bounds(low: float, high: float) -> str:
    if low == high:
        return "bounds that are equal leave no output between them"
    for bound, inward in ((low, 1.0), (high, -1.0)):
        for dtype in (torch.float16, torch.bfloat16):
            if (torch.tensor(bound, dtype=torch.float64).to(dtype).double().item() - bound) * inward > 0.0:
                return f"{dtype} rounds the bound {bound} to a number between both, whose gradient is not 0"
    return ""


def _hardtanh_gradient(g: Tensor, y: Tensor, _: None, low: Parameter, high: Parameter) -> Gradients:
    below, above = y <= low, y >= high
    parts = tuple(
        torch.where(at, g, 0.0) if isinstance(bound, Tensor) else None for at, bound in ((below, low), (above, high))
    )
    return torch.where(below | above, 0.0, g), parts


def _relu6_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return _hardtanh_gradient(g, y, None, 0.0, 6.0)[0], ()


def _hardsigmoid_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return torch.where((y > 0) & (y < 1), g * (1.0 / 6.0), 0.0), ()


def _hardsigmoid_input(y: Tensor, _: None) -> Tensor:
    return 6.0 * y - 3.0


# ----- exponential


def _elu_gradient(g: Tensor, y: Tensor, _: None, alpha: Parameter) -> Gradients:
    """d/dx = y + alpha where y <= 0, d/dalpha = y / alpha there. What is left of -alpha may be a rounding error."""
    part = torch.where(y > 0, 0.0, g * (y / alpha)) if isinstance(alpha, Tensor) else None
    return torch.where(y <= 0, g * (y + alpha).clamp_min(0.0), g), (part,)


def _log1p(z: Tensor) -> Tensor:
    """log(1 + z), bounded where rounding took z to -1 or beyond."""
    return torch.log1p(z.clamp_min(-1.0)).clamp_min(-FAR)


def _elu_input(y: Tensor, _: None, alpha: Parameter) -> Tensor:
    return torch.where(y > 0, y, _log1p(_over(y, alpha)))


def _selu_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    """d/dx = y + scale alpha where y <= 0, else scale."""
    return g * torch.where(y <= 0, (y + SELU_SCALE * SELU_ALPHA).clamp_min(0.0), SELU_SCALE), ()


def _selu_input(y: Tensor, _: None) -> Tensor:
    return torch.where(y > 0, y / SELU_SCALE, _log1p(y / (SELU_SCALE * SELU_ALPHA)))


def _celu_gradient(g: Tensor, y: Tensor, _: None, alpha: Parameter) -> Gradients:
    """d/dx = e = y / alpha + 1 where y <= 0, d/dalpha = e - 1 - e log(e) there."""
    e = (y / alpha + 1.0).clamp_min(0.0)
    part = torch.where(y > 0, 0.0, g * (e - 1.0 - torch.xlogy(e, e))) if isinstance(alpha, Tensor) else None
    return torch.where(y <= 0, g * e, g), (part,)


def _celu_input(y: Tensor, _: None, alpha: Parameter) -> Tensor:
    return torch.where(y > 0, y, alpha * _log1p(y / alpha))


def _sigmoid_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return g * (y * (1.0 - y)), ()


def _sigmoid_input(y: Tensor, _: None) -> Tensor:
    return torch.logit(y).clamp(-FAR, FAR)


def _tanh_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return g * ((1.0 - y) * (1.0 + y)), ()


def _tanh_input(y: Tensor, _: None) -> Tensor:
    return torch.atanh(y).clamp(-FAR, FAR)


def _softplus_safe(_: float, threshold: float) -> str:
    # What it jumps by there, exp(-threshold), is below half a unit of float32.
    return "" if threshold >= 17.0 else "for a threshold below 17 the function jumps there, and outputs repeat"


def _softplus_gradient(g: Tensor, y: Tensor, _: None, beta: Parameter, threshold: float) -> Gradients:
    """d/dx = s = 1 - exp(-q), d/dbeta = (s log(s) - q (1 - s)) / beta^2, q = beta y; past the threshold 1 and 0."""
    q = beta * y
    s = -torch.expm1(-q)
    identity = q > threshold
    part = None
    if isinstance(beta, Tensor):
        near = torch.where(identity, 0.0, q)
        part = g * torch.where(identity, 0.0, (torch.xlogy(s, s) - near * torch.exp(-near)) / (beta * beta))
    return torch.where(identity, g, g * s), (part, None)


def _log_expm1(q: Tensor) -> Tensor:
    """log(exp(q) - 1), what softplus makes q of; bounded where q is 0."""
    return (q + torch.log(-torch.expm1(-q))).clamp_min(-FAR)


def _softplus_input(y: Tensor, _: None, beta: Parameter, threshold: float) -> Tensor:
    q = beta * y
    return torch.where(q > threshold, y, _log_expm1(q) / beta)


def _logsigmoid_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return g * -torch.expm1(y), ()


def _logsigmoid_input(y: Tensor, _: None) -> Tensor:
    return -_log_expm1(-y)


def _softsign_gradient(g: Tensor, y: Tensor, _: None) -> Gradients:
    return g * torch.square(1.0 - y.abs()), ()


def _softsign_input(y: Tensor, _: None) -> Tensor:
    return y / (1.0 - y.abs())


# ----- relu_sigmoid


def _relu_sigmoid_safe(threshold: float) -> str:
    return "" if threshold >= -30.0 else "for a threshold below -30 the output tells too little of the sigmoid"


def _lambert(y: Tensor, threshold: Parameter) -> Tensor:
    """W(z) of z = y exp(-threshold - y), the larger solution of W exp(W) = z, for y >= 0."""
    z = y * torch.exp((-threshold - y).clamp(max=80.0))
    # Within 2^-13 up to a threshold of -20, and 2^-11 of -30; then Newton's iteration, which squares that.
    p = torch.log1p(z)
    w = p * (((0.06853575 * p + 0.30302544) * p + 1.26455056) * p + 0.99989115)
    w = w / (((0.07050805 * p + 0.52724285) * p + 1.76306784) * p + 1.0)
    for _ in range(3 if y.dtype == torch.float64 else 1):
        e = z * torch.exp(-w)
        w = e * (1.0 + w) / (1.0 + e)
    return w


def _relu_sigmoid_gradient(g: Tensor, y: Tensor, _: None, threshold: Parameter) -> Gradients:
    """d/dx = y (1 + w) / (y + w) and d/dthreshold = -y / (y + w) where y > 0: y / (y + w) is sigmoid(x)."""
    # Below, the slope is that at the threshold, and nothing underflows; above, w is 0.
    bounded = y.clamp(1e-30, 1e4)
    w = _lambert(bounded, threshold)
    share = bounded / (bounded + w)
    part = torch.where(y <= 0, 0.0, -g * share) if isinstance(threshold, Tensor) else None
    return torch.where(y <= 0, 0.0, g * (share * (1.0 + w))), (part,)


def _relu_sigmoid_input(y: Tensor, _: None, threshold: Parameter) -> Tensor:
    t = torch.as_tensor(threshold, dtype=y.dtype, device=y.device)
    x = t + y + _lambert(y.clamp_max(1e4), threshold)
    # However small the output, its input is past the threshold.
    return torch.where(y <= 0, t, torch.maximum(x, torch.nextafter(t, t.new_full((), torch.inf))))


# ----- with a bit


def _of_inverse(name: str, inverse: Inverse) -> SavedForm:
    """The form of a function that has no parameters."""

    def gradient(g: Tensor, y: Tensor, right: Tensor) -> Gradients:
        return g * inverse.slope(inverse.near_input(y, right)), ()

    return SavedForm(name=name, bits=True, safe=_always, gradient=gradient, recover=inverse.input, side=inverse.right)


def _swish_safe(beta: float) -> str:
    return "" if beta != 0.0 else "for a beta of 0 there is no minimum"


def _swish_input(y: Tensor, right: Tensor, beta: Parameter) -> Tensor:
    """Of x sigmoid(beta x) = silu(beta x) / beta."""
    return SILU.input(beta * y, right) / beta


def _swish_gradient(g: Tensor, y: Tensor, right: Tensor, beta: Parameter) -> Gradients:
    return g * SILU.slope(SILU.near_input(beta * y, right)), (None,)


def _swish_side(x: Tensor, beta: Parameter) -> Tensor:
    return SILU.right(beta * x)


def _quick_gelu_gradient(g: Tensor, y: Tensor, right: Tensor) -> Gradients:
    return _swish_gradient(g, y, right, 1.702)[0], ()


def _quick_gelu_input(y: Tensor, right: Tensor) -> Tensor:
    return _swish_input(y, right, 1.702)


def _quick_gelu_side(x: Tensor) -> Tensor:
    return _swish_side(x, 1.702)


def _hardswish_root(y: Tensor, right: Tensor) -> Tensor:
    """x / 3 + 1 / 2, which is negative on the left of the minimum."""
    root = (9.0 + 24.0 * y).clamp_min(0.0).sqrt() / 6.0
    return torch.where(right, root, -root)


def _hardswish_gradient(g: Tensor, y: Tensor, right: Tensor) -> Gradients:
    slope = torch.where(y >= 3.0, 1.0, _hardswish_root(y, right))
    return g * torch.where(right | (y != 0), slope, 0.0), ()


def _hardswish_input(y: Tensor, right: Tensor) -> Tensor:
    return torch.where(y >= 3.0, y, 3.0 * _hardswish_root(y, right) - 1.5)


def _hardswish_side(x: Tensor) -> Tensor:
    return x > -1.5


# ----- the table


def _from_output(
    name: str,
    gradient: Callable[..., Gradients],
    recover: Callable[..., Tensor],
    safe: Callable[..., str] = _always,
    tensors: str = "",
) -> SavedForm:
    return SavedForm(name=name, bits=False, safe=safe, gradient=gradient, recover=recover, tensors=tensors)


SAVED: dict[str, SavedForm] = {
    form.name: form
    for form in (
        _from_output("relu_sigmoid", _relu_sigmoid_gradient, _relu_sigmoid_input, _relu_sigmoid_safe),
        _from_output("elu", _elu_gradient, _elu_input, _nonnegative("alpha"), _sign_unknown("alpha")),
        _from_output("selu", _selu_gradient, _selu_input),
        _from_output("prelu", _leaky_relu_gradient, _leaky_relu_input, _nonnegative("weight"), _sign_unknown("weight")),
        _from_output("relu", _relu_gradient, _identity),
        _from_output("relu6", _relu6_gradient, _identity),
        _from_output(
            "leaky_relu",
            _leaky_relu_gradient,
            _leaky_relu_input,
            _nonnegative("negative_slope"),
            _sign_unknown("negative_slope"),
        ),
        _from_output("celu", _celu_gradient, _celu_input),
        _from_output("softplus", _softplus_gradient, _softplus_input, _softplus_safe),
        _from_output("logsigmoid", _logsigmoid_gradient, _logsigmoid_input),
        _from_output("sigmoid", _sigmoid_gradient, _sigmoid_input),
        _from_output("tanh", _tanh_gradient, _tanh_input),
        _from_output(
            "hardtanh",
            _hardtanh_gradient,
            _identity,
            _bounds,
            "whether a bound that is a tensor is rounded inwards is not known without waiting for the device",
        ),
        _from_output("hardsigmoid", _hardsigmoid_gradient, _hardsigmoid_input),
        _from_output("softsign", _softsign_gradient, _softsign_input),
        _of_inverse("silu", SILU),
        _of_inverse("gelu", GELU),
        _of_inverse("gelu_tanh", GELU_TANH),
        _of_inverse("mish", MISH),
        SavedForm(
            name="swish",
            bits=True,
            safe=_swish_safe,
            gradient=_swish_gradient,
            recover=_swish_input,
            side=_swish_side,
            tensors="near the minimum an output tells too little of its input for the gradient of beta",
        ),
        SavedForm(
            name="quick_gelu",
            bits=True,
            safe=_always,
            gradient=_quick_gelu_gradient,
            recover=_quick_gelu_input,
            side=_quick_gelu_side,
        ),
        SavedForm(
            name="hardswish",
            bits=True,
            safe=_always,
            gradient=_hardswish_gradient,
            recover=_hardswish_input,
            side=_hardswish_side,
        ),
    )
}
