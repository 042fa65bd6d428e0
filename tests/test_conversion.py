"""Conversion of modules to their twins: what becomes what, what stays, and the way back."""

from __future__ import annotations

import copy
import io
import pickle

import benches
import pages
import pytest
import torch
from converted import alike, bent, lines, network
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF
from fusedact.conversion import twin_modules

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
    """The mapping that it shows does what it says."""
    names = pages.run(benches.ROOT / "docs" / "converting.md")
    assert [c.place for c in names["report"].changes] == ["act", "blocks.0.1", "blocks.1.1", "forward"]
    assert [e.place for e in names["report"].left] == ["blocks.2.1"]
    assert len(names["optimizer"].param_groups[1]["params"]) == 2
