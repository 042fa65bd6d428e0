"""What is timed: the activations and their providers, the inputs, and the check that comes before any timing."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fusedact
from fusedact import functional as FF
from fusedact import registry

Function = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]  # an input, which requires grad, and the gradient of the output
Arguments = Mapping[str, Any]  # numbers, or tables, by name

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# (relative, absolute). Wide enough for a composition that rounds after every operator; a wrong formula is far outside.
# The tests of the library hold it to much tighter bounds.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-3), torch.float16: (3e-3, 3e-4)}

# Elements that are compared with float64 at a time: in the cache of a CPU; enough to occupy a GPU.
CHUNKS = {"cpu": 2**20, "cuda": 2**24}


# ----- activations


def _no_arguments(device: torch.device) -> Arguments:
    return {}


@dataclass(frozen=True)
class Subject:
    """An activation as it is called here, and what people write in PyTorch instead."""

    # Its name in the registry, and in fusedact.functional.
    activation: str
    # For a device: tables lie on it. Both fusedact and PyTorch are called with them, by name.
    arguments: Callable[[torch.device], Arguments] = _no_arguments
    # Where PyTorch has no operator; it must also be right in float64, where it is the truth.
    composition: Callable[..., Tensor] | None = None
    # Arguments at whose values the slope jumps.
    kinks: tuple[str, ...] = ()
    # Kernels of other libraries: "module:attribute" by provider. Left out where the module is not installed.
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def twin(self) -> Callable[..., Tensor] | None:
        """PyTorch's own operator for it, if there is one."""
        return registry.get(self.activation).aten

    @property
    def plain(self) -> Callable[..., Tensor]:
        """It in plain PyTorch: its operator, else the usual composition."""
        function = self.twin or self.composition
        if function is None:
            raise ValueError(f"bench.cases: {self.activation} has no twin in PyTorch and needs a composition")
        return function


def _relu_sigmoid(x: Tensor, threshold: float) -> Tensor:
    return torch.relu(x - threshold) * torch.sigmoid(x)


def _pwl(x: Tensor, breakpoints: Tensor, values: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, breakpoints.dtype)
    points, heights = breakpoints.to(wide), values.to(wide)
    slopes = torch.nn.functional.pad(heights.diff() / points.diff(), (1, 1))
    points, heights = (torch.cat([table[:1], table]) for table in (points, heights))
    x_wide = x.to(wide)
    i = torch.bucketize(x_wide.detach(), points[1:], right=True)
    return (heights[i] + slopes[i] * (x_wide - points[i])).to(x.dtype)


def _sine(points: int, device: torch.device) -> Arguments:
    """A table of so many points, evenly spaced over nearly all inputs."""
    breakpoints = torch.linspace(-4.0, 4.0, points, device=device)
    return {"breakpoints": breakpoints, "values": breakpoints.sin()}


# By the name that the tables show. Every activation with numeric parameters is here, with its defaults; below it stands
# what needs more: a composition, a table, a default that would make the case easier than it usually is.
SUBJECTS: dict[str, Subject] = {name: Subject(name) for name in registry.names("elementwise")} | {
    "relu_sigmoid": Subject(
        "relu_sigmoid", lambda device: {"threshold": 0.1}, composition=_relu_sigmoid, kinks=("threshold",)
    ),
    "pwl (17 points)": Subject("pwl", functools.partial(_sine, 17), composition=_pwl, kinks=("breakpoints",)),
    "pwl (1024 points)": Subject("pwl", functools.partial(_sine, 1024), composition=_pwl, kinks=("breakpoints",)),
}


# ----- providers


def _bound(function: Callable[..., Tensor], arguments: Arguments) -> Function:
    return functools.partial(function, **arguments) if arguments else function


def fused(subject: str, device: torch.device) -> Function:
    """The activation out of fusedact."""
    s = SUBJECTS[subject]
    return _bound(getattr(FF, s.activation), s.arguments(device))


def eager(subject: str, device: torch.device) -> Function:
    """The activation in plain PyTorch."""
    s = SUBJECTS[subject]
    return _bound(s.plain, s.arguments(device))


