"""What tests of conversions share: an activation of one's own, networks, and classes as other libraries have them."""

from __future__ import annotations

import inspect
import linecache
import os

import torch
from torch import nn
from torch.nn import functional as F

import fusedact
from fusedact import functional as FF


@fusedact.activation
def bent(x, a=0.5):
    """x for x > 0, a x otherwise, and a sine."""
    return torch.where(x > 0, x, a * x) + torch.sin(x)


class Odd(nn.Module):
    """A module that is no activation of anybody's."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def network(*acts):
    parts = [part for act in acts for part in (nn.Linear(6, 6), act)]
    return nn.Sequential(*parts, nn.Linear(6, 2))


def lines(report):
    return [" ".join(line.split()) for line in str(report).splitlines()]


def alike(home, name, forward, *arguments, base=nn.Module):
    """A class as another library has it, which is not installed here."""

    def __init__(self, inplace=False, **keywords):
        base.__init__(self)
        self.__dict__.update(inplace=inplace, **keywords)

    return type(name, (base,), {"__module__": home, "__qualname__": name, "__init__": __init__, "forward": forward})


@fusedact.activation
def wave(x, a=1.0):
    """x + sin(a x)."""
    return x + torch.sin(a * x)


def rows(report):
    return [(c.place, c.what, c.becomes) for c in report.changes]


def left(report):
    return [(e.place, e.what, e.why) for e in report.left]


def line_of(function, text):
    """The file and line of a function's source that has this text."""
    lines, first = inspect.getsourcelines(function)
    file = os.path.basename(inspect.getsourcefile(function))
    return f"{file}:{first + next(i for i, line in enumerate(lines) if text in line)}"


class Watch(torch.overrides.TorchFunctionMode):
    """The functions of this library that are called."""

    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if hasattr(function, "spec") or function in (FF.gated, FF.packed_glu):
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def seen(model, *args):
    with Watch() as watch:
        model(*args)
    return watch.seen


_files = []


def made_of(*body, **more):
    """A module whose class has this forward, with a source that can be read."""
    text = "class Made(nn.Module):\n    def forward(self, x):\n" + "".join(f"        {line}\n" for line in body)
    file = f"<made {len(_files)}>"
    _files.append(file)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space = {"nn": nn, "F": F, "torch": torch, "__name__": "somewhere", **more}
    exec(compile(text, file, "exec"), space)
    return space["Made"]()
