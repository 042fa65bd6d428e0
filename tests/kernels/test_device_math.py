"""Accuracy of the elementary device functions against float64, with exact and with a GPU's approximate instructions.

Precise ones within 1.5 units in the last place; those for halves, before rounding, within 2^-16 relative and 2^-134.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import oracles
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from fusedact.engine.ranges import NORMAL
from fusedact.kernels import device_math, error_function, hyperbolic, logarithms, powers, rounding, trigonometry

HALVES = [torch.bfloat16, torch.float16]
INFINITY = float("inf")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, INFINITY, -INFINITY, float("nan"), 3.4028234663852886e38]


@triton.jit
def unary_kernel(
    x_ptr, y_ptr, n, FUNCTION: tl.constexpr, PART: tl.constexpr, PRECISE: tl.constexpr, BLOCK: tl.constexpr
):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = FUNCTION(tl.load(x_ptr + offs, mask=offs < n, other=1.0), PRECISE)
    if PART is None:
        tl.store(y_ptr + offs, y, mask=offs < n)
    else:
        tl.store(y_ptr + offs, y[PART], mask=offs < n)


@triton.jit
def binary_kernel(a_ptr, b_ptr, y_ptr, n, FUNCTION: tl.constexpr, PRECISE: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + offs, mask=offs < n, other=1.0)
    b = tl.load(b_ptr + offs, mask=offs < n, other=1.0)
    tl.store(y_ptr + offs, FUNCTION(a, b, PRECISE), mask=offs < n)


@dataclass
class Unary:
    """A device function, or one of its results, its truth in float64, and where its arithmetic changes ways."""

    function: Callable
    truth: Callable[[Tensor], Tensor]
    bends: tuple[float, ...] = ()
    part: int | None = None
    # Its arguments are no smaller.
    within: float = -INFINITY


def softplus(x):
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def tanh_slope(x):
    e = torch.exp(-2 * x.abs())
    return 4 * e / (1 + e) ** 2


def sigmoid_slope(x):
    e = torch.exp(-x.abs())
    return e / (1 + e) ** 2


# From the first on 1 - sigmoid is below half a unit of 1; then subnormal, and 0; the last bounds the exponential.
SIGMOID_BENDS = (16.6, 87.3, 103.97, 110)

# The last one is the float whose distance to a multiple of pi / 2 is the smallest, 2^-31 or so.
ANGLES = (0.7853982, 1.5707964, 3.1415927, 6.2831855, 131072, 16367173 * 2.0**72)

UNARY = {
    "exp": Unary(device_math.exp, torch.exp, (-110, -103.97, -87.3, 88.72, 89)),
    "expm1": Unary(device_math.expm1, torch.expm1, (-30, -0.34657, 2.98e-8, 0.0625, 0.34657, 1.0397, 88.72, 89)),
    "tanh": Unary(device_math.tanh, torch.tanh, (0.125, 0.625, 9, 10)),
    "tanh_parts, value": Unary(device_math.tanh_parts, torch.tanh, (0.125, 0.625, 9, 10), 0),
    "tanh_parts, slope": Unary(device_math.tanh_parts, tanh_slope, (0.125, 0.625, 43, 44, 50, 52, 55), 1),
    "sigmoid, value": Unary(device_math.sigmoid_complement_slope, torch.sigmoid, SIGMOID_BENDS, 0),
    "sigmoid, complement": Unary(device_math.sigmoid_complement_slope, lambda x: torch.sigmoid(-x), SIGMOID_BENDS, 1),
    "sigmoid, slope": Unary(device_math.sigmoid_complement_slope, sigmoid_slope, SIGMOID_BENDS, 2),
    "reciprocal": Unary(device_math.reciprocal, torch.reciprocal, (1.17549435e-38, 2.9e-39, 8.5e37)),
    "reciprocal_normal": Unary(device_math.reciprocal_normal, torch.reciprocal, (1, 8.5e37), within=NORMAL),
    "sqrt_normal": Unary(device_math.sqrt_normal, torch.sqrt, (1,), within=NORMAL),
    "rsqrt_normal": Unary(device_math.rsqrt_normal, torch.rsqrt, (1,), within=NORMAL),
    "sqrt": Unary(device_math.sqrt, torch.sqrt, (1.17549435e-38,)),
    "rsqrt": Unary(device_math.rsqrt, torch.rsqrt, (1, 1.17549435e-38)),
    "log": Unary(logarithms.log, torch.log, (1.17549435e-38, 0.5, 2 / 3, 1, 4 / 3, 2)),
    "log1p": Unary(logarithms.log1p, torch.log1p, (-1, -1 / 3, 1 / 3, 1, 1e-30, 8.5e37, 1.7e38)),
    "softplus": Unary(logarithms.softplus, softplus, (-110, -104, -87.3, -1.0986, 0, 1.0986)),
    "logsigmoid": Unary(logarithms.logsigmoid, F.logsigmoid, (110, 104, 87.3, 1.0986, 0, -1.0986)),
    "softplus_and_sigmoid, value": Unary(logarithms.softplus_and_sigmoid, softplus, (-104, -1.0986, 0), 0),
    "softplus_and_sigmoid, sigmoid": Unary(logarithms.softplus_and_sigmoid, torch.sigmoid, (-104, 0), 1),
    "softplus_and_sigmoid, complement": Unary(
        logarithms.softplus_and_sigmoid, lambda x: torch.sigmoid(-x), (104, 0), 2
    ),
    "softplus_and_sigmoid, slope": Unary(logarithms.softplus_and_sigmoid, sigmoid_slope, SIGMOID_BENDS, 3),
    "erf": Unary(error_function.erf, torch.erf, (0.46875, 0.9, 3.125, 10.25)),
    "erfc": Unary(error_function.erfc, torch.erfc, (0.46875, -0.46875, 0.9, 3.125, 9.19, 10.05, 10.25)),
    "exp2": Unary(device_math.exp2, torch.exp2, (0.5, 1.5, 126, 128, 149)),
    "log2": Unary(logarithms.log2, torch.log2, (1.17549435e-38, 0.5, 2 / 3, 1, 4 / 3, 2)),
    "log10": Unary(logarithms.log10, torch.log10, (1.17549435e-38, 0.5, 2 / 3, 1, 4 / 3, 2, 10)),
    "sin": Unary(trigonometry.sin, torch.sin, ANGLES),
    "cos": Unary(trigonometry.cos, torch.cos, ANGLES),
    "sin_and_cos, sin": Unary(trigonometry.sin_and_cos, torch.sin, ANGLES, 0),
    "atan": Unary(trigonometry.atan, torch.atan, (1, 1.1529215046068470e18)),
    "sinh": Unary(hyperbolic.sinh, torch.sinh, (0.25, 1, 88.7, 89.4, 89.5)),
    "cosh": Unary(hyperbolic.cosh, torch.cosh, (0.34657, 1, 88.7, 89.4, 89.5)),
    "asinh": Unary(hyperbolic.asinh, torch.asinh, (2.44140625e-04, 0.3, 1, 1.2, 16384)),
    "acosh": Unary(hyperbolic.acosh, torch.acosh, (1, 1.0001, 1.01, 1.1, 1.5, 16384)),
    "atanh": Unary(hyperbolic.atanh, torch.atanh, (0.1428, 0.16, 0.5, 0.9999, 1)),
    "tan": Unary(trigonometry.tan, torch.tan, ANGLES),
    "asin": Unary(trigonometry.asin, torch.asin, (0.5, 0.53, 0.9999, 1)),
    "acos": Unary(trigonometry.acos, torch.acos, (0.5, 0.53, 0.9999, 1)),
    "erfinv": Unary(error_function.erfinv, torch.erfinv, (0.5, 0.9, 0.9966, 0.9999, 1)),
    "round": Unary(rounding.round, torch.round, (0.5, 1, 1.5, 2.5, 8388608)),
    "trunc": Unary(rounding.trunc, torch.trunc, (0.5, 1, 2, 8388608)),
}

# By name; what ends with "normal" has no smaller divisor than NORMAL.
BINARY = {
    "divide": (device_math.divide, torch.div),
    "divide_by_parameter": (device_math.divide_by_parameter, torch.div),
    "product_with_inverse, normal": (device_math.product_with_inverse, torch.div),
    "pow": (powers.pow, torch.pow),
    "hypot": (powers.hypot, torch.hypot),
    "atan2": (trigonometry.atan2, torch.atan2),
    "fmod": (rounding.fmod, torch.fmod),
    "remainder": (rounding.remainder, torch.remainder),
}


def run(function: Callable, inputs: list[Tensor], precise: bool, device: str, part: int | None = None) -> Tensor:
    inputs = [x.to(device).contiguous() for x in inputs]
    y = torch.empty_like(inputs[0])
    block = triton.next_power_of_2(y.numel()) if device == "cpu" else 1024
    grid = (triton.cdiv(y.numel(), block),)
    if len(inputs) == 1:
        unary_kernel[grid](inputs[0], y, y.numel(), function, part, precise, block)
    else:
        binary_kernel[grid](*inputs, y, y.numel(), function, precise, block)
    return y.cpu()


def assert_close(ours: Tensor, truth: Tensor, precise: bool, inputs: list[Tensor]) -> None:
    """Infinities, NaN, and the signs of zeros must agree; an overflow may come early by as much as the bound allows."""
    assert truth.dtype == torch.float64
    rounded = truth.float()
    # An infinity counts as the power of two after the largest number.
    reached = torch.where(ours.isinf() & truth.isfinite(), ours.double().sign() * 2.0**128, ours.double())
    bound = 1.5 * oracles.ulp(truth, torch.float32) if precise else 2.0**-16 * truth.abs() + 2.0**-134
    near = (reached - truth).abs() <= bound
    near &= (truth != 0) | (ours.signbit() == truth.signbit())
    same = (ours == rounded) | (ours.isnan() & rounded.isnan())
    wrong = torch.where(truth.isfinite(), ~near, ~same) & ~(truth.isfinite() & (truth.abs() >= 2.0**128) & same)
    if wrong.any():
        units = torch.where(wrong, (reached - truth).abs() / bound, -1.0).nan_to_num(INFINITY, INFINITY)
        i = int(units.argmax())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} wrong; the worst at {[x[i].item() for x in inputs]}: got "
            f"{ours[i].item()!r}, truth {truth[i].item()!r}, {units[i].item():.3g} times what is allowed"
        )


def floats(bends: tuple[float, ...]) -> Tensor:
    near = [oracles.near(*bends, *(-b for b in bends), dtype=torch.float32)] if bends else []
    # Most functions of a bounded domain change the most within 1, or right above it.
    unit = torch.linspace(-1, 1, 4001) ** 3
    dense = torch.linspace(-12, 12, 40001)
    return torch.cat([oracles.floats32(0), unit, 1 + unit**2, dense, torch.tensor(SPECIAL), *near])


def pairs(precise: bool) -> list[Tensor]:
    """Numbers of all sizes with numbers of all sizes, and with some of their own size; special ones with each other."""
    a = oracles.floats32(1) if precise else torch.cat([oracles.halves(d).float() for d in HALVES])
    generator = torch.Generator().manual_seed(3)
    b = a[torch.randperm(a.numel(), generator=generator)]
    special = torch.tensor([*SPECIAL, 0.5, -0.5, 2.0, 3.0, -3.0, 2.5, 1e4, -1e4, 16777216.0, 1e38])
    at, to = torch.meshgrid(special, special, indexing="ij")
    scale = torch.tensor([1.0, 0.75, -3.0, 0.3125]).repeat(-(-a.numel() // 4))[: a.numel()]
    # The second so that the power neither overflows nor underflows, or hardly.
    dtype = torch.float32 if precise else torch.bfloat16
    base = torch.exp2(30 * torch.randn(2**14, generator=generator)).clamp(1e-38, 3e38).to(dtype).float()
    base = torch.cat([base, (1 + 0.1 * torch.randn(2**13, generator=generator)).to(dtype).float()])
    logarithm = torch.log2(base).abs().clamp(min=1e-7)
    exponent = (150 * (2 * torch.rand(base.shape, generator=generator) - 1) / logarithm).to(dtype).float()
    firsts, seconds = [a, a, at.flatten(), base], [b, a.roll(1) * scale, to.flatten(), exponent]
    return [torch.cat(firsts), torch.cat(seconds)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For tensors as short as these, threads cost ten times what they save where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


precisions = pytest.mark.parametrize("precise", [True, False], ids=["precise", "halves"])


def check_unary(name: str, precise: bool, device: str, step: int = 1) -> None:
    case = UNARY[name]
    x = floats(case.bends) if precise else torch.cat([oracles.halves(dtype).float() for dtype in HALVES])[::step]
    x = x[~(x < case.within)]
    assert_close(run(case.function, [x], precise, device, case.part), case.truth(x.double()), precise, [x])


def check_binary(name: str, precise: bool, device: str, step: int = 1) -> None:
    function, truth = BINARY[name]
    a, b = (x[::step] for x in pairs(precise))
    if name.endswith("normal"):
        b = b.abs()
        a, b = a[~(b < NORMAL)], b[~(b < NORMAL)]
    assert_close(run(function, [a, b], precise, device), truth(a.double(), b.double()), precise, [a, b])


@precisions
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, precise, device):
    check_unary(name, precise, device)


def test_sigmoid_alone_for_halves(device, approximate):
    """Also where it is subnormal."""
    x = torch.cat([oracles.halves(dtype).float() for dtype in HALVES])
    assert_close(run(device_math.sigmoid, [x], False, device), torch.sigmoid(x.double()), False, [x])


@precisions
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, precise, device):
    check_binary(name, precise, device)


@precisions
@pytest.mark.parametrize("name", UNARY)
def test_unary_with_approximate_instructions(name, precise, device, approximate):
    check_unary(name, precise, device, step=5)
    # Of the approximate instructions a precise function may repair a division or a root, but not an exponential.
    assert not (precise and approximate.calls["exp2"])


@precisions
@pytest.mark.parametrize("name", BINARY)
def test_binary_with_approximate_instructions(name, precise, device, approximate):
    check_binary(name, precise, device, step=5)
    assert not (precise and approximate.calls["exp2"])
