"""The truth, the yardstick, and the whole tolerance policy: every accuracy test compares through `assert_accurate`.

The truth is float64. The yardstick is what PyTorch computes in the same dtype, as a user would write it: our error may
be twice its, plus half a unit in the last place. For halves this holds at each input. For float32, whose inputs are a
sample, the yardstick's error at an input is the worst, in units in the last place, among the WINDOW inputs nearest to
it: what a computation loses at a single input is luck. Without `x` it is the error at the input itself. Parameters are
rounded to float32 first wherever tensors are narrower than float64, as PyTorch and the kernels do.

An activation of one's own (gallery.py) has the truth of its formula, or of a better one that says the same, and of its
autograd, in float64; its yardstick is the formula and its autograd as the user wrote it. What such a formula overflows
on the way, the library may overflow too: see `formula` in `assert_accurate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import twins
from gallery import CHOSEN, GALLERY
from torch import Tensor
from torch.nn import functional as F
from truths import TRUTHS

from fusedact import functional, modules, registry
from fusedact.registry import ActivationSpec

WINDOW = 65
FEW = 16

# Those with a root of their slope, near which the inputs of a sample are far apart, may look at the floats around: all
# but these.
STRICT = ("relu_sigmoid", "elu", "selu", "prelu", "swish")

# Whose slope has roots all over: no input has neighbours near enough that the yardstick could tell of luck.
WAVES = ("snake",)

# The catalog's truth, by name: see truths.Truth.
FUNCTIONS = {name: truth.value for name, truth in TRUTHS.items()}
SLOPES = {name: truth.slope for name, truth in TRUTHS.items()}
# Of the parameters that have gradients.
PARAMETER_SLOPES = {name: truth.parameters for name, truth in TRUTHS.items()}
COMPOSITIONS = {name: truth.composition for name, truth in TRUTHS.items()}
PLAIN: dict[str, Callable[..., Tensor]] = {name: truth.plain or truth.composition for name, truth in TRUTHS.items()}
PARAMETERS = {name: list(truth.sweep) for name, truth in TRUTHS.items()}

# Every (name, parameters) of the catalog, of the gallery, and of those chosen out of the gallery; and ids for them.
CASES = [(name, params) for name, sweep in PARAMETERS.items() for params in sweep]
OWN_CASES = [(name, params) for name, own in GALLERY.items() for params in own.sweep]
CHOSEN_CASES = [(name, params) for name, params in OWN_CASES if name in CHOSEN]


def ids(cases: Sequence[tuple[str, tuple[float, ...]]]) -> list[str]:
    """How tests call these cases."""
    return [f"{name}{list(params) if params else ''}" for name, params in cases]


IDS, OWN_IDS, CHOSEN_IDS = map(ids, (CASES, OWN_CASES, CHOSEN_CASES))

NAMES = registry.names("elementwise")
OWN_NAMES = tuple(GALLERY)

# The cases of the catalog, and those of the gallery once on the path of small tensors, which is the formula's, and once
# on that of large ones, which the engine wrote.
BACKENDS = ("auto", "eager")
OWN_WAYS = [(*case, backend) for case in OWN_CASES for backend in BACKENDS]
OWN_WAY_IDS = [f"{i}-{'formula' if b == 'auto' else 'pieces'}" for i in OWN_IDS for b in BACKENDS]
WAYS, WAY_IDS = [(*case, "auto") for case in CASES] + OWN_WAYS, IDS + OWN_WAY_IDS
# The same with what gradient comes in: ones for the formula, which is hardly the library's own, and random numbers.
GRADIENTS = [(*case, "auto", kind) for case in CASES for kind in ("ones", "random")]
GRADIENTS += [(*way, "ones" if way[2] == "auto" else "random") for way in OWN_WAYS]
GRADIENT_IDS = [f"{i}-{kind}" for i in IDS for kind in ("ones", "random")] + OWN_WAY_IDS
# The names of the catalog and of those chosen, on both paths.
NAME_WAYS = [(name, "auto") for name in NAMES] + [(name, backend) for name in CHOSEN for backend in BACKENDS]
NAME_WAY_IDS = [*NAMES, *(f"{name}-{'formula' if b == 'auto' else 'pieces'}" for name in CHOSEN for b in BACKENDS)]


def spec(name: str) -> ActivationSpec:
    """The record, traced if it is one's own."""
    return GALLERY[name].activation.spec if name in GALLERY else registry.get(name)


