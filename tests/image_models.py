"""timm, also beside a build of torch for which torchvision's own operators do not load: these are declared for it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch


@cache
def _declare() -> torch.library.Library | None:
    """What torchvision registers shapes for when it is imported, where its library is of another build."""
    place = importlib.util.find_spec("torchvision")
    assert place is not None and place.origin is not None
    try:
        torch.ops.load_library(Path(place.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def timm() -> Any:
    """The package; skips without it."""
    if importlib.util.find_spec("torchvision") is not None:
        _declare()
    return pytest.importorskip("timm")
