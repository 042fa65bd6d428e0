"""What the engine writes for sigmoid (1 - sigmoid), sigmoid's slope: for kernels, and for the CPU."""

from __future__ import annotations

import re

import pytest
import torch

import fusedact
from fusedact.engine import engine, lean


def gate(x, a=1.5):
    """sigmoid's gradient, and nothing else of it."""
    return a * torch.sigmoid(x)


def weighted(x, a=1.5):
    """sigmoid itself and its slope, of an argument with two gradients."""
    return x * torch.sigmoid(a * x)


def bell(x, a=1.5):
    """The slope as a value, whose derivative takes all three."""
    s = torch.sigmoid(x)
    return a * s * (1 - s)


def spelled(x, a=1.5):
    """Without a sigmoid."""
    return a / (1 + torch.exp(-x))


def program(function):
    return engine.program(function, function.__name__, ["a"], "here")


@pytest.mark.parametrize(
    ("function", "forward", "backward"),
    [
        (gate, [], ["t, _, t"]),
        (weighted, [], ["t, _, t"]),
        (bell, ["_, _, t"], ["s, t, t"]),
        (spelled, [], ["t, _, t"]),
    ],
)
def test_kernels_share_the_exponential(function, forward, backward):
    """One call, of which that part is taken that stands alone."""
    bodies = program(function).triton().split("@triton.jit")[1:]
    for body, want in zip(bodies, (forward, backward), strict=True):
        found = re.findall(r"(\S+, \S+, \S+) = sigmoid_complement_slope\(", body)
        assert [re.sub(r"t\d+", "t", names) for names in found] == want
        assert len(found) + len(re.findall(r"\bsigmoid\(", body)) == 1


def test_the_cpu_takes_pytorchs_operator_for_gradients():
    text = lean.function_text("backward", {"g": "g", "x": "x", "p0": "p0"}, program(gate).gradients[:1])
    calls = re.findall(r"(\w+)\(", text)
    assert calls.count("sigmoid_backward") == calls.count("sigmoid") == 1 and "one_minus_sigmoid" not in calls


@pytest.mark.parametrize("function", [gate, weighted, bell, spelled])
@pytest.mark.parametrize("a", [1.5, -0.25])
def test_on_the_cpu_as_the_formula(function, a):
    x = torch.cat([torch.linspace(-30, 15, 901), torch.tensor([0.0, -0.0, float("nan")])]).double()
    g = torch.linspace(0.5, 2, x.numel(), dtype=torch.float64)
    found = []
    for f in (fusedact.activation(function), function):
        leaves = [x.clone().requires_grad_(), torch.full_like(x, a).requires_grad_()]
        with fusedact.backend("eager"):
            # One row: a parameter for each point, whose gradient has one term.
            y = f(leaves[0][None], leaves[1])[0]
            found.append([y, *torch.autograd.grad(y, leaves, g)])
    for ours, formula in zip(*found, strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-9, atol=1e-14, equal_nan=True)


def test_the_tail_of_a_value_lasts_on_the_cpu():
    """Where 1 - s, taken as a difference, is 0."""
    x = torch.linspace(18, 80, 200)
    truth = torch.sigmoid(x.double()) * torch.sigmoid(-x.double()) * 1.5
    with fusedact.backend("eager"):
        torch.testing.assert_close(fusedact.activation(bell)(x).double(), truth, rtol=1e-6, atol=0)
