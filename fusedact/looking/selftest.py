"""A test of what runs on this machine: values and gradients of every activation against its formula in float64."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import compat, execution, functional, registry
from ..custom import activation as own_activation
from ..dispatch import PIECES_FORCED, backend
from ..eager import formula
from ..execution import Call
from ..piecewise import tables
from ..registry import ActivationSpec
from ..saving import saving

__all__ = ["FAMILIES", "Case", "Result", "run"]

# What values and gradients may be off by, relative to the truth and altogether: of halves a unit in the last place, as
# Triton's interpreter truncates, and what kernels of halves lose before they round.
TOLERANCES = {
    torch.float32: (4e-6, 4e-6),
    torch.bfloat16: (2.0**-7, 1e-5),
    torch.float16: (2.0**-10, 1e-5),
}
HALVES = (torch.bfloat16, torch.float16)
# Derivatives from an output: near a function's minimum it tells the input to half the digits.
FROM_OUTPUT = 2e-3
# Of sums over a channel, for each of its terms.
SUMMED = 1e-5
ROWS, COLUMNS = 53, 5


@dataclass(frozen=True)
class Case:
    """What is compared, and how."""

    family: str
    name: str
    dtype: torch.dtype
    detail: str = ""

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return ", ".join(filter(None, (self.family, self.name, dtype, self.detail)))


@dataclass
class Result:
    """What a family's cases gave: the largest error as a share of what is allowed, and the wrong ones in words."""

    family: str
    cases: int = 0
    worst: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


# A case, and what raises ValueError or returns the largest error as a share of what is allowed.
_Check = tuple[Case, Callable[[], float]]


def run(
    device: str | torch.device, full: bool = False, progress: Callable[[str], None] = lambda _: None
) -> list[Result]:
    """Compare everything on a device; with `full` every dtype and layout, not some of each.

    Where kernels serve the device they run, and whatever the tensor's size; on a CPU the lean forms do, and PyTorch's
    operators where these serve. `progress` is told each family.
    """
    device = torch.device(device)
    results = []
    for family, cases in FAMILIES.items():
        progress(family)
        result = Result(family)
        began = time.perf_counter()
        for case, check in cases(device, full):
            result.cases += 1
            try:
                with backend("eager" if compat.kernels_serve_device(device) else "triton"), warnings.catch_warnings():
                    # Triton's interpreter computes with NumPy, which warns of infinities.
                    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton.runtime.interpreter")
                    result.worst = max(result.worst, check())
            except Exception as error:  # whatever a kernel or its compiler raises is a finding
                told = str(error).strip().splitlines() or [""]
                kind = "" if isinstance(error, _WrongError) else f"{type(error).__name__}: "
                result.failures.append(f"{case}: {kind}{told[0]}")
        result.seconds = time.perf_counter() - began
        results.append(result)
    return results


# ----- comparison


class _WrongError(ValueError):
    """Values that are off by more than is allowed."""


def _compare(what: str, ours: Tensor, truth: Tensor, x: Tensor | None = None, atol: float | None = None) -> float:
    """The largest error as a share of what is allowed.

    Raises:
        _WrongError: if that is above 1, naming the worst input.
    """
    if ours.shape != truth.shape:
        raise _WrongError(f"{what} has shape {tuple(ours.shape)} in place of {tuple(truth.shape)}")
    if not ours.numel():
        return 0.0
    relative, absolute = TOLERANCES[ours.dtype]
    ours, truth = ours.detach().cpu().double(), truth.detach().cpu().double()
    share = (ours - truth).abs() / (relative * truth.abs() + (absolute if atol is None else atol))
    share = torch.where(ours.isnan() & truth.isnan(), 0.0, share).nan_to_num(math.inf)
    worst = int(share.argmax())
    if share.flatten()[worst] > 1.0:
        place = f"input {x.detach().cpu().flatten()[worst].item():g}" if x is not None else f"position {worst}"
        got, expected = ours.flatten()[worst].item(), truth.flatten()[worst].item()
        raise _WrongError(f"{what} at {place} is {got:.9g} in place of {expected:.9g}")
    return share.max().item()


