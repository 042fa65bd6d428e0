"""The files of generated code: where they lie, who may write them, and that none of them is ever run."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import linecache
import os
import stat
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from fusedact.engine import sources

TEXT = "def answer():\n    return 42\n"

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("FUSEDACT_CACHE_DIR", str(path))
    return path


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def files(path):
    return sorted(p.name for p in path.iterdir())


# ----- the folder


def test_chosen_folder(cache):
    assert sources.folder() == cache
    assert mode(cache) == 0o700


@pytest.mark.skipif(sys.platform == "darwin", reason="caches lie elsewhere")
def test_user_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("FUSEDACT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert sources.folder() == tmp_path / "xdg" / "fusedact"
    assert mode(tmp_path / "xdg" / "fusedact") == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert sources.folder() == tmp_path / "home" / ".cache" / "fusedact"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        file = sources.keep("answer", TEXT)
        assert mode(cache) == 0o700 and mode(file) == 0o600
    finally:
        os.umask(before)


def test_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FUSEDACT_CACHE_DIR", "~/mine")
    assert sources.folder() == tmp_path / "mine"


def test_empty_variables_count_as_unset(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEDACT_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.folder() in (tmp_path / ".cache" / "fusedact", tmp_path / "Library" / "Caches" / "fusedact")


def test_relative_xdg_folder_is_ignored(tmp_path, monkeypatch):
    """As the XDG specification says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUSEDACT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = sources.folder()
    assert found is not None and found.is_absolute() and not (tmp_path / "relative").exists()


def test_relative_chosen_folder_is_where_it_was(tmp_path, monkeypatch):
    """The name of a file means the same after the program has gone elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEDACT_CACHE_DIR", "here")
    assert Path(sources.keep("answer", TEXT)) == tmp_path / "here" / "answer.py"


def assert_no_file(name="answer"):
    assert sources.keep(name, TEXT) == f"<fusedact {name}>"


@pytest.mark.parametrize("bits", [stat.S_IWGRP, stat.S_IWOTH], ids=["group", "others"])
def test_folder_that_others_may_write(cache, bits):
    cache.mkdir(mode=0o700)
    cache.chmod(0o700 | bits)
    assert sources.folder() is None
    assert_no_file()
    assert files(cache) == []


def test_folder_of_somebody_else(cache, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    assert sources.folder() is None
    assert_no_file()


def test_file_in_the_folders_place(cache):
    cache.write_text("")
    assert sources.folder() is None
    assert_no_file()


def test_missing_home(monkeypatch):
    monkeypatch.delenv("FUSEDACT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert sources.folder() is None
    assert_no_file()


@pytest.mark.parametrize("why", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_folder_that_takes_no_file(cache, monkeypatch, why):
    def refused(*_, **__):
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(sources.tempfile, "mkstemp", refused)
    assert_no_file()
    assert files(cache) == []


# ----- the files


def test_name_by_hash():
    assert sources.digest(TEXT) == sources.digest(TEXT)
    assert len({sources.digest(*t) for t in ((TEXT,), (TEXT + " ",), ("a", "b"), ("ab",), ("a\0b", ""))}) == 5
    assert len(sources.digest(TEXT)) == 16 and int(sources.digest(TEXT), 16) >= 0


def test_kept(cache):
    file = sources.keep("answer", TEXT)
    assert file == str(cache / "answer.py")
    assert Path(file).read_text() == TEXT and files(cache) == ["answer.py"]


def test_kept_already(cache):
    file = Path(sources.keep("answer", TEXT))
    before = file.stat()
    assert sources.keep("answer", TEXT) == str(file)
    assert (before.st_ino, before.st_mtime_ns) == (file.stat().st_ino, file.stat().st_mtime_ns)


@pytest.mark.parametrize("content", ["", TEXT[:-5], TEXT + "import os\n", "é"], ids=str)
def test_other_content_is_replaced(cache, content):
    cache.mkdir(mode=0o700)
    (cache / "answer.py").write_text(content)
    assert Path(sources.keep("answer", TEXT)).read_text() == TEXT
    assert files(cache) == ["answer.py"]


def test_no_text_at_all_is_replaced(cache):
    cache.mkdir(mode=0o700)
    (cache / "answer.py").write_bytes(b"\xff\x00\xfe")
    assert Path(sources.keep("answer", TEXT)).read_text() == TEXT


@pytest.mark.parametrize("target", ["same", "other", "nothing"])
def test_symlink_is_replaced(cache, tmp_path, target):
    cache.mkdir(mode=0o700)
    foreign = tmp_path / "foreign.py"
    if target != "nothing":
        foreign.write_text(TEXT if target == "same" else "foreign")
    (cache / "answer.py").symlink_to(foreign)
    file = Path(sources.keep("answer", TEXT))
    assert not file.is_symlink() and file.read_text() == TEXT
    # What the link pointed to is not written.
    assert (
        not foreign.exists()
        if target == "nothing"
        else foreign.read_text() == (TEXT if target == "same" else "foreign")
    )


def test_directory_in_the_files_place(cache):
    (cache / "answer.py").mkdir(parents=True)
    cache.chmod(0o700)
    assert_no_file()
    assert files(cache) == ["answer.py"]


def test_fifo_in_the_files_place(cache):
    cache.mkdir(mode=0o700)
    os.mkfifo(cache / "answer.py")
    assert Path(sources.keep("answer", TEXT)).read_text() == TEXT


def test_unreadable_file_is_replaced(cache):
    file = Path(sources.keep("answer", "other"))
    file.chmod(0o000)
    kept = sources.keep("answer", TEXT)
    assert kept == str(file) and file.read_text() == TEXT


@pytest.mark.parametrize("when", ["writing", "closing", "replacing"])
def test_full_disk(cache, monkeypatch, when):
    """No half of a file is left, and none of what was there before is lost."""
    sources.keep("answer", "old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, handle):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            os.close(self.handle)
            if when == "closing":
                full()

        def write(self, data):
            if when == "writing":
                full()

    if when == "replacing":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(os, "fdopen", lambda handle, _: Full(handle))
    assert_no_file()
    assert files(cache) == ["answer.py"] and (cache / "answer.py").read_text() == "old"


WRITER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("sources", {sources.__file__!r})
sources = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sources)
text = "# " + "x" * 100000 + "\\n" + {TEXT!r}
sys.stdin.read()
for i in range(50):
    file = sources.keep("answer", text if i % 2 else text + "# ")
    seen = open(file).read()
    assert seen in (text, text + "# "), len(seen)
print(file)
"""


