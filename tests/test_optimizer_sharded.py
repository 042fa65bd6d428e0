"""Steps of a network that FSDP shards over two processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

SCRIPT = Path(__file__).with_name("sharded_training.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed")
def test_each_process_steps_its_shards(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for rank in (0, 1)
    ]
    try:
        ended = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors for _, errors in ended)
    counts = [int(re.search(r"(\d+) elements here", out)[1]) for out, _ in ended]
    # 35 + 7 + 7 + 1 in all, the last bias on one process alone.
    assert sum(counts) == 50 and min(counts) > 0
