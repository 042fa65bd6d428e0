"""Optimizers: `Optimizer`, which one's own can derive from, and `RuleOptimizer`, which steps by an update rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import step_plans
from .rules import Rule, check_setting

__all__ = ["Optimizer", "RuleOptimizer"]


class Optimizer(torch.optim.Optimizer):
    """torch.optim.Optimizer that is also called: `opt()` steps, `opt(params, grads)` steps with given gradients.

    Derive from it with a `step` of your own, as from torch's.

    Args:
        params, defaults: as torch.optim.Optimizer takes them.

    >>> class Plain(fusedact.optim.Optimizer):
    ...     def __init__(self, params, lr):
    ...         super().__init__(params, dict(lr=lr))
    ...
    ...     @torch.no_grad()
    ...     def step(self):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 if p.grad is not None:
    ...                     p -= group["lr"] * p.grad
    >>> weight = torch.ones(2, requires_grad=True)
    >>> opt = Plain([weight], lr=0.5)
    >>> opt([weight], [torch.ones(2)])
    >>> weight
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __call__(
        self,
        params: Iterable[Tensor] | Callable[[], Any] | None = None,
        grads: Iterable[Tensor | None] | None = None,
    ) -> Any:
        """Step: with the gradients that the parameters hold, or with these, and those parameters alone.

        Args:
            params: parameters of this optimizer, one or several; or a closure, as `step` takes it.
            grads: as many gradients; None skips a parameter.

        Raises:
            TypeError: for one without the other, or what is no tensor.
            ValueError: for a parameter that is not this optimizer's, twice the same, or another number of gradients.
        """
        if params is None and grads is None:
            return self.step()
        if grads is None and callable(params) and not isinstance(params, Tensor):
            return self.step(params)
        owner = f"{type(self).__name__}()"
        if params is None or grads is None or (callable(params) and not isinstance(params, Tensor)):
            raise TypeError(f"{owner}: parameters and gradients go together")
        given = [params] if isinstance(params, Tensor) else list(params)  # type: ignore[arg-type]
        found = [grads] if isinstance(grads, Tensor) else list(grads)
        if len(given) != len(found):
            raise ValueError(f"{owner}: got {len(given)} parameters and {len(found)} gradients")
        mine = {id(p): p for group in self.param_groups for p in group["params"]}
        for p, g in zip(given, found, strict=True):
            if not isinstance(p, Tensor) or not isinstance(g, Tensor | None):
                raise TypeError(f"{owner}: expected tensors, got {type(p).__name__} and {type(g).__name__}")
            if id(p) not in mine:
                raise ValueError(
                    f"{owner}: a tensor of shape {tuple(p.shape)} is no parameter of this optimizer; add_param_group "
                    "makes it one"
                )
        if len({id(p) for p in given}) != len(given):
            raise ValueError(f"{owner}: a parameter was given twice")
        before = [(p, p.grad) for p in mine.values()]
        try:
            for p in mine.values():
                p.grad = None
            for p, g in zip(given, found, strict=True):
                p.grad = g
            return self.step()
        finally:
            for p, g in before:
                p.grad = g

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters; a derived class says how.

        Args:
            closure: computes the loss anew, with its gradients.

        Raises:
            NotImplementedError: always, here.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a step")


