"""A generator of handwritten digits against a critic with learned activations, whose gradient is kept near 1.

    pip install 'fusedact[demo]'
    python examples/pwl_gan.py

A Wasserstein GAN with gradient penalty (Gulrajani et al., 2017, arXiv:1704.00028): in the critic's loss is the norm of
its gradient at points between true and made images, so that what trains its weights and its activations' tables is a
derivative of a derivative. Each unit of the critic has a piecewise-linear function that begins as 9 points of
LeakyReLU(0.2), and each of the generator, of ReLU; all learn values and outer slopes.

How near made images are to those held out, the energy distance tells, 2 E|x - y| - E|x - x'| - E|y - y'|: it is 0 for
the same distribution.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor, nn

import fusedact

NOISE = 16
HIDDEN = 128
BATCH = 64
PENALTY = 10.0
# Steps of the critic for each of the generator.
CRITIC_STEPS = 4


def learned(function: str, **parameters: float) -> fusedact.PWL:
    chosen = ("values", "slopes")
    return fusedact.PWL.from_function(function, -2.0, 2.0, 9, learnable=chosen, num_parameters=HIDDEN, **parameters)


def layers(sizes: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers with an activation after each but the last."""
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        made += [nn.Linear(before, after), activation()]
    return nn.Sequential(*made[:-1])


def critic(pixels: int) -> nn.Sequential:
    return layers((pixels, HIDDEN, HIDDEN, 1), partial(learned, "leaky_relu", negative_slope=0.2))


def generator(pixels: int) -> nn.Sequential:
    return layers((NOISE, HIDDEN, HIDDEN, pixels), partial(learned, "relu")).append(nn.Sigmoid())


def slopes(judge: nn.Module, true: Tensor, made: Tensor) -> Tensor:
    """The norm of the critic's gradient at a random point between each two images, differentiable."""
    part = torch.rand_like(true[:, :1])
    between = torch.lerp(true, made, part).requires_grad_()
    (gradient,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    return gradient.norm(dim=1)


@torch.no_grad()
def energy_distance(x: Tensor, y: Tensor) -> float:
    def apart(a: Tensor, b: Tensor) -> Tensor:
        same = a is b
        return torch.cdist(a, b).sum() / (len(a) * (len(b) - same))

    return (2 * apart(x, y) - apart(x, x) - apart(y, y)).item()


@dataclass
class History:
    """What training showed, step by step of the generator."""

    # The critic's estimate of how far true and made images are apart.
    distance: list[float] = field(default_factory=list)
    slope: list[float] = field(default_factory=list)
    # Images made of the same noise, now and then.
    images: dict[int, Tensor] = field(default_factory=dict)


class Game:
    """A generator and a critic, which learn in turn."""

    def __init__(self, x: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        self.x = x
        self.judge, self.maker = critic(x.shape[1]).to(x.device), generator(x.shape[1]).to(x.device)
        adam = partial(torch.optim.AdamW, lr=1e-3, betas=(0.0, 0.9))
        self.judging, self.making = (adam(common.parameter_groups(n, 0.0)) for n in (self.judge, self.maker))
        self.noise = torch.randn(12, NOISE, device=x.device)

    def made(self, count: int) -> Tensor:
        return self.maker(torch.randn(count, NOISE, device=self.x.device))

    def judge_step(self) -> tuple[float, float]:
        """A step of the critic; its estimate of the distance, and its mean slope."""
        true = self.x[torch.randint(len(self.x), (BATCH,), device=self.x.device)]
        made = self.made(BATCH).detach()
        slope = slopes(self.judge, true, made)
        distance = self.judge(true).mean() - self.judge(made).mean()
        self.judging.zero_grad()
        (PENALTY * (slope - 1).square().mean() - distance).backward()
        self.judging.step()
        return distance.item(), slope.mean().item()

    def make_step(self) -> None:
        self.making.zero_grad()
        (-self.judge(self.made(BATCH)).mean()).backward()
        self.making.step()

    def play(self, steps: int) -> History:
        history = History()
        shown = {0, *(steps * part // 100 for part in (2, 5, 10, 20, 40, 100))}
        for step in range(steps + 1):
            if step in shown:
                with torch.no_grad():
                    history.images[step] = self.maker(self.noise)
            if step == steps:
                break
            for _ in range(CRITIC_STEPS):
                distance, slope = self.judge_step()
            self.make_step()
            history.distance.append(distance)
            history.slope.append(slope)
        return history


def draw(game: Game, history: History, true: Tensor) -> Any:
    drawn, axes = common.figure(13, 6.5, 2, 3)
    for panel, i in zip(axes[0], (1, 3), strict=False):
        common.draw_learned(panel, game.judge[i], f"the critic's hidden layer {i // 2 + 1}, five units", -3, 3)
    axes[0][0].legend(loc="upper left", frameon=False)
    for panel, values, title in (
        (axes[0][2], history.distance, "how far apart the critic finds them"),
        (axes[1][2], history.slope, "the critic's slope (wanted: 1)"),
    ):
        panel.plot(values, linewidth=0.8)
        panel.set(title=title, xlabel="step of the generator")
        panel.grid(alpha=0.25)
    rows = [common.as_images(i) for i in history.images.values()]
    common.pictures(axes[1][0], rows, f"made of one noise, after steps {', '.join(map(str, history.images))}")
    with torch.no_grad():
        made = game.maker(torch.randn(64, NOISE, device=game.x.device))
    rows = [common.as_images(half) for half in (*made.cpu().chunk(8), *true[:64].chunk(8))]
    rows = [torch.cat([a, b]) for a, b in zip(rows[:8], rows[8:], strict=True)]
    common.pictures(axes[1][1], rows, "made; in the right half true, held out")
    return drawn


def main() -> None:
    options = common.digits_parser(__doc__, "pwl_gan.png", [0], steps=400).parse_args()

    distances: dict[str, list[float]] = {"before": [], "after": []}
    ends: list[float] = []
    for seed in options.seeds:
        data = common.unit(common.load(options.data, seed))
        true = data.test_x.to(options.device)
        game = Game(data.train_x.to(options.device), seed)
        for when in distances:
            if when == "after":
                history = game.play(options.steps)
            with torch.no_grad():
                distances[when].append(energy_distance(true, game.made(1000)))
        ends.append(sum(history.slope[-50:]) / len(history.slope[-50:]))
        print(
            f"seed {seed}: energy distance from {distances['before'][-1]:.3f} to {distances['after'][-1]:.3f}; "
            f"the critic's slope {ends[-1]:.2f}",
            flush=True,
        )
    print(f"of as many true images from others: {energy_distance(true, data.train_x.to(options.device)):.3f}")
    about = {"data": data.name, "steps": options.steps, "seeds": options.seeds}
    common.save(options.plot, draw(game, history, data.test_x))
    common.write(options.json, options.device, {**about, "energy_distance": distances, "slope": ends})


if __name__ == "__main__":
    main()
