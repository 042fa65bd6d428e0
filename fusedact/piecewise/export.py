"""A piecewise-linear table as a module of plain PyTorch, for exporters and for programs without this library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from . import table_rows

__all__ = ["METHODS", "plain_module"]

METHODS = ("where", "bucketize")
# Measured on a CPU: up to so many breakpoints a chain of comparisons takes less time than a search and gathers.
FEW = 8


def plain_module(
    owner: str,
    breakpoints: Tensor,
    values: Tensor,
    left_slope: Tensor,
    right_slope: Tensor,
    channel_dim: int,
    method: str | None = None,
) -> fx.GraphModule:
    """The module of a table, or of one per channel; see `PWL.to_torch`.

    Raises:
        ValueError: for an unknown method.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"{owner}: method must be None, {' or '.join(map(repr, METHODS))}, got {method!r}")
    b, v, left, right = (t.detach() for t in (breakpoints, values, left_slope, right_slope))
    count = b.shape[-1]
    wide = torch.float64 if b.dtype == torch.float64 else torch.float32
    data = table_rows.prepare(b, v, left, right, table_rows.SEARCH, wide)
    size, channels = 1 << count.bit_length(), data.shape[0]
    parts = data[:, table_rows.HEADER : table_rows.HEADER + 4 * size].reshape(channels, 4, size)
    entries = {name: parts[:, i, : count + bool(i)] for i, name in enumerate(("ends", "slopes", "starts", "anchors"))}
    # Finite where an outer slope is 0: they keep 0 * inf out.
    entries |= {n: data[:, i] for n, i in (("low", 3), ("high", 4)) if bool(data[:, i].isfinite().any())}
    chain = count <= FEW if method is None else method == "where"

    root, graph = nn.Module(), fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    x: Any = tracer.proxy(graph.placeholder("x"))
    for name, t in entries.items():
        root.register_buffer(name, (t if channels > 1 else t[0]).clone())
    found: dict[str, Any] = {name: tracer.proxy(graph.get_attr(name)) for name in entries}
    # Halves are computed in float32.
    dtype: Any = tracer.proxy(graph.call_function(torch.promote_types, (x.dtype.node, wide)))
    z = x.to(dtype)
    if channels > 1:
        z = z.movedim(channel_dim, -1)
    bounded = torch.maximum(z, found["low"]) if "low" in found else z
    bounded = torch.minimum(bounded, found["high"]) if "high" in found else bounded
    y = _chain(z, bounded, count, found) if chain else _search(z, bounded, dtype, channels, found)
    if channels > 1:
        y = y.movedim(-1, channel_dim)
    graph.output(y.to(x.dtype).node)
    return fx.GraphModule(root, graph, "PiecewiseLinear")


def _chain(z: Any, bounded: Any, count: int, found: dict[str, Any]) -> Any:
    """The line of each segment, chosen by a comparison with the end of the one before."""
    y: Any = None
    for i in range(count + 1):
        slope, start, anchor = (found[name].select(-1, i) for name in ("slopes", "starts", "anchors"))
        line = start + slope * (bounded - anchor)
        y = line if i == 0 else torch.where(z > found["ends"].select(-1, i - 1), line, y)
    return y


def _search(z: Any, bounded: Any, dtype: Any, channels: int, found: dict[str, Any]) -> Any:
    """The line of the segment that a binary search finds."""
    ends = found["ends"].to(dtype)
    if channels == 1:
        index = torch.bucketize(z.contiguous(), ends)
        start, slope, anchor = (found[name][index] for name in ("starts", "slopes", "anchors"))
    else:
        # Rows of the channels.
        rows = z.movedim(-1, 0).reshape(channels, -1).contiguous()
        index = torch.searchsorted(ends, rows)
        shape = z.movedim(-1, 0).shape
        start, slope, anchor = (
            found[name].gather(1, index).reshape(shape).movedim(0, -1) for name in ("starts", "slopes", "anchors")
        )
    return start + slope * (bounded - anchor)
