"""The machine code of the pointwise templates: 16-byte accesses, no spills, no atomics. No device is needed."""

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
import triton
import triton.language as tl

from fusedact.kernels import launch_pointwise

aot = benches.load("aot")

BF16, FP32 = torch.bfloat16, torch.float32

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]
targets = pytest.mark.parametrize("target", aot.TARGETS)
dtypes = pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])


@triton.jit
def logistic(values, params, precise: tl.constexpr):
    """1 / (1 + exp(-x))."""
    return (1.0 / (1.0 + tl.exp(-values[0])),), ()


@triton.jit
def swish_double_backward(values, params, precise: tl.constexpr):
    """The double backward of x sigmoid(b x), as its formula stands: a realistic load of arithmetic."""
    ggx, g, x = values
    b = params[0]
    s = 1.0 / (1.0 + tl.exp(-b * x))
    slope = s * (1.0 - s)
    bend = slope * (2.0 + b * x * (1.0 - 2.0 * s))
    return (ggx * (s + b * x * slope), ggx * g * b * bend), (ggx * g * x * bend,)


@triton.jit
def sums_alone(values, params, precise: tl.constexpr):
    """No output, and two parts, of which the second is none."""
    return (), (values[0] * params[0], 0.0)


@triton.jit
def constants(values, params, precise: tl.constexpr):
    """A number, a parameter, and a part that is a number."""
    return (0.0, params[0]), (1.0,)


def compiled(function, target, inputs, outputs, params=(), needed=(), channel_dim=None):
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        launch_pointwise.pointwise(function, function.__name__, inputs, outputs, params, needed, channel_dim)
        (kernel,) = aot._kernels_of(stub.device)
        return kernel


def double_backward(target, dtype, view=lambda t: t, shape=(64, 512), channel_dim=None, summed=True, inputs=None):
    """The kernel from three tensors to two, with sums for a parameter that is a tensor."""
    if inputs is None:
        inputs = [view(torch.zeros(shape, dtype=dtype)) for _ in range(3)]
    parameter = torch.zeros(1 if channel_dim is None else inputs[0].shape[channel_dim])
    outputs = [torch.empty_like(inputs[0], dtype=dtype) for _ in range(2)]
    return compiled(swish_double_backward, target, inputs, outputs, (parameter,), (summed,), channel_dim)


def wide_accesses(kernel, target):
    """How many loads and stores of 16 bytes it has."""
    if target == "gfx942":
        counts = aot.amdgcn(kernel)
        return tuple(counts[f"buffer_{way}_dwordx4"] + counts[f"global_{way}_dwordx4"] for way in ("load", "store"))
    instructions = aot.sass(kernel)
    return tuple(sum(i.startswith(way) and ".128" in i for i in instructions) for way in ("LDG", "STG"))


def assert_clean(kernel, target, scalar_spills=False):
    """No atomics, and no spills to memory. AMD's scalar registers may be told to spill to vector registers."""
    if target == "gfx942":
        assert not [i for i in aot.amdgcn(kernel) if "atomic" in i or i.startswith("scratch_")]
        used = aot.amd_metadata(kernel)
        assert used["vgpr_spill_count"] == used["private_segment_fixed_size"] == 0
        assert scalar_spills or used["sgpr_spill_count"] == 0
        return
    assert not [i for i in aot.sass(kernel) if i.startswith(("ATOM", "RED.", "LDL", "STL"))]
    used = aot.resources(kernel)
    assert (used["STACK"], used["LOCAL"]) == (0, 0)


@targets
@dtypes
@pytest.mark.parametrize("summed", [False, True], ids=["values", "sums"])
def test_flat(target, dtype, summed):
    """One access of 16 bytes to each of five tensors; masked ones are narrow."""
    kernel = double_backward(target, dtype, summed=summed)
    assert kernel.name == "pointwise_kernel"
    assert wide_accesses(kernel, target) == (3, 2)
    assert_clean(kernel, target)


@targets
@dtypes
def test_few_tensors(target, dtype):
    """Two accesses of 16 bytes to each."""
    x = torch.zeros(64, 512, dtype=dtype)
    kernel = compiled(logistic, target, [x], [torch.empty_like(x)])
    assert wide_accesses(kernel, target) == (2, 2)
    assert_clean(kernel, target)


@targets
def test_several_dtypes(target):
    """The wide elements decide: theirs are accesses of 16 bytes, and those of halves are of 8."""
    x, y = torch.zeros(64, 512), torch.zeros(64, 512, dtype=BF16)
    kernel = double_backward(target, BF16, inputs=[x, y, x])
    assert wide_accesses(kernel, target) == (2, 0)
    assert_clean(kernel, target)


VIEWS = {
    "columns": ((64, 512), lambda t: t[:, ::2]),
    "four dimensions": ((8, 6, 7, 7), lambda t: t[:, 1:, ::2]),
    "expanded": ((1, 512), lambda t: t.expand(64, 512)),
}


@targets
@dtypes
@pytest.mark.parametrize("where", VIEWS)
def test_strided(target, dtype, where):
    shape, view = VIEWS[where]
    kernel = double_backward(target, dtype, view, shape)
    assert kernel.name == "pointwise_strided_kernel"
    assert_clean(kernel, target)


CHANNELS = {
    "last": ((64, 512), lambda t: t),
    "second": ((4, 64, 256), lambda t: t),
    "channels_last": ((2, 64, 8, 8), lambda t: t.to(memory_format=torch.channels_last)),
}


@targets
@dtypes
@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("summed", [False, True], ids=["values", "sums"])
def test_channels(target, dtype, where, summed):
    """One pass; where the compiler sees whole channels or rows, of 16-byte accesses."""
    shape, view = CHANNELS[where]
    kernel = double_backward(target, dtype, view, shape, channel_dim=1, summed=summed)
    assert kernel.name == ("pointwise_channel_kernel" if summed else "pointwise_strided_kernel")
    loads, stores = wide_accesses(kernel, target)
    # The parameter may take two more.
    assert stores == 2 and 3 <= loads <= 5
    assert_clean(kernel, target)


@targets
@dtypes
def test_odd_channels(target, dtype):
    """Three tensors' strides of four dimensions still leave vector registers enough."""
    shape, view = VIEWS["four dimensions"]
    kernel = double_backward(target, dtype, view, shape, channel_dim=1)
    assert kernel.name == "pointwise_channel_kernel"
    assert_clean(kernel, target, scalar_spills=True)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[:, ::2]], ids=["flat", "strided"])
@pytest.mark.parametrize("channel_dim", [None, 0, 1])
def test_what_is_no_block(target, view, channel_dim):
    """Outputs and parts that are numbers, or broadcast; no outputs at all."""
    x = view(torch.zeros(64, 512))
    parameter = torch.zeros(1 if channel_dim is None else x.shape[channel_dim])
    assert_clean(compiled(sums_alone, target, [x], [], (parameter,) * 2, (True, True), channel_dim), target)
    outputs = [torch.zeros_like(x) for _ in range(2)]
    assert_clean(compiled(constants, target, [x], outputs, (parameter,), (True,), channel_dim), target)
