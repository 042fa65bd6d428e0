"""Five activations that the catalog does not have, each a formula in plain PyTorch.

    python examples/gallery.py
    python examples/gallery.py --plot gallery.png       # with matplotlib
    python examples/gallery.py --source pelu            # the kernels that were made of it

For each it prints what it is, values and gradients, the gradients of its parameters, and the path that a call takes.
"""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import torch
from torch import Tensor

import fusedact


@fusedact.activation
def pelu(x, a=1.0, b=1.0):
    """Parametric ELU: x * a / b where x > 0, else a * (exp(x / b) - 1); a, b > 0.

    Trottier, Giguere, Chaib-draa, 2016, arXiv:1605.09332. With the slope a / b at 0 on both sides it is smooth there.
    """
    # The exponential of what is positive is not chosen, but would overflow: its gradient, 0 * inf, would be NaN.
    return torch.where(x > 0, x * (a / b), a * torch.expm1(x.clamp(max=0.0) / b))


@fusedact.activation
def acon_c(x, p1=1.0, p2=0.0, beta=1.0):
    """ACON-C: (p1 - p2) * x * sigmoid(beta * (p1 - p2) * x) + p2 * x, a smooth max(p1 * x, p2 * x).

    Ma, Zhang, Liu, Sun, 2021, arXiv:2009.04759. Swish for p1 = 1 and p2 = 0, linear for beta = 0; the paper learns all
    three for each channel.
    """
    difference = (p1 - p2) * x
    return difference * torch.sigmoid(beta * difference) + p2 * x


@fusedact.activation
def srelu(x, t_left=0.0, a_left=0.2, t_right=1.0, a_right=0.5):
    """S-shaped ReLU: the identity from t_left to t_right, then slopes a_left and a_right; t_left <= t_right.

    Jin, Xu, Feng, Wei, Xiong, Yan, 2016, arXiv:1512.07030. At a threshold the gradient is that of the outer piece.
    """
    left = t_left + a_left * (x - t_left)
    right = t_right + a_right * (x - t_right)
    return torch.where(x >= t_right, right, torch.where(x <= t_left, left, x))


@fusedact.activation
def rational(x, a0=0.0448, a1=0.505, a2=1.24, a3=1.13, a4=0.3926, a5=0.04814, b1=0.0, b2=2.237, b3=0.0, b4=0.09532):
    """Pade activation unit: (a0 + a1 x + ... + a5 x^5) / (1 + |b1 x + ... + b4 x^4|), which is never divided by 0.

    Molina, Schramowski, Kersting, 2020, arXiv:1907.06732, in its safe form with degrees 5 and 4. The coefficients, a
    least-squares fit of leaky_relu from -4 to 4, are to be learned. It is made for |x| up to a million: x^5 overflows.
    """
    above = a0 + x * (a1 + x * (a2 + x * (a3 + x * (a4 + x * a5))))
    below = x * (b1 + x * (b2 + x * (b3 + x * b4)))
    return above / (1.0 + torch.abs(below))


@fusedact.activation
def sparse_plus(x):
    """Sparse softplus: 0 up to -1, (x + 1)^2 / 4 up to 1, then x.

    As in Keras 3; the one-dimensional case of the maximum that belongs to sparsemax (Martins, Astudillo, 2016,
    arXiv:1602.02068).
    """
    near = x.clamp(-1.0, 1.0) + 1.0
    return torch.where(x >= 1.0, x, 0.25 * near * near)


GALLERY = (pelu, acon_c, srelu, rational, sparse_plus)


def gradients(activation: Any, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The value, the gradient of x, and those of the parameters, where all are tensors."""
    leaf = x.clone().requires_grad_()
    defaults = {n: p.default for n, p in inspect.signature(activation).parameters.items() if p.default is not p.empty}
    parameters = {n: torch.tensor(v, requires_grad=True) for n, v in defaults.items() if isinstance(v, float)}
    y = activation(leaf, **parameters)
    dx, *rest = torch.autograd.grad(y.sum(), [leaf, *parameters.values()])
    return y.detach(), dx, dict(zip(parameters, rest, strict=True))


def show(activation: Any) -> None:
    x = torch.linspace(-3, 3, 7)
    y, dx, rest = gradients(activation, x)
    print(f"\n{activation.__name__}{inspect.signature(activation.__wrapped__)}")
    print(inspect.getdoc(activation.__wrapped__).splitlines()[0])
    for name, numbers in (("x", x), ("value", y), ("gradient", dx)):
        print(f"  {name:<9}", *(f"{v:8.4f}" for v in numbers.tolist()))
    if rest:
        print("  of its parameters, in all:", ", ".join(f"{n} {g.item():.4f}" for n, g in rest.items()))
        print(f"  as a module that learns: {activation.module(learnable=True)}")
    for count in (64, 1 << 21):
        print(f"  {count} elements take the path {fusedact.explain(activation, torch.empty(count))}")


def plot(file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x = torch.linspace(-4, 4, 401)
    figure, axes = plt.subplots(1, len(GALLERY), figsize=(3 * len(GALLERY), 3), sharex=True)
    for axis, activation in zip(axes, GALLERY, strict=True):
        y, dx, _ = gradients(activation, x)
        axis.plot(x, y, label="value")
        axis.plot(x, dx, "--", label="gradient")
        axis.set(title=activation.__name__, ylim=(-2, 4))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, dpi=100, bbox_inches="tight")
    print(f"\nplotted: {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", metavar="FILE", help="where a plot of all goes")
    parser.add_argument("--source", choices=[a.__name__ for a in GALLERY], help="print the kernels of one")
    options = parser.parse_args()
    if options.source:
        print(next(a for a in GALLERY if a.__name__ == options.source).source)
        return
    for activation in GALLERY:
        show(activation)
    if options.plot:
        plot(options.plot)


if __name__ == "__main__":
    main()
