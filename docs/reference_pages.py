"""The API reference: which page tells of what. docs/make.py writes the pages into docs/reference/.

Sphinx fills them with the docstrings.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from fusedact import registry
from fusedact.conversion.conversion_report import Change, ConversionReport, Left
from fusedact.custom import CustomActivation
from fusedact.saving.memory import MemoryReport, Row
from fusedact.watching.watching import Statistics

FOLDER = Path(__file__).parent / "reference"
# Optional libraries are not imported for what needs them.
OPTIONAL = "fusedact.integrations."
# What the parts of the library ask of each other, and what torch.nn has documented.
UNTOLD = {"begin", "checked", "close", "current", "described", "extra_repr", "forward", "hosted", "plain"}
UNTOLD |= {"program", "spec"}


@dataclass(frozen=True)
class Section:
    """Objects that are told of together: by the name that users import, or the class itself if calls return it."""

    objects: tuple[str | type, ...]
    title: str = ""


@dataclass(frozen=True)
class Page:
    """A page of the reference. A section without a title follows the text."""

    title: str
    text: str
    sections: tuple[Section, ...]


def _of(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


def _functions(*names: str) -> tuple[str, ...]:
    return _of("fusedact.functional", *names)


def _top(*names: str) -> tuple[str, ...]:
    return _of("fusedact", *names)


# The activations that have no page of their own, with a twin in PyTorch and without.
_specs = [registry.get(name) for name in registry.names() if registry.get(name).kind not in ("piecewise", "gated")]
TWINS, BEYOND = [s for s in _specs if s.twin], [s for s in _specs if not s.twin]

PAGES = {
    "functional": Page(
        "Functions",
        "`from fusedact import functional as FF`. [The catalogue](../catalogue.md) has the same activations with their "
        "names in other libraries, and what is kept of each for backward.",
        (
            Section(_functions("activate"), "By name"),
            Section(_functions(*(s.name for s in TWINS)), "As in PyTorch"),
            Section(_functions(*(s.name for s in BEYOND)), "Beyond PyTorch"),
        ),
    ),
    "modules": Page(
        "Modules",
        "Each is the module of the function of the same name, and holds its parameters: numbers, or what learns.",
        (
            Section(_top("create", "Activation", "names"), "By name"),
            Section(_top("gain"), "How large weights begin"),
            Section(_top(*(s.module for s in TWINS)), "As in PyTorch"),
            Section(_top(*(s.module for s in BEYOND)), "Beyond PyTorch"),
        ),
    ),
    "own": Page(
        "Activations of one's own",
        "A function in plain PyTorch gets kernels, derivatives and a module. It may be made of "
        "[these operators](../operators.md).",
        (Section((*_top("activation"), CustomActivation)),),
    ),
    "piecewise": Page(
        "Piecewise-linear activations",
        "[Their guide](../pwl.md) tells how they are fitted and learned.",
        (
            Section((*_functions("pwl"), *_top("PWL"))),
            Section(_top("second_order_total_variation", "lipschitz_bound"), "Regularisation"),
        ),
    ),
    "gated": Page(
        "Gated activations",
        "[Their guide](../gated.md) says which model has which layout.",
        (
            Section(_functions("gated", "packed_glu", "glu"), "Functions"),
            Section(_top("SwiGLU", "GEGLU", "ReGLU", "GLU"), "Modules"),
        ),
    ),
    "layers": Page(
        "Linear layers, MLPs and biases",
        "An activation together with what comes before and after it: [linear layers](../linear.md), "
        "[biases, dropout and residuals](../bias.md).",
        (
            Section(_functions("linear", "bias_act"), "Functions"),
            Section(_top("Linear", "MLP", "GatedMLP"), "Modules"),
        ),
    ),
    "paths": Page(
        "Paths and memory",
        "Which of its ways a call takes, and [what it keeps for backward](../saving.md).",
        (
            Section(_top("explain", "Path", "backend"), "Paths"),
            Section((*_top("save_policy", "memory_report"), MemoryReport, Row), "Memory"),
        ),
    ),
    "converting": Page(
        "Converting models",
        "[The guide](../converting.md) tells what is found in a model, and what is left.",
        (Section((*_top("convert"), ConversionReport, Change, Left)),),
    ),
    "watching": Page(
        "Watching and looking",
        "[The guide](../watching.md) shows what each prints and draws; [the gallery](../gallery.md), plots.",
        (
            Section((*_top("monitor"), Statistics, *_top("log_activation", "log_step", "log_to_console")), "Watching"),
            Section(_top("plot"), "Looking"),
        ),
    ),
    "optim": Page(
        "Optimizers",
        "[The guide](../optimizers.md) writes an update rule, and compares the optimizers with torch's.",
        (
            Section(_of("fusedact.optim", "update_rule", "UpdateRule", "RuleOptimizer", "Optimizer"), "One's own"),
            Section(_of("fusedact.optim", "SGD", "ClassicMomentum", "ScaledSGD", "Adam", "AdamW"), "Ready made"),
        ),
    ),
    "integrations": Page(
        "Other libraries",
        "A module for each, which imports its library. [What works with what](../integrations.md), and "
        "[many devices](../scaling.md).",
        (
            Section(_of(f"{OPTIONAL}transformers", "register", "initialize"), "transformers"),
            Section(_of(f"{OPTIONAL}keras", "register"), "Keras"),
            Section(_of(f"{OPTIONAL}distributed", "ActivationParallel"), "torch.distributed"),
        ),
    ),
}

INDEX = """# API reference

