"""Activation modules, one class per record of the catalog, and `create` and `Activation`, which take a name.

Each class is made from its record; modules.pyi shows it to editors.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from . import compat, describe, functional, registry
from .checks import check_accepted, check_channel_dim, check_names, check_number
from .engine import sources
from .hosts.gated_modules import GEGLU, GLU, ReGLU, SwiGLU
from .piecewise.piecewise_module import PWL
from .randomized import RReLU
from .registry import ActivationSpec
from .rowwise.rowwise import LogSoftmax, Softmax, Softmax2d, Softmin
from .saving.saving import bounded, check_save

__all__ = [
    "GEGLU",
    "GLU",
    "PWL",
    "Activation",
    "LogSoftmax",
    "RReLU",
    "ReGLU",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "SwiGLU",
    "create",
    *(registry.get(name).module for name in registry.names("elementwise")),
]


Bound = float | None
Bounds = tuple[Bound, Bound]
Held = tuple[Any, str, dict[str, Any], AbstractContextManager[None]]


class _Elementwise(nn.Module):
    """What all activation modules share: a record, its parameters as attributes, and a call of its function.

    A number stays a plain attribute, as in torch.nn. A learnable one is an nn.Parameter under the same name, of shape
    (num_parameters,): sharded training does not take those without a dimension.
    """

    spec: ActivationSpec
    inplace: bool
    save: str = "auto"
    num_parameters: int
    channel_dim: int

    def _configure(
        self,
        spec: ActivationSpec,
        values: dict[str, Any],
        learnable: bool | str | tuple[str, ...],
        inplace: bool,
        num_parameters: int = 1,
        channel_dim: int = 1,
        bounds: Bounds | dict[str, Bounds] | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
    ) -> None:
        owner = type(self).__name__ if spec.key else f"fusedact.{type(self).__name__}"
        chosen = _chosen(owner, spec, learnable)
        if isinstance(num_parameters, bool) or not isinstance(num_parameters, int):
            raise TypeError(f"{owner}: num_parameters must be an int, got {type(num_parameters).__name__}")
        if num_parameters < 1 or (num_parameters > 1 and not chosen):
            accepted = "at least 1" if chosen else "1, since no parameter is learnable"
            raise ValueError(f"{owner}: num_parameters must be {accepted}, got {num_parameters}")
        check_save(owner, spec, save)
        self.spec = spec
        self.inplace = inplace
        self.save = save
        self.num_parameters = num_parameters
        self.channel_dim = check_channel_dim(owner, channel_dim)
        for o in spec.options:
            registry.chosen(owner, spec, *(values[o.name] for o in spec.options))
            setattr(self, o.name, values[o.name])
        self._initial: dict[str, float] = {}
        for p in spec.parameters:
            if isinstance(values[p.name], Tensor):
                raise TypeError(
                    f"{owner}: {p.name} must be a number (learnable=True makes it a parameter), got a tensor"
                )
            value = check_number(owner, p.name, values[p.name])
            if p.name in chosen:
                self._initial[p.name] = value
                setattr(self, p.name, nn.Parameter(torch.empty(num_parameters, device=device, dtype=dtype)))
            else:
                setattr(self, p.name, value)
        check_accepted(owner, spec, [self._initial.get(p.name, getattr(self, p.name)) for p in spec.parameters])
        self._bounds = _checked_bounds(owner, bounds, self._initial)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give the learnable parameters the values they began with."""
        with torch.no_grad():
            for name, value in self._initial.items():
                getattr(self, name).fill_(value)

    def forward(self, input: Tensor) -> Tensor:
        """For any record and any parameters; `_forward` writes out what most modules do."""
        spec = self.spec
        values = [getattr(self, p.name) for p in spec.parameters]
        if not spec.learnable:
            values += [getattr(self, o.name) for o in spec.options]
            return self._call(input, *values, inplace=self.inplace)
        if not self._bounds:
            return self._call(input, *values, inplace=self.inplace, channel_dim=self.channel_dim)
        values = [self._within(p.name, v) for p, v in zip(spec.parameters, values, strict=True)]
        with nullcontext() if torch.compiler.is_compiling() else bounded(self._bounds):
            return self._call(input, *values, inplace=self.inplace, channel_dim=self.channel_dim)

    # What `forward` is where nobody overrides it.
    _written = forward

    def _call(self, *args: Any, **keywords: Any) -> Tensor:
        """The activation's function."""
        return getattr(functional, self.spec.name)(*args, **keywords, save=self.save)

    @property
    def _function(self) -> Any:
        """The activation as functions take one."""
        return self.spec.name

    def hosted(self) -> Held | None:
        """What a layer needs to do what a call of this module does: the activation, its policy, its parameters by name,
        and what tells their bounds; channels counted along the last dimension.

        None where the module must be called: it has hooks, or a class of somebody's own.
        """
        elsewhere = self.num_parameters > 1 and self.channel_dim != -1
        if self.inplace or elsewhere or type(self).forward is not type(self)._written or compat.has_hooks(self):
            return None
        parameters = {p.name: self._within(p.name, getattr(self, p.name)) for p in self.spec.parameters}
        parameters |= {o.name: getattr(self, o.name) for o in self.spec.options}
        plainly = not self._bounds or torch.compiler.is_compiling()
        return self._function, self.save, parameters, nullcontext() if plainly else bounded(self._bounds)

    def _within(self, name: str, value: Any) -> Any:
        """A parameter inside its bounds: changed in place, so that an optimizer goes on from there.

        Through `data`, which does not count as a change: a graph that holds the parameter holds it inside its bounds
        already. What torch.func puts in the parameter's place is left as it is, and so are the parameters of exported
        and traced programs, which would hold no such change.
        """
        if name not in self._bounds:
            return value
        low, high = self._bounds[name]
        if isinstance(value, nn.Parameter) and not torch.compiler.is_exporting() and not torch.jit.is_tracing():
            value.data.clamp_(low, high)
            return value
        return value.clamp(low, high)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in self._bounds:
            self._within(name, getattr(self, name))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # Numbers that do not learn are buffers elsewhere: transformers' xIELU has beta and eps.
        unexpected = args[3]
        for p in self.spec.parameters:
            if p.fixed and prefix + p.name in state_dict:
                setattr(self, p.name, float(state_dict[prefix + p.name]))
                if prefix + p.name in unexpected:
                    unexpected.remove(prefix + p.name)

    def extra_repr(self) -> str:
        parts = []
        for p in self.spec.parameters:
            value = getattr(self, p.name)
            if not isinstance(value, Tensor):
                parts.append(f"{p.name}={value}")
            elif not self.spec.always_learned:
                parts.append(f"{p.name}=learnable")
        parts += [f"{o.name}={getattr(self, o.name)!r}" for o in self.spec.options]
        if self.num_parameters > 1 or self.spec.always_learned:
            parts.append(f"num_parameters={self.num_parameters}")
        if self.channel_dim != 1:
            parts.append(f"channel_dim={self.channel_dim}")
        if self._bounds:
            parts.append(f"bounds={self._bounds}")
        if self.inplace:
            parts.append("inplace=True")
        if self.save != "auto":
            parts.append(f"save={self.save!r}")
        return ", ".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        # The record holds functions; its name is enough to find it again.
        return {**self.__dict__, "spec": self.spec.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "spec": registry.get(state["spec"])})