def test_many_processes_at_once(cache):
    """Each sees a whole text at any time, and nothing but the file is left."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for w in writers:
        w.stdin.close()
        w.stdin = None
    for w in writers:
        out, err = w.communicate(timeout=60)
        assert w.returncode == 0, err
        assert out.strip() == str(cache / "answer.py")
    assert files(cache) == ["answer.py"]


def test_needs_no_other_module():
    """The writers above load it alone."""
    assert importlib.util.find_spec("fusedact.engine.sources").origin == sources.__file__


# ----- running


def test_runs_from_memory(cache):
    """A file changed between keeping and running is not run."""
    file = sources.keep("answer", TEXT)
    Path(file).write_text("raise SystemExit('tampered with')")
    assert sources.run(TEXT, file, {})["answer"]() == 42


def test_shown_text_is_what_runs(cache):
    file = sources.keep("answer", TEXT)
    answer = sources.run(TEXT, file, {})["answer"]
    Path(file).write_text("tampered with\n" * 10)
    linecache.checkcache()
    assert linecache.getlines(file) == TEXT.splitlines(keepends=True)
    assert inspect.getsource(answer) == TEXT
    Path(file).unlink()
    linecache.checkcache(file)
    assert inspect.getsource(answer) == TEXT


def test_traceback(cache):
    text = "def fails():\n    raise KeyError('here')\n"
    with pytest.raises(KeyError) as caught:
        sources.run(text, sources.keep("fails", text), {})["fails"]()
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "{cache}/fails.py", line 2, in fails' in shown and "raise KeyError('here')" in shown


def test_without_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSEDACT_CACHE_DIR", str(tmp_path / "file"))
    file = sources.keep("answer", TEXT)
    assert file == "<fusedact answer>"
    answer = sources.run(TEXT, file, {})["answer"]
    assert answer() == 42 and inspect.getsource(answer) == TEXT


def test_future_statements_of_the_engine_do_not_leak():
    made = sources.run("def f(a: 1 + 1): ...\n", "<fusedact annotated>", {})["f"]
    assert made.__annotations__ == {"a": 2}
