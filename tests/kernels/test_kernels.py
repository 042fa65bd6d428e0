"""Accuracy of every activation's kernels against the truth in float64, and how it fares with a GPU's arithmetic."""

from __future__ import annotations

import oracles
import pytest
import torch

from fusedact import registry
from fusedact.kernels import grids

HALVES = [torch.float16, torch.bfloat16]
# And of activations of one's own, whose kernels the engine writes: all, and those that stand for them.
FIRST = [
    (case, i)
    for case, i in zip(oracles.OWN_CASES, oracles.OWN_IDS, strict=True)
    # Whose plain formula, which calls the library, runs as kernels in the interpreter, too: it takes its time.
    if case[1] == oracles.sweep(case[0])[0] and case[0] != "nested"
]
every_case = pytest.mark.parametrize(
    ("name", "params"), oracles.CASES + [case for case, _ in FIRST], ids=oracles.IDS + [i for _, i in FIRST]
)
# With all their parameters those that are strict, with others once each; and of these the ones written by hand.
SOME = [case for case in oracles.CASES if case[0] in oracles.STRICT or case[1] == oracles.sweep(case[0])[0]]
some_cases = pytest.mark.parametrize(
    ("name", "params"), SOME + oracles.CHOSEN_CASES, ids=oracles.ids(SOME) + oracles.CHOSEN_IDS
)
BY_HAND = [case for case in SOME if oracles.spec(case[0]).build is None]
by_hand = pytest.mark.parametrize(("name", "params"), BY_HAND, ids=oracles.ids(BY_HAND))


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch):
    """No value depends on the size of a block, whose real one test_layouts.py has; the interpreter pays per block."""
    monkeypatch.setattr(grids, "INTERPRETER_WARP_SIZE", 512)


def test_every_activation_is_tested():
    assert set(oracles.PARAMETERS) == set(registry.names("elementwise"))


def assert_value(got, name, x, params):
    oracles.assert_value(got.y, name, x, params, kernel=True)


def assert_gradient(got, name, g, x, params):
    if name in ("snake", "snake_by_hand") and x.dtype in HALVES:
        # At its roots, of which there are as many as waves, what the sine of a half loses is more than the truth.
        away = ~(oracles.gradient(name, g, x, params).abs() < 2**-12)
        got.dx, g, x = got.dx[away], g[away], x[away]
    oracles.assert_gradient(got.dx, name, g, x, params, kernel=True)


def bends(params):
    """Where a formula changes: its kinks, and where the kernels' arithmetic takes another way."""
    return {0.0, -0.0625, -17.4, -30.0, -87.34, -88.73, -103.98, -110.0, 88.73, *params}


def floats(name, params):
    infinity = float("inf")
    ends = torch.tensor([infinity, -infinity, float("nan"), 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, 1.2e-38])
    return torch.cat(
        [
            oracles.floats32(0),
            oracles.near(*sorted(bends((*params, *oracles.kinks(name, params)))), dtype=torch.float32),
            ends,
        ]
    )


def gradients_like(x):
    """Gradients of both signs, powers of two apart, so that no product with them rounds."""
    return torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=x.dtype).repeat(-(-x.numel() // 4))[: x.numel()]


@every_case
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves(run, name, params, dtype, device):
    x = oracles.halves(dtype)
    assert x.numel() == 65_536
    g = torch.ones_like(x)
    got = run(name, x.to(device), params, g.to(device))
    assert_value(got, name, x, params)
    assert_gradient(got, name, g, x, params)


@some_cases
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_with_gradients(run, name, params, dtype, device):
    x = oracles.halves(dtype)[::7].contiguous()
    g = gradients_like(x)
    assert_gradient(run(name, x.to(device), params, g.to(device)), name, g, x, params)


@every_case
def test_float32(run, name, params, device):
    x = floats(name, params)
    for g in (torch.randn(x.shape), *([torch.ones_like(x)] if name in oracles.STRICT else [])):
        got = run(name, x.to(device), params, g.to(device))
        assert_value(got, name, x, params)
        assert_gradient(got, name, g, x, params)


@pytest.mark.parametrize("name", registry.names("elementwise"))
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_special_gradients(run, name, dtype, device):
    """Zero, infinite and NaN gradients, at every kind of input: the product with the slope, 0 below a threshold."""
    params = tuple(p.default for p in registry.get(name).parameters)
    special = torch.tensor([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    at = torch.tensor([-5.0, -1e-3, -0.0, 0.0, 1e-3, 5.0, 1e4, float("nan")], dtype=dtype)
    x, g = (t.reshape(-1) for t in torch.meshgrid(at, special, indexing="ij"))
    got = run(name, x.to(device), params, g.to(device))
    assert_gradient(got, name, g, x, params)


# ----- the GPU's arithmetic


# What computes no exponential.
WITHOUT = ("softsign", "squareplus", "snake", "hardswish")


@by_hand
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_with_approximate_instructions(run, name, params, dtype, device, approximate):
    x = oracles.halves(dtype)[::3].contiguous()
    g = torch.ones_like(x)
    got = run(name, x.to(device), params, g.to(device))
    assert (approximate.calls["exp2"] > 0) == (name not in WITHOUT)
    assert_value(got, name, x, params)
    assert_gradient(got, name, g, x, params)


@by_hand
def test_float32_with_approximate_instructions(run, name, params, device, approximate):
    x = floats(name, params)
    g = torch.ones_like(x)
    got = run(name, x.to(device), params, g.to(device))
    # A division may start a refinement; no error of exp2 could be repaired.
    assert approximate.calls["exp2"] == 0
    assert_value(got, name, x, params)
    assert_gradient(got, name, g, x, params)
