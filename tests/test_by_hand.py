"""What is written by hand pays, by the kept figures; and what does not is named."""

from __future__ import annotations

import benches
import pytest

from fusedact import registry

by_hand = benches.load("by_hand")

KEPT = by_hand.counted(benches.ROOT / "bench/results/ledger.csv")


def test_every_pair_is_compared():
    specs = [registry.get(name) for name in registry.names("elementwise")]
    written = [s.name for s in specs if s.build is None and not s.always_aten]
    assert by_hand.names(KEPT) == written
    assert {*by_hand.KEPT_FOR, *by_hand.BEYOND} <= {*written}
    directions, dtypes = ("forward", "backward"), ("bf16", "fp32")
    compared = {(by_hand.GENERATED.format(n), d, t, "sm_90") for n in written for d in directions for t in dtypes}
    assert compared <= KEPT.keys()


def test_every_pair_pays():
    assert list(by_hand.problems(KEPT)) == []


def counts(name, hand, generated):
    """Of bf16 and fp32, forward and backward."""
    keys = [(direction, dtype, "sm_90") for dtype in ("bf16", "fp32") for direction in ("forward", "backward")]
    return {
        (kernel, *key): n
        for kernel, row in ((name, hand), (f"{name} (generated)", generated))
        for key, n in zip(keys, row, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "hand", "generated", "problem"),
    [
        ("elu", (10, 10, 20, 20), (11, 10, 20, 20), None),
        ("elu", (10, 10, 20, 20), (10, 11, 20, 15), None),
        ("elu", (10, 10, 20, 20), (10, 10, 20, 20), "elu: written by hand in no fewer instructions than the engine's"),
        ("elu", (10, 10, 20, 20), (9, 10, 25, 25), "elu: written by hand in no fewer instructions than the engine's"),
        ("elu", (10, 10, 20, 20), (13, 13, 26, 26), None),
        (
            *("elu", (10, 10, 20, 20), (13.1, 10, 20, 20)),
            "elu (generated) forward bf16 sm_90: 13.1 instructions, more than 1.3 times those written by hand",
        ),
        (
            *("elu", (10, 10, 20, 20), (11, 10, 20, 26.1)),
            "elu (generated) backward fp32 sm_90: 26.1 instructions, more than 1.3 times those written by hand",
        ),
        ("mish", (10, 10, 20, 20), (20, 10, 20, 20), None),
        ("mish", (10, 10, 20, 20), (13, 13, 20, 20), "mish: within 1.3 times those written by hand"),
        ("silu", (10, 10, 20, 20), (9, 10, 27, 20), None),
        ("silu", (10, 10, 20, 20), (9, 11, 27, 20), "silu: takes fewer instructions than the engine's"),
    ],
)
def test_what_does_not_pay_is_named(name, hand, generated, problem):
    found = list(by_hand.problems(counts(name, hand, generated)))
    assert len(found) == (problem is not None)
    assert all(text.startswith(problem) for text in found)


def test_the_table_tells_instructions_and_reasons():
    table = by_hand.summary(counts("silu", (10, 11, 20, 21), (9, 11, 27, 40)))
    reasons = f"{by_hand.KEPT_FOR['silu']}; {by_hand.BEYOND['silu']}"
    assert table.splitlines()[2] == f"| `silu` | {reasons} | 10.0 / 9.0 | 11.0 / 11.0 | 20.0 / 27.0 | 21.0 / 40.0 |"
