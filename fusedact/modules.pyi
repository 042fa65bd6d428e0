# Made from the catalog by `python -m fusedact.stubs`.
from typing import Any

import torch
from torch import Tensor, nn

from .piecewise import PWL as PWL


class Activation(nn.Module):
    """The activation of a name, as a module: `Activation("elu", alpha=0.5)` computes what `ELU(alpha=0.5)` does.

    Args:
        name: a name out of `fusedact.names("elementwise")`.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names.
        inplace: overwrite the input.
        parameters: of the activation, by name; the defaults otherwise.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> fusedact.Activation("relu_sigmoid", threshold=0.1)
    Activation('relu_sigmoid', threshold=0.1)
    """
    inplace: bool
    def __init__(self, name: str, *, learnable: bool | str | tuple[str, ...] = False, inplace: bool = False, **parameters: float) -> None: ...
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
            nn.Parameters of shape (1,).
        device, dtype: of the learnable parameters.
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if `learnable` names no parameter.

    >>> fusedact.ReLUSigmoid()
    ReLUSigmoid(threshold=0.0)

    Source: ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU (Elfwing et al., 2018, arXiv:1702.03118).
    """
    threshold: float | nn.Parameter
    inplace: bool
    def __init__(self, threshold: float = 0.0, learnable: bool | str | tuple[str, ...] = False, *, inplace: bool = False, device: Any = None, dtype: torch.dtype | None = None) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ELU(nn.Module):
    """Exponential linear unit. The module of `fusedact.functional.elu`.

    x if x > 0 else alpha * (exp(x) - 1)

    At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.

    Args:
        alpha: the negative of the limit at -inf.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names: these become
            nn.Parameters of shape (1,).
        device, dtype: of the learnable parameters.
        inplace: overwrite the input.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if `learnable` names no parameter.

    >>> fusedact.ELU()
    ELU(alpha=1.0)

    Source: torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.
    """
    alpha: float | nn.Parameter
    inplace: bool
    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, device: Any = None, dtype: torch.dtype | None = None) -> None: ...
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
        ValueError: if `learnable` names no parameter.

    >>> fusedact.SELU()
    SELU()

    Source: torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.
    """
    inplace: bool
    def __init__(self, inplace: bool = False) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...
