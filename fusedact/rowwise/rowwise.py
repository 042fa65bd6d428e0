"""Softmax and its kin: the functions softmax, log_softmax, softmin and softmax2d, and their modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import registry
from ..checks import check_input, check_number
from ..describe import indented
from ..registry import ActivationSpec
from ..saving.saving import check_save
from ..shortest import for_twin_of_rows
from . import rows

__all__ = [
    "LogSoftmax",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "log_softmax",
    "softmax",
    "softmax2d",
    "softmin",
]


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    save: str = "auto",
) -> Tensor:
    # Documented below.
    if has_torch_function_unary(input):
        keywords: dict[str, Any] = {"temperature": temperature, "mask": mask, "save": save}
        return handle_torch_function(softmax, (input,), input, dim, _stacklevel, dtype, **keywords)
    if mask is None and dtype is None and save == "auto" and for_twin_of_rows(input, dim, temperature):
        if temperature == 1.0:
            return torch.softmax(input, dim)  # type: ignore[arg-type]
        return rows.few(torch.softmax, input, temperature, dim)
    return rows.apply(_SOFTMAX, input, dim, _stacklevel, dtype, temperature, mask, save)


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    save: str = "auto",
) -> Tensor:
    # Documented below.
    if has_torch_function_unary(input):
        keywords: dict[str, Any] = {"temperature": temperature, "mask": mask, "save": save}
        return handle_torch_function(log_softmax, (input,), input, dim, _stacklevel, dtype, **keywords)
    if mask is None and dtype is None and save == "auto" and for_twin_of_rows(input, dim, temperature):
        if temperature == 1.0:
            return torch.log_softmax(input, dim)  # type: ignore[arg-type]
        return rows.few(torch.log_softmax, input, temperature, dim)
    return rows.apply(_LOG_SOFTMAX, input, dim, _stacklevel, dtype, temperature, mask, save)


def softmin(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    save: str = "auto",
) -> Tensor:
    # Documented below.
    if has_torch_function_unary(input):
        keywords: dict[str, Any] = {"temperature": temperature, "mask": mask, "save": save}
        return handle_torch_function(softmin, (input,), input, dim, _stacklevel, dtype, **keywords)
    if mask is None and dtype is None and save == "auto" and for_twin_of_rows(input, dim, temperature):
        if temperature == 1.0:
            return torch.softmax(-input, dim)  # type: ignore[arg-type]
        return rows.few(torch.softmax, input, -temperature, dim)
    return rows.apply(_SOFTMIN, input, dim, _stacklevel, dtype, temperature, mask, save)


def softmax2d(
    input: Tensor, *, temperature: float | Tensor = 1.0, mask: Tensor | None = None, save: str = "auto"
) -> Tensor:
    # Documented below.
    if has_torch_function_unary(input):
        return handle_torch_function(softmax2d, (input,), input, temperature=temperature, mask=mask, save=save)
    if mask is None and save == "auto" and for_twin_of_rows(input, -3, temperature) and input.dim() < 5:
        return torch.softmax(input, -3) if temperature == 1.0 else rows.few(torch.softmax, input, temperature, -3)
    check_input(_SOFTMAX2D, input)
    if input.dim() not in (3, 4):
        raise ValueError(
            f"fusedact.functional.softmax2d: input must have shape (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    return rows.apply(_SOFTMAX2D, input, -3, 3, None, temperature, mask, save)


_SOFTMAX, _LOG_SOFTMAX, _SOFTMIN, _SOFTMAX2D = map(registry.get, ("softmax", "log_softmax", "softmin", "softmax2d"))

_ARGUMENTS = """
    input: tensor of any shape and strides, float16, bfloat16, float32 or float64; of another dtype, if dtype is given.
    dim: the dimension that sums go over. Without one it is 0 for tensors of 0, 1 or 3 dimensions, else 1, with a
        warning: as in PyTorch, which has deprecated that.
    _stacklevel: of that warning.
    dtype: of the result; the input is converted first."""
_ARGUMENTS_2D = """
    input: tensor of shape (C, H, W) or (N, C, H, W) and any strides, float16, bfloat16, float32 or float64."""
_EXTENSIONS = """
    temperature: what the input is divided by: a positive number, or a tensor of shape () or (1,), which gets a
        gradient.
    mask: tensor that broadcasts with the input. Of dtype bool, as for scaled_dot_product_attention: True where an
        element takes part; the others count as -inf. Of a floating-point dtype, it is added after the division, and
        gets a gradient if it requires one.
    save: what is kept for backward beside these: 'auto', 'input', 'output'; see `fusedact.save_policy`. By default it
        is the output; "input" makes that again, so that it may be changed in place."""


def _docstring(spec: ActivationSpec) -> str:
    """The documentation of a function."""
    wide = "" if spec is _SOFTMAX2D else " Under autocast on a GPU halves give float32, as in PyTorch."
    index = "" if spec is _SOFTMAX2D else "\n    IndexError: if there is no dimension dim."
    return f"""{spec.summary}

