"""fusedact: activation functions for PyTorch as fused kernels, forward and backward."""

from importlib.metadata import PackageNotFoundError, version

from . import functional as functional
from .custom import activation as activation
from .dispatch import Path as Path
from .dispatch import backend as backend
from .dispatch import explain as explain
from .modules import ELU as ELU
from .modules import PWL as PWL
from .modules import SELU as SELU
from .modules import Activation as Activation
from .modules import PReLU as PReLU
from .modules import ReLUSigmoid as ReLUSigmoid
from .modules import Swish as Swish
from .modules import create as create
from .registry import names as names

try:
    __version__ = version("fusedact")
except PackageNotFoundError:  # an uninstalled checkout
    __version__ = "0.1.0"
