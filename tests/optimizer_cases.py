"""What the tests of optimizers share: parameters of mixed shapes, gradients, and pairs of optimizers of one kind."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedact import optim

SHAPES = ((3, 4), (), (0,), (1,), (130, 7), (17000,), (8, 1, 5))

# By name: ours, torch's, and settings.
PAIRS = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd, decay": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "sgd, momentum": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd, dampening": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd, nesterov": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "adam": (optim.Adam, torch.optim.Adam, {"lr": 0.01}),
    "adam, decay": (optim.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    "adam, amsgrad": (optim.Adam, torch.optim.Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 0.01}),
    "adamw, amsgrad": (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.2}),
}


def parameters(dtype: torch.dtype = torch.float32, shapes=SHAPES, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Parameters of these shapes, and one whose memory runs along its columns."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator) for s in shapes]
    made.append(torch.randn(40, 30, generator=generator).t())
    return [t.to(device=device, dtype=dtype).detach().requires_grad_() for t in made]


def copies(params: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [p.detach().clone().to(dtype or p.dtype).requires_grad_() for p in params]


def give_gradients(step: int, *lists: list[Tensor]) -> None:
    """The same gradients to all lists; that of the second parameter is missing at times."""
    generator = torch.Generator().manual_seed(1000 + step)
    for at, several in enumerate(zip(*lists, strict=True)):
        grad = torch.randn(several[0].shape, generator=generator)
        for p in several:
            p.grad = None if at == 1 and step % 3 == 1 else grad.to(p.device).to(several[0].dtype).to(p.dtype)


def closeness(dtype: torch.dtype) -> dict[str, float]:
    """For results of many steps that round in another order."""
    return {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 2e-5, "atol": 2e-6}}[dtype]


def assert_close(ours: list[Tensor], theirs: list[Tensor], **tolerance: float) -> None:
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(
            p.detach().cpu(), q.detach().cpu(), msg=lambda m, i=i: f"parameter {i}: {m}", **tolerance
        )
