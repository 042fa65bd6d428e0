"""What is timed: the activations and their providers, the inputs, and the check that comes before any timing."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fusedact
from bench import own
from fusedact import functional as FF
from fusedact import registry
from fusedact.custom import CustomActivation

Function = Callable[..., Tensor]  # of x and the parameters that learn
Inputs = tuple[Tensor, ...]  # x, which requires grad; the gradient of the output; the parameters that learn, if any
Arguments = Mapping[str, Any]  # numbers, or tables, by name, in the order of the record

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# (relative, absolute). Wide enough for a composition that rounds after every operator; a wrong formula is far outside.
# The tests of the library hold it to much tighter bounds.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-3), torch.float16: (3e-3, 3e-4)}
# The gradient of a parameter is a sum, whose terms err independently: so often the root of the sum of their squares it
# may be off, times the relative tolerance. Not their absolute sum, which outgrows a sum of terms of either sign: from
# some thousand elements on, zeros would pass in bfloat16.
DEVIATIONS = 3.0

# Channels of a subject that has a parameter for each.
CHANNELS = 256

# Elements that are compared with float64 at a time: in the cache of a CPU; enough to occupy a GPU.
CHUNKS = {"cpu": 2**20, "cuda": 2**24}


# ----- activations


def _no_arguments(device: torch.device) -> Arguments:
    return {}


def _flat(size: int) -> tuple[int, ...]:
    return (size,)


def _channels_last(size: int) -> tuple[int, ...]:
    """Rows of CHANNELS; a smaller size is one row of as many channels."""
    channels = min(size, CHANNELS)
    return size // channels, channels


def _rows(size: int) -> tuple[int, ...]:
    """Rows of 1024; a smaller size is one row."""
    length = min(size, 1024)
    return size // length, length


def _image(size: int) -> tuple[int, ...]:
    """Images of 64 places with up to 64 channels."""
    channels = min(size, 64)
    places = min(size // channels, 64)
    return size // (channels * places), channels, places, 1


@dataclass(frozen=True)
class Subject:
    """An activation as it is called here, and what people write in PyTorch instead."""

    # Its name in the registry, and in fusedact.functional.
    activation: str
    # For a device: tables lie on it. Both fusedact and PyTorch are called with them; the names are fusedact's.
    arguments: Callable[[torch.device], Arguments] = _no_arguments
    # Where PyTorch has no operator; it must also be right in float64, where it is the truth.
    composition: Callable[..., Tensor] | None = None
    # The first of the arguments, as far as they learn: tensors of x's dtype, given behind x, whose gradients are asked
    # for too.
    learned: tuple[str, ...] = ()
    # The shape of x for a number of elements. With two dimensions, what learns has an entry for each of the second.
    shape: Callable[[int], tuple[int, ...]] = _flat
    # Arguments at whose values the slope jumps.
    kinks: tuple[str, ...] = ()
    # Where x's gradient is a difference of terms that plain operators round: about how large they are, in gradients of
    # the output.
    cancelling: float = 0.0
    # The same for the value.
    rounded: float = 0.0
    # Whether what learns is tables, in one row or one per channel, whose entries count between 0 and 1 for an element.
    tables: bool = False
    # An activation of one's own, which the registry does not know.
    own: CustomActivation | None = None
    # Kernels of other libraries: "module:attribute" by provider. Left out where the module is not installed.
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def twin(self) -> Callable[..., Tensor] | None:
        """PyTorch's own operator for it, if there is one; it takes numbers."""
        return None if self.learned or self.own else registry.get(self.activation).aten

    @property
    def plain(self) -> Callable[..., Tensor]:
        """It in plain PyTorch: its operator, else the usual composition."""
        function = self.composition or self.twin
        if function is None:
            raise ValueError(f"bench.cases: {self.activation} has no twin in PyTorch and needs a composition")
        return function

    def fixed(self, device: torch.device) -> Arguments:
        """The arguments that do not learn."""
        return {name: value for name, value in self.arguments(device).items() if name not in self.learned}

    def parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """New parameters that learn, of x's dtype. Those of channels differ, so that it shows if they are mixed up."""
        channels = x.shape[1] if x.dim() > 1 else 1
        spread = torch.linspace(0.5, 1.5, channels, device=x.device) if channels > 1 else x.new_ones(1)
        if self.tables and channels > 1:
            spread = spread.unsqueeze(1)
        values = self.arguments(x.device)
        return tuple((values[name] * spread).to(x.dtype).requires_grad_() for name in self.learned)


