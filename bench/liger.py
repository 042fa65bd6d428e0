"""Kernels of Liger, where it is installed and there is a GPU; called as fusedact's functions are."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from bench.subjects import Function


def _kernel(
    module: str, name: str, called: Callable[[Function], Function]
) -> dict[str, Callable[[torch.device], Function | None]]:
    """The provider of an autograd function, whose `apply` is called in this way."""

    def found(device: torch.device) -> Function | None:
        if device.type != "cuda":
            return None
        try:
            function = getattr(importlib.import_module(f"liger_kernel.ops.{module}"), name)
        except (ImportError, AttributeError):
            return None
        return called(function.apply)

    return {"liger": found}


# The gate comes first there. The gradients of the first two are written over the inputs.
SWIGLU = _kernel("swiglu", "LigerSiLUMulFunction", lambda apply: lambda x, gate: apply(gate, x))
GEGLU = _kernel("geglu", "LigerGELUMulFunction", lambda apply: lambda x, gate: apply(gate, x))
PACKED_SWIGLU = _kernel("swiglu", "LigerFusedGateUpSiLUMulFunction", lambda apply: lambda both: apply(both))
SOFTMAX = _kernel("softmax", "LigerSoftmaxFunction", lambda apply: lambda x: apply(x))
RELU_SQUARED = _kernel("relu_squared", "LigerReLUSquaredFunction", lambda apply: lambda x: apply(x))
