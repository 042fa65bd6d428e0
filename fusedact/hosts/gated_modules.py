"""Modules of gated activations of one tensor that holds values and gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..checks import check_number
from ..saving.saving import check_save
from .gating import check_layout, glu, packed_glu
from .gating_limits import check

__all__ = ["GEGLU", "GLU", "ReGLU", "SwiGLU"]


class GLU(nn.Module):
    """Values weighted by the sigmoid of gates. The module of `fusedact.functional.glu`.

        a * sigmoid(b), with a, b = input.chunk(2, dim)

    Args:
        dim: the dimension that holds both.
        layout: "value_gate", as in torch.nn.GLU; "gate_value" or "interleaved".
        save: what is kept for backward, 'auto' or 'input'; see `fusedact.functional.packed_glu`.

    Shape:
        input: any, of even size in `dim`; output: half of it there.

    Raises:
        TypeError: if dim is no integer.
        ValueError: for another layout or save.

    >>> fusedact.GLU()(torch.tensor([1.0, 2.0, 0.0, 3.0]))
    tensor([0.5000, 1.9051])

    Source: torch.nn.GLU; Dauphin et al., 2016, arXiv:1612.08083.
    """

    spec = registry.get("glu")
    save: str = "auto"

    def __init__(self, dim: int = -1, *, layout: str = "value_gate", save: str = "auto") -> None:
        super().__init__()
        self.dim = _checked_dim("fusedact.GLU", dim)
        self.layout = check_layout("fusedact.GLU", layout)
        self.save = _checked_save("fusedact.GLU", save)

    def forward(self, input: Tensor) -> Tensor:
        if self.layout == "value_gate":
            return glu(input, self.dim, save=self.save)
        return packed_glu(input, "sigmoid", self.dim, layout=self.layout, save=self.save)

    def extra_repr(self) -> str:
        shown = f"dim={self.dim}" + ("" if self.layout == "value_gate" else f", layout={self.layout!r}")
        return shown + _shown(self.save)


class SwiGLU(nn.Module):
    """Values weighted by swish of gates: gate * sigmoid(beta * gate) * value.

    With a limit and an offset, gates are cut off above the limit and values on both sides of 0 first, and the offset is
    added to the value. gpt-oss has `SwiGLU(layout="interleaved", beta=1.702, limit=7.0, offset=1.0)`; docs/gated.md
    names more.

    Args:
        dim: the dimension that holds both.
        layout: "gate_value", as in Hugging Face's fused gate_up_proj, vLLM's SiluAndMul and DINOv2; "interleaved", as
            in gpt-oss; or "value_gate".
        beta: how sharply the sigmoid turns: 1 is SiLU. Some call it alpha.
        learnable: make beta a parameter, of one element.
        limit: of gates and values, or None.
        offset: what is added to values.
        device, dtype: of that parameter.
        save: what is kept for backward, 'auto' or 'input'; see `fusedact.functional.packed_glu`.

    Shape:
        input: any, of even size in `dim`; output: half of it there.

    Raises:
        TypeError: if an argument has another type.
        ValueError: for another layout or save, or a limit that is not above 0.

    >>> fusedact.SwiGLU()(torch.tensor([0.0, 3.0, 1.0, 2.0]))
    tensor([0.0000, 5.7154])

    Source: Shazeer, 2020, arXiv:2002.05202; the limit and the offset, gpt-oss (gpt_oss/torch/model.py).
    """

    save: str = "auto"

    def __init__(
        self,
        dim: int = -1,
        *,
        layout: str = "gate_value",
        beta: float = 1.0,
        learnable: bool = False,
        limit: float | None = None,
        offset: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        super().__init__()
        self.dim = _checked_dim("fusedact.SwiGLU", dim)
        self.layout = check_layout("fusedact.SwiGLU", layout)
        self._initial = check_number("fusedact.SwiGLU", "beta", beta)
        if not isinstance(learnable, bool):
            raise TypeError(f"fusedact.SwiGLU: learnable must be a bool, got {type(learnable).__name__}")
        self.limit, self.offset = check("fusedact.SwiGLU", limit, offset)
        self.save = _checked_save("fusedact.SwiGLU", save)
        self.beta: float | nn.Parameter = self._initial
        if learnable:
            self.beta = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let beta be what it began with."""
        if isinstance(self.beta, nn.Parameter):
            nn.init.constant_(self.beta, self._initial)

    def forward(self, input: Tensor) -> Tensor:
        keywords: dict[str, Any] = {"layout": self.layout, "limit": self.limit, "offset": self.offset}
        keywords["save"] = self.save
        if isinstance(self.beta, float) and self.beta == 1.0:
            return packed_glu(input, "silu", self.dim, **keywords)
        return packed_glu(input, "swish", self.dim, **keywords, beta=self.beta)

    def extra_repr(self) -> str:
        shown = f"dim={self.dim}, layout={self.layout!r}"
        if isinstance(self.beta, nn.Parameter):
            shown += ", beta=learnable"
        elif self.beta != 1.0:
            shown += f", beta={self.beta:g}"
        if self.limit is not None:
            shown += f", limit={self.limit:g}"
        return (f"{shown}, offset={self.offset:g}" if self.offset else shown) + _shown(self.save)