def _chosen(owner: str, spec: ActivationSpec, learnable: bool | str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the learnable parameters."""
    known = [p.name for p in spec.learnable]
    if not isinstance(learnable, bool | str | tuple | list):
        raise TypeError(
            f"{owner}: learnable must be a bool, the name of a parameter or a tuple of names, "
            f"got {type(learnable).__name__}"
        )
    if learnable is True and not known:
        raise ValueError(f"{owner}: learnable=True, but {spec.name} has no parameters that learn")
    if spec.always_learned or learnable is True:
        return tuple(known)
    chosen = () if learnable is False else (learnable,) if isinstance(learnable, str) else tuple(learnable)
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"{owner}: learnable names {name!r}; the parameters that learn are {', '.join(known) or 'none'}"
            )
    return chosen


def _checked_bounds(
    owner: str, bounds: Bounds | dict[str, Bounds] | None, initial: dict[str, float]
) -> dict[str, Bounds]:
    """Bounds by the name of a learnable parameter, which begins inside them."""
    if bounds is None:
        return {}
    if not isinstance(bounds, dict):
        if len(initial) != 1:
            which = ", ".join(initial) or "none"
            raise ValueError(
                f"{owner}: bounds must be a dict by name unless one parameter is learnable, and {which} is"
            )
        bounds = {next(iter(initial)): bounds}
    checked: dict[str, Bounds] = {}
    for name, pair in bounds.items():
        if name not in initial:
            raise ValueError(f"{owner}: bounds names {name!r}; learnable is {', '.join(initial) or 'none'}")
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{owner}: bounds must be a pair (low, high), got {pair!r}")
        low, high = (None if b is None else check_number(owner, "bounds", b, "numbers or None") for b in pair)
        ends = (-math.inf if low is None else low), (math.inf if high is None else high)
        if not ends[0] < ends[1] or pair == (None, None):
            raise ValueError(f"{owner}: bounds must be (low, high) with low < high, got {pair!r}")
        if not ends[0] <= initial[name] <= ends[1]:
            raise ValueError(f"{owner}: {name} begins with {initial[name]}, outside its bounds {pair!r}")
        checked[name] = low, high
    return checked


class Activation(_Elementwise):
    """The activation of a name, as a module: `Activation("elu", alpha=0.5)` computes what `ELU(alpha=0.5)` does.

    Args:
        name: a name out of `fusedact.names("elementwise")`.
        learnable: False, True (all parameters), a parameter's name, or a tuple of names.
        num_parameters, channel_dim, bounds, device, dtype: of learnable parameters, as for the class of that name.
        inplace: overwrite the input.
        save: what is kept for backward: a policy that the activation can serve; see `fusedact.save_policy`.
        parameters: of the activation, by name; the defaults otherwise.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown parameter.

    >>> fusedact.Activation("relu_sigmoid", threshold=0.1)
    Activation('relu_sigmoid', threshold=0.1)
    """

    def __init__(
        self,
        name: str,
        *,
        learnable: bool | str | tuple[str, ...] = False,
        num_parameters: int = 1,
        channel_dim: int = 1,
        bounds: Bounds | dict[str, Bounds] | None = None,
        inplace: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: str = "auto",
        **parameters: Any,
    ) -> None:
        super().__init__()
        spec = registry.get(name, "fusedact.Activation")
        if spec.kind != "elementwise":
            takes = "tables, not numbers" if spec.kind == "piecewise" else "arguments of its own"
            raise ValueError(f"fusedact.Activation: {name!r} takes {takes}; use fusedact.{spec.module}")
        values = _complete("fusedact.Activation", spec, parameters)
        self._configure(spec, values, learnable, inplace, num_parameters, channel_dim, bounds, device, dtype, save)

    def extra_repr(self) -> str:
        rest = super().extra_repr()
        return f"{self.spec.name!r}, {rest}" if rest else repr(self.spec.name)


def _complete(owner: str, spec: ActivationSpec, parameters: dict[str, Any]) -> dict[str, Any]:
    """A value for each parameter and option."""
    check_names(owner, spec, parameters)
    missing = [p.name for p in spec.parameters if p.required_by_module and p.name not in parameters]
    if missing:
        raise TypeError(f"{owner}: {spec.name} needs {' and '.join(missing)}")
    return {p.name: parameters.get(p.name, p.default) for p in (*spec.parameters, *spec.options)}


def create(name: str, **arguments: Any) -> nn.Module:
    """A module by the activation's name.

    Args:
        name: a name out of `fusedact.names()`.
        arguments: of the module's class, as keywords.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for an unknown argument.

    >>> fusedact.create("relu_sigmoid", threshold=0.1)
    ReLUSigmoid(threshold=0.1)
    """
    return _classes[registry.get(name, "fusedact.create").name](**arguments)


class _Own(_Elementwise):
    """What the modules of an activation of one's own share: they are found, and pickled, through the activation."""

    own: Any

    def _call(self, *args: Any, **keywords: Any) -> Tensor:
        return self.own(*args, **keywords, save=self.save)

    @property
    def _function(self) -> Any:
        return self.own

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (self.own,), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "spec"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, {**state, "spec": type(self).spec})


