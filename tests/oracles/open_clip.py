"""open_clip as an oracle, also where torchvision was built for another torch than the one installed."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path

import torch

_library: object = None


def _declare_operators() -> None:
    """Give torchvision's Python part the operators that its own library would have declared; none is called."""
    global _library  # torch forgets the operators with the object
    _library = torch.library.Library("torchvision", "DEF")
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    source = (Path(str(spec.origin)).parent / "_meta_registrations.py").read_text()
    for name in sorted(set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', source))):
        _library.define(name + "(Tensor x) -> Tensor")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import open_clip
    except (ImportError, RuntimeError):
        _declare_operators()
        import open_clip

__all__ = ["open_clip", "torch"]
