"""Offsets of tensors with more than 2^31 elements, as the kernels' code computes them: no 32-bit integer overflows.

The kernels are compiled for launches on tensors without memory; which numbers their integers may take is followed
through the code.
"""

from __future__ import annotations

import compiling
import pytest
import torch

from fusedact import registry
from fusedact.piecewise import table_rows

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import address_ranges
import benches
import triton
import triton.language as tl

from fusedact.kernels import (
    device_functions,
    launch,
    launch_biased,
    launch_gated,
    launch_optimizer,
    launch_piecewise,
    launch_rrelu,
    launch_saving,
    launch_softmax,
)

aot, optimizer_ledger = map(benches.load, ("aot", "optimizer_ledger"))
pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]

ROWS, COLS = 2**12, 2**20 + 8
SEED = torch.zeros(1, dtype=torch.int64, device="meta")


def large(*shape, dtype=torch.bfloat16):
    """A tensor of 2^32 elements and some, without memory."""
    return torch.empty(shape or (ROWS * COLS,), dtype=dtype, device="meta")


def every_other():
    return large(2 * ROWS, COLS)[::2]


def columns():
    return large(ROWS, COLS).t()


def channels(fill=1.0):
    return torch.full((COLS,), fill, device="meta")


def image():
    return large(ROWS, 2**8, 2**12 + 8)


def forward(x, *params, channel_dim=None):
    return lambda: launch.forward("swish", x, torch.empty_like(x), params, channel_dim)


def backward(g, *params, channel_dim=None, saved=None):
    needed = tuple(isinstance(p, torch.Tensor) for p in params)
    x = g if saved is None else saved
    return lambda: launch.backward("swish", g, x, torch.empty_like(g), params, needed, channel_dim)


def statistics():
    x = large(ROWS, COLS)
    alive = torch.zeros(COLS + 1, dtype=torch.uint8, device="meta")
    return launch.forward("swish", x, large(ROWS, COLS), (1.5,), None, alive, 1)


def gated(direction, packed):
    def run():
        params = tuple(p.default for p in registry.get("silu").parameters)
        pair = large(ROWS, 2 * COLS).chunk(2, -1) if packed else (large(ROWS, COLS), large(ROWS, COLS))
        if direction == "forward":
            return launch_gated.forward("silu", *pair, large(ROWS, COLS), params, None)
        others = large(ROWS, 2 * COLS).chunk(2, -1) if packed else (large(ROWS, COLS), large(ROWS, COLS))
        return launch_gated.backward("silu", large(ROWS, COLS), *pair, *others, params, (), None)

    return run


def biased(direction, dim):
    def run():
        x, bias = large(ROWS, COLS), large((ROWS, COLS)[dim])
        dropped = (0.1, 1 / 0.9, SEED)
        if direction == "forward":
            return launch_biased.forward("silu", x, bias, large(ROWS, COLS), large(ROWS, COLS), (), dim, dropped)
        return launch_biased.backward("silu", x, x, bias, large(ROWS, COLS), (), (True,), dim, dropped)

    return run


def table(count, rows=1):
    b = torch.linspace(-4, 4, count)
    how = table_rows.plan(b, b.sin())
    made = table_rows.prepare(b.expand(rows, -1), b.sin(), 0.0, 0.5, how, torch.float32)
    return launch.Table(made.to("meta"), 1 << count.bit_length(), how.steep, how.even), how


def sums(count, layout):
    def run():
        shape, channel_dim = {"flat": ((ROWS * COLS,), None), "last": ((2**26, 64), 1)}[layout]
        x = large(*shape)
        given, how = table(count, 1 if channel_dim is None else shape[1])
        return launch_piecewise.backward(x, x, x, given, how.kind, count, "values", False, channel_dim)

    return run


def pwl(count):
    def run():
        given, how = table(count)
        return launch.forward(f"pwl_{how.kind}", large(), large(), (given,))

    return run


def optimizer():
    program = optimizer_ledger.KERNELS["adam"][0].program(optimizer_ledger.KERNELS["adam"][1])
    chunks = torch.zeros(2**20, 2, dtype=torch.int32, device="meta")
    types = (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)
    addresses = torch.zeros(5, 2, dtype=torch.int64, device="meta")
    return launch_optimizer.step(
        *(program.device_function, program.key, addresses, chunks, ROWS * COLS, types, True),
        *([0.5] * len(program.uniform), None, None, False),
    )


