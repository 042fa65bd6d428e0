"""What tests of linear layers share: activations, the truth and the yardstick, small layers that go the long way."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import fusedact
from fusedact.hosts import affine, perceptron

FP32, FP64, BF16, FP16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


@fusedact.activation
def bent(x, a=0.5):
    """x + a tanh(x)^2."""
    return x + a * torch.tanh(x) ** 2


# The activation, its parameters, and the same in plain operators.
ACTIVATIONS = {
    "relu_sigmoid": ("relu_sigmoid", {"threshold": 0.1}, lambda z, threshold=0.1: F.relu(z - threshold) * z.sigmoid()),
    "silu": ("silu", {}, F.silu),
    "relu": ("relu", {}, F.relu),
    "tanh": ("tanh", {}, torch.tanh),
    "gelu": ("gelu", {"approximate": "tanh"}, lambda z: F.gelu(z, approximate="tanh")),
    "elu": ("elu", {"alpha": 0.5}, lambda z, alpha=0.5: F.elu(z, alpha)),
    "hardtanh": ("hardtanh", {"min_val": -0.5, "max_val": 1.0}, lambda z: F.hardtanh(z, -0.5, 1.0)),
    "a function": (fusedact.functional.mish, {}, F.mish),
    "swish": ("swish", {"beta": 1.5}, lambda z, beta=1.5: z * torch.sigmoid(beta * z)),
    "generated": ("squareplus", {"b": 3.0}, lambda z, b=3.0: (z + torch.sqrt(z * z + b)) / 2),
    "own": (bent, {"a": 0.25}, lambda z, a=0.25: z + a * torch.tanh(z) ** 2),
}


def always_own(monkeypatch):
    """Layers of any size have a backward of their own, as large ones do."""
    monkeypatch.setattr(affine, "PLAIN_BELOW", 0)
    monkeypatch.setattr(affine, "LAYER_FROM_BYTES", 0)
    monkeypatch.setattr(perceptron, "OWN_FROM", 0)


def differentiated(function, leaves, g):
    """The value, and gradients of all leaves."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in leaves]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], g.to(y.dtype))


def assert_as_accurate(got, plain, true, dtype):
    """No farther from the truth than twice what plain PyTorch is, and a unit of the largest entry.

    In float64, whose truth is no better, within some units.
    """
    for ours, theirs, expected in zip(got, plain, true, strict=True):
        assert ours.dtype == dtype and ours.shape == expected.shape
        if dtype == FP64:
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        elif expected.numel():
            error, yardstick = ((t.double() - expected).abs().max() for t in (ours, theirs))
            assert error <= 2 * yardstick + torch.finfo(dtype).eps * expected.abs().max(), (error, yardstick)


def kept(function, *arguments):
    """The storages kept for backward beside parameters', in bytes by address."""
    parameters = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, torch.nn.Parameter)}
    found = {}

    def pack(t):
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = function(*arguments)
    return {at: size for at, size in found.items() if at not in parameters}, result


def _status(key):
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def peak(function):
    """Bytes of memory in use at the most while a function runs, beyond those before: what the system says.

    It runs once before: libraries allocate at their first use.
    """
    function()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not tell a process's highest use of memory anew")
    before = _status("VmRSS")
    result = function()
    found = _status("VmHWM") - before
    del result
    return found
