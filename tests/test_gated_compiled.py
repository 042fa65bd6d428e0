"""The machine code of gated activations: 16-byte accesses, no spills, no atomics; kept instructions within limits."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from fusedact import compat

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import benches
import torch
import triton

from fusedact.kernels import launch_gated

gated_ledger, ledger, rows_ledger, aot = map(benches.load, ("gated_ledger", "ledger", "rows_ledger", "aot"))
KEPT = rows_ledger.load(benches.ROOT / gated_ledger.FIGURES)
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
directions = pytest.mark.parametrize("direction", ledger.DIRECTIONS)

# In bf16 on sm_90, in instructions per element, those before the first one included; what leaves the memory the bound
# is 37.3 forward and 62.2 backward, and twice that in fp32.
LIMITS = {
    ("silu, two tensors", "forward"): 15,
    ("silu, two tensors", "backward"): 25,
    ("silu, gate_value", "forward"): 19,
    ("silu, gate_value", "backward"): 33,
    ("silu, interleaved", "forward"): 19,
    ("silu, interleaved", "backward"): 26,
    ("relu, two tensors", "forward"): 8,
    ("relu, two tensors", "backward"): 14,
    ("silu, two tensors, limit", "forward"): 19,
    ("silu, two tensors, limit", "backward"): 34,
    ("swish, interleaved, limit and offset", "forward"): 33,
    ("swish, interleaved, limit and offset", "backward"): 46,
}
# And without them, of two tensors and silu.
EACH = {"forward": 14, "backward": 21}
BOUND = {("forward", "bf16"): 37.3, ("backward", "bf16"): 62.2, ("forward", "fp32"): 74.7, ("backward", "fp32"): 124.5}


def assert_wide(kernel, target, moved):
    """`moved` accesses of 16 bytes at least, no atomics, no spills."""
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        wide = sum(n for i, n in counts.items() if re.match(r"(buffer|global)_(load|store)_dwordx4", i))
        assert wide >= moved and not [i for i in counts if "atomic" in i]
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    assert len([i for i in instructions if i.startswith(("LDG", "STG")) and ".128" in i]) >= moved
    assert not [i for i in instructions if i.startswith(("ATOM", "RED."))]
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


@directions
@pytest.mark.parametrize(
    ("layout", "target", "dtype"),
    [
        *(("", target, "bf16") for target in ("sm_90", "sm_100", "gfx942")),
        *(("", "sm_80", "fp16"), ("", "sm_90", "fp32")),
        *(("gate_value", "sm_90", "bf16"), ("gate_value", "gfx942", "fp32"), ("gate_value", "sm_80", "bf16")),
    ],
)
def test_accesses_take_16_bytes(layout, target, dtype, direction):
    kernel, _ = gated_ledger.compiled("silu", False, layout, direction, DTYPES[dtype], target)
    assert ("strided" in kernel.name) == bool(layout)
    assert_wide(kernel, target, 3 if direction == "forward" else 5)


@directions
@pytest.mark.parametrize("layout", ["", "interleaved"])
@pytest.mark.parametrize("limits", [(7.0, 1.0), (None, 1.0)], ids=str)
def test_limits(limits, layout, direction):
    """They are numbers that the kernel is given: another limit compiles nothing."""
    compiled = [
        gated_ledger.compiled("silu", False, layout, direction, torch.bfloat16, "sm_90", one)[0]
        for one in (limits, (limits[0] and 10.0, 0.5))
    ]
    assert_wide(compiled[0], "sm_90", 3 if direction == "forward" else 5)
    assert compiled[0].hash == compiled[1].hash


@directions
@pytest.mark.parametrize("target", aot.TARGETS)
def test_gates_and_values_in_turn(target, direction):
    kernel, _ = gated_ledger.compiled("silu", False, "interleaved", direction, torch.bfloat16, target)
    assert "interleaved" in kernel.name
    assert_wide(kernel, target, 3 if direction == "forward" else 5)


@directions
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_gates_and_values_in_turn_with_gaps(target, direction):
    """An access for each element, but to the result and its gradient."""
    out, packed = torch.zeros(64, 1024, dtype=torch.bfloat16), torch.zeros(64, 4096, dtype=torch.bfloat16)
    x, gate = packed[:, 1:2048:2], packed[:, :2048:2]
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        if direction == "forward":
            launch_gated.forward("silu", x, gate, out, (), None)
        else:
            launch_gated.backward("silu", out, x, gate, x, gate, (), (), None)
        (kernel,) = aot._kernels_of(stub.device)
    assert "strided" in kernel.name
    assert_wide(kernel, target, 1)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_sums(target):
    """Of one element, and per channel along either side of a tile."""
    kernel, _ = gated_ledger.compiled("swish", True, "", "backward", torch.bfloat16, target)
    assert_wide(kernel, target, 5)
    for dim in (1, 0) if target == "sm_90" else (1,):
        x = torch.zeros(64, 1024, dtype=torch.bfloat16)
        beta = torch.zeros(x.shape[dim])
        with aot.stub_driver(aot.TARGETS[target]) as stub:
            launch_gated.backward("swish", x, x, x, torch.empty_like(x), torch.empty_like(x), (beta,), (True,), dim)
            (kernel,) = aot._kernels_of(stub.device)
        assert "channel" in kernel.name
        assert_wide(kernel, target, 1)


def test_every_kernel_is_kept():
    assert [(r.kernel, r.direction, r.dtype, r.target) for r in KEPT] == list(gated_ledger.cases())


def test_what_is_kept_is_within_limits():
    for r in KEPT:
        assert r.spills == 0
        if r.target != "sm_90":
            continue
        assert r.instructions <= BOUND[r.direction, r.dtype], r
        limit = LIMITS.get((r.kernel, r.direction))
        assert limit is None or r.dtype != "bf16" or r.instructions <= limit, r


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the limit is for the pinned Triton")
@directions
def test_what_each_element_takes(direction):
    kernel, grid = gated_ledger.compiled("silu", False, "", direction, torch.bfloat16, "sm_90")
    way = gated_ledger.way_of(kernel, direction, "bf16", "sm_90", grid)
    elements = gated_ledger.elements_of(kernel, "sm_90", grid)
    assert sum(times for _, times in way.rest) / elements <= EACH[direction]


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@directions
@pytest.mark.parametrize("kernel", ["silu, two tensors", "silu, gate_value"])
def test_no_figure_is_worse(kernel, direction):
    assert list(rows_ledger.problems([gated_ledger.row(kernel, direction, "bf16", "sm_90")], KEPT)) == []
