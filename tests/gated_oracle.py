"""What the tests of gated activations share: the layouts in plain operators, and small pieces."""

from __future__ import annotations

import torch

from fusedact.hosts import gating, hosted

LAYOUTS = ("gate_value", "value_gate", "interleaved")
FP32, FP64, BF16, FP16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


def in_small_pieces(monkeypatch):
    """Small tensors go in small pieces, as large ones do."""
    monkeypatch.setattr(hosted, "PLAIN_HOST_BELOW", 0)
    monkeypatch.setattr(gating, "PIECES_FROM", 0)
    monkeypatch.setattr(gating, "PIECES_FROM_BYTES", 0)
    monkeypatch.setattr("fusedact.dispatch.GATES_BELOW", 0)
    monkeypatch.setattr("fusedact.hosts.gating_pieces.piece_limit", lambda x: 64)


def halves(t, dim, layout):
    """The value and the gate."""
    if layout == "interleaved":
        at = [slice(None)] * t.dim()
        at[dim] = slice(1, None, 2)
        value = t[tuple(at)]
        at[dim] = slice(0, None, 2)
        return value, t[tuple(at)]
    first, second = t.chunk(2, dim)
    return (second, first) if layout == "gate_value" else (first, second)
