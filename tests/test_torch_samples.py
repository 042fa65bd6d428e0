"""PyTorch's own operator and module samples, as an oracle for the twins."""

from __future__ import annotations

import itertools

import pytest
import torch

import fusedact
from fusedact import functional as FF

invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")

TWINS = ("elu", "selu", "prelu")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def operator(name):
    (found,) = [o for o in invocations.op_db if o.name == f"nn.functional.{name}" and not o.variant_test_name]
    return found


# PyTorch's own operators serve small tensors, save for the gradients of prelu where the backend is forced.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "backend"), [*((name, "auto") for name in TWINS), ("prelu", "eager")])
@pytest.mark.filterwarnings("ignore")
def test_operator_samples(name, backend, dtype):
    with fusedact.backend(backend):
        assert_samples(name, dtype)


def assert_samples(name, dtype):
    op, count = operator(name), 0
    samples = itertools.chain(
        op.sample_inputs("cpu", dtype, requires_grad=True), op.reference_inputs("cpu", dtype, requires_grad=True)
    )
    for s in samples:
        results = []
        for function in (getattr(FF, name), op):
            # Some samples ask for inplace=True, which a leaf does not allow.
            leaves = [t.detach().requires_grad_() for t in (s.input, *s.args) if isinstance(t, torch.Tensor)]
            leaf, *params = leaves
            y = function(leaf * 1 if s.kwargs.get("inplace") else leaf, *(params or s.args), **s.kwargs)
            g = torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)
            results.append((y, *torch.autograd.grad(y, leaves, g)))
        ours, theirs = results
        torch.testing.assert_close(ours[:2], theirs[:2], equal_nan=True)
        # PyTorch rounds each term of a parameter's gradient to the input's dtype.
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype.itemsize == 2 else {}
        torch.testing.assert_close(ours[2:], theirs[2:], equal_nan=True, **tolerance)
        count += 1
    assert count > 20


def test_error_samples():
    count = 0
    for sample in operator("prelu").error_inputs("cpu"):
        s = sample.sample_input
        with pytest.raises((TypeError, ValueError)):
            FF.prelu(s.input, *s.args, **s.kwargs)
        count += 1
    assert count == 3


@pytest.mark.parametrize("name", ["elu", "selu"])
def test_torch_has_no_error_samples_for_these(name):
    # Once it has, they belong in a test here.
    assert operator(name).error_inputs_func is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["ELU", "SELU", "PReLU"])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_module_samples(name, dtype, backend):
    with fusedact.backend(backend):
        assert_module_samples(name, dtype)


def assert_module_samples(name, dtype):
    (info,) = [m for m in common_modules.module_db if m.module_cls is getattr(torch.nn, name)]
    samples = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True)
    assert samples
    for s in samples:
        made = s.constructor_input
        ours = getattr(fusedact, name)(*made.args, **made.kwargs).to(dtype)
        theirs = getattr(torch.nn, name)(*made.args, **made.kwargs).to(dtype)
        given, results = s.forward_input, []
        for module in (ours, theirs):
            (leaf,) = (t.detach().requires_grad_() for t in given.args)
            y = module(leaf)
            g = torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)
            results.append((y, *torch.autograd.grad(y, (leaf, *module.parameters()), g)))
        torch.testing.assert_close(*results)
