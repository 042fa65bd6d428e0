"""What the tests of biased activations share: seeds, the mask of a seed, and small pieces."""

from __future__ import annotations

import torch

from fusedact import functional as FF
from fusedact.hosts import biased, hosted


def in_small_pieces(monkeypatch):
    """Small tensors go in small pieces, as large ones do."""
    monkeypatch.setattr(hosted, "PLAIN_HOST_BELOW", 0)
    monkeypatch.setattr(biased, "PIECES_FROM", 0)
    monkeypatch.setattr(biased, "PIECES_FROM_BYTES", 0)
    monkeypatch.setattr("fusedact.hosts.biased_pieces.piece_limit", lambda x: 64)


def seeded(function, seed=0):
    def call(*args):
        torch.manual_seed(seed)
        return function(*args)

    return call


def factors(shape, p, seed=0):
    """What dropout multiplies with, told by dropping ones."""
    ones = torch.ones(shape, dtype=torch.float64)
    return seeded(lambda: FF.bias_act(ones, None, "identity", None, p), seed)()
