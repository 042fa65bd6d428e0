"""What pytest-benchmark keeps of the machine, so that figures of another device or with other threads do not pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import environment


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine_info["fusedact"] = {
        "device": environment.device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
