"""An activation at module level, as a user's library has it: what test_own_definitions.py imports and pickles."""

from __future__ import annotations

import torch

import fusedact

SCALE = 1.5


@fusedact.activation
def gate(x, a=1.0, b=0.5):
    """x sigmoid(a x) + b tanh(x), scaled."""
    return SCALE * (x * torch.sigmoid(a * x) + b * torch.tanh(x))


def plain(x, a=1.0, b=0.5):
    return SCALE * (x * torch.sigmoid(a * x) + b * torch.tanh(x))
