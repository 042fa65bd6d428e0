"""Which path a call takes, chosen once per call, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Parameter

from . import compat, sharding
from .checks import FLOAT_DTYPES, owner
from .cpu import cpu_kernels
from .cpu.cpu_kernels import LARGE_COUNT
from .crossovers import (
    ATEN_TENSORS_BELOW,
    DRAWN_BELOW,
    FORMULA_BELOW,
    GATES_BELOW,
    MASKED_ROWS_BELOW,
    UNMASKED_ROWS_BELOW,
    UNMASKED_ROWS_BELOW_RECORDED,
    aten_below,
)
from .eager import HALF_DTYPES
from .registry import ActivationSpec
from .saving import saving
from .watching import gathering

__all__ = [
    "Path",
    "backend",
    "backend_var",
    "choose",
    "choose_step",
    "few_rows",
    "forced_backend",
    "is_recording",
    "nothing_under_way",
    "path_of_numbers",
    "recorded",
    "recording_var",
    "saving_path",
    "wants_gradient",
]


@dataclass(frozen=True)
class Path:
    """The way a call takes; it prints as a line.

    Attributes:
        kind: "aten", "pieces", "formula", "triton" or "shards".
        reason: why.
        keeps: of what `explain` returns, what is kept for backward: "input", "output", "output and bits", "bits",
            "slopes", or what PyTorch's operators keep.
        because: why that.
    """

    kind: str
    reason: str
    keeps: str = field(default="", compare=False)
    because: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" + (f"; keeps {self.keeps}: {self.because}" if self.keeps else "")


FORMULA_COMPILING = Path("formula", "the call is being compiled or exported; the compiler fuses the plain formula")
FORMULA_SUBCLASS = Path("formula", "the input or a parameter is a tensor subclass, which sees plain operators")
SHARDS = Path("shards", "the input is a DTensor: every rank calls the activation with its own shard")
FORMULA_TRACING = Path("formula", "torch.jit.trace records plain operators")
FORMULA_RECORDING = Path("formula", "an activation of one's own is being traced, down to plain operators")
FORMULA_META = Path("formula", "a meta tensor holds no values")
FORMULA_LAYOUT = Path("formula", "the tensor is sparse or nested")
ATEN_CPU = Path("aten", "on the CPU PyTorch's own operator is the fastest there is")
LARGE_CPU = Path(
    "pieces", "PyTorch's own operator writes into large pages, since entering small ones takes longer than it"
)
ATEN_FORCED = Path("aten", "the eager backend is forced, and PyTorch has this activation fused")
ATEN_ALWAYS = Path("aten", "no kernel can be better than PyTorch's own operator")
ATEN_TENSORS = Path(
    "aten", f"below {ATEN_TENSORS_BELOW} elements PyTorch's own operator and its autograd take less time"
)
FORMULA_SMALL = Path("formula", f"below {FORMULA_BELOW} elements on the CPU plain operators take less time")
PIECES_CPU = Path("pieces", "on the CPU the formula runs in cache-sized pieces and keeps only its input")
PIECES_ROWS = Path("pieces", "rows go through the cache in blocks, and only the output is kept")
PIECES_FORCED = Path("pieces", "the eager backend is forced; the formula keeps only its input")
PIECES_DRAWN = Path("pieces", "on the CPU the formula runs in cache-sized pieces and keeps the slopes that it draws")
PIECES_DRAWN_FORCED = Path("pieces", "the eager backend is forced; the formula keeps the slopes that it draws")
PIECES_SAVING = Path("pieces", "what backward keeps was chosen, so the formula runs in cache-sized pieces")
PIECES_FLOAT64 = Path("pieces", "kernels compute in float32; float64 takes the formula, which keeps only its input")
TRITON = Path("triton", "the fused kernel")
TRITON_FORCED = Path("triton", "the fused kernel, because the triton backend is forced")
TRITON_INTERPRETED = Path("triton", "the fused kernel in Triton's interpreter, because TRITON_INTERPRET is set")


@cache
def _aten_small(below: int) -> Path:
    return Path("aten", f"below {below} elements PyTorch's own kernel is launched sooner on this device")


BACKENDS = ("auto", "eager", "triton")


def _check_backend(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return name


_default = _check_backend(os.environ.get("FUSEDACT_BACKEND", "auto"), "the environment variable FUSEDACT_BACKEND")
backend_var: ContextVar[str] = ContextVar("fusedact_backend", default=_default)


recording_var: ContextVar[bool] = ContextVar("fusedact_recording", default=False)


def is_recording() -> bool:
    """Whether operators are being recorded for an activation of one's own."""
    # Dynamo cannot read the variable, and nothing is recorded inside it.
    return not is_compiling() and recording_var.get()


