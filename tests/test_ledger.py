"""The ledger of instructions: no figure is worse than the kept one, and a worse one does not pass."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import compiling
import pytest
import torch

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import triton
import triton.language as tl

from fusedact.kernels import activations, elementwise, grids, launch

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("triton_cache")]

aot, disassembly, ledger = (benches.load(name) for name in ("aot", "disassembly", "ledger"))

KERNELS = ledger.kernels()
FIGURES, README = benches.ROOT / ledger.FIGURES, benches.ROOT / ledger.README
KEPT = ledger.load(FIGURES)
PINNED = re.search(r"^triton==(\S+)$", (benches.ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]

COMPILED = [("bf16", target) for target in aot.TARGETS] + [("fp32", "sm_90")]
CASES = [(name, direction) for name, kernel in KERNELS.items() for direction in kernel.directions]
COUNTED = [
    (*case, dtype, target) for case in CASES for dtype in KERNELS[case[0]].dtypes for target in KERNELS[case[0]].targets
]

on_the_pinned_version = pytest.mark.skipif(
    triton.__version__ != PINNED, reason=f"the figures are Triton {PINNED}'s, this is {triton.__version__}"
)


def kept(name, direction, dtype="bf16", target="sm_90"):
    return next(r for r in KEPT if r.key == (name, direction, dtype, target))


# ----- the kept figures


@on_the_pinned_version
@pytest.mark.parametrize("dtype", ledger.DTYPES)
def test_no_figure_is_worse(dtype):
    found = list(ledger.sweep(ledger.cases(dtypes=[dtype])))
    assert [r.key for r in found] == [r.key for r in KEPT if r.dtype == dtype]
    assert list(ledger.problems(found, KEPT)) == []


def test_every_kernel_is_kept():
    assert [r.key for r in KEPT] == COUNTED
    assert {name for name, _ in CASES} >= set(ledger.NAMES)


def test_what_is_kept_is_within_limits():
    assert list(ledger.problems(KEPT, KEPT)) == []
    limited = {(r.kernel, r.direction): r.limit for r in KEPT if r.limit is not None}
    assert limited == ledger.LIMITS


def test_the_figures_are_the_pinned_versions():
    assert json.loads(FIGURES.with_suffix(".json").read_text())["triton"] == PINNED


# ----- the gate


@pytest.mark.parametrize("figure", ledger.RISING)
def test_a_figure_must_not_rise(figure):
    old = replace(kept("relu_sigmoid", "backward"), **{figure: 100}, limit=None)
    assert list(ledger.problems([replace(old, **{figure: 105})], [old])) == []
    (problem,) = ledger.problems([replace(old, **{figure: 106})], [old])
    assert problem == f"relu_sigmoid backward bf16 sm_90: {figure} rose from 100 to 106"


def test_what_was_none_must_stay_none():
    old = kept("selu", "forward")
    assert old.conversions == 0
    assert len(list(ledger.problems([replace(old, conversions=0.06)], [old]))) == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"spills": 8}, r"spills \(8\)"),
        ({"wide": False}, "16 bytes at a time"),
        ({"instructions": 14.01}, "above the limit 14"),
        ({"dtype": "fp8"}, "not in the kept figures"),
    ],
    ids=str,
)
def test_a_worse_row_is_a_problem(change, what):
    old = replace(kept("relu_sigmoid", "forward"), instructions=13.9)
    (problem,) = ledger.problems([replace(old, **change)], [old])
    assert re.search(what, problem)


@on_the_pinned_version
def test_a_worse_kernel_is_a_problem():
    """relu_sigmoid in prelu's place."""
    found = ledger.row("prelu", ledger.Kernel("relu_sigmoid", (0.0,)), "forward", "bf16", "sm_90")
    problems = "\n".join(ledger.problems([found], KEPT))
    assert "instructions rose" in problems and "special rose" in problems


def launched(launch_it, target="sm_90"):
    """The one kernel that a function launches, compiled for a target."""
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        compiled = launch_it()
        assert len(stub.launches) == 1
        # The kernel outlives the driver that would unload it.
        compiled.module = None
        return compiled


