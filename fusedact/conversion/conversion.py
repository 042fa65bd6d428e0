"""`fusedact.convert`: a model's activations become this library's, where they stand."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .. import registry
from . import functional_calls as calls
from . import verification
from .call_sites import inside
from .conversion_report import Change, ConversionReport, Left
from .conversion_targets import OWNER, TWIN, Mapped, Place, Target, learned
from .leads import held
from .parameter_groups import update
from .reached import reached
from .reading import Found, Plan
from .rewriting import original, plan_of, rewritten
from .surgery import become, set_attribute, set_class
from .twin_modules import home, is_ours, label, record_of, why_closed, why_never, why_not

__all__ = ["convert"]


def convert(
    model: nn.Module,
    mapping: Mapping[Any, Any] | None = None,
    *,
    learnable: bool | str | tuple[str, ...] = False,
    optimizer: torch.optim.Optimizer | None = None,
    verify: Any = None,
    inplace: bool = True,
) -> ConversionReport:
    """Swap a model's activations for those of this library.

    Without a mapping each gets its twin, which computes the same with the same parameters and state_dict keys: modules,
    functions that modules keep as attributes, calls in their methods (`F.relu(x)`, `torch.sigmoid(x)`, `x.tanh()`), and
    the products of gated layers (`act(gate(x)) * up(x)`), which become one pass. A module stays the object that it is:
    its class changes, as under torch.nn.utils.parametrize, and with it what it computes; hooks, modes, sharing, and
    whatever else refers to it stay. A second call changes nothing.

    Args:
        model: a module, which is changed; it may be an activation itself.
        mapping: None, or a dict from what is replaced to what takes its place; nothing else is replaced then. Keys are
            classes (`nn.ReLU`: exactly that class), names of modules ("layers.3.act") or patterns of them ("*.act", in
            which * is any text), or functions (`F.relu`: its calls and attributes). A name goes before a pattern, and
            that before a class. Values are the name of an activation, a class, a module (copied for each place), what
            `fusedact.activation` made, a function that makes a module (of the old one, if it takes an argument),
            "twin", or None, which leaves a place as it is.
        learnable: True, or names of parameters: each place gets its own, as nn.Parameters; shared modules share them.
        optimizer: one whose groups are to follow: new parameters get a group with the settings of the first, without
            weight decay; those that are gone leave it, with their state. Before a scheduler is made of it.
        verify: an example input (a tensor, a tuple of arguments, or a dict of them): the outputs before and after are
            compared in evaluation mode, and the report lists what the example still reaches of PyTorch's activations.
        inplace: False converts a copy, which is the report's `model`.

    Returns:
        a ConversionReport: `print` it; `revert()` puts everything back.

    Raises:
        TypeError: if an argument has another type.
        ValueError: for an unknown name, if no activation has a parameter named in `learnable`; or if twins are found to
            differ by more than rounding: everything is as before then.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LeakyReLU(0.2))
    >>> print(fusedact.convert(model))
    fusedact.convert: 1 place converted
      1  nn.LeakyReLU(negative_slope=0.2) -> fusedact.LeakyReLU(negative_slope=0.2)
    """
    asked = _checked(model, learnable, optimizer, inplace)
    mapped = Mapped(mapping)
    if not inplace:
        model = copy.deepcopy(model)
    report = ConversionReport(model)
    before = None if verify is None else verification.outputs(model, verify)
    parameters = list(model.parameters())
    conversion = _Conversion(model, mapped, asked, report)
    made = conversion.built()
    try:
        conversion.swap(made)
        conversion.functions()
        conversion.methods()
        conversion.parameters(parameters, optimizer)
        conversion.warn()
        if verify is not None:
            conversion.compare(before, verification.outputs(model, verify))
            conversion.still_called(verify)
    except BaseException:
        report.revert()
        raise
    return report


def _checked(model: Any, learnable: Any, optimizer: Any, inplace: Any) -> bool | tuple[str, ...]:
    """The names of parameters that are to learn."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{OWNER}: model must be a torch.nn.Module, got {type(model).__name__}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{OWNER}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if not isinstance(inplace, bool):
        raise TypeError(f"{OWNER}: inplace must be a bool, got {type(inplace).__name__}")
    if optimizer is not None and not inplace:
        raise ValueError(f"{OWNER}: optimizer holds the model's parameters, not those of a copy; use inplace=True")
    if isinstance(learnable, bool):
        return learnable
    names = (learnable,) if isinstance(learnable, str) else learnable
    if not isinstance(names, tuple | list) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"{OWNER}: learnable must be a bool, a parameter's name or a tuple of names, got {type(learnable).__name__}"
        )
    return tuple(names)


