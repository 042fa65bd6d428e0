"""The launcher: the second launch goes through the kept kernel, with the very arguments that Triton would pass.

Kernels are compiled for real, for sm_90; a stub driver writes launches down, so no device is needed. The names that
the launcher relies on are private to Triton: run this file against every version of it that is supported.
"""

from __future__ import annotations

import math

import compiling
import pytest
import torch

import fusedact
from fusedact import compat

if why := compiling.why_not():
    pytest.skip(why, allow_module_level=True)

import benches
import triton
import triton.language as tl
from torch.nn import functional as F
from triton.backends.compiler import GPUTarget

from fusedact.kernels import device_functions, elementwise, grids, launch
from fusedact.kernels.launch_pointwise import pointwise
from fusedact.kernels.pointwise import pointwise_kernel

aot, stub_driver = benches.load("aot"), benches.load("stub_driver").stub_driver

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(scope="module")
def cache_directory(tmp_path_factory):
    """Shared by the tests of this file, which compile much the same kernels."""
    return str(tmp_path_factory.mktemp("triton"))


@pytest.fixture
def stub(cache_directory, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", cache_directory)
    with stub_driver(GPUTarget("cuda", 90, 32)) as stub:
        yield stub


@pytest.fixture
def slow_launches(monkeypatch):
    """The kernels that went through Triton's own `kernel[grid](...)`, by name."""
    names = []
    run = triton.JITFunction.run

    def recorded(self, *args, **kwargs):
        names.append(self.__name__)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(triton.JITFunction, "run", recorded)
    return names


def memory(n: int, dtype: torch.dtype = FP32, offset: int = 0) -> torch.Tensor:
    """n elements that start `offset` elements past a multiple of 16 bytes."""
    t = torch.zeros(n + 64, dtype=dtype)
    start = -t.data_ptr() % 16 // t.element_size()
    return t[start + offset : start + offset + n]


def run_forward(n=5000, dtype=FP32, x_offset=0, out_offset=0, params=(1.0,), function="elu"):
    tensors = memory(n, dtype, x_offset), memory(n, dtype, out_offset)
    launch.forward(function, *tensors, params)
    return tensors


def run_backward(n=5000, dtype=FP32, params=(1.0,), needed=(False,), with_dx=True, function="elu"):
    grad, saved, dx = memory(n, dtype), memory(n, dtype), memory(n, dtype)
    partials = launch.backward(function, grad, saved, dx if with_dx else None, params, needed)
    return grad, saved, dx, partials


def same(a, b) -> bool:
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a is b or (type(a) is type(b) and not isinstance(a, torch.Tensor) and a == b)


def assert_same_arguments(first, second, but=()):
    """Position by position, except at those of the kernel's arguments `but`, and at the metadata and hooks.

    Triton passes empty chains of hooks, and metadata for them; what is launched again passes none.
    """
    assert len(first.args) == len(second.args)
    skipped = {6, 7, 8} | {len(first.args) - len(first.kernel_args) + i for i in but}
    pairs = enumerate(zip(first.args, second.args, strict=True))
    assert [(i, a, b) for i, (a, b) in pairs if i not in skipped and not same(a, b)] == []


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize(
    ("function", "params"),
    [
        ("hardswish", ()),
        ("elu", (0.5,)),
        ("relu_sigmoid", (torch.tensor([0.5]),)),
        ("elu", (torch.tensor(0.5).double(),)),
    ],
    ids=["hardswish", "elu-number", "relu_sigmoid-tensor", "elu-float64"],
)
def test_second_forward_is_direct(stub, slow_launches, function, params, dtype):
    x, out = memory(5000, dtype), memory(5000, dtype)
    launch.forward(function, x, out, params)
    assert slow_launches == ["forward_kernel"]
    launch.forward(function, x, out, params)
    assert slow_launches == ["forward_kernel"]
    first, second = stub.launches
    assert_same_arguments(first, second)
    assert second.metadata is first.metadata
    assert second.grid == (-(-5000 // grids.block_size(dtype.itemsize, 32)), 1, 1)
    # No part of the call stays out: the arguments are the kernel's, compile-time ones included.
    assert len(second.kernel_args) == len(elementwise.forward_kernel.arg_names)
    assert second.kernel_args[0] is x and second.kernel_args[1] is out and second.kernel_args[2] == 5000


STEPS = {
    "relu_sigmoid": lambda: fusedact.ReLUSigmoid(0.1),
    "relu_sigmoid, per channel": lambda: fusedact.ReLUSigmoid(0.1, learnable=True, num_parameters=8),
    "prelu": fusedact.PReLU,
    "softmax": lambda: fusedact.Softmax(-1),
    "swiglu": fusedact.SwiGLU,
    "pwl": lambda: fusedact.PWL.from_function("tanh", -3.0, 3.0, 9),
    "pwl, learned": lambda: fusedact.PWL.from_function("tanh", -3.0, 3.0, 9, learnable=True),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_graph_could_capture_the_second_step(stub, slow_launches, monkeypatch, name):
    """It compiles nothing, launches the same kernels, and asks the device for no number."""
    monkeypatch.setattr(compat, "kernels_serve_device", lambda device: "")
    module, x = STEPS[name](), memory(4096).reshape(-1, 8).requires_grad_()
    grids = []

    def step():
        began = len(stub.launches)
        with fusedact.backend("triton"):
            module(x).backward(torch.ones(shape))
        grids.append([launched.grid for launched in stub.launches[began:]])

    with fusedact.backend("triton"), torch.no_grad():
        shape = module(x).shape
    step()
    compiled = list(slow_launches)

    def refuse(self, *args):
        raise AssertionError("a capture cannot wait for the device")

    for asked in ("item", "tolist", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, asked, refuse)
    step()
    assert slow_launches == compiled and compiled
    assert grids[0] == grids[1] and len(grids[0]) >= 2


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_second_backward_is_direct(stub, slow_launches, tensor):
    params = (torch.tensor([0.5]) if tensor else 0.5,)
    grad, saved, dx = memory(5000), memory(5000), memory(5000)
    partials = [launch.backward("elu", grad, saved, dx, params, (tensor,)) for _ in range(2)]
    assert slow_launches == ["backward_kernel"]
    first, second = stub.launches
    for launched, partial in zip((first, second), partials, strict=True):
        kernel_args = launched.kernel_args
        assert kernel_args[0] is grad and kernel_args[1] is saved and kernel_args[2] is dx
        assert kernel_args[3] is (partial if tensor else dx)
        if tensor:
            assert partial.shape == (1, launched.grid[0]) and partial.dtype == FP32
    assert_same_arguments(first, second, but=(3,))


def test_numbers_and_sizes_share_a_kernel(stub, slow_launches):
    """Neither a parameter's value nor n is specialized on: one compilation serves all."""
    for n, alpha in ((1, 1.0), (16, 0.0), (17, 2.5), (4096, -1.0), (100_000, 1e-30)):
        run_forward(n=n, params=(alpha,))
    assert slow_launches == ["forward_kernel"]
    assert [a.kernel_args[2] for a in stub.launches] == [1, 16, 17, 4096, 100_000]
    assert [a.kernel_args[3] for a in stub.launches] == [(1.0,), (0.0,), (2.5,), (-1.0,), (1e-30,)]
    assert len({a.metadata.hash for a in stub.launches}) == 1


def test_what_is_specialized_on_gets_a_kernel_of_its_own(stub, slow_launches):
    """Each of these is compiled differently, so a kept kernel must not serve another."""
    parameter = memory(1)
    variants = [
        {},
        {"x_offset": 1},
        {"out_offset": 1},
        {"x_offset": 1, "out_offset": 1},
        {"dtype": BF16},
        {"dtype": FP16},
        {"params": (), "function": "hardswish"},
        {"function": "relu_sigmoid"},
        {"params": (parameter,)},
        {"params": (memory(1, offset=1),)},
        {"params": (memory(1, BF16),)},
        {"params": (memory(1, torch.float64),)},
    ]
    for variant in variants:
        run_forward(**variant)
    assert len(slow_launches) == len(variants) == len(launch._compiled)
    hashes = [a.metadata.hash for a in stub.launches]
    assert len(set(hashes)) == len(variants)
    # Each comes back for its own kind, without another compilation.
    for variant, expected in zip(variants, hashes, strict=True):
        run_forward(**variant)
        assert stub.launches[-1].metadata.hash == expected
    assert len(slow_launches) == len(variants)


def test_what_backward_is_specialized_on(stub, slow_launches):
    parameter = memory(1)
    variants = [
        {},
        {"dtype": BF16},
        {"params": (parameter,)},
        {"params": (parameter,), "needed": (True,)},
        {"params": (parameter,), "needed": (True,), "with_dx": False},
    ]
    for _ in range(2):
        for variant in variants:
            run_backward(**variant)
    assert slow_launches == ["backward_kernel"] * len(variants)
    hashes = [a.metadata.hash for a in stub.launches]
    assert hashes[: len(variants)] == hashes[len(variants) :]
    assert len(set(hashes)) == len(variants)


class Huge:
    """What the launcher asks of a flat tensor, with a size that no machine need have."""

    device, dtype = torch.device("cpu"), torch.int8

    def __init__(self, n: int):
        self.n = n

    def numel(self) -> int:
        return self.n

    def element_size(self) -> int:
        return 2

    def stride(self) -> tuple[int, ...]:
        return (1,)

    def data_ptr(self) -> int:
        return 1 << 40


def test_sizes_past_32_bits(stub, slow_launches):
    """Triton passes n as 32 or 64 bits wide by its value, and the kernels' keys say which."""
    sizes = (2**31 - 1, 2**31, 2**33 + 5, 4096)
    for n in sizes:
        huge = Huge(n)
        huge.dtype = BF16
        launch.forward("hardswish", huge, huge, ())
    # Two gigabytes are another kernel on AMD, and so another key.
    assert slow_launches == ["forward_kernel"] * 3
    narrow, wide, wider, small = (a.metadata.hash for a in stub.launches)
    assert narrow == small and wide == wider and narrow != wide
    assert [a.grid[0] for a in stub.launches] == [-(-n // 2048) for n in sizes]


CHANNELS = 48
PER_CHANNEL, UNALIGNED = memory(CHANNELS), memory(CHANNELS, offset=1)


def numbered(*shape, dtype=FP32, offset=0):
    """Contiguous memory at a known alignment."""
    return memory(math.prod(shape), dtype, offset).view(shape)


# A tensor, a parameter, and the channels' dimension. Integers that are 1 are not passed to the kernel.
STRIDED = {
    "columns": (numbered(64, 160)[:, ::2], 0.5, None),
    "odd columns": (numbered(63, 162)[:, ::2], 0.5, None),
    "tensor": (numbered(64, 160)[:, ::2], memory(1), None),
    "one row": (numbered(1, 160)[:, ::2], 0.5, None),
    "one column": (numbered(80, 7)[:, :1], 0.5, None),
    "three dimensions": (numbered(6, 8, 10)[:, ::2, ::3], 0.5, None),
    "four dimensions": (numbered(6, 8, 10, 2)[:, ::2, ::3, :1], 0.5, None),
    "last": (numbered(64, CHANNELS), PER_CHANNEL, 1),
    "last, bfloat16": (numbered(64, CHANNELS, dtype=BF16), PER_CHANNEL, 1),
    "last, a half parameter": (numbered(64, CHANNELS), memory(CHANNELS, FP16), 1),
    "last, unaligned": (numbered(64, CHANNELS, offset=1), PER_CHANNEL, 1),
    "last, unaligned parameter": (numbered(64, CHANNELS), UNALIGNED, 1),
    "last, more rows": (numbered(2000, CHANNELS), PER_CHANNEL, -1),
    "last, an odd number of rows": (numbered(65, CHANNELS), PER_CHANNEL, -1),
    "last, one row": (numbered(1, CHANNELS), PER_CHANNEL, 1),
    "last, 47": (numbered(64, CHANNELS - 1), PER_CHANNEL[:-1], 1),
    "last, sliced": (numbered(64, 100)[:, 3 : 3 + CHANNELS], PER_CHANNEL, 1),
    "second": (numbered(4, CHANNELS, 7, 7), PER_CHANNEL, 1),
    "second, aligned": (numbered(4, CHANNELS, 8, 8), PER_CHANNEL, 1),
    "second, one": (numbered(1, CHANNELS, 7), PER_CHANNEL, 1),
    "first": (numbered(CHANNELS, 300), PER_CHANNEL, 0),
    "channels_last": (numbered(2, 4, 4, CHANNELS).permute(0, 3, 1, 2), PER_CHANNEL, 1),
    "channels_last, sliced": (numbered(2, 4, 8, CHANNELS).permute(0, 3, 1, 2)[..., ::2], PER_CHANNEL, 1),
}


def run_strided(case, out):
    """All that the launcher makes of a case: forward, backward, and with gradients of parameters."""
    x, parameter, channel_dim = case
    tensor = isinstance(parameter, torch.Tensor)
    launch.forward("elu", x, out, (parameter,), channel_dim)
    launch.backward("elu", x, x, out, (parameter,), (False,), channel_dim)
    launch.backward("elu", x, x, out, (parameter,), (tensor,), channel_dim)
    if tensor:
        launch.backward("elu", x, x, None, (parameter,), (tensor,), channel_dim)


def assert_direct_launches(target, run, slow_launches, expected, new):
    """In whatever company, a kept kernel serves just those launches for which Triton would have taken it.

    `run` launches all of a case; `new(launch)` are the positions of the arguments that are new each time. The launches
    through Triton include at least so many of a kernel as `expected` says.
    """
    with stub_driver(target) as stub:
        for case in STRIDED:
            launch._compiled.clear()
            run(case)
        through_triton, stub.launches = stub.launches, []
        kernel, least = expected
        assert slow_launches.count(kernel) >= least
        for case in STRIDED:
            run(case)
        stub.launches.clear()
        slow_launches.clear()
        for case in STRIDED:
            run(case)
        assert slow_launches == []
        assert len(through_triton) == len(stub.launches)
        for first, second in zip(through_triton, stub.launches, strict=True):
            assert first.metadata.hash == second.metadata.hash
            assert_same_arguments(first, second, but=new(second))
            assert first.grid == second.grid


TARGETS = pytest.mark.parametrize(
    "target", [GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)], ids=["cuda", "hip"]
)


@TARGETS
def test_second_strided_launch_is_direct(cache_directory, monkeypatch, slow_launches, target):
    monkeypatch.setenv("TRITON_CACHE_DIR", cache_directory)
    outs = {name: torch.empty_like(x) for name, (x, *_) in STRIDED.items()}

    def new(launched):
        """The fourth of a backward's arguments are the sums."""
        return (3,) if "backward" in launched.metadata.name else ()

    expected = ("backward_channel_kernel", 30)
    assert_direct_launches(target, lambda name: run_strided(STRIDED[name], outs[name]), slow_launches, expected, new)


def test_the_sums_of_a_direct_launch(stub):
    x, parameter, channel_dim = STRIDED["second"]
    for _ in range(2):
        partials = launch.backward("elu", x, x, None, (parameter,), (True,), channel_dim)
        launched = stub.launches[-1]
        assert launched.kernel_args[3] is partials
        assert launched.kernel_args[0] is launched.kernel_args[1] is launched.kernel_args[2] is x
        # Three tiles of 16 channels each, which share every group.
        assert partials.shape == (1, launched.grid[0] // 3, CHANNELS)


def test_nothing_is_launched_for_nothing(stub):
    empty = torch.zeros(0)
    launch.forward("hardswish", empty, empty, ())
    assert launch.backward("hardswish", empty, empty, empty, (), ()) is None
    partials = launch.backward("elu", empty, empty, empty, (torch.tensor(1.0),), (True,))
    assert partials.sum() == 0
    assert not stub.launches


# ----- pointwise functions of several tensors


@triton.jit
def blend(values, params, precise: tl.constexpr):
    """u v + a and a u, with the part v."""
    return (values[0] * values[1] + params[0], values[0] * params[0]), (values[1],)


@triton.jit
def lifted(x, params, precise: tl.constexpr):
    """x + 1."""
    return x + 1.0


def run_blend(
    n=5000,
    dtypes=(FP32,) * 4,
    offsets=(0,) * 4,
    kept=(True, True),
    param=0.5,
    needed=False,
    function=blend,
    precise=None,
):
    u, v, p, q = (memory(n, dtype, offset) for dtype, offset in zip(dtypes, offsets, strict=True))
    outputs = [t if k else None for t, k in zip((p, q), kept, strict=True)]
    pointwise(function, function.__name__, (u, v), outputs, (param,), (needed,), precise=precise)


def test_second_pointwise_launch_is_direct(stub, slow_launches):
    u, v, p, q = (memory(5000) for _ in range(4))
    for _ in range(2):
        partials = pointwise(blend, "blend", [u, v], [p, q], [memory(1)], [True])
        launched = stub.launches[-1]
        assert len(launched.kernel_args) == len(pointwise_kernel.arg_names)
        (first, second), (third, fourth), sums, n, *_ = launched.kernel_args
        assert first is u and second is v and third is p and fourth is q and sums is partials and n == 5000
        assert launched.grid == (-(-5000 // grids.block_size(4, 32)), 1, 1) and partials.shape == (1, launched.grid[0])
    assert slow_launches == ["pointwise_kernel"]
    assert stub.launches[0].metadata is stub.launches[1].metadata


def test_what_pointwise_is_specialized_on(stub, slow_launches):
    """Each of these is compiled differently; lengths and the values of numbers are not."""
    tensor = memory(1)
    variants = [
        {},
        {"dtypes": (BF16, FP32, FP32, FP32)},
        {"dtypes": (FP32, BF16, FP32, FP32)},
        {"dtypes": (FP32, FP32, FP16, FP32)},
        {"dtypes": (FP32, FP32, FP32, BF16)},
        *({"offsets": tuple(int(i == j) for j in range(4))} for i in range(4)),
        {"kept": (True, False)},
        {"kept": (False, True)},
        {"kept": (False, False)},
        {"param": tensor},
        {"param": memory(1, offset=1)},
        {"param": memory(1, BF16)},
        {"param": tensor, "needed": True},
        {"precise": False},
    ]
    for variant in variants:
        run_blend(**variant)
    assert len(slow_launches) == len(variants) == len(launch._compiled)
    hashes = [a.metadata.hash for a in stub.launches]
    # `blend` does not ask whether it is to be precise, but the constant is another.
    assert len(set(hashes)) == len(variants)
    for variant, expected in zip(variants, hashes, strict=True):
        run_blend(**variant, **({"n": 1003} if "param" in variant else {"n": 16}))
        assert stub.launches[-1].metadata.hash == expected
    run_blend(param=-7.25)
    assert stub.launches[-1].metadata.hash == hashes[0]
    assert len(slow_launches) == len(variants)


@TARGETS
def test_second_strided_pointwise_launch_is_direct(cache_directory, monkeypatch, slow_launches, target):
    monkeypatch.setenv("TRITON_CACHE_DIR", cache_directory)
    outs = {name: [torch.empty_like(x), torch.empty_like(x, dtype=FP16)] for name, (x, *_) in STRIDED.items()}

    def run(name):
        x, parameter, channel_dim = STRIDED[name]
        other = torch.zeros(()).expand(x.shape)
        for inputs in ((x, x), (x, other), (other, x)):
            pointwise(blend, "blend", inputs, outs[name], (parameter,), (False,), channel_dim)
            if isinstance(parameter, torch.Tensor):
                pointwise(blend, "blend", inputs, outs[name], (parameter,), (True,), channel_dim)

    # The scalar that is expanded and the sums.
    assert_direct_launches(target, run, slow_launches, ("pointwise_channel_kernel", 15), lambda launched: (0, 2))


class HugePair(Huge):
    """One of two dtypes."""

    shape = property(lambda self: (self.n,))

    def __init__(self, n: int, dtype: torch.dtype):
        super().__init__(n)
        self.dtype = dtype

    def element_size(self) -> int:
        return self.dtype.itemsize


def test_pointwise_sizes_past_32_bits(stub, slow_launches):
    """Two gigabytes are another kernel on AMD, of whichever tensor they are."""
    for n in (4096, 2**29 - 1, 2**29, 2**30, 2**31, 2**33 + 5):
        a, b = HugePair(n, FP32), HugePair(n, BF16)
        pointwise(blend, "blend", (a, b), (a, b), (0.5,), (False,))
    assert len(slow_launches) == len(launch._compiled) == 4
    assert [a.kernel_args[3] for a in stub.launches] == [4096, 2**29 - 1, 2**29, 2**30, 2**31, 2**33 + 5]
    assert [a.grid[0] for a in stub.launches][-1] == -(-(2**33 + 5) // 1024)


def test_a_registered_function_is_launched(stub, slow_launches, monkeypatch):
    monkeypatch.setattr(device_functions, "_registered", {})
    device_functions.register("lifted_by_one", forward=lifted)
    for _ in range(2):
        run_forward(params=(), function="lifted_by_one")
    assert slow_launches == ["forward_kernel"] and len(stub.launches) == 2


@pytest.mark.parametrize("times", [1, 2], ids=["through-triton", "direct"])
def test_profilers_see_launches(stub, profiled, times):
    parameter = torch.tensor([0.5])
    strided = torch.zeros(64, 128, dtype=BF16)[:, ::2]
    for _ in range(times):
        profiled.clear()
        run_forward(n=5000, dtype=BF16)
        run_backward(n=5000, dtype=FP32)
        run_backward(n=5000, dtype=BF16, params=(parameter,), needed=(True,), with_dx=False)
        launch.forward("hardswish", strided, torch.zeros(64, 64, dtype=BF16), ())
        launch.backward("hardswish", strided, strided, torch.zeros(64, 64, dtype=BF16), (), ())
        run_blend(n=5000, dtypes=(FP32, BF16, FP32, BF16))
        run_blend(n=5000, kept=(True, False))
        pointwise(blend, "blend", (strided, strided), (None, None), (torch.zeros(64),), (True,), 1)
    assert [(seen["name"], seen["bytes"]) for seen in profiled] == [
        ("elu_forward_kernel", 2 * 5000 * 2),
        ("elu_backward_kernel", 3 * 5000 * 4),
        ("elu_backward_kernel", 2 * 5000 * 2),
        ("hardswish_forward_strided_kernel", 2 * 64 * 64 * 2),
        ("hardswish_backward_strided_kernel", 3 * 64 * 64 * 2),
        ("blend_pointwise_kernel", 5000 * (4 + 2 + 4 + 2)),
        ("blend_pointwise_kernel", 5000 * 3 * 4),
        ("blend_pointwise_channel_kernel", 64 * 64 * 2 * 2),
    ]


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-p", "no:cacheprovider"]))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_what_the_engine_writes_compiles(target, cache_directory, monkeypatch):
    """On every version of Triton: forward, backward and double backward, with a function of each kind."""
    monkeypatch.setenv("TRITON_CACHE_DIR", cache_directory)

    @fusedact.activation
    def mixed(x, a=0.5, b=2.0):
        wave = torch.sin(a * x) * torch.cos(a * x) + torch.erf(x) ** 3 - torch.abs(x) ** b
        return torch.where(x > a, wave / (1 + torch.exp(-x)), torch.tanh(F.softplus(x)) * torch.atan(x))

    spec = mixed.spec
    spec.build(torch.device("cpu"))
    for direction in ("forward", "backward"):
        for params in ((0.5, 2.0), (torch.ones(1), torch.ones(1))):
            kernel = aot.compile_kernel(spec.device, direction, target, torch.bfloat16, params)
            assert kernel.metadata.name == f"{direction}_kernel"
    double = spec.build_double()
    with aot.stub_driver(aot.TARGETS[target]) as stub:
        x = torch.zeros(4096)
        pointwise(
            *(double.function, double.name, (x, x, x), (torch.empty_like(x), torch.empty_like(x))),
            *((0.5, torch.ones(1), 0.0, torch.ones(1)), (False, True, False, False)),
        )
        (kernel,) = aot._kernels_of(stub.device)
    assert kernel.metadata.name == "pointwise_kernel"