def _relu_sigmoid(x: Tensor, threshold: float | Tensor) -> Tensor:
    return torch.relu(x - threshold) * torch.sigmoid(x)


def _swish(x: Tensor, beta: float | Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _squareplus(x: Tensor, b: float | Tensor) -> Tensor:
    return (x + torch.sqrt(x * x + b)) / 2


def _laplace(x: Tensor, mu: float | Tensor, sigma: float | Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf((x - mu) / (sigma * 2**0.5)))


def _xielu(x: Tensor, alpha_p: float | Tensor, alpha_n: float | Tensor, beta: float, eps: float) -> Tensor:
    alphas = (torch.as_tensor(a, dtype=x.dtype, device=x.device) for a in (alpha_p, alpha_n))
    p, n = map(torch.nn.functional.softplus, alphas)
    below = (torch.expm1(x.clamp(max=eps)) - x) * (beta + n) + beta * x
    return torch.where(x > 0, p * x * x + beta * x, below)


def _pwl(x: Tensor, breakpoints: Tensor, values: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, breakpoints.dtype)
    points, heights = breakpoints.to(wide), values.to(wide)
    slopes = torch.nn.functional.pad(heights.diff() / points.diff(), (1, 1))
    points, heights = (torch.cat([table[:1], table]) for table in (points, heights))
    x_wide = x.to(wide)
    i = torch.bucketize(x_wide.detach(), points[1:], right=True)
    return (heights[i] + slopes[i] * (x_wide - points[i])).to(x.dtype)


def _pwl_learned(x: Tensor, values: Tensor, breakpoints: Tensor) -> Tensor:
    """The same with values that learn, in one row or one per channel: the second dimension of x."""
    wide = torch.promote_types(x.dtype, breakpoints.dtype)
    points, heights = breakpoints.to(wide), values.to(wide)
    slopes = torch.nn.functional.pad(heights.diff() / points.diff(), (1, 1))
    points, heights = torch.cat([points[:1], points]), torch.cat([heights[..., :1], heights], -1)
    x_wide = x.to(wide)
    i = torch.bucketize(x_wide.detach(), points[1:], right=True)
    near = points[i]
    if values.dim() > 1:
        i = i + torch.arange(len(values), device=x.device) * len(points)
    return (heights.flatten()[i] + slopes.flatten()[i] * (x_wide - near)).to(x.dtype)


def _sine(points: int, device: torch.device) -> Arguments:
    """A table of so many points, evenly spaced over nearly all inputs."""
    breakpoints = torch.linspace(-4.0, 4.0, points, device=device)
    return {"breakpoints": breakpoints, "values": breakpoints.sin()}


def _learned_table(points: int, shape: Callable[[int], tuple[int, ...]] = _flat) -> Subject:
    return Subject(
        "pwl",
        functools.partial(_sine, points),
        composition=_pwl_learned,
        learned=("values",),
        shape=shape,
        kinks=("breakpoints",),
        rounded=0.1,
        tables=True,
    )


def _defaults(name: str) -> Callable[[torch.device], Arguments]:
    """The parameters of a new module."""
    return lambda device: {p.name: p.default for p in registry.get(name).parameters}


def _number(name: str, value: float) -> Callable[[torch.device], Arguments]:
    return lambda device: {name: value}


def _along_rows(device: torch.device) -> Arguments:
    return {"dim": -1}


def _own(activation: CustomActivation, *learned: str) -> Subject:
    """An activation of one's own, with its defaults."""
    defaults = {p.name: p.default for p in activation.spec.parameters}
    plain = activation.__wrapped__
    return Subject(
        activation.__name__,
        lambda _: defaults,
        composition=plain,
        learned=learned,
        cancelling=3.0,
        rounded=3.0,
        own=activation,
    )


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
    "relu_squared": Subject("relu_squared", composition=lambda x: torch.relu(x).square()),
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
        composition=lambda x, low, high: torch.nn.functional.gelu(x).clamp(low, high),
        rounded=1.0,
        cancelling=0.5,
    ),
    "laplace": Subject("laplace", _defaults("laplace"), composition=_laplace, rounded=0.5, cancelling=1.0),
    "xielu": Subject("xielu", _defaults("xielu"), composition=_xielu, rounded=0.5, cancelling=0.5),
    "snake": Subject(
        "snake",
        _defaults("snake"),
        composition=lambda x, alpha: x + torch.sin(alpha * x).square() / alpha,
        rounded=1.0,
        cancelling=1.0,
    ),
    "squareplus": Subject("squareplus", _defaults("squareplus"), composition=_squareplus, rounded=1.0, cancelling=0.5),
    "hard_mish": Subject("hard_mish", composition=lambda x: 0.5 * x * (x + 2).clamp(0, 2), cancelling=0.5),
    "sqrtsoftplus": Subject("sqrtsoftplus", composition=lambda x: torch.nn.functional.softplus(x).sqrt()),
    "telu": Subject("telu", composition=lambda x: x * torch.tanh(torch.exp(x)), cancelling=0.5),
    "serf": Subject(
        "serf", composition=lambda x: x * torch.erf(torch.nn.functional.softplus(x)), rounded=0.1, cancelling=0.5
    ),
    "relu_sigmoid": Subject("relu_sigmoid", _threshold, composition=_relu_sigmoid, kinks=("threshold",)),
    "prelu": Subject("prelu", _weight),
    "swish": Subject("swish", _beta, composition=_swish, cancelling=0.5),
    "pwl (17 points)": Subject("pwl", functools.partial(_sine, 17), composition=_pwl, kinks=("breakpoints",)),
    "pwl (1024 points)": Subject("pwl", functools.partial(_sine, 1024), composition=_pwl, kinks=("breakpoints",)),
    **{f"pwl learned ({points} points)": _learned_table(points) for points in (17, 64)},
    "pwl learned per channel (17 points)": _learned_table(17, _channels_last),
    "relu_sigmoid (learned)": Subject("relu_sigmoid", _threshold, composition=_relu_sigmoid, learned=("threshold",)),
    "swish (learned)": Subject("swish", _beta, composition=_swish, learned=("beta",), cancelling=0.5),
    "prelu (per channel)": Subject(
        "prelu", _weight, composition=torch.nn.functional.prelu, learned=("weight",), shape=_channels_last
    ),
    **{name: Subject(name, _along_rows, shape=_rows) for name in ("softmax", "softmin")},
    # Its gradient takes a rounded logarithm to the exponential.
    "log_softmax": Subject("log_softmax", _along_rows, shape=_rows, cancelling=4.0),
    "softmax (temperature)": Subject(
        "softmax",
        lambda device: {"dim": -1, "temperature": 2.0},
        composition=lambda x, dim, temperature: torch.softmax(x / temperature, dim),
        shape=_rows,
    ),
    "softmax2d": Subject("softmax2d", composition=lambda x: torch.softmax(x, -3), shape=_image),
    # In evaluation: in training there is no value to compare.
    "rrelu": Subject("rrelu", composition=torch.nn.functional.rrelu),
    **{f"own {name}": _own(activation) for name, activation in own.ALL.items()},
    "own snake (learned)": _own(own.snake, "a"),
}


