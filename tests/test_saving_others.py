"""What keeps its input under every policy: activations of one's own, gates, tables that learn; and who takes `save`."""

from __future__ import annotations

import copy
import inspect
import pickle

import own_module
import pytest
import torch
from saving_cases import DTYPES, kept, made, same
from torch import nn
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact import functional as FF

# They say themselves what they keep: a form with a bias, and layers.
OWN_WAYS = {"bias_act", "GatedMLP"}
FUNCTIONS = sorted(set(FF.__all__) - OWN_WAYS)
MODULES = sorted(
    name
    for name in set(dir(fusedact)) - OWN_WAYS
    if isinstance(found := getattr(fusedact, name), type) and issubclass(found, nn.Module)
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_a_policy(name):
    p = inspect.signature(getattr(FF, name)).parameters["save"]
    assert p.kind is p.KEYWORD_ONLY and p.default == "auto"
    assert "\n    save: what is kept for backward" in inspect.getdoc(getattr(FF, name)) or name == "packed_glu"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_takes_a_policy(name):
    p = inspect.signature(getattr(fusedact, name)).parameters["save"]
    assert p.kind is p.KEYWORD_ONLY and p.default == "auto"
    assert "save: " in inspect.getdoc(getattr(fusedact, name))


def test_by_name():
    """`activate` hands it on, and what has it refused."""
    x = made(8)
    (tensor,), y = kept(FF.activate, x, "elu", alpha=0.5, save="output")
    assert tensor.data_ptr() == y.data_ptr()
    with pytest.raises(ValueError, match=r"fusedact.functional.silu: save must be one of"):
        FF.activate(x, "silu", save="bits")


# ----- activations of one's own


@fusedact.activation
def bump(x, a=0.5):
    return torch.tanh(x) * torch.exp(-a * x * x)


def wanted(x, g, a=0.5):
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(torch.tanh(leaf) * torch.exp(-a * leaf * leaf), leaf, g)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [60, 2**20 + 3])
def test_own_activations_keep_their_input(dtype, n):
    x, g = made(n, dtype=dtype), torch.randn(n).to(dtype)
    (tensor,), y = kept(bump, x, save="input")
    assert tensor.data_ptr() == x.data_ptr() and fusedact.explain(bump, x, save="input").keeps == "input"
    y += 1
    (dx,) = torch.autograd.grad(y, x, g)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(dx.double(), wanted(x.double(), g.double()), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("policy", ["input", "output", "bits"])
def test_own_activations_in_a_block(policy):
    """They have no output or bits to keep, and fall back to the input."""
    x, module = made(60), bump.module(learnable=True)
    with fusedact.save_policy(policy):
        for call in (bump, module):
            found, _ = kept(call, x)
            assert [t.data_ptr() for t in found if t.shape == x.shape] == [x.data_ptr()]
            assert fusedact.explain(call, x).keeps == "input"


@pytest.mark.parametrize("policy", ["output", "bits", "outputs", None])
def test_what_own_activations_refuse(policy):
    known = f"save must be one of 'auto', 'input', got {policy!r}$"
    with pytest.raises(ValueError, match=f"^bump: {known}"):
        bump(torch.ones(2), save=policy)
    with pytest.raises(ValueError, match=f"^Bump: {known}"):
        bump.module(save=policy)
    if policy is not None:
        with pytest.raises(ValueError, match=f"^fusedact.explain: {known}"):
            fusedact.explain(bump, torch.ones(2), save=policy)


def test_own_modules():
    module = own_module.gate.module(a=0.5, save="input")
    assert repr(module) == "Gate(a=0.5, b=0.5, save='input')"
    x = made(30)
    for m in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        (tensor,), y = kept(m, x)
        assert tensor.data_ptr() == x.data_ptr()
        torch.testing.assert_close(y, own_module.plain(x, 0.5))
    assert fusedact.explain(module, x).keeps == "input"
    older = own_module.gate.module()
    del older.__dict__["save"]
    same(pickle.loads(pickle.dumps(older))(x), own_module.gate(x))
    assert str(inspect.signature(own_module.gate)).endswith(
        "*, channel_dim: int = 1, save: str = 'auto') -> torch.Tensor"
    )
    assert list(inspect.signature(own_module.gate.module).parameters)[-1] == "save"


def test_own_activations_and_the_rest_of_autograd():
    x, g = torch.randn(40, dtype=torch.float64, requires_grad=True), torch.randn(40, dtype=torch.float64)

    def call(x):
        return bump(x, save="input")

    assert torch.autograd.gradcheck(call, (x,)) and torch.autograd.gradgradcheck(call, (x,))
    y = call(x)
    first, second = (torch.autograd.grad(y, x, g, retain_graph=True)[0] for _ in range(2))
    same(first, second)
    same(torch.autograd.grad(checkpoint(call, x, use_reentrant=False), x, g)[0], first)
    with torch.autograd.graph.save_on_cpu():
        y = call(x)
    same(torch.autograd.grad(y, x, g)[0], first)
    torch.testing.assert_close(torch.func.grad(lambda x: (g * call(x)).sum())(x), first)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x, g)[0], first)

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is bump:
                seen.append(kwargs)
            return super().__torch_function__(function, types, args, kwargs or {})

    seen = []
    assert type(call(torch.randn(3).as_subclass(Logged))) is Logged
    assert seen == [{"inplace": False, "channel_dim": 1, "save": "input"}]


