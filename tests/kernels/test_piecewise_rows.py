"""The kernel that prepares a table's rows gives what `table_rows.prepare` does."""

from __future__ import annotations

import pwl_oracle as oracle
import pytest
import torch

from fusedact.kernels import launch_piecewise
from fusedact.piecewise import table_rows


def assert_same_rows(b, v, left, right, how, device):
    expected = table_rows.prepare(b, v, left, right, how, torch.float32)
    args = (t.to(device) if isinstance(t, torch.Tensor) else t for t in (b, v, left, right))
    rows = launch_piecewise.prepare(*args, how.kind, how.cells).cpu()
    # Turns and first segments decide, and are exact; a fused operation may round another way, once.
    size = 1 << b.shape[-1].bit_length()
    ends = table_rows.HEADER, table_rows.HEADER + size, table_rows.HEADER + 7 * size
    for exact in (slice(ends[0], ends[1]), slice(ends[2], None)):
        torch.testing.assert_close(rows[:, exact], expected[:, exact], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(rows, expected, rtol=2.0**-23, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("case", oracle.CASES)
def test_one_row(case, device):
    kind, (b, v, left, right) = oracle.CASES[case]
    b, v = torch.tensor(b), torch.tensor(v)
    how = table_rows.plan(b, v)
    assert how.kind == kind
    assert_same_rows(b, v, left, right, how, device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spacing", ["even", "uneven"])
def test_rows_per_channel(spacing, dtype, device):
    generator = torch.Generator().manual_seed(0)
    b = torch.arange(9.0) if spacing == "even" else torch.rand(9, generator=generator).cumsum(0) + torch.arange(9)
    v = torch.randn(3, 9, generator=generator)
    left = torch.tensor([0.0, 0.5, -0.25], dtype=dtype)
    b, v = b.to(dtype), v.to(dtype)
    how = table_rows.plan(b, v)
    assert_same_rows(b, v, left, torch.tensor(0.5), how, device)
    assert_same_rows(b.expand(3, 9), v[0], 0.0, left, how, device)
    assert_same_rows(b, v.t().contiguous().t(), 0.0, 1.0, how, device)
