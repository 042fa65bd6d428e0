"""The machine code of optimizers' steps: 16-byte accesses, no spills, no atomics."""

from __future__ import annotations

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code
import torch

optimizer_ledger = benches.load("optimizer_ledger")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]


@pytest.mark.parametrize(
    ("kernel", "dtype", "target", "moved"),
    [
        *(("adam", "fp32", target, 14) for target in ("sm_90", "sm_100", "gfx942")),
        *(("adam", "bf16", "sm_90", 11), ("sgd", "fp16", "sm_80", 3), ("adam, norms", "fp32", "sm_80", 14)),
    ],
)
def test_accesses_take_16_bytes(kernel, dtype, target, moved):
    made, _ = optimizer_ledger.compiled(kernel, DTYPES[dtype], target)
    assert sum(machine_code.wide_accesses(made)) >= moved
    machine_code.assert_clean(made)


def test_what_is_not_aligned_is_read_element_by_element():
    made, _ = optimizer_ledger.compiled("sgd", torch.float32, "sm_90", aligned=False, scaled=True)
    assert machine_code.wide_accesses(made) == (0, 0)
