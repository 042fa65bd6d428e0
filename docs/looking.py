"""What docs/make.py writes of measured properties: the gallery with its pictures, and docs/choosing.md."""

from __future__ import annotations

import csv
import json
import math
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fusedact
from fusedact import describe, functional, properties, registry
from fusedact.looking import cli_measure
from fusedact.looking.drawing import empty_figure
from fusedact.properties import Properties

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "gallery"
FIGURES = FOLDER.parent / "bench" / "results" / "cpu" / "choosing.json"
COLUMNS = 4
# Pictures go from -SIDE to SIDE, along and up.
SIDE = 4.0

GALLERY = """# The gallery

Every activation, drawn by `fusedact.plot`: the value solid, the derivative dashed, the second derivative dotted. A jump
of the derivative does not show in the second. `python -m fusedact plot NAME... -o FILE` draws any of them, with other
parameters as `NAME:parameter=value`, and `python -m fusedact show NAME` shows one in a terminal, with what is measured
of it. Made by `python docs/make.py --pictures`. [catalogue.md](catalogue.md) has the formulas,
[choosing.md](choosing.md) tells where each belongs.
"""

# What pictures need where defaults show little, or there are none.
TABLE = ([-2.5, -1.5, -0.5, 0.0, 1.0, 2.0], [0.0, -0.6, -0.4, 0.0, 1.2, 1.6])
SHOWN: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": 0.5, "value": -0.5},
    "pwl": {"breakpoints": TABLE[0], "values": TABLE[1], "right_slope": 1.0},
    "relu_sigmoid": {"threshold": 0.5},
}


def _along(name: str) -> Callable[[Tensor], Tensor]:
    """Of two elements one is given, and the other 0."""
    function = getattr(functional, name)

    def first(x: Tensor) -> Tensor:
        both = torch.stack([x, torch.zeros_like(x)], -1)
        return function(both[None, None].movedim(-1, 1))[0, 0, 0] if name == "softmax2d" else function(both, -1)[..., 0]

    return first


def _glu(x: Tensor) -> Tensor:
    return functional.glu(torch.stack([torch.ones_like(x), x], -1), -1)[..., 0]


def _drawn(name: str) -> tuple[Any, dict[str, Any], str]:
    """What `plot` takes for an activation, its parameters, and what a caption adds."""
    kind = registry.get(name).kind
    if kind == "rowwise":
        return _along(name), {}, "of two elements, the other being 0"
    if kind == "gated":
        return _glu, {}, "by the gate, of the value 1"
    shown = SHOWN.get(name, {})
    told = ", ".join(f"{k}={v:g}" for k, v in shown.items() if isinstance(v, float)) if name != "pwl" else "an example"
    return name, shown, told


def pictures() -> None:
    """docs/gallery/NAME.png."""
    PICTURES.mkdir(exist_ok=True)
    for name in registry.names():
        figure = empty_figure("docs/make.py", 3.3, 2.4)
        axes = figure.subplots()
        drawn, parameters, _ = _drawn(name)
        # As far as an upper bound, if that is not reached before.
        bounded = registry.get(name).kind == "elementwise" and name not in SHOWN and measured(name).high.attained
        far = max(SIDE, 1.2 * measured(name).high.at) if bounded else SIDE
        fusedact.plot(drawn, low=-SIDE, high=far, ax=axes, labels=[name], **parameters)
        axes.get_legend().remove()
        axes.set_xlabel("")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.05 * SIDE), high if bounded else min(high, 1.05 * SIDE))
        figure.savefig(PICTURES / f"{name}.png", dpi=80, pil_kwargs={"optimize": True})


@cache
def measured(name: str, **parameters: Any) -> Properties:
    """What is measured of an activation, with the module's defaults where the function has none."""
    spec = registry.get(name)
    needed = {p.name: p.default for p in spec.parameters if p.required and p.default is not None}
    return properties.measure(name, **{**needed, **parameters})


def _group(name: str) -> str:
    """Activations of one shape stand together."""
    if registry.get(name).kind in ("rowwise", "gated"):
        return "Not element by element"
    if name == "pwl":
        return "Of your own points"
    p = measured(name)
    limits = (p.left.kind == "constant") + (p.right.kind == "constant")
    if limits == 2:
        return "Bounded"
    if limits == 1:
        return "Bounded on one side, " + ("monotone" if p.monotone != "not monotone" else "not monotone")
    return "Unbounded on both sides"


