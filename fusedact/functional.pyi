# Made from the catalog by `python -m fusedact.stubs`.
from torch import Tensor

from .piecewise.piecewise import pwl as pwl
from .hosts.affine import linear as linear
from .hosts.biased import bias_act as bias_act
from .hosts.gating import gated as gated
from .hosts.gating import glu as glu
from .hosts.gating import packed_glu as packed_glu
from .randomized import rrelu as rrelu
from .rowwise.rowwise import log_softmax as log_softmax
from .rowwise.rowwise import softmax as softmax
from .rowwise.rowwise import softmax2d as softmax2d
from .rowwise.rowwise import softmin as softmin

def activate(x: Tensor, activation: str, *, save: str = 'auto', **parameters: float | Tensor) -> Tensor:
    """Apply the activation of that name.

    Args:
        x: tensor of any shape, float16, bfloat16, float32 or float64.
        activation: a name out of `fusedact.names()`, or one that another library has for it.
        save: what is kept for backward: a policy that the activation can serve; see `fusedact.save_policy`.
        parameters: of the activation, and its options, by name; the defaults otherwise.

    Returns:
        tensor of x's shape and dtype.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or a policy that the activation does not serve.
        TypeError: for an unknown parameter.

    >>> FF.activate(torch.tensor([-1.0, 2.0]), "relu_sigmoid", threshold=0.5)
    tensor([0.0000, 1.3212])
    """
def relu_sigmoid(x: Tensor, threshold: float | Tensor = 0.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """ReLU past a threshold, weighted by the sigmoid of the input.

        relu(x - threshold) * sigmoid(x)

    The gradient is 0 at and below the threshold. At -inf the value and the gradient are 0, at +inf they are +inf and 1. Past the threshold the function is strictly increasing.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        threshold: where the function leaves zero; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or save is none of these.

    >>> FF.relu_sigmoid(torch.tensor([-1.0, 0.5, 2.0]), threshold=0.5)
    tensor([0.0000, 0.0000, 1.3212])

    Source: ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU (Elfwing et al., 2018, arXiv:1702.03118).
    """
def elu(input: Tensor, alpha: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """Exponential linear unit.

        x if x > 0 else alpha * (exp(x) - 1)

    At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        alpha: the negative of the limit at -inf; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or save is none of these.

    >>> FF.elu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.6321,  0.0000,  2.0000])

    Source: torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.
    """
def selu(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """Scaled exponential linear unit, which keeps activations near zero mean and unit variance.

        scale * (x if x > 0 else alpha * (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772

    At 0 the gradient is scale * alpha = 1.7580993408473766. At -inf the value is -scale * alpha and the gradient 0. Initialise weights LeCun-normal: variance 1 / fan_in.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.selu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-1.1113,  0.0000,  2.1014])

    Source: torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.
    """
def prelu(input: Tensor, weight: float | Tensor, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """Leaky ReLU whose slope is learned.

        x if x > 0 else weight * x

    At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        weight: the slope below 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or save is none of these.

    >>> FF.prelu(torch.tensor([-2.0, 0.0, 3.0]), 0.25)
    tensor([-0.5000,  0.0000,  3.0000])

    Source: torch.nn.functional.prelu; He et al., 2015, arXiv:1502.01852.
    """
def swish(x: Tensor, beta: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The input weighted by the sigmoid of its multiple.

        x * sigmoid(beta * x)

    For beta > 0 the value and the gradient at -inf are 0, at +inf they are +inf and 1; for beta < 0 the other way round. beta=1 is SiLU, beta=1.702 an approximation of GELU, beta=0 is x / 2.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        beta: how sharply the sigmoid turns; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or save is none of these.

    >>> FF.swish(torch.tensor([-1.0, 0.0, 2.0]), beta=1.5)
    tensor([-0.1824,  0.0000,  1.9051])

    Source: Ramachandran et al., 2017, arXiv:1710.05941.
    """
def relu(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """Rectified linear unit.

        max(x, 0)

    At 0 the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.relu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 2.0000])

    Source: torch.nn.functional.relu; Nair, Hinton, 2010.
    """
def relu6(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """ReLU that ends at 6.

        min(max(x, 0), 6)

    At 0 and 6 the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.relu6(torch.tensor([-1.0, 0.5, 7.0]))
    tensor([0.0000, 0.5000, 6.0000])

    Source: torch.nn.functional.relu6; Krizhevsky, 2010.
    """
def leaky_relu(input: Tensor, negative_slope: float | Tensor = 0.01, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """ReLU with a small slope below 0.

        x if x > 0 else negative_slope * x

    At 0 the gradient is the slope. Keras has another default slope: 0.2, and 0.3 for its layer.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        negative_slope: the slope below 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or save is none of these.

    >>> FF.leaky_relu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.0100,  0.5000,  2.0000])

    Source: torch.nn.functional.leaky_relu; Maas, Hannun, Ng, 2013.
    """
def celu(input: Tensor, alpha: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """ELU whose derivative is continuous for every alpha.

        x if x > 0 else alpha * (exp(x / alpha) - 1)

    At 0 the gradient is 1. At -inf the value is -alpha and the gradient 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        alpha: the negative of the limit at -inf; not 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or a number is not accepted, or save is none of these.

    >>> FF.celu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.6321,  0.5000,  2.0000])

    Source: torch.nn.functional.celu; Barron, 2017, arXiv:1704.07483.
    """
def gelu(input: Tensor, approximate: str = 'none', inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """Gaussian error linear unit.

        x * (1 + erf(x / sqrt(2))) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        approximate: how erf is computed; 'none' or 'tanh'.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if an option has another value, or save is none of these.

    >>> FF.gelu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.1587,  0.3457,  1.9545])

    Source: torch.nn.functional.gelu; Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
