# Made from the catalog by `python -m fusedact.stubs`.
from typing import Any

import torch
from torch import Tensor, nn

from .piecewise.piecewise_module import PWL as PWL
from .registry import ActivationSpec
from .hosts.gated_modules import GEGLU as GEGLU
from .hosts.gated_modules import GLU as GLU
from .hosts.gated_modules import ReGLU as ReGLU
from .hosts.gated_modules import SwiGLU as SwiGLU
from .randomized import RReLU as RReLU
from .rowwise.rowwise import LogSoftmax as LogSoftmax
from .rowwise.rowwise import Softmax as Softmax
from .rowwise.rowwise import Softmax2d as Softmax2d
from .rowwise.rowwise import Softmin as Softmin

Bound = float | None
Bounds = tuple[Bound, Bound]


class Activation(nn.Module):
    """The activation of a name, as a module: `Activation("elu", alpha=0.5)` computes what `ELU(alpha=0.5)` does.

    Args:
        name: a name out of `fusedact.names("elementwise")`.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names.
        num_parameters, channel_dim, bounds, device, dtype: of learnable parameters, as for the class of that name.
        inplace: overwrite the input.
        save: what is kept for backward: a policy that the activation can serve; see `fusedact.save_policy`.
        parameters: of the activation, by name; the defaults otherwise.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> fusedact.Activation("relu_sigmoid", threshold=0.1)
    Activation('relu_sigmoid', threshold=0.1)
    """
    inplace: bool
    save: str
    def __init__(self, name: str, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, inplace: bool = False, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto', **parameters: Any) -> None: ...
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
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.ReLUSigmoid()
    ReLUSigmoid(threshold=0.0)

    Source: ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU (Elfwing et al., 2018, arXiv:1702.03118).
    """
    threshold: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, threshold: float = 0.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ELU(nn.Module):
    """Exponential linear unit. The module of `fusedact.functional.elu`.

        x if x > 0 else alpha * (exp(x) - 1)

    At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.

    Args:
        alpha: the negative of the limit at -inf.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.ELU()
    ELU(alpha=1.0)

    Source: torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.
    """
    alpha: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class SELU(nn.Module):
    """Scaled exponential linear unit, which keeps activations near zero mean and unit variance. The module of `fusedact.functional.selu`.

        scale * (x if x > 0 else alpha * (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772

    At 0 the gradient is scale * alpha = 1.7580993408473766. At -inf the value is -scale * alpha and the gradient 0. Initialise weights LeCun-normal: variance 1 / fan_in.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.SELU()
    SELU()

    Source: torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class PReLU(nn.Module):
    """Leaky ReLU whose slope is learned. The module of `fusedact.functional.prelu`.

        x if x > 0 else weight * x

    At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.

    Args:
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        init: what it begins with.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.PReLU()
    PReLU(num_parameters=1)

    Source: torch.nn.functional.prelu; He et al., 2015, arXiv:1502.01852.
    """
    weight: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: torch.dtype | None = None, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Swish(nn.Module):
    """The input weighted by the sigmoid of its multiple. The module of `fusedact.functional.swish`.

        x * sigmoid(beta * x)

    For beta > 0 the value and the gradient at -inf are 0, at +inf they are +inf and 1; for beta < 0 the other way round. beta=1 is SiLU, beta=1.702 an approximation of GELU, beta=0 is x / 2.

    Args:
        beta: how sharply the sigmoid turns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Swish()
    Swish(beta=1.0)

    Source: Ramachandran et al., 2017, arXiv:1710.05941.
    """
    beta: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, beta: float = 1.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ReLU(nn.Module):
    """Rectified linear unit. The module of `fusedact.functional.relu`.

        max(x, 0)

    At 0 the gradient is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.ReLU()
    ReLU()

    Source: torch.nn.functional.relu; Nair, Hinton, 2010.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ReLU6(nn.Module):
    """ReLU that ends at 6. The module of `fusedact.functional.relu6`.

        min(max(x, 0), 6)

    At 0 and 6 the gradient is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.ReLU6()
    ReLU6()

    Source: torch.nn.functional.relu6; Krizhevsky, 2010.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class LeakyReLU(nn.Module):
    """ReLU with a small slope below 0. The module of `fusedact.functional.leaky_relu`.

        x if x > 0 else negative_slope * x

    At 0 the gradient is the slope. Keras has another default slope: 0.2, and 0.3 for its layer.

    Args:
        negative_slope: the slope below 0.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.LeakyReLU()
    LeakyReLU(negative_slope=0.01)

    Source: torch.nn.functional.leaky_relu; Maas, Hannun, Ng, 2013.
    """
    negative_slope: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, negative_slope: float = 0.01, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class CELU(nn.Module):
    """ELU whose derivative is continuous for every alpha. The module of `fusedact.functional.celu`.

        x if x > 0 else alpha * (exp(x / alpha) - 1)

    At 0 the gradient is 1. At -inf the value is -alpha and the gradient 0.

    Args:
        alpha: the negative of the limit at -inf; not 0.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.CELU()
    CELU(alpha=1.0)

    Source: torch.nn.functional.celu; Barron, 2017, arXiv:1704.07483.
    """
    alpha: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class GELU(nn.Module):
    """Gaussian error linear unit. The module of `fusedact.functional.gelu`.

        x * (1 + erf(x / sqrt(2))) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        approximate: how erf is computed; 'none' or 'tanh'.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.GELU()
    GELU(approximate='none')

    Source: torch.nn.functional.gelu; Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
    inplace: bool
    save: str
    def __init__(self, approximate: str = 'none', inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class GELUTanh(nn.Module):
    """GELU with tanh in place of the error function. The module of `fusedact.functional.gelu_tanh`.

        x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator has NaN there, and in its gradient from 1.9e19 on.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.GELUTanh()
    GELUTanh()

    Source: torch.nn.functional.gelu; Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class SiLU(nn.Module):
    """The input weighted by its sigmoid. The module of `fusedact.functional.silu`.

        x * sigmoid(x)

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.SiLU()
    SiLU()

    Source: torch.nn.functional.silu; Elfwing, Uchibe, Doya, 2018, arXiv:1702.03118.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Mish(nn.Module):
    """The input weighted by the tanh of its softplus. The module of `fusedact.functional.mish`.

        x * tanh(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the CPU, has NaN there.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Mish()
    Mish()

    Source: torch.nn.functional.mish; Misra, 2019, arXiv:1908.08681.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Softplus(nn.Module):
    """A smooth ReLU. The module of `fusedact.functional.softplus`.

        log(1 + exp(beta * x)) / beta if beta * x <= threshold else x

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        beta: how sharply it bends; not 0.
        threshold: where it becomes the identity.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Softplus()
    Softplus(beta=1.0, threshold=20.0)

    Source: torch.nn.functional.softplus; Dugas et al., 2001.
    """
    beta: float | nn.Parameter
    threshold: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, beta: float = 1.0, threshold: float = 20.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class LogSigmoid(nn.Module):
    """The logarithm of the sigmoid. The module of `fusedact.functional.logsigmoid`.

        -log(1 + exp(-x))

    At -inf the value is -inf and the gradient 1, at +inf both are 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.LogSigmoid()
    LogSigmoid()

    Source: torch.nn.functional.logsigmoid
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Sigmoid(nn.Module):
    """The logistic function. The module of `fusedact.functional.sigmoid`.

        1 / (1 + exp(-x))

    At -inf the value is 0, at +inf 1; there the gradient is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Sigmoid()
    Sigmoid()

    Source: torch.nn.functional.sigmoid
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Tanh(nn.Module):
    """The hyperbolic tangent. The module of `fusedact.functional.tanh`.

        tanh(x)

    At the infinities the value is -1 and 1, and the gradient 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Tanh()
    Tanh()

    Source: torch.nn.functional.tanh
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Hardtanh(nn.Module):
    """The identity between two bounds. The module of `fusedact.functional.hardtanh`.

        min(max(x, min_val), max_val)

    At the bounds the gradient is 0.

    Args:
        min_val: the lower bound.
        max_val: the upper bound.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Hardtanh()
    Hardtanh(min_val=-1.0, max_val=1.0)

    Source: torch.nn.functional.hardtanh
    """
    min_val: float | nn.Parameter
    max_val: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Hardsigmoid(nn.Module):
    """A sigmoid of three straight lines. The module of `fusedact.functional.hardsigmoid`.

        min(max(x + 3, 0), 6) / 6

    At -3 and 3 the gradient is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Hardsigmoid()
    Hardsigmoid()

    Source: torch.nn.functional.hardsigmoid; Howard et al., 2019, arXiv:1905.02244.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Hardswish(nn.Module):
    """The input weighted by its hardsigmoid. The module of `fusedact.functional.hardswish`.

        x * min(max(x + 3, 0), 6) / 6

    At -3 the gradient is 0, at 3 it is 1. At -inf the value is 0; PyTorch's own operator has NaN there.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Hardswish()
    Hardswish()

    Source: torch.nn.functional.hardswish; Howard et al., 2019, arXiv:1905.02244.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Softsign(nn.Module):
    """A sigmoid that approaches its limits slowly. The module of `fusedact.functional.softsign`.

        x / (1 + |x|)

    At the infinities the value is -1 and 1, and the gradient 0; PyTorch's own operator has NaN there.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Softsign()
    Softsign()

    Source: torch.nn.functional.softsign
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Tanhshrink(nn.Module):
    """What tanh takes away. The module of `fusedact.functional.tanhshrink`.

        x - tanh(x)

    At the infinities the gradient is 1.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Tanhshrink()
    Tanhshrink()

    Source: torch.nn.functional.tanhshrink
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Softshrink(nn.Module):
    """The input drawn towards 0, and 0 near it. The module of `fusedact.functional.softshrink`.

        x - lambd if x > lambd else x + lambd if x < -lambd else 0

    At -lambd and lambd the gradient is 0.

    Args:
        lambd: how far; finite and not negative.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Softshrink()
    Softshrink(lambd=0.5)

    Source: torch.nn.functional.softshrink
    """
    lambd: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, lambd: float = 0.5, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Hardshrink(nn.Module):
    """The input, and 0 near 0. The module of `fusedact.functional.hardshrink`.

        x if |x| > lambd else 0

    At -lambd and lambd the gradient is 0.

    Args:
        lambd: how near.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Hardshrink()
    Hardshrink(lambd=0.5)

    Source: torch.nn.functional.hardshrink
    """
    lambd: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, lambd: float = 0.5, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Threshold(nn.Module):
    """The input past a threshold, else a constant. The module of `fusedact.functional.threshold`.

        x if x > threshold else value

    At the threshold the gradient is 0.

    Args:
        threshold: where the input begins to pass.
        value: the value up to there.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input', 'bits'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Threshold(0.1, 20)
    Threshold(threshold=0.1, value=20.0)

    Source: torch.nn.functional.threshold
    """
    threshold: float | nn.Parameter
    value: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, threshold: float, value: float, inplace: bool = False, *, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Identity(nn.Module):
    """The input itself. The module of `fusedact.functional.identity`.

        x

    It returns the input, not a copy.

    Args:
        args: ignored.
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output', 'bits'; see `fusedact.save_policy`.
        kwargs: ignored.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Identity()
    Identity()

    Source: torch.nn.Identity
    """
    inplace: bool
    save: str
    def __init__(self, *args: Any, inplace: bool = False, save: str = 'auto', **kwargs: Any) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ReLUSquared(nn.Module):
    """The square of ReLU. The module of `fusedact.functional.relu_squared`.

        max(x, 0)^2

    At 0 the gradient is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.ReLUSquared()
    ReLUSquared()

    Source: So et al., 2021, arXiv:2109.08668.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class StarReLU(nn.Module):
    """The square of ReLU, scaled and shifted. The module of `fusedact.functional.star_relu`.

        scale * max(x, 0)^2 + bias

    At 0 the gradient is 0. With the defaults mean and variance of a standard normal input are kept.

    Args:
        scale: the factor.
        bias: the value below 0.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.StarReLU()
    StarReLU(scale=0.8944, bias=-0.4472)

    Source: Yu et al., 2022, arXiv:2210.13452.
    """
    scale: float | nn.Parameter
    bias: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, scale: float = 0.8944, bias: float = -0.4472, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class QuickGELU(nn.Module):
    """GELU with a sigmoid in place of the error function. The module of `fusedact.functional.quick_gelu`.

        x * sigmoid(1.702 * x)

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.QuickGELU()
    QuickGELU()

    Source: Hendrycks, Gimpel, 2016, arXiv:1606.08415.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class ClippedGELU(nn.Module):
    """GELU between two bounds. The module of `fusedact.functional.clipped_gelu`.

        min(max(gelu(x), min_val), max_val)

    At the bounds the gradient is that of GELU.

    Args:
        min_val: the lower bound.
        max_val: the upper bound.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.ClippedGELU()
    ClippedGELU(min_val=-10.0, max_val=10.0)

    Source: Krishnamoorthi, 2018, arXiv:2004.09602.
    """
    min_val: float | nn.Parameter
    max_val: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, min_val: float = -10.0, max_val: float = 10.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Laplace(nn.Module):
    """The distribution function of a normal variable. The module of `fusedact.functional.laplace`.

        (1 + erf((x - mu) / (sigma * sqrt(2)))) / 2

    At -inf the value is 0, at +inf 1; there the gradient is 0.

    Args:
        mu: the mean.
        sigma: the standard deviation; not 0.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Laplace()
    Laplace(mu=0.707107, sigma=0.282095)

    Source: Ma et al., 2022, arXiv:2209.10655.
    """
    mu: float | nn.Parameter
    sigma: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, mu: float = 0.707107, sigma: float = 0.282095, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class XIELU(nn.Module):
    """Integral of a trainable ELU: quadratic above 0, nearly linear far below. The module of `fusedact.functional.xielu`.

        x * (p * x + beta) if x > 0 else (n + beta) * expm1(min(x, eps)) - n * x, p = softplus(alpha_p), n = softplus(alpha_n)

    At 0 the gradient is -n, from eps on downwards about beta. At -inf the value is +inf and the gradient -n.

    Args:
        alpha_p_init: the coefficient of x^2 to begin with.
        alpha_n_init: that of expm1 to begin with, greater than beta.
        beta: the slope at 0.
        eps: what expm1 is bounded by.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.XIELU()
    XIELU(beta=0.5, eps=-1e-06, num_parameters=1)

    Source: Huang, Schlag, 2024, arXiv:2411.13010; parameters as in transformers.
    """
    alpha_p: float | nn.Parameter
    alpha_n: float | nn.Parameter
    beta: float | nn.Parameter
    eps: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, alpha_p_init: float = 0.8, alpha_n_init: float = 0.8, beta: float = 0.5, eps: float = -1e-06, *, num_parameters: int = 1, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Snake(nn.Module):
    """The identity with a periodic part. The module of `fusedact.functional.snake`.

        x + sin(alpha * x)^2 / alpha

    At the infinities it has no limit: NaN.

    Args:
        alpha: the frequency; not 0.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Snake()
    Snake(alpha=1.0)

    Source: Liu, Hartwig, Ueda, 2020, arXiv:2006.08195.
    """
    alpha: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, alpha: float = 1.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Squareplus(nn.Module):
    """A smooth ReLU without exponentials. The module of `fusedact.functional.squareplus`.

        (x + sqrt(x^2 + b)) / 2

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        b: how wide it bends; positive.
        learnable: False, True (all for which the function is not constant), a parameter's name, or a tuple of names: these become
            nn.Parameters.
        num_parameters: how many entries a learnable parameter has: 1 for all channels, or one per channel.
        inplace: overwrite the input, of which a copy is kept where a parameter learns.
        channel_dim: the input's dimension that has num_parameters entries; -1 for channels last.
        bounds: (low, high), None for no bound, or a dict of them by name: what a learnable parameter is
            clamped to before each forward and in state_dict(), whatever an optimizer does.
        device: of the learnable parameters.
        dtype: of the learnable parameters.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Weight decay pulls a learned parameter to 0, which is seldom meant: give it a parameter group with weight_decay=0.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if names, counts, numbers or bounds do not fit.

    >>> fusedact.Squareplus()
    Squareplus(b=4.0)

    Source: Barron, 2021, arXiv:2112.11687.
    """
    b: float | nn.Parameter
    inplace: bool
    save: str
    def __init__(self, b: float = 4.0, learnable: bool | str | tuple[str, ...] = False, num_parameters: int = 1, *, inplace: bool = False, channel_dim: int = 1, bounds: Bounds | dict[str, Bounds] | None = None, device: Any = None, dtype: torch.dtype | None = None, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class HardMish(nn.Module):
    """Mish of three pieces. The module of `fusedact.functional.hard_mish`.

        x / 2 * min(2, max(0, x + 2))

    At -2 the gradient is -1, at 0 it is 1. At -inf the value is 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.HardMish()
    HardMish()

    Source: timm; hardswish with other constants.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class SqrtSoftplus(nn.Module):
    """The square root of softplus. The module of `fusedact.functional.sqrtsoftplus`.

        sqrt(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.SqrtSoftplus()
    SqrtSoftplus()

    Source: transformers.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class TeLU(nn.Module):
    """The input weighted by the tanh of its exponential. The module of `fusedact.functional.telu`.

        x * tanh(exp(x))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.TeLU()
    TeLU()

    Source: Fernandez, Mali, 2024, arXiv:2412.20269.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Serf(nn.Module):
    """The input weighted by the error function of its softplus. The module of `fusedact.functional.serf`.

        x * erf(log(1 + exp(x)))

    At -inf the value and the gradient are 0, at +inf they are +inf and 1.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Serf()
    Serf()

    Source: Nag, Bhattacharyya, 2021, arXiv:2108.09598.
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class Erf(nn.Module):
    """The error function, a sigmoid between -1 and 1. The module of `fusedact.functional.erf`.

        2 / sqrt(pi) * integral of exp(-t^2) from 0 to x

    At the infinities the value is -1 and 1, and the gradient 0.

    Args:
        inplace: overwrite the input.
        save: what is kept for backward: 'auto', 'input'; see `fusedact.save_policy`.

    Shape:
        input and output: any shape; the same.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if save is none of these.

    >>> fusedact.Erf()
    Erf()

    Source: torch.erf
    """
    inplace: bool
    save: str
    def __init__(self, inplace: bool = False, *, save: str = 'auto') -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

def define_own(own: Any, spec: ActivationSpec) -> type[nn.Module]: ...

