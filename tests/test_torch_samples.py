"""PyTorch's own operator and module samples, as an oracle for the twins.

PyTorch's operators also serve integers (relu, relu6, hardtanh and threshold return integers; sigmoid, tanh, softsign
and tanhshrink floats), truth values (sigmoid, tanh) and complex numbers (sigmoid, tanh, silu, softsign, tanhshrink).
Ours take floating point alone, as networks have it; all else is a TypeError that names what is accepted.
"""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import twins

import fusedact
from fusedact import checks

pytest.importorskip("torch.testing._internal.common_methods_invocations")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    OPERATORS, INFOS = twins.operators(), twins.module_infos()

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
names = pytest.mark.parametrize("name", twins.SAMPLED)


def params(name):
    """Numbers to call a twin with."""
    return twins.BENDS.get(name, (twins.Bends(),))[0].params


def samples(name, dtype):
    op = OPERATORS[name]
    return itertools.chain(
        op.sample_inputs("cpu", dtype, requires_grad=True), op.reference_inputs("cpu", dtype, requires_grad=True)
    )


# PyTorch's own operators serve small tensors on the CPU; where the backend is forced, all but these.
FORCED = ("prelu", "softsign", "tanhshrink")


# The three samples of a million elements run in float32 alone.
LARGE = 100_000


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "backend"), [*((n, "auto") for n in twins.SAMPLED), *((n, "eager") for n in FORCED)])
@pytest.mark.filterwarnings("ignore")
def test_operator_samples(name, backend, dtype):
    count = 0
    for s in samples(name, dtype):
        if dtype == torch.float32 or s.input.numel() <= LARGE:
            with fusedact.backend(backend):
                # What PyTorch composes of several operators it rounds several times, which we do not.
                itself = twins.torchs(name, s.input, backend)
                twins.assert_sample(name, OPERATORS[name], s, itself)
            count += 1
    assert count >= 8


ERRORS = {"prelu": 3, "gelu": 1, "hardtanh": 1, "softshrink": 1}


@names
def test_error_samples(name):
    # Once PyTorch has some for the others, they count here.
    op, count = OPERATORS[name], 0
    for sample in op.error_inputs("cpu") if op.error_inputs_func else ():
        s = sample.sample_input
        with pytest.raises((TypeError, ValueError), match=f"fusedact.functional.{name}: "):
            twins.ours(name)(s.input, *s.args, **s.kwargs)
        count += 1
    assert count == ERRORS.get(name, 0)


@names
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128],
    ids=str,
)
def test_other_dtypes_are_refused(name, dtype, backend):
    x = torch.ones(3).to(dtype)
    message = f"fusedact.functional.{name}: input must have dtype {checks.ACCEPTED_DTYPES}, got {str(dtype)[6:]}"
    with fusedact.backend(backend), pytest.raises(TypeError) as caught:
        twins.ours(name)(x, *params(name))
    assert str(caught.value) == message
    module = fusedact.create(name, **({"threshold": 0.1, "value": 0.2} if name == "threshold" else {}))
    with pytest.raises(TypeError, match=message):
        module(x)


# What PyTorch's operators serve beside floating point.
BEYOND = {
    torch.bool: {"sigmoid", "tanh"},
    torch.int64: {"relu", "relu6", "hardtanh", "threshold", "sigmoid", "tanh", "softsign", "tanhshrink"},
    torch.complex64: {"sigmoid", "tanh", "silu", "softsign", "tanhshrink"},
}


@names
@pytest.mark.parametrize("dtype", BEYOND, ids=str)
def test_what_pytorch_refuses(name, dtype):
    if name in BEYOND[dtype]:
        assert (
            not twins.theirs(name)(torch.ones(3).to(dtype), *params(name)).is_floating_point() or not dtype.is_complex
        )
    else:
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            twins.theirs(name)(torch.ones(3).to(dtype), *params(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", INFOS)
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_module_samples(name, dtype, backend):
    count = 0
    for ours, theirs, x in twins.module_samples(INFOS[name], "cpu", dtype):
        with fusedact.backend(backend):
            twins.assert_modules(ours, theirs, x)
        count += 1
    assert count >= 2


def test_which_modules_have_samples():
    # Once PyTorch has some for these, they run above.
    assert set(twins.SAMPLED) - set(INFOS) == {"hardsigmoid"}
