"""What log_step logs of optimizers' steps."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch

import fusedact
from fusedact import optim


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="fusedact")
    return lambda: [r.getMessage() for r in caplog.records], lambda: [r.optimizer for r in caplog.records]


def stepped(opt, params, steps=5):
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.full(p.shape, 3.0 + i + step)
        opt.step()


@fusedact.log_step(every=2)
@optim.update_rule(state=("velocity",))
def watched(param, grad, velocity, *, lr):
    velocity = 0.5 * velocity - lr * grad
    return param + velocity, velocity


class Own(optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p -= self.param_groups[0]["lr"] * p.grad


def test_a_rule(lines):
    params = [
        torch.ones(4, requires_grad=True),
        torch.ones(20000, requires_grad=True),
        torch.ones((), requires_grad=True),
    ]
    opt = watched.optimizer(params[:2], lr=0.5)
    opt.add_param_group({"params": params[2:]})
    before = [p.detach().clone() for p in params]
    stepped(opt, params, 1)
    moved = math.sqrt(sum((p.detach() - b).double().square().sum().item() for p, b in zip(params, before, strict=True)))
    stepped(opt, params, 4)
    texts, told = lines[0](), lines[1]()
    assert [t["step"] for t in told] == [1, 3, 5] and all(t["tensors"] == 3 for t in told)
    assert told[0]["update_norm"] == pytest.approx(moved, rel=1e-6)
    assert told[0]["gradient_norm"] == pytest.approx(math.sqrt(9 * 4 + 16 * 20000 + 25))
    assert texts[0].startswith("watched #1: 3 tensors, ") and f"update norm {moved:.4g}" in texts[0]
    # A copy is watched as well, and counts anew.
    other = copy.deepcopy(opt)
    stepped(other, [p for g in other.param_groups for p in g["params"]], 1)
    assert lines[1]()[-1]["step"] == 1 and len(lines[1]()) == 4


@pytest.mark.parametrize("what", ["rule", "torch's", "own", "class", "torch's class"])
def test_optimizers_and_classes(lines, what):
    params = [torch.ones(4, requires_grad=True), torch.ones(3, 5, requires_grad=True)]
    if what == "class":
        cls = fusedact.log_step(every=3)(type("Watched", (Own,), {}))
        opt = cls(params, lr=0.1)
    elif what == "torch's class":
        opt = fusedact.log_step(type("Watched", (torch.optim.SGD,), {}), every=3)(params, lr=0.1)
    else:
        made = {"rule": optim.SGD, "torch's": torch.optim.SGD, "own": Own}[what](params, lr=0.1)
        opt = fusedact.log_step(made, every=3, name="mine")
        assert opt is made
    stepped(opt, params)
    told = lines[1]()
    assert [t["step"] for t in told] == [1, 4]
    norm = math.sqrt(9 * 4 + 16 * 15)
    assert told[0]["gradient_norm"] == pytest.approx(norm) and told[0]["update_norm"] == pytest.approx(0.1 * norm)
    assert told[0]["name"] == ("Watched" if "class" in what else "mine") and told[0]["ms"] > 0
    assert all(not hasattr(cls, "step_log") or cls.step_log is None for cls in (optim.SGD, Own))


def test_a_class_of_rules_own(lines):
    """A derived class is watched, and the one that it derives from is not."""
    cls = fusedact.log_step(type("Watched", (optim.Adam,), {}))
    params = [torch.ones(4, requires_grad=True)]
    stepped(cls(params), params, 2)
    stepped(optim.Adam(params), params, 2)
    assert [t["name"] for t in lines[1]()] == ["Watched"] * 2


def test_nothing_is_computed_for_nobody(caplog, monkeypatch):
    caplog.set_level(logging.WARNING, logger="fusedact")
    monkeypatch.setattr(torch.linalg, "vector_norm", None)
    params = [torch.ones(4, requires_grad=True)]
    stepped(fusedact.log_step(optim.Adam(params)), params)
    assert not caplog.records


def test_without_gradients(lines):
    opt = fusedact.log_step(optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1))
    opt.step()
    assert lines[0]() == []


def test_a_step_that_amp_skips(lines):
    p = torch.ones(2, requires_grad=True)
    opt = fusedact.log_step(optim.SGD([p], lr=0.1))
    opt.found_inf = torch.ones(())
    stepped(opt, [p], 1)
    del opt.found_inf
    assert p.tolist() == [1.0, 1.0] and lines[1]()[0]["update_norm"] == 0.0


def test_other_loggers(caplog):
    caplog.set_level(logging.DEBUG, logger="training")
    p = torch.ones(2, requires_grad=True)
    stepped(fusedact.log_step(optim.SGD([p], lr=0.1), logger="training", level=logging.DEBUG), [p], 2)
    assert [(r.name, r.levelno) for r in caplog.records] == [("training", logging.DEBUG)] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 1.5}, TypeError, "every must be an int, got float"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"logger": 3}, TypeError, "logger must be a logging.Logger or its name"),
        ({"level": "INFO"}, TypeError, "level must be an int such as logging.INFO"),
    ],
)
def test_errors(arguments, error, match):
    with pytest.raises(error, match=f"fusedact.log_step: {match}"):
        fusedact.log_step(**arguments)


@pytest.mark.parametrize("target", [3, int, torch.nn.Linear(1, 1)])
def test_wrong_targets(target):
    with pytest.raises(TypeError, match="target must be an update rule, an optimizer or a class of optimizers"):
        fusedact.log_step(every=2)(target)
