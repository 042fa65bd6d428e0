"""Large results on the CPU: the system is asked for large pages everywhere, and they take no more memory."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch

import fusedact
from fusedact import functional as FF
from fusedact.cpu import large_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SMAPS = Path("/proc/self/smaps")
# As a program sees it that may ask.
ASKED = sys.platform == "linux" and SETTING.exists() and "[never]" not in SETTING.read_text()
COUNT = large_pages.LARGE // 4

needs_large_pages = pytest.mark.skipif(not ASKED, reason="this system has no large pages to ask for")


def flags(t):
    """What the system knows of the mapping that holds the middle of a tensor."""
    at, inside = t.data_ptr() + t.nbytes // 2, False
    for line in SMAPS.read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(n, 16) for n in first.split("-"))
            inside = start <= at < end
        elif inside and first == "VmFlags:":
            return set(rest)
    raise AssertionError("no mapping holds it")


def resident():
    """The bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@fusedact.activation
def bent(x, a=0.5):
    """x + a tanh(x)^2."""
    return x + a * torch.tanh(x) ** 2


def learned(x):
    return fusedact.PWL.from_function(torch.tanh, -4.0, 4.0, 8)(x)


CALLS = {
    "pieces": lambda x: FF.relu_sigmoid(x, 0.1),
    "generated": lambda x: FF.squareplus(x),
    "one's own": bent,
    "a table": lambda x: FF.pwl(x, torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9) ** 2),
    "a learned table": learned,
    "its output": lambda x: FF.softsign(x, save="output"),
    "bits": lambda x: FF.pwl(x, torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 3) ** 2, save="bits"),
    "rows": lambda x: FF.softmax(x.view(-1, 4096), -1, temperature=2.0),
    "random": lambda x: FF.rrelu(x, training=True),
    "two tensors": lambda x: FF.gated(x, x.detach(), "swish"),
    "one tensor": lambda x: FF.packed_glu(torch.cat([x, x]), "silu", 0, layout="gate_value"),
}


@needs_large_pages
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("all_threads")
def test_results_and_gradients_are_in_large_pages(name):
    x = torch.randn(COUNT, requires_grad=True)
    assert "hg" not in flags(x)
    y = CALLS[name](x)
    assert "hg" in flags(y)
    g = torch.ones_like(y)
    if name == "one tensor":
        # What is joined gets a gradient of its own.
        return
    (grad,) = torch.autograd.grad(y, x, g)
    assert "hg" in flags(grad)


@needs_large_pages
@pytest.mark.parametrize("name", ["pieces", "two tensors"])
def test_they_take_no_more_memory(name):
    x = torch.randn(COUNT)
    CALLS[name](x)
    before = resident()
    y = CALLS[name](x)
    # Half a large page at each end, if those were rounded up.
    assert resident() - before <= y.nbytes + 2**20
    del y
    assert resident() - before <= 2**20


def test_what_is_small_or_elsewhere_is_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(large_pages, "_advise", lambda *arguments: asked.append(arguments))
    made = large_pages.empty_like(torch.empty(COUNT - 1))
    assert made.shape == (COUNT - 1,)
    assert large_pages.empty_like(torch.empty(COUNT, device="meta")).is_meta
    assert not asked
    made = large_pages.empty_like(torch.empty(COUNT + 3))
    ((start, length, advice),) = asked
    assert advice == mmap.MADV_HUGEPAGE
    # Whole pages that are the tensor's alone.
    assert start % mmap.PAGESIZE == length % mmap.PAGESIZE == 0
    assert made.data_ptr() <= start and start + length <= made.data_ptr() + made.nbytes
    assert length > made.nbytes - 2 * mmap.PAGESIZE


def test_a_system_without_them_is_left_alone(monkeypatch):
    monkeypatch.setattr(large_pages, "_advise", None)
    x = torch.randn(COUNT)
    torch.testing.assert_close(FF.gated(x, x, "relu"), x.relu() * x)
