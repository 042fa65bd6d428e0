"""Which 32-bit integers of a kernel may overflow in a launch: interval arithmetic on Triton's own intermediate code.

Of each integer the lowest and the highest value are followed from what the launch was given: program ids lie within the
grid, arguments are what they are, a loop's counter stays below its end, an integer read from memory may be READ. What
changes from round to round in another way, or comes from floating-point numbers, is unknown, and says nothing.
"""

from __future__ import annotations

import re
from typing import Any

Range = tuple[int, int] | None
# More than a table has entries, or a tensor has chunks that a program works.
READ = 2**24
_VALUE = re.compile(r"%[\w.#$-]+")
_PASSED = ("arith.extsi", "arith.extui", "arith.index_cast", "tt.splat", "tt.expand_dims", "tt.broadcast")
_PASSED += ("tt.reshape", "tt.trans", "ttg.convert_layout", "tt.unsplat")


def overflows(kernel: Any, launched: Any) -> tuple[list[str], int]:
    """The lines of the kernel's code whose 32-bit result may be wrong in this launch, and the largest number it has."""
    reader = _Reader(kernel.asm["ttir"], kernel.src.fn.arg_names, launched)
    found = reader.read()
    return found, max(high for _, high in filter(None, reader.ranges.values()))


def _bits(line: str) -> int:
    """The width of the integers that a line makes; 0 for anything else."""
    kinds = re.findall(r"(?<![\w*])(?:tensor<[\dx]*?x?)?i(\d+)>?", line.rsplit(":", 1)[-1].rsplit("->", 1)[-1])
    return int(kinds[-1]) if kinds and "ptr" not in line.rsplit(":", 1)[-1].rsplit("->", 1)[-1] else 0


def _corners(a: Range, b: Range, function: Any) -> Range:
    if a is None or b is None:
        return None
    found = [function(p, q) for p in a for q in b]
    return min(found), max(found)


def _quotient(p: int, q: int) -> int:
    """Towards zero, as the instruction's."""
    return abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)


