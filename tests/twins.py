"""PyTorch's own functions as the oracle of the twins: where they bend, their samples, and where they are wrong.

What PyTorch's operator computes on the CPU is PyTorch's. Kernels, and what the library composes itself, have the limit
in the places that WRONG lists; elsewhere they have PyTorch's value and gradient, at kinks, infinities and NaN too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact import registry

TWINS = tuple(n for n in registry.names("elementwise") if registry.get(n).twin)
INFINITY = torch.inf


# ----- where they bend


@dataclass(frozen=True)
class Bends:
    """Parameters to test a twin with, and where its slope jumps then."""

    params: tuple[float, ...] = ()
    kinks: tuple[float, ...] = ()
    # What is further from 0 is left out.
    within: float = INFINITY


BENDS: dict[str, tuple[Bends, ...]] = {
    "relu": (Bends(kinks=(0.0,)),),
    "relu6": (Bends(kinks=(0.0, 6.0)),),
    "leaky_relu": tuple(Bends((slope,), (0.0,)) for slope in (0.01, 0.0, 1.0, 1.5, -0.5)),
    "prelu": tuple(Bends((weight,), (0.0,)) for weight in (0.25, 0.0, 1.5, -0.5)),
    "elu": tuple(Bends((alpha,), (0.0,)) for alpha in (1.0, 0.3, 0.0, -0.7)),
    "selu": (Bends(kinks=(0.0,)),),
    # Its slope is continuous; its second derivative jumps. PyTorch rounds 1 / alpha to float32, in float64 too: these
    # it does not change. For alpha < 0 it is an exponential that overflows; at -inf ours loses its infinite slope.
    "celu": (*(Bends((alpha,), (0.0,)) for alpha in (1.0, 2.0, 0.25)), Bends((-0.5,), (0.0,), within=1e30)),
    "softplus": (
        *(Bends((beta, 20.0), (20.0 / beta,)) for beta in (1.0, 2.0, 0.3, -1.0)),
        Bends((0.5, 3.0), (6.0,)),
        Bends((2.0, -100.0), (-50.0,)),
    ),
    "hardtanh": tuple(Bends(bounds, bounds) for bounds in ((-1.0, 1.0), (0.5, 2.0), (0.0, 0.0), (-0.1, 0.3))),
    "hardsigmoid": (Bends(kinks=(-3.0, 3.0)),),
    "hardswish": (Bends(kinks=(-3.0, 3.0)),),
    "softshrink": tuple(Bends((lambd,), (-lambd, lambd)) for lambd in (0.5, 0.0, 2.0, 0.1)),
    "hardshrink": tuple(Bends((lambd,), (-lambd, lambd)) for lambd in (0.5, 0.0, 2.0, 0.1, -1.0)),
    "threshold": tuple(Bends(p, (p[0],)) for p in ((0.1, 20.0), (0.0, 0.0), (-1.0, -1.0), (2.0, 0.5))),
    # x / (1 + |x|) bends at 0 in its second derivative, which the others do nowhere.
    "softsign": (Bends(kinks=(0.0,)),),
}
CASES = [(name, bends) for name in TWINS for bends in BENDS.get(name, (Bends(),))]
IDS = [f"{name}{list(bends.params) if bends.params else ''}" for name, bends in CASES]


def places(bends: Bends, dtype: torch.dtype) -> Tensor:
    """The kinks with their neighbours, both zeros, numbers from the smallest to the largest, infinities and NaN."""
    largest, smallest = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
    # Saturations and overflows on the way, in float32 as in halves.
    inside = (1e-3, 0.3, 1.0, 7.5, 20.0, 89.0, 104.0, 300.0, 1e4, 1e18, 2e19, 1e30)
    inside += tuple(largest * part for part in (0.125, 0.3, 0.6, 1.0))
    sides = [s * v for v in (*inside, smallest, smallest / 4.0, INFINITY) for s in (1, -1) if v <= largest or v > 1e300]
    at = torch.tensor(bends.kinks, dtype=torch.float64).to(dtype)
    up, down = (torch.tensor(s * INFINITY, dtype=dtype) for s in (1, -1))
    zeros = torch.tensor([0.0, -0.0], dtype=dtype)
    around = torch.cat([at, zeros])
    rest = torch.tensor([*sides, torch.nan], dtype=torch.float64).to(dtype)
    x = torch.cat([around, torch.nextafter(around, up), torch.nextafter(around, down), rest])
    return x[~(x.double().abs() > bends.within)]


def ours(name: str) -> Callable[..., Tensor]:
    """Our function."""
    return getattr(FF, name)


def theirs(name: str) -> Callable[..., Tensor]:
    """PyTorch's, for numbers."""
    special = {
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "prelu": lambda x, weight: F.prelu(x, torch.tensor(weight, dtype=x.dtype, device=x.device)),
        "identity": nn.Identity(),
    }
    return special.get(name) or getattr(F, name)


