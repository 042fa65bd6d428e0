"""Bad input, and the whole message that it gets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fusedact
from fusedact import compat, registry
from fusedact import functional as FF

x = torch.randn(4)
NUMBER = "a number or a tensor"
FLOATS = "float16, bfloat16, float32 or float64"
KNOWN = ", ".join(fusedact.names())

CASES = {
    "integers": (
        lambda: FF.relu_sigmoid(torch.arange(3)),
        TypeError,
        f"fusedact.functional.relu_sigmoid: x must have dtype {FLOATS}, got int64",
    ),
    "booleans": (
        lambda: FF.elu(torch.ones(2, dtype=torch.bool)),
        TypeError,
        f"fusedact.functional.elu: input must have dtype {FLOATS}, got bool",
    ),
    "complex": (
        lambda: FF.selu(torch.ones(2, dtype=torch.complex64)),
        TypeError,
        f"fusedact.functional.selu: input must have dtype {FLOATS}, got complex64",
    ),
    "float8": (
        lambda: FF.selu(torch.ones(2).to(torch.float8_e4m3fn)),
        TypeError,
        f"fusedact.functional.selu: input must have dtype {FLOATS}, got float8_e4m3fn",
    ),
    "no kind of activations": (
        lambda: fusedact.names("elementwse"),
        ValueError,
        "fusedact.names: kind must be None, 'elementwise' or 'piecewise' or 'rowwise' or 'random' or 'gated', "
        "got 'elementwse'",
    ),
    "no tensor": (
        lambda: FF.relu_sigmoid([1.0]),
        TypeError,
        "fusedact.functional.relu_sigmoid: x must be a torch.Tensor, got list",
    ),
    "wide parameter": (
        lambda: FF.relu_sigmoid(x, torch.ones(3)),
        ValueError,
        "fusedact.functional.relu_sigmoid: threshold has 3 entries, one per channel, but x of shape (4,) has no "
        "dimension channel_dim=1",
    ),
    "integer parameter": (
        lambda: FF.elu(x, torch.tensor(1)),
        TypeError,
        f"fusedact.functional.elu: alpha must have dtype {FLOATS}, got int64",
    ),
    "text parameter": (
        lambda: FF.elu(x, "1"),
        TypeError,
        f"fusedact.functional.elu: alpha must be {NUMBER}, got str",
    ),
    "boolean parameter": (
        lambda: FF.elu(x, True),
        TypeError,
        f"fusedact.functional.elu: alpha must be {NUMBER}, got bool",
    ),
    "no parameter": (
        lambda: FF.elu(x, None),
        TypeError,
        f"fusedact.functional.elu: alpha must be {NUMBER}, got NoneType",
    ),
    "complex parameter": (
        lambda: FF.relu_sigmoid(x, 1j),
        TypeError,
        f"fusedact.functional.relu_sigmoid: threshold must be {NUMBER}, got complex",
    ),
    "parameter elsewhere": (
        lambda: FF.relu_sigmoid(x, torch.ones((), device="meta")),
        ValueError,
        "fusedact.functional.relu_sigmoid: threshold must be on the device of x, cpu, got a tensor on meta",
    ),
    "channels that do not fit": (
        lambda: FF.swish(torch.randn(2, 4), torch.ones(3)),
        ValueError,
        "fusedact.functional.swish: beta must be a number or a tensor of shape (), (1,) or (C,) with C the size of x "
        "in dimension channel_dim=1; got shape (3,), where x has (2, 4)",
    ),
    "channels along another dimension": (
        lambda: FF.prelu(torch.randn(2, 3, 4), torch.ones(3), channel_dim=-1),
        ValueError,
        "fusedact.functional.prelu: weight must be a number or a tensor of shape (), (1,) or (C,) with C the size of "
        "input in dimension channel_dim=-1; got shape (3,), where input has (2, 3, 4)",
    ),
    "no such dimension": (
        lambda: FF.elu(torch.randn(2, 3), torch.ones(3), channel_dim=2),
        ValueError,
        "fusedact.functional.elu: alpha has 3 entries, one per channel, but input of shape (2, 3) has no dimension "
        "channel_dim=2",
    ),
    "dimension of another type": (
        lambda: FF.elu(torch.randn(2, 3), torch.ones(3), channel_dim=1.0),
        TypeError,
        "fusedact.functional.elu: channel_dim must be an int, got float",
    ),
    "dimension of another type, and nothing to count": (
        lambda: FF.relu_sigmoid(x, 0.1, channel_dim=True),
        TypeError,
        "fusedact.functional.relu_sigmoid: channel_dim must be an int, got bool",
    ),
    "parameter of two dimensions": (
        lambda: FF.relu_sigmoid(torch.randn(2, 3), torch.ones(1, 3)),
        ValueError,
        "fusedact.functional.relu_sigmoid: threshold must be a number or a tensor of shape (), (1,) or (C,), got shape "
        "(1, 3)",
    ),
    "integer weight": (
        lambda: FF.prelu(x, torch.tensor([1])),
        TypeError,
        f"fusedact.functional.prelu: weight must have dtype {FLOATS}, got int64",
    ),
    "no weight": (
        lambda: FF.prelu(x),
        TypeError,
        "prelu() missing 1 required positional argument: 'weight'",
    ),
    "channels elsewhere": (
        lambda: FF.prelu(torch.randn(2, 3), torch.ones(3, device="meta")),
        ValueError,
        "fusedact.functional.prelu: weight must be on the device of input, cpu, got a tensor on meta",
    ),
    "no dimension from the last": (
        lambda: FF.elu(torch.randn(2, 3), torch.ones(3), channel_dim=-3),
        ValueError,
        "fusedact.functional.elu: alpha has 3 entries, one per channel, but input of shape (2, 3) has no dimension "
        "channel_dim=-3",
    ),
    "channels of a scalar": (
        lambda: FF.swish(torch.tensor(1.0), torch.ones(2)),
        ValueError,
        "fusedact.functional.swish: beta has 2 entries, one per channel, but x of shape () has no dimension "
        "channel_dim=1",
    ),
    "no channels": (
        lambda: FF.swish(torch.randn(2, 3), torch.ones(0)),
        ValueError,
        "fusedact.functional.swish: beta must be a number or a tensor of shape (), (1,) or (C,) with C the size of x "
        "in dimension channel_dim=1; got shape (0,), where x has (2, 3)",
    ),
    "channels that broadcast": (
        lambda: FF.swish(torch.randn(2, 1), torch.ones(3)),
        ValueError,
        "fusedact.functional.swish: beta must be a number or a tensor of shape (), (1,) or (C,) with C the size of x "
        "in dimension channel_dim=1; got shape (3,), where x has (2, 1)",
    ),
    "dimension that is a truth value": (
        lambda: FF.swish(torch.randn(2, 3), torch.ones(3), channel_dim=True),
        TypeError,
        "fusedact.functional.swish: channel_dim must be an int, got bool",
    ),
    "no weight by name": (
        lambda: FF.activate(x, "prelu"),
        TypeError,
        "prelu() missing 1 required positional argument: 'weight'",
    ),
    "text weight": (
        lambda: FF.prelu(x, "0.25"),
        TypeError,
        f"fusedact.functional.prelu: weight must be {NUMBER}, got str",
    ),
    "channels that do not fit a module": (
        lambda: fusedact.PReLU(3)(torch.randn(2, 4)),
        ValueError,
        "fusedact.functional.prelu: weight must be a number or a tensor of shape (), (1,) or (C,) with C the size of "
        "input in dimension channel_dim=1; got shape (3,), where input has (2, 4)",
    ),
    "explaining channels that do not fit": (
        lambda: fusedact.explain(fusedact.PReLU(3), torch.randn(2, 4)),
        ValueError,
        "fusedact.functional.prelu: weight must be a number or a tensor of shape (), (1,) or (C,) with C the size of "
        "input in dimension channel_dim=1; got shape (3,), where input has (2, 4)",
    ),
    "no entries of a learnable": (
        lambda: fusedact.Activation("swish", learnable=True, num_parameters=0),
        ValueError,
        "fusedact.Activation: num_parameters must be at least 1, got 0",
    ),
    "entries that are a truth value": (
        lambda: fusedact.PReLU(True),
        TypeError,
        "fusedact.PReLU: num_parameters must be an int, got bool",
    ),
    "no bounds of a learnable": (
        lambda: fusedact.Swish(learnable=True, bounds=(0.5, 0.5)),
        ValueError,
        "fusedact.Swish: bounds must be (low, high) with low < high, got (0.5, 0.5)",
    ),
    "bounds that are no numbers": (
        lambda: fusedact.PReLU(bounds=(float("nan"), 1.0)),
        ValueError,
        "fusedact.PReLU: bounds must be (low, high) with low < high, got (nan, 1.0)",
    ),
    "three bounds": (
        lambda: fusedact.PReLU(bounds=(0.0, 0.5, 1.0)),
        TypeError,
        "fusedact.PReLU: bounds must be a pair (low, high), got (0.0, 0.5, 1.0)",
    ),
    "bounds of what does not learn": (
        lambda: fusedact.ELU(bounds={"alpha": (0.0, 2.0)}),
        ValueError,
        "fusedact.ELU: bounds names 'alpha'; learnable is none",
    ),
    "beginning above a bound": (
        lambda: fusedact.PReLU(init=0.5, bounds=(None, 0.25)),
        ValueError,
        "fusedact.PReLU: weight begins with 0.5, outside its bounds (None, 0.25)",
    ),
    "beginning with text": (
        lambda: fusedact.PReLU(init="0.25"),
        TypeError,
        "fusedact.PReLU: init must be a number, got str",
    ),
    "learnable PReLU": (
        lambda: fusedact.PReLU(learnable=True),
        TypeError,
        "fusedact.PReLU: got an unexpected keyword argument 'learnable'",
    ),
    "no entries": (
        lambda: fusedact.PReLU(0),
        ValueError,
        "fusedact.PReLU: num_parameters must be at least 1, got 0",
    ),
    "entries of another type": (
        lambda: fusedact.PReLU(2.0),
        TypeError,
        "fusedact.PReLU: num_parameters must be an int, got float",
    ),
    "entries of nothing": (
        lambda: fusedact.Swish(num_parameters=3),
        ValueError,
        "fusedact.Swish: num_parameters must be 1, since no parameter is learnable, got 3",
    ),
    "a module's dimension of another type": (
        lambda: fusedact.PReLU(2, channel_dim="last"),
        TypeError,
        "fusedact.PReLU: channel_dim must be an int, got str",
    ),
    "bounds in the wrong order": (
        lambda: fusedact.PReLU(bounds=(1.0, 0.0)),
        ValueError,
        "fusedact.PReLU: bounds must be (low, high) with low < high, got (1.0, 0.0)",
    ),
    "no bounds at all": (
        lambda: fusedact.PReLU(bounds=(None, None)),
        ValueError,
        "fusedact.PReLU: bounds must be (low, high) with low < high, got (None, None)",
    ),
    "bounds of another type": (
        lambda: fusedact.PReLU(bounds=1.0),
        TypeError,
        "fusedact.PReLU: bounds must be a pair (low, high), got 1.0",
    ),
    "a bound of another type": (
        lambda: fusedact.PReLU(bounds=("0", 1)),
        TypeError,
        "fusedact.PReLU: bounds must be numbers or None, got str",
    ),
    "bounds of an unknown name": (
        lambda: fusedact.PReLU(bounds={"alpha": (0.0, 1.0)}),
        ValueError,
        "fusedact.PReLU: bounds names 'alpha'; learnable is weight",
    ),
    "bounds of nothing": (
        lambda: fusedact.ELU(bounds=(0.0, 1.0)),
        ValueError,
        "fusedact.ELU: bounds must be a dict by name unless one parameter is learnable, and none is",
    ),
    "beginning outside the bounds": (
        lambda: fusedact.Swish(2.0, learnable=True, bounds=(0.0, 1.0)),
        ValueError,
        "fusedact.Swish: beta begins with 2.0, outside its bounds (0.0, 1.0)",
    ),
    "near name": (
        lambda: fusedact.create("relu_sigmod"),
        ValueError,
        "fusedact.create: no activation is named 'relu_sigmod'; "
        "did you mean 'relu_sigmoid' or 'log_sigmoid' or 'hard_sigmoid'?",
    ),
    "far name": (
        lambda: FF.activate(x, "zzz"),
        ValueError,
        f"fusedact.functional.activate: no activation is named 'zzz'; known are {KNOWN}",
    ),
    "name of another type": (
        lambda: fusedact.Activation(3),
        TypeError,
        "fusedact.Activation: the activation's name must be a string, got int",
    ),
    "unknown parameter": (
        lambda: FF.activate(x, "elu", beta=1.0),
        TypeError,
        "fusedact.functional.activate: elu has no parameter beta; its parameters are alpha",
    ),
    "unknown parameter of Activation": (
        lambda: fusedact.Activation("selu", alpha=1.0),
        TypeError,
        "fusedact.Activation: selu has no parameter alpha; its parameters are none",
    ),
    "unknown argument of a module": (
        lambda: fusedact.create("elu", beta=1.0),
        TypeError,
        "fusedact.ELU: got an unexpected keyword argument 'beta'",
    ),
    "learnable without such a parameter": (
        lambda: fusedact.ELU(learnable="beta"),
        ValueError,
        "fusedact.ELU: learnable names 'beta'; the parameters that learn are alpha",
    ),
    "learnable without any parameter": (
        lambda: fusedact.Activation("selu", learnable=True),
        ValueError,
        "fusedact.Activation: learnable=True, but selu has no parameters that learn",
    ),
    "learnable of another type": (
        lambda: fusedact.ELU(learnable=1),
        TypeError,
        "fusedact.ELU: learnable must be a bool, the name of a parameter or a tuple of names, got int",
    ),
    "tensor to a module": (
        lambda: fusedact.ELU(alpha=torch.tensor(1.0)),
        TypeError,
        "fusedact.ELU: alpha must be a number (learnable=True makes it a parameter), got a tensor",
    ),
    "text to a module": (
        lambda: fusedact.ReLUSigmoid("0.1"),
        TypeError,
        "fusedact.ReLUSigmoid: threshold must be a number, got str",
    ),
    "unknown backend": (
        lambda: fusedact.backend("cuda").__enter__(),
        ValueError,
        "fusedact.backend: name must be one of 'auto', 'eager', 'triton', got 'cuda'",
    ),
    "explaining something else": (
        lambda: fusedact.explain(torch.nn.ELU(), x),
        TypeError,
        "fusedact.explain: activation must be a name, or a function or module of fusedact, "
        "got torch.nn.modules.activation.ELU",
    ),
    "explaining an unknown name": (
        lambda: fusedact.explain("seluu", x),
        ValueError,
        "fusedact.explain: no activation is named 'seluu'; did you mean 'selu' or 'elu' or 'telu'?",
    ),
    "explaining no tensor": (
        lambda: fusedact.explain("elu", 1.0),
        TypeError,
        "fusedact.functional.elu: input must be a torch.Tensor, got float",
    ),
    "explaining an unknown parameter": (
        lambda: fusedact.explain("elu", x, beta=1.0),
        TypeError,
        "fusedact.explain: elu has no parameter beta; its parameters are alpha",
    ),
    "a name twice": (
        lambda: registry.register(registry.get("elu")),
        ValueError,
        "fusedact.registry.register: the name 'elu' is taken",
    ),
    "no reciprocal of 0": (
        lambda: FF.celu(x, 0.0),
        ValueError,
        "fusedact.functional.celu: alpha must not be 0",
    ),
    "no reciprocal of 0 in a module": (
        lambda: fusedact.CELU(0),
        ValueError,
        "fusedact.CELU: alpha must not be 0",
    ),
    "shrinking the wrong way": (
        lambda: FF.softshrink(x, -0.5),
        ValueError,
        "fusedact.functional.softshrink: lambd must be finite and not negative, got -0.5",
    ),
    "shrinking without end": (
        lambda: FF.softshrink(x, float("inf")),
        ValueError,
        "fusedact.functional.softshrink: lambd must be finite and not negative, got inf",
    ),
    "shrinking by no number": (
        lambda: fusedact.Softshrink(float("nan")),
        ValueError,
        "fusedact.Softshrink: lambd must be finite and not negative, got nan",
    ),
    "bounds the wrong way round": (
        lambda: FF.hardtanh(x, 2.0, 1.0),
        ValueError,
        "fusedact.functional.hardtanh: min_val must not be greater than max_val, got 2.0 and 1.0",
    ),
    "bounds of a module the wrong way round": (
        lambda: fusedact.create("hard_tanh", min_val=1, max_val=-1),
        ValueError,
        "fusedact.Hardtanh: min_val must not be greater than max_val, got 1.0 and -1.0",
    ),
    "another option": (
        lambda: FF.gelu(x, approximate="x"),
        ValueError,
        "fusedact.functional.gelu: approximate must be 'none' or 'tanh', got 'x'",
    ),
    "another option of a module": (
        lambda: fusedact.GELU("sigmoid"),
        ValueError,
        "fusedact.GELU: approximate must be 'none' or 'tanh', got 'sigmoid'",
    ),
    "an option that is none": (
        lambda: FF.gelu(x, approximate=True),
        ValueError,
        "fusedact.functional.gelu: approximate must be 'none' or 'tanh', got True",
    ),
    "no threshold": (
        lambda: FF.threshold(x),
        TypeError,
        "threshold() missing 2 required positional arguments: 'threshold' and 'value'",
    ),
    "no threshold of a module": (
        lambda: fusedact.Threshold(),
        TypeError,
        "fusedact.Threshold: missing a required argument: 'threshold'",
    ),
    "no threshold by name": (
        lambda: fusedact.Activation("threshold", threshold=0.1),
        TypeError,
        "fusedact.Activation: threshold needs value",
    ),
    "tensor where a number belongs": (
        lambda: FF.softplus(x, 1.0, torch.tensor(20.0)),
        TypeError,
        "fusedact.functional.softplus: threshold must be a number, got Tensor",
    ),
    "learnable that is fixed": (
        lambda: fusedact.Threshold(0.1, 20.0, learnable="threshold"),
        ValueError,
        "fusedact.Threshold: learnable names 'threshold'; the parameters that learn are value",
    ),
    "no bend": (
        lambda: FF.softplus(x, 0.0),
        ValueError,
        "fusedact.functional.softplus: beta must not be 0",
    ),
    "no root of a negative number": (
        lambda: FF.squareplus(x, b=-1.0),
        ValueError,
        "fusedact.functional.squareplus: b must be positive, got -1.0",
    ),
    "no deviation": (
        lambda: FF.laplace(x, sigma=0.0),
        ValueError,
        "fusedact.functional.laplace: sigma must not be 0",
    ),
    "no room for xIELU": (
        lambda: fusedact.XIELU(alpha_n_init=0.4),
        ValueError,
        "fusedact.XIELU: alpha_p_init must be positive and alpha_n_init greater than beta, got 0.8, 0.4 and 0.5",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("dtype", "why"),
    [
        (torch.float32, "kernels do not run on cpu"),
        (torch.float64, "kernels compute in float32, and the input is float64"),
    ],
    ids=str,
)
def test_an_impossible_backend(dtype, why, monkeypatch):
    monkeypatch.setattr(compat, "interpreting", False)
    compat.kernels_serve_device.cache_clear()
    with fusedact.backend("triton"), pytest.raises(RuntimeError) as caught:
        FF.relu_sigmoid(torch.randn(3).to(dtype))
    compat.kernels_serve_device.cache_clear()
    assert str(caught.value) == (
        "fusedact.functional.relu_sigmoid: the triton backend is forced, but no kernel can run: "
        f"{why}; use fusedact.backend('auto')"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eager", "aten: the eager backend is forced, and PyTorch has this activation fused"),
        (
            "cuda",
            "ValueError: the environment variable FUSEDACT_BACKEND must be one of 'auto', 'eager', 'triton', "
            "got 'cuda'",
        ),
    ],
)
def test_the_environment_variable(value, expected):
    code = "import torch, fusedact; print(fusedact.explain('elu', torch.ones(2)))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FUSEDACT_BACKEND": value}, capture_output=True, text=True
    )
    assert expected in run.stdout + run.stderr
