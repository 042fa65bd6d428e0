"""The operators fusedact::<name> and fusedact::<name>_backward, one pair per activation.

They are what a TorchDispatchMode sees: selective checkpointing, FLOP counters, make_fx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import catalog as _catalog  # noqa: F401  (its records are defined as operators below)
from . import compat, eager, execution, registry
from .dispatch import Path, choose
from .execution import Call, Parameters
from .piecewise.table_rows import Plan
from .piecewise.tables import Table
from .registry import ActivationSpec

__all__ = ["backward", "forward", "learned_backward"]

_library = torch.library.Library("fusedact", "FRAGMENT")


def _physical(spec: ActivationSpec, x: Tensor, params: Parameters, channel: int | None = None) -> Call:
    """The call behind an operator, which must not end in ATen's autograd-aware twin."""
    path = choose(spec, x, params, eager.numeric(params))
    return Call(spec, path if path.kind == "triton" else Path("pieces", path.reason), channel)


def _unwrapped(x: Tensor, params: Sequence[Any]) -> tuple[float | Tensor, ...]:
    return tuple(p.item() if isinstance(p, Tensor) and p.device != x.device else p for p in params)


def _define(spec: ActivationSpec) -> None:
    """Numbers only: fusedact::<name>(x, parameters)."""
    params = "".join(f", float {p.name}" for p in spec.parameters)
    _library.define(f"{spec.name}(Tensor x{params}) -> Tensor")
    _library.define(f"{spec.name}_backward(Tensor grad, Tensor x{params}) -> Tensor")

    def forward(x: Tensor, *params: float) -> Tensor:
        return execution.forward(_physical(spec, x, params), x, params)

    def backward(g: Tensor, x: Tensor, *params: float) -> Tensor:
        needed = [True] + [False] * len(params)
        dx = execution.backward(_physical(spec, x, params), g, x, params, needed)[0]
        return x.new_empty(0) if dx is None else dx

    _implement(spec.name, forward, lambda x, *_: torch.empty_like(x))
    _implement(f"{spec.name}_backward", backward, lambda g, x, *_: torch.empty_like(x))


def _define_for_tensors(spec: ActivationSpec) -> None:
    """The overload `tensor`, for parameters that are tensors; `channel` is the dimension of those per channel.

    A number is a zero-dimensional CPU tensor there, as elsewhere in PyTorch. What is not needed comes back empty.
    """
    params = "".join(f", Tensor {p.name}" for p in spec.parameters)
    results = ", ".join(["Tensor"] * (1 + len(spec.parameters)))
    channel = "*, int? channel=None"
    _library.define(f"{spec.name}.tensor(Tensor x{params}, {channel}) -> Tensor")
    _library.define(
        f"{spec.name}_backward.tensor(Tensor grad, Tensor x{params}, bool[] needed, {channel}) -> ({results})"
    )

    def forward(x: Tensor, *params: Any, channel: int | None = None) -> Tensor:
        params = _unwrapped(x, params)
        return execution.forward(_physical(spec, x, params, channel), x, params)

    def backward(g: Tensor, x: Tensor, *args: Any, channel: int | None = None) -> tuple[Tensor, ...]:
        params, needed = _unwrapped(x, args[:-1]), args[-1]
        with compat.transforms_allowed():
            grads = execution.backward(_physical(spec, x, params, channel), g, x, params, needed)
        return tuple(x.new_empty(0) if grad is None else grad for grad in grads)

    def fake_backward(g: Tensor, x: Tensor, *args: Any, channel: int | None = None) -> tuple[Tensor, ...]:
        like = (x, *args[:-1])
        return tuple(torch.empty_like(t) if n else x.new_empty(0) for t, n in zip(like, args[-1], strict=True))

    _implement(f"{spec.name}.tensor", forward, lambda x, *_, channel=None: torch.empty_like(x))
    _implement(f"{spec.name}_backward.tensor", backward, fake_backward)


