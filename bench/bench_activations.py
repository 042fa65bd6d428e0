"""The activations under pytest-benchmark: `pytest bench/bench_activations.py --benchmark-enable`.

Without the option every case runs once, as a test. Groups hold the providers of one case. Whether a change makes
something slower on this machine, `--benchmark-autosave` before it and `--benchmark-compare` after it tell. The figures
that are published come from bench/run.py, which lets the providers alternate.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import DTYPES, FORWARD, Case, all_cases, forward_backward, inputs, inputs_of, label
from bench.checks import check_accuracy
from bench.providers import EAGER, FUSEDACT, providers

# Dominated by the call; in the cache of a core; in main memory.
SIZES = (2**10, 2**16, 2**20)

# The twin or the composition is what PyTorch offers.
PROVIDERS = {"torch": EAGER, "fusedact": FUSEDACT}

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _id(case: Case) -> str:
    return f"{case.activation}-{case.dtype}-{label(case.size)}-{case.direction}"


def _until_done(function: Callable[..., object]) -> Callable[..., object]:
    """The function itself on a CPU; on a GPU, with a wait for its result."""
    if DEVICE.type != "cuda":
        return function

    def waiting(*args: object) -> object:
        result = function(*args)
        torch.cuda.synchronize()
        return result

    return waiting


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", all_cases(DTYPES, SIZES), ids=_id)
def test_activation(benchmark: BenchmarkFixture, case: Case, provider: str) -> None:
    function = providers(case.activation, DEVICE)[PROVIDERS[provider]]
    (given,) = inputs_of(case.activation, inputs(DTYPES[case.dtype], case.size, DEVICE))
    check_accuracy(case.activation, {provider: function}, given)
    benchmark.group = _id(case)
    if case.direction == FORWARD:
        with torch.no_grad():
            x, _, *others = given
            benchmark(_until_done(function), x, *others)
    else:
        benchmark(_until_done(forward_backward), function, *given)
