"""Random activations, as a user would write them, and the points at which a computation of them can be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._decomp import decomposition_table
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

UNARY = [
    *(f"torch.{n}({{}})" for n in ("sigmoid", "tanh", "exp", "expm1", "erf", "erfc", "sin", "cos", "atan", "asinh")),
    *(f"torch.{n}({{}})" for n in ("abs", "square", "relu", "sinh", "cosh", "log1p", "sqrt", "log", "rsqrt", "exp2")),
    *(f"torch.{n}({{}})" for n in ("reciprocal", "floor", "round", "sign", "frac", "sinc", "nan_to_num")),
    *(f"F.{n}({{}})" for n in ("silu", "gelu", "elu", "softplus", "mish", "selu", "relu6", "hardswish", "logsigmoid")),
    # Not hardsigmoid, which PyTorch divides by 6 in float32 in any dtype.
    *(f"F.{n}({{}})" for n in ("softsign", "tanhshrink", "softshrink", "hardshrink", "leaky_relu")),
    *("F.gelu({}, approximate='tanh')", "F.softplus({}, 2.0, 5.0)", "F.elu({}, 0.7)", "F.celu({}, 0.3)"),
    *("(-{})", "({} ** 2)", "({} ** 3)", "(1 - {})", "(1 + {})", "({} - 1)", "(1 / {})", "({} / 2)", "({} * 0.3)"),
    *("torch.clamp({}, -1.0, 2.0)", "torch.clamp({}, min=0.0)", "{}.clamp(max=1.5)", "torch.log(1 + torch.exp({}))"),
    *("torch.log(torch.sigmoid({}))", "(torch.exp({}) - 1)", "(1 / (1 + torch.exp(-{})))", "({} % 1.7)"),
]
BINARY = [
    *("({} + {})", "({} - {})", "({} * {})", "({} / {})", "torch.maximum({}, {})", "torch.minimum({}, {})"),
    *("torch.where({0} > {1}, {0}, {1} * 0.3)", "torch.where(({0} <= {1}) & ({0} > -1), {1}, {0})"),
    *("torch.where(torch.logical_not({0} < {1}), 0.5, {0})", "torch.lerp({}, {}, 0.3)", "torch.atan2({}, {})"),
    *("torch.hypot({}, {})", "torch.logaddexp({}, {})", "torch.addcmul({0}, {1}, {0}, value=0.5)"),
    *("torch.where({0} == {1}, {0}, {1})", "torch.copysign({}, {})", "torch.xlogy({}, {})"),
]
NAMES = ("a", "b", "c")
NUMBERS = (0.25, 0.5, 1.0, 1.7, 3.0, -0.5, -1.0)


@dataclass(frozen=True)
class Drawn:
    """A random activation: an expression of x and its parameters, with their values."""

    text: str
    parameters: dict[str, float]
    function: Callable[..., Tensor] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        arguments = "".join(f", {n}={v!r}" for n, v in self.parameters.items())
        namespace: dict[str, Callable[..., Tensor]] = {"torch": torch, "F": F}  # type: ignore[dict-item]
        exec(f"def drawn(x{arguments}):\n    return {self.text}", namespace)
        object.__setattr__(self, "function", namespace["drawn"])


@st.composite
def activations(draw: Callable[..., object], depth: int = 5) -> Drawn:
    """Trees of operators over x, up to three parameters, and numbers."""
    parameters = {n: draw(st.sampled_from(NUMBERS)) for n in NAMES[: draw(st.integers(0, 3))]}
    leaves = ["x", "x", "x", *parameters, *parameters]

    def expression(left: int) -> str:
        kind = draw(st.sampled_from(("leaf", "unary", "unary", "binary", "binary"))) if left else "leaf"
        if kind == "leaf":
            return draw(st.sampled_from(leaves))
        if kind == "unary":
            return draw(st.sampled_from(UNARY)).format(expression(left - 1))
        second = expression(left - 1) if draw(st.booleans()) else repr(draw(st.sampled_from(NUMBERS)))
        text = draw(st.sampled_from(BINARY))
        # Functions of two tensors take no plain number.
        return text.format(expression(left - 1), second if text.startswith("(") or "x" in second else "x")

    body = expression(depth)
    # At least once of x's shape.
    return Drawn(body if "x" in body else f"({body} + x)", parameters)


# ----- where it can be judged


class _Noise(TorchDispatchMode):
    """Rounds as a computation of that precision might: every result of every operator off by up to one unit."""

    def __init__(self, eps: float, seed: int) -> None:
        super().__init__()
        self._eps, self._generator = eps, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        decomposed = decomposition_table.get(func)
        if decomposed is not None and (torch.Tag.pointwise in func.tags or func.name().endswith("_backward")):
            # What happens inside fused operators counts too.
            with self:
                return decomposed(*args, **kwargs or {})
        out = func(*args, **kwargs or {})
        for t, returned in zip(out if isinstance(out, tuple) else (out,), func._schema.returns, strict=False):
            if isinstance(t, Tensor) and t.is_floating_point() and returned.alias_info is None:
                noise = torch.rand(t.shape, generator=self._generator, dtype=t.dtype) * 2 - 1
                t.mul_(1 + self._eps * noise)
        return out


def results(function: Callable[..., Tensor], x: Tensor, parameters: list[Tensor], g: Tensor) -> list[Tensor]:
    """The value, and the gradients of x and of parameters that have an entry for each of x's."""
    leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
    y = function(*leaves)
    if not y.requires_grad:
        return [y.detach().expand(x.shape), *(torch.zeros_like(t) for t in leaves)]
    grads = torch.autograd.grad(y, leaves, g, materialize_grads=True)
    return [y.detach(), *grads]


def judged(drawn: Drawn, candidates: Tensor, eps: float = 2.0**-23) -> Tensor:
    """Those of some float32 points where the formula is well-conditioned, whoever computes it.

    Where plain float32 is finite; and where rounding each step anew, and x itself, moves the value and all gradients
    by few units in the last place.
    """
    x = candidates.double()
    values = list(drawn.parameters.values())
    g = torch.ones_like(x)
    parameters = [torch.full_like(x, v) for v in values]
    truth = results(drawn.function, x, parameters, g)
    plain = results(drawn.function, candidates, [p.float() for p in parameters], g.float())
    good = torch.ones(x.shape, dtype=torch.bool)
    for t, p in zip(truth, plain, strict=True):
        # Nor where float32 has no normal numbers.
        good &= p.isfinite() & t.isfinite() & ((t == 0) | (t.abs() > 1e-25)) & (t.abs() < 1e25)
        # Nor where rounding alone makes two numbers equal, and a condition true.
        good &= (p - t).abs() <= 16 * eps * t.abs()
    for seed in range(4):
        with _Noise(eps, seed):
            moved = results(drawn.function, x * (1 + eps * (-1) ** seed), parameters, g)
        for t, m in zip(truth, moved, strict=True):
            good &= (m - t).abs() <= 16 * eps * t.abs()
    return candidates[good]


def candidates() -> Tensor:
    """Points where activations bend, and between them."""
    generator = torch.Generator().manual_seed(11)
    kinks = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 6.0, 1e-3, -1e-3])
    return torch.cat([kinks, torch.randn(51, generator=generator) * 2])