def _define_for_tables() -> None:
    """fusedact::pwl and its backward operators, which take a prepared table and what is known of it.

    Where tables learn, pwl_learned_backward returns the sums of their gradients too.
    """
    constants = "Tensor table, int count, str kind, int cells, bool steep, bool even, int? channel_dim"

    def spec_of(data: Tensor, count: int, *rest: Any) -> Any:
        *plan, channel_dim = rest
        return Table(data, count, Plan(*plan), 0 if channel_dim is None else channel_dim).spec

    def forward(x: Tensor, *args: Any) -> Tensor:
        return execution.forward(_physical(spec_of(*args), x, ()), x, ())

    def backward(g: Tensor, x: Tensor, *args: Any) -> Tensor:
        dx = execution.backward(_physical(spec_of(*args), x, ()), g, x, (), (True,))[0]
        return x.new_empty(0) if dx is None else dx

    def learned_backward(g: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        *constants, dx_needed, wanted, slopes = args
        dx, sums = execution.learned_backward(_physical(spec_of(*constants), x, ()), g, x, dx_needed, wanted, slopes)
        return x.new_empty(0) if dx is None else dx, sums

    def fake_learned_backward(g: Tensor, x: Tensor, data: Tensor, count: int, *args: Any) -> tuple[Tensor, Tensor]:
        dx_needed, wanted, _ = args[-3:]
        shape = (count + 2,) if wanted == "values" else (2, count + 1)
        sums = data.new_empty((data.shape[0], *shape), dtype=torch.float64)
        return torch.empty_like(x) if dx_needed else x.new_empty(0), sums

    _library.define(f"pwl(Tensor x, {constants}) -> Tensor")
    _library.define(f"pwl_backward(Tensor grad, Tensor x, {constants}) -> Tensor")
    _library.define(
        f"pwl_learned_backward(Tensor grad, Tensor x, {constants}, bool dx_needed, str wanted, bool slopes)"
        " -> (Tensor, Tensor)"
    )
    _implement("pwl", forward, lambda x, *_: torch.empty_like(x))
    _implement("pwl_backward", backward, lambda g, x, *_: torch.empty_like(x))
    _implement("pwl_learned_backward", learned_backward, fake_learned_backward)


def _define_own() -> None:
    """fusedact::own and fusedact::own_backward, for activations of one's own: by key, since such names come and go."""
    _library.define("own(Tensor x, Tensor[] params, str key, *, int? channel=None) -> Tensor")
    _library.define(
        "own_backward(Tensor grad, Tensor x, Tensor[] params, str key, bool[] needed, *, int? channel=None) -> Tensor[]"
    )

    def forward(x: Tensor, tensors: Sequence[Tensor], key: str, *, channel: int | None = None) -> Tensor:
        spec, params = registry.get_own(key), _unwrapped(x, tensors)
        return execution.forward(_physical(spec, x, params, channel), x, params)

    def backward(
        g: Tensor,
        x: Tensor,
        tensors: Sequence[Tensor],
        key: str,
        needed: Sequence[bool],
        *,
        channel: int | None = None,
    ) -> list[Tensor]:
        spec, params = registry.get_own(key), _unwrapped(x, tensors)
        with compat.transforms_allowed():
            grads = execution.backward(_physical(spec, x, params, channel), g, x, params, needed)
        return [x.new_empty(0) if grad is None else grad for grad in grads]

    def fake_backward(
        g: Tensor, x: Tensor, tensors: Sequence[Tensor], key: str, needed: Sequence[bool], *, channel: Any = None
    ) -> list[Tensor]:
        return [torch.empty_like(t) if n else x.new_empty(0) for t, n in zip((x, *tensors), needed, strict=True)]

    _implement("own", forward, lambda x, *_, channel=None: torch.empty_like(x))
    _implement("own_backward", backward, fake_backward)


def _implement(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusedact::{name}", fake, lib=_library)


def _wrapped(params: Parameters) -> list[Tensor]:
    return [p if isinstance(p, Tensor) else torch.tensor(p, dtype=torch.float64) for p in params]


def forward(call: Call, x: Tensor, params: Parameters) -> Tensor:
    """The value, by the operator."""
    if call.spec.key is not None:
        return torch.ops.fusedact.own(x, _wrapped(params), call.spec.key, channel=call.channel)
    packet = getattr(torch.ops.fusedact, call.spec.name)
    if call.spec.table is not None:
        return packet(x, *call.spec.table.constants)
    if eager.numeric(params):
        return packet.default(x, *params)
    return packet.tensor(x, *_wrapped(params), channel=call.channel)


def backward(call: Call, g: Tensor, x: Tensor, params: Parameters, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed, by the operator."""
    if call.spec.key is not None:
        grads = torch.ops.fusedact.own_backward(
            g, x, _wrapped(params), call.spec.key, list(needed), channel=call.channel
        )
        return [grad if n else None for grad, n in zip(grads, needed, strict=True)]
    packet = getattr(torch.ops.fusedact, f"{call.spec.name}_backward")
    if call.spec.table is not None:
        return [packet(g, x, *call.spec.table.constants)]
    if eager.numeric(params):
        return [packet.default(g, x, *params), *(None for _ in params)]
    grads = packet.tensor(g, x, *_wrapped(params), list(needed), channel=call.channel)
    return [grad if n else None for grad, n in zip(grads, needed, strict=True)]


def learned_backward(
    call: Call, g: Tensor, x: Tensor, dx_needed: bool, wanted: str, slopes: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradient of x, if needed, and the sums of those of the tables, by the operator."""
    constants = call.spec.table.constants
    dx, sums = torch.ops.fusedact.pwl_learned_backward(g, x, *constants, dx_needed, wanted, slopes)
    return dx if dx_needed else None, sums


for _name in registry.names("elementwise"):
    _define(registry.get(_name))
    if registry.get(_name).parameters:
        _define_for_tensors(registry.get(_name))
_define_for_tables()
_define_own()
