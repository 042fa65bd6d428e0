"""The machine code of every kernel: 16-byte accesses, no spills. Compiled ahead of time; no device is needed."""

from __future__ import annotations

import compiling
import pytest
import torch

from fusedact import registry
from fusedact.piecewise import table_rows

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code

from fusedact.kernels import grids, launch

aot = benches.load("aot")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Every dtype on one architecture of each maker.
CUDA = [("sm_80", "bf16"), ("sm_80", "fp32"), *(("sm_90", d) for d in DTYPES), ("sm_100", "bf16")]
HIP = [("gfx942", d) for d in DTYPES]

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
# Those that stand for the others: compiled for all targets. test_ledger.py holds accesses and spills of these on all
# targets, and of all others on sm_90 and gfx942.
FIRST = ("relu_sigmoid", "elu", "prelu", "swish")
LATER = [n for n in registry.names("elementwise") if n not in FIRST and not registry.get(n).always_aten]
# Of these, the ones written by hand.
WRITTEN = [n for n in LATER if not registry.get(n).build]


# The ledger has all of the first on every target; here the one, and the others where the ledger has them not.
CASES = [
    *(("relu_sigmoid", *how) for how in (*CUDA, *HIP)),
    *((n, *how) for n in WRITTEN for how in (("sm_80", "fp32"), ("sm_100", "bf16"))),
]


def cases(of_first, of_later=()):
    """(name, target, dtype): of the first, and of the others."""
    return [(n, *how) for names, hows in ((FIRST, of_first), (LATER, of_later)) for n in names for how in hows]


directions = pytest.mark.parametrize("direction", ["forward", "backward"])


def compiled(name, direction, target, dtype, *, tensors=False, strided=False):
    spec = registry.get(name)
    if spec.build:
        spec.build(torch.device("cpu"))
    params = tuple(torch.tensor([p.default]) if tensors and not p.fixed else p.default for p in spec.parameters)
    return (aot.compile_kernel(spec.device, direction, target, DTYPES[dtype], params, strided),)


def needed(direction, target, dtype):
    """How many 16-byte loads and stores a thread's part of a whole block takes."""
    size = DTYPES[dtype].itemsize
    target = aot.TARGETS[target]
    per_thread = grids.block_size(size, target.warp_size) * size // (grids.NUM_WARPS * target.warp_size * 16)
    return (1 if direction == "forward" else 2) * per_thread, per_thread


@directions
@pytest.mark.parametrize(("name", "target", "dtype"), CASES)
def test_flat(request, name, direction, target, dtype):
    """On AMD of buffer instructions, with a scalar base and 32-bit offsets, which the templates allow."""
    kernel, *_ = machine_code.compiled(request, compiled)
    assert machine_code.wide_accesses(kernel) == needed(direction, target, dtype)
    machine_code.assert_clean(kernel)
    assert target == "gfx942" or aot.resources(kernel)["SHARED"] == 0


FLAT, STRIDED = False, True


@pytest.mark.parametrize(
    ("name", "target", "strided"),
    [
        c
        for c in cases([("sm_90", FLAT), ("sm_90", STRIDED), ("gfx942", FLAT), ("gfx942", STRIDED)], [("sm_90", FLAT)])
        if registry.get(c[0]).learnable
    ],
)
def test_parameter_gradients(request, name, target, strided):
    """Reading tensor parameters and summing their gradients keeps the wide accesses, and takes no atomics."""

    def make(name, target, strided):
        return compiled(name, "backward", target, "bf16", tensors=True, strided=strided)

    kernel, *_ = machine_code.compiled(request, make)
    loads, stores = machine_code.wide_accesses(kernel)
    expected = needed("backward", target, "bf16")
    assert stores == expected[1] and (strided or loads == expected[0])
    # Some versions spill two registers of the strided kernel's offsets.
    machine_code.assert_clean(kernel, spills=8 if strided else 0)


