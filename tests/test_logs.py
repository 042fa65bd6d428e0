"""`log_activation` and `log_to_console`: the lines, word for word, and that nothing else changes."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import fusedact
from fusedact.watching import logs


@pytest.fixture(autouse=True)
def _logger():
    """The logger as it was."""
    logger = logging.getLogger("fusedact")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture
def lines(caplog, monkeypatch):
    """What was logged so far, where each call takes two milliseconds."""
    seconds = iter(0.002 * i for i in range(10**6))
    monkeypatch.setattr(logs.time, "perf_counter", lambda: next(seconds))
    caplog.set_level(logging.INFO, "fusedact")
    messages: list[str] = []
    caplog.handler.addFilter(lambda record: messages.append(record.getMessage()) or True)
    yield messages
    caplog.handler.filters.clear()


X = torch.tensor([[-1.0, 1.0], [2.0, 4.0]])


def test_a_function(lines):
    @fusedact.log_activation
    def shifted(x):
        """As it was."""
        return torch.relu(x)

    x = X.clone().requires_grad_()
    y = shifted(x)
    assert torch.equal(y, torch.relu(X)) and shifted.__name__ == "shifted" and shifted.__doc__ == "As it was."
    assert lines == ["shifted #1: (2, 2) float32 cpu, 2 ms, mean 1.75, std 1.479"]
    (y * torch.tensor([1.0, 2.0])).sum().backward()
    assert lines[1:] == ["shifted #1 backward: (2, 2) float32 cpu, mean 1.5, std 0.5"]
    assert torch.equal(x.grad, torch.tensor([[0.0, 2.0], [1.0, 2.0]]))


def test_every_name_logger_level_and_no_gradients(caplog):
    caplog.set_level(logging.DEBUG, "elsewhere")
    act = fusedact.log_activation(every=3, name="mine", logger="elsewhere", level=logging.DEBUG, gradients=False)(
        torch.relu
    )
    for _ in range(7):
        act(X.clone().requires_grad_()).sum().backward()
    assert [r.args[0].split(":")[0] for r in caplog.records] == ["mine #1", "mine #4", "mine #7"]
    assert {(r.name, r.levelno) for r in caplog.records} == {("elsewhere", logging.DEBUG)}


def test_records_hold_the_figures(lines, caplog):
    fusedact.log_activation(fusedact.functional.elu)(X)
    (record,) = caplog.records
    assert record.activation["name"] == "elu" and record.activation["shape"] == (2, 2)
    assert record.activation["dtype"] is torch.float32 and record.activation["call"] == 1
    assert record.activation["mean"] == pytest.approx(fusedact.functional.elu(X).mean().item())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))

    @fusedact.log_activation(every=2)
    def forward(self, x):
        return x * self.scale


def test_a_forward_counts_for_each_module(lines):
    one, other = Scaled(), Scaled()
    for module in (one, other, one, other, one):
        module(X)
    assert [line.split(":")[0] for line in lines] == ["Scaled #1", "Scaled #1", "Scaled #3"]
    assert list(copy.deepcopy(one).state_dict()) == ["scale"]


def test_a_class(lines):
    @fusedact.log_activation
    class Halved(nn.Module):
        def forward(self, x):
            return x / 2

    net = nn.Sequential(Halved(), nn.ReLU())
    net(X)
    assert [line.split(",")[0] for line in lines] == ["Halved #1: (2"] and isinstance(net[0], Halved)


def test_a_module(lines):
    net = nn.Sequential(nn.Linear(2, 2), fusedact.SiLU(), nn.ReLU())
    assert fusedact.log_activation(net[1]) is net[1]
    net(X).sum().backward()
    assert [line.split(":")[0] for line in lines] == ["SiLU #1", "SiLU #1 backward"]
    copy.deepcopy(net)(X)
    with pytest.raises(TypeError):
        net[1](X.int())
    assert lines[-1].startswith("SiLU: TypeError on (2, 2) int32 cpu: fusedact.functional.silu: input must have dtype")
    lines.clear()
    net(X)
    assert lines[-1].startswith("SiLU #3: (2, 2) float32")


def test_exceptions_go_on(lines):
    error = ValueError("as expected")

    @fusedact.log_activation(every=100)
    def fails(x, scale):
        raise error

    with pytest.raises(ValueError, match="as expected") as raised:
        fails(X.bfloat16(), scale=torch.ones(3))
    assert raised.value is error
    assert lines == ["fails: ValueError on (2, 2) bfloat16 cpu, (3,) float32 cpu: as expected"]
    with pytest.raises(ValueError, match="as expected"):
        fails(1, 2)
    assert lines[1] == "fails: ValueError on no tensor: as expected"


def test_nothing_is_computed_where_nothing_is_logged(monkeypatch):
    logging.getLogger("fusedact").setLevel(logging.WARNING)
    monkeypatch.setattr(logs.figures, "moments", lambda _: pytest.fail("computed"))
    fusedact.log_activation(torch.relu)(X.clone().requires_grad_()).sum().backward()


def test_what_is_no_float(lines):
    fusedact.log_activation(torch.sign)(X.int())
    fusedact.log_activation(lambda x: (x, "more"))(X)
    fusedact.log_activation(lambda x: None)(X)
    assert lines == ["sign #1: (2, 2) int32 cpu, 2 ms", "<lambda> #1: (2, 2) float32 cpu, 2 ms, mean 1.5, std 1.803"]
    fusedact.log_activation(torch.relu)(torch.empty(0, 3))
    fusedact.log_activation(torch.relu)(torch.empty(2, 3, device="meta"))
    assert lines[2:] == ["relu #1: (0, 3) float32 cpu, 2 ms, mean nan, std nan", "relu #1: (2, 3) float32 meta, 2 ms"]


def test_without_gradients(lines):
    act = fusedact.log_activation(torch.relu)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            act(X)
    assert [line.split(":")[0] for line in lines] == ["relu #1", "relu #2"]


def test_a_leaf_keeps_no_hook(lines):
    x = X.clone().requires_grad_()
    y = fusedact.log_activation(lambda x: x)(x)
    assert y is x and not x._backward_hooks


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_logs_once(lines, reentrant):
    act = fusedact.log_activation(torch.sigmoid)
    x = X.clone().requires_grad_()
    checkpoint(lambda x: act(x * 2) * 3, x, use_reentrant=reentrant).sum().backward()
    assert [line.split(":")[0] for line in lines] == ["sigmoid #1", "sigmoid #1 backward"]
    assert lines[1].endswith("mean 3, std 0")
    expected = 6 * torch.sigmoid(2 * X) * (1 - torch.sigmoid(2 * X))
    torch.testing.assert_close(x.grad, expected)


def test_compiled_code_logs_nothing_and_does_not_break(lines):
    torch.compiler.reset()
    act = fusedact.log_activation(torch.relu)
    net = nn.Sequential(Scaled(), nn.ReLU())
    fusedact.log_activation(net[1])
    compiled = torch.compile(lambda x: net(act(x) + 1), backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), 2 * (torch.relu(X) + 1)) and lines == []


def test_transforms(lines):
    act = fusedact.log_activation(torch.tanh)
    plain = vmap(grad(lambda x: torch.tanh(x).sum()))(X)
    assert torch.equal(vmap(grad(lambda x: act(x).sum()))(X), plain)
    mean = torch.tanh(X).mean().item()
    assert lines == [
        f"tanh #1: (2,) float32 cpu, 2 ms, mean {mean:.4g}, std {torch.tanh(X).std(correction=0).item():.4g}"
    ]


def test_no_graph_is_kept(lines):
    refs = []

    @fusedact.log_activation
    def act(x):
        y = torch.exp(x)
        refs.append(weakref.ref(y))
        return y

    y = act(X.clone().requires_grad_())
    y.sum().backward()
    del y
    gc.collect()
    assert refs[0]() is None


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": "2"}, TypeError, "every must be an int, got str"),
        ({"name": 3}, TypeError, "name must be a string, got int"),
        ({"logger": 3}, TypeError, "logger must be a logging.Logger or its name, got int"),
        ({"level": "INFO"}, TypeError, "level must be an int such as logging.INFO, got str"),
    ],
    ids=str,
)
def test_errors(arguments, error, text):
    with pytest.raises(error) as raised:
        fusedact.log_activation(**arguments)
    assert str(raised.value) == f"fusedact.log_activation: {text}"


@pytest.mark.parametrize(("target", "got"), [(3, "int"), (dict, "the class dict")])
def test_other_targets(target, got):
    with pytest.raises(TypeError) as raised:
        fusedact.log_activation(target)
    assert str(raised.value) == (
        f"fusedact.log_activation: target must be a function, a module or a class of modules, got {got}"
    )


def test_to_the_console(capsys):
    act = fusedact.log_activation(torch.relu)
    act(X)
    assert capsys.readouterr().err == ""
    for _ in range(3):
        fusedact.log_to_console()
    act(X)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fusedact INFO: relu #2: (2, 2) float32 cpu, ") and line.endswith("mean 1.75, std 1.479")
    fusedact.log_to_console(logging.WARNING)
    act(X)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match=r"log_to_console: level must be an int such as logging\.INFO, got str"):
        fusedact.log_to_console("INFO")
