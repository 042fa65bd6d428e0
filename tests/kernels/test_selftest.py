"""The self-test of `fusedact check`, by kernels."""

from __future__ import annotations

import pytest

from fusedact.kernels import launch
from fusedact.looking import selftest


@pytest.mark.parametrize("family", ["learned parameters", "along a dimension", "random", "your own"])
def test_kernels_are_right(family, device, launches, monkeypatch):
    monkeypatch.setattr(selftest, "FAMILIES", {family: selftest.FAMILIES[family]})
    (result,) = selftest.run(device)
    assert result.cases and not result.failures
    assert family != "your own" or "forward_kernel" in launches


@pytest.mark.parametrize("what", ["forward", "backward"])
def test_a_wrong_kernel_is_found(what, device, monkeypatch):
    """One that is off by a hundredth, of one activation."""
    cases = [
        c
        for c in selftest.FAMILIES["elementwise"](selftest.torch.device(device), False)
        if c[0].name in ("elu", "silu")
    ]
    monkeypatch.setattr(selftest, "FAMILIES", {"elementwise": lambda *_: iter(cases)})
    (right,) = selftest.run(device)
    run = getattr(launch, what)

    def wrong(name, *args):
        result = run(name, *args)
        # The output, or the gradient of x.
        written = args[1] if what == "forward" else args[2]
        if name == "silu" and written is not None:
            written.mul_(1.01)
        return result

    monkeypatch.setattr(launch, what, wrong)
    (found,) = selftest.run(device)
    assert not right.failures and len(found.failures) == 2
    assert all("silu" in failure for failure in found.failures)