@directions
@pytest.mark.parametrize(
    ("name", "target", "dtype"),
    cases([("sm_80", "fp32"), ("sm_90", "bf16"), ("gfx942", "bf16")], [("sm_90", "bf16")]),
)
def test_strided(name, direction, target, dtype):
    machine_code.assert_in_registers(*compiled(name, direction, target, dtype, strided=True))


# Device functions of one parameter, and where its channels are: the innermost dimension, another one.
LEARNED = ["relu_sigmoid", "elu", "swish"]
CHANNELS = {"last": ((64, 512), 1), "second": ((4, 64, 256), 1), "channels_last": ((2, 64, 8, 8), 1)}


@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("target", "dtype"), [*CUDA, HIP[0]])
def test_gradients_per_channel(request, name, where, target, dtype):
    """One pass of 16-byte accesses, without spills or atomics."""

    def make(name, where, target, dtype):
        shape, channel_dim = CHANNELS[where]
        x = torch.zeros(shape, dtype=DTYPES[dtype])
        if where == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        weight = torch.zeros(shape[channel_dim])
        out = torch.empty_like(x)
        return aot.launched(target, lambda: launch.backward(name, x, x, out, (weight,), (True,), channel_dim))

    kernel, *_ = machine_code.compiled(request, make)
    assert kernel.name == "backward_channel_kernel"
    found, (loads, stores) = machine_code.wide_accesses(kernel), needed("backward", target, dtype)
    # The parameters may take two more.
    assert loads <= found[0] <= loads + 2 and found[1] == stores
    machine_code.assert_clean(kernel)


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
@pytest.mark.parametrize("name", ["elu", "swish"])
def test_odd_gradients_per_channel(name, target, shape, view):
    """Strides of many dimensions cost no spills worth the name."""
    x = view(torch.zeros(shape))
    out, parameter = torch.empty_like(x), torch.zeros(x.shape[1])
    kernel, _ = aot.launched(target, lambda: launch.backward(name, x, x, out, (parameter,), (True,), 1))
    # Some versions spill two registers of the offsets.
    machine_code.assert_in_registers(kernel, spills=8)


@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["elu", "swish"])
def test_forward_per_channel(name, target, where):
    """The strided template reads parameters per channel, and keeps its wide accesses."""
    shape, channel_dim = CHANNELS[where]
    params = (torch.zeros(shape[channel_dim]),)
    if where == "channels_last":
        shape, channel_dim = (2, 64, 64), 2
    kernel = aot.compile_kernel(name, "forward", target, torch.bfloat16, params, shape=shape, channel_dim=channel_dim)
    assert machine_code.wide_accesses(kernel)[1] == needed("forward", target, "bf16")[1]
    machine_code.assert_clean(kernel)


def pwl(kind, direction, target, dtype, *, strided=False):
    """A piecewise-linear kernel with 63 breakpoints."""
    b = torch.linspace(-4, 4, 63)
    how = table_rows.Plan(kind, 200, steep=False)
    rows = table_rows.prepare(b, b.sin(), 0.0, 0.5, how, torch.float32)
    table = (launch.Table(rows, 64, False),)
    return (aot.compile_kernel(f"pwl_{kind}", direction, target, DTYPES[dtype], table, strided),)


@directions
@pytest.mark.parametrize("kind", ["uniform", "bucket", "search"])
@pytest.mark.parametrize(
    ("target", "dtype"),
    [("sm_80", "fp16"), ("sm_90", "bf16"), ("sm_90", "fp32"), ("sm_100", "bf16"), ("gfx942", "bf16")],
)
def test_piecewise_linear(request, kind, direction, target, dtype):
    kernel, *_ = machine_code.compiled(request, pwl)
    found, (loads, stores) = machine_code.wide_accesses(kernel), needed(direction, target, dtype)
    # On AMD the table's header may take one more.
    assert found[0] - loads in ((0, 1) if target == "gfx942" else (0,)) and found[1] == stores
    machine_code.assert_clean(kernel)
    assert target == "gfx942" or aot.resources(kernel)["SHARED"] == 0


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
    machine_code.assert_in_registers(kernel)
