"""The machine code of every kernel: 16-byte accesses, no spills. Compiled ahead of time; no device is needed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from fusedact import compat, registry, table_rows

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if compat.interpreting:
    pytest.skip("under TRITON_INTERPRET nothing is compiled", allow_module_level=True)

import benches

from fusedact.kernels import launch

aot = benches.load("aot")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Every dtype on one architecture of each maker.
CUDA = [("sm_80", "bf16"), ("sm_80", "fp32"), *(("sm_90", d) for d in DTYPES), ("sm_100", "bf16")]
HIP = [("gfx942", d) for d in DTYPES]

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
# Those that stand for the others: compiled for all targets. test_ledger.py compiles each for sm_90, and `python -m
# bench.ledger --check` holds accesses and spills of all on sm_90 and gfx942.
FIRST = ("relu_sigmoid", "elu", "selu", "prelu", "swish")
LATER = [n for n in registry.names("elementwise") if n not in FIRST and not registry.get(n).always_aten]
# Of these, the ones written by hand.
WRITTEN = [n for n in LATER if not registry.get(n).build]


def cases(of_first, of_later=()):
    """(name, target, dtype): of the first, and of the others."""
    return [(n, *how) for names, hows in ((FIRST, of_first), (LATER, of_later)) for n in names for how in hows]


directions = pytest.mark.parametrize("direction", ["forward", "backward"])


def compiled(name, direction, target, dtype, *, tensors=False, strided=False):
    spec = registry.get(name)
    if spec.build:
        spec.build(torch.device("cpu"))
    params = tuple(torch.tensor([p.default]) if tensors and not p.fixed else p.default for p in spec.parameters)
    return aot.compile_kernel(spec.device, direction, target, DTYPES[dtype], params, strided)


def wide_accesses(direction, target, dtype):
    """How many 16-byte loads and stores a thread's part of a whole block takes."""
    size = DTYPES[dtype].itemsize
    target = aot.TARGETS[target]
    per_thread = launch.block_size(size, target.warp_size) * size // (launch.NUM_WARPS * target.warp_size * 16)
    return (1 if direction == "forward" else 2) * per_thread, per_thread


@directions
@pytest.mark.parametrize(
    ("name", "target", "dtype"),
    [*cases(CUDA), *((n, *how) for n in WRITTEN for how in (("sm_80", "fp32"), ("sm_100", "bf16")))],
)
def test_cuda(name, direction, target, dtype):
    kernel = compiled(name, direction, target, dtype)
    instructions = aot.sass(kernel)
    loads, stores = wide_accesses(direction, target, dtype)
    assert sum(i.startswith("LDG") and ".128" in i for i in instructions) == loads
    assert sum(i.startswith("STG") and ".128" in i for i in instructions) == stores
    assert not [i for i in instructions if i.startswith(("LDL", "STL"))]
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"], used["SHARED"]) == (0, 0, 0)


@directions
@pytest.mark.parametrize(("name", "target", "dtype"), cases(HIP))
def test_hip(name, direction, target, dtype):
    kernel = compiled(name, direction, target, dtype)
    loads, stores = wide_accesses(direction, target, dtype)
    # Buffer instructions: a scalar base and 32-bit offsets, which is what the templates' pointer arithmetic allows.
    counts = aot.amdgcn(kernel)
    assert counts["buffer_load_dwordx4"] + counts["global_load_dwordx4"] == loads
    assert counts["buffer_store_dwordx4"] + counts["global_store_dwordx4"] == stores
    assert not [i for i in counts if i.startswith("scratch_")]
    assert aot.amd_metadata(kernel) == {
        "vgpr_spill_count": 0,
        "sgpr_spill_count": 0,
        "private_segment_fixed_size": 0,
    }


FLAT, STRIDED = False, True


