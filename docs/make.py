"""Writes docs/operators.md from the engine's table: `python docs/make.py` in the repository's root."""

from __future__ import annotations

from pathlib import Path

import torch

from fusedact import lowering

FILE = Path(__file__).parent / "operators.md"
HEAD = """# What an activation of one's own may be made of

`@fusedact.activation` knows these operators, as functions and as methods and signs of tensors (`x * a`,
`x.clamp(0, 1)`, `~(x > 0)`), and whatever PyTorch composes of them. Made from the engine's table by
`python docs/make.py`.

Not among them: what is not elementwise, and the special functions whose kernels nobody has written: `lgamma`,
`digamma`, `polygamma`, Bessel functions, `erfcx`, `log_ndtr`, `ndtri`, `zeta`. Rounding has a derivative: 0.

| operator | from |
|---|---|
"""


def _place(name: str) -> tuple[str, str]:
    """An operator as users call it, and the module that has it."""
    if name.startswith("special_"):
        return name.removeprefix("special_"), "torch.special"
    if name == "log_sigmoid_forward":
        return "logsigmoid", "torch.nn.functional"
    functional = getattr(torch.nn.functional, name, None)
    if hasattr(torch, name) and (functional is None or name in ("sigmoid", "tanh", "relu")):
        return name, "torch"
    return name, "torch.nn.functional" if functional is not None else "torch"


def text() -> str:
    """The file's text."""
    by_module: dict[str, list[str]] = {}
    for name in lowering.supported():
        shown, module = _place(name)
        by_module.setdefault(module, []).append(f"`{shown}`")
    rows = [f"| {', '.join(sorted(names))} | `{module}` |" for module, names in sorted(by_module.items())]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
