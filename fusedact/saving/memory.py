"""`memory_report`: the bytes that a model's activations keep for backward under each policy, measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..registry import ActivationSpec
from .saving import POLICIES, save_policy

__all__ = ["MemoryReport", "Row", "memory_report"]


@dataclass(frozen=True)
class Row:
    """An activation of a model: what it keeps that nothing else keeps.

    Attributes:
        name: of the module in the model.
        module: how it shows itself.
        kept: bytes, by policy.
        output_kept: whether another layer keeps the output, so that the activation may do so too for nothing.
    """

    name: str
    module: str
    kept: dict[str, int]
    output_kept: bool

    @property
    def best(self) -> str:
        """The policy that keeps the fewest bytes, the most accurate of them where several do."""
        return min(self.kept, key=self.kept.__getitem__)


@dataclass(frozen=True)
class MemoryReport:
    """What `memory_report` found; it prints as a table.

    Attributes:
        rows: one per activation module.
        totals: all that the model keeps for backward beside its parameters, in bytes, by policy.
    """

    rows: tuple[Row, ...]
    totals: dict[str, int]

    def __str__(self) -> str:
        head = ["activation", "", *POLICIES, "output kept by the next", "best"]
        table = [head]
        for row in self.rows:
            bytes_kept = [_readable(row.kept[p]) for p in POLICIES]
            table.append([row.name, row.module, *bytes_kept, "yes" if row.output_kept else "no", row.best])
        table.append(["the whole model", "", *(_readable(self.totals[p]) for p in POLICIES), "", ""])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if 2 <= i < 2 + len(POLICIES) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        lines.insert(-1, lines[1])
        return "\n".join([*lines, *self._advice()])

    def _advice(self) -> Iterator[str]:
        for policy in POLICIES[2:]:
            saved = self.totals["auto"] - self.totals[policy]
            if saved > 0:
                share = 100.0 * saved / self.totals["auto"]
                yield f"with fusedact.save_policy({policy!r}): {_readable(saved)} less, {share:.0f}%"

    def plot(self, path: str | Path) -> None:
        """Write a bar chart of what is kept under each policy.

        Args:
            path: of the picture.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("fusedact.memory_report: plot needs matplotlib: pip install 'fusedact[plot]'") from error
        figure = Figure(figsize=(8, 1.2 + 0.45 * len(POLICIES)), layout="constrained")
        axes = figure.subplots()
        own = {p: sum(row.kept[p] for row in self.rows) for p in POLICIES}
        places = range(len(POLICIES))
        rest = [(self.totals[p] - own[p]) / 2**20 for p in POLICIES]
        axes.barh(places, rest, color="0.8", label="everything else")
        axes.barh(places, [own[p] / 2**20 for p in POLICIES], left=rest, label="activations alone")
        axes.set_yticks(places, POLICIES)
        axes.invert_yaxis()
        axes.set_xlabel("kept for backward, MiB")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2)
        figure.savefig(path, dpi=150)


def _readable(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


@dataclass
class _Run:
    """What is kept of one forward pass: bytes by storage, and of each activation which."""

    sizes: dict[int, int] = field(default_factory=dict)
    owners: dict[int, set[str]] = field(default_factory=dict)
    outputs: dict[str, set[int]] = field(default_factory=dict)
    # The activations under way, innermost last. No name is that of what is none.
    active: list[str] = field(default_factory=list)

    def pack(self, t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        at = storage.data_ptr()
        self.sizes[at] = storage.nbytes()
        self.owners.setdefault(at, set()).add(self.active[-1] if self.active else "")
        return t

    def alone(self, name: str) -> int:
        """The bytes that an activation keeps and nothing else."""
        return sum(self.sizes[at] for at, owners in self.owners.items() if owners == {name})

    def output_kept(self, name: str) -> bool:
        """Whether something else keeps all of its outputs."""
        outputs = self.outputs.get(name, set())
        return bool(outputs) and all(self.owners.get(at, set()) - {name} for at in outputs)


@contextmanager
def _watched(modules: dict[str, nn.Module], run: _Run) -> Iterator[None]:
    """Tells `run` which activation is under way."""
    handles: list[RemovableHandle] = []

    def enter(name: str) -> Any:
        return lambda *_: run.active.append(name)

    def leave(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            run.active.pop()
            run.outputs.setdefault(name, set()).add(output.untyped_storage().data_ptr())

        return hook

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _undisturbed(model: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Gives the model its buffers, random numbers and policies back."""
    buffers = [(b, b.clone()) for b in model.buffers()]
    policies = [(m, m.save) for m in modules.values() if isinstance(getattr(m, "save", None), str)]
    devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    try:
        for module, _ in policies:
            module.save = "auto"  # type: ignore[assignment]
        with torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
            yield
    finally:
        for module, policy in policies:
            module.save = policy
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def memory_report(model: nn.Module, example: Any) -> MemoryReport:
    """What a model keeps for backward under each saving policy, and what each of its activations adds to that.

    The model runs forward once under each policy, in the mode that it is in, and is left as it was. Of a module's bytes
    those count that nothing else keeps: an output that the next layer keeps too is free. Activations that are no
    modules of this library count in the whole only.

    Args:
        model: a module with activations of this library.
        example: its input: a tensor, a tuple of positional arguments, or a dict of arguments by name.

    Returns:
        a MemoryReport: `rows`, one per activation module, `totals`, and `plot(path)`; it prints as a table.

    Raises:
        TypeError: if `model` is no module.

    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), fusedact.ELU(), torch.nn.Linear(64, 2))
    >>> fusedact.memory_report(net, torch.ones(32, 8)).rows[0].kept
    {'auto': 8192, 'input': 8192, 'output': 0, 'bits': 0}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fusedact.memory_report: model must be a torch.nn.Module, got {type(model).__name__}")
    activations = {
        name or "model": module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "spec", None), ActivationSpec)
    }
    # What a layer holds is a part of it.
    held = {id(child) for module in activations.values() for child in module.children()}
    activations = {name: module for name, module in activations.items() if id(module) not in held}
    parameters = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    runs: dict[str, _Run] = {}
    for policy in POLICIES:
        run = runs[policy] = _Run()
        with (
            _undisturbed(model, activations),
            _watched(activations, run),
            save_policy(policy),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(run.pack, lambda t: t),
        ):
            result = _called(model, example)
        # Only now may memory be used again.
        del result
        for at in parameters:
            run.sizes.pop(at, None)
            run.owners.pop(at, None)
    rows = tuple(
        Row(
            name,
            repr(module),
            {policy: run.alone(name) for policy, run in runs.items()},
            runs["input"].output_kept(name),
        )
        for name, module in activations.items()
    )
    return MemoryReport(rows, {policy: sum(run.sizes.values()) for policy, run in runs.items()})


def _called(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)
