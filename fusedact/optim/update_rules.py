"""`fusedact.optim.update_rule`: the update of one element, written in plain PyTorch, becomes an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .optimizer import RuleOptimizer
from .rules import Rule

__all__ = ["UpdateRule", "update_rule"]


class UpdateRule(Rule):
    """An update rule made by `fusedact.optim.update_rule` of a function. Call it as the function.

    Args:
        function, state, init: as for `fusedact.optim.update_rule`.
    """

    def optimizer(
        self, params: Iterable[Any], *, maximize: bool = False, capturable: bool = False, **settings: Any
    ) -> RuleOptimizer:
        """The optimizer that steps these parameters by the rule.

        Args:
            params: tensors, named tensors, or groups of either, as torch.optim takes them.
            maximize: go against the sign of the gradient.
            capturable: count the steps on the parameters' device, so that a CUDA graph can be made of a step; numbers
                that change between replays must then be tensors on that device.
            settings: the rule's keyword-only arguments, numbers or tensors of one element; groups may have others.

        Returns:
            a fusedact.optim.RuleOptimizer.

        Raises:
            TypeError: for a setting that is unknown, missing, or no number.
        """
        return RuleOptimizer(params, self, settings, maximize=maximize, capturable=capturable)


def update_rule(
    function: Callable[..., Any] | None = None,
    *,
    state: Sequence[str] = (),
    init: Mapping[str, str] | None = None,
) -> Any:
    """Make an optimizer of the update of one element: one fused kernel over all parameters of a group.

    The function takes a parameter, its gradient and its states, all of one shape, and returns the new parameter and the
    new states, in this order. Its settings are keyword-only: numbers, which inside it are tensors that broadcast, or,
    where the default is True or False, options, which inside it are Python's, with a kernel for each choice. A setting
    without a default must be given to the optimizer. Two names are not settings: `step`, if the function takes it, is
    the number of the parameter's steps, from 1; an option `first` is True in a parameter's first step.

    Args:
        function: elementwise, without side effects, randomness, or Python decisions that depend on a tensor's values.
            The operators it may be made of stand in docs/operators.md. It computes in float32 for float16 and bfloat16
            parameters.
        state: the names of its states, which lie in the optimizer's `state` under these names; in float32 for float16
            and bfloat16 parameters.
        init: by state: "zeros", what it begins with where nothing is said, or "param", a copy of the parameter.

    Returns:
        an UpdateRule: `rule.optimizer(params, **settings)` makes the optimizer; `rule.source` is the Triton code; a
        call rule(param, grad, *states, **settings) runs the plain function, the reference of all else.

    Raises:
        TypeError: if the signature is none of an update rule.
        ValueError: for an unknown state in `init`, or another beginning; and at the first step, naming the operator and
            the line, if the function is not elementwise or returns something else.

    >>> @fusedact.optim.update_rule(state=("velocity",))
    ... def momentum(param, grad, velocity, *, lr, momentum=0.9):
    ...     velocity = momentum * velocity - lr * grad
    ...     return param + velocity, velocity
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> opt = momentum.optimizer([weight], lr=0.5)
    >>> weight.sum().backward()
    >>> opt.step()
    >>> weight
    Parameter containing:
    tensor([0.5000, 0.5000], requires_grad=True)
    """
    if function is None:
        return functools.partial(update_rule, state=state, init=init)
    return UpdateRule(function, state, init or {})
