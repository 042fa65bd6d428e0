"""The machine code of the kernels of softmax and rrelu: 16-byte accesses, no spills. No device is needed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from fusedact import compat

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import benches

from fusedact.kernels import launch_rrelu, launch_softmax

aot = benches.load("aot")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DIRECTIONS = ("forward", "backward")

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
directions = pytest.mark.parametrize("direction", DIRECTIONS)


def scores(x, dim=-1, log=False, temperature=1.0, mask=None):
    return launch_softmax.Scores(dim % x.dim(), log, False, temperature, mask)


def compiled(direction, target, dtype, shape, dim=-1, learned=False, **options):
    """The kernel that the launcher uses, and what it was launched with."""
    x = torch.zeros(shape, dtype=DTYPES[dtype])
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        if direction == "forward":
            launch_softmax.forward(x, torch.empty_like(x), scores(x, dim, **options))
        else:
            given = x if learned else None
            launch_softmax.backward(x, x, given, torch.empty_like(x), scores(x, dim, **options))
        (kernel,) = aot._kernels_of(stub.device)
        (launched,) = stub.launches
    return kernel, launched


def assert_wide(kernel, direction, target, spills=0):
    """All accesses to global memory but those to single numbers take 16 bytes."""
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        moved = [i for i in counts if i.startswith(("buffer_load", "buffer_store", "global_load", "global_store"))]
        assert moved and all(i.endswith("_dwordx4") for i in moved), moved
        assert not [i for i in counts if "atomic" in i]
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    loads = [i for i in instructions if i.startswith("LDG")]
    stores = [i for i in instructions if i.startswith("STG")]
    assert loads and stores and all(".128" in i for i in [*loads, *stores])
    assert not [i for i in instructions if i.startswith(("ATOM", "RED."))]
    used = aot.resources(kernel)
    assert used["STACK"] + used["LOCAL"] <= spills


# Several rows to a program, one, one with all threads, and one that is read twice.
KERNELS = [
    *((n, "sm_90", "bf16", False) for n in (64, 1024, 16_384, 65_536)),
    *((n, "gfx942", "bf16", False) for n in (64, 65_536)),
    *((1024, "sm_80", "bf16", True), (1024, "sm_90", "fp32", True), (1024, "sm_100", "bf16", True)),
    *((16_384, "sm_90", "fp32", False), (16_384, "gfx942", "fp32", True), (65_536, "sm_80", "fp16", False)),
]


@directions
@pytest.mark.parametrize(("n", "target", "dtype", "log"), KERNELS)
def test_rows(n, target, dtype, log, direction):
    kernel, launched = compiled(direction, target, dtype, (4096, n), log=log)
    assert_wide(kernel, direction, target)
    assert ("looping" in kernel.name) == (n == 65_536)
    assert launched.grid == (4096 * n // max(n, 2048), 1, 1)


@directions
@pytest.mark.parametrize(("target", "dtype"), [("sm_90", "bf16"), ("sm_90", "fp32"), ("gfx942", "fp32")])
def test_the_longest_rows_that_are_read_once(direction, target, dtype):
    """Some registers of fp32 and of backward go to local memory."""
    kernel, _ = compiled(direction, target, dtype, (4096, 32_768))
    assert "looping" not in kernel.name
    assert_wide(kernel, direction, target, spills=0 if (direction, dtype) == ("forward", "bf16") else 128)


@directions
@pytest.mark.parametrize("mask", ["keep", "add"])
@pytest.mark.parametrize(("n", "target"), [(1024, "sm_90"), (65_536, "sm_90"), (1024, "gfx942")])
def test_masks_and_temperatures(n, mask, direction, target):
    made = torch.ones(n, dtype=torch.bool) if mask == "keep" else torch.zeros(n, dtype=torch.bfloat16)
    options = {"temperature": torch.ones(1), "mask": made.expand(4096, n)}
    kernel, _ = compiled(direction, target, "bf16", (4096, n), learned=True, **options)
    if target == "gfx942":
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    # A mask of bytes takes 8 at a time; a temperature and a sum are single numbers.
    wide = [i for i in instructions if i.startswith(("LDG", "STG")) and ".128" in i]
    narrow = [i for i in instructions if i.startswith(("LDG", "STG")) and ".128" not in i and ".64" not in i]
    assert wide and len(narrow) <= 2
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


@directions
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        *(((64, 128, 56, 56), "sm_90"), ((64, 3, 512, 512), "sm_90"), ((8, 2000, 64, 1), "sm_90")),
        ((64, 3, 512, 512), "gfx942"),
    ],
)
def test_dims_in_the_middle(shape, direction, target):
    """Rows lie side by side: no copy, and wide accesses along them."""
    kernel, _ = compiled(direction, target, "bf16", shape, 1)
    assert_wide(kernel, direction, target)


@directions
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_odd_dims_in_the_middle(direction, target):
    kernel, _ = compiled(direction, target, "fp32", (64, 1000, 7, 7), 1)
    if target == "gfx942":
        assert not any(aot.amd_metadata(kernel).values())
    else:
        used = aot.resources(kernel)
        assert used["STACK"] + used["LOCAL"] <= 64


@directions
def test_one_kernel_for_any_number_of_rows(direction):
    """A new batch size of the same length compiles nothing; a profiler sees what is launched."""
    with aot.stub_driver(aot.TARGETS["sm_90"]) as stub:
        for count in (16, 32, 48):
            x = torch.zeros(count, 1024)
            if direction == "forward":
                launch_softmax.forward(x, torch.empty_like(x), scores(x))
            else:
                launch_softmax.backward(x, x, None, torch.empty_like(x), scores(x))
        assert len(aot._kernels_of(stub.device)) == 1 and len(stub.launches) == 3


def test_offsets_beyond_32_bits():
    """The tensors exist as views of little memory; the kernels are told to count with 64 bits."""
    x = torch.zeros(1, dtype=torch.bfloat16).expand(2**18, 2**14)
    large = torch.empty_like(x, device="meta")
    sizes, strides = launch_softmax._rows((large, large), 1)
    assert launch_softmax._wide(sizes, 2**14, strides, 1, 2**14)
    assert not launch_softmax._wide([2**14], 2**14, [(1, 2**14)], 1, 2**14)
    assert launch_softmax._wide([1], 2**14, [(2**18, 0)], 1, 2**14)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("target", "dtype"),
    [("sm_80", "bf16"), ("sm_90", "fp32"), ("sm_100", "fp16"), ("gfx942", "bf16")],
)
def test_rrelu(target, dtype, backward):
    x, g = (torch.zeros(1 << 14, dtype=DTYPES[dtype]) for _ in range(2))
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch_rrelu.run(g if backward else x, x, torch.empty_like(x), torch.zeros(1, dtype=torch.int64), 0.1, 0.3)
        (kernel,) = aot._kernels_of(stub.device)
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        assert counts["buffer_load_dwordx4"] + counts["global_load_dwordx4"] >= 1
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    per_thread = 2 if backward else 1
    assert sum(i.startswith("LDG") and ".128" in i for i in instructions) == 2 * per_thread
    assert sum(i.startswith("STG") and ".128" in i for i in instructions) == 2
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_strided_rrelu(target):
    x = torch.zeros(8, 6, 7, 9).transpose(1, 2)[:, :, ::2]
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch_rrelu.run(x, x, torch.empty_like(x), torch.zeros(1, dtype=torch.int64), 0.1, 0.3)
        (kernel,) = aot._kernels_of(stub.device)
    used = aot.amd_metadata(kernel) if target == "gfx942" else aot.resources(kernel)
    assert not any(used.get(name, 0) for name in ("STACK", "LOCAL", "vgpr_spill_count"))