def _compare_all(
    ours: Sequence[Tensor], truth: Sequence[Tensor], x: Tensor, slack: float | None = None, sums: float = 0.0
) -> float:
    """A value, the gradient of x, and those of parameters, which are sums."""
    worst = _compare("the value", ours[0], truth[0], x)
    worst = max(worst, _compare("the gradient", ours[1], truth[1], x, slack))
    for i, (a, b) in enumerate(zip(ours[2:], truth[2:], strict=True)):
        worst = max(worst, _compare(f"the gradient of parameter {i}", a, b, None, sums))
    return worst


def _derived(function: Callable[..., Tensor], g: Tensor, x: Tensor, *params: Tensor) -> list[Tensor]:
    """The value and the gradients of x and of tensors."""
    leaves = [t.detach().requires_grad_() for t in (x, *params)]
    with torch.enable_grad():
        y = function(*leaves)
        # In the layout of the value.
        return [y.detach(), *torch.autograd.grad(y, leaves, g.to(y.dtype))]


# ----- inputs


def _contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _strided(x: Tensor) -> Tensor:
    wide = x.new_full((*x.shape, 2), math.nan)
    wide[..., 0] = x
    return wide[..., 0]


def _unaligned(x: Tensor) -> Tensor:
    return torch.cat([x.new_full((1,), math.nan), x.flatten()])[1:].view(x.shape)


LAYOUTS = {"contiguous": _contiguous, "transposed": _transposed, "strided": _strided, "unaligned": _unaligned}


