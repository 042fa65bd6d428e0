"""What a step of a group of parameters consists of: which go together, their states, their counts, and how they run.

A plan is made when a group is first stepped, and used until something that it was made of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import compat, dispatch
from ..checks import ACCEPTED_DTYPES, FLOAT_DTYPES
from ..eager import HALF_DTYPES
from .rule_steps import CpuStep, plain_step
from .rules import Rule

__all__ = ["Plan", "Twin", "state_dtype"]

# PyTorch's own step of parameters with gradients, states by name, their count, if there is one, the rule's numbers, and
# whether it is the first.
Twin = Callable[
    [Sequence[Tensor], Sequence[Tensor], Mapping[str, Sequence[Tensor]], "Tensor | None", Mapping[str, float], bool],
    None,
]


_grad, _layout, _dtype = attrgetter("grad"), attrgetter("layout"), attrgetter("dtype")


class _Owner(Protocol):
    state: Any


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of a parameter's states."""
    return torch.float32 if p.dtype in HALF_DTYPES else p.dtype


def _local(t: Tensor) -> Tensor:
    """The part of a tensor that this process holds; its memory, where that is not the tensor itself."""
    return t.to_local() if compat.is_distributed(t) else t.detach()  # type: ignore[attr-defined]


def _local_grad(g: Tensor, p: Tensor) -> Tensor:
    """The part of a gradient that belongs to the part of the parameter."""
    if compat.is_distributed(p):
        if not compat.is_distributed(g):
            return g
        placements = p.placements  # type: ignore[attr-defined]
        if g.placements != placements:  # type: ignore[attr-defined]
            g = g.redistribute(placements=placements)  # type: ignore[attr-defined]
        return g.to_local()  # type: ignore[attr-defined,no-any-return]
    return g


