"""What the tests of optimizers share: parameters of mixed shapes, gradients, and pairs of optimizers of one kind."""

from __future__ import annotations

from typing import Any

import torch
from expressions_strategy import BINARY, UNARY, _Noise
from hypothesis import strategies as st
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


# ----- random rules

NAMES = ("param", "grad", "first", "second")


def _of_a_tensor(text: str) -> str:
    return text if any(n in text for n in NAMES) else f"({text} + 0.0 * grad)"


def random_rules() -> st.SearchStrategy[tuple[str, ...]]:
    """Rules of two states: three expressions of what there is, from PyTorch's elementwise operators."""
    leaves = st.sampled_from([*NAMES, "grad", "lr", "decay", "0.5"])
    # Steps apart, where rounding decides on which side one is.
    unary = [u for u in UNARY if not any(n in u for n in ("nan_to_num", "frac", "erfc", "%", "floor", "round"))]
    binary = [b for b in BINARY if b.startswith("(") or "maximum" in b or "minimum" in b or "where({0} >" in b]

    def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        tensors = inner.map(_of_a_tensor)
        return st.one_of(
            st.builds(lambda u, a: u.format(a), st.sampled_from(unary), tensors),
            st.builds(lambda b, x, y: b.format(x, y), st.sampled_from(binary), tensors, tensors),
        )

    return st.tuples(*(st.recursive(leaves, deeper, max_leaves=6) for _ in range(3)))


def drawn_rule(texts: tuple[str, ...]) -> optim.UpdateRule:
    namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    body = ", ".join(map(_of_a_tensor, texts))
    exec(f"def drawn(param, grad, first, second, *, lr, decay=0.75):\n    return {body}", namespace)
    return optim.update_rule(namespace["drawn"], state=NAMES[2:])


def drawn_tensors(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, list[Tensor]]:
    """A parameter, its gradient, and two states; no two numbers of them are equal."""
    ends = ((-2.1, 2.3), (2.0, -1.07), (0.1, 3.0), (1.03, -1.0))
    p, grad, *states = (torch.linspace(*e, 64, dtype=torch.float64).to(device=device, dtype=dtype) for e in ends)
    return p.requires_grad_(), grad, states


def judged_step(
    rule: optim.UpdateRule, p: Tensor, grad: Tensor, states: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor]]:
    """A step in float64, and how far it may be missed: by what rounding of each operator by `eps` does, many times."""
    given = [t.detach().double().cpu().clone() for t in (p, grad, *states)]
    expected = list(rule(*given, lr=0.3))
    slack = [64 * eps * t.abs() for t in expected]
    for seed in range(4):
        with _Noise(eps, seed):
            moved = rule(*(t * (1 + eps * (-1) ** seed) for t in given), lr=0.3)
        slack = [s + 16 * (m - t).abs() for s, m, t in zip(slack, moved, expected, strict=True)]
    # Where rounding decides whether there is a number, or one that float32 holds, nothing is judged.
    judged = [t.isfinite() & s.isfinite() & (t.abs() < 1e25) for s, t in zip(slack, expected, strict=True)]
    return expected, [torch.where(j, s + 1e-30, torch.inf) for j, s in zip(judged, slack, strict=True)]