def sweep(name: str) -> Sequence[tuple[float, ...]]:
    """The parameters that an activation is tested with."""
    return GALLERY[name].sweep if name in GALLERY else PARAMETERS[name]


def defaults(name: str) -> tuple[float, ...]:
    """The parameters of a new module."""
    return tuple(p.default for p in spec(name).parameters)


def given(
    name: str, params: Sequence[float], dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (), **options: Any
) -> list[float | Tensor]:
    """The parameters as tensors, where they may be."""
    specs = spec(name).parameters
    return [p if s.fixed else torch.full(shape, p, dtype=dtype, **options) for s, p in zip(specs, params, strict=True)]


def kinks(name: str, params: Sequence[float]) -> tuple[float, ...]:
    """Where the derivative jumps."""
    if name in GALLERY:
        return GALLERY[name].kinks(*params)
    return TRUTHS[name].kinks(*params)


def function(name: str) -> Callable[..., Tensor]:
    """The library's function, called with its module's values where it has no default for a parameter."""
    if name in GALLERY:
        return GALLERY[name].activation
    call = getattr(functional, name)
    spec = registry.get(name)
    if not any(p.required for p in spec.parameters):
        return call

    def filled(x: Tensor, *params: float | Tensor, **keywords: object) -> Tensor:
        return call(x, *params, *(p.default for p in spec.parameters[len(params) :]), **keywords)

    return filled


def required(name: str) -> dict[str, float]:
    """What a module has no default for."""
    return {p.name: p.default for p in spec(name).parameters if p.required_by_module}


def module(name: str, **arguments: object) -> torch.nn.Module:
    """A module."""
    if name in GALLERY:
        return GALLERY[name].activation.module(**arguments)
    return modules.create(name, **required(name), **arguments)


def rounded(params: Sequence[float], dtype: torch.dtype) -> tuple[float, ...]:
    """Parameters as a computation in `dtype` sees them."""
    return tuple(params) if dtype == torch.float64 else tuple(float(np.float32(p)) for p in params)


