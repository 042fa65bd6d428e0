"""Writes what the library's tables tell: docs/catalogue.md, docs/operators.md, and parts of docs/pwl.md and README.md.

Run `python docs/make.py`; with `--pictures`, and matplotlib, also docs/pwl_fit.png.
"""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch

import fusedact
from fusedact import describe, fitting, lowering, registry
from fusedact.dispatch import ATEN_BELOW
from fusedact.registry import ActivationSpec

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- activations:begin -->", "<!-- activations:end -->"

PWL = FOLDER / "pwl.md"
FITS_BEGIN, FITS_END = "<!-- fits:begin -->\n", "<!-- fits:end -->\n"
FITTED, COUNTS = ("gelu", "silu", "mish", "tanh", "softplus", "selu", "hardswish"), (16, 32, 64)
WAYS = {f"{s}, {f.replace('_', ' ')}": {"spacing": s, "fit": f} for s in fitting.SPACINGS for f in fitting.FITS}

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

WHERE = f"""What PyTorch's operator computes, where that serves a call, stands: on a CPU, under `torch.compile`, and on
a GPU below 2^{ATEN_BELOW.bit_length() - 1} elements, save as the last column says. The kernels give the limit. What
PyTorch has no function for gives its own on every path. In float32, where max is the largest number:"""

LIMITS = """
## Where PyTorch's own limit is wrong

{where}

| activation | input x | of | PyTorch | limit | given by |
|---|---|---|---|---|---|
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
    return f"{value:g}" if math.isfinite(value) else {math.inf: "+inf", -math.inf: "-inf"}.get(value, "NaN")


def _limit(limit: Any) -> str:
    """A limit, which may depend on the input."""
    if not callable(limit):
        return _number(limit)
    x = torch.tensor([-3e38, 3e38])
    below, above = limit(x).tolist()
    return "x" if (below, above) == tuple(x.tolist()) else f"{_number(below)} below 0, {_number(above)} above"


def _given(spec: ActivationSpec) -> str:
    """What gives the limit."""
    parts = ["kernels of any size" if spec.composite else "kernels"]
    if spec.pieces_from:
        parts.append(f"CPU from 2^{spec.pieces_from.bit_length() - 1} elements on")
    if spec.compiled == "formula":
        parts.append("torch.compile")
    return "; ".join(parts)


def _wrong() -> list[str]:
    """The rows of the table of wrong limits, which the tests hold PyTorch and the kernels to."""
    sys.path.append(str(FOLDER.parent / "tests"))
    import twins

    rows = []
    for w in twins.WRONG:
        cells = [f"`{w.name}`", w.where, w.what, _number(w.has), _limit(w.limit), _given(registry.get(w.name))]
        rows.append(f"| {' | '.join(cells)} |\n")
    return rows


def catalogue() -> str:
    """All activations."""
    specs = [registry.get(name) for name in registry.names()]
    return "".join(
        [
            CATALOGUE.format(kept=_prose(f"Kept for backward: {describe.KEPT}")),
            *(f"{_row(spec)}\n" for spec in specs),
            LIMITS.format(where=_prose(WHERE)),
            *_wrong(),
            "\n## Each of them\n",
            *(f"\n{_section(spec)}" for spec in specs),
        ]
    )


def readme() -> str:
    """README.md, with the names of all activations between its markers."""
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    twins, beyond = [], []
    for spec in map(registry.get, registry.names()):
        (twins if spec.twin else beyond).append(_code(spec.name))
    lists = [
        f"- With a twin in PyTorch, whose names, order of arguments, defaults and kinks they have: {', '.join(twins)}.",
        f"- Beyond PyTorch: {', '.join(beyond)}.",
    ]
    return f"{before}{BEGIN}\n\n{chr(10).join(_prose(text, '  ') for text in lists)}\n\n{END}{after}"


def pwl() -> str:
    """docs/pwl.md, with the errors of fits between its markers."""
    before, rest = PWL.read_text().split(FITS_BEGIN)
    _, after = rest.split(FITS_END)
    lines = [f"| function | K | {' | '.join(WAYS)} |", f"|---|---:|{'---:|' * len(WAYS)}"]
    for name in FITTED:
        for count in COUNTS:
            fits = [fusedact.PWL.from_function(name, -8.0, 8.0, count, **way) for way in WAYS.values()]
            errors = " | ".join(f"{_error(f.fitting_error)} / {_error(f.fitting_rms)}" for f in fits)
            lines.append(f"| `{name}` | {count} | {errors} |")
    return f"{before}{FITS_BEGIN}\n{chr(10).join(lines)}\n\n{FITS_END}{after}"


def _error(error: float | None) -> str:
    """To two digits."""
    return f"{error:.1e}".replace("e-0", "e-")


def picture() -> None:
    """docs/pwl_fit.png."""
    from fusedact.drawing import empty_figure, style

    figure = empty_figure("docs/make.py", 10.0, 3.8)
    value, off = figure.subplots(1, 2)
    x = torch.linspace(-4.5, 4.5, 2001, dtype=torch.float64)
    y = torch.nn.functional.gelu(x)
    value.plot(x, y, color="0.5", linewidth=4, alpha=0.4, label="gelu")
    for axes, title in ((value, "eight breakpoints"), (off, "distance from gelu")):
        style(axes, title)
    for spacing in fitting.SPACINGS:
        act = fusedact.PWL.from_function("gelu", -4.0, 4.0, 8, spacing=spacing, dtype=torch.float64)
        (line,) = value.plot(act.breakpoints, act.values, "o-", markersize=4, linewidth=1.2, label=spacing)
        off.plot(x, act(x) - y, color=line.get_color(), label=f"{spacing}: at most {act.fitting_error:.2g}")
    for axes, where in ((value, "upper left"), (off, "upper right")):
        axes.legend(frameon=False, loc=where)
    figure.savefig(FOLDER / "pwl_fit.png", dpi=110)


FILES = {FOLDER / "operators.md": operators, FOLDER / "catalogue.md": catalogue, PWL: pwl, README: readme}

if __name__ == "__main__":
    if "--pictures" in sys.argv[1:]:
        picture()
    for file, text in FILES.items():
        file.write_text(text())
