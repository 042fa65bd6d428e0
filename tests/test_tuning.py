"""Block sizes are those that the kept counts make best."""

from __future__ import annotations

import json
from dataclasses import replace

import compiling
import pytest

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import triton

from fusedact.kernels import grids, launch

tuning, ledger = benches.load("tuning"), benches.load("ledger")
PINNED = json.loads((benches.ROOT / ledger.FACTS).read_text())["triton"]
KEPT = tuning.load(benches.ROOT / tuning.FIGURES)
HAVE = (grids.BYTES_PER_THREAD, grids.NUM_WARPS)
TARGETS = list(tuning.MULTIPROCESSORS)

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]


@pytest.mark.parametrize("target", TARGETS)
def test_the_launcher_has_the_best(target):
    assert tuning.best(KEPT, target) == HAVE


def test_everything_is_kept():
    found = {(r.kernel, r.direction, r.dtype, r.target, r.combination) for r in KEPT}
    asked = list(ledger.cases(tuning.KERNELS, tuning.DTYPES))
    assert found == {(name, *rest, c) for name, _, *rest in asked for c in tuning.TRIED} and len(found) == len(KEPT)
    assert tuning.table(KEPT) in (benches.ROOT / tuning.README).read_text()


@pytest.mark.skipif(triton.__version__ != PINNED, reason="the kept figures are another Triton's")
@pytest.mark.parametrize("combination", tuning.TRIED, ids=str)
def test_what_is_kept_is_what_is_counted(combination, monkeypatch):
    monkeypatch.setattr(tuning, "TRIED", [combination])
    before = dict(launch._compiled)
    found = list(tuning.rows(("sm_90",), ("relu_sigmoid",)))
    kept = [r for r in KEPT if (r.kernel, r.target, r.combination) == ("relu_sigmoid", "sm_90", combination)]
    assert len(found) == 4 and found == kept
    assert (grids.BYTES_PER_THREAD, grids.NUM_WARPS) == HAVE and launch._compiled == before


# ----- the choice


def rows(**figures):
    """One kernel on sm_90 with every combination, all of the same figures but those that are given by combination."""
    usual = {"instructions": 10.0, "registers": 32, "spills": 0, "in_flight": 30_000}
    return [
        tuning.Row("relu_sigmoid", "forward", "bf16", "sm_90", *c, **usual | figures.get(f"with_{c[0]}_{c[1]}", {}))
        for c in tuning.TRIED
    ]


def test_of_equals_the_smallest_program():
    assert tuning.best(rows(), "sm_90") == (16, 4)


def test_most_bytes_on_their_way():
    assert tuning.best(rows(with_32_8={"in_flight": 30_001}), "sm_90") == (32, 8)


@pytest.mark.parametrize("bad", [{"spills": 4}, {"in_flight": 25_000}, {"instructions": 60.0}], ids=str)
def test_what_is_not_taken(bad):
    """Spills, too few bytes on their way, and more instructions than the memory leaves time for."""
    assert tuning.best(rows(with_16_4=bad), "sm_90") == (32, 4)
    # Below that time instructions do not count.
    assert tuning.best(rows(with_16_4={"instructions": 20.0}), "sm_90") == (16, 4)


def test_residency():
    """As NVIDIA's occupancy calculator has it: 72 registers leave 7 programs of 4 warps, 141 leave 3."""
    h200 = tuning.MULTIPROCESSORS["sm_90"]
    assert [h200.threads(r, 4, 32) for r in (16, 32, 72, 141)] == [2048, 2048, 7 * 128, 3 * 128]
    assert replace(h200, warps=3).threads(16, 4, 32) == 0
