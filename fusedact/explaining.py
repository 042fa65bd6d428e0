"""`explain`: which path a call would take, what it would keep for backward, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from .checks import check_input, check_names, check_parameters
from .dispatch import LARGE_CPU, PIECES_SAVING, Path, choose, saving_path
from .eager import numeric
from .registry import ActivationSpec, OptionSpec, ParameterSpec, chosen, get
from .saving import saving

__all__ = ["explain"]


def _given(activation: object, arguments: dict[str, Any], record: ParameterSpec | OptionSpec) -> Any:
    """A parameter or option of a call: what is given, what a module has, or the default."""
    own = activation if isinstance(activation, Module) else None
    return arguments.get(record.name, getattr(own, record.name, record.default))


def explain(activation: object, x: Tensor, *, channel_dim: int = 1, save: str | None = None, **parameters: Any) -> Path:
    """Which path a call takes, what it keeps for backward, and why.

    Args:
        activation: a name, or a function or module of this library.
        x: the input; only its kind, dtype, device and size matter, and whether its gradient is wanted.
        channel_dim: x's dimension that a parameter with several entries counts (a module knows its own).
        save: the policy of the call (a module knows its own).
        parameters: of the activation, where they are not the defaults (a module knows its own).

    Returns:
        a Path: `kind` is "aten" (PyTorch's own fused operator), "pieces" (the formula in cache-sized pieces, keeping
        what `keeps` says and nothing else), "formula" (plain PyTorch operators), "triton" (the fused kernel) or
        "shards" (of a DTensor, each of which takes the path of a plain tensor); `reason` says why. `keeps` is what
        backward keeps where a gradient is wanted, and `because` why.

    Raises:
        ValueError: for an unknown name, or a policy that the activation does not serve.
        TypeError: if `activation` is none of these, a parameter is unknown, or x is not a floating-point tensor.

    >>> print(fusedact.explain("elu", torch.zeros(8)))
    aten: on the CPU PyTorch's own operator is the fastest there is; keeps input: PyTorch's operator decides
    >>> print(fusedact.explain("elu", torch.zeros(8), save="output").keeps)
    output
    """
    spec = get(activation, "fusedact.explain") if isinstance(activation, str) else getattr(activation, "spec", None)
    if not isinstance(spec, ActivationSpec):
        kind = type(activation)
        raise TypeError(
            "fusedact.explain: activation must be a name, or a function or module of fusedact, "
            f"got {kind.__module__}.{kind.__qualname__}"
        )
    check_names("fusedact.explain", spec, parameters)
    check_input(spec, x)
    spec = chosen("fusedact.explain", spec, *(_given(activation, parameters, o) for o in spec.options))
    if save is None:
        save = getattr(activation, "save", "auto") if isinstance(activation, Module) else "auto"
    if save != "auto":
        saving.check_save("fusedact.explain", spec, save)
    if spec.kind == "piecewise":
        if getattr(activation, "learnable", ()):
            return replace(choose(spec, x, (), True), keeps="input", because="what tables learn is a function of it")
        return choose(spec, x, (), True) if spec.table is None else _with_saving(spec, x, (), save)
    values = [_given(activation, parameters, p) for p in spec.parameters]
    if spec.kind == "random":
        low, high, drawn = values
        return _of_drawn(spec, x, low, save) if drawn else _with_saving(get("leaky_relu"), x, ((low + high) / 2,), save)
    if spec.kind == "gated":
        policy = saving.in_force() if save == "auto" else save
        return _told(spec, x, choose(spec, x, (), True), saving.plan(spec, x, (), True, policy))
    if spec.kind == "rowwise":
        return _of_rows(spec, x, values[-2], values[-1], save)
    channel_dim = getattr(activation, "channel_dim", channel_dim)
    checked, _ = check_parameters(spec, x, values, channel_dim)
    return _with_saving(spec, x, checked, save)


def _with_saving(spec: ActivationSpec, x: Tensor, params: Sequence[float | Tensor], save: str) -> Path:
    """The path of an elementwise call."""
    numbers = numeric(params)
    path = choose(spec, x, params, numbers)
    policy = saving.in_force() if save == "auto" else save
    plan = saving.plan(spec, x, params, numbers, policy)
    if policy != "auto":
        path = saving_path(spec, x, params, numbers, path, plan.keeps)
    if path.kind == "shards":
        return replace(path, keeps="what the calls with shards keep", because="they are calls with plain tensors")
    if path.kind == "formula":
        return replace(path, keeps="what its operators keep", because="autograd differentiates plain operators")
    if path is LARGE_CPU and saving.operator_keeps(spec) != "output":
        return replace(path, keeps="input", because="its derivative reads nothing else")
    if (path.kind == "aten" or path is LARGE_CPU) and policy == "auto":
        keeps = saving.operator_keeps(spec) if numbers else ""
        return replace(path, keeps=keeps or "what its operator keeps", because="PyTorch's operator decides")
    return replace(path, keeps=plan.keeps, because=plan.reason)


def _told(spec: ActivationSpec, x: Tensor, path: Path, plan: saving.Plan) -> Path:
    """A path with what a call keeps on it."""
    # Slopes on another device than the CPU are drawn by the formula, too.
    if path.kind == "formula" or (path.kind == "pieces" and spec.kind == "random" and not x.is_cpu):
        return replace(path, keeps="what its operators keep", because="autograd differentiates plain operators")
    if path.kind == "aten":
        return replace(path, keeps=saving.operator_keeps(spec), because="PyTorch's operator decides")
    return replace(path, keeps=plan.keeps, because=plan.reason)


def _of_rows(spec: ActivationSpec, x: Tensor, temperature: Any, mask: Any, save: str) -> Path:
    """The path of softmax and its kin."""
    tensors = [t for t in (temperature, mask) if isinstance(t, Tensor)]
    plain = not tensors and temperature == 1.0
    path = choose(spec, x, tensors, plain)
    policy = saving.in_force() if save == "auto" else save
    plan = saving.plan_of_rows(policy, isinstance(temperature, Tensor) and temperature.requires_grad)
    if policy != "auto":
        path = saving_path(spec, x, tensors, plain, path, plan.policy)
    return _told(spec, x, path, plan)


_SLOPES = saving.Plan("slopes", "drawing them takes most of the time")
_SEED = saving.Plan("input", "a seed makes the slopes again")


def _of_drawn(spec: ActivationSpec, x: Tensor, low: float, save: str) -> Path:
    """The path of rrelu in training."""
    path = choose(spec, x, (), True)
    policy = saving.in_force() if save == "auto" else save
    if path.kind == "aten":
        if save == "auto" != policy:
            return replace(path, keeps="slopes", because="a block with a policy changes no number that is drawn")
        path = path if save == "auto" else PIECES_SAVING
    usual = _SLOPES if path.kind == "pieces" else _SEED
    return _told(spec, x, path, usual if policy == "auto" else saving.plan_of_random(policy, low))
