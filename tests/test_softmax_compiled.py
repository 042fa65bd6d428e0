"""The machine code of the kernels of softmax and rrelu: 16-byte accesses, no spills. No device is needed."""

from __future__ import annotations

import re

import compiling
import pytest
import torch

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code

from fusedact.kernels import launch_rrelu, launch_softmax

aot = benches.load("aot")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DIRECTIONS = ("forward", "backward")

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
directions = pytest.mark.parametrize("direction", DIRECTIONS)


def scores(x, dim=-1, log=False, temperature=1.0, mask=None):
    return launch_softmax.Scores(dim % x.dim(), log, False, temperature, mask)


def compiled(direction, target, dtype, shape, dim=-1, learned=False, **options):
    """The kernel that the launcher uses, and its grid."""
    x = torch.empty(shape, dtype=DTYPES[dtype])
    out, how = torch.empty_like(x), scores(x, dim, **options)
    if direction == "forward":
        return aot.launched(target, lambda: launch_softmax.forward(x, out, how))
    return aot.launched(target, lambda: launch_softmax.backward(x, x, x if learned else None, out, how))


def assert_wide(kernel, spills=0):
    """All accesses to global memory but those to single numbers take 16 bytes."""
    if "amdgcn" in kernel.asm:
        moved = [i for i in aot.amdgcn(kernel) if re.match(r"(buffer|global)_(load|store)", i)]
        assert moved and all(i.endswith("_dwordx4") for i in moved), moved
    else:
        instructions = aot.sass(kernel)
        loads, stores = ([i for i in instructions if i.startswith(way)] for way in ("LDG", "STG"))
        assert loads and stores and all(".128" in i for i in [*loads, *stores])
    machine_code.assert_clean(kernel, spills)


# Several rows to a program, one, one with all threads, and one that is read twice.
KERNELS = [
    *((n, "sm_90", "bf16", False) for n in (64, 1024, 16_384, 65_536)),
    *((n, "gfx942", "bf16", False) for n in (64, 65_536)),
    *((1024, "sm_80", "bf16", True), (1024, "sm_90", "fp32", True), (1024, "sm_100", "bf16", True)),
    *((16_384, "sm_90", "fp32", False), (16_384, "gfx942", "fp32", True), (65_536, "sm_80", "fp16", False)),
]


@directions
@pytest.mark.parametrize(("n", "target", "dtype", "log"), KERNELS)
def test_rows(request, n, target, dtype, log, direction):
    def make(n, target, dtype, log, direction):
        return compiled(direction, target, dtype, (4096, n), log=log)

    kernel, grid = machine_code.compiled(request, make)
    assert_wide(kernel)
    assert ("looping" in kernel.name) == (n == 65_536)
    assert grid == (4096 * n // max(n, 2048), 1, 1)


@directions
@pytest.mark.parametrize(("target", "dtype"), [("sm_90", "bf16"), ("sm_90", "fp32"), ("gfx942", "fp32")])
def test_the_longest_rows_that_are_read_once(direction, target, dtype):
    """Some registers of fp32 and of backward go to local memory."""
    kernel, _ = compiled(direction, target, dtype, (4096, 32_768))
    assert "looping" not in kernel.name
    assert_wide(kernel, spills=0 if (direction, dtype) == ("forward", "bf16") else 128)


@directions
@pytest.mark.parametrize("mask", ["keep", "add"])
@pytest.mark.parametrize(("n", "target"), [(1024, "sm_90"), (65_536, "sm_90"), (1024, "gfx942")])
def test_masks_and_temperatures(request, n, mask, direction, target):
    def make(n, mask, direction, target):
        given = torch.ones(n, dtype=torch.bool) if mask == "keep" else torch.zeros(n, dtype=torch.bfloat16)
        options = {"temperature": torch.ones(1), "mask": given.expand(4096, n)}
        return compiled(direction, target, "bf16", (4096, n), learned=True, **options)

    kernel, _ = machine_code.compiled(request, make)
    machine_code.assert_in_registers(kernel)
    if target != "gfx942":
        # A mask of bytes takes 8 at a time; a temperature and a sum are single numbers.
        moved = [i for i in aot.sass(kernel) if i.startswith(("LDG", "STG"))]
        narrow = [i for i in moved if ".128" not in i and ".64" not in i]
        assert any(".128" in i for i in moved) and len(narrow) <= 2


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
    assert_wide(kernel)


@directions
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_odd_dims_in_the_middle(direction, target):
    kernel, _ = compiled(direction, target, "fp32", (64, 1000, 7, 7), 1)
    machine_code.assert_in_registers(kernel, spills=64)


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
def test_rrelu(request, target, dtype, backward):
    def make(target, dtype, backward):
        x, g = (torch.zeros(1 << 14, dtype=DTYPES[dtype]) for _ in range(2))
        seed, out = torch.zeros(1, dtype=torch.int64), torch.empty_like(x)
        return aot.launched(target, lambda: launch_rrelu.run(g if backward else x, x, out, seed, 0.1, 0.3))

    kernel, _ = machine_code.compiled(request, make)
    loads, stores = machine_code.wide_accesses(kernel)
    assert loads >= 1 if target == "gfx942" else (loads, stores) == (4 if backward else 2, 2)
    machine_code.assert_in_registers(kernel)


@pytest.mark.parametrize(
    ("target", "dtype"), [("sm_80", "fp16"), ("sm_90", "bf16"), ("sm_90", "fp32"), ("gfx942", "fp32")]
)
def test_rrelu_of_bits(target, dtype):
    """What tells the slopes is a byte of each element."""
    g, bits = torch.zeros(1 << 14, dtype=DTYPES[dtype]), torch.zeros(1 << 14, dtype=torch.uint8)
    seed, out = torch.zeros(1, dtype=torch.int64), torch.empty_like(g)
    kernel, _ = aot.launched(target, lambda: launch_rrelu.run(g, bits, out, seed, 0.1, 0.3))
    machine_code.assert_in_registers(kernel)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_strided_rrelu(target):
    x = torch.zeros(8, 6, 7, 9).transpose(1, 2)[:, :, ::2]
    seed, out = torch.zeros(1, dtype=torch.int64), torch.empty_like(x)
    kernel, _ = aot.launched(target, lambda: launch_rrelu.run(x, x, out, seed, 0.1, 0.3))
    machine_code.assert_in_registers(kernel, scalar_spills=True)
