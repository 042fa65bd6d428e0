"""PyTorch's own samples, and all places where a twin bends or ends, through the kernels."""

from __future__ import annotations

import warnings

import pytest
import torch
import twins
from torch import Tensor

from fusedact import registry

pytest.importorskip("torch.testing._internal.common_methods_invocations")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    OPERATORS, INFOS = twins.operators(), twins.module_infos()

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("name", twins.SAMPLED)
@pytest.mark.filterwarnings("ignore")
def test_operator_samples(name, dtype, device, launches):
    count = 0
    for s in OPERATORS[name].sample_inputs("cpu", dtype, requires_grad=True):
        launches.clear()
        twins.assert_sample(name, OPERATORS[name], s, itself=False, device=device)
        assert len(launches) == (2 if s.input.numel() else 0)
        count += 1
    assert count


@pytest.mark.parametrize("name", INFOS)
def test_module_samples(name, device, launches):
    for ours, theirs, x in twins.module_samples(INFOS[name], "cpu", torch.float32):
        launches.clear()
        twins.assert_modules(ours, theirs, x, device)
        assert len(launches) == (2 if x.numel() else 0)


@dtypes
@pytest.mark.parametrize(("name", "bends"), twins.CASES, ids=twins.IDS)
@pytest.mark.parametrize("kind", ["numbers", "tensors"])
def test_where_they_bend(name, bends, dtype, kind, device, launches):
    learnable = {p.name for p in registry.get(name).learnable}
    if kind == "tensors" and not learnable:
        return
    x = twins.places(bends, dtype).to(device)
    named = zip(registry.get(name).parameters, bends.params, strict=True)
    params: list[float | Tensor] = [
        torch.tensor(v, device=device) if kind == "tensors" and p.name in learnable else v for p, v in named
    ]
    got = twins.derived(twins.ours(name), x, *params)
    assert len(launches) == 2
    rounded = torch.tensor(bends.params).tolist()
    twins.assert_twin(name, x, tuple(rounded), got)
