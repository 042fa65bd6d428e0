"""The machine code of gated activations: 16-byte accesses, no spills, no atomics."""

from __future__ import annotations

import functools
import json

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code
import torch
import triton

from fusedact.kernels import launch_gated

gated_ledger, ledger, aot = map(benches.load, ("gated_ledger", "ledger", "aot"))
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
directions = pytest.mark.parametrize("direction", ledger.DIRECTIONS)

# In instructions per element, those before the first one not included, of two tensors and silu.
EACH = {"forward": 14, "backward": 21}


def assert_wide(kernel, moved):
    """`moved` accesses of 16 bytes at least, no atomics, no spills."""
    assert sum(machine_code.wide_accesses(kernel)) >= moved
    machine_code.assert_clean(kernel)


@directions
@pytest.mark.parametrize(
    ("layout", "target", "dtype"),
    [
        *(("", target, "bf16") for target in ("sm_90", "sm_100", "gfx942")),
        *(("", "sm_80", "fp16"), ("", "sm_90", "fp32")),
        *(("gate_value", "sm_90", "bf16"), ("gate_value", "gfx942", "fp32"), ("gate_value", "sm_80", "bf16")),
    ],
)
def test_accesses_take_16_bytes(request, layout, target, dtype, direction):
    def make(layout, target, dtype, direction):
        return gated_ledger.compiled("silu", False, layout, direction, DTYPES[dtype], target)

    kernel, _ = machine_code.compiled(request, make)
    assert ("strided" in kernel.name) == bool(layout)
    assert_wide(kernel, 3 if direction == "forward" else 5)


@directions
@pytest.mark.parametrize("layout", ["", "interleaved"])
@pytest.mark.parametrize("limits", [(7.0, 1.0), (None, 1.0)], ids=str)
def test_limits(limits, layout, direction):
    """They are numbers that the kernel is given: another limit compiles nothing."""
    compiled = [
        gated_ledger.compiled("silu", False, layout, direction, torch.bfloat16, "sm_90", one)[0]
        for one in (limits, (limits[0] and 10.0, 0.5))
    ]
    assert_wide(compiled[0], 3 if direction == "forward" else 5)
    assert compiled[0].hash == compiled[1].hash


@directions
@pytest.mark.parametrize("target", aot.TARGETS)
def test_gates_and_values_in_turn(request, target, direction):
    def make(target, direction):
        return gated_ledger.compiled("silu", False, "interleaved", direction, torch.bfloat16, target)

    kernel, _ = machine_code.compiled(request, make)
    assert "interleaved" in kernel.name
    assert_wide(kernel, 3 if direction == "forward" else 5)


@directions
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_gates_and_values_in_turn_with_gaps(target, direction):
    """An access for each element, but to the result and its gradient."""
    out, packed = torch.zeros(64, 1024, dtype=torch.bfloat16), torch.zeros(64, 4096, dtype=torch.bfloat16)
    x, gate = packed[:, 1:2048:2], packed[:, :2048:2]
    if direction == "forward":
        kernel, _ = aot.launched(target, lambda: launch_gated.forward("silu", x, gate, out, (), None))
    else:
        results = (out, x, gate, x, gate)
        kernel, _ = aot.launched(target, lambda: launch_gated.backward("silu", *results, (), (), None))
    assert "strided" in kernel.name
    assert_wide(kernel, 1)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_sums(target):
    """Of one element, and per channel along either side of a tile."""
    kernel, _ = gated_ledger.compiled("swish", True, "", "backward", torch.bfloat16, target)
    assert_wide(kernel, 5)
    for dim in (1, 0) if target == "sm_90" else (1,):
        x = torch.zeros(64, 1024, dtype=torch.bfloat16)
        tensors = (x, x, x, torch.empty_like(x), torch.empty_like(x))
        how = ((torch.zeros(x.shape[dim]),), (True,), dim)
        kernel, _ = aot.launched(target, functools.partial(launch_gated.backward, "swish", *tensors, *how))
        assert "channel" in kernel.name
        assert_wide(kernel, 1)


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the limit is for the pinned Triton")
@directions
def test_what_each_element_takes(direction):
    kernel, grid = gated_ledger.compiled("silu", False, "", direction, torch.bfloat16, "sm_90")
    way = gated_ledger.way_of(kernel, direction, "bf16", "sm_90", grid)
    elements = gated_ledger.elements_of(kernel, "sm_90", grid)
    assert sum(times for _, times in way.rest) / elements <= EACH[direction]
