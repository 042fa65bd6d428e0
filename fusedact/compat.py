"""The private names of torch that the library needs, each with a public fallback; nothing else may touch one.

Tried with torch 2.11 and 2.13.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "DispatchMode",
    "add_all",
    "autocast_dtype",
    "capturing",
    "compiled_in_place",
    "copy_all",
    "decompositions",
    "direct_apply",
    "dispatch_mode_active",
    "functionalizing",
    "fused_step",
    "gradients",
    "has_hooks",
    "has_saved_tensors_hooks",
    "holds_numbers",
    "in_backward",
    "inner_module",
    "interpreting",
    "is_dense",
    "is_distributed",
    "is_legacy_batched",
    "kernels_serve_device",
    "materialized",
    "observed",
    "prelu_kernel",
    "recording_graph",
    "schema",
    "silu_in_place",
    "tracing",
    "transforms_active",
    "transforms_allowed",
    "unobserved",
    "unwrapped",
    "version",
]


def _private(owner: object, name: str, fallback: Callable[..., object]) -> Callable[..., object]:
    return cast("Callable[..., object]", getattr(owner, name, fallback))


# torch.jit.trace and the legacy ONNX exporter. Fallback: the public question, which costs a call more.
tracing = cast("Callable[[], object]", _private(torch._C, "_get_tracing_state", torch.jit.is_tracing))

# torch.func transforms. Without the name, every call takes the transformable Function: slower, and right.
_functorch_active = _private(torch._C, "_are_functorch_transforms_active", lambda: True)

# A TorchDispatchMode (selective checkpointing, FLOP counting, make_fx). Without the name, always the operator.
_dispatch_modes = cast("Callable[[], int]", _private(torch._C, "_len_torch_dispatch_stack", lambda: 1))


# torch.autograd.graph.saved_tensors_hooks, of which non-reentrant checkpoints are made. Without the name, as if there
# were some.
_default_hooks = _private(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def has_saved_tensors_hooks() -> bool:
    """Whether hooks see the tensors that are saved for backward."""
    return bool(_default_hooks(False))


def transforms_active() -> bool:
    """Whether torch.func or forward-mode differentiation is under way: a dual tensor does not require grad."""
    return bool(_functorch_active()) or getattr(forward_ad, "_current_level", 0) >= 0


# The transforms in force, outermost first, or None.
_functorch_stack = cast("Callable[[], Any]", _private(torch._C._functorch, "get_interpreter_stack", lambda: None))


def functionalizing() -> bool:
    """Whether torch.func.functionalize is among the transforms, which has no rule for autograd Functions."""
    return any(layer.key().name == "Functionalize" for layer in _functorch_stack() or ())


def dispatch_mode_active() -> bool:
    """Whether a TorchDispatchMode watches the calls."""
    return _dispatch_modes() > 0


def observed(x: Tensor) -> bool:
    """Whether a call with x is traced, transformed or watched, or x a tensor that a transform left behind."""
    return bool(
        tracing()
        or _functorch_active()
        or _dispatch_modes()
        or getattr(forward_ad, "_current_level", 0) >= 0
        or _wrapped(x)
    )


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without its search for transforms, which takes a fifth of a small tensor's call.

    For calls that nothing transforms. Without the name, the same with the search.
    """
    return cast("Callable[..., Any]", getattr(super(torch.autograd.Function, function), "apply", function.apply))


# torch.autograd.grad(is_grads_batched=True), which only an operator can loop over. Without the name, it fails.
is_legacy_batched = cast(
    "Callable[[Tensor], bool]", _private(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)
)


# What the dispatcher includes and excludes where nothing is under way.
_AT_REST: Any = tuple(
    _private(torch._C, f"_dispatch_tls_local_{kind}_set", lambda: None)() for kind in ("include", "exclude")
)
_force_keys: Any = _private(torch._C, "_ForceDispatchKeyGuard", lambda *_: nullcontext())


def transforms_allowed() -> AbstractContextManager[Any]:
    """Lets an operator's body use torch.func: a TorchDispatchMode switches transforms off below itself."""
    return cast("AbstractContextManager[Any]", _force_keys(*_AT_REST))


def unobserved() -> AbstractContextManager[Any]:
    """What is computed in it, no transform, dispatch mode or autocast sees."""
    return transforms_allowed()


_unwrap = _private(torch._C._functorch, "get_unwrapped", lambda t: t)


def unwrapped(t: Tensor) -> Tensor:
    """The tensor inside those of torch.func's transforms: of vmap with all that it batches."""
    while _wrapped(t):
        inner = cast("Tensor", _unwrap(t))
        if inner is t:
            break
        t = inner
    return t


# The number of the backward pass that this thread is in, or -1. Without the name, what a checkpoint computes again
# counts again.
_backward_number = cast("Callable[[], int]", _private(torch._C, "_current_graph_task_id", lambda: -1))