class GEGLU(nn.Module):
    """Values weighted by GELU of gates: gelu(gate) * value.

    Args:
        dim: the dimension that holds both.
        layout: "value_gate", as in diffusers and x-transformers; "gate_value", as in vLLM's GeluAndMul; or
            "interleaved".
        approximate: "none" or "tanh", as for `gelu`.
        save: what is kept for backward, 'auto' or 'input'; see `fusedact.functional.packed_glu`.

    Shape:
        input: any, of even size in `dim`; output: half of it there.

    Raises:
        TypeError: if dim is no integer.
        ValueError: for another layout or save, or another approximate.

    >>> fusedact.GEGLU()(torch.tensor([1.0, 2.0, 0.0, 3.0]))
    tensor([0.0000, 5.9919])

    Source: Shazeer, 2020, arXiv:2002.05202.
    """

    save: str = "auto"

    def __init__(
        self, dim: int = -1, *, layout: str = "value_gate", approximate: str = "none", save: str = "auto"
    ) -> None:
        super().__init__()
        self.dim = _checked_dim("fusedact.GEGLU", dim)
        self.layout = check_layout("fusedact.GEGLU", layout)
        registry.chosen("fusedact.GEGLU", registry.get("gelu"), approximate)
        self.approximate = approximate
        self.save = _checked_save("fusedact.GEGLU", save)

    def forward(self, input: Tensor) -> Tensor:
        keywords: dict[str, Any] = {"layout": self.layout, "save": self.save}
        return packed_glu(input, "gelu", self.dim, **keywords, approximate=self.approximate)

    def extra_repr(self) -> str:
        shown = f"dim={self.dim}, layout={self.layout!r}"
        shown += "" if self.approximate == "none" else f", approximate={self.approximate!r}"
        return shown + _shown(self.save)


class ReGLU(nn.Module):
    """Values weighted by ReLU of gates: relu(gate) * value.

    Args:
        dim: the dimension that holds both.
        layout: "value_gate", as in rtdl's FT-Transformer; "gate_value" or "interleaved".
        save: what is kept for backward, 'auto' or 'input'; see `fusedact.functional.packed_glu`.

    Shape:
        input: any, of even size in `dim`; output: half of it there.

    Raises:
        TypeError: if dim is no integer.
        ValueError: for another layout or save.

    >>> fusedact.ReGLU()(torch.tensor([1.0, 2.0, -1.0, 3.0]))
    tensor([0., 6.])

    Source: Shazeer, 2020, arXiv:2002.05202.
    """

    save: str = "auto"

    def __init__(self, dim: int = -1, *, layout: str = "value_gate", save: str = "auto") -> None:
        super().__init__()
        self.dim = _checked_dim("fusedact.ReGLU", dim)
        self.layout = check_layout("fusedact.ReGLU", layout)
        self.save = _checked_save("fusedact.ReGLU", save)

    def forward(self, input: Tensor) -> Tensor:
        return packed_glu(input, "relu", self.dim, layout=self.layout, save=self.save)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, layout={self.layout!r}" + _shown(self.save)


def _checked_dim(owner: str, dim: object) -> int:
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{owner}: dim must be an int, got {type(dim).__name__}")
    return dim


def _checked_save(owner: str, save: str) -> str:
    check_save(owner, registry.get("glu"), save)
    return save


def _shown(save: str) -> str:
    """What `extra_repr` says of a policy."""
    return "" if save == "auto" else f", save={save!r}"
