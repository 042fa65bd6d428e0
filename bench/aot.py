"""The code that the compiler makes of the kernels for a target, without a device.

The library's launcher itself is run on a stub driver: signatures, alignments, block sizes and constants are those of a
real launch.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from bench.stub_driver import kernels, stub_driver

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")


def _aligned(shape: Sequence[int], dtype: torch.dtype, strided: bool) -> Tensor:
    """Memory at a multiple of 16 bytes; strided: every other column."""
    if strided:
        return torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    return torch.zeros(shape, dtype=dtype)


def compile_kernel(
    function: str,
    direction: str,
    target: str,
    dtype: torch.dtype,
    params: Sequence[Any] = (),
    strided: bool = False,
    shape: Sequence[int] = (8, 1024),
    channel_dim: int | None = None,
) -> Any:
    """The compiled kernel that the launcher uses; with tensors among `params`, the backward sums their gradients."""
    from fusedact.kernels import launch

    with stub_driver(TARGETS[target]) as stub:
        x = _aligned(shape, dtype, strided)
        out = torch.zeros(*shape, dtype=dtype)
        if direction == "forward":
            launch.forward(function, x, out, tuple(params), channel_dim)
        else:
            needed = tuple(isinstance(p, Tensor) for p in params)
            grad = _aligned(shape, dtype, strided)
            launch.backward(function, grad, x, out, tuple(params), needed, channel_dim)
        (kernel,) = (k for k in _kernels_of(stub.device))
        assert len(stub.launches) == 1 and kernel.name == stub.launches[0].metadata.name
        return kernel


def _kernels_of(device: int) -> list[Any]:
    return [
        kernel
        for function in kernels()
        if device in function.device_caches
        for kernel in function.device_caches[device][0].values()
    ]


def tool(name: str, *args: str) -> str:
    """What one of Triton's bundled CUDA tools prints."""
    return subprocess.run([os.path.join(TOOLS, name), *args], capture_output=True, text=True, check=True).stdout


def _of_cubin(kernel: Any, name: str, *args: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        return tool(name, *args, file.name)


def disassembly(kernel: Any) -> str:
    """The machine code of an NVIDIA kernel as text."""
    return _of_cubin(kernel, "nvdisasm", "-c")


def sass(kernel: Any) -> list[str]:
    """The machine instructions' mnemonics with their modifiers, in order."""
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", disassembly(kernel))


def resources(kernel: Any) -> dict[str, int]:
    """Registers, stack, shared and local memory of a cubin."""
    text = _of_cubin(kernel, "cuobjdump", "--dump-resource-usage")
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def amdgcn(kernel: Any) -> Counter[str]:
    """How often each instruction of an AMD kernel occurs."""
    return Counter(re.findall(r"^\s+([a-z]\w+_\w+)\b", kernel.asm["amdgcn"], re.MULTILINE))


def amd_metadata(kernel: Any) -> dict[str, int]:
    """Spills and private memory of an AMD kernel."""
    names = "vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size"
    return {name: int(value) for name, value in re.findall(rf"\.({names}):\s*(\d+)", kernel.asm["amdgcn"])}


def amd_registers(kernel: Any) -> int:
    """Vector registers of an AMD kernel."""
    return int(re.findall(r"\.vgpr_count:\s*(\d+)", kernel.asm["amdgcn"])[0])
