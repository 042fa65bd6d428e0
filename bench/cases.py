"""The cases that are timed, and their inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.catalog import SUBJECTS
from bench.subjects import Function

Inputs = tuple[Tensor, ...]  # x, which requires grad; the gradient of the output; other operands; what learns

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One comparison: all providers of it run on the same inputs."""

    activation: str
    dtype: str
    size: int
    direction: str


def all_cases(dtypes: Iterable[str], sizes: Iterable[int], subjects: Iterable[str] | None = None) -> list[Case]:
    """Every activation with every size, dtype and direction, by size, dtype and activation."""
    dtypes, subjects = tuple(dtypes), tuple(SUBJECTS if subjects is None else subjects)
    return [
        Case(subject, dtype, size, direction)
        for size in sizes
        for dtype in dtypes
        for subject in subjects
        for direction in DIRECTIONS
    ]


def label(size: int) -> str:
    """A size, which is a power of two."""
    return f"2^{size.bit_length() - 1}"


def forward_backward(function: Function, x: Tensor, g: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The gradients of x, of other operands and of what learns, by way of the value."""
    return torch.autograd.grad(function(x, *others), (x, *others), g)


def inputs(dtype: torch.dtype, size: int, device: torch.device, count: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Normally distributed numbers, each pair in memory of its own: two for each element of a result, and one."""
    generator = torch.Generator(device).manual_seed(0)
    numbers = torch.randn(count, 3 * size, dtype=dtype, device=device, generator=generator)
    return [(numbers[i, : 2 * size], numbers[i, 2 * size :]) for i in range(count)]


def inputs_of(subject: str, numbers: Iterable[tuple[Tensor, Tensor]]) -> list[Inputs]:
    """Such numbers in the subject's shapes, and its parameters that learn: the same for all, as a layer's are."""
    s = SUBJECTS[subject]
    shaped = []
    for both, g in numbers:
        shape = s.shape(g.numel())
        if s.packed:
            tensors = [both.view(*shape[:-1], 2 * shape[-1])]
        else:
            tensors = [part.view(shape) for part in both.split(g.numel())[: 1 + s.operands]]
        x, *operands = (t.detach().requires_grad_() for t in tensors)
        shaped.append((x, g.view(shape), *operands))
    learned = s.parameters(shaped[0][0])
    return [(*tensors, *learned) for tensors in shaped]


def bytes_moved(direction: str, given: Inputs) -> int:
    """What a case must move: inputs and result; with backward also the gradient, the inputs again, their gradients."""
    x, g, *others = given
    read = sum(t.nbytes for t in (x, *others))
    return read + g.nbytes if direction == FORWARD else 3 * read + 2 * g.nbytes