def gallery() -> str:
    """docs/gallery.md."""
    groups: dict[str, list[str]] = {}
    for name in registry.names():
        groups.setdefault(_group(name), []).append(name)
    last = ["Of your own points", "Not element by element"]
    parts = [GALLERY]
    for title in [*sorted(set(groups).difference(last)), *last]:
        parts.append(f"\n## {title}\n\n{'| ' * COLUMNS}|\n{'|---' * COLUMNS}|\n")
        names = groups[title]
        for i in range(0, len(names), COLUMNS):
            row = [_cell(name) for name in names[i : i + COLUMNS]]
            parts.append(f"| {' | '.join([*row, *[''] * (COLUMNS - len(row))])} |\n")
    return "".join(parts)


def _cell(name: str) -> str:
    _, _, told = _drawn(name)
    return f"![{name}](gallery/{name}.png)<br>[`{name}`](catalogue.md#{name})" + (f"<br>{told}" if told else "")


# ----- choosing


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "unbounded"


def _bends(p: Properties) -> str:
    found = [("jumps", p.jumps), ("kink", p.kinks), ("", p.bends)]
    told = [f"{what} at {', '.join(f'{x:g}' for x in at)}" for what, at in found if at and what]
    return "; ".join(told)


def _row(name: str) -> str:
    p = measured(name)
    sides = [f"< {p.saturated_below:.3g}" if p.saturated_below is not None else ""]
    sides += [f"> {p.saturated_above:.3g}" if p.saturated_above is not None else ""]
    counted = cli_measure.instructions(name)
    cells = [
        f"`{name}`",
        cli_measure.interval(p.low, p.high),
        {"not monotone": "no", "increasing": "yes"}.get(p.monotone, p.monotone),
        _bends(p),
        f"{p.mean:.3f}",
        _percent(p.dead),
        ", ".join(filter(None, sides)),
        _number(p.lipschitz),
        f"{p.gain:.4g}",
        f"{p.gradient_factor:.4g}",
        " / ".join(f"{n:.3g}" for n in counted.values()),
        describe.kept(registry.get(name))[1] or "x",
    ]
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """What is measured, a row for each activation."""
    names = [n for n in registry.names() if registry.get(n).kind in ("elementwise", "random")]
    head = [
        *("activation", "range", "monotone", "jumps, kinks", "mean", "dead", "saturated", "steepest", "gain"),
        *("gradient factor", "instructions", "kept"),
    ]
    return f"| {' | '.join(head)} |\n|---|---|---|---|{'---:|' * 2}---|{'---:|' * 4}---|\n" + "".join(map(_row, names))


def _misconfigured() -> str:
    cases: list[tuple[str, dict[str, float], str]] = [
        ("leaky_relu", {"negative_slope": 1.0}, "the identity: the network is linear"),
        ("leaky_relu", {"negative_slope": 1.5}, "the kink is turned round, and weights must begin smaller"),
        ("leaky_relu", {"negative_slope": -1.0}, "the absolute value: two inputs for each output"),
        ("relu_sigmoid", {"threshold": 3.0}, "next to nothing passes, and nothing learns"),
        ("softshrink", {"lambd": 3.0}, "the same, on both sides"),
        ("hardtanh", {"min_val": -0.1, "max_val": 0.1}, "saturated nearly everywhere"),
        ("swish", {"beta": 0.0}, "half the identity: the network is linear"),
        ("swish", {"beta": 50.0}, "ReLU, with a slope that overshoots"),
        ("softplus", {"beta": 0.05}, "nearly a line through a large constant"),
        ("elu", {"alpha": 5.0}, "below 0 steeper than above"),
        ("elu", {"alpha": -1.0}, "rises to both sides"),
        ("snake", {"alpha": 20.0}, "a wave finer than its inputs' spread"),
    ]
    rows = []
    for name, parameters, why in cases:
        p = measured(name, **parameters)
        said = ", ".join(f"{k}={v:g}" for k, v in parameters.items())
        cells = [
            f"`{name}({said})`",
            p.monotone,
            f"{p.left}; {p.right}",
            f"{p.mean:.3f}",
            _percent(p.dead),
            _number(p.lipschitz),
        ]
        rows.append(f"| {' | '.join([*cells, f'{p.gain:.4g}', why])} |\n")
    head = "| activation | monotone | far left; right | mean | dead | steepest | gain | what happens |\n"
    return head + "|---|---|---|---:|---:|---:|---:|---|\n" + "".join(rows)