def gelu_tanh(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """GELU with tanh in place of the error function.

        x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator has NaN there, and in its gradient from 1.9e19 on.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.gelu_tanh(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.1588,  0.3457,  1.9546])

    Source: torch.nn.functional.gelu; Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
def silu(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input weighted by its sigmoid.

        x * sigmoid(x)

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.silu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.2689,  0.3112,  1.7616])

    Source: torch.nn.functional.silu; Elfwing, Uchibe, Doya, 2018, arXiv:1702.03118.
    """
def mish(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input weighted by the tanh of its softplus.

        x * tanh(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.mish(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.3034,  0.3752,  1.9440])

    Source: torch.nn.functional.mish; Misra, 2019, arXiv:1908.08681.
    """
def softplus(input: Tensor, beta: float | Tensor = 1.0, threshold: float = 20.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """A smooth ReLU.

        log(1 + exp(beta * x)) / beta if beta * x <= threshold else x

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        beta: how sharply it bends; not 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        threshold: where it becomes the identity; a number.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or a number is not accepted, or save is none of these.

    >>> FF.softplus(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.3133, 0.9741, 2.1269])

    Source: torch.nn.functional.softplus; Dugas et al., 2001.
    """
def logsigmoid(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The logarithm of the sigmoid.

        -log(1 + exp(-x))

    At -inf the value is -inf and the gradient 1, at +inf both are 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.logsigmoid(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-1.3133, -0.4741, -0.1269])

    Source: torch.nn.functional.logsigmoid
    """
def sigmoid(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The logistic function.

        1 / (1 + exp(-x))

    At -inf the value is 0, at +inf 1; there the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.sigmoid(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.2689, 0.6225, 0.8808])

    Source: torch.nn.functional.sigmoid
    """
def tanh(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The hyperbolic tangent.

        tanh(x)

    At the infinities the value is -1 and 1, and the gradient 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.tanh(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.7616,  0.4621,  0.9640])

    Source: torch.nn.functional.tanh
    """
def hardtanh(input: Tensor, min_val: float | Tensor = -1.0, max_val: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The identity between two bounds.

        min(max(x, min_val), max_val)

    At the bounds the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        min_val: the lower bound; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        max_val: the upper bound; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or a number is not accepted, or save is none of these.

    >>> FF.hardtanh(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-1.0000,  0.5000,  1.0000])

    Source: torch.nn.functional.hardtanh
    """
def hardsigmoid(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """A sigmoid of three straight lines.

        min(max(x + 3, 0), 6) / 6

    At -3 and 3 the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.hardsigmoid(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.3333, 0.5833, 0.8333])

    Source: torch.nn.functional.hardsigmoid; Howard et al., 2019, arXiv:1905.02244.
    """
def hardswish(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input weighted by its hardsigmoid.

        x * min(max(x + 3, 0), 6) / 6

    At -3 the gradient is 0, at 3 it is 1. At -inf the value is 0; PyTorch's own operator has NaN there.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.hardswish(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.3333,  0.2917,  1.6667])

    Source: torch.nn.functional.hardswish; Howard et al., 2019, arXiv:1905.02244.
    """
