"""What the system tells of its caches says how large pieces are."""

from __future__ import annotations

import pytest

from fusedact.cpu import caches, pieces


def folder(path, *levels):
    for i, (level, size) in enumerate(levels):
        (path / f"index{i}").mkdir()
        (path / f"index{i}" / "level").write_text(f"{level}\n")
        (path / f"index{i}" / "size").write_text(f"{size}\n")
    return path


@pytest.mark.parametrize("size, count", [("512K", 2**19), ("1024K", 2**20), ("2M", 2**21)])
def test_the_second_level_counts(tmp_path, size, count):
    assert caches.second_level(folder(tmp_path, (1, "32K"), (1, "64K"), (2, size), (3, "32M"))) == count


@pytest.mark.parametrize("levels", [[], [(1, "32K")], [(2, "")], [(2, "many")], [(2, "1024")]])
def test_a_usual_size_where_nothing_is_told(tmp_path, levels):
    assert caches.second_level(folder(tmp_path, *levels)) == caches.USUAL


def test_pieces_fill_half_of_it_within_bounds():
    assert min(max(caches.second_level() // 8, 2**15), 2**18) == pieces.PIECE_PER_THREAD
    assert pieces.TABLE_PIECE * 2 == pieces.PIECE_PER_THREAD
