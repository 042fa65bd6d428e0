"""A GPU's approximate instructions, for Triton's interpreter, which computes with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TINY = float(np.finfo(np.float32).tiny)

# PTX's documented bounds: ex2.approx.ftz.f32 within 2^-22 relative, results below the normal range flushed;
# div.full.f32 within 2 units in the last place; rsqrt.approx.ftz.f32 within 2^-22.9 and sqrt.approx.ftz.f32 within
# 2^-23, both take a subnormal for 0. div.rn.f32, sqrt.rn.f32 and fma.rn.f32 are exact.
EXP2_ERROR = 2.0**-22
DIVISION_ERROR = 2.0**-22
ROOT_ERROR = 2.0**-22.9


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


class Approximate:
    """exp2, division and roots with a GPU's errors: all in one direction, or each at random."""

    def __init__(self, exp2_sign: float, division_sign: float):
        self.signs = exp2_sign, division_sign
        self.generator = np.random.default_rng(0)
        self.calls = {"exp2": 0, "division": 0}

    def sign(self, index, shape):
        return self.signs[index] or self.generator.choice([-1.0, 1.0], shape)

    @np.errstate(all="ignore")
    def exp2(self, x):
        self.calls["exp2"] += 1
        x = np.where(np.abs(x) < TINY, np.float32(0), x)
        exact = np.exp2(x.astype(np.float64))
        moved = exact * (1 + self.sign(0, x.shape) * EXP2_ERROR)
        return np.where(exact < TINY, 0.0, np.where(x == 0, 1.0, moved)).astype(np.float32)

    @np.errstate(all="ignore")
    def division(self, a, b):
        self.calls["division"] += 1
        exact = a.astype(np.float64) / b.astype(np.float64)
        moved = exact * (1 + self.sign(1, exact.shape) * DIVISION_ERROR)
        # Where the divisor is past 2^126, div.full may give 0, and NaN for an infinity or a NaN over it.
        return np.where(np.abs(b) > 2.0**126, a * np.copysign(0.0, b), moved).astype(np.float32)

    @np.errstate(all="ignore")
    def sqrt(self, x):
        exact = np.sqrt(_flushed(x).astype(np.float64))
        return (exact * (1 + self.sign(1, exact.shape) * ROOT_ERROR)).astype(np.float32)

    @np.errstate(all="ignore")
    def rsqrt(self, x):
        exact = 1 / np.sqrt(_flushed(x).astype(np.float64))
        return (exact * (1 + self.sign(1, exact.shape) * ROOT_ERROR)).astype(np.float32)

    def install(self, monkeypatch: Any) -> None:
        """Put these in the place of the interpreter's."""
        from triton.runtime.interpreter import InterpreterBuilder

        unary, binary = InterpreterBuilder.unary_op, InterpreterBuilder.binary_op
        monkeypatch.setattr(InterpreterBuilder, "create_exp2", lambda self, x: unary(self, x, model.exp2))
        monkeypatch.setattr(InterpreterBuilder, "create_fdiv", lambda self, a, b: binary(self, a, b, model.division))
        monkeypatch.setattr(InterpreterBuilder, "create_sqrt", lambda self, x: unary(self, x, model.sqrt))
        monkeypatch.setattr(InterpreterBuilder, "create_rsqrt", lambda self, x: unary(self, x, model.rsqrt))
        model = self


def as_hardware(patch: Callable[[Any, str, Any], None]) -> None:
    """Arithmetic in the interpreter as hardware does it, in three places where it is not, by a `setattr`.

    Its conversion of fp32 to bf16 cuts off, and garbles subnormals; its fused multiply-add rounds twice; its maximum
    and minimum hand a NaN on where they should not.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def converted(data, source, target, rounding_mode):
        if (source, target) == (tl.bfloat16, tl.float32):
            return data.view(np.uint16).astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            bits = data.astype(np.float32).view(np.uint32)
            rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
            return np.where(np.isnan(data), (bits >> 16 | 0x40).astype(np.uint16), rounded)
        return convert(data, source, target, rounding_mode)

    def fused(self, x, y, z):
        assert x.data.dtype == np.float32
        with np.errstate(all="ignore"):
            exact = x.data.astype(np.float64) * y.data + z.data
            return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    patch(interpreter, "_convert_float", converted)

    def giving_way(function):
        return lambda self, a, b: self.binary_op(a, b, function)

    patch(interpreter.InterpreterBuilder, "create_fma", fused)
    patch(interpreter.InterpreterBuilder, "create_maxnumf", giving_way(np.fmax))
    patch(interpreter.InterpreterBuilder, "create_minnumf", giving_way(np.fmin))