class _Conversion:
    """One call of `convert`, step by step; what it does goes into the report."""

    def __init__(
        self, model: nn.Module, mapped: Mapped, asked: bool | tuple[str, ...], report: ConversionReport
    ) -> None:
        self.model, self.mapped, self.asked, self.report = model, mapped, asked, report
        self.names: dict[nn.Module, list[str]] = {}
        # Every module that can be converted, in order.
        self.open: list[nn.Module] = []
        # Activations that the mapping does not name.
        self.unnamed: Counter[str] = Counter()
        self.only_twins = True
        # Methods, and the records whose calls in them the report tells to be left.
        self.told: set[tuple[str, str]] = set()
        self._walk()

    def _walk(self) -> None:
        """Names of all modules, and those below which nothing can be converted."""
        closed: list[str] = []
        for name, module in self.model.named_modules(remove_duplicate=False):
            first = module not in self.names
            self.names.setdefault(module, []).append(name)
            if any(name == c or name.startswith(f"{c}." if c else "") for c in closed):
                continue
            if why := why_closed(module):
                closed.append(name)
                self.report.left.append(Left(name, label(module), why))
            elif first:
                self.open.append(module)

    # ----- modules

    def built(self) -> list[tuple[nn.Module, nn.Module, bool]]:
        """What takes each module's place, and whether it is a twin; nothing is changed yet."""
        made = []
        for module in self.open:
            chosen, target = self.mapped.chosen(self.names[module], module)
            if chosen and target is not None:
                new = self._one(module, target)
                if new is not None:
                    made.append((module, new, target.is_twin(module)))
            elif chosen:
                self._leave(module, "the mapping says so")
            elif self.mapped.everything and (why := why_not(module)):
                self._leave(module, why)
            elif record_of(module) is not None and not is_ours(module):
                self.unnamed[f"nn.{type(module).__name__}"] += 1
        if isinstance(self.asked, tuple):
            known = {n for _, new, _ in made for n, _ in new.named_parameters(recurse=False)}
            known |= {n for m in self.open if is_ours(m) for n, _ in m.named_parameters(recurse=False)}
            for name in self.asked:
                if name not in known:
                    raise ValueError(f"{OWNER}: learnable names {name!r}, which none of the activations here has")
        return made

    def _leave(self, module: nn.Module, why: str) -> None:
        self.report.left.append(Left(self.names[module][0], label(module), why))

    def _one(self, module: nn.Module, target: Target) -> nn.Module | None:
        """What takes a module's place, or None: it is there already, or it cannot be, which the report tells."""
        twin = target.is_twin(module)
        if twin and is_ours(module) and not self._begins_to_learn(module):
            self.report.already += 1
            return None
        why = why_not(module) if twin else why_never(module)
        if not why and target is TWIN and record_of(module) is None:
            why = "it is no activation that has a twin"
        if why:
            self._leave(module, why)
            return None
        place = Place(module, *self._where(module), self.asked)
        try:
            made = target.make(place)
        except (TypeError, ValueError) as error:
            if not twin:
                raise
            self._leave(module, str(error))
            return None
        if type(made) is type(module) and _settings(made) == _settings(module):
            self.report.already += 1
            return None
        return made

    def _begins_to_learn(self, module: nn.Module) -> bool:
        spec = record_of(module)
        names = learned(spec, self.asked) if spec is not None else ()
        return any(not isinstance(getattr(module, n, None), nn.Parameter) for n in names)

    def _where(self, module: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        """Device and dtype of new parameters: of the nearest that there are, in the module or around it."""
        name = self.names[module][0]
        while True:
            for p in self.model.get_submodule(name).parameters():
                if p.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
                    return p.device, p.dtype
            if not name:
                return None, None
            name = name.rpartition(".")[0]

    def swap(self, made: list[tuple[nn.Module, nn.Module, bool]]) -> None:
        """Put what was built in its places."""
        for module, new, twin in made:
            what = label(module)
            note = self._note(module, new, twin)
            try:
                self.report._undo.append(become(module, new))
            except TypeError as error:
                self._leave(module, f"Python cannot make a {type(new).__name__} of it: {error}")
                continue
            self.only_twins = self.only_twins and twin
            first, *others = self.names[module]
            self.report.changes.append(Change(first, what, label(module), note))
            self.report.changes += [Change(other, what, "the same module") for other in others]
            if not twin:
                self._leave_fast_path(module)

    def _note(self, module: nn.Module, new: nn.Module, twin: bool) -> str:
        notes = []
        if getattr(module, "inplace", False) is True and getattr(new, "inplace", None) is False:
            notes.append("no longer in place")
        spec = record_of(new)
        if self.asked and not any(True for _ in new.parameters()):
            notes.append("nothing in it learns")
        if twin and spec is not None and spec.kind == "random":
            notes.append("draws other slopes than PyTorch in training")
        return "; ".join(notes)

    def _leave_fast_path(self, activation: Any) -> None:
        """PyTorch's encoder layers have a fast path that computes ReLU or GELU, whatever their activation is now."""
        layers = [m for m in self.open if isinstance(m, nn.TransformerEncoderLayer) and m.activation is activation]
        for layer in layers:
            self.report._undo.append(set_attribute(layer, "activation_relu_or_gelu", 0))
            for encoder in self.open:
                if isinstance(encoder, nn.TransformerEncoder) and layer in encoder.layers:
                    self.report._undo.append(set_attribute(encoder, "use_nested_tensor", False))

    # ----- functions that modules keep

    def functions(self) -> None:
        """Replace functions that are attributes; list those in containers, and those of classes."""
        for module in self.open:
            if is_ours(module):
                continue
            for name, value in list(module.__dict__.items()):
                if not name.startswith("__"):
                    self._attribute(module, name, value)
            for cls in type(module).__mro__:
                if home(cls) not in ("torch", "fusedact", "builtins"):
                    for name, value in vars(cls).items():
                        self._of_class(module, cls, name, value)

    def _of_class(self, module: nn.Module, cls: type, name: str, value: Any) -> None:
        """List functions that are attributes of a class, where they are shared with what is not converted."""
        value = value.__func__ if isinstance(value, staticmethod) else value
        found = calls.known(value)
        for one in held(value) if found is None else (found,):
            place = ".".join(filter(None, (self.names[module][0], name)))
            kind = "an attribute" if found is not None else f"in a {type(value).__name__}, an attribute"
            self._leave_function([place], one, f"{kind} of the class {cls.__name__}")

    def _leave_function(self, places: list[str], found: calls.Known, why: str) -> None:
        """List a function that the mapping names, and nobody can replace."""
        chosen, target = self.mapped.chosen_function(places, found)
        if chosen:
            why = why if target is not None else "the mapping says so"
            self.report.left.append(Left(places[0], f"F.{found.record}", why))

    def _attribute(self, module: nn.Module, name: str, value: Any) -> None:
        place = ".".join(filter(None, (self.names[module][0], name)))
        if isinstance(value, list | tuple | dict) and name not in _OF_EVERY_MODULE:
            for one in value.values() if isinstance(value, dict) else value:
                self._in_a_container(place, one, type(value).__name__)
            return
        function = value.func if isinstance(value, partial) else value
        found = calls.known(function)
        if found is None:
            ours = getattr(function, "spec", None)
            self.report.already += self.mapped.everything and isinstance(ours, registry.ActivationSpec)
            if isinstance(function, FunctionType):
                self._inside(place, function)
            return
        places = [".".join(filter(None, (n, name))) for n in self.names[module]]
        chosen, target = self.mapped.chosen_function(places, found)
        what = f"F.{found.record}" if not found.inplace else f"F.{found.record}_"
        if not chosen:
            self.unnamed[what] += 1
            return
        if target is None:
            self.report.left.append(Left(place, what, "the mapping says so"))
            return
        wanted = found.record if target is TWIN else target.function
        if wanted is None:
            raise TypeError(
                f"{OWNER}: {place} is a function; no module can take its place, but an activation's name can"
            )
        twin = wanted == found.record
        new = calls.twin(function) if twin else calls.of(wanted)
        if twin and isinstance(value, partial):
            new = partial(new, *value.args, **value.keywords)
        self.only_twins = self.only_twins and twin
        self.report._undo.append(set_attribute(module, name, new))
        self.report.changes.append(Change(place, what, calls.shown(wanted)))
        if not twin:
            self._leave_fast_path(new)

    def _inside(self, place: str, function: FunctionType) -> None:
        """List the calls in a function that a module keeps."""
        plan = Plan(self.mapped.calls(), frozenset(), self.mapped.everything)
        why = f"in the function {function.__name__}, which is no method"
        for f, count in _counted(inside(function, "", plan, why)):
            self.report.left.append(Left(place, f"{f.text}{count}", f.why))

    def _in_a_container(self, place: str, value: Any, kind: str) -> None:
        if isinstance(value, nn.Module) and record_of(value) is not None and value not in self.names:
            if not is_ours(value):
                why = f"in a plain {kind}, where PyTorch does not see it: use nn.ModuleList or nn.ModuleDict"
                self.report.left.append(Left(place, label(value), why))
            return
        for found in held((value,)):
            self._leave_function([place], found, f"a function in a {kind}")

    # ----- calls in methods

    def methods(self) -> None:
        """Replace calls of functions, in a subclass of each class that has some."""
        for module in self.open:
            if not is_ours(module):
                self._methods_of(module)

    def _methods_of(self, module: nn.Module) -> None:
        place = self.names[module][0]
        cls, earlier = original(type(module)), plan_of(type(module))
        if cls.__module__ == "torch.fx.graph_module":
            self._graph(module, place)
            return
        plan = Plan(self.mapped.calls(), self._gates(module), self.mapped.everything).over(earlier)
        before = rewritten(cls, earlier)[1] if earlier != Plan() else ()
        # Where no call is asked for, none is looked for.
        made, found = rewritten(cls, plan) if plan.asks() else (None, ())
        why = "its forward was replaced by another function" if "forward" in module.__dict__ else ""
        if parametrize.is_parametrized(module):
            if any(plan_of(c) != Plan() for c in type(module).__mro__[1:]):
                return
            why = "parametrized, which is a class of its own: convert the model before"
        for f in found:
            self.mapped.use_function(f.record)
        changed = [f for f in found if f.becomes and f not in before]
        self.report.already += sum(1 for f in found if f.becomes and f in before)
        left = [f for f in found if not f.becomes]
        if why:
            left += [f.left(why) for f in changed]
            changed = []
        if not self.mapped.everything:
            left += self._not_asked_for(cls)
        for f, count in _counted(left):
            self.report.left.append(Left(_joined(place, f.method), f"{f.text}{count}", f.why))
            self.told.add((_joined(place, f.method), f.record))
        if not changed or made is None:
            return
        self.report._undo.append(set_class(module, made))
        for f, count in _counted(changed):
            note = "where both are of one shape" if f.becomes == "FF.gated" else ""
            self.report.changes.append(Change(_joined(place, f.method), f"{f.text}{count}", f.becomes, note))
        self.only_twins = self.only_twins and all(t is None for _, t in plan.functions)
        if self.asked and any(registry.get(f.record).learnable for f in changed):
            self.report.warnings.append(f"{_joined(place, 'forward')}: a call has no place for parameters that learn")

    def _not_asked_for(self, cls: type) -> list[Found]:
        """The calls that the mapping wants left; those that it does not name are counted."""
        left = []
        for f in rewritten(cls, _ALL)[1]:
            if f.record not in self.mapped.functions:
                self.unnamed[f.text] += bool(f.record)
            elif self.mapped.functions[f.record] is None:
                self.mapped.use_function(f.record)
                left.append(f.left("the mapping says so"))
        return left

    def _gates(self, module: nn.Module) -> frozenset[str]:
        """The attributes that hold an elementwise activation of ours."""
        held = {**module._modules, **{k: v for k, v in module.__dict__.items() if callable(v)}}
        specs = {k: getattr(v, "spec", None) for k, v in held.items()}
        return frozenset(
            k for k, s in specs.items() if isinstance(s, registry.ActivationSpec) and s.kind == "elementwise"
        )

    def _graph(self, module: Any, place: str) -> None:
        for node in module.graph.nodes:
            found = calls.known(node.target) if node.op == "call_function" else None
            if node.op == "call_method":
                found = calls.METHODS.get(node.target)
            if found is not None:
                why = "in a graph of torch.fx: convert the model before it is traced"
                self.report.left.append(Left(_joined(place, node.name), f"F.{found.record}", why))

    def still_called(self, example: Any) -> None:
        """List the functions of PyTorch that an example reaches, where nothing that is listed already tells of them."""
        for call in reached(self.model, example, self.names):
            asked = self.mapped.everything or self.mapped.functions.get(call.record) is not None
            *inner, place = [_joined(self.names[call.module][0], name) for name in call.through]
            if asked and not any((p, call.record) in self.told for p in (*inner, place)):
                why = f"called in {call.line}, in a way that the source of no method shows"
                self.report.left.append(Left(place, call.text, why))

    # ----- what follows

    def parameters(self, before: list[nn.Parameter], optimizer: torch.optim.Optimizer | None) -> None:
        """Tell the optimizer which parameters came and went."""
        after = list(self.model.parameters())
        old, new = {id(p) for p in before}, {id(p) for p in after}
        added, removed = [p for p in after if id(p) not in old], [p for p in before if id(p) not in new]
        if optimizer is not None and (added or removed):
            self.report._undo.append(update(optimizer, added, removed))
        elif added:
            count = "1 new parameter is" if len(added) == 1 else f"{len(added)} new parameters are"
            self.report.warnings.append(f"{count} in no optimizer yet: give optimizer=, or make it after this call")

    def warn(self) -> None:
        """Tell which keys matched nothing, and which activations no key matched."""
        self.report.warnings += [f"the key {key} matches nothing" for key in self.mapped.unused.values()]
        shown = ", ".join(f"{n} {what}" for what, n in sorted(self.unnamed.items()) if n)
        if not self.mapped.everything and shown:
            self.report.warnings.append(f"not in the mapping, and left: {shown}")

    def compare(self, before: Any, after: Any) -> None:
        """Compare outputs; twins must give the same.

        Raises:
            ValueError: if they do not.
        """
        try:
            worst, where, dtypes = verification.compared(before, after)
        except ValueError as error:
            raise ValueError(f"{OWNER}: verify: {error}; everything was put back") from None
        self.report.difference = worst
        allowed = verification.tolerance(dtypes)
        if self.only_twins and worst > allowed:
            raise ValueError(
                f"{OWNER}: verify: {where} differs by {worst:.1e} of its largest element, where twins may by "
                f"{allowed:.0e}; everything was put back"
            )


# The attributes of a module that is nothing else.
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)

# Every call that there is.
_ALL = Plan(tuple((name, None) for name in registry.names()))


def _settings(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """What tells two modules of one class apart, but for what they learned."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str) and k != "training"}
    return repr(module), plain


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _counted(found: list[Found]) -> Iterator[tuple[Found, str]]:
    """Calls without those that are alike, and how often they are there."""
    counts = Counter((f.method, f.text, f.becomes, f.why) for f in found)
    seen = set()
    for f in found:
        key = f.method, f.text, f.becomes, f.why
        if key not in seen:
            seen.add(key)
            yield f, f", {counts[key]} times" if counts[key] > 1 else ""