def recorded(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """A function's result, where activations are plain operators, for whoever records them."""
    token = recording_var.set(True)
    try:
        return function(*args)
    finally:
        recording_var.reset(token)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force the path that activations take in a `with` block, whatever the size of a tensor.

    Args:
        name: "auto" (choose per call), "eager" (PyTorch operators only) or "triton" (the fused kernels only). The
            environment variable FUSEDACT_BACKEND sets the default. Calls under torch.compile keep the formula.

    Raises:
        ValueError: for another name. An activation called under "triton" raises RuntimeError where no kernel can run.

    >>> with fusedact.backend("eager"):
    ...     FF.relu_sigmoid(torch.tensor([2.0]))
    tensor([1.7616])
    """
    token = backend_var.set(_check_backend(name, "fusedact.backend: name"))
    try:
        yield
    finally:
        backend_var.reset(token)


def forced_backend() -> str:
    """The backend in force: "auto", "eager" or "triton"."""
    return backend_var.get()


def _why_no_kernel(x: Tensor) -> str:
    """Why no kernel can serve a plain tensor; an empty string if one can."""
    if x.dtype == torch.float64:
        return "kernels compute in float32, and the input is float64"
    return compat.kernels_serve_device(x.device)


def nothing_under_way(x: Tensor) -> bool:
    """Whether x is a plain tensor, and nothing is traced, transformed, watched or asked for: see `path_of_numbers`.

    One test instead of many, since on a small tensor each takes as long as a part of the arithmetic.
    """
    kind: type = type(x)
    return (
        not is_compiling()
        and (kind is Tensor or kind is Parameter)
        and x.dtype in FLOAT_DTYPES
        and x.layout is torch.strided
        and not x.is_nested
        and saving.policy_var.get() == "auto"
        and gathering.wanted_var.get() is None
        and not recording_var.get()
        and not compat.observed(x)
    )


def wants_gradient(x: Tensor) -> bool:
    """Whether autograd records a call with x and numbers: whether x's gradient is wanted."""
    return x.requires_grad and torch.is_grad_enabled()


def _twin(spec: ActivationSpec, x: Tensor) -> Path | None:
    """The path by PyTorch's operator, where that takes no longer than pieces on the CPU, for numbers."""
    if spec.aten is None:
        return None
    # Under torch.jit.trace sizes are tensors, which warn when compared.
    if compat.tracing():
        return ATEN_CPU
    count = x.numel()
    pieces_from = (spec.pieces_from_recorded or spec.pieces_from) if wants_gradient(x) else spec.pieces_from
    if pieces_from and count >= pieces_from:
        return None
    return LARGE_CPU if count >= LARGE_COUNT and _in_large_pages(spec, x) else ATEN_CPU


def _in_large_pages(spec: ActivationSpec, x: Tensor) -> bool:
    """Whether results are to be written to large pages: nobody watches, and something writes into given memory."""
    kind: type = type(x)
    if not (kind is Tensor or kind is Parameter) or x.layout is not torch.strided or compat.observed(x):
        return False
    return cpu_kernels.large(spec, x) is not None and gathering.wanted_var.get() is None


def path_of_numbers(spec: ActivationSpec, x: Tensor) -> Path:
    """What `choose` finds for numbers as parameters where nothing is under way."""
    forced = backend_var.get()
    if forced == "auto" and x.is_cpu and not compat.interpreting:
        # Asked first, since most have neither.
        if spec.aten is not None and (path := _twin(spec, x)) is not None:
            return path
        return _lean(spec, x) if spec.lean_by_engine else PIECES_CPU
    return _possible(spec, x, _by_device(spec, x, spec.aten is not None and not spec.composite, forced), forced)


def _possible(spec: ActivationSpec, x: Tensor, path: Path, forced: str) -> Path:
    """The path, unless another one is forced."""
    if forced == "triton" and path.kind not in ("triton", "shards"):
        why = path.reason if path.kind == "formula" else _why_no_kernel(x)
        raise RuntimeError(
            f"{owner(spec)}: the triton backend is forced, but no kernel can run: {why}; use fusedact.backend('auto')"
        )
    return path


def choose(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], numbers: bool) -> Path:
    """The path of a call; the reason comes with it. `numbers`: no parameter is a tensor."""
    if is_compiling():
        return FORMULA_COMPILING
    forced = backend_var.get()
    # The shortest way for the cheapest operators. ATen also serves other subclasses, and what is sparse.
    kind: type = type(x)
    plainly = x.is_cpu and forced == "auto" and not compat.interpreting
    plainly = plainly and (kind is Tensor or kind is Parameter or not compat.is_distributed(x))
    if plainly and numbers and (twin := _twin(spec, x)) is not None:
        return twin
    path = _choose_plain(spec, x, params, numbers, forced)
    if path.kind == "pieces" and spec.kind == "rowwise":
        path = PIECES_ROWS
    return _possible(spec, x, path, forced)


