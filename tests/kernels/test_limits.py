"""Kernels give the limit where PyTorch's own operator does not: the list of docs/catalogue.md."""

from __future__ import annotations

import math

import benches
import pytest
import torch

import fusedact
from fusedact import functional as FF

WRONG = benches.documents().WRONG


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in WRONG))
def test_the_limit(name, dtype, device):
    places = [x for n, x in WRONG if n == name and (math.isinf(x) or abs(x) < torch.finfo(dtype).max)]
    x = torch.tensor(places, dtype=dtype, device=device, requires_grad=True)
    with fusedact.backend("triton"):
        y = getattr(FF, name)(x)
        y.sum().backward()
    values, slopes = zip(*(WRONG[name, place][1] for place in places), strict=True)
    assert torch.equal(y.cpu(), torch.tensor(values, dtype=dtype))
    assert torch.equal(x.grad.cpu(), torch.tensor(slopes, dtype=dtype))