@pytest.mark.parametrize(
    ("name", "target", "strided"),
    [
        c
        for c in cases([("sm_90", FLAT), ("sm_90", STRIDED), ("gfx942", FLAT), ("gfx942", STRIDED)], [("sm_90", FLAT)])
        if registry.get(c[0]).learnable
    ],
)
def test_parameter_gradients(name, target, strided):
    """Reading tensor parameters and summing their gradients keeps the wide accesses, and takes no atomics."""
    kernel = compiled(name, "backward", target, "bf16", tensors=True, strided=strided)
    loads, stores = wide_accesses("backward", target, "bf16")
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        assert strided or counts["buffer_load_dwordx4"] + counts["global_load_dwordx4"] == loads
        assert counts["buffer_store_dwordx4"] + counts["global_store_dwordx4"] == stores
        assert not [i for i in counts if "atomic" in i]
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    assert strided or sum(i.startswith("LDG") and ".128" in i for i in instructions) == loads
    assert sum(i.startswith("STG") and ".128" in i for i in instructions) == stores
    assert not [i for i in instructions if i.startswith(("ATOM", "RED."))]
    # Some versions spill two registers of the strided kernel's offsets.
    assert strided or not [i for i in instructions if i.startswith(("LDL", "STL"))]


@directions
@pytest.mark.parametrize(
    ("name", "target", "dtype"),
    cases([("sm_80", "fp32"), ("sm_90", "bf16"), ("gfx942", "bf16")], [("sm_90", "bf16")]),
)
def test_strided(name, direction, target, dtype):
    kernel = compiled(name, direction, target, dtype, strided=True)
    if target == "gfx942":
        assert not any(aot.amd_metadata(kernel).values())
    else:
        used = aot.resources(kernel)
        assert (used["STACK"], used["LOCAL"]) == (0, 0)


# Device functions of one parameter, and where its channels are: the innermost dimension, another one.
LEARNED = ["relu_sigmoid", "prelu", "swish"]
CHANNELS = {"last": ((64, 512), 1), "second": ((4, 64, 256), 1), "channels_last": ((2, 64, 8, 8), 1)}


@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("target", "dtype"), [*CUDA, HIP[0]])
def test_gradients_per_channel(name, where, target, dtype):
    """One pass of 16-byte accesses, without spills or atomics."""
    shape, channel_dim = CHANNELS[where]
    x = torch.zeros(shape, dtype=DTYPES[dtype])
    if where == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch.backward(name, x, x, torch.empty_like(x), (torch.zeros(shape[channel_dim]),), (True,), channel_dim)
        (kernel,) = aot._kernels_of(stub.device)
    assert kernel.name == "backward_channel_kernel"
    loads, stores = wide_accesses("backward", target, dtype)
    # The parameters may take two more.
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        assert loads <= counts["buffer_load_dwordx4"] + counts["global_load_dwordx4"] <= loads + 2
        assert counts["buffer_store_dwordx4"] + counts["global_store_dwordx4"] == stores
        assert not [i for i in counts if "atomic" in i or i.startswith("scratch_")]
        assert not any(aot.amd_metadata(kernel).values())
        return
    instructions = aot.sass(kernel)
    assert loads <= sum(i.startswith("LDG") and ".128" in i for i in instructions) <= loads + 2
    assert sum(i.startswith("STG") and ".128" in i for i in instructions) == stores
    assert not [i for i in instructions if i.startswith(("ATOM", "RED.", "LDL", "STL"))]
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((8, 37), lambda t: t[:, 3:]),
        ((8, 6, 7, 7), lambda t: t[:, 1:, ::2]),
        ((8, 6, 7, 7), lambda t: t.to(memory_format=torch.channels_last)[:, 1:, ::2]),
    ],
    ids=["last", "second", "channels_last"],
)
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["prelu", "swish"])
def test_odd_gradients_per_channel(name, target, shape, view):
    """Strides of many dimensions cost no spills worth the name."""
    x = view(torch.zeros(shape))
    parameter = torch.zeros(x.shape[1])
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch.backward(name, x, x, torch.empty_like(x), (parameter,), (True,), 1)
        (kernel,) = aot._kernels_of(stub.device)
    if target == "gfx942":
        assert not any(aot.amd_metadata(kernel).values())
    else:
        used = aot.resources(kernel)
        # Some versions spill two registers of the offsets.
        assert used["STACK"] + used["LOCAL"] <= 8


