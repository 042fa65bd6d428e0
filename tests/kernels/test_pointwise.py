"""Any pointwise function of n tensors to m, through its launcher: values, sums, layouts, and what stays untouched."""

from __future__ import annotations

import math
import threading

import pytest
import torch
import triton
import triton.language as tl

from fusedact.kernels import device_functions, grids, launch
from fusedact.kernels.launch_pointwise import block_size, pointwise

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SENTINEL = 777.0


@triton.jit
def cube(values, params, precise: tl.constexpr):
    """x^3."""
    return (values[0] * values[0] * values[0],), ()


@triton.jit
def mixed(values, params, precise: tl.constexpr):
    """u v + a w and b u w - c, with the parts of d/da, d/db and d/dc; the last one is none."""
    u, v, w = values
    return (u * v + params[0] * w, params[1] * u * w - params[2]), (u * w, v * w, 0.0)


@triton.jit
def spread(values, params, precise: tl.constexpr):
    """u + v, a u v and u - a, with the part u v."""
    u, v = values
    return (u + v, params[0] * u * v, u - params[0]), (u * v,)


@triton.jit
def told(values, params, precise: tl.constexpr):
    """1 where the function is told to be precise, else 0."""
    return (tl.zeros_like(values[0]) + (1.0 if precise else 0.0),), ()


@triton.jit
def constants(values, params, precise: tl.constexpr):
    """0 and a, for any x, with the part 1 / x of d/da and the part 2 of d/db."""
    return (0.0, params[0]), (1.0 / values[0], 2.0)


