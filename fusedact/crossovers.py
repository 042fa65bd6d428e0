"""Below how many elements PyTorch's own operators take less time than what this library has: per kind of device.

An activation that PyTorch has as one operator goes to it below `aten_below(device)`; one that it has as a chain of
operators, or not at all, always takes the kernel, which is one launch instead of several.
"""

from __future__ import annotations

from functools import cache

import torch

__all__ = [
    "ATEN_TENSORS_BELOW",
    "DRAWN_BELOW",
    "FEW",
    "FORMULA_BELOW",
    "GATES_BELOW",
    "LARGEST_ATEN_BELOW",
    "LEAST_ATEN_BELOW",
    "MASKED_ROWS_BELOW",
    "PLAIN_HOST_BELOW",
    "UNMASKED_ROWS_BELOW",
    "UNMASKED_ROWS_BELOW_RECORDED",
    "aten_below",
]

# On a GPU. Derived, not measured: launching from Python takes some 5 us longer than PyTorch's launch from C++, so below
# what the memory moves in that time, 8 bytes for each fp32 element, the operator's launch decides. From the published
# bandwidth, in TB/s, of which nine tenths are reached; the power of two below.
_BANDWIDTH = {
    # NVIDIA, by compute capability: A100; A40 and the RTX 30; L40 and the RTX 40; H100 and H200; B200; the RTX 50.
    "sm_80": 2.0,
    "sm_86": 0.7,
    "sm_89": 0.9,
    "sm_90": 4.8,
    "sm_100": 8.0,
    "sm_103": 8.0,
    "sm_120": 1.8,
    # AMD, by architecture: MI250, MI300X, MI350.
    "gfx90a": 1.6,
    "gfx942": 5.3,
    "gfx950": 8.0,
}
_LAUNCH = 5e-6
_BYTES = 8


def _below(bandwidth: float) -> int:
    elements = int(0.9 * bandwidth * 1e12 * _LAUNCH / _BYTES)
    return 1 << (elements.bit_length() - 1)


_ATEN_BELOW = {architecture: _below(bandwidth) for architecture, bandwidth in _BANDWIDTH.items()}
LEAST_ATEN_BELOW, LARGEST_ATEN_BELOW = min(_ATEN_BELOW.values()), max(_ATEN_BELOW.values())
# For what is not in the table: that of the H200, since a kernel too early costs more than one too late.
_OTHERWISE = _ATEN_BELOW["sm_90"]

# On a CPU with tensor parameters, to the twin's kernel and its autograd. Measured: they take the same time at 2^16
# elements, a fifth of ours at 2^8.
ATEN_TENSORS_BELOW = 2**16

# On a CPU with an activation whose form for the CPU the engine writes. Measured: at 2^20 elements in-cache pieces begin
# to win; below, what backward computes again costs more than what autograd keeps.
FORMULA_BELOW = 2**20

# Up to so many elements a CPU tensor is one piece for sure, and Python takes longer for a call than its arithmetic.
FEW = 2**14

# On a CPU with a gate or a bias beside an activation that PyTorch has. Measured: plain operators serve longer; from
# here on it does not show how long deciding takes.
PLAIN_HOST_BELOW = 2**20

# On a CPU with a gate. Measured: plain operators and pieces take the same time at 2^16.
GATES_BELOW = 2**16

# On a CPU with softmax and a mask that leaves elements out. Measured: blocks take the same time at 2^16 on one thread,
# and at 2^17 on two.
MASKED_ROWS_BELOW = 2**17

# On a CPU with softmax of a temperature, or a mask that is added: in forward operators take as long as softmax and one
# more pass, which blocks hardly beat. Measured: with a gradient, or halves, blocks win from 2^20, else from 2^23.
UNMASKED_ROWS_BELOW = 2**23
UNMASKED_ROWS_BELOW_RECORDED = 2**20

# On a CPU with rrelu in training, by dtype; PyTorch's operator has no other. Measured: forward and backward together
# take the same time from 2^17 to 2^21 elements, by threads. One count, whether recorded or not: a checkpoint runs both
# ways, and must draw the same slopes.
DRAWN_BELOW = {torch.float32: 2**19, torch.bfloat16: 2**18, torch.float64: 2**20}


def _architecture(device: torch.device) -> str:
    """What the table calls a device: "sm_90" or "gfx942"; an empty string for one that has neither."""
    if device.type != "cuda":
        return ""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def aten_below(device: torch.device) -> int:
    """Below so many elements a tensor on a GPU goes to PyTorch's operator."""
    return _ATEN_BELOW.get(_architecture(device), _OTHERWISE)
