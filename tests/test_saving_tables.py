"""Piecewise-linear functions that keep the number of a segment in place of their input."""

from __future__ import annotations

import copy
import pickle

import oracles
import pytest
import torch
from saving_cases import DTYPES, HALVES, kept, made, same

import fusedact
from fusedact import functional as FF


def table(count, uneven):
    breakpoints = torch.linspace(-2, 2, count) if count > 1 else torch.zeros(1)
    if uneven:
        breakpoints = breakpoints + 1e-3 * torch.rand(count).sort().values
    return breakpoints, torch.randn(count), 0.3, -0.2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (4, 4), (15, 4), (16, 8), (255, 8)])
def test_the_segment_tells_the_slope(count, width, uneven, dtype):
    leaf, points = (1.5 * torch.randn(7, 143)).to(dtype).requires_grad_(), table(count, uneven)
    x, g = (leaf * 1).t(), torch.randn(143, 7).to(dtype)
    found, y = kept(FF.pwl, x, *points, save="bits")
    assert [(t.dtype, t.numel()) for t in found] == [(torch.uint8, -(-1001 * width // 8))]
    (dx,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
    same(dx, torch.autograd.grad(FF.pwl(x, *points, save="input"), leaf, g)[0])


def test_segments_at_all_halves():
    points = ([-1.0, 0.0, 2.0], [0.0, -0.25, 2.0], 0.0, 1.0)
    for dtype in HALVES:
        x = oracles.halves(dtype).requires_grad_()
        g = torch.ones_like(x)
        same(*(torch.autograd.grad(FF.pwl(x, *points, save=s), x, g)[0] for s in ("bits", "input")))


@pytest.mark.parametrize(
    ("points", "why"),
    [(table(256, False), "257 segments"), (([[0.0], [1.0]], [[0.0], [1.0]]), "each channel has a table")],
    ids=["many", "channels"],
)
def test_tables_that_keep_their_input(points, why):
    x = made(5, 2)
    found, _ = kept(FF.pwl, x, *points, save="bits")
    assert [t.data_ptr() for t in found] == [x.data_ptr()]
    path = fusedact.explain(fusedact.PWL(*points, save="bits"), x)
    assert (path.keeps, why in path.because) == ("input", True)


def test_modules_of_tables():
    module, x = fusedact.PWL.hardtanh(save="bits"), made(20)
    assert repr(module) == "PWL(2 breakpoints from -1 to 1, left_slope=0, right_slope=0, save='bits')"
    assert fusedact.explain(module, x).keeps == "bits"
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert [t.numel() for t in kept(m, x)[0]] == [5]
    with fusedact.save_policy("output"):
        assert [t.numel() for t in kept(fusedact.PWL.relu(), x)[0]] == [3]
    with pytest.raises(ValueError, match=r"fusedact.PWL: save must be one of 'auto', 'input', 'bits', got 'output'"):
        fusedact.PWL.relu(save="output")
    with pytest.raises(ValueError, match=r"fusedact.functional.pwl: save must be one of 'auto', 'input', 'bits', got"):
        FF.pwl(x, [0.0], [0.0], save="output")


def test_tables_and_what_autograd_does_with_them():
    points = ([-1.0, 0.5], [0.0, 2.0], 0.3, 1.0)
    x, g = torch.randn(50, requires_grad=True), torch.randn(50)
    wanted = torch.autograd.grad(FF.pwl(x, *points), x, g)[0]
    y = FF.pwl(x * 1, *points, save="bits", inplace=True)
    y += 1
    same(torch.autograd.grad(y, x, g)[0], wanted)
    (dx,) = torch.autograd.grad(FF.pwl(x, *points, save="bits"), x, g.requires_grad_(), create_graph=True)
    same(torch.autograd.grad(dx.sum(), x, retain_graph=True)[0], torch.zeros(50))
    slopes = torch.autograd.grad(FF.pwl(x, *points).sum(), x)[0]
    same(torch.autograd.grad(dx.sum(), g)[0], slopes)
