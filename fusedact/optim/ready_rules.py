"""Update rules that are ready made, and their optimizers: SGD, Adam and AdamW as torch.optim has them, and two more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import compat
from .optimizer import RuleOptimizer
from .rules import Rule, check_setting
from .step_plans import Twin
from .update_rules import update_rule

__all__ = ["SGD", "Adam", "AdamW", "ClassicMomentum", "ScaledSGD"]


# ----- the rules


@update_rule
def sgd(param, grad, *, lr, weight_decay=0.0, decays=False):  # type: ignore[no-untyped-def]
    if decays:
        grad = grad + weight_decay * param
    return param - lr * grad


@update_rule(state=("momentum_buffer",))
def sgd_with_momentum(  # type: ignore[no-untyped-def]
    param,
    grad,
    momentum_buffer,
    *,
    lr,
    momentum,
    dampening=0.0,
    weight_decay=0.0,
    decays=False,
    nesterov=False,
    first=False,
):
    if decays:
        grad = grad + weight_decay * param
    momentum_buffer = grad if first else momentum * momentum_buffer + (1 - dampening) * grad
    step = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * step, momentum_buffer


@update_rule(state=("velocity",))
def classic_momentum(param, grad, velocity, *, lr, momentum):  # type: ignore[no-untyped-def]
    velocity = momentum * velocity - lr * grad
    return param + velocity, velocity


@update_rule
def scaled_sgd(param, grad, *, lr, factor):  # type: ignore[no-untyped-def]
    return param - lr * factor * grad


def _adam(param, grad, exp_avg, exp_avg_sq, largest, step, lr, beta1, beta2, eps, weight_decay, decays, decoupled):  # type: ignore[no-untyped-def]
    if decays and decoupled:
        param = param * (1 - lr * weight_decay)
    elif decays:
        grad = grad + weight_decay * param
    exp_avg = exp_avg + (1 - beta1) * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    largest = exp_avg_sq if largest is None else torch.maximum(largest, exp_avg_sq)
    denominator = torch.sqrt(largest) / torch.sqrt(1 - beta2**step) + eps
    return param - lr / (1 - beta1**step) * exp_avg / denominator, exp_avg, exp_avg_sq, largest


@update_rule(state=("exp_avg", "exp_avg_sq"))
def adam(  # type: ignore[no-untyped-def]
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    *,
    step,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    decays=False,
    decoupled=False,
):
    given = (param, grad, exp_avg, exp_avg_sq, None, step, lr, beta1, beta2, eps, weight_decay, decays, decoupled)
    return _adam(*given)[:3]


@update_rule(state=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
def amsgrad(  # type: ignore[no-untyped-def]
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    *,
    step,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    decays=False,
    decoupled=False,
):
    largest = max_exp_avg_sq
    return _adam(
        param, grad, exp_avg, exp_avg_sq, largest, step, lr, beta1, beta2, eps, weight_decay, decays, decoupled
    )


# ----- their optimizers


def _check(owner: str, name: str, value: object, below: float | None = None) -> Any:
    """A setting that is not negative, and below a bound if there is one.

    Raises:
        TypeError: if it is no number, nor a tensor of one element.
        ValueError: if it is out of its range.
    """
    checked = check_setting(owner, name, value)
    # A tensor on another device is not waited for.
    if isinstance(checked, Tensor) and not checked.is_cpu:
        return checked
    if not (float(checked) >= 0.0 and (below is None or float(checked) < below)):
        wanted = "not be negative" if below is None else f"be at least 0 and below {below:g}"
        raise ValueError(f"{owner}: {name} must {wanted}, got {float(checked):g}")
    return checked


def _is_there(value: float | Tensor) -> bool:
    """Whether a setting does anything; a tensor may at any time."""
    return isinstance(value, Tensor) or value != 0.0


class _Ready(RuleOptimizer):
    """An optimizer whose rule is ready made."""

    _rule = None

    def _start(
        self, params: Iterable[Any], settings: Mapping[str, Any], maximize: bool, capturable: bool, **options: bool
    ) -> None:
        owner = self._owner()
        checked = {name: _check(owner, name, value) for name, value in settings.items() if name != "betas"}
        if "betas" in settings:
            checked["betas"] = self._betas(settings["betas"])
        for name, value in options.items():
            if not isinstance(value, bool):
                raise TypeError(f"{owner}: {name} must be True or False, got {type(value).__name__}")
        self._begin(params, {**checked, **options}, maximize, capturable)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "betas" in self.defaults and "betas" in param_group:
            self._betas(param_group["betas"])
        super().add_param_group(param_group)

    def _betas(self, betas: object) -> tuple[Any, Any]:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"{self._owner()}: betas must be two numbers, got {betas!r}")
        return _check(self._owner(), "betas[0]", betas[0], 1.0), _check(self._owner(), "betas[1]", betas[1], 1.0)


class SGD(_Ready):
    """Stochastic gradient descent, as torch.optim.SGD: with momentum, dampening, Nesterov's form, weight decay.

        grad <- grad + weight_decay param
        buffer <- momentum buffer + (1 - dampening) grad, and in the first step grad
        param <- param - lr buffer, or with nesterov param - lr (grad + momentum buffer)

    Args:
        params: tensors, named tensors, or groups.
        lr, momentum, dampening, weight_decay: not negative; numbers, or tensors of one element.
        nesterov: needs momentum, and no dampening.
        maximize: go against the sign of the gradient.
        capturable: for CUDA graphs; numbers that change between replays must be tensors.

    Raises:
        TypeError: for a setting that is no number.
        ValueError: for a negative one, or nesterov without momentum or with dampening.

    Its state_dict and torch's can be loaded by each other. Source: Sutskever et al., 2013, proceedings.mlr.press/v28.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward()
    >>> opt.step()
    >>> weight
    tensor([0.9000, 0.9000], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.0,
        dampening: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        if nesterov and not (_is_there(momentum) and not _is_there(dampening)):
            raise ValueError(f"{self._owner()}: nesterov needs a momentum, and a dampening of 0")
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        self._start(params, settings, maximize, capturable, nesterov=nesterov)

    def _settings(self, group: Mapping[str, Any]) -> tuple[Rule, dict[str, bool], dict[str, Any]]:
        decays = {"decays": _is_there(group["weight_decay"])}
        if not _is_there(group["momentum"]):
            return sgd, decays, {n: group[n] for n in ("lr", "weight_decay")}
        numbers = {n: group[n] for n in ("lr", "momentum", "dampening", "weight_decay")}
        return sgd_with_momentum, {**decays, "nesterov": bool(group["nesterov"])}, numbers

    def _twin(self, group: Mapping[str, Any]) -> Twin | None:
        fused = compat.fused_step("sgd")
        return fused and partial(_fused_sgd, fused, bool(group["nesterov"]), bool(group["maximize"]))


def _fused_sgd(fused, nesterov, maximize, params, grads, states, count, numbers, first):  # type: ignore[no-untyped-def]
    lr = numbers["lr"] * numbers.get("factor", 1.0)
    if not states and not numbers.get("weight_decay", 0.0) and torch.get_num_threads() > 1:
        # The fused step brings all threads together for each tensor, however small.
        compat.add_all(params, grads, alpha=lr if maximize else -lr)
        return
    fused(
        list(params),
        list(grads),
        list(states.get("momentum_buffer", [])),
        weight_decay=numbers.get("weight_decay", 0.0),
        momentum=numbers.get("momentum", 0.0),
        lr=lr,
        dampening=numbers.get("dampening", 0.0),
        nesterov=nesterov,
        maximize=maximize,
        is_first_step=first,
    )


class ClassicMomentum(_Ready):
    """Momentum as textbooks have it: velocity <- momentum velocity - lr grad; param <- param + velocity.

    torch.optim.SGD multiplies the whole velocity by the lr of the moment; here each gradient keeps the lr it came with.

    Args:
        params: tensors, named tensors, or groups.
        lr, momentum: not negative; numbers, or tensors of one element.
        maximize: go against the sign of the gradient.
        capturable: for CUDA graphs; numbers that change between replays must be tensors.

    Raises:
        TypeError: for a setting that is no number.
        ValueError: for a negative one.

    Source: Polyak, 1964, doi.org/10.1016/0041-5553(64)90137-5.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.optim.ClassicMomentum([weight], lr=0.1)
    >>> opt([weight], [torch.ones(2)])
    >>> weight
    tensor([0.9000, 0.9000], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        momentum: float | Tensor = 0.9,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        self._start(params, {"lr": lr, "momentum": momentum}, maximize, capturable)

    def _settings(self, group: Mapping[str, Any]) -> tuple[Rule, dict[str, bool], dict[str, Any]]:
        return classic_momentum, {}, {n: group[n] for n in ("lr", "momentum")}


class ScaledSGD(_Ready):
    """Gradient descent with a factor of its own for each group: param <- param - lr factor grad.

    One learning rate then serves a schedule for all groups, and factors tell layers apart.

    Args:
        params: tensors, named tensors, or groups.
        lr: not negative; a number, or a tensor of one element.
        factor: likewise.
        maximize: go against the sign of the gradient.
        capturable: for CUDA graphs; numbers that change between replays must be tensors.

    Raises:
        TypeError: for a setting that is no number.
        ValueError: for a negative one.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.optim.ScaledSGD([weight], lr=0.1, factor=0.5)
    >>> opt([weight], [torch.ones(2)])
    >>> weight
    tensor([0.9500, 0.9500], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        factor: float | Tensor = 1.0,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        self._start(params, {"lr": lr, "factor": factor}, maximize, capturable)

    def _settings(self, group: Mapping[str, Any]) -> tuple[Rule, dict[str, bool], dict[str, Any]]:
        return scaled_sgd, {}, {n: group[n] for n in ("lr", "factor")}

    def _twin(self, group: Mapping[str, Any]) -> Twin | None:
        fused = compat.fused_step("sgd")
        return fused and partial(_fused_sgd, fused, False, bool(group["maximize"]))


class Adam(_Ready):
    """Adam, as torch.optim.Adam: steps by running means of the gradient and of its square.

        exp_avg <- beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq <- beta2 exp_avg_sq + (1 - beta2) grad^2
        param <- param - lr exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)

    Args:
        params: tensors, named tensors, or groups.
        lr, eps, weight_decay: not negative; numbers, or tensors of one element. weight_decay times the parameter is
            added to the gradient.
        betas: two of at least 0 and below 1.
        amsgrad: divide by the largest exp_avg_sq so far.
        maximize: go against the sign of the gradient.
        capturable: for CUDA graphs; numbers that change between replays must be tensors.

    Raises:
        TypeError: for a setting that is no number.
        ValueError: for one out of its range.

    Its state_dict and torch's can be loaded by each other. Source: Kingma and Ba, 2014, arXiv:1412.6980; amsgrad: Reddi
    et al., 2018, arXiv:1904.09237.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.optim.Adam([weight], lr=0.1)
    >>> opt([weight], [torch.ones(2)])
    >>> weight
    tensor([0.9000, 0.9000], requires_grad=True)
    """

    _decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-8,
        weight_decay: float | Tensor = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self._start(params, settings, maximize, capturable, amsgrad=amsgrad)

    def _settings(self, group: Mapping[str, Any]) -> tuple[Rule, dict[str, bool], dict[str, Any]]:
        beta1, beta2 = group["betas"]
        numbers = {"beta1": beta1, "beta2": beta2, **{n: group[n] for n in ("lr", "eps", "weight_decay")}}
        options = {"decays": _is_there(group["weight_decay"]), "decoupled": self._decoupled}
        return (amsgrad if group["amsgrad"] else adam), options, numbers

    def _twin(self, group: Mapping[str, Any]) -> Twin | None:
        fused = compat.fused_step("adamw" if self._decoupled else "adam")
        return fused and partial(_fused_adam, fused, bool(group["amsgrad"]), bool(group["maximize"]))


def _fused_adam(fused, amsgrad, maximize, params, grads, states, count, numbers, first):  # type: ignore[no-untyped-def]
    fused(
        list(params),
        list(grads),
        list(states["exp_avg"]),
        list(states["exp_avg_sq"]),
        list(states.get("max_exp_avg_sq", [])),
        [count] * len(params),
        amsgrad=amsgrad,
        maximize=maximize,
        **{n: numbers[n] for n in ("lr", "beta1", "beta2", "weight_decay", "eps")},
    )


class AdamW(Adam):
    """AdamW, as torch.optim.AdamW: Adam, where weight decay shrinks the parameter itself by lr weight_decay.

        param <- param (1 - lr weight_decay), then as Adam

    Args:
        params: tensors, named tensors, or groups.
        lr, eps, weight_decay: not negative; numbers, or tensors of one element.
        betas: two of at least 0 and below 1.
        amsgrad: divide by the largest exp_avg_sq so far.
        maximize: go against the sign of the gradient.
        capturable: for CUDA graphs; numbers that change between replays must be tensors.

    Raises:
        TypeError: for a setting that is no number.
        ValueError: for one out of its range.

    Its state_dict and torch's can be loaded by each other. Source: Loshchilov and Hutter, 2017, arXiv:1711.05101.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = fusedact.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    >>> opt([weight], [torch.ones(2)])
    >>> weight
    tensor([0.8500, 0.8500], requires_grad=True)
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-8,
        weight_decay: float | Tensor = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, capturable=capturable)