def _dying(figures: dict[str, Any]) -> str:
    rates = list(next(iter(figures["dying"].values())))
    head = f"| activation | {' | '.join(f'dead, rate {r} | accuracy' for r in rates)} |\n"
    head += f"|---|{'---:|' * 2 * len(rates)}\n"
    rows = []
    for name, by_rate in figures["dying"].items():
        cells = [f"{_percent(r['dead'])} | {_percent(r['accuracy'])}" for r in by_rate.values()]
        rows.append(f"| `{name}` | {' | '.join(cells)} |\n")
    return head + "".join(rows)


def _deep(figures: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {r['measured']:.2g} | {r['predicted']:.2g} | {r['scale']:.2g} |\n"
        for name, r in figures["gradients"].items()
    ]
    return "| activation | measured | factor^30 | scale of the last values |\n|---|---:|---:|---:|\n" + "".join(rows)


def _selu(figures: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {r['mean 1']:.2f} | {r['std 1']:.2f} | {r['mean 50']:.2g} | {r['std 50']:.2g} |\n"
        for name, r in figures["selu"].items()
    ]
    head = "| SELU with | mean, layer 1 | std, layer 1 | mean, layer 50 | std, layer 50 |\n|---|---:|---:|---:|---:|\n"
    return head + "".join(rows)


def _budgets() -> list[str]:
    """The instructions for an element that a GPU carries out in the time that memory takes for it."""
    with cli_measure.LEDGER.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["kernel"] == "gelu_tanh" and r["budget"]]
    found = {r["direction"]: float(r["budget"]) for r in rows if (r["dtype"], r["target"]) == cli_measure.COUNTED}
    return [f"{found[direction]:.0f}" for direction in ("forward", "backward")]


def _prose(text: str, **numbers: Any) -> str:
    return textwrap.fill(text.format(**numbers), 120, break_long_words=False, break_on_hyphens=False)


