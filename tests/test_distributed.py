"""Jobs of several processes under torchrun, on the CPU, compared with one process. Their checks: distributed_job.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

TESTS = Path(__file__).parent
JOB = TESTS / "distributed_job.py"
# What the job may begin with; the same names stand in its table.
CHECKS = {
    2: (
        *("data_parallel", "data_parallel_accumulates", "data_parallel_with_checkpoints", "fully_sharded"),
        *("fully_sharded_with_checkpoints", "fully_sharded_in_bfloat16", "states_are_saved_and_loaded"),
        *("tensor_parallel", "tensor_parallel_dtensors", "sequence_parallel", "dtensors", "dtensors_of_other_kinds"),
        *(
            "dtensors_of_gates_and_biases",
            "dtensors_of_higher_order",
            "dtensors_of_learned_tables",
            "errors",
            "collectives",
            "prepared_inputs",
        ),
    ),
    4: (
        *("data_parallel", "fully_sharded", "tensor_parallel", "sequence_parallel", "two_dimensions", "dtensors"),
        "dtensors_on_two_dimensions",
    ),
}


def started(script, ranks, *arguments):
    """A job under torchrun, on a port of its own."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script), *arguments]
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """By the number of ranks: what was printed, and what went wrong by the name of a check."""
    found = {}
    for ranks in CHECKS:
        file = tmp_path_factory.mktemp("job") / "results.json"
        output, _ = started(JOB, ranks, str(file)).communicate(timeout=300)
        found[ranks] = output, json.loads(file.read_text()) if file.exists() else {}
    return found


@pytest.mark.parametrize(("ranks", "name"), [(ranks, name) for ranks, names in CHECKS.items() for name in names])
def test_checks(ranks, name, jobs):
    output, found = jobs[ranks]
    assert found.get(name) == "", found.get(name) or output


def test_every_check_is_named(jobs):
    assert {ranks: set(found) for ranks, (_, found) in jobs.items()} == {k: set(v) for k, v in CHECKS.items()}


# A rank ends while the other waits for its part of a gradient.
KILLED = """
import datetime, os, signal, torch, torch.distributed as dist, fusedact
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 8), fusedact.PReLU(8)))
net(torch.randn(5, 4)).sum().backward()
os.write(1, b"both were here\\n")
if dist.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
net(torch.randn(5, 4)).sum().backward()
"""


def test_a_killed_rank_ends_in_an_error(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    began = time.monotonic()
    job = started(script, 2)
    output, _ = job.communicate(timeout=150)
    assert job.returncode != 0
    assert "both were here" in output and "Signal 9 (SIGKILL)" in output
    # Long before the five minutes that a collective would wait.
    assert time.monotonic() - began < 120


def losses(output):
    return [float(number) for number in re.findall(r"^step +\d+: loss ([\d.]+)$", output, re.MULTILINE)]


def test_example():
    """Two ranks, tensor parallel, have the losses of one process."""
    script = TESTS.parent / "examples" / "distributed.py"
    job = started(script, 2, "--way", "tensor", "--steps", "21")
    output, _ = job.communicate(timeout=150)
    assert job.returncode == 0, output
    alone = subprocess.run([sys.executable, str(script), "--steps", "21"], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    expected = losses(alone.stdout)
    assert len(expected) == 3 and expected[-1] < 0.9 * expected[0]
    assert losses(output) == pytest.approx(expected, rel=1e-3)
    assert re.search(r"thresholds from -?[\d.]+ to [\d.]+; the table moved by up to 0\.[\d]+", output)
