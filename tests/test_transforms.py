"""torch.func transforms and dual numbers against plain PyTorch, and the same transforms under torch.compile."""

from __future__ import annotations

import oracles
import pytest
import torch
from torch import func
from torch.autograd import forward_ad

import fusedact

ARGUMENTS = {"relu_sigmoid": (0.1,), "elu": (0.7,), "selu": (), "prelu": (0.3,), "swish": (1.3,)}
NAMES = (*oracles.NAMES, *oracles.CHOSEN)
# PyTorch's leaky_relu_ refuses a negative slope.
ARGUMENTS = {name: oracles.sweep(name)[-1] for name in NAMES} | ARGUMENTS | {"leaky_relu": (0.3,)}
names = pytest.mark.parametrize("name", NAMES)
LEARNABLE = [n for n in NAMES if oracles.spec(n).learnable]
learnable = pytest.mark.parametrize("name", LEARNABLE)
backends = pytest.mark.parametrize("backend", ["auto", "eager"])


def ours(name):
    return lambda x: oracles.function(name)(x, *ARGUMENTS[name])


def plain(name):
    return lambda x: oracles.PLAIN[name](x, *ARGUMENTS[name])


def over_the_parameter(name, function):
    """Of x and the first parameter that may be a tensor; those before it are as they begin."""
    specs = oracles.spec(name).parameters
    before = [p.default for p in specs[: next(i for i, p in enumerate(specs) if not p.fixed)]]
    return lambda x, p: function(x, *before, p)


def sample(*shape):
    return torch.randn(*shape, dtype=torch.float64)


TRANSFORMS = {
    "grad": lambda f: func.grad(lambda x: f(x).sum()),
    "grad of grad": lambda f: func.grad(lambda x: func.grad(lambda x: f(x).sum())(x).sum()),
    "vmap": func.vmap,
    "vmap last": lambda f: func.vmap(f, -1, 1),
    "vmap second": lambda f: func.vmap(f, 1, 0),
    "vmap of vmap": lambda f: func.vmap(func.vmap(f), 1),
    "vmap of grad": lambda f: func.vmap(func.grad(lambda x: f(x).sum())),
    "grad of vmap": lambda f: func.grad(lambda x: func.vmap(f)(x).sum()),
    "functionalize": func.functionalize,
    "functionalize of grad": lambda f: func.functionalize(func.grad(lambda x: f(x).sum())),
    "jvp": lambda f: lambda x: func.jvp(f, (x,), (torch.cos(x),)),
    "vjp": lambda f: lambda x: func.vjp(f, x)[1](torch.cos(x)),
    "jacrev": func.jacrev,
    "jacfwd": func.jacfwd,
    "hessian": lambda f: func.hessian(lambda x: f(x).sum()),
    "jvp of grad": lambda f: lambda x: func.jvp(func.grad(lambda x: f(x).sum()), (x,), (torch.cos(x),)),
    "grad of jvp": lambda f: func.grad(lambda x: func.jvp(f, (x,), (torch.cos(x),))[1].sum()),
}


# Of second order, which PyTorch's hard sigmoid has not.
SECOND = ("grad of grad", "hessian", "jvp of grad", "grad of jvp")


def served(transforms):
    """Names with the transforms that serve them."""
    cases = [(n, t) for t in transforms for n in NAMES if n != "hardsigmoid" or t not in SECOND]
    return pytest.mark.parametrize(("name", "transform"), cases, ids=[f"{n}-{t}" for n, t in cases])


@served(TRANSFORMS)
@backends
def test_transforms(name, backend, transform):
    x = sample(3, 4)
    with fusedact.backend(backend):
        torch.testing.assert_close(TRANSFORMS[transform](ours(name))(x), TRANSFORMS[transform](plain(name))(x))


COMPILED = ["grad", "grad of grad", "vmap", "vmap of grad", "jvp", "hessian"]


@served(COMPILED)
def test_transforms_under_compile(name, transform):
    x = sample(3, 4)
    compiled = torch.compile(TRANSFORMS[transform](ours(name)), backend="aot_eager")
    torch.testing.assert_close(compiled(x), TRANSFORMS[transform](plain(name))(x))


