"""What a run times, in which order, and about how long that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from bench.cases import DIRECTIONS, DTYPES, Case
from bench.catalog import SUBJECTS
from bench.providers import COMPILE, FAST_MATH, MAX_AUTOTUNE

# What people look for first.
MAIN = (
    *("relu_sigmoid", "gelu", "silu", "gelu_tanh", "mish", "elu", "softplus", "swish (learned)", "prelu (per channel)"),
    *("pwl (17 points)", "pwl learned (17 points)", "softmax", "gated silu", "packed silu", "bias gelu", "linear gelu"),
    "own relu_tanh",
)
# For which every way of torch.compile is timed.
TUNED = ("relu_sigmoid", "gelu", "mish", "swish (learned)", "gated silu", "bias gelu")

ALL_WAYS = (COMPILE, MAX_AUTOTUNE, FAST_MATH)


@dataclass(frozen=True)
class Tier:
    """Every one of these sizes, dtypes and subjects; all subjects by default. Sizes are powers of two."""

    exponents: tuple[int, ...]
    dtypes: tuple[str, ...] = tuple(DTYPES)
    subjects: tuple[str, ...] = tuple(SUBJECTS)
    # Ways of torch.compile.
    ways: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """The tiers of a run, the most telling first, for a limit cuts off the rest."""

    tiers: tuple[Tier, ...]
    # For a case, if it allows enough rounds.
    seconds: float
    # For the whole run, after which no case is begun.
    limit: float
    # Where kernels are counted, which takes a while.
    counted: tuple[int, ...] = ()


SUITES = {
    "cpu": {
        # 2^24 elements are beyond the caches; those of 2^26 would take as long as all other sizes together.
        "full": Suite((Tier((20, 24, 16), ways=(COMPILE,)), Tier((10, 18, 22, 14, 12, 6))), seconds=0.15, limit=540),
        "quick": Suite((Tier((20, 16), ("float32", "bfloat16"), MAIN, ways=(COMPILE,)),), seconds=0.1, limit=50),
    },
    "cuda": {
        "full": Suite(
            (
                Tier((24,), ("bfloat16",), TUNED, ALL_WAYS),
                Tier((24,), ("bfloat16", "float32"), MAIN, (COMPILE,)),
                Tier((24,), ("bfloat16", "float32")),
                Tier((28, 20, 16, 12), ("bfloat16",), MAIN),
                Tier((28,), ("float32",), MAIN),
                Tier((16,), ("bfloat16", "float32")),
                Tier((24,), ("float16",)),
                Tier((10, 26, 22, 14, 18), ("bfloat16",), MAIN),
            ),
            seconds=0.12,
            limit=480,
            counted=(24,),
        ),
        "quick": Suite(
            (Tier((24,), ("bfloat16",), TUNED[:4], (COMPILE,)), Tier((24, 16), ("bfloat16",), MAIN)),
            seconds=0.12,
            limit=50,
            counted=(24,),
        ),
        # All of it, in as many runs of the same command as it takes; continues a full one.
        "all": Suite(
            (
                Tier((24,), ("bfloat16",), TUNED, ALL_WAYS),
                Tier((24,), ways=(COMPILE,)),
                Tier((28, 20, 16, 26, 22, 12, 18, 14, 10)),
            ),
            seconds=0.12,
            limit=480,
            counted=(24,),
        ),
    },
}


@dataclass(frozen=True)
class Costs:
    """What a run takes beside the seconds of each case: assumed, and held against what a run took."""

    start: float
    # The check of a group, the rest of a case, and these for an element and case.
    check: float
    case: float
    element: float
    # A way of torch.compile, forward and with backward.
    way: float


COSTS = {
    "cpu": Costs(start=5, check=0.25, case=0.05, element=1e-7, way=8.0),
    "cuda": Costs(start=20, check=0.15, case=0.1, element=1e-9, way=3.0),
}


@dataclass(frozen=True)
class Group:
    """Cases that share inputs and providers."""

    subject: str
    dtype: str
    size: int
    cases: tuple[Case, ...]
    ways: tuple[str, ...] = ()


def groups(tiers: Sequence[Tier], device: torch.device) -> Iterator[Group]:
    """What tiers hold, each once: the first tier that names it decides on the ways of torch.compile."""
    seen: set[tuple[str, str, int]] = set()
    for tier in tiers:
        for exponent in tier.exponents:
            for dtype in tier.dtypes:
                for subject in tier.subjects:
                    size = 2**exponent
                    key = (subject, dtype, size)
                    if key in seen or size > SUBJECTS[subject].largest.get(device.type, size):
                        continue
                    seen.add(key)
                    cases = tuple(Case(*key, direction) for direction in DIRECTIONS)
                    yield Group(*key, cases, tier.ways)


def rehearsed(group: Group) -> Group:
    """The same with the square root of its size."""
    size = 2 ** ((group.size.bit_length() - 1) // 2)
    return replace(group, size=size, cases=tuple(replace(case, size=size) for case in group.cases))


def chosen(tiers: Sequence[Tier], dtypes: Sequence[str] | None, subjects: Sequence[str] | None) -> list[Tier]:
    """The part of tiers that was asked for."""

    def both(held: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
        return tuple(held) if wanted is None else tuple(one for one in held if one in wanted)

    return [Tier(t.exponents, both(t.dtypes, dtypes), both(t.subjects, subjects), t.ways) for t in tiers]


def planned_seconds(wanted: Sequence[Group], seconds: float, device_type: str) -> float:
    """About how long a run takes."""
    costs = COSTS[device_type]
    total = costs.start
    for group in wanted:
        each = max(seconds, costs.element * group.size) + costs.case
        total += costs.check + len(group.cases) * each + len(group.ways) * costs.way
    return total