# The device function, how many tensors it takes and gives, how many parameters, and the same in float64.
FUNCTIONS = {
    "cube": (cube, 1, 1, 0, lambda u: ((u**3,), ())),
    "mixed": (mixed, 3, 2, 3, lambda u, v, w, a, b, c: ((u * v + a * w, b * u * w - c), (u * w, v * w, 0 * u))),
    "spread": (spread, 2, 3, 1, lambda u, v, a: ((u + v, a * u * v, u - a), (u * v,))),
    "constants": (constants, 1, 2, 2, lambda u, a, b: ((0 * u, a), (1 / u, 2 + 0 * u))),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


def parameters(count, kind, channels, device):
    """Numbers, tensors of one element, tensors of one per channel, or one of each."""
    kinds = ["channel", "pointer", "number"] if kind == "each" else [kind] * 3
    made = {
        "number": lambda i: 0.5 * i - 0.75,
        "pointer": lambda i: torch.tensor([0.5 * i - 0.75], device=device),
        "channel": lambda i: torch.linspace(-1.5 + i, 2, channels, device=device),
    }
    return tuple(made[kinds[i]](i) for i in range(count))


def wide(p, x, channel_dim):
    """A parameter in float64, shaped to broadcast with x."""
    if isinstance(p, float) or p.numel() == 1:
        return torch.as_tensor(p, dtype=torch.float64).reshape(()).cpu()
    return p.cpu().double().reshape([-1 if d == channel_dim % x.dim() else 1 for d in range(x.dim())])


def assert_right(name, inputs, outputs, params, needed, channel_dim=None):
    """Outputs within half a unit of halves and a few of fp32, sums within what fp32 terms and their sum may lose."""
    function, *_, formula = FUNCTIONS[name]
    partials = pointwise(function, name, inputs, outputs, params, needed, channel_dim)
    x = inputs[0]
    expected, parts = formula(*(t.cpu().double() for t in inputs), *(wide(p, x, channel_dim) for p in params))
    for got, value in zip(outputs, expected, strict=True):
        if got is not None:
            rtol = max(torch.finfo(got.dtype).eps / 2, 2**-20)
            torch.testing.assert_close(got.cpu().double(), value.expand(x.shape), rtol=1.01 * rtol, atol=2**-18)
    if not any(needed):
        assert partials is None
        return None
    counted = launch._counted(params, x, channel_dim)
    assert partials.dtype == FP32 and partials.shape[0] == len(params)
    assert partials.dim() == (2 if channel_dim is None else 3)
    for got, terms in (pair for pair, wanted in zip(zip(partials, parts, strict=True), needed, strict=True) if wanted):
        if counted is None:
            total, scale = terms.sum(), terms.abs().sum()
            got = got.cpu().sum()
        else:
            others = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
            total, scale = (terms.sum(others), terms.abs().sum(others)) if others else (terms, terms.abs())
            got = got.cpu().sum(0)
        assert ((got.double() - total).abs() <= 2**-18 * scale + 1e-30).all()
    return partials


def drawn(name, shape, view, dtype, device, out_dtypes=None):
    """Inputs of a layout, and dense outputs."""
    _, n, m, *_ = FUNCTIONS[name]
    inputs = [view(torch.randn(shape, device=device).to(dtype)) for _ in range(n)]
    dtypes = out_dtypes or [dtype] * m
    return inputs, [torch.empty_like(inputs[0], dtype=dtypes[i % len(dtypes)]) for i in range(m)]


# A shape in memory order, a function of it to the tensor, the channels' dimension, and the kernel that serves it.
FLAT, STRIDED = "pointwise_kernel", "pointwise_strided_kernel"
LAYOUTS = {
    "0-d": ((), lambda t: t, None, FLAT),
    "one": ((1,), lambda t: t, 0, FLAT),
    "a prime": ((1009,), lambda t: t, 0, FLAT),
    "a whole block": ((4, 1024), lambda t: t, 1, FLAT),
    "one more": ((4097,), lambda t: t, None, FLAT),
    "primes": ((7, 11, 13), lambda t: t, 1, FLAT),
    "transposed": ((33, 40), lambda t: t.t(), 1, FLAT),
    "channels_last": ((3, 20, 5, 4), lambda t: t.to(memory_format=torch.channels_last), 1, FLAT),
    "NHWC": ((3, 5, 4, 20), lambda t: t, 3, FLAT),
    "NHWC, permuted": ((3, 5, 4, 20), lambda t: t.permute(0, 3, 1, 2), -3, FLAT),
    "columns": ((30, 64), lambda t: t[:, ::2], 1, STRIDED),
    "sliced": ((5, 9, 17), lambda t: t[1:, 2:7, 3:], 1, STRIDED),
    "sliced, rows": ((60, 48), lambda t: t[::3], 0, STRIDED),
    "half of channels_last": (
        (3, 12, 5, 6),
        lambda t: t.to(memory_format=torch.channels_last).chunk(2, dim=1)[1],
        1,
        STRIDED,
    ),
    "expanded": ((1, 30, 8), lambda t: t.expand(4, 30, 8), 1, STRIDED),
    "one number": ((1, 1), lambda t: t.expand(40, 37), 1, STRIDED),
    "an odd step of an image": ((2, 6, 9, 10), lambda t: t[:, 1:, 1:8, ::3], 1, STRIDED),
}


@functions
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["number", "pointer"])
def test_layouts(name, layout, kind, launches, device):
    shape, view, _, kernel = LAYOUTS[layout]
    inputs, outputs = drawn(name, shape, view, FP32, device)
    params = parameters(FUNCTIONS[name][3], kind, 1, device)
    assert_right(name, inputs, outputs, params, (kind == "pointer",) * len(params))
    assert launches == [kernel]


@pytest.mark.parametrize("name", ["mixed", "spread", "constants"])
@pytest.mark.parametrize("layout", [k for k, (*_, dim, _) in LAYOUTS.items() if dim is not None])
@pytest.mark.parametrize("kind", ["channel", "each"])
@pytest.mark.parametrize("summed", [True, False], ids=["summed", "not summed"])
def test_channels(name, layout, kind, summed, launches, device):
    shape, view, channel_dim, _ = LAYOUTS[layout]
    inputs, outputs = drawn(name, shape, view, FP32, device)
    channels = inputs[0].shape[channel_dim]
    params = parameters(FUNCTIONS[name][3], kind, channels, device)
    partials = assert_right(name, inputs, outputs, params, (summed,) * len(params), channel_dim)
    assert launches == [FLAT if channels == 1 else "pointwise_channel_kernel" if summed else STRIDED]
    assert not summed or partials.shape[2] == channels


