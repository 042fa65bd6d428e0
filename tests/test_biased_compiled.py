"""The machine code of biased activations: 16-byte accesses, no spills, no atomics."""

from __future__ import annotations

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code
import torch

biased_ledger, ledger, aot = map(benches.load, ("biased_ledger", "ledger", "aot"))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
directions = pytest.mark.parametrize("direction", ledger.DIRECTIONS)


@directions
@pytest.mark.parametrize(
    ("target", "dtype", "dropout", "dim"),
    [
        *((target, "bf16", True, 1) for target in aot.TARGETS),
        *(("sm_90", "fp32", False, 1), ("sm_80", "fp16", False, 0), ("sm_100", "fp32", True, None)),
        *(("gfx942", "fp32", False, 1), ("sm_90", "bf16", True, 0), ("gfx942", "bf16", True, None)),
    ],
)
def test_accesses_take_16_bytes(request, target, dtype, dropout, dim, direction):
    def make(target, dtype, dropout, dim, direction):
        return biased_ledger.compiled("silu", dropout, False, dim, direction, DTYPES[dtype], target)

    kernel, _ = machine_code.compiled(request, make)
    name = "channel" if direction == "backward" else "strided"
    assert (name in kernel.name) == (dim is not None)
    # Of both inputs, or of the one, and of the result.
    assert sum(machine_code.wide_accesses(kernel)) >= (3 if direction == "backward" else 2)
    machine_code.assert_clean(kernel)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_residual(target):
    kernel, _ = biased_ledger.compiled("silu", True, True, 1, "forward", torch.bfloat16, target)
    assert sum(machine_code.wide_accesses(kernel)) >= 3
    machine_code.assert_clean(kernel)


@directions
def test_numbers_one_by_one(direction):
    """Where rows are no multiple of four: more of them, and nothing spilled."""
    kernel, _ = biased_ledger.compiled("silu", True, False, 1, direction, torch.bfloat16, "sm_90", columns=1001)
    machine_code.assert_clean(kernel)
    other, _ = biased_ledger.compiled("silu", True, False, 1, direction, torch.bfloat16, "sm_90", columns=1024)
    assert len(aot.sass(kernel)) > len(aot.sass(other))