# ----- providers


def _bound(function: Callable[..., Tensor], arguments: Arguments) -> Function:
    return functools.partial(function, **arguments) if arguments else function


def _bound_in_order(function: Callable[..., Tensor], s: Subject, device: torch.device) -> Function:
    """The same for a function that may name its arguments otherwise, as F.leaky_relu does."""
    fixed = s.fixed(device)
    if not fixed or _usual(s, fixed):
        return function
    values = tuple(fixed.values())

    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors, *values)

    return call


def _usual(s: Subject, fixed: Arguments) -> bool:
    """Whether these are the defaults of both functions, which nobody writes out."""
    return s.twin is not None and registry.get(s.activation).usual == tuple(fixed.values())


def fused(subject: str, device: torch.device) -> Function:
    """The activation out of fusedact."""
    s = SUBJECTS[subject]
    fixed = s.fixed(device)
    function = s.own or getattr(FF, s.activation)
    if s.tables:
        # They do not come first.
        return lambda x, *learned: function(x, **fixed, **dict(zip(s.learned, learned, strict=True)))
    return _bound(function, {} if _usual(s, fixed) else fixed)


def eager(subject: str, device: torch.device) -> Function:
    """The activation in plain PyTorch."""
    s = SUBJECTS[subject]
    return _bound_in_order(s.plain, s, device)


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
        found[provider] = _bound_in_order(function, s, device)
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
    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors)

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


