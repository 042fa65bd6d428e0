"""The machine code of the sums of learned tables: 16-byte accesses, no spills, no atomics. No device is needed."""

from __future__ import annotations

import compiling
import pytest
import torch

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code

from fusedact.kernels import launch_piecewise

aot, ledger = benches.load("aot"), benches.load("piecewise_ledger")

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]


def assert_no_spills(kernel, stored, scalar_spills=False):
    """Nothing goes to local memory in the loop, and next to nothing outside; no atomics."""
    machine_code.assert_clean(kernel, spills=32, scalar_spills=scalar_spills)
    if "amdgcn" in kernel.asm:
        return
    way = ledger.disassembly.shortest_round(ledger.disassembly.sass(aot.disassembly(kernel)), stored)
    assert not [i for i in way if i.name.startswith(("LDL", "STL"))]


@pytest.mark.parametrize(
    ("target", "case"),
    [
        ("sm_80", ledger.Case(4, dtype="fp32")),
        ("sm_80", ledger.Case(8, layout="second")),
        ("sm_90", ledger.Case(64)),
        ("sm_90", ledger.Case(16, spacing="uneven", dtype="fp32")),
        ("sm_100", ledger.Case(48)),
        ("sm_100", ledger.Case(11, wanted="lines")),
        ("gfx942", ledger.Case(16)),
    ],
    ids=str,
)
def test_sums(request, target, case):
    """Sums stay in registers, and tensors move in accesses of 16 bytes."""

    def make(target, case):
        return ledger.compiled(case, target)

    kernel, elements = machine_code.compiled(request, make)
    accesses = elements * ledger.ledger.DTYPES[case.dtype].itemsize // 16
    loads, stores = machine_code.wide_accesses(kernel)
    assert loads >= 2 * accesses and (stores >= accesses if target == "gfx942" else stores == accesses)
    # AMD's scalars may go to the lanes of a vector register, no farther.
    assert_no_spills(kernel, 16 * accesses, scalar_spills=True)


@pytest.mark.parametrize(("count", "target"), [(8, "gfx942"), (16, "sm_90")])
def test_channels_along_the_columns(count, target):
    """A thread has sums for each of its channels: the fewer channels, the more sums."""
    kernel, elements = ledger.compiled(ledger.Case(count, layout="last"), target)
    assert_no_spills(kernel, 2 * elements)
    if target != "gfx942":
        # Two channels of a half each.
        stores = [i for i in aot.sass(kernel) if i.startswith("STG") and not i.endswith((".U16", ".64", ".128"))]
        assert len(stores) >= elements // 2


def test_one_kernel_for_any_length(profiled):
    """Nothing is compiled for a new length; a profiler sees what is launched."""
    with aot.stub_driver(aot.TARGETS["sm_90"]) as stub:
        table, how = ledger.table(ledger.Case(4), 1)
        for n in (1024, 1000, 999, 2**18):
            x = torch.zeros(n)
            launch_piecewise.backward(x, x, torch.empty_like(x), table, how.kind, 4, "values", False, None)
        assert len(aot._kernels_of(stub.device)) == 1 and len(stub.launches) == 4
    shown = profiled[-1]
    assert shown["name"].startswith("pwl_uniform_hats_4") and shown["bytes"] == 3 * 2**18 * 4


def test_the_grid_depends_on_the_shape_alone():
    """Another grid would be another order of summation."""
    grids = []
    with aot.stub_driver(aot.TARGETS["sm_90"]) as stub:
        table, how = ledger.table(ledger.Case(4), 1)
        for n in (2**12, 2**24, 2**24):
            x = torch.empty(n, dtype=torch.bfloat16)
            launch_piecewise.backward(x, x, x, table, how.kind, 4, "values", False, None)
        grids = [launched.grid[0] for launched in stub.launches]
    assert grids[0] == 2 and grids[1] == grids[2] <= launch_piecewise.PROGRAMS


@pytest.mark.parametrize("kind", ["uniform", "bucket", "search"])
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_rows(target, kind):
    """The kernel that prepares a table compiles for slopes of every kind, and uses no local memory."""
    b = torch.linspace(-4, 4, 17)
    left = torch.zeros(1) if kind == "uniform" else 0.5
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        rows = launch_piecewise.prepare(b, b.expand(3, 17), left, torch.zeros(3), kind, 40)
        (kernel,) = aot._kernels_of(stub.device)
        assert stub.launches[0].grid == (3, 1, 1) and rows.shape[0] == 3
    machine_code.assert_in_registers(kernel)
