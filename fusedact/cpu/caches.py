"""How large this machine's caches are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["second_level"]

# Bytes, of each core. What is taken where the system does not tell.
USUAL = 2**20
_UNITS = {"K": 2**10, "M": 2**20}
_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")


def second_level(folder: Path = _FOLDER) -> int:
    """Bytes of the first core's second-level cache, as Linux tells; elsewhere a usual size."""
    try:
        for index in sorted(folder.glob("index*")):
            if (index / "level").read_text().strip() == "2":
                size = (index / "size").read_text().strip()
                return int(size[:-1]) * _UNITS[size[-1]]
    except (OSError, ValueError, LookupError):
        pass
    return USUAL
