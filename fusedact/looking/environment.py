"""What this runs on: versions and devices, as the command line tells them."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

__all__ = ["checked_device", "device_names", "versions"]


def versions() -> dict[str, str]:
    """Versions by name, of what decides which kernels run and how."""
    found = {"fusedact": _version("fusedact"), "python": platform.python_version(), "torch": torch.__version__}
    found["triton"] = _version("triton")
    if torch.version.cuda or torch.version.hip:
        found["cuda" if torch.version.cuda else "hip"] = str(torch.version.cuda or torch.version.hip)
    found["system"] = f"{platform.system()} {platform.machine()}"
    for name in ("TRITON_INTERPRET", "FUSEDACT_BACKEND"):
        if name in os.environ:
            found[name] = os.environ[name]
    return found


def device_names() -> dict[str, str]:
    """Each device that calls may run on, and what it is."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        found[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return found


def checked_device(text: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: if there is none.
    """
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    # A build of PyTorch without the device raises either.
    except (RuntimeError, AssertionError):
        raise ValueError(f"fusedact: there is no device {text!r}; there are {', '.join(device_names())}") from None
    return device


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
