"""`MLP` and `GatedMLP`: two linear layers with an activation, or a gated one, between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import compat
from . import perceptron
from .affine import activation_of, check_layer, is_plain
from .gating import gated
from .hosted import Hosted
from .linear_modules import Held, Holder, activation_module, arguments_of_module, hosted

__all__ = ["MLP", "GatedMLP"]


class MLP(Holder, nn.Module):
    """Two linear layers with an activation between them, as in transformers; or with a gated one.

        down_proj(activation(up_proj(x))), or if gated down_proj(activation(gate_proj(x)) up_proj(x))

    For backward it keeps its input and one tensor of the hidden size (two if gated), where plain layers keep two
    (four): the activated tensor is made again, or the product is overwritten by it. The layers are torch.nn.Linear
    modules, called as such where they have hooks, parametrizations or another class, so that adapters and tensor
    parallelism find what they expect. So they are where the hidden tensor is small, since that takes less time.

    Args:
        dim: the size of the last dimension of the input.
        hidden: that between the layers.
        out: that of the output; `dim` if None.
        activation: the name of an activation, a function of `fusedact.functional`, what `fusedact.activation` made, or
            a module.
        gated: weigh the first product by an activated second one, whose layer is `gate_proj`.
        bias: whether the layers have one.
        recompute: keep the input alone, and compute the first products again in backward.
        learnable, num_parameters, bounds, save: of the activation's module, as for `fusedact.Activation`;
            num_parameters is 1 or `hidden`.
        device, dtype: of the parameters.
        parameters: of the activation, and its options, by name; the defaults otherwise.

    Shape:
        input: (..., dim); output: (..., out).

    Raises:
        TypeError: if an argument has another type, or the activation has no such parameter.
        ValueError: for an unknown name, numbers that the activation does not accept, or `save` if gated.

    >>> fusedact.MLP(8, 32, activation="gelu")
    MLP(
      (up_proj): Linear(in_features=8, out_features=32, bias=True)
      (down_proj): Linear(in_features=32, out_features=8, bias=True)
      (activation): GELU(approximate='none')
    )

    Source: Vaswani et al., 2017, arXiv:1706.03762; Shazeer, 2020, arXiv:2002.05202.
    """

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def __init__(
        self,
        dim: int,
        hidden: int,
        out: int | None = None,
        activation: Any = "relu_sigmoid",
        *,
        gated: bool = False,
        bias: bool = True,
        recompute: bool = False,
        learnable: bool | str | tuple[str, ...] = False,
        num_parameters: int = 1,
        bounds: Any = None,
        save: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__()
        owner = f"fusedact.{type(self).__name__}"
        for name, size in (("dim", dim), ("hidden", hidden), ("out", dim if out is None else out)):
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{owner}: {name} must be an int, got {type(size).__name__}")
        for name, flag in (("gated", gated), ("recompute", recompute)):
            if not isinstance(flag, bool):
                raise TypeError(f"{owner}: {name} must be a bool, got {type(flag).__name__}")
        if gated and save != "auto":
            raise ValueError(f"{owner}: save must be 'auto' where gated: both products are kept, got {save!r}")
        if num_parameters not in (1, hidden):
            raise ValueError(f"{owner}: num_parameters must be 1 or {hidden}, got {num_parameters}")
        arguments = arguments_of_module(learnable, num_parameters, bounds, save) | parameters
        made = activation_module(owner, activation, arguments, device, dtype)
        self.gated, self.recompute = gated, recompute
        if gated:
            self.gate_proj = nn.Linear(dim, hidden, bias, device, dtype)
        self.up_proj = nn.Linear(dim, hidden, bias, device, dtype)
        self.down_proj = nn.Linear(hidden, dim if out is None else out, bias, device, dtype)
        self.activation = made

    def forward(self, input: Tensor) -> Tensor:
        up, down, gate = self.up_proj, self.down_proj, self.gate_proj if self.gated else None
        plain = all(map(_is_plain, (up, down, *([] if gate is None else [gate]))))
        small = plain and not self.recompute and is_plain(input, up.weight)
        held = None if small else hosted(self.activation)
        if held is not None and plain:
            activation, save, parameters, within = held
            owner = f"fusedact.{type(self).__name__}"
            check_layer(owner, input, up.weight, up.bias, "up_proj.")
            of_gate = None if gate is None else (gate.weight, gate.bias)
            with within:
                found = perceptron.apply(
                    Hosted.of(owner, activation, parameters),
                    input,
                    (up.weight, up.bias),
                    (down.weight, down.bias),
                    of_gate,
                    save,
                    self.recompute,
                )
            if found is not None:
                return found
        if self.recompute and torch.is_grad_enabled() and not compat.transforms_active():
            return checkpoint(self._called, input, held, use_reentrant=False, preserve_rng_state=False)
        return self._called(input, held)

    def _called(self, input: Tensor, held: Held | None) -> Tensor:
        """The layers one by one."""
        if not self.gated:
            return self.down_proj(self._activated(self.up_proj(input), held))
        gate, up = self.gate_proj(input), self.up_proj(input)
        if held is None:
            return self.down_proj(self.activation(gate) * up)
        activation, _, parameters, within = held
        with within:
            return self.down_proj(gated(up, gate, activation, channel_dim=-1, **parameters))

    def _activated(self, z: Tensor, held: Held | None) -> Tensor:
        if held is None or not _is_plain(self.up_proj):
            return self.activation(z)
        activation, save, parameters, within = held
        with within:
            hosted = Hosted.of(f"fusedact.{type(self).__name__}", activation, parameters)
            return activation_of(hosted, z, save)

    def extra_repr(self) -> str:
        return "recompute=True" if self.recompute else ""


class GatedMLP(MLP):
    """`MLP` with a gated activation, as in Llama and its descendants, whose names its layers have.

        down_proj(activation(gate_proj(x)) up_proj(x))

    Args:
        dim, hidden, out: sizes, as for `MLP`.
        activation: what the gate goes through.
        bias: whether the layers have one.
        recompute, learnable, num_parameters, bounds, device, dtype, parameters: as for `MLP`.

    Shape:
        input: (..., dim); output: (..., out).

    Raises:
        TypeError, ValueError: as for `MLP`.

    >>> sorted(fusedact.GatedMLP(8, 24).state_dict())
    ['down_proj.weight', 'gate_proj.weight', 'up_proj.weight']

    Source: Shazeer, 2020, arXiv:2002.05202.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        out: int | None = None,
        activation: Any = "silu",
        *,
        bias: bool = False,
        recompute: bool = False,
        learnable: bool | str | tuple[str, ...] = False,
        num_parameters: int = 1,
        bounds: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(
            dim,
            hidden,
            out,
            activation,
            gated=True,
            bias=bias,
            recompute=recompute,
            learnable=learnable,
            num_parameters=num_parameters,
            bounds=bounds,
            device=device,
            dtype=dtype,
            **parameters,
        )


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer's product is all that its call does."""
    return type(layer) is nn.Linear and not compat.has_hooks(layer)
