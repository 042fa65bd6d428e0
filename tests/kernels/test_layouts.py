"""Shapes and strides that bite, and what lies around a result in memory."""

from __future__ import annotations

import math

import oracles
import pytest
import torch

from fusedact.kernels import grids, launch

FLAT = ("forward_kernel", "backward_kernel")
STRIDED = ("forward_strided_kernel", "backward_strided_kernel")
# One template runs them all: of the catalog those by hand that are strict, some others with and without parameters;
# and those of one's own. `test_rows_of_every_activation` has the others.
NAMES = (*oracles.STRICT, "gelu", "hardtanh", *oracles.CHOSEN)
DTYPES = [torch.float32, torch.bfloat16]


def defaults(name):
    return tuple(p.default if p.fixed else p.default + 0.25 for p in oracles.spec(name).parameters)


def assert_as_contiguous(run, name, x, g, kernels, params=None):
    """The results are those of contiguous copies, which the other tests compare with the truth."""
    params = defaults(name) if params is None else params
    expected = run(name, x.clone(memory_format=torch.contiguous_format), params, g.contiguous())
    got = run(name, x, params, g, kernels=kernels)
    like = torch.empty_like(x)
    assert got.y.stride() == got.dx.stride() == like.stride()
    # A GPU's compiler may contract the strided kernel otherwise than the flat one.
    bounds = {"rtol": 0.0, "atol": 0.0} if x.is_cpu else {"rtol": 2 * torch.finfo(x.dtype).eps, "atol": 1e-30}
    torch.testing.assert_close(got.y, expected.y, **bounds)
    torch.testing.assert_close(got.dx, expected.dx, **bounds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(run, name, dtype, device):
    block = grids.block_size(dtype.itemsize, grids.warp_size())
    whole = torch.randn(2 * block + 1, device=device).to(dtype)
    g = torch.randn(2 * block + 1, device=device).to(dtype)
    params = defaults(name)
    reference = run(name, whole, params, g)
    for n in (1, 2, 7, 8, 17, 127, 1009, block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1):
        got = run(name, whole[:n], params, g[:n])
        assert torch.equal(got.y, reference.y[:n]) and torch.equal(got.dx, reference.dx[:n])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (2, 1, 3)], ids=str)
def test_few_elements(run, name, shape, device):
    x, g = torch.randn(shape, device=device), torch.randn(shape, device=device)
    got = run(name, x, defaults(name), g)
    flat = run(name, x.reshape(-1), defaults(name), g.reshape(-1))
    assert got.y.shape == got.dx.shape == shape
    assert torch.equal(got.y.reshape(-1), flat.y) and torch.equal(got.dx.reshape(-1), flat.dx)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)], ids=str)
def test_no_elements(run, name, shape, device):
    spec = oracles.spec(name)
    params = oracles.given(name, oracles.defaults(name))
    x = torch.randn(shape, device=device)
    got = run(name, x, params, torch.randn(shape, device=device), kernels=())
    assert got.y.shape == got.dx.shape == shape
    assert [grad.item() for grad in got.dparams] == [0.0] * len(spec.learnable)


