"""What tests of compiled kernels ask of machine code: wide accesses, nothing in local memory, no atomics."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import benches
import pytest

aot = benches.load("aot")

_made: dict[str, tuple[Any, ...] | Exception] = {}


def compiled(request: pytest.FixtureRequest, make: Callable[..., tuple[Any, ...]]) -> tuple[Any, ...]:
    """What `make` compiles for the arguments that the test was given: a kernel, and what else it tells.

    That of the test function's other arguments is compiled with it, since the disassembler is slow to start.
    """
    if request.node.nodeid not in _made:
        asked = [item for item in request.session.items if item.function is request.function]
        for item in asked:
            try:
                _made[item.nodeid] = make(**item.callspec.params)
            except Exception as error:  # it fails where it is asked for
                _made[item.nodeid] = error
        aot.disassemble(made[0] for made in _made.values() if isinstance(made, tuple))
    made = _made.pop(request.node.nodeid)
    if isinstance(made, Exception):
        raise made
    return made


def wide_accesses(kernel: Any) -> tuple[int, int]:
    """How many loads and stores of 16 bytes it has."""
    if "amdgcn" in kernel.asm:
        counts = aot.amdgcn(kernel)
        return tuple(counts[f"buffer_{way}_dwordx4"] + counts[f"global_{way}_dwordx4"] for way in ("load", "store"))
    instructions = aot.sass(kernel)
    return tuple(sum(i.startswith(way) and ".128" in i for i in instructions) for way in ("LDG", "STG"))


def assert_in_registers(kernel: Any, spills: int = 0, scalar_spills: bool = False) -> None:
    """Nothing lies in local memory, but so many bytes on NVIDIA; AMD's scalars may go to vector registers if told."""
    if "amdgcn" in kernel.asm:
        used = aot.amd_metadata(kernel)
        assert used["vgpr_spill_count"] == used["private_segment_fixed_size"] == 0
        assert scalar_spills or used["sgpr_spill_count"] == 0
    else:
        used = aot.resources(kernel)
        assert used["STACK"] + used["LOCAL"] <= spills


def assert_clean(kernel: Any, spills: int = 0, scalar_spills: bool = False) -> None:
    """The same, and no instruction is atomic or goes to local memory."""
    assert_in_registers(kernel, spills, scalar_spills)
    instructions = aot.amdgcn(kernel) if "amdgcn" in kernel.asm else aot.sass(kernel)
    assert not [i for i in instructions if re.match(r"ATOM|RED\.|\w+_atomic_", i)]
    assert spills or not [i for i in instructions if i.startswith(("LDL", "STL", "scratch_"))]
