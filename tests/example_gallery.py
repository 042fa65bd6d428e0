"""The activations of examples/gallery.py, and what tests know of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import benches
import numpy as np
import torch
from torch import Tensor

_spec = importlib.util.spec_from_file_location("example_gallery_script", benches.ROOT / "examples" / "gallery.py")
assert _spec and _spec.loader
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script
_spec.loader.exec_module(script)

ACTIVATIONS: dict[str, Any] = {a.__name__: a for a in script.GALLERY}
# Other parameters than the defaults.
PARAMETERS = {
    "pelu": (0.7, 1.6),
    "acon_c": (1.2, -0.3, 1.7),
    "srelu": (-0.6, 0.3, 0.9, 1.4),
    "rational": (0.1, 0.6, 1.1, 1.0, 0.4, 0.05, 0.2, 2.0, -0.1, 0.1),
    "sparse_plus": (),
}


# As the papers have them, in NumPy.
def _rational(x, *c):
    return np.polyval(c[5::-1], x) / (1 + np.abs(np.polyval((*c[:5:-1], 0.0), x)))


VALUES = {
    "pelu": lambda x, a, b: np.where(x >= 0, a / b * x, a * (np.exp(np.minimum(x, 0) / b) - 1)),
    "acon_c": lambda x, p1, p2, beta: (p1 - p2) * x / (1 + np.exp(-beta * (p1 - p2) * x)) + p2 * x,
    "srelu": lambda x, tl, al, tr, ar: np.select([x >= tr, x <= tl], [tr + ar * (x - tr), tl + al * (x - tl)], x),
    "rational": _rational,
    "sparse_plus": lambda x: np.select([x <= -1, x >= 1], [0 * x, x], 0.25 * (x + 1) ** 2),
}


def derived(function: Any, x: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> list[Tensor]:
    """The value, and the gradients of x and of the parameters, which are tensors."""
    leaf = x.detach().to(dtype).requires_grad_()
    held = [torch.tensor(p, dtype=dtype, device=x.device, requires_grad=True) for p in params]
    y = function(leaf, *held)
    g = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=x.device)
    return [t.detach().cpu() for t in (y, *torch.autograd.grad(y, [leaf, *held], g))]


def assert_derived(name: str, x: Tensor, params: tuple[float, ...]) -> None:
    """Raise unless value and gradients in float32 are those of float64 and its autograd."""
    numbers = tuple(torch.tensor(params).tolist())
    got = derived(ACTIVATIONS[name], x, numbers, torch.float32)
    truth = derived(ACTIVATIONS[name].__wrapped__, x.cpu(), numbers, torch.float64)
    torch.testing.assert_close(got[:2], [t.float() for t in truth[:2]], rtol=4e-6, atol=4e-6)
    # Sums of terms that cancel.
    scale = 1e-6 * x.numel() * max([1.0, *(t.abs().max().item() for t in truth[:2])])
    torch.testing.assert_close(got[2:], [t.float() for t in truth[2:]], rtol=1e-5, atol=scale)
