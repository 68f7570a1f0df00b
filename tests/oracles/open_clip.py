"""open_clip as an oracle, also where torchvision was built for another torch than the one installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

try:
    import open_clip
except (ImportError, RuntimeError):  # torchvision asks torch for operators that its own library would have declared
    _library = torch.library.Library("torchvision", "DEF")
    _spec = importlib.util.find_spec("torchvision")
    if _spec is None or _spec.origin is None:
        raise
    _source = (Path(_spec.origin).parent / "_meta_registrations.py").read_text()
    for _name in sorted(set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', _source))):
        _library.define(_name + "(Tensor x) -> Tensor")  # schemas only; none is called
    import open_clip

__all__ = ["open_clip", "torch"]
