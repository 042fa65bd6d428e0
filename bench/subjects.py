"""What a subject of the benchmarks is: an activation or a form of one, as it is called here and in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fusedact import registry
from fusedact.custom import CustomActivation

Function = Callable[..., Tensor]  # of x, the other operands, and the parameters that learn
Arguments = Mapping[str, Any]  # numbers, or tables, by name, in the order of the record

ELEMENTWISE, ROWWISE, PIECEWISE, OWN = "elementwise", "rowwise", "piecewise", "own"
GATED, BIASED, LINEAR = "gated", "biased", "linear"

# The kinds of the registry that are no form: rrelu in evaluation is elementwise, glu is gated.
_FORMS = {"random": ELEMENTWISE}

# Channels of a subject that has a parameter for each.
CHANNELS = 256
# Columns of a gated or biased activation, and features on both sides of a linear layer.
COLUMNS, FEATURES = 4096, 1024


# ----- arguments and shapes


def no_arguments(device: torch.device) -> Arguments:
    """Nothing beside tensors."""
    return {}


def flat(size: int) -> tuple[int, ...]:
    """One dimension."""
    return (size,)


def rows_of(length: int) -> Callable[[int], tuple[int, ...]]:
    """Rows of so many elements; a smaller size is one row."""
    return lambda size: (size // min(size, length), min(size, length))


def image(size: int) -> tuple[int, ...]:
    """Images of 64 places with up to 64 channels."""
    channels = min(size, 64)
    places = min(size // channels, 64)
    return size // (channels * places), channels, places, 1


# ----- the record


def each(g: Tensor) -> Tensor:
    """An element of x has the gradient of the element beside it."""
    return g.abs()


def halves(g: Tensor) -> Tensor:
    """The same where x holds two elements for each of the result."""
    return torch.cat([g, g], -1).abs()


def pairs(g: Tensor) -> Tensor:
    """The same where these two are neighbours."""
    return g.abs().repeat_interleave(2, -1)


def whole_rows(g: Tensor) -> Tensor:
    """An element of x has the gradients of a row, times weights whose squares sum to about 1."""
    return g.square().mean(-1, keepdim=True).sqrt()


@dataclass(frozen=True)
class Subject:
    """An activation, or a form of one, as it is called here, and what people write in PyTorch instead.

    Its function takes x, other operands of x's shape, and the parameters that learn.
    """

    # Its name in the registry, and in fusedact.functional unless `function` is given.
    activation: str
    # For a device: tables lie on it. Both fusedact and PyTorch are called with them; the names are fusedact's.
    arguments: Callable[[torch.device], Arguments] = no_arguments
    # Where PyTorch has no operator.
    composition: Callable[..., Tensor] | None = None
    # The first of the arguments, as far as they learn: tensors of x's dtype, given behind x, whose gradients are asked
    # for too.
    learned: tuple[str, ...] = ()
    # The shape of the result for a number of elements. With two dimensions, what learns has an entry for each of the
    # second.
    shape: Callable[[int], tuple[int, ...]] = flat
    # Arguments at whose values the slope jumps.
    kinks: tuple[str, ...] = ()
    # Where gradients are differences of terms that plain operators round: about how large these are, in gradients of
    # the output.
    cancelling: float = 0.0
    # The same for the value.
    rounded: float = 0.0
    # Whether what learns is tables, in one row or one per channel, whose entries count between 0 and 1 for an element.
    tables: bool = False
    # How fusedact is called, where it is not by the function of that name: an activation of one's own, or a form.
    function: Callable[..., Tensor] | None = None
    # The form, where it is not what the registry says.
    kind: str = ""
    # Tensors beside x, of its shape.
    operands: int = 0
    # Whether x holds two elements for each of the result: then twice as many in the last dimension.
    packed: bool = False
    # From the gradient of the output, how large gradients reach an element of x.
    reaching: Callable[[Tensor], Tensor] = each
    # With dropout, its probability; and then the composition without it.
    dropped: float = 0.0
    undropped: Callable[..., Tensor] | None = None
    # What learns, from x, where it is not the arguments.
    made: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    # The sums of the squares of what is summed for the gradients of what learns, where autograd cannot tell: of the
    # gradient of the output, x and what learns, in float64.
    squares: Callable[..., tuple[Tensor, ...]] | None = None
    # The largest number of elements that is timed on a device.
    largest: Mapping[str, int] = field(default_factory=dict)
    # Kernels of other libraries, by provider: for a device, the function, or None where there is none.
    others: Mapping[str, Callable[[torch.device], Function | None]] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """What its rows bear in the column `form`."""
        kind = self.kind or registry.get(self.activation).kind
        return _FORMS.get(kind, kind)

    @property
    def twin(self) -> Callable[..., Tensor] | None:
        """PyTorch's own operator for it, if there is one; it takes numbers."""
        return None if self.learned or self.function else registry.get(self.activation).aten

    @property
    def plain(self) -> Callable[..., Tensor]:
        """It in plain PyTorch: its operator, else the usual composition."""
        function = self.composition or self.twin
        if function is None:
            raise ValueError(f"bench.subjects: {self.activation} has no twin in PyTorch and needs a composition")
        return function

    def fixed(self, device: torch.device) -> Arguments:
        """The arguments that do not learn."""
        return {name: value for name, value in self.arguments(device).items() if name not in self.learned}

    def parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """New parameters that learn, of x's dtype. Those of channels differ, so that it shows if they are mixed up."""
        if self.made is not None:
            return tuple(t.to(x.dtype).requires_grad_() for t in self.made(x))
        channels = x.shape[1] if x.dim() > 1 else 1
        spread = torch.linspace(0.5, 1.5, channels, device=x.device) if channels > 1 else x.new_ones(1)
        if self.tables and channels > 1:
            spread = spread.unsqueeze(1)
        values = self.arguments(x.device)
        return tuple((values[name] * spread).to(x.dtype).requires_grad_() for name in self.learned)


def of_own(activation: CustomActivation, *learned: str) -> Subject:
    """An activation of one's own, with its defaults."""
    defaults = {p.name: p.default for p in activation.spec.parameters}
    return Subject(
        activation.__name__,
        lambda _: defaults,
        composition=activation.__wrapped__,
        learned=learned,
        cancelling=3.0,
        rounded=3.0,
        function=activation,
        kind=OWN,
    )
