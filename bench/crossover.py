"""From which size on fusedact is faster than PyTorch: by activation, dtype and direction, from the rows of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from bench.figures import Comparison, Result, comparisons, elements
from bench.markdown import table

FILE = "crossover.json"
# The paths on which PyTorch's own operators run: its twin, or the plain formula.
PYTORCH = ("aten", "formula")
RULE = (
    "wins_from: the smallest of the timed sizes from which on fusedact takes less time than eager PyTorch at every "
    "one; null if it takes more at the largest. below: the next smaller timed size. what_below: why it is not won; "
    "eager is faster, or PyTorch's own operators run, which is neither won nor lost. estimate: the size between both "
    "at which the logarithm of the ratio, on a straight line over that of the size, passes 0."
)


@dataclass(frozen=True)
class Crossover:
    """Where a case begins to gain."""

    activation: str
    dtype: str
    direction: str
    # "device", "host" or "call"; see figures.Comparison.
    clock: str
    wins_from: int | None
    below: int | None = None
    what_below: str = ""
    estimate: int | None = None

    @property
    def text(self) -> str:
        """As the table says it."""
        if self.wins_from is None:
            return "none"
        if self.below is None:
            return "all"
        if self.estimate is None:
            return f"{elements(self.wins_from)}, PyTorch's below"
        return f"{elements(self.wins_from)} (2^{math.log2(self.estimate):.1f})"


def _between(below: Comparison, above: Comparison, clock: str) -> int:
    """The size at which the ratio passes 1."""
    low, high = (math.log(c.ratio(clock=clock)) for c in (below, above))
    part = -low / (high - low)
    return round(below.size * (above.size / below.size) ** part)


def crossover(cases: Sequence[Comparison], clock: str) -> Crossover | None:
    """Of one activation, dtype and direction, from small to large; None if PyTorch's operators always run."""
    first, own = cases[0], [c for c in cases if c.path not in PYTORCH]
    if not own:
        return None
    key = (first.activation, first.dtype, first.direction, clock)
    begin = len(own)
    while begin and own[begin - 1].ratio(clock=clock) > 1:
        begin -= 1
    if begin == len(own):
        return Crossover(*key, wins_from=None)
    won = own[begin]
    if begin:
        lost = own[begin - 1]
        return Crossover(*key, won.size, lost.size, "eager is faster", _between(lost, won, clock))
    smaller = [c.size for c in cases if c.size < won.size]
    return Crossover(*key, won.size, *((smaller[-1], "PyTorch's own operators run") if smaller else ()))


def crossovers(result: Result) -> Iterator[Crossover]:
    """Of all cases in which something else than PyTorch's operators runs."""

    def key(c: Comparison) -> tuple[str, str, str]:
        return c.activation, c.dtype, c.direction

    cases = comparisons(result.records)
    order = {k: i for i, k in enumerate(dict.fromkeys(map(key, cases)))}
    for _, group in groupby(sorted(cases, key=lambda c: (order[key(c)], c.size)), key):
        some = list(group)
        for clock in result.clocks:
            found = crossover(some, clock)
            if found is not None:
                yield found


def text(result: Result) -> str:
    """What the file in a run's folder says."""
    environment = {name: result.environment[name] for name in ("device", "torch", "fusedact_backend", "date")}
    rows = [json.dumps(asdict(c)) for c in crossovers(result)]
    head = json.dumps({"environment": environment, "rule": RULE, "rows": []}, indent=1)
    return head.replace('"rows": []', '"rows": [\n' + ",\n".join(rows) + "\n ]" if rows else '"rows": []') + "\n"


def crossover_table(result: Result) -> str:
    """A line for each activation and clock."""
    found = {(c.activation, c.clock, c.dtype, c.direction): c for c in crossovers(result)}
    if not found:
        return "In no case anything else than PyTorch's own operators runs."
    columns = list(dict.fromkeys((c.dtype, c.direction) for c in found.values()))
    clocks = len(result.clocks) > 1
    header = ["activation", *(["time"] if clocks else []), *(f"{dtype} {direction}" for dtype, direction in columns)]
    lines = []
    for activation, clock in dict.fromkeys(key[:2] for key in found):
        cells = [found.get((activation, clock, *column)) for column in columns]
        lines.append([f"`{activation}`", *([clock] if clocks else []), *(c.text if c else "" for c in cells)])
    return table(header, lines, text_columns=1 + clocks)
