"""Activations of tensor-parallel and sequence-parallel models: a style for `parallelize_module`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

from ..piecewise.piecewise_module import PWL
from ..piecewise.table_parameters import ROWS

__all__ = ["ActivationParallel"]

OWNER = "fusedact.integrations.distributed.ActivationParallel"


class ActivationParallel(ParallelStyle):
    """How an activation's parameters follow its input when that is split over ranks.

    Between `ColwiseParallel` and `RowwiseParallel` each rank has its own channels of the activation's input, a plain
    tensor. Parameters with an entry per channel are split in the same way, and each rank has the gradients of its own
    entries; a parameter that all channels share is whole on every rank, and its gradient `Partial`, a sum over ranks
    that optimizers, clipping and `full_tensor()` make when they need it.

    An activation whose parameters are numbers needs no style.

    Args:
        layout: how the input lies. None: split along the module's channels. `Shard(1)`: split along the sequence, as
            `SequenceParallel` has it; parameters are whole, and their gradients `Partial`. `Replicate()`: whole.
        use_local_output: return plain tensors, as `ColwiseParallel` does; else DTensors.

    Raises:
        TypeError: if `layout` is no placement, or the module no activation of this library.
        ValueError: if an input is split along other dimensions, or its channels are not those of the module.

    >>> from fusedact.integrations.distributed import ActivationParallel
    >>> plan = {"0": ColwiseParallel(), "1": ActivationParallel(), "2": RowwiseParallel()}  # doctest: +SKIP
    >>> net = nn.Sequential(nn.Linear(64, 256), fusedact.PReLU(256), nn.Linear(256, 64))  # doctest: +SKIP
    >>> parallelize_module(net, mesh, plan)  # doctest: +SKIP
    """

    def __init__(self, layout: Placement | None = None, *, use_local_output: bool = True) -> None:
        super().__init__()
        if layout is not None and not isinstance(layout, Shard | Replicate):
            raise TypeError(f"{OWNER}: layout must be None, Shard(dim) or Replicate(), got {layout!r}")
        self.layout = layout
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, PWL) and getattr(getattr(module, "spec", None), "kind", "") != "elementwise":
            raise TypeError(
                f"{OWNER}: the module must be an elementwise activation of fusedact, got {type(module).__name__}"
            )
        if device_mesh.ndim != 1:
            raise ValueError(f"{OWNER}: the mesh must have one dimension, got {device_mesh.ndim}")
        for name, t in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            rows = self.layout is None and _by_channel(module, name, t)
            if not (rows or isinstance(t, nn.Parameter) or getattr(module, "monotone", False)):
                # The same numbers everywhere, which need no gradient. Those of a monotone function are computed with.
                continue
            placed: Any = [Shard(0) if rows else Replicate()]
            placed = distribute_tensor(t.detach(), device_mesh, placed, src_data_rank=self.src_data_rank)
            if isinstance(t, nn.Parameter):
                module._parameters[name] = nn.Parameter(placed, t.requires_grad)
            else:
                module._buffers[name] = placed
        module.register_forward_pre_hook(partial(self._enter, mesh=device_mesh))
        module.register_forward_hook(self._leave)
        return module

    def _enter(self, module: Any, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        """The input as a DTensor, where parameters are."""
        x, *rest = inputs
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if not isinstance(x, Tensor) or not held:
            return inputs
        layout = Shard(module.channel_dim) if self.layout is None else self.layout
        if isinstance(layout, Shard):
            channel_dim = module.channel_dim
            if not -x.dim() <= layout.dim < x.dim():
                raise ValueError(
                    f"{OWNER}: the input of shape {tuple(x.shape)} has no dimension {layout.dim} to be split"
                )
            split = layout.dim % x.dim() == channel_dim % x.dim()
            if self.layout is not None and split and any(_by_channel(module, *h) for h in held):
                raise ValueError(
                    f"{OWNER}: layout={layout!r} splits the channels; leave it out, so that parameters are split, too"
                )
            layout = Shard(layout.dim % x.dim())
        if isinstance(x, DTensor):
            return x if list(x.placements) == [layout] else x.redistribute(mesh, [layout]), *rest
        place: dict[str, Any] = {}
        for name, t in held:
            if self.layout is None and _by_channel(module, name, t):
                own = t.to_local().shape[0] if isinstance(t, DTensor) else t.shape[0]
                if x.shape[layout.dim] != own:  # type: ignore[union-attr]
                    raise ValueError(
                        f"{OWNER}: this rank has {own} entries of {name}, but the input of shape {tuple(x.shape)} has "
                        f"{x.shape[layout.dim]} channels in dimension {module.channel_dim}"  # type: ignore[union-attr]
                    )
                # Ranks may have a channel more or less.
                shape = [module.num_parameters if d == layout.dim else s for d, s in enumerate(x.shape)]  # type: ignore[union-attr]
                place = {"shape": torch.Size(shape), "stride": torch.empty(shape, device="meta").stride()}
        return DTensor.from_local(x, mesh, [layout], run_check=False, **place), *rest

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output.to_local() if self.use_local_output and isinstance(output, DTensor) else output


def _by_channel(module: nn.Module, name: str, t: Tensor) -> bool:
    """Whether a parameter or table has an entry, or a row, for each channel."""
    if isinstance(module, PWL) and name in ROWS:
        return t.dim() == 2
    return t.numel() > 1
