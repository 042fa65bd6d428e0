"""The activations of examples/gallery.py through the kernels that the engine wrote."""

from __future__ import annotations

import example_gallery
import pytest
import torch


@pytest.mark.parametrize("name", example_gallery.ACTIVATIONS)
def test_values_and_gradients(name, device, launches):
    x = torch.linspace(-9, 9, 601, device=device)
    for params in (example_gallery.ACTIVATIONS[name].spec.usual, example_gallery.PARAMETERS[name]):
        launches.clear()
        example_gallery.assert_derived(name, x, params)
        assert launches[:2] == ["forward_kernel", "backward_kernel"]


@pytest.mark.parametrize("name", example_gallery.ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves(name, dtype, device):
    x = torch.linspace(-9, 9, 601, device=device).to(dtype)
    wide = x.float().cpu()
    y, dx = example_gallery.derived(example_gallery.ACTIVATIONS[name], x, (), dtype)
    truth = example_gallery.derived(example_gallery.ACTIVATIONS[name].__wrapped__, wide.double(), (), torch.float64)
    g = torch.linspace(-1, 1, x.numel(), dtype=torch.float64)
    rounded = torch.linspace(-1, 1, x.numel(), dtype=dtype).double()
    torch.testing.assert_close(y, truth[0].to(dtype))
    # The gradient that comes in is rounded.
    slope = torch.where(g == 0, 0.0, truth[1] / g)
    torch.testing.assert_close(dx, (slope * rounded).to(dtype))