def _in_short(figures: dict[str, Any]) -> str:
    """Which activation where, each with its number."""
    names = ("relu", "gelu", "silu", "mish", "leaky_relu", "softplus", "hardswish", "tanh", "sigmoid", "relu6")
    p = {name: measured(name) for name in names}
    count = {name: cli_measure.instructions(name)["forward"] for name in ("relu", "silu", "mish", "hardswish", "gelu")}
    rate = list(figures["dying"]["relu"])[-1]
    dead = {name: figures["dying"][name][rate]["dead"] for name in ("relu", "leaky_relu", "gelu", "silu", "mish")}
    far = torch.tensor([0.0, 200.0])
    lost, kept = torch.softmax(far, 0).log()[0].item(), functional.log_softmax(far, 0)[0].item()
    sure, one = torch.tensor([200.0]), torch.tensor([0.0])
    late = -torch.log(1.0 - torch.sigmoid(sure)).item()
    direct = torch.nn.functional.binary_cross_entropy_with_logits(sure, one).item()
    rows = [
        (
            "hidden layers of a transformer",
            "`gelu`, `silu`; as gates `FF.gated` with `silu`; else what pretrained weights expect",
            f"smooth; {_percent(p['gelu'].dead)} of inputs have slope 0, of relu's {_percent(p['relu'].dead)}",
        ),
        (
            "hidden layers of a convolutional network",
            "`relu`; `silu`, `mish` or `hardswish` where training shows that they are worth it",
            f"relu has a gradient factor of {p['relu'].gradient_factor:.3g}, and {count['relu']:.2g} instructions; "
            f"hardswish {count['hardswish']:.2g}, silu {count['silu']:.2g}, mish {count['mish']:.2g}",
        ),
        (
            "where units die, or rates are large",
            "`leaky_relu`, `gelu`, `silu`, `mish`",
            f"dead at a rate of {rate}: " + ", ".join(f"{name} {_percent(share)}" for name, share in dead.items()),
        ),
        (
            "many plain layers without norms",
            "`selu` with its three conditions",
            f"standard deviation {figures['selu']['all three conditions']['std 50']:.2f} after fifty layers",
        ),
        (
            "small or quantized devices",
            "`relu6`, `hardswish`, `hardsigmoid`, `pwl`",
            f"relu6 is at most {p['relu6'].high.value:g}; hardswish takes {count['hardswish']:.2g} instructions, gelu "
            f"{count['gelu']:.3g}",
        ),
        (
            "output: one class of several",
            "none, and `cross_entropy` of the scores; `log_softmax` for logarithms of probabilities",
            f"200 below the best score the logarithm of softmax is {lost:g} in float32, log_softmax {kept:g}",
        ),
        (
            "output: yes or no, for each label",
            "none, and `binary_cross_entropy_with_logits`; `sigmoid` where a probability is needed",
            f"for a score of 200 that is wrong the loss after sigmoid is {late:g} in float32, this one {direct:g}",
        ),
        (
            "output: any number",
            "`identity`",
            f"relu would give no gradient to {_percent(p['relu'].dead)}",
        ),
        (
            "output: a positive number",
            "`softplus`, `squareplus`",
            f"range {cli_measure.interval(p['softplus'].low, p['softplus'].high)} and "
            f"{_percent(p['softplus'].dead)} dead; of relu {cli_measure.interval(p['relu'].low, p['relu'].high)} "
            f"and {_percent(p['relu'].dead)}",
        ),
        (
            "output: a number between -1 and 1",
            "`tanh`",
            f"range {cli_measure.interval(p['tanh'].low, p['tanh'].high)}",
        ),
        (
            "gates and attention inside a network",
            "`sigmoid`, `softmax`",
            f"range {cli_measure.interval(p['sigmoid'].low, p['sigmoid'].high)}",
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def choosing() -> str:
    """docs/choosing.md."""
    figures = json.loads(FIGURES.read_text())
    rate = list(figures["dying"]["relu"])[-1]
    relu, leaky, silu = (figures["dying"][name][rate] for name in ("relu", "leaky_relu", "silu"))
    selu, through = figures["selu"], figures["gradients"]
    names = ("relu", "gelu", "silu", "sigmoid", "tanh", "softplus")
    p = {name: measured(name) for name in names}
    forward, backward = _budgets()
    parts = [
        "# Choosing an activation\n",
        _prose(
            "Every number here is one that `python -m fusedact show NAME` measures, or that "
            "[examples/choosing.py](../examples/choosing.py) prints: means of {seeds} seeds, [all "
            "figures](../bench/results/cpu/choosing.json). Made by `python docs/make.py`. [gallery.md](gallery.md) "
            "has the curves.",
            seeds=len(figures["seeds"]),
        ),
        f"\n## In short\n\n| where | what | why |\n|---|---|---|\n{_in_short(figures)}",
        "## What is measured\n",
        "Inputs are standard normal, as after a normalisation, or where weights begin with the gain.\n",
        *(
            textwrap.fill(
                f"- **{name}**: {' '.join(text.split())}", 120, subsequent_indent="  ", break_on_hyphens=False
            )
            for name, text in _columns(p, through, forward, backward).items()
        ),
        f"\n{table()}",
        "## Units that die\n",
        _prose(
            "ReLU has slope 0 for {share} of normal inputs. A large step may move a unit so far that this holds for "
            "every input; then its gradient is 0 for ever. Two hidden layers that tell two rings apart, by SGD in "
            "{steps} steps, where guessing is right in 50%:",
            share=_percent(p["relu"].dead),
            steps=figures["steps"],
        ),
        f"\n{_dying(figures)}",
        _prose(
            "At a rate of {rate}, {dead} of the ReLU units are dead, and the network is right in {right}. The "
            "remedies, cheapest first: a smaller rate or a warm-up; a normalisation before the activation, after "
            "which half of the inputs are positive again; a slope below 0: {leaky} of leaky_relu's units are dead "
            "there, and {silu} of silu's. A slope that only tends to 0 does not suffice everywhere: far below 0 "
            "those of elu and selu are 0 in float32. And that units live does not mean that a network learns: see "
            "the accuracies.",
            rate=rate,
            dead=_percent(relu["dead"]),
            right=_percent(relu["accuracy"]),
            leaky=_percent(leaky["dead"]),
            silu=_percent(silu["dead"]),
        ),
        "\n## Gradients through many layers\n",
        _prose(
            "Thirty activations, each before a linear layer whose weights begin with its gain; the norm of the "
            "gradient at the input over that at the output, and what the factor of one layer makes of thirty:"
        ),
        f"\n{_deep(figures)}",
        _prose(
            "Sigmoid's slope is at most {steepest:g}: between hidden layers it is for shallow networks. tanh, with "
            "mean 0 and slope 1 at 0, has a factor of {tanh:.3g}, ReLU of 1, and a gradient that became {relu:.2g} "
            "of itself. The factor is that of inputs of variance 1. Where values do not keep their scale, as the "
            "last column tells, it is another one: silu's {predicted:.2g} became {silu:.2g}, of values of scale "
            "{scale:.2g}. Norms between the layers hold the scale, and with it the factor.",
            steepest=p["sigmoid"].lipschitz,
            tanh=p["tanh"].gradient_factor,
            relu=through["relu"]["measured"],
            predicted=through["silu"]["predicted"],
            silu=through["silu"]["measured"],
            scale=through["silu"]["scale"],
        ),
        "\n## SELU's three conditions\n",
        _prose(
            "It keeps mean 0 and variance 1 by itself if weights begin LeCun-normal, with variance 1 / fan_in, as "
            "its gain is 1; if dropout is `nn.AlphaDropout`; and if the network is a plain chain of layers, with "
            "standardized inputs. Fifty layers of 256 units, dropout 0.1:"
        ),
        f"\n{_selu(figures)}",
        _prose(
            "With all three the last layer has standard deviation {kept:.2f}; with weights for ReLU {he:.2g}, with "
            "plain dropout {dropout:.2g}, with residual sums {residual:.1g}. Inputs that are not standardized show "
            "in the first layers alone, {first:.2f} after one and {inputs:.2f} after fifty: the layers draw them "
            "back.",
            kept=selu["all three conditions"]["std 50"],
            he=selu["weights as for ReLU (He)"]["std 50"],
            dropout=selu["dropout in place of AlphaDropout"]["std 50"],
            residual=selu["a residual sum in each layer"]["std 50"],
            first=selu["inputs from 0 to 1"]["std 1"],
            inputs=selu["inputs from 0 to 1"]["std 50"],
        ),
        "\n## Parameters that make nonsense\n",
        _prose(
            "They are accepted, since each may be meant. A module's `bounds=` keeps parameters that learn away from "
            "them."
        ),
        f"\n{_misconfigured()}",
    ]
    return "\n".join(parts)


def _columns(p: dict[str, Properties], through: dict[str, Any], forward: str, backward: str) -> dict[str, str]:
    """What the columns of the table mean."""
    assert p["relu"].gain is not None and p["sigmoid"].gradient_factor is not None
    return {
        "mean": f"""of the output. Far from 0, all units of the next layer get a common shift: {p["relu"].mean:.2g} of
            relu, {p["sigmoid"].mean:.2g} of sigmoid, {p["softplus"].mean:.2g} of softplus, 0 of tanh and selu.""",
        "dead": f"""the share of inputs whose slope is exactly 0: {_percent(p["relu"].dead)} of relu. A unit all of
            whose inputs are there no longer learns.""",
        "saturated": f"""beyond which input the slope stays below a hundredth of the steepest: for tanh
            {p["tanh"].saturated_above:.3g}, for sigmoid {p["sigmoid"].saturated_above:.3g}, on both sides; for gelu
            {p["gelu"].saturated_below:.3g} and for silu {p["silu"].saturated_below:.3g}, on the left alone.""",
        "steepest": "the Lipschitz constant. What jumps, or grows like a square, has none.",
        "gain": f"""`fusedact.gain`: weights of standard deviation gain / sqrt(fan_in) keep the scale of values;
            {p["relu"].gain:.4g} for relu.""",
        "gradient factor": f"""what such a layer multiplies the scale of a gradient by. Near 1 it stays; sigmoid's
            {p["sigmoid"].gradient_factor:.2g} leaves {through["sigmoid"]["predicted"]:.1g} after 30 layers.""",
        "instructions": f"""for an element in bfloat16 on compute capability 9.0, forward / backward, counted in machine
            code. Up to about {forward} and {backward} are done while the memory delivers the element: below that
            activations cost the same.""",
        "kept": """for backward, by PyTorch's operator, or by the kernels where it has none: x the input, y the output.
            An output that the next layer keeps anyway is free: [saving.md](saving.md).""",
    }
