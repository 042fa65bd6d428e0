"""The machine code of the pointwise templates: 16-byte accesses, no spills, no atomics. No device is needed."""

from __future__ import annotations

import compiling
import pytest
import torch

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code
import triton
import triton.language as tl
from machine_code import assert_clean, wide_accesses

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
    arguments = (function, function.__name__, inputs, outputs, params, needed, channel_dim)
    return aot.launched(target, lambda: launch_pointwise.pointwise(*arguments))


def double_backward(target, dtype, view=lambda t: t, shape=(64, 512), channel_dim=None, summed=True, inputs=None):
    """The kernel, with its grid, from three tensors to two, with sums for a parameter that is a tensor."""
    if inputs is None:
        inputs = [view(torch.zeros(shape, dtype=dtype)) for _ in range(3)]
    parameter = torch.zeros(1 if channel_dim is None else inputs[0].shape[channel_dim])
    outputs = [torch.empty_like(inputs[0], dtype=dtype) for _ in range(2)]
    return compiled(swish_double_backward, target, inputs, outputs, (parameter,), (summed,), channel_dim)


@targets
@dtypes
@pytest.mark.parametrize("summed", [False, True], ids=["values", "sums"])
def test_flat(request, target, dtype, summed):
    """One access of 16 bytes to each of five tensors; masked ones are narrow."""
    kernel, _ = machine_code.compiled(request, double_backward)
    assert kernel.name == "pointwise_kernel"
    assert wide_accesses(kernel) == (3, 2)
    assert_clean(kernel)


@targets
@dtypes
def test_few_tensors(request, target, dtype):
    """Two accesses of 16 bytes to each."""

    def make(target, dtype):
        x = torch.zeros(64, 512, dtype=dtype)
        return compiled(logistic, target, [x], [torch.empty_like(x)])

    kernel, _ = machine_code.compiled(request, make)
    assert wide_accesses(kernel) == (2, 2)
    assert_clean(kernel)


@targets
def test_several_dtypes(target):
    """The wide elements decide: theirs are accesses of 16 bytes, and those of halves are of 8."""
    x, y = torch.zeros(64, 512), torch.zeros(64, 512, dtype=BF16)
    kernel, _ = double_backward(target, BF16, inputs=[x, y, x])
    assert wide_accesses(kernel) == (2, 0)
    assert_clean(kernel)


VIEWS = {
    "columns": ((64, 512), lambda t: t[:, ::2]),
    "four dimensions": ((8, 6, 7, 7), lambda t: t[:, 1:, ::2]),
    "expanded": ((1, 512), lambda t: t.expand(64, 512)),
}


@targets
@dtypes
@pytest.mark.parametrize("where", VIEWS)
def test_strided(request, target, dtype, where):
    def make(target, dtype, where):
        shape, view = VIEWS[where]
        return double_backward(target, dtype, view, shape)

    kernel, _ = machine_code.compiled(request, make)
    assert kernel.name == "pointwise_strided_kernel"
    assert_clean(kernel)


CHANNELS = {
    "last": ((64, 512), lambda t: t),
    "second": ((4, 64, 256), lambda t: t),
    "channels_last": ((2, 64, 8, 8), lambda t: t.to(memory_format=torch.channels_last)),
}


@targets
@dtypes
@pytest.mark.parametrize("where", CHANNELS)
@pytest.mark.parametrize("summed", [False, True], ids=["values", "sums"])
def test_channels(request, target, dtype, where, summed):
    """One pass; where the compiler sees whole channels or rows, of 16-byte accesses."""

    def make(target, dtype, where, summed):
        shape, view = CHANNELS[where]
        return double_backward(target, dtype, view, shape, channel_dim=1, summed=summed)

    kernel, _ = machine_code.compiled(request, make)
    assert kernel.name == ("pointwise_channel_kernel" if summed else "pointwise_strided_kernel")
    loads, stores = wide_accesses(kernel)
    # The parameter may take two more.
    assert stores == 2 and 3 <= loads <= 5
    assert_clean(kernel)


@targets
@dtypes
def test_odd_channels(request, target, dtype):
    """Three tensors' strides of four dimensions still leave vector registers enough."""

    def make(target, dtype):
        shape, view = VIEWS["four dimensions"]
        return double_backward(target, dtype, view, shape, channel_dim=1)

    kernel, _ = machine_code.compiled(request, make)
    assert kernel.name == "pointwise_channel_kernel"
    assert_clean(kernel, scalar_spills=True)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[:, ::2]], ids=["flat", "strided"])
@pytest.mark.parametrize("channel_dim", [None, 0, 1])
def test_what_is_no_block(target, view, channel_dim):
    """Outputs and parts that are numbers, or broadcast; no outputs at all."""
    x = view(torch.zeros(64, 512))
    parameter = torch.zeros(1 if channel_dim is None else x.shape[channel_dim])
    outputs = [torch.zeros_like(x) for _ in range(2)]
    kernels = [
        compiled(sums_alone, target, [x], [], (parameter,) * 2, (True, True), channel_dim)[0],
        compiled(constants, target, [x], outputs, (parameter,), (True,), channel_dim)[0],
    ]
    aot.disassemble(kernels)
    for kernel in kernels:
        assert_clean(kernel)
