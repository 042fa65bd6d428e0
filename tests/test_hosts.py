"""Every form that hosts an activation: single gradients, sums, who watches, checkpoints, subclasses."""

from __future__ import annotations

import pytest
import torch
from hosts import HOSTS, Logged, Seen
from linear_oracle import bent
from torch.utils.checkpoint import checkpoint

# An activation, and the name of its parameter.
ACTIVATIONS = {"silu": ("silu", None), "swish": ("swish", "beta"), "own": (bent, "a")}
activations = pytest.mark.parametrize(("activation", "key"), ACTIVATIONS.values(), ids=ACTIVATIONS)


@pytest.fixture(params=HOSTS)
def host(request, monkeypatch):
    HOSTS[request.param].as_large(monkeypatch)
    return HOSTS[request.param]


def given(host, key, rows=9, entries=()):
    """The tensors, the parameter at their end if there is one."""
    return [*host.tensors(rows), *([] if key is None else [torch.rand(entries) + 0.5])]


def called(host, activation, key, tensors):
    """With the random numbers of one seed."""
    torch.manual_seed(0)
    if key is None:
        return host.call(*tensors, activation)
    return host.call(*tensors[:-1], activation, **{key: tensors[-1]})


@activations
def test_each_gradient_alone(host, activation, key):
    tensors = given(host, key)

    def run(wanted):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        called(host, activation, key, leaves).sum().backward()
        return [leaf.grad for leaf in leaves]

    together = run(range(len(tensors)))
    for which in range(len(tensors)):
        alone = run([which])
        assert [grad is not None for grad in alone] == [i == which for i in range(len(tensors))]
        torch.testing.assert_close(alone[which], together[which])


@pytest.mark.parametrize("entries", [(), (10,)], ids=str)
def test_sums_are_the_same_each_time(host, entries):
    leaves = [t.requires_grad_() for t in given(host, "beta", 300, entries)]
    first, second = (
        torch.autograd.grad(called(host, "swish", "beta", leaves).square().sum(), leaves) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@activations
def test_a_dispatch_mode_sees_operators(host, activation, key):
    leaves = [t.requires_grad_() for t in given(host, key)]

    def step():
        return torch.autograd.grad(called(host, activation, key, leaves).sum(), leaves)

    expected = step()
    with Seen() as seen:
        got = step()
    torch.testing.assert_close(got, expected)
    ours = [name for name in seen.names if name.startswith("fusedact::")]
    if host.operators:
        assert ours == list(host.operators)
    else:
        # The products are PyTorch's.
        assert ours and "aten::addmm" in seen.names and seen.names.count("aten::mm") == 2


@activations
def test_checkpoints_replay_it(host, activation, key):
    leaves = [t.requires_grad_() for t in given(host, key)]
    expected = torch.autograd.grad(called(host, activation, key, leaves).sum(), leaves)
    replayed = checkpoint(lambda *t: called(host, activation, key, t), *leaves, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(replayed.sum(), leaves), expected, rtol=0, atol=0)


def test_subclasses_and_meta_take_plain_operators(host):
    first, *rest = host.tensors()
    assert type(host.call(first.as_subclass(Logged), *rest, "silu")) is Logged
    made = host.call(*(t.to("meta") for t in (first, *rest)), "silu")
    assert made.is_meta and made.shape == (9, 10)
