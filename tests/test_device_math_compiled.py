"""The machine code of the elementary device functions: no spills, on every target. No device is needed."""

from __future__ import annotations

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import machine_code
import triton
import triton.language as tl
from triton.compiler import ASTSource

from fusedact.kernels import device_math, error_function, hyperbolic, logarithms, powers, rounding, trigonometry

aot = benches.load("aot")

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]

UNARY = {
    device_math: [
        *("exp", "expm1", "tanh", "tanh_parts", "reciprocal", "sqrt", "rsqrt", "exp2"),
        *("sigmoid_complement_slope", "reciprocal_normal", "sqrt_normal", "rsqrt_normal"),
    ],
    error_function: ["erf", "erfc", "erfinv"],
    hyperbolic: ["sinh", "cosh", "asinh", "acosh", "atanh"],
    rounding: ["round", "trunc"],
    logarithms: ["log", "log1p", "softplus", "logsigmoid", "softplus_and_sigmoid", "log2", "log10"],
    trigonometry: ["sin", "cos", "sin_and_cos", "tan", "atan", "asin", "acos"],
}
DIVISIONS = ["divide", "divide_by_parameter", "product_with_inverse"]
BINARY = {device_math: DIVISIONS, powers: ["pow", "hypot"], trigonometry: ["atan2"], rounding: ["fmod", "remainder"]}
CASES = [(module, name, arity) for arity, kind in ((1, UNARY), (2, BINARY)) for module in kind for name in kind[module]]


@triton.jit
def kernel(x_ptrs, y_ptrs, FUNCTION: tl.constexpr, PRECISE: tl.constexpr, BLOCK: tl.constexpr):
    """y = f(x), or (y, z, ...) = f(x), or y = f(a, b)."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptrs[0] + offs).to(tl.float32)
    if len(x_ptrs) == 1:
        y = FUNCTION(x, PRECISE)
    else:
        z = tl.load(x_ptrs[1] + offs).to(tl.float32)
        y = FUNCTION(x, z, PRECISE)
    if len(y_ptrs) > 1:
        for i in tl.static_range(len(y_ptrs)):
            tl.store(y_ptrs[i] + offs, y[i].to(y_ptrs[i].dtype.element_ty))
    else:
        tl.store(y_ptrs[0] + offs, y.to(y_ptrs[0].dtype.element_ty))


def compiled(function, arity, dtype, target):
    """The kernel."""
    per_thread = 4 if dtype == "fp32" else 8
    name = function.__name__
    several = {"sigmoid_complement_slope": 3, "softplus_and_sigmoid": 4, "tanh_parts": 2, "sin_and_cos": 2}
    results = several.get(name, 1)
    signature = {"x_ptrs": (f"*{dtype}",) * arity, "y_ptrs": (f"*{dtype}",) * results}
    signature |= dict.fromkeys(["FUNCTION", "PRECISE", "BLOCK"], "constexpr")
    block = per_thread * 4 * aot.TARGETS[target].warp_size
    source = ASTSource(
        kernel,
        signature,
        {"FUNCTION": function, "PRECISE": dtype == "fp32", "BLOCK": block},
        {(i, j): [["tt.divisibility", 16]] for i, n in enumerate((arity, results)) for j in range(n)},
    )
    return triton.compile(source, target=aot.TARGETS[target], options={"num_warps": 4})


# Each target, and on every maker's both ways to compute.
@pytest.mark.parametrize(
    ("target", "dtype"), [("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "bf16"), ("gfx942", "fp32")]
)
@pytest.mark.parametrize(("module", "name", "arity"), CASES, ids=[name for _, name, _ in CASES])
def test_no_spills(module, name, arity, target, dtype):
    code = compiled(getattr(module, name), arity, dtype, target)
    # What a slow path of a division or a root is called with takes no stack.
    machine_code.assert_in_registers(code)