{indented(spec.formula)}

{spec.limits}

Args:{_ARGUMENTS_2D if spec is _SOFTMAX2D else _ARGUMENTS}{_EXTENSIONS}

Returns:
    tensor of the input's shape and layout, and its dtype unless another is asked for.{wide}

Raises:
    TypeError: if an argument has another type or dtype.
    ValueError: if the temperature is not positive, shapes or devices do not fit, or save is none of these.{index}

{spec.example}

Source: {spec.twin}; {spec.reference}
"""


for _function, _spec in (
    (softmax, _SOFTMAX),
    (log_softmax, _LOG_SOFTMAX),
    (softmin, _SOFTMIN),
    (softmax2d, _SOFTMAX2D),
):
    _function.__doc__ = _docstring(_spec)
    _function.spec = _spec  # type: ignore[attr-defined]


class _Rowwise(nn.Module):
    """What these modules share: a dimension, and a temperature that is a number or an nn.Parameter of shape (1,)."""

    spec: ActivationSpec
    temperature: float | nn.Parameter
    save: str = "auto"

    def _configure(
        self, temperature: float, learnable: bool, device: Any, dtype: torch.dtype | None, save: str
    ) -> None:
        owner = f"fusedact.{type(self).__name__}"
        check_save(owner, self.spec, save)
        if not isinstance(learnable, bool):
            raise TypeError(f"{owner}: learnable must be a bool, got {type(learnable).__name__}")
        self._initial = check_number(owner, "temperature", temperature)
        if not 0.0 < self._initial < float("inf"):
            raise ValueError(f"{owner}: temperature must be positive and finite, got {temperature}")
        self.temperature = self._initial
        self.save = save
        if learnable:
            self.temperature = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give a learned temperature the value it began with."""
        if isinstance(self.temperature, Tensor):
            with torch.no_grad():
                self.temperature.fill_(self._initial)

    def _shown(self, *first: str) -> str:
        parts = list(first)
        if isinstance(self.temperature, Tensor):
            parts.append("temperature=learnable")
        elif self.temperature != 1.0:
            parts.append(f"temperature={self.temperature}")
        if self.save != "auto":
            parts.append(f"save={self.save!r}")
        return ", ".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class _Along(_Rowwise):
    """Those with a dimension to choose."""

    dim: int | None

    def __init__(
        self,
        dim: int | None = None,
        *,
        temperature: float = 1.0,
        learnable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        super().__init__()
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
            raise TypeError(f"fusedact.{type(self).__name__}: dim must be an int, got {type(dim).__name__}")
        self.dim = dim
        self._configure(temperature, learnable, device, dtype, save)

    def extra_repr(self) -> str:
        return self._shown(f"dim={self.dim}")


class Softmax(_Along):
    spec = _SOFTMAX

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return softmax(input, self.dim, 6, temperature=self.temperature, mask=mask, save=self.save)


class LogSoftmax(_Along):
    spec = _LOG_SOFTMAX

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return log_softmax(input, self.dim, 6, temperature=self.temperature, mask=mask, save=self.save)


class Softmin(_Along):
    spec = _SOFTMIN

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return softmin(input, self.dim, 6, temperature=self.temperature, mask=mask, save=self.save)


class Softmax2d(_Rowwise):
    spec = _SOFTMAX2D

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        learnable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        super().__init__()
        self._configure(temperature, learnable, device, dtype, save)

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return softmax2d(input, temperature=self.temperature, mask=mask, save=self.save)

    def extra_repr(self) -> str:
        return self._shown()


def _module_docstring(spec: ActivationSpec) -> str:
    """The documentation of a class."""
    dim = "" if spec is _SOFTMAX2D else "\n    dim: the dimension that sums go over."
    shown = ("", "") if spec is _SOFTMAX2D else ("-1, ", "dim=-1, ")
    return f"""{spec.summary} The module of `fusedact.functional.{spec.name}`.

{indented(spec.formula)}

{spec.limits}

Args:{dim}
    temperature: what the input is divided by.
    learnable: make the temperature an nn.Parameter of shape (1,).
    device, dtype: of a learned temperature.
    save: what is kept for backward: 'auto', 'input', 'output'; see `fusedact.functional.{spec.name}`.

Shape:
    input and output: {"(C, H, W) or (N, C, H, W)" if spec is _SOFTMAX2D else "any shape"}; the same. Called with a
    second argument, the function's mask.

Raises:
    TypeError: if an argument has another type.
    ValueError: if the temperature is not positive, or save is none of these.

>>> fusedact.{spec.module}({shown[0]}temperature=0.5)
{spec.module}({shown[1]}temperature=0.5)

Source: torch.nn.{spec.module}; {spec.reference}
"""


for _class in (Softmax, LogSoftmax, Softmin, Softmax2d):
    _class.__doc__ = _module_docstring(_class.spec)
