"""The lean CPU path: a tensor is worked in cache-sized pieces, so that intermediate results never reach main memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import compat
from ..eager import HALF_DTYPES, Parameter, numeric, operand
from ..registry import ActivationSpec
from ..watching import flatness, gathering
from . import caches, cpu_kernels, large_pages
from .cpu_forms import Gradients
from .totals import Totals

__all__ = [
    "TABLE_PIECE",
    "Memory",
    "at_once",
    "backward",
    "forward",
    "operands_of",
    "piece_limit",
    "pieces_of",
    "whole_backward",
    "whole_forward",
]

# Conversions to halves under names of their own, which cost two thirds of what Tensor.to does.
_narrow = {torch.float16: Tensor.half, torch.bfloat16: Tensor.bfloat16}

# Elements of a piece per thread: half of a core's second-level cache in fp32, so that a piece and its intermediate
# results stay in it. Measured on two cores with 1 MiB each: half as many are 8% slower, twice as many no faster.
PIECE_PER_THREAD = min(max(caches.second_level() // 8, 2**15), 2**18)

# The same for the sums of learned tables in one thread, which need 16 bytes for each element; of a tensor of a few such
# pieces, memory counts less than calls. With more threads, what it takes to bring them together counts for more than
# memory: on two, forward of a table is a third faster in pieces of 2^18 than of 2^16.
TABLE_PIECE = PIECE_PER_THREAD // 2
FEW_PIECES = 4


def piece_limit(x: Tensor, table_sums: bool = False) -> int:
    """How many elements a piece of x may have; fewer, where the sums of learned tables are made."""
    if not x.is_cpu:
        return x.numel()
    threads = torch.get_num_threads()
    few = table_sums and threads == 1 and x.numel() > FEW_PIECES * TABLE_PIECE
    return TABLE_PIECE if few else PIECE_PER_THREAD * threads


def pieces_of(*tensors: Tensor, limit: int) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape that cover them in pieces of at most so many elements, without a copy.

    Where all share one dense layout they are cut as flat memory, else along their dimensions.
    """
    numel = tensors[-1].numel()
    if numel <= limit:
        yield tensors
        return
    strides = tensors[-1].stride()
    if all(t.stride() == strides for t in tensors) and compat.is_dense(tensors[-1]):
        flat = [t.as_strided((numel,), (1,)) for t in tensors]
        yield from zip(*(t.split(limit) for t in flat), strict=True)
        return
    # Along the dimension of the largest stride in the result, which keeps the rest of a piece together.
    dim = max((d for d in range(len(strides)) if tensors[-1].shape[d] > 1), key=lambda d: strides[d])
    length = max(1, limit * tensors[-1].shape[dim] // numel)
    for parts in zip(*(t.split(length, dim) for t in tensors), strict=True):
        yield from pieces_of(*parts, limit=limit)


class Memory:
    """Memory for the intermediate results of all pieces of a tensor; `piece` is the one at work."""

    def __init__(self, piece: Tensor) -> None:
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}
        # Of the buffers, in the shape of the piece; most pieces have the same.
        self._views: dict[tuple[int, torch.dtype, int | None], Tensor] = {}
        self.piece = piece

    @property
    def piece(self) -> Tensor:
        return self._piece

    @piece.setter
    def piece(self, piece: Tensor) -> None:
        self._piece = piece
        if self._views and next(iter(self._views.values())).shape != piece.shape:
            self._views = {}

    def __call__(self, number: int, dtype: torch.dtype = torch.float32, part: int | None = None) -> Tensor:
        """The buffer of this number and dtype; with `part`, that part of complex numbers of 16 bytes, in this dtype."""
        view = self._views.get((number, dtype, part))
        if view is None:
            count = self._piece.numel()
            whole = dtype if part is None else torch.complex128
            buffer = self._buffers.get((number, whole))
            if buffer is None or buffer.numel() < count:
                buffer = self._buffers[number, whole] = torch.empty(count, dtype=whole, device=self._piece.device)
            # Each view takes a small tensor as long as a part of the arithmetic.
            if part is not None or buffer.numel() > count:
                start = (part or 0) * count
                buffer = buffer.view(dtype)[start : start + count]
            view = self._views[number, dtype, part] = buffer.view(self._piece.shape)
        return view

    def widened(self, t: Tensor, number: int) -> Tensor:
        """t in float32."""
        return self(number).copy_(t)


