"""Which modules have a twin here, and how one is made: the same function, parameters and state_dict keys.

Those of other libraries are known by their class's full name, so that nothing is imported for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import modules, registry
from ..modules import create
from ..registry import ActivationSpec

__all__ = [
    "Elementwise",
    "constructor_arguments",
    "home",
    "is_ours",
    "label",
    "record_of",
    "twin_of",
    "why_closed",
    "why_never",
    "why_not",
]

# The base of all elementwise modules, those of one's own activations too.
Elementwise: Any = vars(modules)["_Elementwise"]

# PyTorch's classes. nn.Identity is no activation in a model, but a place that was left free.
_TORCH: dict[Any, str] = {
    getattr(nn, spec.module): name
    for name, spec in ((n, registry.get(n)) for n in registry.names())
    if spec.twin and name != "identity" and hasattr(nn, spec.module)
}


def _clip(module: Any) -> dict[str, Any]:
    return {"min_val": module.min, "max_val": module.max}


# Classes of other libraries: the record, and arguments where they have others than ours.
_TRANSFORMERS: dict[str, str] = {
    "AccurateGELUActivation": "gelu_tanh",
    "ClippedGELUActivation": "clipped_gelu",
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "LaplaceActivation": "laplace",
    "MishActivation": "mish",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "ReLUSquaredActivation": "relu_squared",
    "SiLUActivation": "silu",
    "SqrtSoftplusActivation": "sqrtsoftplus",
}
_TIMM: dict[str, str] = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "HardMish": "hard_mish",
    "HardMishMe": "hard_mish",
    "HardSigmoid": "hardsigmoid",
    "HardSigmoidMe": "hardsigmoid",
    "HardSwish": "hardswish",
    "HardSwishMe": "hardswish",
    "Mish": "mish",
    "MishMe": "mish",
    "PReLU": "prelu",
    "QuickGELU": "quick_gelu",
    "Sigmoid": "sigmoid",
    "Swish": "silu",
    "SwishMe": "silu",
    "Tanh": "tanh",
}
_NAMED: dict[str, str] = {
    **{f"transformers.activations.{name}": record for name, record in _TRANSFORMERS.items()},
    **{
        f"timm.{place}.{name}": record
        for place in (
            "layers.activations",
            "layers.activations_me",
            "models.layers.activations",
            "models.layers.activations_me",
        )
        for name, record in _TIMM.items()
    },
}
_OTHERWISE: dict[str, str] = {
    "transformers.activations.XIELUActivation": "its checkpoints hold beta and eps, which are numbers in the twin's: "
    "name it in the mapping",
}
_ARGUMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {"transformers.activations.ClippedGELUActivation": _clip}


def qualified(cls: type) -> str:
    """The full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def home(value: Any) -> str:
    """The package of a class or a function."""
    return str(value.__module__).split(".")[0]


def is_ours(module: object) -> bool:
    """Whether it is a module of this library, or of an activation that `fusedact.activation` made."""
    return isinstance(module, Elementwise) or home(type(module)) == "fusedact"


def record_of(module: nn.Module) -> ActivationSpec | None:
    """The record whose function a module computes: of PyTorch's classes, of other libraries', and of ours."""
    if is_ours(module):
        spec = getattr(module, "spec", None)
        return spec if isinstance(spec, ActivationSpec) else None
    cls = type(module)
    name = _TORCH.get(cls) or _NAMED.get(qualified(cls))
    return registry.get(name) if name else None


def constructor_arguments(cls: type) -> frozenset[str]:
    """The names of what a module is made with: attributes in PyTorch's classes, and no more than that."""
    return frozenset(inspect.signature(cls.__init__).parameters) | {"act"}  # type: ignore[misc]