def _numbers(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of standard deviation 3, on the CPU."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return (3.0 * made).to(dtype)


def _combinations(index: int, full: bool) -> Iterator[tuple[torch.dtype, str]]:
    """Dtypes and layouts of the activation with this index: all, or float32 and a half, each in one layout."""
    layouts = list(LAYOUTS)
    if full:
        yield from ((dtype, layout) for dtype in TOLERANCES for layout in layouts)
        return
    yield torch.float32, layouts[index % 4]
    yield HALVES[index % 2], layouts[(index + 1) % 4]


def _defaults(spec: ActivationSpec) -> list[float]:
    return [float(p.default or 0.0) for p in spec.parameters]


# ----- the families


def _elementwise(device: torch.device, full: bool) -> Iterator[_Check]:
    """Every elementwise activation, with numbers as parameters."""
    for i, spec in enumerate(map(registry.get, registry.names("elementwise"))):
        for dtype, layout in _combinations(i, full):

            def check(spec: ActivationSpec = spec, dtype: torch.dtype = dtype, layout: str = layout) -> float:
                params = _defaults(spec)
                x, g = (_numbers(dtype, ROWS, COLUMNS, seed=seed) for seed in (1, 2))
                truth = _derived(lambda t: spec.eager(t, *params), g.double(), x.double())
                there, upstream = LAYOUTS[layout](x.to(device)), g.to(device)
                worst = 0.0
                # In halves PyTorch's own operators on a CPU may round more than once.
                if dtype not in HALVES or not compat.kernels_serve_device(device):
                    function = getattr(functional, spec.name)
                    ours = _derived(lambda t: function(t, *params), upstream, there)
                    worst = _compare_all(ours, truth, x)
                if compat.kernels_serve_device(device) and there.is_cpu:
                    call = Call(spec, PIECES_FORCED)
                    value = execution.forward(call, there, params)
                    (slope, *_) = execution.backward(call, upstream, there, params, [True] + [False] * len(params))
                    assert slope is not None
                    worst = max(worst, _compare_all([value, slope], truth, x))
                return worst

            yield Case("elementwise", spec.name, dtype, layout), check
    if full:
        for shape in ((), (0,), (1,)):
            for spec in map(registry.get, registry.names("elementwise")):

                def edge(spec: ActivationSpec = spec, shape: tuple[int, ...] = shape) -> float:
                    x, g = _numbers(torch.float32, *shape, seed=3), torch.ones(shape, device="cpu")
                    params = _defaults(spec)
                    truth = _derived(lambda t: spec.eager(t, *params), g.double(), x.double())
                    function = getattr(functional, spec.name)
                    return _compare_all(_derived(lambda t: function(t, *params), g.to(device), x.to(device)), truth, x)

                yield Case("elementwise", spec.name, torch.float32, f"shape {shape}"), edge


def _learned(device: torch.device, full: bool) -> Iterator[_Check]:
    """Parameters with an entry per channel, and their gradients."""
    for spec in map(registry.get, registry.names("elementwise")):
        if not spec.learnable:
            continue
        for channel in (1, 0) if full else (1,):

            def check(spec: ActivationSpec = spec, channel: int = channel) -> float:
                shape = (ROWS, COLUMNS) if channel else (COLUMNS, ROWS)
                x, g = (_numbers(torch.float32, *shape, seed=seed) for seed in (1, 2))
                step = torch.linspace(0.0, 0.2, COLUMNS, dtype=torch.float32, device="cpu")
                params = [p.default or 0.0 for p in spec.parameters]
                which = [i for i, p in enumerate(spec.parameters) if not p.fixed]
                learned = [params[i] + step for i in which]

                def whole(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
                    def function(t: Tensor, *tensors: Tensor) -> Tensor:
                        given: list[float | Tensor] = list(params)
                        for i, tensor in zip(which, tensors, strict=True):
                            given[i] = tensor
                        return call(t, given)

                    return function

                truth = _derived(
                    whole(lambda t, given: formula(spec, t, given, channel)),
                    *(t.double() for t in (g, x, *learned)),
                )
                public = getattr(functional, spec.name)
                ours = _derived(
                    whole(lambda t, given: public(t, *given, channel_dim=channel)),
                    *(t.to(device) for t in (g, x, *learned)),
                )
                return _compare_all(ours, truth, x, sums=SUMMED * ROWS * max(1.0, x.abs().max().item()))

            yield Case("learned parameters", spec.name, torch.float32, f"dimension {channel}"), check


def _saved(device: torch.device, full: bool) -> Iterator[_Check]:
    """What keeps its output or bits in place of the input."""
    for spec in map(registry.get, registry.names("elementwise")):
        for policy in ("output", "bits"):
            if policy not in saving.accepted(spec):
                continue

            def check(spec: ActivationSpec = spec, policy: str = policy) -> float:
                x, g = (_numbers(torch.float32, ROWS, COLUMNS, seed=seed) for seed in (1, 2))
                params = _defaults(spec)
                truth = _derived(lambda t: spec.eager(t, *params), g.double(), x.double())
                function = getattr(functional, spec.name)
                ours = _derived(lambda t: function(t, *params, save=policy), g.to(device), x.to(device))
                slack = FROM_OUTPUT * g.abs().max().item() if policy == "output" else None
                return _compare_all(ours, truth, x, slack)

            yield Case("kept for backward", spec.name, torch.float32, policy), check


def _tables(device: torch.device, full: bool) -> Iterator[_Check]:
    """Piecewise-linear functions: fixed and learned, evenly spaced or not, one table or one per channel."""
    even = torch.linspace(-4.0, 4.0, 17, device="cpu")
    uneven = torch.tensor([-5.0, -2.5, -2.3, 0.1, 0.7, 1.9, 6.0], device="cpu")
    shared = {
        "evenly spaced": (even, torch.sin(even)),
        "not evenly spaced": (uneven, torch.cos(uneven)),
        "per channel": (
            uneven + torch.linspace(0.0, 1.0, COLUMNS, device="cpu")[:, None],
            torch.sin(uneven * torch.linspace(0.5, 1.5, COLUMNS, device="cpu")[:, None]),
        ),
    }
    for detail, (points, heights) in shared.items():
        for learns in (False, True):

            def check(points: Tensor = points, heights: Tensor = heights, learns: bool = learns) -> float:
                x, g = (_numbers(torch.float32, ROWS, COLUMNS, seed=seed) for seed in (1, 2))

                def reference(t: Tensor, v: Tensor) -> Tensor:
                    b = points.double()
                    if b.dim() == 1:
                        return tables.reference(t, b, v, 0.1, 0.9)
                    return torch.stack([tables.reference(t[:, i], b[i], v[i], 0.1, 0.9) for i in range(COLUMNS)], 1)

                truth = _derived(reference, g.double(), x.double(), heights.double())
                at = points.to(device)
                if learns:
                    there = [t.to(device) for t in (g, x, heights)]
                    ours = _derived(lambda t, v: functional.pwl(t, at, v, 0.1, 0.9), *there)
                else:
                    fixed = heights.to(device)
                    ours = _derived(lambda t: functional.pwl(t, at, fixed, 0.1, 0.9), g.to(device), x.to(device))
                return _compare_all(ours, truth[: len(ours)], x, sums=SUMMED * x.numel())

            yield Case("piecewise linear", "pwl", torch.float32, detail + ", learned" * learns), check


def _rows(device: torch.device, full: bool) -> Iterator[_Check]:
    """Softmax and its kin, with a temperature that learns and a mask."""
    makers: dict[str, Callable[[Tensor, int], Tensor]] = {
        "softmax": torch.softmax,
        "log_softmax": torch.log_softmax,
        "softmin": lambda t, dim: torch.softmax(-t, dim),
    }
    keep = torch.ones(ROWS, COLUMNS, dtype=torch.bool, device="cpu").tril(2)
    for name, plain in makers.items():
        for dim in (-1, 0):
            for dtype in TOLERANCES if full else (torch.float32,):

                def check(
                    name: str = name,
                    plain: Callable[[Tensor, int], Tensor] = plain,
                    dim: int = dim,
                    dtype: torch.dtype = dtype,
                ) -> float:
                    x, g = (_numbers(dtype, ROWS, COLUMNS, seed=seed) for seed in (1, 2))
                    temperature = torch.tensor([1.7], device="cpu")
                    # Where a row is masked its softmin is, too.
                    masked = math.inf if name == "softmin" else -math.inf
                    g = g.where(keep, 0.0) if name == "log_softmax" else g

                    def reference(t: Tensor, scale: Tensor) -> Tensor:
                        return plain((t / scale).masked_fill(~keep, masked), dim)

                    truth = _derived(reference, g.double(), x.double(), temperature.double())
                    function, mask = getattr(functional, name), keep.to(device)
                    there = [t.to(device) for t in (g, x, temperature)]
                    ours = _derived(lambda t, scale: function(t, dim, temperature=scale, mask=mask), *there)
                    ours, truth = _without_masked(ours, truth)
                    coarse = TOLERANCES[dtype][0] * g.abs().max().item()
                    # What is kept is the output, which halves round.
                    return _compare_all(ours, truth, x, slack=coarse, sums=coarse * ROWS)

                yield Case("along a dimension", name, dtype, f"dimension {dim}"), check


def _without_masked(ours: list[Tensor], truth: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """With 0 for the infinite logarithms of what is masked, where both have them."""
    value, expected = ours[0].cpu(), truth[0]
    both = value.isinf() & (value == expected)
    return [value.masked_fill(both, 0.0), *ours[1:]], [expected.masked_fill(both, 0.0), *truth[1:]]


def _gated(device: torch.device, full: bool) -> Iterator[_Check]:
    """Gated activations, of two tensors and of one in every layout."""
    halves: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
        "gate_value": lambda t: t.chunk(2, -1),
        "value_gate": lambda t: t.chunk(2, -1)[::-1],
        "interleaved": lambda t: (t[..., ::2], t[..., 1::2]),
    }
    names = registry.names("elementwise") if full else ("silu", "gelu", "relu", "sigmoid", "gelu_tanh")
    for i, spec in enumerate(map(registry.get, names)):
        params = _defaults(spec)
        dtypes = list(TOLERANCES) if full else [(torch.float32, *HALVES)[i % 3]]
        if compat.kernels_serve_device(device):
            # There PyTorch's own operators may serve, which lose in halves what no kernel does.
            dtypes = [torch.float32]
        for dtype in dtypes:

            def two(spec: ActivationSpec = spec, params: list[float] = params, dtype: torch.dtype = dtype) -> float:
                x, gate, g = (_numbers(dtype, ROWS, COLUMNS, seed=seed) for seed in (1, 2, 3))
                truth = _derived(lambda t, s: t * spec.eager(s, *params), *(t.double() for t in (g, x, gate)))
                keywords: dict[str, Any] = {
                    p.name: v for p, v in zip(spec.parameters, params, strict=True) if p.required
                }
                ours = _derived(
                    lambda t, s: functional.gated(t, s, spec.name, **keywords), *(t.to(device) for t in (g, x, gate))
                )
                worst = _compare_all(ours[:2], truth[:2], x)
                return max(worst, _compare("the gradient of the gate", ours[2], truth[2], gate))

            yield Case("gated", spec.name, dtype, "two tensors"), two
    for layout, split in halves.items():

        def one(layout: str = layout, split: Callable[[Tensor], tuple[Tensor, ...]] = split) -> float:
            x, g = _numbers(torch.float32, ROWS, 2 * COLUMNS, seed=1), _numbers(torch.float32, ROWS, COLUMNS, seed=2)

            def reference(t: Tensor) -> Tensor:
                gate, value = split(t)
                return torch.nn.functional.silu(gate) * value

            truth = _derived(reference, g.double(), x.double())
            ours = _derived(lambda t: functional.packed_glu(t, "silu", layout=layout), g.to(device), x.to(device))
            worst = _compare("the value", ours[0], truth[0])
            return max(worst, _compare("the gradient", ours[1], truth[1], x))

        yield Case("gated", "silu", torch.float32, layout), one


def _random(device: torch.device, full: bool) -> Iterator[_Check]:
    """Slopes that are drawn: between their bounds, not all alike, and the same again in backward."""
    for dtype, policy in itertools.product(TOLERANCES if full else (torch.float32,), ("auto", "output", "bits")):

        def check(dtype: torch.dtype = dtype, policy: str = policy) -> float:
            x = _numbers(dtype, ROWS, 8 * COLUMNS, seed=1)
            y, dx = (
                t.cpu().double()
                for t in _derived(
                    lambda t: functional.rrelu(t, 0.125, 0.25, training=True, save=policy),
                    torch.ones_like(x).to(device),
                    x.to(device),
                )
            )
            below = x < 0
            slopes = dx[below]
            room = TOLERANCES[dtype][0]
            if slopes.min() < 0.125 * (1 - room) or slopes.max() > 0.25 * (1 + room):
                raise _WrongError(f"slopes are from {slopes.min().item():g} to {slopes.max().item():g}")
            if len(slopes.unique()) < 30 or abs(slopes.mean().item() - 0.1875) > 0.01:
                raise _WrongError("slopes are not drawn evenly")
            truth = torch.where(below, dx, 1.0) * x.double()
            return max(_compare("the value", y.to(dtype), truth, x, 1e-2 if dtype in HALVES else None), 0.0)

        yield Case("random", "rrelu", dtype, "" if policy == "auto" else policy), check


@own_activation
def _example(x: Tensor, a: float = 0.5, b: float = 1.0) -> Tensor:
    """relu(x) tanh(a x) + b sigmoid(x)."""
    return torch.relu(x) * torch.tanh(a * x) + b * torch.sigmoid(x)


def _own(device: torch.device, full: bool) -> Iterator[_Check]:
    """An activation of one's own, whose kernels the engine writes."""
    for dtype, layout in _combinations(0, full):

        def check(dtype: torch.dtype = dtype, layout: str = layout) -> float:
            x, g = (_numbers(dtype, ROWS, COLUMNS, seed=seed) for seed in (1, 2))
            params = [torch.tensor(p, device="cpu") for p in (0.5, 1.0)]
            truth = _derived(_example.__wrapped__, *(t.double() for t in (g, x, *params)))
            there = [g.to(device), LAYOUTS[layout](x.to(device)), *(p.to(device) for p in params)]
            return _compare_all(_derived(_example, *there), truth, x, sums=SUMMED * x.numel() * 3)

        yield Case("your own", "relu(x) tanh(a x) + b sigmoid(x)", dtype, layout), check


FAMILIES: dict[str, Callable[[torch.device, bool], Iterator[_Check]]] = {
    "elementwise": _elementwise,
    "learned parameters": _learned,
    "kept for backward": _saved,
    "piecewise linear": _tables,
    "along a dimension": _rows,
    "gated": _gated,
    "random": _random,
    "your own": _own,
}
