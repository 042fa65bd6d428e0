"""Code that the engine wrote: kept as files for tracebacks and profilers, and run from memory, never from a file."""

from __future__ import annotations

import hashlib
import linecache
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["digest", "folder", "keep", "run"]


def digest(*texts: str) -> str:
    """A name's part that tells texts apart."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def folder() -> Path | None:
    """The folder of generated files, made if need be; None where there is none of this user's alone.

    FUSEDACT_CACHE_DIR, or `fusedact` in the user's cache folder.
    """
    chosen = os.environ.get("FUSEDACT_CACHE_DIR")
    try:
        # Absolute: the program may change its folder later.
        path = (Path(chosen).expanduser() if chosen else _user_caches() / "fusedact").absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except (OSError, RuntimeError):
        return None
    # A folder that somebody else may write into, or owns, is not ours.
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return None
    return path


def _user_caches() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says its specification.
    return Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"


def keep(name: str, text: str) -> str:
    """The path of a file with this text, for whoever reads it; a name in brackets where there can be none.

    A file that holds anything else, whoever wrote it, is written anew, in one step: others see the old one or the new.
    """
    path = folder()
    if path is None:
        return f"<fusedact {name}>"
    file = path / f"{name}.py"
    try:
        if not file.is_symlink() and file.is_file() and file.read_bytes() == text.encode():
            return str(file)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=path)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(text.encode())
            os.replace(temporary, file)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError:
        return f"<fusedact {name}>"
    return str(file)


def run(text: str, file: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Execute a text in a namespace, as the file's."""
    # Tracebacks, inspect.getsource and with it Triton find the text here, whatever happens to the file.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    return namespace
