"""What `memory_report` says of models whose memory is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fusedact
from fusedact.saving import saving


def report(*layers, shape=(32, 16), **options):
    return fusedact.memory_report(nn.Sequential(*layers), torch.randn(*shape), **options)


ONE = 32 * 64 * 4


def between(after, act=None):
    """The report of an activation on 32 by 64 numbers, with something behind it."""
    found = report(nn.Linear(16, 64), act or fusedact.ELU(), after)
    (row,) = found.rows
    assert row.name == "1"
    return row


def frozen():
    layer = nn.Linear(64, 8)
    for p in layer.parameters():
        p.requires_grad_(False)
    return layer


class Residual(nn.Module):
    def forward(self, x):
        return x + 1.0


@pytest.mark.parametrize(
    ("after", "keeps"),
    [
        (nn.Linear(64, 8), True),
        (nn.LayerNorm(64), True),
        (nn.BatchNorm1d(64), True),
        (frozen(), False),
        (nn.Dropout(0.5), False),
        (Residual(), False),
    ],
    ids=["linear", "layer norm", "batch norm", "frozen linear", "dropout", "residual sum"],
)
def test_whether_the_next_layer_keeps_the_output(after, keeps):
    row = between(after)
    assert row.output_kept is keeps
    assert row.kept == {"auto": ONE, "input": ONE, "output": 0 if keeps else ONE, "bits": 0 if keeps else ONE}
    assert row.best == ("output" if keeps else "auto")


@pytest.mark.parametrize(
    ("act", "kept"),
    [
        (fusedact.SiLU(), {"auto": ONE, "input": ONE, "output": ONE // 32, "bits": ONE // 32}),
        (fusedact.LeakyReLU(), {"auto": ONE, "input": ONE, "output": 0, "bits": ONE // 32}),
        (fusedact.ReLU(), {"auto": 0, "input": ONE, "output": 0, "bits": ONE // 32}),
        (fusedact.Snake(), dict.fromkeys(saving.POLICIES, ONE)),
        (fusedact.Identity(), dict.fromkeys(saving.POLICIES, 0)),
    ],
    ids=lambda a: getattr(getattr(a, "spec", None), "name", ""),
)
def test_bytes_of_each_policy(act, kept):
    with fusedact.backend("eager"):
        assert between(nn.Linear(64, 8), act).kept == kept


def test_totals():
    found = report(nn.Linear(16, 64), fusedact.ELU(), nn.Linear(64, 8))
    assert found.totals == {p: 32 * 16 * 4 + ONE * (1 + (p in ("auto", "input"))) for p in saving.POLICIES}
    assert "8 KiB less" in str(found)


@pytest.mark.parametrize("name", ["relu_sigmoid", "elu", "gelu", "silu"])
def test_a_transformer_block(name):
    """What is kept between the MLP's two products: half of what PyTorch's operators keep, or nearly."""

    class Block(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.norm = nn.LayerNorm(512)
            self.up, self.act, self.down = nn.Linear(512, 2048), act, nn.Linear(2048, 512)

        def forward(self, x):
            return x + self.down(self.act(self.up(self.norm(x))))

    x = torch.randn(4, 16, 512)
    with fusedact.backend("eager"):
        found = fusedact.memory_report(Block(fusedact.create(name)), x)
    one = x.numel() * 4 * 4
    mlp = {p: one + found.rows[0].kept[p] for p in saving.POLICIES}
    bits = one // 32 if name in ("gelu", "silu") else 0
    assert (mlp["auto"], mlp["output"]) == (2 * one, one + bits)
    assert mlp["output"] <= (0.60 if bits else 0.55) * mlp["auto"]


def test_a_convolutional_network():
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), fusedact.ReLU6(), nn.Conv2d(8, 8, 3), fusedact.Hardswish(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(288, 10)),
    )
    first, second = fusedact.memory_report(net, torch.randn(2, 3, 16, 16)).rows
    assert first.kept["output"] == 0 and first.kept["bits"] == 2 * 8 * 14 * 14 // 8
    assert second.kept["output"] == 2 * 8 * 12 * 12 // 8


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), fusedact.ELU(save="output"), nn.Dropout(0.5))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    fusedact.memory_report(net, torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    drawn = torch.rand(3)
    torch.manual_seed(3)
    torch.testing.assert_close(torch.rand(3), drawn)
    for k, v in net.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)
    assert net[2].save == "output"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_a_module_that_is_called_twice():
    act = fusedact.ELU()
    found = report(nn.Linear(16, 64), act, nn.Linear(64, 64), act, nn.Linear(64, 8))
    assert len(found.rows) == 1
    assert found.rows[0].kept == {"auto": 2 * ONE, "input": 2 * ONE, "output": 0, "bits": 0}


@pytest.mark.parametrize("example", [(torch.ones(2, 3),), {"input": torch.ones(2, 3)}, torch.ones(2, 3)], ids=type)
def test_examples(example):
    assert fusedact.memory_report(fusedact.ELU(), example).rows[0].name == "model"


def test_errors():
    with pytest.raises(TypeError, match=r"memory_report: model must be a torch.nn.Module, got function"):
        fusedact.memory_report(fusedact.functional.elu, torch.ones(2))


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report(nn.Linear(16, 64), fusedact.ELU(), nn.Linear(64, 8)).plot(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000
