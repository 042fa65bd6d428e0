"""Tensors of more than 2^31 elements, whose places no 32-bit number holds. In the interpreter small ones stand in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedact import compat
from fusedact import functional as FF

COLUMNS = 1024 if not compat.interpreting else 64
# The first row past 2^31 elements, and what comes behind; 3 is no multiple of what a program takes.
BEYOND = 2**31 // COLUMNS if not compat.interpreting else 20
ROWS = BEYOND + (2**10 if not compat.interpreting else 10) + 3
# Six tensors of halves, and what comparing takes.
NEEDED_BYTES = 8 * ROWS * COLUMNS * 2
# Rows that are compared: at the beginning, across 2^31 elements, at the end.
PARTS = [slice(0, 4), slice(BEYOND - 4, BEYOND + 4), slice(ROWS - 4, ROWS)]

# A function of x, of an operand of x's shape where there is one, and of what learns, with an entry for each column.
FORMS = {
    "relu": (lambda x: FF.relu(x), 0, 0),
    "gelu": (lambda x: FF.gelu(x), 0, 0),
    "relu_sigmoid, learned": (lambda x, p: FF.relu_sigmoid(x, p[:1]), 0, 1),
    "swish, per channel": (lambda x, p: FF.swish(x, p, channel_dim=-1), 0, 1),
    "pwl": (lambda x: FF.pwl(x, [-1.0, 0.0, 2.0], [0.5, 0.0, 1.0]), 0, 0),
    "softmax": (lambda x: FF.softmax(x, -1), 0, 0),
    "gated": (lambda x, gate: FF.gated(x, gate), 1, 0),
    "bias_act": (lambda x, p: FF.bias_act(x, p, "silu"), 0, 1),
    "bias_act, residual": (lambda x, r, p: FF.bias_act(x, p, "gelu", r), 1, 1),
    **{
        f"packed_glu, {layout}": (lambda x, layout=layout: FF.packed_glu(x, layout=layout), 0, 0)
        for layout in ("gate_value", "interleaved")
    },
}


@pytest.fixture(scope="module", autouse=True)
def _room(device):
    """Enough memory, and given back at the end."""
    if device == "cuda" and torch.cuda.mem_get_info()[0] < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES / 2**30:.0f} GiB of free memory")
    yield
    if device == "cuda":
        torch.cuda.empty_cache()


def made(rows: int, columns: int, device: str, strided: bool) -> Tensor:
    """Normally distributed halves; strided, a part of each row of a wider tensor."""
    generator = torch.Generator(device).manual_seed(rows)
    width = columns + 16 if strided else columns
    return torch.randn(rows, width, dtype=torch.bfloat16, device=device, generator=generator)[:, :columns]


def both(function, x: Tensor, g: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The value and all gradients."""
    leaves = [t.detach().requires_grad_() for t in (x, *others)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, g)


@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
@pytest.mark.parametrize("form", FORMS)
def test_every_element_is_found(form, strided, device, launches):
    """Each row is what a call with this row alone gives, and nothing is left unwritten."""
    function, operands, learned = FORMS[form]
    x = made(ROWS, COLUMNS, device, strided)
    more = [made(ROWS, COLUMNS, device, strided) for _ in range(operands)]
    parameters = [torch.linspace(0.5, 1.5, COLUMNS, device=device).bfloat16() for _ in range(learned)]
    g = torch.zeros(ROWS, COLUMNS // 2 if "packed" in form else COLUMNS, dtype=torch.bfloat16, device=device)
    for part in PARTS:
        g[part].normal_()
    y, *gradients = both(function, x, g, *more, *parameters)
    assert launches
    elementwise, sums = [y, *gradients[: 1 + operands]], gradients[1 + operands :]
    for t in elementwise:
        # What is not written is NaN.
        assert all(bool(chunk.isfinite().all()) for chunk in t.split(2**18))
    alone = torch.cat([x[part] for part in PARTS]), torch.cat([g[part] for part in PARTS])
    expected = both(function, *alone, *(torch.cat([t[part] for part in PARTS]) for t in more), *parameters)
    for t, one in zip(elementwise, expected[: 2 + operands], strict=True):
        # The same numbers in another kernel, which may contract other products and sums.
        torch.testing.assert_close(torch.cat([t[part] for part in PARTS]), one, rtol=2**-7, atol=1e-5)
    for total, one in zip(sums, expected[2 + operands :], strict=True):
        # Summed in another order, and rounded to bfloat16.
        torch.testing.assert_close(total.float(), one.float(), rtol=2**-7, atol=2**-7 * one.float().abs().max().item())
