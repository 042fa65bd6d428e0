"""The code in README.md and docs/ runs, and prints what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import benches
import pages
import pytest
import torch

# The blocks that are not run, with the reason that the page gives.
NOT_RUN = {
    ("docs/integrations.md", "timm needs torchvision, which most builds of torch would have to be reinstalled for"),
    ("docs/integrations.md", "Keras takes its backend from the environment of a new process"),
    ("docs/scaling.md", "it needs a job's processes, and a mesh of them"),
    ("docs/tutorial/scaling.md", "it needs a job's processes, and a mesh of them"),
}
# What a page leaves to its reader.
GIVEN = {"README.md": {"train": lambda model: model(torch.randn(256, 64)).square().mean().backward()}}
NEEDS = {
    "README.md": ["matplotlib"],
    "docs/tutorial/first_activation.md": ["matplotlib"],
    "docs/tutorial/learnable.md": ["matplotlib"],
    "docs/integrations.md": ["transformers"],
    "docs/tutorial/swapping.md": ["transformers"],
}


def name_of(page):
    return page.relative_to(benches.ROOT).as_posix()


RUN = [page for page in pages.PAGES if any(not block.reason for block in pages.blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_code_runs(page, tmp_path, monkeypatch):
    # Pages save pictures and models.
    monkeypatch.chdir(tmp_path)
    with pages.needing(*NEEDS.get(name_of(page), [])):
        pages.run(page, **GIVEN.get(name_of(page), {}))


def test_what_is_not_run():
    found = [(name_of(page), block.reason) for page in pages.PAGES for block in pages.blocks(page) if block.reason]
    assert len(found) == len(set(found)) and set(found) == NOT_RUN


@pytest.mark.parametrize("page", pages.PAGES, ids=name_of)
def test_no_code_stands_outside_of_what_is_run(page):
    """No example in another block, no block of Python by another name, no reason without a block."""
    rest = pages.BLOCK.sub("", page.read_text())
    assert not re.search(r"^ *>>> |^ *```(py|pycon|python3|python)\b|^<!-- not run", rest, re.MULTILINE | re.IGNORECASE)


TUTORIAL = benches.ROOT / "docs" / "tutorial"


def test_the_overview_names_every_page_of_the_tutorial_in_their_order():
    listed = re.findall(r"^\| \[[^]]+\]\((\w+\.md)\) \|", (TUTORIAL / "index.md").read_text(), re.MULTILINE)
    assert {*listed, "index.md"} == {page.name for page in TUTORIAL.glob("*.md")}
    for page, following in zip(listed, [*listed[1:], "index.md"], strict=True):
        last = (TUTORIAL / page).read_text().split("## From here")[1]
        assert f"]({following})" in last


def test_two_processes_have_the_losses_of_one(tmp_path):
    """The script of the page on many devices, under torchrun."""
    page = TUTORIAL / "scaling.md"
    (script,) = [block.code for block in pages.blocks(page) if block.code.startswith('"""train.py"""')]
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    assert f"```\n{done.stdout}```\n" in page.read_text()


# ----- what runs them


def page_of(folder, text):
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_blocks_share_their_names(tmp_path):
    text = "# A page\n\n```python\nx = 2\n```\n\n```python\n>>> x += 1\n>>> x\n3\n```\n\n```python\ny = x\n```\n"
    assert pages.run(page_of(tmp_path, text), z=7)["y"] == 3
    assert pages.run(page_of(tmp_path, "```python\nx = z\n```\n"), z=7)["x"] == 7


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (">>> 1 + 1\n3\n", "Expected:\n    3\nGot:\n    2\n"),
        (">>> 1 + 1\n", "Expected nothing\nGot:\n    2\n"),
        (">>> 1 / 0\n", "ZeroDivisionError"),
        (">>> print('a b')\na  b\n", "Expected:\n    a  b\n"),
        (">>> {}['a']\nTraceback (most recent call last):\n    ...\nKeyError: 'b'\n", "KeyError: 'a'"),
    ],
)
def test_what_is_not_printed_is_an_error(tmp_path, example, told):
    with pytest.raises(AssertionError) as error:
        pages.run(page_of(tmp_path, f"# A page\n\n```python\n{example}```\n"))
    assert told in str(error.value) and 'File "page.md", line 4' in str(error.value)


def test_code_that_fails_is_an_error_with_its_line(tmp_path):
    page = page_of(tmp_path, "# A page\n\n```python\nx = 1\n```\n\nMore.\n\n```python\ny = 2\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        pages.run(page)
    assert (error.traceback[-1].lineno + 1, str(error.traceback[-1].statement)) == (11, "1 / 0")


def test_what_has_a_reason_is_not_run(tmp_path):
    page = page_of(tmp_path, "<!-- not run: it fails -->\n```python\n1 / 0\n```\n\n```python\nx = 1\n```\n")
    assert [block.reason for block in pages.blocks(page)] == ["it fails", None]
    assert pages.run(page)["x"] == 1


def test_a_docstring_without_an_example_is_an_error():
    with pytest.raises(AssertionError, match="f shows no example"):
        pages.examples("Nothing to see.", {}, "f")
