"""Writes what names functions and modules made from the records: functional.pyi, modules.pyi, part of __init__.py.

Run `python -m fusedact.stubs` after a change of the catalog; a test keeps the files current.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

from . import describe, functional, modules, registry

# What is written out, by the module it stands in.
FUNCTIONS = "".join(
    f"from .{module} import {name} as {name}\n"
    for module, names in {
        "hosts.affine": ("linear",),
        "hosts.biased": ("bias_act",),
        "hosts.gating": ("gated", "glu", "packed_glu"),
        "randomized": ("rrelu",),
        "rowwise.rowwise": ("log_softmax", "softmax", "softmax2d", "softmin"),
    }.items()
    for name in names
)
MODULES = "".join(
    f"from .{module} import {name} as {name}\n"
    for module, names in {
        "hosts.gated_modules": ("GEGLU", "GLU", "ReGLU", "SwiGLU"),
        "randomized": ("RReLU",),
        "rowwise.rowwise": ("LogSoftmax", "Softmax", "Softmax2d", "Softmin"),
    }.items()
    for name in names
)
# Gated modules that no record names.
GATED = ("GEGLU", "ReGLU", "SwiGLU")
FOLDER = Path(__file__).parent
HEADER = "# Made from the catalog by `python -m fusedact.stubs`.\n"


def _documented(text: str | None) -> str:
    return textwrap.indent(f'"""{(text or "").strip()}\n"""', "    ")


def functional_stub() -> str:
    """The text of functional.pyi."""
    parts = [HEADER + "from torch import Tensor\n\nfrom .piecewise.piecewise import pwl as pwl\n" + FUNCTIONS]
    parts.append(
        "def activate(x: Tensor, activation: str, *, save: str = 'auto', **parameters: float | Tensor) -> Tensor:\n"
        + _documented(inspect.getdoc(functional.activate))
    )
    for spec in map(registry.get, registry.names("elementwise")):
        parts.append(
            f"def {spec.name}({describe.function_signature(spec)}) -> Tensor:\n"
            + _documented(describe.function_docstring(spec))
        )
    return "\n".join(parts) + "\n"


def _unquoted(signature: inspect.Signature) -> str:
    """A signature whose annotations are strings, as it stands in a file."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature))


def _class(name: str, init: str, doc: str | None, attributes: str) -> str:
    return (
        f"class {name}(nn.Module):\n{_documented(doc)}\n{attributes}    inplace: bool\n    save: str\n"
        f"    def __init__{init}: ...\n    def forward(self, input: Tensor) -> Tensor: ..."
    )


def modules_stub() -> str:
    """The text of modules.pyi."""
    imports = (
        "from typing import Any\n\nimport torch\nfrom torch import Tensor, nn\n\n"
        "from .piecewise.piecewise_module import PWL as PWL\n"
        "from .registry import ActivationSpec\n" + MODULES
    )
    parts = [HEADER + imports + "\nBound = float | None\nBounds = tuple[Bound, Bound]\n"]
    for cls in (modules.Activation,):
        init = _unquoted(inspect.signature(cls.__init__))
        parts.append(_class(cls.__name__, init, inspect.getdoc(cls), ""))
    parts.append(
        "def create(name: str, **arguments: Any) -> nn.Module:\n" + _documented(inspect.getdoc(modules.create))
    )
    for spec in map(registry.get, registry.names("elementwise")):
        init = _unquoted(describe.module_signature(spec))
        attributes = "".join(f"    {p.name}: float | nn.Parameter\n" for p in spec.parameters)
        parts.append(_class(spec.module, init, describe.module_docstring(spec), attributes))
    parts.append("def define_own(own: Any, spec: ActivationSpec) -> type[nn.Module]: ...\n")
    return "\n\n".join(parts) + "\n"


def contents() -> str:
    """The text of __init__.py: each module's class as an import, in the formatter's order, and the rest as it is."""
    before, *others = re.split(r"from \.modules import .*\n", (FOLDER / "__init__.py").read_text())
    names = sorted(
        ["Activation", *GATED, *(registry.get(name).module for name in registry.names())],
        key=lambda name: (not name.isupper(), name.lower()),
    )
    return before + "".join(f"from .modules import {name} as {name}\n" for name in [*names, "create"]) + "".join(others)


FILES = {"functional.pyi": functional_stub, "modules.pyi": modules_stub, "__init__.py": contents}


def write() -> None:
    """Bring the files up to date."""
    for name, text in FILES.items():
        (FOLDER / name).write_text(text())


if __name__ == "__main__":
    write()