def _restored(own: Any) -> nn.Module:
    """An empty module of an activation of one's own."""
    return own.module.__new__(own.module)


def define_own(own: Any, spec: ActivationSpec) -> type[nn.Module]:
    """The class of an activation of one's own, which is `own` and has this record."""
    made = _define(spec, own, _Own)
    made.own = own  # type: ignore[attr-defined]
    made.__module__, made.__qualname__ = own.__module__, f"{own.__qualname__}.module"
    return made


def _from_arguments(module: nn.Module, spec: ActivationSpec, values: dict[str, Any]) -> dict[str, float]:
    """What a module's first parameters begin with; its own arguments for them become attributes of the module."""
    owner = f"fusedact.{spec.module}"
    given = [check_number(owner, a.name, values.pop(a.name)) for a in spec.arguments]
    for a, value in zip(spec.arguments, given, strict=True):
        setattr(module, a.name, value)
    if spec.initial is not None:
        fixed = [check_number(owner, p.name, values[p.name]) for p in spec.parameters[len(given) :]]
        given = list(spec.initial(*given, *fixed))
    return dict(zip([p.name for p in spec.parameters], given, strict=False))


def _define(spec: ActivationSpec, function: Any, base: type[_Elementwise] = _Elementwise) -> type[_Elementwise]:
    init_signature = describe.module_signature(spec)

    def __init__(self: _Elementwise, *args: Any, **kwargs: Any) -> None:
        try:
            bound = init_signature.bind(self, *args, **kwargs)
        except TypeError as error:
            owner = spec.module if spec.key else f"fusedact.{spec.module}"
            raise TypeError(f"{owner}: {error}") from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        del values["self"]
        if spec.ignores:
            del values["args"], values["kwargs"]
        nn.Module.__init__(self)
        if spec.arguments:
            values |= _from_arguments(self, spec, values)
        numbers = {p.name: values.pop(p.name) for p in (*spec.parameters, *spec.options)}
        self._configure(spec, numbers, values.pop("learnable", False), values.pop("inplace", False), **values)

    __init__.__signature__ = init_signature
    __init__.__qualname__ = f"{spec.module}.__init__"
    forward = _forward(spec, function)
    attributes = {"__module__": __name__, "__doc__": describe.module_docstring(spec), "__init__": __init__}
    return type(spec.module, (base,), {**attributes, "forward": forward, "_written": forward, "spec": spec})


