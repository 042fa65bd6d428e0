"""The code that the compiler makes of the kernels for a target, without a device.

The library's launcher itself is run on a stub driver: signatures, alignments, block sizes and constants are those of a
real launch.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

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
_Case, _Counted = TypeVar("_Case", bound=tuple[Any, ...]), TypeVar("_Counted")
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

    x = _aligned(shape, dtype, strided)
    out = torch.zeros(*shape, dtype=dtype)
    if direction == "forward":
        return launched(target, lambda: launch.forward(function, x, out, tuple(params), channel_dim))[0]
    needed = tuple(isinstance(p, Tensor) for p in params)
    grad = _aligned(shape, dtype, strided)
    return launched(target, lambda: launch.backward(function, grad, x, out, tuple(params), needed, channel_dim))[0]


def launched(target: str, run: Callable[[], Any]) -> tuple[Any, tuple[int, ...]]:
    """The one kernel that a function launches, with its grid, where the target is the device."""
    with stub_driver(TARGETS[target]) as stub:
        run()
        (kernel,) = _kernels_of(stub.device)
        (launch,) = stub.launches
    assert kernel.name == launch.metadata.name
    return kernel, launch.grid


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


def _of_file(content: bytes, name: str, *args: str) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return tool(name, *args, file.name)


# ----- machine code

# As nvdisasm calls them.
_ARCHITECTURES = {80: "SM80", 90: "SM90a", 100: "SM100a"}
# Kernels that are disassembled at once.
_BATCH = 64
_texts: dict[bytes, str] = {}


def _digest(kernel: Any) -> bytes:
    return hashlib.sha256(kernel.asm["cubin"]).digest()


def _instructions_of(cubin: bytes) -> bytes:
    """The section of an ELF file that holds the code of its one kernel."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    # Name, type, flags, address, offset, size.
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + size * i) for i in range(count)]
    (code,) = (s for s in sections if cubin.startswith(b".text.", sections[names][4] + s[0]))
    return cubin[code[4] : code[4] + code[5]]


def disassemble(kernels: Iterable[Any]) -> None:
    """Have the text of several kernels made at once: the disassembler takes its time to start, whatever it is given."""
    wanted: dict[int, dict[bytes, bytes]] = {}
    for kernel in kernels:
        if "cubin" in kernel.asm and _digest(kernel) not in _texts:
            code = _instructions_of(kernel.asm["cubin"])
            wanted.setdefault(kernel.metadata.target.arch, {})[_digest(kernel)] = code
    for architecture, codes in wanted.items():
        text = _of_file(b"".join(codes.values()), "nvdisasm", "--binary", _ARCHITECTURES[architecture])
        lines = iter(re.findall(r"^\s+/\*([0-9a-f]{4,})\*/(.*)$", text, re.MULTILINE))
        line = next(lines, None)
        end = 0
        for digest, code in codes.items():
            end += len(code)
            own = []
            while line is not None and int(line[0], 16) < end:
                own.append(f"        /*{line[0]}*/{line[1]}\n")
                line = next(lines, None)
            _texts[digest] = "".join(own)


def counted(
    cases: Iterable[_Case], compiled: Callable[..., tuple[Any, ...]], count: Callable[[_Case, Any], _Counted]
) -> Iterator[_Counted]:
    """What `count` makes of each case and of what was compiled for it: a kernel, and what else there is to know."""
    rest = iter(cases)
    while batch := list(itertools.islice(rest, _BATCH)):
        made = [compiled(*case) for case in batch]
        disassemble(kernel for kernel, *_ in made)
        yield from map(count, batch, made)


def disassembly(kernel: Any) -> str:
    """The machine code of an NVIDIA kernel as text, with the addresses that branches go to."""
    disassemble([kernel])
    return _texts[_digest(kernel)]


def sass(kernel: Any) -> list[str]:
    """The machine instructions' mnemonics with their modifiers, in order."""
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", disassembly(kernel))


def resources(kernel: Any) -> dict[str, int]:
    """Registers, stack, shared and local memory of a cubin."""
    text = _of_file(kernel.asm["cubin"], "cuobjdump", "--dump-resource-usage")
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