class _Bucket:
    """Parameters of one kind that run together."""

    def __init__(
        self,
        owner: str,
        rule: Rule,
        options: Mapping[str, bool],
        maximize: bool,
        key: tuple[Any, ...],
        members: Sequence[int],
        params: Sequence[Tensor],
        entries: Sequence[dict[str, Any]],
        twin: Twin | None,
    ) -> None:
        self.members = members
        self._rule, self._twin = rule, twin
        kind, _, _, first, count, counts_on = key
        self._kind = kind
        self.params = [_local(p) for p in params]
        self._states = {n: [_local(e[n]) for e in entries] for n in rule.states}
        self.count = None if count is None else torch.full((), count, dtype=torch.float32, device=counts_on)
        for entry in entries if self.count is not None else ():
            entry["step"] = self.count
        self.first = first
        self._run: Any = None
        columns = list(self._states.values())
        if kind == "plain":
            chosen = {**options, **({"first": first} if rule.tells_first else {})}
            self._function = rule.plain(chosen, maximize)
        else:
            self._program = rule.program(options, maximize, first)
        if kind == "pieces":
            self._run = CpuStep(self._program, self.params, columns)
        elif kind == "triton":
            from .rule_kernels import KernelStep

            self._run = KernelStep(self._program, self.params, columns)
        # What PyTorch's own step takes for granted.
        self._strides = [p.stride() for p in self.params]
        self._dtypes = {p.dtype for p in self.params}
        if self.params[0].dtype in HALF_DTYPES or not all(
            t.stride() == p.stride() and compat.is_dense(p)
            for column in columns
            for t, p in zip(column, self.params, strict=True)
        ):
            self._twin = None
        self._norms: list[Tensor] = []

    def _alike(self, grads: Sequence[Tensor]) -> bool:
        """Whether gradients lie as their parameters do."""
        return self._strides == list(map(Tensor.stride, grads)) and set(map(_dtype, grads)) == self._dtypes

    def step(
        self,
        grads: Sequence[Tensor],
        numbers: Mapping[str, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        logged: bool,
    ) -> None:
        self._norms = []
        if self._kind == "triton":
            if self.count is not None:
                self.count += 1.0 if found_inf is None else 1.0 - found_inf.to(self.count.device).reshape(())
            # What lies on the CPU is known there; what lies on the device is not waited for.
            known = self.params[0].is_cuda
            found = {
                n: v.item() if known and isinstance(v, Tensor) and v.is_cpu else v
                for n, v in self._counted(numbers).items()
            }
            values = self._program.scalars(found)
            self._norms = self._run(grads, values, grad_scale, found_inf, logged)
            return
        if found_inf is not None and found_inf.item():
            return
        if grad_scale is not None:
            grads = [g / grad_scale.to(g.device) for g in grads]
        if self.count is not None:
            self.count += 1
        before = [p.clone() for p in self.params] if logged else []
        if self._kind == "plain":
            plain_step(self._function, self.params, grads, list(self._states.values()), self._counted(numbers))
        else:
            found = {n: v.item() if isinstance(v, Tensor) else v for n, v in self._counted(numbers).items()}
            if self._twin is not None and self._alike(grads):
                self._twin(self.params, grads, self._states, self.count, found, self.first)
            else:
                self._run(grads, self._program.scalars(found))
        if logged:
            moved = [p - b for p, b in zip(self.params, before, strict=True)]
            self._norms = [_square_sum(grads), _square_sum(moved)]

    def _counted(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The rule's numbers, with the count of steps: on the CPU as a float."""
        if self.count is None or not self._rule.counts:
            return dict(numbers)
        return {**numbers, "step": self.count.item() if self.count.is_cpu else self.count}

    @property
    def norms(self) -> list[Tensor]:
        """The sums of the squares of the gradients, and of what was added to the parameters."""
        return self._norms

    def rest(self) -> None:
        self._norms = []


def _square_sum(tensors: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for t in tensors:
        total += torch.linalg.vector_norm(t, dtype=torch.float64) ** 2
    return total


class Plan:
    """Steps those parameters of a group that have gradients."""

    def __init__(
        self,
        owner: str,
        optimizer: _Owner,
        rule: Rule,
        options: Mapping[str, bool],
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        scaled: bool,
        twin: Twin | None,
    ) -> None:
        self._owner, self._rule, self._options, self._params = owner, rule, dict(options), list(params)
        self._facts = self._found(group, scaled)
        for p in params:
            _check(owner, p)
        self._names = (*rule.states, *(["step"] if rule.counts else []))
        # What keeps nothing leaves no trace in the optimizer's state.
        self._entries: list[dict[str, Any]] = [optimizer.state[p] if self._names else {} for p in params]
        fresh = [self._begin(e, p) for e, p in zip(self._entries, params, strict=True)]
        self._states = {n: [e[n] for e in self._entries] for n in rule.states}
        self._distributed = any(map(compat.is_distributed, params))
        self._known = len(optimizer.state)
        found: dict[tuple[Any, ...], list[int]] = {}
        on_device = group.get("capturable", False) or scaled
        for i, (p, e) in enumerate(zip(params, self._entries, strict=True)):
            path = dispatch.choose_step(owner, _local(p) if compat.is_distributed(p) else p)
            kind = {"triton": "triton", "pieces": "pieces"}.get(path.kind, "plain")
            device = p.device
            counts_on = device if on_device and kind == "triton" else torch.device("cpu")
            count = float(e["step"]) if rule.counts else None
            first = fresh[i] and rule.tells_first
            found.setdefault((kind, device, p.dtype, first, count, counts_on), []).append(i)
        self._buckets = [
            _Bucket(
                *(owner, rule, options, self._facts[0], key, members, [params[i] for i in members]),
                *([self._entries[i] for i in members], twin),
            )
            for key, members in found.items()
        ]
        self._addresses = [_local(p).data_ptr() for p in params]
        # A plan of first steps serves once.
        self._once = any(b.first for b in self._buckets)

    def _found(self, group: Mapping[str, Any], scaled: bool) -> tuple[Any, ...]:
        threads = torch.get_num_threads()
        capturable = bool(group.get("capturable", False))
        return bool(group.get("maximize", False)), capturable, scaled, threads, dispatch.forced_backend()

    def _begin(self, entry: dict[str, Any], p: Tensor) -> bool:
        """Give a parameter the states that it lacks; whether it had none."""
        rule = self._rule
        dtype = state_dtype(p)
        fresh = not entry
        for name in rule.states:
            value = entry.get(name)
            if value is None:
                fresh = True
                zeros = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
                entry[name] = zeros.copy_(p.detach()) if rule.initial[name] == "param" else zeros
            elif value.shape != p.shape:
                raise ValueError(
                    f"{self._owner}: the state {name} has shape {tuple(value.shape)}, and its parameter "
                    f"{tuple(p.shape)}"
                )
        if rule.counts and "step" not in entry:
            entry["step"] = torch.zeros((), dtype=torch.float32)
        return fresh

    def serves(
        self,
        optimizer: _Owner,
        rule: Rule,
        options: Mapping[str, bool],
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        scaled: bool,
    ) -> bool:
        """Whether nothing has changed that the plan was made of. A thousand parameters are looked through in C."""
        if rule is not self._rule or options != self._options or self._found(group, scaled) != self._facts:
            return False
        if len(params) != len(self._params) or not all(map(is_, params, self._params)) or self._once:
            return False
        if self._addresses != list(map(Tensor.data_ptr, map(_local, params) if self._distributed else params)):
            return False
        if not self._names:
            return True
        if len(optimizer.state) != self._known or optimizer.state.get(params[0]) is not self._entries[0]:
            return False
        return all(
            all(map(is_, states, [entry.get(name) for entry in self._entries])) for name, states in self._states.items()
        )

    def step(
        self, numbers: Mapping[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None, logged: bool
    ) -> None:
        """One step with the gradients that the parameters hold.

        Raises:
            TypeError: for a gradient that is not dense.
        """
        grads = list(map(_grad, self._params))
        layouts = set(map(_layout, grads))
        if layouts != {torch.strided}:
            (other, *_) = layouts - {torch.strided}
            raise TypeError(f"{self._owner}: gradients must be dense, got one of layout {other}")
        if self._distributed:
            grads = list(map(_local_grad, grads, self._params))
        for bucket in self._buckets:
            mine = grads if len(self._buckets) == 1 else [grads[i] for i in bucket.members]
            bucket.step(mine, numbers, grad_scale, found_inf, logged)

    def rest(self) -> None:
        """No parameter has a gradient this time."""
        for bucket in self._buckets:
            bucket.rest()

    def norms(self) -> list[list[Tensor]]:
        return [b.norms for b in self._buckets if b.norms]


def _check(owner: str, p: Tensor) -> None:
    """Raise TypeError unless a parameter and its gradient are what rules step."""
    g = p.grad
    assert g is not None
    for what, t in (("parameters", p), ("gradients", g)):
        if t.layout is not torch.strided:
            raise TypeError(f"{owner}: {what} must be dense, got one of layout {t.layout}")
        if t.dtype not in FLOAT_DTYPES:
            dtype = str(t.dtype).removeprefix("torch.")
            raise TypeError(f"{owner}: {what} must have dtype {ACCEPTED_DTYPES}, got {dtype}")
