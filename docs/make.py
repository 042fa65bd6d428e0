"""Writes documents from the library's tables and measurements, and parts of docs/pwl.md and README.md.

Run `python docs/make.py`; with `--pictures`, and matplotlib, also docs/pwl_fit.png and the pictures of the gallery.
What measurements give, the gallery and docs/choosing.md, is in looking.py; the API reference in reference_pages.py.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fusedact
from fusedact import describe, registry
from fusedact.crossovers import LARGEST_ATEN_BELOW, LEAST_ATEN_BELOW
from fusedact.engine import lowering
from fusedact.piecewise import fitting
from fusedact.registry import ActivationSpec
from fusedact.saving import saving as policies
from fusedact.saving.saved_forms import SAVED, SavedForm
from fusedact.saving.saving import TWO_SLOPES

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

SAVING = """# What is kept for backward

Between two layers eager PyTorch keeps an activation's input, and the next layer keeps its output. For most activations
the first is needless: the gradient is a function of the output, or of the output and a bit that tells on which side of
the function's minimum the input lay. Every activation takes `save=`, as function and as module, and a block sets it for
all that do not say:

```python
import torch
import fusedact
import fusedact.functional as FF

act = fusedact.SiLU(save="output")
model, x = torch.nn.Sequential(torch.nn.Linear(64, 64), act, torch.nn.Linear(64, 8)), torch.randn(32, 64)
y = FF.leaky_relu(x, 0.1, save="bits")
with fusedact.save_policy("output"):
    loss = model(x).square().mean()
loss.backward()
```

| policy | keeps | where it pays |
|---|---|---|
| `"auto"` | what PyTorch keeps or less, and is as accurate | the default |
| `"input"` | the input alone; `softmax` makes its output again | the output is changed in place afterwards: `y += x` |
| `"output"` | the output, with a bit per element for functions that have a minimum | the next layer keeps the output |
| `"bits"` | a bit per element and no tensor, for functions of two slopes; up to 8 for tables | always; exact |

A trainable linear layer, a convolution, a norm and a pooling layer keep their input, which is the activation's output:
it costs nothing to keep it, too. A linear layer whose weight is frozen, dropout, a residual sum, concatenation, and a
layer that autocast hands a converted copy do not. `fusedact.memory_report(model, example)` measures it, and what each
policy would save; `fusedact.explain("elu", x, save="output")` tells what a call keeps, and why.

Said of a call or a module, a policy that the activation does not have is an error. Inside a block the activation takes
the next best of `"output"` and `"bits"`, then the input. Where parameters make the output ambiguous, the input is kept,
or the bits: the host looks at tensors on the CPU; those on a GPU it would have to wait for, so there a module's
`bounds` must say that they are safe: `fusedact.PReLU(bounds=(0.01, None), save="output")`.

What comes with it:

- An output that is kept must not be changed in place; autograd raises an error as it does after `torch.relu`. With
  `"input"` and `"bits"` it may be.
- `inplace=True` writes the output over the input and, with `"output"` or `"bits"`, keeps no copy of that.
- Second derivatives are those at the input as the output gives it back; `"bits"` has the exact ones.
- On a CPU memory costs time. Forward and backward of 2^22 elements took, beside the default, one thread of an AMD EPYC:
  the relu family, `elu` and `selu` from the output 0.6 to 2.8 times as long, bits 2 to 6 times, `softplus` 2 to 3,
  `relu_sigmoid` 4, and what has a minimum, where the input is found again by iteration, 6 (`mish`) to 25 (`gelu`);
  `softmax` and its kin from the input 1.5 to 2.3, and `rrelu`, whose slopes are drawn again, 1.6 to 2.4.
- In training `rrelu` keeps one seed beside what its policy says. A block changes none of the numbers that it draws, so
  that a checkpoint may leave the block: few elements on a CPU, which PyTorch's operator draws, then keep their slopes
  alone. Said of the call or the module the policy holds there, too, and the slopes are others. Bits have no kernel of
  their own in it: plain operators pack and unpack them.
- Under torch.func the formula keeps what it needs, and under torch.compile the compiler decides.
- A half that was rounded holds less than its input did: the accuracy of every derivative stands in
  [saving_accuracy.md](saving_accuracy.md).

