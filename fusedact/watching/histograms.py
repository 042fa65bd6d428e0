"""Histograms of a layer's inputs over a fixed range, counted on the inputs' device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Histogram"]

BINS = 60


class Histogram:
    """How many inputs fell into each of equal bins from `low` to `high`; NaN and what lies outside into none."""

    def __init__(self, low: float, high: float, bins: int = BINS) -> None:
        self.low, self.high, self.bins = low, high, bins
        self._counts: Tensor | None = None
        self._seen = 0

    def add(self, x: Tensor) -> None:
        """Count a tensor's elements, without waiting for its device."""
        self._seen += x.numel()
        x = x.detach().float()
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            # Whose histc is refused then, although it counts integers.
            places = ((x - self.low) * (self.bins / (self.high - self.low))).reshape(-1)
            places = places[(places >= 0) & (places < self.bins)].long()
            counts = torch.bincount(places, minlength=self.bins).double()
        else:
            counts = torch.histc(x, self.bins, self.low, self.high).double()
        self._counts = counts if self._counts is None else self._counts.to(counts.device) + counts

    def read(self) -> tuple[list[float], list[float], int]:
        """The bins' edges, the counts, and how many elements fell into none."""
        counts = [0.0] * self.bins if self._counts is None else self._counts.tolist()
        step = (self.high - self.low) / self.bins
        edges = [self.low + i * step for i in range(self.bins + 1)]
        return edges, counts, self._seen - int(sum(counts))
