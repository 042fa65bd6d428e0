"""For tests that run kernels: on the GPU where there is one, else in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import arithmetic
import oracles
import pytest
import torch
from torch import Tensor

import fusedact
from fusedact import compat
from fusedact.kernels import launch

FLAT = ("forward_kernel", "backward_kernel")


_empty_like, _new_empty = torch.empty_like, torch.Tensor.new_empty


def _poisoned(t: Tensor) -> Tensor:
    return t.fill_(float("nan")) if t.is_floating_point() and not t.is_meta else t


@pytest.fixture(autouse=True)
def _poisoned_allocations(monkeypatch):
    """What no kernel writes is NaN, not what the memory happened to hold."""
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kw: _poisoned(_empty_like(*args, **kw)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kw: _poisoned(_new_empty(*args, **kw)))


@pytest.fixture(autouse=True)
def launches(monkeypatch) -> Iterator[list[str]]:
    """The names of the kernels launched so far; every activation is sent to a kernel, whatever its size."""
    names: list[str] = []
    run = launch._run

    def counted(kernel: Any, *args: Any, **options: Any) -> None:
        names.append(kernel.__name__)
        run(kernel, *args, **options)

    monkeypatch.setattr(launch, "_run", counted)
    with fusedact.backend("triton"):
        yield names


@pytest.fixture(autouse=True)
def _arithmetic(monkeypatch):
    """Arithmetic as hardware does it."""
    if not compat.interpreting:
        return
    arithmetic.as_hardware(monkeypatch.setattr)


@pytest.fixture(params=[(1, -1), (-1, 1), (0, 0)], ids=str)
def approximate(request, monkeypatch) -> arithmetic.Approximate:
    """A GPU's approximate instructions, off by all that is documented, in the interpreter."""
    if not compat.interpreting:
        pytest.skip("the hardware's own arithmetic is at work")
    model = arithmetic.Approximate(*map(float, request.param))
    model.install(monkeypatch)
    return model


@pytest.fixture
def guarded_sums(monkeypatch) -> list[Tensor]:
    """The memory of every fp32 tensor that the launcher makes for sums: infinities, 32 of them on either side."""
    new_empty, buffers = torch.Tensor.new_empty, []

    def guarded_new_empty(self, size, **options):
        if options.get("dtype") is not torch.float32 or not isinstance(size, tuple):
            return new_empty(self, size, **options)
        buffers.append(torch.full((math.prod(size) + 64,), math.inf, device=self.device))
        return buffers[-1][32:-32].view(size)

    monkeypatch.setattr(torch.Tensor, "new_empty", guarded_new_empty)
    return buffers


@dataclass
class Result:
    """Value and gradients, on the CPU."""

    y: Tensor
    dx: Tensor | None = None
    dparams: list[Tensor | None] = field(default_factory=list)


@pytest.fixture
def run(launches: list[str]) -> Callable[..., Result]:
    """run(name, x, params, g): the value, and, given the output's gradient g, the gradients of x and of tensors.

    Fails unless it was `kernels` that ran; by default, those of contiguous tensors.
    """

    def run(
        name: str,
        x: Tensor,
        params: Sequence[float | Tensor] = (),
        g: Tensor | None = None,
        *,
        kernels: Sequence[str] = FLAT,
        x_needs_grad: bool = True,
    ) -> Result:
        launches.clear()
        x = x.detach()
        params = [p.detach().to(x.device) if isinstance(p, Tensor) else p for p in params]
        if g is None:
            y = oracles.function(name)(x, *params)
            assert launches == list(kernels[:1])
            return Result(y.cpu())
        leaves = [x.requires_grad_(x_needs_grad)]
        leaves += [p.requires_grad_() for p in params if isinstance(p, Tensor)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        y = oracles.function(name)(x, *params)
        grads = list(torch.autograd.grad(y, wanted, g))
        assert launches == list(kernels)
        dx = grads.pop(0).cpu() if x_needs_grad else None
        return Result(y.detach().cpu(), dx, [grad.cpu() for grad in grads])

    return run
