# Made from the catalog by `python -m fusedact.stubs`.
from torch import Tensor

from .piecewise import pwl as pwl

def activate(x: Tensor, activation: str, **parameters: float | Tensor) -> Tensor:
    """Apply the activation of that name.

    Args:
        x: tensor of any shape, float16, bfloat16, float32 or float64.
        activation: a name out of `fusedact.names()`.
        parameters: of the activation, by name; the defaults otherwise.

    Returns:
        tensor of x's shape and dtype.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> FF.activate(torch.tensor([-1.0, 2.0]), "relu_sigmoid", threshold=0.5)
    tensor([0.0000, 1.3212])
    """
def relu_sigmoid(x: Tensor, threshold: float | Tensor = 0.0, inplace: bool = False, *, channel_dim: int = 1) -> Tensor:
    """ReLU past a threshold, weighted by the sigmoid of the input.

    relu(x - threshold) * sigmoid(x)

    The gradient is 0 at and below the threshold. At -inf the value and the gradient are 0, at +inf they are +inf and 1. Past the threshold the function is strictly increasing.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        threshold: where the function leaves zero; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's.

    >>> FF.relu_sigmoid(torch.tensor([-1.0, 0.5, 2.0]), threshold=0.5)
    tensor([0.0000, 0.0000, 1.3212])

    Source: ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU (Elfwing et al., 2018, arXiv:1702.03118).
    """
def elu(input: Tensor, alpha: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1) -> Tensor:
    """Exponential linear unit.

    x if x > 0 else alpha * (exp(x) - 1)

    At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        alpha: the negative of the limit at -inf; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's.

    >>> FF.elu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.6321,  0.0000,  2.0000])

    Source: torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.
    """
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Scaled exponential linear unit, which keeps activations near zero mean and unit variance.

    scale * (x if x > 0 else alpha * (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772

    At 0 the gradient is scale * alpha = 1.7580993408473766. At -inf the value is -scale * alpha and the gradient 0. Initialise weights LeCun-normal: variance 1 / fan_in.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device.

    >>> FF.selu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-1.1113,  0.0000,  2.1014])

    Source: torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.
    """
def prelu(input: Tensor, weight: float | Tensor, inplace: bool = False, *, channel_dim: int = 1) -> Tensor:
    """Leaky ReLU whose slope is learned.

    x if x > 0 else weight * x

    At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        weight: the slope below 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's.

    >>> FF.prelu(torch.tensor([-2.0, 0.0, 3.0]), 0.25)
    tensor([-0.5000,  0.0000,  3.0000])

    Source: torch.nn.functional.prelu; He et al., 2015, arXiv:1502.01852.
    """
def swish(x: Tensor, beta: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1) -> Tensor:
    """The input weighted by the sigmoid of its multiple.

    x * sigmoid(beta * x)

    For beta > 0 the value and the gradient at -inf are 0, at +inf they are +inf and 1; for beta < 0 the other way round. beta=1 is SiLU, beta=1.702 an approximation of GELU, beta=0 is x / 2.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        beta: how sharply the sigmoid turns; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's.

    >>> FF.swish(torch.tensor([-1.0, 0.0, 2.0]), beta=1.5)
    tensor([-0.1824,  0.0000,  1.9051])

    Source: Ramachandran et al., 2017, arXiv:1710.05941.
    """
