"""For tests of what is kept: the activations with their policies, and what looks at calls."""

from __future__ import annotations

import oracles
import pytest
import torch

from fusedact import registry
from fusedact.saving import saving
from fusedact.saving.saved_forms import SAVED

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
SPECS = {name: registry.get(name) for name in oracles.NAMES}
SERVED = [(name, p) for name, spec in SPECS.items() for p in saving.accepted(spec) if p in ("output", "bits")]
SERVED = [(name, p) for name, p in SERVED if name != "identity"]
served = pytest.mark.parametrize(("name", "policy"), SERVED, ids=[f"{n}-{p}" for n, p in SERVED])
names = pytest.mark.parametrize("name", [n for n in oracles.NAMES if n != "identity"])
# Which serve, of all that the tests sweep, for their policy.
CASES = [
    (name, policy, params)
    for name, policy in SERVED
    for params in oracles.sweep(name)
    if saving.plan(SPECS[name], torch.zeros(1), params, True, policy).policy == policy
]
# Whose parameters may be tensors.
TENSORS = [
    name
    for name, policy in SERVED
    if policy == "output" and any(not p.fixed for p in SPECS[name].parameters) and not SAVED[name].bits
]


def parametrized(cases):
    """A test's parameters, with ids."""
    ids = [f"{n}-{p}{list(a) if a else ''}" for n, p, a in cases]
    return pytest.mark.parametrize(("name", "policy", "params"), cases, ids=ids)


def usual(name):
    """Parameters for which every policy that an activation offers serves."""
    return (0.5, 0.25) if name == "threshold" else oracles.defaults(name)


def kept(function, *args, **keywords):
    """The tensors kept for backward, and the value."""
    found = []

    def pack(t):
        found.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*args, **keywords)
    return found, y


def made(*shape, dtype=torch.float32):
    """A tensor that an operator made, as autograd wants it."""
    return torch.randn(*shape).to(dtype).requires_grad_() * 1


def gradient(name, x, params, g, **keywords):
    """The gradient of x."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(oracles.function(name)(leaf, *params, **keywords), leaf, g)[0]


def same(a, b):
    """Raise unless they are equal to the last bit."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
