"""fusedact: activation functions for PyTorch as fused kernels, forward and backward."""

from importlib.metadata import PackageNotFoundError, version

from . import functional as functional
from . import optim as optim
from .conversion.conversion import convert as convert
from .custom import activation as activation
from .dispatch import Path as Path
from .dispatch import backend as backend
from .explaining import explain as explain
from .hosts.linear_modules import Linear as Linear
from .hosts.perceptron_modules import MLP as MLP
from .hosts.perceptron_modules import GatedMLP as GatedMLP
from .initialization import gain as gain
from .looking.plotting import plot as plot
from .modules import CELU as CELU
from .modules import ELU as ELU
from .modules import GEGLU as GEGLU
from .modules import GELU as GELU
from .modules import GLU as GLU
from .modules import PWL as PWL
from .modules import SELU as SELU
from .modules import XIELU as XIELU
from .modules import Activation as Activation
from .modules import ClippedGELU as ClippedGELU
from .modules import Erf as Erf
from .modules import GELUTanh as GELUTanh
from .modules import HardMish as HardMish
from .modules import Hardshrink as Hardshrink
from .modules import Hardsigmoid as Hardsigmoid
from .modules import Hardswish as Hardswish
from .modules import Hardtanh as Hardtanh
from .modules import Identity as Identity
from .modules import Laplace as Laplace
from .modules import LeakyReLU as LeakyReLU
from .modules import LogSigmoid as LogSigmoid
from .modules import LogSoftmax as LogSoftmax
from .modules import Mish as Mish
from .modules import PReLU as PReLU
from .modules import QuickGELU as QuickGELU
from .modules import ReGLU as ReGLU
from .modules import ReLU as ReLU
from .modules import ReLU6 as ReLU6
from .modules import ReLUSigmoid as ReLUSigmoid
from .modules import ReLUSquared as ReLUSquared
from .modules import RReLU as RReLU
from .modules import Serf as Serf
from .modules import Sigmoid as Sigmoid
from .modules import SiLU as SiLU
from .modules import Snake as Snake
from .modules import Softmax as Softmax
from .modules import Softmax2d as Softmax2d
from .modules import Softmin as Softmin
from .modules import Softplus as Softplus
from .modules import Softshrink as Softshrink
from .modules import Softsign as Softsign
from .modules import SqrtSoftplus as SqrtSoftplus
from .modules import Squareplus as Squareplus
from .modules import StarReLU as StarReLU
from .modules import SwiGLU as SwiGLU
from .modules import Swish as Swish
from .modules import Tanh as Tanh
from .modules import Tanhshrink as Tanhshrink
from .modules import TeLU as TeLU
from .modules import Threshold as Threshold
from .modules import create as create
from .optim.step_log import log_step as log_step
from .piecewise.regularization import lipschitz_bound as lipschitz_bound
from .piecewise.regularization import second_order_total_variation as second_order_total_variation
from .registry import names as names
from .saving.memory import memory_report as memory_report
from .saving.saving import save_policy as save_policy
from .watching.logs import log_activation as log_activation
from .watching.logs import log_to_console as log_to_console
from .watching.monitoring import monitor as monitor

try:
    __version__ = version("fusedact")
except PackageNotFoundError:  # an uninstalled checkout
    __version__ = "0.1.0"
