"""Activations in models of transformers, in the manner of timm, in Keras and in ONNX: small models, no downloads."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fusedact
from fusedact import functional as FF
from fusedact import registry

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)

import transformers
from transformers.activations import ACT2FN

from fusedact.integrations import transformers as integration

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": 48}


def gpt2(activation):
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "tie_word_embeddings": True}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(**sizes, **dropout, **TOKENS, activation_function=activation)
    return transformers.GPT2LMHeadModel(config)


def bert(activation):
    return transformers.BertForMaskedLM(
        transformers.BertConfig(**SIZES, **NO_DROPOUT, **TOKENS, max_position_embeddings=32, hidden_act=activation)
    )


def llama(activation):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, **TOKENS, max_position_embeddings=32, hidden_act=activation)
    )


def vit(activation):
    images = {"image_size": 8, "patch_size": 4, "num_labels": 5}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**SIZES, **NO_DROPOUT, **images, hidden_act=activation)
    )


MODELS = {"gpt2": gpt2, "bert": bert, "llama": llama, "vit": vit}


def made(model, activation):
    torch.manual_seed(7)
    return MODELS[model](activation).train()


def inputs(model):
    torch.manual_seed(8)
    if model == "vit":
        return {"pixel_values": torch.randn(3, 3, 8, 8), "labels": torch.tensor([0, 3, 4])}
    tokens = torch.randint(1, 48, (3, 16))
    return {"input_ids": tokens, "labels": tokens}


def derived(net, given):
    """Loss, logits and the gradients of all parameters."""
    found = net(**given)
    found.loss.backward()
    return {"loss": found.loss, "logits": found.logits, **{n: p.grad for n, p in net.named_parameters()}}


def held():
    """What stands in ACT2FN; its lookup makes modules."""
    return dict(ACT2FN.items())


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """What a test registers is gone after it."""
    before = held()
    yield
    ACT2FN.clear()
    ACT2FN.update(before)


# ----- transformers: the same maths by another name

SAME = {
    "gelu": "gelu",
    "silu": "silu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "mish": "mish",
    "relu2": "relu_squared",
}


@pytest.mark.parametrize("theirs", SAME)
@pytest.mark.parametrize("model", MODELS)
def test_the_same_activation(model, theirs):
    integration.register({"ours": SAME[theirs]})
    expected, found = (derived(made(model, name), inputs(model)) for name in (theirs, "ours"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("theirs", ["gelu", "silu", "quick_gelu"])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_same_activation_in_bfloat16(model, theirs):
    """As far from the model in float32 as theirs is."""
    integration.register({"ours": SAME[theirs]})
    truth = derived(made(model, theirs), inputs(model))
    expected, found = (derived(made(model, name).bfloat16(), inputs(model)) for name in (theirs, "ours"))
    for name, value in truth.items():
        theirs_apart, ours_apart = ((t[name].float() - value).norm() for t in (expected, found))
        assert ours_apart <= 1.5 * theirs_apart + 2.0**-9 * value.norm(), name


@pytest.mark.parametrize("name", sorted(set(ACT2FN) & {*registry.names("elementwise"), *registry.aliases()}))
def test_names_that_both_have(name):
    """override=True replaces what has the same values and slopes, and no other."""
    theirs = ACT2FN[name].float()
    replaced = integration.register(override=True)
    assert name in replaced
    ours = ACT2FN[name]
    assert type(ours).__module__.startswith("fusedact")
    # Theirs may begin with numbers in bfloat16.
    ours.load_state_dict(theirs.state_dict())
    x = torch.linspace(-12, 12, 4001)
    results = []
    for act in (theirs, ours):
        leaf = x.clone().requires_grad_()
        y = act(leaf)
        results.append((y, *torch.autograd.grad(y.sum(), leaf)))
    torch.testing.assert_close(*results, rtol=2e-5, atol=4e-6)


# ----- transformers: what they lack


def test_all_names():
    before = set(ACT2FN)
    found = integration.register()
    every = {n for n in (*registry.names("elementwise"), *registry.aliases()) if registry.get(n).kind == "elementwise"}
    assert set(found) == every - before and {"relu_sigmoid", "snake", "elu", "hardsigmoid"} <= set(found)
    assert set(ACT2FN) == before | every
    # Twice is as once.
    assert integration.register() == found
    # The same module as by name, and another for each layer.
    net = made("llama", "relu_sigmoid")
    acts = [layer.mlp.act_fn for layer in net.model.layers]
    assert all(type(act) is fusedact.ReLUSigmoid for act in acts) and acts[0] is not acts[1]


@fusedact.activation
def bump(x, a=0.5):
    """A wave under a bell."""
    return torch.sin(x) * torch.exp(-a * x * x)


def sharpened(power=2.0):
    return fusedact.Swish(beta=power)


GIVEN = {
    "a name": ("snake", {"snake": fusedact.Snake}),
    "one's own": (bump, {"bump": bump.module}),
    "names": ({"one": "elu", "two": bump}, {"one": fusedact.ELU, "two": bump.module}),
    "with arguments": ({"act": ("prelu", {"num_parameters": 4})}, {"act": (fusedact.PReLU, {"num_parameters": 4})}),
    "a class": ({"act": fusedact.TeLU}, {"act": fusedact.TeLU}),
    "a function that makes modules": ({"act": sharpened}, {"act": sharpened}),
    "a function with arguments": ({"act": (sharpened, {"power": 3.0})}, {"act": (sharpened, {"power": 3.0})}),
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_may_be_registered(case):
    given, expected = GIVEN[case]
    assert integration.register(given) == expected
    for name, entry in expected.items():
        module = ACT2FN[name]
        kind, arguments = entry if isinstance(entry, tuple) else (entry, {})
        assert repr(module) == repr(kind(**arguments))


WRONG = {
    "a taken name": ("gelu", ValueError, "transformers has 'gelu' already; take another name, or override=True"),
    "an unknown one": ("relu_sigmiod", ValueError, "did you mean 'relu_sigmoid'"),
    "a number": (3, TypeError, "activations must be None, a name, what fusedact.activation made or a dict of them"),
    "a number's name": ({3: "elu"}, TypeError, "names must be strings, got int"),
    "a module": ({"act": fusedact.ELU()}, TypeError, "what makes a module for each layer, got ELU"),
    "arguments": ({"act": ("elu", {"beta": 2.0})}, ValueError, "'act' cannot be made with {'beta': 2.0}: fusedact.ELU"),
    "what makes none": ({"act": float}, TypeError, "'act' must make modules, got a function that makes float"),
    "no pair": ({"act": ("elu", 2.0)}, TypeError, "must be an activation, or a pair of it and a dict of arguments"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_may_not(case):
    given, error, words = WRONG[case]
    before = held()
    with pytest.raises(error) as raised:
        integration.register({"fine": "telu", **given} if isinstance(given, dict) else given)
    assert words in str(raised.value)
    assert str(raised.value).startswith("fusedact.integrations.transformers.register: ")
    assert held() == before


def test_a_taken_name_can_be_replaced():
    assert integration.register("gelu", override=True) == {"gelu": fusedact.GELU}
    assert type(made("bert", "gelu").bert.encoder.layer[0].intermediate.intermediate_act_fn) is fusedact.GELU


ENTRIES = {
    "relu_sigmoid": "relu_sigmoid",
    "learned": ("relu_sigmoid", {"threshold": 0.1, "learnable": True}),
    "per channel": ("prelu", {"num_parameters": 64, "channel_dim": -1}),
    "one's own": (bump, {"learnable": True}),
    "a table": (partial(fusedact.PWL.from_function, "gelu", -4.0, 4.0, 17), {"learnable": True}),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("model", ["llama", "vit"])
def test_training(model, entry):
    integration.register({"act": ENTRIES[entry]})
    net, given = made(model, "act"), inputs(model)
    learned = [p for m in net.modules() if getattr(m, "spec", None) for p in m.parameters(recurse=False)]
    assert len(learned) == (0 if entry == "relu_sigmoid" else 2)
    before = [p.detach().clone() for p in learned]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = net(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, learned, strict=True))


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_generation(model):
    """Of the cached steps and of the whole sequence, the same tokens."""
    integration.register({"act": "relu_sigmoid"})
    net = made(model, "act").eval()
    start = inputs(model)["input_ids"][:, :4]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = net.generate(start, attention_mask=torch.ones_like(start), **options)
    assert found.shape == (3, 10)
    assert torch.equal(found, net.generate(start, attention_mask=torch.ones_like(start), use_cache=False, **options))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("entry", ["relu_sigmoid", "learned", "a table"])
def test_gradient_checkpointing(entry, reentrant):
    integration.register({"act": ENTRIES[entry]})
    expected = derived(made("llama", "act"), inputs("llama"))
    net = made("llama", "act")
    net.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert net.is_activation_checkpointing
    found = derived(net, inputs("llama"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_compile():
    integration.register({"act": ENTRIES["learned"]})
    torch.compiler.reset()
    net = made("llama", "act")
    expected = derived(made("llama", "act"), inputs("llama"))
    found = torch.compile(net, backend="aot_eager", fullgraph=True)(**inputs("llama"))
    found.loss.backward()
    torch.testing.assert_close(found.loss, expected["loss"])
    torch.testing.assert_close(
        net.model.layers[0].mlp.act_fn.threshold.grad, expected["model.layers.0.mlp.act_fn.threshold"]
    )


def test_saving_and_loading(tmp_path):
    integration.register({"act": ENTRIES["learned"]})
    net = made("llama", "act")
    with torch.no_grad():
        net.model.layers[1].mlp.act_fn.threshold.fill_(0.7)
    net.save_pretrained(tmp_path)
    loaded, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.config.hidden_act == "act" and not info["missing_keys"]
    assert loaded.model.layers[1].mlp.act_fn.threshold.item() == pytest.approx(0.7)
    given = inputs("llama")
    torch.testing.assert_close(loaded(**given).logits, net.eval()(**given).logits)


NEW = {**ENTRIES, "two": ("xielu", {}), "a fixed table": partial(fusedact.PWL.from_function, "tanh", -3.0, 3.0, 9)}


@pytest.mark.parametrize("entry", [name for name in NEW if name != "relu_sigmoid"])
def test_a_pretrained_model_gets_another_activation(entry, tmp_path):
    """Memory that nobody wrote becomes what the activation begins with."""
    made("llama", "silu").save_pretrained(tmp_path)
    integration.register({"act": NEW[entry]})
    net, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path, hidden_act="act", output_loading_info=True)
    missing = info["missing_keys"]
    with torch.no_grad():
        for name, t in net.state_dict(keep_vars=True).items():
            if name in missing:
                t.fill_(math.nan)
    assert integration.initialize(net, missing) == sorted(missing, key=lambda n: (n.split(".")[2], n))
    fresh = ACT2FN["act"]
    for layer in net.model.layers:
        torch.testing.assert_close(layer.mlp.act_fn.state_dict(), fresh.state_dict())
    assert net(**inputs("llama")).loss.isfinite()


def test_only_what_is_missing_is_initialized():
    net = nn.ModuleList([fusedact.XIELU(), nn.PReLU()])
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(9.0)
    assert integration.initialize(net, ["0.alpha_p", "1.weight", "2.weight"]) == ["0.alpha_p"]
    assert (net[0].alpha_n.item(), net[1].weight.item()) == (9.0, 9.0)
    assert net[0].alpha_p.item() == fusedact.XIELU().alpha_p.item()


def test_fifty_steps_on_text():
    """By its name and by conversion: the same losses."""
    found = {}
    for by in ("name", "convert"):
        script = Path(__file__).parent.parent / "examples" / "text.py"
        command = [sys.executable, str(script), "--by", by]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **OFFLINE})
        assert done.returncode == 0, done.stderr
        assert "\nReLUSigmoid(threshold=0.0)\n" in done.stdout and "\nReturn " in done.stdout
        assert ("fusedact.convert: 2 places converted" in done.stdout) == (by == "convert")
        found[by] = [float(n) for n in re.findall(r"^step +\d+: loss ([\d.]+)$", done.stdout, re.MULTILINE)]
    # From guessing among 95 characters to less than the 3.27 that their frequencies alone give.
    assert len(found["name"]) == 6 and found["name"][0] > 4.4 and found["name"][-1] < 3.2
    assert found["name"] == found["convert"]


# ----- timm gives a class to its models as act_layer, and calls it as act_layer(inplace=...) or act_layer()


class Block(nn.Module):
    """A convolution, a norm and an activation, in the manner of timm's ConvNormAct, and its factory of layers."""

    def __init__(self, channels, act_layer, act_kwargs=None, inplace=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels)
        keywords = {**(act_kwargs or {}), **({} if inplace is None else {"inplace": inplace})}
        # timm tries again without inplace after a TypeError; what it catches is not to be needed.
        self.act = act_layer(**keywords)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


