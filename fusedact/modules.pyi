# Made from the catalog by `python -m fusedact.stubs`.
from typing import Any

import torch
from torch import Tensor, nn

from .piecewise import PWL as PWL
from .registry import ActivationSpec

Bound = float | None
Bounds = tuple[Bound, Bound]


class Activation(nn.Module):
    """The activation of a name, as a module: `Activation("elu", alpha=0.5)` computes what `ELU(alpha=0.5)` does.

    Args:
        name: a name out of `fusedact.names("elementwise")`.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names.
        num_parameters, channel_dim, bounds, device, dtype: of learnable parameters, as for the class of that name.
        inplace: overwrite the input.
        parameters: of the activation, by name; the defaults otherwise.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> fusedact.Activation("relu_sigmoid", threshold=0.1)
    Activation('relu_sigmoid', threshold=0.1)
    """
    inplace: bool
    def __init__(self, name: str, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, inplace: bool = False, device: Any = None, dtype: torch.dtype | None = None, **parameters: float) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

def create(name: str, **arguments: Any) -> nn.Module:
    """A module by the activation's name.

    Args:
        name: a name out of `fusedact.names()`.
        arguments: of the module's class, as keywords.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown argument.

    >>> fusedact.create("relu_sigmoid", threshold=0.1)
    ReLUSigmoid(threshold=0.1)
    """

class ReLUSigmoid(nn.Module):
    """ReLU past a threshold, weighted by the sigmoid of the input. The module of `fusedact.functional.relu_sigmoid`.

    relu(x - threshold) * sigmoid(x)

    The gradient is 0 at and below the threshold. At -inf the value and the gradient are 0, at +inf they are +inf and 1. Past the threshold the function is strictly increasing.

    Args:
        threshold: where the function leaves zero.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device, dtype: of the learnable parameters.
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts or bounds do not fit.

    >>> fusedact.ReLUSigmoid()
    ReLUSigmoid(threshold=0.0)

    Source: ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU (Elfwing et al., 2018, arXiv:1702.03118).
    """
    threshold: float | nn.Parameter
    inplace: bool
    def __init__(self, threshold: float = 0.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ELU(nn.Module):
    """Exponential linear unit. The module of `fusedact.functional.elu`.

    x if x > 0 else alpha * (exp(x) - 1)

    At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.

    Args:
        alpha: the negative of the limit at -inf.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device, dtype: of the learnable parameters.
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts or bounds do not fit.

    >>> fusedact.ELU()
    ELU(alpha=1.0)

    Source: torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.
    """
    alpha: float | nn.Parameter
    inplace: bool
    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class SELU(nn.Module):
    """Scaled exponential linear unit, which keeps activations near zero mean and unit variance. The module of `fusedact.functional.selu`.

    scale * (x if x > 0 else alpha * (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772

    At 0 the gradient is scale * alpha = 1.7580993408473766. At -inf the value is -scale * alpha and the gradient 0. Initialise weights LeCun-normal: variance 1 / fan_in.

    Args:
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.

    >>> fusedact.SELU()
    SELU()

    Source: torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.
    """
    inplace: bool
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class PReLU(nn.Module):
    """Leaky ReLU whose slope is learned. The module of `fusedact.functional.prelu`.

    x if x > 0 else weight * x

    At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.

    Args:
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        init: what it begins with.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device, dtype: of the learnable parameters.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts or bounds do not fit.

    >>> fusedact.PReLU()
    PReLU(num_parameters=1)

    Source: torch.nn.functional.prelu; He et al., 2015, arXiv:1502.01852.
    """
    weight: float | nn.Parameter
    inplace: bool
    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: torch.dtype | None = None, *, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Swish(nn.Module):
    """The input weighted by the sigmoid of its multiple. The module of `fusedact.functional.swish`.

    x * sigmoid(beta * x)

    For beta > 0 the value and the gradient at -inf are 0, at +inf they are +inf and 1; for beta < 0 the other way round. beta=1 is SiLU, beta=1.702 an approximation of GELU, beta=0 is x / 2.

    Args:
        beta: how sharply the sigmoid turns.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device, dtype: of the learnable parameters.
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts or bounds do not fit.

    >>> fusedact.Swish()
    Swish(beta=1.0)

    Source: Ramachandran et al., 2017, arXiv:1710.05941.
    """
    beta: float | nn.Parameter
    inplace: bool
    def __init__(self, beta: float = 1.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

def define_own(own: Any, spec: ActivationSpec) -> type[nn.Module]: ...