DTYPES = [
    (FP16, [FP16]),
    (BF16, [BF16]),
    (BF16, [FP32, BF16]),
    (FP32, [BF16, FP32]),
    (FP16, [FP32]),
    (FP32, [FP16, BF16, FP32]),
]


@functions
@pytest.mark.parametrize(("dtype", "out_dtypes"), DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["one more", "channels_last", "sliced"])
def test_dtypes(name, dtype, out_dtypes, layout, device):
    shape, view, channel_dim, _ = LAYOUTS[layout]
    inputs, outputs = drawn(name, shape, view, dtype, device, out_dtypes)
    kind = "pointer" if channel_dim is None else "channel"
    params = parameters(FUNCTIONS[name][3], kind, 1 if channel_dim is None else inputs[0].shape[channel_dim], device)
    assert_right(name, inputs, outputs, params, (True,) * len(params), channel_dim)


@pytest.mark.parametrize("channel_dim", [None, 1])
def test_inputs_of_several_dtypes_and_layouts(channel_dim, launches, device):
    """Each is read by its own strides: dense, broadcast along some dimension, transposed, unaligned."""
    u = torch.randn(5, 24, 36, device=device)
    v = torch.randn(1, 24, 1, device=device).to(BF16).expand(5, 24, 36)
    w = torch.randn(36 * 24 * 5 + 1, device=device).to(FP16)[1:].view(36, 24, 5).transpose(0, 2)
    outputs = [torch.empty_like(u), torch.empty_like(u, dtype=BF16)]
    params = parameters(3, "each" if channel_dim else "pointer", 24, device)
    for inputs in ((u, v, w), (v, w, u), (w, u, v)):
        assert_right("mixed", inputs, outputs, params, (True, True, False), channel_dim)
    assert launches == [STRIDED if channel_dim is None else "pointwise_channel_kernel"] * 3


def test_inputs_need_not_be_dense_where_outputs_are(launches, device):
    """Equal strides of the inputs are no layout of the outputs."""
    inputs = [torch.randn(30, 64, device=device)[:, ::2] for _ in range(3)]
    params = parameters(3, "pointer", 1, device)
    assert_right("mixed", inputs, (None, None), params, (True, True, True))
    assert launches == [STRIDED]


def test_many_rows(launches, device):
    inputs, outputs = drawn("spread", (70_001, 5), lambda t: t[:, 1:4], BF16, device)
    assert_right("spread", inputs, outputs, (torch.tensor([0.25], device=device),), (True,))
    assert launches == [STRIDED]


@pytest.mark.parametrize("layout", ["a prime", "sliced", "NHWC"])
@pytest.mark.parametrize("kept", [(0,), (1,), ()], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_outputs_that_are_none(layout, kept, channels, device):
    """Nothing is written to an input, and the others are as ever."""
    shape, view, channel_dim, _ = LAYOUTS[layout]
    inputs, outputs = drawn("mixed", shape, view, FP32, device)
    channel_dim = channel_dim if channels else None
    params = parameters(3, "channel" if channels else "pointer", inputs[0].shape[channel_dim or 0], device)
    before = [t.clone() for t in inputs]
    some = [t if i in kept else None for i, t in enumerate(outputs)]
    sums = assert_right("mixed", inputs, some, params, (True, True, True), channel_dim)
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))
    full = assert_right("mixed", inputs, outputs, params, (True, True, True), channel_dim)
    torch.testing.assert_close(sums.sum(1), full.sum(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (True, True, True)], ids=str)