def _large(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter]) -> cpu_kernels.Kernels | None:
    """PyTorch's own, where its result is large, and numbers are all that it takes beside x."""
    if x.numel() < cpu_kernels.LARGE_COUNT or not x.is_cpu or not numeric(params):
        return None
    return cpu_kernels.large(spec, x)


def _widened(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter]) -> bool:
    """Whether a half is computed in float32 here, since its lean forms would round at each step."""
    if x.dtype not in HALF_DTYPES:
        return False
    return spec.lean_halves is None or not numeric(params) or not spec.lean_halves(*params)


def _widened_large(kernels: cpu_kernels.Kernels, x: Tensor) -> bool:
    """The same of what serves large results."""
    return x.dtype in HALF_DTYPES and not kernels.lean_halves


# Numbers of buffers beyond those of lean functions.
_X, _G, _OUT = 100, 101, 102


def operands_of(params: Sequence[Parameter], x: Tensor, channel: int | None, dtype: torch.dtype) -> list[Parameter]:
    """Parameters as numbers, or, with an entry per channel, expanded to x's shape; tensors remain on other devices."""
    made: list[Parameter] = []
    for p in params:
        p = operand(_number(p) if x.is_cpu else p, x, channel, dtype)
        made.append(p.expand(x.shape) if isinstance(p, Tensor) and p.dim() else p)
    return made


class _Filled:
    """Operands of which some are cut with x: `cut` are these, in order, and calling gives all for a piece."""

    def __init__(self, operands: Sequence[Parameter]) -> None:
        self._operands = operands
        self._at = [i for i, p in enumerate(operands) if isinstance(p, Tensor) and p.dim()]
        self.cut = [p for i in self._at if isinstance(p := operands[i], Tensor)]

    def __call__(self, pieces: Sequence[Tensor]) -> Sequence[Parameter]:
        if not self._at:
            return self._operands
        filled = list(self._operands)
        for i, piece in zip(self._at, pieces, strict=True):
            filled[i] = piece
        return filled


