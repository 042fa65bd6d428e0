"""A Triton driver without a device: kernels are compiled for a chosen target for real, and launches are written down.

It stands in for `triton.runtime.driver.active`, so that the library's launcher can be run, and the code that it gets
looked at, on any machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

# Triton keeps compiled kernels per device number: none that a real device has, and a new one for every driver.
_device_numbers = itertools.count(1000)


@dataclass
class Launch:
    """What a launcher was given: the compiled kernel's metadata, and its positional arguments."""

    metadata: Any
    args: tuple[Any, ...]

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.args[:3]

    @property
    def launch_metadata(self) -> Any:
        return self.args[6]

    @property
    def kernel_args(self) -> tuple[Any, ...]:
        return self.args[9:]


class _Utils:
    """The part of a driver's utilities that loading a kernel needs."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**18, "multiprocessor_count": 100}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        registers, spills, max_threads = 32, 0, 1024
        return object(), object(), registers, spills, max_threads

    def unload_module(self, module: object) -> None:
        pass


@dataclass
class StubDriver:
    """The methods of a driver that compiling and launching call."""

    target: GPUTarget
    launches: list[Launch] = field(default_factory=list)
    device: int = field(default_factory=lambda: next(_device_numbers))
    utils: _Utils = field(default_factory=_Utils)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launcher(*args: Any) -> None:
            enter, leave = args[7:9]
            if enter is not None:
                enter(args[6])
            self.launches.append(Launch(metadata, args))
            if leave is not None:
                leave(args[6])

        return launcher

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0xFADE


def kernels() -> list[triton.JITFunction]:
    """The library's kernels, and the device functions that its templates are made of."""
    from fusedact.kernels import (
        elementwise,
        gated,
        optimizer,
        piecewise_rows,
        piecewise_sums,
        pointwise,
        rrelu,
        saving,
        softmax,
    )

    modules = (elementwise, gated, optimizer, piecewise_rows, piecewise_sums, pointwise, rrelu, saving, softmax)
    found = [function for module in modules for function in vars(module).values()]
    return [function for function in found if isinstance(function, triton.JITFunction)]


@contextmanager
def stub_driver(target: GPUTarget) -> Iterator[StubDriver]:
    """Put a stub in the active driver's place, and keep the launcher's compiled kernels apart for the time being."""
    from fusedact.kernels import launch, relaunch

    config = triton.runtime.driver
    previous, kept = config._active, dict(launch._compiled)
    plans = relaunch.replaced({})
    stub = StubDriver(target)
    config.set_active(stub)
    launch._compiled.clear()
    try:
        yield stub
    finally:
        launch._compiled.clear()
        launch._compiled.update(kept)
        relaunch.replaced(plans)
        for kernel in kernels():
            cache, *_ = kernel.device_caches.pop(stub.device, ({},))
            for compiled in cache.values():
                # From Triton 3.9 on a collected kernel asks the driver, by then another one, to unload its module.
                compiled.module = None
        config._active = previous
