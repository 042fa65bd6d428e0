"""Random activations in kernels, against float64 autograd of the plain function."""

from __future__ import annotations

import pytest
import torch
from expressions_strategy import activations, candidates, judged, results
from hypothesis import HealthCheck, Phase, assume, given, settings

import fusedact

# The recorder of launches is one for all examples, and is emptied before each.
EXAMPLES = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    # What fails is not made smaller, which takes minutes in the interpreter.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# In units of roundoff of the dtype, relative to each result.
TOLERANCE = {torch.float32: 64, torch.float16: 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@EXAMPLES
@given(drawn=activations(depth=4))
def test_value_and_gradients(launches, device, drawn, dtype):
    # Halves are computed in float32 and rounded once, so that float32 judges their points too.
    x = judged(drawn, candidates().to(dtype).float())
    assume(x.numel() >= 16)
    g = torch.linspace(0.5, 2.0, x.numel()).to(dtype)
    numbers = list(drawn.parameters.values())
    wide = [torch.full(x.shape, v, dtype=torch.float64) for v in numbers]
    truth = results(drawn.function, x.double(), wide, g.double())
    # What the dtype can hold.
    limits = torch.finfo(dtype)
    assume(all(((t == 0) | ((t.abs() > limits.tiny) & (t.abs() < limits.max))).all() for t in truth))
    own = fusedact.activation(drawn.function)
    launches.clear()
    parameters = [p.float().to(device) for p in wide]
    got = results(lambda x, *p: own(x[None], *p)[0], x.to(dtype).to(device), parameters, g.to(device))
    assert len(launches) == 2
    for what, ours, exact in zip(["value", "x", *drawn.parameters], got, truth, strict=True):
        eps = torch.finfo(ours.dtype).eps
        bound = TOLERANCE[ours.dtype] * eps * exact.abs()
        error = (ours.cpu().double() - exact).abs()
        worst = (error - bound).argmax()
        assert error[worst] <= bound[worst], (what, x[worst].item(), ours[worst].item(), exact[worst].item())
