"""What is timed: the activations and their providers, the inputs, and the check that comes before any timing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedact import functional as FF
from fusedact import registry

Function = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]  # an input, which requires grad, and the gradient of the output

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Only where the defaults would make the case easier than it usually is.
PARAMETERS = {"relu_sigmoid": {"threshold": 0.1}}

# What people write where PyTorch has no operator for the activation.
COMPOSITIONS: dict[str, Callable[..., Tensor]] = {
    "relu_sigmoid": lambda x, threshold: torch.relu(x - threshold) * torch.sigmoid(x),
}

# (relative, absolute). Wide enough for a composition that rounds after every operator; a wrong formula is far outside.
# The tests of the library hold it to much tighter bounds.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-3)}

# Elements that are compared with float64 at a time.
CHUNK = 2**20


@dataclass(frozen=True)
class Case:
    """One comparison: all providers of it run on the same inputs."""

    activation: str
    dtype: str
    size: int
    direction: str


def has_twin(activation: str) -> bool:
    """Whether PyTorch has an operator of its own for the activation."""
    return registry.get(activation).aten is not None


def fused(activation: str) -> Function:
    """The activation out of fusedact."""
    function, parameters = getattr(FF, activation), PARAMETERS.get(activation)
    return functools.partial(function, **parameters) if parameters else function


def eager(activation: str) -> Function:
    """The activation in plain PyTorch: its operator, else the usual composition."""
    function = registry.get(activation).aten or COMPOSITIONS[activation]
    parameters = PARAMETERS.get(activation)
    return functools.partial(function, **parameters) if parameters else function


def providers(activation: str, with_compile: bool = False) -> dict[str, Function]:
    """The functions to compare, by name. torch.compile only where PyTorch has no operator that is fused already."""
    functions = {"eager": eager(activation), "fusedact": fused(activation)}
    if with_compile and not has_twin(activation):
        # A fresh cache for every case: else the second size would compile for sizes of any kind.
        torch.compiler.reset()
        functions["compile"] = torch.compile(eager(activation))
    return functions


def forward_backward(function: Function, x: Tensor, g: Tensor) -> Tensor:
    """The gradient of x, by way of the value."""
    return torch.autograd.grad(function(x), x, g)[0]


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


def _excess(result: Tensor, truth: Tensor) -> Tensor:
    """By how many tolerances each element is off; NaN where the result is."""
    relative, absolute = TOLERANCES[result.dtype]
    return (result.double() - truth).abs() / (truth.abs() * relative + absolute)


def _check_chunk(name: str, what: str, x: Tensor, result: Tensor, truth: Tensor) -> None:
    excess = _excess(result, truth)
    if bool((excess <= 1.0).all()):
        return
    worst = int(excess.nan_to_num(nan=torch.inf).argmax())
    raise AssertionError(
        f"{name}: the {what} at x = {x[worst].item()!r} ({x.dtype}) is {result[worst].item()!r}, "
        f"but float64 gives {truth[worst].item()!r}; not timed"
    )


def _at_kink(activation: str, x: Tensor) -> Tensor:
    """Where x equals a parameter rounded to its dtype: the side of a kink it is on depends on who rounds the parameter.

    Plain operators on the CPU round it to bfloat16 first; a kernel that computes in float32 does not.
    """
    values = torch.tensor(list(PARAMETERS.get(activation, {}).values()), dtype=x.dtype, device=x.device)
    return torch.isin(x, values)


def check_accuracy(activation: str, functions: dict[str, Function], pair: Pair) -> None:
    """Raise AssertionError unless every provider's value and gradient agree with float64, at every element.

    Only the gradient right at a kink is left out.
    """
    reference = eager(activation)
    x, g = pair
    results = {}
    for name, function in functions.items():
        y = function(x)
        results[name] = (y.detach(), torch.autograd.grad(y, x, g)[0])
        del y
    for start in range(0, x.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        x_part = x.detach()[part]
        x64 = x_part.double().requires_grad_()
        y64 = reference(x64)
        dx64 = torch.autograd.grad(y64, x64, g[part].double())[0]
        kink = _at_kink(activation, x_part)
        for name, (y, dx) in results.items():
            owner = f"{activation} by {name}"
            _check_chunk(owner, "value", x_part, y[part], y64.detach())
            _check_chunk(owner, "gradient", x_part, dx[part].where(~kink, dx64.to(dx.dtype)), dx64)


def all_cases(dtypes: Iterable[str], sizes: Iterable[int]) -> list[Case]:
    """Every activation of the catalog with every dtype, size and direction."""
    return [
        Case(activation, dtype, size, direction)
        for dtype in dtypes
        for size in sizes
        for activation in registry.names("elementwise")
        for direction in DIRECTIONS
    ]
