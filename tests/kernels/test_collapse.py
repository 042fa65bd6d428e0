"""The host's arithmetic on strides: `collapse`, and the tiles made of its result."""

from __future__ import annotations

import itertools

import pytest
import torch

from fusedact.kernels import grids


def contiguous(*shape):
    return torch.empty(shape, device="meta").stride()


@pytest.mark.parametrize(
    ("shape", "strides", "sizes", "merged"),
    [
        # One dimension remains of whatever is contiguous, the innermost first otherwise.
        ((4, 5, 6), [contiguous(4, 5, 6)] * 2, [120], [[1], [1]]),
        ((4, 5), [(10, 2), (5, 1)], [20], [[2], [1]]),
        ((4, 5), [(10, 1), (5, 1)], [5, 4], [[1, 10], [1, 5]]),
        ((4, 5, 6), [(60, 6, 1), (30, 6, 1)], [30, 4], [[1, 60], [1, 30]]),
        # The last tensor decides on the order.
        ((4, 5), [(5, 1), (1, 4)], [4, 5], [[5, 1], [1, 4]]),
        ((4, 5), [(1, 4), (1, 4)], [20], [[1], [1]]),
        ((2, 3, 4, 5), [contiguous(2, 3, 4, 5), (60, 1, 15, 3)], [3, 20, 2], [[20, 1, 60], [1, 3, 60]]),
        # Broadcast dimensions.
        ((4, 5), [(0, 0), (5, 1)], [20], [[0], [1]]),
        ((4, 5), [(0, 1), (5, 1)], [5, 4], [[1, 0], [1, 5]]),
        ((4, 5), [(1, 0), (5, 1)], [5, 4], [[0, 1], [1, 5]]),
        # Dimensions with one element say nothing.
        ((4, 1, 5), [(5, 999, 1), (5, 5, 1)], [20], [[1], [1]]),
        ((1, 1), [(7, 3), (1, 1)], [1], [[1], [1]]),
        ((), [(), ()], [1], [[1], [1]]),
    ],
    ids=str,
)
def test_collapse(shape, strides, sizes, merged):
    assert grids.collapse(shape, *strides) == (sizes, merged)


def offsets(sizes, strides):
    """The offsets that the strided templates visit, in their order."""
    return [
        sum(i * s for i, s in zip(reversed(index), strides, strict=True))
        for index in itertools.product(*(range(n) for n in reversed(sizes)))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_same_elements_meet(seed):
    """Whatever the order, element by element the same offsets come together, each once."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    rank = draw(1, 5)
    shape = tuple(draw(1, 5) for _ in range(rank))
    tensors = []
    for _ in range(3):
        order = torch.randperm(rank, generator=generator).tolist()
        padded = torch.empty([shape[d] + draw(0, 2) for d in order], device="meta")
        t = padded[tuple(slice(0, shape[d]) for d in order)].permute(*(order.index(d) for d in range(rank)))
        tensors.append(t)
    if draw(0, 2):
        d = draw(0, rank)
        tensors[0] = tensors[0].narrow(d, 0, 1).expand(shape)
    strides = [t.stride() for t in tensors]
    sizes, merged = grids.collapse(shape, *strides)
    index = list(itertools.product(*map(range, shape)))
    expected = {tuple(sum(i * s for i, s in zip(at, st, strict=True)) for st in strides) for at in index}
    got = list(zip(*(offsets(sizes, m) for m in merged), strict=True))
    assert len(got) == len(index) and set(got) == expected
    assert len(sizes) <= max(1, sum(n != 1 for n in shape))


@pytest.mark.parametrize("sizes", [[1], [5], [1000, 3], [1024, 7], [5000, 2], [3, 70_001], [2, 3, 4, 5]], ids=str)
@pytest.mark.parametrize("block", [1024, 2048, 4096])
def test_tiles(sizes, block):
    rows, cols, block_rows, block_cols = grids.tiles(sizes, block)
    assert rows * cols == torch.Size(sizes).numel() and cols == sizes[0]
    assert block_rows * block_cols == block
    assert all(n & (n - 1) == 0 for n in (block_rows, block_cols))


@pytest.mark.parametrize("warp_size", [32, 64])
@pytest.mark.parametrize("element_size", [2, 4])
def test_block_size(element_size, warp_size):
    """A power of two that gives each thread whole 16-byte accesses."""
    block = grids.block_size(element_size, warp_size)
    assert block & (block - 1) == 0
    assert block * element_size % (16 * grids.NUM_WARPS * warp_size) == 0
