"""Update rules of one's own: against NumPy, against the plain function, and what is refused."""

from __future__ import annotations

import copy
import csv
import json
import math
import pickle
import random
import re

import benches
import numpy as np
import pages
import pytest
import torch
from hypothesis import given, settings
from optimizer_cases import (
    assert_close,
    copies,
    drawn_rule,
    drawn_tensors,
    give_gradients,
    judged_step,
    parameters,
    random_rules,
)

import fusedact
from fusedact import optim
from fusedact.engine.tracing import UnsupportedError
from fusedact.optim import lean_steps, update_rule


@update_rule(state=("velocity",))
def momentum(param, grad, velocity, *, lr, momentum=0.9):
    velocity = momentum * velocity - lr * grad
    return param + velocity, velocity


@update_rule(state=("average",))
def lion(param, grad, average, *, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    step = torch.sign(beta1 * average + (1 - beta1) * grad)
    return param - lr * (step + weight_decay * param), beta2 * average + (1 - beta2) * grad


@update_rule(state=("average", "squares"))
def adabelief(param, grad, average, squares, *, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, clip=False):
    if clip:
        grad = torch.clamp(grad, -1.0, 1.0)
    average = beta1 * average + (1 - beta1) * grad
    squares = beta2 * squares + (1 - beta2) * (grad - average) ** 2 + eps
    scale = lr / (1 - beta1**step)
    return param - scale * average / (torch.sqrt(squares / (1 - beta2**step)) + eps), average, squares


@update_rule(state=("slow",), init={"slow": "param"})
def lookahead(param, grad, slow, *, lr, pull=0.1):
    fast = param - lr * grad
    slow = slow + pull * (fast - slow)
    return torch.where(torch.abs(fast - slow) > 0.5, slow, fast), slow


def numpy_momentum(p, g, v, step):
    v = 0.8 * v - 0.05 * g
    return p + v, v


def numpy_lion(p, g, a, step):
    return p - 0.01 * (np.sign(0.9 * a + 0.1 * g) + 0.1 * p), 0.99 * a + 0.01 * g


def numpy_adabelief(p, g, a, s, step):
    g = np.clip(g, -1, 1)
    a = 0.9 * a + 0.1 * g
    s = 0.99 * s + 0.01 * (g - a) ** 2 + 1e-8
    return p - 0.02 / (1 - 0.9**step) * a / (np.sqrt(s / (1 - 0.99**step)) + 1e-8), a, s


def numpy_lookahead(p, g, s, step):
    fast = p - 0.05 * g
    s = s + 0.1 * (fast - s)
    return np.where(np.abs(fast - s) > 0.5, s, fast), s


RULES = {
    "momentum": (momentum, {"lr": 0.05, "momentum": 0.8}, numpy_momentum),
    "lion": (lion, {"lr": 0.01, "weight_decay": 0.1}, numpy_lion),
    "adabelief": (adabelief, {"lr": 0.02, "beta2": 0.99, "clip": True}, numpy_adabelief),
    "lookahead": (lookahead, {"lr": 0.05}, numpy_lookahead),
}
every_rule = pytest.mark.parametrize("name", RULES)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@every_rule
def test_against_numpy(name, backend):
    rule, changes, formula = RULES[name]
    params = parameters(torch.float64)
    arrays = [p.detach().numpy().copy() for p in params]
    initial = rule.initial
    states = [[a.copy() if initial[n] == "param" else np.zeros_like(a) for n in rule.states] for a in arrays]
    counts = [0] * len(params)
    opt = rule.optimizer(params, **changes)
    with fusedact.backend(backend):
        for step in range(12):
            give_gradients(step, params)
            for i, p in enumerate(params):
                if p.grad is not None:
                    counts[i] += 1
                    arrays[i], *states[i] = formula(arrays[i], p.grad.numpy(), *states[i], counts[i])
            opt.step()
    assert_close(params, [torch.from_numpy(np.asarray(a)) for a in arrays], rtol=1e-10, atol=1e-12)
    for i, p in enumerate(params):
        for n, s in zip(rule.states, states[i], strict=True):
            torch.testing.assert_close(opt.state[p][n], torch.from_numpy(np.asarray(s)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_rule
def test_against_the_plain_function(name, dtype):
    rule, changes, _ = RULES[name]
    params = parameters(dtype)
    opt = rule.optimizer(params, **changes)
    give_gradients(0, params)
    expected = []
    for p in params:
        if p.grad is None:
            expected.append([p.detach().clone(), *(p.detach() * 0 for _ in rule.states)])
            continue
        x = p.detach().float()
        states = [x.clone() if rule.initial[n] == "param" else torch.zeros_like(x) for n in rule.states]
        counts = {"step": 1} if rule.counts else {}
        found = rule(x, p.grad.float(), *states, **{**rule.defaults, **changes, **counts})
        expected.append([found[0].to(dtype), *found[1:]])
    opt.step()
    for p, (value, *states) in zip(params, expected, strict=True):
        tolerance = {"rtol": max(1e-6, torch.finfo(dtype).eps), "atol": 1e-7}
        torch.testing.assert_close(p.detach(), value.to(dtype), **tolerance)
        for n, s in zip(rule.states, states, strict=True):
            if p.grad is not None:
                torch.testing.assert_close(opt.state[p][n], s.float(), rtol=1e-5, atol=1e-7)
                assert opt.state[p][n].dtype == torch.float32


def test_parameters_that_share_a_piece_do_not_mix():
    """Hundreds of small ones, stepped together, as each by itself."""
    draw = random.Random(3)
    shapes = [(draw.randrange(1, 4000),) for _ in range(300)]
    together = parameters(shapes=shapes)
    alone = copies(together)
    give_gradients(0, together, alone)
    momentum.optimizer(together, lr=0.1).step()
    for p in alone:
        momentum.optimizer([p], lr=0.1).step()
    assert_close(together, alone, rtol=0, atol=0)


def test_rules_without_state_and_with_odd_results():
    @update_rule
    def signs(param, grad, *, lr):
        return param - lr * torch.sign(grad)

    @update_rule(state=("before", "last"))
    def swaps(param, grad, before, last, *, lr):
        # Each takes the place of another; one is the same for all elements.
        return grad, param, lr * 1.0 + 0.0 * before

    a = torch.tensor([1.0, 2.0], requires_grad=True)
    signs.optimizer([a], lr=0.5)([a], [torch.tensor([3.0, -4.0])])
    assert a.tolist() == [0.5, 2.5]
    opt = swaps.optimizer([a], lr=0.25)
    opt([a], [torch.tensor([7.0, 8.0])])
    assert a.tolist() == [7.0, 8.0]
    assert opt.state[a]["before"].tolist() == [0.5, 2.5] and opt.state[a]["last"].tolist() == [0.25, 0.25]


def test_numbers_may_be_anything_that_the_formula_takes():
    """A number that Python's own functions refuse gives what PyTorch's give."""

    @update_rule
    def odd(param, grad, *, a, b=0.0):
        return param + torch.sqrt(a) * grad + torch.where(b > 1, 1 / b, torch.exp(b))

    for a, b in ((4.0, 0.0), (-1.0, 0.0), (4.0, 1000.0), (4.0, 2.0), (0.0, 1.5)):
        p = torch.zeros(3, requires_grad=True)
        odd.optimizer([p], a=a, b=b)([p], [torch.ones(3)])
        root = math.sqrt(a) if a >= 0 else math.nan
        expected = torch.full((3,), root + (1 / b if b > 1 else math.exp(b)))
        torch.testing.assert_close(p.detach(), expected, equal_nan=True)


def test_options_and_groups():
    a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
    opt = adabelief.optimizer([{"params": [a], "clip": True}, {"params": [b], "lr": 0.5}], lr=0.1)
    opt([a, b], [torch.full((2,), 5.0), torch.full((2,), 5.0)])
    torch.testing.assert_close(a.detach(), torch.full((2,), -0.1 / 0.9 * 1.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(b.detach(), torch.full((2,), -0.5 / 0.9 * 1.0), rtol=1e-3, atol=0)
    down, up = (torch.zeros(1, requires_grad=True) for _ in range(2))
    for p, maximize in ((down, False), (up, True)):
        momentum.optimizer([p], lr=1.0, maximize=maximize)([p], [torch.ones(1)])
    assert (down.item(), up.item()) == (-1.0, 1.0)


def test_copies_and_pickles():
    p = torch.ones(3, requires_grad=True)
    opt = momentum.optimizer([p], lr=0.1)
    opt([p], [torch.ones(3)])
    assert copy.deepcopy(momentum) is momentum and pickle.loads(pickle.dumps(momentum)) is momentum
    other = pickle.loads(pickle.dumps(opt))
    q = other.param_groups[0]["params"][0]
    opt([p], [torch.ones(3)])
    other([q], [torch.ones(3)])
    assert q.equal(p) and q is not p
    assert repr(momentum).startswith("<fusedact update rule momentum(param, grad, velocity, *, lr, momentum=0.9)")


def test_source():
    assert "def lion(values, params, precise: tl.constexpr):" in lion.source
    assert "average = values[2]" in lion.source
    # What is the same for all elements is no part of it.
    assert "**" not in adabelief.source and "step" not in adabelief.source.split("def adabelief", 1)[1].split('"""')[2]


def test_the_cpu_form_is_what_one_would_write():
    made = momentum.program({})
    text = lean_steps.function_text(3, len(made.uniform), made.results, made.targets)
    assert [line.strip() for line in text.splitlines() if "x2" in line][1:] == [
        "x2 = weighted(x2, x1, n0, -n1, x2)",
        "x0 = torch.add(x0, x2, out=x0)",
    ]


# By name: its operators, and its function.
SHORTER = {
    "a decay that takes the parameter's place": (
        ["x0 = decayed(x0, x1, -(0.5), n0, x0)"],
        lambda param, grad, *, lr: param - 0.5 * (grad + lr * param),
    ),
    "a decay the other way round": (
        ["x0 = decayed(x0, x1, n0, -(0.5), x0)"],
        lambda param, grad, *, lr: lr * (grad - param * 0.5) + param,
    ),
    "an average of which one number is zero": (
        ["x0 = weighted(x0, x1, n0, n1, x0)"],
        lambda param, grad, *, lr: (lr - lr) * param + lr * grad,
    ),
    "a product in the parameter's place": (
        ["x0 = torch.mul(x0, x0, out=x0)", "x0 = torch.addcmul(x0, x1, x1, value=n0, out=x0)"],
        lambda param, grad, *, lr: param * param + lr * grad * grad,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lr", [0.25, 0.0])
@pytest.mark.parametrize("name", SHORTER)
def test_operators_that_do_more_than_one_step(name, lr, dtype):
    """In any layout, at infinities and NaN, and where a number is zero, as the plain function."""
    expected, function = SHORTER[name]
    rule = update_rule(function)
    made = rule.program({})
    text = lean_steps.function_text(2, len(made.uniform), made.results, made.targets)
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line.startswith("x0 =")] == expected
    edges = torch.tensor([0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, math.nan, 1e30])
    few, of = (t.flatten().to(dtype) for t in torch.meshgrid(edges, edges, indexing="ij"))
    many, those = few.repeat(300), of.repeat(300)
    # Small and gathered, large, transposed, and no layout at all.
    for p, g in (
        (few, of),
        (many, those),
        (many.view(-1, 64).t().clone(), those.view(-1, 64).t()),
        (many.view(-1, 64).t().clone(), those.view(64, -1)),
        (few.repeat(600)[::2], of.repeat(600)[::2]),
    ):
        param = p.clone() if p.is_contiguous() else p.detach()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        truth = rule(p.to(wide, copy=True), g.to(wide), lr=lr).to(dtype)
        param.requires_grad_()
        rule.optimizer([param], lr=lr)([param], [g])
        torch.testing.assert_close(param.detach(), truth, equal_nan=True)


def test_threads_change_nothing():
    """Though their number decides which tensors share a piece."""
    sizes = [*[5000] * 60, 2**19 + 3, 70_000, (300, 400)]
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            params = [torch.randn(size).requires_grad_() for size in sizes]
            opt = lion.optimizer(params, lr=0.1)
            for _ in range(2):
                opt(params, [torch.randn(size) for size in sizes])
            found.append(params)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found)


# ----- random rules


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(texts=random_rules())
def test_random_rules(texts):
    """As the plain function in float64, where rounding alone moves nothing much."""
    rule = drawn_rule(texts)
    p, grad, states = drawn_tensors(torch.float64)
    expected, slack = judged_step(rule, p, grad, states, 2.0**-40)
    opt = rule.optimizer([p], lr=0.3)
    opt.state[p].update(zip(rule.states, states, strict=True))
    opt([p], [grad])
    for got, t, s in zip((p.detach(), *states), expected, slack, strict=True):
        assert torch.equal(got.isnan(), t.isnan()), texts
        assert ((got == t) | ((got - t).abs() <= s) | t.isnan()).all(), texts


# ----- what is refused


def refused(error, match, function):
    with pytest.raises(error, match=match):
        function()


def test_signatures():
    def missing(param, grad, speed, *, lr):
        return param, speed

    match = r"missing must take \(param, grad, velocity, \*, settings\).*got \(param, grad, speed\)"
    refused(TypeError, match, lambda: update_rule(missing, state=("velocity",)))
    refused(
        TypeError, r'state must be a tuple of names, such as \("speed",\)', lambda: update_rule(missing, state="speed")
    )
    refused(TypeError, "must take lr without a default, or after", lambda: update_rule(lambda p, g, lr=0.1: p))
    refused(TypeError, "must name each of its arguments", lambda: update_rule(lambda p, g, **kw: p))
    refused(TypeError, "has a setting maximize", lambda: update_rule(lambda p, g, *, maximize: p))
    refused(TypeError, "must take step, the number of steps", lambda: update_rule(lambda p, g, *, step=1: p))
    refused(
        TypeError,
        "the default of <lambda>'s setting lr must be a number",
        lambda: update_rule(lambda p, g, *, lr="": p),
    )
    refused(TypeError, "must take first with True or False", lambda: update_rule(lambda p, g, *, first: p))
    refused(TypeError, "expected a function, got int", lambda: update_rule(3))
    refused(
        ValueError,
        "init names 'fast', which is no state",
        lambda: update_rule(missing, state=("speed",), init={"fast": "zeros"}),
    )
    refused(
        ValueError,
        "must be 'zeros' or 'param', got 'ones'",
        lambda: update_rule(missing, state=("speed",), init={"speed": "ones"}),
    )


def test_settings():
    p = [torch.ones(2, requires_grad=True)]
    refused(TypeError, "momentum needs lr", lambda: momentum.optimizer(p))
    refused(
        TypeError, "momentum has no setting rate; its settings are lr, momentum", lambda: momentum.optimizer(p, rate=1)
    )
    refused(
        TypeError,
        "momentum: lr must be a number or a tensor of one element, got str",
        lambda: momentum.optimizer(p, lr=""),
    )
    refused(TypeError, "clip must be True or False, got int", lambda: adabelief.optimizer(p, clip=1))
    refused(TypeError, "capturable must be True or False", lambda: momentum.optimizer(p, lr=1, capturable=None))
    refused(ValueError, "empty parameter list", lambda: momentum.optimizer([], lr=1))


def branches(param, grad, *, lr):
    if grad.sum() > 0:
        return param
    return param - lr * grad


FUNCTIONS = {
    "control": (
        branches,
        "branches .*turns a tensor into a Python number or condition|is not elementwise, and an update rule",
    ),
    "norm": (lambda param, grad, *, lr: param - lr * grad / grad.norm(), "is not elementwise, and an update rule maps"),
    "random": (lambda param, grad, *, lr: param + torch.randn_like(param), "draws random numbers, and an update rule"),
    "in place": (lambda param, grad, *, lr: param.sub_(lr * grad), "changes what it is given in place"),
    "too many": (lambda param, grad, *, lr: (param, grad), r"must return one tensor \(param\), got 2"),
    "nothing": (lambda param, grad, *, lr: None, r"must return one tensor \(param\), got NoneType"),
    "shape": (
        lambda param, grad, *, lr: param[:1],
        "indexing is not elementwise|must return for param a tensor of param's shape",
    ),
    "dtype": (
        lambda param, grad, *, lr: param.double(),
        "computes in float64|must return for param a tensor of param's dtype",
    ),
    "math": (lambda param, grad, *, lr: param - math.sqrt(lr) * grad, "turns a tensor into a Python number"),
    "size": (
        lambda param, grad, *, lr: param - lr * grad / grad.numel(),
        "depends on the shape of param, and an update rule",
    ),
    "unknown": (
        lambda param, grad, *, lr: param - torch.special.bessel_j0(grad),
        "bessel_j0 is not among the elementwise",
    ),
    "outside": (
        lambda param, grad, *, lr: param - torch.ones(2) * grad,
        "made of neither a tensor nor a number|raised",
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, match = FUNCTIONS[name]
    p = torch.ones(2, requires_grad=True)
    opt = update_rule(function).optimizer([p], lr=0.1)
    with pytest.raises(UnsupportedError, match=match) as caught:
        opt([p], [torch.ones(2)])
    assert str(caught.value).startswith("fusedact.optim.update_rule: ")
    assert "fallback" not in str(caught.value)
    assert p.tolist() == [1.0, 1.0]


def test_the_error_names_the_line():
    with pytest.raises(ValueError, match=r"branches \(test_update_rules\.py, line \d+: if grad\.sum\(\) > 0:\)"):
        update_rule(branches).source  # noqa: B018


def test_two_results_are_named():
    @update_rule(state=("a",))
    def one(param, grad, a, *, lr):
        return param

    with pytest.raises(UnsupportedError, match=r"one must return 2 tensors \(param, a\), got Tensor"):
        one.source  # noqa: B018


def test_optim_is_a_module():
    assert optim.__name__ == "fusedact.optim" and fusedact.optim is optim
    assert all(hasattr(optim, name) for name in optim.__all__)


def test_the_document():
    """Its Lion is what the paper says."""
    names = pages.run(benches.ROOT / "docs" / "optimizers.md")
    p = torch.tensor([1.0, -2.0], requires_grad=True)
    opt = names["lion"].optimizer([p], lr=0.5, weight_decay=0.1)
    opt([p], [torch.tensor([3.0, -0.1])])
    torch.testing.assert_close(p.detach(), torch.tensor([1 - 0.5 * 1.1, -2 + 0.5 * 1.2]))
    torch.testing.assert_close(opt.state[p]["average"], torch.tensor([0.03, -0.001]))


def test_the_figures_of_the_document():
    """The tables are what the files say."""
    text = (benches.ROOT / "docs" / "optimizers.md").read_text()
    rows = json.loads((benches.ROOT / "bench/results/cpu/optimizers.json").read_text())["rows"]
    for rule in {row["rule"] for row in rows}:
        mine = [row["ms"] for row in rows if row["rule"] == rule]
        for other in [name for name in mine[0] if not name.startswith("fusedact")]:
            ratios = " | ".join(f"{ms[other] / ms['fusedact']:.2f}" for ms in mine)
            assert f"| {rule} | {other} | {ratios} |" in text
    counted = csv.DictReader((benches.ROOT / "bench/results/optimizer_ledger.csv").read_text().splitlines())
    figures = {(r["kernel"], r["dtype"]): float(r["instructions"]) for r in counted if r["target"] == "sm_90"}
    names = {
        "sgd": "SGD",
        "sgd with momentum": "SGD with momentum and decay",
        "classic momentum": "`ClassicMomentum`",
        "adam": "Adam, AdamW",
        "adam, norms": "Adam with norms",
    }
    for kernel, name in names.items():
        wide, half = re.search(rf"\| {re.escape(name)} \| \d+ \| ([\d.]+) \| \d+ \| ([\d.]+) \|", text).groups()
        assert abs(float(wide) - figures[kernel, "fp32"]) <= 0.1 and abs(float(half) - figures[kernel, "bf16"]) <= 0.1
