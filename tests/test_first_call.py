"""What the first call of an activation of one's own costs, in a process that has done nothing yet."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import statistics, sys, time
import torch
import fusedact

def made():
    @fusedact.activation
    def relu_tanh(x, a=0.5, b=1.0):
        return torch.relu(x) * torch.tanh(a * x) + b * torch.sigmoid(x)
    return relu_tanh

def traced(own):
    begin = time.perf_counter()
    own.source
    return time.perf_counter() - begin

print(traced(made()), statistics.median(traced(made()) for _ in range(9)))
print([name for name in ("triton", "sympy", "torch._dynamo") if name in sys.modules])
"""


def test_tracing_and_writing_take_little_time():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    times, imported = done.stdout.splitlines()
    first, later = map(float, times.split())
    assert first < 0.5
    assert later < 0.02
    # Whatever takes long to import stays out.
    assert imported == "[]"