def torchs(name: str, x: Tensor, backend: str) -> bool:
    """Whether PyTorch's operator serves a tensor on the CPU, for numbers, where a gradient is wanted."""
    spec = registry.get(name)
    if spec.composite and backend == "eager":
        return False
    pieces_from = spec.pieces_from_recorded or spec.pieces_from
    return spec.aten is not None and not (pieces_from and x.numel() >= pieces_from)


def derived(function: Callable[..., Tensor], x: Tensor, *params: object) -> tuple[Tensor, Tensor]:
    """Value and slope."""
    leaf = x.detach().requires_grad_()
    y = function(leaf, *params)
    return y.detach(), torch.autograd.grad(y, leaf, torch.ones_like(y))[0]


def assert_twin(name: str, x: Tensor, params: tuple[float, ...], got: tuple[Tensor, Tensor]) -> None:
    """Raise unless value and slope are PyTorch's, or the limits in the places that WRONG lists.

    Those of a half are PyTorch's in float32, rounded once. At a NaN the slope is one of the two that PyTorch has: its
    scalar code and its vector code differ there for elu, selu, celu, relu6, hardtanh, hardswish and the shrinks.
    """
    x, got = x.cpu(), (got[0].cpu(), got[1].cpu())
    number, wide = ~x.isnan(), x.float() if x.dtype.itemsize == 2 else x
    want = corrected(name, wide, *derived(theirs(name), wide, *params))
    for what, ours, truth in zip(("value", "slope"), got, want, strict=True):
        assert_same(what, x[number], ours[number], truth[number].to(x.dtype))
    values, slopes = (t[~number] for t in got)
    assert values.isnan().all(), f"value at NaN: {values.tolist()}"
    for ours in slopes:
        either = [
            derived(theirs(name), torch.full((count,), torch.nan, dtype=wide.dtype), *params)[1][:1].to(x.dtype)
            for count in (1, 64)
        ]
        if not any(torch.allclose(ours, e, equal_nan=True) for e in either):
            raise AssertionError(f"slope at NaN: {ours.item()}, PyTorch has {[e.item() for e in either]}")