def _numbers(params: Sequence[float | Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Parameters as a formula of one's own takes them: as tensors, which in PyTorch count as numbers."""
    return [p if isinstance(p, Tensor) else torch.tensor(p, dtype=dtype) for p in params]


def _plain(name: str) -> Callable[..., Tensor]:
    """A formula of one's own, for parameters that may be missing, numbers or tensors."""
    own = GALLERY[name]

    def formula(x: Tensor, *params: float | Tensor) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return own.formula(x, *_numbers([*params, *own.sweep[0][len(params) :]], dtype))

    return formula


PLAIN.update({name: _plain(name) for name in GALLERY})


def _true(name: str, x: Tensor, params: Sequence[float]) -> tuple[Callable[..., Tensor], Tensor, list[Tensor]]:
    """What computes the truth of one's own, and what of: all in float64."""
    values = _numbers(rounded(params, x.dtype), torch.float64)
    return GALLERY[name].exact or GALLERY[name].formula, x.detach().double(), values


def value(name: str, x: Tensor, params: Sequence[float]) -> Tensor:
    """The value in float64."""
    if name in GALLERY:
        function, wide, values = _true(name, x, params)
        return function(wide, *values)
    return FUNCTIONS[name](x.double(), *rounded(params, x.dtype))


def gradient(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> Tensor:
    """The gradient of x in float64: g times the slope, but 0 on the dead side of a ReLU, whatever g.

    A g that is not finite meets the slope as float32 has it, which may be 0.
    """
    if name in GALLERY:
        function, wide, values = _true(name, x, params)
        return torch.autograd.grad(function(wide.requires_grad_(), *values), wide, g.double())[0]
    values = rounded(params, x.dtype)
    wide, slope = x.double(), SLOPES[name](x.double(), *values)
    dx = g.double() * torch.where(g.isfinite() | (x.dtype == torch.float64), slope, slope.float().double())
    return torch.where(TRUTHS[name].dead(wide, *values), 0.0, dx)


def parameter_terms(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> list[Tensor]:
    """The terms of the parameters' gradients in float64, one for each element of x."""
    if name in GALLERY:
        function, wide, values = _true(name, x, params)
        each = [v.expand(x.shape).clone().requires_grad_() for v in values]
        return list(torch.autograd.grad(function(wide, *each), each, g.double())) if each else []
    values = rounded(params, x.dtype)
    return [g.double() * slope(x.double(), *values) for slope in PARAMETER_SLOPES[name]]


def parameter_gradient(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> list[Tensor]:
    """The gradients of the parameters in float64, sums over all elements."""
    return [terms.sum() for terms in parameter_terms(name, g, x, params)]


def parameter_scale(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> list[Tensor]:
    """Sums of the absolute terms, which bound what a summation in any order can lose."""
    return [terms.abs().sum() for terms in parameter_terms(name, g, x, params)]


# ----- yardstick, in the dtype of x


def yardstick(name: str, x: Tensor, params: Sequence[float]) -> Tensor:
    """What PyTorch computes in x's dtype."""
    return PLAIN[name](x, *params) if name in GALLERY else COMPOSITIONS[name](x, *params)


def yardstick_gradient(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> Tensor:
    """What autograd computes in x's dtype."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(yardstick(name, x, params), x, g)[0]


def formula(name: str, x: Tensor, params: Sequence[float]) -> Tensor | None:
    """What a formula of one's own, or a wave's, gives in float32: what `assert_accurate` takes as `formula`."""
    return yardstick(name, x.float(), params) if name in GALLERY or name in WAVES else None


def formula_gradient(name: str, g: Tensor, x: Tensor, params: Sequence[float]) -> Tensor | None:
    """The same for the gradient of x."""
    return yardstick_gradient(name, g.float(), x.float(), params) if name in GALLERY or name in WAVES else None


# ----- comparison


def ulp(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at each value, down to the subnormals."""
    info = torch.finfo(dtype)
    bits = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}[dtype]
    magnitude = truth.double().abs().clamp(min=info.tiny, max=info.max)
    exponent = torch.floor(torch.log2(magnitude))
    # log2 may round up to the next power of two.
    exponent = torch.where(torch.exp2(exponent) > magnitude, exponent - 1, exponent)
    return torch.exp2(exponent - bits)


def _local_error(error: Tensor, x: Tensor) -> Tensor:
    """The largest error among the WINDOW nearest inputs."""
    if error.numel() == 0:
        return error
    order = x.argsort()
    worst = F.max_pool1d(error[order][None, None], WINDOW, stride=1, padding=WINDOW // 2)[0, 0]
    return torch.empty_like(error).scatter_(0, order, worst)


def assert_accurate(
    ours: Tensor,
    truth: Tensor,
    yard: Tensor,
    *,
    x: Tensor | None = None,
    truncating: bool = False,
    formula: Tensor | None = None,
    nearby: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    approximate: float = 0.0,
    limits: Tensor | None = None,
) -> None:
    """Raise unless everywhere |ours - truth| <= 2 |yard - truth| + ulp / 2, naming the worst input.

    Infinities must agree. Where the truth is finite, an infinity counts as the number after the dtype's largest, and
    a truth beyond that as this number. NaN must stand exactly where the truth has it; at a NaN of x what PyTorch has is
    right too: its ELU's gradient there is NaN on the CPU where vector instructions compute it, and 1 in what remains of
    a tensor. Where the yardstick is not finite and the truth is, the bound is 2.5 units. `truncating` allows one unit
    more, for Triton's interpreter, which truncates float32 to bfloat16. `limits` are where PyTorch's NaN or infinity
    may stand for what is neither.

    `formula` is what a formula of one's own gives in float32, in which kernels compute. For halves it is a yardstick
    too, with the worst error among the WINDOW inputs nearest. Where it is NaN or infinite and the truth is neither, or
    another infinity, ours may be the same; where both it and the truth are NaN, and x is not, ours may be anything.
    `nearby` gives truth and formula, in float32, at the WINDOW floats around each of some inputs, by position: an input
    at which ours misses the bound may be one of a few at a root, where the other inputs are too far to tell of luck. It
    is asked about no more than FEW. `approximate` is a relative error that everything may have in addition, of the
    largest truth among the WINDOW inputs nearest: what terms have that cancel.
    """
    if ours.shape != truth.shape or ours.dtype != yard.dtype:
        raise AssertionError(f"got {ours.dtype} {tuple(ours.shape)}, expected {yard.dtype} {tuple(truth.shape)}")
    # A wrong call of this function, which broadcasting would hide.
    if truth.dtype != torch.float64 or yard.shape != truth.shape or (x is not None and x.shape != truth.shape):
        raise AssertionError("expected the truth in float64, and the yardstick and x in its shape")
    if formula is not None and (x is None or formula.shape != truth.shape or formula.dtype != torch.float32):
        raise AssertionError("expected the formula in float32 and the truth's shape, and x with it")
    ours64, truth64, yard64 = (t.detach().double().flatten() for t in (ours, truth, yard))
    x64 = None if x is None else x.detach().double().flatten()
    unit = ulp(truth64, ours.dtype)
    error = (yard64 - truth64).abs() / unit
    error = torch.where(error.isfinite(), error, truth64.isfinite().double())
    if ours.dtype == torch.float32 and x64 is not None:
        error = _local_error(error, x64)
    if approximate > 0:
        largest_near = _local_error(truth64.abs().where(truth64.isfinite(), 0.0), x64)
        error = error + approximate * largest_near / unit / 2
    if formula is not None and ours.dtype in (torch.float16, torch.bfloat16):
        inside = (formula.detach().double().flatten() - truth64).abs() / unit
        error = torch.maximum(error, _local_error(inside.where(inside.isfinite(), 0.0), x64))
    bound = 2 * error + (1.5 if truncating else 0.5)
    largest = torch.finfo(ours.dtype).max
    after = largest + ulp(torch.tensor(largest, dtype=torch.float64), ours.dtype).item()
    overflown = ours64.isinf() & truth64.isfinite()
    reached = torch.where(overflown, ours64.sign() * after, ours64)
    units = (reached - torch.where(overflown, truth64.clamp(-after, after), truth64)).abs() / unit
    wrong = units > bound
    wrong = torch.where(reached.isinf() | truth64.isinf(), ours64 != truth64, wrong)
    wrong = torch.where(truth64.isnan() | ours64.isnan(), truth64.isnan() != ours64.isnan(), wrong)
    if x64 is not None:
        wrong &= ~(x64.isnan() & ((ours64.isnan() & yard64.isnan()) | (ours64 == yard64)))
        if formula is not None:
            lost = formula.detach().double().flatten()
            same = (lost.isnan() & ours64.isnan()) | (lost.isinf() & (ours64 == lost))
            wrong &= ~(same & ~truth64.isnan() & ~x64.isnan())
            wrong &= ~(lost.isnan() & truth64.isnan() & ~x64.isnan())
    if limits is not None:
        wrong &= ~(limits.flatten() & ~yard64.isfinite() & ((ours64.isnan() & yard64.isnan()) | (ours64 == yard64)))
    at = wrong.nonzero().flatten()
    if nearby is not None and 0 < at.numel() <= FEW:
        around, found = nearby(at)
        around, found = around.double(), found.detach().double()
        errors = ((found - around).abs() / ulp(around, ours.dtype)).nan_to_num(0.0, 0.0)
        bound[at] = torch.maximum(bound[at], 2 * errors.amax(1) + 0.5)
        wrong[at] &= ~(units[at] <= bound[at])
    if not wrong.any():
        return
    excess = torch.where(wrong, units.nan_to_num(torch.inf, torch.inf), -1.0)
    i = int(excess.argmax())
    at = f"input {x64[i].item()!r}" if x64 is not None else f"position {i}"
    raise AssertionError(
        f"{int(wrong.sum())} of {wrong.numel()} wrong; the worst at {at}: got {ours64[i].item()!r}, "
        f"truth {truth64[i].item()!r}, {excess[i].item():.3g} units off where {bound[i].item():.3g} are allowed "
        f"({ours.dtype})"
    )


def assert_value(
    ours: Tensor, name: str, x: Tensor, params: Sequence[float], backend: str = "auto", kernel: bool = False
) -> None:
    """Raise unless an activation's value is accurate; with `kernel`, of one's own as accurate as KERNELS_LOSE."""
    kept = _kept(name, x, params, backend) if not kernel else _finite(formula(name, x, params), x)
    ours, x = ours[kept], x[kept]

    def nearby(at: Tensor) -> tuple[Tensor, Tensor]:
        near = _around(x[at])
        return value(name, near, params), yardstick(name, near, params)

    truth, yard = value(name, x, params), yardstick(name, x, params)
    found, near, lost = formula(name, x, params), nearby if name not in STRICT else None, _lost(name, x, kernel)
    limits = None if kernel else twins.missed(name, "value", x)
    assert_accurate(ours, truth, yard, x=x, formula=found, nearby=near, approximate=lost, limits=limits)


def assert_gradient(
    ours: Tensor,
    name: str,
    g: Tensor,
    x: Tensor,
    params: Sequence[float],
    backend: str = "auto",
    kernel: bool = False,
) -> None:
    """Raise unless its gradient of x is."""
    kept = _kept(name, x, params, backend) if not kernel else _finite(formula_gradient(name, g, x, params), x)
    ours, g, x = ours[kept], g[kept], x[kept]

    def nearby(at: Tensor) -> tuple[Tensor, Tensor]:
        near, same = _around(x[at]), g[at, None].float().expand(-1, WINDOW)
        return gradient(name, same, near, params), yardstick_gradient(name, same, near, params)

    truth, yard = gradient(name, g, x, params), yardstick_gradient(name, g, x, params)
    found = formula_gradient(name, g, x, params)
    near, lost = nearby if name not in STRICT else None, _lost(name, x, kernel)
    limits = torch.zeros_like(x, dtype=torch.bool) if kernel else twins.missed(name, "gradient", x)
    # An infinite g may leave inf - inf where PyTorch composes the slope of terms.
    limits = limits | g.isinf() if spec(name).aten is None else limits
    assert_accurate(ours, truth, yard, x=x, formula=found, nearby=near, approximate=lost, limits=limits)


# Device functions are good to 2^-16 of a half's value, and to half a unit more of float32 than PyTorch's.
KERNELS_LOSE = {torch.float16: 2.0**-16, torch.bfloat16: 2.0**-16, torch.float32: 2.0**-24}


def _lost(name: str, x: Tensor, kernel: bool) -> float:
    """What a kernel that the engine wrote, and a wave, may be off by where terms cancel; others may not."""
    return KERNELS_LOSE.get(x.dtype, 0.0) if name in WAVES or (kernel and spec(name).build is not None) else 0.0


def _finite(found: Tensor | None, x: Tensor) -> Tensor | slice:
    """Where a formula of one's own does not overflow by itself, as float32 has it."""
    return slice(None) if found is None else found.isfinite() | ~x.isfinite()


def _kept(name: str, x: Tensor, params: Sequence[float], backend: str) -> Tensor | slice:
    """Where the path of large tensors on the CPU can be accurate; every place on other paths."""
    return GALLERY[name].kept(x.float(), *params) | x.isnan() if name in GALLERY and backend == "eager" else slice(None)


def _around(x: Tensor) -> Tensor:
    """The WINDOW floats of 32 bits around each of x, in rows; what is beyond infinity is NaN."""
    steps = torch.arange(WINDOW, dtype=torch.int32) - WINDOW // 2
    return (x.float().view(torch.int32)[:, None] + steps).view(torch.float32)


# ----- inputs that bite


def halves(dtype: torch.dtype) -> Tensor:
    """All 65,536 bit patterns of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def near(*points: float, dtype: torch.dtype) -> Tensor:
    """Each point, and its neighbours on both sides."""
    at = torch.tensor(points, dtype=dtype)
    infinity = torch.tensor(torch.inf, dtype=dtype)
    return torch.cat([torch.nextafter(at, -infinity), at, torch.nextafter(at, infinity)])


def floats32(seed: int = 0) -> Tensor:
    """Every exponent of float32 with random mantissas and both signs, subnormals, zeros, extremes, infinities, NaN."""
    rng = np.random.default_rng(seed)
    exponents = np.repeat(np.arange(0, 255, dtype=np.uint32), 64)
    mantissas = rng.integers(0, 2**23, exponents.size, dtype=np.uint32)
    signs = rng.integers(0, 2, exponents.size, dtype=np.uint32)
    numbers = torch.from_numpy(((signs << 31) | (exponents << 23) | mantissas).view(np.float32).copy())
    # Densely where the functions bend.
    dense = torch.from_numpy(rng.normal(scale=4.0, size=2**14).astype(np.float32))
    special = [0.0, -0.0, 1e-45, -1e-45, torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]
    return torch.cat([numbers, dense, torch.tensor([*special, torch.inf, -torch.inf, torch.nan])])