def memory(block, dtype, offset=0):
    t = torch.zeros(2 * block, dtype=dtype)
    start = -t.data_ptr() % 16 // t.element_size() + offset
    return t[start : start + block]


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_lost_16_byte_access_is_found(target):
    block = grids.block_size(2, aot.TARGETS[target].warp_size)
    x, out = memory(block, torch.bfloat16, offset=1), memory(block, torch.bfloat16)

    def unaligned():
        launch.forward("hardswish", x, out, ())
        (compiled,) = launch._compiled.values()
        return compiled

    row = ledger.counted(launched(unaligned, target), ("hardswish", "forward", "bf16", target))
    assert (row.widest_load, row.widest_store, row.wide) == (2, 16, False)
    assert any("16 bytes at a time" in problem for problem in ledger.problems([row], []))


def test_spills_are_found():
    x = memory(2048, torch.bfloat16)

    def crowded():
        constants = (activations.relu_sigmoid, ("number",), (), False, 2048)
        kernel = elementwise.forward_kernel[(1,)]
        return kernel(x, x, 2048, (0.0,), *constants, (), None, num_warps=4, maxnreg=24, enable_fp_fusion=True)

    row = ledger.counted(launched(crowded), ("relu_sigmoid", "forward", "bf16", "sm_90"))
    assert row.registers == 24 and row.spills > 0


# ----- counting


@triton.jit
def without_a_tail(x_ptr, out_ptr, values, ACTIVATION: tl.constexpr, PRECISE: tl.constexpr, BLOCK: tl.constexpr):
    """The forward template's path of a whole block."""
    offs = tl.arange(0, BLOCK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    x = tl.load(x_ptr + start + offs).to(tl.float32)
    tl.store(out_ptr + start + offs, ACTIVATION(x, values, PRECISE).to(out_ptr.dtype.element_ty))


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["relu_sigmoid", "elu"])
@pytest.mark.parametrize("target", aot.TARGETS)
def test_a_whole_block_costs_what_it_does_without_a_tail(name, target, dtype):
    """All that the tail may add is its branch."""
    kernel, size = KERNELS[name], ledger.DTYPES[dtype].itemsize
    block = grids.block_size(size, aot.TARGETS[target].warp_size)
    x = memory(block, ledger.DTYPES[dtype])

    def direct():
        constants = (getattr(activations, name), size == 4, block)
        return without_a_tail[(1,)](x, x, kernel.params, *constants, num_warps=4, enable_fp_fusion=True)

    def executed(row):
        return row.prologue + row.instructions * grids.BYTES_PER_THREAD / size

    alone = ledger.counted(launched(direct, target), (name, "forward", dtype, target))
    found = ledger.row(name, kernel, "forward", dtype, target)
    assert alone.prologue == 0
    assert -1 <= executed(found) - executed(alone) <= 20
    assert (found.special, found.conversions) == (alone.special, alone.conversions)


def sass(*lines):
    """Made-up machine code: labels, and instructions."""
    return disassembly.sass("\n".join(line if line.endswith(":") else f"        /*0000*/   {line} ;" for line in lines))


# A prologue, a masked path behind a branch, a slow path that is called; as nvdisasm writes them.
BRANCHES = [
    "S2R R0, SR_TID.X",
    "@P0 BRA `(.L_tail)",
    "LDG.E.128 R4, desc[UR4][R2.64]",
    "MUFU.RCP R5, R4",
    "@!P1 BRA `(.L_normal)",
    "MOV R6, R5",
    "CALL.REL.NOINC `($slow)",
    ".L_normal:",
    "STG.E.128 desc[UR4][R2.64], R4",
    "EXIT",
    ".L_tail:",
    *["@P2 LDG.E R4, desc[UR4][R2.64]"] * 4,
    *["@P2 STG.E desc[UR4][R2.64], R4"] * 4,
    "EXIT",
]


def names(way):
    return [i.name for i in way.prologue], [i.name for i, _ in way.rest]


@pytest.mark.parametrize("branch", ["@P0 BRA `(.L_tail)", "BRA.U UP0, `(.L_tail)", "BRA !P5, `(.L_tail)"])
def test_the_way_of_a_whole_block(branch):
    way = disassembly.whole_block(sass(BRANCHES[0], branch, *BRANCHES[2:]), stored=16, elements=4)
    prologue, rest = names(way)
    assert len(prologue) == 2 and prologue[0] == "S2R"
    assert rest == ["LDG.E.128", "MUFU.RCP", "BRA", "STG.E.128", "EXIT"]