def assert_same(what: str, x: Tensor, ours: Tensor, truth: Tensor) -> None:
    """Raise with the places where they differ."""

    def message(text: str) -> str:
        apart = ~torch.isclose(ours.double(), truth.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        rows = zip(x[apart].tolist(), ours[apart].tolist(), truth[apart].tolist(), strict=True)
        return "\n".join([text, *(f"{what} at {at}: {a}, expected {b}" for at, a, b in rows)])

    torch.testing.assert_close(ours, truth, equal_nan=True, msg=message)


# ----- where they are wrong


@dataclass(frozen=True)
class Wrong:
    """Where PyTorch's operator misses the limit on the CPU, and what it has there."""

    name: str
    # As documentation says it, and which x of float32 or float64 it is.
    where: str
    at: Callable[[Tensor], Tensor]
    # "value" or "gradient".
    what: str
    has: float
    limit: Callable[[Tensor], Tensor] | float


def _beyond(part: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x.isfinite() & (x > torch.finfo(x.dtype).max * part)


def _squares(x: Tensor) -> Tensor:
    """Whose squares overflow."""
    return x.isfinite() & (x * x).isinf()


def _low(x: Tensor) -> Tensor:
    return x == -INFINITY


def _high(x: Tensor) -> Tensor:
    return x == INFINITY


NAN = torch.nan
WRONG = (
    Wrong("gelu", "-inf", _low, "value", NAN, 0.0),
    Wrong("gelu", "+inf", _high, "value", NAN, INFINITY),
    Wrong("gelu", "x > max / 2", _beyond(0.5), "value", INFINITY, lambda x: x),
    Wrong("gelu", "-inf", _low, "gradient", NAN, 0.0),
    Wrong("gelu", "+inf", _high, "gradient", NAN, 1.0),
    Wrong("gelu_tanh", "-inf", _low, "value", NAN, 0.0),
    Wrong("gelu_tanh", "-inf", _low, "gradient", NAN, 0.0),
    Wrong("gelu_tanh", "+inf", _high, "gradient", NAN, 1.0),
    Wrong("gelu_tanh", "x^2 > max", _squares, "gradient", NAN, lambda x: (x > 0).to(x.dtype)),
    Wrong("silu", "-inf", _low, "value", NAN, 0.0),
    Wrong("silu", "-inf", _low, "gradient", NAN, 0.0),
    Wrong("silu", "+inf", _high, "gradient", NAN, 1.0),
    Wrong("mish", "-inf", _low, "value", NAN, 0.0),
    Wrong("mish", "-inf", _low, "gradient", NAN, 0.0),
    Wrong("mish", "+inf", _high, "gradient", NAN, 1.0),
    Wrong("hardswish", "-inf", _low, "value", NAN, 0.0),
    Wrong("hardswish", "x > max / 6", _beyond(1 / 6), "value", INFINITY, lambda x: x),
    Wrong("softsign", "-inf", _low, "value", NAN, -1.0),
    Wrong("softsign", "+inf", _high, "value", NAN, 1.0),
    Wrong("softsign", "-inf", _low, "gradient", NAN, 0.0),
    Wrong("softsign", "+inf", _high, "gradient", NAN, 0.0),
)


def missed(name: str, what: str, x: Tensor) -> Tensor:
    """Where PyTorch's operator, which computes halves in float32, misses the limit: there it may have anything."""
    wide = x.float() if x.dtype.itemsize == 2 else x
    found = [wrong.at(wide) for wrong in WRONG if (wrong.name, wrong.what) == (name, what)]
    return torch.stack(found).any(0) if found else torch.zeros_like(x, dtype=torch.bool)


def corrected(name: str, x: Tensor, y: Tensor, dx: Tensor, g: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """PyTorch's value, and its gradient given that of the output, with the limits where they are wrong."""
    found = {"value": y, "gradient": dx}
    for wrong in WRONG:
        if wrong.name == name:
            limit = wrong.limit(x) if callable(wrong.limit) else torch.full_like(x, wrong.limit)
            limit = g * limit if wrong.what == "gradient" else limit
            found[wrong.what] = torch.where(wrong.at(x), limit, found[wrong.what])
    return found["value"], found["gradient"]


# ----- PyTorch's samples


# gelu_tanh's are among gelu's.
SAMPLED = tuple(n for n in TWINS if n not in ("gelu_tanh", "identity"))


def operators() -> dict[str, Any]:
    """PyTorch's descriptions of the twins' operators, by our names; variants are for dtypes that nobody here serves."""
    from torch.testing._internal.common_methods_invocations import op_db

    named = [(op.name.removeprefix("nn.functional."), op) for op in op_db]
    found = [(name, op) for name, op in named if name in SAMPLED and not op.variant_test_name]
    assert sorted(name for name, _ in found) == sorted(SAMPLED)
    return dict(found)


def module_infos() -> dict[str, Any]:
    """PyTorch's descriptions of the twins' modules, by our names."""
    from torch.testing._internal.common_modules import module_db

    infos = {info.module_cls: info for info in module_db}
    classes = {n: getattr(nn, registry.get(n).module) for n in SAMPLED}
    return {n: infos[cls] for n, cls in classes.items() if cls in infos}


def _sample_derived(
    function: Callable[..., Tensor], sample: Any, dtype: torch.dtype, device: str = "cpu"
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """A sample computed in a dtype: its tensors, the value and their gradients, and the output's gradient."""
    leaves = []

    def held(value: object) -> Any:
        if not isinstance(value, Tensor):
            return value
        leaves.append(value.detach().to(device, dtype).requires_grad_())
        return leaves[-1]

    args = [held(a) for a in (sample.input, *sample.args)]
    keywords = {k: held(v) for k, v in sample.kwargs.items()}
    # A leaf does not allow inplace=True, which some samples ask for.
    first = args[0] * 1 if keywords.get("inplace") else args[0]
    y = function(first, *args[1:], **keywords)
    g = torch.linspace(-1, 1, y.numel(), dtype=sample.input.dtype, device=y.device).reshape(y.shape).to(dtype)
    grads = torch.autograd.grad(y, leaves, g)
    return [t.detach().cpu() for t in leaves], [t.detach().cpu() for t in (y, *grads)], g.cpu()


def assert_sample(name: str, op: Any, sample: Any, itself: bool, device: str = "cpu") -> None:
    """Raise unless our function is PyTorch's operator on a sample for the CPU, value and gradients.

    Where it is not PyTorch `itself` that computes them, a half has what PyTorch has in float32, rounded once; and the
    limits.
    """
    dtype = sample.input.dtype
    wide = dtype if itself or dtype.itemsize > 2 else torch.float32
    _, got, _ = _sample_derived(ours(name), sample, dtype, device)
    (x, *_), want, g = _sample_derived(op, sample, wide)
    if not itself:
        choice = "gelu_tanh" if sample.kwargs.get("approximate") == "tanh" else name
        want[:2] = corrected(choice, x, want[0], want[1], g)
    torch.testing.assert_close(got[:2], [t.to(dtype) for t in want[:2]], equal_nan=True)
    if got[2:]:
        # PyTorch rounds each of the terms to the dtype of the input: the truth is float64.
        (x, *_), want, g = _sample_derived(op, sample, torch.float64)
        _assert_sums(got[2:], want[2:], (g * x).nan_to_num(0.0, 0.0, 0.0).abs().sum().item())


def module_samples(info: Any, device: str, dtype: torch.dtype) -> Iterator[tuple[nn.Module, nn.Module, Tensor]]:
    """Our module, PyTorch's, and an input."""
    cls = getattr(fusedact, info.module_cls.__name__)
    for s in info.module_inputs_func(info, device, dtype, requires_grad=True, training=True):
        made = s.constructor_input
        pair = [c(*made.args, **made.kwargs).to(device, dtype) for c in (cls, info.module_cls)]
        assert not s.forward_input.kwargs
        (x,) = s.forward_input.args
        yield *pair, x


def _module_derived(module: nn.Module, x: Tensor) -> list[Tensor]:
    """A module's value, and the gradients of its input and its parameters."""
    leaf = x.detach().requires_grad_()
    y = module(leaf)
    g = torch.linspace(-1, 1, y.numel(), dtype=x.dtype, device=x.device).reshape(y.shape)
    return [t.detach().cpu() for t in (y, *torch.autograd.grad(y, (leaf, *module.parameters()), g))]


def assert_modules(ours: nn.Module, theirs: nn.Module, x: Tensor, device: str = "cpu") -> None:
    """Raise unless two modules do the same, and exchange their state."""
    got, want = _module_derived(ours.to(device), x.to(device)), _module_derived(theirs, x)
    torch.testing.assert_close(got[:2], want[:2])
    _assert_sums(got[2:], _module_derived(theirs.double(), x.double())[2:], x.abs().sum().item())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def _assert_sums(got: list[Tensor], truth: list[Tensor], size: float) -> None:
    """Raise unless gradients of parameters are sums, in float64, of terms of that size in all."""
    for ours, sums in zip(got, truth, strict=True):
        eps = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours, sums.to(ours.dtype), rtol=2 * eps, atol=eps * size, equal_nan=True)