class RuleOptimizer(Optimizer):
    """Steps parameters by an update rule: one fused kernel for a group's parameters of each dtype, or the CPU path.

    Made by `UpdateRule.optimizer`. Groups, schedulers, closures, hooks, state_dict and GradScaler are torch.optim's.
    A setting of a group is a number, or a tensor of one element; either may change at any time without recompiling.
    Parameters without a gradient are skipped. States are float32 for float16 and bfloat16 parameters, and stay so when
    they are loaded.

    Args:
        params: tensors, named tensors, or groups.
        rule: an Rule.
        settings: its keyword-only arguments.
        maximize: go against the sign of the gradient.
        capturable: count the steps on the parameters' device, for CUDA graphs.

    Raises:
        TypeError: for a setting that is unknown, missing, or no number; at a step, for a sparse or complex gradient.
    """

    # GradScaler then gives the scale and what it found, instead of changing gradients first.
    _step_supports_amp_scaling = True

    # What log_step watches it with.
    step_log: Any = None

    def __init__(
        self,
        params: Iterable[Any],
        rule: Rule,
        settings: Mapping[str, Any],
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        self._rule: Rule | None = rule
        self._watch()
        self._begin(params, rule.checked(self._owner(), settings), maximize, capturable)

    def _begin(self, params: Iterable[Any], defaults: Mapping[str, Any], maximize: bool, capturable: bool) -> None:
        """What every one of them begins with."""
        self._plans: dict[int, step_plans.Plan] = {}
        for name, value in (("maximize", maximize), ("capturable", capturable)):
            if not isinstance(value, bool):
                raise TypeError(f"{self._owner()}: {name} must be True or False, got {type(value).__name__}")
        torch.optim.Optimizer.__init__(
            self, params, {**defaults, "maximize": maximize, "capturable": capturable, "differentiable": False}
        )

    def _watch(self) -> None:
        """Take over what watches the rule."""
        if self._rule is not None and self._rule.step_log is not None:
            self.step_log = self._rule.step_log

    def _name(self) -> str:
        return type(self).__name__ if self._rule is None else self._rule.__name__

    def _owner(self) -> str:
        """How errors name it."""
        return f"fusedact.optim.{type(self).__name__}" if self._rule is None else self._rule.__name__

    # ----- what derived classes say

    def _settings(self, group: Mapping[str, Any]) -> tuple[Rule, dict[str, bool], dict[str, Any]]:
        """The rule of a group, its options, and its numbers but for `step`."""
        rule = self._rule
        assert rule is not None
        return rule, {n: group[n] for n in rule.options}, {n: group[n] for n in rule.numbers if n != "step"}

    def _twin(self, group: Mapping[str, Any]) -> step_plans.Twin | None:
        """PyTorch's own step that computes the same on the CPU, if there is one: see step_plans."""
        return None

    # ----- torch's protocol

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with settings of its own.

        Args:
            param_group: a dict of `params` and settings, as torch.optim takes it.

        Raises:
            TypeError: for a setting that is no number, or a parameter that is complex.
        """
        for name, value in param_group.items():
            default = self.defaults.get(name)
            if isinstance(default, bool):
                if not isinstance(value, bool):
                    raise TypeError(f"{self._owner()}: {name} must be True or False, got {type(value).__name__}")
            elif isinstance(default, float | Tensor):
                check_setting(self._owner(), name, value)
        if param_group.get("differentiable", False):
            raise ValueError(f"{self._owner()}: differentiable=True is not served: no gradient goes through a step")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: computes the loss anew, with its gradients; its result is returned.

        Raises:
            TypeError: for a sparse or complex gradient, or a dtype that is no floating-point type.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        log = self.step_log
        begun = None if log is None else log.begin(self, self._name(), keep=False)
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                self._step_group(index, group, begun is not None)
        if begun is not None:
            log.end(begun, [norms for plan in self._plans.values() for norms in plan.norms()])
        return loss

    def _step_group(self, index: int, group: dict[str, Any], logged: bool) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        plan = self._plans.get(index)
        if not params:
            if plan is not None:
                plan.rest()
            return
        rule, options, numbers = self._settings(group)
        # GradScaler sets them for a step, and takes them away.
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        scaled = found_inf is not None
        if plan is None or not plan.serves(self, rule, options, group, params, scaled):
            if group.get("differentiable", False):
                raise ValueError(f"{self._owner()}: differentiable=True is not served: no gradient goes through a step")
            plan = self._plans[index] = step_plans.Plan(
                self._owner(), self, rule, options, group, params, scaled, self._twin(group)
            )
        plan.step(numbers, grad_scale, found_inf, logged)

    # ----- keeping and resuming

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim's: what the next step needs, on parameters by number."""
        found = super().state_dict()
        # Parameters share their count here; torch's optimizers would count a shared one for each of them.
        found["state"] = {
            k: {n: t.clone() if n == "step" else t for n, t in entry.items()} if isinstance(entry, dict) else entry
            for k, entry in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state_dict of this optimizer, or of torch's with the same names; exactly, whatever the dtypes.

        Args:
            state_dict: what `state_dict()` gave.

        Raises:
            ValueError: if its groups are others.
        """
        given: list[dict[str, Any]] = [state_dict]

        def look(_: torch.optim.Optimizer, found: dict[str, Any]) -> None:
            given[0] = found

        # After all others, which may replace it.
        handle = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        numbers = [n for group in given[0]["param_groups"] for n in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            entry = given[0]["state"].get(number, {})
            for name, value in entry.items():
                # torch.optim gives states the parameter's dtype, and rounds them by that.
                if isinstance(value, Tensor) and name != "step":
                    dtype = step_plans.state_dtype(p)
                    self.state[p][name] = value.detach().to(device=p.device, dtype=dtype, copy=True)
                elif isinstance(value, Tensor):
                    self.state[p][name] = value.detach().clone()
                elif value is None:
                    # As torch.optim.SGD keeps that there is no momentum.
                    del self.state[p][name]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rule": self._rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {}
        self._watch()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
