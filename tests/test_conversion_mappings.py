"""Mappings for conversions, parameters that learn, verification, refusals, errors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import partial

import pytest
import torch
from converted import Odd, alike, bent, lines, network
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils import parametrize, weight_norm

import fusedact
from fusedact import functional as FF

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


def test_what_has_no_twin():
    report = fusedact.convert(nn.Sequential(Odd(), nn.ReLU()), {"0": "twin", "1": "twin"})
    assert lines(report)[1:] == [
        "1 nn.ReLU() -> fusedact.ReLU()",
        "left as they are:",
        "0 Odd() : it is no activation that has a twin",
    ]


def test_modules_are_moved_to_their_place():
    model = network(nn.ReLU(), nn.GELU()).to("meta")
    learned = fusedact.Swish(learnable=True)
    fusedact.convert(model, {nn.ReLU: learned, nn.GELU: lambda: fusedact.PReLU()})
    assert {p.device.type for p in model.parameters()} == {"meta"} and learned.beta.is_cpu


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


def test_what_is_ours_begins_to_learn():
    model = network(bent.module(a=0.3), fusedact.ELU(0.5, save="output"))
    report = fusedact.convert(model, learnable=True)
    assert [c.becomes for c in report.changes] == ["Bent(a=learnable)", "fusedact.ELU(alpha=learnable, save='output')"]
    assert model[1].a.item() == pytest.approx(0.3) and not fusedact.convert(model, learnable=True).changes


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
    "other checkpoints": (
        lambda: alike("transformers.activations", "XIELUActivation", lambda s, x: x)(),
        "XIELUActivation()",
        "its checkpoints hold beta and eps, which are numbers in the twin's: name it in the mapping",
    ),
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