@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["prelu", "swish"])
def test_forward_per_channel(name, target, where):
    """The strided template reads parameters per channel, and keeps its wide accesses."""
    shape, channel_dim = CHANNELS[where]
    params = (torch.zeros(shape[channel_dim]),)
    if where == "channels_last":
        shape, channel_dim = (2, 64, 64), 2
    kernel = aot.compile_kernel(name, "forward", target, torch.bfloat16, params, shape=shape, channel_dim=channel_dim)
    _, stores = wide_accesses("forward", target, "bf16")
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        assert counts["buffer_store_dwordx4"] + counts["global_store_dwordx4"] == stores
        assert not any(aot.amd_metadata(kernel).values())
    else:
        instructions = aot.sass(kernel)
        assert sum(i.startswith("STG") and ".128" in i for i in instructions) == stores
        assert not [i for i in instructions if i.startswith(("LDL", "STL"))]


def pwl(kind, direction, target, dtype, *, strided=False):
    """A piecewise-linear kernel with 63 breakpoints."""
    b = torch.linspace(-4, 4, 63)
    how = table_rows.Plan(kind, 200, steep=False)
    rows = table_rows.prepare(b, b.sin(), 0.0, 0.5, how, torch.float32)
    return aot.compile_kernel(
        f"pwl_{kind}", direction, target, DTYPES[dtype], (launch.Table(rows, 64, False),), strided
    )


@directions
@pytest.mark.parametrize("kind", ["uniform", "bucket", "search"])
@pytest.mark.parametrize(
    ("target", "dtype"), [("sm_80", "fp16"), ("sm_90", "bf16"), ("sm_90", "fp32"), ("sm_100", "bf16")]
)
def test_piecewise_linear_cuda(kind, direction, target, dtype):
    kernel = pwl(kind, direction, target, dtype)
    instructions = aot.sass(kernel)
    loads, stores = wide_accesses(direction, target, dtype)
    assert sum(i.startswith("LDG") and ".128" in i for i in instructions) == loads
    assert sum(i.startswith("STG") and ".128" in i for i in instructions) == stores
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"], used["SHARED"]) == (0, 0, 0)


@directions
@pytest.mark.parametrize("kind", ["uniform", "bucket", "search"])
def test_piecewise_linear_hip(kind, direction):
    kernel = pwl(kind, direction, "gfx942", "bf16")
    loads, stores = wide_accesses(direction, "gfx942", "bf16")
    counts = aot.amdgcn(kernel)
    # The table's header may take one more.
    assert counts["buffer_load_dwordx4"] + counts["global_load_dwordx4"] in (loads, loads + 1)
    assert counts["buffer_store_dwordx4"] + counts["global_store_dwordx4"] == stores
    assert not any(aot.amd_metadata(kernel).values())


@directions
@pytest.mark.parametrize("channel_dim", [1, 2], ids=["rows", "cols"])
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_piecewise_linear_channels(channel_dim, direction, target):
    """A table per channel compiles for both sides of a tile, without spills."""
    b = torch.linspace(-4, 4, 63).expand(8, 63)
    rows = table_rows.prepare(b, b.sin(), 0.0, 0.5, table_rows.Plan("uniform", steep=False), torch.float32)
    parameter = (launch.Table(rows, 64, False),)
    kernel = aot.compile_kernel(
        "pwl_uniform", direction, target, torch.bfloat16, parameter, shape=(4, 8, 8), channel_dim=channel_dim
    )
    if target == "gfx942":
        assert not any(aot.amd_metadata(kernel).values())
    else:
        used = aot.resources(kernel)
        assert (used["STACK"], used["LOCAL"]) == (0, 0)