@pytest.mark.parametrize("channel_dim", [None, 1, 2])
def test_sums_that_are_not_needed(needed, channel_dim, device):
    inputs, outputs = drawn("mixed", (4, 20, 30), lambda t: t, FP32, device)
    channels = 1 if channel_dim is None else inputs[0].shape[channel_dim]
    params = parameters(3, "pointer" if channel_dim is None else "each", channels, device)
    assert_right("mixed", inputs, outputs, params, needed, channel_dim)


def test_no_elements(launches, device):
    for shape in ((0,), (0, 6), (3, 6, 0)):
        inputs, outputs = drawn("spread", shape, lambda t: t, FP32, device)
        for p, channel_dim in ((0.5, None), (torch.ones(6, device=device), 1 if len(shape) > 1 else None)):
            assert pointwise(spread, "spread", inputs, outputs, (p,), (False,), channel_dim) is None
            partials = pointwise(spread, "spread", inputs, outputs, (p,), (True,), channel_dim)
            assert partials.sum() == 0
            assert partials.shape == ((1, 1) if channel_dim is None or isinstance(p, float) else (1, 1, 6))
    assert launches == []


@pytest.mark.parametrize(("shape", "channel_dim"), [((4999,), None), ((1100, 20), 1), ((12, 3, 9, 20), 1)], ids=str)
def test_the_same_bits_every_time(shape, channel_dim, device):
    inputs, outputs = drawn("mixed", shape, lambda t: t, BF16, device)
    channels = 1 if channel_dim is None else shape[channel_dim]
    params = parameters(3, "pointer" if channel_dim is None else "each", channels, device)
    first = assert_right("mixed", inputs, outputs, params, (True,) * 3, channel_dim)
    again = [torch.empty_like(t) for t in outputs]
    second = pointwise(mixed, "mixed", inputs, again, params, (True,) * 3, channel_dim)
    assert torch.equal(first, second) and first.shape[1] > 1
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))


@pytest.mark.parametrize(
    "view", [lambda t: t, lambda t: t[:, ::2], lambda t: t.t()], ids=["flat", "gaps", "transposed"]
)
def test_an_output_may_be_an_input(view, launches, device):
    """Each element is read before it is written, and what lies in the gaps stays."""
    memory = [torch.randn(40, 50, device=device) for _ in range(2)]
    before = [t.clone() for t in memory]
    u, v = map(view, memory)
    expected = u + v, 0.5 * u * v
    pointwise(spread, "spread", (u, v), (u, v, None), (0.5,), (False,))
    torch.testing.assert_close((u, v), expected)
    assert launches == [FLAT if u.numel() == 2000 else STRIDED]
    if u.numel() < 2000:
        assert all(torch.equal(t[:, 1::2], b[:, 1::2]) for t, b in zip(memory, before, strict=True))