def others(subject: str, device: torch.device) -> dict[str, Function]:
    """The activation out of other libraries, as far as they are installed and have it; called as PyTorch's is."""
    s = SUBJECTS[subject]
    found: dict[str, Function] = {}
    for provider, where in s.others.items():
        module, attribute = where.split(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
        found[provider] = _bound(function, s.arguments(device))
    return found


COMPILE, MAX_AUTOTUNE, FAST_MATH = "compile", "compile max-autotune", "compile fast-math"


def compilers(device: torch.device) -> dict[str, dict[str, Any]]:
    """Ways of torch.compile, with its arguments. Without CUDA graphs: the runner makes its own, for every provider."""
    ways: dict[str, dict[str, Any]] = {COMPILE: {}}
    if device.type == "cuda":
        ways[MAX_AUTOTUNE] = {"mode": "max-autotune-no-cudagraphs"}
        # Inductor's approximations of exp and the like in Triton; off by default, and not in every version.
        if "use_fast_math" in torch._inductor.list_options():
            ways[FAST_MATH] = {"options": {"use_fast_math": True}}
    return ways


def _compiled(function: Function, **options: Any) -> Function:
    def call(x: Tensor) -> Tensor:
        return function(x)

    return torch.compile(call, dynamic=False, **options)


def providers(subject: str, device: torch.device, compiled: Iterable[str] = ()) -> dict[str, Function]:
    """The functions to compare, by name; `compiled` names ways of torch.compile."""
    plain, compiled = eager(subject, device), set(compiled)
    functions = {"eager": plain}
    if compiled:
        # Each case compiles for its own shape, from an empty cache.
        torch.compiler.reset()
        functions |= {way: _compiled(plain, **options) for way, options in compilers(device).items() if way in compiled}
    return functions | others(subject, device) | {"fusedact": fused(subject, device)}


def path(subject: str, x: Tensor) -> str:
    """The way that fusedact takes."""
    s = SUBJECTS[subject]
    return fusedact.explain(s.activation, x, **s.arguments(x.device)).kind


def forward_backward(function: Function, x: Tensor, g: Tensor) -> Tensor:
    """The gradient of x, by way of the value."""
    return torch.autograd.grad(function(x), x, g)[0]


# ----- inputs


@dataclass(frozen=True)
class Case:
    """One comparison: all providers of it run on the same inputs."""

    activation: str
    dtype: str
    size: int
    direction: str


def all_cases(dtypes: Iterable[str], sizes: Iterable[int], subjects: Iterable[str] | None = None) -> list[Case]:
    """Every activation with every size, dtype and direction, by size, dtype and activation."""
    dtypes, subjects = tuple(dtypes), tuple(SUBJECTS if subjects is None else subjects)
    return [
        Case(subject, dtype, size, direction)
        for size in sizes
        for dtype in dtypes
        for subject in subjects
        for direction in DIRECTIONS
    ]


def inputs(dtype: torch.dtype, size: int, device: torch.device, count: int = 1) -> list[Pair]:
    """Pairs of normally distributed tensors, each in memory of its own."""
    generator = torch.Generator(device).manual_seed(0)
    x, g = (torch.randn(count, size, dtype=dtype, device=device, generator=generator) for _ in range(2))
    return [(x[i].detach().requires_grad_(), g[i]) for i in range(count)]


def kept_bytes(function: Function, x: Tensor) -> int:
    """Bytes that stay in memory between forward and backward, beside the output; each storage counts once."""
    # The input may be a part of a larger pool, which must not count.
    x = x.detach().clone().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: x):
        y = function(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    storages.pop(y.untyped_storage().data_ptr(), None)
    return sum(storages.values())


# ----- accuracy


def _excess(result: Tensor, truth: Tensor) -> Tensor:
    """By how many tolerances each element is off; NaN where the result is."""
    relative, absolute = TOLERANCES[result.dtype]
    return (result.double() - truth).abs() / (truth.abs() * relative + absolute)


def _wrong(name: str, what: str, x: Tensor, result: Tensor, truth: Tensor) -> str:
    """What is wrong with a result; empty if nothing is."""
    excess = _excess(result, truth)
    if bool((excess <= 1.0).all()):
        return ""
    worst = int(excess.nan_to_num(nan=torch.inf).argmax())
    return (
        f"{name}: the {what} at x = {x[worst].item()!r} ({x.dtype}) is {result[worst].item()!r}, "
        f"but float64 gives {truth[worst].item()!r}; not timed"
    )


def _at_kink(subject: str, x: Tensor) -> Tensor:
    """Where x equals a kink rounded to its dtype: which side of it x is on depends on who rounds the argument.

    Plain operators on the CPU round it to bfloat16 first; a kernel that computes in float32 does not.
    """
    s = SUBJECTS[subject]
    arguments = s.arguments(x.device)
    values = [torch.as_tensor(arguments[name], device=x.device).reshape(-1).to(x.dtype) for name in s.kinks]
    return torch.isin(x, torch.cat(values)) if values else torch.zeros_like(x, dtype=torch.bool)


def _results(
    subject: str, functions: Mapping[str, Function], x: Tensor, g: Tensor
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    """Values and gradients by provider; and why the others have none."""
    results, reasons = {}, {}
    for name, function in functions.items():
        try:
            y = function(x)
            dx = torch.autograd.grad(y, x, g)[0]
        except Exception as error:  # whatever another library or a compiler raises
            first = (str(error).strip().splitlines() or [""])[0]
            reasons[name] = f"{subject} by {name} fails: {type(error).__name__}: {first}; not timed"
            continue
        if y.dtype == dx.dtype == x.dtype:
            results[name] = (y.detach(), dx)
        else:
            reasons[name] = f"{subject} by {name} gives {y.dtype} and {dx.dtype} where x is {x.dtype}; not timed"
    return results, reasons


def refused(subject: str, functions: Mapping[str, Function], pair: Pair) -> dict[str, str]:
    """The providers whose value or gradient disagrees with float64 at an element, or that fail; and why.

    Only the gradient right at a kink is left out.
    """
    x, g = pair
    results, reasons = _results(subject, functions, x, g)
    x, reference = x.detach(), eager(subject, x.device)
    chunk = CHUNKS[x.device.type]
    for start in range(0, x.numel(), chunk):
        part = slice(start, start + chunk)
        x64 = x[part].double().requires_grad_()
        y64 = reference(x64)
        dx64 = torch.autograd.grad(y64, x64, g[part].double())[0]
        kink = _at_kink(subject, x[part])
        for name, (y, dx) in results.items():
            owner = f"{subject} by {name}"
            wrong = _wrong(owner, "value", x[part], y[part], y64.detach())
            wrong = wrong or _wrong(owner, "gradient", x[part], dx[part].where(~kink, dx64.to(dx.dtype)), dx64)
            if wrong:
                reasons.setdefault(name, wrong)
    return reasons


def check_accuracy(subject: str, functions: Mapping[str, Function], pair: Pair) -> None:
    """Raise AssertionError unless every provider's value and gradient agree with float64."""
    reasons = refused(subject, functions, pair)
    if reasons:
        raise AssertionError("\n".join(reasons.values()))