def path(subject: str, x: Tensor, *learned: Tensor) -> str:
    """The way that fusedact takes."""
    s = SUBJECTS[subject]
    parameters = s.fixed(x.device) | dict(zip(s.learned, learned, strict=True))
    return fusedact.explain(s.own or s.activation, x, **parameters).kind


def forward_backward(function: Function, x: Tensor, g: Tensor, *learned: Tensor) -> tuple[Tensor, ...]:
    """The gradients of x and of what learns, by way of the value."""
    return torch.autograd.grad(function(x, *learned), (x, *learned), g)


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


def inputs(dtype: torch.dtype, size: int, device: torch.device, count: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Pairs of normally distributed tensors, each in memory of its own."""
    generator = torch.Generator(device).manual_seed(0)
    x, g = (torch.randn(count, size, dtype=dtype, device=device, generator=generator) for _ in range(2))
    return [(x[i].detach().requires_grad_(), g[i]) for i in range(count)]


def inputs_of(subject: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Inputs]:
    """Such pairs in the subject's shape, and its parameters that learn: the same for all, as a layer's are."""
    s = SUBJECTS[subject]
    shaped = []
    for x, g in pairs:
        shape = s.shape(x.numel())
        shaped.append((x.detach().view(shape).requires_grad_(), g.view(shape)))
    learned = s.parameters(shaped[0][0])
    return [(*pair, *learned) for pair in shaped]


def kept_bytes(function: Function, x: Tensor, *learned: Tensor) -> int:
    """Bytes that stay in memory between forward and backward, beside the output and what learns.

    Each storage counts once.
    """
    # The input may be a part of a larger pool, which must not count.
    x = x.detach().clone().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: x):
        y = function(x, *learned)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    for t in (y, *learned):
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())


# ----- accuracy


@dataclass(frozen=True)
class _Wrong:
    """The element of a result that is off most, counted flat."""

    worst: int
    result: float
    truth: float

    def __str__(self) -> str:
        return f"is {self.result!r}, but float64 gives {self.truth!r}; not timed"


def _wrong(result: Tensor, truth: Tensor, scale: Tensor) -> _Wrong | None:
    """What is off by more than the tolerance, relative to `scale`; NaN always is."""
    relative, absolute = TOLERANCES[result.dtype]
    excess = (result.double() - truth).abs() / (scale * relative + absolute)
    if bool((excess <= 1.0).all()):
        return None
    worst = int(excess.nan_to_num(nan=torch.inf).argmax())
    return _Wrong(worst, result.flatten()[worst].item(), truth.flatten()[worst].item())


def _at_kink(subject: str, x: Tensor) -> Tensor:
    """Where x equals a kink rounded to its dtype: which side of it x is on depends on who rounds the argument.

    Plain operators on the CPU round it to bfloat16 first; a kernel that computes in float32 does not.
    """
    s = SUBJECTS[subject]
    arguments = s.arguments(x.device)
    values = [torch.as_tensor(arguments[name], device=x.device).reshape(-1).to(x.dtype) for name in s.kinks]
    return torch.isin(x, torch.cat(values)) if values else torch.zeros_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class _Result:
    """What a provider gives."""

    y: Tensor
    dx: Tensor
    learned: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Truth:
    """What is true of a part of x; of the parameters' gradients the sums over it, and those of their terms' squares."""

    y: Tensor
    dx: Tensor
    learned: tuple[tuple[Tensor, Tensor], ...]


def _results(
    subject: str, functions: Mapping[str, Function], given: Inputs
) -> tuple[dict[str, _Result], dict[str, str]]:
    """Values and gradients by provider; and why the others have none."""
    x, g, *learned = given
    results, reasons = {}, {}
    for name, function in functions.items():
        try:
            y = function(x, *learned)
            gradients = torch.autograd.grad(y, (x, *learned), g)
        except Exception as error:  # whatever another library or a compiler raises
            first = (str(error).strip().splitlines() or [""])[0]
            reasons[name] = f"{subject} by {name} fails: {type(error).__name__}: {first}; not timed"
            continue
        dtypes = [t.dtype for t in (y, *gradients)]
        if all(dtype == x.dtype for dtype in dtypes):
            results[name] = _Result(y.detach(), gradients[0], gradients[1:])
        else:
            reasons[name] = (
                f"{subject} by {name} gives {' and '.join(map(str, dtypes))} where x is {x.dtype}; not timed"
            )
    return results, reasons


def _truth(subject: Subject, reference: Function, x: Tensor, g: Tensor, learned: Sequence[Tensor]) -> _Truth:
    """In float64."""
    x, g, *parameters = (t.double().requires_grad_() for t in (x, g, *learned))
    y = reference(x, *parameters)
    dx, *sums = torch.autograd.grad(y, (x, *parameters), g, create_graph=bool(parameters))
    if subject.tables:
        # A term is g times what an entry counts, which is more than its square.
        squares = torch.autograd.grad(y, parameters, g.detach().square())
    else:
        # A sum is linear in g; its derivative by an element of g, times that, is the element's term.
        terms = [g.detach() * torch.autograd.grad(total.sum(), g, retain_graph=True)[0] for total in sums]
        squares = tuple(t.square().sum_to_size(p.shape) for t, p in zip(terms, parameters, strict=True))
    return _Truth(y.detach(), dx.detach(), tuple(zip((t.detach() for t in sums), squares, strict=True)))


def refused(subject: str, functions: Mapping[str, Function], given: Inputs) -> dict[str, str]:
    """The providers whose value or gradient disagrees with float64 at an element, or that fail; and why.

    Only the gradient right at a kink is left out.
    """
    s = SUBJECTS[subject]
    results, reasons = _results(subject, functions, given)
    x, g, *learned = (t.detach() for t in given)
    reference = eager(subject, x.device)
    sums, squares = ([torch.zeros_like(p, dtype=torch.float64) for p in learned] for _ in range(2))
    rows = max(1, CHUNKS[x.device.type] // (x.numel() // len(x))) if x.numel() else 1
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        truth = _truth(s, reference, x[part], g[part], learned)
        for total, square, (its_sum, its_square) in zip(sums, squares, truth.learned, strict=True):
            total += its_sum
            square += its_square
        kink = _at_kink(subject, x[part])
        scale = truth.dx.abs() + s.cancelling * g[part].double().abs()
        for name, result in results.items():
            dx = result.dx[part].where(~kink, truth.dx.to(x.dtype))
            pairs = {"value": (result.y[part], truth.y, truth.y.abs() + s.rounded), "gradient": (dx, truth.dx, scale)}
            for what, compared in pairs.items():
                wrong = _wrong(*compared)
                if wrong:
                    at = x[part].flatten()[wrong.worst].item()
                    reasons.setdefault(name, f"{subject} by {name}: the {what} at x = {at!r} ({x.dtype}) {wrong}")
    for name, result in results.items():
        for parameter, ours, total, square in zip(s.learned, result.learned, sums, squares, strict=True):
            wrong = _wrong(ours, total, total.abs() + DEVIATIONS * square.sqrt())
            if wrong:
                what = f"the gradient of {parameter}[{wrong.worst}] ({x.dtype})"
                reasons.setdefault(name, f"{subject} by {name}: {what} {wrong}")
    return reasons


def check_accuracy(subject: str, functions: Mapping[str, Function], given: Inputs) -> None:
    """Raise AssertionError unless every provider's value and gradients agree with float64."""
    reasons = refused(subject, functions, given)
    if reasons:
        raise AssertionError("\n".join(reasons.values()))