def choose_step(owner: str, t: Tensor) -> Path:
    """The path of an optimizer's step of a parameter."""
    forced = backend_var.get()
    kind: type = type(t)
    plain = kind is Tensor or kind is Parameter
    why = _why_no_kernel(t) if plain else FORMULA_SUBCLASS.reason
    if not why and forced != "eager":
        return TRITON_INTERPRETED if compat.interpreting else TRITON
    if forced == "triton":
        raise RuntimeError(
            f"{owner}: the triton backend is forced, but no kernel can run: {why}; use fusedact.backend('auto')"
        )
    return PIECES_CPU if plain and t.is_cpu else Path("formula", why or "the eager backend is forced")


def saving_path(
    spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], numbers: bool, path: Path, keeps: str
) -> Path:
    """The path of a call that keeps what it was told to, instead of `path`: the formula cannot.

    PyTorch's operator serves where it keeps just that.
    """
    if path.kind == "triton" or (
        path.kind == "aten" and spec.aten is not None and saving.operator_keeps(spec) == keeps
    ):
        return path
    path = _choose_plain(spec, x, params, numbers, backend_var.get())
    if path.kind == "triton" or (path.kind == "formula" and not _is_small(spec, x, params, path)):
        return path
    return TRITON if path is _aten_small(aten_below(x.device)) else PIECES_SAVING


def _is_small(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], path: Path) -> bool:
    """Whether the formula was chosen because x has few elements."""
    if spec.kind in ("gated", "rowwise"):
        return path is _formula_of_few(_few(spec, x, params))
    return path is FORMULA_SMALL


def _by_shards(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor]) -> bool:
    """Whether every rank can make the call with its own shards: not with a prepared table of a row per channel."""
    return (
        spec.kind in ("elementwise", "piecewise")
        and (spec.table is None or spec.table.channel_dim is None)
        and sharding.among(x, *params)
        and all(sharding.served(t) for t in (x, *params) if isinstance(t, Tensor))
        and not (compat.transforms_active() or compat.tracing() or is_recording())
    )


def _is_plain(t: float | Tensor) -> bool:
    kind: type = type(t)
    return kind is float or kind is Tensor or kind is Parameter