@pytest.mark.parametrize("inplace", [None, False, True])
@pytest.mark.parametrize("name", [n for n in registry.names("elementwise") if not registry.get(n).always_learned])
def test_act_layer(name, inplace):
    spec = registry.get(name)
    needed = {p.name: 0.5 for p in spec.parameters if p.required_by_module}
    torch.manual_seed(3)
    block = Block(4, getattr(fusedact, spec.module), needed, inplace)
    x = torch.randn(2, 3, 6, 6)
    y = block(x)
    y.square().sum().backward()
    assert y.shape == (2, 4, 4, 4) and block.conv.weight.grad.isfinite().all()
    torch.testing.assert_close(y, FF.activate(block.norm(block.conv(x)), name, **needed))


def test_act_layer_with_arguments():
    block = Block(4, fusedact.LeakyReLU, {"negative_slope": 0.3}, True)
    assert repr(block.act) == "LeakyReLU(negative_slope=0.3, inplace=True)"
    assert Block(4, partial(fusedact.ReLUSigmoid, learnable=True)).act.threshold.requires_grad


# ----- Keras: in a process of its own, as it reads its settings from a file on import

KERAS = """
import sys, numpy as np, torch, keras, fusedact
import fusedact.functional as FF
from fusedact.integrations import keras as integration

@fusedact.activation
def bump(x, a=0.5):
    return torch.sin(x) * torch.exp(-a * x * x)

keras.utils.set_random_seed(1)
path = sys.argv[1]
registered = integration.register(FF.mish, "relu_sigmoid", bump)
assert list(registered) == ["fusedact>mish", "fusedact>relu_sigmoid", "fusedact>bump"]
assert registered == integration.register("mish", FF.relu_sigmoid, bump)
own = registered["fusedact>bump"]
assert keras.activations.get(FF.mish) is FF.mish
assert keras.saving.get_registered_object("fusedact>relu_sigmoid") is FF.relu_sigmoid
with keras.device("cpu"):
    layers = [keras.layers.Dense(16, activation=FF.mish), keras.layers.Dense(16, activation=FF.relu_sigmoid)]
    layers += [keras.layers.Activation(own), keras.layers.Dense(1, activation=FF.telu)]
    model = keras.Sequential([keras.layers.Input((4,)), *layers])
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = x[:, :1] * x[:, 1:2]
    hidden = x @ layers[0].kernel.numpy() + layers[0].bias.numpy()
    first = keras.Sequential([keras.layers.Input((4,)), layers[0]]).predict(x, verbose=0)
    np.testing.assert_allclose(first, torch.nn.functional.mish(torch.tensor(hidden)).numpy(), rtol=1e-4, atol=1e-5)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse")
    losses = model.fit(x, y, epochs=20, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0], losses
    # The shape of what nobody has computed yet.
    assert keras.layers.Dense(3, activation=FF.snake)(keras.KerasTensor((None, 5))).shape == (None, 3)
    integration.register("telu")
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.layers[0].activation is FF.mish and loaded.layers[2].activation is own
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))

def refused(error, words, *given):
    try:
        integration.register(*given)
    except error as raised:
        assert words in str(raised), raised
    else:
        raise AssertionError(words)

refused(TypeError, "activations must be names, functions of fusedact.functional", torch.relu)
refused(TypeError, "got ELU", fusedact.ELU())
refused(ValueError, "did you mean 'mish'", "mich")
mine = FF.mish

@fusedact.activation
def mish(x):
    return x * torch.tanh(x)

refused(ValueError, "'fusedact>mish' is registered for fusedact.functional.mish", mish)
assert len(integration.register()) > 30
keras.config.backend = lambda: "jax"
refused(RuntimeError, "set KERAS_BACKEND=torch before importing it", "mish")
"""


def test_keras(tmp_path):
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(KERAS), str(tmp_path / "model.keras")]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ----- ONNX, by the exporter that takes what torch.export gives


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.acts = nn.ModuleList(
            [fusedact.ReLUSigmoid(0.1, True, 6), fusedact.Mish(), fusedact.XIELU(), fusedact.SiLU()]
        )
        self.table = fusedact.PWL.from_function("tanh", -3.0, 3.0, 9).to_torch()

    def forward(self, x):
        x = self.acts[1](self.acts[0](self.first(x)))
        return self.table(self.acts[3](self.acts[2](self.second(x)))) + bump(x, 0.7)


@pytest.mark.filterwarnings("ignore")
def test_onnx():
    """What is exported has ONNX's operators alone, and computes the same."""
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed")
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(5)
    net, x = Net().eval(), torch.randn(3, 4)
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("n")},))
    proto = program.model_proto
    assert {node.domain for node in proto.graph.node} <= {"", "pkg.onnxscript.torch_lib.common"}
    for given in (x, torch.randn(7, 4)):
        (found,) = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: given.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), net(given).detach(), rtol=1e-5, atol=1e-6)
