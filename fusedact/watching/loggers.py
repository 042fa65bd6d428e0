"""The logger that `log_activation` and `log_step` write to, and the arguments that both have."""

from __future__ import annotations

import logging

from ..checks import check_count

__all__ = ["LOGGER", "checked_logger"]

LOGGER = "fusedact"


def checked_logger(owner: str, every: object, name: object, logger: object, level: object) -> logging.Logger:
    """The logger that is meant.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if every is less than 1.
    """
    check_count(owner, "every", every)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{owner}: name must be a string, got {type(name).__name__}")
    if not isinstance(logger, str | logging.Logger):
        raise TypeError(f"{owner}: logger must be a logging.Logger or its name, got {type(logger).__name__}")
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"{owner}: level must be an int such as logging.INFO, got {type(level).__name__}")
    return logging.getLogger(logger) if isinstance(logger, str) else logger