def test_a_masked_path_is_not_taken_though_it_is_shorter():
    short = [line for line in BRANCHES if "@P2 LDG" not in line]
    padded = [*short[:2], *["NOP"] * 20, *short[2:]]
    way = disassembly.whole_block(sass(*padded), stored=16, elements=4)
    assert "STG.E.128" in names(way)[1]


def test_a_loop_counts_as_often_as_it_runs():
    code = sass(
        "S2R R0, SR_TID.X",
        ".L_again:",
        *["LDG.E R4, desc[UR4][R2.64]"] * 4,
        "@P0 BRA `(.L_again)",
        "STG.E.128 desc[UR4][R2.64], R4",
        "EXIT",
    )
    way = disassembly.whole_block(code, stored=16, elements=4, trips=6)
    assert sum(times for _, times in way.rest) == 1 + 6 * 5 + 2
    # The compiler unrolled it: two trips at once.
    way = disassembly.whole_block(code, stored=16, elements=2, trips=6)
    assert sum(times for _, times in way.rest) == 1 + 3 * 5 + 2
    for elements, trips in ((4, None), (3, 6), (1, 6)):
        with pytest.raises(ValueError, match="a loop of 5 instructions with 4 loads"):
            disassembly.whole_block(code, stored=16, elements=elements, trips=trips)


def test_kernels_are_disassembled_at_once():
    """As each one alone, with its labels."""
    cases = [("prelu", "forward", "sm_80"), ("selu", "backward", "sm_90"), ("prelu", "backward", "sm_80")]
    cases += [("pwl_search", "forward", "sm_100"), ("elu", "forward", "gfx942")]
    made = [
        aot.compile_kernel(KERNELS[name].function, direction, target, torch.bfloat16, KERNELS[name].params)
        for name, direction, target in cases
    ]
    aot._texts.clear()
    aot.disassemble(made)
    assert len(aot._texts) == 4
    for kernel in made[:4]:
        alone = disassembly.sass(aot._of_file(kernel.asm["cubin"], "nvdisasm", "-c"))
        assert disassembly.sass(aot.disassembly(kernel)) == alone
        assert any(i.target is not None for i in alone)


# A loop over blocks, under masks, that the compiler unrolled twice; what is left over, once; then the sums.
ROUNDS = [
    "S2R R0, SR_TID.X",
    "@P3 BRA `(.L_rest)",
    ".L_twice:",
    *["@P0 LDG.E.128 R4, desc[UR4][R2.64]", "FADD R1, R1, R4", "@P0 STG.E.128 desc[UR4][R2.64], R4"] * 2,
    "@P1 BRA `(.L_twice)",
    ".L_rest:",
    "@P0 LDG.E.128 R4, desc[UR4][R2.64]",
    "FADD R1, R1, R4",
    "@P0 STG.E.128 desc[UR4][R2.64], R4",
    "@P2 BRA `(.L_rest)",
    "@!P4 EXIT",
    "STG.E desc[UR4][R2.64], R1",
    "EXIT",
]


def test_once_round_a_loop_over_blocks():
    way = disassembly.once_round(sass(*ROUNDS), stored=16)
    outside, inside = names(way)
    assert inside == ["LDG.E.128", "FADD", "STG.E.128"] * 2 + ["BRA"]
    assert all(times == 1 for _, times in way.rest)
    assert outside[:2] == ["S2R", "BRA"] and outside[-1] == "EXIT"
    for code, stored in ((ROUNDS, 48), (BRANCHES, 16)):
        with pytest.raises(ValueError, match=f"no loop stores a multiple of {stored} bytes"):
            disassembly.once_round(sass(*code), stored)


@pytest.mark.parametrize("where", ledger.PER_CHANNEL)
@pytest.mark.parametrize(("dtype", "target"), COMPILED)
def test_gradients_per_channel_cost_little_more(where, dtype, target):
    """Than the same parameter alone: addresses and masks in place of the last sums."""
    alone, each = (
        kept(name, "backward", dtype, target)
        for name in ("relu_sigmoid (learned)", f"relu_sigmoid (per channel, {where})")
    )
    assert each.wide and not each.spills
    assert each.instructions < alone.instructions + 10
    assert each.special <= alone.special * 1.2