def softsign(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """A sigmoid that approaches its limits slowly.

        x / (1 + |x|)

    At the infinities the value is -1 and 1, and the gradient 0; PyTorch's own operator has NaN there.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.softsign(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.5000,  0.3333,  0.6667])

    Source: torch.nn.functional.softsign
    """
def tanhshrink(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """What tanh takes away.

        x - tanh(x)

    At the infinities the gradient is 1.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.tanhshrink(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.2384,  0.0379,  1.0360])

    Source: torch.nn.functional.tanhshrink
    """
def softshrink(input: Tensor, lambd: float | Tensor = 0.5, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The input drawn towards 0, and 0 near it.

        x - lambd if x > lambd else x + lambd if x < -lambd else 0

    At -lambd and lambd the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        lambd: how far; finite and not negative; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or a number is not accepted, or save is none of these.

    >>> FF.softshrink(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.5000,  0.0000,  1.5000])

    Source: torch.nn.functional.softshrink
    """
def hardshrink(input: Tensor, lambd: float = 0.5, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input, and 0 near 0.

        x if |x| > lambd else 0

    At -lambd and lambd the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        lambd: how near; a number.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.hardshrink(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-1.,  0.,  2.])

    Source: torch.nn.functional.hardshrink
    """
def threshold(input: Tensor, threshold: float, value: float | Tensor, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The input past a threshold, else a constant.

        x if x > threshold else value

    At the threshold the gradient is 0.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        threshold: where the input begins to pass; a number.
        value: the value up to there; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of input that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit input's, or save is none of these.

    >>> FF.threshold(torch.tensor([-1.0, 0.5, 2.0]), 0.1, 20.0)
    tensor([20.0000,  0.5000,  2.0000])

    Source: torch.nn.functional.threshold
    """
def identity(input: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input itself.

        x

    It returns the input, not a copy.

    Args:
        input: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.identity(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-1.0000,  0.5000,  2.0000])

    Source: torch.nn.Identity
    """
def relu_squared(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The square of ReLU.

        max(x, 0)^2

    At 0 the gradient is 0.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.relu_squared(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.2500, 4.0000])

    Source: So et al., 2021, arXiv:2109.08668.
    """
def star_relu(x: Tensor, scale: float | Tensor = 0.8944, bias: float | Tensor = -0.4472, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The square of ReLU, scaled and shifted.

        scale * max(x, 0)^2 + bias

    At 0 the gradient is 0. With the defaults mean and variance of a standard normal input are kept.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        scale: the factor; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        bias: the value below 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or save is none of these.

    >>> FF.star_relu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.4472, -0.2236,  3.1304])

    Source: Yu et al., 2022, arXiv:2210.13452.
    """
def quick_gelu(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """GELU with a sigmoid in place of the error function.

        x * sigmoid(1.702 * x)

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.quick_gelu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.1542,  0.3504,  1.9357])

    Source: Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
def clipped_gelu(x: Tensor, min_val: float | Tensor = -10.0, max_val: float | Tensor = 10.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """GELU between two bounds.

        min(max(gelu(x), min_val), max_val)

    At the bounds the gradient is that of GELU.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        min_val: the lower bound; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        max_val: the upper bound; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or a number is not accepted, or save is none of these.

    >>> FF.clipped_gelu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.1587,  0.3457,  1.9545])

    Source: Krishnamoorthi, 2018, arXiv:2004.09602.
    """
def laplace(x: Tensor, mu: float | Tensor = 0.707107, sigma: float | Tensor = 0.282095, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The distribution function of a normal variable.

        (1 + erf((x - mu) / (sigma * sqrt(2)))) / 2

    At -inf the value is 0, at +inf 1; there the gradient is 0.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        mu: the mean; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        sigma: the standard deviation; not 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or a number is not accepted, or save is none of these.

    >>> FF.laplace(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([7.1737e-10, 2.3142e-01, 1.0000e+00])

    Source: Ma et al., 2022, arXiv:2209.10655.
    """
def xielu(x: Tensor, alpha_p: float | Tensor = 0.2033823208110247, alpha_n: float | Tensor = -1.0502256128148466, beta: float = 0.5, eps: float = -1e-06, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """Integral of a trainable ELU: quadratic above 0, nearly linear far below.

        x * (p * x + beta) if x > 0 else (n + beta) * expm1(min(x, eps)) - n * x, p = softplus(alpha_p), n = softplus(alpha_n)

    At 0 the gradient is -n, from eps on downwards about beta. At -inf the value is +inf and the gradient -n.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        alpha_p: softplus of it is the coefficient of x^2 above 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        alpha_n: softplus of it, and beta, is the coefficient of expm1 below 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        beta: the slope at 0; a number.
        eps: what expm1 is bounded by; a number.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or save is none of these.

    >>> FF.xielu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.2057,  0.4500,  4.2000])

    Source: Huang, Schlag, 2024, arXiv:2411.13010; parameters as in transformers.
    """
def snake(x: Tensor, alpha: float | Tensor = 1.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """The identity with a periodic part.

        x + sin(alpha * x)^2 / alpha

    At the infinities it has no limit: NaN.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        alpha: the frequency; not 0; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or a number is not accepted, or save is none of these.

    >>> FF.snake(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.2919,  0.7298,  2.8268])

    Source: Liu, Hartwig, Ueda, 2020, arXiv:2006.08195.
    """
def squareplus(x: Tensor, b: float | Tensor = 4.0, inplace: bool = False, *, channel_dim: int = 1, save: str = 'auto') -> Tensor:
    """A smooth ReLU without exponentials.

        (x + sqrt(x^2 + b)) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        b: how wide it bends; positive; a number, or a tensor of shape (), (1,) or (C,), which gets a gradient.
        inplace: overwrite the input.
        channel_dim: the dimension of x that has C entries, where a parameter has one per channel; -1 for channels last.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if a parameter is on another device, or its shape does not fit x's, or a number is not accepted, or save is none of these.

    >>> FF.squareplus(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.6180, 1.2808, 2.4142])

    Source: Barron, 2021, arXiv:2112.11687.
    """
def hard_mish(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """Mish of three pieces.

        x / 2 * min(2, max(0, x + 2))

    At -2 the gradient is -1, at 0 it is 1. At -inf the value is 0.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.hard_mish(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.5000,  0.5000,  2.0000])

    Source: timm; hardswish with other constants.
    """
def sqrtsoftplus(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The square root of softplus.

        sqrt(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 0.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.sqrtsoftplus(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.5597, 0.9870, 1.4584])

    Source: transformers.
    """
def telu(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input weighted by the tanh of its exponential.

        x * tanh(exp(x))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.telu(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.3521,  0.4643,  2.0000])

    Source: Fernandez, Mali, 2024, arXiv:2412.20269.
    """
def serf(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The input weighted by the error function of its softplus.

        x * erf(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.serf(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.3422,  0.4158,  1.9947])

    Source: Nag, Bhattacharyya, 2021, arXiv:2108.09598.
    """
def erf(x: Tensor, inplace: bool = False, *, save: str = 'auto') -> Tensor:
    """The error function, a sigmoid between -1 and 1.

        2 / sqrt(pi) * integral of exp(-t^2) from 0 to x

    At the infinities the value is -1 and 1, and the gradient 0.

    Args:
        x: tensor of any shape and strides, float16, bfloat16, float32 or float64.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Returns:
        tensor of the input's shape, dtype and layout.

    Raises:
        TypeError: if an argument has another type or dtype.
        ValueError: if save is none of these.

    >>> FF.erf(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([-0.8427,  0.5205,  0.9953])

    Source: torch.erf
    """
