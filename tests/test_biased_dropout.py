"""The dropout of bias_act on the CPU: its distribution, its seed, the same mask in backward and however it is cut."""

from __future__ import annotations

import functools

import pytest
import torch
from biased_oracle import factors, in_small_pieces, seeded
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fusedact import functional as FF
from fusedact.hosts import seeds

FP32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture
def way(request, monkeypatch):
    if request.param == "pieces":
        in_small_pieces(monkeypatch)
    return request.param


both_ways = pytest.mark.parametrize("way", ["plain", "pieces"], indirect=True)

N = 2**18


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@both_ways
def test_the_mask_is_random(p, dtype, way, monkeypatch):
    monkeypatch.setattr("fusedact.hosts.biased_pieces.piece_limit", lambda x: 2**15)
    torch.manual_seed(1)
    y = FF.bias_act(torch.ones(2**9, 2**9, dtype=dtype), None, "identity", None, p)
    kept = y != 0
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    # Five standard deviations of a binomial distribution.
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / N) ** 0.5
    # Neighbours, rows, and what is a piece apart tell nothing of each other.
    centred = kept.double().flatten() - (1 - p)
    # With the least p hardly any two of them are both dropped.
    for lag in (1, 2, 3, 4, 7, 512, 1024, 2**15) if p >= 0.1 else ():
        assert (centred[lag:] * centred[:-lag]).mean().abs() / (p * (1 - p)) < 5 / (N - lag) ** 0.5


def test_calls_have_masks_of_their_own_and_seeds_repeat():
    first, again = factors((100, 10), 0.5), FF.bias_act(torch.ones(100, 10), None, "identity", None, 0.5)
    assert 0.4 < (first != again).float().mean() < 0.6
    assert torch.equal(factors((100, 10), 0.5), first) and not torch.equal(factors((100, 10), 0.5, 1), first)


def test_one_number_is_drawn_from_the_generator():
    """Whatever the size; and none where nothing is random."""
    states = []
    for n in (1, 100, 300_000):
        factors((n,), 0.5)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    x = torch.ones(10)
    for p, training in ((0.0, True), (0.5, False), (1.0, True)):
        FF.bias_act(x, x, "relu", x, p, training)
        assert torch.equal(torch.get_rng_state(), states[0])


def test_without_training_and_with_all_dropped():
    x, bias = torch.randn(5, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    torch.testing.assert_close(FF.bias_act(x, bias, "gelu", x, 0.5, False), F.gelu(x + bias) + x)
    y = FF.bias_act(x, bias, "gelu", x, 1.0)
    assert torch.equal(y, x)
    assert [t.abs().sum().item() for t in torch.autograd.grad(y.sum(), (x, bias))] == [30.0, 0.0]


@pytest.mark.parametrize("shape", [(1,), (2,), (7, 9), (3, 333), (5, 7, 11)], ids=str)
@pytest.mark.parametrize("limit", [1, 3, 10, 64, 1000])
def test_the_mask_does_not_depend_on_pieces(shape, limit, monkeypatch):
    whole = factors(shape, 0.5)
    in_small_pieces(monkeypatch)
    monkeypatch.setattr("fusedact.hosts.biased_pieces.piece_limit", lambda x: limit)
    assert torch.equal(factors(shape, 0.5), whole)
    # And with a bias the tensor is cut along its dimensions.
    y = seeded(lambda: FF.bias_act(torch.ones(shape), torch.zeros(shape[-1]), "identity", None, 0.5))()
    assert torch.equal(y.double(), whole)


def test_numbers_are_the_same_in_parts():
    seed = torch.tensor([7])
    whole = seeds.Numbers(seed, 100)(100).clone()
    parts = seeds.Numbers(seed, 17)
    assert torch.equal(torch.cat([parts(n).clone() for n in (1, 0, 2, 3, 17, 17, 16, 5, 1, 1, 17, 0, 17, 3)]), whole)


@both_ways
def test_backward_and_checkpoints_have_the_same_mask(way):
    x, bias, g = torch.randn(30, 40, requires_grad=True), torch.randn(40, requires_grad=True), torch.randn(30, 40)

    def run(wrap):
        torch.manual_seed(3)
        y = wrap(lambda x, b: FF.bias_act(x, b, "identity", None, 0.3))(x, bias)
        x.grad = bias.grad = None
        y.backward(g)
        return y, x.grad, bias.grad

    y, dx, dbias = run(lambda f: f)
    torch.testing.assert_close(dx, g * (y / (x + bias)).detach())
    torch.testing.assert_close(dbias, dx.sum(0))
    for reentrant in (False, True):
        again = run(lambda f, r=reentrant: functools.partial(checkpoint, f, use_reentrant=r))
        assert all(torch.equal(a, b) for a, b in zip(again, (y, dx, dbias), strict=True))
    # Without the generator's state backward has another mask, as PyTorch's dropout has.
    y = checkpoint(
        lambda x: FF.bias_act(x, None, "identity", None, 0.5), x, use_reentrant=False, preserve_rng_state=False
    )
    assert not torch.equal(torch.autograd.grad(y.sum(), x)[0] == 0, y == 0)