PARAMETER_TRANSFORMS = {
    "grad": lambda f: func.grad(lambda x, p: f(x, p).sum(), argnums=(0, 1)),
    "hessian": lambda f: func.hessian(lambda x, p: f(x, p).sum(), argnums=(0, 1)),
    "vmap of hessian": lambda f: func.vmap(func.hessian(lambda x, p: f(x, p).sum(), argnums=(0, 1)), (0, None)),
    "jvp along the parameter": lambda f: lambda x, p: func.jvp(lambda p: f(x, p), (p,), (torch.ones_like(p),)),
    "vmap of jvp": lambda f: lambda x, p: func.vmap(lambda x, p: func.jvp(f, (x, p), (x, p)), (0, None))(x, p),
    "jvp": lambda f: lambda x, p: func.jvp(f, (x, p), (torch.cos(x), torch.ones_like(p))),
    "vmap over both": lambda f: lambda x, p: func.vmap(f)(x, p.expand(x.shape[0])),
    "vmap over the parameter": lambda f: lambda x, p: func.vmap(f, (None, 0))(x, p * torch.arange(1, 4)),
    "vmap over the input": lambda f: lambda x, p: func.vmap(f, (0, None))(x, p),
    "per-sample gradients": lambda f: (
        lambda x, p: func.vmap(func.grad(lambda x, p: f(x, p).sum(), argnums=(0, 1)), (0, None))(x, p)
    ),
    "jacfwd over jacrev": lambda f: func.jacfwd(func.jacrev(lambda x, p: f(x, p).sum(), argnums=1), argnums=0),
}


@learnable
@backends
@pytest.mark.parametrize("transform", PARAMETER_TRANSFORMS)
def test_transforms_over_parameters(name, backend, transform):
    x, p = sample(3, 4), torch.tensor(0.3, dtype=torch.float64)
    made = PARAMETER_TRANSFORMS[transform]
    with fusedact.backend(backend):
        ours, plain = (over_the_parameter(name, f) for f in (oracles.function(name), oracles.PLAIN[name]))
        torch.testing.assert_close(made(ours)(x, p), made(plain)(x, p))


IN_PLACE = {
    "vmap": lambda f: func.vmap(lambda x: f(x.clone())),
    "grad": lambda f: func.grad(lambda x: f(x * 1).sum()),
    "jvp": lambda f: lambda x: func.jvp(lambda x: f(x * 1), (x,), (torch.cos(x),)),
}


@names
@backends
@pytest.mark.parametrize("transform", IN_PLACE)
def test_transforms_in_place(name, backend, transform):
    x, made = sample(3, 4), IN_PLACE[transform]
    with fusedact.backend(backend):
        found = made(lambda x: oracles.function(name)(x, *ARGUMENTS[name], inplace=True))(x)
    torch.testing.assert_close(found, made(plain(name))(x))


@learnable
def test_functionalize_in_place(name):
    # Not selu: PyTorch has no rule for its own selu_.
    x, f = sample(3, 4), oracles.function(name)
    found = func.functionalize(lambda x: f(x.clone(), *ARGUMENTS[name], inplace=True))(x)
    torch.testing.assert_close(found, plain(name)(x))


@learnable
def test_a_parameter_of_one_dimension_under_vmap(name):
    x, p = sample(5, 3), torch.rand(5, 1, dtype=torch.float64)
    f, formula = (over_the_parameter(name, f) for f in (oracles.function(name), oracles.PLAIN[name]))
    torch.testing.assert_close(func.vmap(f)(x, p), func.vmap(formula)(x, p))
    slopes = func.vmap(func.grad(lambda x, p: f(x, p).sum(), 1))(x, p)
    assert slopes.shape == p.shape
    torch.testing.assert_close(slopes, func.vmap(func.grad(lambda x, p: formula(x, p).sum(), 1))(x, p))


@names
@backends
def test_dual_numbers_without_requires_grad(name, backend):
    x, direction = sample(10), sample(10)
    with fusedact.backend(backend), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(ours(name)(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent, func.jvp(plain(name), (x,), (direction,))[1])


def test_per_sample_gradients_of_a_module():
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), fusedact.ReLUSigmoid(0.1, learnable=True), torch.nn.Linear(5, 1))
    params = dict(net.named_parameters())
    x = torch.randn(6, 4)

    def loss(params, row):
        return func.functional_call(net, params, row).sum()

    rows = func.vmap(func.grad(loss), (None, 0))(params, x)
    for name, p in net.named_parameters():
        expected = torch.stack([torch.autograd.grad(net(row).sum(), p)[0] for row in x])
        torch.testing.assert_close(rows[name], expected)
