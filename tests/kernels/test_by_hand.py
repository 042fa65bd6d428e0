"""What is written by hand for the sake of its results is right where what the engine writes is wrong."""

from __future__ import annotations

import benches
import oracles
import pytest
import torch

from fusedact.engine import engine
from fusedact.kernels import launch

accuracy, by_hand = (benches.load(name) for name in ("accuracy", "by_hand"))

# Where the engine is wrong, and in what.
WHERE = {"silu": (float("inf"), float("-inf")), "tanhshrink": (1e-4, -1e-4)}
WRONG = {"silu": ("value", "gradient"), "tanhshrink": ("value",)}


def results(function, x):
    """Value and gradient."""
    y, dx = torch.empty_like(x), torch.empty_like(x)
    launch.forward(function, x, y, ())
    launch.backward(function, torch.ones_like(x), x, dx, (), ())
    return y.cpu(), dx.cpu()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", by_hand.KEPT_FOR)
def test_the_engine_is_wrong_where_they_are_right(name, dtype, device):
    spec = oracles.spec(name)
    made = engine.completed(spec, engine.program(spec.eager, name, [], "here"))
    made.build(torch.device(device))
    # A whole warp of each number.
    x = torch.tensor(WHERE[name], dtype=dtype).repeat_interleave(32)
    truths = oracles.value(name, x, ()), oracles.gradient(name, torch.ones_like(x), x, ())
    both = (results(f, x.to(device)) for f in (spec.device, made.device))
    for what, ours, engines, truth in zip(("value", "gradient"), *both, truths, strict=True):
        assert accuracy.units(ours, truth).max() < 3
        assert (accuracy.units(engines, truth).max() > 100) == (what in WRONG[name])
