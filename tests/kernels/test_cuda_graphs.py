"""A CUDA graph of calls, made after one that warmed up, computes what the calls do. In the interpreter they are called
again instead, which tells that they read their inputs anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fusedact import functional as FF

ROWS, COLUMNS = 8, 96
FORMS = {
    "gelu": lambda x, p: FF.gelu(x),
    "relu_sigmoid": lambda x, p: FF.relu_sigmoid(x, 0.1),
    "swish, learned": lambda x, p: FF.swish(x, p[:1]),
    "prelu, per channel": lambda x, p: FF.prelu(x, p),
    "pwl, learned": lambda x, p: FF.pwl(x, torch.linspace(-2.0, 2.0, 5, device=x.device), p[:5].float()),
    "softmax": lambda x, p: FF.softmax(x, -1),
    "gated": lambda x, p: FF.gated(x, x.flip(1)),
    "packed_glu": lambda x, p: FF.packed_glu(x, layout="gate_value"),
    "bias_act": lambda x, p: FF.bias_act(x, p, "silu"),
    "linear": lambda x, p: FF.linear(x, p.expand(COLUMNS, COLUMNS) / COLUMNS, p, "gelu"),
    "output kept": lambda x, p: FF.leaky_relu(x, save="output"),
    "bits kept": lambda x, p: FF.relu(x, save="bits"),
}


def recorded(work: Callable[[], list[Tensor]], device: str) -> Callable[[], list[Tensor]]:
    """What runs it again, on the same memory: a graph."""
    if device != "cuda":
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()

    def again() -> list[Tensor]:
        graph.replay()
        return results

    return again


@pytest.fixture
def given(device):
    """x, the gradient of the output, and what learns."""
    x, g = (torch.randn(ROWS, COLUMNS, device=device) for _ in range(2))
    return x.requires_grad_(), g, torch.linspace(0.1, 0.9, COLUMNS, device=device).requires_grad_()


def change(*tensors: Tensor) -> None:
    """Other numbers in the same memory."""
    with torch.no_grad():
        for t in tensors:
            t.copy_(torch.randn_like(t).abs() * 0.5 if t.dim() == 1 else torch.randn_like(t))


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_computes_what_calls_do(form, given, device, launches):
    x, g, p = given
    function = FORMS[form]

    def work() -> list[Tensor]:
        y = function(x, p)
        gradients = torch.autograd.grad(y, (x, p), g[:, : y.shape[1]], allow_unused=True)
        return [y.detach(), *(t for t in gradients if t is not None)]

    again = recorded(work, device)
    change(x, g, p)
    replayed = [t.clone() for t in again()]
    assert launches
    for ours, wanted in zip(replayed, work(), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_a_graph_draws_another_mask_each_time(given, device):
    """And its backward takes the mask of its forward."""
    x, g, p = given

    def work() -> list[Tensor]:
        y = FF.bias_act(x, p, "silu", dropout_p=0.5)
        return [y.detach(), *torch.autograd.grad(y, x, g)]

    again = recorded(work, device)
    masks = []
    for _ in range(2):
        y, dx = (t.clone() for t in again())
        assert torch.equal(y != 0, dx != 0)
        assert 0.3 < (y != 0).float().mean().item() < 0.7
        masks.append(y != 0)
    assert not torch.equal(*masks)
