"""The fused forms that are timed: gated activations, those of a sum, linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import compositions, liger
from bench.subjects import (
    BIASED,
    COLUMNS,
    FEATURES,
    GATED,
    LINEAR,
    Subject,
    halves,
    pairs,
    rows_of,
    whole_rows,
)
from fusedact import functional as FF

DROPOUT = 0.1


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": _gelu_tanh}

# Values and gates of a few units multiply what is rounded.
_GATED: dict[str, Any] = {"shape": rows_of(COLUMNS), "kind": GATED, "rounded": 1.0, "cancelling": 4.0}


def _gated(name: str, **others: Any) -> Subject:
    """Of two tensors."""
    return Subject(
        "glu",
        composition=compositions.gated(PLAIN[name]),
        function=lambda x, gate: FF.gated(x, gate, name),
        operands=1,
        **_GATED,
        **others,
    )


def _packed(layout: str, composition: Callable[..., Tensor], reaching: Callable[[Tensor], Tensor], **others: Any):
    """Of one tensor that holds both."""
    return Subject(
        "glu",
        composition=composition,
        function=lambda both: FF.packed_glu(both, layout=layout),
        packed=True,
        reaching=reaching,
        **_GATED,
        **others,
    )


def _biased(name: str, p: float = 0.0) -> Subject:
    plain = PLAIN[name]
    without = compositions.biased(plain)
    return Subject(
        name,
        lambda _: {"bias": 0.3},
        composition=compositions.biased_dropout(plain, p) if p else without,
        learned=("bias",),
        shape=rows_of(COLUMNS),
        function=lambda x, bias: FF.bias_act(x, bias, name, dropout_p=p),
        kind=BIASED,
        # Plain operators round the sum, by which a slope of 1 passes its error on.
        rounded=4.0,
        cancelling=4.0,
        dropped=p,
        undropped=without if p else None,
    )


def _layer(x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights with which the product is distributed as x is, and biases."""
    features = x.shape[1]
    generator = torch.Generator(x.device).manual_seed(1)
    weight = torch.randn(features, features, device=x.device, generator=generator) / features**0.5
    return weight, torch.linspace(-0.5, 0.5, features, device=x.device)


def _squares(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Of a layer, with the gradients that slopes of about 1 would pass on: slopes near 0 err as others do."""
    return g.square().mT @ x.square(), g.square().sum(0)


def _linear(name: str) -> Subject:
    plain = PLAIN[name]
    return Subject(
        name,
        composition=compositions.linear(plain),
        learned=("weight", "bias"),
        shape=rows_of(FEATURES),
        function=lambda x, weight, bias: FF.linear(x, weight, bias, name),
        kind=LINEAR,
        rounded=4.0,
        cancelling=4.0,
        reaching=whole_rows,
        made=_layer,
        squares=_squares,
        # A product of matrices takes a hundred times as long as an activation on a CPU, and ten times on a GPU.
        largest={"cpu": 2**20, "cuda": 2**26},
    )


FORMS: dict[str, Subject] = {
    "glu": Subject("glu", lambda _: {"dim": -1}, packed=True, reaching=halves, **_GATED),
    "gated silu": _gated("silu", others=liger.SWIGLU),
    "gated gelu": _gated("gelu"),
    "gated gelu_tanh": _gated("gelu_tanh", others=liger.GEGLU),
    "packed silu": _packed("gate_value", compositions.packed(F.silu), halves, others=liger.PACKED_SWIGLU),
    "packed silu (interleaved)": _packed("interleaved", compositions.interleaved(F.silu), pairs),
    "bias gelu": _biased("gelu"),
    "bias silu": _biased("silu"),
    "bias silu dropout": _biased("silu", DROPOUT),
    "linear gelu": _linear("gelu"),
    "linear silu": _linear("silu"),
}
