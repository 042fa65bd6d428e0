"""The subjects of the benchmarks: every activation, what learns, and the fused forms."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import compositions, liger, own
from bench.forms import FORMS
from bench.subjects import CHANNELS, Arguments, Subject, each, flat, image, of_own, rows_of, whole_rows
from fusedact import functional as FF
from fusedact import registry


def _sine(points: int, device: torch.device) -> Arguments:
    """A table of so many points, evenly spaced over nearly all inputs."""
    breakpoints = torch.linspace(-4.0, 4.0, points, device=device)
    return {"breakpoints": breakpoints, "values": breakpoints.sin()}


def _learned_table(points: int, shape: Callable[[int], tuple[int, ...]] = flat) -> Subject:
    return Subject(
        "pwl",
        functools.partial(_sine, points),
        composition=compositions.pwl_learned,
        learned=("values",),
        shape=shape,
        kinks=("breakpoints",),
        rounded=0.1,
        tables=True,
        # There the gradient of the composition sorts all places, which takes seconds.
        largest={"cuda": 2**24},
    )


def _defaults(name: str) -> Callable[[torch.device], Arguments]:
    """The parameters of a new module."""
    return lambda device: {p.name: p.default for p in registry.get(name).parameters}


def _number(name: str, value: float) -> Callable[[torch.device], Arguments]:
    return lambda device: {name: value}


def _padding(x: Tensor) -> Tensor:
    """A mask that leaves out the last quarter of the columns."""
    return _columns(x.shape[-1], x.device)


@functools.cache
def _columns(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) < count - count // 4


def _along_rows(device: torch.device) -> Arguments:
    return {"dim": -1}


_threshold, _weight, _beta = _number("threshold", 0.1), _number("weight", 0.25), _number("beta", 1.5)

# By the name that the tables show. Every activation with numeric parameters is here, with its defaults; behind stands
# what needs more: a composition, a table, a default that would make the case easier than it usually is, a parameter
# that learns.
SUBJECTS: dict[str, Subject] = {
    spec.name: Subject(spec.name, _defaults(spec.name), composition=None if spec.aten else spec.eager)
    for spec in map(registry.get, registry.names("elementwise"))
} | {
    # Gates: their gradients have a root.
    **{name: Subject(name, cancelling=0.5) for name in ("gelu_tanh", "silu", "mish", "hardswish")},
    # PyTorch's erf loses the left tail.
    "gelu": Subject("gelu", cancelling=0.5, rounded=1.0),
    # PyTorch makes their gradients of a rounded value.
    "sigmoid": Subject("sigmoid", cancelling=1.0),
    "softsign": Subject("softsign", cancelling=1.0),
    "tanh": Subject("tanh", cancelling=1.0),
    "tanhshrink": Subject("tanhshrink", cancelling=1.0),
    "relu_squared": Subject("relu_squared", composition=lambda x: torch.relu(x).square(), others=liger.RELU_SQUARED),
    "star_relu": Subject(
        "star_relu",
        _defaults("star_relu"),
        composition=lambda x, scale, bias: scale * torch.relu(x).square() + bias,
        rounded=0.5,
    ),
    "quick_gelu": Subject("quick_gelu", composition=lambda x: x * torch.sigmoid(1.702 * x), cancelling=0.5),
    "clipped_gelu": Subject(
        "clipped_gelu",
        _defaults("clipped_gelu"),
        composition=lambda x, low, high: F.gelu(x).clamp(low, high),
        rounded=1.0,
        cancelling=0.5,
    ),
    "laplace": Subject("laplace", _defaults("laplace"), composition=compositions.laplace, rounded=0.5, cancelling=1.0),
    "xielu": Subject("xielu", _defaults("xielu"), composition=compositions.xielu, rounded=0.5, cancelling=0.5),
    "snake": Subject(
        "snake",
        _defaults("snake"),
        composition=lambda x, alpha: x + torch.sin(alpha * x).square() / alpha,
        rounded=1.0,
        cancelling=1.0,
    ),
    "squareplus": Subject(
        "squareplus", _defaults("squareplus"), composition=compositions.squareplus, rounded=1.0, cancelling=0.5
    ),
    "hard_mish": Subject("hard_mish", composition=lambda x: 0.5 * x * (x + 2).clamp(0, 2), cancelling=0.5),
    "sqrtsoftplus": Subject("sqrtsoftplus", composition=lambda x: F.softplus(x).sqrt()),
    "telu": Subject("telu", composition=lambda x: x * torch.tanh(torch.exp(x)), cancelling=0.5),
    "serf": Subject("serf", composition=lambda x: x * torch.erf(F.softplus(x)), rounded=0.1, cancelling=0.5),
    "relu_sigmoid": Subject("relu_sigmoid", _threshold, composition=compositions.relu_sigmoid, kinks=("threshold",)),
    "prelu": Subject("prelu", _weight),
    "swish": Subject("swish", _beta, composition=compositions.swish, cancelling=0.5),
    "pwl (17 points)": Subject(
        "pwl", functools.partial(_sine, 17), composition=compositions.pwl, kinks=("breakpoints",)
    ),
    "pwl (1024 points)": Subject(
        "pwl", functools.partial(_sine, 1024), composition=compositions.pwl, kinks=("breakpoints",)
    ),
    **{f"pwl learned ({points} points)": _learned_table(points) for points in (17, 64)},
    "pwl learned per channel (17 points)": _learned_table(17, rows_of(CHANNELS)),
    "relu_sigmoid (learned)": Subject(
        "relu_sigmoid", _threshold, composition=compositions.relu_sigmoid, learned=("threshold",)
    ),
    "swish (learned)": Subject("swish", _beta, composition=compositions.swish, learned=("beta",), cancelling=0.5),
    "prelu (per channel)": Subject("prelu", _weight, composition=F.prelu, learned=("weight",), shape=rows_of(CHANNELS)),
    "softmax": Subject("softmax", _along_rows, shape=rows_of(1024), others=liger.SOFTMAX),
    "softmin": Subject("softmin", _along_rows, shape=rows_of(1024)),
    # Its gradient takes a rounded logarithm to the exponential, and multiplies the sum of a row's gradients by it.
    "log_softmax": Subject(
        "log_softmax",
        _along_rows,
        shape=rows_of(1024),
        cancelling=4.0,
        reaching=lambda g: each(g) + whole_rows(g) / 4,
    ),
    "softmax (temperature)": Subject(
        "softmax",
        lambda device: {"dim": -1, "temperature": 2.0},
        composition=lambda x, dim, temperature: torch.softmax(x / temperature, dim),
        shape=rows_of(1024),
    ),
    "softmax (masked)": Subject(
        "softmax",
        lambda device: {"dim": -1, "temperature": 2.0},
        composition=lambda x, dim, temperature: compositions.masked(x, dim, temperature, _padding(x)),
        function=lambda x, dim, temperature: FF.softmax(x, dim, temperature=temperature, mask=_padding(x)),
        shape=rows_of(1024),
    ),
    "softmax2d": Subject("softmax2d", composition=lambda x: torch.softmax(x, -3), shape=image),
    # In evaluation.
    "rrelu": Subject("rrelu", composition=F.rrelu),
    # Bounds that are just far enough apart for PyTorch to draw, and too near for values to differ.
    "rrelu (training)": Subject(
        "rrelu", lambda device: {"lower": 16.0, "upper": 16.000002, "training": True}, composition=compositions.rrelu
    ),
    **{f"own {name}": of_own(activation) for name, activation in own.ALL.items()},
    "own snake (learned)": of_own(own.snake, "a"),
    **FORMS,
}
