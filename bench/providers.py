"""The ways to compute a subject: fusedact, plain PyTorch, torch.compile of it, other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import fusedact
from bench.catalog import SUBJECTS
from bench.subjects import BIASED, GATED, LINEAR, ROWWISE, Arguments, Function, Subject
from fusedact import functional as FF
from fusedact import registry

EAGER, FUSEDACT, COPY = "eager", "fusedact", "copy"
COMPILE, MAX_AUTOTUNE, FAST_MATH = "compile", "compile max-autotune", "compile fast-math"


def _bound(function: Callable[..., Tensor], arguments: Arguments) -> Function:
    return functools.partial(function, **arguments) if arguments else function


def _usual(s: Subject, fixed: Arguments) -> bool:
    """Whether these are the defaults of both functions, which nobody writes out."""
    return s.twin is not None and registry.get(s.activation).usual == tuple(fixed.values())


def fused(subject: str, device: torch.device) -> Function:
    """The activation out of fusedact."""
    s = SUBJECTS[subject]
    fixed = s.fixed(device)
    function = s.function or getattr(FF, s.activation)
    if s.tables:
        # They do not come first.
        return lambda x, *learned: function(x, **fixed, **dict(zip(s.learned, learned, strict=True)))
    return _bound(function, {} if _usual(s, fixed) else fixed)


def eager(subject: str, device: torch.device) -> Function:
    """The activation in plain PyTorch, whose arguments may have other names, as those of F.leaky_relu."""
    s = SUBJECTS[subject]
    function, fixed = s.plain, s.fixed(device)
    if not fixed or _usual(s, fixed):
        return function
    values = tuple(fixed.values())

    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors, *values)

    return call


def others(subject: str, device: torch.device) -> dict[str, Function]:
    """The activation out of other libraries, as far as they are installed and have it."""
    found = {name: make(device) for name, make in SUBJECTS[subject].others.items()}
    return {name: function for name, function in found.items() if function is not None}


def compilers(device: torch.device) -> dict[str, dict[str, Any]]:
    """Ways of torch.compile, with its arguments. Without CUDA graphs: the runner makes its own, for every provider."""
    ways: dict[str, dict[str, Any]] = {COMPILE: {}}
    if device.type == "cuda":
        ways[MAX_AUTOTUNE] = {"mode": "max-autotune-no-cudagraphs"}
        # Inductor's approximations of exp and the like in Triton; off by default, and not in every version.
        if "use_fast_math" in torch._inductor.list_options():
            ways[FAST_MATH] = {"options": {"use_fast_math": True}}
    return ways


def _compiled(function: Function, **options: Any) -> Function:
    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors)

    return torch.compile(call, dynamic=False, **options)


def providers(subject: str, device: torch.device, compiled: Iterable[str] = ()) -> dict[str, Function]:
    """The functions to compare, by name; `compiled` names ways of torch.compile."""
    plain, compiled = eager(subject, device), set(compiled)
    functions = {EAGER: plain}
    if compiled:
        # Each case compiles for its own shape, from an empty cache.
        torch.compiler.reset()
        functions |= {way: _compiled(plain, **options) for way, options in compilers(device).items() if way in compiled}
    return functions | others(subject, device) | {FUSEDACT: fused(subject, device)}


def path(subject: str, x: Tensor, *tensors: Tensor) -> str:
    """The way that fusedact takes; empty for what `fusedact.explain` knows nothing of."""
    s = SUBJECTS[subject]
    if s.form in (BIASED, LINEAR) or (s.form == ROWWISE and s.function is not None):
        return ""
    if s.form == GATED:
        return fusedact.explain(s.activation, x).kind
    parameters = s.fixed(x.device) | dict(zip(s.learned, tensors, strict=True))
    return fusedact.explain(s.function or s.activation, x, **parameters).kind