def test_what_runs_as_plain_pytorch():
    """Nobody says what its operators keep."""
    summed = fusedact.activation(lambda x: x - x.mean(), fallback="eager")
    x = made(8)
    same(summed(x), x - x.mean())
    with pytest.raises(ValueError, match=r"save='input' is not for what runs as plain PyTorch"):
        summed(x, save="input")
    with pytest.raises(ValueError, match=r"save must be one of 'auto', 'input', got 'bits'"):
        summed(x, save="bits")
    with fusedact.save_policy("output"):
        same(summed(x), x - x.mean())


# ----- gates

GATED = {
    "gated": lambda x, **k: FF.gated(x[..., :6], x[..., 6:], "silu", **k),
    "packed_glu": lambda x, **k: FF.packed_glu(x, "silu", layout="gate_value", **k),
    "interleaved": lambda x, **k: FF.packed_glu(x, "gelu", layout="interleaved", **k),
    "own": lambda x, **k: FF.packed_glu(x, bump, layout="value_gate", **k),
    "glu": lambda x, **k: FF.glu(x, **k),
    "SwiGLU": lambda x, **k: fusedact.SwiGLU(beta=1.5, limit=3.0, **k)(x),
    "GLU": lambda x, **k: fusedact.GLU(layout="gate_value", **k)(x),
    "GEGLU": lambda x, **k: fusedact.GEGLU(**k)(x),
    "ReGLU": lambda x, **k: fusedact.ReGLU(**k)(x),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GATED)
def test_gates_keep_what_they_are_given(name, dtype):
    x, g = made(5, 12, dtype=dtype), torch.randn(5, 6).to(dtype)
    want = GATED[name](x)
    grads = torch.autograd.grad(want, x, g)
    for way in ({"save": "input"}, {}):
        with fusedact.save_policy("auto" if way else "bits"):
            found, y = kept(GATED[name], x, **way)
        assert {t.untyped_storage().data_ptr() for t in found} == {x.untyped_storage().data_ptr()}
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y, want, rtol=2 * eps, atol=4 * eps)
        y += 1
        torch.testing.assert_close(torch.autograd.grad(y, x, g), grads, rtol=16 * eps, atol=32 * eps)


@pytest.mark.parametrize("name", GATED)
def test_what_gates_refuse(name):
    known = r": save must be one of 'auto', 'input', got 'output'$"
    with pytest.raises(ValueError, match=r"^fusedact\.(functional\.)?[A-Za-z_]*" + known):
        GATED[name](torch.ones(2, 12), save="output")


def test_modules_of_gates():
    assert repr(fusedact.GLU(save="input")) == "GLU(dim=-1, save='input')"
    assert repr(fusedact.ReGLU(save="input")) == "ReGLU(dim=-1, layout='value_gate', save='input')"
    assert repr(fusedact.GEGLU(save="input")) == "GEGLU(dim=-1, layout='value_gate', save='input')"
    assert repr(fusedact.SwiGLU(offset=1.0, save="input")).endswith("offset=1, save='input')")
    assert fusedact.create("glu", save="input").save == "input"
    assert fusedact.explain("glu", torch.ones(2), save="input").keeps == "input"
    x = torch.randn(3, 4)
    for cls in (fusedact.GLU, fusedact.SwiGLU, fusedact.GEGLU, fusedact.ReGLU):
        older = cls()
        del older.__dict__["save"]
        same(pickle.loads(pickle.dumps(older))(x), cls()(x))


# ----- tables that learn


@pytest.mark.parametrize("policy", ["input", "bits"])
def test_tables_that_learn_keep_the_input(policy):
    x, module = made(40), fusedact.PWL([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0], learnable=True)
    with fusedact.save_policy(policy):
        found, y = kept(module, x)
        assert [t.data_ptr() for t in found if t.shape == x.shape] == [x.data_ptr()]
        assert fusedact.explain(module, x).keeps == "input"
    y += 1
    y.sum().backward()
    assert module.values.grad is not None
    with pytest.raises(ValueError, match="save='bits' cannot be combined with learnable tables"):
        FF.pwl(x, [-1.0, 1.0], torch.tensor([0.0, 1.0], requires_grad=True), save="bits")
    with pytest.raises(ValueError, match=r"fusedact.functional.pwl: save must be one of 'auto', 'input', 'bits', got"):
        FF.pwl(x, [-1.0, 1.0], torch.tensor([0.0, 1.0], requires_grad=True), save="output")
