"""The check before any timing: every provider's values and gradients against float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.cases import Inputs
from bench.catalog import SUBJECTS
from bench.providers import eager
from bench.subjects import Function, Subject

# (relative, absolute). Wide enough for a composition that rounds after every operator; a wrong formula is far outside.
# The tests of the library hold it to much tighter bounds.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-3), torch.float16: (3e-3, 3e-4)}
# The gradient of a parameter is a sum, whose terms err independently: so often the root of the sum of their squares it
# may be off, times the relative tolerance. Not their absolute sum, which outgrows a sum of terms of either sign: from
# some thousand elements on, zeros would pass in bfloat16.
DEVIATIONS = 3.0
# So many standard deviations the share of what dropout leaves may be off.
DROPOUT_DEVIATIONS = 6.0

# Elements that are compared with float64 at a time: in the cache of a CPU; enough to occupy a GPU.
CHUNKS = {"cpu": 2**18, "cuda": 2**24}
# On a CPU float64 would take longer than all timing: of more chunks than these, the first, one in the middle and the
# last are compared, and the gradient of the output is 0 elsewhere, so that sums are of these.
MOST_CHUNKS = {"cpu": 4}


@dataclass
class Findings:
    """What the check found of the providers of a subject, by name."""

    # Why they are not timed: their values or gradients disagree with float64 at an element, or they fail.
    reasons: dict[str, str] = field(default_factory=dict)
    # The largest error of a value, in units in the last place.
    errors: dict[str, float] = field(default_factory=dict)
    # Those that write over their inputs, and need some of their own.
    overwriting: set[str] = field(default_factory=set)


def unit(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at each number, down to the subnormals."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(truth.abs().clamp(info.tiny, info.max))
    return torch.ldexp(torch.full_like(truth, info.eps), exponent - 1)


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


def _at_kink(s: Subject, x: Tensor) -> Tensor:
    """Where x equals a kink rounded to its dtype: which side of it x is on depends on who rounds the argument.

    Plain operators on the CPU round it to bfloat16 first; a kernel that computes in float32 does not.
    """
    arguments = s.arguments(x.device)
    values = [torch.as_tensor(arguments[name], device=x.device).reshape(-1).to(x.dtype) for name in s.kinks]
    return torch.isin(x, torch.cat(values)) if values else torch.zeros_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class _Result:
    """What a provider gives, or what is true of it: the gradients of x and other operands, and of what learns."""

    y: Tensor
    operands: tuple[Tensor, ...]
    learned: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Truth(_Result):
    """The same of a part of x; and of what is summed for the gradients of what learns, the sums of the squares."""

    squares: tuple[Tensor, ...]


def _results(subject: str, functions: Mapping[str, Function], given: Inputs, findings: Findings) -> dict[str, _Result]:
    """Values and gradients by provider."""
    s, x = SUBJECTS[subject], given[0]
    results = {}
    for name, function in functions.items():
        # Some write over their inputs.
        own, own_g, *rest = (t.detach().clone() for t in given)
        wanted = [t.requires_grad_() for t in (own, *rest)]
        try:
            y = function(*wanted)
            gradients = torch.autograd.grad(y, wanted, own_g)
        except Exception as error:  # whatever another library or a compiler raises
            first = (str(error).strip().splitlines() or [""])[0]
            findings.reasons[name] = f"{subject} by {name} fails: {type(error).__name__}: {first}; not timed"
            continue
        if not all(torch.equal(a, b) for a, b in zip((own, own_g, *rest), given, strict=True)):
            findings.overwriting.add(name)
        dtypes = [t.dtype for t in (y, *gradients)]
        if all(dtype == x.dtype for dtype in dtypes):
            count = 1 + s.operands
            results[name] = _Result(y.detach(), gradients[:count], gradients[count:])
        else:
            kinds = " and ".join(map(str, dtypes))
            findings.reasons[name] = f"{subject} by {name} gives {kinds} where x is {x.dtype}; not timed"
    return results


def _truth(s: Subject, reference: Function, given: Inputs, kept: Tensor | None) -> _Truth:
    """In float64; with dropout, of what is kept."""
    x, g, *others = (t.detach().double().requires_grad_() for t in given)
    operands, parameters = (x, *others[: s.operands]), others[s.operands :]
    y = reference(*operands, *parameters)
    if kept is not None:
        y = y * kept / (1 - s.dropped)
    gradients = torch.autograd.grad(y, (*operands, *parameters), g, create_graph=bool(parameters))
    sums = gradients[len(operands) :]
    if s.squares is not None:
        squares = s.squares(g.detach(), x.detach(), *(p.detach() for p in parameters))
    elif s.tables:
        # A term is g times what an entry counts, which is more than its square.
        squares = torch.autograd.grad(y, parameters, g.detach().square())
    else:
        # A sum is linear in g; its derivative by an element of g, times that, is the element's term.
        terms = [g.detach() * torch.autograd.grad(total.sum(), g, retain_graph=True)[0] for total in sums]
        squares = tuple(t.square().sum_to_size(p.shape) for t, p in zip(terms, parameters, strict=True))
    detached = [t.detach() for t in gradients]
    return _Truth(y.detach(), tuple(detached[: len(operands)]), tuple(detached[len(operands) :]), squares)


def _parts(given: Inputs) -> list[slice]:
    """What is compared, of the first dimension."""
    x, device = given[0], given[0].device.type
    if not x.numel():
        return []
    rows = max(1, CHUNKS[device] // (x.numel() // len(x)))
    starts = list(range(0, len(x), rows))
    if len(starts) > MOST_CHUNKS.get(device, len(starts)):
        starts = [starts[0], starts[len(starts) // 2], starts[-1]]
    return [slice(start, start + rows) for start in starts]


def _only(g: Tensor, parts: Sequence[slice]) -> Tensor:
    """The gradient of the output, 0 where nothing is compared."""
    if sum(len(g[part]) for part in parts) == len(g):
        return g
    cut = torch.zeros_like(g)
    for part in parts:
        cut[part] = g[part]
    return cut


def _kept(s: Subject, result: _Result) -> Tensor | None:
    """With dropout, what a provider kept, as far as it is compared: where the value or the gradient is not 0."""
    return (result.y != 0) | (result.operands[0] != 0) if s.dropped else None


def _share(subject: str, name: str, kept: Tensor) -> str | None:
    """What is wrong with how much dropout kept, if something is."""
    p = SUBJECTS[subject].dropped
    share, deviation = kept.double().mean().item(), math.sqrt(p * (1 - p) / kept.numel())
    if abs(share - (1 - p)) <= DROPOUT_DEVIATIONS * deviation:
        return None
    return f"{subject} by {name}: dropout keeps {share:.4f} of the elements, not {1 - p:.4f}; not timed"


@dataclass
class _Sums:
    """What is true of the gradients of what learns, as far as it is summed; and the sums of the squares."""

    totals: list[Tensor]
    squares: list[Tensor]

    def add(self, truth: _Truth) -> None:
        """Add those of a part."""
        for total, square, its_total, its_square in zip(
            self.totals, self.squares, truth.learned, truth.squares, strict=True
        ):
            total += its_total
            square += its_square


def _compare(subject: str, name: str, result: _Result, truth: _Truth, given: Inputs, findings: Findings) -> None:
    """Values and elementwise gradients of a part."""
    s = SUBJECTS[subject]
    x, g, *_ = given
    off = (result.y.double() - truth.y).abs() / unit(truth.y, x.dtype)
    findings.errors[name] = max(findings.errors.get(name, 0.0), off.max().item() if off.numel() else 0.0)
    reaching = s.cancelling * s.reaching(g.double())
    pairs = {"value": (result.y, truth.y, truth.y.abs() + s.rounded)}
    kink = _at_kink(s, x)
    for i, (ours, true) in enumerate(zip(result.operands, truth.operands, strict=True)):
        ours = ours.where(~kink, true.to(x.dtype))
        pairs["gradient" + (f" of operand {i}" if i else "")] = ours, true, true.abs() + reaching
    for what, compared in pairs.items():
        wrong = _wrong(*compared)
        if wrong:
            # Of a packed x the first half, or the last row, is as good a place as any.
            at = x.flatten()[min(wrong.worst, x.numel() - 1)].item()
            findings.reasons.setdefault(name, f"{subject} by {name}: the {what} at x = {at!r} ({x.dtype}) {wrong}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Chunks in the cache of a CPU are worked by one thread: several wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def examine(subject: str, functions: Mapping[str, Function], given: Inputs) -> Findings:
    """Compare providers with float64. Only the gradient right at a kink is left out."""
    findings, parts = Findings(), _parts(given)
    given = (given[0], _only(given[1], parts), *given[2:])
    results = _results(subject, functions, given, findings)
    with _one_thread():
        _examine(subject, results, given, parts, findings)
    return findings


def _examine(
    subject: str, results: Mapping[str, _Result], given: Inputs, parts: Sequence[slice], findings: Findings
) -> None:
    """Compare what the providers gave."""
    s = SUBJECTS[subject]
    x, g, *others = (t.detach() for t in given)
    operands, learned = others[: s.operands], others[s.operands :]
    reference = s.undropped or eager(subject, x.device)
    sums = {
        name: _Sums(*([torch.zeros_like(p, dtype=torch.float64) for p in learned] for _ in range(2)))
        for name in results
    }
    kept = {name: _kept(s, result) for name, result in results.items()}
    for name, mask in kept.items():
        reason = None if mask is None else _share(subject, name, torch.cat([mask[part] for part in parts]))
        if reason:
            findings.reasons.setdefault(name, reason)
    for part in parts:
        here = (x[part], g[part], *(t[part] for t in operands), *learned)
        shared = None if s.dropped else _truth(s, reference, here, None)
        for name, result in results.items():
            mask = kept[name]
            truth = shared or _truth(s, reference, here, mask[part] if mask is not None else None)
            sums[name].add(truth)
            its = _Result(result.y[part], tuple(t[part] for t in result.operands), ())
            _compare(subject, name, its, truth, here, findings)
    for name, result in results.items():
        for i, ours in enumerate(result.learned):
            total, square = sums[name].totals[i], sums[name].squares[i]
            wrong = _wrong(ours, total, total.abs() + DEVIATIONS * square.sqrt())
            if wrong:
                what = f"the gradient of {s.learned[i]}[{wrong.worst}] ({x.dtype})"
                findings.reasons.setdefault(name, f"{subject} by {name}: {what} {wrong}")


def check_accuracy(subject: str, functions: Mapping[str, Function], given: Inputs) -> None:
    """Raise AssertionError unless every provider's value and gradients agree with float64."""
    reasons = examine(subject, functions, given).reasons
    if reasons:
        raise AssertionError("\n".join(reasons.values()))