def test_what_cannot_be_followed_raises():
    with pytest.raises(ValueError, match="stores 32 bytes"):
        disassembly.whole_block(sass(*BRANCHES), stored=32, elements=8)
    with pytest.raises(ValueError, match="indirect"):
        sass("BRX R2 -0x10")
    with pytest.raises(ValueError, match="indirect"):
        disassembly.gcn("\ts_setpc_b64 s[30:31]\n")


def test_amd_accesses_have_widths():
    code = disassembly.gcn(
        "\tbuffer_load_dwordx4 v[4:7], v3, s[12:15], 0 offen\n"
        "\tglobal_load_ushort v1, v[2:3], off\n"
        "\tbuffer_store_short_d16_hi v1, v3, s[12:15], 0 offen\n"
        "\ts_load_dwordx2 s[2:3], s[0:1], 0x0\n"
    )
    assert [(i.loads, i.stores) for i in code] == [(16, 0), (2, 0), (0, 2), (0, 0)]
    with pytest.raises(KeyError):
        disassembly.gcn("\tglobal_load_novel v1, v[2:3], off\n")


# ----- files and the command line


def test_rows_survive_the_file(tmp_path):
    ledger.write(KEPT, tmp_path / "ledger.csv")
    assert ledger.load(tmp_path / "ledger.csv") == KEPT
    assert (tmp_path / "ledger.csv").read_text() == FIGURES.read_text()


@pytest.fixture
def copies(tmp_path):
    """The kept figures and a README, elsewhere."""
    for path in (FIGURES, FIGURES.with_suffix(".json"), README):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path, ["--figures", str(tmp_path / "ledger.csv"), "--readme-file", str(tmp_path / "README.md")]


@on_the_pinned_version
def test_check_exits_with_what_rose(copies, capsys):
    folder, options = copies
    choice = ["--kernels", "selu", "--dtypes", "bf16", "--targets", "sm_90"]
    ledger.main([*options, *choice, "--check"])
    assert "selu" in capsys.readouterr().out
    doctored = [replace(r, registers=r.registers // 2) if r.kernel == "selu" else r for r in KEPT]
    ledger.write(doctored, folder / "ledger.csv")
    with pytest.raises(SystemExit, match="selu forward bf16 sm_90: registers rose from"):
        ledger.main([*options, *choice, "--check"])
    assert ledger.load(folder / "ledger.csv") == doctored


def test_another_triton_is_not_checked(copies):
    folder, options = copies
    (folder / "ledger.json").write_text('{"triton": "0.0"}')
    with pytest.raises(SystemExit, match=r"Triton 0\.0's"):
        ledger.main([*options, "--check"])


def test_a_part_is_not_kept(copies):
    with pytest.raises(SystemExit, match="keeps all"):
        ledger.main([*copies[1], "--write", "--dtypes", "bf16"])
    with pytest.raises(SystemExit, match="no kernel 'sine'"):
        ledger.main([*copies[1], "--kernels", "sine"])


def test_the_readme_is_current(copies):
    folder, options = copies
    ledger.main([*options, "--readme", "--check"])
    text = (folder / "README.md").read_text()
    assert "| `relu_sigmoid` | forward |" in text
    (folder / "README.md").write_text(text.replace("| `relu_sigmoid` | forward |", "| `relu_sigmoid` | fwd |"))
    with pytest.raises(SystemExit, match="not current"):
        ledger.main([*options, "--readme", "--check"])
    ledger.main([*options, "--readme"])
    assert (folder / "README.md").read_text() == text


@pytest.mark.parametrize("text", ["", "<!-- ledger:begin -->", "<!-- ledger:end --> <!-- ledger:begin -->"])
def test_the_readme_needs_one_pair_of_markers(copies, text):
    folder, options = copies
    (folder / "README.md").write_text(text)
    with pytest.raises(SystemExit, match="once each"):
        ledger.main([*options, "--readme"])