LAYOUTS = {
    "transposed": (lambda x: x.reshape(37, 53).t(), FLAT),
    "permuted": (lambda x: x.reshape(37, 53, 1).permute(2, 1, 0), FLAT),
    "channels_last": (lambda x: x[:1920].reshape(2, 5, 12, 16).to(memory_format=torch.channels_last), FLAT),
    "unaligned": (lambda x: x[1:], FLAT),
    "unaligned rows": (lambda x: x[53:].reshape(36, 53)[1:], FLAT),
    "every other": (lambda x: x[::2], STRIDED),
    "columns": (lambda x: x.reshape(37, 53)[:, 3:50], STRIDED),
    "rows and columns": (lambda x: x.reshape(37, 53)[::3, ::2], STRIDED),
    "one column": (lambda x: x.reshape(37, 53)[:, 7], STRIDED),
    "three dimensions": (lambda x: x[:1944].reshape(9, 12, 18)[1:8, ::3, 2:17].transpose(0, 2), STRIDED),
    "five dimensions": (lambda x: x[:1536].reshape(2, 3, 4, 8, 8)[:, 1:, ::2, 1:, ::3].permute(4, 2, 0, 3, 1), STRIDED),
    "expanded rows": (lambda x: x[:53].expand(37, 53), STRIDED),
    "expanded columns": (lambda x: x[:37, None].expand(37, 53), STRIDED),
    "channel half": (lambda x: x[:1920].reshape(2, 6, 10, 16).chunk(2, dim=1)[1], STRIDED),
    "half of channels_last": (
        lambda x: x[:1920].reshape(2, 6, 10, 16).to(memory_format=torch.channels_last).chunk(2, dim=1)[1],
        STRIDED,
    ),
    "windows": (lambda x: x.unfold(0, 16, 4), STRIDED),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_layouts(run, name, layout, device):
    view, kernels = LAYOUTS[layout]
    x = view(torch.randn(37 * 53, device=device))
    # Autograd hands on a gradient as it came: here with the layout of the output.
    g = torch.empty_like(x).copy_(torch.randn(x.shape, device=device))
    if kernels is STRIDED:
        # A gradient laid out like the input, too.
        assert_as_contiguous(run, name, x, view(torch.randn(37 * 53, device=device)), STRIDED)
    assert_as_contiguous(run, name, x, g, kernels)


@pytest.mark.parametrize("name", [n for n in oracles.NAMES if n not in NAMES])
def test_rows_of_every_activation(run, name, device):
    x, g = (torch.randn(37, 53, device=device)[:, 3:50] for _ in range(2))
    assert_as_contiguous(run, name, x, g, STRIDED)


GRADIENTS = {
    "one number": lambda g: g[0, 0].expand(37, 53),
    "a row": lambda g: g[0].expand(37, 53),
    "a column": lambda g: g[:, :1].expand(37, 53),
    "transposed": lambda g: g.t().contiguous().t(),
    "sliced": lambda g: torch.cat([g, g], 1)[:, ::2],
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_another_layout(run, name, kind, device):
    x = torch.randn(37, 53, device=device)
    g = GRADIENTS[kind](torch.randn(37, 53, device=device))
    assert_as_contiguous(run, name, x, g, ("forward_kernel", "backward_strided_kernel"))
    assert_as_contiguous(run, name, x.t(), g.t(), ("forward_kernel", "backward_strided_kernel"))


def test_gradient_contiguous_by_size_one(run, device):
    """Strides of dimensions with one element say nothing."""
    x = torch.randn(5, 1, 7, device=device)
    g = torch.randn(5, 7, device=device).as_strided((5, 1, 7), (7, 91, 1))
    assert_as_contiguous(run, "hardswish", x, g, FLAT)


def test_many_rows(run, device):
    """More rows than a grid's second dimension could count."""
    x = torch.randn(70_001, 3, device=device, dtype=torch.float16)[:, :2]
    g = torch.randn(70_001, 2, device=device, dtype=torch.float16)
    assert_as_contiguous(run, "relu_sigmoid", x, g, STRIDED)


def test_long_rows(run, device):
    """Several tiles to a row."""
    x = torch.randn(3, 5000, device=device)[:, ::2]
    g = torch.randn(3, 2500, device=device)
    assert_as_contiguous(run, "relu_sigmoid", x, g, STRIDED)


SENTINEL = 777.0


def guarded(shape, strides, dtype, device):
    """A sentinel-filled buffer, and a view into its middle."""
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    buffer = torch.full((span + 256,), SENTINEL, dtype=dtype, device=device)
    return buffer, buffer.as_strided(shape, strides, 128)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 7, 1023, 1025, 4099])
def test_nothing_is_written_around_flat_results(launches, n, dtype, device):
    x = torch.randn(n, device=device).to(dtype)
    for function, params in (("hardswish", ()), ("elu", (torch.tensor(0.5, device=device),))):
        for target in ("out", "dx"):
            buffer, view = guarded((n,), (1,), dtype, device)
            if target == "out":
                launch.forward(function, x, view, params)
            else:
                launch.backward(function, x, x, view, params, tuple(True for _ in params))
            assert not (view == SENTINEL).any()
            assert (buffer[:128] == SENTINEL).all() and (buffer[128 + n :] == SENTINEL).all()
    assert set(launches) == set(FLAT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 5), (8, 1)), ((129, 7), (16, 2)), ((5, 1030), (1100, 1)), ((1030, 5), (1, 1100)), ((3, 4, 5), (60, 1, 6))],
    ids=str,
)
def test_nothing_is_written_around_strided_results(launches, shape, strides, dtype, device):
    """The results' own gaps included."""
    x = torch.randn(shape, device=device).to(dtype)
    for target in ("out", "dx"):
        buffer, view = guarded(shape, strides, dtype, device)
        if target == "out":
            launch.forward("hardswish", x, view, ())
        else:
            launch.backward("hardswish", x, x, view, (), ())
        assert not (view == SENTINEL).any()
        assert (buffer == SENTINEL).sum() == buffer.numel() - math.prod(shape)
    assert launches == list(STRIDED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", ["flat", "strided"])
def test_partial_sums_stay_in_their_places(kernel, dtype, device, launches, monkeypatch):
    """Every program writes its sum, and nothing beyond."""
    n = 3 * grids.block_size(dtype.itemsize, grids.warp_size()) + 5
    x, g = torch.randn(n, 2, device=device).to(dtype).t()
    g = g.contiguous()
    if kernel == "flat":
        x = x.contiguous()
    new_empty, buffers = torch.Tensor.new_empty, []

    def guarded_new_empty(self, size, **options):
        if options.get("dtype") is not torch.float32 or not isinstance(size, tuple):
            return new_empty(self, size, **options)
        buffers.append(torch.full((math.prod(size) + 64,), SENTINEL, device=device))
        return buffers[-1][32:-32].view(size)

    monkeypatch.setattr(torch.Tensor, "new_empty", guarded_new_empty)
    partials = launch.backward("elu", g, x, None, (torch.ones(1, device=device),), (True,))
    (buffer,) = buffers
    assert launches == [(FLAT if kernel == "flat" else STRIDED)[1]]
    assert partials.shape[1] >= 4 and not (partials == SENTINEL).any()
    assert (buffer[:32] == SENTINEL).all() and (buffer[-32:] == SENTINEL).all()