Bytes an element that are kept between two linear layers, beyond their weights and what goes into the first
(`python -m bench.between`; [between.json](../bench/results/cpu/between.json)):

{between}
| activation | `"output"` | `"bits"` | by default | `"output"` not where |
|---|---|---|---|---|
"""

_CROSSOVER = f"2^{LEAST_ATEN_BELOW.bit_length() - 1} to 2^{LARGEST_ATEN_BELOW.bit_length() - 1}"
WHERE = f"""What PyTorch's operator computes, where that serves a call, stands: on a CPU, under `torch.compile`, and on
a GPU below {_CROSSOVER} elements, by its bandwidth, save as the last column says. The kernels give the limit. What
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
    if spec.pieces_from_recorded:
        parts[-1] += f", with a gradient from 2^{spec.pieces_from_recorded.bit_length() - 1}"
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


# Numbers with which it is asked where an output does not tell the gradient.
PROBES = (0.3, 1.0, -1.0, 0.0, 2.0, -100.0)


def _unsafe(form: SavedForm, count: int) -> str:
    """Why parameters are not accepted, for some that are not; nothing if all are."""
    return next(filter(None, (form.safe(*values) for values in itertools.product(PROBES, repeat=count))), "")


def _between() -> str:
    """The table of what is kept between two linear layers, from its file."""
    result = json.loads((FOLDER.parent / "bench/results/cpu/between.json").read_text())
    ways = list(result["rows"][0]["bytes_per_element"])
    lines = [f"| layers | activation | {' | '.join(ways)} |", f"|---|---|{'---:|' * len(ways)}"]
    for row in result["rows"]:
        kept = (f"{row['bytes_per_element'][way]:g}" for way in ways)
        lines.append(f"| {row['network']} | `{row['activation']}` | {' | '.join(kept)} |")
    return "\n".join(lines) + "\n"


def saving() -> str:
    """What each activation may keep."""
    rows = []
    for spec in map(registry.get, registry.names("elementwise")):
        form = SAVED.get(spec.name)
        bits = spec.name in TWO_SLOPES
        if form is None and not bits:
            continue
        output = "" if form is None else "output and a bit" if form.bits else "output"
        why = _unsafe(form, len(spec.parameters)) if form is not None else ""
        usual = "output" if policies.by_default(spec, torch.float32) else "input"
        usual += "; of halves the input" if usual == "output" and not policies.by_default(spec, torch.float16) else ""
        rows.append(f"| `{spec.name}` | {output} | {'a bit' if bits else ''} | {usual} | {why} |\n")
    rows.append("| `pwl` |  | the segment's number in 1, 2, 4 or 8 bits, for a shared table | input |  |\n")
    rows += [f"| `{name}` | output |  | output |  |\n" for name in registry.names("rowwise")]
    rows.append(
        "| `rrelu` in training | output | a bit | input; on a CPU the slopes | for a negative lower one output has two "
        "inputs |\n"
    )
    others = [_code(n) for n in registry.names("elementwise") if n not in SAVED and n not in TWO_SLOPES]
    rest = _prose(
        f"All others keep their input: {', '.join(others)}, `glu` and other gates, tables that learn, and activations "
        "of one's own; `identity` keeps nothing.".replace("`identity`, ", "")
    )
    return SAVING.replace("{between}\n", _between() + "\n") + "".join(rows) + f"\n{rest}\n"


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
    from fusedact.looking.drawing import empty_figure, style

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


def _beside(name: str) -> Any:
    """A module beside this file."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


FILES: dict[Path, Callable[[], str]] = {
    FOLDER / "operators.md": operators,
    FOLDER / "catalogue.md": catalogue,
    FOLDER / "saving.md": saving,
    FOLDER / "gallery.md": lambda: _beside("looking").gallery(),
    FOLDER / "choosing.md": lambda: _beside("looking").choosing(),
    PWL: pwl,
    README: readme,
    **_beside("reference_pages").FILES,
}

if __name__ == "__main__":
    if "--pictures" in sys.argv[1:]:
        picture()
        _beside("looking").pictures()
    for file, text in FILES.items():
        file.write_text(text())