@pytest.mark.parametrize(
    ("shape", "strides", "channel_dim"),
    [
        ((1003,), (1,), None),
        ((33, 57), (57, 1), None),
        ((33, 57), (1, 33), 1),
        ((3, 5, 7), (35, 7, 1), 1),
        ((3, 5, 7), (35, 1, 5), 1),
        ((5, 2100), (2100, 1), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("offset", [128, 129])
@pytest.mark.parametrize("layout", ["dense", "strided"])
def test_nothing_is_written_around_the_results(shape, strides, channel_dim, offset, layout, device, guarded_sums):
    """Neither around the outputs, of which every element is written, nor around the sums."""
    n = math.prod(shape)
    step = 1 if layout == "dense" else 2
    inputs = [torch.randn(n * step, device=device).as_strided(shape, [step * s for s in strides]) for _ in range(3)]
    buffers = [torch.full((n + 256,), SENTINEL, dtype=dtype, device=device) for dtype in (FP32, BF16)]
    outputs = [buffer.as_strided(shape, strides, offset) for buffer in buffers]
    params = parameters(3, "pointer" if channel_dim is None else "channel", shape[channel_dim or 0], device)
    partials = assert_right("mixed", inputs, outputs, params, (True,) * 3, channel_dim)
    for buffer, out in zip(buffers, outputs, strict=True):
        assert not (out == SENTINEL).any() and (buffer == SENTINEL).sum() == 256
    assert not partials.isinf().any()
    (sums,) = guarded_sums
    assert sums[:32].isinf().all() and sums[-32:].isinf().all()


def test_precise(device):
    """By default where an output has fp32; where none is written, where an input has."""
    for dtype, out, asked, expected in (
        (FP32, FP32, None, 1),
        (BF16, FP32, None, 1),
        (FP32, BF16, None, 0),
        (BF16, BF16, True, 1),
        (FP32, FP32, False, 0),
    ):
        x = torch.ones(20, dtype=dtype, device=device)
        y = torch.empty_like(x, dtype=out)
        pointwise(told, "told", (x,), (y,), (), (), precise=asked)
        assert (y == expected).all()


def test_block_size():
    """A power of two that leaves each thread whole 16-byte accesses of the widest elements."""
    for dtypes in ([FP32] * 2, [BF16] * 4, [FP32] * 5, [BF16] * 12, [BF16, BF16, FP32]):
        for warp_size in (32, 64):
            tensors = [torch.empty(1, dtype=dtype) for dtype in dtypes]
            block = block_size(tensors, warp_size)
            assert block & (block - 1) == 0
            per_thread = block * max(t.element_size() for t in tensors) // (grids.NUM_WARPS * warp_size)
            assert per_thread == (16 if len(tensors) > 4 else 32)


# ----- device functions made known at run time


@triton.jit
def scaled(x, params, precise: tl.constexpr):
    """a x."""
    return params[0] * x


@triton.jit
def scaled_backward(g, x, params, precise: tl.constexpr):
    """d/dx = a, d/da = x."""
    return g * params[0], (g * x,)


@pytest.fixture
def registry_alone(monkeypatch):
    monkeypatch.setattr(device_functions, "_registered", {})


@pytest.mark.usefixtures("registry_alone")
def test_registered_functions_run(device):
    assert not device_functions.registered("scaled_0")
    device_functions.register("scaled_0", forward=scaled, backward=scaled_backward, double_backward=mixed)
    assert device_functions.registered("scaled_0") and not device_functions.registered("scaled_1")
    assert device_functions.named("scaled_0_double_backward") is mixed
    x, g = torch.randn(500, device=device), torch.randn(500, device=device)
    out, dx, a = torch.empty_like(x), torch.empty_like(x), torch.tensor([1.5], device=device)
    launch.forward("scaled_0", x, out, (a,))
    partials = launch.backward("scaled_0", g, x, dx, (a,), (True,))
    assert torch.equal(out, 1.5 * x) and torch.equal(dx, 1.5 * g)
    torch.testing.assert_close(partials.sum(), (g * x).sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("registry_alone")
def test_the_first_registration_counts():
    device_functions.register("twice", forward=scaled, backward=scaled_backward)
    device_functions.register("twice", forward=cube, backward=cube, double_backward=cube)
    assert device_functions.named("twice") is scaled and device_functions.named("twice_backward") is scaled_backward
    with pytest.raises(KeyError):
        device_functions.named("twice_double_backward")
    with pytest.raises(TypeError, match="backwards"):
        device_functions.register("typo", forward=scaled, backwards=scaled_backward)
    assert not device_functions.registered("typo")
    # A function that the library has comes first.
    device_functions.register("elu", forward=cube)
    assert device_functions.named("elu") is not cube


@pytest.mark.usefixtures("registry_alone")
def test_registrations_from_many_threads():
    """Every thread finds all of what any one thread has put there."""
    pairs = [(object(), object()) for _ in range(8)]
    start, seen = threading.Barrier(len(pairs)), []

    def work(pair):
        start.wait()
        for i in range(200):
            device_functions.register(f"f{i}", forward=pair[0], backward=pair[1])
            seen.append((i, device_functions.named(f"f{i}"), device_functions.named(f"f{i}_backward")))

    threads = [threading.Thread(target=work, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1600 and len(set(seen)) == 200
    assert {(forward, backward) for _, forward, backward in seen} <= set(pairs)
