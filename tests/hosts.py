"""What the tests of all forms share that host an activation: the forms, and modes that watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import biased_oracle
import gated_oracle
import torch
from linear_oracle import always_own
from torch.utils._python_dispatch import TorchDispatchMode

from fusedact import functional as FF


@dataclass(frozen=True)
class Host:
    """A form: a call with tensors, an activation and its parameters; the tensors' shapes for so many rows."""

    call: Callable[..., torch.Tensor]
    shapes: Callable[[int], list[tuple[int, ...]]]
    # What makes small tensors go the way of large ones.
    as_large: Callable[[Any], None]
    # The names of its operators, but where PyTorch's are among them.
    operators: tuple[str, ...] = ()

    def tensors(self, rows: int = 9) -> list[torch.Tensor]:
        return [torch.randn(shape) for shape in self.shapes(rows)]


def _operators(name: str) -> tuple[str, ...]:
    return f"fusedact::{name}", f"fusedact::{name}_backward"


HOSTS = {
    "gated": Host(
        lambda x, gate, *how, **p: FF.gated(x, gate, *how, **p),
        lambda rows: [(rows, 10), (rows, 10)],
        *(gated_oracle.in_small_pieces, _operators("gated")),
    ),
    "packed": Host(
        lambda x, *how, **p: FF.packed_glu(x, *how, layout="value_gate", **p),
        lambda rows: [(rows, 20)],
        *(gated_oracle.in_small_pieces, _operators("packed_glu")),
    ),
    "biased": Host(
        lambda x, bias, residual, *how, **p: FF.bias_act(x, bias, *how, residual, **p),
        lambda rows: [(rows, 10), (10,), (rows, 10)],
        *(biased_oracle.in_small_pieces, _operators("bias_act")),
    ),
    "dropout": Host(
        lambda x, bias, residual, *how, **p: FF.bias_act(x, bias, *how, residual, 0.5, **p),
        lambda rows: [(rows, 10), (10,), (rows, 10)],
        *(biased_oracle.in_small_pieces, _operators("bias_act")),
    ),
    "linear": Host(
        lambda x, weight, bias, *how, **p: FF.linear(x, weight, bias, *how, **p),
        lambda rows: [(rows, 12), (10, 12), (10,)],
        always_own,
    ),
}


def assert_near(got, true, dtype, scale=1.0):
    """Within a few units in the last place of what is written, and of the terms that it is made of."""
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), true.double(), rtol=8 * eps, atol=8 * eps * scale, equal_nan=True)


def differentiated(function, leaves, g):
    """The value, and the gradients of all leaves."""
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    y = function(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, g.to(y.dtype))


class Logged(torch.Tensor):
    """A tensor subclass."""


class Made(TorchDispatchMode):
    """The bytes of each memory that operators return, but for these tensors'."""

    def __init__(self, *known):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else (result,):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in self.known:
                self.sizes.append(t.untyped_storage().nbytes())
        return result


class Seen(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))