def whole_forward(spec: ActivationSpec, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The value of a tensor of one piece, for numbers as parameters."""
    function = spec.lean_forward or spec.eager
    narrow = _narrow.get(x.dtype)
    if spec.table is not None:
        params = (*params, *spec.table.beside(x))
    elif narrow is not None and spec.lean_halves is not None and spec.lean_halves(*params):
        narrow = None
    return function(x, *params) if narrow is None else narrow(function(x.float(), *params))


def whole_backward(spec: ActivationSpec, g: Tensor, x: Tensor, params: Sequence[Parameter]) -> Tensor:
    """The gradient of x, likewise, by the activation's lean form."""
    lean = spec.lean_backward
    assert lean is not None
    narrow = _narrow.get(x.dtype)
    if spec.table is not None:
        params = (*params, *spec.table.beside(x))
    elif narrow is not None and spec.lean_halves is not None and spec.lean_halves(*params):
        narrow = None
    if narrow is None:
        dx = lean(g, x, *params)[0]
        assert dx is not None
        return dx
    dx = lean(g.float(), x.float(), *params)[0]
    assert dx is not None
    return narrow(dx)


def forward(
    spec: ActivationSpec,
    x: Tensor,
    params: Sequence[Parameter],
    out: Tensor | None = None,
    channel: int | None = None,
) -> Tensor:
    """The value, in pieces; into `out`, a dense tensor of x's shape or x itself, if given.

    Where statistics are wanted of a CPU tensor, they are gathered of each piece while it is in the cache.
    """
    kernels = _large(spec, x, params) if out is None else None
    if kernels is not None and gathering.wanted() is not None:
        kernels = None
    if kernels is not None and kernels.forward is not None:
        return cpu_kernels.large_forward(kernels, x, params)
    lean = spec.lean_forward if kernels is None else kernels.lean_forward
    function = lean or spec.eager
    half = _widened(spec, x, params) if kernels is None else _widened_large(kernels, x)
    dtype = torch.float32 if half else x.dtype
    if not numeric(params):
        twin = spec.aten_tensors
        # What is not widened is faster in large pages.
        small = half or x.nbytes < large_pages.LARGE
        if twin is not None and small and all(isinstance(p, Tensor) and p.dtype == x.dtype for p in params):
            y = twin(x, *params, channel=channel)
            return y if out is None else out.copy_(y)
        params = operands_of(params, x, channel, dtype)
        if spec.aten is not None and numeric(params):
            y = spec.aten(x, *params)
            return y if out is None else out.copy_(y)
    beside = () if spec.table is None else spec.table.beside(x)
    limit = piece_limit(x)
    gather = gathering.wanted() if x.is_cpu and x.numel() else None
    tally = None if gather is None else gathering.Tally(x, gather, x.numel() <= limit)
    if out is None:
        if kernels is None and x.numel() <= limit and tally is None:
            if numeric(params):
                return whole_forward(spec, x, params)
            if half:
                return _narrow[x.dtype](function(x.float(), *params, *beside))
            return function(x, *params, *beside)
        out = large_pages.empty_like(x)
    memory = Memory(out)
    operands = _Filled([*params, *beside])
    counted = [] if tally is None else tally.cut
    # Statistics of halves are gathered in float32, too.
    wide_dtype = torch.float32 if x.dtype in HALF_DTYPES else dtype
    for x_piece, *cut, out_piece in pieces_of(x, *operands.cut, *counted, out, limit=limit):
        memory.piece = x_piece
        values = operands(cut[: len(operands.cut)])
        if tally is not None:
            # Before the value, which may overwrite x.
            _count_flat(tally, spec, x_piece.to(wide_dtype), values, cut[len(operands.cut) :])
        if lean is None:
            out_piece.copy_(function(x_piece.to(dtype), *values))
        elif half:
            wide = memory.widened(x_piece, _X)
            out_piece.copy_(lean(wide, *values, out=memory(_OUT), spare=memory))
        elif x_piece.data_ptr() == out_piece.data_ptr() or dtype == torch.float64:
            # In place, and where the buffers' dtype is too narrow.
            out_piece.copy_(lean(x_piece, *values))
        else:
            lean(x_piece, *values, out=out_piece, spare=memory)
        if tally is not None:
            tally.values(out_piece.to(wide_dtype))
    if gather is not None and tally is not None:
        tally.fill(gather, out)
    return out


def _count_flat(
    tally: gathering.Tally, spec: ActivationSpec, x: Tensor, values: Sequence[Parameter], target: Sequence[Tensor]
) -> None:
    """Count flat slopes at x: where they are, if that is known, else of the slopes themselves."""

    def plain(x: Tensor) -> Tensor:
        return gathering.slope(lambda x: spec.eager(x, *values), x)

    if spec.table is None and numeric(values):
        intervals = flatness.known((spec.key or spec.name, *values), plain)
        if intervals is not None:
            tally.inputs(x, intervals, target)
            return
    found = plain(x) if spec.lean_backward is None else spec.lean_backward(torch.ones_like(x), x, *values)[0]
    assert found is not None
    tally.slopes(found, target)


def backward(
    spec: ActivationSpec,
    g: Tensor,
    x: Tensor,
    params: Sequence[Parameter],
    needed: Sequence[bool],
    channel: int | None = None,
) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed."""
    kernels = _large(spec, x, params) if needed[0] else None
    if kernels is not None and kernels.from_value:
        kernels = None
    if kernels is not None and kernels.backward is not None:
        return [cpu_kernels.large_backward(kernels, g, x, params), *[None] * len(params)]
    half = _widened(spec, x, params) if kernels is None else _widened_large(kernels, x)
    dtype = torch.float32 if half else x.dtype
    lean = spec.lean_backward if kernels is None else kernels.lean_backward
    beside = () if spec.table is None else spec.table.beside(x)
    limit = piece_limit(x)
    small = kernels is None and x.numel() <= limit
    if lean is not None and small and numeric(params):
        return [whole_backward(spec, g, x, params), *[None] * len(params)]
    if small and not beside:
        return at_once(spec, g, x, params, needed, channel, dtype)

    totals = Totals(params, needed[1:], x, channel, dtype)
    operands = _Filled([*operands_of(params, x, channel, dtype), *beside])
    dx = large_pages.empty_like(x) if needed[0] else None
    owed = needed if totals else None
    memory = Memory(x)
    for g_piece, x_piece, *rest, dx_piece in pieces_of(
        g, x, *operands.cut, *totals.cut, x if dx is None else dx, limit=limit
    ):
        memory.piece = x_piece
        cut = iter(rest)
        values = operands([next(cut) for _ in operands.cut])
        if lean is None:
            grads: Gradients = _differentiated(spec, g_piece.to(dtype), x_piece.to(dtype), values, needed)
        elif half:
            wide = memory.widened(g_piece, _G), memory.widened(x_piece, _X)
            grads = lean(*wide, *values, needed=owed, out=memory(_OUT), spare=memory)
        elif dtype == torch.float64:
            grads = lean(g_piece, x_piece, *values, needed=owed)
        else:
            grads = lean(g_piece, x_piece, *values, needed=owed, out=None if dx is None else dx_piece, spare=memory)
        if dx is not None and grads[0] is not None and grads[0].data_ptr() != dx_piece.data_ptr():
            dx_piece.copy_(grads[0])
        totals.add(grads[1:], cut)
    return [dx, *totals.results()]


def at_once(
    spec: ActivationSpec,
    g: Tensor,
    x: Tensor,
    params: Sequence[Parameter],
    needed: Sequence[bool],
    channel: int | None,
    dtype: torch.dtype,
) -> list[Tensor | None]:
    """Gradients of x and of each parameter, those that are needed, for a tensor of one piece, in `dtype`."""
    lean = spec.lean_backward
    values = [operand(_number(p) if x.is_cpu else p, x, channel, dtype) for p in params]
    if lean is None:
        grads: Gradients = _differentiated(spec, g.to(dtype), x.to(dtype), values, needed)
    else:
        grads = lean(g.to(dtype), x.to(dtype), *values, needed=needed)
    sums: list[Tensor | None] = [None] * len(params)
    for i, (p, part, n) in enumerate(zip(params, grads[1:], needed[1:], strict=False)):
        if n and part is not None and isinstance(p, Tensor):
            others = [d for d in range(part.dim()) if d != channel] if p.numel() != 1 else None
            total = part if others == [] else part.sum(others)
            sums[i] = total.to(p.dtype).reshape(p.shape)
    dx = grads[0]
    return [dx.to(x.dtype) if needed[0] and dx is not None else None, *sums]


def _number(p: Parameter) -> Parameter:
    """A tensor of one element as a number."""
    return p.item() if isinstance(p, Tensor) and p.numel() == 1 else p


def _differentiated(
    spec: ActivationSpec, g: Tensor, x: Tensor, values: Sequence[Parameter], needed: Sequence[bool]
) -> Gradients:
    """Gradients by the definition; by torch.func, which works below autograd too, inside an operator."""
    arguments: list[Parameter] = [x, *values]
    # What is a number by now counts as a tensor of one element, whose gradient is the sum.
    active = {
        i: a if isinstance(a, Tensor) else torch.tensor(a, dtype=x.dtype, device=x.device)
        for i, (a, n) in enumerate(zip(arguments, needed, strict=False))
        if n
    }

    def function(*tensors: Tensor) -> Tensor:
        merged = list(arguments)
        for i, t in zip(active, tensors, strict=True):
            merged[i] = t
        return spec.eager(*merged)

    with torch.no_grad():
        grads = iter(torch.func.vjp(function, *active.values())[1](g))
    return tuple(next(grads) if i in active else None for i in range(len(needed)))