def softmax(direction, rows, n, dim):
    def run():
        x = large(rows, n) if dim == 1 else large(n, rows)
        scores = launch_softmax.Scores(dim, False, False, 1.0, None)
        if direction == "forward":
            return launch_softmax.forward(x, torch.empty_like(x), scores)
        return launch_softmax.backward(x, x, None, torch.empty_like(x), scores)

    return run


def bits(direction):
    def run():
        x, kept = large(), torch.empty(ROWS * COLS // 8, dtype=torch.uint8, device="meta")
        if direction == "forward":
            side = device_functions.saved_function("side", "silu", "silu")
            return launch_saving.forward("silu", side, "side", x, large(), kept, ())
        function = device_functions.saved_function("from_bits", "silu", "silu")
        return launch_saving.backward(function, x, large(), kept, large(), (), ())

    return run


CASES = {
    "forward": forward(large(), 1.5),
    "forward, strided": forward(every_other(), 1.5),
    "forward, transposed": forward(columns(), 1.5),
    "forward, per channel": forward(large(ROWS, COLS), channels(), channel_dim=1),
    "forward with statistics": statistics,
    "backward": backward(large(), 1.5),
    "backward, strided": backward(every_other(), 1.5, saved=large(ROWS, COLS)),
    "backward, learned": backward(large(), torch.ones(1, device="meta")),
    "backward, per channel": backward(large(ROWS, COLS), channels(), channel_dim=1),
    "backward, per second channel": backward(image(), torch.ones(2**8, device="meta"), channel_dim=1),
    "backward, few channels": backward(large(2**31, 2), torch.ones(2, device="meta"), channel_dim=1),
    "pwl": pwl(63),
    "sums of a table": sums(17, "flat"),
    "sums of a large table": sums(300, "flat"),
    "sums of tables per channel": sums(17, "last"),
    "gated forward": gated("forward", False),
    "gated forward, packed": gated("forward", True),
    "gated backward, packed": gated("backward", True),
    "biased forward": biased("forward", 1),
    "biased backward": biased("backward", 1),
    "biased backward, rows": biased("backward", 0),
    "optimizer": optimizer,
    "softmax": softmax("forward", 2**22, 2**10 + 8, 1),
    "softmax, long rows": softmax("forward", ROWS, COLS, 1),
    "softmax backward, long rows": softmax("backward", ROWS, COLS, 1),
    "softmax along the first dimension": softmax("forward", COLS, ROWS, 0),
    "rrelu": lambda: launch_rrelu.run(large(), large(), large(), SEED, 0.1, 0.3),
    "rrelu, strided": lambda: launch_rrelu.run(every_other(), every_other(), large(ROWS, COLS), SEED, 0.1, 0.3),
    "bits forward": bits("forward"),
    "bits backward": bits("backward"),
}


def compiled(run):
    """The kernels of a call with their launches."""
    with aot.stub_driver(aot.TARGETS["sm_90"]) as stub:
        run()
        made = aot._kernels_of(stub.device)
        assert len(made) == len(stub.launches) > 0
        by_name = {kernel.name: kernel for kernel in made}
        return [(by_name[launched.metadata.name], launched) for launched in stub.launches]


@pytest.mark.parametrize("case", CASES)
def test_no_integer_overflows(case):
    (kernel, launched), *rest = compiled(CASES[case])
    assert not rest
    found, largest = address_ranges.overflows(kernel, launched)
    assert not found
    # The offsets are among the numbers that were followed.
    assert largest >= 2**31


@triton.jit
def narrow_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def late_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    start = (tl.program_id(0) * BLOCK).to(tl.int64)
    at = start + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def looping_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    tile = tl.program_id(0)
    while tile < tl.cdiv(n, BLOCK).to(tl.int32):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)
        tile += tl.num_programs(0)


@triton.jit
def reading_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.load(x_ptr + tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, at, mask=at < n)


@triton.jit
def wide_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@pytest.mark.parametrize(
    ("kernel", "programs", "wrong"),
    [
        (narrow_kernel, 2**22 + 1, True),
        (narrow_kernel, 2**10, False),
        (late_kernel, 2**22 + 1, True),
        (looping_kernel, 2**10, True),
        (reading_kernel, 2**10, True),
        (wide_kernel, 2**22 + 1, False),
    ],
)
def test_kernels_with_narrow_offsets_are_found(kernel, programs, wrong):
    x = large(dtype=torch.int32)
    with aot.stub_driver(aot.TARGETS["sm_90"]) as stub:
        made = kernel[(programs,)](x, x, x.numel(), BLOCK=1024)
        found, _ = address_ranges.overflows(made, stub.launches[0])
    assert bool(found) == wrong
