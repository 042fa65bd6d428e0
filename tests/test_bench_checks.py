"""What the benchmarks time, the check that comes before it, and what a call takes beside time."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import benches
import oracles
import pytest
import torch

from fusedact import registry

CPU = torch.device("cpu")
MODULES = ("cases", "catalog", "checks", "footprint", "providers", "subjects")


@pytest.fixture(scope="module")
def bench():
    """The modules in bench/."""
    return SimpleNamespace(**{name: benches.load(name) for name in MODULES})


def given_of(bench, subject, dtype=torch.float32, size=1024):
    """Inputs of a subject."""
    (given,) = bench.cases.inputs_of(subject, bench.cases.inputs(dtype, size, CPU))
    return given


# ----- what is timed


def test_every_activation_is_timed(bench):
    subjects = bench.catalog.SUBJECTS.values()
    assert {s.activation for s in subjects if s.form != "own"} == set(registry.names())
    forms = {"elementwise", "rowwise", "gated", "biased", "linear", "own", "piecewise"}
    assert {s.form for s in subjects} == forms


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_providers_of_all_activations_pass_the_check(bench, dtype):
    pairs = bench.cases.inputs(bench.cases.DTYPES[dtype], 2**16, CPU)
    for subject in bench.catalog.SUBJECTS:
        (given,) = bench.cases.inputs_of(subject, pairs)
        found = bench.checks.examine(subject, bench.providers.providers(subject, CPU), given)
        assert not found.reasons and not found.overwriting
        assert set(found.errors) == {"eager", "fusedact"}


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: torch.nn.functional.elu(x) + 0.01, "value"),
        (lambda x: torch.where(x < 2.0, torch.nn.functional.elu(x), torch.nan), "value"),
        (lambda x: torch.nn.functional.elu(x) + (x - x.detach()), "gradient"),
    ],
    ids=["value", "nan", "gradient"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_wrong_provider_is_refused(bench, wrong, what, dtype):
    given = given_of(bench, "elu", dtype, 4096)
    with pytest.raises(AssertionError, match=f"elu by wrong: the {what} at x = .*not timed"):
        bench.checks.check_accuracy("elu", {"wrong": wrong}, given)


def test_a_provider_that_fails_or_changes_the_dtype_is_refused(bench):
    def failing(x):
        raise ValueError("no such device\nand more")

    functions = {
        "failing": failing,
        "wide": lambda x: torch.nn.functional.elu(x.float()),
        "short": lambda x: torch.nn.functional.elu(x)[:1],
    }
    given = given_of(bench, "elu", torch.bfloat16, 64)
    assert bench.checks.examine("elu", functions, given).reasons == {
        "failing": "elu by failing fails: ValueError: no such device; not timed",
        "wide": "elu by wide gives torch.float32 and torch.bfloat16 where x is torch.bfloat16; not timed",
        "short": "elu by short fails: RuntimeError: Mismatch in shape: grad_output[0] has a shape of torch.Size([64]) "
        "and output[0] has a shape of torch.Size([1]).; not timed",
    }


LEARNED = [
    *("pwl learned (17 points)", "pwl learned (64 points)", "pwl learned per channel (17 points)"),
    *("relu_sigmoid (learned)", "swish (learned)", "prelu (per channel)", "own snake (learned)"),
    *("bias gelu", "bias silu", "bias silu dropout", "linear gelu", "linear silu"),
]


def test_parameters_learn_in_these(bench):
    assert [name for name, s in bench.catalog.SUBJECTS.items() if s.learned] == LEARNED


@pytest.mark.parametrize(("size", "shape"), [(2**16, (256, 256)), (256, (1, 256)), (16, (1, 16))])
def test_a_parameter_for_each_channel_goes_with_rows(bench, size, shape):
    pairs = bench.cases.inputs(torch.bfloat16, size, CPU, count=2)
    (x, g, weight), (other, _, same) = bench.cases.inputs_of("prelu (per channel)", pairs)
    assert x.shape == g.shape == shape
    assert (weight.shape, weight.dtype, weight.requires_grad) == (shape[1:], x.dtype, True)
    assert weight is same and len(weight.unique()) > 1
    # The memory of the pairs themselves, of which inputs rotate.
    assert [x.data_ptr(), other.data_ptr()] == [numbers.data_ptr() for numbers, _ in pairs]


@pytest.mark.parametrize("subject", LEARNED)
def test_gradients_of_what_learns_are_asked_for(bench, subject):
    x, g, *learned = given_of(bench, subject)
    for function in bench.providers.providers(subject, CPU).values():
        gradients = bench.cases.forward_backward(function, x, g, *learned)
        assert [t.shape for t in gradients] == [t.shape for t in (x, *learned)]


@pytest.mark.parametrize("subject", LEARNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, float("nan")])
def test_a_wrong_gradient_of_a_parameter_is_refused(bench, subject, dtype, scale):
    """A sum of terms of either sign, much smaller than they are: what is allowed must not reach it."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p):
            return p.clone()

        @staticmethod
        def backward(ctx, g):
            return g * scale

    given = given_of(bench, subject, dtype, 2**14)
    right = bench.providers.eager(subject, CPU)
    *_, parameter = bench.catalog.SUBJECTS[subject].learned
    wanted = re.escape(f"{subject} by wrong: the gradient of {parameter}[") + r"\d+\] .*not timed"
    with pytest.raises(AssertionError, match=wanted):
        wrong = {"wrong": lambda x, *learned: right(x, *learned[:-1], Scaled.apply(learned[-1]))}
        bench.checks.check_accuracy(subject, wrong, given)