def twin_of(
    module: nn.Module,
    learnable: tuple[str, ...] = (),
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A module of this library that computes what the given one does, with its very nn.Parameters.

    Raises:
        TypeError, ValueError: if its arguments are none that the twin takes.
    """
    spec = record_of(module)
    assert spec is not None
    found = _ARGUMENTS.get(qualified(type(module)))
    arguments: dict[str, Any] = found(module) if found else {}
    names = ["inplace", *(p.name for p in spec.parameters), *(o.name for o in spec.options)]
    if spec.always_learned:
        names = ["num_parameters", "init"]
    if not found:
        # A module's mode is no argument.
        arguments |= {name: getattr(module, name) for name in names if name != "training" and hasattr(module, name)}
    if spec.kind != "elementwise" and "temperature" in learnable:
        arguments |= {"learnable": True, "device": device, "dtype": dtype}
    elif spec.kind == "elementwise" and learnable and not spec.always_learned:
        arguments |= {"learnable": learnable, "inplace": False, "device": device, "dtype": dtype}
    if isinstance(module, Elementwise):
        # One of ours that begins to learn.
        arguments |= {"channel_dim": module.channel_dim, "save": module.save}
    made = module.own.module(**arguments) if spec.key else create(spec.name, **arguments)  # type: ignore[union-attr,operator]
    if spec.always_learned:
        made._parameters.update(module._parameters)
    return made


def label(module: nn.Module) -> str:
    """A module as a report shows it, in one line."""
    prefix = {"torch": "nn.", "fusedact": "fusedact."}.get(home(type(module)), "")
    # A container has lines of its own for what it holds.
    try:
        shown = "..." if module._modules else " ".join(module.extra_repr().split())
    except AttributeError:  # one that is not complete
        shown = "..."
    return f"{prefix}{type(module).__name__}({shown})"


# Modules of PyTorch that hold activations where nobody can reach them.
_INSIDE: dict[str, str] = {
    "MultiheadAttention": "its softmax is inside PyTorch's attention",
    "RNN": "its activations are inside PyTorch's recurrent kernels",
    "LSTM": "its activations are inside PyTorch's recurrent kernels",
    "GRU": "its activations are inside PyTorch's recurrent kernels",
    "RNNCell": "its activations are inside PyTorch's recurrent kernels",
    "LSTMCell": "its activations are inside PyTorch's recurrent kernels",
    "GRUCell": "its activations are inside PyTorch's recurrent kernels",
    "AdaptiveLogSoftmaxWithLoss": "its log_softmax is part of a loss of many parts",
}


def why_closed(module: nn.Module) -> str:
    """Why nothing in a module and below it can be converted; an empty string if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced by torch.jit: convert the model before"
    for cls in type(module).__mro__:
        name = qualified(cls)
        if name.startswith(("torch.distributed.fsdp", "torch.distributed._composable")):
            return "sharded by FSDP, which has looked at its parameters already: convert the model before"
        if name.startswith("torch.nn.parallel.distributed."):
            return (
                "wrapped in DistributedDataParallel, which has looked at its parameters already: convert the model "
                "before"
            )
    return ""


def why_not(module: nn.Module) -> str:
    """Why a module that computes an activation, or seems to, has no twin; an empty string for all others."""
    cls = type(module)
    name = qualified(cls)
    if name.startswith("keras.") and ".activations." in name:
        return "a layer of Keras, which keeps its own: give the layer activation=fusedact.functional.relu, or another"
    if name.startswith("torch.nn.modules.") and cls.__name__ in _INSIDE:
        return _INSIDE[cls.__name__]
    if name in _OTHERWISE:
        return _OTHERWISE[name]
    spec = record_of(module)
    if (never := why_never(module)) and (spec is not None or _seems_one(cls)):
        return never
    base = next((b for b in cls.__mro__ if b in _TORCH), None)
    if spec is None and base is not None:
        if parametrize.is_parametrized(module):
            return "parametrized: its weight is computed anew at each call; remove the parametrization before"
        return f"a class of its own, derived from nn.{base.__name__}: name it in the mapping if its forward is the same"
    if spec is None or is_ours(module):
        return ""
    return _why_no_twin(module, spec)


def why_never(module: nn.Module) -> str:
    """Why nothing at all can take a module's place; an empty string if something can."""
    if "forward" in module.__dict__:
        return "its forward was replaced by another function"
    if any(p is not None and nn.parameter.is_lazy(p) for p in module._parameters.values()):
        return "not initialised yet: call the model once before"
    cls = type(module)
    if qualified(cls).startswith(("torch.ao.", "torch.nn.quantized", "torch.nn.intrinsic")) and _seems_one(cls):
        kind = "fused for quantization" if "intrinsic" in qualified(cls) else "quantized"
        return f"{kind}: its numbers are not those of the float activation"
    return ""


def _seems_one(cls: type) -> bool:
    """Whether a class of quantized modules is, or ends with, an activation."""
    return any(b in _TORCH for b in cls.__mro__) or any(
        part in cls.__name__.lower() for part in ("relu", "sigmoid", "softmax", "hardswish", "elu", "tanh")
    )


def _why_no_twin(module: nn.Module, spec: ActivationSpec) -> str:
    """What a twin of this very instance would lose."""
    expected = {p.name for p in spec.parameters} if spec.always_learned else set()
    have = set(module._parameters)
    if have != expected:
        if expected - have:
            return f"its {', '.join(sorted(expected - have))} is computed by another module's hook, such as weight_norm"
        return f"it has parameters of its own: {', '.join(sorted(have))}"
    if module._modules:
        return f"it has modules of its own: {', '.join(module._modules)}"
    for p in spec.parameters:
        value = getattr(module, p.name, 0.0)
        if isinstance(value, Tensor) and not spec.always_learned:
            return f"its {p.name} is a tensor, where the twin takes a number"
    return ""
