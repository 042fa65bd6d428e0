"""The instructions of a compiled kernel with their branches, and the way that a whole block takes through them.

A template branches into a path for a whole block and a masked one for the last, and a division into a slow path for
subnormal numbers: all of a kernel's code is several times what a block executes. That is the shortest way from the
entry to an exit on which every thread stores its part of the block without a condition. The masked path stores under
conditions, and where they do not show, on AMD, it still is longer for its masks; slow paths are detours.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Instruction:
    """A machine instruction; of a branch, the position that it goes to."""

    name: str
    # Under a predicate; a branch or an end may then be passed by.
    conditional: bool = False
    target: int | None = None
    ends: bool = False
    # Bytes that a thread loads and stores in global memory.
    loads: int = 0
    stores: int = 0


@dataclass(frozen=True)
class Way:
    """What a whole block executes: up to where the masked path leaves, then the rest, with how often each one runs.

    Of a loop over blocks: what a program executes before and after it, then once round.
    """

    prologue: tuple[Instruction, ...]
    rest: tuple[tuple[Instruction, float], ...]


# ----- reading

_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*)")
_SASS_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_SASS_INDIRECT = {"BRX", "BRXU", "JMP", "JMX", "JMXU"}

_GCN = re.compile(r"\s+([a-z]\w*_\w+)\b\s*([^;]*)")
_GCN_ACCESS = re.compile(r"(?:buffer|global|flat)_(load|store)_(\w+?)(?:_d16)?(?:_hi)?$")
_GCN_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "short": 2}
_GCN_WIDTHS |= {"ubyte": 1, "sbyte": 1, "byte": 1}
_GCN_INDIRECT = {"s_setpc_b64", "s_swappc_b64"}

Parts = list[tuple[Instruction, str | None]]


def _resolved(parts: Parts, labels: dict[str, int]) -> list[Instruction]:
    return [i if label is None else replace(i, target=labels[label]) for i, label in parts]


def sass(text: str) -> list[Instruction]:
    """The instructions in nvdisasm's output, in which branches name a label or an address.

    Raises:
        ValueError: if a branch has no fixed destination.
    """
    parts: Parts = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"([\w.$]+):\s*$", line):
            labels[label[1]] = len(parts)
        elif found := _SASS.search(line):
            address, guard, name, operands = found.groups()
            labels[f"0x{int(address, 16):x}"] = len(parts)
            kind, *modifiers = name.split(".")
            if kind in _SASS_INDIRECT:
                raise ValueError(f"an indirect branch: {line.strip()}")
            target = re.search(r"`\(([^)]+)\)|0x[0-9a-f]+", operands) if kind == "BRA" else None
            width = next((_SASS_WIDTHS[m] for m in modifiers if m in _SASS_WIDTHS), 4)
            instruction = Instruction(
                name,
                # A branch may have its predicate among the operands.
                conditional=bool(guard) or (target is not None and target.start() > 0),
                ends=kind in ("EXIT", "RET"),
                loads=width if kind == "LDG" else 0,
                stores=width if kind == "STG" else 0,
            )
            parts.append((instruction, (target[1] or target[0]) if target else None))
    return _resolved(parts, labels)


def gcn(text: str) -> list[Instruction]:
    """The instructions in an AMD kernel's assembly.

    Raises:
        ValueError: if a branch has no fixed destination.
    """
    parts: Parts = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"(\.?\w+):", line):
            labels[label[1]] = len(parts)
        elif found := _GCN.match(line):
            name, operands = found.groups()
            if name in _GCN_INDIRECT:
                raise ValueError(f"an indirect branch: {line.strip()}")
            access = _GCN_ACCESS.match(name)
            width = _GCN_WIDTHS[access[2]] if access else 0
            instruction = Instruction(
                name,
                conditional=name.startswith("s_cbranch"),
                ends=name == "s_endpgm",
                loads=width if access and access[1] == "load" else 0,
                stores=width if access and access[1] == "store" else 0,
            )
            branches = name.startswith(("s_branch", "s_cbranch"))
            parts.append((instruction, operands.strip() if branches else None))
    return _resolved(parts, labels)


# ----- the way of a whole block


def _successors(code: Sequence[Instruction], at: int) -> list[int | None]:
    """Where an instruction may lead; None is the end."""
    i = code[at]
    taken = [None] if i.ends else [i.target] if i.target is not None else []
    return [*taken, at + 1] if i.conditional or not taken else taken


def _shortest(
    code: Sequence[Instruction],
    stored: int,
    closed: Collection[int] = (),
    guarded: bool = False,
    start: int = 0,
    end: int | None = None,
) -> list[int] | None:
    """The shortest way, as positions, to `end` or an exit with so many bytes stored; `guarded` stores too if asked."""
    came: dict[tuple[int, int], tuple[int, int] | None] = {(start, 0): None}
    queue = deque(came)
    while queue:
        state = queue.popleft()
        at, before = state
        counts = guarded or not code[at].conditional
        after = min(stored, before + (code[at].stores if counts else 0))
        successors = _successors(code, at)
        if after == stored and (at == end if end is not None else None in successors):
            way, step = [], state
            while step is not None:
                way.append(step[0])
                step = came[step]
            return way[::-1]
        for following in successors:
            if following is None or following >= len(code) or following in closed:
                continue
            if (following, after) not in came:
                came[following, after] = state
                queue.append((following, after))
    return None


def _repeats(code: Sequence[Instruction], way: Sequence[int], elements: int, trips: int | None) -> list[float]:
    """How often each step runs; loops run `trips` times and read a table once per element and trip."""
    times = [1.0] * len(way)
    for end, at in enumerate(way[:-1]):
        target = code[at].target
        if target is None or target > at or way[end + 1] == target or target not in way[:end]:
            continue
        start = way.index(target)
        reads = sum(code[p].loads > 0 for p in way[start : end + 1])
        if trips is None or not reads or reads % elements or trips % (reads // elements):
            raise ValueError(f"a loop of {end - start + 1} instructions with {reads} loads; trips: {trips}")
        times[start : end + 1] = [trips / (reads // elements)] * (end + 1 - start)
    return times


def whole_block(code: Sequence[Instruction], stored: int, elements: int, trips: int | None = None) -> Way:
    """What a thread executes that stores `stored` bytes for `elements` elements; `trips` of the source's loops.

    Raises:
        ValueError: if there is no such way, or a loop that `trips` does not explain.
    """
    way = _shortest(code, stored)
    if way is None:
        raise ValueError(f"no way through the code stores {stored} bytes a thread")
    masked = _shortest(code, stored, closed={at for at in way if code[at].stores}, guarded=True) or []
    common = 0
    while common < min(len(way), len(masked)) and way[common] == masked[common]:
        common += 1
    times = _repeats(code, way, elements, trips)
    rest = tuple((code[at], count) for at, count in zip(way[common:], times[common:], strict=True))
    return Way(tuple(code[at] for at in way[:common]), rest)


def shortest_round(code: Sequence[Instruction], stored: int) -> tuple[Instruction, ...]:
    """What a thread executes in the shortest way once round the loop that stores `stored` bytes, in one way or another.

    Raises:
        ValueError: if there is no such loop.
    """
    loops = [(i.target, at) for at, i in enumerate(code) if i.target is not None and i.target <= at]
    sizes = {loop: sum(i.stores for i in code[loop[0] : loop[1] + 1]) for loop in loops}
    start, end = max(loops, key=lambda loop: (sizes[loop], loop[0] - loop[1]), default=(0, 0))
    way = _shortest(code, stored, guarded=True, start=start, end=end)
    if way is None:
        raise ValueError(f"no loop stores {stored} bytes a thread")
    return tuple(code[at] for at in way)


def once_round(code: Sequence[Instruction], stored: int) -> Way:
    """What a thread executes once round the loop that stores a multiple of `stored` bytes: the longest, if unrolled.

    Raises:
        ValueError: if there is no such loop.
    """
    loops = [(i.target, at) for at, i in enumerate(code) if i.target is not None and i.target <= at]
    sizes = {loop: sum(i.stores for i in code[loop[0] : loop[1] + 1]) for loop in loops}
    fitting = [loop for loop in loops if sizes[loop] and sizes[loop] % stored == 0]
    if not fitting:
        raise ValueError(f"no loop stores a multiple of {stored} bytes a thread")
    start, end = max(fitting, key=lambda loop: (sizes[loop], loop[0] - loop[1]))
    body = _shortest(code, sizes[start, end], guarded=True, start=start, end=end)
    before = _shortest(code, 0, end=start)
    after = _shortest(code, 0, start=end + 1)
    if body is None or before is None or after is None:
        raise ValueError("the loop cannot be followed")
    once = tuple(code[at] for at in (*before[:-1], *after))
    return Way(once, tuple((code[at], 1.0) for at in body))