def test_mixed_up_channels_are_refused(bench):
    subject = "prelu (per channel)"
    (given,) = bench.cases.inputs_of(subject, bench.cases.inputs(torch.float32, 2**12, CPU))
    with pytest.raises(AssertionError, match="the value at x"):
        bench.checks.check_accuracy(subject, {"wrong": lambda x, w: torch.where(x > 0, x, x * w.flip(0))}, given)


def test_what_learns_is_not_kept_for_backward(bench):
    x, _, weight = bench.cases.inputs_of("prelu (per channel)", bench.cases.inputs(torch.float32, 512, CPU))[0]
    assert bench.footprint.kept_bytes(torch.nn.functional.prelu, x, weight) == 512 * 4


def test_a_twin_may_name_its_arguments_otherwise(bench):
    x = torch.tensor([-2.0, 3.0])
    assert (
        bench.providers.eager("prelu", CPU)(x).tolist()
        == bench.providers.fused("prelu", CPU)(x).tolist()
        == [-0.5, 3.0]
    )


def test_other_libraries_are_timed_where_there_are(bench, monkeypatch):
    others = {"theirs": lambda device: torch.nn.functional.elu, "missing": lambda device: None}
    monkeypatch.setitem(bench.catalog.SUBJECTS, "elu", bench.subjects.Subject("elu", others=others))
    assert list(bench.providers.providers("elu", CPU)) == ["eager", "theirs", "fusedact"]


@pytest.mark.parametrize(("activation", "learned"), [("relu_sigmoid", ()), ("elu", ("alpha",))])
def test_an_activation_without_a_twin_needs_a_composition(bench, monkeypatch, activation, learned):
    """As a twin takes numbers, there is none where they learn."""
    monkeypatch.setitem(bench.catalog.SUBJECTS, "bare", bench.subjects.Subject(activation, learned=learned))
    with pytest.raises(ValueError, match=f"{activation} has no twin in PyTorch and needs a composition"):
        bench.providers.providers("bare", CPU)


def test_kept_bytes_count_storages_once_and_leave_out_the_output(bench):
    x = torch.randn(64)
    assert bench.footprint.kept_bytes(torch.sigmoid, x) == 0
    assert bench.footprint.kept_bytes(lambda x: x * x, x) == 64 * 4
    assert bench.footprint.kept_bytes(bench.providers.eager("relu_sigmoid", CPU), torch.randn(2, 64)[0]) == 2 * 64 * 4


# ----- forms


def test_shapes_of_forms(bench):
    """A size is that of the result."""
    size = 2**14
    for subject, count in {"gated silu": 1, "packed silu": 0, "glu": 0, "bias silu": 1, "linear gelu": 2}.items():
        x, g, *others = given_of(bench, subject, size=size)
        s = bench.catalog.SUBJECTS[subject]
        assert g.numel() == size and x.numel() == (2 * size if s.packed else size)
        assert len(others) == count
        assert bench.providers.eager(subject, CPU)(x, *others).shape == g.shape
        assert all(t.requires_grad and t.is_contiguous() for t in (x, *others))


@pytest.mark.parametrize(
    ("subject", "forward", "both"),
    [
        ("elu", 2 * 1024, 5 * 1024),
        ("gated silu", 3 * 1024, 8 * 1024),
        ("packed silu", 3 * 1024, 8 * 1024),
        # A bias for each column, once forward, twice more with backward.
        ("bias gelu", 3 * 1024, 8 * 1024),
        ("prelu (per channel)", 2 * 1024 + 256, 5 * 1024 + 3 * 256),
        # 1024 inputs and biases, and as many weights as there are pairs of features.
        ("linear gelu", 3 * 1024 + 2**20, 8 * 1024 + 3 * 2**20),
    ],
)
def test_bytes_that_a_case_must_move(bench, subject, forward, both):
    given = given_of(bench, subject, torch.bfloat16)
    moved = [bench.cases.bytes_moved(direction, given) for direction in bench.cases.DIRECTIONS]
    assert moved == [2 * forward, 2 * both]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("subject", ["gated silu", "packed silu", "packed silu (interleaved)"])