class _Reader:
    def __init__(self, code: str, names: Any, launched: Any):
        self.lines = [re.sub(r"\s*loc\(.*?\)+(?=[,)\s]|$)", "", line) for line in code.splitlines()]
        self.grid = launched.grid
        self.given = list(zip(names, launched.kernel_args, strict=True))
        self.ranges: dict[str, Range] = {}
        self.found: list[str] = []

    def read(self) -> list[str]:
        header = next(line for line in self.lines if "tt.func public" in line)
        self._arguments(header)
        for at, line in enumerate(self.lines):
            self._line(at, line.strip())
        return self.found

    def _arguments(self, header: str) -> None:
        """Integers by their arguments' names; of a tuple, Triton leaves out those that are 1."""
        passed = re.findall(r"%([\w.]+): i(32|64)", header)
        for argument, given in self.given:
            names = [f"%{name}" for name, _ in passed if re.fullmatch(rf"{argument}(_\d+)?", name)]
            values = [v for v in _flat((given,)) if type(v) is int]
            if len(values) != len(names):
                values = [v for v in values if v != 1]
            assert len(values) == len(names) or not names, (argument, given, names)
            self.ranges |= {name: (value, value) for name, value in zip(names, values, strict=False)}

    def _get(self, name: str) -> Range:
        return self.ranges.get(name)

    def _line(self, at: int, line: str) -> None:
        if line.startswith(("scf.while", "scf.for")) or "= scf.while" in line or "= scf.for" in line:
            self._loop(at, line)
            return
        made = re.match(r"(%[\w.$-]+) = \"?([\w.]+)\"?(.*)", line)
        if made is None:
            return
        name, operation, rest = made.groups()
        value = self._value(operation, rest)
        bits = _bits(line)
        if value is not None and bits == 32 and not -(2**31) <= value[0] <= value[1] < 2**31:
            if not (operation == "arith.constant" or "ui" in operation):
                self.found.append(line)
            value = None
        self.ranges[name] = value

    def _value(self, operation: str, rest: str) -> Range:
        given = [self._get(v) for v in _VALUE.findall(rest)]
        if operation == "arith.constant":
            number = re.match(r"\s*(?:dense<)?(-?\d+)>?\s*:", rest)
            return (int(number[1]),) * 2 if number else None
        if operation in ("tt.get_program_id", "tt.get_num_programs"):
            size = self.grid["xyz".index(rest.split()[0])]
            return (0, size - 1) if operation == "tt.get_program_id" else (size, size)
        if operation == "tt.make_range":
            end, start = (int(re.search(rf"{word} = (\d+)", rest)[1]) for word in ("end", "start"))
            return start, end - 1
        if operation == "tt.load":
            return (0, READ) if re.search(r"ptr<i(32|64)>", rest) else None
        if operation in (*_PASSED, "arith.trunci"):
            return given[0]
        if operation == "arith.select":
            return None if None in given[1:3] else (min(given[1][0], given[2][0]), max(given[1][1], given[2][1]))
        if len(given) != 2:
            return None
        a, b = given
        if operation == "arith.minsi":
            known = [r for r in given if r is not None]
            return (min(r[0] for r in known), min(r[1] for r in known)) if len(known) == 2 else None
        if operation == "arith.maxsi":
            return _corners(a, b, max)
        if operation == "arith.remsi" and b is not None and b[0] > 0:
            top = b[1] - 1 if a is None else min(b[1] - 1, max(a[1], 0))
            return (0 if a is not None and a[0] >= 0 else 1 - b[1]), top
        if operation == "arith.divsi" and b is not None and b[0] > 0:
            return _corners(a, b, _quotient)
        if operation == "arith.shli" and b is not None and 0 <= b[0] <= b[1] < 64:
            return _corners(a, b, lambda p, q: p << q)
        if operation == "arith.muli" and any(r is not None and r[0] == r[1] and abs(r[0]) > READ for r in given):
            # A hash's, which wraps round.
            return None
        simple = {"addi": int.__add__, "subi": int.__sub__, "muli": int.__mul__}
        function = simple.get(operation.removeprefix("arith."))
        return _corners(a, b, function) if function else None

    def _loop(self, at: int, line: str) -> None:
        """What a loop carries is unknown, save counters that grow up to an end."""
        carried = re.findall(r"(%[\w.$-]+) = (%[\w.#$-]+|\S+?)[,)]", line.split("scf.", 1)[1])
        if "scf.for" in line:
            counter, low, high = re.search(r"scf\.for (%\S+) = (%\S+) to (%\S+)", line).groups()
            begin, end = self._get(low), self._get(high)
            self.ranges[counter] = (begin[0], max(begin[0], end[1] - 1)) if begin and end else None
            return
        starts = [(name, self._get(value)) for name, value in carried]
        limits = {}
        for number, later in enumerate(self.lines[at + 1 :], at + 1):
            if "scf.condition" in later:
                break
            self._line(number, later.strip())
            if end := re.search(r"arith\.cmpi slt, (%[\w.$-]+), (%[\w.$-]+) :", later):
                limits[end[1]] = self._get(end[2])
        for name, begin in starts:
            end = limits.get(name)
            self.ranges[name] = (begin[0], max(begin[0], end[1] - 1)) if begin and end else None
        self._carry(at)

    def _carry(self, at: int) -> None:
        """The names of the body's arguments: those of the condition, which it passes in order."""
        condition = next(x for x in self.lines[at:] if "scf.condition" in x)
        passed = _VALUE.findall(condition.split(")", 1)[1].split(":")[0])
        block = next(x for x in self.lines[at:] if x.strip().startswith("^bb0"))
        for name, value in zip(re.findall(r"(%[\w.$-]+):", block), passed, strict=True):
            self.ranges[name] = self._get(value)


def _flat(values: Any) -> list[Any]:
    found = []
    for v in values:
        found += _flat(v) if isinstance(v, tuple) else [v]
    return found