The documentation of all that users call. Sphinx fills these pages with the docstrings, which `help(fusedact.PWL)`
shows, too. Made by `python docs/make.py`.

"""


def members(cls: Any) -> list[str]:
    """The documented methods and properties of a class, and of classes that it derives from and no page tells of."""
    objects = [thing for page in PAGES.values() for section in page.sections for thing in section.objects]
    told_of = [found(thing) for thing in objects if not name_of(thing).startswith(OPTIONAL)]
    names: dict[str, None] = {}
    for base in cls.__mro__:
        ours = base.__module__.startswith("fusedact.") and not base.__name__.startswith("_")
        if not ours or (base is not cls and base in told_of):
            continue
        for name, value in vars(base).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            # torch.optim puts another `step` into a class when it is first used.
            own = inspect.isfunction(function) and function.__qualname__.startswith(f"{base.__name__}.")
            public = not name.startswith("_") or name == "__call__"
            if own and public and name not in UNTOLD and function.__doc__:
                names[name] = None
    return list(names)


def name_of(thing: str | type) -> str:
    return thing if isinstance(thing, str) else f"{thing.__module__}.{thing.__qualname__}"


def found(thing: str | type) -> Any:
    return resolve_name(thing) if isinstance(thing, str) else thing


def _directive(thing: str | type) -> str:
    """What Sphinx replaces by the documentation of an object."""
    name = name_of(thing)
    # A capital begins a class.
    if not name.rpartition(".")[2][0].isupper():
        return f".. autofunction:: {name}\n"
    told = [] if name.startswith(OPTIONAL) else members(found(thing))
    # What calls return is made by nobody else, whatever arguments it takes.
    made = "" if isinstance(thing, str) else "()"
    options = f"   :members: {', '.join(told)}\n" if told else ""
    options += "   :special-members: __call__\n" if "__call__" in told else ""
    return f".. autoclass:: {name}{made}\n{options}"


def _rest(text: str) -> str:
    """In a page of Markdown what is written for Sphinx."""
    return f"```{{eval-rst}}\n{text}```\n"


def _text(page: Page) -> str:
    """A page, with a table of its objects before the first."""
    names = [name_of(thing) for section in page.sections for thing in section.objects]
    listed = "".join(f"   {name if name.startswith(OPTIONAL) else f'~{name}'}\n" for name in names)
    parts = [f"# {page.title}\n", f"{page.text}\n", _rest(f".. autosummary::\n   :nosignatures:\n\n{listed}")]
    for section in page.sections:
        parts += [f"## {section.title}\n"] if section.title else []
        parts.append(_rest("\n".join(map(_directive, section.objects))))
    return "\n".join(parts)


def _index() -> str:
    links = "".join(f"- [{page.title}]({name}.md)\n" for name, page in PAGES.items())
    return f"{INDEX}{links}\n```{{toctree}}\n:hidden:\n\n{chr(10).join(PAGES)}\n```\n"


FILES = {FOLDER / "index.md": _index} | {FOLDER / f"{name}.md": partial(_text, page) for name, page in PAGES.items()}