def test_a_gate_in_the_value_s_place_is_refused(bench, subject, dtype):
    right = bench.providers.eager(subject, CPU)
    given = given_of(bench, subject, dtype)

    def swapped(x, *gate):
        return right(*gate, x) if gate else right(x.flip(-1))

    with pytest.raises(AssertionError, match="by wrong: the value"):
        bench.checks.check_accuracy(subject, {"wrong": swapped}, given)


@pytest.mark.parametrize("scale", [0.0, 0.9])
def test_a_wrong_gradient_of_an_operand_is_refused(bench, scale):
    right = bench.providers.eager("gated silu", CPU)

    def wrong(x, gate):
        return right(x, gate * scale + gate.detach() * (1 - scale))

    with pytest.raises(AssertionError, match="by wrong: the gradient of operand 1"):
        bench.checks.check_accuracy("gated silu", {"wrong": wrong}, given_of(bench, "gated silu"))


class Dropout(torch.autograd.Function):
    """Whose backward keeps what its own mask says."""

    @staticmethod
    def forward(ctx, y, kept, kept_backward, scale):
        ctx.save_for_backward(kept_backward)
        ctx.scale = scale
        return y * kept * scale

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0] * ctx.scale, None, None, None


def dropping(p, scale, same):
    """A biased SiLU with this dropout."""

    def call(x, bias):
        y = torch.nn.functional.silu(x + bias)
        kept, other = (torch.rand_like(y) >= p for _ in range(2))
        return Dropout.apply(y, kept, kept if same else other, scale)

    return call


@pytest.mark.parametrize(
    ("p", "scale", "same", "what"),
    [
        (0.1, 1 / 0.9, True, None),
        (0.5, 2.0, True, r"dropout keeps 0\.[45]"),
        (0.1, 1.0, True, "the value at"),
        (0.1, 1 / 0.9, False, r"dropout keeps 0\.9[89]"),
    ],
    ids=["right", "share", "scale", "mask"],
)
def test_dropout_keeps_its_share_by_one_mask(bench, p, scale, same, what):
    given = given_of(bench, "bias silu dropout", size=2**14)
    reasons = bench.checks.examine("bias silu dropout", {"one": dropping(p, scale, same)}, given).reasons
    assert bool(reasons) == (what is not None)
    assert what is None or re.search(what, reasons["one"])


# ----- errors, overwriting, what is left out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_units_are_those_of_the_oracles(bench, dtype):
    truth = torch.tensor([0.0, 1e-30, 6e-8, 0.1, 0.999999999, 1.0, -1.5, 2.0, 300.0, 6e4], dtype=torch.float64)
    assert torch.equal(bench.checks.unit(truth, dtype), oracles.ulp(truth, dtype))


def test_errors_are_in_units_in_the_last_place(bench):
    x = given_of(bench, "relu", torch.bfloat16)
    functions = {"right": torch.relu, "off": lambda x: torch.relu(x) * (1 + 2**-7)}
    found = bench.checks.examine("relu", functions, x)
    assert found.errors["right"] == 0.0
    # One unit at a power of two, and at most two just below the next one, rounded.
    assert 1.0 <= found.errors["off"] <= 2.0


def test_who_writes_over_inputs_is_found_out(bench):
    class Overwriting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            dx = g * (x > 0)
            x.data.copy_(dx)
            return x.data

    given = given_of(bench, "relu")
    before = given[0].detach().clone()
    found = bench.checks.examine("relu", {"eager": torch.relu, "careless": Overwriting.apply}, given)
    assert (found.reasons, found.overwriting) == ({}, {"careless"})
    assert torch.equal(given[0], before)


@pytest.mark.parametrize(("at", "refused"), [(0, True), (2**9, True), (2**10 - 1, True), (2**8, False)])
@pytest.mark.parametrize("what", ["value", "gradient"])
def test_of_many_elements_three_parts_are_compared_on_a_cpu(bench, monkeypatch, at, refused, what):
    monkeypatch.setitem(bench.checks.CHUNKS, "cpu", 2**6)
    place = torch.zeros(2**10)
    place[at] = 1.0

    def wrong(x):
        y = torch.nn.functional.elu(x)
        return y + place if what == "value" else y + place * (x - x.detach())

    reasons = bench.checks.examine("elu", {"wrong": wrong}, given_of(bench, "elu", size=2**10)).reasons
    assert bool(reasons) == refused


