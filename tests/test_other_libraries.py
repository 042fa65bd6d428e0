"""The names of other libraries give what those libraries compute: tutorials in NumPy, Keras and transformers."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF


def derived(function, x):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]


def assert_named(name, formula, **arguments):
    """Raise unless the function, the class and the module of that name have the formula's values and slopes."""
    x = torch.linspace(-14, 14, 5003, dtype=torch.float64)
    truth = derived(formula, x)
    made = fusedact.create(name, **arguments), fusedact.Activation(name, **arguments)
    calls = [*made, lambda t: FF.activate(t, name, **arguments)]
    for call in calls:
        torch.testing.assert_close(derived(call, x), truth, rtol=1e-10, atol=1e-11)
        narrow = derived(call, x.float())
        torch.testing.assert_close(narrow, tuple(t.float() for t in truth), rtol=2e-5, atol=2e-6)


# ----- tutorials, which are NumPy


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


TUTORIALS = {
    "sigmoid": (sigmoid, {}),
    "tanh": (lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), {}),
    "relu": (lambda x: np.maximum(0, x), {}),
    "leaky_relu": (lambda x: np.maximum(0.01 * x, x), {}),
    "elu": (lambda x: np.where(x > 0, x, 0.3 * (np.exp(x) - 1)), {"alpha": 0.3}),
    "selu": (lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)), {}),
    "swish": (lambda x: x * sigmoid(x), {}),
}


@pytest.mark.parametrize("name", TUTORIALS)
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)], ids=str)
def test_tutorials(name, backend, dtype, tolerance):
    formula, arguments = TUTORIALS[name]
    numbers = np.arange(-10, 10.05, 0.1)
    assert len(numbers) == 201
    x = torch.tensor(numbers, dtype=dtype)
    with fusedact.backend(backend):
        results = [
            FF.activate(x, name, **arguments),
            fusedact.create(name, **arguments)(x),
            fusedact.Activation(name, **arguments)(x),
        ]
    for y in results:
        np.testing.assert_allclose(y.double().numpy(), formula(x.double().numpy()), rtol=tolerance, atol=tolerance)


# ----- transformers: the entries of ACT2FN, as its activations compute them


def gelu_new(x):
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_fast(x):
    # The root of 2 / pi to ten digits, which is what the tolerance is for.
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def gelu_python(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


TRANSFORMERS = {
    "gelu": F.gelu,
    "gelu_10": lambda x: torch.clip(F.gelu(x), -10.0, 10.0),
    "gelu_accurate": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
    "gelu_fast": gelu_fast,
    "gelu_new": gelu_new,
    "gelu_python": gelu_python,
    "gelu_python_tanh": gelu_new,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "laplace": lambda x: 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))),
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x * 1.0,
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: torch.square(F.relu(x)),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: torch.sqrt(torch.log1p(torch.exp(x))),
    "swish": F.silu,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    assert_named(name, TRANSFORMERS[name])


class TheirXIELU(nn.Module):
    """xIELU with the parameters and buffers that transformers has."""

    def __init__(self, alpha_p_init=0.8, alpha_n_init=0.8, beta=0.5, eps=-1e-6, dtype=torch.bfloat16):
        super().__init__()
        self.alpha_p = nn.Parameter(torch.tensor([math.log(math.expm1(alpha_p_init))], dtype=dtype))
        self.alpha_n = nn.Parameter(torch.tensor([math.log(math.expm1(alpha_n_init - beta))], dtype=dtype))
        self.register_buffer("beta", torch.tensor(beta, dtype=dtype))
        self.register_buffer("eps", torch.tensor(eps, dtype=dtype))

    def forward(self, x):
        p, n = F.softplus(self.alpha_p), self.beta + F.softplus(self.alpha_n)
        below = (torch.expm1(torch.min(x, self.eps)) - x) * n + self.beta * x
        return torch.where(x > 0, p * x * x + self.beta * x, below)


