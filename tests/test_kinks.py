"""Every twin at its kinks, zeros, infinities, NaN and extreme numbers: PyTorch's value and slope, or the limit.

Tensors on the CPU that PyTorch's operator serves have all that it has, its NaN included. What the library composes, for
parameters that are tensors and for twins that PyTorch composes too, has the limits where twins.WRONG lists them.
"""

from __future__ import annotations

import pytest
import torch
import twins

import fusedact
from fusedact import registry

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
cases = pytest.mark.parametrize(("name", "bends"), twins.CASES, ids=twins.IDS)
learnable = pytest.mark.parametrize(
    ("name", "bends"),
    [case for case in twins.CASES if registry.get(case[0]).learnable],
    ids=[i for i, case in zip(twins.IDS, twins.CASES, strict=True) if registry.get(case[0]).learnable],
)


@cases
@dtypes
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_numbers(name, bends, dtype, backend):
    x = twins.places(bends, dtype)
    with fusedact.backend(backend):
        got = twins.derived(twins.ours(name), x, *bends.params)
    if not twins.torchs(name, x, backend):
        twins.assert_twin(name, x, bends.params, got)
        return
    # leaky_relu is PyTorch's prelu for numbers.
    function = torch.nn.functional.leaky_relu if name == "prelu" else twins.theirs(name)
    for what, ours, theirs in zip(("value", "slope"), got, twins.derived(function, x, *bends.params), strict=True):
        twins.assert_same(what, x, ours, theirs)


@learnable
@dtypes
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_tensors(name, bends, dtype, backend):
    x = twins.places(bends, dtype)
    # Parameters as tensors of float32, as mixed precision has them; of float64 there.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    fixed = {p.name for p in registry.get(name).parameters if p.fixed}
    named = zip(registry.get(name).parameters, bends.params, strict=True)
    params = [v if p.name in fixed else torch.tensor(v, dtype=wide) for p, v in named]
    with fusedact.backend(backend):
        got = twins.derived(twins.ours(name), x, *params)
    twins.assert_twin(name, x, tuple(map(float, params)), got)


@pytest.mark.parametrize("wrong", twins.WRONG, ids=lambda w: f"{w.name}-{w.what}-{w.where}")
def test_pytorch_is_wrong_where_the_list_says(wrong):
    # In its vector code or in its scalar code. Once both are right, the line goes.
    x = twins.places(twins.Bends(), torch.float32)
    x = x[wrong.at(x)]
    assert x.numel()
    for each in x:
        missed = []
        for count in (1, 64):
            found = twins.derived(twins.theirs(wrong.name), each.expand(count).clone())[wrong.what == "gradient"]
            missed.append(torch.equal(found.nan_to_num(nan=-9.0), torch.full((count,), wrong.has).nan_to_num(nan=-9.0)))
        assert any(missed), f"at {each.item()} it is right"


@cases
def test_the_list_is_complete(name, bends):
    # With the limits, what PyTorch computes in float32 is what it computes in float64, where nothing here overflows.
    x = twins.places(bends, torch.float32)
    x = x[x.isfinite()]
    found = twins.corrected(name, x, *twins.derived(twins.theirs(name), x, *bends.params))
    truth = twins.derived(twins.theirs(name), x.double(), *map(float, torch.tensor(bends.params)))
    for what, narrow, wide in zip(("value", "slope"), found, truth, strict=True):
        twins.assert_same(what, x, narrow, wide.float())
