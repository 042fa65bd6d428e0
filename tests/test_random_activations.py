"""Random activations on the CPU path, against float64 autograd of the plain function."""

from __future__ import annotations

import ast

import evaluation
import numpy as np
import pytest
import torch
from expressions_strategy import activations, candidates, judged, results
from hypothesis import assume, given, settings

import fusedact
from fusedact.engine import codegen, engine

EXAMPLES = settings(max_examples=60, derandomize=True, deadline=None, database=None)
# In units of roundoff, relative to each result.
TOLERANCE = 64
EPS = 2.0**-23


def exact_on_the_cpu(own, x, parameters):
    """Where 1 - sigmoid and 1 - tanh^2, taken as differences, as PyTorch's own derivatives take them, lose little."""
    made = engine.program(own.spec.eager, "drawn", list(own.spec.parameters), "here")
    values = {"x": x.double().numpy(), "g": 1.0, **{f"p{i}": v for i, v in enumerate(parameters)}}
    nodes = [made.value, *made.gradients]
    good = np.ones(x.shape, dtype=bool)
    instead = {op: lambda a, op=op: evaluation.FLOAT64[op](a) + EPS for op in ("complement", "sech2")}
    instead["sigmoid_slope"] = lambda a: evaluation.FLOAT64["sigmoid"](a) * instead["complement"](a)
    for t, m in zip(evaluation.float64(nodes, values), evaluation.float64(nodes, values, instead), strict=True):
        good &= np.abs(m - t) <= 16 * EPS * np.abs(t)
    return torch.from_numpy(good)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@EXAMPLES
@given(drawn=activations())
def test_value_and_gradients(drawn, dtype):
    own = fusedact.activation(drawn.function)
    numbers = list(drawn.parameters.values())
    x = judged(drawn, candidates())
    x = x[exact_on_the_cpu(own, x, numbers)]
    assume(x.numel() >= 16)
    g = torch.linspace(0.5, 2.0, x.numel()).to(dtype)
    wide = [torch.full(x.shape, v, dtype=torch.float64) for v in numbers]
    truth = results(drawn.function, x.double(), wide, g.double())
    eps = torch.finfo(dtype).eps
    with fusedact.backend("eager"):
        # One row, so that parameters have an entry for each point, and gradients of one term.
        got = results(lambda x, *p: own(x[None], *p)[0], x.to(dtype), [p.to(dtype) for p in wide], g)
        for what, ours, exact in zip(["value", "x", *drawn.parameters], got, truth, strict=True):
            worst = ((ours.double() - exact).abs() - TOLERANCE * eps * exact.abs()).argmax()
            error = (ours.double() - exact)[worst].abs().item()
            assert error <= TOLERANCE * eps * exact[worst].abs(), (what, x[worst].item(), ours[worst], exact[worst])
        # The same with one parameter for all, and with numbers.
        single = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in numbers]
        y = own(x.to(dtype), *single)
        assert torch.allclose(y.double(), truth[0], rtol=TOLERANCE * eps, atol=0)
        assert torch.allclose(own(x.to(dtype), *numbers).double(), truth[0], rtol=TOLERANCE * eps, atol=0)
        if single:
            sums = torch.autograd.grad(y, single, g) if y.requires_grad else [torch.zeros(()) for _ in single]
            for ours, exact in zip(sums, truth[2:], strict=True):
                assert (ours.double() - exact.sum()).abs() <= TOLERANCE * eps * exact.abs().sum()


@EXAMPLES
@given(drawn=activations())
def test_source(drawn):
    """Triton's text is Python that names nothing but what it defines, imports, or takes."""
    text = fusedact.activation(drawn.function).source
    tree = ast.parse(text)
    known = {"tl", "triton", "float"} | {name for names in codegen.MODULES.values() for name in names}
    imported = {
        alias.asname or alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert imported <= known
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        stored = {n.id for n in names if isinstance(n.ctx, ast.Store)} | {a.arg for a in function.args.args}
        assert {n.id for n in names} <= stored | imported | {"tl", "triton", "float"}
        assert not stored & known
