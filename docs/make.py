"""Writes docs/catalogue.md and docs/operators.md from the library's tables: `python docs/make.py`."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import torch

import fusedact
from fusedact import describe, lowering, registry
from fusedact.dispatch import ATEN_BELOW
from fusedact.registry import ActivationSpec

FOLDER = Path(__file__).parent

OPERATORS = """# What an activation of one's own may be made of

`@fusedact.activation` knows these operators, as functions and as methods and signs of tensors (`x * a`,
`x.clamp(0, 1)`, `~(x > 0)`), and whatever PyTorch composes of them. Made from the engine's table by
`python docs/make.py`.

Not among them: what is not elementwise, and the special functions whose kernels nobody has written: `lgamma`,
`digamma`, `polygamma`, Bessel functions, `erfcx`, `log_ndtr`, `ndtri`, `zeta`. Rounding has a derivative: 0.

| operator | from |
|---|---|
"""

CATALOGUE = """# The activations

Made from the library's records by `python docs/make.py`. Each has a function (`fusedact.functional.silu`) and a module
(`fusedact.SiLU`), and is found by any of its names: `fusedact.create("silu")`, `fusedact.Activation("silu")`,
`FF.activate(x, "silu")`. Names, order of arguments and defaults are PyTorch's where it has a twin. A parameter marked
with * is a number, or a tensor with one entry or one per channel, and learns: `learnable=True` in the module. The gain
is `fusedact.gain(name)`: weights of standard deviation gain / sqrt(fan_in) keep the scale of what goes through it.

{kept}

| name | module | in PyTorch | kernel | kept | gain |
|---|---|---|---|---|---:|
"""

LIMITS = f"""
## Where PyTorch's own limit is wrong

On a CPU and under `torch.compile`, PyTorch's operator computes what has one, and its answer stands. The kernels give
the limit: on a GPU from the size on where they serve, 2^{ATEN_BELOW.bit_length() - 1} elements. So does everything that
PyTorch has no operator for, on every path; softsign is among that, as PyTorch composes it. In float32, on x86:

| activation | input | PyTorch: value, gradient | limit: value, gradient | given by |
|---|---|---|---|---|
"""

INF, NAN = math.inf, math.nan
# (name, input): value and gradient as PyTorch's operator has them, and their limits. tests/test_docs.py runs the first,
# tests/kernels/test_limits.py the second.
WRONG: dict[tuple[str, float], tuple[tuple[float, float], tuple[float, float]]] = {
    ("gelu", -INF): ((NAN, NAN), (0.0, 0.0)),
    ("gelu", INF): ((NAN, NAN), (INF, 1.0)),
    ("gelu_tanh", -INF): ((NAN, NAN), (0.0, 0.0)),
    ("gelu_tanh", -2e19): ((0.0, NAN), (0.0, 0.0)),
    ("gelu_tanh", 2e19): ((2e19, NAN), (2e19, 1.0)),
    ("gelu_tanh", INF): ((INF, NAN), (INF, 1.0)),
    ("silu", -INF): ((NAN, NAN), (0.0, 0.0)),
    ("silu", INF): ((INF, NAN), (INF, 1.0)),
    ("mish", -INF): ((NAN, NAN), (0.0, 0.0)),
    ("mish", INF): ((INF, NAN), (INF, 1.0)),
    ("hardswish", -INF): ((NAN, 0.0), (0.0, 0.0)),
    ("softsign", -INF): ((NAN, NAN), (-1.0, 0.0)),
    ("softsign", INF): ((NAN, NAN), (1.0, 0.0)),
}


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


def operators() -> str:
    """What an activation of one's own may be made of."""
    by_module: dict[str, list[str]] = {}
    for name in lowering.supported():
        shown, module = _place(name)
        by_module.setdefault(module, []).append(f"`{shown}`")
    rows = [f"| {', '.join(sorted(names))} | `{module}` |" for module, names in sorted(by_module.items())]
    return OPERATORS + "\n".join(rows) + "\n"


def _prose(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _gain(spec: ActivationSpec) -> str:
    """To four digits; nothing where parameters must be given."""
    if spec.kind != "elementwise" or any(p.required_by_module for p in spec.parameters):
        return ""
    return f"{fusedact.gain(spec.name):.4g}"


def _row(spec: ActivationSpec) -> str:
    ours, torchs = describe.kept(spec)
    kept = ours if torchs in ("", ours) else f"{ours}; {torchs}"
    cells = [f"[`{spec.name}`](#{spec.name})", _code(spec.module), _code(describe.twin(spec)), describe.kernel(spec)]
    return f"| {' | '.join([*cells, kept, _gain(spec)])} |"


def _section(spec: ActivationSpec) -> str:
    """All that is said of an activation."""
    parameters = [(f"`{text}`{'*' if learns else ''}") for text, learns in describe.parameters(spec)]
    about = dict(zip([p.name for p in spec.parameters] + [o.name for o in spec.options], parameters, strict=True))
    told = [f"{about[p.name]}: {p.doc}" for p in spec.parameters]
    told += [f"{about[o.name]}: {o.doc}, {' or '.join(map(repr, o.choices))}" for o in spec.options]
    lines = {
        "Module": f"`fusedact.{spec.module}`" + (", which always learns its parameters" * spec.always_learned),
        "Other names": ", ".join(map(_code, spec.aliases)),
        "Parameters": "; ".join(told),
        "In PyTorch": _code(describe.twin(spec)),
        "Source": spec.reference,
    }
    items = "\n".join(_prose(f"- {title}: {text.rstrip('.')}.", "  ") for title, text in lines.items() if text)
    return f"### {spec.name}\n\n{_prose(f'{spec.summary} {spec.limits}')}\n\n```\n{spec.formula}\n```\n\n{items}\n"


def _number(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else {INF: "+inf", -INF: "-inf"}.get(value, "NaN")


def _wrong(name: str, x: float) -> str:
    theirs, limit = WRONG[name, x]
    where = "kernels" if registry.get(name).aten is not None else "all paths"
    pairs = [", ".join(map(_number, pair)) for pair in (theirs, limit)]
    return f"| `{name}` | {_number(x)} | {pairs[0]} | {pairs[1]} | {where} |"


def catalogue() -> str:
    """All activations."""
    specs = [registry.get(name) for name in registry.names()]
    return "".join(
        [
            CATALOGUE.format(kept=_prose(f"Kept for backward: {describe.KEPT}")),
            *(f"{_row(spec)}\n" for spec in specs),
            LIMITS,
            *(f"{_wrong(*place)}\n" for place in WRONG),
            "\nThe gradient of gelu_tanh is NaN from about 1.9e19 on, where the square of the input is infinite.\n",
            "\n## Each of them\n",
            *(f"\n{_section(spec)}" for spec in specs),
        ]
    )


FILES = {FOLDER / "operators.md": operators, FOLDER / "catalogue.md": catalogue}

if __name__ == "__main__":
    for file, text in FILES.items():
        file.write_text(text())