def _forward(spec: ActivationSpec, function: Any) -> Any:
    """What `forward` does without bounds, written out: a call costs what that of a hand-written module costs."""
    values = [f"self.{p.name}" for p in (*spec.parameters, *spec.options)]
    values.append("inplace=self.inplace")
    if spec.learnable:
        values.append("channel_dim=self.channel_dim")
    values.append("save=self.save")
    lines = [
        "def make(function, within_bounds):",
        "    def forward(self, input: Tensor) -> Tensor:",
        *(["        if self._bounds:", "            return within_bounds(self, input)"] if spec.learnable else []),
        f"        return function(input, {', '.join(values)})",
        "    return forward",
    ]
    file = f"<{'fusedact.modules' if not spec.key else spec.key}.{spec.module}.forward>"
    forward = sources.run("\n".join(lines), file, {"__name__": __name__, "Tensor": Tensor})["make"](
        function, _Elementwise.forward
    )
    forward.__qualname__ = f"{spec.module}.forward"
    return forward


_classes: dict[str, type[nn.Module]] = {
    name: _define(registry.get(name), getattr(functional, name)) for name in registry.names("elementwise")
}
globals().update({cls.__name__: cls for cls in _classes.values()})
_classes |= {"pwl": PWL, "softmax": Softmax, "log_softmax": LogSoftmax, "softmin": Softmin, "softmax2d": Softmax2d}
_classes["rrelu"] = RReLU
_classes["glu"] = GLU
