"""What is kept for backward: one tensor, and nothing where no gradient is wanted."""

from __future__ import annotations

import oracles
import pytest
import torch

import fusedact
from fusedact import demo
from fusedact import functional as FF

SIZES = [2**8, 2**12, 2**20]


def kept(function, *leaves):
    """The storages kept for backward, in order."""
    storages = []

    def pack(t):
        storages.append(t.untyped_storage().data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*leaves)
    return storages, y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_relu_sigmoid_keeps_its_input_alone(size, dtype):
    x = torch.randn(size, dtype=dtype, requires_grad=True)
    storages, _ = kept(lambda x: FF.relu_sigmoid(x, 0.1), x)
    assert storages == [x.untyped_storage().data_ptr()]


def test_the_composition_keeps_two_others():
    x = torch.randn(2**12, requires_grad=True)
    storages, y = kept(lambda x: torch.relu(x - 0.1) * torch.sigmoid(x), x)
    assert len(set(storages) - {y.untyped_storage().data_ptr()}) == 2


@pytest.mark.parametrize(("name", "backend"), oracles.NAME_WAYS, ids=oracles.NAME_WAY_IDS)
def test_nothing_is_kept_without_a_gradient(name, backend):
    x = torch.randn(2**10, requires_grad=True)
    with fusedact.backend(backend):
        with torch.no_grad():
            assert kept(oracles.function(name), x)[0] == []
        assert kept(oracles.function(name), x.detach())[0] == []


@pytest.mark.parametrize("name", oracles.OWN_NAMES)
def test_activations_of_ones_own_keep_their_input_alone(name):
    x = torch.randn(2**10, requires_grad=True)
    function, parameters = oracles.function(name), [torch.tensor(p, requires_grad=True) for p in oracles.defaults(name)]
    with fusedact.backend("eager"):
        assert kept(function, x)[0] == [x.untyped_storage().data_ptr()]
        leaves = [x, *parameters]
        assert kept(function, *leaves)[0] == [t.untyped_storage().data_ptr() for t in leaves]
    # And where they are large, of themselves.
    x = torch.randn(2**20, requires_grad=True)
    assert kept(function, x)[0] == [x.untyped_storage().data_ptr()]


def test_a_learned_threshold_adds_itself():
    x, t = torch.randn(2**10), torch.tensor(0.1, requires_grad=True)
    storages, _ = kept(FF.relu_sigmoid, x, t)
    assert storages == [x.untyped_storage().data_ptr(), t.untyped_storage().data_ptr()]


@pytest.mark.parametrize("name", [n for n in (*oracles.NAMES, *oracles.CHOSEN) if oracles.spec(n).learnable])
@pytest.mark.parametrize("size", SIZES)
def test_parameters_per_channel_add_themselves(name, size):
    x = torch.randn(size // 16, 16)
    params = oracles.given(name, oracles.defaults(name), shape=(16,), requires_grad=True)
    # Small tensors, where the engine wrote the form for the CPU, are the formula's.
    with fusedact.backend("eager" if oracles.spec(name).lean_by_engine else "auto"):
        storages, _ = kept(oracles.function(name), x, *params)
    tensors = [x, *(p for p in params if isinstance(p, torch.Tensor))]
    assert storages == [t.untyped_storage().data_ptr() for t in tensors]


@pytest.mark.parametrize(("name", "expected"), [("relu_sigmoid", 4.0), ("elu", 4.0), ("selu", 4.0)])
def test_bytes_kept_beyond_the_output(name, expected):
    assert demo.bytes_kept(fusedact.create(name)) == expected