def in_backward() -> bool:
    """Whether this thread is inside a backward pass, where checkpoints compute again."""
    return _backward_number() != -1


def inner_module(module: torch.nn.Module) -> torch.nn.Module:
    """The module that torch.compile wrapped, or the module itself."""
    return cast("torch.nn.Module", getattr(module, "_orig_mod", module))


def compiled_in_place(module: torch.nn.Module) -> bool:
    """Whether `module.compile()` was called, which compiles hooks with the rest."""
    return getattr(module, "_compiled_call_impl", None) is not None


def is_distributed(t: object) -> bool:
    """Whether t is a DTensor."""
    # What has not been imported made none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def recording_graph() -> bool:
    """Whether make_fx records the calls, which refuses to tell numbers of what it records."""
    # What has not been imported records nothing.
    module = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return module is not None and dispatch_mode_active() and module.get_proxy_mode() is not None


def is_dense(x: Tensor) -> bool:
    """Whether x covers a stretch of memory without gaps or overlap."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def version(t: Tensor) -> int | None:
    """How often t was changed in place; None where nobody counts."""
    return None if t.is_inference() else t._version


def capturing(t: Tensor) -> bool:
    """Whether a CUDA graph of t's device is being captured."""
    return t.is_cuda and torch.cuda.is_current_stream_capturing()


# A tensor that belongs to a torch.func transform. Without the name, every one is taken for such under a transform.
_wrapped = _private(torch._C._functorch, "is_functorch_wrapped_tensor", lambda _: bool(_functorch_active()))


def holds_numbers(t: Tensor) -> bool:
    """Whether t's numbers may be asked for: not those of a meta or fake tensor, or of one that a transform batches."""
    return type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta and not _wrapped(t)


def materialized(x: Tensor) -> Tensor:
    """x with its values in memory: tensors with a pending negation or without storage are copied."""
    if x.is_neg() or x._is_zerotensor():
        return x.clone()
    return x


# silu_ by the name that torch.nn.functional.silu calls. Without it, that, which costs a small tensor a third more.
silu_in_place = cast(
    "Callable[[Tensor], Tensor]",
    _private(torch._C._nn, "silu_", lambda x: torch.nn.functional.silu(x, inplace=True)),
)


# torch.prelu along any dimension: the public function takes the second alone.
prelu_kernel = cast(
    "Callable[[Tensor, Tensor], Tensor]", _private(torch, "_prelu_kernel", lambda x, w: torch.where(x > 0, x, w * x))
)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast computes what gains from lower precision; None where it changes nothing for x."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


interpreting: bool = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@cache
def kernels_serve_device(device: torch.device) -> str:
    """Why Triton kernels cannot serve a device; an empty string if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreting:
        return "" if device.type == "cpu" else f"the interpreter works on the CPU, not on {device.type}"
    if device.type != "cuda":
        return f"kernels do not run on {device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "kernels need compute capability 8.0"
    return ""


class DispatchMode(TorchDispatchMode):
    """Sees every operator below autograd. PyTorch documents its base, under a private name."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else the first operator imports Dynamo, which takes more than a second.
        return False


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a call of the module does more than its `forward`. Without the names, always."""
    return any(getattr(module, name, True) for name in _HOOKS)


def schema(operator: Any) -> Any:
    """An operator's name, arguments, and whether it changes one."""
    return operator._schema


def decompositions() -> dict[Any, Callable[..., Any]]:
    """By operator: the operators that it consists of. Without the name, none is known."""
    return cast("dict[Any, Callable[..., Any]]", getattr(getattr(torch, "_decomp", None), "decomposition_table", {}))


def _copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _add_each(targets: Sequence[Tensor], sources: Sequence[Tensor], *, alpha: float) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.add_(source, alpha=alpha)


# Adds a multiple of one tensor of a list to its counterpart in another. Without the name, one by one.
add_all = cast("Callable[..., None]", _private(torch, "_foreach_add_", _add_each))
# copy_ of one list of tensors to another, in one call. Without the name, one by one.
copy_all = cast("Callable[[Sequence[Tensor], Sequence[Tensor]], None]", _private(torch, "_foreach_copy_", _copy_each))


def fused_step(name: str) -> Callable[..., None] | None:
    """PyTorch's own fused step on the CPU: "sgd", "adam" or "adamw". Without the name, there is none."""
    return getattr(torch, f"_fused_{name}_", None)


_engine: Any = getattr(torch.autograd.graph, "_engine_run_backward", None)


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor | None, ...]:
    """torch.autograd.grad, which imports a quarter of a second of symbolic shapes when it is first given gradients.

    Fallback: itself.
    """
    if _engine is None:
        return torch.autograd.grad(outputs, inputs, grads, create_graph=create_graph, allow_unused=True)
    return _engine(tuple(outputs), tuple(grads), create_graph, create_graph, tuple(inputs), True, accumulate_grad=False)
