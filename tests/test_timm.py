"""Models of timm with these activations: by act_layer, by conversion, and by timm's names. No weights are loaded."""

from __future__ import annotations

import importlib
from functools import partial

import image_models
import pytest
import torch
from torch import nn

import fusedact
from fusedact.conversion import twin_modules

# With the classes that they have by default, and the size of the image.
MODELS = {
    "resnet18": 32,
    "efficientnet_b0": 32,
    "mobilenetv3_small_050": 32,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 64,
    "mixer_s32_224": 64,
}


def model_of(name, **options):
    if name.startswith(("vit", "mixer")):
        options["img_size"] = MODELS[name]
    torch.manual_seed(0)
    return image_models.timm().create_model(name, num_classes=3, **options).eval()


def image(name):
    return torch.randn(2, 3, MODELS[name], MODELS[name], generator=torch.Generator().manual_seed(1))


def derived(model, x):
    """The outputs, and the gradients of all parameters."""
    y = model(x)
    return y, torch.autograd.grad(y.square().sum(), [p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("ours, theirs", [(fusedact.SiLU, nn.SiLU), (fusedact.Mish, nn.Mish), (fusedact.ELU, nn.ELU)])
@pytest.mark.parametrize("name", MODELS)
def test_act_layer(name, ours, theirs):
    mine, their = model_of(name, act_layer=ours), model_of(name, act_layer=theirs)
    made = [m for m in mine.modules() if type(m) is ours]
    assert len(made) == sum(type(m) is theirs for m in their.modules()) > 0
    assert mine.state_dict().keys() == their.state_dict().keys()
    mine.load_state_dict(their.state_dict())
    torch.testing.assert_close(derived(mine, image(name)), derived(their, image(name)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_activations_that_learn(name):
    model = model_of(name, act_layer=partial(fusedact.Swish, learnable=True)).train()
    acts = [m for m in model.modules() if isinstance(m, fusedact.Swish)]
    model(image(name)).square().sum().backward()
    assert acts and all(m.beta.grad is not None and m.beta.grad.isfinite().all() for m in acts)


@pytest.mark.parametrize("name", MODELS)
def test_conversion(name):
    model = model_of(name)
    before = derived(model, image(name))
    report = fusedact.convert(model, verify=image(name))
    assert len(report.changes) > 0 and report.difference < 1e-4
    torch.testing.assert_close(derived(model, image(name)), before, rtol=1e-4, atol=1e-5)
    left = {
        type(m) for m in model.modules() if type(m).__module__.startswith(("torch.nn.modules.act", "timm.layers.act"))
    }
    assert not left - {nn.Dropout} and any(twin_modules.is_ours(m) for m in model.modules())


NAMES = ["silu", "swish", "mish", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "gelu_tanh"]
NAMES += ["quick_gelu", "sigmoid", "tanh", "hard_sigmoid", "hardsigmoid", "hard_swish", "hardswish", "hard_mish"]


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    """Those of timm's layers, but for prelu, which learns; each takes `inplace`."""
    theirs = image_models.timm().layers.create_act_layer(name)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        x = torch.linspace(-14, 14, 5003, dtype=dtype, requires_grad=True)
        for ours in (fusedact.create(name), fusedact.create(name, inplace=True)):
            y, expected = ours(x * 1.0), theirs(x * 1.0)
            found = [y, *torch.autograd.grad(y.sum(), x)]
            wanted = [expected, *torch.autograd.grad(expected.sum(), x)]
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("place", ["activations", "activations_me"])
def test_the_classes_that_conversion_knows(place):
    """Each of timm's own is one, but for what has no twin and what is a function's body alone."""
    image_models.timm()
    module = importlib.import_module(f"timm.layers.{place}")
    classes = {n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, nn.Module)}
    known = {n.rpartition(".")[2] for n in twin_modules._NAMED if n.startswith(f"timm.layers.{place}.")}
    assert classes and classes <= known
