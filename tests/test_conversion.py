"""Conversion of modules: what becomes what, what stays, what the report says, and the way back."""

from __future__ import annotations

import contextlib
import copy
import io
import linecache
import pickle
import re
from collections import OrderedDict
from functools import partial

import benches
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils import parametrize, weight_norm

import fusedact
from fusedact import functional as FF
from fusedact import twin_modules


@fusedact.activation
def bent(x, a=0.5):
    """x for x > 0, a x otherwise, and a sine."""
    return torch.where(x > 0, x, a * x) + torch.sin(x)


class Odd(nn.Module):
    """A module that is no activation of anybody's."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def network(*acts):
    parts = [part for act in acts for part in (nn.Linear(6, 6), act)]
    return nn.Sequential(*parts, nn.Linear(6, 2))


def lines(report):
    return [" ".join(line.split()) for line in str(report).splitlines()]


# ----- twins

TWINS = {
    "threshold": nn.Threshold(0.2, -1.0, inplace=True),
    "relu": nn.ReLU(inplace=True),
    "rrelu": nn.RReLU(0.1, 0.4),
    "hardtanh": nn.Hardtanh(-2.0, 0.5),
    "relu6": nn.ReLU6(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(inplace=True),
    "hardswish": nn.Hardswish(),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(1.3),
    "selu": nn.SELU(),
    "glu": nn.GLU(0),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
    "hardshrink": nn.Hardshrink(0.3),
    "leaky_relu": nn.LeakyReLU(0.25, True),
    "logsigmoid": nn.LogSigmoid(),
    "softplus": nn.Softplus(2.0, 10.0),
    "softshrink": nn.Softshrink(0.4),
    "prelu": nn.PReLU(6, 0.1),
    "softsign": nn.Softsign(),
    "tanhshrink": nn.Tanhshrink(),
    "softmin": nn.Softmin(-1),
    "softmax": nn.Softmax(0),
    "softmax2d": nn.Softmax2d(),
    "log_softmax": nn.LogSoftmax(-1),
}


def test_every_activation_of_torch_has_a_twin():
    named = {type(m).__name__ for m in TWINS.values()}
    assert named == set(nn.modules.activation.__all__) - {"MultiheadAttention"}


@pytest.mark.parametrize("name", TWINS)
def test_twins(name):
    """Values, gradients, and what the repr says: all hyper-parameters."""
    act = copy.deepcopy(TWINS[name]).eval()
    model = nn.Sequential(nn.Identity(), act)
    x = torch.randn(4, 6, 6) if name == "softmax2d" else torch.randn(4, 6)
    y = copy.deepcopy(model)(x.clone())
    before = repr(act), list(act.state_dict())
    report = fusedact.convert(model, verify=x)
    assert model[1] is act and type(act) is getattr(fusedact, type(TWINS[name]).__name__) and report.difference < 1e-6
    torch.testing.assert_close(model(x.clone()), y)
    assert list(act.state_dict()) == before[1]
    assert len(report.changes) == 1 and report.changes[0].what == "nn." + before[0] and not report.left
    report.revert()
    assert type(act) is type(TWINS[name]) and repr(act) == before[0]
    torch.testing.assert_close(model(x.clone()), y)


def alike(home, name, forward, *arguments, base=nn.Module):
    """A class as another library has it, which is not installed here."""

    def __init__(self, inplace=False, **keywords):
        base.__init__(self)
        self.__dict__.update(inplace=inplace, **keywords)

    return type(name, (base,), {"__module__": home, "__qualname__": name, "__init__": __init__, "forward": forward})


ELSEWHERE = {
    "transformers.activations": {
        "NewGELUActivation": lambda s, x: F.gelu(x, approximate="tanh"),
        "FastGELUActivation": lambda s, x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
        "GELUActivation": lambda s, x: F.gelu(x),
        "GELUTanh": lambda s, x: F.gelu(x, approximate="tanh"),
        "QuickGELUActivation": lambda s, x: x * torch.sigmoid(1.702 * x),
        "SiLUActivation": lambda s, x: F.silu(x),
        "MishActivation": lambda s, x: F.mish(x),
        "ReLUSquaredActivation": lambda s, x: torch.relu(x) ** 2,
        "LaplaceActivation": lambda s, x: 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * 2**0.5))),
    },
    "timm.layers.activations": {
        "Swish": lambda s, x: x * torch.sigmoid(x),
        "HardSwish": lambda s, x: x * F.relu6(x + 3) / 6,
        "HardSigmoid": lambda s, x: F.relu6(x + 3) / 6,
        "HardMish": lambda s, x: 0.5 * x * (x + 2).clamp(0, 2),
        "GELUTanh": lambda s, x: F.gelu(x, approximate="tanh"),
        "Sigmoid": lambda s, x: x.sigmoid(),
        "Tanh": lambda s, x: x.tanh(),
    },
    "timm.layers.activations_me": {"SwishMe": lambda s, x: F.silu(x), "HardMishMe": lambda s, x: F.hardtanh(x)},
}
ELSEWHERE["timm.layers.activations_me"]["HardMishMe"] = ELSEWHERE["timm.layers.activations"]["HardMish"]


@pytest.mark.parametrize("home, name", [(h, n) for h, names in ELSEWHERE.items() for n in names])
def test_classes_of_other_libraries(home, name):
    model = network(alike(home, name, ELSEWHERE[home][name])())
    report = fusedact.convert(model, verify=torch.randn(5, 6))
    assert twin_modules.is_ours(model[1]) and len(report.changes) == 1 and report.difference < 1e-5


def test_arguments_and_parameters_of_other_libraries():
    clipped = alike("transformers.activations", "ClippedGELUActivation", lambda s, x: F.gelu(x).clip(s.min, s.max))
    prelu = alike("timm.layers.activations", "PReLU", lambda s, x: F.prelu(x, s.weight), base=nn.PReLU)
    model = network(clipped(min=-0.1, max=0.3), prelu())
    weight = model[3].weight
    fusedact.convert(model, verify=torch.randn(5, 6))
    assert repr(model[1]) == "ClippedGELU(min_val=-0.1, max_val=0.3)" and model[3].weight is weight


def test_report_of_twins():
    model = nn.ModuleDict(
        {
            "features": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.RReLU()),
            "heads": nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.PReLU(2)), nn.GELU("tanh")]),
            "attention": nn.MultiheadAttention(4, 2),
            "state": nn.LSTM(2, 2),
        }
    )
    report = fusedact.convert(model)
    assert repr(report) == "<fusedact.convert: 4 places converted, 2 left>"
    assert str(report) == (
        "fusedact.convert: 4 places converted, 2 left\n"
        "  features.1  nn.ReLU(inplace=True)                           -> fusedact.ReLU(inplace=True)\n"
        "  features.2  nn.RReLU(lower=0.125, upper=0.3333333333333333) -> fusedact.RReLU(lower=0.125, "
        "upper=0.3333333333333333)  (draws other slopes than PyTorch in training)\n"
        "  heads.0.1   nn.PReLU(num_parameters=2)                      -> fusedact.PReLU(num_parameters=2)\n"
        "  heads.1     nn.GELU(approximate='tanh')                     -> fusedact.GELU(approximate='tanh')\n"
        "left as they are:\n"
        "  attention  nn.MultiheadAttention(...) : its softmax is inside PyTorch's attention\n"
        "  state      nn.LSTM(2, 2)              : its activations are inside PyTorch's recurrent kernels"
    )
    again = fusedact.convert(model)
    assert lines(again)[0] == "fusedact.convert: 0 places converted, 4 converted already, 2 left" and not again.changes
    report.revert()
    report.revert()
    assert type(model["features"][1]) is nn.ReLU and type(model["attention"]) is nn.MultiheadAttention


# ----- what stays


def test_parameters_stay():
    model = network(nn.PReLU(6), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain, state = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    weight = model[1].weight
    report = fusedact.convert(model, optimizer=optimizer)
    assert model[1].weight is weight and len(optimizer.param_groups) == 1
    assert model.state_dict().keys() == state.keys() and not report.warnings
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, state["1.weight"])
    # Checkpoints go both ways.
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain[1].weight, model[1].weight)
    model.load_state_dict(state)
    assert torch.equal(model[1].weight, state["1.weight"])
    trained = model[1].weight
    report.revert()
    assert model[1].weight is trained


def test_what_is_moved_and_trained_since_is_kept_by_revert():
    model = network(nn.PReLU(6))
    report = fusedact.convert(model)
    model.double().eval()
    with torch.no_grad():
        model[1].weight.fill_(0.5)
    report.revert()
    assert type(model[1]) is nn.PReLU and model[1].weight.dtype == torch.float64 and not model[1].training
    assert model[1].weight.eq(0.5).all()


def test_hooks_stay():
    called = []
    act = nn.ReLU()
    model = network(act)
    handles = [
        act.register_forward_pre_hook(lambda *a: called.append("pre")),
        act.register_forward_hook(lambda m, a, k, y: called.append("forward"), with_kwargs=True),
        act.register_full_backward_pre_hook(lambda *a: called.append("backward pre")),
        act.register_full_backward_hook(lambda *a: called.append("backward")),
        act.register_state_dict_pre_hook(lambda *a: called.append("state pre")),
        act.register_state_dict_post_hook(lambda *a: called.append("state")),
        act.register_load_state_dict_pre_hook(lambda *a: called.append("load pre")),
        act.register_load_state_dict_post_hook(lambda *a: called.append("load")),
    ]
    by_module = {act: "kept"}

    def everything():
        called.clear()
        model(torch.randn(3, 6)).sum().backward()
        model.load_state_dict(model.state_dict())
        return list(called)

    before = everything()
    assert len(set(before)) == 8
    report = fusedact.convert(model)
    assert type(act) is fusedact.ReLU and by_module[model[1]] == "kept" and everything() == before
    handles[0].remove()
    act.register_forward_hook(lambda *a: called.append("new"))
    assert everything() == [*("forward", "new"), *before[2:]]
    report.revert()
    assert type(act) is nn.ReLU and everything() == [*("forward", "new"), *before[2:]]


def test_what_is_attached_stays():
    model = network(nn.LeakyReLU(0.3)).eval()
    model[1].note = "mine"
    model[1].register_buffer("seen", torch.ones(1), persistent=False)
    fusedact.convert(model)
    assert model[1].note == "mine" and not model[1].training and model[1].seen.item() == 1
    assert "1.seen" not in model.state_dict() and model[1].negative_slope == 0.3


def test_shared_modules_stay_shared():
    act = nn.PReLU()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    report = fusedact.convert(model, verify=torch.randn(2, 3))
    assert model[1] is model[3] is act
    assert [(c.place, c.becomes) for c in report.changes] == [
        ("1", "fusedact.PReLU(num_parameters=1)"),
        ("3", "the same module"),
    ]
    learned = nn.Sequential(nn.Linear(3, 3), shared := nn.ELU(), nn.Linear(3, 3), shared)
    fusedact.convert(learned, learnable=True)
    assert len([n for n, _ in learned.named_parameters() if "alpha" in n]) == 1 and learned[1].alpha is learned[3].alpha


def test_the_model_may_be_an_activation():
    act = nn.Softplus(3.0)
    report = fusedact.convert(act, verify=torch.randn(4))
    assert type(act) is fusedact.Softplus and report.model is act
    assert str(report).splitlines()[1] == (
        "  (the model)  nn.Softplus(beta=3.0, threshold=20.0) -> fusedact.Softplus(beta=3.0, threshold=20.0)"
    )


def test_a_copy_can_be_converted():
    model = network(nn.ReLU())
    report = fusedact.convert(model, inplace=False)
    assert type(model[1]) is nn.ReLU and type(report.model[1]) is fusedact.ReLU


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "file"])
def test_copies_of_a_converted_model(how):
    model = network(nn.PReLU(6), nn.GELU("tanh"), nn.ELU(0.5))
    fusedact.convert(model, {"*": "twin", nn.ELU: bent}, learnable="alpha")
    if how == "file":
        file = io.BytesIO()
        torch.save(model, file)
        made = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    else:
        made = how(model)
    x = torch.randn(3, 6)
    torch.testing.assert_close(made(x), model(x))
    assert repr(made) == repr(model)


@pytest.mark.parametrize("before", [False, True])
def test_compiled(before):
    """A model that is compiled already is compiled anew."""
    torch.compiler.reset()
    model, x = network(nn.ReLU(), nn.Tanh()), torch.randn(4, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    if before:
        torch.testing.assert_close(compiled(x), model(x))
    report = fusedact.convert(compiled if before else model, {nn.ReLU: "relu_sigmoid", nn.Tanh: "twin"})
    assert report.changes[0].place == ("_orig_mod.1" if before else "1")
    torch.testing.assert_close(compiled(x), model(x))
    expected = model[4](model[2](FF.relu_sigmoid(model[0](x))).tanh())
    torch.testing.assert_close(compiled(x), expected)


def test_traced_after_conversion():
    model, x = network(nn.SiLU()), torch.randn(4, 6)
    fusedact.convert(model)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))


# ----- mappings


def test_keys():
    model = nn.Sequential(
        OrderedDict(
            head=nn.ReLU(),
            blocks=nn.ModuleList(network(nn.ReLU(), nn.GELU()) for _ in range(2)),
            tail=Odd(),
            plain=nn.ReLU6(),
        )
    )
    mapping = {
        nn.ReLU: "relu_sigmoid",
        "blocks.*.3": "mish",
        "blocks.1.1": fusedact.TeLU,
        "tail": Odd(3.0),
        "?ead": None,
    }
    report = fusedact.convert(model, mapping)
    assert lines(report) == [
        "fusedact.convert: 5 places converted, 1 left",
        "blocks.0.1 nn.ReLU() -> fusedact.ReLUSigmoid(threshold=0.0)",
        "blocks.0.3 nn.GELU(approximate='none') -> fusedact.Mish()",
        "blocks.1.1 nn.ReLU() -> fusedact.TeLU()",
        "blocks.1.3 nn.GELU(approximate='none') -> fusedact.Mish()",
        "tail Odd() -> Odd()",
        "left as they are:",
        "head nn.ReLU() : the mapping says so",
        "warning: not in the mapping, and left: 1 nn.ReLU6",
    ]
    assert model.tail.factor == 3.0
    again = fusedact.convert(model, mapping)
    assert not again.changes and again.already == 4
    report.revert()
    assert model.tail.factor == 2.0 and type(model.blocks[1][1]) is nn.ReLU


VALUES = {
    "name": ("relu_sigmoid", "ReLUSigmoid(threshold=0.0, inplace=True)"),
    "another library's name": ("gelu_new", "GELUTanh(inplace=True)"),
    "class": (fusedact.ELU, "ELU(alpha=1.0, inplace=True)"),
    "class of torch": (nn.SiLU, "SiLU()"),
    "instance": (fusedact.ELU(0.3), "ELU(alpha=0.3)"),
    "partial": (partial(fusedact.ELU, alpha=0.2), "ELU(alpha=0.2)"),
    "function": (FF.silu, "SiLU(inplace=True)"),
    "function of torch": (F.silu, "SiLU(inplace=True)"),
    "own": (bent, "Bent(a=0.5, inplace=True)"),
    "own's module": (bent.module(a=0.1), "Bent(a=0.1)"),
    "factory": (lambda: fusedact.Snake(2.0), "Snake(alpha=2.0)"),
    "factory of the old": (lambda old: fusedact.Snake(2.0 if old.inplace else 1.0), "Snake(alpha=2.0)"),
    "table": (fusedact.PWL([0.0, 1.0], [0.0, 1.0]), None),
    "learned": ("prelu", "PReLU(num_parameters=1)"),
    "container": (nn.Sequential(nn.Linear(6, 6), nn.Tanh()), None),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case):
    value, shown = VALUES[case]
    model = network(nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    fusedact.convert(model, {nn.ReLU: value})
    assert model[1] is not model[3] and type(model[1]) is type(model[3])
    assert shown is None or repr(model[1]) == shown
    model(torch.randn(3, 6)).sum().backward()
    if isinstance(value, nn.Module):
        assert model[1] is not value and not {id(p) for p in value.parameters()} & {id(p) for p in model.parameters()}


def test_keys_that_match_nothing():
    report = fusedact.convert(network(nn.ReLU()), {nn.GELU: "mish", "layers.9": "mish", "*.act": None, F.elu: "mish"})
    assert lines(report) == [
        "fusedact.convert: 0 places converted",
        "warning: the key nn.GELU matches nothing",
        "warning: the key 'layers.9' matches nothing",
        "warning: the key '*.act' matches nothing",
        "warning: the key F.elu matches nothing",
        "warning: not in the mapping, and left: 1 nn.ReLU",
    ]


# ----- learning


def test_learnable():
    model = network(nn.ELU(0.5, inplace=True), nn.ReLU(), nn.LeakyReLU(0.2)).to(torch.bfloat16)
    report = fusedact.convert(model, learnable=True)
    assert lines(report)[1:] == [
        "1 nn.ELU(alpha=0.5, inplace=True) -> fusedact.ELU(alpha=learnable) (no longer in place)",
        "3 nn.ReLU() -> fusedact.ReLU() (nothing in it learns)",
        "5 nn.LeakyReLU(negative_slope=0.2) -> fusedact.LeakyReLU(negative_slope=learnable)",
        "warning: 2 new parameters are in no optimizer yet: give optimizer=, or make it after this call",
    ]
    assert model[1].alpha.dtype == torch.bfloat16 and model[1].alpha.item() == 0.5
    assert not fusedact.convert(model, learnable=True).changes
    report.revert()
    assert not [n for n, _ in model.named_parameters() if "alpha" in n]
    fusedact.convert(model)
    # What is converted already may begin to learn.
    assert [c.place for c in fusedact.convert(model, learnable="alpha").changes] == ["1"]
    assert isinstance(model[1].alpha, nn.Parameter) and model[1].alpha.item() == 0.5
    with pytest.raises(ValueError, match="learnable names 'alhpa', which none of the activations here has"):
        fusedact.convert(model, learnable="alhpa")


def test_learnable_others():
    model = network(nn.ReLU(), nn.GELU())
    fusedact.convert(model, {nn.ReLU: bent, nn.GELU: "swish"}, learnable=("a", "beta"))
    assert repr(model[1]) == "Bent(a=learnable)" and repr(model[3]) == "Swish(beta=learnable)"


@pytest.mark.parametrize("named", [False, True])
def test_optimizer(named):
    model = network(nn.PReLU(), nn.ELU())
    given = model.named_parameters() if named else model.parameters()
    optimizer = torch.optim.AdamW(given, lr=0.02, weight_decay=0.1)
    x = torch.randn(5, 6)

    def step():
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    slope = model[1].weight
    state = copy.deepcopy(optimizer.state[slope])
    report = fusedact.convert(model, {nn.PReLU: "relu", nn.ELU: "twin"}, learnable=True, optimizer=optimizer)
    first, second = optimizer.param_groups
    assert slope not in optimizer.state and not any(p is slope for p in first["params"])
    assert second["params"] == [model[3].alpha] and (second["lr"], second["weight_decay"]) == (0.02, 0.0)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert not report.warnings
    step()
    assert model[3].alpha.item() != 1.0
    optimizer.load_state_dict(optimizer.state_dict())
    report.revert()
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert model[1].weight is slope and torch.equal(optimizer.state[slope]["exp_avg"], state["exp_avg"])
    step()


# ----- verification


def test_verify_takes_what_models_take_and_give():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.drop = nn.SiLU(inplace=True), nn.Dropout(0.5)

        def forward(self, a, b=None):
            return {"sum": [self.act(a) + (0 if b is None else b)], "drop": (self.drop(a), None)}

    a, b = torch.randn(3), torch.randn(3)
    kept = a.clone()
    for example in (a, (a, b), [a], {"a": a, "b": b}):
        model = Two()
        state = torch.get_rng_state()
        report = fusedact.convert(model, verify=example)
        assert report.difference <= 1e-6 and model.training and model.drop.training
        assert torch.equal(torch.get_rng_state(), state) and torch.equal(a, kept)
        assert "verified: outputs differ by 0.0e+00 of the largest" in lines(report)


def test_verify_fails():
    class Sly(nn.Module):
        """Its output tells what class its activation has."""

        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            y = self.act(x)
            return {"y": [y if type(self.act) is nn.Tanh else y * 1.01]}

    model = Sly()
    with pytest.raises(
        ValueError, match=r"verify: the output\['y'\]\[0\] differs by 1.0e-02 of .*, where twins may by 1e-04; ev"
    ):
        fusedact.convert(model, verify=torch.randn(3))
    assert type(model.act) is nn.Tanh
    # What was asked for to be another function is no error.
    report = fusedact.convert(model, {nn.Tanh: "sigmoid"}, verify=torch.randn(3))
    assert report.difference > 0.01
    report.revert()
    fusedact.convert(model)


def test_an_error_puts_everything_back():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            if type(self.act) is not nn.Tanh:
                raise RuntimeError("on purpose")
            return self.act(x)

    model = Broken()
    with pytest.raises(RuntimeError, match="on purpose"):
        fusedact.convert(model, verify=torch.randn(3))
    assert type(model.act) is nn.Tanh


# ----- refusals


class MyReLU(nn.ReLU):
    def forward(self, input):
        return super().forward(input) * 2


class LazyAct(nn.modules.lazy.LazyModuleMixin, nn.PReLU):
    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.UninitializedParameter()

    def initialize_parameters(self, x):
        self.weight.materialize((1,))


def parametrized():
    act = nn.PReLU()
    parametrize.register_parametrization(act, "weight", nn.Softplus())
    return act


def normed():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return weight_norm(nn.PReLU(4))


def patched():
    act = nn.ReLU()
    act.forward = lambda x: x
    return act


def with_attributes(act, **attributes):
    for name, value in attributes.items():
        setattr(act, name, value)
    return act


def graph():
    return torch.fx.symbolic_trace(network(nn.Identity()))


REFUSALS = {
    "derived": (MyReLU, "MyReLU()", "a class of its own, derived from nn.ReLU: name it in the mapping if its forward"),
    "parametrized": (parametrized, "ParametrizedPReLU(...)", "parametrized: its weight is computed anew at each call"),
    "weight norm": (normed, "nn.PReLU(num_parameters=4)", "its weight is computed by another module's hook"),
    "patched": (patched, "nn.ReLU()", "its forward was replaced by another function"),
    "lazy": (LazyAct, "LazyAct(...)", "not initialised yet: call the model once before"),
    "quantized": (lambda: torch.ao.nn.quantized.ReLU6(), "nn.ReLU6()", "quantized: its numbers are not those"),
    "fused": (
        lambda: torch.ao.nn.intrinsic.LinearReLU(nn.Linear(2, 2), nn.ReLU()),
        "nn.LinearReLU(...)",
        "fused for quantization: its numbers",
    ),
    "a tensor": (
        lambda: with_attributes(nn.ELU(), alpha=torch.ones(())),
        "nn.ELU(alpha=1.0)",
        "its alpha is a tensor, where the twin takes a number",
    ),
    "other parameters": (
        lambda: with_attributes(nn.ReLU(), gain=nn.Parameter(torch.ones(1))),
        "nn.ReLU()",
        "it has parameters of its own: gain",
    ),
    "other modules": (
        lambda: with_attributes(nn.ReLU(), norm=nn.LayerNorm(2)),
        "nn.ReLU(...)",
        "it has modules of its own: norm",
    ),
    "not served": (lambda: nn.CELU(0.0), "nn.CELU(alpha=0.0)", "fusedact.CELU: alpha must not be 0"),
    "scripted": (lambda: torch.jit.script(nn.ReLU()), "RecursiveScriptModule", "scripted or traced by torch.jit"),
    "Keras": (
        lambda: alike("keras.src.layers.activations.relu", "ReLU", lambda s, x: F.relu(x))(),
        "ReLU()",
        "a layer of Keras, which keeps its own: give the layer activation=fusedact.functional.relu, or another",
    ),
    "attention": (lambda: nn.MultiheadAttention(2, 1), "nn.MultiheadAttention(...)", "its softmax is inside PyTorch's"),
    "recurrent": (lambda: nn.GRUCell(2, 2), "nn.GRUCell(2, 2)", "its activations are inside PyTorch's recurrent"),
}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    make, what, why = REFUSALS[case]
    model = nn.ModuleDict({"inner": nn.ModuleList([nn.Tanh(), make()])})
    refused = type(model["inner"][1])
    report = fusedact.convert(model)
    assert [(e.place, e.why[: len(why)]) for e in report.left] == [("inner.1", why)]
    assert what in report.left[0].what and type(model["inner"][1]) is refused
    assert any(c.place == "inner.0" for c in report.changes)


def test_distributed(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network(nn.ReLU()))
        sharded = fully_shard(network(nn.ReLU()), mesh=init_device_mesh("cpu", (1,)))
        report = fusedact.convert(nn.Sequential(nn.ReLU(), wrapped, sharded))
    finally:
        torch.distributed.destroy_process_group()
    assert [c.place for c in report.changes] == ["0"]
    assert [(e.place, e.why.split(", which")[0]) for e in report.left] == [
        ("1", "wrapped in DistributedDataParallel"),
        ("2", "sharded by FSDP"),
    ]


def test_names_override_a_refusal_to_guess():
    """A class of its own is converted if it is named."""
    model = network(MyReLU())
    fusedact.convert(model, {MyReLU: "relu"})
    assert type(model[1]) is fusedact.ReLU
    model = network(patched())
    (left,) = fusedact.convert(model, {nn.ReLU: "mish"}).left
    assert left.why == "its forward was replaced by another function"


# ----- PyTorch's encoder layers, whose fast path has an activation of its own


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("activation", [F.relu, F.gelu, nn.ReLU(), nn.GELU(), "relu"])
def test_encoder_layers(activation):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    report = fusedact.convert(encoder, verify={"src": x, "src_key_padding_mask": mask})
    assert len(report.changes) == 2 and report.difference < 1e-6
    report.revert()
    key = "*.activation"
    report = fusedact.convert(encoder, {key: "relu_sigmoid"})
    assert len(report.changes) == 2 and not encoder.use_nested_tensor
    slow = encoder(x, src_key_padding_mask=mask)
    encoder.eval()
    with torch.no_grad():
        fast = encoder(x, src_key_padding_mask=mask)
    torch.testing.assert_close(fast[0], slow[0])
    torch.testing.assert_close(fast[1, :3], slow[1, :3])
    report.revert()
    assert encoder.use_nested_tensor and encoder.layers[0].activation_relu_or_gelu


# ----- documents


def test_the_document():
    """Its examples run, and the first prints what it says."""
    text = (benches.ROOT / "docs" / "converting.md").read_text()
    space = {"__name__": "document"}
    shown = []
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        file = f"<document {i}>"
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, file, "exec"), space)
        shown.append(space["report"])
    (printed,) = re.findall(r"```\n(fusedact.convert: .*?)\n```", text, re.DOTALL)
    assert str(shown[0]).splitlines()[:-1] == printed.splitlines()[:-1] and shown[0].difference < 1e-6
    assert [c.place for c in shown[1].changes] == ["act", "blocks.0.1", "blocks.1.1", "forward"]
    assert [e.place for e in shown[1].left] == ["blocks.2.1"]
    assert len(space["optimizer"].param_groups[1]["params"]) == 2


# ----- errors

ERRORS = {
    "model": (lambda: fusedact.convert(F.relu), TypeError, "model must be a torch.nn.Module, got function"),
    "mapping": (lambda: fusedact.convert(nn.ReLU(), "mish"), TypeError, "mapping must be a dict or None, got str"),
    "name": (lambda: fusedact.convert(nn.ReLU(), {nn.ReLU: "mesh"}), ValueError, "no activation is named 'mesh'.*mish"),
    "key": (lambda: fusedact.convert(nn.ReLU(), {3: "mish"}), TypeError, "keys must be classes of modules, .* got 3"),
    "value": (
        lambda: fusedact.convert(nn.ReLU(), {nn.ReLU: 3}),
        TypeError,
        "the value of nn.ReLU must be a name, .* got int",
    ),
    "factory": (
        lambda: fusedact.convert(nn.ReLU(), {nn.ReLU: lambda x: 3}),
        TypeError,
        "the value of nn.ReLU must make a torch.nn.Module, and made int; fusedact.activation makes",
    ),
    "module for a call": (
        lambda: fusedact.convert(nn.ReLU(), {F.relu: nn.ReLU()}),
        TypeError,
        "the value of F.relu must be a name, 'twin', or what fusedact.activation made",
    ),
    "rows for a call": (
        lambda: fusedact.convert(nn.ReLU(), {F.softmax: "relu"}),
        ValueError,
        "F.softmax .* elementwise",
    ),
    "learnable": (lambda: fusedact.convert(nn.ReLU(), learnable=3), TypeError, "learnable must be a bool, .* got int"),
    "optimizer": (lambda: fusedact.convert(nn.ReLU(), optimizer=3), TypeError, "optimizer must be a torch.optim.*int"),
    "inplace": (lambda: fusedact.convert(nn.ReLU(), inplace=1), TypeError, "inplace must be a bool, got int"),
    "copy's optimizer": (
        lambda: fusedact.convert(m := nn.PReLU(), optimizer=torch.optim.SGD(m.parameters()), inplace=False),
        ValueError,
        "optimizer holds the model's parameters, not those of a copy",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=f"fusedact.convert: .*{message}"):
        call()
