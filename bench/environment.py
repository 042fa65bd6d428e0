"""What a reader must know to judge or repeat figures: the machine, the versions, the state it was in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import fusedact

ROOT = Path(__file__).parents[1]

# What decides about the figures: the library, and what measures it.
SOURCES = (
    *("fusedact/**/*.py", "kernels/*.py"),
    *(
        f"bench/{name}.py"
        for name in ("cases", "catalog", "checks", "compositions", "footprint", "forms", "liger", "own", "providers")
    ),
    *(f"bench/{name}.py" for name in ("run", "subjects", "timing")),
)


def device_name(device: torch.device) -> str:
    """What the vendor calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _first_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def slug(device: torch.device) -> str:
    """The name of its folder of results: `cpu`, or a GPU's name, as `nvidia-h200`."""
    name = "cpu" if device.type == "cpu" else device_name(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def facts(device: torch.device) -> dict[str, Any]:
    """What must be the same for figures to stand in one table."""
    known: dict[str, Any] = {
        "device": device_name(device),
        "device_type": device.type,
        "cpu": device_name(torch.device("cpu")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "os": _os_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "fusedact": fusedact.__version__,
        "fusedact_backend": os.environ.get("FUSEDACT_BACKEND", "auto"),
        "sources": sources(),
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        known |= {
            "cuda": torch.version.cuda or torch.version.hip,
            "driver": _nvidia_smi("driver_version").get("driver_version", ""),
            "multiprocessors": gpu.multi_processor_count,
            "memory_bytes": gpu.total_memory,
            "cache_bytes": gpu.L2_cache_size,
        }
    return known


def state(device: torch.device) -> dict[str, Any]:
    """What may change during a run: how busy the machine is, and a GPU's clocks."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if device.type != "cuda":
        return {"load": load}
    return {"load": load} | _nvidia_smi(
        "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "power.draw", "temperature.gpu"
    )


def available_bytes(device: torch.device) -> int:
    """Memory that a program may still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    kilobytes = _first_line("/proc/meminfo", "MemAvailable").removesuffix("kB")
    return int(kilobytes) * 1024 if kilobytes else 2**62


def sources() -> str:
    """A digest of the code that was timed and that timed it."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _first_line(path: str, key: str) -> str:
    """The value after the first `key` in a file of `key: value` lines; empty if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key) and ":" in line), "")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _nvidia_smi(*wanted: str) -> dict[str, str]:
    """What nvidia-smi tells of the first GPU; empty where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(wanted)}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        return {}
    return dict(zip(wanted, map(str.strip, answer.stdout.splitlines()[0].split(",")), strict=False))