def test_dropout_is_checked_by_parts_too(bench, monkeypatch):
    """Elsewhere the gradient is 0, and so nothing tells a sum of 0 from what was dropped."""
    monkeypatch.setitem(bench.checks.CHUNKS, "cpu", 2**14)
    x, g, bias = given_of(bench, "bias silu dropout", torch.bfloat16, 2**18)
    with torch.no_grad():
        x[4:32] = -bias
    functions = bench.providers.providers("bias silu dropout", CPU)
    assert not bench.checks.examine("bias silu dropout", functions, (x, g, bias)).reasons


def test_gradients_of_what_learns_are_checked_by_parts_too(bench, monkeypatch):
    monkeypatch.setitem(bench.checks.CHUNKS, "cpu", 2**8)
    given = given_of(bench, "prelu (per channel)", size=2**14)
    right = bench.providers.eager("prelu (per channel)", CPU)
    functions = {"right": right, "wrong": lambda x, w: right(x, w * 0.5 + w.detach() * 0.5)}
    assert list(bench.checks.examine("prelu (per channel)", functions, given).reasons) == ["wrong"]


# ----- Liger


@pytest.fixture
def liger(monkeypatch):
    """A package with some of Liger's operators, for a GPU, in plain PyTorch; the gate comes first."""

    def function(compute):
        return type("Function", (), {"apply": staticmethod(compute)})

    silu, gelu = torch.nn.functional.silu, torch.nn.functional.gelu
    operators = {
        "swiglu": {"LigerSiLUMulFunction": function(lambda a, b: silu(a) * b)},
        "geglu": {"LigerGELUMulFunction": function(lambda a, b: gelu(a, approximate="tanh") * b)},
        "softmax": {"LigerSoftmaxFunction": function(lambda x: torch.softmax(x, -1))},
        "relu_squared": {"LigerReLUSquaredFunction": function(lambda x: torch.relu(x).square())},
    }
    for name, contents in operators.items():
        module = ModuleType(f"liger_kernel.ops.{name}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for package in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))


def test_liger_s_kernels_are_timed_on_a_gpu_alone(bench, liger):
    gpu = torch.device("cuda")
    found = [name for name in bench.catalog.SUBJECTS if "liger" in bench.providers.others(name, gpu)]
    # This one has no operator for a packed tensor.
    assert found == ["relu_squared", "softmax", "gated silu", "gated gelu_tanh"]
    assert not any(bench.providers.others(name, CPU) for name in bench.catalog.SUBJECTS)
    for subject in found:
        functions = bench.providers.others(subject, gpu)
        bench.checks.check_accuracy(subject, functions, given_of(bench, subject))


def test_without_liger_nothing_is_missing(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert bench.providers.others("gated silu", torch.device("cuda")) == {}


# ----- what a call takes beside time


def test_peak_bytes_are_those_of_plain_operators(bench):
    """x - t and relu of it; then the sigmoid beside the latter; then the product."""
    x, g = torch.randn(2**16, requires_grad=True), torch.randn(2**16)

    def composed(x):
        return torch.relu(x - 0.1) * torch.sigmoid(x)

    for function, direction, wanted in (
        (torch.relu, "forward", 1),
        (composed, "forward", 3),
        (torch.relu, "forward+backward", 2),
    ):
        call = bench.footprint.call_of(function, direction, (x, g))
        call()
        assert bench.footprint.peak_bytes(call, CPU) == wanted * x.nbytes


def test_kernels_are_counted_on_a_gpu(bench, monkeypatch):
    """The device's events of one call; neither the host's nor what was annotated."""
    kinds = torch.autograd.DeviceType
    events = [(kinds.CUDA, False), (kinds.CPU, False), (kinds.CUDA, False), (kinds.CUDA, True)]
    calls = []

    class Profile:
        def __init__(self, activities):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            assert not calls
            return self

        def __exit__(self, *args):
            assert calls == ["call", "wait"]

        def events(self):
            return [SimpleNamespace(device_type=kind, is_user_annotation=note) for kind, note in events]

    monkeypatch.setattr(bench.footprint, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls and calls.append("wait"))
    assert bench.footprint.kernels(lambda: calls.append("call"), torch.device("cuda")) == 2
    assert bench.footprint.kernels(lambda: calls.append("call"), CPU) is None