def _alike(x: Tensor, params: Sequence[float | Tensor]) -> bool:
    """Whether all parameters are tensors of x's dtype; not halves, in which PyTorch rounds each term of their sums."""
    return x.dtype not in HALF_DTYPES and all(isinstance(p, Tensor) and p.dtype == x.dtype for p in params)


def _choose_plain(
    spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], numbers: bool, forced: str
) -> Path:
    kind: type = type(x)
    plain = kind is Tensor or kind is Parameter
    if not plain or (not numbers and not all(map(_is_plain, params))):
        return SHARDS if _by_shards(spec, x, params) else FORMULA_SUBCLASS
    if compat.tracing():
        return FORMULA_TRACING
    if is_recording():
        return FORMULA_RECORDING
    if x.layout is not torch.strided or x.is_nested:
        return FORMULA_LAYOUT
    aten = numbers and spec.aten is not None and not spec.composite
    if x.is_cpu and forced == "auto" and not compat.interpreting:
        if spec.aten_tensors is not None and x.numel() < ATEN_TENSORS_BELOW and _alike(x, params):
            # Not under transforms, which PyTorch's prelu does not all serve.
            return PIECES_CPU if compat.transforms_active() else ATEN_TENSORS
        if spec.kind == "random" and x.numel() < (below := DRAWN_BELOW.get(x.dtype, 0)):
            return _aten_drawn(below)
        if spec.kind in ("gated", "rowwise"):
            few = _few(spec, x, params)
            if x.numel() < few:
                return _formula_of_few(few)
        return _lean(spec, x)
    return _by_device(spec, x, aten, forced)


@cache
def _formula_of_few(below: int) -> Path:
    return Path("formula", f"below {below} elements on the CPU PyTorch's operators take less time")


@cache
def _aten_drawn(below: int) -> Path:
    return Path("aten", f"below {below} elements on the CPU PyTorch's operator takes less time, and keeps its slopes")


def _few(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor]) -> int:
    """Below how many elements plain operators serve a gate, or rows."""
    return GATES_BELOW if spec.kind == "gated" else few_rows(x, *(p for p in params if isinstance(p, Tensor)))


def few_rows(x: Tensor, *tensors: Tensor) -> int:
    """Below how many elements plain operators serve a softmax with a temperature, or a mask."""
    if any(t.dtype == torch.bool for t in tensors):
        return MASKED_ROWS_BELOW
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors))
    return UNMASKED_ROWS_BELOW_RECORDED if recorded or x.dtype in HALF_DTYPES else UNMASKED_ROWS_BELOW


def _lean(spec: ActivationSpec, x: Tensor) -> Path:
    """The path of a CPU tensor that no operator of PyTorch serves."""
    if spec.kind == "random":
        return PIECES_DRAWN
    return FORMULA_SMALL if spec.lean_by_engine and x.numel() < FORMULA_BELOW else PIECES_CPU


def _by_device(spec: ActivationSpec, x: Tensor, aten: bool, forced: str) -> Path:
    """The path of a plain tensor on another device, or under a forced backend; `aten`: PyTorch has the activation."""
    if forced == "eager":
        if spec.kind == "random" and x.is_cpu:
            return PIECES_DRAWN_FORCED
        return ATEN_FORCED if aten else PIECES_FORCED
    if x.is_meta:
        return FORMULA_META
    why_not = _why_no_kernel(x)
    if not why_not:
        if compat.interpreting:
            return TRITON_INTERPRETED
        if forced == "triton":
            return TRITON_FORCED
        if aten and spec.always_aten:
            return ATEN_ALWAYS
        if aten and x.numel() < (below := aten_below(x.device)):
            return _aten_small(below)
        return TRITON
    if aten:
        return Path("aten", f"PyTorch has this activation fused, and {why_not}")
    return (
        PIECES_FLOAT64 if x.dtype == torch.float64 else Path("pieces", f"the formula keeps only its input: {why_not}")
    )
