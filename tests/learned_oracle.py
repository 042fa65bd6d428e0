"""Learned piecewise-linear functions in float64, as one writes them in PyTorch, with tables and inputs to try."""

from __future__ import annotations

import torch


def made(count, spacing, channels=None, seed=0):
    """Tables in float64 that float32 represents."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count,) if channels is None else (channels, count)
    steps = torch.ones(shape) if spacing == "even" else torch.rand(shape, generator=generator) + 0.05
    b = steps.cumsum(-1) / count * 6 - 3
    v = torch.randn(shape, generator=generator)
    left, right = torch.randn(2, channels or 1, generator=generator)
    return [t.float().double() for t in (b, v, left, right)]


def composition(x, b, v, left, right, channel_dim=1):
    """Differentiable in everything, as one writes it in PyTorch: a row of tables for each channel."""
    if max(t.dim() for t in (b, v)) == 2 or left.numel() > 1 or right.numel() > 1:
        rows = max(b.shape[0] if b.dim() == 2 else 1, v.shape[0] if v.dim() == 2 else 1, left.numel(), right.numel())
        parts = [
            composition(
                x.select(channel_dim, c),
                *(t[c] if t.dim() == 2 else t for t in (b, v)),
                *(s.reshape(-1)[c : c + 1] if s.numel() > 1 else s for s in (left, right)),
            )
            for c in range(rows)
        ]
        return torch.stack(parts, channel_dim)
    slopes = torch.cat([left.reshape(1), v.diff() / b.diff(), right.reshape(1)])
    # The slope at a breakpoint is the smaller one in magnitude, the right one if both are equal.
    later = slopes[1:].abs() <= slopes[:-1].abs()
    xd, bd = x.detach(), b.detach()
    at = torch.bucketize(xd.contiguous(), bd, right=True)
    on = (at > 0) & (xd == bd[(at - 1).clamp(min=0)])
    at = at - (on & ~later[(at - 1).clamp(min=0)]).long()
    return torch.cat([v[:1], v])[at] + slopes[at] * (x - torch.cat([b[:1], b])[at])


def inputs(b, shape, seed=1):
    """In between, outside, on breakpoints, and one unit beside them."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 2.5).flatten()
    points = b.flatten().float()
    points = torch.cat([points, points.nextafter(points + 1), points.nextafter(points - 1)])
    count = min(len(points), len(x) // 2)
    places = torch.randperm(len(x), generator=generator)[:count]
    x[places] = points[torch.randperm(len(points), generator=generator)[:count]]
    return x.reshape(shape)


def gradients(function, x, points, g):
    leaves = [t.clone().requires_grad_() for t in (x, *points)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, g.to(y.dtype))]


def rising(b, v, left, right):
    """The tables with the size of every slope: the terms of each gradient have one sign then, if those of g have."""
    steps = torch.cat([v[..., :1], v.diff().abs()], -1)
    return b, steps.cumsum(-1), left.abs(), right.abs()


def assert_sums(found, truth, terms, rtol):
    """A sum may err by a part of the sum of its absolute terms; the reference has errors of float64 itself.

    An element counts to two breakpoints, to the farther one with what is left: that has an error of the nearer one's.
    """
    assert found.shape == truth.shape
    sizes = terms.abs()
    beside = torch.nn.functional.pad(sizes, (1, 1))
    rest = 2.0**-22 * (beside[..., :-2] + beside[..., 2:]) if rtol > 1e-9 else 0.0
    assert ((found.double() - truth).abs() <= rtol * sizes + rest + 1e-12).all()