@pytest.mark.parametrize("make", [lambda **a: fusedact.create("xielu", **a), fusedact.XIELU], ids=["name", "class"])
def test_xielu_of_transformers(make):
    ours, theirs = make().double(), TheirXIELU(dtype=torch.float64)
    x = torch.linspace(-14, 14, 5003, dtype=torch.float64)
    torch.testing.assert_close(derived(ours, x), derived(theirs, x))
    for made in (ours, theirs):
        made(x).sum().backward()
    for name in ("alpha_p", "alpha_n"):
        torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad)


def test_xielu_loads_what_transformers_saved():
    # With other numbers than those it began with; in bfloat16 eps is another number.
    theirs = nn.Sequential(TheirXIELU(1.1, 0.9, beta=0.25))
    ours = nn.Sequential(fusedact.XIELU())
    ours.load_state_dict(theirs.state_dict())
    assert (ours[0].beta, ours[0].eps) == (0.25, float(theirs[0].eps))
    x = torch.linspace(-9, 9, 301, dtype=torch.float64)
    torch.testing.assert_close(ours.double()(x), theirs.double()(x))
    assert list(ours.state_dict()) == ["0.alpha_p", "0.alpha_n"]
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.load_state_dict({**theirs.state_dict(), "0.gamma": torch.ones(())})


def test_prelu_by_name():
    x = torch.linspace(-5, 5, 101)
    for made in (fusedact.create("prelu"), fusedact.Activation("prelu")):
        torch.testing.assert_close(made(x), nn.PReLU()(x))
    torch.testing.assert_close(FF.activate(x, "prelu", weight=torch.full((1,), 0.25)), nn.PReLU()(x))


# ----- Keras itself, on its torch backend; in a process of its own, as it reads its settings from a file on import

KERAS = {
    "celu": {},
    "elu": {},
    "gelu": {},
    "hard_shrink": {},
    "hard_sigmoid": {},
    "hard_silu": {},
    "hard_swish": {},
    "hard_tanh": {},
    "leaky_relu": {"negative_slope": 0.2},
    "linear": {},
    "log_sigmoid": {},
    "mish": {},
    "relu": {},
    "relu6": {},
    "selu": {},
    "sigmoid": {},
    "silu": {},
    "soft_shrink": {},
    "softplus": {},
    "softsign": {},
    "squareplus": {},
    "swish": {},
    "tanh": {},
    "tanh_shrink": {},
    "threshold": {"threshold": 0.5, "value": -1.0},
}
# What Keras has beyond these is of another kind, or not ours.
NOT_OURS = {"exponential", "glu", "log_softmax", "softmax", "sparse_plus", "sparse_sigmoid", "sparsemax"}
PROGRAM = """
import sys, torch, keras
names = [n for n in dir(keras.activations) if not n.startswith("_") and n not in ("get", "serialize", "deserialize")]
x = torch.linspace(-14, 14, 5003, dtype=torch.float64)
found = {}
with keras.device("cpu"):
    for name in [*names, "swish", "hard_swish", "gelu_tanh"]:
        arguments = {"threshold": (0.5, -1.0), "gelu_tanh": (True,)}.get(name, ())
        leaf = x.clone().requires_grad_()
        try:
            y = keras.activations.get(name.removesuffix("_tanh") if name == "gelu_tanh" else name)(leaf, *arguments)
            found[name] = y.detach(), torch.autograd.grad(y.sum(), leaf)[0]
        except Exception as error:
            found[name] = repr(error)
torch.save(found, sys.argv[1])
"""


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """By name, the values and slopes of Keras's activations."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    folder = tmp_path_factory.mktemp("keras")
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    file = folder / "found.pt"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file, weights_only=True)


def test_all_of_keras(keras):
    assert {n for n in keras if n not in KERAS} == {*NOT_OURS, "gelu_tanh"}


@pytest.mark.parametrize("name", [*KERAS, "gelu_tanh"])
def test_keras(name, keras):
    x = torch.linspace(-14, 14, 5003, dtype=torch.float64)
    arguments = KERAS.get(name, {})
    calls = [lambda t: FF.activate(t, name, **arguments)]
    calls += [fusedact.create(name, **arguments), fusedact.Activation(name, **arguments)]
    for call in calls:
        torch.testing.assert_close(derived(call, x), keras[name], rtol=1e-13, atol=1e-15)
